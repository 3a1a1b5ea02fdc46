"""Convolutions of 1×1: a linear layer over the channels at each position."""

from __future__ import annotations

from typing import Any, ClassVar

from ..conv import Conv1d, Conv2d, Conv3d
from .arguments import Sizes
from .documented import Documented

__all__ = ["PointwiseConv1d", "PointwiseConv2d", "PointwiseConv3d"]


class _Pointwise(Documented):
    text = """A 1×1 convolution: at each position of {axes} the same linear layer over the channels.

    .. math:: y[n, k, o] = b[k] + Σ_c x[n, c, o · stride] · w[k, c]

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y with ``⌈I / stride⌉`` values per axis. The
    state is that of a convolution.

    Cost: out_channels·(in_channels + 1) parameters; in_channels·out_channels·|y| MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Lin, Chen, Yan, *Network in network*, 2014.

    >>> import torch
    >>> from striate import nn
    >>> nn.PointwiseConv{dims}d(3, 8, stride=2)(torch.ones(1, 3, *[5] * {dims})).shape[1:3]
    torch.Size([8, 3])
    {examples}
    """
    examples: ClassVar[dict[int, str]] = {
        2: """>>> nn.PointwiseConv2d(64, 32)(torch.ones(1, 64, 56, 56)).shape
    torch.Size([1, 32, 56, 56])"""
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        stride: Sizes = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        rest: Any = {"bias": bias, "device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, 1, stride, **rest)  # type: ignore[call-arg]


class PointwiseConv1d(_Pointwise, Conv1d, dims=1):
    pass


class PointwiseConv2d(_Pointwise, Conv2d, dims=2):
    pass


class PointwiseConv3d(_Pointwise, Conv3d, dims=3):
    pass
