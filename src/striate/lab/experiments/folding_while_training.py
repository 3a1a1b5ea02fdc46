"""A network whose batch norms are folded into its convolutions computes the same, and trains worse."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..networks import convnet
from ..training import train_steps

LAST = 20  # steps whose mean loss is told


def measure(trial: Trial) -> dict[str, float]:
    """One network, trained a while, is folded; then both train on, on the same batches."""
    x, y, x_test, _ = trial.digits()
    model = convnet(classes=trial.classes, norm="batch", seed=trial.seed)
    train_steps(model, x, y, trial.steps(50), lr=0.3, seed=trial.seed)
    folded = _folded(deepcopy(model))
    with torch.no_grad():
        before, after = model.eval()(x_test), folded.eval()(x_test)
    unfolded_loss, folded_loss = (_goes_on(trial, one, x, y) for one in (model, folded))
    return {
        "difference": ((after - before).norm() / before.norm()).item(),
        "unfolded": unfolded_loss,
        "folded": folded_loss,
    }


def _goes_on(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The mean loss of the last steps; 1e3 where training ends in a loss that is not finite."""
    losses = train_steps(model, x, y, trial.steps(100), lr=0.3, seed=trial.seed + 100)[-LAST:]
    return min(1e3, torch.tensor(losses).mean().nan_to_num(1e3, 1e3).item())


@torch.no_grad()
def _folded(model: nn.Sequential) -> nn.Sequential:
    """W' = W·γ/√(σ² + ε) and b' = β − μ·γ/√(σ² + ε), with the running statistics, and no norms."""
    layers: list[nn.Module] = []
    for layer in model:
        if not isinstance(layer, nn.BatchNorm2d):
            layers.append(layer)
            continue
        conv: Any = layers[-1]
        assert layer.running_mean is not None and layer.running_var is not None
        factor = layer.weight / (layer.running_var + layer.eps).sqrt()
        conv.weight.mul_(factor[:, None, None, None])
        conv.bias = nn.Parameter(layer.bias - layer.running_mean * factor)
    return nn.Sequential(*layers)


CLAIM = Claim(
    name="folding-while-training",
    claim="Folding batch norm into the convolutions leaves what a network computes in evaluation, and takes away what "
    "batch norm does for training: at a rate at which the network learns on, the folded one does worse.",
    section="7.14.4",
    source="notes",
    expected="holds",
    setting="Convolutions 16-16-M-32-32-M-32-32 with batch norm, digits, batch 64, 50 steps of SGD at a rate of 0.3; "
    "then 100 steps more at the same rate, folded and unfolded.",
    statistics={
        "difference": "‖folded − unfolded‖ / ‖unfolded‖ of the scores in evaluation mode",
        "unfolded": f"mean training loss [nats] of the last {LAST} steps of 100 more, at most 1,000",
        "folded": "the same of the folded network",
    },
    criterion="difference < 1e-4 and folded > 3 * unfolded",
    measure=measure,
    why="In evaluation mode a batch norm is one factor and one shift for each channel, so that the convolution can "
    "have them: the scores are the same to a millionth. The function is the same, but not its gradient: no statistics "
    "follow the weights, nothing divides by their size, and at a rate of 0.3, at which the unfolded network goes on to "
    "a loss of 0.01, the folded one goes to infinity (told as 1,000) or stays at chance. Fold when training is over.",
    seconds=15,
    takes=frozenset({"data"}),
)
