"""striate.nn in place of torch.nn: its names, its signatures, the course notes' code, and models swapped and restored.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import striate
import striate.nn as nn
import striate.nn.functional as SF
from striate import models
from striate.nn import fusion, swap

PACKAGE = Path(striate.__file__).parent

# The code samples of the course notes (IOAI notes on pooling and normalization; ApX on batch normalization in
# practice), their import line changed and nothing else, indentation restored.
NOTES = {
    "pooling": """
import striate.nn as nn
max_pool = nn.MaxPool2d(kernel_size=2, stride=2)
avg_pool = nn.AvgPool2d(kernel_size=2, stride=2)
global_avg = nn.AdaptiveAvgPool2d((1, 1))
""",
    "batch normalization": """
import striate.nn as nn
bn1 = nn.BatchNorm1d(num_features=128)
bn2 = nn.BatchNorm2d(num_features=64)
bn3 = nn.BatchNorm3d(num_features=32)
# Typical conv block
block = nn.Sequential(
    nn.Conv2d(64, 64, kernel_size=3, padding=1, bias=False),
    nn.BatchNorm2d(64),
    nn.ReLU(inplace=True)
)
""",
    "layer normalization": """
import striate.nn as nn
ln = nn.LayerNorm(normalized_shape=512)
block = nn.Sequential(
    nn.Linear(512, 512, bias=False),
    nn.LayerNorm(512),
    nn.ReLU(inplace=True)
)
""",
    "multi-layer perceptron": """
import torch
import striate.nn as nn
input_features = 784
hidden_units = 100
output_classes = 10
model = nn.Sequential(
    nn.Linear(input_features, hidden_units),
    nn.BatchNorm1d(num_features=hidden_units),
    nn.ReLU(), # Apply activation after normalization
    nn.Linear(hidden_units, output_classes)
)
print(model)
dummy_input = torch.randn(64, input_features)
output = model(dummy_input)
print("Output shape:", output.shape) # Expected: torch.Size([64, 10])
assert output.shape == torch.Size([64, 10])
""",
    "convolutional network": """
import torch
import striate.nn as nn
in_channels = 3
out_channels_conv1 = 16
out_channels_conv2 = 32
model_cnn = nn.Sequential(
    nn.Conv2d(in_channels=in_channels, out_channels=out_channels_conv1, kernel_size=3, padding=1),
    nn.BatchNorm2d(num_features=out_channels_conv1),
    nn.ReLU(),
    nn.MaxPool2d(kernel_size=2, stride=2),
    nn.Conv2d(in_channels=out_channels_conv1, out_channels=out_channels_conv2, kernel_size=3, padding=1),
    nn.BatchNorm2d(num_features=out_channels_conv2),
    nn.ReLU(),
    nn.MaxPool2d(kernel_size=2, stride=2)
)
print(model_cnn)
dummy_input_cnn = torch.randn(16, in_channels, 32, 32)
output_cnn = model_cnn(dummy_input_cnn)
print("CNN Output shape:", output_cnn.shape) # Expected: torch.Size([16, 32, 8, 8])
assert output_cnn.shape == torch.Size([16, 32, 8, 8])
""",
    "modes": """
import torch
import striate.nn as nn
model = nn.Sequential(
    nn.Linear(10, 20),
    nn.BatchNorm1d(20),
    nn.ReLU()
)
model.train() # Set the model to training mode
print(f"Model mode during training: {'Training' if model.training else 'Evaluation'}")
model.eval() # Set the model to evaluation mode
print(f"Model mode during evaluation: {'Training' if model.training else 'Evaluation'}")
dummy_input = torch.randn(4, 10) # Batch size 4
with torch.no_grad(): # Disable gradient calculation for inference
    output_eval = model(dummy_input)
print("Output shape during evaluation:", output_eval.shape)
assert output_eval.shape == torch.Size([4, 20])
""",
    "statistics of the four norms": """
