"""The training run of ``striate train``: a model, the digits, and a folder with the results."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import nn
from ..errors import ArgumentError, CheckpointError, build
from ..extras import needs
from ..files import write_atomically
from ..models import NAMES, by_name
from . import checkpoint, figures
from .callbacks import Callback
from .data import Preprocessing, open_data
from .evaluation import evaluate
from .fit import fit
from .settings import FitSettings, resolved

__all__ = ["digit_classifier", "run", "trained"]

LEAST_PX = {"alexnet": 63, "vgg11_bn": 32, "convnext_tiny": 32}  # models whose strides leave nothing of 28 px


def digit_classifier(name: str) -> nn.Sequential:
    """Makes a model of :data:`striate.models.NAMES` for images ``(N, 1, 28, 28)`` and scores ``(N, 10)``.

    A flatten layer is put before the perceptron and a linear classifier after the feature extractor; the other models
    are made for one channel and ten classes.

    Raises ArgumentError, which lists the suitable names, for a model that needs larger images.

    >>> digit_classifier("cnn_bn")(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    make = by_name(name)
    if name in LEAST_PX:
        fitting = ", ".join(n for n in NAMES if n not in LEAST_PX)
        expects, hint = f"a model for images of 28 px, one of {fitting}", "Choose one of these names."
        raise ArgumentError(build("train", expects, repr(name), needs_px=LEAST_PX[name], hint=hint))
    if name == "mlp_bn":
        return nn.Sequential(nn.Flatten(), *make())
    if name == "cnn_bn":
        return nn.Sequential(*make(in_channels=1), nn.Flatten(), nn.Linear(32 * 7 * 7, 10))
    if name == "lenet5":
        return make()
    return make(in_channels=1, classes=10)


def run(
    model: str = "lenet5",
    out: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Trains a model on four fifths of the digits, tests it on the remaining fifth, and writes the results.

    The files ``metrics.json`` (the result of this function), ``model.safetensors``, ``curves.png``, ``filters.png`` and
    ``confusion.png`` are written to the folder ``out``, ``runs/<model>-digits`` if None. The seed decides the split,
    the initial weights, the order and the augmentation of the images.

    settings: of :class:`.settings.FitSettings`.

    Raises ArgumentError or DataError, before any work, for a setting out of range or a folder that is not writable.
    """
    needs("train", "sklearn", "matplotlib")  # reports a missing matplotlib before training
    chosen = resolved(FitSettings().replace(**settings), "digits")
    start = time.perf_counter()
    data = open_data("digits", seed=chosen.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        classifier = digit_classifier(model)
    folder = _writable(Path("runs") / f"{model}-digits" if out is None else Path(out))
    preprocessing = Preprocessing.of(data.parts["train"])
    history = fit(classifier, data, chosen, preprocessing=preprocessing, callbacks=callbacks)
    found = evaluate(classifier, data.parts["test"], preprocessing, classes=data.classes)
    figures.curves(history, folder / "curves.png")
    figures.filters(_first_filters(classifier), folder / "filters.png")
    figures.confusion(found.predictions, found.labels, folder / "confusion.png")
    named = {"model": model, **chosen.to_dict()}
    checkpoint.save(classifier, folder / "model.safetensors", settings=named, test_accuracy=found.accuracy)
    metrics = {
        "model": model,
        "test_accuracy": found.accuracy,
        "test_loss": found.loss,
        "train_images": len(data.parts["train"]),
        "test_images": len(found),
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - start, 3),
        "training_seconds": round(history.seconds, 3),
        "settings": named,
        "versions": _versions(),
        "folder": str(folder),
        "epochs": [vars(epoch) for epoch in history],
    }
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def trained(path: str | os.PathLike[str]) -> nn.Sequential:
    """Loads the model of a run from the ``model.safetensors`` that it wrote.

    Raises CheckpointError for a file that is missing, damaged, or of anything else.
    """
    metadata = checkpoint.metadata_of(path)
    settings = metadata.get("settings")
    name = settings.get("model") if isinstance(settings, dict) else None
    if name not in NAMES:
        got = "a frozen model" if "frozen" in metadata else "one that names no model"
        fix = "Name what makes the model instead, as package.module:callable."
        raise CheckpointError(build("load", "a checkpoint of striate train", got, path=path, hint=fix))
    model = digit_classifier(name)
    checkpoint.load(model, path)
    return model


def _writable(folder: Path) -> Path:
    """Returns the folder, made if it is missing; raises before training, not after it, if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise ArgumentError(
            build("train", "a folder it can write to", why, folder=folder, hint="Give another with --out.")
        ) from None
    return folder


def _first_filters(model: nn.Sequential) -> Tensor:
    """Returns the first layer's weight as pictures; each row of a linear layer is reshaped to a square image."""
    weight = next(p for p in model.parameters() if p.ndim > 1).detach()
    if weight.ndim == 2:
        side = math.isqrt(weight.shape[1])
        return weight.reshape(-1, 1, side, side)
    return weight


def _versions() -> dict[str, str]:
    from .. import __version__

    return {"striate": __version__, "torch": torch.__version__, "python": platform.python_version()}
