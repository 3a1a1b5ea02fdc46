"""Links of operations that permute or reshape axes, and that slice, join or pad tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...window import Look
from .link import LINKS, Along, Anywhere, Link, Op, Regroup, links_for


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
    "view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "unsqueeze_", "squeeze", "squeeze_", "flatten",
    "unflatten", "as_strided", "as_strided_", "view_copy", "_reshape_copy", "unsqueeze_copy", "squeeze_copy",
)
def regrouped(op: Op) -> list[list[Link]]:
    before, after = op.shape(op.input), op.output
    if prod(before) != prod(after) or op.operation.name.startswith("aten.as_strided"):
        return [[op.everywhere(op.input, exact=False)]]
    if before == after:
        return [[op.same(op.input)]]
    return [[Link(op.input, Regroup(_groups(before, after)))]]


def _groups(before: Sequence[int], after: Sequence[int]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Divides both shapes into the shortest runs of axes that have the same number of values.

    >>> _groups((2, 6, 4, 5), (2, 3, 2, 20))
    (((0,), (0,)), ((1,), (1, 2)), ((2, 3), (3,)))
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left_axes, right_axes = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left_axes), j + len(right_axes)
        left, right = prod(before[k] for k in left_axes), prod(after[k] for k in right_axes)
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], left_axes.append(i) or i + 1  # type: ignore[func-returns-value]
            elif j < len(after):
                right, j = right * after[j], right_axes.append(j) or j + 1  # type: ignore[func-returns-value]
            else:  # sizes of 0
                left_axes += range(i, len(before))
                i = len(before)
                break
        groups.append((tuple(left_axes), tuple(right_axes)))
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
    """pixel_shuffle: output (c, y, x) is input (c·r² + (y mod r)·r + x mod r, ⌊y/r⌋, ⌊x/r⌋)."""
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


# ----------------------------------------------------------------------------------------------------- slices and joins


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
    """Reflection padding reads values at the same distance inside the border, replication padding those on the border.
    """
    axes: dict[int, Along | Anywhere] = {}
    for axis, before, after in _margins(op):
        last = op.shape(op.input)[axis] - 1
        wanted = range(-before, last + 1 + after)
        if "reflection" in op.operation.name:
            positions = tuple((last - abs(last - abs(p)),) for p in wanted)
        else:
            positions = tuple((min(max(p, 0), last),) for p in wanted)
        ends = Look(positions, len(positions)) if before > 0 or after > 0 else None
        axes[axis] = Along(axis, Look(((-before,),), 1), ends)
    return [[op.same(op.input, axes)]]


def _margins(op: Op) -> list[tuple[int, int, int]]:
    """Axis, padding before, and padding after; torch's list starts with the last axis."""
    pad, rank = op["pad"] or op["padding"] or [], len(op.output)
    return [(rank - 1 - i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]


def part_written(op: Op) -> list[list[Link]]:
    """A tensor after a write into a view of it: depends on its old values, and on all of the view."""
    whole, part = op.operation.inputs
    return [[op.same(whole, exact=False), op.everywhere(part, exact=False)]]


LINKS.of("written")(part_written)
