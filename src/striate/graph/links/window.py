"""Links of convolution, pooling and resampling, whose outputs read windows of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor

import torch

from ...window import AdaptiveAxis, Axis, Look
from .link import LINKS, Along, Anywhere, Link, Op, Regroup, links_for


def _each(given: Sequence[int] | int | None, count: int, otherwise: Sequence[int] = ()) -> list[int]:
    """Expands an argument to one number for each axis."""
    if given is None or (not isinstance(given, int) and len(given) == 0):
        return list(otherwise)
    listed = [given] if isinstance(given, int) else list(given)
    return listed * count if len(listed) == 1 else listed


@links_for("convolution", "_convolution", "mkldnn_convolution", "slow_conv2d_forward", "conv_depthwise3d")
def convolution(op: Op) -> list[list[Link]]:
    x, weight = op.input, op.operation.inputs[1]
    of_x, of_weight = op.shape(x), op.shape(weight)
    dims = len(of_weight) - 2
    lead = len(of_x) - dims
    groups, transposed = op["groups"] or 1, bool(op["transposed"])
    per_in, per_out = of_x[lead - 1] // groups, op.output[lead - 1] // groups
    looks = []
    stride, padding, dilation = (_each(op[name], dims) for name in ("stride", "padding", "dilation"))
    for i in range(dims):
        axis = Axis(0, 0, of_weight[2 + i], stride[i], dilation[i], padding[i])
        looks.append(axis.look_back if transposed else axis.look)
    channels: Along | Anywhere = Anywhere(range(of_x[lead - 1]))
    if groups > 1:
        channels = Along(lead - 1, Look((range(per_in),) * per_out, per_in))
    changed = {lead - 1: channels, **{lead + i: Along(lead + i, look) for i, look in enumerate(looks)}}
    return [[op.same(x, changed), *op.others(x)]]


@links_for(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    *(f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)),
)
def pooling(op: Op) -> list[list[Link]]:
    size = op["kernel_size"]
    dims = int(op.operation.name.split("pool")[1][0])
    lead = len(op.shape(op.input)) - dims
    size = _each(size, dims)
    stride, padding = _each(op["stride"], dims, size), _each(op["padding"], dims, [0] * dims)
    dilation = _each(op["dilation"], dims, [1] * dims)
    looks = {
        lead + i: Along(lead + i, Axis(0, 0, size[i], stride[i], dilation[i], padding[i]).look) for i in range(dims)
    }
    return [[op.same(op.input, dict(looks))] for _ in op.operation.outputs]


def locally_connected(op: Op) -> list[list[Link]]:
    layer, shape = op["layer"], op.shape(op.input)
    lead, margins = len(shape) - layer.dims, layer.margins[-2::-2]  # the padding before each axis, first axis first
    looks: dict[int, Along | Anywhere] = {}
    for i, of_axis in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, margins, strict=True)):
        looks[lead + i] = Along(lead + i, Axis(0, 0, *of_axis).look)
    return [[op.same(op.input, {lead - 1: Anywhere(range(shape[lead - 1])), **looks})]]


LINKS.of("locally_connected")(locally_connected)


@links_for(*(f"{name}adaptive_{kind}_pool{d}d" for name in ("", "_") for kind in ("avg", "max") for d in (1, 2, 3)))
def adaptive_pooling(op: Op) -> list[list[Link]]:
    dims = int(op.operation.name.split("pool")[1][0])
    shape = op.shape(op.input)
    lead = len(shape) - dims
    looks = {lead + i: Along(lead + i, AdaptiveAxis(shape[lead + i], op.output[lead + i]).look) for i in range(dims)}
    return [[op.same(op.input, dict(looks))] for _ in op.operation.outputs]


@links_for(*(f"{name}{d}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for d in (1, 2, 3)))
def nearest(op: Op) -> list[list[Link]]:
    half = Fraction(1, 2) if "exact" in op.operation.name else Fraction(0)
    links = _resampled(op, lambda at: (floor(at),), lambda o, ratio: (o + half) * ratio)
    axes = links[0][0].axes
    assert not isinstance(axes, Regroup)
    return [[links[0][0]._replace(axes=tuple(_rounded(op, i, axes[i], float(half)) for i in range(len(axes))))]]


def _rounded(op: Op, axis: int, along: Along | Anywhere, half: float) -> Along | Anywhere:
    """Applies torch's rounding: it multiplies in float32, where a product that should be a whole number may be slightly
    less, and the position below is read.
    """
    if axis < 2 or isinstance(along, Anywhere):
        return along
    size, out = op.shape(op.input)[axis], op.output[axis]
    scale = _factor(op, axis)
    ratio = torch.tensor(1 / scale if scale else size / out, dtype=torch.float32, device="cpu")
    got = ((torch.arange(out, device="cpu") + half) * ratio).floor().long().clamp(max=size - 1)
    if got.tolist() == [along.look.at(o)[0] for o in range(out)]:
        return along
    found = Look(tuple((p,) for p in got.tolist()), size)
    return along._replace(ends=found) if scale else along._replace(look=found)


def _factor(op: Op, axis: int) -> float | None:
    """The scale factor that was passed for an axis, if any."""
    factors = op["scale_factors"] or [
        op[name] for name in ("scales", "scales_d", "scales_h", "scales_w") if name in op.arguments
    ]
    return factors[len(factors) - len(op.output) + axis] if factors else None


@links_for("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def linear_interpolation(op: Op) -> list[list[Link]]:
    return _resampled(op, lambda at: (floor(at),) if at == floor(at) else (floor(at), floor(at) + 1), _center(op))


@links_for("upsample_bicubic2d")
def cubic_interpolation(op: Op) -> list[list[Link]]:
    def taps(at: Fraction) -> tuple[int, ...]:
        return (floor(at),) if at == floor(at) else tuple(range(floor(at) - 1, floor(at) + 3))

    return _resampled(op, taps, _center(op))


def _center(op: Op) -> Callable[[int, Fraction], Fraction]:
    half = Fraction(1, 2)
    return (lambda o, ratio: o * ratio) if op["align_corners"] else (lambda o, ratio: (o + half) * ratio - half)


def _resampled(
    op: Op, taps: Callable[[Fraction], tuple[int, ...]], source: Callable[[int, Fraction], Fraction]
) -> list[list[Link]]:
    """Links of interpolation. source: the position that an output samples; taps: the positions read around it."""
    shape = op.shape(op.input)
    looks: dict[int, Along | Anywhere] = {}
    exact = True
    for i in range(2, len(shape)):
        size, out = shape[i], op.output[i]
        scale = None if op["align_corners"] else _factor(op, i)
        ratio = Fraction(size, out) if not scale else 1 / Fraction(scale).limit_denominator(10**6)
        if op["align_corners"]:
            ratio = Fraction(size - 1, out - 1) if out > 1 else Fraction(0)
        if ratio.denominator > 4096:
            looks[i], exact = Anywhere(range(size)), False
            continue
        positions = tuple(taps(source(o, ratio)) for o in range(ratio.denominator))
        looks[i] = Along(i, Look(positions, ratio.numerator))
    return [[op.same(op.input, looks, exact)]]


@links_for("unfold", "unfold_copy")
def windows(op: Op) -> list[list[Link]]:
    """Window o holds positions o·step to o·step + size - 1, in a new last axis."""
    axis = op.axis(op.input, op["dimension"])
    return [[op.same(op.input, {axis: Along(axis, Look((range(op["size"]),), op["step"]))}, exact=op["size"] == 1)]]
