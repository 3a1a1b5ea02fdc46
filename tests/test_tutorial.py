"""The guide to training: commands and Python of its pages run as they stand there, on small folders of images."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from striate import nn
from striate.cli import main
from striate.files import write_atomically
from striate.training import Epoch, Training, figures
from striate.training.watch import Watch

GUIDE = Path(__file__).parent.parent / "docs" / "guide"
COLORS = {
    "cat": (200, 90, 60),
    "dog": (60, 90, 200),
    "owl": (90, 180, 90),
    "robin": (200, 80, 80),
    "wren": (90, 90, 90),
}


def draw_images(folder: Path, classes: tuple[str, ...], count: int) -> None:
    """Noise in a colour of its own for each class."""
    random = np.random.RandomState(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = np.array(COLORS[name]) + random.randint(-50, 50, (24, 24, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def text_of(page: str) -> str:
    if not GUIDE.is_dir():
        pytest.skip("the guide is not installed, only the checkout has it")
    return (GUIDE / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.M | re.S)


def commands_of(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in lines.splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with 25 photographs of each of two classes."""
    draw_images(tmp_path / "photos", ("cat", "dog"), 25)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    # drawing would take half of the time
    monkeypatch.setattr(figures, "write_png", lambda figure, path, dpi: write_atomically(path, b""))
    return tmp_path


def test_the_tutorial_runs_as_it_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_images(folder / "birds", ("owl", "robin", "wren"), 12)
    commands = commands_of("training.md")
    assert len(commands) == 13 and {command[0] for command in commands} == {"striate"}

    def press_ctrl_c(watch: Watch, training: Training, epoch: Epoch) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    outputs: dict[str, str] = {}
    is_stopped = False
    for command in commands:
        line = shlex.join(command)
        stops = command[1] == "train" and not is_stopped
        with monkeypatch.context() as patched:
            if stops:
                patched.setattr(Watch, "on_epoch", press_ctrl_c)
                is_stopped = True
            code = main(command[1:])
        out, err = capsys.readouterr()
        assert code == (130 if stops else 0), f"{line}\n{out}\n{err}"
        assert not stops or err == "striate: stopped. Go on with: striate train --resume --out runs/photos\n"
        outputs[line] = out

    assert json.loads(Path("runs/photos/metrics.json").read_text())["test_accuracy"] >= 0.9
    for names in re.findall(r"^\| (`\S+(?:, `\S+)*) \|", text_of("training.md"), re.M):
        assert all((Path("runs/photos") / name).exists() for name in re.findall(r"`([^`]+)`", names)), names
    told = [out for line, out in outputs.items() if line.startswith("striate evaluate") and "--json" in line]
    assert all(set(json.loads(out)) >= {"accuracy", "confusion"} for out in told)
    told = [out for line, out in outputs.items() if line.startswith("striate predict") and "--json" in line]
    assert [one["class"] for one in json.loads(told[0])] == ["dog"]
    assert Path("photos.png").exists() and Path("compare.png").exists()
    birds = outputs[next(line for line in outputs if "runs/birds" in line)]
    assert "The head is new: 9.weight, 9.bias." in birds and "of them frozen" in birds

    for code in blocks("training.md", "python"):
        values: dict[str, Any] = {}
        exec(compile(code, "training.md", "exec"), values)
    assert len(values["history"]) == 2 and values["watch"].records
    assert capsys.readouterr().out.startswith("dog ")


def test_the_page_on_what_comes_before_and_after_training_runs_as_it_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(classes: int) -> nn.Sequential:
        features = nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.GlobalAvgPool2d()
        return nn.Sequential(*features, nn.Flatten(), nn.Linear(8, classes))

    mine = ModuleType("mymodel")
    mine.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mymodel", mine)
    Image.open("photos/cat/1.png").save("cat.jpg", quality=95)
    draw_images(folder / "more-photos", ("dog",), 2)
    train = ["train", "--model", "mymodel:make", "--data", "folder:photos", "--epochs", "6", "--learning-rate", "0.1"]
    assert main([*train, "--out", "runs/mine"]) == 0
    capsys.readouterr()

    commands = commands_of("evaluate.md")
    assert [command[1] for command in commands] == ["overfit", "find-lr", "evaluate", "predict"]
    for command in commands:
        code = main(command[1:])
        out, err = capsys.readouterr()
        assert code == 0, f"{shlex.join(command)}\n{out}\n{err}"
    assert [one["class"] for one in json.loads(out)] == ["cat", "dog", "dog"] and Path("rates.png").exists()

    values: dict[str, Any] = {}
    (code_of_page,) = blocks("evaluate.md", "python")
    exec(compile(code_of_page, "evaluate.md", "exec"), values)
    assert values["found"].accuracy == values["run"].metrics["test_accuracy"] and values["broken"] == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("It can learn: 14 images of 2 classes by heart in ") and float(lines[-1]) > 0
