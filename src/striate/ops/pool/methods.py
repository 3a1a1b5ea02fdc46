"""The methods of pooling: striate's kernels, torch's operators, the reference."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reference import pool as reference
from ...window import Axis, output_size
from .. import gate
from ..dispatch import Candidate, always
from ..layout import is_channels_last, owned
from .autograd import avg_pool_native, max_pool_index, max_pool_offset
from .geometry import PoolGeometry

__all__ = ["AVG_METHODS", "MAX_METHODS", "TORCH_ADAPTIVE_AVG", "TORCH_ADAPTIVE_MAX", "TORCH_AVG", "TORCH_MAX"]

_ops = torch.ops.striate


def _batched(x: Tensor, p: PoolGeometry) -> Tensor:
    return x if x.dim() == len(p.input) + 2 else x.unsqueeze(0)


def _gives_channels_last(x: Tensor, p: PoolGeometry, mean_or_adaptive: bool) -> bool:
    """Whether torch's operator would return channels_last. Its operators differ: with one axis only means and adaptive
    windows keep that order, with two axes all do, with three axes all but means and adaptive windows. Without a batch
    axis those of one and two axes do not.
    """
    dims = len(p.input)
    if dims == 3 and x.dim() == 4:
        return (
            not mean_or_adaptive
            and not x.is_contiguous()
            and x.unsqueeze(0).is_contiguous(memory_format=torch.channels_last_3d)
        )
    if dims == 3:
        return not mean_or_adaptive and is_channels_last(x)
    if x.dim() == dims + 1 or (dims == 1 and not mean_or_adaptive):
        return False
    return is_channels_last(x if dims == 2 else x.unsqueeze(2))


def _native_refusal(closed: gate.Closed | None, x: Tensor, p: PoolGeometry, *rest: Any) -> str | None:
    if closed is not None:
        return closed.reason
    if 0 in p.output:
        return "kernels need at least one output"
    if p.wide and prod(p.input) >= 2**31:
        return "the kernel for wide windows counts fewer than 2^31 places in a plane"
    return None


def _native_max(closed: Any, x: Tensor, p: PoolGeometry, indices: bool) -> tuple[Tensor, Tensor | None]:
    batch = _batched(x, p)
    channels_last = _gives_channels_last(x, p, p.adaptive)
    window = (p.size, p.stride, p.dilation, p.before, channels_last)
    index: Tensor | None
    if p.wide:
        y, index = max_pool_index(batch, p.output, *window)
    else:
        keep_offsets = indices or (x.requires_grad and torch.is_grad_enabled())
        y, offset = max_pool_offset(batch, p.output, *window, keep_offsets)
        index = _ops.offset_to_index.default(offset, p.input, *window) if indices else None
    if batch is x:
        return y, index
    return owned(Tensor.squeeze, y, 0), None if index is None else owned(Tensor.squeeze, index, 0)


def _native_avg(
    closed: Any, x: Tensor, p: PoolGeometry, count_include_pad: bool, divisor_override: int | None
) -> Tensor:
    batch = _batched(x, p)
    channels_last = _gives_channels_last(x, p, True)
    window = (p.size, p.stride, p.before, p.after, channels_last)
    y = avg_pool_native(batch, p.output, *window, count_include_pad, divisor_override)
    return y if batch is x else owned(Tensor.squeeze, y, 0)


def _torch_refusal(closed: Any, x: Tensor, p: PoolGeometry, *rest: Any) -> str | None:
    if not p.symmetric:
        return "torch's operator pads both sides alike"
    if any(2 * pad > k for pad, k in zip(p.before, p.size, strict=True)) and not p.adaptive:
        return "torch's operator pads at most half the kernel"
    return None


def _torch_avg_refusal(
    closed: Any, x: Tensor, p: PoolGeometry, count_include_pad: bool, divisor_override: int | None
) -> str | None:
    if len(p.input) == 1 and divisor_override is not None:
        return "torch's avg_pool1d takes no divisor_override"
    return _torch_refusal(closed, x, p)


def _torch_max_refusal(closed: Any, x: Tensor, p: PoolGeometry, *rest: Any) -> str | None:
    axes = zip(p.input, p.dilation, p.before, strict=True)
    if not p.adaptive and any(before > 0 and dilation > input for input, dilation, before in axes):
        return "torch's operator writes outside the gradient where a window may see padding alone"
    return _torch_refusal(closed, x, p)


TORCH_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
TORCH_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
TORCH_ADAPTIVE_MAX: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
TORCH_ADAPTIVE_AVG: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _ceil_mode(p: PoolGeometry) -> bool:
    return any(
        a.output != output_size(a.input, a.size, a.stride, a.dilation, a.before, a.after)
        for a in p.window
        if isinstance(a, Axis)
    )


def _torch_max(closed: Any, x: Tensor, p: PoolGeometry, indices: bool) -> tuple[Tensor, Tensor | None]:
    dims = len(p.input)
    if p.adaptive:
        got = TORCH_ADAPTIVE_MAX[dims](x, p.output, return_indices=indices)
    else:
        rest = (p.size, p.stride, p.before, p.dilation, _ceil_mode(p))
        got = TORCH_MAX[dims](x, *rest, return_indices=indices)
    return got if indices else (got, None)


def _torch_avg(
    closed: Any, x: Tensor, p: PoolGeometry, count_include_pad: bool, divisor_override: int | None
) -> Tensor:
    dims = len(p.input)
    if p.adaptive:
        return TORCH_ADAPTIVE_AVG[dims](x, p.output)
    if dims == 1:
        return TORCH_AVG[dims](x, p.size, p.stride, p.before, _ceil_mode(p), count_include_pad)
    return TORCH_AVG[dims](x, p.size, p.stride, p.before, _ceil_mode(p), count_include_pad, divisor_override)


def _reference_max(closed: Any, x: Tensor, p: PoolGeometry, indices: bool) -> tuple[Tensor, Tensor | None]:
    batch = _batched(x, p)
    y, index = reference.max_pool(batch, p.window)
    shape = y.shape if batch is x else y.shape[1:]
    return owned(Tensor.reshape, y, shape), owned(Tensor.reshape, index, shape)


def _reference_avg(
    closed: Any, x: Tensor, p: PoolGeometry, count_include_pad: bool, divisor_override: int | None
) -> Tensor:
    batch = _batched(x, p)
    y = reference.avg_pool(batch, p.window, count_include_pad, divisor_override)
    return y if batch is x else owned(Tensor.squeeze, y, 0)


MAX_METHODS = (
    Candidate("native", _native_refusal, _native_max),
    Candidate("torch", _torch_max_refusal, _torch_max),
    Candidate("reference", always, _reference_max),
)
AVG_METHODS = (
    Candidate("native", _native_refusal, _native_avg),
    Candidate("torch", _torch_avg_refusal, _torch_avg),
    Candidate("reference", always, _reference_avg),
)
