"""Data sets by a specification: the kinds, the split, generated shapes, Datasets, the summary, and the command."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import picture, two_classes
from PIL import Image

from striate.cli import main
from striate.errors import DataError
from striate.training.data import Augmentation, DataSet, Part, make_shapes, open_data, stratified
from striate.training.data.shapes import SHAPES
from striate.training.data.sheet import contact_sheet
from striate.training.data.summary import summarize


def refused(spec: str, message: str, **options: Any) -> None:
    with pytest.raises(DataError) as error:
        open_data(spec, **options)
    assert str(error.value) == message


# ------------------------------------------------------------------------------------------------------- specifications

FORMS = (
    "digits, mnist:DIR, cifar10:DIR, cifar100:DIR, folder:DIR, csv:FILE, npz:FILE, shapes, "
    "python:package.module:callable"
)


def test_the_digits_are_scikit_learns_resized_each_once_and_split_alike_by_class() -> None:
    from sklearn.datasets import load_digits

    data, other = open_data("digits", seed=3), open_data("digits", seed=4)
    train, test = data.parts["train"], data.parts["test"]
    stored, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(stored).float().reshape(-1, 1, 8, 8) / 16
    resized = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear")

    def rows(images: Any, numbers: Any) -> list[tuple[bytes, int]]:
        pairs = zip(images, numbers.tolist(), strict=True)
        return sorted((image.numpy().tobytes(), number) for image, number in pairs)

    given = [rows(part.images, part.labels) for part in (train, test)]
    assert sorted(given[0] + given[1]) == rows((255 * resized).round().byte(), torch.from_numpy(labels))
    assert not set(given[0]) & set(given[1]) and data.classes == tuple("0123456789")
    assert (len(train), len(test)) == (1437, 360) and train.images.max() == 255
    shares = [part.labels.bincount() / len(part) for part in (train, test)]
    assert torch.allclose(*shares, atol=1 / 360)
    assert rows(other.parts["test"].images, other.parts["test"].labels) != given[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("photos", f"data expects one of {FORMS}, got 'photos'. Choose one of these kinds."),
        ("", f"data expects one of {FORMS}, got ''. Choose one of these kinds."),
        ("fodler:x", f"data expects one of {FORMS}, got 'fodler:x'. Choose one of these kinds. Did you mean folder?"),
        ("a/set.npz", f"data expects one of {FORMS}, got 'a/set.npz'. Write npz:a/set.npz."),
        ("a/set.CSV", f"data expects one of {FORMS}, got 'a/set.CSV'. Write csv:a/set.CSV."),
        (
            "mnist",
            "data expects mnist:DIR, got 'mnist'. It is IDX files, gzipped or not: MNIST, Fashion-MNIST, EMNIST.",
        ),
        ("cifar10:", "data expects cifar10:DIR, got 'cifar10:'. It is CIFAR-10, the binary or the Python version."),
        ("shapes:5", "data expects shapes, got 'shapes:5'. It is generated images of five shapes."),
        (
            "digits:",
            "data expects digits, got 'digits:'. It is the 1,797 handwritten digits that come with scikit-learn.",
        ),
        (
            "folder:a\0b",
            "data expects folder:DIR, got 'folder:a\\x00b'. It is a subfolder of images for each class.",
        ),
    ],
)
def test_a_specification_that_is_none_is_told_how_to_be_written(spec: str, message: str) -> None:
    refused(spec, message)


def test_a_folder_without_its_kind_is_told_how_to_be_written(tmp_path: Path) -> None:
    refused(
        str(tmp_path),
        f"data expects one of {FORMS}, got '{tmp_path}'. Write folder:{tmp_path} if it has a subfolder of images for "
        "each class.",
    )


def test_a_seed_out_of_range_is_refused() -> None:
    refused("shapes", "data expects a seed from 0 to 4294967295, got -1. Use seed=0.", seed=-1)


# ---------------------------------------------------------------------------------------------------------------- types


def test_the_split_keeps_shares_and_follows_the_seed() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 2 + [3])
    first, second = stratified(labels, 0.2, seed=5)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(60))
    assert labels[second].bincount(minlength=4).tolist() == [10, 1, 1, 0]
    again, other = stratified(labels, 0.2, seed=5)[1], stratified(labels, 0.2, seed=6)[1]
    assert torch.equal(second, again) and not torch.equal(second, other)
    assert second.tolist() == sorted(second.tolist())


def test_a_part_can_be_taken_from() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    part = Part(images, torch.tensor([4, 5, 6]), torch.arange(12).reshape(3, 4)).take(torch.tensor([2, 0]))
    assert torch.equal(part.images, images[[2, 0]]) and part.labels.tolist() == [6, 4]
    assert part.boxes is not None and part.boxes.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]


def test_a_data_set_needs_an_image_in_each_part_and_known_classes() -> None:
    def part(*labels: int) -> Part:
        return Part(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64))

    with pytest.raises(DataError) as error:
        DataSet("npz", ("a", "b"), {"train": part(0, 1), "test": part()})
    assert str(error.value) == (
        "npz expects an image in each part at least, also in test, got none. Give more images, or others."
    )
    with pytest.raises(DataError) as error:
        DataSet("npz", ("a", "b\x1b[2J"), {"train": part(0, 1)})
    assert str(error.value) == (
        "npz expects names of classes in UTF-8 without control codes, got 'b\\x1b[2J'. Rename the class."
    )
    with pytest.raises(DataError) as error:
        DataSet("npz", ("a", "a"), {"train": part(0, 1)})
    assert str(error.value) == "npz expects a name for each class, got 'a' twice. Rename the class."
    with pytest.raises(DataError) as error:
        DataSet("npz", ("a", "b"), {"train": part(0), "test": part(1)})
    assert str(error.value) == (
        "npz expects only classes of the training part in the part test, got 'b'. Give training images of each class."
    )


# --------------------------------------------------------------------------------------------------------------- shapes


def test_shapes_follow_the_seed_and_their_number_alone() -> None:
    images, labels, boxes = make_shapes(300, 20, seed=4)
    again = make_shapes(300, 20, seed=4)
    assert torch.equal(images, again[0]) and torch.equal(boxes, again[2])
    assert not torch.equal(images, make_shapes(300, 20, seed=5)[0])
    assert images.dtype == torch.uint8 and labels.tolist() == [k % 5 for k in range(300)]


def test_boxes_of_shapes_hold_what_is_drawn() -> None:
    images, _, boxes = make_shapes(200, 32, seed=0)
    top, left, bottom, right = boxes.unbind(1)
    assert boxes.dtype == torch.int64 and boxes.min() >= 0 and boxes.max() <= 31
    assert (bottom > top).all() and (right > left).all()
    # colours of a shape begin at 140, those of the ground end at 95 and noise at 15: outside a box all but bars is dark
    seen = images.float().amin(1) >= 140
    rows = torch.arange(32)
    inside = (rows[:, None] >= top[:, None, None]) & (rows[:, None] <= bottom[:, None, None])
    inside = inside & (rows >= left[:, None, None]) & (rows <= right[:, None, None])
    plain = [k for k in range(200) if not seen[k][~inside[k]].any()]
    assert len(plain) >= 150  # bars may be as bright
    for k in plain[:50]:
        if seen[k].any():
            ys, xs = seen[k].nonzero().T
            assert ys.max() == bottom[k] or xs.max() == right[k]


def test_each_shape_is_what_its_name_says() -> None:
    images, labels, boxes = make_shapes(200, 64, seed=1)
    shares: dict[str, list[float]] = {name: [] for name in SHAPES}
    for image, label, (top, left, bottom, right) in zip(images, labels, boxes.tolist(), strict=True):
        box = image[:, top : bottom + 1, left : right + 1]
        shares[SHAPES[label]].append((box.float().amin(0) >= 140).float().mean().item())
    middle = {name: float(np.median(values)) for name, values in shares.items()}  # half of the images have no bar
    ideal = {"disk": np.pi / 4, "square": 1, "triangle": 0.5, "cross": 7 / 16, "ring": np.pi / 4 * 3 / 4}
    assert all(abs(middle[name] - ideal[name]) < 0.08 for name in SHAPES), middle


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0,), "a count from 1 to 16777216, got 0. Use make_shapes(2500) for images of 32×32."),
        ((5, 8), "a size from 16 to 1024, got 8. Use make_shapes(2500) for images of 32×32."),
        ((5, 32, 2**32), "a seed from 0 to 4294967295, got 4294967296. Use seed=0."),
    ],
)
def test_shapes_out_of_range_are_refused(arguments: tuple[int, ...], text: str) -> None:
    with pytest.raises(DataError) as error:
        make_shapes(*arguments)
    assert str(error.value) == f"shapes expects {text}"


# --------------------------------------------------------------------------------------------------- Datasets of torch

MODULE = """
import numpy as np, torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

