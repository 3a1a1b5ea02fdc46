"""Convolutions in two steps: of each channel separately, then over the channels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...ops.arguments import whole
from .arguments import Sizes
from .depthwise import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d
from .documented import Documented
from .pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d

__all__ = ["DepthwiseSeparableConv1d", "DepthwiseSeparableConv2d", "DepthwiseSeparableConv3d"]

_POINTWISE: dict[int, Any] = {1: PointwiseConv1d, 2: PointwiseConv2d, 3: PointwiseConv3d}
_DEPTHWISE: dict[int, Any] = {1: DepthwiseConv1d, 2: DepthwiseConv2d, 3: DepthwiseConv3d}


class _DepthwiseSeparable(Documented, torch.nn.Module):
    dims: int
    text = """A convolution in two steps: over {axes} in each channel separately (``depthwise``), then over the channels
    (``pointwise``).

    .. math:: y[n, k, o] = b[k] + Σ_j p[k, j] · z[n, j, o], \\quad z = \\text{depthwise}(x)

    multiplier: channels of z per channel of x. bias: of both steps. The other arguments are those of a convolution and
    apply to the depthwise step.

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y (N, out_channels, {letters}) or without N.

    Cost, with multiplier 1 and without bias: in_channels·(taps + out_channels) parameters, and |y| times as many MACs.
    The convolution costs ``taps·out_channels / (taps + out_channels)`` times as much.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Chollet, *Xception*, 2017; Howard et al., *MobileNets*, 2017.

    >>> from striate import nn
    >>> layer = nn.DepthwiseSeparableConv{dims}d(3, 8, 3, stride=2, padding=1)
    >>> layer(torch.ones(1, 3, *[5] * {dims})).shape[1:3], [name for name, _ in layer.named_children()]
    (torch.Size([8, 3]), ['depthwise', 'pointwise'])
    {examples}
    """
    examples: ClassVar[dict[int, str]] = {
        2: """>>> layer = nn.DepthwiseSeparableConv2d(128, 256, 3, padding="same", bias=False)
    >>> parameters = [p.numel() for p in layer.parameters()]
    >>> parameters, [p * 32 * 32 for p in parameters]  # MACs on 32×32
    ([1152, 32768], [1179648, 33554432])
    >>> sum(parameters), round(128 * 256 * 9 / sum(parameters), 2)
    (33920, 8.69)"""
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        multiplier: int = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, out_channels = whole(in_channels, "in_channels", where), whole(out_channels, "out_channels", where)
        multiplier = whole(multiplier, "multiplier", where)
        factory = {"device": device, "dtype": dtype}
        self.depthwise = _DEPTHWISE[self.dims](
            in_channels, kernel_size, stride, padding, dilation, multiplier, bias, padding_mode, **factory
        )
        self.pointwise = _POINTWISE[self.dims](in_channels * multiplier, out_channels, bias, **factory)

    def forward(self, input: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(input))


class DepthwiseSeparableConv1d(_DepthwiseSeparable, dims=1):
    pass


class DepthwiseSeparableConv2d(_DepthwiseSeparable, dims=2):
    pass


class DepthwiseSeparableConv3d(_DepthwiseSeparable, dims=3):
    pass
