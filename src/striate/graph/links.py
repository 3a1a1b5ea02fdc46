"""Where the outputs of an operation look: for each axis of each tensor that it reads, along which axis of the output
and how far.

One function for each kind of operation. What none of them knows is taken to look everywhere, and the answer is marked
as a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from math import floor, prod
from typing import Any, NamedTuple

import torch

from ..window import AdaptiveAxis, Axis, Look
from .recording import LOCAL, WRITTEN, Operation, Recording, Ref

__all__ = ["Along", "Anywhere", "Link", "Regroup", "links_of"]

SAME = Look()


class Along(NamedTuple):
    """An input's axis that is followed by the output's axis ``axis``.

    ends: where what is computed near the ends of the axis looks otherwise, the positions of all outputs, in place of
    ``look``'s.
    """

    axis: int
    look: Look = SAME
    ends: Look | None = None


class Anywhere(NamedTuple):
    """An input's axis of which every output sees these positions."""

    positions: range


class Regroup(NamedTuple):
    """The same values in the same order with other axes: axes of the input, and those of the output with as many
    values.
    """

    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


class Link(NamedTuple):
    """How one output of an operation depends on one tensor that it reads.

    axes: for each axis of that tensor; or a Regroup. exact: False where it may see less. within: an axis of the output
    and the places on it that see that tensor, if not all do. narrows: an axis of the output along which units see parts
    of what is told, all together all.
    """

    value: int
    axes: tuple[Along | Anywhere, ...] | Regroup
    exact: bool = True
    within: tuple[int, range] | None = None
    narrows: int | None = None


class Op:
    """A operation with its recording, and what the functions below ask about it."""

    def __init__(self, recording: Recording, operation: Operation) -> None:
        self.recording, self.operation, self.arguments = recording, operation, operation.arguments

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def value(self, name: str) -> int | None:
        given = self.arguments.get(name)
        return given.value if isinstance(given, Ref) else None

    def shape(self, value: int) -> tuple[int, ...]:
        return self.recording.values[value].shape

    @property
    def input(self) -> int:
        """The tensor that it is about."""
        return self.operation.inputs[0]

    @property
    def output(self) -> tuple[int, ...]:
        return self.shape(self.operation.outputs[0]) if self.operation.outputs else ()

    def everywhere(self, value: int, exact: bool = True) -> Link:
        return Link(value, tuple(Anywhere(range(n)) for n in self.shape(value)), exact)

    def same(self, value: int, changed: dict[int, Along | Anywhere] | None = None, exact: bool = True) -> Link:
        """Axis by axis as the output's, but for those that are changed."""
        changed = changed or {}
        return Link(value, tuple(changed.get(i) or Along(i) for i in range(len(self.shape(value)))), exact)

    def others(self, *known: int) -> list[Link]:
        """Whatever else is read (weights, which may have been computed)."""
        return [self.everywhere(v) for v in dict.fromkeys(self.operation.inputs) if v not in known]

    def axis(self, value: int, number: int) -> int:
        return number % max(1, len(self.shape(value)))


Linker = Callable[[Op], "list[list[Link]]"]
LINKS: dict[str, Linker] = {}


def links_for(*names: str) -> Callable[[Linker], Linker]:
    """Makes a function that of these operators."""

    def add(function: Linker) -> Linker:
        LINKS.update({f"aten.{name}": function for name in names})
        return function

    return add


def links_of(recording: Recording, operation: Operation) -> list[list[Link]]:
    """For each output of a operation its links."""
    found = LINKS.get(operation.name)
    op = Op(recording, operation)
    if found is not None:
        return found(op)
    if _is_pointwise(operation.name):
        return pointwise(op)
    return [[op.everywhere(v, exact=False) for v in dict.fromkeys(operation.inputs)] for _ in operation.outputs]


@lru_cache
def _is_pointwise(name: str) -> bool:
    space, _, op = name.partition(".")
    packet = getattr(getattr(torch.ops, space), op, None)
    names = packet.overloads() if packet is not None else []
    return bool(names) and torch.Tag.pointwise in getattr(packet, names[0]).tags


# ------------------------------------------------------------------------------------------------------- value by value