class Mine(Dataset):
    classes = ["cat", "dog"]
    def __len__(self): return 10
    def __getitem__(self, index): return Image.new("RGB", (4, 3), (index, 0, 255)), index % 2

def pair(): return TensorDataset(torch.arange(8.).reshape(4, 1, 1, 2) / 7, torch.tensor([5, 3, 5, 3])), \\
    TensorDataset(torch.full((2, 3, 2, 2), 9, dtype=torch.uint8), torch.tensor([3, 5]))
def arrays(): return [(np.full((2, 3, 3), k, np.uint8), k % 2) for k in range(10)]
def wide(): return [(torch.zeros(4, 2, 2, dtype=torch.uint8), 0)]
def far(): return [(torch.tensor([[0., 2.]]), 0)]
def named(): return [(torch.zeros(2, 2), "cat")]
def halves(): return [(torch.zeros(2, 2), 0.5)]
def three(): return [], [], []
def none(): return None
def fails(): raise KeyError("no data here")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "made_sets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "python:made_sets"


def test_a_dataset_of_torch_is_split_and_read(module: str) -> None:
    data = open_data(f"{module}:Mine")
    assert data.classes == ("cat", "dog") and data.channels == 3 and data.size == (3, 4)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 8, "test": 2}
    part = data.parts["test"]
    index = int(part.name(0).split()[1])
    assert part.image(0)[:, 0, 0].tolist() == [index, 0, 255] and part.labels[0] == index % 2
    arrays = open_data(f"{module}:arrays").parts["train"]
    assert arrays.image(0).shape == (3, 2, 3)


