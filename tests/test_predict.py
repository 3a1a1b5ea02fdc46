"""Predictions of image files, and the commands evaluate and predict: what they print, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from made_data import picture
from PIL import Image
from torch import Tensor

from striate import nn
from striate.cli import main
from striate.errors import ArgumentError, DataError, ShapeError
from striate.training import open_data, train_run
from striate.training.data import Preprocessing
from striate.training.predict import find_images, predict

CLASSES = ("dark", "bright")
PREPARE = Preprocessing((2, 2), 1, (0.5,), (0.5,))
MEND = "Mend or remove it, or leave out what is broken (--skip-broken, skip_broken=True)."


class Brightness(nn.Module):
    """Scores ``(-m, m)`` of the mean m: probabilities that are known."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def grey(path: Path, value: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), value).save(path)
    return str(path)


def test_classes_and_probabilities_are_those_of_the_scores(tmp_path: Path) -> None:
    files = [grey(tmp_path / "a.png", 255), grey(tmp_path / "b.png", 0), grey(tmp_path / "c.png", 255)]
    found, skipped = predict(Brightness(), files, PREPARE, classes=CLASSES, batch_size=2)
    assert [one.file for one in found] == files and [one.name for one in found] == ["bright", "dark", "bright"]
    sure = torch.tensor([-1.0, 1.0], dtype=torch.float64).softmax(0)
    assert torch.equal(found[0].probabilities, sure) and found[0].order == [1, 0] and skipped == []
    assert found[0].to_dict() == {
        "file": files[0], "class": "bright", "probabilities": {"dark": sure[0].item(), "bright": sure[1].item()}
    }  # fmt: skip


def test_folders_stand_for_their_files_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "sub/c.png", ".hidden.png"):
        grey(tmp_path / "photos" / name, 0)
    alone = grey(tmp_path / "alone.png", 0)
    photos = str(tmp_path / "photos")
    assert find_images([alone, photos]) == [alone, *(f"{photos}/{name}" for name in ("a.png", "b.png", "sub/c.png"))]


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        find_images([tmp_path])
    assert str(error.value) == (
        f"predict expects images, got a folder without files. path: {tmp_path}. Name another."
    )
    with pytest.raises(DataError) as error:
        predict(Brightness(), [tmp_path / "none.png"], PREPARE, classes=CLASSES)
    assert str(error.value) == (
        f"predict expects a file that can be read, got No such file or directory. path: {tmp_path / 'none.png'}. "
        "Check the path."
    )


def test_a_broken_image_is_refused_by_its_path_or_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture()[:-30])
    text = tmp_path / "text.txt"
    text.write_text("no image")
    files = [str(broken), grey(tmp_path / "sound.png", 255), str(text)]
    with pytest.raises(DataError) as error:
        predict(Brightness(), files, PREPARE, classes=CLASSES)
    assert str(error.value) == (
        f"predict expects a sound PNG, got a file that ends within its pixels. path: {broken}. {MEND}"
    )
    found, skipped = predict(Brightness(), files, PREPARE, classes=CLASSES, skip_broken=True)
    assert [one.file for one in found] == [files[1]] and skipped == [files[0], files[2]]
    with pytest.raises(DataError) as error:
        predict(Brightness(), [broken], PREPARE, classes=CLASSES, skip_broken=True)
    assert str(error.value) == "predict expects an image at least that is sound, got 1 broken ones. Name others."


def test_damage_behind_the_header_is_found_too(tmp_path: Path) -> None:
    content = bytearray(picture())
    content[-20] ^= 1  # in the pixels or their checksum
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"path: {damaged}"):
        predict(Brightness(), [damaged], PREPARE, classes=CLASSES)
    sound = grey(tmp_path / "sound.png", 0)
    assert predict(Brightness(), [damaged, sound], PREPARE, classes=CLASSES, skip_broken=True)[1] == [str(damaged)]


