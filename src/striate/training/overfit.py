"""The first check of a network that does not learn: can it learn one batch by heart?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, build
from .callbacks import Callback
from .data import DataSet, Loader, Part, Preprocessing
from .evaluation import Evaluation, evaluate
from .fit import fit
from .settings import FitSettings, resolved
from .state import NotFinite, Training

__all__ = ["Overfit", "overfit"]

STEPS = 200
LEARNED = 0.1  # nats, at which the right class has a probability of 0.9
FALLS = 0.98  # times the loss of the quarter of steps before: it is still falling
HIGH = 2.0  # times the loss of guessing: the first scores are too large
MOST_NAMES = 5
PLAIN: dict[str, Any] = {  # settings that would keep a model from learning a batch by heart, or hide that it does
    **{"crop": 0, "resized_crop": None, "flip": False, "rotate": 0.0, "jitter": 0.0, "cutout": 0, "mixup": 0.0},
    **{"cutmix": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0, "ema": None, "patience": None, "accumulate": 1},
    **{"schedule": "constant", "warm_up": 0.0},
}


@dataclass(frozen=True)
class Overfit:
    """Whether a model learned one batch by heart.

    images, classes: how many there were; losses: of each step, in training mode; learned: whether a loss of 0.1 nats
    was reached with every image right; accuracy: in training mode, at the last step; evaluated: the accuracy
    afterwards, in evaluation mode, None where the loss was not finite; guessing: the loss of a model that gives each
    class the same probability; hints: what to look at, the most likely first.
    """

    images: int
    classes: int
    losses: tuple[float, ...]
    learned: bool
    accuracy: float
    evaluated: float | None
    guessing: float
    hints: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        batch = f"{self.images} images of {self.classes} classes"
        steps = f"{len(self.losses)} step{'s' * (len(self.losses) != 1)}"
        if not self.losses:
            return f"It cannot learn {batch}: the first loss is not finite."
        course = f"the loss went from {self.losses[0]:.4g} to {self.losses[-1]:.4g}"
        if self.learned:
            return f"It can learn: {batch} by heart in {steps}; {course}."
        return f"It did not learn {batch} in {steps}: {course}, {100 * self.accuracy:.1f} % are right."

    def to_dict(self) -> dict[str, Any]:
        """The numbers and sentences as JSON holds them."""
        return {
            "learned": self.learned,
            "verdict": self.verdict,
            "images": self.images,
            "classes": self.classes,
            "steps": len(self.losses),
            "losses": list(self.losses),
            "guessing": self.guessing,
            "accuracy": self.accuracy,
            "evaluated": self.evaluated,
            "hints": list(self.hints),
        }


def overfit(
    model: nn.Module,
    data: DataSet,
    settings: FitSettings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    steps: int = STEPS,
    on_step: Callable[[int, int], object] = lambda done, of: None,
    **changes: Any,
) -> Overfit:
    """Trains a copy of a model on one batch, again and again, until it knows it by heart.

    A network that cannot do so will not learn a data set either, and here it shows in seconds. The batch is the first
    of a training with the same seed. There is no augmentation, decay, label smoothing or schedule. steps: at most;
    settings, changes and preprocessing: as :func:`.fit.fit` has them; on_step: called with the number of steps done and
    of all. The model, and the random states, are not touched.

    Raises ArgumentError for settings out of range.

    Source: A. Karpathy, "A Recipe for Training Neural Networks", 2019.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 1_000_000:
        raise ArgumentError(build("overfit", "1 to 1000000 steps", repr(steps), hint=f"Use steps={STEPS}."))
    settings = resolved((settings or FitSettings()).replace(**changes), data.kind).replace(**PLAIN)
    train = data.parts["train"]
    if preprocessing is None:
        preprocessing = Preprocessing.of(train, seed=settings.seed)
    batch = train.take(_first_batch(train, preprocessing, settings))
    copied, watch = copy.deepcopy(model), _Watch(steps, on_step)
    try:
        fit(
            copied,
            DataSet(data.kind, data.classes, {"train": batch}),
            settings.replace(epochs=steps, batch_size=len(batch)),
            preprocessing=preprocessing,
            callbacks=[watch],
        )
        found = evaluate(copied, batch, preprocessing, classes=data.classes)
    except NotFinite:
        watch.failed = f"the loss of step {len(watch.losses) + 1} is not finite"
        found = None
    except ArgumentError:
        if not watch.losses:
            raise
        found = None
    seen = _Seen(copied, batch, preprocessing, watch, found, math.log(len(data.classes)), settings.learning_rate or 0.0)
    return Overfit(
        len(batch),
        len(batch.labels.unique()),
        tuple(watch.losses),
        watch.learned,
        watch.accuracy,
        None if found is None else found.accuracy,
        seen.guessing,
        tuple(_after_success(seen) if watch.learned else _after_failure(seen)),
    )


