"""striate's layers in PyTorch's tools: a table of situations and a table of layers, each against its twin from
``torch.nn``.

Plain eager calls run on striate's kernels. In every other situation a layer is its ``torch.nn`` namesake, so that a
tool meets what it knows: the numbers are bit for bit the twin's, and no operator of striate's is called.
docs/guide/ecosystem.md has a row for each situation.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import pickle
import re
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, func
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, jacobian
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import striate
from striate import models, nn
from striate.nn import blocks, conv, local, norm, pool
from striate.ops import dispatch

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "ecosystem.md"


@pytest.fixture(autouse=True)
def one_thread(same_threads_and_seed: None) -> Iterator[None]:
    """Runs on one thread: samples are so tiny that threads would mostly wait for one another."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # of sizes that become constants, in torch's layers as well
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        yield


# ------------------------------------------------------------------------------------- layers, and torch's twin of each


class _Global(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module, dims: int, keepdim: bool = False) -> None:
        super().__init__()
        self.layer, self.dims, self.keepdim = layer, dims, keepdim

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if self.keepdim else y.flatten(-self.dims - 1)


class _Ghost(torch.nn.BatchNorm2d):
    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        parts = x.unflatten(0, (-1, self.size))
        var, mean = torch.var_mean(parts, (1, 3, 4), correction=0, keepdim=True)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        y = ((parts - mean) / (var + self.eps).sqrt()).flatten(0, 1)
        y = y * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        if self.running_mean is not None:
            places = self.size * x.shape[2] * x.shape[3]
            with torch.no_grad():
                self.running_mean.lerp_(mean.mean(0).flatten(), self.momentum)
                self.running_var.lerp_(var.mean(0).flatten() * (places / (places - 1)), self.momentum)
        return y


