"""Times a family's kernels against torch's, in one run: `python benchmarks/run.py pool`.

Every contestant runs each case in turn, once untimed and once timed, repeatedly; medians are reported. The C library is
set to keep freed memory: by default glibc returns blocks of tens of megabytes, and the next caller faults them in again
at a microsecond a page, which is several times what any of these kernels takes (--allocator default shows it). The
limit is the machine's copy bandwidth, within the last-level cache for what may be in it, or, where it takes longer, the
arithmetic at the rate of the micro-kernel on data in the first-level cache, all measured in the same rounds; a share
above 100 % is told in words. Contestants: striate on the row's layout, torch eager on NCHW and on NHWC, and torch eager
on the row's layout again (A/A: its ratio to itself shows the noise). "kept" is the memory that forward keeps for
backward, over what torch's forward keeps. The error is the largest difference from float64, in units of the largest
value. The family gemm has rows of another kind: gemm.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import striate
from striate import native
from striate._torch import ConvBase
from striate.allocator import tune_allocator
from striate.files import write_atomically
from striate.measure import ABOUT_BEYOND, References, beyond, medians_ms, processor, ratio_a_a, with_again
from striate.ops.conv import explain_methods

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import gemm
from samples import BENCHMARKS, Benchmark, channels_last

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], Any]


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
    """The errors of y and dx against torch in float64 on NCHW, in units of the largest value of each."""
    results = []
    for (function, _), dtype in zip(case.contestants(), (x.dtype, torch.float64), strict=True):
        if isinstance(function, torch.nn.Module):
            function = function.to(dtype)
        exact = dtype is torch.float64
        given, gradient = (t.detach().contiguous().to(dtype) if exact else t.detach() for t in (x, dy))
        y = function(given.requires_grad_())
        results.append((y.detach(), *torch.autograd.grad(y, given, gradient)))
    return max(float((y - exact).abs().max() / exact.abs().max()) for y, exact in zip(*results, strict=True))


def kept_bytes(function: Callable[..., torch.Tensor], x: torch.Tensor) -> int:
    """The bytes that forward keeps for backward, each block of memory once; x included if it is kept."""
    blocks: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        blocks[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x.detach().requires_grad_())
    return sum(blocks.values())


def takes_fewer_macs(function: Callable[..., torch.Tensor], shape: tuple[int, ...], layout: str) -> bool:
    """Whether striate computes a pass by Winograd's tiles."""
    if not isinstance(function, ConvBase):
        return False
    arguments = (function.stride, function.padding, function.dilation, function.groups, layout == "NHWC")
    chosen = explain_methods(shape, function.weight.shape, *arguments)
    return any(methods[-1][0].startswith("winograd") for methods in chosen.values())


def measure(case: Benchmark, rounds: int) -> list[dict[str, Any]]:
    sample, rows = case.sample, []
    references = References(arithmetic=bool(case.macs))
    x = torch.randn(sample.shape)
    both = case.contestants()  # striate's and torch's
    dy = torch.randn_like(both[1][0](x))
    layouts = {"NCHW": torch.Tensor.contiguous} | (
        {"NHWC": channels_last} if x.dim() > 3 or not sample.function.startswith("layer") else {}
    )
    given = {name: (layout(x), layout(dy)) for name, layout in layouts.items()}
    native_calls, torch_calls = (
        {name: both_passes(*one, *tensors, case.input_gradient) for name, tensors in given.items()} for one in both
    )
    forward_bytes, backward_bytes = case.moved_bytes(x, dy)
    kept = {
        name: [kept_bytes(function, tensors[0]) for function, _ in both] for name, tensors in given.items()
    }
    products = (1, 3 if case.input_gradient else 2)  # the multiply-adds of each row, as a multiple of forward's
    for k, (which, moved) in enumerate(
        (("forward", forward_bytes), ("forward+backward", forward_bytes + backward_bytes))
    ):
        contestants = {f"striate {name}": native_calls[name][k] for name in layouts}
        contestants |= {f"eager {name}": torch_calls[name][k] for name in layouts}
        entered = references.calls | with_again(contestants, *(f"eager {name}" for name in layouts))
        got = medians_ms(entered, rounds)
        ms = {name: one.median for name, one in got.items()}
        rates = references.rates(ms)
        limit = rates.limit(moved, products[k] * case.macs, case.sweeps[0] + k * case.sweeps[1])
        eager_nhwc = ms.get("eager NHWC", ms["eager NCHW"])  # inputs without spatial axes have one memory format only
        for name in layouts:
            native_ms, spread = got[f"striate {name}"]
            share = limit.ms / native_ms
            rows.append(
                {
                    "op": sample.function,
                    "arguments": sample.arguments,
                    "shape": list(sample.shape),
                    "layout": name,
                    "pass": which,
                    "striate_ms": native_ms,
                    "spread": spread,
                    "eager_nchw_ms": ms["eager NCHW"],
                    "eager_nhwc_ms": eager_nhwc,
                    "ratio_nchw": ms["eager NCHW"] / native_ms,
                    "ratio_nhwc": eager_nhwc / native_ms,
                    "ratio_a_a": ratio_a_a(ms, f"eager {name}"),
                    "share_of_limit": share,
                    "limited_by": limit.by,
                    "beyond_limit": beyond(share, limit.by, takes_fewer_macs(both[0][0], sample.shape, name)),
                    "copy_gb_per_s": rates.copy_gb_per_s,
                    "cached_copy_gb_per_s": rates.cached_copy_gb_per_s,
                    "peak_gflops": rates.peak_gflops if case.macs else None,
                    "micro_kernel": rates.micro_kernel,
                    "kept_bytes": kept[name][0],
                    "kept_bytes_torch": kept[name][1],
                    "max_error": error(case, *given[name]),
                }
            )
    return rows