@links_for(  # what torch does not tag as such
    *(
        "detach",
        "alias",
        "contiguous",
        "_to_copy",
        "lift_fresh",
        "native_dropout",
        "dropout",
        "bernoulli",
        "bernoulli_",
        "masked_fill_",
    ),
    *(
        "copy_",
        "rrelu_with_noise",
        "_prelu_kernel",
        "prelu",
        "hardswish",
        "hardswish_",
        "fill_",
        "zero_",
        "uniform_",
        "normal_",
    ),
    *(
        "new_empty",
        "new_zeros",
        "new_full",
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "rand_like",
        "log_sigmoid_forward",
    ),
    *("floor_divide", "bucketize", "quantize_per_tensor", "fake_quantize_per_tensor_affine"),
)
def pointwise(op: Op) -> list[list[Link]]:
    """Axes are matched from the last on; those of size 1 are repeated."""
    if op.operation.name.startswith("aten.new_") or op.operation.name.endswith(
        ("_like", ".fill_", ".zero_", ".uniform_", ".normal_")
    ):
        return [[] for _ in op.operation.outputs]  # of the input only the shape is used
    rank = len(op.output)
    links = []
    for value in dict.fromkeys(op.operation.inputs[1:] if op.operation.name == "aten.copy_" else op.operation.inputs):
        shape = op.shape(value)
        ahead = rank - len(shape)
        axes = tuple(
            Anywhere(range(1)) if n == 1 and op.output[ahead + i] != 1 else Along(ahead + i)
            for i, n in enumerate(shape)
        )
        links.append(Link(value, axes))
    return [links for _ in op.operation.outputs]


@links_for("glu")
def gated(op: Op) -> list[list[Link]]:
    """The first half of an axis by the sigmoid of the second."""
    axis = op.axis(op.input, op["dim"])
    return [[op.same(op.input, {axis: Along(axis, Look(((0, op.output[axis]),), 1))})]]


@links_for(
    *(
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
    ),
    *("_batch_norm_no_update", "native_group_norm", "native_layer_norm", "_fused_rms_norm"),
)
def norm(op: Op) -> list[list[Link]]:
    """Value by value: statistics count as constants, as evaluation has them. (What they see is said by the norm's
    axes.)
    """
    return [[op.same(op.input)], *([] for _ in op.operation.outputs[1:])]


# -------------------------------------------------------------------------------------------------------------- windows


def _each(given: Sequence[int] | int | None, count: int, otherwise: Sequence[int] = ()) -> list[int]:
    """A number for each axis."""
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
    lead, margins = len(shape) - layer.dims, layer.margins[-2::-2]  # of pad's list, those before, first axis first
    looks: dict[int, Along | Anywhere] = {}
    for i, of_axis in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, margins, strict=True)):
        looks[lead + i] = Along(lead + i, Axis(0, 0, *of_axis).look)
    return [[op.same(op.input, {lead - 1: Anywhere(range(shape[lead - 1])), **looks})]]


