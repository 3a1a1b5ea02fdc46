"""Convolutions of each channel separately."""

from __future__ import annotations

from typing import Any

from ...ops.arguments import whole
from ..conv import Conv1d, Conv2d, Conv3d
from .arguments import Sizes
from .documented import Documented

__all__ = ["DepthwiseConv1d", "DepthwiseConv2d", "DepthwiseConv3d"]


class _Depthwise(Documented):
    text = """A convolution of each channel separately, over {axes}: as many groups as channels.

    .. math::
        y[n, k, o] = b[k] + Σ_t x[n, c, o · stride + t · dilation - before] · w[k, t], \\quad k = c·multiplier + m

    multiplier: the number of filters per channel. The other arguments are those of a convolution.

    Shapes: x (N, channels, {letters}) or (channels, {letters}); y (N, channels·multiplier, {letters}) or without N;
    weight (channels·multiplier, 1, \\*kernel_size).

    Cost: channels·multiplier·(taps + 1) parameters; channels·multiplier·taps·|y| MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Sifre, *Rigid-motion scattering for image classification*, 2014; Chollet, *Xception*, 2017.

    >>> import torch
    >>> from striate import nn
    >>> layer = nn.DepthwiseConv{dims}d(4, 3, padding=1, multiplier=2)
    >>> layer(torch.ones(1, 4, *[5] * {dims})).shape[1:3], layer.weight.numel() == 8 * 3**{dims}
    (torch.Size([8, 5]), True)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        multiplier: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        where = type(self).__name__
        channels, multiplier = whole(channels, "channels", where), whole(multiplier, "multiplier", where)
        rest: Any = {"groups": channels, "bias": bias, "padding_mode": padding_mode, "device": device, "dtype": dtype}
        geometry: Any = (kernel_size, stride, padding, dilation)
        super().__init__(channels, channels * multiplier, *geometry, **rest)  # type: ignore[call-arg]


class DepthwiseConv1d(_Depthwise, Conv1d, dims=1):
    pass


class DepthwiseConv2d(_Depthwise, Conv2d, dims=2):
    pass


class DepthwiseConv3d(_Depthwise, Conv3d, dims=3):
    pass
