"""Folded models compute the same as the original models, and what cannot be folded is left, with the reason."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import math
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

import striate
import striate.nn as SN
import striate.nn.functional as SF
from striate import models
from striate.deploy import FoldEntry, FoldReport, fold
from striate.deploy.fold.layers import misplaced
from striate.errors import ArgumentError, ArgumentTypeError
from striate.nn.functional import batch_norm

nn = torch.nn
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(model: Any) -> Any:
    """The model in eval mode, its norms with statistics and weights as after training: none is 0 or 1."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            with torch.no_grad():
                if module.running_mean is not None:
                    module.running_mean.normal_(0.0, 2.0)
                    module.running_var.uniform_(0.2, 4.0)
                if module.weight is not None:
                    module.weight.normal_().add_(module.weight.sign().mul(0.3))
                if module.bias is not None:
                    module.bias.normal_(1.0)
    return model.eval()


def state_of(model: nn.Module) -> dict[str, Any]:
    tensors = {
        name: x.clone()
        for name, x in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    }
    return {**tensors, "": [(name, type(m), m.training) for name, m in model.named_modules()]}


def norms_of(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, _BatchNorm)]


def checked(model: Any, *inputs: torch.Tensor) -> tuple[Any, FoldReport]:
    """Calls fold and checks what holds for every call: the model is unchanged, and the outputs are the same."""
    before = state_of(model)
    folded, report = fold(model, inputs)
    after = state_of(model)
    assert before.pop("") == after.pop("")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(x.data_ptr() != y.data_ptr() for x in model.parameters() for y in folded.parameters())
    assert type(folded) is type(model)
    assert [(name, m.training) for name, m in folded.named_modules()] == [
        (name, m.training) for name, m in model.named_modules()
    ]
    with torch.no_grad():  # runs copies, since a call may change a model's buffers
        expected, got = (copy.deepcopy(m)(*(x.clone() for x in inputs)) for m in (model, folded))
    largest = expected.abs().max()
    difference = (expected.double() - got.double()).abs().max()
    assert largest > 0.1, "an output of zeros tests nothing"
    assert difference <= TOLERANCE[expected.dtype] * largest
    assert report.max_abs_output == pytest.approx(largest.item())
    assert report.max_abs_difference == difference.item()
    assert sorted(norms_of(folded)) == sorted(
        e.name for e in report.entries if e.action == "left" and e.name in norms_of(model)
    )
    return folded, report


def actions(report: FoldReport) -> dict[str, str]:
    return {entry.name: entry.action for entry in report.entries}


def reason(model: Any, *inputs: torch.Tensor) -> str:
    """Why the model's one norm is left."""
    folded, report = checked(model, *inputs)
    assert [entry.action for entry in report.entries] == ["left"]
    assert norms_of(folded) == norms_of(model)
    return report.entries[0].reason


class Pair(nn.Module):
    """A convolution and its norm, whose forward is ``call``."""

    def __init__(
        self, call: Callable[..., Any], conv: nn.Module | None = None, norm: nn.Module | None = None, **more: nn.Module
    ) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 4, 3)
        self.bn = norm or nn.BatchNorm2d(4)
        for name, module in more.items():
            setattr(self, name, module)
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        return self.call(self, *inputs)


def plain(self: Any, x: Any) -> Any:
    return self.bn(self.conv(x))


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        return self.relu(y)


IMAGE = (2, 3, 9, 9)
INPUTS = {"lenet5": (2, 1, 28, 28), "mlp_bn": (3, 784), "cnn_bn": (2, 3, 16, 16)}
FOLDS = {"lenet5": {}, "mlp_bn": {"1": "0"}, "cnn_bn": {"1": "0", "5": "4"}}


# Whole models.


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("accelerated", [False, True], ids=["given", "accelerated"])
@pytest.mark.parametrize("name", INPUTS)
def test_every_model_of_striate_folds_whole(name: str, accelerated: bool, dtype: torch.dtype) -> None:
    model = trained(models.NAMES[name]()).to(dtype)
    if accelerated:
        model = striate.accelerate(model)
    folded, report = checked(model, torch.randn(INPUTS[name], dtype=dtype))
    assert actions(report) == {norm: f"folded into {layer} before it" for norm, layer in FOLDS[name].items()}
    assert norms_of(folded) == [] and len(folded) == len(model)
    assert all(x.dtype == dtype for x in folded.parameters())


