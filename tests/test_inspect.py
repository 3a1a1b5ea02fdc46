"""Inspecting a network: its table, its costs, its receptive fields, and what happens to the model and to mistakes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import GRAPHS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from work import calls_of

import striate
from striate.analysis import Report, inspect
from striate.analysis.inspect.fields import reached_from, seen_by, units_of
from striate.diagnostics.fields import effective_field, verify
from striate.errors import ArgumentError, ArgumentTypeError, ShapeError

SHAPES = {
    "lenet5": (1, 1, 28, 28),
    "cnn_bn": (2, 3, 32, 32),
    "resnet_cifar": (1, 3, 32, 32),
    "alexnet": (1, 3, 224, 224),
    "vgg11_bn": (1, 3, 64, 64),
    "resnet18": (1, 3, 64, 64),
    "resnet50": (1, 3, 64, 64),
    "mobilenet_v1": (1, 3, 64, 64),
    "mobilenet_v2": (1, 3, 64, 64),
    "convnext_tiny": (1, 3, 64, 64),
}


def graph_report(name: str) -> Report:
    make, input = GRAPHS[name]
    torch.manual_seed(0)
    return inspect(make().eval(), input)


def model_report(name: str, device: str = "cpu") -> Report:
    """device: "meta" where no values are needed: the parameters of these models together take 1.1 GB."""
    with torch.device(device):
        model = striate.models.by_name(name)().eval()
    return inspect(model, SHAPES[name])


# ------------------------------------------------------------------------------------------------------------ the table


def test_lenet_of_the_notes_is_told_line_by_line() -> None:
    report = inspect(striate.models.lenet5(), (1, 1, 28, 28))
    rows = [(row.type, row.output_shape[1:], row.weight_shape, row.parameters, row.macs) for row in report.layers]
    assert rows == [
        ("Conv2d", (20, 28, 28), (20, 1, 5, 5), 520, 392_000),
        ("ReLU", (20, 28, 28), None, 0, 0),
        ("MaxPool2d", (20, 14, 14), None, 0, 0),
        ("Conv2d", (50, 14, 14), (50, 20, 5, 5), 25_050, 4_900_000),
        ("ReLU", (50, 14, 14), None, 0, 0),
        ("MaxPool2d", (50, 7, 7), None, 0, 0),
        ("Flatten", (2450,), None, 0, 0),
        ("Linear", (500,), (500, 2450), 1_225_500, 1_225_000),
        ("ReLU", (500,), None, 0, 0),
        ("Linear", (10,), (10, 500), 5_010, 5_000),
    ]
    fields = [
        (row.receptive_field["size"][0], row.receptive_field["jump"][0], row.receptive_field["offset"][0])
        for row in report.layers[:6]
    ]
    assert fields == [(5, 1, -2), (5, 1, -2), (6, 2, -2), (14, 2, -6), (14, 2, -6), (16, 4, -6)]
    assert (
        report.totals["parameters"] == 1_256_080
        and report.totals["macs"] == 6_522_000
        and report.totals["flops"] == 13_044_000
    )
    # backward: both gradients of each product, except that of the first layer's input
    assert report.totals["backward_macs"] == 2 * 6_522_000 - 392_000


@pytest.mark.parametrize("name", SHAPES)
def test_totals_are_the_sums_of_the_columns_and_every_parameter_stands_once(name: str) -> None:
    report = model_report(name, "meta")
    for total, column in (
        ("parameters", "parameters"),
        ("macs", "macs"),
        ("flops", "flops"),
        ("kept_bytes", "kept_bytes"),
    ):
        assert report.totals[total] == sum(getattr(row, column) for row in report.layers), total
    assert report.totals["parameters"] == sum(p.numel() for p in report.recording.model.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_macs_are_half_of_what_torchs_counter_counts(name: str) -> None:
    report = model_report(name, "meta")
    with FlopCounterMode(display=False) as counter, striate.ops.dispatch.prefer("torch"), torch.no_grad():
        report.recording.model(torch.zeros(SHAPES[name], device="meta"))
    assert report.totals["flops"] == counter.get_total_flops() > 0


# torch 2.14's counter sees attention on the CPU as one operator, of which it has no formula; before, it saw the
# products inside.
COUNTS_ATTENTION = torch.__version__ < (2, 14)


@pytest.mark.parametrize("name", GRAPHS)
def test_macs_of_odd_graphs_are_half_of_what_torchs_counter_counts(name: str) -> None:
    report = graph_report(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        report.recording.model(*(torch.rand(shape) for shape in report.input_shapes))
    left_out = (
        0 if COUNTS_ATTENTION else sum(row.flops for row in report.layers if row.type.startswith("scaled_dot_product"))
    )
    assert (left_out > 0) == (name == "attention" and not COUNTS_ATTENTION)
    assert report.totals["flops"] - left_out == counter.get_total_flops()


# torch's counter ignores groups in a weight's gradient
@pytest.mark.parametrize("name", ["lenet5", "resnet18", "resnet50", "vgg11_bn"])
def test_backward_macs_are_half_of_what_torchs_counter_counts(name: str) -> None:
    report = model_report(name, "meta")
    with FlopCounterMode(display=False) as counter, striate.ops.dispatch.prefer("torch"):
        y = report.recording.model(torch.zeros(SHAPES[name], device="meta"))
        forward = counter.get_total_flops()
        y.sum().backward()
    assert 2 * report.totals["backward_macs"] == counter.get_total_flops() - forward


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_and_macs_are_those_of_torchinfo(name: str) -> None:
    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is not installed")
    report = model_report(name, "meta")
    plain = striate.restore(report.recording.model)  # its MACs for unknown classes are guesses
    other = torchinfo.summary(plain, input_size=SHAPES[name], verbose=0, device="meta")
    assert report.totals["parameters"] == other.total_params
    if name == "convnext_tiny":  # torchinfo counts linear layers once a sample, not at each position
        assert report.totals["macs"] > other.total_mult_adds
        return
    # torchinfo counts a MAC for each parameter of a norm, and one for each bias value
    norms = (
        sum(p.numel() for m in plain.modules() if "Norm" in type(m).__name__ for p in m.parameters()) * SHAPES[name][0]
    )
    bias = sum(
        prod(row.output_shape) for row, m in of_layers(report) if getattr(m, "bias", None) is not None and row.macs
    )
    assert report.totals["macs"] == other.total_mult_adds - norms - bias


def of_layers(report: Report) -> list[tuple[Any, nn.Module]]:
    return [(row, report.recording.calls[row.call].module) for row in report.layers if row.call is not None]


def test_backward_macs_of_a_depthwise_layer_are_twice_its_forward_ones() -> None:
    report = inspect(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8)), (2, 8, 7, 7))
    assert [row.macs for row in report.layers] == [2 * 8 * 25 * 9, 2 * 8 * 9 * 9]
    assert [row.backward_macs for row in report.layers] == [2 * 8 * 25 * 9, 2 * 2 * 8 * 9 * 9]


class Applied(nn.Module):
    """Some function of an input and three convolutions."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.a, self.b, self.c)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Any:
        y = F.conv2d(F.conv2d(x, weight, padding=1), weight, padding=1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return dy, None


def without_gradient(x: Tensor, a: Any, b: Any, c: Any) -> Tensor:
    with torch.no_grad():
        y = a(x)
    return c(y)


def written_into(x: Tensor, a: Any, b: Any, c: Any) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 2:] = a(x)[:, :, 2:]
    return b(y)


