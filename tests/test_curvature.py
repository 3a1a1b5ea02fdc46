"""Curvature by products alone is that of dense Hessians and of closed forms, in both modes; nothing is moved by it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import nn as torch_nn
from torch.func import functional_call

from striate import nn
from striate.diagnostics import curvature
from striate.diagnostics.lanczos import lanczos, rademacher
from striate.diagnostics.products import objective
from striate.errors import ArgumentError, ArgumentTypeError

Batches = Sequence[tuple[Tensor, Tensor]]


def images(count: int = 2, size: int = 12) -> Batches:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(size, 1, 6, 6, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for _ in range(count)
    ]


def settle(model: torch_nn.Module) -> torch_nn.Module:
    """Gives norms running statistics that differ from those of a batch, and scales and shifts that are not 1 and 0."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.copy_(0.3 * torch.randn(len(module.running_mean), generator=generator))
                module.running_var.copy_(0.3 + torch.rand(len(module.running_var), generator=generator))
            if hasattr(module, "running_mean") or isinstance(module, torch_nn.GroupNorm | torch_nn.LayerNorm):
                module.weight.add_(0.3 * torch.randn(module.weight.shape, generator=generator))
                module.bias.add_(0.3 * torch.randn(module.bias.shape, generator=generator))
    return model


def plain(kind: Any = nn) -> torch_nn.Module:
    torch.manual_seed(0)
    return kind.Sequential(kind.Flatten(), kind.Linear(36, 3), kind.Tanh(), kind.Linear(3, 3))


def convolutions(kind: Any = nn) -> torch_nn.Module:
    torch.manual_seed(1)
    layers = (kind.Conv2d(1, 3, 3), kind.ReLU(), kind.MaxPool2d(2), kind.Conv2d(3, 4, 2), kind.GELU(), kind.Flatten())
    return kind.Sequential(*layers, kind.Linear(4, 3))


def batch_norm(kind: Any = nn) -> torch_nn.Module:
    torch.manual_seed(2)
    layers = (kind.Conv2d(1, 3, 3, bias=False), kind.BatchNorm2d(3), kind.ReLU(), kind.AvgPool2d(2))
    more = (kind.Conv2d(3, 4, 2), kind.BatchNorm2d(4), kind.ReLU(), kind.Flatten(), kind.Linear(4, 3))
    return settle(kind.Sequential(*layers, *more))


def other_norms(kind: Any = nn) -> torch_nn.Module:
    torch.manual_seed(3)
    layers = (kind.Conv2d(1, 4, 3), kind.GroupNorm(2, 4), kind.SiLU(), kind.AdaptiveAvgPool2d(2), kind.Flatten())
    return settle(kind.Sequential(*layers, kind.Linear(16, 4), kind.LayerNorm(4), kind.ReLU(), kind.Linear(4, 3)))


def wide(kind: Any = nn) -> torch_nn.Module:
    torch.manual_seed(4)
    layers = (kind.Conv2d(1, 6, 3, bias=False), kind.BatchNorm2d(6), kind.ReLU(), kind.MaxPool2d(2))
    more = (kind.Conv2d(6, 14, 2), kind.BatchNorm2d(14), kind.ReLU(), kind.Flatten(), kind.Linear(14, 3))
    return settle(kind.Sequential(*layers, *more))


NETS = (plain, convolutions, batch_norm, other_norms)


