"""Frozen models compute the same as their models, for any batch, in any thread, loaded from a file; they refuse
anything else.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import math
import pickle
import re
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Variable
from torch.nn.modules.batchnorm import _BatchNorm

import striate
import striate.nn as SN
from striate import models, tensorfile
from striate.deploy import bounds
from striate.deploy.bounds import measurements
from striate.deploy.file import FORMAT, decode, encode
from striate.deploy.freeze import ERROR, Frozen, freeze, load
from striate.deploy.frozen import describe_operator
from striate.deploy.operators import LOWERINGS, base_of, operator_of
from striate.errors import ArgumentError, ArgumentTypeError, CheckpointError, DtypeError, ShapeError
from striate.graph.optable import TABLE
from striate.ops import fused
from striate.ops.activation import NAMES, Activation, activated
from striate.ops.conv import NUMBERS
from striate.ops.dispatch import prefer
from striate.ops.fused import FusedConv, FusedLinear
from striate.ops.layout import FORMATS
from striate.ops.precision import precision
from striate.reference import conv as reference

nn = torch.nn
inf, nan = math.inf, math.nan


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def calibrated(model: Any, *shape: int) -> Any:
    """The model in training mode, its norms with statistics of random inputs and with weights as after training.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    with torch.no_grad():
        for m in norms:
            m.momentum = 1.0
            if m.weight is not None:
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(0, 0.3)
        if norms:
            model.train()(torch.randn(8, *shape))
    return model


def made(name: str) -> Any:
    """A model of striate's by name, with smaller linear layers, which hold most of some models' weights."""
    model = models.NAMES[name](classes=10) if name in ("alexnet", "vgg11_bn") else models.NAMES[name]()
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear) and 4096 in (m.in_features, m.out_features)]:
        narrow = [64 if n == 4096 else n for n in (layer.in_features, layer.out_features)]
        layer.__init__(*narrow)
    return model


def leaves(output: Any) -> list[Any]:
    if output is None or isinstance(output, Tensor):
        return [output]
    return [x for part in (output.values() if isinstance(output, dict) else output) for x in leaves(part)]


def close(expected: Tensor, got: Tensor) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert not got.requires_grad and not got.is_inference()
    if expected.is_floating_point() and expected.numel():
        size = expected.double().square().mean().sqrt()
        assert size > 1e-6, "an output of zeros tests nothing"
        assert (expected.double() - got.double()).abs().max() <= ERROR * size
    else:
        assert torch.equal(expected, got)


def checked(model: Any, *inputs: Tensor, batches: tuple[int, ...] = (1, 2, 5)) -> Frozen:
    """Calls freeze and checks what holds for every call: model and inputs are unchanged, and the outputs are the same
    for any batch.
    """
    state = {name: x.clone() for name, x in model.state_dict().items()}
    given, training = [x.clone() for x in inputs], model.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze(model, inputs)
    assert model.training is training and all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    evaluated = copy.deepcopy(model).eval()
    graph = frozen._executable.program
    free = any(isinstance(n, str) for node in graph.inputs for n in node.shape or ())
    for size in batches if free else (len(inputs[0]),):
        mine = [
            torch.randn(size, *x.shape[1:]) if x.is_floating_point() else x[:1].repeat(size, *[1] * (x.dim() - 1))
            for x in inputs
        ]
        before = [x.clone() for x in mine]
        with torch.no_grad():
            expected = leaves(evaluated(*(x.clone() for x in mine)))
        got = leaves(frozen(*mine))
        assert len(got) == len(expected)
        for a, b in zip(expected, got, strict=True):
            assert (a is None) is (b is None)
            if a is not None:
                close(a, b)
        assert all(torch.equal(a, b) for a, b in zip(mine, before, strict=True))
        assert all(a is b or torch.equal(a, b) for a, b in zip(leaves(frozen(*mine)), got, strict=True)), (
            "a second call gives the same bits"
        )
    assert all(torch.equal(a, b) for a, b in zip(inputs, given, strict=True))
    return frozen


def operators(frozen: Frozen) -> list[str]:
    return [describe_operator(node) for node in frozen._executable.program.nodes]


class Called(nn.Module):
    """Layers by name, called by ``call``."""

    def __init__(self, call: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        return self.call(self, *inputs)


def text_of(error: type, call: Callable[[], Any]) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


IMAGE = (2, 4, 9, 9)

# --------------------------------------------------------------------------------------------------------- whole models

INPUTS = {"lenet5": (1, 28, 28), "mlp_bn": (784,), "cnn_bn": (3, 16, 16), "alexnet": (3, 63, 63)}
FUSED = {  # operators left, by their names
    "lenet5": ["conv + relu", "max_pool2d", "conv + relu", "max_pool2d", "flatten", "linear + relu", "linear"],
    "mlp_bn": ["linear + relu", "linear"],
    "cnn_bn": ["conv + relu", "max_pool2d"] * 2,
    "resnet18": [
        *("conv + relu", "max_pool2d"),
        *["conv + relu", "conv + sum + relu"] * 2,
        *["conv + relu", "conv", "conv + sum + relu", "conv + relu", "conv + sum + relu"] * 3,
        *("adaptive_avg_pool2d", "flatten", "linear"),
    ],
    "mobilenet_v1": ["conv + relu"] * 27 + ["adaptive_avg_pool2d", "flatten", "linear"],
}


LARGE = {"convnext_tiny", "resnet50", "vgg11_bn", "mobilenet_v2"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.nightly] * (n in LARGE)) for n in models.NAMES])
def test_every_model_of_striate_is_the_same_frozen(name: str) -> None:
    shape = INPUTS.get(name, (3, 32, 32))
    frozen = checked(calibrated(made(name), *shape), torch.randn(2, *shape))
    if name in FUSED:
        assert sorted(operators(frozen)) == sorted(FUSED[name])
    assert frozen.difference <= ERROR and not [
        what for what in operators(frozen) if "norm" in what and name != "convnext_tiny"
    ]


def test_an_accelerated_model_is_the_same_frozen() -> None:
    model = calibrated(models.NAMES["resnet_cifar"](), 3, 16, 16)
    checked(striate.accelerate(model), torch.randn(2, 3, 16, 16))


