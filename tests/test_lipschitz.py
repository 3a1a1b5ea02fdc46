"""Operator norms against the singular values of the whole matrix, and Lipschitz constants of networks."""

from __future__ import annotations

import copy
import importlib
import json
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations

from striate import models, nn
from striate.diagnostics import lipschitz, operator_norm
from striate.diagnostics.bounds import Convolution, fourier_bound, overlap
from striate.diagnostics.jacobian import Jacobian, largest_singular_value
from striate.errors import ArgumentError, ArgumentTypeError, ShapeError
from striate.window import same_padding

MODES = ("zeros", "reflect", "replicate", "circular")


def matrix(layer: torch.nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The layer's matrix in float64, column by column."""
    double = copy.deepcopy(layer).double().eval()
    size = math.prod(shape[1:])
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape[1:])
    with torch.no_grad():
        columns = double(basis) - double(torch.zeros_like(basis[:1]))
    return columns.flatten(1).T


def norm_of(layer: torch.nn.Module, shape: tuple[int, ...]) -> float:
    return float(torch.linalg.matrix_norm(matrix(layer, shape), 2))


def made(draw: random.Random, dims: int, transposed: bool, mode: str) -> tuple[Any, tuple[int, ...]]:
    """A random convolution and the shape of an input that it takes."""
    groups = draw.choice([1, 1, 2])
    channels = [groups * draw.randint(1, 2) for _ in range(2)]
    size = [draw.randint(*{1: (5, 16), 2: (5, 6), 3: (4, 4)}[dims]) for _ in range(dims)]
    stride = [draw.randint(1, min(3, 5 - dims)) for _ in range(dims)]
    dilation = [draw.randint(1, 2) for _ in range(dims)]
    kernel = [draw.randint(1, 2 if dims == 3 and d == 2 else 3) for d in dilation]
    padding: Any = "same" if draw.random() < 0.2 else [draw.randint(0, min(k - 1, 4 - dims)) for k in kernel]
    given: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    given |= {"padding_mode": mode, "bias": draw.random() < 0.5}
    if transposed and padding != "same" and draw.random() < 0.5:
        given["output_padding"] = [draw.randint(0, s - 1) for s in stride]
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    return kind(*channels, kernel, **given), (2, channels[0], *size)