# the operation, and the number of products' gradients that it needs
BACKWARD: dict[str, tuple[Any, int]] = {
    "no_grad": (without_gradient, 1),
    "detached": (lambda x, a, b, c: b(a(x).detach()) + c(x), 2),
    "not used": (lambda x, a, b, c: (a(b(x)), c(x))[1], 1),
    "a whole number": (lambda x, a, b, c: (a(b(x)), c(x).argmax(1)), 3),
    "written into": (written_into, 3),
    "a function of its own": (lambda x, a, b, c: b(Square.apply(a(x), c.weight)), 7),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_macs_are_of_what_the_backward_pass_comes_by(name: str) -> None:
    function, count = BACKWARD[name]
    report = inspect(Applied(function), (1, 2, 8, 9))
    assert (
        report.totals["backward_macs"] == sum(row.backward_macs for row in report.layers) == count * 2 * 2 * 9 * 8 * 9
    )


def test_macs_of_a_matrix_by_a_vector_and_what_its_rows_see() -> None:
    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.rand(7))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weights

    report = inspect(Weighed(), (1, 2, 5, 7))
    assert report.totals["macs"] == 2 * 5 * 7
    assert report.receptive_field("Weighed", (4,)) == (((4, 4), (0, 6)), ((4,), tuple(range(7))), True, "exact")