def test_a_clamp_behind_max_pooling_is_the_convolutions() -> None:
    frozen = checked(striate.accelerate(models.NAMES["lenet5"]()), torch.randn(2, 1, 28, 28))
    assert operators(frozen) == ["conv + relu", "max_pool2d"] * 2 + ["flatten", "linear + relu", "linear"]
    dilated = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2, dilation=2), torch.nn.ReLU())
    assert operators(checked(dilated, torch.randn(2, 3, 9, 9))) == ["conv", "max_pool2d", "relu"]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (F.leaky_relu, "leaky_relu 0.01"),
        (lambda y: F.leaky_relu_(y, 1.5), "leaky_relu 1.5"),
        (F.silu, "silu"),
        (lambda y: F.silu(y, inplace=True), "silu"),
        (F.gelu, "gelu"),
        (lambda y: F.gelu(y, approximate="tanh"), "gelu_tanh"),
        (F.hardswish, "hardswish"),
        (lambda y: F.hardtanh(y, -0.5, 0.25), "clamp -0.5 to 0.25"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("method", ["onednn", "direct", "implicit_gemm", None])
def test_activations_are_the_layers_before_them(
    activation: Callable[[Tensor], Tensor], name: str, method: str | None, tmp_path: Path
) -> None:
    def call(m: Any, x: Tensor) -> Tensor:
        y = activation(m.b(activation(m.a(x))) + x)
        return activation(m.l(y.flatten(1)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    with prefer(method) if method else contextlib.nullcontext():
        frozen = checked(Called(call, **convs(2), l=nn.Linear(324, 300)), torch.randn(IMAGE))
        assert operators(frozen) == [f"conv + {name}", f"conv + sum + {name}", "flatten", f"linear + {name}"]
        assert f"conv + sum + {name} " in str(frozen)
        frozen.save(tmp_path / "model.safetensors")
        x = torch.randn(3, *IMAGE[1:])
        assert torch.equal(load(tmp_path / "model.safetensors")(x), frozen(x))


def test_only_a_clamp_moves_before_a_pooling() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.SiLU())
    assert operators(checked(model, torch.randn(2, 3, 9, 9))) == ["conv", "max_pool2d", "silu"]


@pytest.mark.parametrize("size", [1, 3])
def test_an_example_of_any_batch_gives_a_model_for_any_batch(size: int) -> None:
    frozen = checked(models.NAMES["lenet5"](), torch.randn(size, 1, 28, 28))
    program = frozen._executable.program
    assert program.inputs[0].shape == ("N", 1, 28, 28) and program.example == {"N": size}


@pytest.mark.parametrize("name", ["lenet5", "cnn_bn"])
def test_an_empty_batch_passes(name: str) -> None:
    frozen = freeze(models.NAMES[name](), torch.randn(2, *INPUTS[name]))
    assert frozen(torch.empty(0, *INPUTS[name])).shape[0] == 0


# --------------------------------------------------------------------------------------------------------------- graphs


def conv(channels: int = 4, filters: int = 4, size: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, size, padding=size // 2, **more)


def convs(count: int) -> dict[str, Any]:
    return {name: conv() for name in "abcdef"[:count]}


GRAPHS: dict[str, tuple[Callable[..., Any], dict[str, Any], list[str]]] = {
    "a residual": (lambda m, x: (m.b(m.a(x).relu()) + x).relu(), convs(2), ["conv + relu", "conv + sum + relu"]),
    "a sum the other way round": (lambda m, x: x + m.a(x), convs(1), ["conv + sum"]),
    "a residual of two convolutions": (lambda m, x: (m.a(x) + m.b(x)).relu(), convs(2), ["conv", "conv + sum + relu"]),
    "a residual that is used again": (
        lambda m, x: (lambda r: m.c((m.b(r) + r).relu()) + r * 2)(m.a(x).relu()),
        convs(3),
        ["conv + relu", "conv + sum + relu", "mul", "conv + sum"],
    ),
    "a residual that an output is": (
        lambda m, x: (lambda r: (m.b(r) + r, r))(m.a(x)),
        convs(2),
        ["conv", "conv + sum"],
    ),
    "a residual that a view of lives on": (
        lambda m, x: (lambda r: m.c(m.b(r) + r).flatten(1) + r.flatten(1))(m.a(x)),
        convs(3),
        ["conv", "conv + sum", "conv", "flatten", "flatten", "add"],
    ),
    "a sum of a value with itself": (lambda m, x: (lambda y: y + y)(m.a(x)), convs(1), ["conv", "add"]),
    "a convolution of its own residual": (
        lambda m, x: (lambda y: m.b(y) + y)(m.a(x).relu()).relu(),
        convs(2),
        ["conv + relu", "conv + sum + relu"],
    ),
    "a convolution with two users": (lambda m, x: (lambda y: y.relu() - y)(m.a(x)), convs(1), ["conv", "relu", "sub"]),
    "a sum that has more users": (
        lambda m, x: (lambda y: y.relu() + 2 * y)(m.a(x) + x),
        convs(1),
        ["conv + sum", "relu", "mul", "add"],
    ),
    "a broadcast sum": (lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), convs(1), ["conv", "mean", "add"]),
    "a sum with a number": (lambda m, x: m.a(x) + 1.5, convs(1), ["conv", "add"]),
    "a sum with a factor": (lambda m, x: torch.add(m.a(x), x, alpha=2), convs(1), ["conv", "add"]),
    "a sum with another type": (lambda m, x: m.a(x) + x.double(), convs(1), ["conv", "to", "add"]),
    "relu on both sides of a sum": (
        lambda m, x: (m.a(x).relu() + m.b(x).relu()).relu(),
        convs(2),
        ["conv + relu", "conv + relu", "add", "relu"],
    ),
    "branches that meet": (
        lambda m, x: m.c(torch.cat([m.a(x).relu(), m.b(x)], 1)[:, 2:6]),
        convs(3),
        ["conv + relu", "conv", "cat", "slice", "slice", "conv"],
    ),
    "a layer called twice": (
        lambda m, x: m.b(m.a(m.a(x).relu()).relu()),
        convs(2),
        ["conv + relu", "conv + relu", "conv"],
    ),
    "a layer called twice, once before a norm": (
        lambda m, x: m.bn(m.a(m.a(x))),
        {"a": conv(), "bn": nn.BatchNorm2d(4)},
        ["conv", "conv"],
    ),
    "pre-activation": (
        lambda m, x: x + m.b(m.n2(m.a(m.n1(x).relu())).relu()),
        {**convs(2), "n1": nn.BatchNorm2d(4), "n2": nn.BatchNorm2d(4)},
        ["batch_norm + relu", "conv + relu", "conv + sum"],
    ),
    "a norm that takes in a sum": (
        lambda m, x: (m.bn(x) + m.a(x)).relu(),
        {"a": conv(), "bn": nn.BatchNorm2d(4)},
        ["conv", "batch_norm + sum + relu"],
    ),
    "a norm behind a norm": (
        lambda m, x: m.n2(m.n1(m.a(x))),
        {"a": conv(bias=False), "n1": nn.BatchNorm2d(4), "n2": nn.BatchNorm2d(4, affine=False)},
        ["conv"],
    ),
    "a convolution whose norm is not alone": (
        lambda m, x: (lambda y: m.bn(y) - y)(m.a(x)),
        {"a": conv(), "bn": nn.BatchNorm2d(4)},
        ["conv", "batch_norm", "sub"],
    ),
    "norms that measure the batch": (
        lambda m, x: m.bn(m.a(x)),
        {"a": conv(), "bn": nn.BatchNorm2d(4, track_running_stats=False)},
        ["conv", "batch_norm"],
    ),
    "relu6": (lambda m, x: F.relu6(m.a(5 * x)), convs(1), ["mul", "conv + relu6"]),
    "hardtanh": (lambda m, x: F.hardtanh(m.a(x), -0.5, 0.25), convs(1), ["conv + clamp -0.5 to 0.25"]),
    "clamps with one bound": (
        lambda m, x: m.b(m.a(x).clamp(max=0.5)).clamp_min(-0.25),
        convs(2),
        ["conv + clamp None to 0.5", "conv + clamp -0.25 to None"],
    ),
    "a sum and two bounds": (lambda m, x: (m.a(x) + x).clamp(-0.5, 0.5), convs(1), ["conv + sum + clamp -0.5 to 0.5"]),
    "a clamp behind a clamp": (lambda m, x: F.relu6(m.a(x).relu()), convs(1), ["conv + relu", "relu6"]),
    "activations that are left": (
        lambda m, x: F.silu(m.b(F.elu(m.a(x)))) * torch.sigmoid(x),
        convs(2),
        ["conv", "elu", "conv + silu", "sigmoid", "mul"],
    ),
    "dropout and identities": (
        lambda m, x: F.dropout2d(m.i(F.dropout(m.a(x), 0.5, m.training)), 0.5, m.training).contiguous().relu(),
        {"a": conv(), "i": nn.Identity()},
        ["conv + relu"],
    ),
    "in place": (
        lambda m, x: m.b(F.relu(m.a(x).mul_(2), inplace=True)).add_(1).relu_(),
        convs(2),
        ["conv", "mul", "relu", "conv", "add", "relu"],
    ),
    "in place on what is used later": (
        lambda m, x: (lambda y: (y.relu_(), y + x))(m.a(x)),
        convs(1),
        ["conv + relu", "add"],
    ),
    "a linear layer with a norm": (
        lambda m, x: m.bn(m.l(x.flatten(1))).relu(),
        {"l": nn.Linear(324, 7, bias=False), "bn": nn.BatchNorm1d(7)},
        ["flatten", "linear + relu"],
    ),
    "a linear layer whose norm is on another axis": (
        lambda m, x: m.bn(m.l(x.flatten(2))),
        {"l": nn.Linear(81, 7), "bn": nn.BatchNorm1d(4)},
        ["flatten", "linear", "batch_norm"],
    ),
    "a transposed convolution with a norm": (
        lambda m, x: m.bn(m.t(x)).relu(),
        {"t": nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), "bn": nn.BatchNorm2d(6)},
        ["conv_transpose2d", "relu"],
    ),
    "weights that the input decides": (
        lambda m, x: F.conv2d(x, m.l(x.mean((0, 2, 3))).view(2, 4, 1, 1)),
        {"l": nn.Linear(4, 8)},
        [],
    ),
    "weights that are computed": (
        lambda m, x: m.w(x) + m.s(x),
        {"w": nn.utils.parametrizations.weight_norm(conv()), "s": nn.utils.parametrizations.spectral_norm(conv())},
        ["conv", "conv + sum"],
    ),
    "sizes of the input": (lambda m, x: m.a(x).view(x.shape[0], -1) * x.shape[0], convs(1), []),
    "outputs that are copies": (
        lambda m, x: (lambda y: (y, y.clone(), y + 0))(m.a(x)),
        convs(1),
        ["conv", "clone", "add"],
    ),
    "an output that is the input": (lambda m, x: (x, m.a(x)), convs(1), ["conv"]),
    "an output that is a constant": (
        lambda m, x: (m.a.bias, m.a(x).flatten(1)),
        convs(1),
        ["conv", "flatten", "clone"],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_keep_their_values(name: str) -> None:
    call, layers, left = GRAPHS[name]
    frozen = checked(calibrated(Called(call, **copy.deepcopy(layers)), *IMAGE[1:]), torch.randn(IMAGE))
    if left:
        assert sorted(operators(frozen)) == sorted(left)


def test_two_inputs_and_named_outputs() -> None:
    model = Called(lambda m, x, y: {"sum": m.a(x) + m.b(y), "parts": [m.a(x), (y.mean((1, 2, 3)),)]}, **convs(2))
    frozen = checked(model, torch.randn(IMAGE), torch.randn(IMAGE))
    got = frozen(torch.randn(3, 4, 9, 9), torch.randn(3, 4, 9, 9))
    assert list(got) == ["sum", "parts"] and type(got["parts"]) is list and type(got["parts"][1]) is tuple


def test_whole_numbers_go_in_and_come_out() -> None:
    model = Called(
        lambda m, i: (lambda y: (y.argmax(1), y))(m.l(m.e(i).flatten(1))), e=nn.Embedding(5, 3), l=nn.Linear(6, 4)
    )
    checked(model, torch.tensor([[1, 2], [3, 4]]))


def test_a_model_whose_batch_size_is_fixed_is_frozen_for_that() -> None:
    frozen = checked(Called(lambda m, x: m.a(x).view(2, -1), a=conv()), torch.randn(IMAGE))
    message = text_of(ShapeError, lambda: frozen(torch.randn(3, 4, 9, 9)))
    assert message == (
        "Frozen expects input 0 of shape (2, 4, 9, 9), got (3, 4, 9, 9). Freeze the model with an example of that "
        "shape."
    )


BLOCKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    **{
        f"{kind}{d}d": (getattr(SN, f"{kind}{d}d")(4, 6, 3, padding=1), (4, *[7] * d))
        for kind in ("Conv", "ConvTranspose", "ConvNormAct", "DepthwiseSeparableConv")
        for d in (1, 2, 3)
    },
    **{
        f"{kind}{d}d": (getattr(SN, f"{kind}{d}d")(2), (4, *[6] * d))
        for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool")
        for d in (1, 2, 3)
    },
    "AdaptiveMaxPool2d": (SN.AdaptiveMaxPool2d(2), (4, 7, 7)),
    "AvgPool2d uneven": (SN.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (4, 8, 8)),
    "MaxPool2d same": (SN.MaxPool2d(3, 2, padding="same"), (4, 8, 8)),
    "MaxPool2d indices": (SN.MaxPool2d(2, return_indices=True), (4, 8, 8)),
    "GlobalAvgPool2d": (SN.GlobalAvgPool2d(), (4, 8, 8)),
    "GlobalMaxPool2d": (SN.GlobalMaxPool2d(), (4, 8, 8)),
    "Conv2d same": (SN.Conv2d(4, 5, (2, 3), 2, padding="same"), (4, 8, 7)),
    "Conv2d reflect": (SN.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), (4, 8, 8)),
    "Conv2d circular": (SN.Conv2d(4, 5, 3, padding=1, padding_mode="circular"), (4, 8, 8)),
    "Conv2d of torch, same": (nn.Conv2d(4, 5, 2, padding="same", dilation=3), (4, 8, 8)),
    "Conv2d depthwise": (SN.DepthwiseConv2d(4, 3, 2, multiplier=2), (4, 8, 8)),
    "ConvTranspose2d same": (SN.ConvTranspose2d(4, 5, 3, 2, padding="same"), (4, 8, 8)),
    "ConvTranspose2d circular": (SN.ConvTranspose2d(4, 5, 3, 2, 1, padding_mode="circular"), (4, 8, 8)),
    "Linear": (nn.Linear(8, 3), (4, 8)),
    "BatchNorm2d": (SN.BatchNorm2d(4), (4, 8, 8)),
    "BatchNormAct2d": (SN.BatchNormAct2d(4), (4, 8, 8)),
    "InstanceNorm2d": (SN.InstanceNorm2d(4, affine=True), (4, 8, 8)),
    "GroupNorm": (SN.GroupNorm(2, 4), (4, 8, 8)),
    "LayerNorm": (SN.LayerNorm(8), (4, 8)),
    "LayerNorm2d": (SN.LayerNorm2d(4), (4, 8, 8)),
    "RMSNorm": (SN.RMSNorm(8), (4, 8)),
    "LocalResponseNorm": (SN.LocalResponseNorm(3), (4, 8, 8)),
    "Bottleneck": (SN.Bottleneck(4, 2, 6, padding=1, expand=True), (4, 8, 8)),
    "BlurPool2d": (SN.BlurPool2d(4), (4, 8, 8)),
    "ChannelShuffle": (SN.ChannelShuffle(2), (4, 8, 8)),
    "SqueezeExcite": (SN.SqueezeExcite(4, 2), (4, 8, 8)),
    "SpatiallySeparableConv2d": (SN.SpatiallySeparableConv2d(4, 6, 3), (4, 8, 8)),
    "LocallyConnected2d": (SN.LocallyConnected2d(4, 3, 8, 3), (4, 8, 8)),
    "norm-act-conv": (SN.ConvNormAct2d(4, 6, 3, order="norm-act-conv"), (4, 8, 8)),
    "upsampling": (
        nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelUnshuffle(2), nn.Softmax(1)),
        (4, 8, 8),
    ),
    "activations": (
        nn.Sequential(nn.Hardswish(), nn.Hardsigmoid(), nn.GELU(), nn.PReLU(), nn.Mish(), nn.ELU(), nn.GLU(1)),
        (4, 8, 8),
    ),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_layer_freezes(name: str) -> None:
    layer, shape = BLOCKS[name]
    checked(calibrated(copy.deepcopy(layer), *shape), torch.randn(2, *shape), batches=(1, 3))


# ----------------------------------------------------------------------------------- forms that published networks have


def written(m: Any, x: Any) -> Any:
    y = m.a(x)
    y[:, 0] = 1.0
    y[:, 1].add_(1)
    y[:, 2:3].copy_(x[:, :1])
    y[:, 3].fill_(2.0)
    return y


def masked(m: Any, x: Any) -> Any:
    y = m.a(x)
    y[y < 0] = 0
    return y.masked_fill_(x > 1, -1.0)


def filled(make: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(m: Any, x: Any) -> Any:
        y = make(x)
        y[:, ::2, 1:] = m.a(x)[:, ::2, 1:]
        y[:, 1::2] = 0.5
        y[:, :, 0] = 2
        return y

    return call


def gradients_switched(m: Any, x: Any) -> Any:
    with torch.no_grad():
        y = m.a(x).relu()
        twice = y * 2
    with torch.enable_grad():
        z = m.b(y)
    torch.set_grad_enabled(False)
    return z + twice


def autocast(m: Any, x: Any, **given: Any) -> Any:
    with torch.autocast("cpu", **given):
        y = m.a(x).relu()
    return m.b(y.float())


def regions_within_regions(m: Any, x: Any) -> Any:
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        y = m.a(x)
        y[:, 0] = 1.0
        with torch.no_grad():
            y = m.b(y)
    return y.relu()


def unpooled(m: Any, x: Any) -> Any:
    y, places = F.max_pool2d(m.a(x), 2, return_indices=True)
    return F.max_unpool2d(y, places, 2, output_size=x.shape[2:])


def warped(m: Any, x: Any) -> Any:
    theta = m.a(x).mean(2)[:, :3, :2].reshape(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)


def kept(m: Any, x: Any) -> Any:
    m.seen = m.a(x)  # for whoever looks at it later
    return m.seen.relu()


FOLDS = ""  # fold handles it too
VALUES = "fold expects a model that runs on tensors without values, got "
FORMS: dict[str, tuple[Callable[..., Any], str]] = {
    "detach": (lambda m, x: m.a(x).detach().relu(), FOLDS),
    "detach in place": (lambda m, x: m.a(x).detach_().relu(), FOLDS),
    "data": (lambda m, x: m.a(x).data + m.a.bias.data.view(-1, 1, 1), FOLDS),
    "outputs that are one tensor": (lambda m, x: (lambda y: (y, y.detach()))(m.a(x)), FOLDS),
    "Variable": (lambda m, x: Variable(m.a(x)) + Variable(m.a.bias).view(-1, 1, 1), FOLDS),
    "alias": (lambda m, x: torch.ops.aten.alias(m.a(x)).relu(), FOLDS),
    "a tensor of numbers": (
        lambda m, x: m.a(x) * torch.tensor(2.0) + torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1),
        FOLDS,
    ),
    "a matrix transposed": (
        lambda m, x: m.a(x).flatten(1) @ torch.linspace(-9, 9, 324 * 50).view(50, 324).sin().t(),
        FOLDS,
    ),
    "written into views": (written, FOLDS),
    "written by a mask": (masked, FOLDS),
    "new_zeros": (filled(lambda x: x.new_zeros(x.shape[0], 4, 9, 9)), FOLDS),
    "new_empty": (filled(lambda x: x.new_empty(x.shape)), FOLDS),
    "new_ones and new_full": (
        filled(lambda x: x.new_ones(x.shape[0], 4, 9, 9) + x.new_full((x.shape[0], 1, 1, 1), 3.0)),
        FOLDS,
    ),
    "zeros_like": (filled(torch.zeros_like), FOLDS),
    "empty_like": (filled(torch.empty_like), FOLDS),
    "full_like": (filled(lambda x: torch.full_like(x, 7.0)), FOLDS),
    "zeros": (filled(lambda x: torch.zeros(x.shape[0], 4, 9, 9)), FOLDS),
    "full": (filled(lambda x: torch.full((x.shape[0], 4, 9, 9), 7.0)), FOLDS),
    "arange": (lambda m, x: m.a(x) * torch.arange(1, x.shape[0] + 1).view(-1, 1, 1, 1), FOLDS),
    "one over the batch size": (lambda m, x: m.a(x) * (1 / x.shape[0]) + x.shape[0] ** 2, FOLDS),
    "gradients switched": (gradients_switched, FOLDS),
    "autocast switched off": (functools.partial(autocast, enabled=False), FOLDS),
    "autocast": (functools.partial(autocast, dtype=torch.bfloat16), FOLDS),
    "regions within regions": (regions_within_regions, FOLDS),
    "max_unpool2d": (unpooled, FOLDS),
    "affine_grid and grid_sample": (warped, FOLDS),
    "an attribute set": (kept, FOLDS),
    "None among the outputs": (lambda m, x: {"out": m.a(x), "aux": None}, FOLDS),
    "axes taken apart": (
        lambda m, x: m.a(x).reshape(x.shape[0], 2, 2, 3, 3, 3, 3).permute(0, 1, 3, 5, 2, 4, 6).flatten(1),
        FOLDS,
    ),
    "einsum": (lambda m, x: torch.einsum("bchw,bdhw->bcd", m.a(x), x), FOLDS),
    "roll": (lambda m, x: torch.roll(m.a(x), (1, 2), (2, 3)), FOLDS),
    "unfold and fold": (lambda m, x: F.fold(F.unfold(m.a(x), 3, padding=1), (9, 9), 3, padding=1), FOLDS),
    "pixel_shuffle": (lambda m, x: F.pixel_shuffle(m.a(x), 2), FOLDS),
    "interpolate to another's size": (
        lambda m, x: F.interpolate(F.max_pool2d(m.a(x), 2), size=x.shape[2:], mode="bilinear"),
        FOLDS,
    ),
    "interpolate with antialiasing": (
        lambda m, x: F.interpolate(m.a(x), size=(4, 4), mode="bicubic", antialias=True),
        FOLDS,
    ),
    "interpolate nearest-exact": (lambda m, x: F.interpolate(m.a(x), size=(4, 4), mode="nearest-exact"), FOLDS),
    "attention": (lambda m, x: F.scaled_dot_product_attention(m.a(x), x, x, is_causal=True), FOLDS),
    "cumulative": (lambda m, x: (m.a(x).cumsum(1), m.a(x).cumprod(2), m.a(x).cummax(1)[0]), FOLDS),
    "sorted": (
        lambda m, x: (m.a(x).flatten(1).topk(5)[0], m.a(x).sort(1)[0], m.a(x).argsort(1), m.a(x).kthvalue(2, 1)[0]),
        FOLDS,
    ),
    **{
        f"pad, {mode}": (lambda m, x, mode=mode: F.pad(m.a(x), (1, 2, 1, 0), mode), FOLDS)
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "fft": (
        lambda m, x: torch.fft.irfft2(
            torch.fft.rfft2(m.a(x)) * torch.view_as_complex(m.b.weight[..., :2].contiguous())[0, 0, 0], s=(9, 9)
        ),
        FOLDS,
    ),
    "views that rows alone have": (
        lambda m, x: (
            m.a(x).view(torch.int16).view(torch.float32),
            m.a(x).view_as(x.flatten(1)),
            torch.kron(m.a(x)[0, 0], torch.eye(2)),
            m.a(x).view(-1, 4, 81).mT,
        ),
        FOLDS,
    ),
    "complex numbers": (lambda m, x: torch.complex(m.a(x), x).abs(), FOLDS),
    "where": (lambda m, x: torch.where(m.a(x) > 0, x, 0.0), FOLDS),
    "a mask of infinity": (
        lambda m, x: m.a(x).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(-1),
        FOLDS,
    ),
    "lists of parts": (
        lambda m, x: [*m.a(x).chunk(2, 1), m.a(x).split([1, 3], 1)[1], *m.a(x).unbind(1)[:2]],
        FOLDS,
    ),
    "gather and scatter": (
        lambda m, x: torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1.0) + m.a(x).gather(1, x.argsort(1)),
        FOLDS,
    ),
    "one_hot": (lambda m, x: F.one_hot(m.a(x).argmax(1), 4), FOLDS),
    "distances": (
        lambda m, x: (
            F.cosine_similarity(m.a(x), x),
            torch.cdist(m.a(x).flatten(2), x.flatten(2)),
            F.normalize(m.a(x)),
        ),
        FOLDS,
    ),
    "linear algebra": (lambda m, x: torch.linalg.solve(m.a(x) + 20 * torch.eye(9), x), FOLDS),
    "an LSTM": (lambda m, x: m.lstm(m.a(x).flatten(2))[0], FOLDS),
    "a value for a scalar": (lambda m, x: m.a(x) * x.max().item(), f"{VALUES}DataDependentOutputException"),
    "values that a mask picks": (lambda m, x: x[m.a(x) > 0], f"{VALUES}DynamicOutputShapeException"),
    "a leaky ReLU of random slopes, in evaluation": (lambda m, x: F.rrelu(m.a(x), training=m.training), FOLDS),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_published_networks_freeze_and_keep_in_a_file(name: str, tmp_path: Path) -> None:
    model = Called(FORMS[name][0], **convs(2), lstm=nn.LSTM(81, 5, batch_first=True))
    frozen = checked(model, torch.randn(IMAGE), batches=(1, 3))
    frozen.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    for size in (1, 3):
        x = torch.randn(size, *IMAGE[1:])
        assert all(a is b or torch.equal(a, b) for a, b in zip(leaves(again(x)), leaves(frozen(x)), strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_published_networks_fold_or_are_refused(name: str) -> None:
    call, refused = FORMS[name]
    model = Called(
        lambda m, x: call(m, m.bn(m.first(x))),
        first=conv(),
        bn=nn.BatchNorm2d(4),
        **convs(2),
        lstm=nn.LSTM(81, 5, batch_first=True),
    )
    calibrated(model, *IMAGE[1:]).eval()
    if refused:
        message = text_of(ArgumentError, lambda: striate.fold(model, torch.randn(IMAGE)))
        assert refused in message and re.search(r" \(at test_freeze\.py:\d+\)\. Fold the parts of the model", message)
        return
    folded, report = striate.fold(model, torch.randn(IMAGE))
    assert [entry.action for entry in report.entries] == ["folded into first before it"]
    x = torch.randn(3, *IMAGE[1:])
    with torch.no_grad():
        expected, got = leaves(model(x)), leaves(folded(x))
    for a, b in zip(expected, got, strict=True):
        assert a is b or torch.allclose(b, a, rtol=0, atol=1e-3 * float(a.abs().max()))


# ---------------------------------------------------------------------------------------------------------- edge values


def test_nan_and_infinity_are_the_models_own() -> None:
    model = Called(lambda m, x: m.l(F.relu6(m.b(m.a(x).relu()) + x).flatten(1)).relu(), **convs(2), l=nn.Linear(324, 5))
    frozen = freeze(model, torch.randn(IMAGE))
    x = torch.randn(3, 4, 9, 9)
    x[0, 1, 4, 4], x[1, 2, 3, 3], x[2, 0, 0, 0] = nan, inf, -inf
    with torch.no_grad():
        expected, got = model(x), frozen(x)
    assert (
        expected.isnan().any()
        and torch.equal(expected.isnan(), got.isnan())
        and torch.equal(expected.isinf(), got.isinf())
    )


def apart(m: Any, x: Any) -> Any:
    y = x * 1e20
    return y * y - y.exp() * (x > 0)  # infinity less infinity where x > 0, else infinity


BORN: dict[str, Callable[[Any, Any], Any]] = {  # in a layer's input, its residual, or before a norm or a linear layer
    "before a convolution": lambda m, x: m.a(apart(m, x)).relu(),
    "before a clamp": lambda m, x: F.relu6(m.a(apart(m, x))),
    "in a residual": lambda m, x: (m.a(x) + apart(m, x)).relu(),
    "in a residual with two bounds": lambda m, x: (m.a(x) + apart(m, x)).clamp(-1, 1),
    "behind a layer": lambda m, x: m.b((m.a(x) - 0.5).log() + 0 * m.a(x)).relu(),
    "far before the clamp": lambda m, x: m.b(m.a(F.max_pool2d(apart(m, x), 3, 1, 1)) + x).relu(),
    "before a leaky ReLU": lambda m, x: F.leaky_relu(m.a(apart(m, x))),
    "before SiLU": lambda m, x: F.silu(m.a(apart(m, x))),
    "before GELU": lambda m, x: F.gelu(m.a(apart(m, x))),
    "before GELU by tanh": lambda m, x: F.gelu(m.a(apart(m, x)), approximate="tanh"),
    "before hardswish": lambda m, x: F.hardswish(m.a(apart(m, x))),
    "in a residual before SiLU": lambda m, x: F.silu(m.a(x) + apart(m, x)),
    "in SiLU of an overflow": lambda m, x: m.b(F.silu(m.a(x * 1e18) * 1e18 * 1e18)).relu(),
    "before a linear layer": lambda m, x: m.l(apart(m, x).flatten(1)).relu(),
    "before a norm": lambda m, x: m.bn(apart(m, x) + m.a(x)).relu(),
    "by a quotient": lambda m, x: m.a((x - x) / (x - x).relu() + x).relu(),
    "by an overflow of two layers": lambda m, x: m.b(m.a(m.b(m.a(x * 1e18) * 1e18) * 1e18).relu()).relu(),
}


@pytest.mark.parametrize("method", ["onednn", "torch", "direct", "winograd_2x2", None])
@pytest.mark.parametrize("name", BORN)
def test_nan_that_is_born_inside_is_the_models_own(name: str, method: str | None) -> None:
    layers = {**convs(2), "l": nn.Linear(324, 5), "bn": nn.BatchNorm2d(4)}
    model = Called(BORN[name], **layers).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze(model, torch.randn(IMAGE))
    x = torch.randn(3, 4, 9, 9)
    x[0] = -x[0].abs()
    with torch.no_grad(), prefer(method) if method else contextlib.nullcontext():
        expected, got = model(x), frozen(x)
    assert (
        expected.isnan().any()
        and torch.equal(expected.isnan(), got.isnan())
        and torch.equal(expected.isinf(), got.isinf())
    )


def test_values_are_measured_where_weights_give_no_bound() -> None:
    def measured(call: Callable[..., Any], **layers: Any) -> list[str]:
        program = freeze(Called(call, **layers), torch.randn(IMAGE))._executable.program
        measured, exact = measurements(program)
        assert not exact
        return [base_of(node.op) or node.op for node in program.nodes if node in measured]

    assert measured(lambda m, x: F.relu6(m.b(F.max_pool2d(m.a(x).relu() + x, 2))), **convs(2)) == []
    assert measured(lambda m, x: m.b(m.a(x).exp()), **convs(2)) == [], "a layer without a clamp keeps NaN"
    assert measured(lambda m, x: m.b(m.a(x).exp()).relu(), **convs(2)) == ["exp"]
    assert measured(lambda m, x: m.b(x.view(torch.int32).view(torch.float32)).relu(), **convs(2)) == ["view"]
    assert measured(lambda m, x: m.b(m.a(x).exp().sigmoid()).relu(), **convs(2)) == ["sigmoid"]
    assert measured(lambda m, x: (m.a(x.exp()) + x.log()).relu(), **convs(1)) == ["exp", "log"]
    assert (
        measured(lambda m, x: m.l(torch.cat([x.flatten(1), x.tanh().flatten(1)], 1)).relu(), l=nn.Linear(648, 3)) == []
    )
    deep = [layer for _ in range(60) for layer in (conv(bias=False), nn.ReLU())]
    for layer in deep[::2]:
        layer.weight.data.fill_(1.0)  # 36 times as large each time: 2^5.2
    program = freeze(nn.Sequential(*deep), 1e-30 * torch.rand(IMAGE))._executable.program
    assert sorted(map(program.nodes.index, measurements(program).measured)) == [12, 25, 38, 51]


def test_measuring_goes_through_every_part_of_a_tensor_that_is_too_long_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "PART", 7)
    for at in range(30):
        x = torch.ones(2, 3, 5)
        assert bounds.is_within(x)
        for value in (nan, inf, -inf, -(2.0**33)):
            x.view(-1)[at] = value
            assert not bounds.is_within(x)


def test_what_a_layers_bound_is_of_is_true() -> None:
    """An image of a filter's signs gives the sum of the weights' absolute values, which is the bound."""
    layer = conv(4, 4)
    x = layer.weight.detach()[:1].sign()
    graph = freeze(nn.Sequential(layer, nn.ReLU()), x.expand(2, -1, -1, -1))._executable.program
    gain = layer.weight.detach().abs().sum((1, 2, 3))
    assert float(F.conv2d(x, layer.weight.detach())[0, 0]) == pytest.approx(float(gain[0]), rel=1e-6)
    assert not measurements(graph).measured
    layer.weight.data.mul_(2.0**70)
    graph = freeze(nn.Sequential(layer, nn.ReLU()), 2.0**-70 * x.expand(2, -1, -1, -1))._executable.program
    assert measurements(graph).exact == {graph.nodes[0]}, "2^32 times 2^70 is more than 2^100: torch computes it"


def test_large_values_are_the_models_own_too() -> None:
    model = Called(lambda m, x: m.b(m.a(x).relu()), **convs(2))
    frozen = freeze(model, torch.randn(IMAGE))
    x = 1e15 * torch.randn(IMAGE)
    with torch.no_grad():
        close(model(x), frozen(x))


def test_weights_that_are_not_finite_are_the_models_own() -> None:
    model = Called(lambda m, x: m.a(x).relu(), a=conv())
    model.a.weight.data[0, 0, 0, 0] = nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze(model, torch.randn(IMAGE))
    assert frozen(torch.randn(IMAGE)).isnan().any()


def test_a_norm_that_would_overflow_a_weight_is_left() -> None:
    model = nn.Sequential(conv(bias=False), nn.BatchNorm2d(4))
    model[0].weight.data.mul_(1e30)
    model[1].running_var.fill_(1e-30)
    model[1].weight.data.fill_(1e30)
    model[1].eps = 1e-30
    frozen = freeze(model, 1e-30 * torch.randn(IMAGE))
    assert operators(frozen) == ["conv", "batch_norm"]


def test_inputs_may_lie_in_memory_in_any_order() -> None:
    frozen = freeze(Called(lambda m, x: m.b(m.a(x).relu() + x), **convs(2)), torch.randn(IMAGE))
    x = torch.randn(IMAGE)
    expected = frozen(x)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    wide = torch.randn(2, 6, 11, 11)
    wide[:, 1:5, 1:-1, 1:-1] = x
    for same in (
        x.contiguous(memory_format=torch.channels_last),
        wide[:, 1:5, 1:-1, 1:-1],
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        assert torch.equal(frozen(same), expected)
    row = torch.randn(1, 4, 9, 9)
    assert torch.equal(frozen(row.expand(IMAGE)), frozen(row.repeat(2, 1, 1, 1)))


def test_a_view_that_only_planes_order_has_is_made_in_channels_order() -> None:
    checked(Called(lambda m, x: m.a(x).view(x.shape[0], 2, -1).view(x.shape[0], -1), a=conv()), torch.randn(IMAGE))


def test_autocast_changes_nothing() -> None:
    frozen, x = (
        freeze(Called(lambda m, x: m.l(m.a(x).flatten(1)), a=conv(), l=nn.Linear(324, 3)), torch.randn(IMAGE)),
        torch.randn(IMAGE),
    )
    expected = frozen(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frozen(x), expected)
        assert freeze(conv(), x).difference < 1e-5


def test_strict_precision_is_kept_to() -> None:
    frozen, x = freeze(conv(64, 64), torch.randn(2, 64, 20, 20)), torch.randn(2, 64, 20, 20)
    with precision("strict"):
        strict = frozen.explain()
        assert not [
            name for methods in strict.values() for name, reason in methods if "winograd" in name and reason is None
        ]
        weight, bias = (constant.value for constant in frozen._executable.constants[:2])
        close(F.conv2d(x, weight, bias, padding=1), frozen(x))


# -------------------------------------------------------------------------------------------------------------- threads


def test_eight_threads_at_once_get_the_bits_of_one() -> None:
    model = calibrated(models.NAMES["resnet_cifar"](), 3, 16, 16)
    inputs = [torch.randn(1 + k % 3, 3, 16, 16) for k in range(8)]
    alone, together = (freeze(model, inputs[0]) for _ in range(2))  # the threads find nothing packed but for one shape
    expected = [alone(x) for x in inputs]
    got: list[list[Tensor]] = [[] for _ in inputs]
    start = threading.Barrier(len(inputs))

    def work(k: int) -> None:
        torch.set_num_threads(1)
        start.wait()
        got[k] = [together(inputs[k]) for _ in range(6)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        len(some) == 6 and all(torch.equal(y, one) for y in some) for some, one in zip(got, expected, strict=True)
    )


# ---------------------------------------------------------------------------------------------------------------- files


def small() -> Any:
    layers = (
        conv(bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(100, 3),
    )
    return calibrated(nn.Sequential(*layers), *IMAGE[1:])


def test_a_file_gives_the_same_bits(tmp_path: Path) -> None:
    frozen = freeze(small(), torch.randn(IMAGE))
    frozen.save(tmp_path / "model.safetensors")
    again = load(str(tmp_path / "model.safetensors"))
    for size in (1, 2, 5):
        x = torch.randn(size, *IMAGE[1:])
        assert torch.equal(again(x), frozen(x))
    assert repr(again) == repr(frozen) and again.difference == frozen.difference
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "model.safetensors"]


@pytest.mark.parametrize(
    "name", ["branches that meet", "pre-activation", "sizes of the input", "weights that the input decides", "hardtanh"]
)
def test_graphs_of_every_kind_keep_in_a_file(name: str, tmp_path: Path) -> None:
    call, layers, _ = GRAPHS[name]
    frozen = freeze(calibrated(Called(call, **copy.deepcopy(layers)), *IMAGE[1:]), torch.randn(IMAGE))
    frozen.save(tmp_path / "model.safetensors")
    x = torch.randn(3, *IMAGE[1:])
    assert torch.equal(load(tmp_path / "model.safetensors")(x), frozen(x))


def test_named_outputs_and_values_of_torch_keep_in_a_file(tmp_path: Path) -> None:
    model = Called(lambda m, x, i: {"a": [m.a(x).to(torch.float64), (m.e(i) * -inf,)]}, a=conv(), e=nn.Embedding(3, 2))
    inputs = torch.randn(IMAGE), torch.tensor([0, 2])
    frozen = freeze(model, inputs)
    frozen.save(tmp_path / "model.safetensors")
    got, expected = load(tmp_path / "model.safetensors")(*inputs), frozen(*inputs)
    assert (
        torch.equal(got["a"][0], expected["a"][0])
        and got["a"][0].dtype is torch.float64
        and torch.equal(got["a"][1][0], expected["a"][1][0])
    )


def test_two_convolutions_that_share_a_weight_keep_in_a_file(tmp_path: Path) -> None:
    call, layers, _ = GRAPHS["a layer called twice, once before a norm"]
    frozen = freeze(calibrated(Called(call, **copy.deepcopy(layers)), *IMAGE[1:]), torch.randn(IMAGE))
    frozen.save(tmp_path / "model.safetensors")
    x = torch.randn(IMAGE)
    assert torch.equal(load(tmp_path / "model.safetensors")(x), frozen(x))
    assert list(frozen.explain()) == ["a", "a'"]


def refused(path: Path, got: str, hint: str = "Copy the file afresh, or freeze the model again.") -> None:
    message = text_of(CheckpointError, lambda: load(path))
    assert message == f"load_frozen expects a sound frozen model, got {got}. path: {path}. {hint}"
    assert "\n" not in message


def test_a_file_with_any_bit_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    freeze(nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    sound = path.read_bytes()
    for at in range(0, len(sound), 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        with pytest.raises(CheckpointError, match=r"^load_frozen expects a sound frozen model, got "):
            load(path)
    for cut in (0, 7, 100, len(sound) - 1):
        path.write_bytes(sound[:cut])
        with pytest.raises(CheckpointError, match=r"^load_frozen expects a sound frozen model, got "):
            load(path)


def test_a_missing_file_and_one_of_something_else_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "No such file or directory")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK" + bytes(1000))
    refused(path, "a file of 1002 bytes whose header does not fit in it")
    path.write_bytes(tensorfile.encode({"weight": torch.ones(2)}, {"epoch": 3}))
    refused(path, "a file of something else", "Load a checkpoint with striate.training.load, or freeze its model.")


@functools.cache
def genuine() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return encode(freeze(nn.Sequential(conv(), nn.ReLU(), nn.SiLU()), torch.randn(IMAGE))._executable.program)


def forged(path: Path, **changes: Any) -> None:
    """Writes a file with another graph, whose digests are right."""
    metadata, tensors = (dict(part) for part in genuine())
    for key, change in changes.items():
        metadata[key] = change(metadata[key]) if callable(change) else change
    path.write_bytes(tensorfile.encode(tensors, metadata))


def with_op(name: str) -> Callable[[Any], Any]:
    return lambda nodes: [nodes[0], {**nodes[1], "op": name}]


def test_a_file_with_an_operator_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    args = {"tuple": [{"node": 0}, 0.1, 0.3, True]}
    forged(
        tmp_path / "model.safetensors",
        nodes=lambda nodes: [nodes[0], {**nodes[1], "op": "aten.rrelu.default", "args": args}],
    )
    got = "operator 'aten.rrelu.default', which is not one it runs"
    refused(tmp_path / "model.safetensors", got, "Use the striate and torch it was frozen with.")


def test_a_file_of_a_newer_striate_is_refused(tmp_path: Path) -> None:
    forged(tmp_path / "model.safetensors", frozen=FORMAT + 1)
    got = f"one of format {FORMAT + 1}, where this striate knows up to {FORMAT}"
    refused(tmp_path / "model.safetensors", got, "Use a newer striate.")


def of_format_1(path: Path, method: str = "depthwise", keyword: bool = False, format: int = 1) -> nn.Module:
    """Writes a convolution and a transposed one in the first file format, which names methods. Returns that model in
    torch.
    """
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 1, 3, 3), torch.randn(2)
    pairs = [{"list": [n, n]} for n in (1, 1, 1)]
    first: list[Any] = [
        {"node": 0},
        {"tensor": "weight"},
        {"tensor": "bias"},
        {"list": [4, 5]},
        *pairs,
        2,
        False,
        method,
    ]
    second = [{"node": 1}, {"tensor": "weight"}, None, {"list": [4, 5]}, *pairs, 2, False, "direct"]
    named = {"method": first.pop()} if keyword else {}
    nodes = [
        {
            "op": "striate.conv.default",
            "args": {"tuple": first},
            "kwargs": named,
            "shape": ["N", 2, 4, 5],
            "name": "conv",
        },
        {
            "op": "striate.conv_input.default",
            "args": {"tuple": second},
            "kwargs": {},
            "shape": ["N", 2, 4, 5],
            "name": "conv_input",
        },
    ]
    graph = {
        "inputs": [{"shape": ["N", 2, 4, 5], "dtype": "float32", "name": "input 0"}],
        "nodes": nodes,
        "output": {"node": 2},
        "ranges": {"N": [0, None]},
        "example": {"N": 2},
        "difference": 0.0,
    }
    path.write_bytes(tensorfile.encode({"weight": weight, "bias": bias}, {"frozen": format, **graph}))
    layers = nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.ConvTranspose2d(2, 2, 3, padding=1, groups=2, bias=False)
    model = nn.Sequential(*layers)
    model.load_state_dict({"0.weight": weight, "0.bias": bias, "1.weight": weight})
    return model.requires_grad_(False)


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("method", ["depthwise", "direct", "winograd_4x4", "winograd_2x2"])
def test_a_file_of_format_1_whose_methods_are_names_is_converted(method: str, keyword: bool, tmp_path: Path) -> None:
    path, x = tmp_path / "model.safetensors", torch.randn(3, 2, 4, 5)
    model = of_format_1(path, method, keyword)
    frozen = load(path)
    assert [node.kwargs.get("method", node.args[-1]) for node in frozen._executable.program.nodes] == [
        NUMBERS[method],
        NUMBERS["direct"],
    ]
    torch.testing.assert_close(frozen(x), model(x))
    frozen.save(path)
    assert tensorfile.read(path, lambda *_: None)[1]["frozen"] == FORMAT
    assert torch.equal(load(path)(x), frozen(x))


def test_a_method_of_format_1_that_has_another_name_now_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    of_format_1(path, "unfolded")
    tensors, metadata = tensorfile.read(path)
    assert decode(metadata, tensors).nodes[0].args[-1] == NUMBERS["implicit_gemm"]


def test_a_file_of_format_2_whose_operators_have_their_former_names_is_converted(tmp_path: Path) -> None:
    path, x = tmp_path / "model.safetensors", torch.randn(3, 2, 4, 5)
    model = of_format_1(path)
    load(path).save(path)
    tensors, metadata = tensorfile.read(path)
    conv_node, transposed = metadata["nodes"]
    former = {**transposed, "op": "striate.conv_input.default"}
    path.write_bytes(tensorfile.encode(tensors, {**metadata, "frozen": 2, "nodes": [conv_node, former]}))
    torch.testing.assert_close(load(path)(x), model(x))

    path.write_bytes(tensorfile.encode(tensors, {**metadata, "nodes": [conv_node, former]}))
    refused(
        path,
        "operator 'striate.conv_input.default', which is not one it runs",
        "Use the striate and torch it was frozen with.",
    )


def test_a_file_of_format_3_whose_activations_are_bounds_is_converted(tmp_path: Path) -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.striate.linear(x, torch.ones(3, 5), None, 0, -0.5, 0.5)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Hardtanh(-0.1, 0.2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(75, 6), nn.Hardtanh(-inf, 0.1), nn.Linear(6, 5), Last()).eval()
    path, x = tmp_path / "model.safetensors", torch.randn(3, 4, 9, 9)
    expected = freeze(model, torch.randn(IMAGE))
    expected.save(path)
    tensors, metadata = tensorfile.read(path)
    bounds = iter([(0.0, None), (-0.1, 0.2), (None, 0.1), (None, None)])
    for node in metadata["nodes"]:
        if node["op"].startswith("fused."):
            del node["kwargs"]["activation"]
            node["kwargs"]["low"], node["kwargs"]["high"] = next(bounds)
        elif node["op"] == "striate.linear.default":
            assert node["args"]["tuple"].pop(3) == 0
    path.write_bytes(tensorfile.encode(tensors, {**metadata, "frozen": 3}))
    again = load(path)
    assert operators(again) == operators(expected)
    behind = [name.partition(" + ")[2] for name in operators(again)]
    assert list(filter(None, behind)) == ["relu", "clamp -0.1 to 0.2", "clamp None to 0.1"]
    assert torch.equal(again(x), expected(x))


def test_an_activation_that_no_kernel_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    freeze(nn.Sequential(nn.Linear(3, 4), nn.SiLU()), torch.randn(2, 3)).save(path)
    tensors, metadata = tensorfile.read(path)
    metadata["nodes"][0]["kwargs"]["activation"]["tuple"][0] = "mish"
    path.write_bytes(tensorfile.encode(tensors, metadata))
    refused(path, "activation 'mish' of fused.linear, which is not one it has", "Use the striate it was frozen with.")


@pytest.mark.parametrize("method", ["fft", "torch", ""])
def test_a_file_of_format_1_with_an_unknown_method_is_refused(method: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    of_format_1(path, method)
    refused(
        path,
        f"method {method!r} of striate.conv.default, which is not one it has",
        "Use the striate it was frozen with.",
    )


def test_a_name_is_no_method_in_a_file_of_format_2(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    of_format_1(path, format=2)
    message = text_of(CheckpointError, lambda: load(path))
    assert (
        message.startswith("load_frozen expects a sound frozen model, got a graph that does not run (")
        and "\n" not in message
    )


def test_of_all_operators_only_those_that_compute_may_run() -> None:
    """No writes, no random numbers, none of torch's inner operators, unless the op table lists one by name."""
    found = 0
    every = {tuple(name.partition(".")[0].split("::")) for name in torch._C._dispatch_get_all_op_names()}
    for namespace in ("aten", "striate"):
        for name in sorted(name for of, name in every if of == namespace):
            row, packet = TABLE.get(f"{namespace}.{name}"), getattr(getattr(torch.ops, namespace), name)
            for overload in packet.overloads():
                allowed = operator_of(f"{namespace}.{name}.{overload}")
                if allowed is None:
                    continue
                found += 1
                assert allowed is getattr(packet, overload)
                assert not allowed._schema.is_mutable and (row is None or row.program != "refused"), allowed
                by_name = row is not None and row.program == "runs"
                inner = name.startswith("_") and not name.startswith("__")
                random = torch.Tag.nondeterministic_seeded in allowed.tags
                assert by_name or not (inner or random or name.endswith("_backward") or namespace == "striate"), allowed
    assert found > 1000


def test_each_operator_that_the_table_lists_as_running_runs_and_each_refused_one_does_not() -> None:
    for row in TABLE.values():
        namespace, _, name = row.name.partition(".")
        if row.program != "-":
            packet = getattr(getattr(torch.ops, namespace), name)
            runs = [operator_of(f"{row.name}.{overload}") is not None for overload in packet.overloads()]
            assert any(runs) == (row.program == "runs"), row.name


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",
        "aten.relu_.default",
        "aten.set_.default",
        "aten.rand.default",
        "aten.bernoulli.default",
        "aten.rand_like.default",
        "aten.resize.default",
        "aten.set.source_Tensor",
        "aten.set.source_Storage",
        "aten.to_sparse.default",
        "aten.fbgemm_linear_int8_weight.default",
        "aten.quantized_lstm_cell.default",
        "aten._embedding_bag.default",
        "aten.embedding_dense_backward.default",
        "striate.isa_choose.default",
        "striate.norm_update.default",
        "aten.as_strided.default",
        "aten.nothing.default",
        "aten.relu.nothing",
        "aten.__class__.default",
        "profiler._record_function_enter.default",
        "os.system",
        "__import__",
        "",
    ],
)
def test_a_file_with_an_operator_that_is_not_on_the_list_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    forged(path, nodes=with_op(name))
    refused(path, f"operator {name!r}, which is not one it runs", "Use the striate and torch it was frozen with.")


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": with_op("fused.conv")},
        {"nodes": with_op("aten.conv2d.default")},
        {"nodes": lambda nodes: nodes[::-1]},
        {
            "nodes": lambda nodes: [
                {**nodes[0], "kwargs": {**nodes[0]["kwargs"], "weight": {"tensor": "no such"}}},
                nodes[1],
            ]
        },
        {"nodes": lambda nodes: [{**nodes[0], "kwargs": {**nodes[0]["kwargs"], "weight": {"node": 0}}}, nodes[1]]},
        {"nodes": lambda nodes: [{**nodes[0], "kwargs": {**nodes[0]["kwargs"], "stride": {"list": [0, 0]}}}, nodes[1]]},
        {"nodes": lambda nodes: [nodes[0], {**nodes[1], "args": {"tuple": [{"node": 7}]}}]},
        {"nodes": lambda nodes: [nodes[0], {**nodes[1], "args": {"tuple": [{"node": -1}]}}]},
        {"nodes": 3},
        {"output": {"node": 9}},
        {"inputs": [{"shape": [2, 2], "dtype": "object", "name": "x"}]},
        {"inputs": [{"shape": [2**62, 2**62], "dtype": "float32", "name": "x"}]},
        {"example": {}},
    ],
    ids=lambda given: re.sub(" at 0x[0-9a-f]+", "", repr(given)),  # the same in every process
)
def test_a_file_with_a_graph_that_is_none_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    forged(path, **changes)
    message = text_of(CheckpointError, lambda: load(path))
    assert message.startswith("load_frozen expects a sound frozen model, got a graph that does not run (")
    assert message.endswith(f"). path: {path}. Copy the file afresh, or freeze the model again.")
    assert "\n" not in message


def test_a_name_without_the_formats_ending_is_refused(tmp_path: Path) -> None:
    frozen = freeze(nn.Linear(2, 2), torch.ones(1, 2))
    message = text_of(CheckpointError, lambda: frozen.save(tmp_path / "model.pt"))
    assert message == "save expects a name that ends in .safetensors, got 'model.pt'. Name it model.safetensors."


def test_a_save_that_fails_leaves_the_file_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    frozen = freeze(nn.Linear(2, 2), torch.ones(1, 2))
    frozen.save(path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorfile.os, "fsync", full)
    message = text_of(CheckpointError, lambda: freeze(nn.Linear(2, 2), torch.ones(1, 2)).save(path))
    assert message.startswith("save expects a folder it can write to, got No space left on device.")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_nothing_in_a_file_is_pickled(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "model.safetensors"
    freeze(small(), torch.randn(IMAGE)).save(path)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["0.bias", "0.weight", "5.bias", "5.weight"]
        metadata = json.loads(file.metadata()["striate"])
    assert metadata["metadata"]["frozen"] == FORMAT
    assert (
        metadata["sha256"]["5.bias"]
        == hashlib.sha256(load(path)._executable.constants[-1].value.numpy().tobytes()).hexdigest()
    )


# -------------------------------------------------------------------------------------------------- what cannot be done


def test_what_cannot_be_done_to_a_frozen_model_is_told() -> None:
    frozen = freeze(nn.Linear(2, 2), torch.ones(1, 2))
    messages = {
        "state_dict": text_of(ArgumentError, frozen.state_dict),
        "load_state_dict": text_of(ArgumentError, lambda: frozen.load_state_dict({})),
        "of a part": text_of(ArgumentError, nn.Sequential(frozen).state_dict),
        "pickle": text_of(ArgumentError, lambda: pickle.dumps(frozen)),
        "torch.save": text_of(ArgumentError, lambda: torch.save(frozen, io.BytesIO())),
        "double": text_of(ArgumentError, frozen.double),
        "cuda": text_of(ArgumentError, lambda: frozen.to("meta")),
    }
    state = "Frozen expects to be saved whole, got a call of state_dict. "
    state += "Keep the model it was frozen from: that has the state. Save this one with .save(path)."
    kept = "Frozen expects to be kept in a file of numbers and text, got a call of pickle. "
    kept += "Save it with .save(path), and load that with striate.load_frozen(path)."
    assert messages == {
        "state_dict": state,
        "of a part": state,
        "load_state_dict": "Frozen expects its weights to stay, got a call of load_state_dict. "
        "Load it into the model it was frozen from, and freeze that again.",
        "pickle": kept,
        "torch.save": kept,
        "double": "Frozen expects to stay float32 on the CPU, got float64 on cpu. "
        "Convert the model it was frozen from.",
        "cuda": "Frozen expects to stay float32 on the CPU, got float32 on meta. Convert the model it was frozen from.",
    }


def test_it_stays_in_evaluation_and_has_no_parameters() -> None:
    frozen = freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), torch.ones(1, 2))
    whole = nn.Sequential(frozen, nn.Linear(2, 1)).train().float().to("cpu")
    assert (
        not frozen.training
        and frozen.eval() is frozen
        and list(frozen.parameters()) == []
        and list(frozen.buffers()) == []
    )
    whole(torch.ones(3, 2)).sum().backward()
    assert whole[1].weight.grad is not None


def test_copies_compute_the_same_and_share_the_weights() -> None:
    frozen, x = freeze(small(), torch.randn(IMAGE)), torch.randn(IMAGE)
    for twin in (copy.copy(frozen), copy.deepcopy(frozen), copy.deepcopy(nn.Sequential(frozen))[0]):
        assert twin is not frozen and isinstance(twin, Frozen) and torch.equal(twin(x), frozen(x))
        assert twin._executable is frozen._executable


def test_it_has_nothing_in_common_with_its_model() -> None:
    model, x = small(), torch.randn(IMAGE)
    frozen = freeze(model, x)
    expected = frozen(x)
    with torch.no_grad():
        for p in [*model.parameters(), *model.buffers()]:
            p.fill_(7)
    assert torch.equal(frozen(x), expected)


def test_outputs_that_are_written_into_change_nothing() -> None:
    frozen = freeze(Called(lambda m, x: (m.a.bias, m.a(x)), a=conv()), torch.randn(IMAGE))
    x = torch.randn(IMAGE)
    first = [y.clone() for y in frozen(x)]
    for y in frozen(x):
        y.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(frozen(x), first, strict=True))


