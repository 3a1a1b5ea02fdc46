"""The learning-rate range test: which learning rates a model learns at, found in one short training."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import ArgumentError, build
from . import figures
from .callbacks import Callback
from .data import DataSet, Preprocessing
from .fit import fit
from .settings import FitSettings, resolved
from .state import NotFinite, Training

__all__ = ["RangeTest", "find_lr"]

BOUNDS = {"sgd": (1e-5, 10.0), "adamw": (1e-6, 1.0)}  # of the learning rate, by optimizer
STEPS = 200
MEMORY = 0.9  # of the smoothed loss: the last ten steps have two thirds of the weight
LOST = 2.0  # times the lowest loss, at which the test ends
SETTLED = 10  # steps in which nothing is concluded
FELL = 0.9  # times the loss of the first steps: what is more may be chance
SAFETY = 3  # parts of the rate of the lowest loss: a peak that is too low costs less than one that is too high


@dataclass(frozen=True)
class RangeTest:
    """What a range test found. The loss at each step, with the learning rate that was reached.

    rates, losses: of each step; diverged: whether the test ended early, since the loss had risen to twice its lowest
    value or was no longer finite; first: the rate of the first step.

    >>> test = RangeTest((0.01, 0.1, 1.0), (2.0, 1.0, 4.0), True)
    >>> [round(loss, 3) for loss in test.smoothed]
    [2.0, 1.474, 2.406]
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool
    first: float = 0.0

    @property
    def smoothed(self) -> tuple[float, ...]:
        r"""The mean of the losses so far, with weights that fall by a tenth with each step:

        .. math:: \bar l_t = \sum_{s≤t} 0.9^{t-s} l_s \Big/ \sum_{s≤t} 0.9^{t-s}
        """
        found, total, weight = [], 0.0, 0.0
        for loss in self.losses:
            total, weight = MEMORY * total + loss, MEMORY * weight + 1
            found.append(total / weight)
        return tuple(found)

    @property
    def lowest(self) -> float:
        """The learning rate at which the smoothed loss was lowest."""
        smoothed = self.smoothed
        return self.rates[min(range(len(smoothed)), key=smoothed.__getitem__)]

    @property
    def fell(self) -> bool:
        """Whether the smoothed loss fell by more than a tenth."""
        smoothed = self.smoothed
        return len(smoothed) > SETTLED and min(smoothed[SETTLED:]) < FELL * smoothed[SETTLED - 1]

    @property
    def suggestion(self) -> float | None:
        """A learning rate for the peak of a schedule: a third of :attr:`lowest`. None if the loss did not fall."""
        return self.lowest / SAFETY if self.fell else None

    @property
    def summary(self) -> str:
        """What was found, in one sentence."""
        if not self.losses:
            return f"the first loss, at a learning rate of {self.first:.2g}, is not finite"
        reached = f"{self.rates[-1]:.2g}"
        if not self.fell:
            end = f"and it diverges at {reached}" if self.diverged else "try other rates, or more steps"
            return f"the loss does not fall at any learning rate up to {reached}, {end}"
        first, least = self.smoothed[SETTLED - 1], min(self.smoothed)
        low = f"the loss falls from {first:.3g} to {least:.3g}, at a learning rate of {self.lowest:.2g}"
        return f"{low}, and doubles at {reached}" if self.diverged else f"{low}, and has not doubled at {reached}"

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws the loss over the learning rate, as a PNG file. Raises DataError for a test of no steps."""
        figures.rates(self.rates, self.losses, self.smoothed, self.suggestion, path)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return {
            "suggestion": self.suggestion,
            "lowest": self.lowest if self.losses else None,
            "diverged": self.diverged,
            "rates": list(self.rates),
            "losses": list(self.losses),
            "smoothed": list(self.smoothed),
        }


def find_lr(
    model: nn.Module,
    data: DataSet,
    settings: FitSettings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    steps: int = STEPS,
    on_step: Callable[[int, int], object] = lambda done, of: None,
    **changes: Any,
) -> RangeTest:
    r"""Trains a copy of a model while the learning rate rises from step to step, and watches the loss.

    .. math:: rate_t = lowest · (highest/lowest)^{t/(steps-1)}

    It ends early where the smoothed loss has risen to twice its lowest value, or is no longer finite. lowest, highest:
    by default 1e-5 and 10 with SGD, 1e-6 and 1 with AdamW; settings, changes and preprocessing: as :func:`.fit.fit` has
    them; on_step: called with the number of steps done and of all. The model, and the random states, are not touched.

    Raises ArgumentError for bounds or steps out of range.

    Source: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3, where the rate
    rises linearly.

    >>> from striate import nn
    >>> from striate.training.data import open_data
    >>> test = find_lr(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), open_data("digits"), batch_size=64, crop=0)
    >>> test.fell, 0.001 < test.suggestion < 1
    (True, True)
    """
    settings = resolved((settings or FitSettings()).replace(**changes), data.kind)
    usual = BOUNDS[settings.optimizer]
    first, last = usual[0] if lowest is None else lowest, usual[1] if highest is None else highest
    _check(first, last, steps)
    train = DataSet(data.kind, data.classes, {"train": data.parts["train"]})
    epochs = -(-steps // -(-len(train) // settings.batch_size))
    watch = _Watch(first, last, steps, on_step)
    try:
        fit(
            copy.deepcopy(model),
            train,
            settings.replace(epochs=epochs, patience=None, ema=None),
            preprocessing=preprocessing,
            callbacks=[watch],
        )
    except NotFinite:
        watch.diverged = True
    return RangeTest(tuple(watch.rates), tuple(watch.losses), watch.diverged, first)


class _Watch(Callback):
    """Sets the learning rate of each step, notes the loss, and stops."""

    def __init__(self, first: float, last: float, steps: int, on_step: Callable[[int, int], object]) -> None:
        self.first, self.last, self.steps, self.told = first, last, steps, on_step
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.diverged = False

    def on_start(self, training: Training) -> None:
        training.schedule = lambda step, steps, settings: self._rate(step)

    def _rate(self, step: int) -> float:
        return self.first * (self.last / self.first) ** (step / (self.steps - 1))

    def on_step(self, training: Training) -> None:
        self.rates.append(self._rate(training.step - 1))
        self.losses.append(training.loss)
        self.told(training.step, self.steps)
        smoothed = RangeTest(tuple(self.rates), tuple(self.losses), False).smoothed
        if len(smoothed) > SETTLED and smoothed[-1] > LOST * min(smoothed):
            self.diverged = True
        if self.diverged or training.step == self.steps:
            training.stop("the range test has ended")


def _check(first: float, last: float, steps: int) -> None:
    for name, value in (("lowest", first), ("highest", last)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            hint = "Leave it out for the usual one."
            raise ArgumentError(build("find_lr", f"a {name} learning rate above 0", repr(value), hint=hint))
    if not first < last:
        got = f"{first:g} and {last:g}"
        raise ArgumentError(build("find_lr", "a lowest rate below the highest", got, hint="Leave out both."))
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 * SETTLED <= steps <= 100_000:
        hint = f"Use steps={STEPS}."
        raise ArgumentError(build("find_lr", f"{2 * SETTLED} to 100000 steps", repr(steps), hint=hint))