def dense(model: torch_nn.Module, loss: Callable[..., Tensor], batches: Batches, mode: str) -> Tensor:
    """The mean Hessian by all parameters, in float64, as torch makes it row by row."""
    own = copy.deepcopy(model).double()
    own.train(mode == "train")
    names = [name for name, p in own.named_parameters() if p.requires_grad]
    shapes = [own.get_parameter(name).shape for name in names]

    def mean(w: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        losses = []
        for x, target in batches:
            buffers = {name: buffer.clone() for name, buffer in own.named_buffers()}
            losses.append(loss(functional_call(own, {**buffers, **weights}, (x.double(),)), target))
        return torch.stack(losses).mean()

    w = torch.cat([own.get_parameter(name).detach().flatten() for name in names])
    return torch.autograd.functional.hessian(mean, w)


# ----------------------------------------------------------------------------------------------- against dense Hessians


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("net", [*NETS, pytest.param(wide, marks=pytest.mark.nightly)], ids=lambda net: net.__name__)
def test_eigenvalues_and_trace_are_those_of_the_dense_hessian(net: Callable[..., torch_nn.Module], mode: str) -> None:
    model, batches = net(), images(1)
    matrix = dense(model, F.cross_entropy, batches, mode)
    expected = torch.linalg.eigvalsh(matrix)
    scale = float(expected.abs().max())
    assert len(matrix) <= 500 and scale > 0.1
    found = curvature(model, F.cross_entropy, batches, mode, k=3, steps=len(matrix) - 10)
    assert found.converged and found.products < len(matrix) - 10
    assert found.largest == pytest.approx(expected.flip(0)[:3].tolist(), abs=1e-3 * scale)
    assert found.smallest == pytest.approx(float(expected[0]), abs=1e-3 * scale)
    assert abs(found.trace - float(matrix.trace())) < 4 * found.trace_error
    exact = curvature(model, F.cross_entropy, batches, mode, k=3, steps=500)
    assert [value for value, _ in exact.nodes] == pytest.approx(expected.tolist(), abs=1e-9 * scale)
    assert exact.trace == pytest.approx(float(matrix.trace()), abs=1e-9 * scale) and exact.trace_error == 0


@pytest.mark.parametrize("operator", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_striates_layers_have_the_curvature_of_torchs(mode: str, operator: str) -> None:
    for net in NETS:
        ours, theirs = net(), net(torch_nn)
        theirs.load_state_dict(ours.state_dict())
        products = []
        for model in (ours, theirs):
            with objective("test", model, F.cross_entropy, images(1), mode=mode) as f:
                v = torch.randn(f.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
                products.append(f.product(operator, v))
        torch.testing.assert_close(*products, rtol=1e-9, atol=1e-11)
        assert float(products[0].norm()) > 0.1


def test_products_go_through_striates_operators() -> None:
    events: dict[str, set[str]] = {}
    for kind in ("forward", "product"):
        with objective("test", batch_norm(), F.cross_entropy, images(1)) as f:
            if kind == "product":
                f.product("hessian", torch.ones(f.size))  # the graph is made here
            with torch.profiler.profile() as watched:
                f.product("hessian", torch.ones(f.size)) if kind == "product" else f.gradient(f.start)
        events[kind] = {event.name for event in watched.events()}
    assert {"striate::norm", "striate::norm_backward"} <= events["forward"]
    assert "striate::norm" not in events["product"]  # one batch: the graph is kept, nothing is computed forward
    assert any(name.startswith("striate::") for name in events["product"])


@pytest.mark.parametrize("operator", ["hessian", "gauss_newton"])
def test_a_product_is_symmetric_and_the_mean_over_batches(operator: str) -> None:
    batches = images(3)
    generator = torch.Generator().manual_seed(0)
    with objective("test", batch_norm(), F.cross_entropy, batches) as f:
        u, v = torch.randn(2, f.size, generator=generator, dtype=torch.float64)
        whole = f.product(operator, v)
        assert float(u @ whole) == pytest.approx(float(v @ f.product(operator, u)), rel=1e-9)
    parts = []
    for batch in batches:
        with objective("test", batch_norm(), F.cross_entropy, [batch]) as f:
            parts.append(f.product(operator, v))
    torch.testing.assert_close(whole, torch.stack(parts).mean(0), rtol=1e-9, atol=1e-12)
    assert float((parts[0] - parts[1]).norm()) > 0.01 * float(whole.norm())


def test_float32_is_within_a_thousandth_too() -> None:
    for net in NETS[2:]:
        single, double = (
            curvature(net(), F.cross_entropy, images(1), "train", dtype=dtype) for dtype in (None, torch.float64)
        )
        assert single.largest[0] == pytest.approx(double.largest[0], rel=1e-3)
        assert single.smallest == pytest.approx(double.smallest, abs=1e-3 * double.largest[0])


# --------------------------------------------------------------------------------------------------------- closed forms


class Weights(torch_nn.Module):
    """A model whose output is its weights."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = torch_nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return self.w


def quadratic(matrix: Tensor) -> Callable[..., Tensor]:
    return lambda w, target: 0.5 * w @ matrix.to(w) @ w


NOTHING = [(torch.zeros(1), torch.zeros(1))]


def test_the_hessian_of_a_quadratic_is_its_matrix() -> None:
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    values = torch.linspace(-3, 5, 40, dtype=torch.float64)
    found = curvature(Weights(torch.randn(40)), quadratic(q @ values.diag() @ q.T), NOTHING, "eval", k=4)
    assert found.largest == pytest.approx(values.flip(0)[:4].tolist(), rel=1e-9)
    assert found.smallest == pytest.approx(-3, rel=1e-9) and found.trace == pytest.approx(40, rel=1e-9)
    assert found.size == found.products == 40 and max(found.residuals) < 1e-9 and found.trace_error == 0
    assert found.stable_rate == pytest.approx(0.4) and found.scaled == pytest.approx(5 * found.weight_norm**2)


def test_the_hessian_of_logistic_regression_is_its_formula() -> None:
    torch.manual_seed(0)
    model, x = torch_nn.Linear(5, 1, bias=False), torch.randn(30, 5)
    target = torch.randint(0, 2, (30, 1)).float()
    p = torch.sigmoid(x.double() @ model.weight[0].detach().double())
    matrix = x.double().T @ (p * (1 - p) / 30).diag() @ x.double()
    found = curvature(model, torch_nn.BCEWithLogitsLoss(), [(x, target)], "train", k=5)
    assert found.largest == pytest.approx(torch.linalg.eigvalsh(matrix).flip(0).tolist(), rel=1e-9)
    assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-12)


def test_the_hessian_of_softmax_regression_is_its_formula() -> None:
    torch.manual_seed(0)
    model, x, target = torch_nn.Linear(4, 3, bias=False), torch.randn(20, 4), torch.randint(0, 3, (20,))
    p = torch.softmax(model(x).double(), 1).detach()
    inner = p.diag_embed() - p[:, :, None] * p[:, None]
    matrix = torch.einsum("nab,nc,nd->acbd", inner, x.double(), x.double()).reshape(12, 12) / 20
    found = curvature(model, F.cross_entropy, [(x, target)], "eval", k=12)
    assert found.largest == pytest.approx(torch.linalg.eigvalsh(matrix).flip(0).tolist(), abs=1e-7)


def test_the_hessian_of_a_linear_net_of_two_weights_is_its_formula() -> None:
    model = torch_nn.Sequential(torch_nn.Linear(1, 1, bias=False), torch_nn.Linear(1, 1, bias=False))
    a, b, x, y = 0.75, -1.5, 2.0, 3.0
    torch_nn.init.constant_(model[0].weight, a)
    torch_nn.init.constant_(model[1].weight, b)
    cross = 2 * (2 * a * b * x - y) * x  # of (b a x - y)²
    matrix = torch.tensor([[2 * (b * x) ** 2, cross], [cross, 2 * (a * x) ** 2]], dtype=torch.float64)
    expected = torch.linalg.eigvalsh(matrix).tolist()
    found = curvature(model, torch_nn.MSELoss(), [(torch.tensor([[x]]), torch.tensor([[y]]))], "train", k=2)
    assert found.largest == pytest.approx(expected[::-1], rel=1e-12) and expected[0] < 0 < expected[1]
    assert curvature(
        model, torch_nn.MSELoss(), [(torch.tensor([[x]]), torch.tensor([[y]]))], "train", layer="1"
    ).largest == pytest.approx([float(matrix[1, 1])], rel=1e-12)


def test_a_repeated_eigenvalue_is_found_as_often_as_it_is_asked_for() -> None:
    torch.manual_seed(0)
    model, x = torch_nn.Linear(60, 3, bias=False), torch.randn(100, 60)  # H = I₃ ⊗ 2/300 xᵀx: each value three times
    expected = torch.linalg.eigvalsh(x.double().T @ x.double() * 2 / 300).flip(0)
    found = curvature(model, torch_nn.MSELoss(), [(x, torch.zeros(100, 3))], "eval", k=4, tolerance=1e-6)
    assert found.products < 180
    assert found.largest == pytest.approx([float(expected[0])] * 3 + [float(expected[1])], rel=1e-6)


@pytest.mark.parametrize("factor", [3.0, 0.5])
def test_before_a_norm_the_curvature_goes_with_one_by_the_square_of_the_weights(factor: float) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-12), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model, batches = nn.Sequential(*layers), images(1)
    before = curvature(model, F.cross_entropy, batches, "train", layer="0", tolerance=1e-9)
    with torch.no_grad():
        model[0].weight.mul_(factor)
    after = curvature(model, F.cross_entropy, batches, "train", layer="0", tolerance=1e-9)
    assert before.size == 36 and before.largest[0] > 0.01
    # the float32 weights times 3 are rounded: 6e-8 of each
    assert after.largest[0] * factor**2 == pytest.approx(before.largest[0], rel=1e-6)
    assert after.trace * factor**2 == pytest.approx(before.trace, rel=1e-6)
    assert after.scaled == pytest.approx(before.scaled, rel=1e-6)


# --------------------------------------------------------------------------------------------------------- Gauss-Newton


def test_gauss_newton_is_the_hessian_of_a_linear_model() -> None:
    torch.manual_seed(0)
    model, batch = torch_nn.Linear(6, 4), (torch.randn(20, 6), torch.randint(0, 4, (20,)))
    for loss in (F.cross_entropy, lambda z, t: (z.exp() + z.pow(4)).mean()):
        found, expected = (
            curvature(model, loss, [batch], "train", operator=name).nodes for name in ("gauss_newton", "hessian")
        )
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-9)


def test_gauss_newton_is_the_hessian_of_the_last_layer_alone() -> None:
    for layer, equal in (("8", True), ("0", False)):
        gauss_newton, hessian = (
            curvature(batch_norm(), F.cross_entropy, images(1), "train", layer=layer, operator=operator)
            for operator in ("gauss_newton", "hessian")
        )
        assert (abs(gauss_newton.trace - hessian.trace) < 1e-9) == equal


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gauss_newton_is_the_product_of_jacobians_and_has_no_negative_eigenvalue(mode: str) -> None:
    model, ((x, target),) = batch_norm(), images(1)
    own = copy.deepcopy(model).double().train(mode == "train")
    names, shapes = zip(*((name, p.shape) for name, p in own.named_parameters()), strict=True)

    def output(w: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        buffers = {name: buffer.clone() for name, buffer in own.named_buffers()}
        return functional_call(own, {**buffers, **weights}, (x.double(),)).flatten()

    w = torch.cat([p.detach().flatten() for p in own.parameters()])
    jacobian = torch.autograd.functional.jacobian(output, w)
    inner = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z.view(12, 3), target), output(w).detach())
    expected = torch.linalg.eigvalsh(jacobian.T @ inner @ jacobian)
    found = curvature(model, F.cross_entropy, [(x, target)], mode, operator="gauss_newton", steps=500, k=5)
    assert found.largest == pytest.approx(expected.flip(0)[:5].tolist(), rel=1e-9)
    assert found.smallest > -1e-12 and found.trace == pytest.approx(float(expected.sum()), rel=1e-9)


# ---------------------------------------------------------------------------------------------------- trace and density


def test_the_standard_error_of_the_trace_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    half = torch.randn(200, 200, dtype=torch.float64)
    matrix = half + half.T
    off_diagonal = float(matrix.square().sum() - matrix.diagonal().square().sum())
    expected = math.sqrt(2 * off_diagonal / 400)  # Var vᵀHv = 2 Σ_{i≠j} h_ij²
    found = curvature(Weights(torch.randn(200)), quadratic(matrix), NOTHING, "eval", steps=10, samples=400)
    assert found.trace_error == pytest.approx(expected, rel=0.15)  # of 400 samples: 1/√800 = 3.5 % is one deviation
    assert abs(found.trace - float(matrix.trace())) < 3 * expected
    assert found.products == 10 + 399 and not found.converged


def test_the_density_integrates_to_one_and_to_the_trace() -> None:
    for steps in (20, 200):
        options = {"steps": steps, "tolerance": 0, "runs": 5, "samples": 5}
        found = curvature(batch_norm(), F.cross_entropy, images(1), "train", **options)
        places, values = (torch.tensor(numbers, dtype=torch.float64) for numbers in found.density(20_000))
        assert float(torch.trapezoid(values, places)) == pytest.approx(1, abs=1e-4)  # 4 deviations: 6e-5 is beyond
        mean = float(torch.trapezoid(values * places, places))
        # with each vector its first moment is vᵀHv/n: the very numbers that the trace is the mean of
        assert mean * found.size == pytest.approx(found.trace, rel=1e-3, abs=1e-3 * found.largest[0])
        assert sum(weight for _, weight in found.nodes) == pytest.approx(1, rel=1e-9)


def test_the_density_by_quadrature_is_near_that_of_all_eigenvalues() -> None:
    model, batches = batch_norm(), images(1)
    near = curvature(model, F.cross_entropy, batches, "train", steps=40, tolerance=0, runs=5)
    exact = curvature(model, F.cross_entropy, batches, "train", steps=500)
    assert not near.trace_error == exact.trace_error == 0 and near.largest == pytest.approx(exact.largest, rel=1e-6)
    for limit in (-1.0, -0.3, 0.3, 1.0):  # between eigenvalues; a node has about 1/40 of them
        below, expected = (sum(w for value, w in found.nodes if value < limit) for found in (near, exact))
        assert below == pytest.approx(expected, abs=0.05)


def test_the_density_of_equal_eigenvalues_is_one_gaussian() -> None:
    found = curvature(Weights(torch.ones(5)), quadratic(2 * torch.eye(5)), NOTHING, "eval")
    assert [number for node in found.nodes for number in node] == pytest.approx([2.0, 0.2] * 5)
    density = found.density(3)
    assert density.eigenvalues == pytest.approx((2 - 0.08, 2, 2 + 0.08))
    assert density.values[1] == pytest.approx(1 / (0.02 * math.sqrt(2 * math.pi)))


# -------------------------------------------------------------------------------------------------------------- Lanczos


def iterated(matrix: Tensor, steps: int, starts: int = 1, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    return lanczos(matrix.mv, rademacher(starts, len(matrix), generator), steps, generator, **options)


def test_residuals_are_those_of_the_vectors_and_bound_the_distance() -> None:
    torch.manual_seed(0)
    half = torch.randn(50, 50, dtype=torch.float64)
    matrix = half + half.T
    exact = torch.linalg.eigvalsh(matrix)
    for starts in (1, 3):
        for steps in (1, 5, 20, 49):
            found = iterated(matrix, steps, starts)
            assert len(found.values) == steps and not found.complete
            distances = (found.values[:, None] - exact).abs().amin(1)
            assert bool((distances <= found.residuals + 1e-12).all())
            assert float(found.weights.sum()) == pytest.approx(1, rel=1e-12)
            # the three-term recurrence: β_m times the last component of each vector of T, or more of a block
            assert float(found.residuals.max()) > 1e-6


def test_all_eigenvalues_come_after_n_steps_however_often_they_are_repeated() -> None:
    values = torch.tensor([4.0] * 6 + [0.0] * 5 + [-2.0, 1e-8], dtype=torch.float64)
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64))[0]
    for starts in (1, 2, 13):
        found = iterated(q @ values.diag() @ q.T, 100, starts)
        assert found.complete and found.values.tolist() == pytest.approx(values.sort().values.tolist(), abs=1e-12)
    assert iterated(torch.zeros(4, 4, dtype=torch.float64), 4).values.tolist() == [0] * 4


def test_an_outlier_is_found_in_few_steps_though_rounding_brings_no_copies() -> None:
    values = torch.cat([torch.linspace(0, 1, 399, dtype=torch.float64), torch.tensor([100.0], dtype=torch.float64)])
    found = iterated(values.diag(), 60)
    assert float(found.values[-1]) == pytest.approx(100, rel=1e-12) and float(found.values[-2]) < 1 + 1e-9
    few = iterated(values.diag(), 60, is_enough=lambda ritz: bool(ritz.residuals[-1] < 0.1))
    assert len(few.values) < 6


# --------------------------------------------------------------------------------------- what is measured, and of which


def test_both_modes_stand_beside_each_other_with_their_gap() -> None:
    model, batches = batch_norm(), images(1)
    both = curvature(model, F.cross_entropy, batches, layer="0")
    for mode in ("train", "eval"):
        assert getattr(both, mode) == curvature(model, F.cross_entropy, batches, mode, layer="0")
    assert both.gap == both.eval.largest[0] - both.train.largest[0]
    assert abs(both.gap) > 0.05 * both.train.largest[0]
    train, evaluation = both.train.largest[0], both.eval.largest[0]
    assert both.summary == (
        f"The largest eigenvalue is {evaluation:.4g} in evaluation mode, {evaluation / train:.3g} times that in "
        f"training mode, {train:.4g}: a gap of {both.gap:.4g}."
    )


def test_running_statistics_and_modes_stay_and_a_call_can_be_repeated() -> None:
    model = batch_norm()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    first = curvature(model, F.cross_entropy, images(), steps=4, samples=2)
    assert first == curvature(model, F.cross_entropy, images(), steps=4, samples=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].training and not model[1].training and all(p.grad is None for p in model.parameters())


def test_frozen_weights_are_constants() -> None:
    model = convolutions()
    model[0].requires_grad_(False)
    found = curvature(model, F.cross_entropy, images(1), "train", steps=500)
    expected = dense(model, F.cross_entropy, images(1), "train")
    assert found.size == len(expected) == 67 and found.trace == pytest.approx(float(expected.trace()), rel=1e-9)


def test_weights_that_are_used_twice_count_once() -> None:
    model = torch_nn.Sequential(torch_nn.Linear(2, 2, bias=False), torch_nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    torch_nn.init.eye_(model[0].weight)
    x = torch.ones(1, 2)
    for layer in (None, "0", "1", "1.weight"):
        found = curvature(model, lambda y, t: y.sum(), [(x, x)], "train", layer=layer)
        # Σ W W x: the second derivative by W_ij and W_kl is (1ᵢ δ_jk x_l + 1_k δ_li x_j), a matrix of trace 4
        assert found.size == 4 and found.trace == pytest.approx(4)


def test_dropout_drops_the_same_units_in_each_product() -> None:
    torch.manual_seed(0)
    layers = (torch_nn.Flatten(), torch_nn.Linear(36, 3), torch_nn.Dropout(0.5), torch_nn.Linear(3, 3))
    model = torch_nn.Sequential(*layers)
    products = {}
    for seed in (0, 1):
        with objective("test", model, F.cross_entropy, images(3), seed=seed) as f:  # forward anew in each product
            u, v = torch.randn(2, f.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            products[seed] = f.product("hessian", u)
            assert float(v @ products[seed]) == pytest.approx(float(u @ f.product("hessian", v)), rel=1e-9)
    assert float((products[0] - products[1]).norm()) > 0.1 * float(products[0].norm())


def test_loss_modules_with_weights_and_inputs_of_several_parts_are_taken() -> None:
    class Sum(torch_nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch_nn.Linear(4, 3)

        def forward(self, parts: dict[str, Tensor]) -> Tensor:
            return self.linear(parts["a"] + parts["b"])

    torch.manual_seed(0)
    model, target = Sum(), torch.randint(0, 3, (10,))
    a, b = torch.randn(2, 10, 4)
    loss = torch_nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    found = curvature(model, loss, [({"a": a, "b": b}, target)], "train")
    expected = curvature(model.linear, loss, [(a + b, target)], "train")
    assert found.largest == pytest.approx(expected.largest, rel=1e-6)  # a + b was rounded to float32


def test_a_loss_linear_in_the_weights_has_no_curvature() -> None:
    model, batch = torch_nn.Linear(3, 1), (torch.ones(2, 3), torch.ones(2))
    for operator in ("hessian", "gauss_newton"):
        found = curvature(model, lambda y, t: y.sum(), [batch], "train", operator=operator)
        assert (found.largest, found.smallest, found.trace, found.stable_rate) == ((0.0,), 0.0, 0.0, None)


def test_within_no_grad_and_inference_mode_the_same_is_measured() -> None:
    expected = curvature(plain(), F.cross_entropy, images(1), "eval")
    for context in (torch.no_grad, torch.inference_mode):
        model = plain()
        with context():
            assert curvature(model, F.cross_entropy, images(1), "eval") == expected


def test_too_few_steps_are_named() -> None:
    found = curvature(plain(), F.cross_entropy, images(1), "train", steps=3)
    assert not found.converged and found.residuals[0] > 1e-3 * found.largest[0]
    assert found.table().splitlines()[-1] == "Not converged: give more steps, or a higher tolerance."


# --------------------------------------------------------------------------------------------------------------- output


def closed_form() -> Any:
    batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)  # H = xᵀx
    return torch_nn.Linear(2, 1, bias=False), torch_nn.MSELoss(), [batch]


def test_the_table_has_values_errors_and_what_they_mean() -> None:
    model, loss, batches = closed_form()
    torch_nn.init.constant_(model.weight, 3.0)
    assert curvature(model, loss, batches, "train").table().splitlines() == [
        "Hessian of a loss of 14.5 by the 2 weights, training mode, by 2 products",
        "",
        "                     value  error",
        "eigenvalue 1             4  exact",
        "smallest eigenvalue      1  exact",
        "trace                    5  exact",
        "eigenvalue 1 · ‖w‖²     72",
        "largest stable rate    0.5",
    ]


def test_results_are_json_and_svg() -> None:
    model, loss, batches = closed_form()
    both = curvature(model, loss, batches, k=2)
    made = json.loads(json.dumps(both.to_dict(), allow_nan=False))
    assert made["gap"] == 0 and made["train"]["mode"] == "train" and made["eval"]["largest"] == pytest.approx([4, 1])
    assert set(made["eval"]) == {*vars(both.eval), "scaled", "stable_rate"}
    table = both.table().splitlines()
    assert table[0].endswith("by the 2 weights, both modes, by 2 products")
    assert table[2].split() == ["training", "error", "evaluation", "error"] and table[-1] == both.summary
    assert all(len(line) <= 60 for line in both.table(60).splitlines()[2:-2])
    for picture, names in ((both.picture(), ("training mode", "evaluation mode")), (both.eval.picture(), ["evalu"])):
        assert picture.startswith("<svg") and picture.rstrip().endswith("</svg>")
        assert all(name in picture for name in names) and "Spectrum of the Hessian" in picture


# --------------------------------------------------------------------------------------------------------------- errors


def check(error: type[Exception], text: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        curvature(*arguments, **options)
    assert str(caught.value) == text


def test_arguments_out_of_range_are_named() -> None:
    def wrong(text: str, **options: Any) -> None:
        check(ArgumentError, f"curvature expects {text}", *closed_form(), **options)

    wrong("the mode 'train', 'eval' or 'both', got 'test'. Leave it out.", mode="test")
    wrong(
        "the operator 'hessian' or 'gauss_newton', got 'fisher'. Leave it out for the Hessian.", operator="fisher"
    )
    wrong("k from 1 on, got 0. Leave it out.", k=0)
    wrong("steps from 1 on, got 2.5. Leave it out.", steps=2.5)
    wrong("samples from 2 on, got 1. Leave it out.", samples=1)
    wrong("runs from 1 on, got True. Leave it out.", runs=True)
    wrong("k = 2 steps at least, got 1. Leave steps out.", k=2, steps=1)
    wrong("runs up to the 10 samples, got 11. Ask for more samples.", runs=11)
    wrong("a tolerance from 0 on, got nan. Leave it out for 1e-3.", tolerance=math.nan)
    wrong("k up to the 2 weights that learn, got 3. Ask for fewer eigenvalues.", k=3)
    wrong("the name of a layer, got '1'. Take a name of named_modules().", layer="1")
    wrong("the name of a layer, got 'wieght'. Take a name of named_modules(). Did you mean weight?", layer="wieght")
    found = curvature(*closed_form(), mode="eval")
    for text, call in (
        ("2 points at least, got 1. Leave them out for 400.", lambda: found.density(1)),
        ("a width above 0, got 0. Leave it out.", lambda: found.density(width=0)),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        assert str(caught.value) == f"Curvature.density expects {text}"


def test_batches_that_are_none_or_no_pairs_are_named() -> None:
    model, loss, ((x, target),) = closed_form()
    text = "curvature expects a batch at least, got none. Give a list of pairs (x, target)."
    check(ArgumentError, text, model, loss, [])
    check(ArgumentError, text, model, loss, iter(()), "train")
    text = "curvature expects batches that are pairs (x, target), got Tensor. Put one batch into a list: [(x, target)]."
    check(ArgumentTypeError, text, model, loss, (x, target))
    check(ArgumentTypeError, text.replace("Tensor", "3 parts"), model, loss, [(x, target, x)])
    text = "curvature expects batches with samples, got an empty one. Leave it out."
    check(ArgumentError, text, model, loss, [(x, target), (x[:0], target[:0])])


def test_a_model_without_a_parameter_that_learns_is_named() -> None:
    model, loss, batches = closed_form()
    text = "curvature expects a parameter that learns, got none{}. Set requires_grad of the weights to measure."
    check(ArgumentError, text.format(" in '0'"), torch_nn.Sequential(torch_nn.ReLU(), model), loss, batches, layer="0")
    check(ArgumentError, text.format(" with requires_grad"), model.requires_grad_(False), loss, batches)
    check(ArgumentError, text.format(" with requires_grad"), torch_nn.ReLU(), loss, batches)


def test_a_model_of_torchscript_is_named() -> None:
    model, loss, batches = closed_form()
    hint = "Give the model as it was before torch.jit."
    text = f"curvature expects a model whose weights can be replaced, got one of TorchScript. {hint}"
    check(ArgumentTypeError, text, torch.jit.script(model), loss, batches)


def test_a_loss_that_is_no_number_is_named() -> None:
    model, _, batches = closed_form()
    text = "curvature expects a loss that is one number, got (2, 1). Take its mean over the samples."
    check(ArgumentError, text, model, torch_nn.MSELoss(reduction="none"), batches)
    text = "curvature expects a loss that is one number, got float. Take its mean over the samples."
    check(ArgumentError, text, model, lambda y, t: y.sum().item(), batches)
    text = (
        "curvature expects a loss that depends on the weights, got one that no weight changes. Do not detach the "
        "output, nor compute it under no_grad."
    )
    check(ArgumentError, text, model, lambda y, t: y.detach().sum(), batches)


def test_a_loss_that_is_not_finite_is_named() -> None:
    model, loss, ((x, target),) = closed_form()
    hint = "Look for weights, running statistics or inputs that are not finite, and for a learning rate too high."
    text = f"curvature expects a loss that is finite, got nan. {hint}"
    check(ArgumentError, text, model, loss, [(x * math.nan, target)])
    text = f"curvature expects a loss that is finite, got inf. {hint}"
    check(ArgumentError, text, model, lambda y, t: y.sum() + math.inf, [(x, target)])
    text = f"curvature expects a gradient that is finite, got 2 of 2 numbers that are not. loss: 0.0. {hint}"
    check(ArgumentError, text, model, lambda y, t: (y * 0).sqrt().sum(), [(x, target)])


def test_what_has_no_second_derivative_is_named() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            return dy.clone()

    model, _, batches = closed_form()
    text = (
        "curvature expects a model and a loss that can be differentiated twice, got {}. Use operations whose gradients "
        "have gradients."
    )
    for operator in ("hessian", "gauss_newton"):  # torch takes its second derivative for zero
        loss = lambda y, t: Once.apply(y).square().sum()  # noqa: E731
        check(ArgumentError, text.format("Once, which can be once"), model, loss, batches, operator=operator)
    got = "NotImplementedError: the derivative for '_cdist_backward' is not implemented"
    check(ArgumentError, text.format(got), model, lambda y, t: torch.cdist(y, y * 2).square().sum(), batches)
    text = (
        "curvature expects finite second derivatives, got some that are not. Look for a root or a norm of zero in the "
        "model or the loss."
    )
    check(ArgumentError, text, model, lambda y, t: ((y * 0).abs() ** 1.5).sum(), batches)


def test_an_output_of_parts_has_no_gauss_newton_matrix() -> None:
    class Two(torch_nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    _, _, batches = closed_form()
    text = 'curvature expects an output that is one tensor, got tuple. Use operator="hessian".'
    check(ArgumentTypeError, text, Two(2, 1), lambda y, t: y[0].square().sum(), batches, operator="gauss_newton")
    assert curvature(Two(2, 1), lambda y, t: y[0].square().sum(), batches, "eval").trace == pytest.approx(2 * (5 + 2))


def test_a_model_that_computes_in_its_own_type_only_is_named() -> None:
    class Own(torch_nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ torch.ones(1, 1)

    _, loss, batches = closed_form()
    with pytest.raises(ArgumentError) as caught:
        curvature(Own(2, 1), loss, batches)
    first, last = "curvature expects a model and a loss that compute in float64, got RuntimeError: ", "dtype"
    assert str(caught.value).startswith(first) and last in str(caught.value)
    assert str(caught.value).endswith(". Give dtype=None, so that the model computes in its own.")
    assert curvature(Own(2, 1), loss, batches, "train", dtype=None).trace == pytest.approx(5 + 2, rel=1e-5)