import torch
import striate.nn as nn
x = torch.rand(8, 6, 5, 5)
def normalized(dims):
    m = x.mean(dims, keepdim=True)
    v = x.var(dims, keepdim=True, unbiased=False)
    return (x - m) / (v + 1e-5).sqrt()
torch.testing.assert_close(nn.BatchNorm2d(6)(x), normalized((0, 2, 3)))
torch.testing.assert_close(nn.LayerNorm([6, 5, 5])(x), normalized((1, 2, 3)))
torch.testing.assert_close(nn.InstanceNorm2d(6)(x), normalized((2, 3)))
""",
}


@pytest.mark.parametrize("name", NOTES)
def test_code_of_the_course_notes_runs_with_its_import_line_changed(name: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(NOTES[name], name, "exec"), names)
    layers = [v for v in names.values() if isinstance(v, torch.nn.Module)]
    assert layers or "normalized" in names
    native_layers = [m for layer in layers for m in layer.modules() if type(m).__module__.startswith("striate.")]
    assert native_layers or not layers


def public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]


def test_every_public_name_of_torch_nn_is_here() -> None:
    assert len(public(torch.nn)) > 150
    assert [n for n in public(torch.nn) if not hasattr(nn, n)] == []
    assert [n for n in public(F) if not hasattr(SF, n)] == []
    from striate.nn.parameter import Parameter
    from striate.nn.utils import clip_grad_norm_

    assert Parameter is torch.nn.Parameter and clip_grad_norm_ is torch.nn.utils.clip_grad_norm_
    assert nn.functional is SF


@pytest.mark.parametrize("module", ["blocks", "container", "conv", "linear", "local", "norm", "pool"])
def test_a_pickle_of_a_layer_may_name_the_module_of_its_family(module: str) -> None:
    family = getattr(nn, module)
    names = [name for name in family.__all__ if isinstance(getattr(nn, name, None), type)]
    assert names and all(
        pickle.loads(f"cstriate.nn.{module}\n{name}\n.".encode()) is getattr(nn, name) for name in names
    )


def test_our_classes_replace_torchs_and_subclass_them() -> None:
    for torch_class, native_class in ((torch_class, swap.SWAPS[torch_class]) for torch_class in swap.BASES):
        assert issubclass(native_class, torch_class)
        assert getattr(nn, torch_class.__name__) is native_class
        assert native_class.__name__ == torch_class.__name__
        assert native_class.__doc__ and native_class.__doc__ != torch_class.__doc__
        assert inspect.signature(native_class) == inspect.signature(torch_class)
    convs = {f"{lazy}Conv{kind}{d}d" for lazy in ("", "Lazy") for kind in ("", "Transpose") for d in (1, 2, 3)}
    pools = {f"{kind}Pool{d}d" for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for d in (1, 2, 3)}
    norms = {f"{kind}Norm{d}d" for kind in ("Batch", "Instance") for d in (1, 2, 3)} | {
        "GroupNorm",
        "LayerNorm",
        "LocalResponseNorm",
        "RMSNorm",
    }
    others = {"ChannelShuffle", "LazyLinear", "Linear"}
    assert {torch_class.__name__ for torch_class in swap.BASES} == convs | pools | norms | others


def test_our_functions_take_what_torchs_take() -> None:
    checked = 0
    for name in public(SF):
        native_function, torch_function = getattr(SF, name), getattr(F, name, None)
        if not getattr(native_function, "__module__", "").startswith("striate.") or torch_function is None:
            continue
        try:
            expected = list(inspect.signature(torch_function).parameters)
        except ValueError:  # a builtin: its docstring begins with the signature
            call = (torch_function.__doc__ or "").strip().split("->")[0]
            expected = [a.split("=")[0].strip() for a in call[call.index("(") + 1 : call.rindex(")")].split(",")]
        if expected in (["args", "kwargs"], ["*args", "**kwargs"]):  # one function for with and without indices
            expected = (
                ["input", "output_size", "return_indices"]
                if "adaptive" in name
                else list(inspect.signature(F.max_pool2d_with_indices).parameters)
            )
        got = list(inspect.signature(native_function).parameters)
        assert got[: len(expected)] == expected, name
        checked += 1
    assert checked >= 30


# ----------------------------------------------------------------------------------------------------------------- swap


class Mine(torch.nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


class Net(torch.nn.Module):
    def __init__(self, conv: type = torch.nn.Conv2d) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.mine = conv(8, 8, 3)
        self.pool = torch.nn.MaxPool2d(2)
        self.again = self.pool
        self.head = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.pool(self.mine(self.stem(x)))))


def classes(model: torch.nn.Module) -> list[tuple[str, type]]:
    return [(name, type(m)) for name, m in model.named_modules()]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_round_trip_leaves_state_outputs_and_classes_as_they_were(training: bool) -> None:
    model = Net().train(training)
    x = torch.randn(4, 3, 16, 18)
    twin = copy.deepcopy(model)
    expected, state = twin(x), copy.deepcopy(model.state_dict())
    before = classes(model)
    strides = {k: v.stride() for k, v in state.items()}
    assert striate.accelerate(model) is model
    assert striate.restore(model) is model
    assert classes(model) == before
    assert {k: v.stride() for k, v in model.state_dict().items()} == strides
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(k.startswith("_striate") for m in model.modules() for k in vars(m))
    assert torch.equal(model(x), expected)


def test_accelerate_keeps_objects_hooks_mode_and_names_and_computes_the_same() -> None:
    model = Net().eval()
    x = torch.randn(4, 3, 16, 18)
    expected = model(x)
    calls: list[str] = []
    model.pool.register_forward_hook(lambda *_: calls.append("pool"))
    objects = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    striate.accelerate(model)
    torch.testing.assert_close(model(x), expected)
    assert calls == ["pool", "pool"]
    assert all(m is objects[n] for n, m in model.named_modules())
    assert all(p is parameters[n] for n, p in model.named_parameters())
    assert not model.pool.training
    assert (
        isinstance(model.pool, nn.MaxPool2d) and isinstance(model.head[2], nn.LayerNorm) and model.again is model.pool
    )
    assert model.stem(x).is_contiguous()
    assert repr(model) == repr(Net().eval())


def fused_pair() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_accelerated_container_computes_what_its_modules_compute_and_restore_gives_them_back(training: bool) -> None:
    model = fused_pair().train(training)
    model.append(torch.nn.Sequential(torch.nn.GroupNorm(2, 8), torch.nn.LeakyReLU(0.3), torch.nn.ReLU()))
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 16, 18)
    before, classes = repr(model), [type(m) for m in model.modules()]
    striate.accelerate(model)
    assert model[2](torch.tensor(-1.0)) == 0 and repr(model) == before
    (native_loss,), (torch_loss,) = ([m(x).square().sum()] for m in (model, twin))
    torch.testing.assert_close(native_loss, torch_loss)
    for p, q in zip(
        torch.autograd.grad(native_loss, list(model.parameters())),
        torch.autograd.grad(torch_loss, list(twin.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    if training:
        torch.testing.assert_close(model[1].running_var, twin[1].running_var)
    swapped = [type(m) for m in model.modules()]
    assert swapped == [type(m) for m in striate.accelerate(model).modules()]  # a second call changes nothing
    copied = copy.deepcopy(model)
    assert (
        [type(m) for m in striate.restore(model).modules()]
        == classes
        == [type(m) for m in striate.restore(copied).modules()]
    )
    torch.testing.assert_close(model(x), copied(x))


class Block(torch.nn.Sequential):
    """A subclass that inherits Sequential's forward."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            torch.nn.Conv2d(inputs, outputs, 3), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU(inplace=True)
        )
        self.outputs = outputs

    def widest(self) -> int:
        return self.outputs


