"""Pooling: the maximum or the mean of x over a window's taps.

Arguments are checked and resolved into a :class:`~striate.window.Window` here, once for forward, backward and tracing;
the kernels get numbers that fit. Two forms of maximum: for windows of up to 256 taps the kernel keeps one byte an
output, the tap's number (*offset*), instead of torch's 8-byte position (*index*); wider and adaptive windows keep the
index.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import inf, prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import native
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..reference import pool as reference
from ..window import AdaptiveAxis, Axis, Window, output_size, same_padding
from . import gate, handover
from .arguments import LARGEST, as_int, as_ints, as_key, is_int, per_axis
from .autograd import differentiable
from .choose import Candidate, always, choose
from .layout import empty, is_channels_last, owned

__all__ = ["adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool"]

Sizes = int | Sequence[int]
MAX_TAPS = 256  # what a byte can number


class Plan(NamedTuple):
    """A call's geometry, resolved. Adaptive axes have size 0."""

    input: list[int]
    output: list[int]
    size: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]
    wide: bool  # a maximum is kept by index: too wide for byte offsets, of taps that vary, or a window may be empty
    adaptive: bool  # asked for by output size: torch has operators of their own for that
    window: Window | tuple[AdaptiveAxis, ...]

    @property
    def symmetric(self) -> bool:
        return self.before == self.after


# ------------------------------------------------------------------------------------------------------------ arguments


def _check_input(x: Tensor, dims: int, where: str) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(build(where, "a tensor", type(x).__name__, hint="Call torch.as_tensor on it first."))
    if x.dim() not in (dims + 1, dims + 2):
        axes = ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"
        raise ShapeError(
            build(
                where,
                f"x of shape (N, C, {axes}) or (C, {axes})",
                tuple(x.shape),
                hint="Add or drop axes with unsqueeze or flatten.",
            )
        )
    if any(s == 0 for s in x.shape[-dims - 1 :]):
        raise ShapeError(
            build(
                where,
                "at least one channel and one value on each axis",
                tuple(x.shape),
                hint="Only the batch may be empty.",
            )
        )
    if x.dtype is torch.bool or x.is_complex():
        raise DtypeError(
            build(
                where,
                "real numbers",
                str(x.dtype).removeprefix("torch."),
                hint="Convert x with .float() or .real.",
                x=tuple(x.shape),
            )
        )


def _plan(
    shape: tuple[int, ...],
    dims: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    where: str,
) -> Plan:
    """Resolves and checks a window over the last ``dims`` axes of ``shape``."""
    input = shape[-dims:]
    size = per_axis(kernel_size, dims, 1, "kernel_size", where, shape)
    left_out = stride is None or (isinstance(stride, list | tuple) and len(stride) == 0)
    steps = size if left_out else per_axis(stride, dims, 1, "stride", where, shape)
    holes = per_axis(dilation, dims, 1, "dilation", where, shape)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ArgumentError(
                build(
                    where,
                    'padding "same", "valid" or a number',
                    repr(padding),
                    hint='Use "same" for ceil(input / stride) outputs.',
                    x=shape,
                )
            )
        pads = [(0, 0) if padding == "valid" else same_padding(*a) for a in zip(input, size, steps, holes, strict=True)]
    else:
        pads = [(p, p) for p in per_axis(padding, dims, 0, "padding", where, shape)]
        for (p, _), k, d in zip(pads, size, holes, strict=True):
            if p > ((k - 1) * d + 1) // 2:
                expects = f"padding of at most half the window, {((k - 1) * d + 1) // 2}"
                raise ArgumentError(
                    build(
                        where,
                        expects,
                        p,
                        hint="Pad x with torch.nn.functional.pad first if windows of padding alone are meant.",
                        x=shape,
                    )
                )
    axes = []
    for i, k, s, d, (before, after) in zip(input, size, steps, holes, pads, strict=True):
        count = output_size(i, k, s, d, before, after, ceil_mode)
        if count < 1:
            extent = (k - 1) * d + 1
            expects = f"a window no larger than the padded input, {i + before + after}"
            raise ShapeError(
                build(where, expects, extent, hint="Make the kernel or its dilation smaller, or pad more.", x=shape)
            )
        axes.append(Axis(i, count, k, s, d, before, after))
    window = Window(tuple(axes))
    wide = prod(size) > MAX_TAPS or any((a.size - 1) * a.dilation >= 1024 for a in axes)
    # one that may miss the input has no tap to name; one that takes in much would be turned in much scratch memory
    wide = wide or any(a.before > 0 and a.dilation > a.input for a in axes)
    places = 1
    # depth by its taps, rows by their reach, columns by a tile of outputs more
    for axis, a in enumerate(axes, start=3 - dims):
        places *= a.size if axis == 0 else min(a.input, a.extent + (256 if axis == 2 else 0))
    wide = wide or places > 2**16
    before_all, after_all = list(window.before), list(window.after)
    return Plan(
        list(input),
        list(window.output),
        list(size),
        list(steps),
        list(holes),
        before_all,
        after_all,
        wide,
        False,
        window,
    )


