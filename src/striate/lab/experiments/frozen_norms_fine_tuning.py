"""Fine-tuning with batches of two: batch norm that goes on measuring, frozen batch norm, group norm."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..networks import convnet, redraw
from ..training import accuracy, train_steps

OLD = 5  # digits 0 to 4 come first, 5 to 9 are what the network is fine-tuned to
Data = tuple[Tensor, Tensor]


def measure(trial: Trial) -> dict[str, float]:
    """Test errors on the new digits after fine-tuning all layers."""
    batch, group = (_trained_on_old(trial, norm) for norm in ("batch", "group"))
    frozen = deepcopy(batch)
    norms: list[Any] = [layer for layer in frozen.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.freeze()
    models = {"live": batch, "frozen": frozen, "group": group}
    return {name: _fine_tuned(trial, model) for name, model in models.items()}


def _trained_on_old(trial: Trial, norm: str) -> nn.Sequential:
    x, y, _, _ = trial.digits()
    old = y < OLD
    model = convnet("16-M-32-M-32-M-64", classes=OLD, norm=norm, seed=trial.seed)
    train_steps(model, x[old], y[old], trial.steps(300), lr=0.1, batch=32, schedule="cosine", seed=trial.seed)
    return model


def _fine_tuned(trial: Trial, model: nn.Sequential) -> float:
    """The test error on the new digits."""
    x, y, x_test, y_test = trial.digits()
    new, new_test = y >= OLD, y_test >= OLD
    model[-1] = redraw(nn.Sequential(nn.Linear(64, 10 - OLD)), seed=trial.seed)[0]
    steps = trial.steps(700)
    train_steps(model, x[new], y[new] - OLD, steps, lr=0.0125, batch=2, schedule="cosine", seed=trial.seed)
    return 1 - accuracy(model, x_test[new_test], y_test[new_test] - OLD)


CLAIM = Claim(
    name="frozen-norms-fine-tuning",
    claim="Fine-tuning with batches of two wants batch norm frozen, or group norm: batch norm that measures its "
    "batches of two loses accuracy.",
    section="7.14.6",
    source="notes; Y. Wu, K. He, Group normalization, 2018, section 4.2",
    expected="holds",
    setting="Convolutions 16-M-32-M-32-M-64, last maps 1×1, trained on the digits 0 to 4 (batch 32, 300 steps, rate "
    "0.1), then with a new last layer on 5 to 9 (batch 2, 700 steps, rate 0.0125), SGD, cosine.",
    statistics={
        "live": "test error on the new digits, a share, batch norm in training mode",
        "frozen": "the same, batch norm frozen: running statistics of the old digits; scale and shift learn",
        "group": "the same, group norm of 4 groups",
    },
    criterion="live > frozen + 0.03 and live > group + 0.03",
    measure=measure,
    why="With two images and maps of one pixel, a channel is normalised by two values and becomes +1 and −1, whatever "
    "it was: a noise that the loss cannot see through, and running statistics that follow it. Frozen statistics are "
    "those of other digits, and good enough: what is wrong with them, scale, shift and weights learn to mend. Group "
    "norm has no such choice to make, and is as good.",
    seconds=45,
)