def test_what_autograd_keeps_is_what_a_training_step_keeps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    report = inspect(model, (4, 3, 8, 8))
    x, y = 4 * 3 * 64 * 4, 4 * 8 * 36 * 4
    # the convolution's input; the ReLU's output, which is the linear layer's input
    assert [row.kept_bytes for row in report.layers] == [x, y, 0, 0]


# ----------------------------------------------------------------------------------------------------------- odd models


def test_functions_stand_in_rows_of_their_own_named_by_where_they_are() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x) + x) + 1

    report = inspect(nn.Sequential(Block(), nn.Flatten()), (1, 4, 6, 6))
    assert [(row.name, row.type) for row in report.layers] == [
        ("0.conv", "Conv2d"), ("0.add", "add"), ("0.relu", "relu"), ("0.add_2", "add"), ("1", "Flatten"),
    ]  # fmt: skip
    assert "test_inspect.py:" in report.layers[1].line


def test_a_layer_that_is_called_again_has_its_parameters_once() -> None:
    report = graph_report("repeated")
    rows = [row for row in report.layers if row.type == "Conv2d"]
    assert [(row.name, row.parameters) for row in rows] == [("conv", 38), ("conv (call 2)", 0), ("conv (call 3)", 0)]
    assert [row.receptive_field["size"] for row in rows] == [[5, 5], [9, 9], [13, 13]]
    assert {row.macs for row in rows} == {21 * 17 * 2 * 2 * 9}


def test_parameters_nobody_reads_have_a_row() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    model.extra = nn.Parameter(torch.zeros(7))
    report = inspect(model, (1, 3))
    assert (report.layers[-1].name, report.layers[-1].parameters) == ("(not called)", 7)


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    report = inspect(model, (1, 4))
    assert report.totals["parameters"] == 16 and [row.parameters for row in report.layers] == [16, 0]


def test_a_layer_with_a_parametrized_weight_is_one_row() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    report = inspect(model, (1, 3, 8, 8))
    assert [(row.name, row.parameters) for row in report.layers] == [("0", 4 + 4 + 108), ("1", 0)]


def test_dictionaries_and_several_inputs_are_given_by_name_or_place() -> None:
    make, shapes = GRAPHS["two"]
    by_place, by_name = inspect(make(), shapes), inspect(make(), {"image": shapes[0], "depth": torch.zeros(shapes[1])})
    assert by_place.to_dict()["layers"] == by_name.to_dict()["layers"]
    assert by_place.receptive_field("softplus", (1, 1)).rectangle == ((4, 7), (4, 7))
    assert by_place.receptive_field("softplus", (1, 1), input=1).rectangle == ((0, 2), (0, 2))