class Loud(torch.nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def test_subclasses_of_sequential_share_and_stay_what_they_are() -> None:
    model = torch.nn.Sequential(Block(3, 4), Block(4, 5), Loud(torch.nn.Conv2d(5, 5, 1), torch.nn.ReLU()))
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 9, 9)
    striate.accelerate(model)
    kind = type(model[0])
    assert kind is not Block and isinstance(model[0], Block) and kind is type(model[1]) and type(model[2]) is Loud
    assert (kind.__name__, kind.__module__, kind.__qualname__) == ("Block", __name__, "Block") and model[
        0
    ].widest() == 4
    torch.testing.assert_close(model(x), twin(x))
    for copied in (copy.deepcopy(model), copy.copy(model[0]), pickle.loads(pickle.dumps(model))):
        one = copied if isinstance(copied, Block) else copied[0]
        assert type(one) is Block and one.widest() == 4 and isinstance(one[0], nn.Conv2d)
        torch.testing.assert_close(one(x), twin[0](x))
    assert [type(m) for m in striate.restore(model).modules()] == [type(m) for m in twin.modules()]


@pytest.mark.parametrize(
    "replaced", ["norm by a group norm", "norm by nothing", "pool", "activation", "activation and pool"]
)
def test_parts_may_be_replaced_after_accelerate(replaced: str) -> None:
    model = fused_pair()
    model.append(torch.nn.Conv2d(8, 8, 3)), model.append(torch.nn.ReLU()), model.append(torch.nn.MaxPool2d(2))
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 16, 18)
    striate.accelerate(model)
    for one in (model, twin):
        if replaced == "norm by a group norm":
            one[1] = torch.nn.GroupNorm(2, 8)
        elif replaced == "norm by nothing":
            one[1] = torch.nn.Identity()
        elif replaced == "pool":
            one[3], one[6] = torch.nn.AvgPool2d(2), torch.nn.AvgPool2d(2)
        else:
            one[2], one[5] = torch.nn.SiLU(), torch.nn.Tanh()
            if replaced == "activation and pool":
                one[6] = torch.nn.AvgPool2d(2)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("accelerated", [True, False])
