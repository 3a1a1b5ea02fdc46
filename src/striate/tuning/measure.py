"""Measures which method computes which convolutions fastest, and writes a tuning table.

A row of the table is for one kind of convolution and one limit of the number by which the kind is counted
(:mod:`.select`). Two shapes are timed for it: all methods that can compute them run in turns, several rounds. The row
holds the ratio of torch's median time to each method's, as the geometric mean over the shapes. The method of the row is
the fastest of those that gain 3 % over torch on average and lose no more than 3 % on any shape; if there is none, it is
torch's operator. Winograd's methods round more, and must also be 20 % faster than all others.

:func:`striate.ops.contest.contest` makes the calls that are timed, since this package does not import the methods.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import write_atomically
from . import select

__all__ = ["ANY", "PASSES", "Contest", "Shape", "fastest", "ratios", "rows", "shapes", "write"]

# "fused" is forward for inference, with a ReLU; it is compared with oneDNN's operator on packed weights
PASSES = ("forward", "backward_data", "backward_weights", "fused")
ANY = 10**9
LIMITS = {  # the limits of each kind's number, for one, two and three axes
    "depthwise": ((9, 25, ANY), (9, 25, ANY), (ANY,)),
    "grouped": ((2, 8, ANY), (1, 2, 4, 8, 16, 32, ANY), (2, 8, ANY)),
    "few filters": ((4,), (2, 4, 8), (4,)),
    "pointwise": ((), (50, 100, ANY), ()),  # the rows of two axes apply to one and three
    "dense 3×3": ((1, 4, 16, ANY), (1, 2, 4, 8, 16, 32, 64, 128, 256, ANY), ()),
    "dense 5×5": ((1, 4, 16, ANY), (1, 4, 16, 32, ANY), ()),
    "dense": ((1, 4, 16, 32, ANY), (1, 2, 4, 8, 16, 32, 64, ANY), (1, 4, 16, 32, ANY)),
}
MIN_GAIN = 1.03  # the ratio from which a method is preferred to torch's operator: less is noise
MAX_LOSS = 0.97  # the smallest ratio that is accepted on any shape of a row
# The methods that round more, and how many times faster than all others they must be.
ROUNDING, ROUNDING_GAIN = ("winograd_4x4", "winograd_2x2"), 1.2
FAR = 3  # a method that takes more than this many times the fastest's time is not timed again

Call = Callable[[], object]
# From calls by name, the number of rounds, and a call made before each timed one: each call's median [ms] and spread.
Medians = Callable[[dict[str, Call], int, Call | None], dict[str, tuple[float, float]]]


class Shape(NamedTuple):
    batch: int
    channels: int
    filters: int
    groups: int
    input: tuple[int, ...]
    size: int
    stride: int = 1
    dilation: int = 1


class Contest(NamedTuple):
    """One convolution by every method that can compute it."""

    geometry: select.Geometry
    calls: dict[str, Call]
    rival: str  # the call with which the others are compared
    before: Call | None = None


# For sizes that count the outputs of all images: the batch and the output's side of both shapes of a row, in training
# (BATCHES) and for inference (SINGLES).
BATCHES = {
    "tiny": ((16, 4), (4, 8)),
    "small": ((16, 7), (4, 14)),
    "medium": ((16, 14), (2, 56)),
    "large": ((16, 28), (8, 56)),
}
SINGLES = {
    "tiny": ((1, 7), (1, 14)),
    "small": ((1, 28), (16, 7)),
    "medium": ((1, 56), (16, 14)),
    "large": ((16, 28), (8, 56)),
}
LENGTHS = {"tiny": 15, "small": 60, "medium": 400, "large": 4000}  # with one axis: the output's length, for 16 images


def shapes(axes: int, kind: str, limit: int, stride: int, pass_: str, size_name: str) -> list[Shape]:
    """The shapes that are measured for a row."""
    small = size_name == "small"
    side = {1: 200 if small else 2000, 2: 14 if small else 40, 3: 6 if small else 20}[axes]
    batch = {1: 16, 2: 16, 3: 4}[axes] * (4 if small else 1)
    runs = [(batch, side * (stride if small else 1))] * 2
    if "tiny" in select.sizes(kind, pass_):
        of_axis = ((16, LENGTHS[size_name]), (8, 2 * LENGTHS[size_name]))
        runs = [
            (n, side * stride)
            for n, side in (of_axis if axes == 1 else (SINGLES if pass_ == "fused" else BATCHES)[size_name])
        ]
    (batch, side), (batch_2, side_2) = runs
    input, input_2 = (side,) * axes, (side_2,) * axes
    if kind == "depthwise":
        of_axes = {1: {9: 9, 25: 25, ANY: 49}, 2: {9: 3, 25: 5, ANY: 7}, 3: {ANY: 3}}
        size = of_axes[axes][limit]
        return [Shape(batch, 96, 96, 96, input, size, stride), Shape(batch_2, 64, 64, 64, input_2, size, stride)]
    if kind == "grouped":
        each = 64 if limit == ANY else limit
        groups, filters = max(2, 128 // each), max(2, each)
        channels = groups * each
        return [
            Shape(batch, channels, groups * filters, groups, input, 3, stride),
            Shape(batch_2, channels, groups * filters * 2, groups, input_2, 3, stride),
        ]
    if kind == "few filters":
        return [
            Shape(batch, 64, limit, 1, input, 3, stride),
            Shape(batch_2, 32, limit, 1, input_2, 5 if axes < 3 else 3, stride),
        ]
    if kind == "pointwise":
        channels, filters = {50: (256, 64), 100: (128, 128), ANY: (64, 256)}[limit]
        more = {"tiny": 4, "small": 2}.get(size_name, 1) if pass_ == "fused" else 1  # small images have many channels
        return [
            Shape(batch, channels * more, filters * more, 1, input, 1, stride),
            Shape(batch_2, channels // 2 * more, filters // 2 * more, 1, input_2, 1, stride),
        ]
    if kind in ("dense 3×3", "dense 5×5"):
        channels = (512 if kind == "dense 3×3" and axes == 2 else 128) if limit == ANY else limit
        filters, size = max(16, channels), 3 if kind == "dense 3×3" else 5
        return [
            Shape(batch, channels, filters, 1, input, size),
            Shape(batch_2, channels, 2 * filters, 1, input_2, size),
        ]
    channels = 128 if limit == ANY else limit
    filters = max(16, channels)
    (size, dilation), (size_2, dilation_2) = (
        ((3, 2), (7, 1)) if stride == 1 and axes < 3 else ((3, 1), (5 if axes < 3 else 3, 1))
    )
    return [
        Shape(batch, channels, filters, 1, input, size, stride, dilation),
        Shape(batch_2, channels, 2 * filters + 4, 1, input_2, size_2, stride, dilation_2),
    ]


def ratios(contest: Contest, rounds: int, medians_ms: Medians) -> dict[str, float]:
    """The rival's time over each other method's. A method that a first call shows to be far slower than the fastest is
    not timed again.
    """
    first = {}
    for name, call in contest.calls.items():
        call()
        start = time.perf_counter()
        call()
        first[name] = (time.perf_counter() - start) * 1e3
    rival, bound = contest.rival, FAR * min(first.values())
    near = {name: call for name, call in contest.calls.items() if name == rival or first[name] <= bound}
    got = {name: (first[name], 0.0) for name in contest.calls} | medians_ms(near, rounds, contest.before)
    return {name: got[rival][0] / ms for name, (ms, _) in got.items() if name != rival}


def fastest(measured: Sequence[dict[str, float]], means: dict[str, float], rival: str) -> str:
    """Chooses the method of a row from the ratios on each of its shapes and their means.

    >>> fastest([{"direct": 1.2}, {"direct": 0.9}], {"direct": 1.04}, "torch")
    'torch'
    >>> fastest([{"direct": 1.2}, {"direct": 1.0}], {"direct": 1.1}, "torch")
    'direct'
    """
    plain = max([1.0, *(mean for name, mean in means.items() if name not in ROUNDING)])
    for name in sorted(means, key=lambda n: -means[n]):
        enough = max(MIN_GAIN, ROUNDING_GAIN * plain if name in ROUNDING else 0)
        if means[name] >= enough and all(m.get(name, 0) >= MAX_LOSS for m in measured):
            return name
    return rival


def rows(
    contest: Callable[[Shape, str, bool], Contest],
    methods: Sequence[str],
    medians_ms: Medians,
    rounds: int,
    only: str = "",
) -> Iterator[dict[str, object]]:
    """Measures the rows of a table, one after the other.

    contest: makes the calls for a shape, a pass, and whether the memory order is NHWC; methods: the columns; only:
    measures the rows whose axes, kind and pass contain this text, as "2d pointwise fused".
    """
    cases = (
        (axes, kind, limit, stride, pass_, size, last)
        for axes in (2, 3, 1)
        for kind in select.COUNTED
        for limit in LIMITS[kind][axes - 1]
        for stride in ((1,) if "×" in kind else (1, 2))
        for pass_ in PASSES
        for size in select.sizes(kind, pass_)
        for last in ((False, True) if axes > 1 else (False,))  # with one axis there is one memory order
        if only in f"{axes}d {kind} {pass_}" and (pass_ != "fused" or (last and axes == 2))
    )
    for axes, kind, limit, stride, pass_, size, last in cases:
        contests = [contest(shape, pass_, last) for shape in shapes(axes, kind, limit, stride, pass_, size)]
        for c in contests:
            found = select.kind_of(c.geometry)[0], select.size_of(kind, pass_, c.geometry)
            assert found == (kind, size), (kind, limit, size, found)
        measured = [ratios(c, rounds, medians_ms) for c in contests]
        names = [n for n in methods if all(n in m for m in measured)]
        means = {n: statistics.geometric_mean(m[n] for m in measured) for n in names}
        row = (axes, kind, limit, "1" if stride == 1 else "more", size, pass_, "NHWC" if last else "NCHW")
        yield {
            **dict(zip(select.KEY, (*row, fastest(measured, means, contests[0].rival)), strict=True)),
            **{n: f"{means[n]:.2f}" if n in means else "" for n in methods},
        }


def write(path: Path, heading: str, columns: Sequence[str], found: Sequence[dict[str, object]], only: str = "") -> None:
    """Writes a table. With ``only``, the rows that were not measured stay as they are in that file, if there is one."""
    found = list(found)
    if only and path.is_file():
        with path.open(newline="") as file:
            rest = csv.DictReader(line for line in file if not line.startswith("#"))
            kept = (row for row in rest if only not in f"{row['axes']}d {row['kind']} {row['pass']}")
            found = [{n: row.get(n, "") for n in columns} for row in kept] + found
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_atomically(path, f"{heading}\n{text.getvalue()}")
