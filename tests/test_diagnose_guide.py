"""The guide to networks that do not learn: each of its commands finds what the comment behind it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from striate.cli import main
from striate.files import write_atomically
from striate.training import figures

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "diagnose.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_three_broken_networks_are_told_what_is_wrong_and_mended_ones_that_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not PAGE.is_file():
        pytest.skip("the guide is not installed, only the checkout has it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("striate.allocator.tune_allocator", lambda: True)
    monkeypatch.setattr("striate.diagnostics.profile", lambda *args, **how: (_ for _ in ()).throw(ValueError))
    # drawing would take half of the time
    monkeypatch.setattr(figures, "write_png", lambda figure, path, dpi: write_atomically(path, b""))
    torch.set_num_threads(1)
    net, *python = blocks("python")
    (tmp_path / "net.py").write_text(net)
    lines = "".join(blocks("sh")).splitlines()
    assert len(lines) == 12
    printed = {}
    for line in lines:
        command, _, comment = line.partition("#")
        words = shlex.split(command)
        code = main(words[1:])
        out, err = capsys.readouterr()
        found = set(re.findall(r"^✗ ([\w-]+):", out, re.M))
        expected = set(re.findall(r"finds ([\w, -]+)", comment)[0].split(", ")) if "finds " in comment else {"nothing"}
        assert words[1] == "train" or (found or {"nothing"}) == expected, f"{line}\n{out}\n{err}"
        fails = "✗" in out or comment.strip() == "it does not learn one batch"
        assert code == int(fails), f"{line}\n{out}\n{err}"
        printed[command.strip()] = out
    fenced = PAGE.read_text(encoding="utf-8").split("```")[1::2]
    shown = [text.removeprefix("\n") for text in fenced if text.startswith("\n")]
    assert len(shown) == 3
    for text in shown:
        first = text.partition("\n")[0].removesuffix(" on digits")
        out = next(out for command, out in printed.items() if command.startswith(f"striate diagnose {first}"))
        places = re.findall(r"^[✗!·] .*$", text, re.M)
        assert places and re.findall(r"^[✗!·] .*$", out, re.M)[: len(places)] == places, out

    values: dict[str, Any] = {}
    exec(compile(python[0], str(PAGE), "exec"), values)
    assert "gradient_flow" in values["found"].results
