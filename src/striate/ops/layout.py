"""Memory order: torch's rule for four and five dimensions, and the same for three."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["empty", "is_channels_last"]


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
    """For tracing: a tensor laid out as the kernels lay it out.

    >>> is_channels_last(empty(torch.empty(0), [2, 3, 4], torch.float32, True))
    True
    """
    if channels_last and len(sizes) == 3:
        return x.new_empty([sizes[0], sizes[2], sizes[1]], dtype=dtype).transpose(1, 2)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return torch.empty(sizes, dtype=dtype, device=x.device, memory_format=formats[len(sizes)] if channels_last else torch.contiguous_format)
