"""Lists the cases of each family of operations, for tests, benchmarks and docs. A new family adds its list here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import striate.nn as N
import striate.nn.functional as S
from striate.ops import local_response
from striate.ops import norm as ops_norm

__all__ = ["BENCHMARKS", "CONV", "NORM", "POOL", "Benchmark", "ConvSample", "NormSample", "Sample", "channels_last"]


class Sample(NamedTuple):
    """One call; ``function`` is the name of torch's function and also of striate's."""

    function: str
    shape: tuple[int, ...]
    arguments: dict[str, Any]

    @property
    def native_function(self) -> Callable[..., Any]:
        return getattr(S, self.function)

    @property
    def torch_function(self) -> Callable[..., Any]:
        return getattr(F, self.function)

    def __str__(self) -> str:
        return f"{self.function}-{'x'.join(map(str, self.shape))}-" + ",".join(
            f"{k}={v}" for k, v in self.arguments.items()
        ).replace(" ", "")


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """A copy of ``x`` with the channels innermost, for one to three axes; also with a single channel, where
    ``contiguous`` would leave the strides as they are.
    """
    order = [0, *range(2, x.dim()), 1]
    back = [0, x.dim() - 1, *range(1, x.dim() - 1)]
    return x.new_empty([x.shape[d] for d in order]).permute(back).copy_(x)


def _pool() -> Iterator[Sample]:
    shapes = {
        1: [(3, 5, 23), (1, 17, 64)],
        2: [(2, 5, 11, 14), (2, 33, 9, 7), (1, 1, 40, 37)],
        3: [(2, 3, 6, 7, 9), (1, 18, 5, 4, 8)],
    }
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
            yield Sample(
                f"avg_pool{dims}d", shape, {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}
            )
            if dims > 1:
                yield Sample(f"avg_pool{dims}d", shape, {"kernel_size": 2, "divisor_override": 3})
            for size in (1, 2, 3, 5):
                yield Sample(f"adaptive_max_pool{dims}d", shape, {"output_size": size})
                yield Sample(f"adaptive_avg_pool{dims}d", shape, {"output_size": size})
    yield Sample("max_pool2d", (2, 3, 12, 10), {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)})
    yield Sample("avg_pool2d", (2, 3, 12, 10), {"kernel_size": (1, 5), "stride": (2, 1), "padding": (0, 2)})
    # 289 taps: the number of a tap does not fit a byte
    yield Sample("max_pool2d", (1, 2, 40, 41), {"kernel_size": 17, "stride": 5, "padding": 8})
    yield Sample("avg_pool2d", (1, 2, 80, 81), {"kernel_size": 70, "stride": 3})
    yield Sample("max_pool1d", (2, 3, 3000), {"kernel_size": 2, "dilation": 1500, "stride": 7})
    yield Sample("max_pool1d", (1, 1, 5000), {"kernel_size": 3, "stride": 2, "padding": 1})  # longer than a tile
    yield Sample("avg_pool1d", (1, 2, 5000), {"kernel_size": 3, "stride": 1, "padding": 1})
    yield Sample("max_pool1d", (1, 2, 900), {"kernel_size": 70, "stride": 67})
    yield Sample("adaptive_avg_pool2d", (2, 3, 4, 4), {"output_size": (7, 6)})  # more outputs than inputs
    yield Sample("adaptive_max_pool2d", (2, 3, 4, 4), {"output_size": (7, 6)})


POOL: list[Sample] = list(_pool())


class Benchmark(NamedTuple):
    """A case to time. moved_bytes: the bytes that forward and backward must read and write, at 4 bytes an element.

    layers: makes the native layer and torch's, for functions that take more than x. macs: multiply-adds of the forward
    pass, where arithmetic dominates. input_gradient: whether backward computes dx. sweeps: how many times forward and
    backward go through their data; what a sweep reads again is in moved_bytes again.
    """

    sample: Sample
    moved_bytes: Callable[[torch.Tensor, torch.Tensor], tuple[int, int]]
    layers: Callable[[], tuple[torch.nn.Module, torch.nn.Module]] | None = None
    macs: int = 0
    input_gradient: bool = True
    sweeps: tuple[int, int] = (1, 1)

    def contestants(self) -> list[tuple[Callable[..., torch.Tensor], list[torch.nn.Parameter]]]:
        """The native call and torch's, each a function of x with its parameters."""
        if self.layers is not None:
            return [(layer, list(layer.parameters())) for layer in self.layers()]
        functions = (self.sample.native_function, self.sample.torch_function)
        return [(lambda x, f=f: f(x, **self.sample.arguments), []) for f in functions]


