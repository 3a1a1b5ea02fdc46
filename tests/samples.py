"""One list of cases an operation, for tests, benchmarks and docs. A new family adds its list here and is measured too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import striate.nn.functional as S

__all__ = ["BENCHMARKS", "POOL", "Benchmark", "Sample", "channels_last"]


class Sample(NamedTuple):
    """One call: ``function`` is the name both of torch's function and of striate's."""

    function: str
    shape: tuple[int, ...]
    arguments: dict[str, Any]

    @property
    def ours(self) -> Callable[..., Any]:
        return getattr(S, self.function)

    @property
    def theirs(self) -> Callable[..., Any]:
        return getattr(F, self.function)

    def __str__(self) -> str:
        return f"{self.function}-{'x'.join(map(str, self.shape))}-" + ",".join(f"{k}={v}" for k, v in self.arguments.items()).replace(
            " ", ""
        )


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """``x`` with the channels innermost, for one to three axes."""
    order = [0, *range(2, x.dim()), 1]
    back = [0, x.dim() - 1, *range(1, x.dim() - 1)]
    return x.permute(order).contiguous().permute(back)


def _pool() -> Iterator[Sample]:
    shapes = {1: [(3, 5, 23), (1, 17, 64)], 2: [(2, 5, 11, 14), (2, 33, 9, 7), (1, 1, 40, 37)], 3: [(2, 3, 6, 7, 9), (1, 18, 5, 4, 8)]}
    windows: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
        {"kernel_size": 1, "stride": 2},
    ]
    for dims, of_dims in shapes.items():
        for shape in of_dims:
            for window in windows:
                yield Sample(f"max_pool{dims}d", shape, window)
                yield Sample(f"avg_pool{dims}d", shape, window)
            yield Sample(f"max_pool{dims}d", shape, {"kernel_size": 2, "stride": 2, "dilation": 2, "padding": 1})
            yield Sample(f"max_pool{dims}d", shape, {"kernel_size": 2, "stride": 3, "dilation": 3})
            yield Sample(f"avg_pool{dims}d", shape, {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False})
            if dims > 1:
                yield Sample(f"avg_pool{dims}d", shape, {"kernel_size": 2, "divisor_override": 3})
            for size in (1, 2, 3, 5):
                yield Sample(f"adaptive_max_pool{dims}d", shape, {"output_size": size})
                yield Sample(f"adaptive_avg_pool{dims}d", shape, {"output_size": size})
    yield Sample("max_pool2d", (2, 3, 12, 10), {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)})
    yield Sample("avg_pool2d", (2, 3, 12, 10), {"kernel_size": (1, 5), "stride": (2, 1), "padding": (0, 2)})
    yield Sample("max_pool2d", (1, 2, 40, 41), {"kernel_size": 17, "stride": 5, "padding": 8})  # 289 taps: more than a byte numbers
    yield Sample("avg_pool2d", (1, 2, 80, 81), {"kernel_size": 70, "stride": 3})
    yield Sample("max_pool1d", (2, 3, 3000), {"kernel_size": 2, "dilation": 1500, "stride": 7})
    yield Sample("max_pool1d", (1, 1, 5000), {"kernel_size": 3, "stride": 2, "padding": 1})  # longer than a tile
    yield Sample("avg_pool1d", (1, 2, 5000), {"kernel_size": 3, "stride": 1, "padding": 1})
    yield Sample("max_pool1d", (1, 2, 900), {"kernel_size": 70, "stride": 67})
    yield Sample("adaptive_avg_pool2d", (2, 3, 4, 4), {"output_size": (7, 6)})  # more outputs than inputs
    yield Sample("adaptive_max_pool2d", (2, 3, 4, 4), {"output_size": (7, 6)})


POOL: list[Sample] = list(_pool())


class Benchmark(NamedTuple):
    """A case worth timing. moved_bytes: what must be read and written, for (forward, backward), of element size 4."""

    sample: Sample
    moved_bytes: Callable[[torch.Tensor, torch.Tensor], tuple[int, int]]


def _max_bytes(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    each = 4 * x.numel() + 5 * y.numel()  # x, y and a byte an output; backward the same the other way
    return each, each


def _avg_bytes(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    each = 4 * (x.numel() + y.numel())
    return each, each


def _pool_benchmarks() -> Iterator[Benchmark]:
    shapes = [
        (32, 64, 56, 56),
        (32, 256, 14, 14),
        (8, 64, 112, 112),
        (128, 20, 28, 28),
        (16, 17, 33, 29),
        (1, 3, 224, 224),
        (1, 64, 56, 56),
    ]
    shapes.append((1, 64, 8, 8))  # next to no work: what a call costs
    for shape in shapes:
        yield Benchmark(Sample("max_pool2d", shape, {"kernel_size": 2}), _max_bytes)
        yield Benchmark(Sample("max_pool2d", shape, {"kernel_size": 3, "stride": 2, "padding": 1}), _max_bytes)
        yield Benchmark(Sample("avg_pool2d", shape, {"kernel_size": 2}), _avg_bytes)
    yield Benchmark(Sample("adaptive_avg_pool2d", (32, 512, 7, 7), {"output_size": 1}), _avg_bytes)
    yield Benchmark(Sample("max_pool1d", (8, 64, 8000), {"kernel_size": 4}), _max_bytes)
    yield Benchmark(Sample("max_pool3d", (4, 16, 16, 56, 56), {"kernel_size": 2}), _max_bytes)


BENCHMARKS: dict[str, list[Benchmark]] = {"pool": list(_pool_benchmarks())}