def as_convolution(layer: Any, shape: tuple[int, ...]) -> Convolution:
    with torch.no_grad():
        sizes = [shape[2:], tuple(layer(torch.zeros(shape)).shape[2:])]
    if layer.transposed:
        sizes.reverse()
    before, after = list(layer.padding), list(layer.padding)
    if layer.padding == "same":
        axes = zip(sizes[0], layer.kernel_size, layer.stride, layer.dilation, strict=True)
        before, after = (list(side) for side in zip(*(same_padding(*axis) for axis in axes), strict=True))
    rest: Any = (tuple(layer.stride), tuple(layer.dilation), tuple(before), tuple(after), layer.groups)
    return Convolution(layer.weight.detach().double(), *sizes, *rest, layer.padding_mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_norms_of_random_convolutions_are_those_of_their_matrices(dims: int, transposed: bool, mode: str) -> None:
    """24 cases of 9 convolutions are 216."""
    draw = random.Random(f"{dims} {transposed} {mode}")
    for _ in range(9):
        layer, shape = made(draw, dims, transposed, mode)
        exact, norm = norm_of(layer, shape), operator_norm(layer, shape)
        assert exact > 0 and abs(norm - exact) <= 1e-4 * exact, (layer, shape)
        assert norm.lower <= exact <= norm.upper, (layer, shape, norm.by)
        assert exact <= fourier_bound(as_convolution(layer, shape)).value * (1 + 1e-12), (layer, shape)


def test_the_upper_bound_of_a_circular_convolution_is_its_norm() -> None:
    draw = random.Random(0)
    for stride in (1, 2, 3):
        layer = nn.Conv2d(2, 3, (3, 2), stride=stride, padding="same", padding_mode="circular", dilation=(1, 2))
        shape = (1, 2, 2 * stride * draw.randint(1, 2), 4 * stride)
        bound = fourier_bound(as_convolution(layer, shape))
        assert bound.value == pytest.approx(norm_of(layer, shape), rel=1e-12) and bound.exact


def test_a_coarse_grid_of_frequencies_is_a_bound_that_is_close() -> None:
    """On 400 positions a kernel of 3 has a grid of 48, and 1/cos(π·2/(2·48)) = 1.0022 more."""
    for stride in (1, 2):
        layer = nn.Conv1d(2, 3, 3, padding=1, stride=stride)
        exact = norm_of(layer, (1, 2, 400))
        bound = fourier_bound(as_convolution(layer, (1, 2, 400)))
        assert exact <= bound.value <= 1.003 * exact and not bound.exact


def test_norms_of_known_convolutions() -> None:
    """Ones around a circle add up k² values; on n with zeros the norm is that of a tridiagonal Toeplitz matrix."""
    ones = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    torch.nn.init.ones_(ones.weight)
    assert operator_norm(ones, (1, 1, 9, 9)) == pytest.approx(9.0, rel=1e-9)
    line = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    torch.nn.init.ones_(line.weight)
    assert operator_norm(line, (1, 1, 10)) == pytest.approx(1 + 2 * math.cos(math.pi / 11), rel=1e-5)
    depthwise = nn.Conv2d(3, 3, 1, groups=3, bias=False)
    depthwise.weight.data = torch.tensor([1.0, -5.0, 2.0]).reshape(3, 1, 1, 1)
    norm = operator_norm(depthwise, (4, 3, 5, 5))
    assert (norm, norm.upper) == (pytest.approx(5.0), pytest.approx(5.0)) and norm.lower <= 5.0 <= norm.upper


def test_a_transposed_convolution_has_the_norm_of_its_adjoint() -> None:
    for mode in MODES:
        conv = nn.Conv2d(2, 4, 3, stride=2, padding="same", padding_mode=mode)
        back = nn.ConvTranspose2d(4, 2, 3, stride=2, padding="same", padding_mode=mode)
        back.weight.data = conv.weight.data
        assert operator_norm(conv, (1, 2, 8, 8)) == pytest.approx(operator_norm(back, (1, 4, 4, 4)), rel=1e-4)


def test_the_norm_of_a_linear_layer_is_the_largest_singular_value_of_its_weight() -> None:
    layer = nn.Linear(40, 30)
    exact = float(torch.linalg.svdvals(layer.weight.detach().double())[0])
    norm = operator_norm(layer, (5, 7, 40))
    assert norm == pytest.approx(exact, rel=1e-5) and norm.lower <= exact <= norm.upper
    assert norm.by == "the singular values of the weight" and norm.upper == pytest.approx(exact, rel=1e-11)


def test_a_large_linear_layer_is_bounded_without_its_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("striate.diagnostics.lipschitz"), "LARGEST", 8)
    thin, flat = nn.Linear(40, 30), nn.Linear(12, 10)
    torch.nn.init.ones_(flat.weight)
    flat.weight.data[0, 0] = 0.5  # the root of all squares is √119.25, that of the sums √120
    for layer, by in ((thin, "the root of all squares"), (flat, "the root of all squares")):
        exact = float(torch.linalg.svdvals(layer.weight.detach().double())[0])
        norm = operator_norm(layer, (1, layer.in_features))
        assert norm.lower <= exact <= norm.upper and norm.by == by and norm == pytest.approx(exact, rel=1e-5)
    torch.nn.init.eye_(thin.weight)
    norm = operator_norm(thin, (1, 40))
    assert norm.by == "sums of rows and columns" and norm.upper == pytest.approx(1.0)


