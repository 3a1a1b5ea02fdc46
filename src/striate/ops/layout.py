"""The memory format of an operation's output, by torch's rule, and outputs that autograd takes for no views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _torch

__all__ = ["FORMATS", "empty", "is_channels_last", "owned"]

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions; torch has no others


def owned(view: Callable[..., Tensor], y: Tensor, *arguments: Any) -> Tensor:
    """``view(y, *arguments)`` as a tensor that autograd does not take for a view; nobody else may hold y.

    Autograd forbids to change a view in place where gradients are recorded, if the view was made without gradients or
    in an ``autograd.Function``. The output of an operation must allow it, as the output of torch's does. Use this only
    where no node has saved y for backward: autograd would not notice that it was changed.

    >>> with torch.no_grad():
    ...     torch.ones(1, 2).squeeze(0)._is_view(), owned(torch.Tensor.squeeze, torch.ones(1, 2), 0)._is_view()
    (True, False)
    """
    if not isinstance(y, Tensor):  # a tracer's proxy
        return getattr(y, view.__name__)(*arguments)
    if torch.compiler.is_compiling() or type(y) is not Tensor or not _torch.is_plain_eager():
        return view(y, *arguments)
    with _torch.without_views():
        return view(y, *arguments)


def is_channels_last(x: Tensor) -> bool:
    """Whether the output of an operation on ``x`` is channels_last, which follows from the strides of x.

    They decide it for a single channel or position too, and for a slice of a tensor. There is no such memory format for
    one axis.

    >>> is_channels_last(torch.empty(2, 3, 4, 4)), is_channels_last(torch.empty(2, 4, 4, 3).movedim(-1, 1))
    (False, True)
    """
    if x.dim() not in FORMATS:
        return False
    sizes, strides = x.shape, x.stride()
    if strides[1] == 0 or strides[-1] < strides[1] * sizes[1]:  # this alone decides most calls
        return False
    if len(sizes) == 4:  # the same as below without the loop, which takes three times as long
        _, c, h, w = sizes
        last, _, down, right = strides
        return bool(c and h and w and sizes[0] and down >= right * w and last >= down * h and down * h != strides[1])
    least = 0
    # from the channels over the axes to the batch: no stride may be smaller than the extent of the dimension before
    for d in (1, *range(x.dim() - 1, 1, -1), 0):
        if sizes[d] == 0 or strides[d] < least or (d == 0 and least == strides[1]):
            return False
        least = strides[d] * max(1, sizes[d])
    return True


def empty(x: Tensor, sizes: Sequence[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """An uninitialized tensor with the memory order that the kernels give to their outputs.

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
