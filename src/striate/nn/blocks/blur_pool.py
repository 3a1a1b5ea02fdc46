"""Anti-aliased strides: a low-pass filter, then a stride."""

from __future__ import annotations

import functools
from math import comb
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError, ShapeError, build
from ...ops.arguments import per_axis, whole
from ...ops.conv import conv
from ...ops.padding import MODES, pad
from ..namesake import Namesake
from .arguments import Sizes
from .documented import Documented

__all__ = ["BlurPool1d", "BlurPool2d", "BlurPool3d"]


class _BlurPool(Documented, Namesake, torch.nn.Module):
    if TYPE_CHECKING:  # TorchScript reads annotations, and would not resolve these
        dims: int
        filter: Tensor
    text = """An anti-aliased stride over {axes}: a binomial low-pass filter, then every stride-th value.

    .. math::
        y[n, c, o] = Σ_t x[n, c, o · stride + t - ⌊(size - 1)/2⌋] · f[t], \\quad
        f[t] = \\prod_a \\binom{size - 1}{t_a} / 2^{size - 1}

    size: taps on each axis, from 2 to 7; padding_mode: "reflect", "zeros", "replicate" or "circular"; the padding is
    ⌊(size - 1)/2⌋ before and ⌊size/2⌋ after each axis.

    Shapes: x (N, channels, {letters}) or (channels, {letters}); y with ``⌈I / stride⌉`` values per axis. There are no
    parameters: the filter is a buffer that is not in ``state_dict``. channels·size^{dims}·|y| MACs.

    Raises ArgumentError, ArgumentTypeError or ShapeError for impossible sizes, ShapeError for inputs that are too small
    for the padding.

    Source: Zhang, *Making convolutional networks shift-invariant again*, 2019.

    >>> from striate import nn
    >>> x = torch.tensor([0.0, 4, 0, 4, 0, 4]).view(1, 1, -1, *[1] * ({dims} - 1)).expand(1, 1, 6, *[6] * ({dims} - 1))
    >>> y = nn.BlurPool{dims}d(1)(x)  # a stride alone gives all 0 or all 4, depending on its start
    >>> y.flatten(2)[0, 0, :: 3 ** ({dims} - 1)]
    tensor([2., 2., 2.])
    """

    def __init__(
        self,
        channels: int,
        size: int = 3,
        stride: Sizes = 2,
        padding_mode: str = "reflect",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.channels, self.size = whole(channels, "channels", where), whole(size, "size", where)
        size = self.size
        if not 2 <= size <= 7:
            raise ArgumentError(build(where, "a size from 2 to 7", size, hint="Choose 3, or 5 for a stronger blur."))
        self.stride = per_axis(stride, self.dims, 1, "stride", where)
        if padding_mode not in MODES:
            raise ArgumentError(
                build(
                    where, "a padding_mode that exists", repr(padding_mode), hint=f"Choose one of {', '.join(MODES)}."
                )
            )
        self.padding_mode = padding_mode
        row = torch.tensor([comb(size - 1, t) / 2 ** (size - 1) for t in range(size)], device=device, dtype=dtype)
        taps = functools.reduce(lambda f, _: f.unsqueeze(-1) * row, range(self.dims - 1), row)
        self.register_buffer("filter", taps.repeat(self.channels, 1, *[1] * self.dims), persistent=False)

    def _as_torch(self, input: Tensor) -> Tensor:
        dims, mode = self.filter.dim() - 2, "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(input, [(self.size - 1) // 2, self.size // 2] * dims, mode=mode)
        if dims == 1:
            return F.conv1d(padded, self.filter, None, self.stride, 0, 1, self.channels)
        if dims == 2:
            return F.conv2d(padded, self.filter, None, self.stride, 0, 1, self.channels)
        return F.conv3d(padded, self.filter, None, self.stride, 0, 1, self.channels)

    def _compute(self, input: Tensor) -> Tensor:
        where, dims = type(self).__name__, self.dims
        if not isinstance(input, Tensor):
            raise ArgumentTypeError(
                build(where, "a tensor", type(input).__name__, hint="Call torch.as_tensor on it first.")
            )
        shape = tuple(input.shape)
        if input.dim() not in (dims + 1, dims + 2):
            letters = ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"
            expects = f"x of shape (N, C, {letters}) or (C, {letters})"
            raise ShapeError(build(where, expects, shape, hint="Add or drop axes with unsqueeze or flatten."))
        if shape[-dims - 1] != self.channels:
            hint = f"Set channels={shape[-dims - 1]}, or look at what comes before."
            raise ShapeError(build(where, f"{self.channels} channels", shape[-dims - 1], hint=hint, x=shape))
        before, after = (self.size - 1) // 2, self.size // 2
        least = {"reflect": after + 1, "circular": after}.get(self.padding_mode, 1)
        if min(shape[-dims:]) < least:
            hint = "Choose a smaller size, or padding_mode='replicate'."
            raise ShapeError(
                build(where, f"at least {least} values on each axis", min(shape[-dims:]), hint=hint, x=shape)
            )
        padded = pad(input, [before] * dims, [after] * dims, self.padding_mode)
        return conv(padded, self.filter, None, self.stride, 0, 1, self.channels, dims=dims, where=where)

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, stride={self.stride}, padding_mode={self.padding_mode!r}"


class BlurPool1d(_BlurPool, dims=1):
    pass


class BlurPool2d(_BlurPool, dims=2):
    pass


class BlurPool3d(_BlurPool, dims=3):
    pass