def test_a_shape_without_the_batch_is_one_sample() -> None:
    assert inspect(striate.models.lenet5(), (1, 28, 28)).input_shapes == [(1, 1, 28, 28)]
    assert inspect(nn.Conv1d(2, 3, 3), (2, 9)).input_shapes == [(1, 2, 9)]
    assert inspect(nn.Linear(3, 2), (5, 3)).input_shapes == [(5, 3)]
    assert inspect(striate.models.mlp_bn().eval(), (784,)).input_shapes == [(1, 784)]
    assert inspect(striate.models.mlp_bn().eval(), (2, 784)).input_shapes == [(2, 784)], (
        "a norm of (N, C) does not say that it lacks a batch"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_shapes_become_tensors_of_the_models_type(dtype: torch.dtype) -> None:
    report = inspect(nn.Conv2d(3, 4, 3).to(dtype), (2, 3, 8, 8))
    assert (
        report.totals["parameter_bytes"] == 112 * dtype.itemsize
        and report.layers[0].activation_bytes == 2 * 4 * 36 * dtype.itemsize
    )


def test_what_cannot_be_counted_is_unknown() -> None:
    report = inspect(nn.Bilinear(8, 8, 3), ((5, 2, 8), (5, 2, 8)))
    assert report.totals["macs"] is None and report.layers[0].status["macs"] == "unknown"
    assert report.to_dict()["layers"][0]["flops"] is None and "?" in report.table()
    assert report.layers[0].status["kept_bytes"] != "unknown"
    assert inspect(nn.LSTM(8, 16), (5, 2, 8)).layers[0].status["kept_bytes"] == "unknown"


def test_data_decides_and_the_answer_holds_for_one_input() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            if y.sum() > 1e9:
                return y
            return y * 2

    model = Choosing()
    state = copy.deepcopy(model.state_dict())
    report = inspect(model, (2, 1, 8, 8))
    assert {row.status["receptive_field"] for row in report.layers} == {"this input"}
    assert "DataDependentOutputException" in report.notes[0] and "test_inspect.py:" in report.notes[0]
    assert report.layers[0].macs == 2 * 2 * 36 * 9
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_model_is_left_as_it_was() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.calls, self.last, self.seen = nn.BatchNorm2d(3), 0, None, []

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = x
            self.seen.append(x)
            self.more = x
            return self.norm(x)

    model = Remembering()
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inspect(model, (2, 3, 4, 4))
    assert (model.calls, model.last, model.seen, hasattr(model, "more"), model.training) == (0, None, [], False, True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator) and not model._forward_hooks and not model._forward_pre_hooks
    assert all(type(p) is nn.Parameter and p.grad is None for p in model.parameters())


NOTE = "Receptive fields follow the taps; the statistics that norms take over places ({}) are not counted."


@pytest.mark.parametrize("library", [nn, striate.nn])
def test_norms_over_places_are_told_of_whatever_they_are(library: Any) -> None:
    places = [nn.Conv2d(2, 4, 3), library.LayerNorm((4, 6, 6)), library.LayerNorm(6), library.GroupNorm(2, 4)]
    assert inspect(nn.Sequential(*places), (1, 2, 8, 8)).notes == [NOTE.format("1, 2, 3")]
    channels = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(2), Moved(), library.LayerNorm(4))
    assert inspect(channels, (1, 2, 8, 8)).notes == []
    assert inspect(Applied(lambda x, a, b, c: F.group_norm(a(x), 2)), (1, 2, 8, 8)).notes == [NOTE.format("group_norm")]


class Moved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, striate.nn.BatchNorm2d])
def test_training_on_one_value_per_channel_is_told_in_evaluation(norm: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), norm(4))
    report = inspect(model, (1, 3, 8, 8))
    assert (
        report.notes[0]
        == "Training would fail on this input: a batch norm gets one value per channel. Told for evaluation."
    )
    assert model.training and len(report.layers) == 2


