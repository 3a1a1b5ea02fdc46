"""What activations give on a data set: statistics against closed forms, dead units exactly, and errors."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from striate import models, nn
from striate.diagnostics import activation_statistics, dead_units
from striate.errors import ArgumentError, ArgumentTypeError
from striate.training.units import activations, dead, look

NORMAL = 200_000  # samples of a normal distribution: their mean is within 0.01 of it, their deviation within 0.007

ROOT = math.sqrt(0.95)


def split(x: Tensor, *sizes: int) -> list[tuple[Tensor, None]]:
    return [(part, None) for part in x.split(list(sizes) if sizes else 64)]


def linear(weight: list[list[float]], bias: list[float]) -> tnn.Linear:
    made = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight))
        made.bias.copy_(torch.tensor(bias))
    return made


# ---------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("activation", "mean", "square", "saturation"),
    [
        (nn.ReLU(), 1 / math.sqrt(2 * math.pi), 0.5, 0.5),
        (nn.LeakyReLU(0.2), 0.8 / math.sqrt(2 * math.pi), 0.52, 0.0),
        (nn.ReLU6(), 1 / math.sqrt(2 * math.pi), 0.5, 0.5),
        (nn.Tanh(), 0.0, 0.394295, math.erfc(math.atanh(ROOT) / math.sqrt(2))),  # |tanh z| above the root of 0.95
        (nn.Sigmoid(), 0.5, 0.293379, math.erfc(2 * math.atanh(ROOT) / math.sqrt(2))),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, tnn.Module) else "",
)
def test_statistics_of_normal_inputs_are_those_of_the_integrals(
    activation: tnn.Module, mean: float, square: float, saturation: float
) -> None:
    torch.manual_seed(0)
    (row,) = activation_statistics(nn.Sequential(activation), split(torch.randn(NORMAL // 4, 4), 20_000, 30_000))
    assert row.mean == pytest.approx(mean, abs=0.01)
    assert row.deviation == pytest.approx(math.sqrt(square - mean**2), abs=0.01)
    assert row.saturation == pytest.approx(saturation, abs=0.01)
    assert row.effective_rank == pytest.approx(4, abs=0.01) and (row.dead, row.channels) == (0, 4)


def test_numbers_are_those_of_all_batches_at_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh())
    x = 3 + torch.randn(40, 3, 7, 7)
    (row,) = activation_statistics(model, split(x, 1, 20, 19))
    y = model(x).detach().double()
    channels = y.movedim(1, -1).flatten(0, -2)
    values = torch.linalg.svdvals(channels.T.cov(correction=0))
    shares = values / values.sum()
    assert row.mean == pytest.approx(float(y.mean()), rel=1e-12)
    assert row.deviation == pytest.approx(float(y.std(correction=0)), rel=1e-12)
    assert row.effective_rank == pytest.approx(float((-shares * shares.log()).sum().exp()), rel=1e-9)


def test_the_effective_rank_counts_the_directions_that_vary_alike() -> None:
    x = torch.randn(4096, 1) * torch.ones(6)
    assert activation_statistics(nn.Sequential(nn.LeakyReLU(1.0)), [(x, None)])[0].effective_rank == pytest.approx(1)
    axes = torch.eye(6).repeat(100, 1) * 3
    assert activation_statistics(nn.Sequential(nn.ReLU()), [(axes, None)])[0].effective_rank == pytest.approx(5)
    still = activation_statistics(nn.Sequential(nn.ReLU()), [(torch.ones(9, 4), None)])[0]
    assert still.effective_rank == 0 and still.deviation == 0 and still.dead == 4


def test_the_channels_of_a_perceptron_at_each_position_are_on_the_last_axis() -> None:
    class Mixer(tnn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 2))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layers(x.movedim(1, -1))
            return y

    batches = [(torch.randn(2, 6, 5, 5), None)]
    assert activation_statistics(Mixer(), batches)[0].channels == 9 and dead_units(Mixer(), batches)["layers.1"][1] == 9


def test_a_norm_with_an_activation_has_the_row_of_both_apart() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 6, 6)
    for name, apart in (("relu", nn.ReLU()), ("silu", nn.SiLU()), ("leaky_relu", nn.LeakyReLU(0.1))):
        both = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNormAct2d(8, activation=name, negative_slope=0.1))
        plain = nn.Sequential(both[0], nn.BatchNorm2d(8), apart)
        (one,), (other,) = (activation_statistics(model, [(x, None)]) for model in (both, plain))
        assert one.saturation == pytest.approx(other.saturation, abs=1e-3) and one.dead == other.dead
        assert (one.mean, one.deviation) == pytest.approx((other.mean, other.deviation), rel=1e-5)
        assert (one.name, one.kind, one.channels) == ("1", "BatchNormAct2d", 8)
        assert both[1].activation == name


def test_an_activation_in_place_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    first = nn.Linear(3, 4)
    x = torch.randn(20, 3)
    found = [
        activation_statistics(nn.Sequential(first, nn.ReLU(in_place), nn.Tanh()), [(x, None)])
        for in_place in (False, True)
    ]
    assert found[0] == found[1] and 0.2 < found[0][0].saturation < 0.8


def test_the_mode_is_that_of_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.LeakyReLU(1.0))
    batches = [(5 + 2 * torch.randn(100, 3), None)]
    assert activation_statistics(model, batches)[0].mean == pytest.approx(0, abs=1e-6)
    assert activation_statistics(model.eval(), batches)[0].mean == pytest.approx(5, abs=0.5)


def test_a_gate_that_joins_channels_has_no_saturation() -> None:
    (row,) = activation_statistics(nn.Sequential(tnn.GLU(1)), [(torch.randn(9, 8), None)])
    assert row.saturation is None and row.channels == 4


def test_values_that_are_not_finite_give_nan() -> None:
    (row,) = activation_statistics(nn.Sequential(nn.ReLU()), [(torch.tensor([[math.inf, 1.0]]), None)])
    assert math.isinf(row.mean) and math.isnan(row.deviation) and math.isnan(row.effective_rank)


# ---------------------------------------------------------------------------------------------------------- dead units


def test_dead_units_of_a_net_made_by_hand_are_exact() -> None:
    # of three units, one fires for x > 0, one for x > 10, one never
    first, second = linear([[1.0]] * 3, [0.0, -10.0, -100.0]), linear([[0.0] * 3], [1.0])
    model = nn.Sequential(first, nn.ReLU(), second, nn.Tanh())
    one = dead_units(model, [(torch.tensor([[-1.0], [1.0]]), None)])
    assert dict(one) == {"1": (2, 3), "3": (1, 1)} and dict(one.channels) == {"1": (1, 2), "3": (0,)}
    both = dead_units(model, [(torch.tensor([[-1.0], [1.0]]), None), (torch.tensor([[11.0]]), None)])
    assert both["1"] == (1, 3) and both.channels["1"] == (2,) and both.share == 2 / 4 and both.samples == 3


def test_a_unit_that_is_flat_in_each_batch_but_not_over_all_is_alive() -> None:
    model = nn.Sequential(linear([[1.0]], [0.0]), nn.ReLU())
    batches = [(torch.tensor([[1.0], [1.0]]), None), (torch.tensor([[2.0], [2.0]]), None)]
    assert all(dead_units(model, [batch])["1"] == (1, 1) for batch in batches)
    assert dead_units(model, batches)["1"] == (0, 1)


def test_dead_maps_of_a_convolution_are_exact() -> None:
    conv = nn.Conv2d(1, 4, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0, 0.0, 1.0]).reshape(4, 1, 1, 1))
        conv.bias.copy_(torch.tensor([0.0, 0.0, 7.0, -3.0]))
    x = torch.rand(5, 1, 4, 4)
    # positive images: the second map is 0, the third 7 everywhere, the fourth 0 until one pixel is above 3
    model = nn.Sequential(conv, nn.ReLU())
    assert dead_units(model, split(x, 2, 3)).channels["1"] == (1, 2, 3)
    x[4, 0, 3, 3] = 3.5
    assert dead_units(model, split(x, 2, 3)).channels["1"] == (1, 2)
    assert activation_statistics(model, split(x, 2, 3))[0].dead == 2


def test_a_deep_narrow_net_of_negative_biases_is_dead_from_the_first_dead_layer_on() -> None:
    layers: list[tnn.Module] = []
    for number in range(6):
        layers += [linear([[1.0] * 2] * 2, [-99.0 if number == 3 else 0.0] * 2), nn.ReLU()]
    found = dead_units(nn.Sequential(*layers), [(torch.rand(30, 2), None)])
    assert [found[name] for name in ("1", "3", "5", "7", "9", "11")] == [(0, 2)] * 3 + [(2, 2)] * 3
    assert found.share == 0.5


@pytest.mark.parametrize("name", ["lenet5", "cnn_bn", "resnet_cifar"])
def test_one_batch_gives_what_units_dead_gives(name: str) -> None:
    torch.manual_seed(0)
    model = models.classifier(name, 3, (16, 16), 4).eval()
    x = torch.randn(2, 3, 16, 16)
    found: dict[str, tuple[int, int]] = {}
    look(model, x, activations(model), lambda layer, output: found.update({layer: dead(output)}))
    assert dict(dead_units(model, [(x, None)])) == found and len(found) > 1
    assert [row.name for row in activation_statistics(model, [(x, None)])] == list(found)


# ------------------------------------------------------------------------------------------------------------- results


def made() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Sigmoid())
    with torch.no_grad():
        model[0].bias[2] = -99.0
    batches = split(torch.randn(32, 4), 16, 16)
    return activation_statistics(model, batches), dead_units(model, batches)


def test_results_are_json_text_and_svg() -> None:
    statistics, units = made()
    found = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
    assert found["samples"] == 32 and found["rows"][0]["deviation"] == statistics[0].deviation
    lines = statistics.table().splitlines()
    assert lines[0].split() == ["layer", "class", "mean", "deviation", "saturated", "dead", "of", "rank"]
    assert lines[1].split()[:2] == ["1", "ReLU"] and len(lines) == 3 and str(statistics) == statistics.table()
    assert json.loads(json.dumps(units.to_dict())) == {
        "samples": 32,
        "share": 1 / 11,
        "layers": {"1": {"dead": 1, "of": 6, "channels": [2]}, "3": {"dead": 0, "of": 5, "channels": []}},
    }
    assert units.table().splitlines()[1].split() == ["1", "1", "6", "17", "%"]
    assert units.table().endswith("9.09 % of all units are dead on 32 samples.") and str(units) == units.table()
    for picture, word in ((statistics.picture(), "saturated"), (units.picture(), "dead units")):
        assert picture.startswith("<svg") and word in picture


def test_a_sequence_of_rows_and_a_mapping_of_counts() -> None:
    statistics, units = made()
    assert len(statistics) == 2 and statistics[-1].name == "3" and statistics[:1] == statistics.rows[:1]
    assert list(units) == ["1", "3"] and len(units) == 2 and "2" not in units


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("probe", [activation_statistics, dead_units], ids=lambda probe: probe.__name__)
def test_what_cannot_be_taken_gets_one_sentence(probe: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        probe(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), [(torch.ones(2, 2), None)])
    assert str(error.value) == (
        f"{probe.__name__} expects a model with activations that are modules, got none. Make them layers, as nn.ReLU() "
        "for torch.relu."
    )
    with pytest.raises(ArgumentError) as error:
        probe(nn.ReLU(), [])
    assert str(error.value) == f"{probe.__name__} expects a batch at least, got none. Give a list of pairs (x, target)."
    with pytest.raises(ArgumentTypeError) as wrong:
        probe(torch.jit.script(tnn.ReLU()), [(torch.ones(2, 2), None)])
    assert str(wrong.value) == (
        f"{probe.__name__} expects a model whose layers take hooks, got one of TorchScript. Give the model as it was "
        "before torch.jit."
    )
