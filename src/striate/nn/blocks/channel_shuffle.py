"""Mixes the channels of groups."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...errors import ArgumentTypeError, ShapeError, build
from ...ops import gate
from ...ops.arguments import whole
from ...ops.layout import FORMATS, is_channels_last, owned
from ..namesake import Namesake

__all__ = ["ChannelShuffle"]


class ChannelShuffle(Namesake, torch.nn.ChannelShuffle):
    r"""Mixes the channels of groups: G groups of C/G consecutive channels become C/G groups of G.

    .. math:: y[n, j·G + g] = x[n, g·C/G + j]

    It exchanges the two middle axes of (N, G, C/G, \*). Arguments as in ``torch.nn``; the memory format is preserved.

    Shapes: x (N, C, \*); y likewise. No parameters, no MACs.

    Raises ArgumentError or ArgumentTypeError for groups below 1, ShapeError where they do not divide C.

    Source: Zhang et al., *ShuffleNet*, 2018.

    >>> ChannelShuffle(2)(torch.arange(6.0).view(1, 6, 1)).flatten()
    tensor([0., 3., 1., 4., 2., 5.])
    """

    @functools.wraps(torch.nn.ChannelShuffle.__init__)  # type: ignore[misc]  # for its signature
    def __init__(self, groups: int) -> None:
        super().__init__(whole(groups, "groups", type(self).__name__))

    def _compute(self, input: Tensor) -> Tensor:
        where = type(self).__name__
        if not isinstance(input, Tensor):
            raise ArgumentTypeError(
                build(where, "a tensor", type(input).__name__, hint="Call torch.as_tensor on it first.")
            )
        if input.dim() < 3:
            raise ShapeError(
                build(where, "x of shape (N, C, *axes)", tuple(input.shape), hint="Add axes with unsqueeze.")
            )
        channels = input.shape[1]
        if channels % self.groups:
            expects = f"channels that {self.groups} groups divide"
            raise ShapeError(
                build(where, expects, channels, hint="Choose groups that divide them.", x=tuple(input.shape))
            )
        if channels == 0 or self.groups in (1, channels):  # the order is the same: returns a copy
            return input.clone(
                memory_format=FORMATS[input.dim()] if is_channels_last(input) else torch.contiguous_format
            )
        if not gate.is_open(input):
            return torch.nn.ChannelShuffle.forward(self, input)
        if is_channels_last(input):
            shuffled = input.movedim(1, -1).unflatten(-1, (self.groups, -1)).transpose(-1, -2)
            return owned(Tensor.movedim, shuffled.flatten(-2), -1, 1)
        # without contiguous() the output for an expanded input would be a view of it
        return input.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2).contiguous()