def test_it_works_without_the_native_core() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import striate; from striate.analysis import inspect\n"
        "assert not striate.native_info()['core']\n"
        "print(inspect(striate.models.resnet18(), (1, 3, 64, 64)).to_dict()['layers'])"
    )
    environment = {**os.environ, "STRIATE_CORE": "/nowhere/_core.so"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = inspect(striate.models.resnet18(), (1, 3, 64, 64))
    assert done.stdout.strip() == str(here.to_dict()["layers"])


def test_accelerated_and_torchs_own_models_are_told_alike() -> None:
    native_model = striate.models.resnet18().eval()
    torch_model = striate.restore(native_model)
    a, b = inspect(native_model, (1, 3, 64, 64)), inspect(torch_model, (1, 3, 64, 64))
    keys = ("parameters", "macs", "backward_macs")
    assert [a.totals[key] for key in keys] == [b.totals[key] for key in keys]
    assert a.layers[-1].receptive_field == b.layers[-1].receptive_field


# ----------------------------------------------------------------------------------------------------- receptive fields


def brute_force(model: nn.Module, shapes: list[tuple[int, ...]], unit: tuple[int, ...]) -> list[Tensor]:
    """Finds by gradients which positions of each input affect a unit. All weights and values are positive, so that no
    terms cancel.
    """
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 + torch.rand_like(p))
    inputs = [(0.5 + torch.rand(shape, dtype=torch.float64)).requires_grad_() for shape in shapes]
    y = model(*inputs)
    gradients = torch.autograd.grad(y[(0, slice(None), *unit)].sum(), inputs, allow_unused=True)
    return [
        (g != 0).any(1)[0] if g is not None else torch.zeros(x.shape[2:]) > 0
        for g, x in zip(gradients, inputs, strict=True)
    ]


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in ("functional", "attention")])
def test_every_units_field_is_the_one_that_gradients_find(name: str) -> None:
    report = graph_report(name)
    shape = report.recording.values[report.recording.outputs[0]].shape
    value = report.recording.outputs[0]
    units = list(product(*({0, n // 2, n // 2 + 1, n - 1} & set(range(n)) for n in shape[2:])))
    for unit in units:
        moved = brute_force(report.recording.model, report.input_shapes, unit)
        found = seen_by(report.recording, value, units_of(shape, unit))
        for number, mask in enumerate(moved):
            axes = report.axes(number)
            if not mask.any():
                assert number not in found or not all(map(len, found[number].axes)), unit
                continue
            seen = found[number]
            for k, (_, axis) in enumerate(axes):
                others = [d for d in range(mask.dim()) if d != k]
                positions = (mask.any(dim=others) if others else mask).nonzero().flatten().tolist()
                if seen.exact:
                    assert sorted(seen.axes[axis]) == positions, (unit, axis)
                extent = report.fields.extent(value, (number, axis))
                place = report.fields.place(value, (number, axis))
                if extent.exact:
                    at = unit[place.axis - 2] if place is not None else 0
                    first, last = extent.field.span(at)
                    size = report.input_shapes[number][axis]
                    assert first <= positions[0] and positions[-1] <= last, (unit, axis)
                    assert (first == positions[0] or first < 0) and (last == positions[-1] or last >= size), (
                        unit,
                        axis,
                    )
                else:
                    assert set(positions) <= set(seen.axes[axis])
            if seen.exact:
                assert int(mask.sum()) == prod(len(seen.axes[axis]) for _, axis in axes), unit


def test_a_row_and_a_column_are_an_upper_bound_whose_interval_is_exact() -> None:
    found = graph_report("cross").receptive_field("add", (5, 5))
    assert found == (((3, 7), (3, 7)), ((3, 4, 5, 6, 7), (3, 4, 5, 6, 7)), False, "exact")


@pytest.mark.parametrize("name", [*GRAPHS])
def test_not_a_number_reaches_just_what_the_graph_says_in_odd_graphs(name: str) -> None:
    checked = verify(graph_report(name)) if any(row.call is not None for row in graph_report(name).layers) else []
    assert all(one.holds for one in checked), [one for one in checked if not one.holds]
    assert checked or name == "functional"


# Each model runs once for every row and every column of its input: the larger ones take up to half a minute.
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("lenet5", "cnn_bn", "resnet_cifar", "resnet18")
        else pytest.param(name, marks=pytest.mark.nightly)
        for name in SHAPES
    ],
)
def test_not_a_number_reaches_just_what_the_graph_says_in_models(name: str) -> None:
    report = model_report(name)
    checked = verify(report)
    assert len(checked) >= 8 and all(one.holds for one in checked), [one for one in checked if not one.holds]
    assert sum(one.exact for one in checked) > len(checked) // 2


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "functional"])
def test_what_a_pixel_reaches_is_what_sees_it(name: str) -> None:
    report = graph_report(name)
    value = report.recording.outputs[0]
    shape, given = report.recording.values[value].shape, report.input_shapes[0]
    pixel = tuple(n // 3 for n in given[2:])
    reached = reached_from(report.recording, value, {0: units_of(given, pixel)})
    assert reached is not None
    for unit in product(*map(range, shape[2:])):
        seen = seen_by(report.recording, value, units_of(shape, unit)).get(0)
        sees = seen is not None and all(p in axis for p, axis in zip(pixel, seen.axes[2:], strict=True))
        within = all(u in axis for u, axis in zip(unit, reached.axes[2:], strict=True))
        assert sees == within or (not reached.exact and within) or (seen is not None and not seen.exact)


BOUNDS = ("cross", "written", "gate", "functional", "interleaved", "picked", "mirrored", "aliased", "cumulative")
EXACT = [name for name in GRAPHS if name not in BOUNDS]


@pytest.mark.parametrize("name", EXACT)
def test_what_can_be_told_exactly_is(name: str) -> None:
    report = graph_report(name)
    assert {report.fields.extent(report.recording.outputs[0], axis).exact for axis in report.fields.axes} == {True}


MASKED = {
    "sums so far": lambda x: x.cumsum(3),
    "a causal mask": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "a mask": lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.eye(6, dtype=torch.bool, device=x.device)
    ),
    "norms of slices": lambda x: x.renorm(2, 3, 1.0),
    "other strides": lambda x: x.clone().as_strided((1, 1, 6, 6), (36, 36, 1, 6)),
    "a ratio without a short period": lambda x: F.interpolate(x, size=(6, 4999), mode="bilinear"),
    "an order of its own": lambda x: x[:, :, torch.tensor([3, 1, 0])],
}