def test_features_may_be_tapped_sliced_and_hooked(accelerated: bool) -> None:
    """A perceptual loss: its forward iterates over the layers and collects the outputs in between."""
    layers = [*fused_pair(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    torch_model = torch.nn.Sequential(*layers).eval()
    native_model = copy.deepcopy(torch_model)
    native_model = striate.accelerate(native_model) if accelerated else nn.Sequential(*striate.accelerate(native_model))
    x, tapped, hooked = torch.randn(2, 3, 16, 16), [], []
    for model in (native_model, torch_model):
        y, kept, seen = x, [], []
        for layer in model:
            y = layer(y)
            kept.append(y)
        kept += [model[:k](x) for k in range(1, 8)]
        handles = [
            layer.register_forward_hook(lambda m, args, y, seen=seen: seen.append(y.detach().clone()))
            for layer in model
        ]
        kept.append(model(x))
        for handle in handles:
            handle.remove()
        tapped.append([*kept, model(x)])
        hooked.append(seen)
    for a, b in zip(*tapped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(hooked[0]) == len(hooked[1]) == 7
    for a, b in zip(*hooked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert tapped[0][1].min() < 0 <= tapped[0][2].min() and tapped[0][4].min() < 0 <= tapped[0][5].min()


def small_resnet() -> torch.nn.Module:
    torch.manual_seed(0)
    return striate.restore(models.resnet_cifar(layers=8))


KINDS_OF_HOOKS: dict[str, Any] = {
    "forward": lambda m, seen: m.register_forward_hook(lambda m, args, y: seen.append(y.detach().clone())),
    "forward pre": lambda m, seen: m.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().clone())),
    "full backward": lambda m, seen: m.register_full_backward_hook(lambda m, dx, dy: seen.append(dy[0].clone())),
    "full backward, half": lambda m, seen: m.register_full_backward_hook(
        lambda m, dx, dy: (seen.append(dy[0].clone()), (dx[0] / 2,))[1]
    ),
    "backward pre": lambda m, seen: m.register_full_backward_pre_hook(lambda m, dy: seen.append(dy[0].clone())),
    "backward pre, half": lambda m, seen: m.register_full_backward_pre_hook(
        lambda m, dy: (seen.append(dy[0].clone()), (dy[0] / 2,))[1]
    ),
}


@pytest.mark.parametrize("when", ["before accelerate", "after accelerate"])
@pytest.mark.parametrize("kind", KINDS_OF_HOOKS)
def test_hooks_on_every_relu_see_and_do_what_they_do_in_torchs(kind: str, when: str) -> None:
    results = []
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for accelerated in (True, False):
        model, seen = small_resnet().double(), []
        if accelerated and when == "after accelerate":
            striate.accelerate(model)
        for m in model.modules():
            if isinstance(m, torch.nn.ReLU):
                KINDS_OF_HOOKS[kind](m, seen)
        if accelerated and when == "before accelerate":
            striate.accelerate(model)
        model(x).square().mean().backward()
        results.append([*seen, *(p.grad for p in model.parameters())])
    assert len(results[0]) == len(results[1]) > len(list(small_resnet().parameters())) + 6
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_global_hooks_see_every_call() -> None:
    model, torch_model = striate.accelerate(fused_pair()), fused_pair()
    counts = []
    for one in (model, torch_model):
        seen: list[str] = []
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda m, args, y, seen=seen: seen.append(type(m).__name__)
        )
        try:
            one(torch.randn(2, 3, 8, 8))
        finally:
            handle.remove()
        counts.append(seen)
    assert counts[0] == counts[1] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Sequential"]


def test_converters_of_torchs_find_norms_and_activations_apart() -> None:
    model = striate.accelerate(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    ).eval()
    x, twin = torch.randn(2, 3, 8, 8), copy.deepcopy(model)
    folded = torch.nn.Sequential(torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1]), model[2])
    torch.testing.assert_close(folded(x), twin(x), rtol=1e-4, atol=1e-4)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert type(converted[2]) is torch.nn.ReLU and converted(x).min() == 0
    layer = nn.BatchNormAct2d(3)
    assert torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer) is layer
    assert torch.func.replace_all_batch_norm_modules_(layer).track_running_stats
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert type(converted) is nn.SyncBatchNorm and converted.activation == "relu" and converted(x).min() == 0