def test_inputs_it_was_not_frozen_for_are_refused() -> None:
    frozen = freeze(Called(lambda m, x, y: m.a(x) + m.b(y), **convs(2)), (torch.randn(IMAGE), torch.randn(IMAGE)))
    x = torch.randn(IMAGE)
    messages = {
        "count": text_of(ArgumentTypeError, lambda: frozen(x)),
        "list": text_of(ArgumentTypeError, lambda: frozen(x, [1])),
        "size": text_of(ShapeError, lambda: frozen(x, torch.randn(2, 4, 9, 8))),
        "rank": text_of(ShapeError, lambda: frozen(x[0], x)),
        "batch": text_of(ShapeError, lambda: frozen(x, x[:1])),
        "type": text_of(DtypeError, lambda: frozen(x, x.double())),
        "device": text_of(DtypeError, lambda: frozen(x, x.to("meta"))),
        "gradient": text_of(ArgumentError, lambda: frozen(x, x.clone().requires_grad_())),
    }
    hint = "Freeze the model with an example of that shape."
    assert messages == {
        "count": "Frozen expects 2 inputs, got 1. Give what the model takes.",
        "list": "Frozen expects input 1 to be a tensor, got list. Call torch.as_tensor on it first.",
        "size": f"Frozen expects input 1 of shape (N, 4, 9, 9), got (2, 4, 9, 8). N: 2. {hint}",
        "rank": f"Frozen expects input 0 of shape (N, 4, 9, 9), got (4, 9, 9). {hint}",
        "batch": f"Frozen expects input 1 of shape (N, 4, 9, 9), got (1, 4, 9, 9). N: 2. {hint}",
        "type": "Frozen expects input 1 of float32 on the CPU, got float64 on cpu. Convert it with .to().",
        "device": "Frozen expects input 1 of float32 on the CPU, got float32 on meta. Convert it with .to().",
        "gradient": "Frozen expects input 1 without a gradient, got one that requires it. "
        "Call it under torch.no_grad(), or train with the model it was frozen from.",
    }
    with torch.no_grad():
        assert frozen(x, x.clone().requires_grad_()).grad_fn is None


