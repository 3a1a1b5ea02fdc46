"""Scale-invariant weights, effective learning rates, and the angles and norms of a training."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from made_trainings import made_data, made_model
from torch import Tensor

from striate import nn
from striate.diagnostics import ScaleWatch, angle, effective_rates, equilibrium_angle, scale_invariant
from striate.diagnostics.degrees import DEGREES, Place, Scaling
from striate.errors import ArgumentError, ArgumentTypeError
from striate.graph.recording import record
from striate.training import Callback, Training, fit

X = (4, 2, 8, 8)


def names(model: torch.nn.Module, x: Any = X) -> tuple[str, ...]:
    return scale_invariant(model, x).names


def why(model: torch.nn.Module, name: str, x: Any = X) -> str:
    return next(row.why for row in scale_invariant(model, x).rows if row.name == name)


def check(model: torch.nn.Module, shape: tuple[int, ...] = X) -> tuple[str, ...]:
    """The names, after a check that doubling a weight changes the output of the others alone."""
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-12
    found = scale_invariant(model, torch.randn(shape))
    for row in found.rows:
        assert row.change is not None and (row.change < 1e-6) == row.invariant, row
    return found.names


def test_a_weight_before_a_batch_norm_is_scale_invariant_also_with_a_bias() -> None:
    for bias in (False, True):
        model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3))
        assert check(model) == ("0.weight",)
    assert why(model, "3.weight") == "the output grows with it"


def test_a_bias_before_a_group_or_layer_norm_breaks_it() -> None:
    for norm in (nn.GroupNorm(2, 4), nn.LayerNorm([6, 6]), nn.LayerNorm2d(4)):
        assert check(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), norm)) == ("0.weight",)
    assert check(nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4))) == ()
    assert check(nn.Sequential(nn.Conv2d(2, 4, 3), nn.LayerNorm2d(4))) == ()
    assert check(nn.Sequential(nn.Conv2d(2, 4, 3), nn.LayerNorm([6, 6]))) == ("0.weight",)  # channel by channel
    assert check(nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4))) == ("0.weight",)
    assert check(nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4))) == ("0.weight",)


def test_rms_norm_takes_away_the_size_but_no_bias() -> None:
    assert check(nn.Sequential(nn.Linear(5, 4, bias=False), nn.RMSNorm(4, eps=1e-12)), (3, 5)) == ("0.weight",)
    assert check(nn.Sequential(nn.Linear(5, 4), nn.RMSNorm(4, eps=1e-12)), (3, 5)) == ()


def test_a_norm_behind_the_activation_needs_a_layer_without_bias_and_an_activation_without_scale() -> None:
    norm_last = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(4))
    assert check(norm_last) == ("0.weight",)
    norm_last[1] = torch.nn.LeakyReLU(0.1)
    assert check(norm_last) == ("0.weight",)
    norm_last[1] = torch.nn.Tanh()
    assert check(norm_last) == () and why(norm_last, "0.weight") == "its size stays in what 1 (Tanh) makes"
    assert check(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))) == ()


def test_pooling_before_a_norm_keeps_it() -> None:
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Dropout(0.5)):
        assert names(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), pool, nn.BatchNorm2d(4))) == ("0.weight",), pool
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2), torch.nn.AdaptiveAvgPool2d(2)):
        assert check(nn.Sequential(nn.Conv2d(2, 4, 3), pool, nn.BatchNorm2d(4))) == ("0.weight",), pool
    padded = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4))
    assert check(padded) == ()  # a border of bias and zeros is no constant of a channel


class Residual(torch.nn.Module):
    def __init__(self, is_normed: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.is_normed = is_normed

    def forward(self, x: Tensor) -> Tensor:
        if self.is_normed:  # as in a ResNet: each convolution has its norm
            return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()
        return x + self.conv2(self.norm1(self.conv1(x)).relu())  # pre-activation: the sum is normalized


def test_a_convolution_that_is_added_before_the_norm_is_not_scale_invariant() -> None:
    assert check(Residual(True)) == ("conv1.weight", "conv2.weight")
    blocks = nn.Sequential(Residual(False), nn.BatchNorm2d(2))
    assert check(blocks) == ("0.conv1.weight",)
    assert why(blocks, "0.conv2.weight") == "its size stays in what 1 (BatchNorm2d) makes"


class Shared(torch.nn.Module):
    def __init__(self, last: torch.nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(self.conv(x).relu())) + self.norm(self.conv(x))


def test_a_weight_that_is_used_more_than_once_needs_a_norm_behind_each_use() -> None:
    assert check(Shared(nn.BatchNorm2d(2))) == ("conv.weight",)
    assert check(Shared(torch.nn.Identity())) == ()
    tied = nn.Sequential(nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, bias=False))
    assert check(tied) == ("0.weight",)
    tied[2].weight = tied[0].weight
    assert check(tied) == ()


def test_a_stack_of_linear_layers_is_scale_invariant_but_for_padding_of_a_bias() -> None:
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert check(plain) == ("0.weight", "1.weight")
    padded = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    assert check(padded) == ("1.weight",)
    padded[1] = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    assert check(padded) == ("0.weight", "1.weight")
    flat = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5))
    assert check(flat) == ("0.weight", "2.weight")


def test_a_frozen_norm_takes_nothing_away() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    model[1].freeze()
    assert check(model) == ()
    assert names(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).eval()) == ("0.weight",)  # as in training


def test_a_convolution_for_each_place_and_a_transposed_one() -> None:
    local = nn.Sequential(nn.LocallyConnected2d(2, 3, 8, 3), nn.BatchNorm2d(3))
    assert check(local) == ()  # its bias is not one for a channel
    bare = nn.Sequential(nn.LocallyConnected2d(2, 3, 8, 3, bias=False), nn.BatchNorm2d(3))
    assert check(bare) == ("0.weight",)
    assert check(nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2), nn.BatchNorm2d(3))) == ("0.weight",)


def test_joined_maps_are_invariant_if_all_grow_alike() -> None:
    class Joined(torch.nn.Module):
        def __init__(self, with_input: bool) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.GroupNorm(1, 4)
            self.with_input = with_input

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(torch.cat([y, x if self.with_input else -y.abs()], 1))

    assert check(Joined(False)) == ("conv.weight",) and check(Joined(True)) == ()


def test_a_weight_that_is_divided_by_its_own_length_is_scale_invariant() -> None:
    class Direction(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = torch.nn.Parameter(torch.randn(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.v / self.v.square().sum(1, keepdim=True).sqrt()).t()

    assert check(Direction(), (4, 5)) == ("v",)


@pytest.mark.parametrize(
    ("activation", "degree"),
    [
        *((torch.nn.ReLU(), 1), (torch.nn.LeakyReLU(0.1), 1), (torch.abs, 1), (torch.neg, 1), (torch.square, 2)),
        *((lambda x: x.pow(3), 3), (torch.rsqrt, -0.5), (torch.sqrt, 0.5), (torch.reciprocal, -1), (torch.sign, 0)),
        *((torch.nn.ReLU6(), None), (torch.nn.ELU(), None), (torch.nn.GELU(), None), (torch.exp, None)),
        *((torch.nn.Hardtanh(-100, 100), None), (torch.floor, None), (torch.nn.Sigmoid(), None)),
    ],
)
def test_the_degree_of_a_function_is_found_by_its_values(activation: Any, degree: float | None) -> None:
    class Applied(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return activation(x)

    recording = record(Applied(), (2, 3))
    [operation] = recording.operations
    rule = DEGREES.get(operation.name)
    assert rule is not None
    found = rule(Place(recording, operation, {recording.inputs[0]: Scaling(2.0)}))
    assert found == (None if degree is None else Scaling(pytest.approx(2 * degree)))
    assert rule(Place(recording, operation, {recording.inputs[0]: Scaling(2.0, frozenset({0}))})) is None


def test_eps_breaks_the_invariance_by_its_share_of_the_variance() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps=0.1))
    row = scale_invariant(model, torch.randn(X)).rows[0]
    with torch.no_grad():
        variance = model[0](torch.randn(256, *X[1:])).var((0, 2, 3))
    share = float((1 - (1 + 0.1 / variance).rsqrt() / (1 + 0.1 / (4 * variance)).rsqrt()).abs().mean())
    assert row.invariant and row.norms == ("1 (BatchNorm2d)",) and row.eps == 0.1
    assert row.change == pytest.approx(share, rel=0.5)


def test_scale_invariance_is_shown_and_kept() -> None:
    model = made_model()
    found = scale_invariant(model, torch.randn(4, 1, 8, 8))
    assert "0.weight" in found and "4.weight" not in found
    assert json.loads(json.dumps(found.to_dict()))["rows"][0]["norms"] == ["1 (BatchNorm2d)"]
    lines = found.table().splitlines()
    assert lines[1].split()[:2] == ["0.weight", "yes"] and lines[2].endswith("what 5 (ReLU) makes")
    assert found.picture().startswith("<svg")


# ---------------------------------------------------------------------------------------------------------------- rates


def test_the_gradient_of_a_scale_invariant_weight_shrinks_with_it_and_is_orthogonal_to_it() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps=1e-10), nn.ReLU()).double()
    x, target = torch.randn(X, dtype=torch.float64), torch.randn(4, 4, 6, 6, dtype=torch.float64)
    weight = model[0].weight
    gradients = []
    for _ in range(2):
        (gradient,) = torch.autograd.grad((model(x) - target).square().sum(), weight)
        assert abs(float((gradient * weight.detach()).sum())) < 1e-8 * float(gradient.norm() * weight.detach().norm())
        gradients.append(gradient)
        weight.data *= 3
    assert torch.allclose(gradients[1] * 3, gradients[0], rtol=1e-6)


def test_the_angle_in_equilibrium_is_what_random_gradients_reach() -> None:
    """SGD on the loss ⟨v, w/‖w‖⟩ with a new v each step: its gradient is orthogonal to w and shrinks as 1/‖w‖."""
    generator = torch.Generator().manual_seed(0)
    for rate, decay, momentum in ((0.1, 0.05, 0.0), (0.5, 0.01, 0.9)):
        weight = torch.nn.Parameter(torch.randn(500, generator=generator))
        optimizer = torch.optim.SGD([weight], lr=rate, weight_decay=decay, momentum=momentum)
        turned = []
        for step in range(600):
            before = weight.detach().clone()
            optimizer.zero_grad()
            torch.dot(torch.randn(500, generator=generator), weight / weight.norm()).backward()
            optimizer.step()
            turned += [angle(before, weight)] * (step >= 400)
        assert sum(turned) / len(turned) == pytest.approx(equilibrium_angle(rate, decay, momentum), rel=0.03)


def test_angles_are_exact_for_small_and_large_ones() -> None:
    for exact in (1e-9, 1e-4, 0.5, 3.0):
        one, other = (torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64) for a in (0.3, 0.3 + exact))
        assert angle(5 * one, 0.1 * other) == pytest.approx(exact, rel=1e-6)


def test_effective_rates_are_those_of_the_groups() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Linear(3, 4))
    torch.nn.init.constant_(model[0].weight, 0.5)  # 8 of them: ‖w‖² = 2
    torch.nn.init.constant_(model[2].weight, 2.0)  # 12 of them: ‖w‖² = 48
    groups = [
        {"params": [model[2].weight, model[0].bias], "lr": 0.3, "weight_decay": 0.0},
        {"params": [model[0].weight, model[1].weight]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)
    rates = effective_rates(model, optimizer)
    one, other = rates.rows
    assert (one.name, one.rate, one.decay, one.momentum) == ("0.weight", 0.1, 5e-4, 0.9)
    assert one.effective == pytest.approx(0.05) and one.angle == pytest.approx(math.sqrt(2 * 0.1 * 5e-4 / 1.9))
    assert (other.name, other.angle) == ("2.weight", None) and other.effective == pytest.approx(0.3 / 48)
    assert json.loads(json.dumps(rates.to_dict()))["optimizer"] == "SGD"
    assert rates.table().splitlines()[1].split() == ["0.weight", "1.41", "0.1", "0.0005", "0.05", "0.00725"]
    assert rates.picture().startswith("<svg")
    adam = effective_rates(model, torch.optim.AdamW(model.parameters(), lr=1e-3)).rows[0]
    assert adam.angle is None and adam.effective == pytest.approx(5e-4)


# ------------------------------------------------------------------------------------------------------------ trainings

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "crop": 1, "weight_decay": 0.01, "learning_rate": 0.1}


class ByHand(Callback):
    """The angle of each step by the arc cosine, in float64."""

    def __init__(self) -> None:
        self.angles: list[float] = []
        self.norms: list[float] = []
        self.before = torch.empty(0)

    def on_start(self, training: Training) -> None:
        self.before = training.model[0].weight.detach().double().clone()

    def on_step(self, training: Training) -> None:
        after = training.model[0].weight.detach().double().clone()
        cosine = (self.before * after).sum() / (self.before.norm() * after.norm())
        self.angles.append(float(cosine.acos()))
        self.norms.append(float(after.norm()))
        self.before = after


def test_the_angles_and_norms_of_a_training_are_those_by_hand() -> None:
    watch, own = ScaleWatch(every=1), ByHand()
    fit(made_model(), made_data(), callbacks=[watch, own], **SETTINGS)
    assert [record.step for record in watch.records] == list(range(1, 13))
    assert [record.angle["0.weight"] for record in watch.records] == pytest.approx(own.angles, rel=1e-6)
    assert [record.norm["0.weight"] for record in watch.records] == pytest.approx(own.norms, rel=1e-12)
    row = watch.report().rows[0]
    assert row.name == "0.weight" and row.angle == pytest.approx(sum(own.angles[6:]) / 6, rel=1e-6)
    assert row.drift == pytest.approx(math.log(own.norms[-1] / own.norms[0])) and row.last == own.norms[-1]


def test_expected_angles_follow_the_rate_of_each_step() -> None:
    rates: list[float] = []

    class Rates(Callback):
        def on_step(self, training: Training) -> None:
            rates.append(training.optimizer.param_groups[0]["lr"])

    watch = ScaleWatch(every=1)
    fit(made_model(), made_data(), callbacks=[watch, Rates()], nesterov=False, momentum=0.9, **SETTINGS)
    expected = [equilibrium_angle(rate, 0.01, 0.9) for rate in rates]
    assert [record.expected["0.weight"] for record in watch.records] == pytest.approx(expected)
    assert len(set(expected)) > 6


def test_a_training_with_a_watch_is_the_same_bit_for_bit() -> None:
    data = made_data()
    alone, watched, watch = made_model(), made_model(), ScaleWatch(every=2)
    fit(alone, data, **SETTINGS)
    fit(watched, data, callbacks=[watch], **SETTINGS)
    assert len(watch.records) == 6
    for one, other in zip(alone.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_report_is_shown_and_kept() -> None:
    watch = ScaleWatch(weights=["0.weight", "4.weight"], every=3)
    fit(made_model(), made_data(), callbacks=[watch], nesterov=False, **SETTINGS)
    report = watch.report()
    kept = json.loads(json.dumps(report.to_dict()))
    assert [row["name"] for row in kept["rows"]] == ["0.weight", "4.weight"] and len(kept["records"]) == 4
    assert report.table().splitlines()[0].split() == [
        *("weight", "angle", "[rad]", "in", "equilibrium", "ratio", "‖w‖", "first", "‖w‖", "last"),
    ]
    assert report.picture().startswith("<svg")


def raised(kind: type[Exception], call: Any) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def test_what_cannot_be_watched_is_refused_in_one_sentence() -> None:
    model = nn.Linear(2, 2)
    assert raised(ArgumentTypeError, lambda: effective_rates(model, 0.1)) == (  # type: ignore[arg-type]
        "effective_rates expects an optimizer, a torch.optim.Optimizer, got float. Give the one that trains the model."
    )
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    assert raised(ArgumentError, lambda: effective_rates(model, other)) == (
        "effective_rates expects an optimizer with a weight of the model, got none. Make it of model.parameters()."
    )
    assert raised(ArgumentError, lambda: ScaleWatch(every=0)) == (
        "ScaleWatch expects every to be a number of steps from 1 on, got 0. Use 1."
    )
    assert raised(ArgumentError, lambda: ScaleWatch().report()) == (
        "ScaleWatch.report expects a record at least, got none. Give it to fit(…, callbacks=[watch]) first, with fewer "
        "steps from one record to the next."
    )
    named = ScaleWatch(weights=["first"])
    assert raised(ArgumentError, lambda: fit(made_model(), made_data(), callbacks=[named], **SETTINGS)) == (
        "ScaleWatch expects names of the model's weights, got first. Its weights are 0.weight, 4.weight, 8.weight."
    )
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert raised(ArgumentError, lambda: fit(plain, made_data(), callbacks=[ScaleWatch()], **SETTINGS)) == (
        "ScaleWatch expects a model with a scale-invariant weight, got none. Name weights to watch, as "
        "weights=['0.weight'], or put a norm behind them."
    )