def test_a_model_without_norms_is_copied_and_the_report_says_so() -> None:
    _, report = checked(models.lenet5().eval(), torch.randn(1, 1, 28, 28))
    assert report.entries == () and (report.folded, report.refused) == (0, 0)
    assert (
        str(report)
        == f"no batch norm found; largest difference 0.0e+00 where outputs reach {report.max_abs_output:.1e}"
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("accelerated", [False, True], ids=["torch", "accelerated"])
def test_a_resnet_block_folds_whole(accelerated: bool, dtype: torch.dtype) -> None:
    model = trained(Block(3, 8, 2)).to(dtype)
    folded, report = checked(striate.accelerate(model) if accelerated else model, torch.randn(IMAGE, dtype=dtype))
    assert actions(report) == {
        "bn1": "folded into conv1 before it",
        "bn2": "folded into conv2 before it",
        "downsample.1": "folded into downsample.0 before it",
    }
    assert accelerated or (isinstance(folded.bn1, nn.Identity) and isinstance(folded.downsample[1], nn.Identity))
    assert [name for name, _ in folded.downsample.named_children()] == ["0", "1"]


def test_an_accelerated_model_stays_accelerated() -> None:
    folded, _ = checked(striate.accelerate(trained(Block(3, 8, 2))), torch.randn(IMAGE))
    assert isinstance(folded.conv1, SN.Conv2d)
    assert folded.conv1.weight.is_contiguous()


# Into the layer before.


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kinds", [CONV, TRANSPOSED], ids=["conv", "transposed"])
def test_a_norm_folds_into_the_convolution_before_it(
    kinds: Any, dims: int, groups: int, bias: bool, dtype: torch.dtype
) -> None:
    layer = kinds[dims](4, 8, 3, stride=2, padding=1, groups=groups, bias=bias)
    model = trained(nn.Sequential(layer, NORM[dims](8))).to(dtype)
    folded, report = checked(model, torch.randn(2, 4, *[5] * dims, dtype=dtype))
    assert report.entries == (FoldEntry("1", "folded into 0 before it", ""),)
    assert folded[0].bias.shape == (8,) and isinstance(folded[1], nn.Identity)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_depthwise_convolution_takes_its_norm_in_every_padding_mode(mode: str) -> None:
    conv = nn.Conv2d(3, 6, 3, padding=1, groups=3, padding_mode=mode, bias=False)
    _, report = checked(trained(nn.Sequential(conv, nn.BatchNorm2d(6))), torch.randn(IMAGE))
    assert report.folded == 1


def test_an_output_size_asked_of_a_transposed_convolution_is_no_obstacle() -> None:
    model = trained(
        Pair(lambda self, x: self.bn(self.conv(x, output_size=(20, 20))), nn.ConvTranspose2d(3, 4, 3, stride=2))
    )
    _, report = checked(model, torch.randn(IMAGE))
    assert actions(report) == {"bn": "folded into conv before it"}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_a_norm_folds_into_the_linear_layer_before_it(bias: bool) -> None:
    _, report = checked(trained(nn.Sequential(nn.Linear(5, 7, bias=bias), nn.BatchNorm1d(7))), torch.randn(6, 5))
    assert report.folded == 1


def test_the_formula_with_numbers() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0.0)).eval()
    for tensor, value in zip(
        model.state_dict().values(), ([[1.0, 2.0]], [3.0], [6.0], [1.0], [5.0], [4.0]), strict=False
    ):
        tensor.copy_(torch.tensor(value))  # W, b, γ = 6, β = 1, μ = 5, σ² = 4: s = 3
    folded, report = fold(model, torch.ones(1, 2))
    assert folded[0].weight.tolist() == [[3.0, 6.0]] and folded[0].bias.tolist() == [(3 - 5) * 3 + 1.0]
    assert (report.max_abs_difference, report.max_abs_output) == (0.0, 4.0)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, bias=False),
        nn.BatchNorm2d(4, momentum=None),
        SN.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
    ],
    ids=["not affine", "no bias", "no momentum", "striate", "sync"],
)
def test_norms_of_every_kind_fold(norm: nn.Module) -> None:
    _, report = checked(trained(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), copy.deepcopy(norm))), torch.randn(IMAGE))
    assert report.folded == 1


def test_subclasses_that_change_no_computation_fold() -> None:
    class Conv(nn.Conv2d):
        """Starts otherwise."""

        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight)

    class Norm(nn.BatchNorm2d):
        """Has another name."""

    _, report = checked(trained(nn.Sequential(Conv(3, 4, 3, bias=False), Norm(4))), torch.randn(IMAGE))
    assert report.folded == 1


def test_a_chain_of_norms_folds_into_one_convolution() -> None:
    model = trained(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Identity(), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    )
    _, report = checked(model, torch.randn(IMAGE))
    assert actions(report) == {name: "folded into 0 before it" for name in "134"}


def test_folding_a_folded_model_again_folds_what_has_come_since() -> None:
    folded, _ = checked(trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), torch.randn(IMAGE))
    folded.append(nn.BatchNorm2d(4))
    _, report = checked(trained(folded), torch.randn(IMAGE))
    assert actions(report) == {"2": "folded into 0 before it"}


def test_layers_in_module_lists_and_dicts_fold() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)])
            self.norms = nn.ModuleDict({"a": nn.BatchNorm2d(4), "b": nn.BatchNorm2d(4)})

        def forward(self, x: Any) -> Any:
            for conv, norm in zip(self.convs, self.norms.values(), strict=True):
                x = norm(conv(x)).relu()
            return x

    folded, report = checked(trained(Net()), torch.randn(IMAGE))
    assert actions(report) == {"norms.a": "folded into convs.0 before it", "norms.b": "folded into convs.1 before it"}
    assert isinstance(folded.norms["b"], nn.Identity)


def test_a_module_registered_under_two_names_folds_under_both() -> None:
    model = Pair(plain)
    model.also = nn.ModuleList([model.bn, model.conv])
    folded, report = checked(trained(model), torch.randn(IMAGE))
    assert actions(report) == {"bn": "folded into conv before it"}
    assert folded.also[0] is folded.bn and isinstance(folded.bn, nn.Identity) and folded.also[1] is folded.conv


def test_asking_for_shapes_between_is_no_use_of_the_values() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.conv(x.to(self.conv.weight.dtype))
        return self.bn(y).view(y.shape[0], y.size(1), -1)

    _, report = checked(trained(Pair(call)), torch.randn(IMAGE))
    assert report.folded == 1


def test_a_residual_sum_after_the_norm_is_no_obstacle() -> None:
    _, report = checked(
        trained(Pair(lambda self, x: x + self.bn(self.conv(x)), nn.Conv2d(4, 4, 1))), torch.randn(2, 4, 3, 3)
    )
    assert report.folded == 1


# Into the layer after.


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_norm_folds_into_the_convolution_after_it_without_padding(
    dims: int, groups: int, bias: bool, dtype: torch.dtype
) -> None:
    model = trained(nn.Sequential(NORM[dims](4), CONV[dims](4, 8, 3, stride=2, groups=groups, bias=bias))).to(dtype)
    folded, report = checked(model, torch.randn(2, 4, *[5] * dims, dtype=dtype))
    assert report.entries == (FoldEntry("0", "folded into 1 after it", ""),)
    assert isinstance(folded[0], nn.Identity) and folded[1].bias.shape == (8,)


@pytest.mark.parametrize(
    ("conv", "folds"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), False),
        (nn.Conv2d(3, 4, 3, padding=(0, 1)), False),
        (nn.Conv2d(3, 4, 3, padding="same"), False),
        (nn.Conv2d(3, 4, 1, padding="same"), True),
        (nn.Conv2d(3, 4, 3, padding="valid"), True),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), True),
        (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="replicate"), True),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), True),
        (SN.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), True),
    ],
    ids=lambda x: repr(x),
)
def test_zero_padding_decides_whether_a_norm_folds_into_the_convolution_after_it(conv: Any, folds: bool) -> None:
    model = trained(nn.Sequential(nn.BatchNorm2d(3), conv))
    if folds:
        assert actions(checked(model, torch.randn(IMAGE))[1]) == {"0": "folded into 1 after it"}
    else:
        assert (
            reason(model, torch.randn(IMAGE))
            == "the model's input comes before it; Conv2d 1 pads with zeros, and the norm's shift is not zero"
        )


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kinds", [CONV, TRANSPOSED], ids=["conv", "transposed"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_norm_without_a_shift_folds_into_whatever_comes_after_it(dims: int, kinds: Any, groups: int) -> None:
    model = trained(nn.Sequential(NORM[dims](3), kinds[dims](3, 6, 3, stride=2, padding=1, groups=groups, bias=False)))
    model[0].running_mean.zero_()
    model[0].bias.data.zero_()
    folded, report = checked(model, torch.randn(2, 3, *[5] * dims))
    assert actions(report) == {"0": "folded into 1 after it"}
    assert folded[1].bias is None


