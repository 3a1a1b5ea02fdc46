"""How precisely networks with and without pooling say where a shape is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ...training.data import make_shapes
from ...training.evaluation import evaluation_mode
from ..claim import Claim, Trial
from ..networks import convnet
from ..training import train_steps

SIZE, TRAIN, TEST = 16, 2000, 500
STEPS, RATE, MOMENTUM = 200, 0.05, 0.9
NETS = {  # of the same weights but for the head; an output of "full" sees 15 px, of "maximum" 18
    "full": ("8-8d2-8d4", "flatten"),
    "maximum": ("8-M-8-M-8", "flatten"),
    "average": ("8-A-8-A-8", "flatten"),
    "strided": ("8s2-8s2-8", "flatten"),
    "global_average": ("8-M-8-M-8", "gap"),
}


def measure(trial: Trial) -> dict[str, float]:
    """How far off each network is, on average over test images [px]."""
    images, _, boxes = make_shapes(TRAIN + TEST, SIZE, seed=trial.seed)
    x = images.float()
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    y = (boxes[:, :2] + boxes[:, 2:]).float() / SIZE - 1  # the centre; -1 and 1 are the edges of the image
    return {name: _distance(trial, x, y, *net) for name, net in NETS.items()}


def _distance(trial: Trial, x: Tensor, y: Tensor, plan: str, head: str) -> float:
    model = convnet(plan, 3, 2, head=head, size=SIZE, padding_mode="circular", seed=trial.seed)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    groups = [
        {"params": list(model[:-1].parameters())},
        {"params": list(last.parameters()), "lr": min(RATE, 2 / last.in_features)},  # more diverges: 2,048 sum up
    ]
    given: dict[str, Any] = {"lr": RATE, "momentum": MOMENTUM, "schedule": "cosine", "loss": mse_loss}
    train_steps(model, x[:TRAIN], y[:TRAIN], trial.steps(STEPS), parameters=groups, seed=trial.seed, **given)
    with torch.no_grad(), evaluation_mode(model):
        off = model(x[TRAIN:]) - y[TRAIN:]
    return off.norm(dim=1).mean().item() * SIZE / 2


CLAIM = Claim(
    name="pooling-localisation",
    claim="Pooling hurts localisation: what it forgets within its windows makes the place of a shape less precise, and "
    "global pooling forgets the place.",
    section="7.11.4",
    source="notes",
    expected="holds",
    setting=f"Centres of {TRAIN} generated shapes of 16×16 pixels; three convolutions of 8 channels with two poolings "
    "of 2×2, strides of 2, or full maps and dilations that see as far, each with a linear layer on all positions, and "
    "pooling with a mean over positions; the edges are joined, as padding tells where they are; 200 steps of SGD with "
    "momentum 0.9 on batches of 64, rate 0.05, that of the linear layer at most 2 over its inputs, cosine, squared "
    "error.",
    statistics={
        "full": "mean distance from the centre [px], maps of 16×16 with dilated convolutions",
        "maximum": "the same, maxima of 2×2 twice",
        "average": "the same, averages of 2×2 twice",
        "strided": "the same, two convolutions of stride 2 and no pooling",
        "global_average": "the same, maxima of 2×2 twice and a mean over positions",
    },
    criterion="maximum >= 1.2 * full and global_average >= 2 * full",
    measure=measure,
    why="Not measured yet.",
    seconds=40,
)