def test_a_pair_of_datasets_is_training_and_testing(module: str) -> None:
    data = open_data(f"{module}:pair")
    assert data.classes == ("3", "5") and data.channels == 3
    train, test = data.parts["train"], data.parts["test"]
    assert train.labels.tolist() == [1, 0, 1, 0] and test.labels.tolist() == [0, 1]
    assert train.image(1).tolist() == [[[73, 109]]] * 3  # 2/7 and 3/7 of 255
    assert test.image(0).unique().tolist() == [9]


ITEM = "Give an image (uint8, or floats from 0 to 1, in 1 or 3 channels) and a whole number from 0 on as its label."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wide", f"an image as item 0 of made_sets:wide (train), got uint8 of shape (4, 2, 2). {ITEM}"),
        ("far", f"an image as item 0 of made_sets:far (train), got float32 of shape (1, 1, 2) from 0 to 2. {ITEM}"),
        (
            "named",
            "an image and a label as item 0 of made_sets:named (train), got ValueError: invalid literal for int() with "
            f"base 10: 'cat'. {ITEM}",
        ),
        ("halves", f"a label as item 0 of made_sets:halves (train), got 0.5. {ITEM}"),
        (
            "three",
            "a Dataset with a length, or a pair of them, from made_sets:three, got 3 values. Return one, or one for "
            "training and one for testing.",
        ),
        (
            "none",
            "a Dataset with a length, or a pair of them, from made_sets:none, got NoneType. Return one, or one for "
            "training and one for testing.",
        ),
        (
            "fails",
            "data from made_sets:fails, got KeyError: 'no data here'. Call made_sets.fails() in Python to see all of "
            "it.",
        ),
    ],
)
def test_a_callable_that_gives_no_data_is_told_what_to_give(module: str, name: str, text: str) -> None:
    refused(f"{module}:{name}", f"python expects {text}")


def test_a_callable_without_a_module_is_told_how_to_be_written() -> None:
    refused(
        "python:make",
        "python expects package.module:callable, got 'make'. Write as python:mypackage.mymodule:make_data.",
    )


# -------------------------------------------------------------------------------------------------------------- summary


