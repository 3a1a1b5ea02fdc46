"""The gradients of pooling's operators, and their fake kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...reference import pool as reference
from ...window import AdaptiveAxis, Axis
from ..autograd import differentiable, fake
from ..layout import empty

__all__ = [
    *("avg_pool_backward", "avg_pool_native", "max_pool_index", "max_pool_index_backward", "max_pool_offset"),
    *("max_pool_offset_backward",),
]

_ops = torch.ops.striate


@fake("max_pool_offset")
def _(
    x: Any, output: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any, keep: Any
) -> Any:
    sizes = [*x.shape[:2], *output]
    offset = empty(x, sizes, torch.uint8, channels_last) if keep else x.new_empty([0], dtype=torch.uint8)
    return empty(x, sizes, x.dtype, channels_last), offset


@fake("max_pool_offset_backward")
def _(
    dy: Any, offset: Any, input: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any
) -> Any:
    return empty(dy, [*dy.shape[:2], *input], dy.dtype, channels_last)


@fake("offset_to_index")
def _(offset: Any, input: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any) -> Any:
    return empty(offset, offset.shape, torch.int64, channels_last)


@fake("max_pool_index")
def _(x: Any, output: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any) -> Any:
    sizes = [*x.shape[:2], *output]
    return empty(x, sizes, x.dtype, channels_last), empty(x, sizes, torch.int64, channels_last)


@fake("max_pool_index_backward")
def _(dy: Any, index: Any, input: Any, channels_last: Any) -> Any:
    return empty(dy, [*dy.shape[:2], *input], dy.dtype, channels_last)


@fake("avg_pool")
def _(
    x: Any, output: Any, size: Any, stride: Any, before: Any, after: Any, channels_last: Any, *divisor: Any
) -> Any:
    return empty(x, [*x.shape[:2], *output], x.dtype, channels_last)


@fake("avg_pool_backward")
def _(
    dy: Any, input: Any, size: Any, stride: Any, before: Any, after: Any, channels_last: Any, *divisor: Any
) -> Any:
    return empty(dy, [*dy.shape[:2], *input], dy.dtype, channels_last)


# Backward is linear in dy, so its gradient is its adjoint: gathering the values at forward's maxima, or averaging.


def _max_offset_setup(ctx: Any, inputs: Any, output: Any) -> Any:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)  # otherwise each backward would create zeros as the gradient of the offsets
    ctx.arguments = (list(inputs[0].shape[2:]), *inputs[2:7])
    ctx.mark_non_differentiable(output[1])


def _max_offset_backward(ctx: Any, dy: Any, _: Any) -> Any:
    (offset,) = ctx.saved_tensors
    if dy is None:
        return (None,) * 8
    return max_pool_offset_backward(dy, offset, *ctx.arguments), *[None] * 7


def _max_offset_formula(ctx: Any, dy: Any, _: Any) -> Any:
    (offset,) = ctx.saved_tensors
    if dy is None:
        return (None,)
    return (reference.max_pool_backward(dy, _positions(offset, *ctx.arguments), ctx.arguments[0]),)


def _max_offset_backward_setup(ctx: Any, inputs: Any, output: Any) -> Any:
    ctx.save_for_backward(inputs[1])
    ctx.arguments = inputs[2:]


def _max_offset_double_backward(ctx: Any, ddx: Any) -> Any:
    (offset,) = ctx.saved_tensors
    return _pick(ddx, _ops.offset_to_index.default(offset, *ctx.arguments)), *[None] * 7


def _max_index_setup(ctx: Any, inputs: Any, output: Any) -> Any:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)
    ctx.arguments = (list(inputs[0].shape[2:]), inputs[-1])
    ctx.mark_non_differentiable(output[1])


def _max_index_backward(ctx: Any, dy: Any, _: Any) -> Any:
    (index,) = ctx.saved_tensors
    if dy is None:
        return (None,) * 7
    return max_pool_index_backward(dy, index, *ctx.arguments), *[None] * 6


def _max_index_formula(ctx: Any, dy: Any, _: Any) -> Any:
    (index,) = ctx.saved_tensors
    return (None if dy is None else reference.max_pool_backward(dy, index, ctx.arguments[0]),)


def _max_index_backward_setup(ctx: Any, inputs: Any, output: Any) -> Any:
    ctx.save_for_backward(inputs[1])


def _max_index_double_backward(ctx: Any, ddx: Any) -> Any:
    (index,) = ctx.saved_tensors
    return _pick(ddx, index), None, None, None


def _axes(input: Any, output: Any, size: Any, stride: Any, before: Any, after: Any) -> Any:
    axes = zip(input, output, size, stride, before, after, strict=True)
    return tuple(Axis(i, o, k, s, 1, b, a) if k else AdaptiveAxis(i, o) for i, o, k, s, b, a in axes)


def _avg_setup(ctx: Any, inputs: Any, output: Any) -> Any:
    ctx.input, ctx.arguments = list(inputs[0].shape[2:]), inputs[2:]


def _avg_backward(ctx: Any, dy: Any) -> Any:
    return avg_pool_backward(dy, ctx.input, *ctx.arguments), *[None] * 8


def _avg_formula(ctx: Any, dy: Any) -> Any:
    *geometry, _, count_include_pad, divisor = ctx.arguments
    return (reference.avg_pool_backward(dy, _axes(ctx.input, dy.shape[2:], *geometry), count_include_pad, divisor),)


def _avg_backward_setup(ctx: Any, inputs: Any, output: Any) -> Any:
    ctx.output, ctx.arguments = list(inputs[0].shape[2:]), inputs[2:]


def _avg_double_backward(ctx: Any, ddx: Any) -> Any:
    return avg_pool_native(ddx, ctx.output, *ctx.arguments), *[None] * 8


def _avg_double_formula(ctx: Any, ddx: Any) -> Any:
    *geometry, _, count_include_pad, divisor = ctx.arguments
    return (reference.avg_pool(ddx, _axes(ddx.shape[2:], ctx.output, *geometry), count_include_pad, divisor),)


def _positions(
    offset: Tensor, input: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any
) -> Tensor:
    """Converts the taps' numbers in ``offset`` to positions in the plane: ``striate::offset_to_index`` in torch's
    operators.
    """
    tap, index, pitch = offset.long(), torch.zeros((), dtype=torch.long), 1
    for k in reversed(range(len(size))):
        outputs = torch.arange(offset.shape[2 + k]).view(-1, *[1] * (len(size) - 1 - k))
        index = index + pitch * (outputs * stride[k] - before[k] + tap % size[k] * dilation[k])
        tap, pitch = tap // size[k], pitch * input[k]
    return index


def _pick(x: Tensor, index: Tensor) -> Tensor:
    picked = x.flatten(2).gather(2, index.flatten(2).clamp(min=0)).view(index.shape)
    return picked.masked_fill(index < 0, 0)


max_pool_offset = differentiable("max_pool_offset", _max_offset_setup, _max_offset_backward, _max_offset_formula)
max_pool_index = differentiable("max_pool_index", _max_index_setup, _max_index_backward, _max_index_formula)
avg_pool_native = differentiable("avg_pool", _avg_setup, _avg_backward, _avg_formula)
max_pool_offset_backward = differentiable(
    "max_pool_offset_backward",
    _max_offset_backward_setup,
    _max_offset_double_backward,
    _max_offset_double_backward,
)
max_pool_index_backward = differentiable(
    "max_pool_index_backward",
    _max_index_backward_setup,
    _max_index_double_backward,
    _max_index_double_backward,
)
avg_pool_backward = differentiable(
    "avg_pool_backward", _avg_backward_setup, _avg_double_backward, _avg_double_formula
)
