"""Convolution and its transpose. Their kernels are to come: today the one candidate is torch's operator."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .choose import Candidate, always, choose

__all__ = ["conv", "conv_transpose"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

CONV_METHODS = (Candidate("torch", always, lambda dims, *arguments: _CONV[dims](*arguments)),)
TRANSPOSE_METHODS = (Candidate("torch", always, lambda dims, *arguments: _TRANSPOSE[dims](*arguments)),)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    dims: int,
) -> Tensor:
    """Cross-correlation: ``y[n, k, o] = b[k] + sum over c, t of w[k, c, t] · x[n, c, o·stride + t·dilation - before]``.

    x: (N, C, *axes), weight: (K, C / groups, *taps), bias: (K,); y: (N, K, *outputs).

    >>> import torch
    >>> conv(torch.ones(1, 3, 32, 32), torch.ones(10, 3, 5, 5), padding=2, dims=2).shape
    torch.Size([1, 10, 32, 32])
    """
    arguments = (dims, x, weight, bias, stride, padding, dilation, groups)
    return choose(CONV_METHODS, *arguments)(*arguments)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    dims: int,
) -> Tensor:
    """The adjoint of :func:`conv` in x, a layer of its own. x: (N, C, *axes), weight: (C, K / groups, *taps).

    >>> import torch
    >>> conv_transpose(torch.ones(1, 8, 16, 16), torch.ones(8, 4, 2, 2), stride=2, dims=2).shape
    torch.Size([1, 4, 32, 32])
    """
    arguments = (dims, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return choose(TRANSPOSE_METHODS, *arguments)(*arguments)
