"""Memory order, by torch's rule. And whose memory it is: see :func:`owned`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _torch

__all__ = ["FORMATS", "empty", "is_channels_last", "owned"]

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions; torch has none for others


def owned(view: Callable[..., Tensor], y: Tensor, *arguments: Any) -> Tensor:
    """``view(y, *arguments)`` of a tensor that nobody else has, as a tensor of its own: autograd takes it for no view.

    A view that was made without gradients, or in an ``autograd.Function``, may not be changed in place where there are
    gradients, and what an operation gives is to be changed as torch's may. Only for what no node has kept for backward:
    changes of it would not be noticed.

    >>> with torch.no_grad():
    ...     torch.ones(1, 2).squeeze(0)._is_view(), owned(torch.Tensor.squeeze, torch.ones(1, 2), 0)._is_view()
    (True, False)
    """
    if not isinstance(y, Tensor):  # a tracer's stand-in
        return getattr(y, view.__name__)(*arguments)
    if torch.compiler.is_compiling() or type(y) is not Tensor or not _torch.is_plain_eager():
        return view(y, *arguments)
    with _torch.without_views():
        return view(y, *arguments)


def is_channels_last(x: Tensor) -> bool:
    """Whether the output of an operation on ``x`` is channels_last: by its strides, which say it for a lone channel or
    place too, and for a part of a tensor. For one axis there is no such memory format.

    >>> is_channels_last(torch.empty(2, 3, 4, 4)), is_channels_last(torch.empty(2, 4, 4, 3).movedim(-1, 1))
    (False, True)
    """
    if x.dim() not in FORMATS:
        return False
    sizes, strides = x.shape, x.stride()
    if strides[1] == 0 or strides[-1] < strides[1] * sizes[1]:  # most are told by this alone
        return False
    if len(sizes) == 4:  # the same without a loop, which takes three times as long
        _, c, h, w = sizes
        last, _, down, right = strides
        return bool(c and h and w and sizes[0] and down >= right * w and last >= down * h and down * h != strides[1])
    least = 0
    # from the channels over the axes to the batch each reaches past the one before
    for d in (1, *range(x.dim() - 1, 1, -1), 0):
        if sizes[d] == 0 or strides[d] < least or (d == 0 and least == strides[1]):
            return False
        least = strides[d] * max(1, sizes[d])
    return True


def empty(x: Tensor, sizes: Sequence[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """A tensor laid out as the kernels lay it out.

    >>> empty(torch.empty(0), [2, 3, 4], torch.float32, True).stride()
    (12, 1, 3)
    """
    if channels_last and len(sizes) == 3:
        return x.new_empty_strided(sizes, [sizes[1] * sizes[2], 1, sizes[1]], dtype=dtype)
    return torch.empty(
        sizes,
        dtype=dtype,
        device=x.device,
        memory_format=FORMATS[len(sizes)] if channels_last else torch.contiguous_format,
    )
