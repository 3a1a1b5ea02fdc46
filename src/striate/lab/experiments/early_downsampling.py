"""Strides at the beginning and at the end of a network, for small and for large objects."""

from __future__ import annotations

from typing import Any

from ...training.data import make_shapes
from ..claim import Claim, Trial
from ..networks import convnet
from ..training import accuracy, train_steps

SIZES = {"small": 16, "large": 32}  # [px] of an image: a shape is a third to two thirds of it
PLANS = {"early": "8s2-8s2-16-32", "late": "8-8-16s2-32s2"}
TRAIN, TEST = 1000, 500
STEPS, BATCH, RATE, MOMENTUM = 150, 32, 0.05, 0.9


def measure(trial: Trial) -> dict[str, float]:
    """The test errors of both networks on both sizes."""
    return {f"{plan}_{size}": _error(trial, PLANS[plan], SIZES[size]) for size in SIZES for plan in PLANS}


def _error(trial: Trial, plan: str, size: int) -> float:
    images, y, _ = make_shapes(TRAIN + TEST, size, seed=trial.seed)
    x = images.float()
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    model = convnet(plan, 3, 5, norm="batch", seed=trial.seed)
    given: dict[str, Any] = {"lr": RATE, "momentum": MOMENTUM, "batch": BATCH, "schedule": "cosine", "seed": trial.seed}
    train_steps(model, x[:TRAIN], y[:TRAIN], trial.steps(STEPS), **given)
    return 1 - accuracy(model, x[TRAIN:], y[TRAIN:])


CLAIM = Claim(
    name="early-downsampling",
    claim="Downsampling in the first layers loses small objects; for large ones it costs little.",
    section="7.11.2",
    source="notes",
    expected="holds",
    setting=f"The five generated shapes, 5 to 11 pixels large in images of 16×16 and 11 to 21 in 32×32; four "
    f"convolutions of 8, 8, 16 and 32 channels with batch norm, the first two or the last two of stride 2, and a mean "
    f"over positions; {TRAIN} images, {STEPS} steps of SGD with momentum 0.9 on batches of {BATCH}, rate {RATE}, "
    "cosine.",
    statistics={
        f"{plan}_{size}": f"test error, a share, strides {where}, {objects} shapes"
        for size, objects in (("small", "small"), ("large", "large"))
        for plan, where in (("early", "in the first two layers"), ("late", "in the last two layers"))
    },
    criterion="early_small - late_small >= 0.1 and early_large - late_large <= (early_small - late_small) / 2",
    measure=measure,
    why="Not measured yet.",
    seconds=50,
)