def test_a_transposed_convolution_after_the_norm_does_not_take_a_shift() -> None:
    model = trained(nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2, stride=2)))
    message = reason(model, torch.randn(IMAGE))
    assert (
        message
        == (
            "the model's input comes before it; ConvTranspose2d 1 does not use all its taps everywhere, and the "
            "norm's shift is not zero"
        )
    )


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_a_norm_folds_into_the_linear_layer_after_it(bias: bool) -> None:
    _, report = checked(trained(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 7, bias=bias))), torch.randn(6, 5))
    assert actions(report) == {"0": "folded into 1 after it"}


def test_norms_on_both_sides_and_two_in_a_row_fold_into_one_layer() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8))
    _, report = checked(trained(model), torch.randn(2, 4, 6, 6))
    assert actions(report) == {
        "0": "folded into 2 after it",
        "1": "folded into 2 after it",
        "3": "folded into 2 before it",
    }


def test_a_norm_that_cannot_go_into_the_layer_before_goes_into_the_one_after() -> None:
    model = trained(
        Pair(lambda self, x: self.head(self.bn(self.conv(x))) + self.conv(x).mean(), head=nn.Conv2d(4, 2, 3))
    )
    _, report = checked(model, torch.randn(IMAGE))
    assert actions(report) == {"bn": "folded into head after it"}


def test_an_input_overwritten_before_the_layer_after_runs_is_seen() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.bn(x)
        x[:, 1:].mul_(3.0)
        return self.conv(y)

    message = reason(trained(Pair(call, norm=nn.BatchNorm2d(3))), torch.randn(IMAGE))
    assert message == "the model's input comes before it; its input is overwritten before Conv2d conv runs"


def test_an_input_overwritten_after_the_layer_is_no_obstacle() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.conv(self.bn(x))
        x.mul_(3.0)
        return y

    assert checked(trained(Pair(call, norm=nn.BatchNorm2d(3))), torch.randn(IMAGE))[1].folded == 1


# What the new parameters are.


@pytest.mark.parametrize("asked", [False, True])
def test_parameters_keep_asking_for_a_gradient_or_not(asked: bool) -> None:
    model = trained(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False), nn.BatchNorm2d(2)
        )
    )
    model[0].weight.requires_grad_(not asked)
    model[0].bias.requires_grad_(asked)
    model[3].weight.requires_grad_(asked)
    folded, _ = checked(model, torch.randn(IMAGE))
    assert [x.requires_grad for x in (folded[0].weight, folded[0].bias, folded[3].weight, folded[3].bias)] == [
        not asked,
        asked,
        asked,
        asked,
    ]
    assert all(type(x) is nn.Parameter and x.is_leaf for x in folded.parameters())


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_weights_keep_their_memory_format(before: bool) -> None:
    layers = [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    model = trained(nn.Sequential(*(layers if before else layers[::-1]))).to(memory_format=torch.channels_last)
    folded, report = checked(model, torch.randn(2, 4, 6, 6))
    weight = folded[0 if before else 1].weight
    assert report.folded == 1 and weight.stride() == (36, 1, 12, 4)


def test_weights_are_computed_in_float64_and_rounded_once() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64)))
    folded, _ = checked(model, torch.randn(IMAGE))
    exact, _ = checked(copy.deepcopy(model).double(), torch.randn(IMAGE).double())
    assert torch.equal(folded[0].weight, exact[0].weight.float()) and torch.equal(folded[0].bias, exact[0].bias.float())
    s = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    # float32 throughout rounds otherwise
    assert not torch.equal(folded[0].weight, model[0].weight * s.view(-1, 1, 1, 1))


def test_bfloat16_models_fold_with_the_rounding_of_bfloat16() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).bfloat16()
    folded, report = fold(model, torch.randn(IMAGE).bfloat16())
    assert report.folded == 1 and folded[0].weight.dtype == torch.bfloat16
    assert 0 < report.max_abs_difference < 0.03 * report.max_abs_output


def test_the_folded_model_and_the_given_one_have_nothing_in_common() -> None:
    model = trained(Block(3, 8, 2))
    x = torch.randn(IMAGE)
    folded, _ = checked(model, x)
    expected = folded(x)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    assert torch.equal(folded(x), expected)
    before = state_of(model)
    for parameter in folded.parameters():
        parameter.data.fill_(3.0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_generator_the_example_and_the_hooks_of_the_caller_stay_as_they_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

        def forward(self, x: Any) -> Any:
            return self.body(x.add_(1.0)) + torch.rand_like(x)[:, :1, 2:, 2:]

    model, x = trained(Net()), torch.randn(IMAGE)
    model.body[2].train()
    kept, state = x.clone(), torch.get_rng_state()
    _, report = fold(model, x)
    assert report.folded == 1 and report.max_abs_difference < 1e-5  # both models drew the same numbers
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_inference_mode_outside_leaves_no_mark_on_the_folded_model() -> None:
    model, x = trained(Block(3, 8, 2)), torch.randn(IMAGE)
    with torch.inference_mode():
        folded, report = fold(model, x)
    assert report.folded == 3 and not any(p.is_inference() for p in folded.parameters())
    folded(x).sum().backward()
    assert folded.conv1.bias.grad is not None


# Norms with an activation, a second input, or fixed statistics.


def rich(channels: int = 4, activation: str | None = None) -> Any:
    return SN.BatchNormAct2d(channels, activation=activation, negative_slope=0.3)


@pytest.mark.parametrize(
    ("name", "text"),
    [("relu", "ReLU()"), ("leaky_relu", "LeakyReLU(negative_slope=0.3)"), ("relu6", "ReLU6()"), ("silu", "SiLU()")],
    ids=["relu", "leaky_relu", "relu6", "silu"],
)
def test_an_activation_of_the_norm_stays_as_a_layer(name: str, text: str) -> None:
    folded, report = checked(trained(nn.Sequential(nn.Conv2d(3, 4, 3), rich(activation=name))), torch.randn(IMAGE))
    assert actions(report) == {"1": "folded into 0 before it"}
    assert repr(folded[1]) == text


def test_a_norm_behind_an_activation_of_a_folded_norm_is_left() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), rich(activation="relu"), nn.BatchNorm2d(4)))
    _, report = checked(model, torch.randn(IMAGE))
    assert report.entries[1] == FoldEntry("2", "left", "ReLU 1 comes before it; the model's output comes after it")


