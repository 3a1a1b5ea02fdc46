"""Under batch norm, weight decay sets by how much a step turns the weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..claim import Claim, Trial
from ..networks import convnet
from ..training import Batch, train_steps

SETTINGS = {  # rate η, decay λ, momentum μ
    "gentle": (0.1, 0.01, 0.0),
    "strong": (0.1, 0.04, 0.0),
    "half_momentum": (0.1, 0.02, 0.5),
    "high_momentum": (0.05, 0.02, 0.9),
}
NOISY_LABELS = 0.2  # share drawn anew: on clean digits the loss reaches 0, and what turns the weights dies out


def measure(trial: Trial) -> dict[str, float]:
    """The angle a step in equilibrium as a share of theory's, for four settings."""
    return {name: _share(trial, *setting) for name, setting in SETTINGS.items()}


def _share(trial: Trial, rate: float, decay: float, momentum: float) -> float:
    """Root mean square of the angles of the convolutions' weights in the last third of the steps, by theory's."""
    x, y, _, _ = trial.digits()
    random = torch.Generator().manual_seed(trial.seed)
    drawn = torch.randint(trial.classes, y.shape, generator=random)
    y = torch.where(torch.rand(len(y), generator=random) < NOISY_LABELS, drawn, y)
    model = convnet("16-M-32-32", classes=trial.classes, norm="batch", seed=trial.seed)
    weights = [p for p in model.parameters() if p.ndim == 4]
    others = [p for p in model.parameters() if p.ndim != 4]
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    directions = [_directions(weights)]

    def after_step(step: int, batch: Batch) -> None:
        directions.append(_directions(weights))

    steps = trial.steps(1000)
    options = {"lr": rate, "batch": 32, "momentum": momentum, "seed": trial.seed, "parameters": groups}
    train_steps(model, x, y, steps, after_step=after_step, **options)
    last = directions[-steps // 3 :]
    squares = [_angle(a, b) ** 2 for now, then in zip(last, last[1:], strict=False) for a, b in zip(now, then, strict=True)]
    return math.sqrt(sum(squares) / len(squares) / (2 * rate * decay / (1 + momentum)))


def _directions(weights: list[Tensor]) -> list[Tensor]:
    return [F.normalize(w.detach().flatten().double(), dim=0) for w in weights]


def _angle(one: Tensor, other: Tensor) -> float:
    return 2 * math.asin((one - other).norm().item() / 2)


CLAIM = Claim(
    name="decay-sets-rate",
    claim="Under batch norm, weight decay sets the effective rate: in equilibrium a step turns the weights by "
    "√(2ηλ/(1 + μ)), whatever the loss.",
    section="7.14.8",
    source="notes; R. Wan et al., Spherical motion dynamics, 2020; A. Kosson, B. Messmer, M. Jaggi, Rotational "
    "equilibrium, 2023",
    expected="holds",
    setting="Convolutions 16-M-32-32 with batch norm, digits with a fifth of the labels drawn anew, batch 32, 1,000 "
    "steps of SGD for each setting; only the convolutions' weights decay.",
    statistics={
        name: f"angle a step / √(2ηλ/(1 + μ)) at η = {rate}, λ = {decay}, μ = {momentum}, last third of the steps"
        for name, (rate, decay, momentum) in SETTINGS.items()
    },
    criterion="abs(gentle - 1) < 0.1 and abs(strong - 1) < 0.1 and abs(half_momentum - 1) < 0.1 "
    "and abs(high_momentum - 1) < 0.1",
    measure=measure,
    why="",
    seconds=50,
)
