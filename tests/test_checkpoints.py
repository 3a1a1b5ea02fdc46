"""The checkpoints of a run: which are kept, and that none loads that is not, bit for bit, what was saved."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import files, nn
from striate.errors import CheckpointError
from striate.training import Callback, DataSet, FitSettings, Snapshot, fit
from striate.training.checkpoints import MANIFEST, KeepCheckpoints, latest, save
from striate.training.data import Part, make_shapes


def snapshot(epoch: int, step: int) -> Snapshot:
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3) + step
    return Snapshot({"model.weight": weight, "random.torch": torch.arange(40, dtype=torch.uint8)},
                    {"epoch": epoch, "step": step, "history": [0.5] * epoch})  # fmt: skip


def bits(found: Snapshot | None) -> object:
    assert found is not None
    return {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in found.tensors.items()}, found.facts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def unexpected(line: str) -> None:
    raise AssertionError(line)


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", snapshot(3, 123))
    assert path == tmp_path / "checkpoints" / "epoch-0003-step-000123.safetensors"
    assert bits(latest(tmp_path / "checkpoints", unexpected)) == bits(snapshot(3, 123))


def test_there_may_be_no_checkpoint_yet(tmp_path: Path) -> None:
    assert latest(tmp_path / "missing", unexpected) is None and latest(tmp_path, unexpected) is None


def test_the_last_two_and_the_best_one_stay(tmp_path: Path) -> None:
    for epoch, step, best in ((1, 10, True), (1, 15, False), (2, 20, True), (2, 25, False), (3, 30, False), (4, 40, 0)):
        save(tmp_path, snapshot(epoch, step), bool(best))
    assert names(tmp_path) == [
        "epoch-0002-step-000020.safetensors",
        "epoch-0003-step-000030.safetensors",
        "epoch-0004-step-000040.safetensors",
        MANIFEST,
    ]
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert [(one["file"][6:10], one["best"]) for one in manifest["files"]] == [
        ("0002", True),
        ("0003", False),
        ("0004", False),
    ]
    for one in manifest["files"]:
        content = (tmp_path / one["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (one["bytes"], one["sha256"])


def test_of_two_checkpoints_at_the_end_of_an_epoch_the_one_after_its_evaluation_is_the_newer(tmp_path: Path) -> None:
    save(tmp_path, snapshot(1, 20))
    save(tmp_path, snapshot(2, 20))
    assert bits(latest(tmp_path, unexpected)) == bits(snapshot(2, 20))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, snapshot(1, 10), best=True)
    save(tmp_path, snapshot(2, 20))
    return tmp_path


LAST = "epoch-0002-step-000020.safetensors"


def test_a_damaged_checkpoint_is_passed_over_with_a_line_and_goes_with_the_next_one(folder: Path) -> None:
    (folder / LAST).write_bytes((folder / LAST).read_bytes()[:-1])
    told: list[str] = []
    assert bits(latest(folder, told.append)) == bits(snapshot(1, 10))
    why = "63 bytes of tensors where the header says 64"
    assert told == [f"{LAST} is damaged ({why}): the run goes on from epoch-0001-step-000010.safetensors"]
    save(folder, snapshot(1, 15))
    assert names(folder) == [f"epoch-0001-step-0000{step}.safetensors" for step in (10, 15)] + [MANIFEST]


def test_where_every_checkpoint_is_damaged_none_is_taken(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        latest(folder, unexpected)
    got = "a file of 0 bytes whose header does not fit in it"
    assert str(error.value) == (
        f"resume expects a sound checkpoint, got {LAST}: {got}; epoch-0001-step-000010.safetensors: {got}. "
        f"folder: {folder}. Copy the folder afresh, or begin again with --overwrite."
    )


def test_a_file_under_another_name_and_one_that_the_manifest_does_not_know_are_no_checkpoint(folder: Path) -> None:
    first, told = folder / "epoch-0001-step-000010.safetensors", []
    (folder / "epoch-0009-step-000090.safetensors").write_bytes(first.read_bytes())
    save(folder / "other", Snapshot({"model.weight": torch.zeros(2, 3)}, snapshot(2, 20).facts))
    (folder / LAST).write_bytes((folder / "other" / LAST).read_bytes())  # of another run, whole and well named
    assert bits(latest(folder, told.append)) == bits(snapshot(1, 10))
    end = "the run goes on from epoch-0001-step-000010.safetensors"
    assert told == [
        f"epoch-0009-step-000090.safetensors is damaged (the file {first.name} under another name): {end}",
        f"{LAST} is damaged (a file with another SHA-256 than {MANIFEST} says): {end}",
    ]


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"files": [], "sha256": 0}', b"\xff", b"["], ids=repr)
def test_without_its_manifest_a_folder_is_read_all_the_same(folder: Path, content: bytes | None) -> None:
    (folder / MANIFEST).unlink() if content is None else (folder / MANIFEST).write_bytes(content)
    assert bits(latest(folder, unexpected)) == bits(snapshot(2, 20))
    save(folder, snapshot(3, 30))
    save(folder, snapshot(4, 40))
    assert [name[6:10] for name in names(folder)[:-1]] == ["0001", "0003", "0004"], "the best one is not known"


def test_a_checkpoint_that_was_written_before_the_process_ended_counts(folder: Path) -> None:
    manifest = (folder / MANIFEST).read_bytes()
    save(folder, snapshot(3, 30), best=True)
    (folder / MANIFEST).write_bytes(manifest)
    assert bits(latest(folder, unexpected)) == bits(snapshot(3, 30))
    for epoch in (4, 5, 6):
        save(folder, snapshot(epoch, 10 * epoch))
    assert [name[6:10] for name in names(folder)[:-1]] == ["0003", "0005", "0006"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_saved_before(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {path: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, full)
        with pytest.raises(CheckpointError) as error:
            save(folder, snapshot(3, 30))
    assert str(error.value) == (
        "checkpoints expects a folder that can be written to, got No space left on device. "
        f"folder: {folder}. Make room there, then go on with --resume: what was saved is kept."
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_no_flipped_bit_and_no_missing_end_loads_as_something_else(tmp_path: Path) -> None:
    path, chance = save(tmp_path, snapshot(2, 20)), random.Random(0)
    (tmp_path / MANIFEST).unlink()  # else its SHA-256 of the whole file alone would find each
    whole = path.read_bytes()

    def refused(content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            latest(tmp_path, unexpected)

    for length in range(len(whole)):
        refused(whole[:length])
    for _ in range(10_000):
        spot = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[spot // 8] ^= 1 << spot % 8
        refused(bytes(damaged))
    path.write_bytes(whole)
    assert bits(latest(tmp_path, unexpected)) == bits(snapshot(2, 20))


def test_no_flipped_bit_of_the_manifest_changes_what_is_loaded_or_kept(folder: Path) -> None:
    whole, last = (folder / MANIFEST).read_bytes(), bits(snapshot(2, 20))
    for spot in range(0, 8 * len(whole), 5):
        damaged = bytearray(whole)
        damaged[spot // 8] ^= 1 << spot % 8
        (folder / MANIFEST).write_bytes(damaged)
        assert bits(latest(folder, unexpected)) == last


# ------------------------------------------------------------------------------------------------------ while it trains


class Steps(Callback):
    """Notes the files after each step and epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, {}

    def on_step(self, training: Any) -> None:
        self.seen[training.step] = [name[6:10] + name[15:22] for name in names(self.folder)[:-1]]


