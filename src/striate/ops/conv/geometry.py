"""The geometry of a convolution and the checks of its arguments, both cached by shapes and arguments.

The geometry of a transposed convolution is that of the convolution whose adjoint it is: what it takes as input is the
output of that convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ...window import Axis, Window, output_size
from ..arguments import as_int, as_key, is_int, per_axis
from ..geometry import axis_letters, check_fits_memory, output_sizes, rank_error, resolve_dilation, resolve_padding
from ..torch_calls import clamp_stride

__all__ = ["ConvGeometry", "geometry_for", "padding_behind", "resolve", "resolve_transpose"]

ANY = 2**63 - 1  # the largest stride that torch takes, and the largest dilation of one tap


class ConvGeometry(NamedTuple):
    """The geometry of a convolution, resolved: x (batch, channels, \\*input), y (batch, filters, \\*output)."""

    batch: int
    channels: int
    filters: int
    groups: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def window(self) -> Window:
        of_axes = (self.input, self.output, self.size, self.stride, self.dilation, self.before, self.after)
        return Window(tuple(Axis(*numbers) for numbers in zip(*of_axes, strict=True)))

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def taps(self) -> int:
        return prod(self.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *self.input)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, self.filters, *self.output)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.filters, self.channels // self.groups, *self.size)


# --------------------------------------------------------------------------------------------------------------- checks


def _check_kinds(x: Any, weight: Any, bias: Any, where: str) -> None:
    if isinstance(x, Tensor) and isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor)):
        return
    for name, t in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(t, Tensor):
            hint = "Call torch.as_tensor on it first."
            raise ArgumentTypeError(build(where, f"{name} to be a tensor", type(t).__name__, hint=hint))


def _check_shapes(
    shape: Any, of_weight: Any, of_bias: Any, groups: Any, dims: int, where: str, transposed: bool
) -> None:
    if len(shape) not in (dims + 1, dims + 2):
        raise rank_error(shape, dims, where)
    if len(of_weight) != dims + 2:
        lead = "(in, out / groups, " if transposed else "(out, in / groups, "
        expects = f"a weight of shape {lead}{axis_letters(dims)})"
        raise ShapeError(build(where, expects, of_weight, hint="Give it a number of taps for each axis.", x=shape))
    if not is_int(groups):
        hint = "Give one integer."
        raise ArgumentTypeError(build(where, "groups to be an integer", repr(groups), hint=hint, x=shape))
    if groups < 1:
        raise ArgumentError(build(where, "at least 1 group", groups, hint="Leave groups out for one.", x=shape))
    first, second = of_weight[:2]
    if first == 0 or (transposed and second == 0):
        hint = "Choose out_channels of at least 1."
        raise ShapeError(build(where, "a weight with at least one filter", of_weight, hint=hint, x=shape))
    if any(k == 0 for k in of_weight[2:]):
        expects = "a weight with at least one tap on each axis"
        raise ShapeError(build(where, expects, of_weight, hint="Choose a kernel_size of at least 1.", x=shape))
    if first % groups:
        side = "input" if transposed else "output"
        expects = f"groups that divide the weight's {first} {side} channels"
        raise ArgumentError(build(where, expects, groups, hint="Choose a divisor.", x=shape, weight=of_weight))
    channels, wanted = shape[-dims - 1], first if transposed else second * groups
    if channels != wanted:
        hint = f"Set in_channels={channels}, or check the layer before."
        if groups > 1:
            hint = f"The weight and {groups} groups fit {wanted} channels."
        raise ShapeError(build(where, f"{wanted} channels", channels, hint=hint, x=shape, weight=of_weight))
    if channels == 0:  # torch would return an output without filters
        hint = "Only the batch may be empty."
        raise ShapeError(build(where, "x of at least one channel", shape, hint=hint, weight=of_weight))
    if of_bias is not None:
        filters = second * groups if transposed else first
        if of_bias != (filters,):
            expects = f"a bias of shape ({filters},)"
            raise ShapeError(build(where, expects, of_bias, hint="Give one number for each filter.", x=shape))


_cached_check = functools.lru_cache(maxsize=4096)(_check_shapes)


def _check_types(x: Tensor, weight: Tensor, bias: Tensor | None, where: str) -> None:
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None or (t.dtype is x.dtype and t.device == x.device):
            continue
        if t.device != x.device:
            expects, hint = f"{name} on x's device, {x.device}", "Move one with .to()."
            raise ArgumentError(build(where, expects, t.device, hint=hint, x=tuple(x.shape)))
        if not torch.is_autocast_enabled(x.device.type):
            wanted, got = (str(d).removeprefix("torch.") for d in (x.dtype, t.dtype))
            expects, hint = f"{name} of x's type, {wanted}", "Convert one with .to()."
            raise DtypeError(build(where, expects, got, hint=hint, x=tuple(x.shape)))


# ------------------------------------------------------------------------------------------------------------ resolving


def resolve(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    dims: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    where: str,
) -> ConvGeometry:
    """The geometry of a convolution of x with a weight, from their shapes, which the caller has checked.

    Raises ArgumentError, ArgumentTypeError or ShapeError for a stride, padding or dilation that does not fit them.

    >>> resolve((1, 3, 32, 32), (10, 3, 5, 5), 2, 1, "same", 1, 1, "conv2d").output
    (32, 32)
    """
    input, size = shape[-dims:], weight[2:]
    steps = per_axis(stride, dims, 1, "stride", where, shape, most=ANY)
    holes = resolve_dilation(dilation, size, where, shape, most=ANY)
    pads = resolve_padding(padding, input, size, steps, holes, where, shape)
    steps = tuple(clamp_stride(s, i + p + q) for s, i, (p, q) in zip(steps, input, pads, strict=True))
    output = output_sizes(input, size, steps, holes, pads, where, shape)
    batch = shape[0] if len(shape) == dims + 2 else 1
    check_fits_memory((batch, weight[0], *output), where, shape, "Pad less, or choose a larger stride.")
    before, after = tuple(p for p, _ in pads), tuple(q for _, q in pads)
    return ConvGeometry(batch, shape[-dims - 1], weight[0], groups, input, output, size, steps, holes, before, after)


def resolve_transpose(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    dims: int,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: int,
    where: str,
) -> ConvGeometry:
    """The geometry of the convolution whose adjoint the transposed one is. Its output has x's shape.

    Raises as :func:`resolve` does.

    >>> resolve_transpose((1, 8, 16, 16), (8, 4, 2, 2), 2, 2, 0, 0, 1, 1, "conv_transpose2d").input
    (32, 32)
    """
    output, size = shape[-dims:], weight[2:]
    steps = per_axis(stride, dims, 1, "stride", where, shape, most=ANY)
    holes = resolve_dilation(dilation, size, where, shape, most=ANY)
    more = per_axis(output_padding, dims, 0, "output_padding", where, shape)
    for m, s, d in zip(more, steps, holes, strict=True):
        if m >= max(s, d):
            expects = f"output_padding below stride or dilation, {max(s, d)}"
            raise ArgumentError(build(where, expects, m, hint="Choose a smaller one.", x=shape))
    # the size of what the taps reach without padding
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(output, steps, holes, size, strict=True)]
    if isinstance(padding, str):  # "same": o · stride values; "valid": all values that a tap reaches
        input = [o * s if padding == "same" else r + m for o, s, r, m in zip(output, steps, reach, more, strict=True)]
        hint = 'Use "same" for input · stride outputs.'
        pads = resolve_padding(padding, input, size, steps, holes, where, shape, hint)
        if padding == "same" and any(more):
            expects, hint = 'no output_padding beside padding "same"', "Leave output_padding out."
            raise ArgumentError(build(where, expects, output_padding, hint=hint, x=shape))
    else:
        pads = resolve_padding(padding, output, size, steps, holes, where, shape)
        input = [r - p - q + m for r, m, (p, q) in zip(reach, more, pads, strict=True)]
    for i, r, (p, _) in zip(input, reach, pads, strict=True):
        if i < 1:
            hint = f"Pad less: {r} values come out without."
            raise ShapeError(build(where, "padding that leaves an output", p, hint=hint, x=shape))
    steps = tuple(clamp_stride(s, i + p + q) for s, i, (p, q) in zip(steps, input, pads, strict=True))
    batch = shape[0] if len(shape) == dims + 2 else 1
    check_fits_memory((batch, weight[1] * groups, *input), where, shape, "Pad more, or choose a smaller stride.")
    before = tuple(p for p, _ in pads)
    after = padding_behind(input, output, size, steps, holes, pads)
    return ConvGeometry(
        *(batch, weight[1] * groups, shape[-dims - 1], groups, tuple(input), output, size, steps, holes, before, after)
    )


def padding_behind(
    input: Sequence[int],
    output: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> tuple[int, ...]:
    """The padding behind each axis: that of ``pads`` if it leads to ``output`` values, else the one that does.

    >>> padding_behind((8,), (4,), (2,), (2,), (1,), [(1, 1)])
    (-1,)
    """
    return tuple(
        q if output_size(i, k, s, d, p, q) == o else (o - 1) * s + d * (k - 1) + 1 - i - p
        for i, o, k, s, d, (p, q) in zip(input, output, size, stride, dilation, pads, strict=True)
    )


_cached_resolve = functools.lru_cache(maxsize=4096)(resolve)
_cached_resolve_transpose = functools.lru_cache(maxsize=4096)(resolve_transpose)


def geometry_for(
    x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any, dims: int, where: str, transposed: bool = False
) -> ConvGeometry:
    """Checks the arguments of one call and resolves its geometry, cached by shapes and arguments.

    arguments: stride, padding, dilation and groups; ``transposed``: stride, padding, output_padding, dilation and
    groups.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    >>> x, w = torch.ones(1, 3, 32, 32), torch.ones(10, 3, 5, 5)
    >>> geometry_for(x, w, None, 1, 2, 1, 1, dims=2, where="conv2d").y_shape
    (1, 10, 32, 32)
    """
    *rest, groups = arguments
    groups = as_int(groups)
    _check_kinds(x, weight, bias, where)
    shape, of_weight, of_bias = tuple(x.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape)
    known = not torch.compiler.is_compiling() and all(type(n) is int for n in shape) and type(groups) is int
    check = _cached_check if known else _check_shapes
    check(shape, of_weight, of_bias, groups, dims, where, transposed)
    _check_types(x, weight, bias, where)
    if known:
        key = tuple(as_key(v) for v in rest)
        if None not in key:
            cached: Callable[..., ConvGeometry] = _cached_resolve_transpose if transposed else _cached_resolve
            return cached(shape, of_weight, dims, *key, groups, where)
    made: Callable[..., ConvGeometry] = resolve_transpose if transposed else resolve
    return made(shape, of_weight, dims, *rest, groups, where)