@pytest.mark.parametrize("name", MASKED)
def test_what_a_unit_may_see_without_seeing_it_is_a_bound(name: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return MASKED[name](x)

    report = inspect(Model(), (1, 1, 6, 6 if "ratio" not in name else 5003))
    found = report.receptive_field(report.layers[-1].name, (0, 1))
    assert (found.exact, found.status) == (False, "upper bound")


def test_the_smallest_value_but_one_of_an_axis_sees_all_of_it() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.kthvalue(2, 2).values

    report = inspect(Model(), (1, 3, 5, 4))
    assert report.receptive_field("Model", (2,)).taps == ((0, 1, 2, 3, 4), (2,))


def test_long_axes_and_ratios_of_many_phases_are_not_gone_through() -> None:
    audio = nn.Sequential(
        nn.Conv1d(1, 4, 9, stride=4), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(1)
    )
    enlarged = nn.Sequential(
        *(
            nn.Sequential(nn.Upsample(scale_factor=1.3, mode="bilinear"), nn.Conv2d(1, 1, 3, padding=1))
            for _ in range(12)
        )
    )
    inspect(audio, (1, 1, 500))
    assert calls_of(lambda: inspect(audio, (1, 1, 1_000_000))) < 1.5 * calls_of(lambda: inspect(audio, (1, 1, 1000)))
    report = inspect(enlarged, (1, 1, 32, 32))
    assert report.layers[-1].status["receptive_field"] == "upper bound", (
        "13¹² phases, which no loop comes to the end of"
    )


# with the stride in the 3×3 convolution; in the 1×1 one it would be 483
@pytest.mark.parametrize(("name", "size"), [("resnet18", 435), ("resnet50", 427)])
def test_fields_of_resnets_are_those_of_the_recurrence(name: str, size: int) -> None:
    report = inspect(striate.models.by_name(name)().eval(), (1, 3, 224, 224))
    last = [row for row in report.layers if row.output_shape[2:] == (7, 7)][-1]
    assert last.receptive_field["size"] == [size, size] and last.receptive_field["jump"] == [32, 32]


def test_channels_that_are_places_make_a_bound_until_they_are_summed() -> None:
    down, mixed = nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 3, padding=1)
    apart = inspect(nn.Sequential(down, nn.Conv2d(4, 4, 1, groups=4), nn.PixelShuffle(2)), (1, 1, 8, 8))
    assert [row.status["receptive_field"] for row in apart.layers] == ["upper bound"] * 3  # in truth a unit sees 1 px
    together = inspect(nn.Sequential(down, mixed, nn.PixelShuffle(2)), (1, 1, 8, 8))
    assert [row.status["receptive_field"] for row in together.layers] == ["upper bound", "exact", "exact"]
    assert [row.receptive_field["size"] for row in together.layers] == [[2, 2], [6, 6], [6, 6]]


def test_units_are_told_by_the_axes_that_follow_the_image_wherever_they_are() -> None:
    report = model_report("convnext_tiny")
    row = next(row for row in report.layers if row.type == "LayerNorm")
    assert row.output_shape == (1, 16, 16, 96) and report.unit_axes(row.name) == (1, 2)
    assert report.receptive_field(row.name, (15, 0)).rectangle == ((48, 63), (0, 15))


