"""Looks at the loss around the weights while a network trains, with and without batch norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from torch import nn

from ..models.variant import vary
from ..render.figure import RUN_COLORS
from .claim import Trial
from .networks import convnet
from .training import Batch, train_steps

__all__ = [
    "NETS",
    "NETS_AT_RATES",
    "RATES",
    "SETTING",
    "STEPS_ALONG",
    "at_rates",
    "curves",
    "meanings",
    "network",
    "typical",
    "watched",
]

T = TypeVar("T")

NETS = {"plain": "none", "batch_norm": "batch"}
PLAN = "16-16-M-32-32-M-64-64"
RATES = {"slow": 0.05, "fast": 0.1}  # both train: without norm 0.3 does not
NETS_AT_RATES = tuple(f"{net}_{speed}" for net in NETS for speed in RATES)
STEPS, BATCH, EACH = 120, 128, 10
SETTING = (
    "Convolutions 16-16-M-32-32-M-64-64 and a linear layer on the digits, with He's weights: 120 steps of SGD on "
    "batches of 128 at rates 0.05 (slow) and 0.1 (fast). What is told is the median over each tenth step, measured on "
    "the batch of that step."
)
STEPS_ALONG = (0.05, 0.1, 0.2, 0.4)  # in units of the gradient


def network(trial: Trial, norm: str, plan: str = PLAN) -> nn.Module:
    """The network of a plan with this norm, "none" or "batch"; or one's own, with its norms exchanged, removed, or put
    behind its layers.

    >>> [type(layer).__name__ for layer in network(Trial(seed=0), "batch", "8")][:3]
    ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    if trial.model is None:
        return convnet(plan, classes=trial.classes, norm=norm, head="flatten", seed=trial.seed)
    return vary(trial.network(nn.Identity), (1, 8, 8), norm=norm)


def watched(
    trial: Trial, norm: str, lr: float, probe: Callable[[nn.Module, Batch], T], first: int = 0, each: int = EACH
) -> list[T]:
    """Trains a network for 120 steps of SGD on batches of 128, and returns what a probe finds at each tenth, or
    ``each``-th, from the step ``first`` on, on the batch of that step before its update.

    >>> len(watched(Trial(seed=0, quick=True), "none", 0.05, lambda model, batch: 0))
    4
    """
    x, y, _, _ = trial.digits()
    model = network(trial, norm)
    found: list[T] = []

    def look(step: int, batch: Batch) -> None:
        if step >= first:
            found.append(probe(model, batch))

    train_steps(model, x, y, trial.steps(STEPS), lr=lr, batch=BATCH, seed=trial.seed, each=each, before_step=look)
    return found


def typical(trial: Trial, name: str, values: Sequence[float]) -> float:
    """The median over the steps that were looked at; the values are kept as a curve of that name.

    >>> trial = Trial(seed=0)
    >>> typical(trial, "curve", [3.0, 1.0, 2.0]), trial.kept
    (2.0, {'curve': [3.0, 1.0, 2.0]})
    """
    trial.keep(name, values)
    return median(values)


def at_rates(trial: Trial, probe: Callable[[nn.Module, Batch], float]) -> dict[str, float]:
    """What a probe typically finds, by net and rate.

    >>> at_rates(Trial(seed=0, quick=True), lambda model, batch: 1.0)
    {'plain_slow': 1.0, 'plain_fast': 1.0, 'batch_norm_slow': 1.0, 'batch_norm_fast': 1.0}
    """
    return {
        f"{name}_{speed}": typical(trial, f"{name}_{speed}_curve", watched(trial, norm, rate, probe))
        for name, norm in NETS.items()
        for speed, rate in RATES.items()
    }


def meanings(what: str) -> dict[str, str]:
    """What the numbers of :func:`at_rates` are.

    >>> meanings("loss [nats]")["batch_norm_fast"]
    'loss [nats] at rate 0.1, batch norm'
    """
    return {
        f"{name}_{speed}": f"{what} at rate {rate}, {text}"
        for name, text in (("plain", "no norm"), ("batch_norm", "batch norm"))
        for speed, rate in RATES.items()
    }


def curves(
    axes: Any, seeds: Sequence[Mapping[str, Any]], names: Sequence[str], label: str, first: int = 0, each: int = EACH
) -> None:
    """Draws the curves that were kept under these names over the training steps, a line a seed and a colour a name."""
    for name, color in zip(names, RUN_COLORS, strict=False):
        for number, seed in enumerate(seeds):
            values = seed[f"{name}_curve"]
            steps = range(first, first + each * len(values), each)
            said = name.replace("_", " ") if number == 0 else None
            axes.plot(steps, values, color=color, alpha=0.6, linewidth=1.2, label=said)
    axes.set(xlabel="step", ylabel=label, yscale="log")
    axes.legend(frameon=False, fontsize=9)
