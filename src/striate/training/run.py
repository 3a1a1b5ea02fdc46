"""A training run with a folder of its own: data, model, training, evaluation, and what is written of them.

``config.toml`` and ``checkpoints/`` are there while it trains; ``metrics.json`` is written last, so that a folder with
it holds a run that has ended.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import random_states
from ..errors import ArgumentError, CheckpointError, build
from ..extras import needs
from ..files import write_atomically
from ..models import KNOBS, classifier, vary
from ..models.custom import custom
from ..nn.swap import accelerate
from ..ops.precision import precision
from ..tensorfile import encode, write
from . import checkpoint, figures, finetune
from .callbacks import Callback, TensorBoard
from .checkpoints import KeepCheckpoints, latest, newest
from .config import read_config, write_config
from .data import DataSet, Preprocessing, open_data
from .data.sources import user_path
from .evaluation import evaluate
from .fit import fit
from .folder import CHECKPOINTS, CONFIG, METRICS, MODEL, REPORT, WATCH, clear, has_ended, holds_run, working_in
from .history import History
from .report import report
from .settings import RunSettings, knobs, resolved
from .signals import Asked, Stopped, listen
from .state import NotFinite, Snapshot
from .watch import Record, Watch

__all__ = ["Prepared", "Run", "open_run", "prepare", "train_run"]

PREPARED = ("size", "channels", "mean", "std")  # what the metadata hold of a preprocessing
DIGITS = Preprocessing((28, 28), 1, (0.0,), (1.0,))  # of runs whose files do not say: they knew no other data


class Prepared(NamedTuple):
    """What a run trains.

    settings: with a value for each that others decide; preprocessing: how images become the model's inputs; loaded:
    which weights it has from a file; snapshot: where the run goes on, None where it begins; new_head: the head that a
    model for another number of classes got, and that number.
    """

    settings: RunSettings
    data: DataSet
    preprocessing: Preprocessing
    model: nn.Module
    loaded: finetune.Loaded | None = None
    snapshot: Snapshot | None = None
    new_head: tuple[str, int] | None = None


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
        model, _ = _made(self.settings, self.preprocessing, len(self.classes))
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
    how: dict[str, Any] = {name: metadata[name] for name in PREPARED if name in metadata}
    preprocessing = Preprocessing.from_dict(how) if how else DIGITS
    return Run(file, RunSettings.of(known), tuple(classes), preprocessing, _metrics_of(file.with_name(METRICS)))


def _metrics_of(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        metrics = None
    if not isinstance(metrics, dict):
        hint = "Remove it, then go on with --resume: it is written again."
        raise CheckpointError(build("load", "the metrics of a run", "a file of something else", path=path, hint=hint))
    return metrics


def prepare(settings: RunSettings, snapshot: Snapshot | None = None) -> Prepared:
    """Opens the data and makes the model that settings name, with the weights that training begins with.

    snapshot: of a run that goes on; the preprocessing is then the one it has, and weights are not loaded.

    Raises ArgumentError for settings that do not fit together, DataError for data that cannot be used, CheckpointError
    for weights that do not fit.

    >>> ready = prepare(RunSettings(model="cnn_bn"))
    >>> ready.preprocessing.size, ready.settings.crop, sum(p.numel() for p in ready.model.parameters())
    ((28, 28), 2, 20586)
    """
    data = open_data(settings.data, settings.seed, settings.skip_broken)
    settings = resolved(settings, data.kind)
    if settings.val_fraction is not None:
        data = data.with_validation(settings.val_fraction, settings.seed)
    if snapshot is None:
        preprocessing = Preprocessing.of(data.parts["train"], settings.size, settings.seed)
    else:
        preprocessing = Preprocessing.from_dict(snapshot.facts["preprocessing"])
    (model, new_head), loaded = _made(settings, preprocessing, len(data.classes)), None
    if snapshot is None and settings.weights is not None:
        loaded = finetune.load_weights(model, settings.weights, strict=not settings.weights_partial)
    if settings.freeze_until is not None:
        finetune.freeze_until(model, settings.freeze_until)
    return Prepared(settings, data, preprocessing, model, loaded, snapshot, new_head)


def train_run(
    settings: RunSettings | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    on_ready: Callable[[Prepared, Path], object] = lambda ready, folder: None,
    about_layers: Callable[[Prepared], Mapping[str, Any]] = lambda ready: {},
    tell: Callable[[str], object] = lambda line: None,
    **changes: Any,
) -> Run:
    """Trains a model, evaluates it on the test part, and writes everything to a folder.

    settings and changes: ``train_run(model="cnn_bn", epochs=3)`` has the default settings but for two; out: the folder,
    by default a new one, ``runs/<model>-<kind of data>``; resume: go on from the last checkpoint in it, bit for bit as
    if the run had never ended, or begin where there is none; overwrite: remove the run that is in it; callbacks: told
    of each step and epoch; progress: show a bar; on_ready: called before training with what is trained, and where
    results go; about_layers: called after it for what the report is to tell of the model, as :func:`.report.report`
    takes it: findings and times; tell: called with what else is to be said, a line each.

    While it trains, SIGINT and SIGTERM finish the step, save a checkpoint, and raise Stopped, a KeyboardInterrupt; a
    second one ends the process.

    Raises ArgumentError, before any work, for settings out of range, for a folder that holds a run already, and for
    settings other than those the run began with; what :func:`prepare` and :func:`.fit.fit` raise; CheckpointError where
    a file cannot be written, as on a full disk. The checkpoints that were saved before stay.
    """
    needs("train", "matplotlib", "tomlkit")
    if resume and (out is None or overwrite):
        expects, got = ("--out with --resume", "none") if out is None else ("one of --resume and --overwrite", "both")
        hint = "Name the folder of the run." if out is None else "Go on, or begin again."
        raise ArgumentError(build("train", expects, got, hint=hint))
    asked_for = (settings or RunSettings()).replace(**changes)
    name = f"{asked_for.model.replace(':', '.')}-{asked_for.data.partition(':')[0]}"
    with listen() as asked, working_in(out, name) as folder:
        if not resume and not overwrite and holds_run(folder):
            hint = "Add --resume to go on with it, --overwrite to begin again, or give another with --out."
            raise ArgumentError(build("train", "a folder without a run", "one with a run", folder=folder, hint=hint))
        try:
            if resume and (folder / CONFIG).exists():
                given = changes if settings is None else {**_resolved(settings).to_dict(), **changes}
                asked_for = _continued(folder, given)
            if resume and has_ended(folder):
                tell(f"the run in {folder} has ended already: nothing is left to do")
                return open_run(folder)
            _check_outside(asked_for.data, folder)
            with _computing_as(asked_for):
                return _train(asked_for, folder, asked, resume, callbacks, progress, on_ready, about_layers, tell)
        except Stopped as stopped:
            is_begun = holds_run(folder)
            more = f" Go on with: striate train --resume --out {shlex.quote(str(folder))}" if is_begun else ""
            raise Stopped(f"stopped.{more}", stopped.signum) from None
        except NotFinite as error:
            good = newest(folder / CHECKPOINTS)
            more = "" if good is None else f" The last good checkpoint is kept: --weights {shlex.quote(str(good))}"
            raise NotFinite(f"{error}{more}") from None


def _train(
    settings: RunSettings,
    folder: Path,
    asked: Asked,
    resume: bool,
    callbacks: Sequence[Callback],
    progress: bool,
    on_ready: Callable[[Prepared, Path], object],
    about_layers: Callable[[Prepared], Mapping[str, Any]],
    tell: Callable[[str], object],
) -> Run:
    start = time.perf_counter()
    ready = prepare(settings, latest(folder / CHECKPOINTS, tell) if resume else None)
    on_ready(ready, folder)
    if not resume:
        clear(folder)
    if not (folder / CONFIG).exists():
        write_config(folder / CONFIG, ready.settings)
    settings = ready.settings
    keep = KeepCheckpoints(
        folder / CHECKPOINTS, settings.checkpoint_minutes, lambda: "a signal" if asked.signum is not None else None
    )
    log = [TensorBoard(folder / "tensorboard")] if settings.log == "tensorboard" else []
    watch = Watch(folder / WATCH)
    asked.waits = True
    history = fit(
        ready.model,
        ready.data,
        settings,
        preprocessing=ready.preprocessing,
        callbacks=[watch, *log, *callbacks, keep],
        resume=ready.snapshot,
        progress=progress,
    )
    asked.waits = False
    if asked.signum is not None:
        raise asked.stop("stopped.")
    return _finish(ready, folder, history, watch.records, about_layers, time.perf_counter() - start)


def _finish(
    ready: Prepared,
    folder: Path,
    history: History,
    records: Sequence[Record],
    about_layers: Callable[[Prepared], Mapping[str, Any]],
    seconds: float,
) -> Run:
    """Evaluates the trained model, and writes all files, the metrics last."""
    settings, data, preprocessing, model, *_ = ready
    part = "test" if "test" in data.parts else "val"
    found = evaluate(model, data.parts[part], preprocessing, classes=data.classes)
    stored = settings.to_dict()
    test_accuracy = found.accuracy if part == "test" else None
    metadata = {
        "settings": stored,
        "classes": list(data.classes),
        **preprocessing.to_dict(),
        "test_accuracy": test_accuracy,
    }
    write(folder / MODEL, encode(model.state_dict(), metadata, "train"), "train")
    figures.curves(history, folder / "curves.png")
    weight = figures.first_filters(model)
    if weight is not None:
        figures.filters(weight, folder / "filters.png")
    figures.confusion(found.predictions, found.labels, folder / "confusion.png", found.classes)
    page = report(
        model,
        data,
        found,
        history,
        settings=settings,
        preprocessing=preprocessing,
        part=part,
        name=f"{settings.model} on {settings.data}",
        records=records,
        **about_layers(ready),
    )
    write_atomically(folder / REPORT, page)
    metrics = {
        "model": settings.model,
        "data": settings.data,
        "test_accuracy": test_accuracy,
        "test_loss": found.loss if part == "test" else None,
        "val_accuracy": history[-1].accuracy if "val" in data.parts else None,
        **{f"{name}_images": len(images) for name, images in data.parts.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 3),
        "training_seconds": round(history.seconds, 3),
        "stopped": history.stopped,
        "settings": stored,
        "versions": _versions(),
        "folder": str(folder),
        "epochs": [asdict(epoch) for epoch in history],
    }
    write_atomically(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
    return Run(folder / MODEL, settings, data.classes, preprocessing, metrics)


def _made(
    settings: RunSettings, preprocessing: Preprocessing, classes: int
) -> tuple[nn.Module, tuple[str, int] | None]:
    """The model that settings name, with random weights that depend on their seed alone, and :attr:`Prepared.new_head`.
    """
    variant = {name: getattr(settings, name) for name in KNOBS}
    channels, size = preprocessing.channels, preprocessing.size
    with random_states.seeded(settings.seed):
        if ":" not in settings.model:
            return classifier(settings.model, channels, size, classes, **variant), None
        model = custom("train", settings.model, in_channels=channels, channels=channels, size=size, classes=classes,
                       num_classes=classes)  # fmt: skip
        model = accelerate(model)
        new_head = finetune.fit_head(model, (channels, *size), classes)
        return vary(model, (channels, *size), **variant), new_head


def _resolved(settings: RunSettings) -> RunSettings:
    return resolved(settings, settings.data.partition(":")[0])


def _check_outside(data: str, folder: Path) -> None:
    """Raises ArgumentError where the folder of a run would lie among the images, as one of their classes."""
    kind, _, images = data.partition(":")
    if kind == "folder" and folder.resolve().is_relative_to(user_path(images).resolve()):
        hint = "Give another with --out."
        got = f"one in {images}"
        raise ArgumentError(build("train", "a folder outside of that of the images", got, folder=folder, hint=hint))


def _continued(folder: Path, given: Mapping[str, Any]) -> RunSettings:
    """The settings that a run began with, and the given ones that no result depends on.

    Raises ArgumentError for a given one that is another than the run began with.
    """
    began = RunSettings.of(read_config(folder / CONFIG))
    free = {name: value for name, value in given.items() if knobs(RunSettings)[name].free}
    for name in given.keys() - free.keys():
        if given[name] != getattr(began, name):
            flag, then = knobs(RunSettings)[name].flag, getattr(began, name)
            expects = f"the settings that the run began with, {name} = {then!r}"
            hint = f"Leave {flag} out to go on, or begin a run in another folder with --out."
            raise ArgumentError(build("train", expects, repr(given[name]), folder=folder, hint=hint))
    return began.replace(**free)


@contextmanager
def _computing_as(settings: RunSettings) -> Iterator[None]:
    """Sets threads and precision as settings say, and sets them back."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(settings.threads or threads)
        with precision(settings.precision) if settings.precision is not None else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


def _versions() -> dict[str, str]:
    from .. import __version__

    return {"striate": __version__, "torch": torch.__version__, "python": platform.python_version()}