class _LayerNorm2d(torch.nn.LayerNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _AdaIN(torch.nn.Module):
    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        (v, m), (w, n) = (torch.var_mean(t, (2, 3), correction=0, keepdim=True) for t in (content, style))
        return (content - m) / (v + 1e-5).sqrt() * (w + 1e-5).sqrt() + n


class _Local(torch.nn.Module):
    """y[n, k, o] = b[k, o] + Σ x[n, c, o + t]·w[k, c, o, t], no padding, stride 1."""

    def __init__(self, channels: int, filters: int, size: int, taps: int, dims: int) -> None:
        super().__init__()
        self.taps, self.dims = taps, dims
        places = (size - taps + 1,) * dims
        self.weight = torch.nn.Parameter(torch.empty(filters, channels, *places, *(taps,) * dims))
        self.bias = torch.nn.Parameter(torch.empty(filters, *places))

    def forward(self, x: Tensor) -> Tensor:
        for axis in range(-self.dims, 0):  # (N, C, *places, *taps)
            x = x.unfold(axis - (axis + self.dims), self.taps, 1)
        places, taps = "xyz"[: self.dims], "ijk"[: self.dims]
        return torch.einsum(f"nc{places}{taps},mc{places}{taps}->nm{places}", x, self.weight) + self.bias


class _SqueezeExcite(torch.nn.Module):
    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = torch.nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = torch.nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


class _Blur(torch.nn.Module):
    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.channels, self.dims = channels, dims
        row = torch.tensor([0.25, 0.5, 0.25])
        taps = row
        for _ in range(dims - 1):
            taps = taps.unsqueeze(-1) * row
        self.register_buffer("filter", taps.repeat(channels, 1, *[1] * dims), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        return convolve(F.pad(x, [1] * 2 * self.dims, mode="reflect"), self.filter, stride=2, groups=self.channels)


def _convolution(dims: int, *args: Any, **kwargs: Any) -> torch.nn.Module:
    return getattr(torch.nn, f"Conv{dims}d")(*args, **kwargs)


def _twins(d: int) -> dict[str, Callable[..., torch.nn.Module]]:
    """Layers that only striate has, composed of torch's layers with the same parameter names."""

    def separable(i: int, o: int, k: int, padding: int) -> torch.nn.Module:
        steps = {
            "depthwise": _convolution(d, i, i, k, padding=padding, groups=i),
            "pointwise": _convolution(d, i, o, 1),
        }
        return torch.nn.Sequential(OrderedDict(steps))

    def block(i: int, o: int, k: int, padding: int) -> torch.nn.Module:
        norm = getattr(torch.nn, f"BatchNorm{d}d")(o)
        steps = {"conv": _convolution(d, i, o, k, padding=padding, bias=False), "norm": norm, "act": torch.nn.ReLU()}
        return torch.nn.Sequential(OrderedDict(steps))

    return {
        f"PointwiseConv{d}d": lambda i, o: _convolution(d, i, o, 1),
        f"DepthwiseConv{d}d": lambda c, k, padding: _convolution(d, c, c, k, padding=padding, groups=c),
        f"DepthwiseSeparableConv{d}d": separable,
        f"ConvNormAct{d}d": block,
        f"BlurPool{d}d": lambda c: _Blur(c, d),
        f"LocallyConnected{d}d": lambda i, o, size, k: _Local(i, o, size, k, d),
        f"GlobalMaxPool{d}d": lambda keepdim=False: _Global(getattr(torch.nn, f"AdaptiveMaxPool{d}d")(1), d, keepdim),
        f"GlobalAvgPool{d}d": lambda keepdim=False: _Global(getattr(torch.nn, f"AdaptiveAvgPool{d}d")(1), d, keepdim),
    }


TORCH_ROWS = types.SimpleNamespace(
    **{name: getattr(torch.nn, name) for name in dir(torch.nn) if not name.startswith("_")}
    | _twins(1)
    | _twins(2)
    | _twins(3)
    | {
        "AdaIN": _AdaIN,
        "BatchNormAct2d": lambda c: torch.nn.Sequential(torch.nn.BatchNorm2d(c), torch.nn.ReLU()),
        "Bottleneck": lambda i, m, o: torch.nn.Sequential(
            OrderedDict(reduce=torch.nn.Conv2d(i, m, 1), conv=torch.nn.Conv2d(m, o, 3))
        ),
        "GhostBatchNorm2d": _Ghost,
        "GroupNormAct2d": lambda g, c: torch.nn.Sequential(torch.nn.GroupNorm(g, c), torch.nn.ReLU()),
        "LayerNorm2d": _LayerNorm2d,
        "NoisyBatchNorm2d": torch.nn.BatchNorm2d,  # which it is in evaluation
        "SpatiallySeparableConv2d": lambda i, o, k: torch.nn.Sequential(
            OrderedDict(vertical=torch.nn.Conv2d(i, o, (k, 1), bias=False), horizontal=torch.nn.Conv2d(o, o, (1, k)))
        ),
        "SqueezeExcite": _SqueezeExcite,
        "SyncBatchNorm": torch.nn.BatchNorm2d,
    }
)


class Stylized(torch.nn.Module):
    """A layer of two inputs, the second made of the first."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, 3 + 2 * x.flip(-1))


class _Frozen(torch.nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Any:
        return super().train(False)


class _Circular(torch.nn.ConvTranspose2d):
    """The adjoint of a circular convolution of three taps: values in the padding are added at the other end.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.weight)
        for axis in (-1, -2):
            n = y.shape[axis] - 2
            behind, before = [0, 0] * (-1 - axis) + [n - 1, 0], [0, 0] * (-1 - axis) + [0, n - 1]
            y = y.narrow(axis, 1, n) + F.pad(y.narrow(axis, 0, 1), behind) + F.pad(y.narrow(axis, n + 1, 1), before)
        return y + self.bias.view(-1, 1, 1).to(y.dtype)


class _Cropped(torch.nn.ConvTranspose2d):
    """Of three taps and stride 2, with twice as many outputs as inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, 2)[..., :-1, :-1]


class _Same(torch.nn.Module):
    """A layer of three taps and stride 2 with the margins that ``padding="same"`` has on 6×7."""

    def __init__(self, layer: torch.nn.Module, value: float) -> None:
        super().__init__()
        self.layer, self.value = layer, value

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.pad(x, [1, 1, 0, 1], value=self.value))


class Row(NamedTuple):
    """A layer: made by a namespace, ``torch.nn``'s or striate's, and the shape of its input."""

    make: Callable[[Any], torch.nn.Module]
    shape: tuple[int, ...]
    # torch lacks such a layer: the twin is composed, and need not have the same bits or call the same operators
    own: bool = False
    train: bool = True
    format: torch.memory_format = torch.contiguous_format
    prefer: str = "direct"  # the method by which a convolution is computed, however small
    kernel: bool = True  # whether a plain call runs an operator of striate's; others are torch's, called otherwise
    twin: Callable[[torch.nn.Module], torch.nn.Module] | None = None  # of the layer itself


def _restored(model: torch.nn.Module) -> torch.nn.Module:
    return striate.restore(copy.deepcopy(model))


def _accelerated() -> torch.nn.Module:
    t = torch.nn
    # a large eps: a norm of two values amplifies roundings
    head = [
        t.GroupNorm(2, 8),
        t.LeakyReLU(0.2),
        t.AdaptiveAvgPool2d(2),
        t.Flatten(),
        t.Linear(32, 5),
        t.BatchNorm1d(5, eps=0.1),
        t.ReLU6(),
    ]
    return striate.accelerate(
        t.Sequential(t.Conv2d(3, 8, 3), t.BatchNorm2d(8), t.ReLU(), t.Conv2d(8, 8, 3), t.ReLU(), t.MaxPool2d(2), *head)
    )


def _rows() -> Iterator[tuple[str, Row]]:
    sizes = {1: (2, 4, 12), 2: (2, 4, 6, 7), 3: (2, 4, 4, 5, 4)}
    last = {2: torch.channels_last, 3: torch.channels_last_3d}
    for d in (1, 2, 3):
        x, of = sizes[d], lambda n, kind, d=d: getattr(n, f"{kind}{d}d")
        yield f"Conv{d}d", Row(lambda n, of=of: of(n, "Conv")(4, 6, 3, padding=1), x)
        yield f"Conv{d}d 1×1", Row(lambda n, of=of: of(n, "Conv")(4, 8, 1), x, prefer="pointwise", kernel=False)
        yield f"ConvTranspose{d}d", Row(lambda n, of=of: of(n, "ConvTranspose")(4, 6, 3, 2, 1, 1), x)
        yield f"LazyConv{d}d", Row(lambda n, of=of: of(n, "LazyConv")(6, 3, stride=2), x)
        yield f"LazyConvTranspose{d}d", Row(lambda n, of=of: of(n, "LazyConvTranspose")(6, 2), x)
        for kind in ("Max", "Avg"):
            yield f"{kind}Pool{d}d", Row(lambda n, of=of, kind=kind: of(n, f"{kind}Pool")(3, 2, 1), x)
            yield f"Adaptive{kind}Pool{d}d", Row(lambda n, of=of, kind=kind: of(n, f"Adaptive{kind}Pool")(3), x)
            yield f"Global{kind}Pool{d}d", Row(lambda n, of=of, kind=kind: of(n, f"Global{kind}Pool")(), x, own=True)
        yield f"BatchNorm{d}d", Row(lambda n, of=of: of(n, "BatchNorm")(4), x)
        yield f"BatchNorm{d}d in evaluation", Row(lambda n, of=of: of(n, "BatchNorm")(4), x, train=False)
        yield f"InstanceNorm{d}d", Row(lambda n, of=of: of(n, "InstanceNorm")(4, affine=True), x)
        yield (
            f"PointwiseConv{d}d",
            Row(lambda n, of=of: of(n, "PointwiseConv")(4, 8), x, prefer="pointwise", kernel=False),
        )
        yield f"DepthwiseConv{d}d", Row(lambda n, of=of: of(n, "DepthwiseConv")(4, 3, padding=1), x, prefer="depthwise")
        yield (
            f"DepthwiseSeparableConv{d}d",
            Row(lambda n, of=of: of(n, "DepthwiseSeparableConv")(4, 6, 3, padding=1), x),
        )
        yield f"ConvNormAct{d}d", Row(lambda n, of=of: of(n, "ConvNormAct")(4, 6, 3, padding=1), x)
        yield f"BlurPool{d}d", Row(lambda n, of=of: of(n, "BlurPool")(4), x)
        small = (2, 3, *(4,) * d)
        yield f"LocallyConnected{d}d", Row(lambda n, of=of: of(n, "LocallyConnected")(3, 2, 4, 3), small, own=True)
        if d > 1:
            yield f"Conv{d}d channels_last", Row(lambda n, of=of: of(n, "Conv")(4, 6, 3), x, format=last[d])
            yield f"MaxPool{d}d channels_last", Row(lambda n, of=of: of(n, "MaxPool")(2), x, format=last[d])
            yield f"BatchNorm{d}d channels_last", Row(lambda n, of=of: of(n, "BatchNorm")(4), x, format=last[d])
    x = sizes[2]
    yield "Conv2d depthwise 5×5", Row(lambda n: n.Conv2d(4, 8, 5, padding=2, groups=4), x, prefer="depthwise")
    yield (
        "Conv2d grouped, strided, dilated",
        Row(lambda n: n.Conv2d(4, 6, (3, 2), 2, 1, (1, 2), groups=2, bias=False), x),
    )
    yield "Conv2d circular", Row(lambda n: n.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), x)
    yield "Conv2d same", Row(lambda n: n.Conv2d(4, 6, 4, padding="same"), x)
    yield "Conv2d by Winograd", Row(lambda n: n.Conv2d(16, 16, 3, padding=1), (1, 16, 8, 8), prefer="winograd_2x2")
    yield "Conv2d implicit_gemm", Row(lambda n: n.Conv2d(16, 16, 3, padding=1), (1, 16, 6, 6), prefer="implicit_gemm")
    yield "MaxPool2d with indices", Row(lambda n: n.MaxPool2d(2, return_indices=True), x)
    yield "MaxPool2d dilated, rounded up", Row(lambda n: n.MaxPool2d(2, 2, 1, 2, ceil_mode=True), x)
    yield "MaxPool2d of 289 taps", Row(lambda n: n.MaxPool2d(17, 3, 8), (1, 2, 18, 18))
    yield "AvgPool2d without padding counted", Row(lambda n: n.AvgPool2d(3, 2, 1, count_include_pad=False), x)
    yield "AvgPool2d with a divisor", Row(lambda n: n.AvgPool2d(3, 2, divisor_override=5), x)
    yield "AdaptiveAvgPool2d(1)", Row(lambda n: n.AdaptiveAvgPool2d(1), x)
    yield "AdaptiveAvgPool2d of one axis", Row(lambda n: n.AdaptiveAvgPool2d((None, 2)), x)
    yield "AdaptiveMaxPool2d with indices", Row(lambda n: n.AdaptiveMaxPool2d((2, 3), return_indices=True), x)
    yield "BatchNorm2d without statistics", Row(lambda n: n.BatchNorm2d(4, track_running_stats=False), x)
    yield "BatchNorm2d of all batches", Row(lambda n: n.BatchNorm2d(4, momentum=None, affine=False), x)
    yield "BatchNorm1d of a matrix", Row(lambda n: n.BatchNorm1d(4), (6, 4))
    yield "InstanceNorm2d with statistics", Row(lambda n: n.InstanceNorm2d(4, track_running_stats=True), x)
    yield "InstanceNorm2d of one sample", Row(lambda n: n.InstanceNorm2d(4), x[1:])
    yield "GroupNorm", Row(lambda n: n.GroupNorm(2, 4), x)
    yield "LayerNorm", Row(lambda n: n.LayerNorm([6, 7]), x)
    yield "LayerNorm without scale", Row(lambda n: n.LayerNorm(7, elementwise_affine=False), x)
    yield "RMSNorm", Row(lambda n: n.RMSNorm(7), x)
    yield "LocalResponseNorm", Row(lambda n: n.LocalResponseNorm(3), x)
    yield "Linear", Row(lambda n: n.Linear(7, 5), x, prefer="native")
    yield "LazyLinear", Row(lambda n: n.LazyLinear(5), x, prefer="native")
    yield "ChannelShuffle", Row(lambda n: n.ChannelShuffle(2), x, kernel=False)
    yield "BatchNormAct2d", Row(lambda n: n.BatchNormAct2d(4), x, own=True)
    yield "GroupNormAct2d", Row(lambda n: n.GroupNormAct2d(2, 4), x, own=True)
    yield "GhostBatchNorm2d", Row(lambda n: n.GhostBatchNorm2d(4, 2), (4, 4, 5, 5), own=True)
    yield "NoisyBatchNorm2d", Row(lambda n: n.NoisyBatchNorm2d(4), x, own=True, train=False)
    yield "SyncBatchNorm", Row(lambda n: n.SyncBatchNorm(4), x, own=True)
    yield "BatchNorm2d frozen", Row(lambda n: n.BatchNorm2d(4).freeze() if n is nn else _Frozen(4), x, own=True)
    yield "LayerNorm2d", Row(lambda n: n.LayerNorm2d(4), x, own=True)
    yield "AdaIN", Row(lambda n: Stylized(n.AdaIN()), x, own=True)
    yield "Bottleneck", Row(lambda n: n.Bottleneck(4, 2, 6), x)
    yield "SpatiallySeparableConv2d", Row(lambda n: n.SpatiallySeparableConv2d(4, 6, 3), x)
    yield "SqueezeExcite", Row(lambda n: n.SqueezeExcite(4, 2), x, own=True)
    yield (
        "Conv2d same, strided",
        Row(lambda n: n.Conv2d(4, 6, 3, 2, "same") if n is nn else _Same(n.Conv2d(4, 6, 3, 2), 0.0), x, own=True),
    )
    yield (
        "ConvTranspose2d circular",
        Row(
            lambda n: n.ConvTranspose2d(4, 6, 3, padding=1, padding_mode="circular") if n is nn else _Circular(4, 6, 3),
            x,
            own=True,
        ),
    )
    yield (
        "ConvTranspose2d same",
        Row(lambda n: n.ConvTranspose2d(4, 6, 3, 2, "same") if n is nn else _Cropped(4, 6, 3), x, own=True),
    )
    yield (
        "AvgPool2d same",
        Row(lambda n: n.AvgPool2d(3, 2, "same") if n is nn else _Same(n.AvgPool2d(3, 2), 0.0), x, own=True),
    )
    yield (
        "MaxPool2d same",
        Row(lambda n: n.MaxPool2d(3, 2, "same") if n is nn else _Same(n.MaxPool2d(3, 2), -torch.inf), x, own=True),
    )
    image = (2, 3, 16, 16)
    yield "models.cnn_bn", Row(lambda n: models.cnn_bn(), image, twin=_restored)
    yield "models.mlp_bn", Row(lambda n: models.mlp_bn(12, 8, 3), (6, 12), twin=_restored)
    yield "models.resnet_cifar", Row(lambda n: models.resnet_cifar(layers=8), image, twin=_restored)
    yield (
        "models.InvertedResidual",
        Row(lambda n: models.mobilenet.InvertedResidual(4, 4, 1, 2), (2, 4, 6, 6), twin=_restored),
    )
    yield "models.convnext.Block", Row(lambda n: models.convnext.Block(4), (2, 4, 7, 7), twin=_restored)
    yield "an accelerated net", Row(lambda n: _accelerated(), image, twin=_restored)


ROWS = dict(_rows())


def pair(row: Row) -> tuple[torch.nn.Module, torch.nn.Module, Tensor]:
    """striate's layer, torch's with the same numbers, and an input."""
    x = torch.randn(row.shape).to(memory_format=row.format)
    native_layer = row.make(nn)
    with torch.no_grad():
        if any(torch.nn.parameter.is_lazy(p) for p in native_layer.parameters()):
            native_layer(x)
        for name, t in itertools.chain(native_layer.named_parameters(), native_layer.named_buffers()):
            if t.is_floating_point() and not name.endswith("filter"):
                t.copy_(torch.rand(t.shape) + 0.5 if name.endswith("var") or t.dim() == 1 else torch.randn(t.shape) / 4)
    if row.twin is not None:
        twin = row.twin(native_layer)
    else:
        twin = row.make(TORCH_ROWS)
        twin.load_state_dict(dict(zip(twin.state_dict(), native_layer.state_dict().values(), strict=True)))
        if type(twin).__name__.startswith("Lazy"):
            twin(x)
    if row.format is not torch.contiguous_format:
        native_layer, twin = (m.to(memory_format=row.format) for m in (native_layer, twin))
    return native_layer.train(row.train), twin.train(row.train), x


def test_the_table_has_every_layer_of_striate() -> None:
    public = {
        name
        for family in (blocks, conv, local, norm, pool)
        for name in family.__all__
        if isinstance(getattr(family, name), type)
    }
    made = {type(m) for row in ROWS.values() for m in row.make(nn).modules()}
    assert sorted(name for name in public if getattr(nn, name) not in made) == []


# -------------------------------------------------------------------------------------------- what the situations share


def call(layer: torch.nn.Module, x: Tensor) -> Tensor:
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


def weigh(y: Tensor) -> Tensor:
    """A scalar loss with a different weight for every value of y: the sum of squares of a norm's output would hardly
    depend on its input.
    """
    return (y * torch.arange(y.numel(), dtype=torch.float32, device=y.device).cos().to(y.dtype).view(y.shape)).sum()


def tail(layer: torch.nn.Module, x: Tensor) -> Tensor:
    return weigh(call(layer, x))


def doubled(x: Tensor) -> Tensor:
    return torch.cat([x, 2 * x.flip(0)])


def steps(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)


def moved(layer: torch.nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Some of the layer's outputs as a function of three numbers, so that whole Jacobians and Hessians are small."""

    def function(t: Tensor) -> Tensor:
        return call(layer, x * (1 + t[0]) + steps(x) * t[1] + t[2] * x.flip(-1)).flatten()[::13]

    return function


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.preserve_format).requires_grad_()