def test_a_norm_with_an_activation_does_not_fold_into_the_layer_after() -> None:
    message = reason(trained(nn.Sequential(rich(3, activation="relu"), nn.Conv2d(3, 4, 3))), torch.randn(IMAGE))
    assert message == "the model's input comes before it; its activation relu stands between it and Conv2d 1"


def test_an_activation_that_is_no_layer_is_refused() -> None:
    class Later(SN.BatchNorm2d):
        activation = "gelu"

        def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
            return F.gelu(
                F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            )

    Later.forward.__module__ = "striate.nn.norm"  # as if striate defined it
    message = reason(trained(nn.Sequential(nn.Conv2d(3, 4, 3), Later(4))), torch.randn(IMAGE))
    assert message == "its activation gelu is none of relu, leaky_relu, relu6, silu"


def test_a_second_input_to_the_norm_is_refused() -> None:
    model = trained(Pair(lambda self, x, y: self.bn(self.conv(x), y), norm=rich()))
    assert reason(model, torch.randn(IMAGE), torch.randn(2, 4, 7, 7)) == "the call has a second argument"
    model.call = lambda self, x, y: self.bn(input=self.conv(x), residual=y)
    assert reason(model, torch.randn(IMAGE), torch.randn(2, 4, 7, 7)) == "the call has a second argument"


def test_a_second_argument_of_none_is_refused_too_since_identity_takes_one() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x), None), norm=rich()))
    assert reason(model, torch.randn(IMAGE)) == "the call has a second argument"


def test_arguments_may_be_given_by_name() -> None:
    model = trained(Pair(lambda self, x: self.bn(input=self.conv(input=x))))
    assert checked(model, torch.randn(IMAGE))[1].folded == 1


def test_a_frozen_norm_folds_in_training_mode_too() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), SN.BatchNorm2d(4).freeze())).train()
    folded, report = checked(model, torch.randn(IMAGE))
    assert report.folded == 1 and folded[1].training


# Refusals: the norm.

AFTER = "; the model's output comes after it"


def test_a_norm_in_training_mode_is_left_and_its_statistics_stay() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].train()
    assert reason(model, torch.randn(IMAGE)) == "it is in training mode: call eval() on the model first"


def test_a_norm_without_running_statistics_is_left() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))
    assert reason(model, torch.randn(IMAGE)) == "it keeps no running statistics (track_running_stats=False)"


def test_a_norm_called_twice_is_left() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) + self.bn(self.other(x)), other=nn.Conv2d(3, 4, 3)))
    assert reason(model, torch.randn(IMAGE)) == "the model calls it 2 times"


def test_a_norm_that_is_not_called_is_left() -> None:
    assert reason(trained(Pair(lambda self, x: self.conv(x))), torch.randn(IMAGE)) == "the model does not call it"


def test_a_norm_inside_a_module_of_torchs_folds() -> None:
    class Piece(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x))

    Piece.__module__ = "torch.nn.modules.piece"
    _, report = checked(trained(nn.Sequential(Piece())), torch.randn(IMAGE))
    assert actions(report) == {"0.bn": "folded into 0.conv before it"}
    assert checked(trained(Piece()), torch.randn(IMAGE))[1].folded == 1


def test_a_norm_inside_a_layer_is_left() -> None:
    class Normed(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 4, 3)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(super().forward(x))

    assert reason(trained(nn.Sequential(Normed())), torch.randn(IMAGE)) == "it stands inside Normed 0, one layer"


def test_a_norm_with_a_forward_of_its_own_is_left() -> None:
    class Mine(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    assert (
        reason(trained(nn.Sequential(nn.Conv2d(3, 4, 3), Mine(4))), torch.randn(IMAGE)) == "it has a forward of its own"
    )


def test_a_norm_whose_forward_was_replaced_is_left() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].forward = lambda x: x * 2
    assert reason(model, torch.randn(IMAGE)) == "it has a forward of its own"


@pytest.mark.parametrize(
    ("register", "message"),
    [
        ("register_forward_hook", "forward hook"),
        ("register_forward_pre_hook", "forward pre-hook"),
        ("register_full_backward_hook", "backward hook"),
        ("register_full_backward_pre_hook", "backward pre-hook"),
    ],
    ids=lambda x: x,
)
def test_a_hook_on_either_module_is_in_the_way(register: str, message: str) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    handle = getattr(model[1], register)(lambda *_: None)
    assert reason(model, torch.randn(IMAGE)) == f"it has a {message}"
    handle.remove()
    handle = getattr(model[0], register)(lambda *_: None)
    assert reason(model, torch.randn(IMAGE)) == f"Conv2d 0 has a {message}{AFTER}"
    handle.remove()
    assert checked(model, torch.randn(IMAGE))[1].folded == 1


def test_a_hook_on_the_whole_is_traced() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model.register_forward_pre_hook(lambda self, args: (args[0] - 1,))
    model.register_forward_hook(lambda self, args, y: y * self[0](args[0]))
    assert reason(model, torch.randn(IMAGE)) == "the model calls Conv2d 0 2 times; mul comes after it"


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_statistics_that_are_not_finite_are_refused(buffer: str, value: float) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    getattr(model[1], buffer)[2] = value
    _, report = fold(model, torch.randn(IMAGE))
    assert report.entries == (FoldEntry("1", "left", "its running statistics are not finite"),)
    assert report.max_abs_difference == 0.0


@pytest.mark.parametrize("value", [-1.0, -0.25])
def test_a_variance_that_eps_does_not_lift_above_zero_is_refused(value: float) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.25)))
    model[1].running_var[1] = value
    _, report = fold(model, torch.randn(IMAGE))
    assert report.entries[0].reason == "its running variance plus eps is not above zero in every channel"


