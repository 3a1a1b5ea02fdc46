"""The training run of ``striate train``: a model, the digits, and a folder with the results."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
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
from .data import digits
from .loop import Epoch, check, evaluate, train

__all__ = ["digit_classifier", "run", "trained"]

# LeNet-5, 12 epochs at rate 0.02, mean over seeds 0 to 4: 99.3 % of the test images right, 98.4 % without shifts
SHIFT_PX = 2
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
    epochs: int = 8,
    batch_size: int = 32,
    learning_rate: float = 0.025,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    seed: int = 0,
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> dict[str, Any]:
    """Trains a model on four fifths of the digits, tests it on the remaining fifth, and writes the results.

    The files ``metrics.json`` (the result of this function), ``model.safetensors``, ``curves.png``, ``filters.png`` and
    ``confusion.png`` are written to the folder ``out``, ``runs/<model>-digits`` if None. The seed decides the split,
    the initial weights, the order and the shifts of the images; with the same number of threads a run repeats bit for
    bit.

    threads: the number of torch's threads during the run, None for torch's choice; on_epoch: called after each epoch.

    Raises ArgumentError or DataError, before any work, for a setting out of range or a folder that is not writable.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise ArgumentError(
            build("train", "1 to 1024 threads", repr(threads), hint="Leave threads out to use every core.")
        )
    needs("train", "sklearn", "matplotlib")  # reports a missing matplotlib before training
    before = torch.get_num_threads()
    start = time.perf_counter()
    try:
        torch.set_num_threads(threads or before)
        split = digits(28, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = digit_classifier(model)
        check(
            split,
            epochs,
            batch_size,
            SHIFT_PX,
            {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay},
        )
        folder = _writable(Path("runs") / f"{model}-digits" if out is None else Path(out))
        settings = {
            "model": model,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "shift_px": SHIFT_PX,
            "seed": seed,
            "threads": torch.get_num_threads(),
        }
        history = train(
            classifier,
            split,
            epochs,
            batch_size,
            learning_rate,
            momentum,
            weight_decay,
            seed,
            on_epoch=on_epoch,
            shift_px=SHIFT_PX,
        )
        test_loss, test_accuracy, predictions = evaluate(classifier, split.test_images, split.test_labels)
        figures.curves(history, folder / "curves.png")
        figures.filters(_first_filters(classifier), folder / "filters.png")
        figures.confusion(predictions, split.test_labels, folder / "confusion.png")
        checkpoint.save(classifier, folder / "model.safetensors", settings=settings, test_accuracy=test_accuracy)
        metrics = {
            "model": model,
            "test_accuracy": test_accuracy,
            "test_loss": test_loss,
            "train_images": len(split.train_images),
            "test_images": len(split.test_images),
            "parameters": sum(p.numel() for p in classifier.parameters()),
            "seed": seed,
            "seconds": round(time.perf_counter() - start, 3),
            "training_seconds": round(history.seconds, 3),
            "settings": settings,
            "versions": _versions(),
            "folder": str(folder),
            "epochs": [vars(epoch) for epoch in history],
        }
        write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    finally:
        torch.set_num_threads(before)
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