POOLINGS = {
    "pairs": dict(kernel_size=2),
    "overlapping": dict(kernel_size=3, stride=2, padding=1),
    "rounded up": dict(kernel_size=3, stride=2, ceil_mode=True),
    "rounded up and padded": dict(kernel_size=(3, 2), stride=2, padding=1, ceil_mode=True),
    "wide": dict(kernel_size=17, stride=1, padding=8),
}


def before_pooling(*layers: torch.nn.Module) -> torch.nn.Sequential:
    """Behind a convolution that hands on what it gets."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1, groups=3, bias=False), *layers)
    torch.nn.init.ones_(model[0].weight)
    return model


def awkward(kind: str) -> torch.Tensor:
    x = torch.randn(2, 3, 19, 18, generator=torch.Generator().manual_seed(7))
    made = {
        "random": x,
        "ties": (2 * x).round().clamp(-1, 1),
        "zeros and negative": torch.where(x > 0, 0.0, x),
        "zeros of both signs": torch.where(x > 0, 0.0, -0.0),
        "negative": -x.abs() - 0.1,
        "ties at 6 and above": 6 + (2 * x).round().clamp(-1, 2) / 2,
        "NaN": torch.where(x > 1.5, torch.nan, x),
        "infinite": torch.where(x > 1, torch.inf, torch.where(x < 0.5, -torch.inf, x)),
    }
    return made[kind].requires_grad_()


@pytest.mark.parametrize(
    "kind",
    [
        "random",
        "ties",
        "zeros and negative",
        "zeros of both signs",
        "negative",
        "ties at 6 and above",
        "NaN",
        "infinite",
    ],
)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "act", [torch.nn.ReLU(), torch.nn.ReLU(inplace=True), torch.nn.ReLU6()], ids=["relu", "relu in place", "relu6"]
)
def test_an_activation_behind_max_pooling_gives_the_bits_it_gives_before(
    act: torch.nn.Module, pooling: str, kind: str
) -> None:
    model = before_pooling(copy.deepcopy(act), torch.nn.MaxPool2d(**POOLINGS[pooling]))
    twin = striate.accelerate(copy.deepcopy(model))
    x = awkward(kind)
    assert fusion.activation_behind_pool(twin[1], twin[2]) is not None
    plain = striate.accelerate(copy.deepcopy(model))
    plain[1].register_forward_hook(lambda *_: None)
    results = [m(x) for m in (model, plain, twin)]
    dy = torch.randn(results[0].shape)
    found = [(y, *torch.autograd.grad(y, x, dy)) for y in results]
    for y, _ in found[:2]:
        torch.testing.assert_close(found[2][0], y, rtol=0, atol=0, equal_nan=True)
    if isinstance(act, torch.nn.ReLU6) and kind == "NaN":
        return  # torch's ReLU6 hands a gradient through NaN or not by where in the vector it lies
    # where windows overlap torch adds up gradients in another order than striate
    torch.testing.assert_close(found[2][1], found[1][1], rtol=0, atol=0)
    torch.testing.assert_close(found[2][1], found[0][1])


def test_relu_is_computed_behind_max_pooling() -> None:
    model = striate.accelerate(models.lenet5())
    plain, x, seen = copy.deepcopy(model), torch.randn(3, 1, 28, 28), []
    for module in plain.modules():
        module.register_forward_hook(lambda m, args, y: seen.append(y))
    (native_y, torch_y), weights = (model(x), plain(x)), ([*m.parameters()] for m in (model, plain))
    assert torch.equal(native_y, torch_y) and len(seen) == len(list(plain.modules()))
    found, expected = (
        torch.autograd.grad(y.square().sum(), w) for y, w in zip((native_y, torch_y), weights, strict=True)
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model(x), torch_twin(plain)(x))


def torch_twin(model: torch.nn.Module) -> torch.nn.Module:
    return striate.restore(copy.deepcopy(model))


def test_an_activation_stays_before_what_it_does_not_commute_with() -> None:
    conv, act, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    own = type("Own", (torch.nn.MaxPool2d,), {})(2)
    left = [
        (act(), torch.nn.Identity(), pool(2)),
        (torch.nn.LeakyReLU(), pool(2)),
        (torch.nn.GELU(), pool(2)),
        (act(), torch.nn.AvgPool2d(2)),
        (act(), pool(2, return_indices=True)),
        (act(), pool(3, padding=2, dilation=2)),
        (act(), own),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the subclass that is left
        models = [striate.accelerate(torch.nn.Sequential(conv(3, 3, 1), *layers)) for layers in left]
        hooked = [striate.accelerate(torch.nn.Sequential(conv(3, 3, 1), act(), pool(2))) for _ in range(2)]
    for k, model in enumerate(hooked, 1):
        assert fusion.activation_behind_pool(*model[1:]) is not None
        model[k].register_forward_hook(lambda *_: None)
    for model in models + hooked:
        assert fusion.activation_behind_pool(model[1], model[2]) is None
    x = torch.randn(1, 3, 4, 4)
    first = striate.accelerate(torch.nn.Sequential(act(inplace=True), pool(2)))
    first(x)
    assert x.min() == 0  # the caller of x sees it change


def test_restore_of_a_frozen_norm_warns_and_leaves_it_in_evaluation() -> None:
    model = striate.accelerate(fused_pair())
    model[1].freeze()
    with pytest.warns(UserWarning, match="restore thaws a frozen BatchNorm2d"):
        striate.restore(model)
    assert not model[1].training and type(model[1]) is torch.nn.BatchNorm2d and "frozen" not in vars(model[1])


def test_accelerate_leaves_subclasses_alone_and_says_so() -> None:
    model = Net(Mine)
    with pytest.warns(UserWarning) as warned:
        striate.accelerate(model)
    assert (
        str(warned[0].message)
        == "accelerate left 1 of 7 layers to torch: 1 Mine (mine), a subclass of Conv2d with code of its own."
    )
    assert type(model.mine) is Mine
    striate.restore(model)
    assert type(model.mine) is Mine


def test_a_lazy_layer_is_swapped_before_it_has_seen_an_input_and_back_after() -> None:
    model = torch.nn.Sequential(torch.nn.LazyConv2d(8, 3), torch.nn.LazyConvTranspose2d(3, 2, stride=2))
    striate.accelerate(model)
    assert [type(m) for m in model] == [nn.LazyConv2d, nn.LazyConvTranspose2d]
    y = model(torch.randn(1, 4, 9, 9))
    assert [type(m) for m in model] == [nn.Conv2d, nn.ConvTranspose2d]
    assert [type(m) for m in striate.restore(model)] == [torch.nn.Conv2d, torch.nn.ConvTranspose2d]
    assert model[0].in_channels == 4 and y.shape == (1, 3, 14, 14)


def test_accelerating_twice_is_accelerating_once() -> None:
    model = Net()
    striate.accelerate(striate.accelerate(model))
    striate.restore(model)
    assert classes(model) == classes(Net())


def test_layers_left_to_torch_are_counted_by_class() -> None:
    class Norm(torch.nn.LayerNorm):
        pass

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), *(Norm(4) for _ in range(5)), Mine(4, 4, 1, stride=2))
    with pytest.warns(UserWarning) as warned:
        striate.accelerate(model)
    assert str(warned[0].message) == (
        "accelerate left 6 of 7 layers to torch: 5 Norm (1, 2, 3 and 2 more), a subclass of LayerNorm with code of "
        "its own; 1 Mine (6), a "
        "subclass of Conv2d with code of its own, whose input is laid out contiguous: in channels_last oneDNN's "
        "gradient of one tap with a "
        "stride is unsafe."
    )


def test_an_accelerated_model_survives_copying_and_saving() -> None:
    model = striate.accelerate(Net())
    twin = copy.deepcopy(model)
    x = torch.randn(4, 3, 16, 18)
    assert torch.equal(twin(x), model(x))
    striate.restore(twin)
    assert classes(twin) == classes(Net())
    fresh = Net()
    fresh.load_state_dict(model.state_dict())


def test_gradients_of_an_accelerated_model_are_torchs() -> None:
    model = Net()
    twin = striate.accelerate(copy.deepcopy(model))
    x = torch.randn(4, 3, 16, 18)
    for m in (model, twin):
        m(x).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f"{n}: {m}")


# -------------------------------------------------------------------------------------------------------------- package


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=300)


def test_without_the_core_everything_works_on_torch_and_one_warning_says_so(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "striate", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    site = Path(torch.__file__).parent.parent
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(site)!r}]"
        + """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, striate
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    y = striate.nn.MaxPool2d(2)(x) + striate.nn.AvgPool2d(2)(x) + striate.nn.AdaptiveMaxPool2d(3)(x)
    y.sum().backward()
    assert striate.nn.MaxPool2d(2, 1, padding="same")(x).shape == x.shape
    striate.accelerate(torch.nn.Sequential(torch.nn.MaxPool2d(2)))(x)