def test_a_weight_of_the_norm_that_is_not_finite_is_refused() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].weight.data[0] = math.nan
    _, report = fold(model, torch.randn(IMAGE))
    assert report.entries[0].reason == "its weight or bias is not finite"


@pytest.mark.parametrize("key", ["weight", "running_mean"])
def test_a_norm_that_the_models_code_reads_is_left(key: str) -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) * getattr(self.bn, key).sum()))
    assert reason(model, torch.randn(IMAGE)) == f"the model's code reads its {key}"


def test_a_norm_held_outside_the_submodules_is_left() -> None:
    model = Pair(lambda self, x: self.parts["norm"][0](self.conv(x)))
    model.parts = {"norm": [model.bn]}
    assert reason(trained(model), torch.randn(IMAGE)) == "parts also holds it, outside the submodules"


@pytest.mark.parametrize(
    "function",
    [
        lambda x, mean, var: F.batch_norm(x, mean, var),
        lambda x, mean, var: torch.batch_norm(x, None, None, mean, var, False, 0.1, 1e-5, False),
        lambda x, mean, var: SF.batch_norm(x, mean, var),
        lambda x, mean, var: batch_norm(x, mean, var),
    ],
    ids=["F", "torch", "striate", "striate by name"],
)
def test_a_call_of_the_function_is_reported(function: Any) -> None:
    model = trained(Pair(lambda self, x: function(self.bn(self.conv(x)), self.mean, self.var)))
    model.register_buffer("mean", torch.randn(4))
    model.register_buffer("var", torch.rand(4) + 0.5)
    _, report = checked(model, torch.randn(IMAGE))
    assert report.entries[0].action == "folded into conv before it"
    assert report.entries[1:] == (FoldEntry("batch_norm", "left", "a call of a function, not a layer"),)


def test_the_forward_of_a_layer_called_past_the_layer_is_a_function() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv.forward(x))))
    assert reason(model, torch.randn(IMAGE)) == f"conv2d comes before it{AFTER}"


def test_instance_norms_are_not_listed() -> None:
    _, report = checked(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)).eval(), torch.randn(IMAGE)
    )
    assert report.entries == ()


# Refusals: what comes before and after.


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (nn.ReLU(), "ReLU 1"),
        (nn.MaxPool2d(2), "MaxPool2d 1"),
        (SN.MaxPool2d(2), "MaxPool2d 1"),
        (nn.LayerNorm(7), "LayerNorm 1"),
        (nn.Dropout(), "Dropout 1"),
    ],
    ids=repr,
)
def test_a_layer_of_another_kind_before_the_norm_is_named(before: nn.Module, message: str) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), before, nn.BatchNorm2d(4)))
    assert reason(model, torch.randn(IMAGE)) == f"{message} comes before it{AFTER}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda self, x: self.bn(F.relu(self.conv(x))), "relu"),
        (lambda self, x: self.bn(self.conv(x) + 1), "add"),
        (lambda self, x: self.bn(self.conv(x).abs()), "abs"),
        (lambda self, x: self.bn(SF.max_pool2d(self.conv(x), 2)), "max_pool2d"),
        (lambda self, x: self.bn(self.table).sum() + self.conv(x), "a constant"),
    ],
    ids=["relu", "add", "abs", "striate", "constant"],
)
def test_a_function_before_the_norm_is_named(call: Any, message: str) -> None:
    model = trained(Pair(call))
    model.table = nn.Parameter(torch.randn(1, 4, 2, 2))
    after = "sum comes after it" if message == "a constant" else "the model's output comes after it"
    assert reason(model, torch.randn(IMAGE)) == f"{message} comes before it; {after}"


def test_a_norm_before_an_activation_before_a_convolution_is_left() -> None:
    message = reason(trained(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))), torch.randn(IMAGE))
    assert message == "the model's input comes before it; ReLU 1 stands between it and Conv2d 2"
    message = reason(
        trained(Pair(lambda self, x: self.conv(F.relu(self.bn(x))), norm=nn.BatchNorm2d(3))), torch.randn(IMAGE)
    )
    assert message == "the model's input comes before it; relu stands between it and Conv2d conv"


def test_a_model_that_is_one_norm_is_left() -> None:
    folded, report = fold(trained(nn.BatchNorm2d(3)), torch.randn(IMAGE))
    assert report.entries == (
        FoldEntry("the model", "left", "the model's input comes before it; the model's output comes after it"),
    )
    assert type(folded) is nn.BatchNorm2d


def test_an_output_of_the_convolution_used_elsewhere_is_seen() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.conv(x)
        return self.bn(y) + y.exp()

    assert (
        reason(trained(Pair(call)), torch.randn(IMAGE))
        == "the output of Conv2d conv also goes to exp; add comes after it"
    )


def test_an_output_of_the_convolution_that_the_model_returns_is_seen() -> None:
    class Net(Pair):
        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return {"norm": self.bn(y), "raw": [y]}

    model, x = trained(Net(plain)), torch.randn(IMAGE)
    folded, report = fold(model, x)
    assert report.entries[0].reason == f"the output of Conv2d conv also goes to the model's output{AFTER}"
    assert torch.equal(folded(x)["raw"][0], model(x)["raw"][0])
    assert report.max_abs_output == max(model(x)["norm"].abs().max().item(), model(x)["raw"][0].abs().max().item())


def test_an_output_of_the_convolution_overwritten_is_seen() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.conv(x)
        y.mul_(2.0)
        return self.bn(y)

    assert reason(trained(Pair(call)), torch.randn(IMAGE)) == f"the output of Conv2d conv also goes to mul_{AFTER}"


def test_an_output_of_the_norm_used_twice_does_not_fold_into_the_layer_after() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.bn(x)
        return self.conv(y) + y.mean()

    message = reason(trained(Pair(call, norm=nn.BatchNorm2d(3))), torch.randn(IMAGE))
    assert message == "the model's input comes before it; its output goes to Conv2d conv and mean"


def test_an_output_of_the_norm_used_nowhere_is_told() -> None:
    def call(self: Any, x: Any) -> Any:
        self.bn(x)
        return self.conv(x)

    assert (
        reason(trained(Pair(call, norm=nn.BatchNorm2d(3))), torch.randn(IMAGE))
        == "the model's input comes before it; nothing uses its output"
    )


