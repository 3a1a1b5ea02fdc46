"""Networks that differ in their layers, trained alike on few images: their errors on the others, and what they cost."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..graph.cost import macs
from ..graph.recording import record
from ..measure import in_turns
from .claim import Trial
from .training import accuracy, train_steps

__all__ = ["FEW", "Trained", "few_images", "rivals", "speed", "trained"]

FEW = 300  # of the digits: networks that reach 1 % on all 1,437 differ by points here, on 1,497 other images
STEPS, RATE, MOMENTUM = 150, 0.1, 0.9  # no training image is then wrong; without momentum some are after 200 steps
ROUNDS = 5


class Trained(NamedTuple):
    """A network that was trained on few images.

    error: on the other images, a share; fit: the training error, a share; parameters: how many numbers were
    trained; macs: multiply-adds of one image.
    """

    error: float
    fit: float
    parameters: int
    macs: int


def few_images(trial: Trial) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first 300 training images, or half of them if there are fewer than 600, and all others as test images.

    Shapes: as :meth:`.claim.Trial.digits` has them.

    >>> [tuple(tensor.shape) for tensor in few_images(Trial(seed=0))]
    [(300, 1, 8, 8), (300,), (1497, 1, 8, 8), (1497,)]
    """
    x, y, x_test, y_test = trial.digits()
    count = min(FEW, len(x) // 2)
    return x[:count], y[:count], torch.cat([x[count:], x_test]), torch.cat([y[count:], y_test])


def trained(trial: Trial, model: nn.Module) -> Trained:
    """Trains a network on :func:`few_images` by 150 steps of SGD with momentum 0.9 on batches of 64, at a rate
    that falls from 0.1 to 0 as a cosine does.

    >>> from striate.lab.networks import mlp
    >>> found = trained(Trial(seed=0, quick=True), mlp(depth=1, seed=0))
    >>> found.parameters, found.macs, found.fit <= found.error < 0.5
    (9610, 9472, True)
    """
    x, y, x_test, y_test = few_images(trial)
    steps = trial.steps(STEPS)
    train_steps(model, x, y, steps, lr=RATE, momentum=MOMENTUM, schedule="cosine", seed=trial.seed)
    recording = record(model, (1, *x.shape[1:]))
    return Trained(
        error=1 - accuracy(model, x_test, y_test),
        fit=1 - accuracy(model, x, y),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(macs(recording, operation) or 0 for operation in recording.operations),
    )


def rivals(trial: Trial, plain: nn.Module, cheap: nn.Module) -> dict[str, float]:
    """The errors of two networks after the same training, and how many times as much the first one costs.

    Returns ``plain_error`` and ``cheap_error``, shares; ``parameters`` and ``macs``, those of the plain one over those
    of the cheap one.

    >>> from striate.lab.networks import mlp
    >>> found = rivals(Trial(seed=0, quick=True), mlp(width=64, depth=1, seed=0), mlp(width=32, depth=1, seed=0))
    >>> sorted(found), found["macs"]
    (['cheap_error', 'macs', 'parameters', 'plain_error'], 2.0)
    """
    one, other = trained(trial, plain), trained(trial, cheap)
    return {
        "plain_error": one.error,
        "cheap_error": other.error,
        "parameters": one.parameters / other.parameters,
        "macs": one.macs / other.macs,
    }


def speed(plain: nn.Module, cheap: nn.Module, shape: tuple[int, ...]) -> float:
    """How many times as long a forward pass takes the processor in one layer as in another: the medians of 5 turns.

    shape: of the input that both take.

    >>> speed(nn.Conv2d(64, 64, 7), nn.Conv2d(64, 64, 1), (4, 64, 16, 16)) > 1
    True
    """
    x = torch.randn(shape)

    def passed(model: nn.Module) -> float:
        begun = time.process_time()
        with torch.no_grad():
            model(x)
        return time.process_time() - begun

    times = in_turns({"plain": lambda: passed(plain), "cheap": lambda: passed(cheap)}, ROUNDS, uncounted=1)
    return median(times["plain"]) / median(times["cheap"])
