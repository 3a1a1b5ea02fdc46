"""A convolution through fewer channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops.arguments import whole
from ..conv import Conv2d
from .arguments import Sizes
from .pointwise import PointwiseConv2d

__all__ = ["Bottleneck"]


class Bottleneck(torch.nn.Module):
    r"""A convolution through fewer channels: 1×1 to ``middle`` (``reduce``), K×K (``conv``), and with ``expand`` 1×1
    again (``expand``).

    .. math:: y = \text{conv}(\text{reduce}(x)), \quad \text{or} \quad y = \text{expand}(\text{conv}(\text{reduce}(x)))

    in_channels → middle → out_channels; with ``expand`` in_channels → middle → middle → out_channels. stride, padding
    and dilation apply to the K×K step, bias to every step. It has no norm or activation: for these, chain several
    :class:`ConvNormAct2d`.

    Shapes: x (N, in_channels, H, W) or (in_channels, H, W); y as for the K×K convolution.

    Cost without expand: middle·(in_channels + 1) + out_channels·(K²·middle + 1) parameters; middle·(in_channels·|x| +
    K²·out_channels·|y|) MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Lin, Chen, Yan, *Network in network*, 2014; He et al., *Deep residual learning*, 2016.

    >>> one, two = Conv2d(256, 256, 3), Bottleneck(256, 64, 256)
    >>> [sum(p.numel() for p in m.parameters()) for m in (one, two, two.reduce, two.conv)]
    [590080, 164160, 16448, 147712]
    >>> macs = 64 * 256 * 64**2 + 9 * 64 * 256 * 62**2  # on 64×64
    >>> macs, round(590080 / 164160, 1), round(9 * 256 * 256 * 62**2 / macs, 1)
    (633929728, 3.6, 3.6)
    """

    def __init__(
        self,
        in_channels: int,
        middle: int,
        out_channels: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        expand: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, middle = whole(in_channels, "in_channels", where), whole(middle, "middle", where)
        out_channels = whole(out_channels, "out_channels", where)
        factory: Any = {"device": device, "dtype": dtype}
        last = middle if expand else out_channels
        self.reduce = PointwiseConv2d(in_channels, middle, bias, **factory)
        rest: Any = (kernel_size, stride, padding, dilation, 1, bias, padding_mode)
        self.conv = Conv2d(middle, last, *rest, **factory)
        self.expand = PointwiseConv2d(middle, out_channels, bias, **factory) if expand else None

    def forward(self, input: Tensor) -> Tensor:
        y = self.conv(self.reduce(input))
        return y if self.expand is None else self.expand(y)
