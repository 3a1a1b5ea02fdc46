"""The folders of runs beside each other: which there are, what they reached, and in which settings they differ."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError, build, describe_error
from .checkpoints import NAME, latest
from .config import read_config
from .folder import CHECKPOINTS, CONFIG, METRICS, holds_run
from .history import Epoch, History
from .settings import RunSettings, knobs, resolved

__all__ = ["RunRecord", "curves_of", "differences", "find_runs", "own_settings", "read_run", "short_names", "summary"]

DEEPEST = 3  # folders below the one that is searched
NAMED = ("data", "model", "epochs", "seed")  # settings that a list of runs gives each a column


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What the folder of a run tells without its model.

    settings: None if they cannot be read; metrics: {} for a run that has not ended; epoch: the epochs that have ended;
    damage: what cannot be read, and why, or "".
    """

    folder: Path
    settings: RunSettings | None
    metrics: dict[str, Any]
    epoch: int
    damage: str = ""

    @property
    def has_ended(self) -> bool:
        return bool(self.metrics)

    @property
    def state(self) -> str:
        """In a few words: "ended", "epoch 3 of 8" or "damaged"."""
        if self.damage or self.settings is None:
            return "damaged"
        return "ended" if self.has_ended else f"epoch {self.epoch} of {self.settings.epochs}"

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        results = ("test_accuracy", "val_accuracy", "test_loss", "parameters", "seconds", "stopped")
        return {
            "folder": str(self.folder),
            "state": self.state,
            "epoch": self.epoch,
            **{name: self.metrics.get(name) for name in results},
            "settings": None if self.settings is None else self.settings.to_dict(),
            **({"damage": self.damage} if self.damage else {}),
        }


def read_run(folder: str | os.PathLike[str]) -> RunRecord:
    """Reads what the folder of a run tells.

    Raises ArgumentError for a folder that holds no run, CheckpointError for one with damaged files.
    """
    record = _record(Path(folder))
    if record is None:
        got = "a folder without one" if Path(folder).is_dir() else "no such folder"
        hint = "Give the folder that striate train --out named; striate runs lists them."
        raise ArgumentError(build("runs", "the folder of a run", got, folder=folder, hint=hint))
    if record.damage:
        hint = "Copy the folder afresh, or leave it out."
        raise CheckpointError(build("runs", "the files of a run", record.damage, folder=folder, hint=hint))
    return record


def find_runs(folder: str | os.PathLike[str] = "runs") -> list[RunRecord]:
    """The runs in a folder and its subfolders, by name. Damaged ones are among them.

    Raises ArgumentError if there is no such folder.
    """
    if not Path(folder).is_dir():
        hint = "Train one first, or name the folder in which there are runs."
        raise ArgumentError(build("runs", "a folder of runs", "no such folder", folder=folder, hint=hint))
    return list(_below(Path(folder), DEEPEST))


def _below(folder: Path, depth: int) -> Iterable[RunRecord]:
    record = _record(folder)
    if record is not None:
        yield record
    elif depth:
        for path in sorted(path for path in _entries(folder) if path.is_dir() and not path.is_symlink()):
            if not path.name.startswith("."):
                yield from _below(path, depth - 1)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # a folder that may not be read
        return []


def _record(folder: Path) -> RunRecord | None:
    if not folder.is_dir() or not holds_run(folder):
        return None
    steps = [NAME.fullmatch(path.name) for path in _entries(folder / CHECKPOINTS)]
    epoch = max((int(found[1]) for found in steps if found), default=0)
    settings, metrics, damage = None, {}, ""
    try:
        if (folder / METRICS).exists():
            metrics = _metrics(folder / METRICS)
            epoch = len(metrics["epochs"])
        if (folder / CONFIG).exists() or not metrics:
            settings = RunSettings.of(read_config(folder / CONFIG))
        else:
            known = {name: value for name, value in metrics["settings"].items() if name in knobs(RunSettings)}
            settings = RunSettings.of(known)
    except (ArgumentError, ValueError) as error:
        damage = str(error)
    except (OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        damage = describe_error(error)
    return RunRecord(folder, settings, {} if damage else metrics, epoch, damage)


def _metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        _history(metrics["epochs"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a damaged {path.name} ({describe_error(error)})") from None
    return metrics


def _history(epochs: Sequence[dict[str, Any]]) -> History:
    return History(Epoch(**epoch) for epoch in epochs)


def curves_of(record: RunRecord) -> History:
    """The epochs of a run: of one that has not ended, those of its last checkpoint.

    Raises CheckpointError if each of its checkpoints is damaged.
    """
    if record.has_ended:
        return _history(record.metrics["epochs"])
    found = latest(record.folder / CHECKPOINTS)
    return History() if found is None else _history(found.facts["history"])


def own_settings(settings: RunSettings, without: Sequence[str] = NAMED) -> dict[str, Any]:
    """The settings that are others than by default, without those that no result depends on.

    >>> own_settings(RunSettings(model="cnn_bn", learning_rate=0.1, flip=True, threads=1))
    {'learning_rate': 0.1, 'flip': True}
    """
    kind = settings.data.partition(":")[0]
    values = resolved(settings, kind).to_dict()
    # what a setting without a value becomes depends on these
    usual = resolved(RunSettings(optimizer=settings.optimizer, schedule=settings.schedule), kind).to_dict()
    return {
        knob.name: values[knob.name]
        for knob in knobs(RunSettings).values()
        if not knob.free
        and knob.name not in without
        and values[knob.name] != (usual[knob.name] if knob.default is None else knob.default)
    }


def differences(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """The settings in which runs differ, each with its value in each run; without those that no result depends on.

    >>> made = [RunRecord(Path(), RunSettings(epochs=epochs, threads=epochs), {}, 0) for epochs in (2, 4)]
    >>> differences(made)
    {'epochs': [2, 4]}
    """
    settings = [record.settings.to_dict() for record in records if record.settings is not None]
    found = {knob.name: [values[knob.name] for values in settings] for knob in knobs(RunSettings).values()}
    return {
        name: values
        for name, values in found.items()
        if not knobs(RunSettings)[name].free and any(value != values[0] for value in values)
    }


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as needed to tell them apart.

    >>> short_names([Path("runs/a"), Path("runs/b")]), short_names([Path("x/a"), Path("y/a")])
    (['a', 'b'], ['x/a', 'y/a'])
    """
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def summary(record: RunRecord) -> dict[str, Any]:
    """What a comparison tells of one run, as JSON holds it: its record and its epochs."""
    return {**record.to_dict(), "epochs": [asdict(epoch) for epoch in curves_of(record)]}