LINKS[LOCAL] = locally_connected


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
    """torch multiplies in float32: where the product should be a whole number it may fall short, and another position
    is the nearest.
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
    """The scale that was given for an axis, if one was."""
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
    """The position that an output takes its value from, and the positions around it that it is made of."""
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
    """Window o holds positions o·step to o·step + size - 1, one each along a new last axis."""
    axis = op.axis(op.input, op["dimension"])
    return [[op.same(op.input, {axis: Along(axis, Look((range(op["size"]),), op["step"]))}, exact=op["size"] == 1)]]


# ------------------------------------------------------------------------------------------------------- axes that move


@links_for("permute", "permute_copy")
def permuted(op: Op) -> list[list[Link]]:
    rank = len(op.output)
    from_output = {d % rank: o for o, d in enumerate(op["dims"])}
    return [[Link(op.input, tuple(Along(from_output[i]) for i in range(rank)))]]


@links_for("t", "transpose", "transpose_", "t_copy", "transpose_copy", "numpy_T")
def transposed(op: Op) -> list[list[Link]]:
    rank = len(op.output)
    one, other = (0, 1) if op.operation.name.endswith(".t") else (op["dim0"], op["dim1"])
    order = list(range(rank))
    if rank > 1:
        order[one % rank], order[other % rank] = order[other % rank], order[one % rank]
    return [[Link(op.input, tuple(map(Along, order)))]]


@links_for(
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "unsqueeze",
        "unsqueeze_",
        "squeeze",
        "squeeze_",
        "flatten",
        "unflatten",
    ),
    *("as_strided", "as_strided_", "view_copy", "_reshape_copy", "unsqueeze_copy", "squeeze_copy"),
)
def regrouped(op: Op) -> list[list[Link]]:
    before, after = op.shape(op.input), op.output
    if prod(before) != prod(after) or op.operation.name.startswith("aten.as_strided"):
        return [[op.everywhere(op.input, exact=False)]]
    if before == after:
        return [[op.same(op.input)]]
    return [[Link(op.input, Regroup(_groups(before, after)))]]


def _groups(before: Sequence[int], after: Sequence[int]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Runs of axes with as many values before and after, each as short as can be.

    >>> _groups((2, 6, 4, 5), (2, 3, 2, 20))
    (((0,), (0,)), ((1,), (1, 2)), ((2, 3), (3,)))
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        mine, theirs = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(mine), j + len(theirs)
        left, right = prod(before[k] for k in mine), prod(after[k] for k in theirs)
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], mine.append(i) or i + 1  # type: ignore[func-returns-value]
            elif j < len(after):
                right, j = right * after[j], theirs.append(j) or j + 1  # type: ignore[func-returns-value]
            else:  # sizes of 0
                mine += range(i, len(before))
                i = len(before)
                break
        groups.append((tuple(mine), tuple(theirs)))
    return tuple(groups)


@links_for("expand", "expand_copy", "repeat")
def expanded(op: Op) -> list[list[Link]]:
    shape = op.shape(op.input)
    ahead = len(op.output) - len(shape)
    axes: list[Along | Anywhere] = []
    for i, n in enumerate(shape):
        out = op.output[ahead + i]
        axes.append(
            Along(ahead + i)
            if n == out
            else Along(ahead + i, Look((range(1),) if n == 1 else tuple((p,) for p in range(n)), 0))
        )
    return [[Link(op.input, tuple(axes))]]


@links_for("pixel_shuffle")
def to_space(op: Op) -> list[list[Link]]:
    """Output (c, y, x) is input (c·r² + (y mod r)·r + x mod r, ⌊y/r⌋, ⌊x/r⌋)."""
    r, rank = op["upscale_factor"], len(op.output)
    up = Look(((0,),) * r, 1)
    channels = Along(rank - 3, Look((range(r * r),), r * r))
    return [[op.same(op.input, {rank - 3: channels, rank - 2: Along(rank - 2, up), rank - 1: Along(rank - 1, up)})]]


@links_for("pixel_unshuffle")
def to_channels(op: Op) -> list[list[Link]]:
    r, rank = op["downscale_factor"], len(op.output)
    down = Look((range(r),), r)
    channels = Along(rank - 3, Look(((0,),) * (r * r), 1))
    link = op.same(op.input, {rank - 3: channels, rank - 2: Along(rank - 2, down), rank - 1: Along(rank - 1, down)})
    return [[link._replace(narrows=rank - 3)]]


@links_for("channel_shuffle", "native_channel_shuffle")
def channels_shuffled(op: Op) -> list[list[Link]]:
    n, groups = op.output[1], op["groups"]
    each = n // groups
    return [[op.same(op.input, {1: Along(1, Look(tuple((o % groups * each + o // groups,) for o in range(n)), n))})]]


@links_for("flip")
def flipped(op: Op) -> list[list[Link]]:
    rank = len(op.output)
    axes = {d % rank: Along(d % rank, Look(((op.output[d % rank] - 1,),), -1)) for d in op["dims"]}
    return [[op.same(op.input, dict(axes))]]


@links_for("roll")
def rolled(op: Op) -> list[list[Link]]:
    rank = len(op.output)
    axes: dict[int, Along | Anywhere] = {}
    for shift, d in zip(op["shifts"], op["dims"], strict=False):
        n = op.output[d % rank]
        axes[d % rank] = Along(d % rank, Look(tuple(((o - shift) % n,) for o in range(n)), n))
    return [[op.same(op.input, axes) if axes else op.everywhere(op.input, exact=False)]]


# ------------------------------------------------------------------------------------------------- parts and their sums


@links_for("slice", "slice_copy", "narrow")
def sliced(op: Op) -> list[list[Link]]:
    axis = op.axis(op.input, op["dim"] or 0)
    n = op.shape(op.input)[axis]
    start = op["start"] or 0
    start = max(0, start + n) if start < 0 else min(start, n)
    return [[op.same(op.input, {axis: Along(axis, Look(((start,),), op["step"] or 1))})]]


@links_for("select", "select_copy")
def selected(op: Op) -> list[list[Link]]:
    shape = op.shape(op.input)
    axis = op.axis(op.input, op["dim"])
    at = op["index"] % max(1, shape[axis])
    axes = [Anywhere(range(at, at + 1)) if i == axis else Along(i - (i > axis)) for i in range(len(shape))]
    return [[Link(op.input, tuple(axes))]]


@links_for("split", "split_with_sizes", "chunk", "unbind", "split_copy", "split_with_sizes_copy", "unbind_copy")
def parted(op: Op) -> list[list[Link]]:
    axis = op.axis(op.input, op["dim"] or 0)
    found, start = [], 0
    for output in op.operation.outputs:
        if "unbind" in op.operation.name:
            rank = len(op.shape(op.input))
            axes = (Anywhere(range(start, start + 1)) if i == axis else Along(i - (i > axis)) for i in range(rank))
            found.append([Link(op.input, tuple(axes))])
            start += 1
        else:
            found.append([op.same(op.input, {axis: Along(axis, Look(((start,),), 1))})])
            start += op.shape(output)[axis]
    return found


@links_for("cat", "concat")
def joined(op: Op) -> list[list[Link]]:
    axis, start, links = (op["dim"] or 0) % len(op.output), 0, []
    for value in op.operation.inputs:
        shape = op.shape(value)
        if len(shape) == len(op.output):
            stop = start + shape[axis]
            links.append(
                op.same(value, {axis: Along(axis, Look(((-start,),), 1))})._replace(within=(axis, range(start, stop)))
            )
            start = stop
    return [links]


@links_for("stack")
def stacked(op: Op) -> list[list[Link]]:
    axis = (op["dim"] or 0) % len(op.output)
    axes = tuple(Along(i) for i in range(len(op.output)) if i != axis)
    return [[Link(value, axes, within=(axis, range(k, k + 1))) for k, value in enumerate(op.operation.inputs)]]


@links_for("constant_pad_nd", "pad")
def padded(op: Op) -> list[list[Link]]:
    return [[op.same(op.input, {axis: Along(axis, Look(((-before,),), 1)) for axis, before, _ in _margins(op)})]]


@links_for(*(f"{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)))
def extended(op: Op) -> list[list[Link]]:
    """Margins made of values of the image: those that stand as far behind the border, or the border's."""
    axes: dict[int, Along | Anywhere] = {}
    for axis, before, after in _margins(op):
        last = op.shape(op.input)[axis] - 1
        wanted = range(-before, last + 1 + after)
        if "reflection" in op.operation.name:
            places = tuple((last - abs(last - abs(p)),) for p in wanted)
        else:
            places = tuple((min(max(p, 0), last),) for p in wanted)
        axes[axis] = Along(axis, Look(((-before,),), 1), Look(places, len(places)) if before > 0 or after > 0 else None)
    return [[op.same(op.input, axes)]]