def test_a_model_that_gives_a_loss_has_fields_and_a_page() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).square().mean()

    report = inspect(Loss(), (2, 3, 8, 8))
    assert report.receptive_field("mean").rectangle == ((0, 7), (0, 7))
    assert report.projective_field("mean", (3, 4)).rectangle == ()
    assert "mean" in report.html() and "mean" in str(report)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, dict(num_layers=2), dict(num_layers=2, bidirectional=True), dict(batch_first=True, bias=False)],
    ids=str,
)
def test_an_lstm_has_the_macs_of_the_products_it_is_made_of(options: dict[str, Any], frozen: bool) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):  # one operator; products of matrices, step by step
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.before, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 5, **options).requires_grad_(not frozen)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.lstm(self.before(x))[0]
                return out

        totals = inspect(Net().to(dtype), torch.zeros(7, 2, 4, dtype=dtype)).totals
        found.append((totals["macs"], totals["backward_macs"]))
    assert found[0] == found[1] and min(found[0]) > 0


def test_a_resnet_152_is_inspected_without_any_values() -> None:
    from striate.models.resnet import ResNetBottleneck, _resnet, _stem

    with torch.device("meta"):
        model = _resnet(_stem(3), ResNetBottleneck, [64, 128, 256, 512], [3, 8, 36, 3], 1000)
    report = inspect(model, (1, 3, 224, 224))
    assert report.totals["parameters"] == 60_192_808 and round(report.totals["macs"] / 1e9, 2) == 11.51  # torchvision's
    assert {row.status["receptive_field"] for row in report.layers} == {"exact"}


def test_the_effective_field_lies_inside_the_theoretical_one_and_is_largest_in_the_middle() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1) for i in range(5)))
    report = inspect(model, (1, 1, 21, 21))
    heat = effective_field(report, "4", (10, 10), images=4)
    (top, bottom), (left, right) = report.receptive_field("4", (10, 10)).rectangle
    outside = heat.clone()
    outside[top : bottom + 1, left : right + 1] = 0
    assert heat.max() == 1 and outside.max() == 0 and (top, bottom) == (5, 15)
    middle, whole = heat[8:13, 8:13].square().mean(), heat[5:16, 5:16].square().mean()
    assert middle > 2 * whole


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_input_is_refused_with_a_clear_line() -> None:
    lenet = striate.models.lenet5()
    with pytest.raises(
        ArgumentTypeError, match=r"^inspect expects a torch.nn.Module, got str\. Give the model itself\.$"
    ):
        inspect("lenet5", (1, 1, 28, 28))
    with pytest.raises(
        ArgumentTypeError, match=r"^inspect expects a shape or a tensor as input, got 3\. Give \(1, 3, 224, 224\)\.$"
    ):
        inspect(lenet, 3)
    with pytest.raises(
        ShapeError, match=r"^inspect expects sizes from 0 on, got \(1, -1, 28, 28\)\. Give the input's shape\.$"
    ):
        inspect(lenet, (1, -1, 28, 28))
    with pytest.raises(
        ShapeError,
        match=(
            r"^inspect expects a forward that runs on x \(1, 3, 28, 28\), got ShapeError: .* Give the shape the "
            r"model is for, batch and channels first\.$"
        ),
    ):
        inspect(lenet, (1, 3, 28, 28))
    with pytest.raises(
        ArgumentError,
        match=r"^inspect expects a model whose parameters exist, got weight without a shape\. Call the model once\.$",
    ):
        inspect(nn.LazyConv2d(3, 3), (1, 3, 8, 8))
    with pytest.raises(
        ArgumentTypeError,
        match=(
            r"^inspect expects a model whose code is Python, got a torch\.jit\.ScriptModule\. Inspect the model "
            r"that it was made of\.$"
        ),
    ):
        inspect(torch.jit.script(nn.ReLU()), (1, 3))
    report = inspect(lenet, (1, 1, 28, 28))
    with pytest.raises(
        ArgumentError,
        match=r"^Report\.layer expects one of 0, 1, 2, 3, 4, 5, 6, 7 …, got 'conv9'\. Choose the name of a row\.$",
    ):
        report.receptive_field("conv9")
    with pytest.raises(
        ArgumentError,
        match=(
            r"^Report\.receptive_field expects unit within \(28, 28\), got \(28, 0\)\. Count from 0 on each axis "
            r"behind batch and channels\.$"
        ),
    ):
        report.receptive_field("0", (28, 0))
    with pytest.raises(
        ArgumentError, match=r"^Report\.projective_field expects pixel within \(28, 28\), got \(0,\)\. Count from 0"
    ):
        report.projective_field("0", (0,))
    with pytest.raises(
        ArgumentError, match=r"^Report\.table expects a width of at least 40, got 39\. Leave it out for 100\.$"
    ):
        report.table(39)
    with pytest.raises(
        ArgumentError, match=r"^effective_field expects images from 1 on, got 0\. Leave it out for 32\.$"
    ):
        effective_field(report, "0", images=0)


