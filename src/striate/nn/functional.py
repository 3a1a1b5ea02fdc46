"""A drop-in for ``torch.nn.functional``: has all its public names, some of them striate's, with the same signatures.

>>> import torch
>>> max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten()
tensor([ 5.,  7., 13., 15.])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as _F
from torch import Tensor
from torch.nn.functional import *  # noqa: F403

from ..ops import conv as _conv
from ..ops import linear as _linear
from ..ops import pool as _pool
from ..ops.local_response import local_response_norm as local_response_norm

# These functions have torch's signatures already.
from ..ops.norm import batch_norm as batch_norm
from ..ops.norm import group_norm as group_norm
from ..ops.norm import instance_norm as instance_norm
from ..ops.norm import layer_norm as layer_norm
from ..ops.norm import rms_norm as rms_norm

for _name in dir(_F):
    if not _name.startswith("_"):
        globals().setdefault(_name, getattr(_F, _name))


def _max(dims: int, indices: bool = False) -> Callable[..., Any]:
    where = f"max_pool{dims}d" + ("_with_indices" if indices else "")

    def max_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        both = return_indices or indices
        return _pool.max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, both, dims=dims, where=where)

    return _named(max_pool, where, _pool.max_pool)


def _avg(dims: int) -> Callable[..., Tensor]:
    where = f"avg_pool{dims}d"

    def avg_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        return _pool.avg_pool(
            input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dims=dims, where=where
        )

    return _named(avg_pool, where, _pool.avg_pool)


def _adaptive_max(dims: int, indices: bool = False) -> Callable[..., Any]:
    where = f"adaptive_max_pool{dims}d" + ("_with_indices" if indices else "")

    def adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        return _pool.adaptive_max_pool(input, output_size, return_indices or indices, dims=dims, where=where)

    return _named(adaptive_max_pool, where, _pool.adaptive_max_pool)


def _adaptive_avg(dims: int) -> Callable[..., Tensor]:
    where = f"adaptive_avg_pool{dims}d"

    def adaptive_avg_pool(input: Tensor, output_size: Any) -> Tensor:
        return _pool.adaptive_avg_pool(input, output_size, dims=dims, where=where)

    return _named(adaptive_avg_pool, where, _pool.adaptive_avg_pool)


def _convolution(dims: int) -> Callable[..., Tensor]:
    where = f"conv{dims}d"

    def conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        return _conv.conv(input, weight, bias, stride, padding, dilation, groups, dims=dims, where=where)

    return _named(conv, where, _conv.conv)


def _transposed(dims: int) -> Callable[..., Tensor]:
    where = f"conv_transpose{dims}d"

    def conv_transpose(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        return _conv.conv_transpose(
            input, weight, bias, stride, padding, output_padding, groups, dilation, dims=dims, where=where
        )

    return _named(conv_transpose, where, _conv.conv_transpose)


def _linear_function() -> Callable[..., Tensor]:
    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _linear.linear(input, weight, bias)

    return _named(linear, "linear", _linear.linear)


def _named(function: Callable[..., Any], name: str, documented: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = (documented.__doc__ or "").split("\n\n")[0]
    return function


max_pool1d, max_pool2d, max_pool3d = (_max(d) for d in (1, 2, 3))
max_pool1d_with_indices, max_pool2d_with_indices, max_pool3d_with_indices = (_max(d, indices=True) for d in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (_avg(d) for d in (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (_adaptive_max(d) for d in (1, 2, 3))
adaptive_max_pool1d_with_indices, adaptive_max_pool2d_with_indices, adaptive_max_pool3d_with_indices = (
    _adaptive_max(d, indices=True) for d in (1, 2, 3)
)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (_adaptive_avg(d) for d in (1, 2, 3))
linear = _linear_function()
conv1d, conv2d, conv3d = (_convolution(d) for d in (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = (_transposed(d) for d in (1, 2, 3))
