"""What forgetting .eval() costs, by what is in the batch."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..networks import convnet
from ..training import accuracy, train_steps


def measure(trial: Trial) -> dict[str, float]:
    """One trained network's test errors in evaluation mode, and in training mode for several kinds of batches."""
    x, y, x_test, y_test = trial.digits()
    model = convnet("16-M-32-M-64", classes=trial.classes, norm="batch", seed=trial.seed)
    train_steps(model, x, y, trial.steps(300), lr=0.1, batch=32, seed=trial.seed)
    classes = [(x_test[y_test == label], y_test[y_test == label]) for label in range(trial.classes)]
    return {
        "evaluation": 1 - accuracy(model, x_test, y_test),
        "mixed": _error(model, zip(x_test.split(60), y_test.split(60), strict=True)),
        "pairs": _error(model, zip(x_test.split(2), y_test.split(2), strict=True)),
        "single": _error(model, zip(x_test.split(1), y_test.split(1), strict=True)),
        "one_class": _error(model, classes),
    }


def _error(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of wrong answers in training mode."""
    sizes, rights = [], []
    for images, labels in batches:
        sizes.append(len(labels))
        rights.append(len(labels) * accuracy(model, images, labels, batch_statistics=True))
    return 1 - sum(rights) / sum(sizes)


CLAIM = Claim(
    name="forgotten-eval",
    claim="Without .eval() an answer depends on the other images of its batch: a large mixed batch hides the mistake, "
    "a single image or a batch of one class is mostly wrong.",
    section="7.14.4",
    source="notes",
    expected="holds",
    setting="Convolutions 16-M-32-M-64 with batch norm, last maps 2×2, digits, batch 32, 300 steps of SGD, rate 0.1; "
    "then test images in training mode.",
    statistics={
        "evaluation": "test error, a share, in evaluation mode",
        "mixed": "the same in training mode, 60 images of all classes at a time",
        "pairs": "the same, two images at a time",
        "single": "the same, one image at a time",
        "one_class": "the same, all images of one class at a time",
    },
    criterion="evaluation < 0.05 and abs(mixed - evaluation) < 0.02 and single > 0.5 and one_class > 0.5",
    measure=measure,
    why="In training mode an image is normalised by its company. Sixty images of all classes have nearly the "
    "statistics of the data set, and the error hides in the noise of the test: the mistake is not seen where one looks "
    "for it. Two images are wrong in one of seven cases, one alone is normalised by its own four or more pixels and "
    "wrong in nine of ten, and a class by itself, perfect to a human eye, in four of five: its mean, which tells the "
    "classes apart, is subtracted.",
    seconds=15,
    takes=frozenset({"data"}),
)
