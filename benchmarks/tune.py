"""Measures which method of convolution is fastest where, and writes the chooser's table: `python benchmarks/tune.py`.

For each kind of convolution, up to each of some numbers of what it is counted by (src/striate/ops/crossovers.py), some shapes are
computed by every method that can, in turn, over and over; a row of the table holds the geometric means of torch's median times over
the methods'. The method of a row is the fastest, if it gains 3 % over torch's on average and loses no more than 3 % on any shape: else
the next that does, and in the end torch's own operator.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from striate import native_info
from striate.allocator import tune_allocator
from striate.ops import conv, crossovers

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from run import medians_ms, processor
from samples import channels_last

MAPS = ("forward", "input", "weight")
METHODS = [name for name in conv.NAMES if name not in ("torch", "reference")]
ANY = 10**9
LIMITS = {  # for one, two and three axes
    "depthwise": ((9, 25, ANY), (9, 25, ANY), (ANY,)),
    "grouped": ((2, 8, ANY), (1, 2, 4, 8, 16, 32, ANY), (2, 8, ANY)),
    "few filters": ((4,), (2, 4, 8), (4,)),
    "pointwise": ((), (50, 100, ANY), ()),  # as for two
    "dense 3×3": ((1, 4, 16, ANY), (1, 2, 4, 8, 16, 32, 64, 128, 256, ANY), ()),
    "dense 5×5": ((1, 4, 16, ANY), (1, 4, 16, 32, ANY), ()),
    "dense": ((1, 4, 16, 32, ANY), (1, 2, 4, 8, 16, 32, 64, ANY), (1, 4, 16, 32, ANY)),
}
LEAST_GAIN = 1.03  # for a method to go before torch's operator: less is noise
MOST_LOSS = 0.97  # on any shape of a row


class Shape(NamedTuple):
    batch: int
    channels: int
    filters: int
    groups: int
    places: tuple[int, ...]
    size: int
    stride: int = 1
    dilation: int = 1


def shapes(axes: int, kind: str, limit: int, stride: int, size_name: str) -> list[Shape]:
    """What stands for a row."""
    small = size_name == "small"
    side = {1: 200 if small else 2000, 2: 14 if small else 40, 3: 6 if small else 20}[axes]
    batch = {1: 16, 2: 16, 3: 4}[axes] * (4 if small else 1)
    places = (side * (stride if small else 1),) * axes
    if kind == "depthwise":
        of_axes = {1: {9: 9, 25: 25, ANY: 49}, 2: {9: 3, 25: 5, ANY: 7}, 3: {ANY: 3}}
        return [Shape(batch, c, c, c, places, of_axes[axes][limit], stride) for c in (96, 64)]
    if kind == "grouped":
        each = 64 if limit == ANY else limit
        groups = max(2, 128 // each)
        return [Shape(batch, groups * each, groups * max(2, each) * more, groups, places, 3, stride) for more in (1, 2)]
    if kind == "few filters":
        return [Shape(batch, 64, limit, 1, places, 3, stride), Shape(batch, 32, limit, 1, places, 5 if axes < 3 else 3, stride)]
    if kind == "pointwise":
        channels, filters = {50: (256, 64), 100: (128, 128), ANY: (64, 256)}[limit]
        return [Shape(batch, channels // n, filters // n, 1, places, 1, stride) for n in (1, 2)]
    if kind in ("dense 3×3", "dense 5×5"):
        channels = (512 if kind == "dense 3×3" and axes == 2 else 128) if limit == ANY else limit
        filters, size = max(16, channels), 3 if kind == "dense 3×3" else 5
        if axes == 1:
            length = {"small": 60, "medium": 400, "large": 4000}[size_name]
            return [Shape(16, channels, filters, 1, (length,), size), Shape(8, channels, 2 * filters, 1, (2 * length,), size)]
        one, two = {"small": ((16, 7), (4, 14)), "medium": ((16, 14), (2, 56)), "large": ((16, 28), (8, 56))}[size_name]
        return [Shape(one[0], channels, filters, 1, (one[1],) * 2, size), Shape(two[0], channels, 2 * filters, 1, (two[1],) * 2, size)]
    channels = 128 if limit == ANY else limit
    filters = max(16, channels)
    wide = [(3, 2), (7, 1)] if stride == 1 and axes < 3 else [(3, 1), (5 if axes < 3 else 3, 1)]
    return [
        Shape(batch, channels, filters * (1 + k) + 4 * k, 1, places, size, stride, dilation) for k, (size, dilation) in enumerate(wide)
    ]


def call_of(shape: Shape, map: str, last: bool) -> conv.Call:
    x = (shape.batch, shape.channels, *shape.places)
    weight = (shape.filters, shape.channels // shape.groups, *[shape.size] * len(shape.places))
    padding = shape.size // 2 * shape.dilation
    plan = conv._plan(x, weight, len(shape.places), shape.stride, padding, shape.dilation, shape.groups, "tune")
    return conv.Call(map, plan, last, torch.float32, None)


def ratios(call: conv.Call, rounds: int) -> dict[str, float]:
    """torch's time over each method's."""
    p = call.plan
    tensors = {"x": torch.randn(p.x_shape), "y": torch.randn(p.y_shape), "w": torch.randn(p.weight_shape)}
    if call.channels_last:
        tensors = {name: t if name == "w" else channels_last(t) for name, t in tensors.items()}
    a, b = (tensors[name] for name in {"forward": "xw", "input": "yw", "weight": "yx"}[call.map])
    able = [m for m in conv.METHODS if m.name in (*METHODS, "torch") and m.refuse(call) is None]
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
        got = medians_ms({m.name: lambda m=m: m.run(call, a, b) for m in able}, rounds)
    return {name: got["torch"][0] / ms for name, (ms, _) in got.items() if name != "torch"}


def fastest(measured: list[dict[str, float]], means: dict[str, float]) -> str:
    for name in sorted(means, key=lambda n: -means[n]):
        if means[name] >= LEAST_GAIN and all(m.get(name, 0) >= MOST_LOSS for m in measured):
            return name
    return "torch"


def rows(rounds: int, only: str) -> Iterator[dict[str, object]]:
    cases = (
        (axes, kind, limit, stride, size, map, last)
        for axes in (2, 3, 1)
        for kind in crossovers.COUNTED
        for limit in LIMITS[kind][axes - 1]
        for stride in ((1,) if "×" in kind else (1, 2))
        for size in crossovers.SIZES[kind]
        for map in MAPS
        for last in (False, True)
        if only in f"{axes}d {kind}"
    )
    for axes, kind, limit, stride, size, map, last in cases:
        calls = [call_of(shape, map, last) for shape in shapes(axes, kind, limit, stride, size)]
        assert all(crossovers.kind_of(c.plan)[0] == kind and crossovers.size_of(kind, c.plan) == size for c in calls), (kind, limit, size)
        measured = [ratios(call, rounds) for call in calls]
        names = [n for n in METHODS if all(n in m for m in measured)]
        means = {n: statistics.geometric_mean(m[n] for m in measured) for n in names}
        yield {
            "axes": axes,
            "kind": kind,
            "up_to": limit,
            "stride": "1" if stride == 1 else "more",
            "size": size,
            "map": map,
            "order": "channels" if last else "planes",
            "method": fastest(measured, means),
            **{n: f"{means[n]:.2f}" if n in means else "" for n in METHODS},
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each method (default %(default)s)")
    parser.add_argument("--only", default="", help="kinds whose name contains this; the table's other rows stay")
    parser.add_argument("--out", type=Path, default=crossovers.PATH, help="default: the chooser's own table")
    options = parser.parse_args()
    tune_allocator()
    torch.manual_seed(0)
    info = native_info()
    machine = f"{processor()}, {info['threads']} threads, {info['isa']}, torch {info['torch']}"
    about = f"# {machine}, medians of {options.rounds}: python benchmarks/tune.py"
    names = ["axes", "kind", "up_to", "stride", "size", "map", "order", "method", *METHODS]
    print(about + "\n" + ",".join(names))
    found = []
    for row in rows(options.rounds, options.only):
        found.append(row)
        print(",".join(str(v) for v in row.values()), flush=True)
    if options.only:
        with crossovers.PATH.open(newline="") as file:
            rest = csv.DictReader(line for line in file if not line.startswith("#"))
            found = [{n: row.get(n, "") for n in names} for row in rest if options.only not in f"{row['axes']}d {row['kind']}"] + found
    with options.out.open("w", newline="") as file:
        file.write(about + "\n")
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
