"""The loss around the weights is that of formulas on quadratics, on one batch's statistics, and the model stays."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import nn as torch_nn

from striate import nn
from striate.diagnostics import (
    Plane,
    Slice,
    curvature,
    effective_smoothness,
    gradient_predictiveness,
    loss_plane,
    loss_slice,
)
from striate.errors import ArgumentError, ArgumentTypeError

STEPS = [0.05, 0.1, 0.2, 0.4]
ALONG = (loss_slice, gradient_predictiveness, effective_smoothness)
NOTHING = (torch.zeros(1), torch.zeros(1))


class Weights(torch_nn.Module):
    """A model whose output is its weights."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = torch_nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return self.w


def quadratic() -> tuple[Tensor, Tensor, Callable[..., Tensor]]:
    """A symmetric matrix, weights, and the loss ½ wᵀAw."""
    torch.manual_seed(0)
    half = torch.randn(12, 12, dtype=torch.float64)
    matrix = half + half.T
    return matrix, torch.randn(12, dtype=torch.float64), lambda w, target: 0.5 * w @ matrix.to(w) @ w


def classifier() -> tuple[torch_nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return nn.Sequential(*layers), (torch.randn(12, 1, 8, 8), torch.randint(0, 3, (12,)))


# --------------------------------------------------------------------------------------------------- along the gradient


def test_the_loss_along_the_gradient_of_a_quadratic_is_its_formula() -> None:
    matrix, w, loss = quadratic()
    g = matrix @ w
    found = loss_slice(Weights(w), loss, NOTHING, [-0.1, 0.0, *STEPS])
    expected = [float(0.5 * (w - s * g) @ matrix @ (w - s * g)) for s in found.steps]
    assert found.losses == pytest.approx(expected, rel=1e-12) and found.steps == (-0.1, 0.0, *STEPS)
    assert found.loss == pytest.approx(expected[1], rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(g.norm()), rel=1e-12)
    assert found.range == pytest.approx(max(expected) - min(expected), rel=1e-12)
    assert found.best == found.steps[expected.index(min(expected))]
    assert found.linear(1e-6) == pytest.approx(float(0.5 * w @ matrix @ w - 1e-6 * g @ g), rel=1e-12)


def test_the_gradient_along_itself_on_a_quadratic_is_its_formula() -> None:
    matrix, w, loss = quadratic()
    g = matrix @ w
    found = gradient_predictiveness(Weights(w), loss, NOTHING, STEPS)
    beta = float((matrix @ g).norm() / g.norm())
    assert found.changes == pytest.approx([s * beta for s in STEPS], rel=1e-12)
    there = [g - s * matrix @ g for s in STEPS]
    assert found.cosines == pytest.approx([float(F.cosine_similarity(h, g, 0)) for h in there], rel=1e-9)
    assert found.largest == found.changes[-1] and found.loss == pytest.approx(float(0.5 * w @ g), rel=1e-12)


def test_the_effective_smoothness_of_a_quadratic_is_one_number_below_the_largest_eigenvalue() -> None:
    matrix, w, loss = quadratic()
    g = matrix @ w
    found = effective_smoothness(Weights(w), loss, NOTHING, [-0.1, *STEPS])
    assert found.values == pytest.approx([float((matrix @ g).norm() / g.norm())] * 5, rel=1e-9)
    assert found.beta == max(found.values)
    model = Weights(w)
    ends = curvature(model, loss, [NOTHING], "train")
    assert 0.3 * ends.largest[0] < found.beta < max(ends.largest[0], -ends.smallest)


def test_the_smoothness_of_predictiveness_is_the_effective_smoothness() -> None:
    model, batch = classifier()
    found = gradient_predictiveness(model, F.cross_entropy, batch, STEPS)
    assert found.smoothness == effective_smoothness(model, F.cross_entropy, batch, STEPS)
    assert found.largest > 0.01


def test_small_steps_find_the_curvature_along_the_gradient() -> None:
    model, batch = classifier()
    h = 1e-3
    below, _, above = loss_slice(model, F.cross_entropy, batch, [h, 0, -h]).losses
    found = loss_slice(model, F.cross_entropy, batch, [h])
    along = (above - 2 * found.loss + below) / (h * found.gradient_norm) ** 2  # gᵀHg / ‖g‖²
    ends = curvature(model, F.cross_entropy, [batch], "train")
    assert ends.smallest < along <= ends.largest[0] and along > 0.01
    assert (above - below) / (2 * h) == pytest.approx(found.gradient_norm**2, rel=1e-3)
    assert effective_smoothness(model, F.cross_entropy, batch, [h]).beta <= max(ends.largest[0], -ends.smallest)


def test_the_batch_has_its_own_statistics_in_training_mode_and_the_running_ones_in_evaluation() -> None:
    model, batch = classifier()
    model[1].running_mean += 0.5
    before = copy.deepcopy(model.state_dict())
    for mode in ("train", "eval"):
        own = copy.deepcopy(model).double().train(mode == "train")
        expected = float(F.cross_entropy(own(batch[0].double()), batch[1]))
        (loss,) = loss_slice(model, F.cross_entropy, batch, [0.0], mode=mode).losses
        assert loss == pytest.approx(expected, rel=1e-12)
        plane = loss_plane(model, F.cross_entropy, batch, 3, mode=mode)
        assert plane.losses[1][1] == plane.loss == pytest.approx(expected, rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and model.training


def test_each_step_draws_the_same_random_numbers() -> None:
    torch.manual_seed(0)
    model = torch_nn.Sequential(torch_nn.Linear(20, 50), torch_nn.Dropout(0.5), torch_nn.Linear(50, 3))
    batch = torch.randn(6, 20), torch.randint(0, 3, (6,))
    found = loss_slice(model, F.cross_entropy, batch, [0.0, 0.0])
    assert found.losses == (found.loss, found.loss)
    assert gradient_predictiveness(model, F.cross_entropy, batch, [0.0]).changes == (0.0,)
    assert loss_slice(model, F.cross_entropy, batch, [0.0], seed=1).loss != found.loss


def test_the_models_own_type_gives_nearly_the_same() -> None:
    model, batch = classifier()
    for probe, name in zip(ALONG, ("losses", "changes", "values"), strict=True):
        single, double = (
            getattr(probe(model, F.cross_entropy, batch, STEPS, dtype=dtype), name) for dtype in (None, torch.float64)
        )
        assert single == pytest.approx(double, rel=1e-3) and single != double


def test_a_loss_that_is_not_finite_after_a_step_is_a_result() -> None:
    found = loss_slice(Weights(torch.ones(1)), lambda w, t: w.log().sum(), NOTHING, [0.5, 1.0, 2.0])
    assert found.losses[:2] == (pytest.approx(math.log(0.5)), -math.inf) and math.isnan(found.losses[2])
    assert found.range == math.inf and found.best == 0.5
    made = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert made["losses"] == [pytest.approx(math.log(0.5)), None, None] and made["range"] is None
    assert found.picture().startswith("<svg")
    changed = gradient_predictiveness(Weights(torch.ones(1)), lambda w, t: w.log().sum(), NOTHING, [0.5, 1.0])
    assert changed.changes == (1.0, math.inf) and changed.largest == changed.smoothness.beta == math.inf
    assert changed.to_dict()["largest"] is changed.smoothness.to_dict()["beta"] is None


# ------------------------------------------------------------------------------------------------------------ the plane


def test_filters_of_a_direction_are_as_long_as_those_of_the_model() -> None:
    torch.manual_seed(0)
    model = torch_nn.Sequential(torch_nn.Conv2d(2, 3, 3), torch_nn.Flatten(), torch_nn.Linear(3, 4))
    scales = torch.tensor([1.0, 10.0, 100.0])
    for number in range(3):
        # the loss is Σ‖w_i‖² of one filter: along d it is ‖w_i‖² (1 + α²) + 2 α w_i·d_i, whatever d_i
        loss = lambda y, t: y[number]  # noqa: E731
        one = _Norms(model[0].weight.detach() * scales[:, None, None, None])
        plane = loss_plane(one, loss, NOTHING, points=5, span=2.0)
        middle = plane.losses[2]
        for row in (middle, [losses[2] for losses in plane.losses]):
            assert row[0] + row[4] - 2 * plane.loss == pytest.approx(2 * 4 * plane.loss, rel=1e-9)
            assert row[1] + row[3] - 2 * plane.loss == pytest.approx(2 * 1 * plane.loss, rel=1e-9)
            assert row[0] != row[4]
    assert plane.axis == (-2.0, -1.0, 0.0, 1.0, 2.0) and plane.losses[0] != plane.losses[4]


class _Norms(torch_nn.Module):
    """A model whose output is the square of the norm of each filter."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = torch_nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return self.w.flatten(1).square().sum(1)


def test_biases_and_the_parameters_of_norms_stay_on_a_plane() -> None:
    class Only(torch_nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return self.bias

    plane = loss_plane(Only(3, 2), lambda y, t: y.square().sum(), NOTHING, points=2)
    assert plane.losses == ((plane.loss,) * 2,) * 2


def test_directions_are_random_but_the_same_for_a_seed() -> None:
    model, batch = classifier()
    first = loss_plane(model, F.cross_entropy, batch, 3)
    assert first == loss_plane(model, F.cross_entropy, batch, 3) != loss_plane(model, F.cross_entropy, batch, 3, seed=1)
    assert first.losses[0][1] != first.losses[1][0] and min(map(min, first.losses)) > 0


def test_a_filter_of_zeros_has_no_direction() -> None:
    weight = torch.ones(2, 3)
    weight[1] = 0
    plane = loss_plane(_Norms(weight), lambda y, t: y[1], NOTHING, points=3)
    assert plane.losses == ((0.0,) * 3,) * 3


# --------------------------------------------------------------------------------------------------------------- output


def test_tables_have_a_line_for_each_step() -> None:
    model, batch = torch_nn.Linear(1, 1, bias=False), (torch.ones(1, 1), torch.zeros(1, 1))
    torch_nn.init.constant_(model.weight, 3.0)
    tables = {probe: probe(model, F.mse_loss, batch, [0.25, 1.0]).table().splitlines() for probe in ALONG}
    assert tables[loss_slice] == [
        "Loss 9 along its gradient of norm 6: a range of 6.75",
        "",
        "step · gradient  loss  predicted",
        "           0.25  2.25          0",
        "              1     9        -27",
    ]
    assert tables[gradient_predictiveness] == [
        "The gradient of norm 6 changes by up to 2 times its norm",
        "",
        "step · gradient  change   cosine",
        "           0.25     0.5   1.0000",
        "              1       2  -1.0000",
    ]
    assert tables[effective_smoothness] == [
        "Effective smoothness β = 2",
        "",
        "step · gradient  β",
        "           0.25  2",
        "              1  2",
    ]


def test_the_table_of_a_plane_has_nine_positions_at_most() -> None:
    axis = tuple(n / 10 for n in range(-10, 11))
    plane = Plane(axis, tuple(tuple(a * a + 2 * b * b for a in axis) for b in axis), 0.0)
    lines = plane.table().splitlines()
    assert lines[0] == "Loss 0 and around it"
    assert lines[2].split() == ["-1", "-0.7", "-0.4", "-0.1", "0.2", "0.5", "0.8"]
    assert lines[3].split() == ["-1", "3", "2.49", "2.16", "2.01", "2.04", "2.25", "2.64"] and len(lines) == 10
    assert len(Plane((0.0, 1.0), ((1.0, 2.0),) * 2, 1.0).table().splitlines()) == 5


def test_results_are_json_and_svg() -> None:
    model, batch = classifier()
    found = [probe(model, F.cross_entropy, batch, STEPS) for probe in ALONG]
    found.append(loss_plane(model, F.cross_entropy, batch, 3))
    titles = ("Loss along its gradient", "Change of the gradient", "Effective smoothness", "filter-normalised")
    for result, title in zip(found, titles, strict=True):
        made = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert set(vars(result)) <= set(made) and made["loss"] == result.loss
        picture = result.picture()
        assert picture.startswith("<svg") and title in picture
    for losses in (((0.0, -1.0), (2.0, math.nan)), ((1.0, 1.0), (1.0, 1.0))):  # no logarithm; a level plane
        assert Plane((-1.0, 1.0), losses, 1.0).picture().startswith("<svg")
    assert Slice((0.1,), (1.0,), 1.0, 0.0).picture().startswith("<svg")


# --------------------------------------------------------------------------------------------------------------- errors


def check(error: type[Exception], text: str, probe: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        probe(*arguments, **options)
    assert str(caught.value) == text


def test_arguments_out_of_range_are_named() -> None:
    model, batch = classifier()
    for probe in ALONG:
        text = f"{probe.__name__} expects steps that are finite numbers, got {{}}. Give some: [0.05, 0.1, 0.2, 0.4]."
        check(ArgumentError, text.format("none"), probe, model, F.cross_entropy, batch, [])
        check(ArgumentError, text.format("[0.1, inf]"), probe, model, F.cross_entropy, batch, [0.1, math.inf])
        text = f"{probe.__name__} expects the mode 'train' or 'eval', got 'both'. Leave it out."
        check(ArgumentError, text, probe, model, F.cross_entropy, batch, [0.1], mode="both")
    text = "effective_smoothness expects steps that are not 0, got [0.1, 0.0]. Leave 0 out."
    check(ArgumentError, text, effective_smoothness, model, F.cross_entropy, batch, [0.1, 0])
    text = "loss_plane expects 2 to 201 points on an axis, got {}. Leave them out for 21."
    check(ArgumentError, text.format(1), loss_plane, model, F.cross_entropy, batch, 1)
    check(ArgumentError, text.format(202), loss_plane, model, F.cross_entropy, batch, 202)
    text = "loss_plane expects a span above 0, got -1. Leave it out for 1."
    check(ArgumentError, text, loss_plane, model, F.cross_entropy, batch, 3, -1)
    found = gradient_predictiveness(model, F.cross_entropy, batch, [0.0, 0.1])
    with pytest.raises(ArgumentError) as caught:
        _ = found.smoothness
    assert str(caught.value) == "Predictiveness.smoothness expects steps that are not 0, got [0.0, 0.1]. Leave 0 out."


@pytest.mark.parametrize("probe", [*ALONG, loss_plane], ids=lambda probe: probe.__name__)
def test_models_losses_and_batches_that_cannot_be_taken_are_named(probe: Callable[..., Any]) -> None:
    model, (x, target) = classifier()
    more = () if probe is loss_plane else (STEPS,)
    start = f"{probe.__name__} expects "
    text = start + "batches that are pairs (x, target), got Tensor. Put one batch into a list: [(x, target)]."
    check(ArgumentTypeError, text, probe, model, F.cross_entropy, x, *more)
    text = start + "batches with samples, got an empty one. Leave it out."
    check(ArgumentError, text, probe, model, F.cross_entropy, (x[:0], target[:0]), *more)
    text = start + "a parameter that learns, got none with requires_grad. Set requires_grad of the weights to measure."
    frozen = copy.deepcopy(model).requires_grad_(False)
    check(ArgumentError, text, probe, frozen, F.cross_entropy, (x, target), *more)
    hint = "Look for weights, running statistics or inputs that are not finite, and for a learning rate too high."
    text = start + f"a loss that is finite, got nan. {hint}"
    check(ArgumentError, text, probe, model, F.cross_entropy, (x * math.nan, target), *more)
    text = start + "a loss that is one number, got (12,). Take its mean over the samples."
    check(ArgumentError, text, probe, model, torch_nn.CrossEntropyLoss(reduction="none"), (x, target), *more)


def test_a_gradient_of_zero_has_no_direction() -> None:
    hint = "Measure before the model has converged, and where units are alive."
    for probe in ALONG[1:]:
        text = f"{probe.__name__} expects a gradient that is not zero, got one of zeros. loss: 0.0. {hint}"
        check(ArgumentError, text, probe, Weights(torch.zeros(3)), lambda w, t: w.square().sum(), NOTHING, STEPS)
    assert loss_slice(Weights(torch.zeros(3)), lambda w, t: w.square().sum(), NOTHING, STEPS).losses == (0.0,) * 4


def test_weights_of_one_axis_have_no_plane() -> None:
    text = (
        "loss_plane expects a weight of two axes or more that learns, got none, or zeros. Biases, and scales and "
        "shifts of norms, have no direction."
    )
    for model in (Weights(torch.ones(3)), Weights(torch.zeros(3, 2))):
        check(ArgumentError, text, loss_plane, model, lambda w, t: w.square().sum(), NOTHING)
