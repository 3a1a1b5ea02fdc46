"""A training run with a folder of its own: data, model, training, evaluation, and what is written of them.

``config.toml`` and ``checkpoints/`` are there while it trains; ``metrics.json`` is written last, so that a folder with
it holds a run that has ended.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import ArgumentError, CheckpointError, build
from ..extras import needs
from ..files import write_atomically
from ..models import classifier
from ..ops.precision import precision
from . import checkpoint, figures, finetune
from .callbacks import Callback, TensorBoard
from .checkpoints import KeepCheckpoints, latest
from .config import read_config, write_config
from .data import DataSet, Preprocessing, open_data
from .evaluation import Evaluation, evaluate
from .fit import fit
from .folder import CHECKPOINTS, CONFIG, METRICS, MODEL, clear, has_ended, holds_run, working_in
from .history import History
from .settings import RunSettings, knobs, resolved
from .signals import Asked, Stopped, listen
from .state import Snapshot

__all__ = ["Prepared", "Run", "open_run", "prepare", "train_run"]

DIGITS = Preprocessing((28, 28), 1, (0.0,), (1.0,))  # of runs whose files do not say: they knew no other data


class Prepared(NamedTuple):
    """What a run trains. settings: with a value for each that others decide; preprocessing: how images become inputs.
    """

    settings: RunSettings
    data: DataSet
    preprocessing: Preprocessing
    model: nn.Module


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model, and what is known of its training.

    file: the file of the model; settings: those of the training; classes: their names, in the order of the scores;
    preprocessing: how an image becomes the model's input; metrics: what ``metrics.json`` holds, ``{}`` without one.
    """

    file: Path
    settings: RunSettings
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return self.file.parent

    def model(self) -> nn.Module:
        """The trained model, in evaluation mode.

        Raises CheckpointError for a file that is damaged or that the model does not fit, ArgumentError if the model's
        own code fails.
        """
        model = _made(self.settings, self.preprocessing, len(self.classes))
        checkpoint.load(model, self.file)
        return model.eval()


def open_run(path: str | os.PathLike[str]) -> Run:
    """Opens the folder of a run, or the ``model.safetensors`` of one.

    Raises CheckpointError for a file that is missing, damaged or of anything else, and for a run that has not ended.
    """
    folder = Path(path)
    file = folder / MODEL if folder.is_dir() else folder
    if folder.is_dir() and holds_run(folder) and not file.exists():
        hint = f"Go on with striate train --resume --out {folder}."
        raise CheckpointError(build("load", "a run that has ended", "one that has not", folder=folder, hint=hint))
    metadata = checkpoint.metadata_of(file)
    stored = metadata.get("settings")
    if not isinstance(stored, dict) or "model" not in stored:
        got = "a frozen model" if "frozen" in metadata else "one that names no model"
        hint = "Name what makes the model instead, as package.module:callable."
        raise CheckpointError(build("load", "a checkpoint of striate train", got, path=path, hint=hint))
    known = {name: value for name, value in stored.items() if name in knobs(RunSettings)}
    classes = metadata.get("classes", [str(digit) for digit in range(10)])
    how = metadata.get("preprocessing")
    preprocessing = DIGITS if how is None else Preprocessing.from_dict(how)
    metrics = file.with_name(METRICS)
    told = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    return Run(file, RunSettings.of(known), tuple(classes), preprocessing, told)


def prepare(settings: RunSettings, preprocessing: Preprocessing | None = None, fresh: bool = True) -> Prepared:
    """Opens the data and makes the model that settings name.

    preprocessing: measured on the training images if None; fresh: whether the weights are to be those that training
    begins with, else any.

    Raises ArgumentError for settings that do not fit together, DataError for data that cannot be used, CheckpointError
    for weights that do not fit.

    >>> ready = prepare(RunSettings(model="cnn_bn"))
    >>> ready.preprocessing.size, ready.settings.crop, sum(p.numel() for p in ready.model.parameters())
    ((28, 28), 2, 20714)
    """
    data = open_data(settings.data, settings.seed, settings.skip_broken)
    settings = resolved(settings, data.kind)
    if settings.val_fraction is not None:
        data = data.with_validation(settings.val_fraction, settings.seed)
    if preprocessing is None:
        preprocessing = Preprocessing.of(data.parts["train"], settings.size, settings.seed)
    model = _made(settings, preprocessing, len(data.classes))
    if fresh and settings.weights is not None:
        finetune.load_weights(model, settings.weights)
    if settings.freeze_until is not None:
        finetune.freeze_until(model, settings.freeze_until)
    return Prepared(settings, data, preprocessing, model)


def train_run(
    settings: RunSettings | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    on_ready: Callable[[Prepared, Path], object] = lambda ready, folder: None,
    tell: Callable[[str], object] = lambda line: None,
    **changes: Any,
) -> Run:
    """Trains a model, evaluates it on the test part, and writes everything to a folder.

    settings and changes: ``train_run(model="cnn_bn", epochs=3)`` has the default settings but for two; out: the folder,
    by default a new one, ``runs/<model>-<kind of data>``; resume: go on from the last checkpoint in it, bit for bit as
    if the run had never ended, or begin where there is none; overwrite: remove the run that is in it; callbacks: told
    of each step and epoch; progress: show a bar; on_ready: called before training with what is trained, and where
    results go; tell: called with what else is to be said, a line each.

    While it trains, SIGINT and SIGTERM finish the step, save a checkpoint, and raise Stopped, a KeyboardInterrupt; a
    second one ends the process.

    Raises ArgumentError, before any work, for settings out of range, for a folder that holds a run already, and for
    settings other than those the run began with; what :func:`prepare` and :func:`.fit.fit` raise; CheckpointError where
    a file cannot be written, as on a full disk. The checkpoints that were saved before stay.
    """
