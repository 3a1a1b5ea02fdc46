"""The family "gemm" of run.py: products of matrices, as linear layers and 1×1 convolutions ask for them.

A row is one pass: forward, or the gradient of the input (backward_data) or of the weight (backward_weights). Of linear
layers, x (rows, inputs) → outputs, striate's operator is called directly, and torch's product. Of convolutions, on the
row's memory order, the method that striate chooses and beside it "pointwise"; torch's operator on NCHW and on NHWC, of
which the faster is "torch". (Where a weight gradient has a stride, x is sliced first, since oneDNN writes past the end
of some of these.) All are called below autograd. A short call is timed for several milliseconds in a turn.

"of kernel" is the share of the rate at which the micro-kernel multiplies on data in the first-level cache; "of copy",
where moving the bytes takes longer than that, the share of the bandwidth. Errors are the largest difference from
float64, in units of the root mean square. A/A is torch, on the row's memory order, over itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import inf, prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import _torch, native
from striate.measure import References, beyond, in_turns, processor, ratio_a_a, repeat, summarize, with_again
from striate.ops.conv import METHODS, ConvProblem, method_for
from striate.ops.conv.geometry import resolve
from striate.ops.conv.methods import PASSES

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from samples import Sample, channels_last

__all__ = ["CASES", "HEADER", "line", "measure", "result_name"]

LEAST_SECONDS = 0.005  # of timed calls in a turn
Call = Callable[[], Tensor]
LINEAR = [  # rows, inputs, outputs
    *((4096, 384, 1536), (4096, 1536, 384), (25088, 96, 384), (25088, 384, 96)),  # ConvNeXt-tiny's
    *((128, 2450, 500), (16, 25088, 4096), (2048, 2048, 2048), (1000, 1000, 1000)),  # LeNet-5's, VGG-11's, and square
    *((1, 1000, 1000), (7, 1000, 1000), (17, 1000, 7), (1000, 17, 1000), (1000, 1000, 1)),
    *((1000, 1, 1000), (1000, 7, 17), (1, 7, 1000), (7, 17, 1000), (17, 1000, 1000)),
]
POINTWISE = [  # channels, size of an image, filters, stride; of 16 images
    *((64, 56, 64, 1), (64, 56, 256, 1), (256, 56, 64, 1), (512, 28, 128, 1), (128, 28, 512, 1)),  # ResNet-50's
    *((1024, 14, 256, 1), (256, 14, 1024, 1), (2048, 7, 512, 1), (512, 7, 2048, 1), (256, 56, 512, 2)),
    *((16, 56, 96, 1), (24, 28, 144, 1), (144, 28, 24, 1), (144, 14, 32, 1)),  # MobileNetV2's, on images of 112²
    *((32, 14, 192, 1), (192, 7, 64, 1), (384, 7, 96, 1), (960, 4, 320, 1)),
]
CASES = [
    *(Sample("linear", (rows, inputs), {"outputs": outputs}) for rows, inputs, outputs in LINEAR),
    *(
        Sample("conv2d", (16, channels, size, size), {"filters": filters, "stride": stride})
        for channels, size, filters, stride in POINTWISE
    ),
]


class Contest(NamedTuple):
    """One pass, and who computes it.

    method: striate's; pointwise: a call of that method where striate chooses another; eager: torch's calls by memory
    order, the row's own first; exact: torch's on float64.
    """

    layout: str
    pass_: str
    method: str
    striate: Call
    pointwise: Call | None
    eager: dict[str, Call]
    exact: Call
    moved_bytes: int
    macs: int


def linear_contests(sample: Sample) -> Iterator[Contest]:
    (rows, inputs), outputs = sample.shape, sample.arguments["outputs"]
    x, w, dy = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
    ops = torch.ops.striate
    passes: dict[str, tuple[Call, Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]] = {
        "forward": (lambda: ops.linear(x, w, None, 0, -inf, inf), F.linear, (x, w)),
        "backward_data": (lambda: ops.linear_backward_data(dy, w), torch.mm, (dy, w)),
        "backward_weights": (lambda: ops.linear_backward_weights(dy, x), lambda dy, x: torch.mm(dy.T, x), (dy, x)),
    }
    moved, macs = 4 * (x.numel() + w.numel() + dy.numel()), rows * inputs * outputs
    for pass_, (call, product, operands) in passes.items():
        exact = partial(product, *(t.double() for t in operands))
        yield Contest("rows", pass_, "native", call, None, {"rows": partial(product, *operands)}, exact, moved, macs)


def conv_contests(sample: Sample) -> Iterator[Contest]:
    methods, filters = {method.name: method for method in METHODS}, sample.arguments["filters"]
    weight = (filters, sample.shape[1], 1, 1)
    geometry = resolve(sample.shape, weight, 2, sample.arguments["stride"], 0, 1, 1, "gemm")
    moved = 4 * (prod(geometry.x_shape) + prod(geometry.y_shape) + prod(weight))
    macs = prod(geometry.y_shape) * sample.shape[1]
    plain = {"x": torch.randn(geometry.x_shape), "y": torch.randn(geometry.y_shape), "w": torch.randn(weight)}
    orders = {"NCHW": plain, "NHWC": {name: channels_last(t) for name, t in plain.items()}}
    for layout in orders:
        for pass_ in PASSES:
            names = {"forward": "xw", "backward_data": "yw", "backward_weights": "yx"}[pass_]

            def problem(order: str, dtype: torch.dtype = torch.float32, pass_: str = pass_) -> ConvProblem:
                last = order == "NHWC"
                return ConvProblem(pass_, geometry, last, dtype, None, weight_channels_last=last)

            def call(
                method: str, order: str, names: str = names, problem: Callable[..., ConvProblem] = problem
            ) -> Call:
                return partial(methods[method].run, problem(order), *(orders[order][name] for name in names))

            method = method_for(problem(layout)).name
            other = method != "pointwise" and methods["pointwise"].refuse(problem(layout)) is None
            doubles = (plain[name].double() for name in names)
            yield Contest(
                layout=layout,
                pass_=pass_,
                method=method,
                striate=call(method, layout),
                pointwise=call("pointwise", layout) if other else None,
                eager={order: call("torch", order) for order in sorted(orders, key=lambda order: order != layout)},
                exact=partial(methods["torch"].run, problem("NCHW", torch.float64), *doubles),
                moved_bytes=moved,
                macs=macs,
            )


def error(call: Call, exact: Tensor) -> float:
    """The largest difference from float64, in units of the root mean square."""
    return float((call() - exact).abs().max() / exact.square().mean().sqrt())


def measure(sample: Sample, rounds: int) -> list[dict[str, Any]]:
    references = References()
    contests = linear_contests(sample) if sample.function == "linear" else conv_contests(sample)
    with torch.no_grad(), _torch.below_autograd():
        return [measured(sample, contest, references, rounds) for contest in contests]


def measured(sample: Sample, contest: Contest, references: References, rounds: int) -> dict[str, Any]:
    eager = {f"eager {order}": call for order, call in contest.eager.items()}
    own = f"eager {contest.layout}"
    contestants = {"striate": contest.striate, **eager}
    if contest.pointwise is not None:
        contestants["pointwise"] = contest.pointwise
    entered = with_again(contestants, own) | references.calls
    turns = {name: (lambda call=call: repeat(call, LEAST_SECONDS).ms) for name, call in entered.items()}
    got = {name: summarize(times) for name, times in in_turns(turns, rounds).items()}
    ms = {name: one.median for name, one in got.items()}
    rates = references.rates(ms)
    limit = rates.limit(contest.moved_bytes, contest.macs)
    torch_ms, exact = min(ms[name] for name in eager), contest.exact()
    pointwise_ms = ms.get("pointwise", ms["striate"] if contest.method == "pointwise" else None)
    share = limit.ms / ms["striate"]
    return {
        "op": sample.function,
        "arguments": sample.arguments,
        "shape": list(sample.shape),
        "layout": contest.layout,
        "pass": contest.pass_,
        "method": contest.method,
        "striate_ms": ms["striate"],
        "spread": got["striate"].spread,
        "pointwise_ms": pointwise_ms,
        "eager_nchw_ms": ms.get("eager NCHW", ms[own]),  # a linear layer has one memory order
        "eager_nhwc_ms": ms.get("eager NHWC", ms[own]),
        "torch_ms": torch_ms,
        "ratio": torch_ms / ms["striate"],
        "ratio_a_a": ratio_a_a(ms, own),
        "gflops": 2 * contest.macs / ms["striate"] / 1e6,
        "share_of_kernel": contest.macs / rates.macs_per_ms / ms["striate"],
        "share_of_limit": share,
        "limited_by": limit.by,
        "beyond_limit": beyond(share, limit.by),
        "copy_gb_per_s": rates.copy_gb_per_s,
        "cached_copy_gb_per_s": rates.cached_copy_gb_per_s,
        "peak_gflops": rates.peak_gflops,
        "micro_kernel": rates.micro_kernel,
        "max_error": error(contest.striate, exact),
        "max_error_torch": error(contest.eager[contest.layout], exact),
    }


HEADER = (  # columns of the printed table
    "| product | layout | pass | method | striate ms | spread | pointwise ms | torch ms | × | A/A | GFLOP/s | "
    "of kernel | of copy | error | torch's error |"
)


def line(row: dict[str, Any]) -> str:
    arguments = row["arguments"]
    stride = arguments.get("stride", 1)
    shape = f"{'×'.join(map(str, row['shape']))}→{arguments.get('outputs', arguments.get('filters'))}"
    pointwise = "" if row["pointwise_ms"] is None else f"{row['pointwise_ms']:.4g}"
    kernel = beyond(row["share_of_kernel"], "arithmetic") or f"{row['share_of_kernel']:.0%}"
    copy = "" if row["limited_by"] == "arithmetic" else row["beyond_limit"] or f"{row['share_of_limit']:.0%}"
    return (
        f"| {row['op']} {shape}{f' / {stride}' if stride > 1 else ''} | {row['layout']} | {row['pass']} | "
        f"{row['method']} | {row['striate_ms']:.4g} | {row['spread']:.0%} | {pointwise} | {row['torch_ms']:.4g} | "
        f"{row['ratio']:.2f} | {row['ratio_a_a']:.2f} | {row['gflops']:.0f} | {kernel} | {copy} | "
        f"{row['max_error']:.0e} | {row['max_error_torch']:.0e} |"
    )


def result_name() -> str:
    """A file for each kind of processor, so that no other's is overwritten: ``gemm-amd-epyc-family-25-model-1-avx2``.
    """
    return re.sub("[^a-z0-9]+", "-", f"gemm {processor()} {native.isa()}".lower()).strip("-")