class _Watch(Callback):
    """Notes the loss of each step, and which parameters get a gradient, and stops when the batch is known by heart."""

    def __init__(self, steps: int, on_step: Callable[[int, int], object]) -> None:
        self.steps, self.told = steps, on_step
        self.losses: list[float] = []
        self.accuracy = 0.0
        self.learned = False
        self.without_gradient: list[str] = []
        self.failed: str | None = None

    def on_start(self, training: Training) -> None:
        self.without_gradient = [name for name, one in training.model.named_parameters() if one.requires_grad]

    def on_step(self, training: Training) -> None:
        if self.without_gradient:
            gradients = {name: one.grad for name, one in training.model.named_parameters()}
            self.without_gradient = [name for name in self.without_gradient if not _any(gradients[name])]
        self.losses.append(training.loss)
        self.accuracy = training.sums.right / training.sums.images
        self.told(training.step, self.steps)
        if self.accuracy == 1 and training.loss < LEARNED:
            self.learned = True
            training.stop("the batch is known by heart")


def _any(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


@dataclass(frozen=True)
class _Seen:
    """What hints are concluded from."""

    model: nn.Module
    batch: Part
    preprocessing: Preprocessing
    watch: _Watch
    found: Evaluation | None
    guessing: float
    rate: float


def _after_success(seen: _Seen) -> Iterator[str]:
    if len(seen.batch.labels.unique()) == 1:
        yield "The batch has images of one class only, which any model learns: take a larger batch."
    if seen.found is not None and seen.found.accuracy < 1:
        yield (
            f"In evaluation mode only {100 * seen.found.accuracy:.1f} % are right. After so few steps the running "
            "statistics of batch norms may still be far from the batch's; in a whole training they catch up."
        )


def _after_failure(seen: _Seen) -> Iterator[str]:
    watch, losses = seen.watch, seen.watch.losses
    same = _contradiction(seen.batch, seen.preprocessing)
    if same:
        yield f"{same[0]} and {same[1]} are the same input with two labels: no model can learn both. Mend the labels."
    if watch.failed:
        yield f"{watch.failed[0].upper()}{watch.failed[1:]}: lower learning_rate ({seen.rate:g}), or set clip=1."
    fixed = [name for name, one in seen.model.named_parameters() if not one.requires_grad]
    if fixed:
        yield f"These do not learn, since their requires_grad is False: {_few(fixed)}."
    if watch.without_gradient and losses:
        yield (
            f"These got no gradient, or one of zeros, in any step: {_few(watch.without_gradient)}. Look for what cuts "
            "them off: detach(), no_grad(), a layer that is not called, units that are 0 for every image."
        )
    chances = None if seen.found is None else seen.found.probabilities
    if chances is not None and len(chances) > 1 and (chances - chances[0]).abs().max() < 1e-6:
        yield "All images get the same scores: what tells them apart is lost on the way, as in units that are always 0."
    if losses and losses[0] > HIGH * seen.guessing:
        yield (
            f"The first loss is {losses[0]:.4g}, where guessing has {seen.guessing:.4g}: the first weights or the "
            "images' values are too large."
        )
    if _falls(losses):
        yield f"The loss still falls: give it more steps, or a higher learning_rate than {seen.rate:g}."
    elif losses and not watch.failed:
        yield f"The loss falls no more at learning_rate {seen.rate:g}: look for a better one with striate find-lr."
    dropped = [name for name, one in seen.model.named_modules() if type(one).__name__.endswith("Dropout") and one.p > 0]
    if dropped:
        yield f"Dropout disturbs learning by heart: try once without it ({_few(dropped)})."


def _first_batch(train: Part, preprocessing: Preprocessing, settings: FitSettings) -> torch.Tensor:
    loader = Loader(train, settings.batch_size, preprocessing, classes=1, seed=settings.seed, workers=0)
    with closing(loader.batches(0)) as batches:
        return next(batches).indices


def _contradiction(batch: Part, preprocessing: Preprocessing) -> tuple[str, str] | None:
    """The names of two images that are the same input with different labels; None if there are none."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(preprocessing.batch(batch, torch.arange(len(batch)))):
        other = first.setdefault(image.numpy().tobytes(), index)
        if batch.labels[other] != batch.labels[index]:
            return batch.name(other), batch.name(index)
    return None


def _falls(losses: list[float]) -> bool:
    """Whether the mean loss of the last quarter of the steps is lower than that of the quarter before."""
    quarter = len(losses) // 4
    return quarter > 0 and sum(losses[-quarter:]) < FALLS * sum(losses[-2 * quarter : -quarter])


def _few(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