HEADER = (  # columns of the printed table
    "| operation | shape | layout | pass | striate ms | spread | eager NCHW ms | eager NHWC ms | "
    "× NCHW | × NHWC | A/A | of limit | kept | error |"
)


def line(row: dict[str, Any]) -> str:
    arguments = ", ".join(f"{k} {v}" for k, v in row["arguments"].items())
    return (
        f"| {row['op']} {arguments} | {'×'.join(map(str, row['shape']))} | {row['layout']} | {row['pass']} | "
        f"{row['striate_ms']:.3f} | "
        f"{row['spread']:.0%} | {row['eager_nchw_ms']:.3f} | {row['eager_nhwc_ms']:.3f} | "
        f"{row['ratio_nchw']:.1f} | {row['ratio_nhwc']:.1f} | {row['ratio_a_a']:.2f} | "
        f"{row['beyond_limit'] or format(row['share_of_limit'], '.0%')} | "
        f"{row['kept_bytes'] / max(1, row['kept_bytes_torch']):.2f} | {row['max_error']:.0e} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=[*sorted(BENCHMARKS), "gemm"])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--rounds", type=int, default=11, help="timed calls of each contestant, at least 7 (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default %(default)s")
    parser.add_argument(
        "--allocator",
        choices=["kept", "default"],
        default="kept",
        help="whether freed memory is kept (default %(default)s)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where to write the rows (default benchmarks/results/FAMILY.json, for gemm a file for each kind of "
        "processor; with --only nowhere)",
    )
    options = parser.parse_args()
    if options.rounds < 7:
        parser.error(f"a median of fewer than 7 rounds says little, got --rounds {options.rounds}")
    if options.allocator == "kept" and not tune_allocator():
        parser.error("this C library has no mallopt: choose --allocator default")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    products = options.family == "gemm"
    if products and not native.core:
        parser.error(f"{native.missing}, whose products gemm measures")
    found: list[Any] = gemm.CASES if products else BENCHMARKS[options.family]
    cases = [c for c in found if options.only in str(c if products else c.sample)]
    if not cases:
        parser.error(f"no case of {options.family} has {options.only!r} in its name")
    info = striate.native_info()
    versions = f"torch {info['torch']}, striate {info['striate']}"
    print(f"{processor()}, {options.threads} threads, {info['isa']}, {versions}, allocator {options.allocator}\n")
    header = gemm.HEADER if products else HEADER
    print(header + "\n" + "|---" * (header.count("|") - 1) + "|")
    rows = []
    for case in cases:
        for row in gemm.measure(case, options.rounds) if products else measure(case, options.rounds):
            rows.append(row)
            print(gemm.line(row) if products else line(row), flush=True)
    words = {row["beyond_limit"] for row in rows}
    for word, about in ABOUT_BEYOND.items():
        if word in words:
            print(f"\n{word}: {about}.")
    name = gemm.result_name() if products else options.family
    path = options.json or (None if options.only else RESULTS / f"{name}.json")
    if path:
        machine = {
            "processor": processor(),
            "threads": options.threads,
            "rounds": options.rounds,
            "allocator": options.allocator,
        } | {k: info[k] for k in ("isa", "torch", "striate")}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        print(f"\n{len(rows)} rows in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
