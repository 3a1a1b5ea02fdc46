"""Worked examples: layers whose numbers are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .cells import all_indices, cell, factor, matrices, number
from .result import Row
from .worked import Section

__all__ = ["EXAMPLES", "Example"]

@dataclass(frozen=True)
class Example:
    """A layer whose tensors are given. about: a sentence; more: makes a section from y that follows the forward pass.
    """

    layer: str
    about: str
    x: Tensor
    options: dict[str, Any]
    weight: Tensor | None = None
    dy: Tensor | None = None
    more: Callable[[Tensor], Section] | None = field(default=None)


def _tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _magnitude(y: Tensor) -> Section:
    gx, gy = y[0]
    size = (gx.square() + gy.square()).sqrt()
    rows: list[Row] = [matrices(("G", size), lead=0), ("", "")]
    for at in all_indices(size.shape):
        a, b = float(gx[at]), float(gy[at])
        rows.append(
            (cell("G", tuple(size.shape), at, 0), f"= √({factor(a)}² + {factor(b)}²) = {number(float(size[at]))}")
        )
    return "Edges: G = √(Gx² + Gy²), Gx = y[0], Gy = y[1]", rows


_POOLED = _tensor([[[1, 3, 2, 1], [4, 2, 1, 5], [2, 0, 3, 1], [1, 5, 2, 2]]])
_UPSTREAM = _tensor([[[0.2, -0.3], [0.4, 0.1]]])
EXAMPLES = {
    "sobel": Example(
        "conv2d",
        "Two filters that find edges along rows and down columns; no kernel is flipped.",
        _tensor([[[0, 0, 3, 3], [0, 0, 3, 3], [0, 0, 3, 3], [4, 4, 7, 7]]]),
        {"out": 2, "kernel": 3, "bias": False},
        _tensor([[[1, 0, -1], [2, 0, -2], [1, 0, -1]]], [[[1, 2, 1], [0, 0, 0], [-1, -2, -1]]]),
        more=_magnitude,
    ),
    "conv1d": Example(
        "conv1d",
        "Three channels, one filter, a stride of 2.",
        _tensor([[2, 3, 1, 0, 4], [1, 2, 0, 1, 3], [0, 1, 2, 3, 1]]),
        {"out": 1, "kernel": 3, "stride": 2, "bias": False},
        _tensor([[1, 0, -1], [-1, 1, 0], [0, -1, 1]]),
    ),
    "conv3d": Example(
        "conv3d",
        "A volume of four slices, one filter of three.",
        _tensor(
            [
                [
                    [[1, -2, 5, 2], [-1, 1, 4, -3], [1, 5, 5, 2], [-1, -2, 2, 2]],
                    [[-3, 0, -1, -4], [2, 0, -4, -1], [-5, 4, 0, 3], [-5, 5, 5, 4]],
                    [[-3, 1, -2, 3], [-3, -1, -3, 1], [-1, 3, 1, -4], [-2, 3, -4, 4]],
                    [[3, 4, -1, -4], [-2, 1, 2, -3], [-5, -2, -4, 2], [-2, -4, 0, 0]],
                ]
            ]
        ),
        {"out": 1, "kernel": 3, "bias": False},
        _tensor(
            [
                [
                    [[-2, 0, 2], [1, 3, -2], [-2, 0, -2]],
                    [[-2, 2, 0], [2, 3, 3], [2, 3, 0]],
                    [[-3, 2, 1], [1, -2, 3], [1, -2, -3]],
                ]
            ]
        ),
    ),
    "max-pool": Example(
        "maxpool2d", "Four windows side by side, and the gradient that goes back.", _POOLED, {"kernel": 2}, dy=_UPSTREAM
    ),
    "avg-pool": Example(
        "avgpool2d", "Four windows side by side, and the gradient that goes back.", _POOLED, {"kernel": 2}, dy=_UPSTREAM
    ),
    "batchnorm": Example(
        "batchnorm",
        "Two samples of two channels with two values each.",
        _tensor([[1, 5], [0, 10]], [[1, 5], [10, 0]]),
        {},
        dy=_tensor([[1, 0], [1, 0]], [[0, 0], [0, 0]]),
    ),
}
