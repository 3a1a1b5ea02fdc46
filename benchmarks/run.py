"""Times a family's kernels against torch's, in one run: `python benchmarks/run.py pool`.

Each case is called in turn by every contestant, once untimed and once timed, over and over; medians are reported. The C
library is told to keep freed memory: as it comes, glibc gives blocks of tens of megabytes back and faults them in again
at a microsecond a page, whoever happens to call next, which is several times what any of these kernels takes
(--allocator default shows it). The limit is the machine's copy bandwidth or, where it takes longer, the arithmetic of a
large product of matrices, both measured in the same rounds.
Contestants: striate on the row's layout, torch eager on NCHW and on NHWC, and torch eager on the row's layout again
(A/A: its ratio to itself shows the noise). "kept" is what forward keeps for backward, over what torch keeps. The error
is the largest against float64, in units of the largest value.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import striate
from striate.allocator import tune_allocator
from striate.measure import processor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from samples import BENCHMARKS, Benchmark, channels_last

RESULTS = Path(__file__).parent / "results"
GEMM_SIDE = 2048
COPY_ELEMENTS = 2**25  # 128 MiB read, 128 MiB written: far beyond any cache
Call = Callable[[], Any]


def middle(times: list[float]) -> tuple[float, float]:
    """The median, and the spread: interquartile range over median."""
    low, median, high = statistics.quantiles(times, n=4)
    return median, (high - low) / median


def medians_ms(contestants: dict[str, Call], rounds: int, before: Call | None = None) -> dict[str, tuple[float, float]]:
    """The median of each contestant's times and their spread, interleaved, in an order shuffled anew. before: runs
    before each timed call, where an untimed one of the contestant's own runs else.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order, chance = list(contestants.items()), random.Random(0)
    for _ in range(rounds):
        # or each would always inherit the same neighbour's cache: behind the copy, twice the time
        chance.shuffle(order)
        for name, call in order:
            (before or call)()
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: middle(measured) for name, measured in times.items()}


def both_passes(
    function: Callable[..., torch.Tensor],
    parameters: list[Any],
    x: torch.Tensor,
    dy: torch.Tensor,
    input_gradient: bool,
) -> tuple[Call, Call]:
    x = x.detach().requires_grad_(input_gradient)
    wanted = [x, *parameters] if input_gradient else parameters
    return lambda: function(x), lambda: torch.autograd.grad(function(x), wanted, dy)


def error(case: Benchmark, x: torch.Tensor, dy: torch.Tensor) -> float:
    """Of y and dx, against torch in float64 on NCHW, in units of the largest value of each."""
    results = []
    for (function, _), dtype in zip(case.contestants(), (x.dtype, torch.float64), strict=True):
        if isinstance(function, torch.nn.Module):
            function = function.to(dtype)
        exact = dtype is torch.float64
        given, gradient = (t.detach().contiguous().to(dtype) if exact else t.detach() for t in (x, dy))
        y = function(given.requires_grad_())
        results.append((y.detach(), *torch.autograd.grad(y, given, gradient)))
    return max(float((ours - exact).abs().max() / exact.abs().max()) for ours, exact in zip(*results, strict=True))


def kept_bytes(function: Callable[..., torch.Tensor], x: torch.Tensor) -> int:
    """What forward keeps for backward, each block of memory once; x among it if it is kept."""
    blocks: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        blocks[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x.detach().requires_grad_())
    return sum(blocks.values())