def test_mean_and_deviation_are_those_of_all_training_pixels() -> None:
    data = open_data("shapes", seed=2)
    found = summarize(data)
    values = data.parts["train"].images.double() / 255
    assert torch.allclose(torch.tensor(found.mean).double(), values.mean((0, 2, 3)), rtol=1e-6)
    assert torch.allclose(torch.tensor(found.std).double(), values.std((0, 2, 3), correction=0), rtol=1e-6)
    assert found.images == 2500 and found.counts == {"train": [400] * 5, "test": [100] * 5}
    assert found.sizes == {(32, 32): 2500} and found.imbalance == 1


def test_repeated_images_leakage_and_other_labels_are_found(tmp_path: Path) -> None:
    for part in ("train", "test"):
        two_classes(tmp_path / part, each=4)
    for index in range(4):
        for label in ("cat", "dog"):
            (tmp_path / "test" / label / f"{index}.png").write_bytes(picture(seed=100 + index + 10 * (label == "dog")))
    copy = tmp_path / "train" / "cat" / "0.png"
    (tmp_path / "train" / "cat" / "9.png").write_bytes(copy.read_bytes())
    (tmp_path / "train" / "dog" / "9.bmp").write_bytes(picture("BMP", seed=0))  # the pixels of cat/0.png
    (tmp_path / "test" / "cat" / "9.png").write_bytes(copy.read_bytes())
    found = summarize(open_data(f"folder:{tmp_path}"))
    assert found.repeated == 3 and found.leaked == {"test": 1} and found.contradicting == 1
    assert found.pairs == [
        (f"{name}", "train/cat/0.png") for name in ("train/cat/9.png", "train/dog/9.bmp", "test/cat/9.png")
    ]


def test_images_of_other_shapes_with_the_same_bytes_are_no_repetition() -> None:
    images = [torch.zeros(1, 2, 3, dtype=torch.uint8), torch.zeros(1, 3, 2, dtype=torch.uint8)]
    from striate.training.data import Decoded

    decoded = Decoded(images.__getitem__, 1, [(2, 3), (3, 2)], ["a", "b"], torch.arange(2))
    data = DataSet("python", ("x",), {"train": Part(decoded, torch.zeros(2, dtype=torch.int64))})
    found = summarize(data)
    assert found.repeated == 0 and found.sizes == {(2, 3): 1, (3, 2): 1}


def test_a_contact_sheet_shows_images_of_each_class() -> None:
    images = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (10, 200, 60, 120)])
    part = Part(images, torch.tensor([0, 1, 0, 0]))
    sheet = Image.open(io.BytesIO(contact_sheet(DataSet("npz", ("cat", "dög" * 20), {"train": part}), columns=2)))
    array = np.array(sheet)
    assert array.shape == (4 + 2 * 68, 120 + 2 * 68 + 4, 3)
    rows = [[array[4 + 68 * row + 32, 120 + 68 * column + 32, 0] for column in (0, 1)] for row in (0, 1)]
    assert rows == [[10, 60], [200, 255]]
    assert (array[:72, :120] < 128).any() and (array[72:, :120] < 128).any()  # names


