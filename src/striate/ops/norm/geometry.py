"""Which axes of x a norm reduces: its statistics are a mean and a variance for each set of values measured together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["ACTIVATIONS", "CHANNELS", "ELEMENTS", "POSITIONS", "reduction_axes", "statistics_count"]

# The core's codes for the axes that are reduced, and so for the shape of γ and β (csrc/bindings/norm.cpp):
CHANNELS = 0  # reduces the samples of a batch, the channels of a group and all positions; γ, β have a value a channel
ELEMENTS = 1  # reduces a row of elements; γ, β have a value for each element of a row
POSITIONS = 2  # reduces the channels at one position of one sample; γ, β have a value a channel
# The core's codes for activations. It has none for SiLU, which torch's operator computes after the kernel.
ACTIVATIONS = {None: 0, "relu": 1, "leaky_relu": 2, "relu6": 3, "silu": 0}


def statistics_count(x: Tensor, batches: Any, groups: Any, reduction: int) -> Any:
    """How many means and variances there are.

    >>> import torch
    >>> x = torch.ones(2, 6, 4, 4)
    >>> [statistics_count(x, 2, 3, reduction) for reduction in (CHANNELS, ELEMENTS, POSITIONS)]
    [6, 2, 32]
    """
    if reduction == POSITIONS:
        count = x.shape[0]
        for size in x.shape[2:]:
            count = count * size
        return count
    return batches if reduction == ELEMENTS else batches * groups


def reduction_axes(
    x: Tensor, batches: int, groups: int, reduction: int
) -> tuple[list[int], list[int], list[int], list[int]]:
    """The arguments of :mod:`striate.reference.norm`: the shape to which x is brought, the axes that are reduced, the
    axes by which γ and β vary, and the shape of γ and β.

    >>> import torch
    >>> reduction_axes(torch.ones(2, 6, 4, 4), 2, 3, CHANNELS)
    ([2, 1, 3, 2, -1], [1, 3, 4], [2, 3], [3, 2])
    """
    if reduction == ELEMENTS:
        shape, reduced, affine = [batches, -1], [1], [1]
    elif reduction == POSITIONS:
        shape, reduced, affine = [*x.shape[:2], -1], [1], [1]
    else:
        shape = [batches, x.shape[0] // batches, groups, x.shape[1] // groups, -1]
        reduced, affine = [1, 3, 4], [2, 3]
    return shape, reduced, affine, [x.reshape(shape).shape[d] for d in affine]