def test_scores_of_other_classes_or_not_finite_are_refused(tmp_path: Path) -> None:
    file = grey(tmp_path / "a.png", 9)
    with pytest.raises(ShapeError) as error:
        predict(Brightness(), [file], PREPARE, classes=("a", "b", "c"))
    assert str(error.value) == (
        "predict expects a model that gives scores (1, 3), one for each image and class, got (1, 2). "
        "x: (1, 1, 2, 2). Use a model of 3 classes."
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    torch.nn.init.constant_(model[1].bias, float("nan"))
    with pytest.raises(ArgumentError) as unsound:
        predict(model, [file], PREPARE, classes=CLASSES)
    assert str(unsound.value) == (
        f"predict expects scores that are finite, got NaN. image: {file}. "
        "Look for weights or running statistics that are not finite."
    )
    assert model.training


# --------------------------------------------------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(model="mlp_bn", epochs=1, seed=3, threads=1, out=folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    part = open_data("digits", seed=3).parts["test"]
    for index in range(6):
        Image.fromarray(part.image(index)[0].numpy()).save(folder / f"{index}.png")
    return folder


def test_evaluate_gives_what_training_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (run, run / "model.safetensors"):
        assert main(["evaluate", str(path), "--data", "digits", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        trained = json.loads((run / "metrics.json").read_text())
        assert facts["accuracy"] == trained["test_accuracy"] and facts["mode"] == "evaluation"
        assert (facts["part"], facts["images"], len(facts["confusion"])) == ("test", 360, 10)
        assert sum(map(sum, facts["confusion"])) == 360


def test_evaluate_prints_the_mode_the_classes_and_the_confusion(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "confusion.png"
    assert main(["evaluate", str(run), "--picture", str(drawn)]) == 0
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    assert "in evaluation mode: batch norms use their running statistics, dropout is off" in words
    assert "data digits, part test: 360 images in 10 classes" in words and "(ECE: mean confidence is" in words
    assert "\x1b" not in printed and "true \\ taken for" in printed and drawn.is_file()
    assert printed.count("\n") > 25 and all(len(line) <= 100 for line in printed.splitlines()[:-1])


def test_predict_prints_json_csv_and_a_table(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), str(photos), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [one["file"] for one in facts] == [f"{photos}/{index}.png" for index in range(6)]
    for one in facts:
        assert list(one["probabilities"]) == list("0123456789")
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert one["class"] == max(one["probabilities"], key=one["probabilities"].get)
    assert main(["predict", str(run), str(photos), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["file"], row["class"]) for row in rows] == [(one["file"], one["class"]) for one in facts]
    assert float(rows[0]["p(3)"]) == pytest.approx(facts[0]["probabilities"]["3"], rel=1e-8)
    assert main(["predict", str(run), str(photos)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "class", "probability", "next"]
    assert [line.split()[:2] for line in lines[1:]] == [[one["file"], one["class"]] for one in facts]


def test_what_is_left_out_is_told_on_standard_error(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture()[:-30])
    asked = ["predict", str(run), str(photos / "0.png"), str(broken), "--json"]
    assert main(asked) == 2
    assert capsys.readouterr().err == (
        f"striate: predict expects a sound PNG, got a file that ends within its pixels. path: {broken}. {MEND}\n"
    )
    assert main([*asked, "--skip-broken"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 1 and printed.err == f"left out as broken: {broken}\n"


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_run_that_is_none_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["x.png"] if command == "predict" else []
    file = tmp_path / "model.safetensors"
    for path in (tmp_path, file):
        assert main([command, str(path), *more]) == 2
        assert capsys.readouterr().err == (
            f"striate: load expects a sound checkpoint, got No such file or directory. path: {file}. "
            "Give the file of a checkpoint, as runs/lenet5-digits/model.safetensors.\n"
        )


def test_a_damaged_file_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-9] ^= 1
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(content))
    assert main(["evaluate", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("striate: load expects a sound checkpoint, got ") and error.count("\n") == 1
    assert f"path: {file}. " in error


def test_classes_that_the_run_lacks_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--data", "shapes"]) == 2
    assert capsys.readouterr().err == (
        "striate: evaluate expects images of the classes '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', got also "
        "'disk', 'square', 'triangle', 'cross', 'ring'. Name data with the classes that the model was trained on.\n"
    )


def test_a_part_that_is_none_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--part", "val"]) == 2
    assert capsys.readouterr().err == (
        "striate: evaluate expects a part of train, test, got 'val'. Choose one of these.\n"
    )
