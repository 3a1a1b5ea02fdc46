"""A bias before batch norm does nothing in training, and something in evaluation."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F

from ... import nn
from ..claim import Claim, Trial
from ..networks import convnet

NORMS = ("batch", "group", "instance")


def measure(trial: Trial) -> dict[str, float]:
    """What random biases of all convolutions change, before three kinds of norms, and the gradient by the biases."""
    x, y, _, _ = trial.digits()
    x, y = x[:128].double(), y[:128]
    networks = {norm: convnet("16-M-32-32", norm=norm, bias=True, seed=trial.seed).double() for norm in NORMS}
    batch = networks["batch"]
    F.cross_entropy(batch(x), y).backward()
    convolutions: list[Any] = [layer for layer in batch.modules() if isinstance(layer, nn.Conv2d)]
    gradients = [(layer.bias.grad, layer.weight.grad) for layer in convolutions]
    return {
        "gradient": max((bias.norm() / weight.norm()).item() for bias, weight in gradients),
        **{f"{norm}_change": _change(model.train(), x, trial.seed) for norm, model in networks.items()},
        "evaluation_change": _change(batch.eval(), x, trial.seed),
    }


@torch.no_grad()
def _change(model: nn.Module, x: torch.Tensor, seed: int) -> float:
    """The relative change of the output by biases drawn from N(0, 1)."""
    random = torch.Generator().manual_seed(seed)
    biased = deepcopy(model)
    for layer in biased.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.add_(torch.randn(layer.bias.shape, generator=random))
    output = model(x)
    return ((biased(x) - output).norm() / output.norm()).item()


CLAIM = Claim(
    name="batch-norm-cancels-bias",
    claim="A bias before batch norm does nothing in training: the output does not depend on it and its gradient is 0. "
    "Before group norm, and in evaluation mode, it does something.",
    section="7.14.3",
    source="notes; S. Ioffe, C. Szegedy, Batch normalization, 2015, section 3.2",
    expected="holds",
    setting="Convolutions 16-M-32-32 with biases, each before a norm, at the first weights, 128 digits, float64; "
    "biases drawn from N(0, 1) are added.",
    statistics={
        "gradient": "largest ratio of a layer of the gradient's norm by the bias to that by the weights, batch norm",
        "batch_change": "‖f(b) − f(0)‖ / ‖f(0)‖, batch norm in training mode",
        "group_change": "the same, group norm of 4 groups",
        "instance_change": "the same, instance norm, which cancels a bias too",
        "evaluation_change": "the same, batch norm in evaluation mode",
    },
    criterion="gradient < 1e-9 and batch_change < 1e-9 and instance_change < 1e-9 and group_change > 0.01 "
    "and evaluation_change > 0.01",
    measure=measure,
    why="The mean takes the bias in and is subtracted, so that the bias reaches nothing, and no gradient reaches it; "
    "what is left is rounding. Instance norm cancels it too, since each channel has a mean of its own; group norm does "
    "not, since the channels of a group have different biases and one mean. In evaluation mode the mean is a constant, "
    "and a bias that is changed after training moves the output: folding and pruning must not take it for idle. Leave "
    "it out before batch norm: β does its work.",
    seconds=3,
)