warnings_of_striate = [str(w.message) for w in caught if "striate" in str(w.message)]
print(len(warnings_of_striate), warnings_of_striate[0])
print(striate.native_info()["core"], striate.native_info()["native"])
"""
    )
    result = run(code, "-S")  # -S: an installed striate must not come first
    assert result.returncode == 0, result.stderr
    message = (
        "1 striate's native core is not installed; every layer uses torch's operator instead. Reinstall striate "
        "with a C++ compiler (g++) at hand."
    )
    assert result.stdout.splitlines() == [message, "False []"]


def test_importing_striate_brings_no_plotting_data_or_image_library() -> None:
    result = run(
        "import striate, sys; print(sorted({'matplotlib', 'sklearn', 'PIL', 'scipy', 'safetensors'} & "
        "set(sys.modules)))"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_striate_imports_the_layers_and_nothing_that_many_programs_do_not_need() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import striate
new = {name for name in set(sys.modules) - before if not name.startswith("torch.utils.")}  # the FLOP counter, the gate
print(sorted({name.split(".")[1] for name in new if name.startswith("striate.")}))
# torch's builds for CUDA import triton with what is below torch.utils
print(sorted({name.split(".")[0] for name in new} - {"striate", "triton", *sys.stdlib_module_names}))
print(striate.native.ISAS[torch.ops.striate.isa_chosen()] == striate.native_info()["isa"])
print(striate.models.lenet5.__name__, striate.training.parameter_groups.__name__, striate.deploy.freeze.__name__)
"""
    result = run(code)
    assert result.stdout.splitlines() == [
        "['_renamed', '_torch', 'allocator', 'errors', 'moments', 'native', 'nn', 'ops', 'reference', 'tuning', "
        "'window']",
        "[]",
        "True",
        "lenet5 parameter_groups striate.deploy.freeze",
    ], result.stderr