def weights(layer: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


def functional(layer: torch.nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    def function(state: dict[str, Tensor], x: Tensor) -> Tensor:
        y = func.functional_call(layer, state, (x,))
        return y[0] if isinstance(y, tuple) else y

    return function


def learned(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """The gradients of the input and of each parameter."""
    x = leaf(x)
    y = call(layer, x)
    return [y, *torch.autograd.grad(weigh(y), [x, *layer.parameters()])]


def is_native(module: Any) -> bool:
    return any(type(m).__module__.startswith("striate.nn.") for m in module.modules())


def composed(layer: torch.nn.Module) -> bool:
    """Whether it is a twin that is made here, of which no tool needs to know anything."""
    return not is_native(layer) and any(
        type(m).__module__ == __name__ or type(m).__module__.startswith("striate.") for m in layer.modules()
    )


@contextlib.contextmanager
def watched() -> Iterator[set[str]]:
    """Collects the operators called in the block, by the profiler, since a dispatch mode is itself a situation."""
    names: set[str] = set()
    with torch.autograd.profiler.profile() as profile:
        yield names
    names |= {event.name for event in profile.function_events if event.name.startswith("striate::")}


def same(got: Any, expected: Any, row: Row, exact: bool, where: str = "result") -> None:
    """Compares two trees of tensors, bit for bit if ``exact``, and their other leaves, unless the twin is composed."""
    (got_leaves, got_form), (expected_leaves, expected_form) = tree_flatten(got), tree_flatten(expected)
    assert got_form == expected_form or row.own, (where, got_form, expected_form)
    assert got_leaves or where != "result"
    tensors = [[v for v in leaves if isinstance(v, Tensor)] for leaves in (got_leaves, expected_leaves)]
    finite = [
        float(t.detach().abs().max())
        for t in tensors[1]
        if t.is_floating_point() and t.numel() and t.device.type != "meta"
    ]
    # the largest of all values: what is zero but for rounding is compared on that scale
    size = max([1.0, *finite]) if row.twin is not None else 1.0
    for k, (a, b) in enumerate(zip(*tensors, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape and type(a) is type(b), (
            where,
            k,
            a.dtype,
            b.dtype,
            a.shape,
            b.shape,
        )
        if a.device.type == "meta":
            continue
        if exact and not row.own:
            assert torch.equal(a, b), (where, k, float((a - b).abs().max()))
        else:
            digits = max(torch.finfo(b.dtype).eps, 1e-12) if b.is_floating_point() or b.is_complex() else 0.0
            largest = max(size, float(b.detach().abs().max())) if b.numel() else 1.0
            torch.testing.assert_close(
                a, b, rtol=800 * digits, atol=80 * digits * largest, msg=lambda m, k=k: f"{where} {k}: {m}"
            )
    if not row.own:
        others = [[v for v in leaves if not isinstance(v, Tensor)] for leaves in (got_leaves, expected_leaves)]
        assert others[0] == others[1], where


# ------------------------------------------------------------------------------------------------------- the situations

Run = Callable[[torch.nn.Module, Tensor], Any]
Only = Callable[[str, torch.nn.Module], bool]


class Situation(NamedTuple):
    """What is done to a layer, striate's and torch's alike; ``by``: whose operators compute then."""

    run: Run
    by: str
    refused: dict[str, str]  # by pattern of layer names, why torch's own layers fail, which is tested too
    only: Only  # the layers to which the situation applies
    exact: bool  # whether torch's operators give the twin's bits

    def why_refused(self, name: str) -> str | None:
        return next((why for pattern, why in self.refused.items() if re.fullmatch(pattern, name)), None)


SITUATIONS: dict[str, Situation] = {}


def everywhere(name: str, layer: torch.nn.Module) -> bool:
    return True


def but_in_channels_last(name: str, layer: torch.nn.Module) -> bool:
    return name != "an accelerated net"  # torch's batched gradients do not support asking for their memory format


def where_weights_are(name: str, layer: torch.nn.Module) -> bool:
    return any(True for _ in matrices(layer))


def where_weights_are_contiguous(name: str, layer: torch.nn.Module) -> bool:
    return where_weights_are(name, layer) and all(m.weight.is_contiguous() for m in matrices(layer))


def where_parameters_are(name: str, layer: torch.nn.Module) -> bool:
    return any(True for _ in layer.parameters())


# One of each family: for what takes torch a tenth of a second and more, whatever the layer.
FEW = (
    "Conv2d",
    "Conv1d 1×1",
    "ConvTranspose3d",
    "Conv2d channels_last",
    "DepthwiseConv2d",
    "BlurPool2d",
    "LocallyConnected2d",
    "MaxPool2d",
    "AdaptiveMaxPool2d with indices",
    "AvgPool3d",
    "AdaptiveAvgPool1d",
    "GlobalMaxPool2d",
    "BatchNorm2d without statistics",
    "BatchNorm2d in evaluation",
    "InstanceNorm1d",
    "GroupNorm",
    "LayerNorm2d",
    "RMSNorm",
    "LocalResponseNorm",
    "SqueezeExcite",
    "models.convnext.Block",
)


def where_it_is_one_of_few(name: str, layer: torch.nn.Module) -> bool:
    return name in FEW


def situation(
    name: str, by: str = "torch", refused: dict[str, str] | None = None, only: Only = everywhere, exact: bool = True
) -> Callable[[Run], Run]:
    def put(run: Run) -> Run:
        assert name not in SITUATIONS
        SITUATIONS[name] = Situation(run, by, refused or {}, only, exact and by == "torch")
        return run

    return put


COUNTS = "it counts batches in place, in a buffer from outside of the transform"
NORMS = (
    r"BatchNorm\dd( channels_last| of all batches| of a "
    r"matrix)?|ConvNormAct\dd|BatchNormAct2d|GhostBatchNorm2d|SyncBatchNorm"
)
NETS = r"models\.(cnn_bn|mlp_bn|resnet_cifar|InvertedResidual)|an accelerated net"
COUNTING = {f"{NORMS}|{NETS}": COUNTS}
MOVING = {"InstanceNorm2d with statistics": "it moves running statistics that are not batched"}
READ = {"BatchNorm2d of all batches": "it reads the number of batches"}
POOLED = r"(Adaptive|Global)?MaxPool\dd.*|models.cnn_bn|an accelerated net"


# ---- function transforms


@situation("`torch.func.vmap`", refused=COUNTING | MOVING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return func.vmap(layer)(torch.stack([x, 2 * x, x.flip(0)]))


@situation("`torch.vmap` over another axis, in chunks, in `vmap`", refused=COUNTING | MOVING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    chunked = torch.vmap(lambda s: call(layer, s), in_dims=-1, out_dims=1, chunk_size=2)
    return chunked(torch.stack([x, 2 * x, x.flip(0)], -1)), func.vmap(func.vmap(layer))(
        torch.stack([x, 2 * x]).unsqueeze(0)
    )


@situation("an ensemble: `stack_module_state`, `functional_call` and `vmap`", refused=READ, only=where_parameters_are)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    other = copy.deepcopy(layer)
    for p in other.parameters():
        p.data.mul_(1.5)
    state = func.stack_module_state([layer, other])
    base = copy.deepcopy(layer).to("meta") if not any(True for _ in unsaved(layer)) else layer
    return func.vmap(lambda state, s: func.functional_call(base, state, (s,)), in_dims=(0, None))(state, x), state


@situation("`torch.func.grad` with `functional_call`", refused=COUNTING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    f = functional(layer)
    return func.grad(lambda p, s: weigh(f(p, s)), argnums=(0, 1))(weights(layer), x)


@situation("`torch.func.grad_and_value` with an auxiliary output", refused=COUNTING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    def loss(s: Tensor) -> Any:
        y = call(layer, s)
        return weigh(y), y

    return func.grad_and_value(loss, has_aux=True)(x)


@situation("per-sample gradients: `vmap` of `grad`", refused=COUNTING | MOVING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    f = functional(layer)
    return func.vmap(func.grad(lambda p, s: weigh(f(p, s)), argnums=(0, 1)), in_dims=(None, 0))(
        weights(layer), torch.stack([x, -x])
    )


def replaced(name: str, layer: torch.nn.Module) -> bool:
    """Whether torch finds all batch norms of it: ``BatchNormAct2d`` is none of torch's."""
    return name != "BatchNormAct2d" and bool(re.fullmatch(f"{NORMS}|{NETS}", name))


@situation("`replace_all_batch_norm_modules_`, then per-sample gradients", refused=MOVING, only=replaced)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return SITUATIONS["per-sample gradients: `vmap` of `grad`"].run(func.replace_all_batch_norm_modules_(layer), x)


@situation(
    "transforms of something else, with the layer called inside: its weights and input are plain", refused=COUNTING
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    size = call(copy.deepcopy(layer).to("meta"), x.to("meta")).flatten(1).shape[1]
    w = torch.linspace(-1, 1, 2 * size).view(size, 2)

    def f(w: Tensor) -> Tensor:
        return (call(layer, x).flatten(1) @ w).square().mean()

    return func.grad(f)(w), func.vmap(f)(torch.stack([w, 2 * w])), func.jvp(f, (w,), (w.flip(0),)), func.jacrev(f)(w)


@situation("`torch.func.jvp`", refused=COUNTING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    both = weights(layer), x
    return func.jvp(lambda s: call(layer, s), (x,), (steps(x),)), func.jvp(
        functional(layer), both, tree_map_only(Tensor, steps, both)
    )


@situation("`torch.func.vjp`", refused=COUNTING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    y, pull = func.vjp(functional(layer), weights(layer), x)
    return y, pull(steps(y))


@situation("`torch.func.jacrev` and `jacfwd`", refused=COUNTING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    f, t = moved(layer, x), torch.zeros(3)
    return func.jacrev(f)(t), func.jacrev(f, chunk_size=2)(t), func.jacfwd(f)(t)


@situation("`torch.func.hessian`, and products with it", refused=COUNTING)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    f, t = moved(layer, x), torch.zeros(3)

    def loss(t: Tensor) -> Tensor:
        return weigh(f(t))

    return func.hessian(loss)(t), func.jacrev(func.jacrev(loss))(t), func.jvp(func.grad(loss), (t,), (t + 1,))


@situation(
    "`torch.func.linearize`", by="striate forward, torch its derivative", only=lambda name, layer: name in FEW[::3]
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    y, push = func.linearize(lambda s: call(layer, s), x)
    return y, push(steps(x)), push(x)


# the twin's statistics are no operator's
@situation("`torch.func.functionalize`", only=lambda name, layer: name != "GhostBatchNorm2d")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return func.functionalize(lambda s: call(layer, s))(x)


@situation("`torch.func.functional_call` by itself", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return functional(layer)({name: 2 * p for name, p in weights(layer).items()}, x)


@situation("`torch.autograd.forward_ad`: dual tensors")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with forward_ad.dual_level():
        first = forward_ad.unpack_dual(call(layer, forward_ad.make_dual(x, steps(x))))
        duals = {name: forward_ad.make_dual(p, steps(p)) for name, p in weights(layer).items()}
        second = forward_ad.unpack_dual(functional(layer)(duals, x)) if duals else ()
    return [*first, *second]


@situation(
    "`torch.autograd.functional.jacobian` with `vectorize=True`",
    by="striate forward, torch backward",
    only=but_in_channels_last,
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return jacobian(moved(layer, x), torch.zeros(3), vectorize=True)


@situation(
    '`torch.autograd.functional.jacobian` with `strategy="forward-mode"`',
    refused={POOLED: "it has no batching rule for flatten"},
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return jacobian(moved(layer, x), torch.zeros(3), vectorize=True, strategy="forward-mode")


@situation("`torch.autograd.functional.jacobian` and `hessian`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    f, t = moved(layer, x), torch.zeros(3)
    return jacobian(f, t), hessian(lambda t: weigh(f(t)), t)


@situation(
    "batches of gradients: `is_grads_batched=True`", by="striate forward, torch backward", only=but_in_channels_last
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    x = leaf(x)
    y = call(layer, x)
    return torch.autograd.grad(
        y, [x, *layer.parameters()], torch.stack([steps(y), y.detach(), 1 - steps(y)]), is_grads_batched=True
    )


@situation("gradients of gradients: `create_graph=True`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    x = leaf(x)
    wanted = [x, *layer.parameters()]
    first = torch.autograd.grad(tail(layer, x), wanted, create_graph=True)
    loss = weigh(call(layer, x)) + sum(weigh(g) * (k + 1) for k, g in enumerate(first))
    return first, torch.autograd.grad(loss, wanted)


@situation(
    "`gradcheck` and `gradgradcheck`, also of batches and forward mode", by="striate", only=where_it_is_one_of_few
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    layer, x = layer.double(), x.double()
    state = [leaf(p.double()) for p in weights(layer).values()]

    def f(x: Tensor, *state: Tensor) -> Tensor:
        return functional(layer)(dict(zip(weights(layer), state, strict=True)), x)

    assert torch.autograd.gradcheck(
        f, (leaf(x), *state), fast_mode=True, check_batched_grad=True, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(f, (leaf(x), *state), fast_mode=True)
    return f(x, *state)


# ---- tracers


class Inside(torch.nn.Module):
    """A layer in a model, as tracers meet it."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):  # not annotated: a script finds out what the layer returns
        return self.layer(x)


def kinds(graph: Any) -> list[str]:
    return re.findall(r"\b(?:aten|striate)::\w+", str(graph))


@situation("`torch.jit.trace`")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    traced = torch.jit.trace(layer, x, check_trace=False)
    other = doubled(x)
    return traced(x), traced(other), learned(traced, other), kinds(traced.inlined_graph)


SCRIPTED = {"AdaptiveAvgPool2d of one axis": "TorchScript takes no None in output_size"}


@situation("`torch.jit.script`, and the model as it was afterwards", refused=SCRIPTED)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    model = Inside(layer)
    before = [(name, type(m), id(m)) for name, m in model.named_modules()]
    scripted = torch.jit.script(model) if not composed(layer) else model
    assert [(name, type(m), id(m)) for name, m in model.named_modules()] == before
    return scripted(x), scripted(doubled(x)), learned(scripted, x)


# freezing folds norms
@situation("a script and a trace that are frozen, saved and loaded", refused=SCRIPTED, exact=False)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    layer.eval()
    made = []
    for module in (
        torch.jit.script(Inside(layer).eval()) if not composed(layer) else None,
        torch.jit.trace(layer, x, check_trace=False),
    ):
        if module is not None:
            file = io.BytesIO()
            torch.jit.save(torch.jit.freeze(module), file)
            module = torch.jit.load(io.BytesIO(file.getvalue()))
        made.append((module or layer)(x))
    return made


@situation("`torch.fx.symbolic_trace`, and a copy of what it gives", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    traced = copy.deepcopy(Inside(layer) if composed(layer) else torch.fx.symbolic_trace(Inside(layer)))
    return traced(x), traced(doubled(x)), learned(traced, x)


@situation("`make_fx` and `aot_function`", refused=READ | {"BatchNorm2d of all batches": COUNTS})
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    traced = make_fx(functional(layer))(weights(layer), x)
    return traced(weights(layer), x), [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]


# ---- modes and subclasses


class Told(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.recorded.append(str(function))
        return function(*args, **(kwargs or {}))


# The functions by which a layer inspects its input before computing.
ASKED = (
    Tensor.dim,
    Tensor.size,
    Tensor.stride,
    Tensor.numel,
    Tensor.is_contiguous,
    Tensor.is_complex,
    Tensor.is_floating_point,
)


class ToldFunctions(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in ASKED and getattr(function, "__name__", "") != "__get__":
            self.recorded.append(torch.overrides.resolve_name(function) or str(function))
        return function(*args, **(kwargs or {}))


@situation("a `TorchDispatchMode` of one's own")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with Told() as mode:
        result = learned(layer, x)
    return result, mode.recorded


@situation("a `TorchDispatchMode` round backward alone", by="striate forward, torch backward")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    x = leaf(x)
    loss = tail(layer, x)
    with Told() as mode:
        grads = torch.autograd.grad(loss, [x, *layer.parameters()])
    assert not any("striate" in name for name in mode.recorded)
    return grads


@situation("a `TorchFunctionMode` of one's own")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with ToldFunctions() as mode:
        y = layer(x)
    return y, mode.recorded


@situation("`FlopCounterMode` round a training step")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    x = leaf(x)
    with FlopCounterMode(display=False) as counter:
        y = call(layer, x)
        weigh(y).backward()
    paths = {
        re.sub(r"^\w+", "model", path): ops
        for path, ops in sorted(counter.get_flop_counts().items())
        if path != "Global"
    }
    counted = {path: {str(op): n for op, n in ops.items()} for path, ops in paths.items()}
    return y, x.grad, [p.grad for p in layer.parameters()], counted, counter.get_total_flops()


@situation("`FlopCounterMode` round backward alone", by="striate forward, torch backward")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    x = leaf(x)
    loss = tail(layer, x)
    with FlopCounterMode(display=False) as counter:
        grads = torch.autograd.grad(loss, [x, *layer.parameters()])
    return grads, counter.get_total_flops()


@situation("`FakeTensorMode`", refused=READ if torch.__version__ < (2, 14) else {})
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(leaf(x))
        y = call(layer, x)
        grads = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    return [(type(t).__name__, t.shape, t.stride(), t.dtype) for t in (y, *grads)]


@situation("the meta device", refused=READ)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return learned(layer.to("meta"), x.to("meta"))


class Tagged(torch.Tensor):
    """A subclass without code of its own."""


class Wrapped(torch.Tensor):
    """A subclass that wraps another tensor and records the functions called on it."""

    recorded: list[str] = []  # noqa: RUF012

    @staticmethod
    def __new__(cls, held: Tensor) -> Any:
        more = {
            "strides": held.stride(),
            "dtype": held.dtype,
            "device": held.device,
            "requires_grad": held.requires_grad,
        }
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, **more)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.recorded.append(str(function))
        args, kwargs = tree_map_only(Wrapped, lambda t: t.held, (args, kwargs or {}))
        return tree_map_only(Tensor, Wrapped, function(*args, **kwargs))


@situation("a tensor subclass")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return layer(x.as_subclass(Tagged))


@situation("a tensor subclass that wraps another tensor")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    Wrapped.recorded = []
    x = Wrapped(x.clone(memory_format=torch.preserve_format)).requires_grad_()
    y = call(layer, x)
    (grad,) = torch.autograd.grad((y * steps(y.held)).sum(), [x])
    return type(y).__name__, y.held, grad.held, list(Wrapped.recorded)


@situation(
    "parameters of a tensor subclass",
    only=lambda name, layer: where_parameters_are(name, layer) and name != "SqueezeExcite",
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return func.functional_call(layer, {name: p.as_subclass(Tagged) for name, p in weights(layer).items()}, (x,))


@situation("`torch.autocast`")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    results = []
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            results.append(learned(layer, x))
    return results


HALF = {"AvgPool3d|LocalResponseNorm": "torch has no average pooling of three axes for them"}


@situation("modules of bfloat16 and float16", refused=HALF)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return [learned(copy.deepcopy(layer).to(dtype), x.to(dtype)) for dtype in (torch.bfloat16, torch.float16)]


@situation("complex modules", only=lambda n, m: bool(re.match(r"(Lazy)?Conv(Transpose)?\dd", n)))
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return call(layer.to(torch.complex64), torch.complex(x, x.flip(-1)))


@situation("selective checkpoints, and `allow_mutation_on_saved_tensors`")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    contexts = functools.partial(
        create_selective_checkpoint_contexts, lambda *args, **kwargs: CheckpointPolicy.PREFER_RECOMPUTE
    )
    x = leaf(x)
    y = checkpoint(lambda s: call(layer, s), x, use_reentrant=False, context_fn=contexts)
    first = [y, *torch.autograd.grad(weigh(y), [x, *layer.parameters()])]
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        y = call(layer, x)
        loss = weigh(y)
        with torch.no_grad():
            for p in layer.parameters():
                p.zero_()
        return first, torch.autograd.grad(loss, x)


# ---- plain eager calls, whatever stands round them


@situation("a plain call, and training", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return learned(layer, x)


def owns_its_output(name: str, layer: torch.nn.Module) -> bool:
    """Not where the twin ends with a ReLU, which keeps its output: torch refuses a change of it."""
    return not re.fullmatch(r"ConvNormAct\dd|.*NormAct2d|models\.resnet_cifar", name)


@situation(
    "outputs that are changed in place, of learning and frozen layers, with and without a gradient",
    by="striate",
    only=owns_its_output,
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    results: list[Any] = []
    for change in (lambda y: y.mul_(2).add_(1), Tensor.relu_, lambda y: y[..., :1].zero_()):
        with torch.no_grad():
            results.append(call(layer, x))
            change(results[-1])
        for frozen in (False, True):
            moved = copy.deepcopy(layer).requires_grad_(not frozen)
            given = leaf(x)
            y = call(moved, given)
            change(y)
            learned = [given, *(p for p in moved.parameters() if p.requires_grad)]
            results += [y.detach(), torch.autograd.grad(weigh(y), learned)]
    return results


@situation("`torch.no_grad` and `torch.inference_mode`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        first = layer(x)
    with torch.inference_mode():
        second = layer(x)
    return first, tree_map_only(Tensor, Tensor.clone, second)


@situation("`torch.set_default_device`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    torch.set_default_device("meta")  # where new tensors go, which is nothing to a layer that has its own
    try:
        return learned(layer, x)
    finally:
        torch.set_default_device(None)


@situation("`torch.device` as a context", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with torch.device("meta"):
        return learned(layer, x)


@situation("`torch.autograd.detect_anomaly`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
        with torch.autograd.detect_anomaly():
            return learned(layer, x)


@situation("`torch.use_deterministic_algorithms`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        return learned(layer, x)
    finally:
        torch.use_deterministic_algorithms(False)


@situation("`torch.utils.checkpoint`, reentrant or not", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    results = []
    for reentrant in (True, False):
        x = leaf(x)
        y = checkpoint(lambda s: call(layer, s), x, use_reentrant=reentrant)
        layer.zero_grad()
        weigh(y).backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    return results


@situation("`saved_tensors_hooks` and `save_on_cpu`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    def pack(t: Tensor) -> Any:
        return pickle.dumps(t.detach().clone(memory_format=torch.preserve_format))

    with torch.autograd.graph.saved_tensors_hooks(pack, pickle.loads):
        first = learned(layer, x)
    with torch.autograd.graph.save_on_cpu():
        return first, learned(layer, x)


@situation("hooks on modules, tensors and nodes", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    seen: list[Any] = []
    x = leaf(x)
    handles = [
        layer.register_forward_pre_hook(lambda m, args: (2 * args[0],)),
        layer.register_forward_hook(lambda m, args, y: y + 1 if isinstance(y, Tensor) else (y[0] + 1, *y[1:])),
        layer.register_full_backward_pre_hook(lambda m, dy: (3 * dy[0], *dy[1:])),
        layer.register_full_backward_hook(lambda m, dx, dy: seen.append(tree_map_only(Tensor, Tensor.clone, (dx, dy)))),
        torch.autograd.graph.register_multi_grad_hook(
            [x, *layer.parameters()], lambda grads: seen.append([g.clone() for g in grads])
        ),
        *(
            p.register_post_accumulate_grad_hook(lambda p: p.grad.copy_(2 * p.grad) is None or None)
            for p in layer.parameters()
        ),
    ]
    y = call(layer, x)
    y.register_hook(lambda dy: dy * 2)
    y.grad_fn.register_prehook(lambda dy: (dy[0] * 2, *dy[1:]))
    weigh(y).backward()
    for handle in handles:
        handle.remove()
    return y, x.grad, [p.grad for p in layer.parameters()], seen


@situation("walking through the graph of autograd, and `GradientEdge`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    x = leaf(x)
    y = call(layer, x)
    seen, todo = {}, [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen[node] = node.name()
            [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
            todo += [n for n, _ in node.next_functions]
    edge = torch.autograd.graph.get_gradient_edge(y)
    return y, sum("AccumulateGrad" in name for name in seen.values()), torch.autograd.grad(edge, x, steps(y))


@situation("`copy.deepcopy`, `pickle` and `torch.save`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    others = (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(io.BytesIO(file.getvalue()), weights_only=False),
    )
    assert all([type(m) for m in other.modules()] == [type(m) for m in layer.modules()] for other in others)
    return [learned(other, x) for other in (*others, copy.copy(layer))]


@situation("`load_state_dict` with `assign=True`, onto the meta device", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    other = copy.deepcopy(layer).to("meta")
    other.load_state_dict(
        {name: 2 * t if t.is_floating_point() else t for name, t in layer.state_dict().items()}, assign=True
    )
    for path, name, buffer in unsaved(layer):
        other.get_submodule(path).register_buffer(name, buffer, persistent=False)
    return learned(other, x)


def unsaved(layer: torch.nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Buffers that are not in ``state_dict``."""
    for path, module in layer.named_modules():
        yield from ((path, name, module._buffers[name]) for name in module._non_persistent_buffers_set)


@situation("several threads", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    results: list[Any] = [None] * 3
    layer.eval()

    def work(k: int) -> None:
        results[k] = learned(layer, x * (k + 1))

    work(0)
    workers = [threading.Thread(target=work, args=(k,)) for k in (1, 2)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    return results


@situation("`torch.optim`, and `AveragedModel`", by="striate", only=where_parameters_are)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, foreach=True)
    averaged = torch.optim.swa_utils.AveragedModel(layer, use_buffers=True)
    for k in range(2):
        optimizer.zero_grad()
        tail(layer, x * (k + 1)).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(layer)
    return averaged(x)


@situation("`torch.nn.DataParallel` on the CPU", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    return learned(torch.nn.DataParallel(layer), x)


def matrices(layer: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules of it that have weights of two or more axes."""
    return (
        m for m in layer.modules() if isinstance(getattr(m, "weight", None), torch.nn.Parameter) and m.weight.dim() > 1
    )


@situation(
    "parametrizations: weight and spectral norm, one's own, and their removal", by="striate", only=where_weights_are
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    class Doubled(torch.nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 2 * w

    results = []
    for put in (
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
    ):
        torch.manual_seed(1)  # spectral norm begins at random
        for module in list(matrices(layer)):
            put(module)
        results.append(learned(layer, x))
        with parametrize.cached():
            results.append(call(layer, x))
        classes = [type(m) for m in layer.modules()]
        for module in [m for m in layer.modules() if parametrize.is_parametrized(m)]:
            parametrize.remove_parametrizations(module, "weight")
        assert len(classes) > sum(1 for _ in layer.modules())
    return results


@situation(
    "the older `weight_norm` and `spectral_norm`, which are hooks", by="striate", only=where_weights_are_contiguous
)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for put, remove in (
            (torch.nn.utils.weight_norm, torch.nn.utils.remove_weight_norm),
            (torch.nn.utils.spectral_norm, torch.nn.utils.remove_spectral_norm),
        ):
            torch.manual_seed(1)  # spectral norm begins at random
            modules = list(matrices(layer))
            for module in modules:
                put(module)
            results.append(learned(layer, x))
            for module in modules:
                remove(module)
    return results, call(layer, x)


@situation("`torch.nn.utils.prune`", by="striate", only=where_weights_are)
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    modules = list(matrices(layer))
    for module in modules:
        prune.custom_from_mask(module, "weight", module.weight.abs() > module.weight.abs().median())
    pruned = learned(layer, x)
    for module in modules:
        prune.remove(module, "weight")
    return pruned, call(layer, x)


@situation("frozen parameters, and inputs without a gradient", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    results = [call(layer, x).detach()]
    for p in layer.parameters():
        p.requires_grad_(False)
    x = leaf(x)
    return results, torch.autograd.grad(tail(layer, x), x)


@situation("`torch.profiler`, `record_function`", by="striate")
def _(layer: torch.nn.Module, x: Tensor) -> Any:
    with torch.profiler.record_function("layer"):
        return learned(layer, x)


# --------------------------------------------------------------------------------------- each situation, for each layer


def _cases() -> Iterator[tuple[str, str]]:
    with torch.random.fork_rng():
        layers = {name: pair(row)[0] for name, row in ROWS.items()}
    for name, case in SITUATIONS.items():
        yield from ((name, row) for row in ROWS if case.only(row, layers[row]))


CASES = list(_cases())


# Where torch's operators sum in another order on some machines: a 1×1 convolution with a stride, as in a shortcut,
# reads the pixels it needs as another tensor (ops/torch_calls.py).
ROUNDED = {
    ("an ensemble: `stack_module_state`, `functional_call` and `vmap`", "models.resnet_cifar"),
    ("`replace_all_batch_norm_modules_`, then per-sample gradients", "models.resnet_cifar"),
    ("`torch.jit.script`, and the model as it was afterwards", "models.convnext.Block"),
}


# Layers of one and three axes are the code of those of two: they take six minutes, and run with `make nightly`.
OTHER_AXES = r".*[13]d\b.*"
# Many calls of what other situations call once, and networks of layers that have cases of their own.
LONG = {
    "`torch.func.hessian`, and products with it",
    "`torch.func.jacrev` and `jacfwd`",
    "`torch.autograd.functional.jacobian` and `hessian`",
    "`torch.autograd.functional.jacobian` with `vectorize=True`",
    "`gradcheck` and `gradgradcheck`, also of batches and forward mode",
    "models.resnet_cifar",
    "models.convnext.Block",
    "models.cnn_bn",
    "models.mlp_bn",
}
# Forms of layers that have a case without them.
FORMS = {
    *("AvgPool2d same", "AvgPool2d with a divisor", "AvgPool2d without padding counted"),
    "AdaptiveAvgPool2d of one axis",
    *("MaxPool2d same", "MaxPool2d channels_last", "MaxPool2d of 289 taps"),
    *("BatchNorm2d channels_last", "BatchNorm2d of all batches", "InstanceNorm2d of one sample"),
    "LayerNorm without scale",
    *("Conv2d 1×1", "Conv2d channels_last", "Conv2d circular", "Conv2d depthwise 5×5", "Conv2d implicit_gemm"),
    *("Conv2d same", "ConvTranspose2d circular", "ConvTranspose2d same", "LazyConvTranspose2d"),
    *("DepthwiseConv2d", "PointwiseConv2d", "SpatiallySeparableConv2d", "models.InvertedResidual"),
}


def test_what_is_left_to_the_night_is_among_the_cases() -> None:
    assert {row for _, row in CASES} >= FORMS and {one for case in CASES for one in case} >= LONG


def _case(name: str, row: str) -> Any:
    marks = [pytest.mark.nightly] if re.fullmatch(OTHER_AXES, row) or {name, row} & (LONG | FORMS) else []
    return pytest.param(name, row, id=f"{name} | {row}", marks=marks)


@pytest.mark.parametrize(("name", "row_name"), [_case(*one) for one in CASES])
def test_a_layer_gives_what_its_twin_of_torchs_gives(name: str, row_name: str) -> None:
    case, row = SITUATIONS[name], ROWS[row_name]
    native_layer, torch_layer, x = pair(row)
    if row.twin is not None and case.by != "torch":  # sums of sums, some of which are zero but for rounding
        native_layer, torch_layer, x = native_layer.double(), torch_layer.double(), x.double()
    with dispatch.prefer(row.prefer):
        if case.why_refused(row_name):
            for module in (torch_layer,) if row.own else (torch_layer, native_layer):
                with pytest.raises(RuntimeError):
                    case.run(module, x.clone(memory_format=torch.preserve_format))
            return
        expected = case.run(torch_layer, x.clone(memory_format=torch.preserve_format))
        with watched() as operators:
            got = case.run(native_layer, x.clone(memory_format=torch.preserve_format))
    exact = case.exact and (name, row_name) not in ROUNDED
    same(got, expected, row, exact)
    same(state(native_layer), state(torch_layer), row, exact, "state")
    if case.by == "torch":
        assert operators == set()
    elif row.kernel:
        assert operators


def state(layer: torch.nn.Module) -> list[Tensor]:
    return list(layer.state_dict().values())


# ---------------------------------------------------------------------------------- situations of models, one test each

NETS: dict[str, str] = {}  # each, and whose operators compute


def of_models(name: str, by: str = "torch") -> Callable[[Any], Any]:
    assert name not in NETS | SITUATIONS.keys()
    NETS[name] = by
    return lambda test: test


def net(n: Any) -> torch.nn.Module:
    """One layer of each family that changes nothing in place."""
    return n.Sequential(
        *(
            n.Conv2d(3, 8, 3, padding=1),
            n.BatchNorm2d(8),
            n.ReLU(),
            n.Conv2d(8, 8, 5, padding=2, groups=8),
            n.GroupNorm(2, 8),
        ),
        *(
            n.MaxPool2d(2),
            n.Conv2d(8, 8, 1),
            n.InstanceNorm2d(8, affine=True),
            n.AvgPool2d(3, 1, 1),
            n.LocalResponseNorm(3),
        ),
        *(
            n.ConvTranspose2d(8, 4, 2, 2),
            n.AdaptiveAvgPool2d(4),
            n.AdaptiveMaxPool2d(2),
            n.Flatten(),
            n.LayerNorm(16),
            n.Linear(16, 3),
        ),
    )


def twins(
    make: Callable[[Any], torch.nn.Module] = net, train: bool = False
) -> tuple[torch.nn.Module, torch.nn.Module, Tensor]:
    native_model, torch_model = make(nn), make(torch.nn)
    for name, buffer in native_model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    torch_model.load_state_dict(native_model.state_dict())
    return native_model.train(train), torch_model.train(train), torch.randn(4, 3, 12, 12)


def close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def operators_of(graph: torch.fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


of_models("`torch.compile`, forward and backward, for any batch size", by="striate")


@pytest.mark.nightly
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_models_give_what_torchs_give_for_any_batch_size(backend: str) -> None:
    native_model, torch_model, x = twins(train=True)
    compiled = torch.compile(native_model, backend=backend, fullgraph=True, dynamic=True)
    for batch in (x, doubled(x)):
        with watched() as operators:
            got = learned(compiled, batch)
        close(got, learned(torch_model, batch))
        assert {"striate::norm", "striate::max_pool_offset", "striate::norm_backward"} <= operators
    close(list(native_model.state_dict().values()), list(torch_model.state_dict().values()))


of_models("`torch.compile` of function transforms", by="torch")

TRANSFORMS: dict[str, Callable[[torch.nn.Module], Callable[[Tensor], Any]]] = {
    "vmap": lambda m: lambda x: func.vmap(m)(torch.stack([x, 2 * x])),
    "grad": lambda m: lambda x: func.grad(lambda s: m(s).square().sum())(x),
    "grad of parameters": lambda m: (
        lambda x: func.grad(lambda p: func.functional_call(m, p, (x,)).square().sum())(dict(m.named_parameters()))
    ),
    "per-sample gradients": lambda m: (
        lambda x: func.vmap(
            func.grad(lambda p, s: func.functional_call(m, p, (s[None],)).square().sum()), in_dims=(None, 0)
        )(dict(m.named_parameters()), x)
    ),
    "jacrev": lambda m: lambda x: func.jacrev(lambda t: m(x + t).sum(0))(torch.zeros(1)),
    "jvp": lambda m: lambda x: func.jvp(m, (x,), (torch.ones_like(x),)),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.nightly] * (n in ("grad", "jacrev", "jvp"))) for n in TRANSFORMS],
)
def test_compiled_function_transforms_give_what_torchs_give(name: str) -> None:
    def make(n: Any) -> torch.nn.Module:
        norms = [] if name == "jvp" else [n.GroupNorm(2, 4), n.BatchNorm2d(4)]  # torch's own cannot be compiled with it
        return n.Sequential(n.Conv2d(3, 4, 3), *norms, n.AvgPool2d(2), n.Flatten())

    native_model, torch_model, x = twins(make)
    compiled = torch.compile(TRANSFORMS[name](native_model), backend="aot_eager")
    close(compiled(x), TRANSFORMS[name](torch_model)(x))


@pytest.mark.parametrize("name", ["vmap", "grad", "per-sample gradients"])
def test_compiled_function_transforms_of_max_pooling_give_what_torchs_give(name: str) -> None:
    native_model, torch_model, x = twins(
        lambda n: n.Sequential(n.Conv2d(3, 4, 3), n.MaxPool2d(3, 2, 1), n.AdaptiveMaxPool2d(2), n.Flatten())
    )
    close(torch.compile(TRANSFORMS[name](native_model), backend="aot_eager")(x), TRANSFORMS[name](torch_model)(x))


def test_a_function_transform_of_a_compiled_model_gives_what_torchs_gives() -> None:
    native_model, torch_model, x = twins(
        lambda n: n.Sequential(n.Conv2d(3, 4, 3), n.BatchNorm2d(4), n.MaxPool2d(2), n.Flatten())
    )
    compiled = torch.compile(native_model, backend="eager")
    close(func.vmap(compiled)(torch.stack([x, 2 * x])), func.vmap(torch_model)(torch.stack([x, 2 * x])))


of_models("`FlopCounterMode` round a compiled model", by="striate")


ALONE = ("depthwise 7×7", "3×3", "5×5")


@pytest.mark.parametrize("name", ["net", *(pytest.param(name, marks=pytest.mark.nightly) for name in ALONE)])
def test_flop_counters_round_compiled_models_count_what_they_count_of_torchs(name: str) -> None:
    layers: dict[str, tuple[Callable[[Any], torch.nn.Module], tuple[int, ...]]] = {
        "net": (net, (4, 3, 12, 12)),
        "depthwise 7×7": (lambda n: n.Conv2d(32, 32, 7, padding=3, groups=32), (2, 32, 28, 28)),
        "3×3": (lambda n: n.Conv2d(64, 64, 3, padding=1), (2, 64, 56, 56)),
        "5×5": (lambda n: n.Conv2d(1, 20, 5, padding=2), (32, 1, 28, 28)),
    }
    make, shape = layers[name]
    counts = []
    for n in (nn, torch.nn):
        model = make(n)
        for run in (model, torch.compile(model, backend="aot_eager")):
            x = torch.randn(shape, requires_grad=True)
            run(x).sum().backward()  # the first call compiles
            with FlopCounterMode(display=False) as both:
                run(x).sum().backward()
            with FlopCounterMode(display=False) as forward:
                y = run(x).sum()
            with FlopCounterMode(display=False) as backward:
                y.backward()
            counts.append([c.get_total_flops() for c in (both, forward, backward)])
    assert counts[0] == counts[1] == counts[2] == counts[3] and min(counts[0]) > 0


of_models("`torch.export`")


class Together(torch.nn.Module):
    """Many layers, each with an input of its own."""

    def __init__(self, layers: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict({f"layer{k}": layer for k, layer in enumerate(layers.values())})

    def forward(self, *inputs: Tensor) -> list[Any]:
        return [layer(x) for layer, x in zip(self.layers.values(), inputs, strict=True)]


def together(names: list[str]) -> tuple[Together, Together, tuple[Tensor, ...]]:
    pairs = {name: pair(ROWS[name]) for name in names}
    native_model, torch_model = (Together({name: p[k] for name, p in pairs.items()}).eval() for k in (0, 1))
    return native_model, torch_model, tuple(p[2] for p in pairs.values())


def agree(names: list[str], got: Any, expected: Any) -> None:
    for name, a, b in zip(names, got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_every_layer_is_exported_as_torchs_operators() -> None:
    names = [name for name in ROWS if not name.startswith("models.")]
    native_model, torch_model, inputs = together(names)
    program = torch.export.export(native_model, inputs)
    assert not any("striate" in name for name in operators_of(program.graph))
    file = io.BytesIO()
    torch.export.save(program, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue()))
    agree(names, loaded.module()(*inputs), torch_model(*inputs))
    decomposed = program.run_decompositions()
    assert not any("striate" in name for name in operators_of(decomposed.graph))
    agree(names, decomposed.module()(*inputs), torch_model(*inputs))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_models_take_any_batch_size_and_train(strict: bool) -> None:
    native_model, torch_model, x = twins(train=True)
    program = torch.export.export(
        native_model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},), strict=strict
    )
    assert not any("striate" in name for name in operators_of(program.graph))
    close(learned(program.module(), doubled(x)), learned(torch_model, doubled(x)))


of_models("`torch.onnx.export`, the default exporter and `dynamo=False`")


def run_onnx(model: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feeds)]


# What the exporters have no rule for, or a wrong one, for torch's layers and striate's alike: adaptive windows of
# several lengths, a divisor, and, by tracing, the RMS norm.
UNKNOWN_TO_ONNX = {
    True: r"AdaptiveMaxPool[23]d.*|AdaptiveAvgPool3d|AvgPool2d with a divisor",
    False: r"Adaptive(Max|Avg)Pool[23]d( with indices| of one axis)?|AvgPool2d with a divisor|RMSNorm",
}


def to_onnx(model: torch.nn.Module, inputs: tuple[Tensor, ...], dynamo: bool, **more: Any) -> bytes:
    onnx = pytest.importorskip("onnx")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(model, inputs, verbose=False, **more).save(file)
        else:
            torch.onnx.export(model, inputs, file, dynamo=False, **more)
    saved = onnx.load_from_string(file.getvalue())
    assert {node.domain for node in saved.graph.node} <= {"", "pkg.onnxscript.torch_lib.common"}
    return file.getvalue()


NO_SHUFFLE = pytest.mark.xfail(
    reason="torch's exporter by tracing has no operator for channel_shuffle, in torch's layer either", strict=True
)


@pytest.mark.parametrize(
    "dynamo", [pytest.param(True, id="default"), pytest.param(False, id="by tracing", marks=NO_SHUFFLE)]
)
def test_onnx_runtime_gives_the_numbers_of_every_layer(dynamo: bool) -> None:
    names = [
        n
        for n in ROWS
        if not n.startswith("models.") and not re.fullmatch(UNKNOWN_TO_ONNX[dynamo] + "|.* with indices", n)
    ]
    native_model, torch_model, inputs = together(names)
    agree(names, run_onnx(to_onnx(native_model, inputs, dynamo), inputs), torch_model(*inputs))


@pytest.mark.parametrize("dynamo", [True, False], ids=["default", "by tracing"])
def test_onnx_runtime_gives_a_models_numbers_for_any_batch_size(dynamo: bool) -> None:
    def make(n: Any) -> torch.nn.Module:
        whole = nn.GlobalAvgPool2d() if n is nn else _Global(n.AdaptiveAvgPool2d(1), 2)
        layers = [
            n.Conv2d(3, 8, 3, 2),
            n.BatchNorm2d(8),
            n.ReLU(),
            n.MaxPool2d(2),
            n.AdaptiveAvgPool2d(1),
            n.Conv2d(8, 8, 1),
            whole,
        ]
        return n.Sequential(*layers, n.Linear(8, 3))

    native_model, torch_model, x = twins(make)
    sizes: Any = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        if dynamo
        else {"dynamic_axes": {"x": {0: "batch"}}, "input_names": ["x"]}
    )
    file = to_onnx(native_model, (x,), dynamo, **sizes)
    for batch in (x, doubled(x)):
        close(run_onnx(file, (batch,))[0], torch_model(batch).detach())


of_models("models: `torch.jit.trace` with its check, `torch.jit.freeze`, `optimize_for_inference`")


@pytest.mark.parametrize("accelerated", [False, True])
def test_traced_models_compute_as_torchs_and_the_model_stays_native(accelerated: bool) -> None:
    native_model, torch_model, x = twins(train=True)
    if accelerated:
        native_model = striate.accelerate(copy.deepcopy(torch_model))
    classes = [type(m) for m in native_model.modules()]
    traced = torch.jit.trace(native_model.eval(), x)
    assert not any("striate" in kind for kind in kinds(traced.inlined_graph))
    fast = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    for batch in (x, doubled(x)):
        close(traced(batch), torch_model.eval()(batch))
        close(fast(batch), torch_model(batch))
    assert [type(m) for m in native_model.modules()] == classes
    with watched() as operators:
        close(native_model(x), torch_model(x))
    assert operators


of_models(
    "models: `torch.jit.script`; afterwards they compute natively and keep their classes",
    by="torch, afterwards striate",
)


SAME: dict[str, Callable[[], torch.nn.Module]] = {
    "Conv1d, unevenly": lambda: nn.Conv1d(4, 6, 2, 3, "same", 2, groups=2),
    "Conv2d, reflect": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), "same", padding_mode="reflect"),
    "Conv3d, no bias": lambda: nn.Conv3d(4, 6, 3, 2, "same", bias=False),
    "ConvTranspose1d, taps fewer than the stride": lambda: nn.ConvTranspose1d(4, 6, 2, 3, "same", groups=2),
    "ConvTranspose2d, replicate": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, padding_mode="replicate"),
    "ConvTranspose2d, same and reflect": lambda: nn.ConvTranspose2d(
        4, 6, 3, 1, "same", dilation=2, padding_mode="reflect"
    ),
    "ConvTranspose3d, valid": lambda: nn.ConvTranspose3d(4, 6, 2, 2, "valid"),
    "MaxPool1d, places": lambda: nn.MaxPool1d(3, 2, "same", return_indices=True),
    "MaxPool2d, places": lambda: nn.MaxPool2d((3, 2), 2, "same", return_indices=True),
    "MaxPool2d, dilation": lambda: nn.MaxPool2d((3, 2), 2, "same", (1, 2), return_indices=True),
    "MaxPool2d, valid": lambda: nn.MaxPool2d(2, 2, "valid", ceil_mode=True),
    "MaxPool3d": lambda: nn.MaxPool3d(2, 2, "same"),
    "AvgPool1d, inside": lambda: nn.AvgPool1d(3, 2, "same", count_include_pad=False),
    "AvgPool2d, divisor": lambda: nn.AvgPool2d(3, 2, "same", divisor_override=4),
    "AvgPool2d, inside": lambda: nn.AvgPool2d(3, (2, 1), "same", count_include_pad=False),
    "AvgPool3d, valid": lambda: nn.AvgPool3d(2, 2, "valid", ceil_mode=True, count_include_pad=False),
}


@pytest.mark.parametrize("name", SAME)
def test_torchscript_compiles_padding_that_torch_has_not(name: str) -> None:
    layer = SAME[name]()
    x = torch.randn(2, 4, *(7, 6, 5)[: layer.dims])
    x[0, 1].fill_(-torch.inf if "Pool" in name else 0.0)
    scripted = torch.jit.script(layer)
    for given in (x, x[1]):
        torch.testing.assert_close(scripted(given), layer(given))
    torch.testing.assert_close(learned(scripted, x[1:]), learned(layer, x[1:]))


def test_torchscript_gives_a_transposed_convolution_the_size_that_is_asked_for() -> None:
    for padding in (1, "same"):
        layer = nn.ConvTranspose2d(3, 2, 3, 2, padding, padding_mode="circular")
        scripted, x = torch.jit.script(layer), torch.randn(2, 3, 4, 5)
        for size in ([7, 9], [8, 10], [2, 2, 7, 10]):
            torch.testing.assert_close(scripted(x, size), layer(x, size))


@pytest.mark.parametrize("accelerated", [False, True])
def test_scripting_a_model_leaves_it_its_classes_and_kernels(accelerated: bool) -> None:
    native_model, torch_model, x = twins()
    if accelerated:
        native_model = striate.accelerate(copy.deepcopy(torch_model))
    before = [(name, type(m), id(m)) for name, m in native_model.named_modules()]
    scripted = torch.jit.script(native_model)
    close(scripted(x), torch_model(x))
    assert [(name, type(m), id(m)) for name, m in native_model.named_modules()] == before
    with watched() as operators:
        close(native_model(x), torch_model(x))
    assert operators


of_models(
    "models: `torch.fx.symbolic_trace`, `Interpreter`, `Transformer`, `ShapeProp`, cutting features out", by="striate"
)


@pytest.mark.parametrize("name", models.NAMES)
def test_every_model_is_traced_symbolically(name: str) -> None:
    with torch.device("meta"):
        model = models.by_name(name)().eval()
        x = torch.randn({"mlp_bn": (2, 784), "lenet5": (2, 1, 28, 28)}.get(name, (2, 3, 64, 64)))
    traced = torch.fx.symbolic_trace(model)
    assert traced(x).shape == model(x).shape
    ShapeProp(traced).propagate(x)
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    assert output.args[0].meta["tensor_meta"].shape == model(x).shape


def test_interpreters_transformers_and_cut_graphs_compute_the_same() -> None:
    native_model, torch_model, x = twins()
    traced = torch.fx.symbolic_trace(native_model)
    close(torch.fx.Interpreter(traced).run(x), torch_model(x))
    close(torch.fx.Transformer(traced).transform()(x), torch_model(x))
    (pool,) = (node for node in traced.graph.nodes if node.name.startswith("max_pool2d") or node.target == "5")
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    output.replace_input_with(output.args[0], pool)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    close(traced(x), torch_model[:6](x))


of_models("fx passes and fusers that look for torch's classes, after `striate.restore`")


def test_fusers_find_the_layers_of_a_restored_model() -> None:
    from torch.fx.experimental.optimization import fuse
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    native_model, torch_model, x = twins(
        lambda n: n.Sequential(
            n.Conv2d(3, 8, 3), n.BatchNorm2d(8), n.ReLU(), n.Flatten(), n.Linear(800, 5), n.BatchNorm1d(5)
        )
    )
    close(fuse(copy.deepcopy(native_model))(x), torch_model(x))  # nothing is found, and nothing is wrong
    restored = striate.restore(copy.deepcopy(native_model))
    fused = fuse(restored)
    close(fused(x), torch_model(x))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    conv, batch_norm, *between, linear, last_norm = native_model
    folded = torch.nn.Sequential(fuse_conv_bn_eval(conv, batch_norm), *between, fuse_linear_bn_eval(linear, last_norm))
    close(folded(x), torch_model(x))
    assert type(folded[0]) is nn.Conv2d


of_models("quantization, eager and FX, after `striate.restore`")


class Quantizable(torch.nn.Module):
    def __init__(self, n: Any) -> None:
        super().__init__()
        from torch.ao.quantization import DeQuantStub, QuantStub

        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv, self.bn, self.relu = n.Conv2d(3, 8, 3), n.BatchNorm2d(8), n.ReLU()
        self.pool, self.mean, self.flat, self.fc = n.MaxPool2d(2), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.relu(self.bn(self.conv(self.quant(x)))))
        return self.dequant(self.fc(self.flat(self.mean(y))))


@pytest.mark.parametrize("way", ["eager", "eager, trained", "fx"])
@pytest.mark.parametrize("accelerated", [False, True])
def test_a_restored_model_is_quantized_to_the_end(way: str, accelerated: bool) -> None:
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = next(
        e for e in ("x86", "fbgemm", "onednn", "qnnpack") if e in torch.backends.quantized.supported_engines
    )
    try:
        native_model, torch_model, x = twins(Quantizable)
        if accelerated:
            native_model = striate.accelerate(copy.deepcopy(torch_model))
            native_model(x)
        results = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for model in (striate.restore(copy.deepcopy(native_model)), torch_model):
                if way == "fx":
                    mapping = quantization.get_default_qconfig_mapping()
                    prepared = quantize_fx.prepare_fx(model, mapping, (x,))
                    prepared(x)
                    converted = quantize_fx.convert_fx(prepared)
                elif way == "eager":
                    model.qconfig = quantization.get_default_qconfig()
                    fused = quantization.fuse_modules(model, [["conv", "bn", "relu"]])
                    prepared = quantization.prepare(fused)
                    prepared(x)
                    converted = quantization.convert(prepared)
                else:
                    model.train().qconfig = quantization.get_default_qat_qconfig()
                    prepared = quantization.prepare_qat(quantization.fuse_modules_qat(model, [["conv", "bn", "relu"]]))
                    prepared(x).sum().backward()
                    converted = quantization.convert(prepared.eval())
                results.append(converted(x))
                assert any("quantized" in type(m).__module__ for m in converted.modules())
        assert torch.equal(*results) and results[0].abs().max() > 0
        if way != "eager, trained":
            torch.testing.assert_close(results[0], twins_output(native_model, x), rtol=0.1, atol=0.05)
    finally:
        torch.backends.quantized.engine = engine


def twins_output(model: torch.nn.Module, x: Tensor) -> Tensor:
    return model(x).detach()


of_models("counters of multiplications that look classes up, after `striate.restore`")


def test_counters_that_look_classes_up_find_those_of_a_restored_model() -> None:
    def count(model: torch.nn.Module, x: Tensor) -> dict[str, int]:
        rules: dict[type, Callable[[Any, Tensor], int]] = {
            torch.nn.Conv2d: lambda m, y: y.numel() * m.weight[0].numel(),
            torch.nn.BatchNorm2d: lambda m, y: 2 * y.numel(),
            torch.nn.MaxPool2d: lambda m, y: y.numel(),
            torch.nn.Linear: lambda m, y: y.numel() * m.in_features,
        }
        counted: dict[str, int] = {}
        for m in model.modules():
            if type(m) in rules:
                m.register_forward_hook(lambda m, args, y: counted.__setitem__(type(m).__name__, rules[type(m)](m, y)))
        model(x)
        return counted

    native_model, torch_model, x = twins()
    assert count(copy.deepcopy(native_model), x) == {}
    expected = count(copy.deepcopy(torch_model), x)
    assert set(expected) == {"Conv2d", "BatchNorm2d", "MaxPool2d", "Linear"}
    assert count(striate.restore(copy.deepcopy(native_model)), x) == expected
    assert count(striate.restore(striate.accelerate(copy.deepcopy(torch_model))), x) == expected


of_models("`torchinfo.summary`", by="striate")


def test_torchinfo_tells_of_ours_what_it_tells_of_torchs() -> None:
    torchinfo = pytest.importorskip("torchinfo")
    native_model, torch_model, x = twins()
    summaries = [torchinfo.summary(m, input_data=x, verbose=0) for m in (native_model, torch_model)]
    native_summary, torch_summary = summaries
    assert native_summary.total_params == torch_summary.total_params
    assert native_summary.total_mult_adds == torch_summary.total_mult_adds
    assert str(summaries[0]) == str(summaries[1])


of_models("`torch.optim.swa_utils.update_bn`", by="striate")


def test_update_bn_measures_as_it_measures_torchs() -> None:
    native_model, torch_model, x = twins()
    for model in (native_model, torch_model):
        torch.optim.swa_utils.update_bn([x, 2 * x, doubled(x)], model)
    close(list(native_model.state_dict().values()), list(torch_model.state_dict().values()))


of_models("building on the meta device: `torch.device`, `skip_init`, `to_empty`")


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.twin is None])
def test_a_layer_is_built_on_the_meta_device_and_filled(name: str) -> None:
    row = ROWS[name]
    native_layer, _, x = pair(row)
    with torch.device("meta"):
        empty = row.make(nn).train(row.train)
    assert all(t.is_meta for t in itertools.chain(empty.parameters(), empty.buffers()))
    empty(x.to("meta")) if any(torch.nn.parameter.is_lazy(p) for p in empty.parameters()) else None
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(native_layer.state_dict())
    for path, buffer, value in unsaved(native_layer):
        filled.get_submodule(path)._buffers[buffer] = value
    with dispatch.prefer(row.prefer):
        same(filled(x), native_layer(x), row, True)


def test_skip_init_builds_what_torchs_builds() -> None:
    for kind, args in (
        (nn.Conv2d, (3, 4, 3)),
        (nn.ConvTranspose1d, (3, 4, 3)),
        (nn.BatchNorm2d, (4,)),
        (nn.GroupNorm, (2, 4)),
        (nn.LayerNorm, (4,)),
    ):
        layer = torch.nn.utils.skip_init(kind, *args)
        assert type(layer) is kind and all(p.device.type == "cpu" for p in layer.parameters())


of_models("lazy layers whose first call is under a transform, a mode or a tracer")


@pytest.mark.parametrize("name", ["LazyConv1d", "LazyConv2d", "LazyConv3d", "LazyConvTranspose2d"])
def test_lazy_layers_find_their_channels_wherever_they_are_called_first(name: str) -> None:
    x = torch.randn(2, 4, *[6] * int(name[-2]))
    first: dict[str, Callable[[torch.nn.Module], Any]] = {
        "vmap": lambda m: func.vmap(m)(x[None]),
        "a dispatch mode": lambda m: learned_under(Told(), m, x),
        "autocast": lambda m: learned_under(torch.autocast("cpu"), m, x),
        "a wrapping subclass": lambda m: m(Wrapped(x)),
    }
    for where, run in first.items():
        results = []
        for n in (torch.nn, nn):
            layer = getattr(n, name)(6, 3)
            try:
                run(layer)
                results.append((layer.in_channels, tuple(layer.weight.shape), type(layer).__name__))
            except Exception as error:
                results.append(type(error).__name__)
        assert results[0] == results[1], where


def learned_under(context: Any, layer: torch.nn.Module, x: Tensor) -> Any:
    with context:
        return layer(x)


of_models("`DistributedDataParallel`", by="striate")


def test_distributed_data_parallel_gives_the_gradients_of_torchs(tmp_path: Path) -> None:
    native_model, torch_model, x = twins(train=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = [torch.nn.parallel.DistributedDataParallel(m) for m in (native_model, torch_model)]
        with watched() as operators:
            got = learned(wrapped[0], x)
        assert operators
        close(got, learned(wrapped[1], x))
    finally:
        torch.distributed.destroy_process_group()


of_models("taps on inner layers: Grad-CAM, guided backpropagation, activations by name", by="striate")


@pytest.mark.parametrize("accelerated", [False, True])
def test_taps_on_inner_layers_see_what_they_see_in_torchs(accelerated: bool) -> None:
    native_model, torch_model, x = twins()
    if accelerated:
        native_model = striate.accelerate(copy.deepcopy(torch_model))
    seen: list[dict[str, Any]] = []
    for model in (native_model, torch_model):
        recorded: dict[str, Any] = {}
        for name, m in model.named_children():
            m.register_forward_hook(
                lambda m, args, y, name=name, seen_by=recorded: seen_by.__setitem__(
                    f"{name} forward", y.detach().clone()
                )
            )
        model[2].register_full_backward_hook(lambda m, dx, dy: (dx[0].clamp(min=0),))  # guided backpropagation
        model[9].register_full_backward_hook(
            lambda m, dx, dy, seen_by=recorded: seen_by.__setitem__("9 backward", dy[0].clone())
        )
        x = leaf(x)
        model(x)[:, 1].sum().backward()
        seen.append(recorded | {"x": x.grad})
    assert seen[0].keys() == seen[1].keys() and len(seen[0]) == len(list(torch_model)) + 2
    for name in seen[0]:
        torch.testing.assert_close(
            seen[0][name], seen[1][name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


of_models("tensors that torch's layers refuse: masked, nested, sparse, of other types")


REFUSING = [name for name, row in ROWS.items() if not row.own and row.twin is None]


@pytest.mark.parametrize("name", REFUSING)
def test_what_torchs_layers_refuse_ours_refuse(name: str) -> None:
    native_layer, torch_layer, x = pair(ROWS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = {
            "masked": lambda: torch.masked.masked_tensor(x, x > 0),
            "nested": lambda: torch.nested.nested_tensor(list(x)),
            "jagged": lambda: torch.nested.nested_tensor(list(x), layout=torch.jagged),
            "sparse": lambda: x.to_sparse(),
            "whole numbers": lambda: x.long(),
            "booleans": lambda: x > 0,
            "float16 beside float32": lambda: x.half(),
        }
        for kind, make in inputs.items():
            outcomes: list[Any] = []
            for layer in (torch_layer, native_layer):
                try:
                    outcomes.append(tree_map_only(Tensor, lambda t: (type(t).__name__, t.dtype), layer(make())))
                except Exception as error:
                    assert not isinstance(error, AssertionError), (kind, error)  # noqa: PT017
                    outcomes.append(Exception)
            assert outcomes[0] == outcomes[1] or outcomes[0] is Exception, kind


# ------------------------------------------------------------------------------ situations that other files' tests hold

# Situations of striate's layers and of accelerated models of torch's, each with the tests that check it.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "features between the layers of a container: walked over, sliced, hooked later": (
        "drop_in.features_may_be_tapped_sliced_and_hooked",
    ),
    "parts of a container or a block replaced, removed, added": (
        *("drop_in.parts_may_be_replaced_after_accelerate", "container.parts_are_replaced_removed_and_added_as_torchs"),
        *(
            "container.parts_of_residual_blocks_may_be_replaced_by_anything",
            "blocks.parts_of_a_block_are_what_they_are_and_may_be_replaced",
        ),
    ),
    "hooks of every kind on single layers, set before or after `accelerate`; global hooks": (
        *("drop_in.hooks_on_every_relu_see_and_do_what_they_do_in_torchs", "drop_in.global_hooks_see_every_call"),
        *("container.a_hook_on_any_neighbour_gives_torchs_results_and_sharing_is_back_without_it",),
        *("container.hooks_inside_residual_blocks_are_called_as_torchs",),
    ),
    "a `forward` put in the place of an instance's or a class's": (
        *(
            "container.a_layer_with_a_forward_of_its_own_is_called",
            "container.a_class_that_got_another_forward_is_called",
        ),
    ),
    "`convert_sync_batchnorm`, `fuse_conv_bn_eval`": ("drop_in.converters_of_torchs_find_norms_and_activations_apart",),
    "subclasses of `Sequential` that have its `forward`, copied and pickled": (
        *("drop_in.subclasses_of_sequential_share_and_stay_what_they_are",),
        *("container.copies_and_pickles_share_and_compute_as_the_original",),
    ),
    "`accelerate` and back: objects, classes, storages, strides": (
        *("memory_format.parameters_and_buffers_are_the_same_memory_and_restore_leaves_all_as_it_was",),
        *("drop_in.a_round_trip_leaves_state_outputs_and_classes_as_they_were",),
    ),
    "`share_memory()`, and another process that writes": (
        "memory_format.another_processs_writes_to_shared_memory_are_seen",
    ),
    "parameters tied by `.data`, in a flat buffer, in memory of numpy's or of a file": (
        *(
            "memory_format.parameters_that_are_tied_by_data_stay_tied",
            "memory_format.views_of_a_flat_buffer_stay_views",
        ),
        *("memory_format.weights_in_memory_of_numpys_and_of_a_file_stay_there",),
    ),
    "`DistributedDataParallel` inside and outside of `accelerate`": (
        "memory_format.distributed_data_parallel_gets_the_gradients",
    ),
    "optimizers' momenta, plain, foreach and fused, across `accelerate`": (
        "memory_format.accelerate_between_steps_keeps_momenta",
    ),
    "`LBFGS`, `parameters_to_vector`, safetensors": (
        *("memory_format.optimizers_and_functions_that_flatten_parameters_take_them",),
        *("memory_format.safetensors_saves_an_accelerated_model",),
        *("memory_format.locally_connected_layers_are_saved_by_safetensors_and_laid_in_one_vector",),
    ),
    "`view` of what a layer gives; its memory format": (
        *("memory_format.outputs_can_be_viewed_and_gradients_have_the_parameters_strides",),
        *("memory_format.a_layer_gives_the_memory_format_that_torchs_gives",),
    ),
    "`accelerate(model, memory_format=torch.channels_last)`": (
        "memory_format.convolutions_give_channels_last_where_that_is_asked_for",
    ),
    "timm's layers and networks, and classes given to `striate.nn.adapt`": (
        *("adapters.exact_instances_get_the_class_and_theirs_back", "adapters.a_layer_of_timms_computes_as_timms"),
        *("adapters.networks_of_timms_are_accelerated_and_restored",),
    ),
}
NETS |= dict.fromkeys(ELSEWHERE, "striate")


def test_what_other_files_hold_is_there() -> None:
    for tests in ELSEWHERE.values():
        for where in tests:
            file, name = where.split(".")
            assert f"\ndef test_{name}(" in (Path(__file__).parent / f"test_{file}.py").read_text(), where


# ------------------------------------------------------------------------------------------------------------ the guide


def test_the_guide_has_a_row_for_each_situation_and_no_other() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", GUIDE.read_text(), re.MULTILINE)
    documented = [(name, by) for name, by in rows if name not in ("with", "---") and by not in ("computed by",)]
    expected = {name: case.by for name, case in SITUATIONS.items()} | NETS
    assert sorted({name for name, _ in documented} ^ set(expected)) == []
    assert [(name, by) for name, by in documented if by != expected[name]] == []
    assert len(documented) == len(expected)