def _adaptive_plan(shape: tuple[int, ...], dims: int, output: Any, where: str) -> Plan:
    """Resolves adaptive windows; where the input divides evenly they are an ordinary window."""
    input = shape[-dims:]
    sizes = as_ints(output)
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * dims
    if len(sizes) == 1:
        sizes *= dims
    if len(sizes) != dims or not all(o is None or is_int(o) for o in sizes):
        one = "an integer or None" if dims == 1 else f"one integer or None, or {dims}"
        raise ArgumentTypeError(
            build(where, f"output_size to be {one}", repr(output), hint="None keeps an axis as it is.", x=shape)
        )
    sizes = tuple(i if o is None else o for i, o in zip(input, sizes, strict=True))
    if any(not 0 <= o <= LARGEST for o in sizes):
        raise ArgumentError(
            build(
                where,
                "output_size from 0 to 2^62",
                output,
                hint="Choose how many values to keep on each axis.",
                x=shape,
            )
        )
    if prod(sizes) > 2**40:
        raise ArgumentError(
            build(where, "an output that fits memory", output, hint="Choose a smaller output_size.", x=shape)
        )
    if all(o > 0 and i % o == 0 for i, o in zip(input, sizes, strict=True)):
        size = tuple(i // o for i, o in zip(input, sizes, strict=True))
        plan = _plan(shape, dims, size, size, 0, 1, False, where)
        if not plan.wide:
            return plan._replace(adaptive=True)
    zeros, ones = [0] * dims, [1] * dims
    axes = tuple(AdaptiveAxis(i, o) for i, o in zip(input, sizes, strict=True))
    return Plan(list(input), list(sizes), zeros, ones, ones, zeros, zeros, True, True, axes)


_cached_plan = functools.lru_cache(maxsize=4096)(_plan)
_cached_adaptive_plan = functools.lru_cache(maxsize=4096)(_adaptive_plan)


def plan_for(
    x: Tensor, dims: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, where: str
) -> Plan:
    """The checks and geometry of one call, cached by shape and arguments."""
    _check_input(x, dims, where)
    if not torch.compiler.is_compiling():
        k, s, p, d = as_key(kernel_size), as_key(stride) or (), as_key(padding), as_key(dilation)
        if (
            k is not None
            and p is not None
            and d is not None
            and (s or stride is None)
            and all(type(n) is int for n in x.shape)
        ):
            return _cached_plan(tuple(x.shape), dims, k, s or None, p, d, bool(ceil_mode), where)
    return _plan(tuple(x.shape), dims, kernel_size, stride, padding, dilation, bool(ceil_mode), where)


def adaptive_plan_for(x: Tensor, dims: int, output_size: Any, where: str) -> Plan:
    _check_input(x, dims, where)
    if not torch.compiler.is_compiling():
        key = as_key(output_size)
        if key is not None and all(type(n) is int for n in x.shape):
            return _cached_adaptive_plan(tuple(x.shape), dims, key, where)
    return _adaptive_plan(tuple(x.shape), dims, output_size, where)


# ------------------------------------------------------------------------------------------------------------ operators

if native.core:
    _ops = torch.ops.striate

    @torch.library.register_fake("striate::max_pool_offset")
    def _(
        x: Any, output: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any, keep: Any
    ) -> Any:
        sizes = [*x.shape[:2], *output]
        offset = empty(x, sizes, torch.uint8, channels_last) if keep else x.new_empty([0], dtype=torch.uint8)
        return empty(x, sizes, x.dtype, channels_last), offset

    @torch.library.register_fake("striate::max_pool_offset_backward")
    def _(
        dy: Any, offset: Any, input: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any
    ) -> Any:
        return empty(dy, [*dy.shape[:2], *input], dy.dtype, channels_last)

    @torch.library.register_fake("striate::offset_to_index")
    def _(offset: Any, input: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any) -> Any:
        return empty(offset, offset.shape, torch.int64, channels_last)

    @torch.library.register_fake("striate::max_pool_index")
    def _(x: Any, output: Any, size: Any, stride: Any, dilation: Any, before: Any, channels_last: Any) -> Any:
        sizes = [*x.shape[:2], *output]
        return empty(x, sizes, x.dtype, channels_last), empty(x, sizes, torch.int64, channels_last)

    @torch.library.register_fake("striate::max_pool_index_backward")
    def _(dy: Any, index: Any, input: Any, channels_last: Any) -> Any:
        return empty(dy, [*dy.shape[:2], *input], dy.dtype, channels_last)

    @torch.library.register_fake("striate::avg_pool")
    def _(
        x: Any, output: Any, size: Any, stride: Any, before: Any, after: Any, channels_last: Any, *divisor: Any
    ) -> Any:
        return empty(x, [*x.shape[:2], *output], x.dtype, channels_last)

    @torch.library.register_fake("striate::avg_pool_backward")
    def _(
        dy: Any, input: Any, size: Any, stride: Any, before: Any, after: Any, channels_last: Any, *divisor: Any
    ) -> Any:
        return empty(dy, [*dy.shape[:2], *input], dy.dtype, channels_last)

    # Gradients. Backward is linear in dy, so its own gradient is its adjoint: picking what forward picked, or
    # averaging.

    def _max_offset_setup(ctx: Any, inputs: Any, output: Any) -> Any:
        ctx.save_for_backward(output[1])
        ctx.set_materialize_grads(False)  # or each backward would clear a tensor of zeros for the offsets
        ctx.arguments = (list(inputs[0].shape[2:]), *inputs[2:7])
        ctx.mark_non_differentiable(output[1])

    def _max_offset_backward(ctx: Any, dy: Any, _: Any) -> Any:
        (offset,) = ctx.saved_tensors
        if dy is None:
            return (None,) * 8
        return max_pool_offset_backward(dy, offset, *ctx.arguments), *[None] * 7

    def _max_offset_formula(ctx: Any, dy: Any, _: Any) -> Any:
        (offset,) = ctx.saved_tensors
        return (
            None
            if dy is None
            else reference.max_pool_backward(dy, _positions(offset, *ctx.arguments), ctx.arguments[0]),
        )

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
        """The positions in their planes of the taps that are numbered by offset: ``striate::offset_to_index`` in
        torch's operators.
        """
        tap, index, pitch = offset.long(), torch.zeros((), dtype=torch.long), 1
        for k in reversed(range(len(size))):
            along = torch.arange(offset.shape[2 + k]).view(-1, *[1] * (len(size) - 1 - k))
            index = index + pitch * (along * stride[k] - before[k] + tap % size[k] * dilation[k])
            tap, pitch = tap // size[k], pitch * input[k]
        return index

    def _pick(x: Tensor, index: Tensor) -> Tensor:
        picked = x.flatten(2).gather(2, index.flatten(2).clamp(min=0)).view(index.shape)
        return picked.masked_fill(index < 0, 0)

    max_pool_offset = differentiable(
        _ops.max_pool_offset.default, _max_offset_setup, _max_offset_backward, _max_offset_formula
    )
    max_pool_index = differentiable(
        _ops.max_pool_index.default, _max_index_setup, _max_index_backward, _max_index_formula
    )
    avg_pool_native = differentiable(_ops.avg_pool.default, _avg_setup, _avg_backward, _avg_formula)
    max_pool_offset_backward = differentiable(
        _ops.max_pool_offset_backward.default,
        _max_offset_backward_setup,
        _max_offset_double_backward,
        _max_offset_double_backward,
    )
    max_pool_index_backward = differentiable(
        _ops.max_pool_index_backward.default,
        _max_index_backward_setup,
        _max_index_double_backward,
        _max_index_double_backward,
    )
    avg_pool_backward = differentiable(
        _ops.avg_pool_backward.default, _avg_backward_setup, _avg_double_backward, _avg_double_formula
    )


# -------------------------------------------------------------------------------------------------------------- methods


def _batched(x: Tensor, plan: Plan) -> Tensor:
    return x if x.dim() == len(plan.input) + 2 else x.unsqueeze(0)


def _gives_channels_last(x: Tensor, plan: Plan, mean_or_adaptive: bool) -> bool:
    """Whether torch's result is channels_last. Its operators differ: of one axis those for means and adaptive windows
    know that order, of three axes all but those; and without a batch axis those of one and two axes do not.
    """
    dims = len(plan.input)
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


def _native_refusal(closed: gate.Closed | None, x: Tensor, plan: Plan, *rest: Any) -> str | None:
    if closed is not None:
        return closed.reason
    if 0 in plan.output:
        return "kernels need at least one output"
    if plan.wide and prod(plan.input) >= 2**31:
        return "the kernel for wide windows counts fewer than 2^31 places in a plane"
    return None


def _native_max(closed: Any, x: Tensor, plan: Plan, indices: bool) -> tuple[Tensor, Tensor | None]:
    batch = _batched(x, plan)
    channels_last = _gives_channels_last(x, plan, plan.adaptive)
    geometry = (plan.size, plan.stride, plan.dilation, plan.before, channels_last)
    index: Tensor | None
    if plan.wide:
        y, index = max_pool_index(batch, plan.output, *geometry)
    else:
        keep = indices or (x.requires_grad and torch.is_grad_enabled())
        y, offset = max_pool_offset(batch, plan.output, *geometry, keep)
        index = _ops.offset_to_index.default(offset, plan.input, *geometry) if indices else None
    if batch is x:
        return y, index
    return owned(Tensor.squeeze, y, 0), None if index is None else owned(Tensor.squeeze, index, 0)


def _native_avg(closed: Any, x: Tensor, plan: Plan, count_include_pad: bool, divisor_override: int | None) -> Tensor:
    batch = _batched(x, plan)
    channels_last = _gives_channels_last(x, plan, True)
    y = avg_pool_native(
        batch,
        plan.output,
        plan.size,
        plan.stride,
        plan.before,
        plan.after,
        channels_last,
        count_include_pad,
        divisor_override,
    )
    return y if batch is x else owned(Tensor.squeeze, y, 0)


def _torch_refusal(closed: Any, x: Tensor, plan: Plan, *rest: Any) -> str | None:
    if not plan.symmetric:
        return "torch's operator pads both sides alike"
    if any(2 * pad > k for pad, k in zip(plan.before, plan.size, strict=True)) and not plan.adaptive:
        return "torch's operator pads at most half the kernel"
    return None


def _torch_avg_refusal(
    closed: Any, x: Tensor, plan: Plan, count_include_pad: bool, divisor_override: int | None
) -> str | None:
    if len(plan.input) == 1 and divisor_override is not None:
        return "torch's avg_pool1d takes no divisor_override"
    return _torch_refusal(closed, x, plan)


def _torch_max_refusal(closed: Any, x: Tensor, plan: Plan, *rest: Any) -> str | None:
    axes = zip(plan.input, plan.dilation, plan.before, strict=True)
    if not plan.adaptive and any(before > 0 and dilation > input for input, dilation, before in axes):
        return "torch's operator writes outside the gradient where a window may see padding alone"
    return _torch_refusal(closed, x, plan)


_TORCH_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_TORCH_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_TORCH_ADAPTIVE_MAX: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
_TORCH_ADAPTIVE_AVG: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _ceil_mode(plan: Plan) -> bool:
    return any(
        a.output != output_size(a.input, a.size, a.stride, a.dilation, a.before, a.after)
        for a in plan.window
        if isinstance(a, Axis)
    )


def _torch_max(closed: Any, x: Tensor, plan: Plan, indices: bool) -> tuple[Tensor, Tensor | None]:
    dims = len(plan.input)
    if plan.adaptive:
        got = _TORCH_ADAPTIVE_MAX[dims](x, plan.output, return_indices=indices)
    else:
        got = _TORCH_MAX[dims](
            x, plan.size, plan.stride, plan.before, plan.dilation, _ceil_mode(plan), return_indices=indices
        )
    return got if indices else (got, None)


def _torch_avg(closed: Any, x: Tensor, plan: Plan, count_include_pad: bool, divisor_override: int | None) -> Tensor:
    dims = len(plan.input)
    if plan.adaptive:
        return _TORCH_ADAPTIVE_AVG[dims](x, plan.output)
    if dims == 1:
        return _TORCH_AVG[dims](x, plan.size, plan.stride, plan.before, _ceil_mode(plan), count_include_pad)
    return _TORCH_AVG[dims](
        x, plan.size, plan.stride, plan.before, _ceil_mode(plan), count_include_pad, divisor_override
    )


def _reference_max(closed: Any, x: Tensor, plan: Plan, indices: bool) -> tuple[Tensor, Tensor | None]:
    batch = _batched(x, plan)
    y, index = reference.max_pool(batch, plan.window)
    shape = y.shape if batch is x else y.shape[1:]
    return owned(Tensor.reshape, y, shape), owned(Tensor.reshape, index, shape)


def _reference_avg(closed: Any, x: Tensor, plan: Plan, count_include_pad: bool, divisor_override: int | None) -> Tensor:
    batch = _batched(x, plan)
    y = reference.avg_pool(batch, plan.window, count_include_pad, divisor_override)
    return y if batch is x else owned(Tensor.squeeze, y, 0)


def _padded_same(
    x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, dims: int, fill: float
) -> tuple[Any, Any]:
    """Where sizes are no numbers: x with the padding around it that a word means, and the padding that is left to
    torch's operator.
    """
    if padding != "same":
        return x, 0 if padding == "valid" else padding
    each = [v if isinstance(v, list | tuple) else (v,) * dims for v in (kernel_size, stride or kernel_size, dilation)]
    return F.pad(x, handover.around(handover.same(x, *each)), value=fill), 0


def _avg_as_it_came(
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
    dims: int,
) -> Any:
    # what is padded by hand counts as inside
    if padding == "same" and not count_include_pad and divisor_override is None:
        total = _avg_as_it_came(x, kernel_size, stride, padding, ceil_mode, True, None, dims)
        return total / _avg_as_it_came(torch.ones_like(x), kernel_size, stride, padding, ceil_mode, True, None, dims)
    x, padding = _padded_same(x, kernel_size, stride, padding, 1, dims, 0.0)
    if dims == 1 and divisor_override is None:
        return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
    if dims == 1:
        taps = kernel_size[0] if isinstance(kernel_size, list | tuple) else kernel_size
        return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode, True) * (taps / divisor_override)
    return _TORCH_AVG[dims](x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


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


# ------------------------------------------------------------------------------------------------------------ functions


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
        return _TORCH_MAX[dims](*arguments, return_indices=return_indices)
    plan = plan_for(x, dims, kernel_size, stride, padding, dilation, ceil_mode, where)
    y, index = choose(MAX_METHODS, closed, x, plan)(closed, x, plan, return_indices)
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
        return _avg_as_it_came(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dims)
    plan = plan_for(x, dims, kernel_size, stride, padding, 1, ceil_mode, where)
    if divisor_override is not None:
        divisor_override = as_int(divisor_override)
        if not is_int(divisor_override):
            expects = "divisor_override to be an integer or None"
            raise ArgumentTypeError(
                build(
                    where,
                    expects,
                    repr(divisor_override),
                    hint="Leave it out to divide by the window's taps.",
                    x=tuple(x.shape),
                )
            )
        if not 0 < abs(divisor_override) <= LARGEST:
            expects = "divisor_override other than 0 and within 2^62"
            raise ArgumentError(
                build(
                    where,
                    expects,
                    divisor_override,
                    hint="Leave it out to divide by the window's taps.",
                    x=tuple(x.shape),
                )
            )
    arguments = (closed, x, plan, bool(count_include_pad), divisor_override)
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
        return _TORCH_ADAPTIVE_MAX[dims](x, output_size, return_indices=return_indices)
    plan = adaptive_plan_for(x, dims, output_size, where)
    y, index = choose(MAX_METHODS, closed, x, plan)(closed, x, plan, return_indices)
    return (y, index) if return_indices else y


def adaptive_avg_pool(x: Tensor, output_size: Any, *, dims: int, where: str = "adaptive_avg_pool") -> Tensor:
    """Mean over windows that cover the input evenly: output o looks at ``[⌊o·I/O⌋, ⌈(o+1)·I/O⌉)``.

    >>> adaptive_avg_pool(torch.tensor([[[1.0, 3.0, 2.0, 5.0, 4.0]]]), 2, dims=1)
    tensor([[[2.0000, 3.6667]]])
    """
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        return _TORCH_ADAPTIVE_AVG[dims](x, output_size)
    plan = adaptive_plan_for(x, dims, output_size, where)
    return choose(AVG_METHODS, closed, x, plan, True, None)(closed, x, plan, True, None)