def test_the_failing_line_of_the_model_is_told() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x[:, :, :2]

    with pytest.raises(ShapeError, match=r"got RuntimeError: .* \(at test_inspect\.py:\d+\)\. Give the shape"):
        inspect(Wrong(), (1, 2, 5, 5))


def test_a_layer_whose_mode_is_its_own_keeps_it_where_the_model_is_told_for_evaluation() -> None:
    model = nn.Sequential(nn.Dropout().eval(), nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4))
    report = inspect(model, (1, 3, 8, 8))
    assert report.notes[0].startswith("Training would fail on this input") and [m.training for m in model] == [
        False,
        True,
        True,
    ]


class NoGradHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.first(x)
        return self.second(y)


def test_no_gradient_is_counted_of_what_is_computed_without() -> None:
    first, second = inspect(NoGradHead(), (1, 3, 8, 8)).layers
    assert first.backward_macs == 0 and first.macs == 8 * 3 * 9 * 36
    assert second.backward_macs == second.macs == 8 * 8 * 9 * 16  # the weight's


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return None, None


class WithFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x, self.weight)


def test_gradients_of_a_function_of_autograd_are_counted_by_what_it_computes() -> None:
    assert inspect(WithFunction(), (2, 3)).totals["backward_macs"] == 2 * 3 * 5


def test_several_shapes_without_the_batch_are_one_sample_each() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    assert inspect(Sum(), ((3, 8, 8), (1, 8, 8))).input_shapes == [(1, 3, 8, 8), (1, 1, 8, 8)]
    assert inspect(Sum(), ((2, 3, 8, 8), (2, 1, 8, 8))).input_shapes == [(2, 3, 8, 8), (2, 1, 8, 8)]


def test_a_default_device_changes_no_finding() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with torch.device("meta"):
        found = [finding.rule for finding in inspect(model, (1, 3, 16, 16)).findings]
    assert found == ["skipped-pixels"]


def test_torch_prints_nothing_of_what_is_told_as_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    with pytest.raises(ShapeError):
        inspect(Far(), (3, 8, 8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"loss": "NLLLoss"},
            ArgumentTypeError,
            "a loss that is a module, got str. Make it, as nn.CrossEntropyLoss().",
        ),
        (
            {"loss": nn.NLLLoss},
            ArgumentTypeError,
            "a loss that is a module, got the class NLLLoss. Make it, as nn.CrossEntropyLoss().",
        ),
        (
            {"optimizer": "SGD"},
            ArgumentTypeError,
            "a torch.optim.Optimizer, got str. Make it, as SGD(model.parameters(), 0.1).",
        ),
        (
            {"batch_size": 0},
            ArgumentError,
            "batch_size to be a whole number from 1 on, got 0. Leave it out for the input's.",
        ),
        ({"object_px": -3.0}, ArgumentError, "object_px to be more than 0 px, got -3.0. Leave it out."),
    ],
)
def test_what_the_rules_would_not_understand_is_refused(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        inspect(nn.Conv2d(3, 4, 3), (1, 3, 8, 8), **options)
    assert str(error.value) == f"inspect expects {message}"


def test_a_parallel_model_is_refused_with_what_to_inspect() -> None:
    with pytest.raises(ArgumentTypeError) as error:
        inspect(nn.DataParallel(nn.Conv2d(3, 4, 3)), (1, 3, 8, 8))
    assert str(error.value) == "inspect expects a model by itself, got a torch.nn.DataParallel. Inspect its .module."


def test_one_rule_to_ignore_may_be_given_by_itself() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert (
        inspect(model, (1, 3, 8, 8)).findings and not inspect(model, (1, 3, 8, 8), ignore="bias-before-norm").findings
    )
