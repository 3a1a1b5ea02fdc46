"""Measures which method of convolution is fastest where, and writes the chooser's table: `python benchmarks/tune.py`.

For each kind of convolution, up to each of some numbers of what it is counted by (src/striate/ops/crossovers.py), some
shapes are computed by every method that can, in turn, over and over; a row of the table holds the geometric means of
torch's median times over the methods'. The method of a row is the fastest, if it gains 3 % over torch's on average and
loses no more than 3 % on any shape: else the next that does, and in the end torch's own operator. Winograd's tiles
round more, and have to gain 20 % over all others.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from striate import native_info
from striate.allocator import tune_allocator
from striate.measure import medians_ms, processor
from striate.ops import conv, crossovers, fused

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from samples import channels_last

# fused: for inference, over oneDNN's operator with a packed weight and a ReLU
MAPS = ("forward", "input", "weight", "fused")
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
ROUNDING, WORTH = ("winograd_4x4", "winograd_2x2"), 1.2  # what rounds more has to be so much faster than what does not
FAR = 3  # times the fastest's time
OTHER = torch.ones(2**23)  # 32 MiB


class Shape(NamedTuple):
    batch: int
    channels: int
    filters: int
    groups: int
    places: tuple[int, ...]
    size: int
    stride: int = 1
    dilation: int = 1


# For sizes that count the outputs of all images: batches and sides of outputs, in training and for inference.
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
LENGTHS = {"tiny": 15, "small": 60, "medium": 400, "large": 4000}  # of one axis, for 16 images


def shapes(axes: int, kind: str, limit: int, stride: int, map: str, size_name: str) -> list[Shape]:
    """What stands for a row."""
    small = size_name == "small"
    side = {1: 200 if small else 2000, 2: 14 if small else 40, 3: 6 if small else 20}[axes]
    batch = {1: 16, 2: 16, 3: 4}[axes] * (4 if small else 1)
    runs = [(batch, side * (stride if small else 1))] * 2
    if "tiny" in crossovers.sizes(kind, map):
        of_axis = ((16, LENGTHS[size_name]), (8, 2 * LENGTHS[size_name]))
        runs = [
            (n, side * stride)
            for n, side in (of_axis if axes == 1 else (SINGLES if map == "fused" else BATCHES)[size_name])
        ]
    (batch, side), (batch_2, side_2) = runs
    places, places_2 = (side,) * axes, (side_2,) * axes
    if kind == "depthwise":
        of_axes = {1: {9: 9, 25: 25, ANY: 49}, 2: {9: 3, 25: 5, ANY: 7}, 3: {ANY: 3}}
        size = of_axes[axes][limit]
        return [Shape(batch, 96, 96, 96, places, size, stride), Shape(batch_2, 64, 64, 64, places_2, size, stride)]
    if kind == "grouped":
        each = 64 if limit == ANY else limit
        groups, filters = max(2, 128 // each), max(2, each)
        channels = groups * each
        return [
            Shape(batch, channels, groups * filters, groups, places, 3, stride),
            Shape(batch_2, channels, groups * filters * 2, groups, places_2, 3, stride),
        ]
    if kind == "few filters":
        return [
            Shape(batch, 64, limit, 1, places, 3, stride),
            Shape(batch_2, 32, limit, 1, places_2, 5 if axes < 3 else 3, stride),
        ]
    if kind == "pointwise":
        channels, filters = {50: (256, 64), 100: (128, 128), ANY: (64, 256)}[limit]
        more = {"tiny": 4, "small": 2}.get(size_name, 1) if map == "fused" else 1  # small images have many channels
        return [
            Shape(batch, channels * more, filters * more, 1, places, 1, stride),
            Shape(batch_2, channels // 2 * more, filters // 2 * more, 1, places_2, 1, stride),
        ]
    if kind in ("dense 3×3", "dense 5×5"):
        channels = (512 if kind == "dense 3×3" and axes == 2 else 128) if limit == ANY else limit
        filters, size = max(16, channels), 3 if kind == "dense 3×3" else 5
        return [
            Shape(batch, channels, filters, 1, places, size),
            Shape(batch_2, channels, 2 * filters, 1, places_2, size),
        ]
    channels = 128 if limit == ANY else limit
    filters = max(16, channels)
    (size, dilation), (size_2, dilation_2) = (
        ((3, 2), (7, 1)) if stride == 1 and axes < 3 else ((3, 1), (5 if axes < 3 else 3, 1))
    )
    return [
        Shape(batch, channels, filters, 1, places, size, stride, dilation),
        Shape(batch_2, channels, 2 * filters + 4, 1, places_2, size_2, stride, dilation_2),
    ]


def call_of(shape: Shape, map: str, last: bool) -> conv.Call:
    x = (shape.batch, shape.channels, *shape.places)
    weight = (shape.filters, shape.channels // shape.groups, *[shape.size] * len(shape.places))
    padding = shape.size // 2 * shape.dilation
    plan = conv._plan(x, weight, len(shape.places), shape.stride, padding, shape.dilation, shape.groups, "tune")
    return conv.Call(map, plan, last, torch.float32, None)


def over(
    calls: dict[str, Callable[[], object]], rival: str, rounds: int, before: Callable[[], object] | None = None
) -> dict[str, float]:
    """The rival's time over each other's. Those that a first call shows to be far behind are not timed again."""
    first = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        first[name] = (time.perf_counter() - start) * 1e3
    near = {name: call for name, call in calls.items() if name == rival or first[name] <= FAR * min(first.values())}
    got = {name: (first[name], 0.0) for name in calls} | medians_ms(near, rounds, before)
    return {name: got[rival][0] / ms for name, (ms, _) in got.items() if name != rival}


def fused_ratios(call: conv.Call, rounds: int) -> dict[str, float]:
    """oneDNN's time over each method's. In a network the weights of a layer have left the cache when its turn comes; x
    has not.
    """
    p, call = call.plan, call._replace(map="forward")
    layer = fused.FusedConv(
        torch.randn(p.weight_shape), torch.randn(p.filters), p.stride, p.before, p.dilation, p.groups, low=0.0
    )
    x = channels_last(torch.randn(p.x_shape))
    able = [m for m in fused.CONV_METHODS if m.name in (*conv.NATIVE, "onednn") and m.refuse(call) is None]
    runs = {m.name: m.run(layer, call) for m in able}
    with torch.no_grad():
        return over(
            {name: lambda run=run: run(x, None, False) for name, run in runs.items()},
            "onednn",
            rounds,
            lambda: (OTHER.sum(), x.sum()),
        )


def ratios(call: conv.Call, rounds: int) -> dict[str, float]:
    """torch's time over each method's."""
    if call.map == "fused":
        return fused_ratios(call, rounds)
    p = call.plan
    tensors = {"x": torch.randn(p.x_shape), "y": torch.randn(p.y_shape), "w": torch.randn(p.weight_shape)}
    if call.channels_last:
        tensors = {name: t if name == "w" else channels_last(t) for name, t in tensors.items()}
    a, b = (tensors[name] for name in {"forward": "xw", "input": "yw", "weight": "yx"}[call.map])
    able = [m for m in conv.METHODS if m.name in (*METHODS, "torch") and m.refuse(call) is None]
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
        return over({m.name: lambda m=m: m.run(call, a, b) for m in able}, "torch", rounds)


def fastest(measured: list[dict[str, float]], means: dict[str, float], rival: str) -> str:
    plain = max([1.0, *(mean for name, mean in means.items() if name not in ROUNDING)])
    for name in sorted(means, key=lambda n: -means[n]):
        least = max(LEAST_GAIN, WORTH * plain if name in ROUNDING else 0)
        if means[name] >= least and all(m.get(name, 0) >= MOST_LOSS for m in measured):
            return name
    return rival


def rows(rounds: int, only: str) -> Iterator[dict[str, object]]:
    cases = (
        (axes, kind, limit, stride, map, size, last)
        for axes in (2, 3, 1)
        for kind in crossovers.COUNTED
        for limit in LIMITS[kind][axes - 1]
        for stride in ((1,) if "×" in kind else (1, 2))
        for map in MAPS
        for size in crossovers.sizes(kind, map)
        for last in ((False, True) if axes > 1 else (False,))  # of one axis there is one memory order
        if only in f"{axes}d {kind} {map}" and (map != "fused" or (last and axes == 2))
    )
    for axes, kind, limit, stride, map, size, last in cases:
        calls = [call_of(shape, map, last) for shape in shapes(axes, kind, limit, stride, map, size)]
        assert all(
            crossovers.kind_of(c.plan)[0] == kind and crossovers.size_of(kind, map, c.plan) == size for c in calls
        ), (
            kind,
            limit,
            size,
        )
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
            "method": fastest(measured, means, "onednn" if map == "fused" else "torch"),
            **{n: f"{means[n]:.2f}" if n in means else "" for n in METHODS},
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each method (default %(default)s)")
    parser.add_argument(
        "--only",
        default="",
        help="kinds and maps whose name contains this, as 2d pointwise fused; the table's other rows stay",
    )
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
            found = [
                {n: row.get(n, "") for n in names}
                for row in rest
                if options.only not in f"{row['axes']}d {row['kind']} {row['map']}"
            ] + found
    with options.out.open("w", newline="") as file:
        file.write(about + "\n")
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
