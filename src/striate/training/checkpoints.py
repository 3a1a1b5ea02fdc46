"""Keeps the checkpoints of a run: a folder of snapshots, of which the last two and the best one stay.

Each is a file of :mod:`striate.tensorfile`, in which every byte is covered by a digest, and the folder has a manifest:
JSON with the SHA-256 of each file. A file is written whole, then the manifest, and only then are older files removed.
So whenever the process ends, the last checkpoint that was written is there, and what the manifest says of a file is
true.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, build
from ..files import replace_file
from ..tensorfile import SUFFIX, Damaged, encode, read
from .callbacks import Callback
from .history import Epoch
from .state import Snapshot, Training

__all__ = ["MANIFEST", "KeepCheckpoints", "latest", "newest", "save"]

MANIFEST = "manifest.json"
LAST = 2  # checkpoints that stay, beside the best one
NAME = re.compile(r"epoch-(\d{4,})-step-(\d{6,})\.safetensors")


class _Entry(NamedTuple):
    """What the manifest says of a file. best: whether it was the best of all epochs when it was saved."""

    file: str
    bytes: int
    sha256: str
    best: bool


def save(folder: Path, snapshot: Snapshot, best: bool = False) -> Path:
    """Writes a checkpoint, as ``epoch-0003-step-000123.safetensors``, and removes those before it that are neither one
    of the last two nor the best one, and those of later steps, which were passed over as damaged.

    best: whether it is the best of all so far.

    Returns its path. Raises CheckpointError if it cannot be written, as on a full disk; what was saved before is then
    unchanged.
    """
    name = _name(snapshot.facts)
    content = encode(snapshot.tensors, {"facts": snapshot.facts, "best": best}, "checkpoints")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [entry for entry in _entries(folder) if _order(entry.file) < _order(name)]
        replace_file(folder / name, content)
        if best:
            entries = [entry._replace(best=False) for entry in entries]
        entries.append(_Entry(name, len(content), hashlib.sha256(content).hexdigest(), best))
        kept = [entry for place, entry in enumerate(entries, LAST - len(entries)) if entry.best or place >= 0]
        replace_file(folder / MANIFEST, _manifest(kept))
        for file in set(_files(folder)) - {entry.file for entry in kept}:
            (folder / file).unlink()
    except OSError as error:
        got, hint = error.strerror or str(error), "Make room there, then go on with --resume: what was saved is kept."
        raise CheckpointError(
            build("checkpoints", "a folder that can be written to", got, folder=folder, hint=hint)
        ) from error
    return folder / name


def newest(folder: Path) -> Path | None:
    """The path of the newest checkpoint in a folder, None if there is none; it is not read."""
    files = _files(folder)
    return folder / files[-1] if files else None


def latest(folder: Path, tell: Callable[[str], object] = warnings.warn) -> Snapshot | None:
    """Reads the newest sound checkpoint in a folder; None if there is no checkpoint at all.

    tell: called with a sentence for each damaged one that is passed over.

    Raises CheckpointError if there are checkpoints and each of them is damaged.
    """
    digests = {entry.file: entry.sha256 for entry in _listed(folder)}
    damaged: dict[str, str] = {}
    for file in reversed(_files(folder)):
        try:
            snapshot = _read(folder / file, digests.get(file))
        except Damaged as found:
            damaged[file] = str(found)
            continue
        for name, why in damaged.items():
            tell(f"{name} is damaged ({why}): the run goes on from {file}")
        return snapshot
    if damaged:
        got = "; ".join(f"{name}: {why}" for name, why in damaged.items())
        hint = "Copy the folder afresh, or begin again with --overwrite."
        raise CheckpointError(build("resume", "a sound checkpoint", got, folder=folder, hint=hint))
    return None


class KeepCheckpoints(Callback):
    """Saves a checkpoint after each epoch, and within an epoch when some minutes have passed since the last one.

    folder: where to; minutes: 0 for each step; asked: gives a reason where somebody asked the training to stop: it
    stops after the running step, which is saved.
    """

    def __init__(
        self, folder: Path, minutes: float = 5.0, asked: Callable[[], str | None] = lambda: None
    ) -> None:
        self.folder, self.minutes, self.asked = folder, minutes, asked
        self._saved_at = time.monotonic()

    def on_start(self, training: Training) -> None:
        _ = training.data_identity  # now: it may take seconds, which whoever asks to stop may not give
        self._saved_at = time.monotonic()

    def on_step(self, training: Training) -> None:
        reason = self.asked()
        if reason is not None or time.monotonic() - self._saved_at >= 60 * self.minutes:
            self._save(training, best=False)
        if reason is not None:
            training.stop(reason)

    def on_epoch(self, training: Training, epoch: Epoch) -> None:
        self._save(training, best=training.is_best)
        reason = self.asked()
        if reason is not None:
            training.stop(reason)

    def _save(self, training: Training, best: bool) -> None:
        save(self.folder, training.snapshot(), best)
        self._saved_at = time.monotonic()


def _name(facts: dict[str, Any]) -> str:
    return f"epoch-{facts['epoch']:04d}-step-{facts['step']:06d}{SUFFIX}"


def _order(file: str) -> tuple[int, int]:
    """Step, then epoch: after the last step of an epoch its evaluation makes another checkpoint."""
    epoch, step = NAME.fullmatch(file).groups()  # type: ignore[union-attr]
    return int(step), int(epoch)


def _files(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder, the newest last."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((name for name in names if NAME.fullmatch(name)), key=_order)


def _read(path: Path, sha256: str | None) -> Snapshot:
    """Reads a checkpoint; raises Damaged for anything but what :func:`save` wrote under this name."""
    tensors, metadata = read(path)
    try:
        name = _name(metadata["facts"])
    except (KeyError, TypeError, ValueError):
        raise Damaged("a file of something else") from None
    if name != path.name:
        raise Damaged(f"the file {name} under another name")
    if sha256 is not None and _sha256(path) != sha256:
        raise Damaged(f"a file with another SHA-256 than {MANIFEST} says")
    return Snapshot(tensors, metadata["facts"])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _manifest(entries: list[_Entry]) -> bytes:
    files = [entry._asdict() for entry in entries]
    return (json.dumps({"files": files, "sha256": _digest_of(files)}, indent=1) + "\n").encode()


def _digest_of(files: object) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _listed(folder: Path) -> list[_Entry]:
    """What the manifest lists; nothing if it is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = manifest["files"]
        return [_Entry(**one) for one in files] if manifest["sha256"] == _digest_of(files) else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _entries(folder: Path) -> list[_Entry]:
    """An entry for each sound checkpoint in a folder. A file that the manifest does not list is read: that is the last
    one, where the process was ended before it wrote the manifest, or each, where the manifest is damaged.
    """
    listed = {entry.file: entry for entry in _listed(folder)}
    entries: list[_Entry] = []
    for file in _files(folder):
        entry, path = listed.get(file), folder / file
        if entry is None:
            try:
                best = read(path)[1].get("best") is True
            except Damaged:
                continue
            entry = _Entry(file, path.stat().st_size, _sha256(path), best)
        if entry.best:
            entries = [other._replace(best=False) for other in entries]
        entries.append(entry)
    return entries
