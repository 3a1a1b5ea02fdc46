"""Memory order: torch's rule for four and five dimensions, and the same for three. And whose memory it is: see :func:`owned`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .. import _torch

__all__ = ["empty", "is_channels_last", "owned"]

def owned(view: Callable[..., Tensor], y: Tensor, *arguments: Any) -> Tensor:
    """``view(y, *arguments)`` of a tensor that nobody else has, as a tensor of its own: autograd takes it for no view.

    A view that was made without gradients, or in an ``autograd.Function``, may not be changed in place where there are gradients, and what
    an operation gives is to be changed as torch's may. Only for what no node has kept for backward: changes of it would not be noticed.

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
    """Whether the output of an operation on ``x`` is channels_last: torch's rule, and the same for one axis.

    >>> is_channels_last(torch.empty(2, 3, 4, 4)), is_channels_last(torch.empty(2, 4, 3).transpose(1, 2))
    (False, True)
    """
    if x.is_contiguous():
        return False
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last) or _channels_vary_fastest(x)
    if x.dim() == 5:
        return x.is_contiguous(memory_format=torch.channels_last_3d) or _channels_vary_fastest(x)
    return x.dim() == 3 and x.transpose(1, 2).is_contiguous()


def _channels_vary_fastest(x: Tensor) -> bool:
    # A slice of a channels_last tensor still is one: strides fall from the batch over the axes to the channels.
    order = [1, *range(x.dim() - 1, 1, -1), 0]
    strides = [x.stride(d) for d in order]
    return x.stride(1) > 0 and all(a <= b for a, b in pairwise(strides)) and x.stride(1) < x.stride(-1)


def empty(x: Tensor, sizes: Sequence[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """A tensor laid out as the kernels lay it out.

    >>> is_channels_last(empty(torch.empty(0), [2, 3, 4], torch.float32, True))
    True
    """
    if channels_last and len(sizes) == 3:
        return x.new_empty_strided(sizes, [sizes[1] * sizes[2], 1, sizes[1]], dtype=dtype)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return torch.empty(sizes, dtype=dtype, device=x.device, memory_format=formats[len(sizes)] if channels_last else torch.contiguous_format)
