"""Measures which method of convolution is fastest where, and writes the chooser's table: `python benchmarks/tune.py`.

For each kind of convolution, up to each of some numbers of what it is counted by (src/striate/ops/crossovers.py), some shapes are
computed by every method that can, in turn, over and over; a row of the table holds the geometric means of torch's median times over
the methods'. The method of a row is the fastest, if on none of its shapes it is slower than torch's by more than 3 %: else the next,
and in the end torch's own operator.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch

from striate import native_info
from striate.ops import conv, crossovers

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from run import keep_memory, medians_ms, processor
from samples import channels_last

MAPS = ("forward", "input", "weight")
METHODS = [name for name in conv.NAMES if name not in ("torch", "reference")]
LIMITS = {
    "depthwise": (9, 25, 10**9),
    "grouped": (1, 2, 4, 8, 16, 32, 10**9),
    "few filters": (2, 4, 8),
    "pointwise": (50, 100, 10**9),
    "dense": (1, 2, 4, 8, 16, 32, 64, 10**9),
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


def shapes(axes: int, kind: str, limit: int, small: bool) -> Iterator[Shape]:
    """What stands for a row."""
    side = {1: 200 if small else 2000, 2: 14 if small else 40, 3: 6 if small else 20}[axes]
    batch = {1: 16, 2: 16, 3: 4}[axes] * (4 if small else 1)
    places = (side,) * axes
    if kind == "depthwise":
        size = {9: 3, 25: 5, 10**9: 7}[limit] if axes == 2 else {9: 9, 25: 25, 10**9: 49}[limit] if axes == 1 else 3
        yield Shape(batch, 96, 96, 96, places, size)
        yield Shape(batch, 64, 64, 64, places, size, 2)
    elif kind == "grouped":
        each = 64 if limit == 10**9 else limit
        groups = max(2, 128 // each)
        yield Shape(batch, groups * each, groups * max(2, each), groups, places, 3)
        yield Shape(batch, groups * each, groups * max(2, each), groups, places, 3, 2)
    elif kind == "few filters":
        yield Shape(batch, 64, limit, 1, places, 3)
        yield Shape(batch, 32, limit, 1, places, 5)
    elif kind == "pointwise":
        channels, filters = {50: (256, 64), 100: (128, 128), 10**9: (64, 256)}[limit]
        yield Shape(batch, channels, filters, 1, places, 1)
        yield Shape(batch, channels // 2, filters // 2, 1, places, 1)
    else:
        channels = 128 if limit == 10**9 else limit
        filters = max(16, channels)
        yield Shape(batch, channels, filters, 1, places, 3)
        yield Shape(batch, channels, filters + 4, 1, places, 5 if axes < 3 else 3)
        yield Shape(batch, channels, 2 * filters, 1, places, 3, 2)


def call_of(shape: Shape, map: str, last: bool) -> conv.Call:
    x = (shape.batch, shape.channels, *shape.places)
    weight = (shape.filters, shape.channels // shape.groups, *[shape.size] * len(shape.places))
    plan = conv._plan(x, weight, len(shape.places), shape.stride, shape.size // 2, 1, shape.groups, "tune")
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
    for axes in (2, 3, 1):
        for kind, limits in crossovers.COUNTED.items():
            for limit in LIMITS[kind] if kind in LIMITS and only in f"{axes}d {limits} {kind}" else ():
                if axes != 2 and (kind in ("pointwise", "few filters") or (kind == "depthwise" and axes == 3 and limit != 10**9)):
                    continue  # as in two dimensions
                for small in (True, False):
                    for map in MAPS:
                        for last in (False, True):
                            calls = [call_of(shape, map, last) for shape in shapes(axes, kind, limit, small)]
                            measured = [ratios(call, rounds) for call in calls]
                            names = [n for n in METHODS if all(n in m for m in measured)]
                            means = {n: statistics.geometric_mean(m[n] for m in measured) for n in names}
                            yield {
                                "axes": axes,
                                "kind": kind,
                                "up_to": limit,
                                "size": "small" if prod(calls[0].plan.output) <= crossovers.SMALL else "large",
                                "map": map,
                                "order": "channels" if last else "planes",
                                "method": fastest(measured, means),
                                **{n: f"{means[n]:.2f}" if n in means else "" for n in METHODS},
                            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each method (default %(default)s)")
    parser.add_argument("--only", default="", help="kinds whose name contains this; prints, writes nothing")
    parser.add_argument("--out", type=Path, default=crossovers.PATH, help="default: the chooser's own table")
    options = parser.parse_args()
    keep_memory()
    torch.manual_seed(0)
    info = native_info()
    machine = f"{processor()}, {info['threads']} threads, {info['isa']}, torch {info['torch']}"
    about = f"# {machine}, medians of {options.rounds}: python benchmarks/tune.py"
    names = ["axes", "kind", "up_to", "size", "map", "order", "method", *METHODS]
    print(about + "\n" + ",".join(names))
    found = []
    for row in rows(options.rounds, options.only):
        found.append(row)
        print(",".join(str(v) for v in row.values()), flush=True)
    if not options.only:
        with options.out.open("w", newline="") as file:
            file.write(about + "\n")
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
