"""Strips of pixels with two marks, which a network can tell apart only if one of its outputs sees both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import nn
from .claim import Trial
from .networks import redraw
from .training import accuracy, train_steps

__all__ = ["marks", "strip_accuracy", "strip_net"]

LENGTH = 32  # [px]
NOISE = 0.1  # deviation of each pixel; a mark is 1
COUNT, WIDTH = 1024, 16
STEPS, RATE, MOMENTUM = 250, 0.05, 0.9


def marks(distances: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Makes 1,024 strips, each with two marks somewhere, so far apart as its class has it, and noise.

    The ends of a strip are joined: no place on it is another than any other, and whatever sees one mark at most sees
    the same in every class.

    distances: between the marks of each class [px], up to half of the strip's 32 px. Returns strips ``(1024, 1, 32)``
    and classes ``(1024,)``.

    >>> x, y = marks((4, 16), seed=0)
    >>> places = (x[0, 0] > 0.5).nonzero().flatten()
    >>> x.shape, y[:4].tolist(), (places[1] - places[0]).item() in (4, 28)
    (torch.Size([1024, 1, 32]), [0, 1, 0, 1], True)
    """
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(COUNT) % len(distances)
    first = torch.randint(LENGTH, (COUNT,), generator=random)
    x = NOISE * torch.randn(COUNT, 1, LENGTH, generator=random)
    for places in (first, (first + torch.tensor(distances)[y]) % LENGTH):
        x[torch.arange(COUNT), 0, places] += 1
    return x, y


def strip_net(dilations: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """Convolutions of kernel 3 and 16 channels with these dilations, batch norm and ReLU after each, the maximum over
    the strip, and a linear layer. An output of the convolutions sees ``1 + 2·sum(dilations)`` pixels from the first to
    the last.

    Shapes: x ``(N, 1, L)``, scores ``(N, classes)``.

    >>> strip_net((1, 2), 2, seed=0)(torch.zeros(4, 1, 32)).shape
    torch.Size([4, 2])
    """
    layers: list[nn.Module] = []
    for number, dilation in enumerate(dilations):
        before = WIDTH if number else 1
        conv = nn.Conv1d(before, WIDTH, 3, padding=dilation, dilation=dilation, bias=False, padding_mode="circular")
        layers += [conv, nn.BatchNorm1d(WIDTH), nn.ReLU()]  # without norm some seeds learn nothing
    layers += [nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(WIDTH, classes)]
    return redraw(nn.Sequential(*layers), seed=seed)


def strip_accuracy(trial: Trial, dilations: Sequence[int], distances: Sequence[int]) -> float:
    """The share of new strips that such a network classifies rightly after 250 steps of SGD with momentum 0.9 at a rate
    of 0.05 on batches of 64.

    >>> 0.4 < strip_accuracy(Trial(seed=0, quick=True), (1,), (4, 16)) < 0.6
    True
    """
    x, y = marks(distances, 2 * trial.seed)
    model = strip_net(dilations, len(distances), trial.seed)
    train_steps(model, x, y, trial.steps(STEPS), lr=RATE, momentum=MOMENTUM, seed=trial.seed)
    return accuracy(model, *marks(distances, 2 * trial.seed + 1))
