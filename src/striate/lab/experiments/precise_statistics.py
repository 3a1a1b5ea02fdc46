"""How much of what batch norm loses at small batches is the fault of its running statistics."""

from __future__ import annotations

from ...diagnostics.norms import recompute_statistics
from ..claim import Claim, Trial
from ..networks import convnet
from ..training import accuracy, train_steps

EPOCHS = 6


def measure(trial: Trial) -> dict[str, float]:
    """One network's test errors with running statistics, with those of the training set, and of two test images."""
    x, y, x_test, y_test = trial.digits()
    model = convnet("16-M-32-M-32-M-64", classes=trial.classes, norm="batch", seed=trial.seed)
    train_steps(
        model, x, y, trial.steps(EPOCHS * len(x) // 2), lr=0.0125, batch=2, schedule="cosine", seed=trial.seed
    )
    running = 1 - accuracy(model, x_test, y_test)
    even = len(x_test) // 2 * 2
    rights = [
        accuracy(model, images, labels, batch_statistics=True)
        for images, labels in zip(x_test[:even].split(2), y_test[:even].split(2), strict=True)
    ]
    recompute_statistics(model, [(x, y)])
    return {
        "running": running,
        "precise": 1 - accuracy(model, x_test, y_test),
        "pairs": 1 - sum(rights) / len(rights),
    }


CLAIM = Claim(
    name="precise-statistics",
    claim="At batches of two the running statistics are part of what batch norm loses, and not all of it: those of the "
    "whole training set lower the test error, and leave much of it.",
    section="7.14.6",
    source="Y. Wu, J. Johnson, Rethinking batch in batch norm, 2021, section 3",
    expected="holds",
    setting="Convolutions 16-M-32-M-32-M-64 with batch norm, last maps 1×1, digits, batch 2, 6 epochs of SGD, rate "
    "0.0125, cosine.",
    statistics={
        "running": "test error, a share, with the running statistics of momentum 0.1",
        "precise": "the same, with the statistics of the training set",
        "pairs": "the same, with the statistics of each two test images",
    },
    criterion="running > precise + 0.02 and precise > 0.05 and pairs > running",
    measure=measure,
    why="Two images and maps of one pixel give two values to a channel, which become +1 and −1 whatever they were. The "
    "running statistics average over weights that have changed, and are of that noise; those of the whole training set "
    "are exact, and the error falls, by 2 points or by 18. Most of it stays: the network has learned under statistics "
    "that no evaluation has, and statistics of two test images, the very ones of training, do worst, since the answer "
    "then depends on the other image.",
    seconds=90,
)