def test_a_convolution_called_twice_is_left_as_in_pytorch_issue_104593() -> None:
    model = trained(Pair(lambda self, x, y: self.conv(x) + self.bn(self.conv(y))))
    message = reason(model, torch.randn(IMAGE), torch.randn(IMAGE))
    assert message == "the model calls Conv2d conv 2 times; add comes after it"


def test_a_convolution_called_on_two_paths_is_left_as_in_pytorch_issue_197539() -> None:
    model = trained(Pair(lambda self, x, y: torch.cat([self.bn(self.conv(x)), self.conv(y), self.conv(x * y)])))
    message = reason(model, torch.randn(IMAGE), torch.randn(IMAGE))
    assert message == "the model calls Conv2d conv 3 times; cat comes after it"


def test_a_convolution_with_two_norms_is_left() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) + self.bn2(self.conv(x)), bn2=nn.BatchNorm2d(4)))
    _, report = checked(model, torch.randn(IMAGE))
    assert [e.reason for e in report.entries] == ["the model calls Conv2d conv 2 times; add comes after it"] * 2


def test_a_layer_after_called_twice_is_left() -> None:
    model = trained(Pair(lambda self, x: self.conv(self.bn(x)) + self.conv(x), norm=nn.BatchNorm2d(3)))
    assert reason(model, torch.randn(IMAGE)) == "the model's input comes before it; the model calls Conv2d conv 2 times"


@pytest.mark.parametrize("key", ["weight", "bias"])
def test_a_parameter_shared_with_another_layer_is_seen(key: str) -> None:
    model = Pair(lambda self, x: self.bn(self.conv(x)) + self.other(x), other=nn.Conv2d(3, 4, 3))
    setattr(model.other, key, getattr(model.conv, key))
    assert (
        reason(trained(model), torch.randn(IMAGE))
        == f"Conv2d conv shares its {key} with other.{key}; add comes after it"
    )


def test_memory_shared_with_another_layer_is_seen() -> None:
    model = Pair(lambda self, x: self.bn(self.conv(x)) + self.other(x), other=nn.Conv2d(3, 4, 3))
    model.other.weight = nn.Parameter(model.conv.weight.detach().flip(0))
    assert checked(trained(model), torch.randn(IMAGE))[1].folded == 1
    model.other.weight = nn.Parameter(model.conv.weight.detach()[:4])
    assert reason(model, torch.randn(IMAGE)) == "Conv2d conv shares its weight with other.weight; add comes after it"


def test_memory_shared_with_a_plain_tensor_is_seen() -> None:
    model = Pair(lambda self, x: self.bn(self.conv(x)) * self.kept.sum())
    model.kept = model.conv.weight.detach()
    assert reason(trained(model), torch.randn(IMAGE)) == "Conv2d conv shares its weight with kept; mul comes after it"


def test_neighbours_in_one_piece_of_memory_share_nothing() -> None:
    model = Pair(plain)
    flat = torch.randn(4 * 3 * 9 + 4)
    model.conv.weight = nn.Parameter(flat[:108].view(4, 3, 3, 3))
    model.bn.weight = nn.Parameter(flat[108:])
    assert checked(trained(model), torch.randn(IMAGE))[1].folded == 1


def test_a_weight_that_the_models_code_reads_is_left() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) + F.conv2d(x, self.conv.weight)))
    assert reason(model, torch.randn(IMAGE)) == "the model's code reads the weight of Conv2d conv; add comes after it"


def test_a_convolution_with_code_of_its_own_is_left() -> None:
    class Standardized(nn.Conv2d):
        def _conv_forward(self, input: Any, weight: Any, bias: Any) -> Any:
            return super()._conv_forward(input, weight / weight.norm(), bias)

    class Doubled(nn.Conv2d):
        def forward(self, input: Any) -> Any:
            return super().forward(input) * 2

    for kind, method in ((Standardized, "_conv_forward"), (Doubled, "forward")):
        model = trained(nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4)))
        assert reason(model, torch.randn(IMAGE)) == f"{kind.__name__} 0 has a {method} of its own{AFTER}"


def test_a_weight_that_is_a_property_is_left() -> None:
    class Signs(nn.Conv2d):
        weight = property(lambda self: self._parameters["weight"].sign())  # type: ignore[assignment]

    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[0].__class__ = Signs
    assert reason(model, torch.randn(IMAGE)) == f"Signs 0 computes its weight before each call{AFTER}"


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
    ids=["weight_norm", "spectral_norm"],
)
def test_a_parametrized_layer_is_left(wrap: Any) -> None:
    model = trained(nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    assert reason(model, torch.randn(IMAGE)) == f"ParametrizedConv2d 0 is parametrized{AFTER}"


def test_a_parametrized_norm_is_left() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    norm = nn.BatchNorm2d(4)
    nn.utils.parametrize.register_parametrization(norm, "weight", Twice())
    assert reason(nn.Sequential(nn.Conv2d(3, 4, 3), norm).eval(), torch.randn(IMAGE)) == "it is parametrized"


def old_weight_norm(conv: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(conv)


def old_pruning(conv: nn.Module) -> nn.Module:
    import torch.nn.utils.prune as prune

    return prune.l1_unstructured(conv, "weight", 0.5)


@pytest.mark.parametrize(
    "wrap", [old_weight_norm, nn.utils.spectral_norm, old_pruning], ids=["weight_norm", "spectral_norm", "prune"]
)
def test_a_weight_computed_in_a_hook_is_left(wrap: Any) -> None:
    model, x = trained(nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))), torch.randn(IMAGE)
    expected = model(x).detach()
    folded, report = fold(model, x)
    assert report.entries == (FoldEntry("1", "left", f"Conv2d 0 computes its weight before each call{AFTER}"),)
    torch.testing.assert_close(folded(x), expected)


def test_layers_without_a_shape_yet_are_left_so() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4)).eval()
    folded, report = fold(model, torch.randn(IMAGE))
    assert report.entries == (FoldEntry("1", "left", f"LazyConv2d 0 has no shape yet: run the model once{AFTER}"),)
    assert model[0].has_uninitialized_params() and folded[0].has_uninitialized_params()
    folded, report = fold(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d()).eval(), torch.randn(IMAGE))
    assert report.entries == (FoldEntry("1", "left", "it has no shape yet: run the model once"),)


def test_a_quantized_layer_is_left() -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no quantized kernels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = trained(nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(5, 4), nn.BatchNorm1d(4)))
        _, report = fold(model, torch.randn(6, 5))
    assert report.entries[0].reason == f"quantized Linear 0 comes before it{AFTER}"