# ------------------------------------------------------------------------------------------------ what cannot be frozen


def test_what_cannot_be_frozen_is_told() -> None:
    x = torch.randn(IMAGE)
    stuck = Called(lambda m, x: x)
    stuck.generator = (k for k in range(3))
    hint = "Pass what model(*example_input) takes; give a model with other arguments a forward that takes tensors."
    types, fix = (
        "freeze expects a model and an example of float32 on the CPU, got",
        "Convert model and example with .float().cpu().",
    )
    other = (
        (
            ArgumentTypeError,
            torch.relu,
            x,
            "a torch.nn.Module, got builtin_function_or_method. Pass the model itself, then an example.",
        ),
        (ArgumentTypeError, conv(), [x], f"a tensor or a tuple of tensors, got list. {hint}"),
        (ArgumentTypeError, conv(), (), f"a tensor or a tuple of tensors, got an empty tuple. {hint}"),
        (
            DtypeError,
            conv().double(),
            x,
            "a model and an example of float32 on the CPU, got weight in float64 on cpu. " + fix,
        ),
        (
            DtypeError,
            conv(),
            x.half(),
            "a model and an example of float32 on the CPU, got input 0 in float16 on cpu. " + fix,
        ),
        (
            DtypeError,
            conv(device="meta"),
            x,
            "a model and an example of float32 on the CPU, got weight in float32 on meta. " + fix,
        ),
        (
            ArgumentError,
            stuck,
            x,
            "a model that can be copied, got TypeError: cannot pickle 'generator' object. Take out what keeps "
            "copy.deepcopy(model) from working.",
        ),
        (
            ArgumentError,
            Called(lambda m, x: (m.a(x), "label"), a=conv()),
            x,
            "outputs of tensors in tuples, lists and dicts of names, got a str. Return those from forward.",
        ),
    )
    for error, model, example, text in other:
        assert text_of(error, lambda: freeze(model, example)) == f"freeze expects {text}"
    assert types in text_of(DtypeError, lambda: freeze(conv().double(), x))
    message = text_of(ArgumentError, lambda: freeze(conv(), torch.randn(2, 5, 9, 9)))
    assert message.startswith(
        "freeze expects a model that torch.export can trace, got RuntimeError: Given groups=1, weight of size "
    )