def test_the_norm_of_a_norm_is_its_largest_factor_in_evaluation_mode() -> None:
    layer = nn.BatchNorm2d(3, eps=0.5).train()
    layer.running_var.copy_(torch.tensor([0.5, 3.5, 8.5]))
    layer.weight.data = torch.tensor([1.0, -4.0, 3.0])
    norm = operator_norm(layer, (2, 3, 4, 4))
    assert norm == pytest.approx(2.0) and norm.upper == pytest.approx(2.0) and norm.by == "the largest factor"
    assert layer.training


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AvgPool2d(3, 2, padding=1), (1, 2, 7, 7)),
        (nn.AvgPool2d(2), (1, 2, 6, 6)),
        (torch.nn.AdaptiveAvgPool2d(3), (1, 2, 7, 7)),
        (nn.LocallyConnected1d(2, 3, 9, 3, stride=2), (1, 2, 9)),
        (nn.BlurPool2d(2, 3), (1, 2, 8, 8)),
        (torch.nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 4, 4)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.AvgPool2d(2)), (1, 1, 8, 8)),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, torch.nn.Module) else "",
)
def test_other_linear_layers_have_norms_too(layer: torch.nn.Module, shape: tuple[int, ...]) -> None:
    exact, norm = norm_of(layer, shape), operator_norm(layer, shape)
    assert norm == pytest.approx(exact, rel=1e-4) and norm.lower <= exact <= norm.upper


def test_the_bound_of_averages_is_tight() -> None:
    norm = operator_norm(nn.AvgPool2d(2), (1, 8, 64, 64))
    assert norm == pytest.approx(0.5, rel=1e-9) and norm.upper == pytest.approx(0.5, rel=1e-9)
    assert norm.by == "sums of rows and columns"


def test_spectral_norm_of_torch_is_not_that_of_the_convolution() -> None:
    """It divides by the norm of the weight as a matrix (C_out, C_in · taps). The operator norm of what it makes is
    above 1, by up to the root of the taps.
    """
    ratios = []
    for kernel, stride in ((3, 1), (5, 1), (3, 2)):
        layer = parametrizations.spectral_norm(nn.Conv2d(4, 6, kernel, stride=stride, padding=1), n_power_iterations=50)
        with torch.no_grad():
            layer.train()(torch.zeros(1, 4, 8, 8))
        layer.eval()
        flat = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1).double(), 2))
        norm = operator_norm(layer, (1, 4, 8, 8))
        assert flat == pytest.approx(1.0, rel=1e-3) and norm.lower <= norm.upper < math.inf
        assert norm == pytest.approx(norm_of_parametrized(layer, (1, 4, 8, 8)), rel=1e-4)
        ratios.append(float(norm))
    assert min(ratios[:2]) > 1.3 and max(ratios) < 5.0


def norm_of_parametrized(layer: Any, shape: tuple[int, ...]) -> float:
    plain = nn.Conv2d(*layer.weight.shape[1::-1], layer.kernel_size, layer.stride, layer.padding, bias=False)
    plain.weight.data = layer.weight.detach()
    return norm_of(plain, shape)


