"""Convolution layers: drop-ins for torch.nn's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import conv as ops

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _Conv:
    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return ops.conv(input, weight, bias, self.stride, padding, self.dilation, self.groups, dims=len(self.kernel_size))


class _ConvTranspose:
    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        dims = len(self.kernel_size)
        extra = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation)
        return ops.conv_transpose(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation, dims=dims)


class Conv1d(_Conv, torch.nn.Conv1d):
    """Convolution over one axis; arguments, shapes and state as in ``torch.nn``. Formula: :func:`striate.ops.conv.conv`.

    >>> Conv1d(3, 1, 3, stride=2)(torch.ones(1, 3, 5)).shape
    torch.Size([1, 1, 2])
    """


class Conv2d(_Conv, torch.nn.Conv2d):
    """Convolution over two axes; arguments, shapes and state as in ``torch.nn``. Formula: :func:`striate.ops.conv.conv`.

    >>> Conv2d(3, 10, 5, padding=2)(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 10, 32, 32])
    """


class Conv3d(_Conv, torch.nn.Conv3d):
    """Convolution over three axes; arguments, shapes and state as in ``torch.nn``. Formula: :func:`striate.ops.conv.conv`.

    >>> Conv3d(1, 2, 3)(torch.ones(1, 1, 4, 4, 4)).shape
    torch.Size([1, 2, 2, 2, 2])
    """


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d):
    """The adjoint of a convolution over one axis; arguments, shapes and state as in ``torch.nn``.

    >>> ConvTranspose1d(2, 1, 2, stride=2)(torch.ones(1, 2, 4)).shape
    torch.Size([1, 1, 8])
    """


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d):
    """The adjoint of a convolution over two axes; arguments, shapes and state as in ``torch.nn``.

    >>> ConvTranspose2d(2, 1, 2, stride=2)(torch.ones(1, 2, 4, 4)).shape
    torch.Size([1, 1, 8, 8])
    """


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d):
    """The adjoint of a convolution over three axes; arguments, shapes and state as in ``torch.nn``.

    >>> ConvTranspose3d(2, 1, 2, stride=2)(torch.ones(1, 2, 2, 2, 2)).shape
    torch.Size([1, 1, 4, 4, 4])
    """