def measure(case: Benchmark, rounds: int) -> list[dict[str, Any]]:
    sample, rows = case.sample, []
    source, target = torch.ones(COPY_ELEMENTS), torch.empty(COPY_ELEMENTS)
    square = torch.randn(GEMM_SIDE, GEMM_SIDE)
    x = torch.randn(sample.shape)
    ours_and_theirs = case.contestants()
    dy = torch.randn_like(ours_and_theirs[1][0](x))
    layouts = {"NCHW": torch.Tensor.contiguous} | (
        {"NHWC": channels_last} if x.dim() > 3 or not sample.function.startswith("layer") else {}
    )
    given = {name: (layout(x), layout(dy)) for name, layout in layouts.items()}
    ours, theirs = (
        {name: both_passes(*one, *tensors, case.input_gradient) for name, tensors in given.items()}
        for one in ours_and_theirs
    )
    forward_bytes, backward_bytes = case.moved_bytes(x, dy)
    kept = {
        name: [kept_bytes(function, tensors[0]) for function, _ in ours_and_theirs] for name, tensors in given.items()
    }
    maps = (1, 3 if case.input_gradient else 2)  # products as large as the forward one
    for k, (which, moved) in enumerate(
        (("forward", forward_bytes), ("forward+backward", forward_bytes + backward_bytes))
    ):
        contestants: dict[str, Call] = {"copy": lambda: target.copy_(source)}
        if case.macs:
            contestants["gemm"] = lambda: square @ square
        for name in layouts:
            contestants |= {
                f"striate {name}": ours[name][k],
                f"eager {name}": theirs[name][k],
                f"again {name}": theirs[name][k],
            }
        got = medians_ms(contestants, rounds)
        bytes_per_ms = 2 * 4 * COPY_ELEMENTS / got["copy"][0]
        macs_per_ms = GEMM_SIDE**3 / got["gemm"][0] if case.macs else 1.0
        limit_ms = max(moved / bytes_per_ms, maps[k] * case.macs / macs_per_ms)
        nhwc = got.get("eager NHWC", got["eager NCHW"])[0]  # there is but one order of rows
        for name in layouts:
            ms, spread = got[f"striate {name}"]
            rows.append(
                {
                    "op": sample.function,
                    "arguments": sample.arguments,
                    "shape": list(sample.shape),
                    "layout": name,
                    "pass": which,
                    "striate_ms": ms,
                    "spread": spread,
                    "eager_nchw_ms": got["eager NCHW"][0],
                    "eager_nhwc_ms": nhwc,
                    "ratio_nchw": got["eager NCHW"][0] / ms,
                    "ratio_nhwc": nhwc / ms,
                    "ratio_a_a": got[f"again {name}"][0] / got[f"eager {name}"][0],
                    "share_of_limit": limit_ms / ms,
                    "copy_gb_per_s": bytes_per_ms / 1e6,
                    "gemm_gflops": 2 * macs_per_ms / 1e6 if case.macs else None,
                    "kept_bytes": kept[name][0],
                    "kept_bytes_torch": kept[name][1],
                    "max_error": error(case, *given[name]),
                }
            )
    return rows


HEADER = (  # of the table that is printed
    "| operation | shape | layout | pass | striate ms | spread | eager NCHW ms | eager NHWC ms | "
    "× NCHW | × NHWC | A/A | of limit | kept | error |"
)


def line(row: dict[str, Any]) -> str:
    arguments = ", ".join(f"{k} {v}" for k, v in row["arguments"].items())
    return (
        f"| {row['op']} {arguments} | {'×'.join(map(str, row['shape']))} | {row['layout']} | {row['pass']} | "
        f"{row['striate_ms']:.3f} | "
        f"{row['spread']:.0%} | {row['eager_nchw_ms']:.3f} | {row['eager_nhwc_ms']:.3f} | "
        f"{row['ratio_nchw']:.1f} | {row['ratio_nhwc']:.1f} | {row['ratio_a_a']:.2f} | {row['share_of_limit']:.0%} | "
        f"{row['kept_bytes'] / max(1, row['kept_bytes_torch']):.2f} | {row['max_error']:.0e} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(BENCHMARKS))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--rounds", type=int, default=11, help="timed calls of each contestant, at least 7 (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default %(default)s")
    parser.add_argument(
        "--allocator", choices=["kept", "default"], default="kept", help="what free does (default %(default)s)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where to write the rows (default benchmarks/results/FAMILY.json; with --only nowhere)",
    )
    options = parser.parse_args()
    if options.rounds < 7:
        parser.error(f"a median of fewer than 7 rounds says little, got --rounds {options.rounds}")
    if options.allocator == "kept" and not tune_allocator():
        parser.error("this C library has no mallopt: choose --allocator default")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cases = [c for c in BENCHMARKS[options.family] if options.only in str(c.sample)]
    if not cases:
        parser.error(f"no case of {options.family} has {options.only!r} in its name")
    info = striate.native_info()
    versions = f"torch {info['torch']}, striate {info['striate']}"
    print(f"{processor()}, {options.threads} threads, {info['isa']}, {versions}, allocator {options.allocator}\n")
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    rows = []
    for case in cases:
        for row in measure(case, options.rounds):
            rows.append(row)
            print(line(row), flush=True)
    path = options.json or (None if options.only else RESULTS / f"{options.family}.json")
    if path:
        machine = {
            "processor": processor(),
            "threads": options.threads,
            "rounds": options.rounds,
            "allocator": options.allocator,
        } | {k: info[k] for k in ("isa", "torch", "striate")}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        print(f"\n{len(rows)} rows in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
