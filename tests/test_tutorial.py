"""The tutorial: its commands and its Python run as they stand there, on small folders of images."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from striate.cli import main
from striate.files import write_atomically
from striate.training import Epoch, Training, figures
from striate.training.watch import Watch

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "training.md"
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


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not PAGE.is_file():
        pytest.skip("the guide is not installed, only the checkout has it")
    draw_images(tmp_path / "photos", ("cat", "dog"), 25)
    draw_images(tmp_path / "birds", ("owl", "robin", "wren"), 12)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    # drawing would take half of the time
    monkeypatch.setattr(figures, "write_png", lambda figure, path, dpi: write_atomically(path, b""))
    lines = "".join(blocks("sh")).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in lines.splitlines() if line.strip()]
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
    for names in re.findall(r"^\| (`\S+(?:, `\S+)*) \|", PAGE.read_text(encoding="utf-8"), re.M):
        assert all((Path("runs/photos") / name).exists() for name in re.findall(r"`([^`]+)`", names)), names
    told = [out for line, out in outputs.items() if line.startswith("striate evaluate") and "--json" in line]
    assert all(set(json.loads(out)) >= {"accuracy", "confusion"} for out in told)
    told = [out for line, out in outputs.items() if line.startswith("striate predict") and "--json" in line]
    assert [one["class"] for one in json.loads(told[0])] == ["dog"]
    assert Path("photos.png").exists() and Path("compare.png").exists()
    birds = outputs[next(line for line in outputs if "runs/birds" in line)]
    assert "The head is new: 9.weight, 9.bias." in birds and "of them frozen" in birds

    for code in blocks("python"):
        values: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), values)
    assert len(values["history"]) == 2 and values["watch"].records
    assert capsys.readouterr().out.startswith("dog ")