class Standardized(torch.nn.Conv2d):
    """A subclass whose convolution is another than its weight says."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, 10 * self.weight, self.bias)


def test_a_subclass_with_another_weight_gets_no_bound_of_its_weight() -> None:
    layer = Standardized(8, 8, 3, padding=1)
    norm = operator_norm(layer, (1, 8, 16, 16))
    plain = torch.nn.Conv2d(8, 8, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    assert norm == pytest.approx(10 * operator_norm(plain, (1, 8, 16, 16)), rel=1e-4)
    assert norm.upper == math.inf and "not known" in norm.table() and norm.to_dict()["upper"] is None


def test_the_norm_of_zero_is_zero() -> None:
    layer = nn.Conv2d(1, 1, 3)
    torch.nn.init.zeros_(layer.weight)
    norm = operator_norm(layer, (1, 1, 8, 8))
    assert (norm, norm.lower, norm.upper) == (0.0, 0.0, 0.0)


def test_a_large_bias_costs_no_digits() -> None:
    layer = nn.Conv1d(1, 1, 3, padding=1)
    torch.nn.init.constant_(layer.bias, 1e8)
    bare = copy.deepcopy(layer)
    torch.nn.init.zeros_(bare.bias)
    assert operator_norm(layer, (1, 1, 10)) == operator_norm(bare, (1, 1, 10))


def test_an_operator_norm_is_shown_kept_and_compared() -> None:
    norm = operator_norm(nn.Conv2d(2, 3, 3, padding=1), (1, 2, 8, 8))
    assert json.loads(json.dumps(norm.to_dict()))["norm"] == float(norm)
    again = pickle.loads(pickle.dumps(norm))
    assert again == norm and again.upper == norm.upper and again.steps == norm.steps
    assert list(norm.steps) == sorted(norm.steps) and norm.residual <= 1e-5
    lines = norm.table().splitlines()
    assert lines[0] == f"operator norm  {norm:.6g}" and lines[2].endswith("the Fourier transform of the kernel")
    assert norm.picture().startswith("<svg") and "from below" in norm.picture()


# ------------------------------------------------------------------------------------------------------------- networks


def network() -> torch.nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(4, 4, 3, stride=2), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid()),
    )


def test_the_bounds_of_a_network_hold_for_all_differences() -> None:
    model, x = network(), torch.randn(4, 1, 8, 8)
    bounds = lipschitz(model, x)
    model.eval()
    for scale in (1e-3, 1.0, 100.0):
        a, b = torch.randn(2, 64, 1, 8, 8) * scale
        with torch.no_grad():
            ratios = (model(a) - model(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
        assert float(ratios.max()) <= bounds.upper
    assert 0 < bounds.lower <= bounds.upper and bounds.lower == max(bounds.samples) and len(bounds.samples) == 4


def test_the_upper_bound_is_the_product_of_the_layers() -> None:
    model = network()
    bounds = lipschitz(model, torch.randn(1, 1, 8, 8))
    found = {one.name: one.factor for one in bounds.factors}
    first = operator_norm(model[0], (1, 1, 8, 8), tolerance=1e-4).upper
    assert list(found) == ["0", "1", "3", "4", "7", "8"] and found["0"] == first
    assert found["3"] == pytest.approx(2.0)  # a value is in 2 × 2 windows
    assert found["8"] == pytest.approx(0.25) and found["1"] == pytest.approx(1 / math.sqrt(1 + 1e-5))
    product = math.prod(factor for factor in found.values() if factor is not None)
    assert bounds.upper == pytest.approx(product) and bounds.factors[-1].after == bounds.upper


def test_the_lower_bound_is_the_largest_derivative() -> None:
    model, x = network().eval(), torch.randn(3, 1, 8, 8)
    double = copy.deepcopy(model).double()
    exact = [
        float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(double, one.double()).reshape(3, 64), 2))
        for one in x.split(1)
    ]
    assert list(lipschitz(model, x).samples) == pytest.approx(exact, rel=1e-5)


def test_branches_add_and_joined_values_add_squares() -> None:
    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
            for layer, factor in ((self.one, 3.0), (self.two, 4.0)):
                layer.weight.data = factor * torch.eye(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.one(x), self.two(x)], 1) if self.joins else x + 2 * self.one(x) - self.two(x)

    model = Branches()
    model.joins = False
    assert lipschitz(model, torch.randn(2, 4)).upper == pytest.approx(1 + 2 * 3 + 4)
    model.joins = True
    bounds = lipschitz(model, torch.randn(2, 4))
    assert bounds.upper == pytest.approx(5.0) and bounds.lower == pytest.approx(5.0)


def test_a_factor_for_each_channel_counts_with_the_largest() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([1.0, -3.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * (x * self.scale) / 4

    bounds = lipschitz(Scaled(), torch.randn(2, 3))
    assert bounds.upper == pytest.approx(9 / 4) and bounds.lower == pytest.approx(9 / 4)


SLOPES: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (torch.nn.GELU(), 1.129),
    (torch.nn.GELU("tanh"), 1.129),
    (torch.nn.SiLU(), 1.0999),
    (torch.nn.Mish(), 1.0885),
    (torch.nn.Hardswish(), 1.5),
    (torch.nn.Hardsigmoid(), 0.166667),
    (torch.nn.Sigmoid(), 0.25),
    (torch.nn.Tanh(), 1.0),
    (torch.nn.Softplus(), 1.0),
    (torch.nn.LogSigmoid(), 1.0),
    (torch.nn.ELU(1.5), 1.5),
    (torch.nn.CELU(2.0), 1.0),
    (torch.nn.SELU(), 1.7580993408473766),
    (torch.nn.LeakyReLU(-2.0), 2.0),
    (torch.nn.PReLU(init=0.25), 1.0),
    (torch.nn.ReLU6(), 1.0),
    (torch.nn.Hardtanh(), 1.0),
]


@pytest.mark.parametrize(("activation", "slope"), SLOPES, ids=lambda given: type(given).__name__)
def test_the_constant_of_an_activation_is_its_largest_derivative(activation: Any, slope: float) -> None:
    at = torch.linspace(-8, 8, 160_001, dtype=torch.float64, requires_grad=True)
    activation = copy.deepcopy(activation).double()
    (derivative,) = torch.autograd.grad(activation(at).sum(), at)
    steepest = float(derivative.abs().max())
    assert 0.999 * slope <= steepest <= slope * (1 + 1e-12)
    assert lipschitz(activation.float(), torch.randn(2, 3)).upper == pytest.approx(slope, rel=1e-6)


def test_softmax_and_log_softmax_reach_their_constants() -> None:
    half = Jacobian(lambda x: x.softmax(0), torch.tensor([0.0, 0.0, -50.0], dtype=torch.float64))
    assert largest_singular_value(half, 1e-9).value == pytest.approx(0.5)
    sure = Jacobian(lambda x: x.log_softmax(0), torch.tensor([50.0, 0.0, 0.0], dtype=torch.float64))
    assert largest_singular_value(sure, 1e-9).value == pytest.approx(math.sqrt(3))
    assert lipschitz(torch.nn.Softmax(1), torch.randn(2, 3)).upper == 0.5
    assert lipschitz(torch.nn.LogSoftmax(1), torch.randn(2, 3)).upper == pytest.approx(math.sqrt(3))


def test_norms_of_samples_count_with_the_root_of_eps() -> None:
    layer = nn.GroupNorm(2, 4, eps=0.04)
    layer.weight.data = torch.tensor([1.0, 2.0, -3.0, 1.0])
    bounds = lipschitz(nn.Sequential(layer), torch.randn(8, 4, 5))
    assert bounds.upper == pytest.approx(15.0) and bounds.lower < 15.0
    flat = lipschitz(nn.Sequential(layer), torch.ones(1, 4, 5) + 1e-6 * torch.randn(1, 4, 5))
    assert flat.lower == pytest.approx(15.0, rel=1e-3)


def test_a_value_is_in_as_many_windows_as_overlap_says() -> None:
    for size in range(1, 5):
        for stride in range(1, 5):
            for dilation in range(1, 4):
                seen = [o * stride + t * dilation for o in range(40) for t in range(size)]
                assert overlap(size, stride, dilation) == max(seen.count(p) for p in range(30, 60))


def test_models_of_striate_have_bounds() -> None:
    for model, shape in ((models.lenet5(), (1, 1, 28, 28)), (models.resnet_cifar(layers=8), (1, 3, 8, 8))):
        bounds = lipschitz(model, torch.rand(shape))
        assert 0 < bounds.lower <= bounds.upper < math.inf


def test_bounds_are_shown_and_kept() -> None:
    bounds = lipschitz(network(), torch.randn(2, 1, 8, 8))
    kept = json.loads(json.dumps(bounds.to_dict()))
    assert kept["upper"] == bounds.upper and kept["factors"][0]["name"] == "0" and len(kept["samples"]) == 2
    lines = bounds.table().splitlines()
    assert lines[0] == f"lower bound  {bounds.lower:.4g}, the largest derivative at 2 inputs"
    assert lines[3].split() == ["layer", "type", "factor", "up", "to", "here", "by"] and len(lines) == 10
    assert bounds.picture().startswith("<svg")


# --------------------------------------------------------------------------------------------------------------- errors


def text(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as raised:
        call()
    return str(raised.value)


def test_what_is_no_linear_layer_is_refused_in_one_sentence() -> None:
    layer = nn.Conv2d(3, 4, 3)
    assert text(ArgumentTypeError, lambda: operator_norm(layer.weight, (1, 3, 8, 8))) == (  # type: ignore[arg-type]
        "operator_norm expects a layer, a torch.nn.Module, got Parameter. Give the layer itself, and a tensor of "
        "weights as a layer with them."
    )
    assert text(ShapeError, lambda: operator_norm(layer, (1, 3, 0, 8))) == (
        "operator_norm expects an input_shape of whole numbers from 1 on, got (1, 3, 0, 8). Give (1, 3, 32, 32) for a "
        "convolution of two axes."
    )
    assert text(ArgumentError, lambda: operator_norm(layer, (1, 3, 8, 8), tolerance=0.0)) == (
        "operator_norm expects a tolerance between 0 and 1, got 0.0. Leave it out."
    )
    wrong = text(ShapeError, lambda: operator_norm(layer, (1, 2, 8, 8)))
    assert wrong.startswith("operator_norm expects an input_shape that Conv2d takes, got (1, 2, 8, 8): ShapeError: ")
    assert wrong.endswith("Give the shape of its input, batch and channels first.")
    relu = text(ArgumentError, lambda: operator_norm(torch.nn.ReLU(), (1, 4)))
    assert relu == (
        "operator_norm expects a layer that is linear in evaluation mode, up to a constant, got ReLU, whose output "
        "changes by 0.948 instead of 0. Take its linear parts one by one, or lipschitz(model, x) for a network."
    )
    assert "LayerNorm, whose output" in text(ArgumentError, lambda: operator_norm(nn.LayerNorm(4), (1, 4)))


def test_what_has_no_known_constant_is_refused_in_one_sentence() -> None:
    class Squares(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    class Two(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x + 1

    assert text(ArgumentError, lambda: lipschitz(nn.Sequential(Squares()), torch.ones(1, 2))) == (
        "lipschitz expects operations whose Lipschitz constant is known, got aten.mul in 0 (Squares). Take the part of "
        "the model before it."
    )
    assert text(ArgumentError, lambda: lipschitz(Two(), torch.ones(1, 2))) == (
        "lipschitz expects a model whose output is one tensor, got 2 of them. Wrap it in a module that returns the one "
        "you mean."
    )
    assert text(ArgumentTypeError, lambda: lipschitz(Two(), (1, 2))) == (  # type: ignore[arg-type]
        "lipschitz expects x, a tensor of floating-point inputs, got tuple. Give a batch of images (N, C, H, W)."
    )
    assert text(ArgumentTypeError, lambda: lipschitz(Two(), torch.ones(2, dtype=torch.int64))) == (
        "lipschitz expects x, a tensor of floating-point inputs, got torch.int64 (2,). Give a batch of images "
        "(N, C, H, W)."
    )
    no_statistics = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False))
    assert text(ArgumentError, lambda: lipschitz(no_statistics, torch.randn(4, 2))) == (
        "lipschitz expects operations whose Lipschitz constant is known, got aten.native_batch_norm in 0 "
        "(BatchNorm1d). Take the part of the model before it."
    )
