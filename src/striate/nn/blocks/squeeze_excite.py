"""Scales each channel by a gate computed from the means of all channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ShapeError, build
from ...ops.arguments import whole
from ..pool import GlobalAvgPool2d
from .arguments import as_module
from .pointwise import PointwiseConv2d

__all__ = ["SqueezeExcite"]


class SqueezeExcite(torch.nn.Module):
    r"""Scales each channel by a gate computed from the means of all channels.

    .. math::
        y[n, c] = x[n, c] · s[n, c], \quad
        s = \text{gate}(W_2 · \text{act}(W_1 · \operatorname{mean}_{hw} x + b_1) + b_2)

    squeeze_channels: rows of W_1; None for channels / reduction, rounded down, at least 1; activation, gate: classes or
    functions that make a module. ``fc1`` and ``fc2`` are 1×1 convolutions, named as torchvision's.

    Shapes: x (N, channels, H, W) or (channels, H, W); y likewise.

    Cost, with S squeezed channels: S·(channels + 1) + channels·(S + 1) parameters; 2·S·channels MACs, and one
    multiplication per value.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Hu, Shen, Sun, *Squeeze-and-excitation networks*, 2018.

    >>> layer = SqueezeExcite(64)
    >>> layer(torch.ones(2, 64, 8, 8)).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([2, 64, 8, 8]), 580)
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        squeeze_channels: int | None = None,
        activation: Any = torch.nn.ReLU,
        gate: Any = torch.nn.Sigmoid,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        channels, reduction = whole(channels, "channels", where), whole(reduction, "reduction", where)
        squeezed = (
            max(1, channels // reduction)
            if squeeze_channels is None
            else whole(squeeze_channels, "squeeze_channels", where)
        )
        factory: Any = {"device": device, "dtype": dtype}
        self.avgpool = GlobalAvgPool2d(keepdim=True)
        self.fc1 = PointwiseConv2d(channels, squeezed, **factory)
        self.activation = as_module(activation, "activation", where)
        self.fc2 = PointwiseConv2d(squeezed, channels, **factory)
        self.scale_activation = as_module(gate, "gate", where)

    def _check(self, input: Any) -> None:
        if isinstance(input, Tensor) and input.dim() in (3, 4) and input.shape[-3] != self.fc1.in_channels:
            hint = f"Set channels={input.shape[-3]}, or look at what comes before."
            expects = f"{self.fc1.in_channels} channels"
            raise ShapeError(build(type(self).__name__, expects, input.shape[-3], hint=hint, x=tuple(input.shape)))

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            self._check(input)
        means = self.avgpool(input)
        return input * self.scale_activation(self.fc2(self.activation(self.fc1(means))))