def _max_bytes(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    each = 4 * x.numel() + 5 * y.numel()  # x, y and a byte for each output; in backward dx, dy and the same bytes
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
    shapes.append((1, 64, 8, 8))  # very little work: measures the overhead of a call
    for shape in shapes:
        yield Benchmark(Sample("max_pool2d", shape, {"kernel_size": 2}), _max_bytes)
        yield Benchmark(Sample("max_pool2d", shape, {"kernel_size": 3, "stride": 2, "padding": 1}), _max_bytes)
        yield Benchmark(Sample("avg_pool2d", shape, {"kernel_size": 2}), _avg_bytes)
    yield Benchmark(Sample("adaptive_avg_pool2d", (32, 512, 7, 7), {"output_size": 1}), _avg_bytes)
    yield Benchmark(Sample("max_pool1d", (8, 64, 8000), {"kernel_size": 4}), _max_bytes)
    yield Benchmark(Sample("max_pool3d", (4, 16, 16, 56, 56), {"kernel_size": 2}), _max_bytes)


def _whole_bytes(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    # Statistics of the whole tensor: x is read for them, then read and y written; x and dy are read twice, and dx is
    # written.
    return 12 * x.numel(), 20 * x.numel()


def _set_bytes(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    return 8 * x.numel(), 12 * x.numel()  # a normalized set fits a cache: everything is read once


def _normed(function: str, shape: tuple[int, ...]) -> Benchmark:
    channels, rest = shape[1], shape[1:] if len(shape) > 3 else shape[-1:]
    groups = next(g for g in range(min(32, max(1, channels // 2)), 0, -1) if channels % g == 0)
    batch = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}[len(shape)]
    made: dict[str, tuple[dict[str, Any], Callable[[], tuple[torch.nn.Module, torch.nn.Module]]]] = {
        "batch_norm+relu": (
            {},
            lambda: (
                N.BatchNormAct2d(channels),
                torch.nn.Sequential(getattr(torch.nn, f"BatchNorm{batch}")(channels), torch.nn.ReLU(inplace=True)),
            ),
        ),
        "instance_norm": (
            {},
            lambda: tuple(getattr(m, f"InstanceNorm{batch}")(channels, affine=True) for m in (N, torch.nn)),  # type: ignore[return-value]
        ),
        "group_norm": (
            {"num_groups": groups},
            lambda: (N.GroupNorm(groups, channels), torch.nn.GroupNorm(groups, channels)),
        ),
        "layer_norm": ({"normalized_shape": list(rest)}, lambda: (N.LayerNorm(rest), torch.nn.LayerNorm(rest))),
        "rms_norm": ({"normalized_shape": list(rest)}, lambda: (N.RMSNorm(rest), torch.nn.RMSNorm(rest))),
        "layer_norm_2d": ({}, lambda: (N.LayerNorm2d(channels), _PermutedLayerNorm(channels))),
        "local_response_norm": ({"size": 5}, lambda: (N.LocalResponseNorm(5), torch.nn.LocalResponseNorm(5))),
    }
    arguments, layers = made[function]
    whole = function.startswith("batch")
    sweeps = (2, 2) if whole else (1, 1)
    return Benchmark(Sample(function, shape, arguments), _whole_bytes if whole else _set_bytes, layers, sweeps=sweeps)


class _PermutedLayerNorm(torch.nn.LayerNorm):
    """A layer norm over the channels at each position, as users of torch write it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _norm_benchmarks() -> Iterator[Benchmark]:
    shapes = [
        (32, 64, 56, 56),
        (32, 256, 14, 14),
        (8, 64, 112, 112),
        (128, 20, 28, 28),
        (16, 17, 33, 29),
        (8, 32, 16, 32, 32),
        (1, 3, 224, 224),
        (1, 64, 56, 56),
        (1, 64, 8, 8),
        (1, 16, 8, 8),
    ]
    for shape in shapes:
        for function in ("batch_norm+relu", "instance_norm", "group_norm", "layer_norm"):
            yield _normed(function, shape)
    yield _normed("layer_norm", (64, 512))
    yield _normed("layer_norm", (32, 128, 768))
    yield _normed("rms_norm", (32, 128, 768))
    yield _normed("layer_norm_2d", (32, 64, 56, 56))
    yield _normed("local_response_norm", (32, 64, 56, 56))


def _conv_bytes(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    # each pass reads two of x, y and w and writes the third
    return 4 * (x.numel() + y.numel()), 4 * (2 * x.numel() + 2 * y.numel())


def _convolved(
    shape: tuple[int, ...], filters: int, size: int, input_gradient: bool = True, **arguments: Any
) -> Benchmark:
    dims, channels, groups = len(shape) - 2, shape[1], arguments.get("groups", 1)
    stride, padding, dilation = (
        arguments.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )

    def layers() -> tuple[torch.nn.Module, torch.nn.Module]:
        native_layer, torch_layer = (
            getattr(m, f"Conv{dims}d")(channels, filters, size, bias=False, **arguments) for m in (N, torch.nn)
        )
        torch_layer.load_state_dict(native_layer.state_dict())
        return native_layer, torch_layer

    outputs = [(n + 2 * padding - dilation * (size - 1) - 1) // stride + 1 for n in shape[2:]]
    macs = shape[0] * prod(outputs) * filters * channels // groups * size**dims
    named = {"filters": filters, "size": size, **arguments} | ({} if input_gradient else {"dx": "no"})
    return Benchmark(Sample(f"conv{dims}d", shape, named), _conv_bytes, layers, macs, input_gradient, (1, 2))


class Unfolded(torch.nn.Module):
    """A locally connected layer as users of torch write it: unfold everything, then one einsum."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        filters, channels, *rest = layer.weight.shape
        self.size, self.stride, self.padding = rest[2:], layer.stride, layer.padding
        weight = layer.weight.detach().reshape(filters, channels, *rest[:2], -1).permute(0, 1, 4, 2, 3)
        self.weight = torch.nn.Parameter(weight.reshape(filters, channels * prod(rest[2:]), *rest[:2]).contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = F.unfold(x, self.size, stride=self.stride, padding=self.padding)
        return torch.einsum("nrhw,krhw->nkhw", seen.view(x.shape[0], -1, *self.weight.shape[2:]), self.weight)


def _locally_connected(shape: tuple[int, ...], filters: int, size: int, padding: int = 0) -> Benchmark:
    def layers() -> tuple[torch.nn.Module, torch.nn.Module]:
        native_layer = N.LocallyConnected2d(shape[1], filters, shape[2:], size, padding=padding, bias=False)
        return native_layer, Unfolded(native_layer)

    positions = prod(n + 2 * padding - size + 1 for n in shape[2:])
    weights = positions * filters * shape[1] * size**2

    def moved(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
        return 4 * (x.numel() + y.numel() + weights), 4 * (2 * x.numel() + 2 * y.numel() + 2 * weights)

    return Benchmark(
        Sample("locally_connected", shape, {"filters": filters, "size": size}),
        moved,
        layers,
        shape[0] * weights,
        sweeps=(1, 2),
    )


def _conv_benchmarks() -> Iterator[Benchmark]:
    # the cases of the published tables: wide, pointwise, stem, LeNet, depthwise, grouped, three dimensions
    yield _convolved((16, 64, 56, 56), 64, 3, padding=1)
    yield _convolved((16, 128, 28, 28), 128, 3, padding=1)
    yield _convolved((32, 32, 56, 56), 32, 3, padding=1)
    yield _convolved((16, 256, 14, 14), 256, 3, padding=1)
    yield _convolved((16, 512, 7, 7), 512, 3, padding=1)
    yield _convolved((16, 256, 56, 56), 64, 1)
    yield _convolved((16, 64, 56, 56), 256, 1)
    yield _convolved((16, 256, 56, 56), 128, 1, stride=2)
    yield _convolved((16, 3, 224, 224), 64, 7, input_gradient=False, stride=2, padding=3)
    yield _convolved((16, 3, 112, 112), 32, 3, input_gradient=False, stride=2, padding=1)
    yield _convolved((16, 3, 224, 224), 96, 4, stride=4)
    yield _convolved((128, 1, 28, 28), 20, 5, padding=2)
    yield _convolved((128, 1, 28, 28), 20, 5, input_gradient=False, padding=2)
    yield _convolved((128, 20, 14, 14), 50, 5, padding=2)
    for shape, size, stride in (
        ((16, 64, 56, 56), 3, 1),
        ((16, 96, 56, 56), 3, 2),
        ((16, 96, 56, 56), 5, 1),
        ((16, 96, 56, 56), 7, 1),
    ):
        yield _convolved(shape, shape[1], size, padding=size // 2, stride=stride, groups=shape[1])
    yield _convolved((16, 384, 14, 14), 384, 7, padding=3, groups=384)
    yield _convolved((16, 64, 2000), 64, 9, padding=4, groups=64)
    yield _convolved((4, 32, 16, 28, 28), 32, 3, padding=1, groups=32)
    yield _convolved((16, 128, 28, 28), 128, 3, padding=1, groups=32)
    yield _convolved((16, 128, 28, 28), 128, 3, padding=1, groups=4)
    yield _convolved((4, 1, 32, 64, 64), 16, 3, padding=1)
    yield _convolved((4, 16, 16, 32, 32), 32, 3, padding=1)
    # unusual sizes
    yield _convolved((8, 17, 13, 29), 33, 3, padding=1)
    yield _convolved((1, 17, 13, 29), 33, 3, padding=1)
    yield _convolved((1, 64, 56, 56), 64, 3, padding=1)
    yield _convolved((1, 96, 56, 56), 96, 7, padding=3, groups=96)
    yield _convolved((16, 64, 56, 56), 3, 3, padding=1)
    yield _convolved((8, 32, 500), 48, 5, padding=2)
    yield _locally_connected((16, 32, 28, 28), 32, 3, padding=1)
    yield _locally_connected((32, 16, 32, 32), 16, 5, padding=2)
    yield _locally_connected((1, 32, 28, 28), 32, 3, padding=1)
    yield _locally_connected((128, 64, 8, 8), 64, 3, padding=1)


BENCHMARKS: dict[str, list[Benchmark]] = {
    "conv": list(_conv_benchmarks()),
    "norm": list(_norm_benchmarks()),
    "pool": list(_pool_benchmarks()),
}


class NormSample(NamedTuple):
    """A call of a normalization in ``striate.ops.norm``. ``arguments`` are all but the tensors; ``affine`` says whether
    there are scale and shift.

    Batch and instance norms that do not measure their input get the statistics of :meth:`running`.
    """

    function: str
    shape: tuple[int, ...]
    arguments: dict[str, Any]
    affine: bool = True

    @property
    def scaled(self) -> tuple[int, ...]:
        """The shape of scale and shift."""
        return tuple(self.arguments.get("normalized_shape", self.shape[1:2]))

    @property
    def has_weight(self) -> bool:
        return self.affine and self.function != "local_response_norm"

    @property
    def has_bias(self) -> bool:
        return self.has_weight and self.function != "rms_norm"

    @property
    def measures(self) -> bool:
        return bool(self.arguments.get("training", self.arguments.get("use_input_stats", True)))

    def running(self, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """A mean and a variance for each channel."""
        channels = self.shape[1]
        return torch.linspace(1, 4, channels, dtype=dtype), torch.linspace(0.5, 5, channels, dtype=dtype)

    def native_function(
        self, x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        family = local_response if self.function == "local_response_norm" else ops_norm
        a, function = self.arguments, getattr(family, self.function)
        running = (None, None) if self.measures else self.running(x.dtype)
        if self.function == "by_channel":
            return function(x, None, None, weight, bias, True, 0.1, 1e-5, **a)
        if self.function in ("batch_norm", "instance_norm"):
            return function(x, *running, weight, bias, **a)
        if self.function == "local_response_norm":
            return function(x, **a)
        return function(x, weight=weight, **({"bias": bias} if self.function != "rms_norm" else {}), **a)

    def __str__(self) -> str:
        arguments = ",".join(f"{k}={v}" for k, v in self.arguments.items()).replace(" ", "")
        return f"{self.function}-{'x'.join(map(str, self.shape))}-{arguments}" + ("" if self.affine else "-plain")


def _norms() -> Iterator[NormSample]:
    # short and long axes, numbers of channels just off each vector's width, more values than one piece of 32768, more
    # than 1024 columns
    few = [
        (2, 3, 1),
        (3, 1, 50),
        (2, 17, 23),
        (3, 33, 9, 7),
        (2, 64, 5, 6),
        (2, 3, 6, 7, 9),
        (1, 18, 5, 4, 8),
        (2, 5, 1, 1),
    ]
    flat = [(64, 5), (37, 130), (40001, 3), (3, 1100)]
    long = [(4, 3, 120, 110), (2, 1, 200, 211), (2, 1100, 7, 5), (3, 100, 25, 21)]
    for shape in [*flat, *few, *long]:
        yield NormSample("batch_norm", shape, {"training": True})
    yield NormSample("batch_norm", (3, 5, 11, 14), {"training": True, "eps": 0.3}, affine=False)
    yield NormSample("batch_norm", (37, 130), {"training": True, "eps": 1e-3}, affine=False)
    for shape in [(4, 5), (2, 17, 23), (3, 33, 9, 7), (2, 3, 6, 7, 9), (4, 3, 120, 110), (2, 1100, 7, 5)]:
        yield NormSample("batch_norm", shape, {"training": False})
    yield NormSample("batch_norm", (3, 5, 11, 14), {"training": False, "eps": 0.3}, affine=False)

    yield NormSample("by_channel", (8, 17), {"batches": 2})
    yield NormSample("by_channel", (8, 5, 6, 7), {"batches": 4})
    yield NormSample("by_channel", (6, 33, 40), {"batches": 3})
    yield NormSample("by_channel", (4, 3, 5, 6, 7), {"batches": 2}, affine=False)
    yield NormSample("by_channel", (4, 3, 130, 140), {"batches": 2})
    yield NormSample("by_channel", (16, 64, 3, 3), {"batches": 16})

    for shape in [
        (1, 1, 2),
        (2, 3, 50),
        (3, 17, 9, 7),
        (2, 64, 5, 6),
        (2, 5, 3, 4, 5),
        (2, 3, 190, 180),
        (1, 1100, 3, 3),
        (2, 130, 4),
    ]:
        yield NormSample("instance_norm", shape, {})
    yield NormSample("instance_norm", (2, 33, 7, 6), {"eps": 0.3}, affine=False)
    yield NormSample("instance_norm", (2, 17, 9, 7), {"use_input_stats": False})

    groups = {
        (5, 6): 3,
        (3, 6, 5): 2,
        (2, 64, 7, 7): 32,
        (2, 33, 9, 7): 11,
        (2, 100, 5, 5): 1,
        (2, 130, 4, 3): 130,
        (2, 6, 3, 4, 5): 3,
    }
    for shape, count in {**groups, (2, 6, 110, 120): 2, (1, 1100, 6, 5): 55, (2, 2200, 3, 5): 1, (2, 3, 1): 1}.items():
        yield NormSample("group_norm", shape, {"num_groups": count})
    yield NormSample("group_norm", (2, 10, 9, 7), {"num_groups": 5, "eps": 0.3}, affine=False)

    rows = {1: [(7, 5), (3, 4, 64), (2, 3, 4, 130), (300, 17), (4, 1), (66, 16500), (2, 40000)]}
    rows |= {
        2: [(2, 5, 6, 7), (3, 17, 23), (3, 33, 5), (4, 5)],
        3: [(2, 17, 9, 7), (2, 65, 16, 17)],
        4: [(2, 3, 4, 5, 6)],
    }
    for last, shapes in rows.items():
        for shape in shapes:
            yield NormSample("layer_norm", shape, {"normalized_shape": shape[-last:]})
    yield NormSample("layer_norm", (2, 33, 9, 7), {"normalized_shape": (33, 9, 7), "eps": 0.3}, affine=False)
    for shape, last in [
        ((7, 5), 1),
        ((300, 33), 1),
        ((3, 4, 64), 1),
        ((2, 17, 9, 7), 3),
        ((2, 16500), 1),
        ((4, 1), 1),
        ((3, 5, 6), 2),
    ]:
        yield NormSample("rms_norm", shape, {"normalized_shape": shape[-last:]})
    yield NormSample("rms_norm", (3, 4, 100), {"normalized_shape": (100,), "eps": 0.3}, affine=False)

    for shape in [
        (2, 17),
        (3, 5, 7),
        (2, 33, 9, 7),
        (2, 3, 40, 41),
        (1, 1100, 6, 5),
        (2, 130, 3, 4, 5),
        (2, 64, 1, 1),
        (1, 1, 30),
    ]:
        yield NormSample("layer_norm_2d", shape, {})
    yield NormSample("layer_norm_2d", (2, 100, 5, 7), {"eps": 0.3}, affine=False)

    yield NormSample("local_response_norm", (2, 5, 7), {"size": 3})
    yield NormSample("local_response_norm", (2, 33, 9, 7), {"size": 5, "alpha": 1.0})
    yield NormSample("local_response_norm", (2, 17, 3, 4, 5), {"size": 4, "alpha": 2.0, "beta": 0.6, "k": 2.0})
    yield NormSample("local_response_norm", (1, 3, 40, 41), {"size": 9, "alpha": 1.0})  # wider than the channels
    yield NormSample("local_response_norm", (2, 64, 5, 6), {"size": 1, "alpha": 1.0, "beta": 0.5})
    yield NormSample("local_response_norm", (1, 1100, 6, 5), {"size": 5, "alpha": 1.0, "beta": 1.0})
    yield NormSample("local_response_norm", (1, 1, 50), {"size": 2, "alpha": 1.0})


NORM: list[NormSample] = list(_norms())


class ConvSample(NamedTuple):
    """A call of conv1d, conv_transpose2d …: ``weight`` is its shape; ``arguments`` are all but the tensors; ``bias``
    says whether there is one.
    """

    function: str
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    arguments: dict[str, Any]
    bias: bool = True

    @property
    def native_function(self) -> Callable[..., torch.Tensor]:
        return getattr(S, self.function)

    @property
    def torch_function(self) -> Callable[..., torch.Tensor]:
        return getattr(F, self.function)

    @property
    def transposed(self) -> bool:
        return "transpose" in self.function

    @property
    def groups(self) -> int:
        return self.arguments.get("groups", 1)

    @property
    def depthwise(self) -> bool:
        """Whether each group has one channel of the input (of the output, if transposed)."""
        return self.weight[1] == 1 and self.groups > 1

    @property
    def filters(self) -> int:
        return self.weight[1] * self.groups if self.transposed else self.weight[0]

    def __str__(self) -> str:
        arguments = ",".join(f"{k}={v}" for k, v in self.arguments.items()).replace(" ", "")
        sizes = "-".join("x".join(map(str, s)) for s in (self.shape, self.weight))
        return f"{self.function}-{sizes}-{arguments}" + ("" if self.bias else "-plain")


def _convs() -> Iterator[ConvSample]:
    def conv(
        shape: tuple[int, ...], filters: int, kernel: tuple[int, ...], bias: bool = True, **arguments: Any
    ) -> ConvSample:
        groups = arguments.get("groups", 1)
        return ConvSample(f"conv{len(kernel)}d", shape, (filters, shape[1] // groups, *kernel), arguments, bias)

    # dense: few channels and many, just off each vector's width
    yield conv((2, 17, 13, 29), 33, (3, 3), padding=1)
    yield conv((2, 33, 9, 7), 17, (3, 3), padding=1, bias=False)
    yield conv((1, 64, 6, 7), 48, (3, 3), padding=1)
    yield conv((1, 3, 19, 21), 24, (7, 7), stride=2, padding=3)
    for channels in (1, 2, 3, 4):
        yield conv((2, channels, 11, 10), 5, (5, 5), padding=2)
    yield conv((3, 20, 8, 8), 10, (5, 5))
    yield conv((2, 9, 13, 29), 7, (2, 3), stride=(3, 2))
    yield conv((2, 8, 10, 11), 16, (2, 2), stride=3, bias=False)  # windows that skip pixels
    yield conv((2, 5, 12, 13), 6, (3, 3), stride=2, padding=1)
    yield conv((2, 5, 14, 13), 6, (3, 3), dilation=2, padding=2)
    yield conv((1, 4, 14, 13), 9, (3, 2), dilation=(3, 1), stride=(1, 2), padding=(3, 0))
    # same padding, with more after than before
    yield conv((2, 5, 9, 11), 8, (2, 2), padding="same")
    yield conv((2, 6, 8, 10), 7, (3, 3), padding="same", stride=2)
    yield conv((2, 6, 9, 10), 7, (4, 5), padding="same", stride=(2, 3))
    yield conv((1, 3, 9, 10), 4, (2, 4), padding="same", dilation=(3, 1))
    # one tap, one position, a kernel larger than the image, windows of padding alone
    yield conv((2, 33, 9, 7), 17, (1, 1))
    yield conv((1, 64, 5, 5), 32, (1, 1), bias=False)
    yield conv((2, 17, 9, 8), 8, (1, 1), stride=2)
    yield conv((2, 6, 10, 8), 9, (1, 1), stride=3, padding=1, groups=3)
    yield conv((1, 8, 1, 1), 6, (1, 1))
    yield conv((2, 8, 1, 1), 6, (3, 3), padding=1)
    yield conv((1, 3, 4, 5), 4, (7, 6), padding=(3, 4))
    yield conv((1, 2, 3, 3), 5, (2, 2), padding=3)
    yield conv((1, 2, 3, 2), 4, (1, 1), padding=2, stride=2)
    # groups
    yield conv((2, 6, 9, 8), 10, (3, 3), padding=1, groups=2)  # 3 and 5 in a group
    yield conv((2, 21, 7, 6), 35, (3, 3), padding=1, groups=7)
    yield conv((1, 64, 7, 7), 64, (3, 3), padding=1, groups=32)
    yield conv((2, 33, 5, 6), 33, (3, 3), padding=1, groups=3, bias=False)
    yield conv((1, 34, 6, 6), 34, (1, 1), groups=2)
    yield conv((1, 40, 5, 7), 24, (3, 1), groups=8, stride=(2, 1))
    # depthwise
    for kernel in (2, 3, 5, 7, 9):
        yield conv((2, 17, 13, 29), 17, (kernel, kernel), padding=kernel // 2, groups=17)
    yield conv((1, 64, 14, 14), 64, (3, 3), padding=1, groups=64, bias=False)
    yield conv((2, 33, 9, 12), 33, (3, 3), stride=2, padding=1, groups=33)
    yield conv((2, 33, 15, 16), 33, (5, 5), stride=2, padding=2, groups=33)
    yield conv((2, 5, 11, 12), 5, (3, 3), stride=(1, 2), padding=(2, 1), groups=5)
    yield conv((2, 6, 13, 12), 6, (3, 3), dilation=2, padding=2, groups=6)
    yield conv((2, 6, 12, 12), 6, (3, 5), padding="same", stride=2, groups=6)
    yield conv((2, 6, 12, 13), 6, (2, 2), stride=3, groups=6)
    yield conv((1, 12, 6, 5), 12, (1, 1), groups=12)
    yield conv((1, 19, 3, 2), 19, (7, 7), padding=3, groups=19)
    yield conv((1, 4, 1, 1), 4, (3, 3), padding=1, groups=4)
    yield conv((1, 3, 5, 530), 3, (3, 3), padding=1, groups=3)  # more than 512 columns
    yield conv((2, 5, 9, 10), 10, (3, 3), padding=1, groups=5)  # two filters for each channel
    yield conv((2, 6, 9, 11), 18, (5, 5), padding=2, stride=2, groups=6)
    yield conv((1, 3, 8, 9), 33, (3, 3), padding=1, groups=3)
    # long rows
    yield conv((1, 3, 4, 530), 8, (3, 3), padding=1)
    yield conv((1, 3, 1300), 8, (7,), padding=3)
    yield conv((1, 17, 1300), 5, (3,), stride=2)
    yield conv((2, 5, 1300), 5, (31,), padding=15, groups=5)
    yield conv((1, 1, 1300), 4, (64,), stride=5)
    yield conv((1, 4, 1300), 6, (3,), dilation=64, padding="same")
    # one axis and three
    yield conv((3, 5, 23), 7, (3,), padding=1)
    yield conv((2, 8, 20), 8, (4,), stride=4, bias=False)
    yield conv((2, 8, 21), 16, (5,), padding="same", stride=2, groups=8)
    yield conv((2, 3, 1), 4, (3,), padding=1)
    yield conv((2, 3, 5, 6, 7), 4, (3, 3, 3), padding=1)
    yield conv((1, 6, 4, 7, 9), 9, (2, 3, 1), stride=(1, 2, 2), groups=3)
    yield conv((1, 17, 4, 5, 6), 8, (1, 1, 1), stride=2)
    yield conv((2, 9, 5, 6, 7), 9, (3, 3, 3), padding=1, groups=9)
    yield conv((1, 4, 6, 5, 8), 8, (3, 2, 3), padding="same", stride=2, groups=4, bias=False)
    yield conv((1, 2, 7, 6, 6), 3, (2, 2, 2), dilation=(3, 1, 2))

    def transposed(
        shape: tuple[int, ...], filters: int, kernel: tuple[int, ...], bias: bool = True, **arguments: Any
    ) -> ConvSample:
        groups = arguments.get("groups", 1)
        return ConvSample(
            f"conv_transpose{len(kernel)}d", shape, (shape[1], filters // groups, *kernel), arguments, bias
        )

    yield transposed((2, 8, 7, 6), 5, (2, 2), stride=2)
    yield transposed((1, 17, 6, 7), 33, (3, 3), stride=2, padding=1, output_padding=1)
    yield transposed((2, 6, 7, 9), 10, (4, 4), stride=2, padding=1, groups=2, bias=False)
    yield transposed((2, 5, 6, 7), 4, (3, 3), padding=1)
    yield transposed((1, 3, 5, 6), 4, (2, 2), stride=3, output_padding=1)  # some outputs are the bias alone
    yield transposed((2, 6, 6, 5), 6, (3, 3), stride=2, padding=1, output_padding=1, groups=6)
    yield transposed((1, 20, 9, 13), 20, (5, 5), padding=2, groups=20)
    yield transposed((2, 3, 6, 5), 4, (3, 2), dilation=(2, 3), padding=(1, 0))
    # an output_padding of at least the stride, but below the dilation
    yield transposed((1, 3, 5, 4), 2, (3, 3), dilation=3, stride=2, output_padding=2)
    yield transposed((2, 4, 5, 6), 6, (3, 3), stride=2, padding="same")
    yield transposed((2, 4, 5, 6), 6, (2, 1), stride=(3, 2), padding="same")
    yield transposed((2, 4, 1, 1), 3, (3, 3))
    yield transposed((2, 9, 4, 5), 7, (1, 1), stride=2)
    yield transposed((2, 5, 23), 4, (4,), stride=2, padding=1)
    yield transposed((1, 3, 1300), 3, (3,), stride=1, padding=1, groups=3)
    yield transposed((1, 4, 3, 4, 5), 6, (3, 3, 3), stride=2, padding=1, output_padding=1)
    yield transposed((1, 6, 3, 4, 5), 6, (2, 3, 2), stride=(1, 2, 2), padding="same", groups=6)


CONV: list[ConvSample] = list(_convs())
