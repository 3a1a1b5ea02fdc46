"""Checks the arguments of pooling and resolves its geometry, once for each shape and arguments: results are cached."""

from __future__ import annotations

import functools
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ...window import AdaptiveAxis, Axis, Window
from ..arguments import LARGEST, as_ints, as_key, is_int, per_axis
from ..geometry import output_sizes, rank_error, resolve_padding

__all__ = ["MAX_TAPS", "PoolGeometry", "adaptive_geometry_for", "geometry_for", "resolve", "resolve_adaptive"]

MAX_TAPS = 256  # as many as a byte can number


class PoolGeometry(NamedTuple):
    """The resolved geometry of a call. Adaptive axes have size 0."""

    input: list[int]
    output: list[int]
    size: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]
    wide: bool  # maxima are saved as indices: too wide for byte offsets, taps vary, or a window may be empty
    adaptive: bool  # defined by the output size: torch has separate operators for that
    window: Window | tuple[AdaptiveAxis, ...]

    @property
    def symmetric(self) -> bool:
        return self.before == self.after


def _check_input(x: Tensor, dims: int, where: str) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(build(where, "a tensor", type(x).__name__, hint="Call torch.as_tensor on it first."))
    if x.dim() not in (dims + 1, dims + 2):
        raise rank_error(tuple(x.shape), dims, where)
    if any(s == 0 for s in x.shape[-dims - 1 :]):
        expects, hint = "at least one channel and one value on each axis", "Only the batch may be empty."
        raise ShapeError(build(where, expects, tuple(x.shape), hint=hint))
    if x.dtype is torch.bool or x.is_complex():
        got, hint = str(x.dtype).removeprefix("torch."), "Convert x with .float() or .real."
        raise DtypeError(build(where, "real numbers", got, hint=hint, x=tuple(x.shape)))


def resolve(
    shape: tuple[int, ...],
    dims: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    where: str,
) -> PoolGeometry:
    """The geometry of windows over the last ``dims`` axes of x's shape.

    Raises ArgumentError, ArgumentTypeError or ShapeError for arguments no window can have.

    >>> resolve((1, 3, 8, 8), 2, 3, 2, 1, 1, False, "max_pool2d").output
    [4, 4]
    """
    input = shape[-dims:]
    size = per_axis(kernel_size, dims, 1, "kernel_size", where, shape)
    left_out = stride is None or (isinstance(stride, list | tuple) and len(stride) == 0)
    steps = size if left_out else per_axis(stride, dims, 1, "stride", where, shape)
    holes = per_axis(dilation, dims, 1, "dilation", where, shape)
    pads = resolve_padding(padding, input, size, steps, holes, where, shape)
    if not isinstance(padding, str):
        for (p, _), k, d in zip(pads, size, holes, strict=True):
            if p > ((k - 1) * d + 1) // 2:
                expects = f"padding of at most half the window, {((k - 1) * d + 1) // 2}"
                hint = "Pad x with torch.nn.functional.pad first if windows of padding alone are meant."
                raise ArgumentError(build(where, expects, p, hint=hint, x=shape))
    output = output_sizes(input, size, steps, holes, pads, where, shape, ceil_mode)
    before, after = [p for p, _ in pads], [q for _, q in pads]
    axes = [Axis(*numbers) for numbers in zip(input, output, size, steps, holes, before, after, strict=True)]
    window = Window(tuple(axes))
    numbers = (list(input), list(output), list(size), list(steps), list(holes), before, after)
    return PoolGeometry(*numbers, _is_wide(window), False, window)


def _is_wide(window: Window) -> bool:
    """Whether the kernel that saves one byte an output cannot compute this window."""
    wide = prod(window.size) > MAX_TAPS or any((a.size - 1) * a.dilation >= 1024 for a in window)
    # a window that may miss the input has no tap to save
    wide = wide or any(a.before > 0 and a.dilation > a.input for a in window)
    positions = 1  # that the kernel transposes into scratch memory at once
    # depth counts the taps, height the window's extent, width the extent and a tile of outputs
    for axis, a in enumerate(window, start=3 - len(window.axes)):
        positions *= a.size if axis == 0 else min(a.input, a.extent + (256 if axis == 2 else 0))
    return wide or positions > 2**16


def resolve_adaptive(shape: tuple[int, ...], dims: int, output: Any, where: str) -> PoolGeometry:
    """The geometry of adaptive windows; where they divide the input evenly, they are ordinary windows.

    Raises ArgumentError or ArgumentTypeError for an invalid output size.

    >>> resolve_adaptive((1, 3, 8, 8), 2, 4, "adaptive_avg_pool2d").size
    [2, 2]
    """
    input = shape[-dims:]
    sizes = as_ints(output)
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * dims
    if len(sizes) == 1:
        sizes *= dims
    if len(sizes) != dims or not all(o is None or is_int(o) for o in sizes):
        one = "an integer or None" if dims == 1 else f"one integer or None, or {dims}"
        hint = "None keeps an axis as it is."
        raise ArgumentTypeError(build(where, f"output_size to be {one}", repr(output), hint=hint, x=shape))
    sizes = tuple(i if o is None else o for i, o in zip(input, sizes, strict=True))
    if any(not 0 <= o <= LARGEST for o in sizes):
        hint = "Choose how many values to keep on each axis."
        raise ArgumentError(build(where, "output_size from 0 to 2^62", output, hint=hint, x=shape))
    if prod(sizes) > 2**40:
        hint = "Choose a smaller output_size."
        raise ArgumentError(build(where, "an output that fits memory", output, hint=hint, x=shape))
    if all(o > 0 and i % o == 0 for i, o in zip(input, sizes, strict=True)):
        size = tuple(i // o for i, o in zip(input, sizes, strict=True))
        geometry = resolve(shape, dims, size, size, 0, 1, False, where)
        if not geometry.wide:
            return geometry._replace(adaptive=True)
    zeros, ones = [0] * dims, [1] * dims
    axes = tuple(AdaptiveAxis(i, o) for i, o in zip(input, sizes, strict=True))
    return PoolGeometry(list(input), list(sizes), zeros, ones, ones, zeros, zeros, True, True, axes)


_cached_resolve = functools.lru_cache(maxsize=4096)(resolve)
_cached_resolve_adaptive = functools.lru_cache(maxsize=4096)(resolve_adaptive)


def geometry_for(
    x: Tensor, dims: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, where: str
) -> PoolGeometry:
    """Checks the arguments of one call and resolves its geometry, cached by shape and arguments.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no window can have.

    >>> geometry_for(torch.ones(1, 3, 8, 8), 2, 2, None, 0, 1, False, "max_pool2d").output
    [4, 4]
    """
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
            return _cached_resolve(tuple(x.shape), dims, k, s or None, p, d, bool(ceil_mode), where)
    return resolve(tuple(x.shape), dims, kernel_size, stride, padding, dilation, bool(ceil_mode), where)


def adaptive_geometry_for(x: Tensor, dims: int, output_size: Any, where: str) -> PoolGeometry:
    """:func:`geometry_for` for adaptive windows."""
    _check_input(x, dims, where)
    if not torch.compiler.is_compiling():
        key = as_key(output_size)
        if key is not None and all(type(n) is int for n in x.shape):
            return _cached_resolve_adaptive(tuple(x.shape), dims, key, where)
    return resolve_adaptive(tuple(x.shape), dims, output_size, where)
