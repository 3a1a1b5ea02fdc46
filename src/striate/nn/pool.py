"""Pooling layers: drop-ins for torch.nn's, with ``padding="same"``, and global pooling.

Each kind has one class body; its 1d, 2d and 3d classes differ only in the number of axes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..ops import pool as ops
from ..ops.layout import owned
from . import scripted
from .documentation import for_axes
from .namesake import Namesake

__all__ = [
    *(
        f"{kind}Pool{d}d"
        for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg", "GlobalMax", "GlobalAvg")
        for d in (1, 2, 3)
    ),
]


class _Pool(Namesake):
    """Gives each class its number of axes and its kind's documentation with that number in it."""

    dims: int
    documentation: str

    def __init_subclass__(cls, dims: int = 0) -> None:
        super().__init_subclass__()
        if dims:
            cls.dims = dims
            cls.__constants__ = [*cls.__constants__, "dims"]  # for TorchScript
            cls.__doc__ = for_axes(cls.documentation, dims)


class _Max(_Pool):
    documentation = """Maximum over a sliding window of {axes}.

    .. math:: y[n, c, o] = \\max_t x[n, c, o · stride + t · dilation - before]

    The size of each axis is ``⌊(I + before + after - dilation·(kernel_size - 1) - 1) / stride⌋ + 1``, rounded up with
    ``ceil_mode``. The maximum of a window with a NaN is NaN; among equal maxima the first in row-major order gives the
    index and receives the gradient.

    Arguments as in ``torch.nn``, and ``padding="same"``: as much padding as gives ``⌈I / stride⌉`` outputs, with the
    extra value of an odd total at the end.

    Shapes: x (N, C, {letters}) or (C, {letters}); y likewise. With ``return_indices`` the position of each maximum in
    its channel is returned as well.

    Memory saved for backward: one byte per output where the window has at most 256 taps (torch saves the input and 8
    bytes per output).

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no window can have.

    Source: LeCun et al. 1998; torch.nn for the edge cases.

    >>> from striate import nn
    >>> nn.MaxPool{dims}d(2)(torch.arange(4.0).expand(1, 1, *[4] * {dims})).flatten()[:2]
    tensor([1., 3.])
    """

    def _scripted(self, input: Tensor):  # a maximum, or a maximum with its index: TorchScript infers it
        if isinstance(self.padding, str):
            size = [self.kernel_size] * self.dims if isinstance(self.kernel_size, int) else self.kernel_size
            stride = [self.stride] * self.dims if isinstance(self.stride, int) else self.stride
            dilation = [self.dilation] * self.dims if isinstance(self.dilation, int) else self.dilation
            y, index = scripted.max_pool(input, size, stride, self.padding, dilation, self.ceil_mode)
            if self.return_indices:
                return y, index
            else:
                return y
        else:
            return self._as_torch(input)

    def _compute(self: Any, input: Tensor) -> Any:
        return ops.max_pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            dims=self.dims,
            where=type(self).__name__,
        )


class _Avg(_Pool):
    documentation = """Mean over a sliding window of {axes}.

    .. math:: y[n, c, o] = \\frac{1}{divisor} \\sum_t x[n, c, o · stride + t - before]

    The divisor is the number of taps inside the input and its padding; with ``count_include_pad=False`` of those inside
    the input alone; or ``divisor_override``.

    Arguments as in ``torch.nn``, and ``padding="same"``: as much padding as gives ``⌈I / stride⌉`` outputs, with the
    extra value of an odd total at the end.

    Shapes: x (N, C, {letters}) or (C, {letters}); y likewise.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no window can have.

    Source: LeCun et al. 1998; torch.nn for the edge cases.

    >>> from striate import nn
    >>> nn.AvgPool{dims}d(2)(torch.arange(4.0).expand(1, 1, *[4] * {dims})).flatten()[:2]
    tensor([0.5000, 2.5000])
    """

    def _scripted(self, input: Tensor):
        if isinstance(self.padding, str):
            size = [self.kernel_size] * self.dims if isinstance(self.kernel_size, int) else self.kernel_size
            stride = [self.stride] * self.dims if isinstance(self.stride, int) else self.stride
            rest = (self.padding, self.ceil_mode, self.count_include_pad)
            return scripted.avg_pool(
                input, size, stride, *rest, self.divisor_override if hasattr(self, "divisor_override") else None
            )
        else:
            return self._as_torch(input)

    def _compute(self: Any, input: Tensor) -> Tensor:
        return ops.avg_pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            getattr(self, "divisor_override", None),
            dims=self.dims,
            where=type(self).__name__,
        )


class _AdaptiveMax(_Pool):
    documentation = """Maximum over windows that cover {axes} evenly and give ``output_size`` values.

    .. math:: y[n, c, o] = \\max x[n, c, ⌊oI/O⌋ … ⌈(o+1)I/O⌉ - 1]

    ``None`` in ``output_size`` keeps an axis as it is. Shapes: x (N, C, {letters}) or (C, {letters}); y likewise.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for impossible sizes.

    Source: torch.nn.

    >>> from striate import nn
    >>> nn.AdaptiveMaxPool{dims}d(3)(torch.arange(5.0).expand(1, 1, *[5] * {dims})).flatten()[:3]
    tensor([1., 3., 4.])
    """

    def _compute(self: Any, input: Tensor) -> Any:
        return ops.adaptive_max_pool(
            input, self.output_size, self.return_indices, dims=self.dims, where=type(self).__name__
        )