def test_every_public_name_is_there_and_is_the_one_that_type_checkers_see() -> None:
    declared: dict[str, tuple[str | None, str]] = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            declared |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    assert set(striate.__all__) <= set(declared) | {"__version__"}
    for name, (module, there) in declared.items():
        if module is None:
            assert getattr(striate, name) is importlib.import_module(f"striate.{there}"), name
        else:
            assert getattr(striate, name) is getattr(importlib.import_module(f"striate.{module}"), there), name
    assert set(declared) <= set(dir(striate))
    starred: dict[str, Any] = {}
    exec("from striate import *", starred)
    assert set(striate.__all__) <= set(starred)


def test_a_name_that_striate_does_not_have_is_told() -> None:
    with pytest.raises(AttributeError) as raised:
        striate.convolve  # noqa: B018
    assert str(raised.value) == "module 'striate' has no attribute 'convolve'"


def test_native_info_names_the_instruction_set_in_use(isa: str) -> None:
    info = striate.native_info()
    assert info["isa"] == isa and isa in info["isa_available"]
    assert info["threads"] == torch.get_num_threads() and info["torch"] == torch.__version__


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    from striate.native import use_isa

    with pytest.raises(ValueError) as raised:
        use_isa("avx1024")
    assert (
        str(raised.value)
        == (
            "use_isa expects an instruction set of this machine, got 'avx1024'. Choose one of "
            f"{striate.native_info()['isa_available']}."
        )
    )