def trained(folder: Path, **options: Any) -> tuple[list[Any], Steps]:
    folder.mkdir(exist_ok=True)
    images, labels, _ = make_shapes(60, 16, 0)
    parts = {"train": Part(images[:40], labels[:40]), "test": Part(images[40:], labels[40:])}
    data, steps = DataSet("shapes", tuple("abcde"[: int(labels.max()) + 1]), parts), Steps(folder)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16 * images.shape[1], len(data.classes)))
    history = fit(model, data, FitSettings(epochs=2, batch_size=16, threads=1),
                  callbacks=[KeepCheckpoints(folder, **options), steps])  # fmt: skip
    return history, steps


def test_a_checkpoint_is_saved_after_each_epoch_and_after_so_many_minutes(tmp_path: Path) -> None:
    history, steps = trained(tmp_path / "epochs", minutes=1e6)
    assert steps.seen[3] == [] and steps.seen[4] == ["0001-000003"] and len(history) == 2
    _, steps = trained(tmp_path / "steps", minutes=0.0)
    assert steps.seen[2] == ["0000-000001", "0000-000002"] and "0001-000004" in steps.seen[4]


def test_a_training_that_is_asked_to_stop_saves_the_step_and_stops(tmp_path: Path) -> None:
    asked = iter([None, None, None, None, "Ctrl-C"])  # after three steps, an epoch and a step
    history, steps = trained(tmp_path, minutes=1e6, asked=lambda: next(asked))
    assert steps.seen[4] == ["0001-000003", "0001-000004"] and max(steps.seen) == 4
    assert len(history) == 1 and history.stopped == "Ctrl-C"


def test_files_of_a_process_that_was_ended_while_it_wrote_are_removed(tmp_path: Path) -> None:
    half, others = tmp_path / f".model.safetensors.{os.getpid()}.tmp", ["notes.tmp", ".hidden", "x.12.tmp"]
    for name in (half.name, *others):
        (tmp_path / name).write_text("half")
    files.remove_left(tmp_path)
    files.remove_left(tmp_path / "missing")
    assert names(tmp_path) == sorted(others)
