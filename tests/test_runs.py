"""Lists of runs, and runs beside each other: what differs, what they reached, and their curves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from striate.cli import main
from striate.errors import ArgumentError, CheckpointError, DataError
from striate.training import Epoch, History, RunSettings, Snapshot
from striate.training.checkpoints import save
from striate.training.config import write_config
from striate.training.figures import comparison
from striate.training.runs import RunRecord, curves_of, differences, find_runs, own_settings, read_run
from striate.training.settings import resolved


def made_history(epochs: int, part: str | None = "test", gain: float = 0.1) -> History:
    return History(
        Epoch(
            number=number,
            train_loss=2.0 / number,
            train_accuracy=min(1.0, 0.3 + gain * number),
            monitored=part,
            loss=None if part is None else 1.5 / number,
            accuracy=None if part is None else min(1.0, 0.4 + gain * number),
            learning_rate=0.01,
            seconds=2.5,
            images_per_second=1000.0,
            waiting=0.0,
        )
        for number in range(1, epochs + 1)
    )


def made_run(folder: Path, history: History | None = None, **changes: Any) -> Path:
    """A folder as a run that has ended leaves it, without its model."""
    settings = resolved(RunSettings(**changes), "digits")
    history = made_history(settings.epochs) if history is None else history
    folder.mkdir(parents=True)
    write_config(folder / "config.toml", settings)
    metrics = {
        "test_accuracy": history[-1].accuracy,
        "val_accuracy": None,
        "parameters": 1234567,
        "seconds": 83.4,
        "settings": settings.to_dict(),
        "epochs": [asdict(epoch) for epoch in history],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def begun_run(folder: Path, ended: int, **changes: Any) -> Path:
    """A folder as a run that was stopped leaves it."""
    folder.mkdir(parents=True)
    write_config(folder / "config.toml", resolved(RunSettings(**changes), "digits"))
    for number in range(1, ended + 1):
        history = [asdict(epoch) for epoch in made_history(number)]
        save(folder / "checkpoints", Snapshot({"x": torch.zeros(2)}, {"epoch": number, "step": 45 * number,
                                                                     "history": history}))  # fmt: skip
    return folder


def test_runs_are_found_in_folders_below_with_how_far_each_is(tmp_path: Path) -> None:
    made_run(tmp_path / "b")
    begun_run(tmp_path / "deeper" / "a", 3, epochs=10)
    (tmp_path / "empty" / "checkpointless").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    made_run(tmp_path / ".hidden" / "c")
    found = find_runs(tmp_path)
    assert [(run.folder.name, run.state, run.epoch) for run in found] == [("b", "ended", 8), ("a", "epoch 3 of 10", 3)]
    assert [run.folder for run in find_runs(tmp_path / "b")] == [tmp_path / "b"]
    assert len(curves_of(found[0])) == 8 and len(curves_of(found[1])) == 3
    assert curves_of(found[1]) == made_history(3)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"epochs": 3}', '{"epochs": [{"number": 1}]}', "\0", "[" * 100_000], ids=range(7)
)
def test_a_damaged_run_is_listed_as_such_and_not_compared(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made_run(tmp_path / "bad") / "metrics.json").write_text(content)
    made_run(tmp_path / "good")
    assert [(run.folder.name, run.state) for run in find_runs(tmp_path)] == [("bad", "damaged"), ("good", "ended")]
    assert main(["runs", str(tmp_path)]) == 0 and "damaged" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "bad"), str(tmp_path / "good")]) == 2
    assert "runs expects the files of a run, got a damaged metrics.json" in capsys.readouterr().err


def test_a_damaged_config_is_told_of_too(tmp_path: Path) -> None:
    (made_run(tmp_path / "bad") / "config.toml").write_text("epochs = 'many'")
    record = find_runs(tmp_path)[0]
    assert record.state == "damaged" and "epochs" in record.damage and record.to_dict()["settings"] is None
    with pytest.raises(CheckpointError, match="Copy the folder afresh, or leave it out"):
        read_run(tmp_path / "bad")


def test_own_settings_are_those_other_than_by_default() -> None:
    assert own_settings(RunSettings()) == {}
    assert own_settings(resolved(RunSettings(), "digits")) == {}
    assert own_settings(resolved(RunSettings(optimizer="adamw", seed=3, threads=2), "digits")) == {"optimizer": "adamw"}
    assert own_settings(RunSettings(crop=0)) == {"crop": 0}  # digits are cropped by default


def test_differences_leave_out_what_changes_no_result() -> None:
    settings = [RunSettings(seed=1, workers=4), RunSettings(seed=2, flip=True)]
    records = [RunRecord(Path(), one, {}, 0) for one in settings]
    assert differences(records) == {"flip": [False, True], "seed": [1, 2]}
    assert differences(records[:1] * 2) == {}


def test_the_list_names_settings_and_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(Path("runs/a"), made_history(8), learning_rate=0.1, flip=True)
    made_run(Path("runs/b"), made_history(4, gain=0.14), epochs=4, model="cnn_bn")
    begun_run(Path("runs/c"), 2, seed=7)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run     model   data    seed  state         epochs  accuracy        time  settings",
        "runs/a  lenet5  digits     0  ended              8  100.00 %  1 min 23 s  learning_rate=0.1 flip=on",
        "runs/b  cnn_bn  digits     0  ended              4   96.00 %  1 min 23 s",
        "runs/c  lenet5  digits     7  epoch 2 of 8       8",
    ]
    assert main(["runs", "runs", "--sort", "accuracy", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["folder"], run["test_accuracy"]) for run in told] == [
        ("runs/a", 1.0),
        ("runs/b", pytest.approx(0.96)),
        ("runs/c", None),
    ]
    assert told[0]["settings"]["flip"] is True and told[2]["state"] == "epoch 2 of 8"


def test_a_folder_without_runs_says_so_and_one_that_is_missing_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no runs; striate train makes one\n"
    with pytest.raises(ArgumentError) as error:
        find_runs(tmp_path / "none")
    assert str(error.value) == (
        f"runs expects a folder of runs, got no such folder. folder: {tmp_path / 'none'}. "
        "Train one first, or name the folder in which there are runs."
    )


def test_two_runs_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = made_run(tmp_path / "a", learning_rate=0.1), begun_run(tmp_path / "b", 2, epochs=4, flip=True)
    assert main(["compare", str(first), str(second)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "setting          a      b",
        "epochs           8      4",
        "learning_rate  0.1  0.025",
        "flip           off     on",
        "",
        "result                 a             b",
        "state              ended  epoch 2 of 4",
        "test accuracy   100.00 %",
        "best epoch             8             2",
        "parameters     1,234,567",
        "images/s           1,000         1,000",
        "training          20.0 s         5.0 s",
        "",
        "accuracy after epoch         a        b",
        "1                      50.00 %  50.00 %",
        "2                      60.00 %  60.00 %",
        "3                      70.00 %",
        "4                      80.00 %",
        "5                      90.00 %",
        "6                     100.00 %",
        "7                     100.00 %",
        "8                     100.00 %",
    ]


def test_a_comparison_as_json_and_as_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made_run(tmp_path / name / "run", seed=seed) for seed, name in enumerate("ab")]
    picture = tmp_path / "both.png"
    assert main(["compare", *map(str, folders), "--json", "--picture", str(picture)]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["differences"] == {"seed": [0, 1]} and len(told["runs"][1]["epochs"]) == 8
    assert err == f"written to {picture}\n"
    with Image.open(picture) as image:
        assert image.size == (1650, 660) and len(image.convert("RGB").getcolors(2**20) or []) > 100


def test_curves_of_any_trainings_are_drawn(tmp_path: Path) -> None:
    histories = {f"run {number}": made_history(number, part) for number, part in enumerate(["test", None, "val"])}
    comparison(histories, tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 10_000
    with pytest.raises(DataError) as error:
        comparison({"none": History()}, tmp_path / "none.png")
    assert str(error.value) == (
        "figures.comparison expects an epoch at least, got none. Train for an epoch at least."
    )


def test_comparisons_that_cannot_be_made_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_run(tmp_path / "a")
    again = "Name two, as runs/lenet5-digits runs/lenet5-digits-2; striate runs lists them."
    for runs, text in (
        ([folder], f"compare expects two runs at least, each once, got one. {again}"),
        ([folder, folder], f"compare expects two runs at least, each once, got one of them twice. {again}"),
        (
            [folder, tmp_path / "none"],
            f"runs expects the folder of a run, got no such folder. folder: {tmp_path / 'none'}. "
            "Give the folder that striate train --out named; striate runs lists them.",
        ),
        (
            [folder, tmp_path],
            f"runs expects the folder of a run, got a folder without one. folder: {tmp_path}. "
            "Give the folder that striate train --out named; striate runs lists them.",
        ),
    ):
        assert main(["compare", *map(str, runs)]) == 2
        assert capsys.readouterr().err == f"striate: {text}\n"
    assert main(["compare", str(folder), str(folder / ".."), "--picture", str(tmp_path / "x.jpg")]) == 2
    assert "--picture with a file that ends in .png" in capsys.readouterr().err