def loop_on_values(m: Any, x: Any) -> Any:
    while x.abs().max() > 1:
        x = x / 2
    return x


def counted(m: Any, x: Any) -> Any:
    m.a.bias.data[0] += 1
    return m.a(x)


def scattered(m: Any, x: Any) -> Any:
    x[:, 0] = 1.0
    return m.a(x)


def rebound(m: Any, x: Any) -> Any:
    m.bn.running_mean = m.bn.running_mean + 1
    return m.bn(x)


def noisy(m: Any, x: Any) -> Any:
    with torch.no_grad():
        y = m.a(x)
        y = y + torch.rand_like(y)
    return y


def training_norm(m: Any, x: Any) -> Any:
    return F.batch_norm(x, m.bn.running_mean, m.bn.running_var, training=True)


COMPUTE, STATE = "operators that only compute, got ", "a model whose forward changes no state, got one that changes "
WITHOUT, UNCHANGED = (
    "Take it out of forward, or freeze the parts of the model without it.",
    "Take the change out of forward.",
)
VALUES = "a forward that goes one way whatever the input's values are, got one that asks for a value"
WHERE = "Write it with torch.where, or freeze the parts of the model before and behind it."
# the offset of the line that the message names from the first line of the function
REFUSED: dict[str, tuple[Callable[..., Any], int, str, str]] = {
    "a condition on values": (lambda m, x: m.a(x) if x.sum() > 0 else -x, 0, VALUES, WHERE),
    "a loop on values": (loop_on_values, 1, VALUES, WHERE),
    "a parameter written into": (counted, 1, f"{STATE}a.bias", UNCHANGED),
    "an input written into": (scattered, 1, f"{STATE}inputs_0", UNCHANGED),
    "a buffer set": (rebound, 1, f"{STATE}bn.running_mean", UNCHANGED),
    "a norm in training": (training_norm, 1, f"{STATE}bn.running_mean", UNCHANGED),
    "dropout": (
        lambda m, x: F.dropout(m.a(x), 0.5),
        0,
        f"{COMPUTE}aten.native_dropout.default, which draws random numbers",
        WITHOUT,
    ),
    "random numbers": (
        lambda m, x: x + torch.rand(9),
        0,
        f"{COMPUTE}aten.rand.default, which draws random numbers",
        WITHOUT,
    ),
    "random numbers in a region": (noisy, 3, f"{COMPUTE}aten.rand_like.default, which draws random numbers", WITHOUT),
    "attention that drops": (
        lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        0,
        f"{COMPUTE}aten.scaled_dot_product_attention.default, which draws random numbers",
        WITHOUT,
    ),
    "strides": (lambda m, x: x.as_strided((2, 2), (1, 1)), 0, f"{COMPUTE}aten.as_strided.default", WITHOUT),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_forward_must_not_do_is_told_with_its_line(name: str) -> None:
    call, line, got, hint = REFUSED[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn = conv(), nn.BatchNorm2d(4)

        # torch's traces name the lines of forward
        forward = types.FunctionType(call.__code__.replace(co_name="forward"), call.__globals__)

    message = text_of(ArgumentError, lambda: freeze(Net(), torch.randn(IMAGE)))
    assert message == f"freeze expects {got} (at test_freeze.py:{call.__code__.co_firstlineno + line}). {hint}"


def test_what_torch_cannot_trace_is_told_with_its_line() -> None:
    model = Called(lambda m, x: m.a(x.flatten(2)[:, :, :, None].expand(2, 4, 9, 9)), a=conv())
    message = text_of(ArgumentError, lambda: freeze(model, torch.randn(IMAGE)))
    traced = (
        "Freeze the parts of the model that can be traced one by one, or take what depends on the input's values "
        "out of forward."
    )
    assert re.match(
        r"freeze expects a model that torch\.export can trace, got RuntimeError: .* \(at test_freeze\.py:\d+\)\. ",
        message,
    )
    assert message.endswith(traced) and "\n" not in message


def test_an_operator_that_wants_its_tensors_in_rows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LOWERINGS._names, "aten.view_as_complex.default")
    model = Called(
        lambda m, x: torch.view_as_complex(m.a(x).unflatten(3, (3, 3))[..., :2].contiguous()).abs(), a=conv()
    )
    message = text_of(ArgumentError, lambda: freeze(model, torch.randn(IMAGE)))
    assert message == (
        "freeze expects operators that take tensors in channels order, got RuntimeError: Tensor must have a last "
        "dimension with stride 1. Freeze the parts of the model without it."
    )


def test_another_model_may_be_made_while_one_is_frozen() -> None:
    def forward(m: Any, x: Any) -> Any:
        nn.BatchNorm2d(4)  # its buffers are not the model's
        return m.a(x)

    freeze(Called(forward, a=conv()), torch.randn(IMAGE))


def test_a_model_that_treats_a_single_one_otherwise_is_warned_of() -> None:
    model = Called(lambda m, x: m.a(x) * (2 if x.shape[0] == 1 else 1), a=conv())
    with pytest.warns(UserWarning) as warned:
        frozen = freeze(model, torch.randn(IMAGE))
    message = str(warned[0].message)
    assert message.startswith(
        "freeze expects outputs within 1e-03 of the model's, in parts of their root mean square, got "
    )
    assert message.endswith(
        "Compare the two on your own data before you use the frozen one; a condition on the batch size in "
        "forward is one cause."
    )
    assert frozen.difference > 0.1


def test_a_models_mode_does_not_matter_and_stays() -> None:
    model = small().train()
    frozen = freeze(model, torch.randn(IMAGE))
    assert model.training and all(m.training for m in model.modules())
    x = torch.randn(IMAGE)
    with torch.no_grad():
        close(copy.deepcopy(model).eval()(x), frozen(x))


def test_freezing_under_inference_mode_makes_a_model_for_outside() -> None:
    with torch.inference_mode():
        frozen = freeze(small(), torch.randn(IMAGE))
    y = frozen(torch.randn(IMAGE))
    assert not y.is_inference()
    nn.Linear(3, 1)(y).sum().backward()


# --------------------------------------------------------------------------------------------------------- what it says


def test_it_prints_as_a_table_of_operators_and_methods() -> None:
    frozen = freeze(
        Called(lambda m, x: m.l((m.a(x).relu() + x).flatten(1)), a=nn.Conv2d(4, 4, 3, 1, 2, 2), l=nn.Linear(324, 5)),
        torch.randn(IMAGE),
    )
    with prefer("onednn"):
        printed = repr(nn.Sequential(frozen))
    assert printed.splitlines() == [
        "Sequential(",
        "  (0): Frozen: (N, 4, 9, 9) float32; 4 operators, 1,773 numbers",
        "    operator     of       method  output",
        "    conv + relu  a        onednn  (N, 4, 9, 9)",
        "    add          add      torch   (N, 4, 9, 9)",
        "    flatten      flatten  torch   (N, 324)",
        "    linear       l        torch   (N, 5)",
        ")",
    ]


def test_it_explains_the_method_of_each_layer() -> None:
    frozen = freeze(
        Called(lambda m, x: m.l(m.a(x).flatten(1)), a=nn.Conv2d(9, 2, 3), l=nn.Linear(512, 500)),
        torch.randn(2, 9, 18, 18),
    )
    explanation = frozen.explain()
    assert list(explanation) == ["a", "l"]
    assert explanation["l"] == [("native", None)]
    with prefer("onednn"):
        refused = frozen.explain()["l"][0]
    assert refused == ("onednn", "packing pays from 4 rows and 1,048,576 weights on")
    assert explanation["a"][0] == ("depthwise", "it was not measured for such a convolution (benchmarks/tune.py)")
    assert explanation["a"][-1][1] is None and all(reason for _, reason in explanation["a"][:-1])


# --------------------------------------------------------------------------------------------------------- fused layers

SHAPES = {  # x, weight, stride, padding, dilation, groups
    "3×3": ((2, 8, 9, 7), (16, 8, 3, 3), 1, 1, 1, 1),
    "1×1": ((2, 8, 9, 7), (16, 8, 1, 1), 1, 0, 1, 1),
    "1×1 strided": ((2, 8, 9, 7), (16, 8, 1, 1), 2, 0, 1, 1),
    "5×5": ((1, 3, 11, 9), (6, 3, 5, 5), 1, 2, 1, 1),
    "depthwise": ((2, 16, 9, 7), (16, 1, 3, 3), (2, 1), 1, 1, 16),
    "grouped, dilated": ((2, 6, 11, 11), (12, 2, 3, 3), 1, 2, 2, 3),
    "same": ((2, 5, 8, 7), (7, 5, 2, 4), 1, "same", 1, 1),
    "one channel": ((3, 1, 12, 12), (4, 1, 5, 5), 1, 2, 1, 1),
    "one axis": ((2, 4, 13), (6, 4, 3), 2, 1, 1, 1),
    "three axes": ((2, 3, 6, 7, 8), (4, 3, 3, 3, 3), 1, 1, 1, 1),
}


@pytest.mark.parametrize("method", [c.name for c in fused.CONV_METHODS])
@pytest.mark.parametrize("name", SHAPES)
def test_every_method_computes_sum_and_clamp(name: str, method: str) -> None:
    shape, weight_shape, *geometry = SHAPES[name]
    x, w, b = (torch.randint(-3, 4, s).float() for s in (shape, weight_shape, weight_shape[:1]))
    y = reference.conv(x, w, b, *geometry)
    r = torch.randint(-9, 10, y.shape).float()
    if x.dim() in FORMATS:
        r = r.contiguous(memory_format=FORMATS[x.dim()])

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=0, atol=1e-3) if "winograd" in method else torch.equal(a, b)

    for low, high in ((-inf, inf), (0.0, inf), (0.0, 6.0), (-2.0, inf), (-inf, 3.0)):
        layer = FusedConv(w, b, *geometry, low, high)
        with prefer(method):
            if layer.explain_methods(x)[-1][0] != method:
                pytest.skip(dict(layer.explain_methods(x))[method])
            assert layer.method(x) == method
            expected, summed, kept = (
                y.clamp(low, high),
                (y + r).clamp(low, high),
                r.clone(memory_format=torch.preserve_format),
            )
            assert same(layer(x), expected) and torch.equal(layer.exact(x), expected)
            assert same(layer(x, kept), summed) and torch.equal(layer.exact(x, kept), summed) and torch.equal(kept, r)
            assert same(layer(x, kept, True), summed)
    for activation in (Activation("leaky_relu", (0.1,)), *map(Activation, NAMES[2:])):
        layer = FusedConv(w, b, *geometry, activation=activation)
        with prefer(method):
            for z, given in ((y, ()), (y + r, (r.clone(memory_format=torch.preserve_format), True))):
                expected = activated(z.double(), activation).float()
                torch.testing.assert_close(layer(x, *given), expected, rtol=1e-4, atol=1e-3)
                torch.testing.assert_close(layer.exact(x, *(r,) if given else ()), expected)
    assert y.count_nonzero() > y.numel() // 2