def test_a_weight_that_is_more_than_a_parameter_is_left() -> None:
    class Special(nn.Parameter):
        pass

    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[0].weight = Special(model[0].weight.detach())
    message = reason(model, torch.randn(IMAGE))
    expected = f"the weight of Conv2d 0 is a Special of torch.float32, not a plain floating-point parameter{AFTER}"
    assert message == expected


def test_a_linear_layer_whose_features_are_not_the_norms_channels_is_left() -> None:
    # (N, 4, 5) → (N, 4, 4): the numbers agree, the axes do not
    model = trained(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    assert (
        reason(model, torch.randn(6, 4, 5))
        == f"the channels of Linear 0 are on axis 2, those of the norm on axis 1{AFTER}"
    )
    model = trained(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)))
    message = reason(model, torch.randn(6, 4, 4))
    assert (
        message
        == "the model's input comes before it; the channels of Linear 1 are on axis 2, those of the norm on axis 1"
    )


def test_a_convolution_without_a_batch_axis_is_left() -> None:
    # (3, 6) → (4, 4), which the norm takes as (N, C)
    model = trained(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)))
    assert (
        reason(model, torch.randn(3, 6))
        == f"the channels of Conv1d 0 are on axis 0, those of the norm on axis 1{AFTER}"
    )


@pytest.mark.parametrize(
    ("layer", "out", "has"),
    [
        (nn.Conv2d(6, 4, 3, groups=2), True, 4),
        (nn.Conv2d(6, 4, 3, groups=2), False, 6),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), True, 4),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), False, 6),
    ],
)
def test_a_number_of_channels_that_does_not_fit_is_told(layer: nn.Module, out: bool, has: int) -> None:
    assert misplaced(layer, "up", 4, has, out=out) is None
    assert misplaced(layer, "up", 4, 5, out=out) == f"up has {has} channels there, the norm 5"


def test_weights_that_do_not_fit_the_type_are_not_folded() -> None:
    model = trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    model[1].running_var.fill_(1e-7)
    model = model.half()
    model[0].weight.data.fill_(1000.0)
    model[1].weight.data.fill_(1.0)
    model[1].running_mean.zero_()
    _, report = fold(model, torch.full((1, 2), 1e-4).half())
    assert report.entries[0].reason == f"the folded weights of Linear 0 are not finite in torch.float16{AFTER}"
    assert report.max_abs_difference == 0.0


# Traces and errors.


def test_a_model_that_asks_for_values_is_an_error_with_the_line() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) if x.sum() > 0 else self.conv(x)))
    with pytest.raises(ArgumentError) as error:
        fold(model, torch.ones(IMAGE))
    assert str(error.value) == (
        "fold expects a model that runs on tensors without values, got DataDependentOutputException: "
        f"aten._local_scalar_dense.default (at test_fold.py:{model.call.__code__.co_firstlineno}). Fold the parts of "
        "the model that can be traced one by one, or take what depends on the input's values out of forward."
    )


def test_a_recording_that_takes_another_way_than_a_run_is_an_error() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) + (self.conv(x) if type(x) is torch.Tensor else 0)))
    with pytest.raises(ArgumentError) as error:
        fold(model, torch.ones(IMAGE))
    assert str(error.value) == (
        "fold expects a recording that calls what the model calls, got 1 call of conv in the recording, 2 calls in a "
        "run. Take conditions on types, such as type(x) is torch.Tensor, out of forward."
    )


def test_a_model_that_needs_its_norms_attributes_is_an_error() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) + self.bn.num_features))
    with pytest.raises(ArgumentError) as error:
        fold(model, torch.ones(IMAGE))
    assert str(error.value) == (
        "fold expects a model that runs without its batch norms, got AttributeError: 'Identity' object has no "
        "attribute 'num_features'. "
        "Call the norms only as layers: the folded model has Identity in their place."
    )


def test_a_model_that_cannot_be_copied_is_an_error() -> None:
    model = Pair(plain)
    model.generator = (i for i in range(3))
    with pytest.raises(
        ArgumentError,
        match=r"^fold expects a model that can be copied, got TypeError: cannot pickle 'generator' object\. Take",
    ):
        fold(model.eval(), torch.ones(IMAGE))


def test_an_example_that_the_model_does_not_take_raises_the_models_own_error() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        fold(trained(Pair(plain)), torch.ones(2, 5, 9, 9))


def test_an_example_that_is_no_tensor_is_an_error() -> None:
    with pytest.raises(ArgumentTypeError) as error:
        fold(trained(Pair(plain)), (torch.ones(IMAGE), [1, 2]))  # type: ignore[arg-type]
    assert str(error.value) == (
        "fold expects a tensor or a tuple of tensors, got list. Pass what model(*example_input) takes; give a model "
        "with other arguments "
        "a forward that takes tensors."
    )


def test_a_model_that_is_no_module_is_an_error() -> None:
    with pytest.raises(ArgumentTypeError) as error:
        fold(torch.relu, torch.ones(1))  # type: ignore[type-var]
    assert (
        str(error.value)
        == "fold expects a torch.nn.Module, got builtin_function_or_method. Pass the model itself, then an example."
    )


def test_a_difference_that_rounding_does_not_explain_is_warned_of() -> None:
    runs = itertools.count(1)
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) * next(runs)))
    with pytest.warns(
        UserWarning,
        match=(
            "^fold expects a difference that rounding explains, got .* where outputs reach .*. Compare the two "
            "models"
        ),
    ):
        _, report = fold(model, torch.randn(IMAGE))
    assert report.max_abs_difference > 0.01 * report.max_abs_output


def test_optional_arguments_that_the_example_leaves_out_take_their_defaults() -> None:
    def call(self: Any, x: Any, mask: Any = None) -> Any:
        return self.bn(self.conv(x)) if mask is None else self.bn(self.conv(x * mask))

    assert checked(trained(Pair(call)), torch.randn(IMAGE))[1].folded == 1
    assert checked(trained(Pair(call)), torch.randn(IMAGE), torch.rand(IMAGE))[1].folded == 1


def test_outputs_without_tensors_are_not_compared() -> None:
    model = trained(Pair(lambda self, x: (self.bn(self.conv(x)).argmax(1), "label")))
    _, report = fold(model, torch.randn(IMAGE))
    assert math.isnan(report.max_abs_difference) and math.isnan(report.max_abs_output)
    assert str(report).splitlines()[-1] == "1 folded, 0 left; the outputs have no floating-point tensor to compare"


