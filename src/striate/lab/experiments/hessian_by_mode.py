"""Measured in evaluation mode, the curvature of a network with batch norm is not lower."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn
from torch.nn import functional as F

from ...diagnostics.curvature import curvature
from ..claim import Claim, Trial
from ..landscape import SETTING, curves, typical, watched
from ..training import Batch

RATE, LANCZOS, EACH = 0.1, 12, 20
NAMES = ("plain", "batch_norm_training", "batch_norm_evaluation")


def largest(model: nn.Module, batch: Batch, mode: Literal["train", "eval"]) -> float:
    """The largest eigenvalue on a batch."""
    seen = curvature(model, F.cross_entropy, [batch], mode=mode, steps=LANCZOS, samples=2)
    return seen.largest[0]


def measure(trial: Trial) -> dict[str, float]:
    plain = watched(trial, "none", RATE, lambda model, batch: largest(model, batch, "train"), EACH, EACH)
    both = watched(
        trial,
        "batch",
        RATE,
        lambda model, batch: (largest(model, batch, "train"), largest(model, batch, "eval")),
        EACH,
        EACH,
    )
    training, evaluation = zip(*both, strict=True)
    return {
        "plain": typical(trial, "plain_curve", plain),
        "batch_norm_training": typical(trial, "batch_norm_training_curve", training),
        "batch_norm_evaluation": typical(trial, "batch_norm_evaluation_curve", evaluation),
    }


CLAIM = Claim(
    name="hessian-by-mode",
    claim="That batch norm lowers the curvature is seen in training mode, and not in evaluation mode.",
    section="7.14.4",
    source="notes, which do not say in which mode",
    expected="holds",
    setting=(
        f"{SETTING} Here at the fast rate and each twentieth step. λ is the largest eigenvalue of the Hessian of the "
        "loss, with the batch's statistics and with the running ones, in float64, by 12 steps of the Lanczos iteration."
    ),
    statistics={
        "plain": "λ [nats/weight²], no norm",
        "batch_norm_training": "λ [nats/weight²], batch norm, with the batch's statistics",
        "batch_norm_evaluation": "λ [nats/weight²], batch norm, with the running statistics",
    },
    criterion="plain >= 1.5 * batch_norm_training and plain < 1.5 * batch_norm_evaluation",
    measure=measure,
    why=(
        "In training mode the batch's statistics are part of the function: a step along a weight changes them too, and "
        "takes part of its effect back. With the running ones as constants that is gone, and the same weights give an "
        "eigenvalue two to three times as large, that of a network without norm. Which of the two is the curvature is "
        "a matter of definition: steps of training are made in training mode. Tools that measure in evaluation mode "
        "find the opposite of what the paper says. Both fall during training, as weights before a norm grow."
    ),
    seconds=130,
    figure=partial(curves, names=NAMES, label="λ [nats/weight²]", first=EACH, each=EACH),
    takes=frozenset({"data", "model"}),
)