@pytest.mark.parametrize("method", [c.name for c in fused.LINEAR_METHODS])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_linear_layer_by_each_method(rows: int, method: str) -> None:
    x, w, b = (torch.randint(-3, 4, s).float() for s in ((rows, 1024), (1024, 1024), (1024,)))
    for low, high in ((-inf, inf), (0.0, inf), (-5.0, 60.0)):
        layer = FusedLinear(w, b, low, high)
        expected = F.linear(x, w, b).clamp(low, high)
        with prefer(method):
            assert (layer.method(x) == method) == (method != "onednn" or rows > 1)
            assert torch.equal(layer(x), expected) and torch.equal(layer.exact(x), expected)
            assert torch.equal(layer(x.view(1, rows, 1024)), expected.view(1, rows, 1024))
    for activation in (Activation("leaky_relu", (0.1,)), *map(Activation, NAMES[2:])):
        layer, expected = FusedLinear(w, b, activation=activation), activated(F.linear(x, w, b).double(), activation)
        with prefer(method):
            torch.testing.assert_close(layer(x), expected.float(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(layer.exact(x), expected.float())


def test_a_weight_is_packed_once_for_all_batches() -> None:
    layer = FusedConv(torch.randn(8, 8, 3, 3))
    with prefer("winograd_2x2"):
        for size in (1, 2, 7):
            layer(torch.randn(size, 8, 9, 9))
    assert len(layer._packed) == 1 and len(layer._runs) == 3
    with prefer("torch"):
        assert layer.method(torch.randn(1, 8, 9, 9)) == "torch"


def test_a_bounded_number_of_shapes_is_remembered_and_those_asked_for_longest_ago_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "MOST_SHAPES", 3)
    prepared: list[int] = []
    layer = FusedConv(torch.randn(8, 8, 3, 3))
    prepare = layer.problem_for
    monkeypatch.setattr(layer, "problem_for", lambda x, strict: (prepared.append(len(x)), prepare(x, strict))[1])
    for batch in (1, 2, 3, 1, 4, 1, 2, 5, 1):
        assert len(layer(torch.randn(batch, 8, 6, 6))) == batch
    assert prepared == [1, 2, 3, 4, 2, 5], "4 takes the place of 2, 2 of 3, 5 of 4; 1 stays"
    assert len(layer._runs) == len(layer._asked) == 3


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_a_weight_is_packed_anew_for_another_number_of_threads() -> None:
    # oneDNN packs the weight by that, and repacks one of another layout in each call
    x, features, threads = torch.randn(4, 960, 3, 3), torch.randn(8, 1024), torch.get_num_threads()
    conv, linear = FusedConv(torch.randn(320, 960, 1, 1)), FusedLinear(torch.randn(1024, 1024))
    try:
        with prefer("onednn"):
            for count in (1, 2, 1):
                torch.set_num_threads(count)
                torch.testing.assert_close(conv(x), conv.exact(x), rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(linear(features), linear.exact(features), rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(threads)
    assert [len(layer._packed) for layer in (conv, linear)] == [2, 2]


def test_what_no_fused_layer_can_have_is_told() -> None:
    w = torch.ones(4, 4, 3, 3)
    messages = {
        "bounds": text_of(ArgumentError, lambda: FusedConv(w, low=1.0, high=0.0)),
        "nan": text_of(ArgumentError, lambda: FusedLinear(w[0, 0], low=nan)),
        "channels": text_of(ShapeError, lambda: FusedConv(w, where="features.0")(torch.ones(1, 3, 9, 9))),
        "batch": text_of(ShapeError, lambda: FusedConv(w)(torch.ones(4, 9, 9))),
        "features": text_of(ShapeError, lambda: FusedLinear(torch.ones(2, 5))(torch.ones(1, 4))),
        "type": text_of(DtypeError, lambda: FusedConv(w)(torch.ones(1, 4, 9, 9, dtype=torch.float64))),
    }
    assert messages == {
        "bounds": "conv expects low to be at most high, got 1.0 and 0.0. Leave out what does not bound.",
        "nan": "linear expects low to be at most high, got nan and inf. Leave out what does not bound.",
        "channels": "features.0 expects 4 channels, got 3. x: (1, 3, 9, 9). weight: (4, 4, 3, 3). "
        "Set in_channels=3, or check the layer before.",
        "batch": "conv expects x of 4 axes, got (4, 9, 9). Add the batch with unsqueeze(0).",
        "features": "linear expects 5 features, got (1, 4). Set in_features=4, or check the layer before.",
        "type": "conv expects weight of x's type, float64, got float32. x: (1, 4, 9, 9). Convert one with .to().",
    }