def test_striate_isa_sets_the_instruction_set_at_start() -> None:
    code = "import striate; print(striate.native_info()['isa'])"
    start = [sys.executable, "-c", code]
    result = subprocess.run(start, capture_output=True, text=True, env={**os.environ, "STRIATE_ISA": "baseline"})
    assert result.stdout.strip() == "baseline", result.stderr
    result = subprocess.run(start, capture_output=True, text=True, env={**os.environ, "STRIATE_ISA": "neon9"})
    available = striate.native_info()["isa_available"]
    assert (
        f"STRIATE_ISA=neon9 is none of this machine's instruction sets, {available}; the best is used." in result.stderr
    )


def test_a_missing_compiler_gives_one_clear_message(tmp_path: Path) -> None:
    cmake, root = shutil.which("cmake", path=str(Path(sys.executable).parent)), PACKAGE.parent.parent
    assert cmake, "the test extra installs cmake beside python"
    command = [
        cmake,
        "-S",
        str(root),
        "-B",
        str(tmp_path),
        "-G",
        "Unix Makefiles",
        "-DCMAKE_MAKE_PROGRAM=/usr/bin/make",
    ]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere"})
    message = " ".join(result.stderr.split())
    assert result.returncode != 0
    assert (
        "striate needs a C++20 compiler and found none. Install one (Debian, Ubuntu: apt install g++) or set CXX to "
        "its path."
        in message
    )
    assert message.count("CMake Error") == 1


def test_warnings_of_ours_are_none_with_the_core() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        striate.accelerate(Net())