def test_a_contact_sheet_shows_the_first_image_of_each_class_as_it_comes_in_the_epochs() -> None:
    random = np.random.RandomState(0)
    images = torch.from_numpy(random.randint(0, 256, (5, 3, 64, 64), np.uint8))
    data = DataSet("npz", ("cat", "cow", "dog"), {"train": Part(images, torch.tensor([2, 0, 0, 2, 0]))})
    change = Augmentation(crop=9, flip=True)
    sheet = np.array(Image.open(io.BytesIO(contact_sheet(data, 4, change, seed=5))))
    cells = [
        [torch.from_numpy(sheet[4 + 68 * row :, 120 + 68 * column :][:64, :64].copy()).permute(2, 0, 1)
         for column in range(4)] for row in range(3)
    ]  # fmt: skip
    for row, index in ((0, 1), (2, 0)):
        assert torch.equal(cells[row][0], images[index])
        for epoch in range(3):
            wanted, _ = change(images[[index]], torch.tensor([0]), torch.tensor([index]), 5, epoch)
            assert torch.equal(cells[row][1 + epoch], wanted[0]) and not torch.equal(wanted[0], images[index])
    assert all((cell == 255).all() for cell in cells[1])  # no image is of this class
    mixed = contact_sheet(data, 4, Augmentation(mixup=1.0))
    assert mixed != contact_sheet(data, 4) and mixed == contact_sheet(data, 4, Augmentation(mixup=1.0))


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_tells_what_is_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = two_classes(tmp_path / "set", each=5)
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    sheet = tmp_path / "sheet.png"
    assert main(["data", f"folder:{folder}", "--skip-broken", "--sheet", str(sheet)]) == 0
    lines = capsys.readouterr().out.splitlines()
    data = summarize(open_data(f"folder:{folder}", skip_broken=True))
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    assert lines == [
        f"folder:{folder}: 10 images (8 train, 2 test), 2 classes, 3 channels",
        "",
        "class  train  test",
        "cat        4     1",
        "dog        4     1",
        "",
        "sizes (height×width)  4×5: 10",
        f"mean of training      {mean} (pixels from 0 to 1)",
        f"deviation             {std}",
        "imbalance             1.00 times as many images in the largest class as in the smallest",
        "repeated              none",
        "leakage               none",
        "left out as broken    1: cat/broken.png",
        f"written to {sheet}",
    ]
    assert Image.open(sheet).format == "PNG"


def test_the_sheet_shows_what_training_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "x.png"
    assert main(["data", "shapes", "--seed", "3", "--sheet", str(sheet), "--flip", "--jitter", "0.5"]) == 0
    change = Augmentation(flip=True, jitter=0.5)
    assert sheet.read_bytes() == contact_sheet(open_data("shapes", seed=3), augmentation=change, seed=3)
    assert main(["data", "digits", "--sheet", str(sheet), "--rotate", "9"]) == 0
    change = Augmentation(crop=2, rotate=9.0)  # crop is 2 where `striate train` trains on digits
    assert sheet.read_bytes() == contact_sheet(open_data("digits"), augmentation=change)


def test_the_json_has_what_scripts_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 1797 and found["classes"] == list("0123456789")
    assert len(found["mean"]) == len(found["std"]) == 1 and 0.2 < found["mean"][0] < 0.4 < 2 * found["std"][0] < 0.8
    assert list(found) == [
        "kind", "images", "classes", "channels", "counts", "sizes", "mean", "std", "repeated", "leaked",
        "contradicting", "pairs", "imbalance", "skipped",
    ]  # fmt: skip


def test_repetitions_are_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.zeros((4, 2, 2), np.uint8)
    images[1] = 7
    np.savez(tmp_path / "x.npz", x_train=images[:3], y_train=[0, 1, 1], x_test=images[:1], y_test=[0])
    assert main(["data", f"npz:{tmp_path / 'x.npz'}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "repeated 2 images have the pixels of one before, 1 of them with another label: image 2 as image 0; image 0 as "
        "image 0" in printed
    )
    assert "leakage 1 images of test have the pixels of a training image" in printed
    assert "imbalance 2.00 times" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], f"data expects one of {FORMS}, got 'nothing'. Choose one of these kinds."),
        (["--sheet", "x.jpg"], "data expects --sheet with a file that ends in .png, got 'x.jpg'. Name another."),
        (
            ["shapes", "--crop", "2", "--flip"],
            "data expects --sheet FILE, got --crop, --flip without it. These options change what is drawn there.",
        ),
        (
            ["shapes", "--rotate", "-1", "--sheet", "x.png"],
            "training expects rotate to be a number from 0 to 180, got -1.0. Leave it out for 0.0.",
        ),
        (
            ["shapes", "--cutout", "32", "--sheet", "x.png"],
            "augmentation expects cutout of less than the 32 px of the images' shorter side, got 32. Use a quarter of "
            "the side or less.",
        ),
        (["--seed", "-1"], "data expects a seed from 0 to 4294967295, got -1. Use seed=0."),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"striate: {message}\n" and printed.out == "" and not list(tmp_path.iterdir())


def test_a_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from striate import extras

    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "PIL" else found(name))
    assert main(["data", f"folder:{two_classes(tmp_path)}"]) == 2
    assert capsys.readouterr().err == (
        "striate: folder expects the package pillow, got no such package. Install it with: pip install "
        "'striate[train]'.\n"
    )
