"""``striate train``: settings from a file and from options, what it says first and last, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from made_runs import NET, save_data

from striate.cli import main
from striate.training import RunSettings, open_run
from striate.training.config import read_config
from striate.training.run import prepare


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test process keeps its allocator."""
    monkeypatch.setattr("striate.allocator.tune_allocator", lambda: True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_data(tmp_path_factory.mktemp("data") / "data.npz")


def test_settings_come_from_a_file_and_options_win_over_it(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (tmp_path / "c.toml").write_text(f"data = '{data}'\nmodel = '{NET}'\nepochs = 5\nflip = true\nthreads = 1\n")
    command = ["train", "--config", str(tmp_path / "c.toml"), "--epochs", "1", "--no-flip", "--out", str(out)]
    assert main([*command, "--batch-size", "30"]) == 0
    settings = json.loads((out / "metrics.json").read_text())["settings"]
    chosen = [settings[name] for name in ("data", "model", "epochs", "flip", "batch_size")]
    assert chosen == [data, NET, 1, False, 30]
    printed = capsys.readouterr().out
    assert " ".join(printed.split()).startswith(
        f"model {NET}, 243 parameters data {data}: 120 train, 30 test images in 3 classes, 1×8×8 "
        f"epochs 1 of 4 steps, 30 images each results {out} "
    )
    assert f"\nresults in {out}: report.html shows them\n\nwhat to try next:\n  striate evaluate {out} " in printed

    assert main(["train", "--resume", "--out", str(out), "--config", str(out / "config.toml")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"the run in {out} has ended already: nothing is left to do"
    assert main(["train", "--resume", "--out", str(out), "--seed", "1"]) == 2
    assert capsys.readouterr().err == (
        f"striate: train expects the settings that the run began with, seed = 0, got 1. folder: {out}. "
        "Leave --seed out to go on, or begin a run in another folder with --out.\n"
    )
    assert read_config(out / "config.toml")["batch_size"] == 30


def test_a_batch_larger_than_the_data_is_the_data(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither inspecting the model nor timing its layers takes memory for images that are not there."""
    command = ["train", "--data", data, "--model", NET, "--epochs", "1", "--threads", "1", "--batch-size", "16000000"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "epochs   1 of 1 step, 120 images each\n" in capsys.readouterr().out


def test_a_strict_run_stops_where_inspecting_finds_an_error(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import made_runs

    from striate import nn

    def with_softmax() -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1))

    monkeypatch.setattr(made_runs, "with_softmax", with_softmax, raising=False)
    out = tmp_path / "run"
    command = ["train", "--data", data, "--model", "made_runs:with_softmax", "--epochs", "1", "--out", str(out)]
    assert main([*command, "--strict"]) == 2
    printed = capsys.readouterr()
    found = [line for line in printed.out.splitlines() if line.startswith("error: ")]
    rule = found[0].split(":")[1].strip()
    assert printed.err == (
        f"striate: train expects a model without errors, since it is strict, got {rule}. "
        "Mend the model, or leave --strict out.\n"
    )
    assert not out.exists()


def test_a_model_for_a_fixed_number_of_classes_gets_a_head_for_those_of_the_data(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import made_runs

    def fixed() -> torch.nn.Module:
        layers = torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 1000)
        return torch.nn.Sequential(*layers)

    monkeypatch.setattr(made_runs, "fixed", fixed, raising=False)
    out, given = tmp_path / "run", {"data": data, "model": "made_runs:fixed", "epochs": 1}
    ready = prepare(RunSettings(**given))
    assert ready.new_head == ("3", 1000) and ready.model[3].out_features == 3
    assert main(["train", *(f"--{name}={value}" for name, value in given.items()), "--out", str(out)]) == 0
    assert "head     3 is new, for 3 classes: the model gives 1000 scores\n" in capsys.readouterr().out
    assert open_run(out).model()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