def _margins(op: Op) -> list[tuple[int, int, int]]:
    """Axis, before, after; the last axis comes first in torch's list."""
    pad, rank = op["pad"] or op["padding"] or [], len(op.output)
    return [(rank - 1 - i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]


def part_written(op: Op) -> list[list[Link]]:
    """A tensor after something was written into a part of it: what it was, and the part, wherever that is."""
    whole, part = op.operation.inputs
    return [[op.same(whole, exact=False), op.everywhere(part, exact=False)]]


LINKS[WRITTEN] = part_written

# ------------------------------------------------------------------------------------------------------- sums over axes


@links_for(
    *(
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "prod",
        "norm",
        "linalg_vector_norm",
    ),
    *(
        "logsumexp",
        "argmax",
        "argmin",
        "any",
        "all",
        "nansum",
        "median",
        "mode",
        "count_nonzero",
        "aminmax",
        "nanmean",
        "kthvalue",
    ),
)
def reduced(op: Op) -> list[list[Link]]:
    shape = op.shape(op.input)
    given = op["dim"]
    axes = range(len(shape)) if given is None or given == [] else [given] if isinstance(given, int) else given
    gone = {a % max(1, len(shape)) for a in axes}
    if op.operation.name in ("aten.max", "aten.min") and len(op.operation.inputs) == 2:
        return pointwise(op)
    kept = len(op.output) == len(shape)
    found, place = [], 0
    for i, n in enumerate(shape):
        found.append(Anywhere(range(n)) if i in gone else Along(i if kept else place))
        place += i not in gone
    return [[Link(op.input, tuple(found))] for _ in op.operation.outputs]


@links_for(
    *(
        "_softmax",
        "softmax",
        "_log_softmax",
        "log_softmax",
        "_safe_softmax",
        "cumsum",
        "cumprod",
        "cummax",
        "cummin",
        "logcumsumexp",
    ),
    *("sort", "topk"),
)
def along_one(op: Op) -> list[list[Link]]:
    """Each sees the whole axis; of sums so far only what stands before it."""
    axis = op.axis(op.input, op["dim"] if op["dim"] is not None else -1)
    everything = Anywhere(range(op.shape(op.input)[axis]))
    return [[op.same(op.input, {axis: everything}, exact="cum" not in op.operation.name)] for _ in op.operation.outputs]


@links_for("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "matmul", "linear")
def product(op: Op) -> list[list[Link]]:
    """Rows of the first by columns of the second; a third is added."""
    pairs = (("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec"), ("self", "vec"), ("self", "mat2"))
    a, b = (
        op.value(name)
        for name in next((pair for pair in pairs if pair[0] in op.arguments and pair[1] in op.arguments), pairs[-1])
    )
    if a is None or b is None:
        return [[op.everywhere(v, exact=op.output == ()) for v in dict.fromkeys(op.operation.inputs)]]
    if len(op.shape(b)) == 1:  # a vector
        rows = [Link(a, (Along(0), Anywhere(range(op.shape(a)[1])))), op.everywhere(b)]
        return [[*rows, *(link for link in pointwise(op)[0] if link.value not in (a, b))]]
    rank = len(op.output)
    lead = tuple(Along(i) for i in range(rank - 2))
    left = Link(a, (*lead, Along(rank - 2), Anywhere(range(op.shape(a)[-1]))))
    right = Link(b, (*lead, Anywhere(range(op.shape(b)[-2])), Along(rank - 1)))
    added = [v for v in dict.fromkeys(op.operation.inputs) if v not in (a, b)]
    more = []
    for value in added:
        shape = op.shape(value)
        more.append(
            Link(
                value,
                tuple(Anywhere(range(1)) if n == 1 else Along(rank - len(shape) + i) for i, n in enumerate(shape)),
            )
        )
    return [[left, right, *more]]


@links_for(
    *(
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_attention_math",
    ),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
)
def attention(op: Op) -> list[list[Link]]:
    """Each query sees all keys and values, unless a mask hides some."""
    query, key, value = op.operation.inputs[:3]
    exact = not op["is_causal"] and op.value("attn_mask") is None and op.value("attn_bias") is None
    rank = len(op.output)
    lead = tuple(Along(i) for i in range(rank - 2))
    every = {v: Link(v, (*lead, *(Anywhere(range(n)) for n in op.shape(v)[-2:])), exact) for v in (key, value)}
    asks = Link(query, (*lead, Along(rank - 2), Anywhere(range(op.shape(query)[-1]))))
    first = [asks, *(every[v] for v in dict.fromkeys((key, value))), *op.others(query, key, value)]
    return [first, *([] for _ in op.operation.outputs[1:])]


@links_for("embedding")
def embedded(op: Op) -> list[list[Link]]:
    indices = op.value("indices")
    assert indices is not None
    return [[Link(indices, tuple(Along(i) for i in range(len(op.shape(indices)))))]]


@links_for(
    "empty",
    "zeros",
    "ones",
    "full",
    "arange",
    "scalar_tensor",
    "rand",
    "randn",
    "eye",
    "linspace",
    "empty_strided",
    "randint",
)
def made(op: Op) -> list[list[Link]]:
    return [[] for _ in op.operation.outputs]


