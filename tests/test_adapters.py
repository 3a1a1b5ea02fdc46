"""Layers of other libraries: accelerate swaps adapted ones for striate's, restore swaps them back, and results stay the
same.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from adapted import timm
from torch import Tensor

import striate
from striate.errors import ArgumentError
from striate.nn import adapters, functional, swap
from striate.ops.dispatch import prefer


class Doubled(torch.nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.nn.functional.conv2d(x, self.weight, self.bias, self.stride)


class Ours(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * functional.conv2d(x, self.weight, self.bias, self.stride)


class Sub(Doubled):
    pass


@pytest.fixture
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "SWAPS", dict(swap.SWAPS))
    monkeypatch.setattr(swap, "BACK", dict(swap.BACK))


def test_exact_instances_get_the_class_and_theirs_back(own_table: None) -> None:
    striate.nn.adapt(Doubled, Ours)
    model = torch.nn.Sequential(Doubled(3, 4, 3), Sub(4, 4, 3))
    x, objects, weight = torch.randn(2, 3, 9, 9), list(model), model[0].weight
    expected = model(x)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"left 1 of \d layers to torch: 1 Sub \(1\), a subclass of Conv2d with code of its own\."
        ):
            striate.accelerate(model)
    assert [type(m) for m in model] == [Ours, Sub] and list(model) == objects and model[0].weight is weight
    torch.testing.assert_close(model(x), expected)
    assert [type(m) for m in striate.restore(model)] == [Doubled, Sub]


@pytest.mark.parametrize(
    ("original", "replacement", "message"),
    [
        (Doubled, torch.nn.Conv2d, "adapt expects a subclass of Doubled, got Conv2d. Derive Conv2d from it."),
        (Doubled, Doubled, "adapt expects a subclass of Doubled, got Doubled. Derive Doubled from it."),
        (int, bool, "adapt expects two classes of modules, got <class 'int'>. Give their class and a subclass of it."),
        ("Conv2d", Ours, "adapt expects two classes of modules, got 'Conv2d'. Give their class and a subclass of it."),
        (torch.nn.Conv2d, Doubled, (
            "adapt expects a class that accelerate leaves alone, got Conv2d. Give the class of another library."
        )),
        (striate.nn.Conv2d, type("Mine", (striate.nn.Conv2d,), {}), (
            "adapt expects a class that accelerate leaves alone, got Conv2d. Give the class of another library."
        )),
    ],
)  # fmt: skip
def test_anything_else_is_refused(own_table: None, original: Any, replacement: Any, message: str) -> None:
    before = dict(swap.SWAPS)
    with pytest.raises(ArgumentError) as raised:
        striate.nn.adapt(original, replacement)
    assert str(raised.value) == message and before == swap.SWAPS


# ----------------------------------------------------------------------------------------------------------------- timm

# in the tables of some processors these shapes are torch's
PREFERRED = {"Linear": "native", "Conv2dSame, dilated": "direct"}
LAYERS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "BatchNormAct2d": lambda n: n.BatchNormAct2d(8),
    "BatchNormAct2d, SiLU": lambda n: n.BatchNormAct2d(8, act_layer="silu"),
    "BatchNormAct2d without activation": lambda n: n.BatchNormAct2d(8, apply_act=False),
    "BatchNormAct2d, the mean of all batches": lambda n: n.BatchNormAct2d(8, momentum=None),
    "BatchNormAct2d with a drop": lambda n: n.BatchNormAct2d(8, drop_layer=Third),
    "GroupNormAct": lambda n: n.GroupNormAct(8, 4),
    "GroupNorm1Act": lambda n: n.GroupNorm1Act(8, act_layer="leaky_relu"),
    "LayerNormAct": lambda n: n.LayerNormAct(9),
    "LayerNormAct2d": lambda n: n.LayerNormAct2d(8),
    "LayerNormActFp32": lambda n: n.LayerNormActFp32(9),
    "GroupNorm": lambda n: n.GroupNorm(8, 4),
    "GroupNorm1": lambda n: n.GroupNorm1(8),
    "GroupNorm1NoBias": lambda n: timm().models.metaformer.GroupNorm1NoBias(8),
    "LayerNorm": lambda n: n.LayerNorm(9),
    "LayerNorm without scale": lambda n: n.LayerNorm(9, affine=False),
    "LayerNorm2d": lambda n: n.LayerNorm2d(8),
    "LayerNormFp32": lambda n: n.LayerNormFp32(9),
    "LayerNorm2dFp32": lambda n: n.LayerNorm2dFp32(8),
    "LayerNorm2dNoBias": lambda n: timm().models.metaformer.LayerNorm2dNoBias(8),
    "LayerNormNoBias": lambda n: timm().models.metaformer.LayerNormNoBias(9),
    "Conv2dSame": lambda n: n.Conv2dSame(8, 6, 3, stride=2),
    "Conv2dSame, grouped": lambda n: n.Conv2dSame(8, 8, 5, stride=2, groups=8, bias=False),
    "Conv2dSame, dilated": lambda n: n.Conv2dSame(8, 6, (2, 3), dilation=2),
    "StdConv2d": lambda n: n.StdConv2d(8, 6, 3, bias=True),
    "StdConv2dSame": lambda n: n.StdConv2dSame(8, 6, 3, stride=2),
    "StdConv2dSame of stride 1": lambda n: n.StdConv2dSame(8, 6, 3),
    "ScaledStdConv2d": lambda n: n.ScaledStdConv2d(8, 6, 3),
    "ScaledStdConv2dSame": lambda n: n.ScaledStdConv2dSame(8, 6, 3, stride=2),
    "AvgPool2dSame": lambda n: n.AvgPool2dSame(3, 2),
    "AvgPool2dSame, rounded up": lambda n: n.AvgPool2dSame(3, 2, ceil_mode=True),
    "AvgPool2dSame, of what is there": lambda n: n.AvgPool2dSame(2, 2, count_include_pad=False),
    "Linear": lambda n: n.Linear(9, 64),
    "MaxPool2dSame": lambda n: n.pool2d_same.MaxPool2dSame(3, 2),
    "MaxPool2dSame, rounded up": lambda n: n.pool2d_same.MaxPool2dSame(2, 2, ceil_mode=True),
}


class Third(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 3


def drawn(layer: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-1, 1)
    return layer


def step(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    y.square().sum().backward()
    got = [y.detach(), leaf.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]
    return [t.clone() for t in got if t is not None]


def images() -> Iterator[Tensor]:
    x = torch.randn(2, 8, 7, 9)
    yield x
    yield x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_timms_computes_as_timms(name: str, training: bool) -> None:
    timm_model = drawn(LAYERS[name](timm().layers)).train(training)
    native = striate.accelerate(copy.deepcopy(timm_model))
    kind = type(timm_model)
    assert type(native) is getattr(adapters, kind.__name__) and isinstance(native, kind)
    with torch.autograd.profiler.profile() as profile:
        for x in images():
            with prefer(PREFERRED.get(name)):
                got = step(native, x)
            expected = step(timm_model, x)
            assert got[0].is_contiguous() == expected[0].is_contiguous()
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    runs_native = any(event.name.startswith("striate::") for event in profile.function_events)
    assert runs_native or "rounded up" in name
    x = next(images())
    for same in (pickle.loads(pickle.dumps(native)), copy.deepcopy(native)):
        assert type(same) is type(native)
        torch.testing.assert_close(same(x), timm_model(x), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(native(x), timm_model(x)) and native(x).dtype is timm_model(x).dtype
    half = x.bfloat16()
    torch.testing.assert_close(copy.deepcopy(native).bfloat16()(half), copy.deepcopy(timm_model).bfloat16()(half))
    assert type(striate.restore(native)) is kind and vars(native).keys() == vars(timm_model).keys()


@pytest.mark.parametrize("name", [name for name in LAYERS if "drop" not in name])
def test_an_adapted_layer_is_timms_to_torchs_tools(name: str) -> None:
    timm_model = drawn(LAYERS[name](timm().layers)).eval()
    native, x = striate.accelerate(copy.deepcopy(timm_model)), next(images())
    expected = timm_model(x)
    traced = torch.jit.trace(native, x)
    assert not any("striate" in node.kind() for node in traced.inlined_graph.nodes())
    torch.testing.assert_close(traced(x), expected)
    torch.testing.assert_close(torch.func.vmap(native)(torch.stack([x, x]))[0], expected)
    exported = torch.export.export(native, (x,))
    assert not any("striate" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), expected)
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(native))
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(graph(x), expected, rtol=1e-4, atol=1e-4)


def test_activations_are_computed_apart_where_somebody_looks() -> None:
    layer = striate.accelerate(timm().layers.BatchNormAct2d(8))
    seen: list[Tensor] = []
    layer.act.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    y = layer(next(images()))
    assert float(seen[0].min()) < 0 and float(y.min()) == 0
    layer.act = torch.nn.Tanh()
    assert float(layer(next(images())).min()) < 0


@pytest.mark.parametrize(
    "name",
    ["efficientnetv2_rw_t", "tf_efficientnet_b0", "convnext_atto", "resnetv2_50", "nf_resnet26", "poolformerv2_s12"],
)
@pytest.mark.parametrize("memory_format", [torch.preserve_format, torch.channels_last])
def test_networks_of_timms_are_accelerated_and_restored(name: str, memory_format: torch.memory_format) -> None:
    package = timm()
    timm_model = package.create_model(name, num_classes=7).eval()
    native, x = copy.deepcopy(timm_model), torch.randn(1, 3, 64, 64)
    expected = timm_model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no layer is left
        striate.accelerate(native, memory_format=memory_format)
    got = native(x)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    striate.restore(native)
    assert [type(m) for m in native.modules()] == [type(m) for m in timm_model.modules()]
    for (a, b), before in zip(native.state_dict().items(), timm_model.state_dict().values(), strict=True):
        assert torch.equal(b, before) and b.stride() == before.stride(), a


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize(("name", "folded"), [("tf_efficientnet_b0", 49), ("resnetv2_50", 32)])
def test_norms_of_timms_are_folded(name: str, folded: int, accelerated: bool) -> None:
    model, x = timm().create_model(name, num_classes=7).eval(), torch.randn(1, 3, 64, 64)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.5, 0.5), norm.running_var.uniform_(0.5, 2)
    model = striate.accelerate(model) if accelerated else model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same, report = striate.fold(model, x)
    assert report.folded == folded
    expected = model(x)
    torch.testing.assert_close(same(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_what_fold_leaves_of_timms_and_why() -> None:
    n = timm().layers
    weights = torch.nn.Sequential(n.StdConv2d(3, 8, 3), n.BatchNormAct2d(8)).eval()
    padded = torch.nn.Sequential(n.BatchNormAct2d(3, apply_act=False), n.Conv2dSame(3, 8, 3, stride=2)).eval()
    between = torch.nn.Sequential(n.BatchNormAct2d(3), torch.nn.Conv2d(3, 8, 1)).eval()
    padded[0].running_mean.fill_(1.0)
    reasons = [
        striate.fold(model, torch.randn(1, 3, 9, 9))[1].entries[0].reason for model in (weights, padded, between)
    ]
    assert reasons == [
        "StdConv2d 0 computes its weight before each call; the model's output comes after it",
        "the model's input comes before it; Conv2dSame 1 pads with zeros, and the norm's shift is not zero",
        "the model's input comes before it; its activation ReLU stands between it and Conv2d 1",
    ]


def test_a_norm_that_is_folded_leaves_its_drop_and_activation() -> None:
    n = timm().layers
    model = torch.nn.Sequential(
        n.Conv2dSame(3, 8, 3, stride=2), n.BatchNormAct2d(8, drop_layer=Third, act_layer="silu")
    ).eval()
    x = torch.randn(2, 3, 9, 9)
    same, report = striate.fold(striate.accelerate(model), x)
    assert report.folded == 1 and [type(m) for m in same[1]] == [Third, torch.nn.SiLU]
    torch.testing.assert_close(same(x), model(x))


@pytest.mark.nightly
def test_of_the_layers_of_timms_networks_at_least_nine_of_ten_are_swapped() -> None:
    """Three networks of each of timm's modules, built on the meta device."""
    package = timm()
    names = [
        n
        for module in package.list_modules()
        if (of := package.list_models(module=module))
        for n in of[:: max(1, len(of) // 3)][:3]
    ]
    swapped = left = 0
    for name in names:
        with torch.device("meta"):
            planned = swap.plan(package.create_model(name))
        swapped, left = swapped + len(planned[0]), left + len(planned[1])
    print(f"{len(names)} networks: {swapped} layers swapped, {left} left")
    assert len(names) > 200 and swapped >= 0.9 * (swapped + left)
