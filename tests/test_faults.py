"""Runs that are killed, that no disk has room for, and that signals stop: each goes on as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from made_runs import EACH_STEP, SETTINGS, finish, process, save_data, weights


class Whole(NamedTuple):
    """A run that nothing ended, and the seconds it took."""

    out: Path
    settings: dict[str, Any]
    seconds: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    settings = {**SETTINGS, "data": save_data(folder / "data.npz"), "checkpoint_minutes": EACH_STEP}
    finish(folder / "first", settings)  # also starts the server
    made = Whole(folder / "run", settings, finish(folder / "run", settings))
    assert weights(folder / "first") == weights(made.out), "the same settings give other weights"
    return made


def same(out: Path, whole: Whole) -> None:
    assert weights(out) == weights(whole.out) and results(out) == results(whole.out)


def results(out: Path) -> list[dict[str, Any]]:
    """What the metrics say of each epoch, but for times."""
    epochs = json.loads((out / "metrics.json").read_text())["epochs"]
    timed = {"seconds", "images_per_second", "waiting"}
    return [{name: value for name, value in epoch.items() if name not in timed} for epoch in epochs]


@pytest.mark.parametrize(
    ("kills", "each"), [(20, 4), pytest.param(200, 1, marks=pytest.mark.nightly)], ids=["20", "200"]
)
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_weights(
    whole: Whole, tmp_path: Path, kills: int, each: int
) -> None:
    chance, killed, trained = random.Random(0), 0, 0
    while killed < kills:
        out, of_this = tmp_path / str(killed), 0
        while of_this < each and killed < kills:
            one = process(out, whole.settings)
            one.start()
            one.join(chance.uniform(0, whole.seconds))
            if one.exitcode is not None:
                assert one.exitcode == 0
                break
            one.kill()
            one.join()
            of_this, killed = of_this + 1, killed + 1
            trained += any(out.glob("checkpoints/*.safetensors"))
        finish(out, whole.settings)
        same(out, whole)
        left = [path.name for path in out.rglob("*") if path.name.endswith(".tmp")]
        assert not left, "half a file of a killed process lies there"
        assert {path.name for path in out.iterdir()} == {path.name for path in whole.out.iterdir()}
    assert trained >= kills / 4, "hardly any run was killed after it had trained"


def test_every_step_of_a_run_may_be_its_last_before_it_goes_on(
    whole: Whole, tmp_path: Path
) -> None:
    out, steps = tmp_path / "run", 3 * 6
    for step in range(2, steps + 1, 4):  # within epochs, and at their ends
        one = process(out, whole.settings, quit_at=step)
        one.start()
        one.join()
        assert one.exitcode == 9
    finish(out, whole.settings)
    same(out, whole)


def test_a_full_disk_ends_the_run_with_one_sentence_and_what_was_saved_goes_on(whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    one = process(out, {**whole.settings, "checkpoint_minutes": 5.0}, file_bytes=1000)
    one.start()
    one.join()
    assert one.exitcode == 2
    assert out.with_suffix(".error").read_text() == (
        "checkpoints expects a folder that can be written to, got File too large. "
        f"folder: {out / 'checkpoints'}. Make room there, then go on with --resume: what was saved is kept."
    )
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["epoch-0001-step-000006.safetensors", "manifest.json"]
    finish(out, whole.settings)
    same(out, whole)


# ------------------------------------------------------------------------------------------------------------- signals

TRAIN = [sys.executable, "-m", "striate", "train"]
DIGITS = ("--model", "mlp_bn", "--epochs", "500", "--threads", "1")


def begun(*arguments: str) -> subprocess.Popen[str]:
    """A command that trains, once it has told of its first epoch."""
    one = subprocess.Popen([*TRAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert one.stdout is not None
    while not (line := one.stdout.readline()).startswith("epoch "):
        assert line, one.stderr.read() if one.stderr else ""
    return one


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_saves_the_step_and_one_line_says_how_to_go_on(signum: int, code: int, tmp_path: Path) -> None:
    out = tmp_path / "my run"
    one = begun(*DIGITS, "--out", str(out))
    one.send_signal(signum)
    _, told = one.communicate(timeout=60)
    assert (one.returncode, told) == (code, f"striate: stopped. Go on with: striate train --resume --out '{out}'\n")
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert len(kept) >= 2 and not (out / "metrics.json").exists()


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from striate.training import Callback, train_run\n"
        "class Slow(Callback):\n"
        "    def on_step(self, training):\n"
        "        print('step', flush=True)\n"
        "        time.sleep(600)\n"
        "train_run(model='mlp_bn', threads=1, out=sys.argv[1], callbacks=[Slow()])\n"
    )
    one = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert one.stdout is not None and one.stdout.readline() == "step\n"
    one.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(1)  # it finishes the step
    one.send_signal(signal.SIGTERM)
    assert one.wait(30) == -signal.SIGTERM