def test_the_report_is_an_aligned_table() -> None:
    entries = (
        FoldEntry("layer1.bn", "folded into layer1.conv before it", ""),
        FoldEntry("bn", "left", "the model calls it 2 times"),
    )
    report = FoldReport(entries, 1.25e-7, 3.0)
    assert (report.folded, report.refused) == (1, 1)
    assert str(report).splitlines() == [
        "norm       action                             reason",
        "layer1.bn  folded into layer1.conv before it",
        "bn         left                               the model calls it 2 times",
        "1 folded, 1 left; largest difference 1.2e-07 where outputs reach 3.0e+00",
    ]


# What a recording might not see.


def test_a_size_asked_in_a_condition_is_an_error_with_the_line() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) if x.shape[-1] > 4 else self.conv(x)))
    with pytest.raises(ArgumentError) as error:
        fold(model, torch.ones(IMAGE))
    assert str(error.value) == (
        "fold expects a model whose code asks for no size in a condition, got one (at "
        f"test_fold.py:{model.call.__code__.co_firstlineno}). Fold the parts of the model that can be traced one by "
        "one, or take what depends on the input's values out of forward."
    )


def test_what_a_layer_itself_asks_of_sizes_is_no_obstacle() -> None:
    class Padding(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(F.pad(input, (0, 1)) if input.shape[-1] % 2 else input)

    model = trained(Pair(lambda self, x: self.bn(self.conv(self.odd(x))), odd=Padding(3, 3, 3)))
    assert checked(model, torch.randn(IMAGE))[1].folded == 1


def test_code_on_sizes_that_fx_could_not_follow_folds() -> None:
    def call(self: Any, x: Any) -> Any:
        n, c, *rest = x.shape
        y = self.bn(self.conv(torch.zeros(n, c, *rest) + x))
        return torch.cat([part * 2 for part in y.split(2, 1)], 1).view(n, -1, *y.shape[2:])

    assert checked(trained(Pair(call)), torch.randn(IMAGE))[1].folded == 1


def test_calls_without_gradients_are_seen() -> None:
    def call(self: Any, x: Any) -> Any:
        with torch.no_grad():
            y = self.conv(x)
            z = self.bn(y)
        return z + y.mean() if self.more else z

    model = trained(Pair(call))
    model.more = False
    assert checked(model, torch.randn(IMAGE))[1].folded == 1
    model.more = True
    assert reason(model, torch.randn(IMAGE)) == "the output of Conv2d conv also goes to mean; add comes after it"


def test_a_view_of_the_convolutions_output_that_is_written_into_is_seen() -> None:
    def call(self: Any, x: Any) -> Any:
        y = self.conv(x)
        part = y.detach()[:, 1:]
        part.mul_(2.0)
        return self.bn(y)

    assert "also goes to" in reason(trained(Pair(call)), torch.randn(IMAGE))


def test_an_output_that_a_dataclass_carries_out_is_seen() -> None:
    @dataclasses.dataclass
    class Result:
        norm: torch.Tensor
        raw: Any

    class Net(Pair):
        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return Result(self.bn(y), types.SimpleNamespace(raw={"y": y}))

    model, x = trained(Net(plain)), torch.randn(IMAGE)
    folded, report = fold(model, x)
    assert report.entries[0].reason == f"the output of Conv2d conv also goes to the model's output{AFTER}"
    assert torch.equal(folded(x).raw.raw["y"], model(x).raw.raw["y"])


def test_an_output_in_which_no_tensor_can_be_found_is_an_error() -> None:
    model = trained(Pair(lambda self, x: (self.bn(self.conv(x)), lambda: x)))
    with pytest.raises(ArgumentError) as error:
        fold(model, torch.randn(IMAGE))
    assert str(error.value) == (
        "fold expects outputs that tensors can be found in, got a function. Return tensors, in tuples, lists, dicts or "
        "dataclasses, from forward."
    )


def test_a_norm_whose_output_is_returned_too_does_not_fold_into_the_layer_after() -> None:
    class Net(Pair):
        def forward(self, x: Any) -> Any:
            y = self.bn(x)
            return self.conv(y), y

    _, report = fold(trained(Net(plain, norm=nn.BatchNorm2d(3))), torch.randn(IMAGE))
    message = "the model's input comes before it; its output goes to Conv2d conv and the model's output"
    assert report.entries[0].reason == message


def test_a_module_of_a_way_that_this_input_does_not_go_is_not_called() -> None:
    def call(self: Any, x: Any) -> Any:
        return self.bn(self.conv(x)) if self.usual else self.bn2(self.conv(x))

    model = Pair(call, bn2=nn.BatchNorm2d(4))
    model.usual = True
    _, report = checked(trained(model), torch.randn(IMAGE))
    assert report.entries == (
        FoldEntry("bn", "folded into conv before it", ""),
        FoldEntry("bn2", "left", "the model does not call it"),
    )


def test_a_shape_of_the_norms_weight_that_the_models_code_asks_for_leaves_it() -> None:
    model = trained(Pair(lambda self, x: self.bn(self.conv(x)) * self.bn.weight.shape[0]))
    assert reason(model, torch.randn(IMAGE)) == "the model's code reads its weight"


def test_an_identity_with_a_hook_is_a_layer_between() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.BatchNorm2d(4)))
    model[1].register_forward_hook(lambda *_: None)
    assert reason(model, torch.randn(IMAGE)) == f"Identity 1 comes before it{AFTER}"


def test_attention_that_reads_its_layers_weights_is_no_obstacle() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.encoder(self.bn(self.stem(x)).flatten(2).transpose(1, 2))

    assert checked(trained(Net()), torch.randn(IMAGE))[1].folded == 1


class Misled(nn.Module):
    """Takes another branch in a recording, where its tensors are of another class."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y if type(y) is not torch.Tensor else torch.cat((y, y), 1))


def test_a_recording_that_fails_is_refused_with_the_line_it_came_from() -> None:
    line = inspect.getsourcelines(Misled.forward)[1] + 2
    with pytest.raises(
        ArgumentError,
        match=rf"a model that runs on tensors without values, got RuntimeError.* \(at test_fold.py:{line}\)",
    ):
        fold(Misled().eval(), torch.randn(1, 1, 4, 4))
