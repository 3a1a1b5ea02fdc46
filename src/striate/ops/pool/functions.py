"""The functions that pooling layers call."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError, build
from .. import gate, torch_calls
from ..arguments import LARGEST, as_int, is_int
from ..dispatch import choose
from ..geometry import Sizes
from .geometry import adaptive_geometry_for, geometry_for
from .methods import AVG_METHODS, MAX_METHODS, TORCH_ADAPTIVE_AVG, TORCH_ADAPTIVE_MAX, TORCH_AVG, TORCH_MAX

__all__ = ["adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool"]


def max_pool(
    x: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    dims: int,
    where: str = "max_pool",
) -> Any:
    """Maximum over each window: ``y[o] = max over t of x[o·stride + t·dilation - before]``; padding never wins.

    x: (N, C, *axes) or (C, *axes) of ``dims`` axes; returns y, or (y, index) with the maximum's position in its plane.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no window can have.

    >>> max_pool(torch.tensor([[[1.0, 3.0, 2.0, 5.0]]]), 2, dims=1, return_indices=True)
    (tensor([[[3., 5.]]]), tensor([[[1, 3]]]))
    """
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        x, padding = _padded_same(x, kernel_size, stride, padding, dilation, dims, -inf)
        arguments: Any = (x, kernel_size, stride, padding, dilation, ceil_mode)
        return TORCH_MAX[dims](*arguments, return_indices=return_indices)
    geometry = geometry_for(x, dims, kernel_size, stride, padding, dilation, ceil_mode, where)
    y, index = choose(MAX_METHODS, closed, x, geometry)(closed, x, geometry, return_indices)
    return (y, index) if return_indices else y


def avg_pool(
    x: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes | str = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dims: int,
    where: str = "avg_pool",
) -> Tensor:
    """Mean over each window: ``y[o] = (sum over t of x[o·stride + t - before]) / divisor``.

    The divisor is ``divisor_override``, or the taps inside input and padding, or (``count_include_pad=False``) inside
    the input alone. x: (N, C, *axes) or (C, *axes) of ``dims`` axes.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no window can have.

    >>> avg_pool(torch.tensor([[[1.0, 3.0, 2.0, 5.0]]]), 2, dims=1)
    tensor([[[2.0000, 3.5000]]])
    """
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        return _avg_unchecked(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dims)
    geometry = geometry_for(x, dims, kernel_size, stride, padding, 1, ceil_mode, where)
    if divisor_override is not None:
        divisor_override, hint = as_int(divisor_override), "Leave it out to divide by the window's taps."
        if not is_int(divisor_override):
            expects = "divisor_override to be an integer or None"
            raise ArgumentTypeError(build(where, expects, repr(divisor_override), hint=hint, x=tuple(x.shape)))
        if not 0 < abs(divisor_override) <= LARGEST:
            expects = "divisor_override other than 0 and within 2^62"
            raise ArgumentError(build(where, expects, divisor_override, hint=hint, x=tuple(x.shape)))
    arguments = (closed, x, geometry, bool(count_include_pad), divisor_override)
    return choose(AVG_METHODS, *arguments)(*arguments)


def adaptive_max_pool(
    x: Tensor, output_size: Any, return_indices: bool = False, *, dims: int, where: str = "adaptive_max_pool"
) -> Any:
    """Maximum over windows that cover the input evenly: output o looks at ``[⌊o·I/O⌋, ⌈(o+1)·I/O⌉)``.

    >>> adaptive_max_pool(torch.tensor([[[1.0, 3.0, 2.0, 5.0, 4.0]]]), 2, dims=1)
    tensor([[[3., 5.]]])
    """
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        return TORCH_ADAPTIVE_MAX[dims](x, output_size, return_indices=return_indices)
    geometry = adaptive_geometry_for(x, dims, output_size, where)
    y, index = choose(MAX_METHODS, closed, x, geometry)(closed, x, geometry, return_indices)
    return (y, index) if return_indices else y


def adaptive_avg_pool(x: Tensor, output_size: Any, *, dims: int, where: str = "adaptive_avg_pool") -> Tensor:
    """Mean over windows that cover the input evenly: output o looks at ``[⌊o·I/O⌋, ⌈(o+1)·I/O⌉)``.

    >>> adaptive_avg_pool(torch.tensor([[[1.0, 3.0, 2.0, 5.0, 4.0]]]), 2, dims=1)
    tensor([[[2.0000, 3.6667]]])
    """
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        return TORCH_ADAPTIVE_AVG[dims](x, output_size)
    geometry = adaptive_geometry_for(x, dims, output_size, where)
    return choose(AVG_METHODS, closed, x, geometry, True, None)(closed, x, geometry, True, None)


# ------------------------------------------------------------------------------------------------------- symbolic sizes


def _padded_same(
    x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, dims: int, fill: float
) -> tuple[Any, Any]:
    """For symbolic sizes: pads x if ``padding`` is "same", and returns it with the padding that is left to torch's
    operator.
    """
    if padding != "same":
        return x, 0 if padding == "valid" else padding
    each = [v if isinstance(v, list | tuple) else (v,) * dims for v in (kernel_size, stride or kernel_size, dilation)]
    return F.pad(x, torch_calls.pad_list(torch_calls.same_pads(x, *each)), value=fill), 0


def _avg_unchecked(
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
    dims: int,
) -> Any:
    # torch's operator counts the zeros of F.pad as values of x
    if padding == "same" and not count_include_pad and divisor_override is None:
        total = _avg_unchecked(x, kernel_size, stride, padding, ceil_mode, True, None, dims)
        return total / _avg_unchecked(torch.ones_like(x), kernel_size, stride, padding, ceil_mode, True, None, dims)
    x, padding = _padded_same(x, kernel_size, stride, padding, 1, dims, 0.0)
    if dims == 1 and divisor_override is None:
        return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
    if dims == 1:
        taps = kernel_size[0] if isinstance(kernel_size, list | tuple) else kernel_size
        return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, True) * (taps / divisor_override)
    return TORCH_AVG[dims](x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