class _AdaptiveAvg(_Pool):
    documentation = """Mean over windows that cover {axes} evenly and give ``output_size`` values.

    .. math:: y[n, c, o] = \\operatorname{mean} x[n, c, ⌊oI/O⌋ … ⌈(o+1)I/O⌉ - 1]

    ``None`` in ``output_size`` keeps an axis as it is. Shapes: x (N, C, {letters}) or (C, {letters}); y likewise.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for impossible sizes.

    Source: torch.nn.

    >>> from striate import nn
    >>> nn.AdaptiveAvgPool{dims}d(3)(torch.arange(5.0).expand(1, 1, *[5] * {dims})).flatten()[:3]
    tensor([0.5000, 2.0000, 3.5000])
    """

    def _compute(self: Any, input: Tensor) -> Tensor:
        return ops.adaptive_avg_pool(input, self.output_size, dims=self.dims, where=type(self).__name__)


class _Global(_Pool, torch.nn.Module):
    __constants__ = ("keepdim",)

    def __init__(self, keepdim: bool = False) -> None:
        super().__init__()
        self.keepdim = keepdim

    def extra_repr(self) -> str:
        return "keepdim=True" if self.keepdim else ""


class _GlobalMax(_Global):
    documentation = """Maximum over all of {axes}: one value per channel.

    .. math:: y[n, c] = \\max_i x[n, c, i]

    The gradient goes to one element, the first maximum. Shapes: x (N, C, {letters}) or (C, {letters}); y (N, C) or
    (C,), with ``keepdim=True`` each axis kept with size 1.

    Raises ShapeError or DtypeError.

    Source: Oquab et al. 2015, "Is object localization for free?".

    >>> from striate import nn
    >>> nn.GlobalMaxPool{dims}d()(torch.arange(4.0).expand(1, 2, *[4] * {dims}))
    tensor([[3., 3.]])
    """

    def _as_torch(self, input: Tensor) -> Tensor:
        lead = input.dim() - self.dims
        y = input.flatten(lead).max(lead)[0]
        return y.reshape(list(y.shape) + [1] * self.dims) if self.keepdim else y

    def _compute(self: Any, input: Tensor) -> Tensor:
        y = ops.adaptive_max_pool(input, 1, dims=self.dims, where=type(self).__name__)
        return y if self.keepdim else owned(Tensor.flatten, y, -self.dims - 1)


class _GlobalAvg(_Global):
    documentation = """Mean over all of {axes}: one value per channel.

    .. math:: y[n, c] = \\frac{1}{|I|} \\sum_i x[n, c, i]

    Shapes: x (N, C, {letters}) or (C, {letters}); y (N, C) or (C,), with ``keepdim=True`` each axis kept with size 1.

    Raises ShapeError or DtypeError.

    Source: Lin, Chen, Yan 2014, "Network in network".

    >>> from striate import nn
    >>> nn.GlobalAvgPool{dims}d()(torch.arange(4.0).expand(1, 2, *[4] * {dims}))
    tensor([[1.5000, 1.5000]])
    """

    def _as_torch(self, input: Tensor) -> Tensor:
        lead = input.dim() - self.dims
        y = input.flatten(lead).mean(lead)
        return y.reshape(list(y.shape) + [1] * self.dims) if self.keepdim else y

    def _compute(self: Any, input: Tensor) -> Tensor:
        y = ops.adaptive_avg_pool(input, 1, dims=self.dims, where=type(self).__name__)
        return y if self.keepdim else owned(Tensor.flatten, y, -self.dims - 1)


class MaxPool1d(_Max, torch.nn.MaxPool1d, dims=1):
    pass


class MaxPool2d(_Max, torch.nn.MaxPool2d, dims=2):
    pass


class MaxPool3d(_Max, torch.nn.MaxPool3d, dims=3):
    pass


class AvgPool1d(_Avg, torch.nn.AvgPool1d, dims=1):
    @functools.wraps(torch.nn.AvgPool1d.__init__)  # type: ignore[misc]  # for its signature
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        is_name = isinstance(padding, str)  # torch's constructor would split it into letters
        super().__init__(kernel_size, stride, 0 if is_name else padding, ceil_mode, count_include_pad)
        if is_name:
            self.padding = padding


class AvgPool2d(_Avg, torch.nn.AvgPool2d, dims=2):
    pass


class AvgPool3d(_Avg, torch.nn.AvgPool3d, dims=3):
    pass


class AdaptiveMaxPool1d(_AdaptiveMax, torch.nn.AdaptiveMaxPool1d, dims=1):
    pass


class AdaptiveMaxPool2d(_AdaptiveMax, torch.nn.AdaptiveMaxPool2d, dims=2):
    pass


class AdaptiveMaxPool3d(_AdaptiveMax, torch.nn.AdaptiveMaxPool3d, dims=3):
    pass


class AdaptiveAvgPool1d(_AdaptiveAvg, torch.nn.AdaptiveAvgPool1d, dims=1):
    pass


class AdaptiveAvgPool2d(_AdaptiveAvg, torch.nn.AdaptiveAvgPool2d, dims=2):
    pass


class AdaptiveAvgPool3d(_AdaptiveAvg, torch.nn.AdaptiveAvgPool3d, dims=3):
    pass


class GlobalMaxPool1d(_GlobalMax, dims=1):
    pass


class GlobalMaxPool2d(_GlobalMax, dims=2):
    pass


class GlobalMaxPool3d(_GlobalMax, dims=3):
    pass


class GlobalAvgPool1d(_GlobalAvg, dims=1):
    pass


class GlobalAvgPool2d(_GlobalAvg, dims=2):
    pass


class GlobalAvgPool3d(_GlobalAvg, dims=3):
    pass
