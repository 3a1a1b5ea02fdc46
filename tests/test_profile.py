"""The profile: to which layer time is attributed, and how it is reported."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import striate
from striate import models, nn
from striate.cli import main
from striate.diagnostics import LayerTime, Profile, profile
from striate.diagnostics.profile.convolution import PASSES
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.measure import Rates, turns
from striate.ops.conv import NAMES, explain_methods
from striate.ops.dispatch import prefer
from striate.window import Axis, Window

run = importlib.import_module("striate.diagnostics.profile.run")
BYTES_PER_MS, MACS_PER_MS = 1e6, 1e8


@pytest.fixture(autouse=True)
def _rates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes a machine with round rates, because measuring takes a second; on one thread, because several wait for
    each other on busy machines.
    """
    torch.set_num_threads(1)
    if "real" not in request.node.name:
        monkeypatch.setattr(run, "measure_rates", lambda dtype, rounds: Rates(BYTES_PER_MS, MACS_PER_MS))


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes a clock that advances by one with each reading: whatever is timed once takes one."""
    monkeypatch.setattr(turns, "clock_ns", itertools.count().__next__)


def small() -> torch.nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def quick(model: torch.nn.Module, *shape: int, **rest: Any) -> Profile:
    return profile(model, torch.randn(shape), rounds=3, **rest)


def by_path(report: Profile) -> dict[str, LayerTime]:
    return {layer.path: layer for layer in report.layers}


def in_ticks(report: Profile) -> dict[str, tuple[int, int]]:
    return {
        layer.path: (round(layer.forward_ms * 1e6), round((layer.backward_ms or 0) * 1e6)) for layer in report.layers
    }


# ----------------------------------------------------------------------------------------------------- whose time it is


def test_layers_and_what_they_leave_add_up_to_the_step() -> None:
    report = quick(small(), 2, 1, 8, 8)
    assert [layer.path for layer in report.layers] == ["0", "1+2", "3", "4", "5"]
    assert (
        all(layer.forward_ms > 0 for layer in report.layers)
        and report.backward_ms is not None
        and report.outside_backward_ms is not None
    )
    in_layers = sum(layer.forward_ms for layer in report.layers)
    assert in_layers + report.outside_forward_ms == pytest.approx(report.forward_ms)
    assert sum(layer.backward_ms or 0 for layer in report.layers) + report.outside_backward_ms == pytest.approx(
        report.backward_ms
    )
    assert report.step_ms == report.forward_ms + report.backward_ms
    assert report.outside_ms == report.outside_forward_ms + report.outside_backward_ms


@pytest.mark.usefixtures("ticks")
def test_every_node_of_backward_is_the_layers_whose_forward_made_it() -> None:
    # nodes of conv: itself, weight and bias; norm and ReLU: one, scale and shift; pooling: itself; flatten: a view;
    # linear: the product, the transpose, weight and bias
    assert in_ticks(quick(small(), 2, 1, 8, 8)) == {"0": (1, 3), "1+2": (1, 3), "3": (1, 1), "4": (1, 1), "5": (1, 4)}


class Functional(torch.nn.Module):
    """Two layers with functions before, between and after them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = torch.tanh(self.first(x * 2))
        return {"z": [torch.relu(self.second(y) + y), 7], "y": y}


@pytest.mark.usefixtures("ticks")
def test_functions_between_layers_belong_to_none() -> None:
    assert in_ticks(quick(Functional(), 3, 4)) == {"first": (1, 4), "second": (1, 4)}


class Shared(torch.nn.Module):
    """One convolution on two sizes, one activation in place called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2)
        self.again = self.conv

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        y = self.act(self.again(y))
        return self.act(self.conv(self.pool(y)))


@pytest.mark.usefixtures("ticks")
def test_calls_on_the_same_shapes_are_one_row_and_other_shapes_another() -> None:
    report = quick(Shared(), 1, 2, 6, 6)
    assert [(layer.path, layer.output_shape, layer.calls) for layer in report.layers] == [
        ("conv", (1, 2, 6, 6), 2),
        ("act", (1, 2, 6, 6), 2),
        ("pool", (1, 2, 3, 3), 1),
        ("conv", (1, 2, 3, 3), 1),
        ("act", (1, 2, 3, 3), 1),
    ]
    # the two gradients that are accumulated once, after all three calls, go to the first row
    assert [(round(one.forward_ms * 1e6), round((one.backward_ms or 0) * 1e6)) for one in report.layers] == [
        (2, 4),
        (2, 2),
        (1, 1),
        (1, 1),
        (1, 1),
    ]
    macs = {size: 2 * 2 * (3 * size) ** 2 for size in (6, 3)}
    inside = {size: 2 * 2 * (3 * size - 2) ** 2 for size in (6, 3)}
    assert [layer.macs for layer in report.layers] == [2 * macs[6], 0, 0, macs[3], 0]
    assert [layer.macs_inside for layer in report.layers] == [2 * inside[6], 0, 0, inside[3], 0]


class Checkpointed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.second, self.first(x), use_reentrant=False)


def test_what_backward_computes_anew_is_no_further_call() -> None:
    rows = by_path(quick(Checkpointed(), 3, 4))
    assert rows["second"].calls == 1 and rows["second"].backward_ms is not None


@pytest.mark.usefixtures("ticks")
def test_frozen_parameters_take_no_backward() -> None:
    model = small()
    for p in model[:2].parameters():
        p.requires_grad_(False)
    report = quick(model, 2, 1, 8, 8)
    assert in_ticks(report) == {"0": (1, 0), "1+2": (1, 0), "3": (1, 0), "4": (1, 0), "5": (1, 4)}
    assert report.layers[0].method.keys() == {"forward"}


def test_a_model_without_gradients_is_profiled_forward_alone() -> None:
    report = quick(small().requires_grad_(False), 2, 1, 8, 8)
    assert report.backward_ms is None and not report.backward
    assert all(layer.backward_ms is None for layer in report.layers)
    assert report.outside_backward_ms is None and "backward" not in report.table()
    assert report.table().startswith("Sequential: forward, training mode, x 2×1×8×8 in planes order, float32\n")


def test_an_input_with_a_gradient_gives_the_first_layer_one_to_compute() -> None:
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    report = profile(small(), x, rounds=3)
    assert list(report.layers[0].method) == ["forward", "input", "weight"] and x.grad is None
    assert list(quick(small(), 2, 1, 8, 8).layers[0].method) == ["forward", "weight"]


def test_the_model_and_its_example_stay_as_they_were() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1), *small(), nn.Dropout()).train()
    model[2].weight.grad = torch.full_like(model[2].weight, 5.0)
    x = torch.randn(2, 1, 8, 8)
    before, state, random = (
        x.clone(),
        {name: t.clone() for name, t in model.state_dict().items()},
        torch.random.get_rng_state(),
    )
    profile(model, x, rounds=3)
    assert torch.equal(x, before) and torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert torch.equal(model[2].weight.grad, torch.full_like(model[2].weight, 5.0)) and model[2].bias.grad is None
    assert model.training and not any("forward" in m.__dict__ or m._forward_hooks for m in model.modules())


def test_layers_have_no_hooks_while_they_are_timed_and_keep_a_forward_of_their_own() -> None:
    seen = []

    class Curious(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(bool(self._forward_hooks or self._forward_pre_hooks))
            return super().forward(x)

    layer = Curious()
    layer.forward = own = lambda x, run=layer.forward: run(x)  # type: ignore[method-assign]
    report = quick(nn.Sequential(layer), 2, 3)
    # a recording with hooks, a first look, a warm-up, and two steps a round
    assert len(report.layers) == 1 and len(seen) == 1 + 1 + 1 + 2 * 3 and seen[0] and not any(seen[1:])
    assert layer.__dict__["forward"] is own


def test_a_model_that_fails_stays_as_it_was_too() -> None:
    model = small()
    before = model[1].running_mean.clone()
    with pytest.raises(ShapeError):
        quick(model, 2, 1, 10, 10)
    assert torch.equal(model[1].running_mean, before) and not any("forward" in m.__dict__ for m in model.modules())


def test_progress_tells_what_comes_next_and_ends_with_all_done() -> None:
    heard: list[tuple[int, int, str]] = []
    quick(small(), 2, 1, 8, 8, progress=lambda *step: heard.append(step))
    assert heard[0] == (0, 6, "rates of this machine") and heard[-1] == (6, 6, "done")
    assert [what for _, _, what in heard[1:-1]] == [
        "step 1 of 3",
        "step 2 of 3",
        "step 3 of 3",
        "0, forward",
        "0, weight",
    ]
    assert [done for done, _, _ in heard] == list(range(7))


# --------------------------------------------------------------------------------------------------- methods and limits


@pytest.mark.parametrize("last", [False, True])
def test_methods_are_those_that_explain_names(last: bool) -> None:
    shape = (2, 8, 12, 12)
    given = [(8, 8, 3, 1, 8), (8, 16, 1, 1, 1), (16, 20, 3, 2, 1)]
    model = nn.Sequential(
        *(nn.Conv2d(c, k, size, step, padding=size // 2, groups=groups) for c, k, size, step, groups in given)
    )
    x = torch.randn(shape).requires_grad_()
    report = profile(
        model, x.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if last else x, rounds=3
    )
    assert report.channels_last is last
    for layer, row in zip(model, report.layers, strict=True):
        shapes = row.input_shapes[0], layer.weight.shape
        wanted = explain_methods(*shapes, layer.stride, layer.padding, 1, layer.groups, last)
        assert row.method == {map: wanted[pass_][-1][0] for map, pass_ in PASSES.items()}
        assert row.map_ms.keys() == row.method.keys() == row.map_limit_ms.keys() == row.next_best.keys()
        for map, (name, ms) in row.next_best.items():
            assert name in NAMES and name not in (row.method[map], "reference") and ms > 0


def test_a_method_that_is_preferred_is_the_one_that_is_named() -> None:
    with prefer("direct"):
        report = quick(small(), 2, 1, 8, 8)
    assert set(report.layers[0].method.values()) == {"direct"} and all(
        name != "direct" for name, _ in report.layers[0].next_best.values()
    )


def test_torchs_own_layers_are_torch_and_ours_are_native() -> None:
    native_model, torch_model = small(), striate.restore(small())
    of_torch = quick(torch_model, 2, 1, 8, 8, next_best=False)
    assert [layer.method["forward"] for layer in of_torch.layers] == ["torch"] * 4 + [
        "none",
        "torch",
    ]
    assert [layer.method["forward"] for layer in quick(native_model, 2, 1, 8, 8).layers][1:] == [
        "native",
        "native",
        "none",
        "torch",
    ]
    in_half = profile(native_model.half(), torch.randn(2, 1, 8, 8).half(), rounds=3)
    half = [layer.method["forward"] for layer in in_half.layers]
    assert half == ["torch"] * 4 + ["none", "torch"]


def test_a_norm_with_a_residual_and_one_with_an_activation_behind_it() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNormAct2d(3)
            self.rest = striate.accelerate(torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU()))

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.norm(x, residual=x))

    rows = by_path(quick(Block(), 2, 3, 5, 5))
    assert rows["norm"].input_shapes == ((2, 3, 5, 5), (2, 3, 5, 5)) and rows["norm"].method == {"forward": "native"}
    assert rows["rest.0+rest.1"].type == "BatchNorm2d+ReLU" and rows["rest.0+rest.1"].method == {"forward": "native"}
    assert 0 < rows["rest.0+rest.1"].moved_bytes < rows["norm"].moved_bytes  # which reads a residual too


def test_a_transposed_convolution_is_told_from_the_layers_side() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
    row = profile(layer, torch.randn(2, 4, 7, 7).requires_grad_(), rounds=3).layers[0]
    wanted = explain_methods((2, 6, 13, 13), (4, 6, 3, 3), 2, 1)
    assert row.method == {
        "forward": wanted["backward_data"][-1][0],
        "input": wanted["forward"][-1][0],
        "weight": wanted["backward_weights"][-1][0],
    }
    assert row.path == row.type == "ConvTranspose2d" and row.output_shape == (2, 6, 13, 13)
    assert row.macs == 2 * 4 * 6 * 7**2 * 3**2
    assert row.macs_inside == 2 * 4 * 6 * Window((Axis(13, 7, 3, 2, 1, 1, 1),) * 2).tap_count


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 4, 5, padding="same", stride=2), (2, 3, 20)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 9, 9)),
        (nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5)),
        (nn.Conv2d(3, 4, 3), (3, 9, 9)),
        (nn.ConvTranspose1d(3, 4, 4, stride=2, padding_mode="reflect", padding=1), (2, 3, 9)),
        (nn.LocallyConnected2d(3, 4, 6, 3), (2, 3, 6, 6)),
        (nn.BlurPool2d(3), (2, 3, 8, 8)),
        (nn.GroupNorm(2, 4), (2, 4, 5, 5)),
        (nn.GlobalMaxPool2d(), (2, 4, 5, 5)),
        (nn.GELU(), (2, 4)),
        (torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 3)), (2, 3, 6, 6)),
        (torch.nn.LSTM(4, 5), (3, 2, 4)),
        (torch.nn.MultiheadAttention(4, 2), (3, 2, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "x".join(map(str, value)),
)
def test_each_kind_of_layer_is_one_row(layer: torch.nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    if isinstance(layer, torch.nn.MultiheadAttention):
        report = profile(layer, (x, x, x), rounds=3)
        assert [one.type for one in report.layers] == ["MultiheadAttention"]
    else:
        report = profile(layer, x, rounds=3)
        assert len(report.layers) == 1
    known = not isinstance(layer, torch.nn.LSTM | torch.nn.MultiheadAttention | nn.ConvTranspose1d)
    assert (report.layers[0].limit_ms is not None) is known, report.layers[0]
    assert report.table(80) and report.html()


def test_the_limit_is_the_larger_of_two_and_leaves_out_the_taps_in_the_padding() -> None:
    rows = by_path(quick(models.lenet5(), 2, 1, 28, 28, next_best=False))
    along = 28 * 5 - 2 * (2 + 1)  # of 28 outputs the two at each end miss 2 and 1 taps
    first = rows["0+1+2"]
    assert (
        first.type == "Conv2d+ReLU+MaxPool2d"
        and first.output_shape == (2, 20, 14, 14)
        and first.input_shapes == ((2, 1, 28, 28),)
    )
    assert first.macs == 2 * 20 * (28 * 5) ** 2 and first.macs_inside == 2 * 20 * along**2
    x, w, y = 2 * 784, 20 * 25, 2 * 20 * 784
    pooled = 4 * (y + 3 * y // 4) + y // 4  # read, written with an index, and processed by the activation
    assert first.moved_bytes == 2 * (4 * (x + w + y) + pooled)  # forward and the weight gradient; x has none
    assert first.limit_ms == pytest.approx(
        2 * max((4 * (x + w + y) + pooled) / BYTES_PER_MS, first.macs_inside / MACS_PER_MS)
    )
    assert first.share_of_limit == pytest.approx(first.limit_ms / first.ms)
    hidden = rows["7+8"]
    assert hidden.type == "Linear+ReLU" and hidden.method == {"forward": "native"} and hidden.macs == 2 * 2450 * 500
    assert hidden.moved_bytes == 3 * 4 * (2 * 2450 + 2450 * 500 + 500 + 2 * 500)
    alone = by_path(quick(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 2, 20, 28, 28, next_best=False))
    assert alone["0"].moved_bytes == 4 * 2 * y and alone["1"].moved_bytes == 4 * y + 5 * y // 4  # x needs no gradient


def test_real_rates_are_this_machines() -> None:
    report = quick(nn.ReLU(), 2, 3)
    assert 0.3 < report.copy_gb_per_s < 3000 and 0.3 < report.peak_gflops < 1e5
    assert report.cached_copy_gb_per_s is not None and report.cached_copy_gb_per_s > 0.03 and report.micro_kernel
    assert report.machine["torch"] == torch.__version__ and report.machine["processor"]


# --------------------------------------------------------------------------------------------------------- how it looks


def made(**changes: Any) -> Profile:
    layer = LayerTime(
        "features.0",
        "Conv2d",
        ((1, 3, 8, 8),),
        (1, 4, 8, 8),
        1,
        1.0,
        2.0,
        12,
        10,
        20,
        1.5,
        "arithmetic",
        {"forward": "direct"},
        {"forward": 0.5},
        {"forward": 0.25},
        {"forward": "cache"},
        {"forward": ("torch", 1.0)},
    )
    shared = layer._replace(
        path="act",
        type="ReLU",
        calls=3,
        forward_ms=0.25,
        backward_ms=0.5,
        limit_ms=None,
        limited_by=None,
        method={"forward": "torch"},
        map_ms={},
        map_limit_ms={},
        map_limited_by={},
        next_best={},
    )
    machine = {"processor": "Abacus", "isa": "beads", "torch": "2.13.0", "striate": "0.1.0", "python": "3.11.7"}
    facts: dict[str, Any] = {
        "model": "net",
        "input_shapes": ((1, 3, 8, 8),),
        "dtype": "float32",
        "channels_last": False,
        "training": True,
    }
    facts |= {
        "backward": True,
        "rounds": 7,
        "threads": 2,
        "machine": machine,
        "copy_gb_per_s": 20.0,
        "cached_copy_gb_per_s": 60.0,
        "peak_gflops": 300.0,
        "micro_kernel": True,
    }
    return Profile(
        **facts
        | {"forward_ms": 2.0, "backward_ms": 3.0, "spread": 0.02, "interruptions_per_s": 3.0, "layers": (layer, shared)}
        | changes
    )


TABLE = """\
net: training step, x 1×3×8×8 in planes order, float32
Abacus, 2 threads, beads: copies 20.0 GB/s (60.0 in the last-level cache), multiplies at 300 GFLOP/s
step 5.00 ms = forward 2.00 + backward 3.00; medians of 7 rounds, spread 2 %

layer          type     output   forward  backward  share  limit  method
features.0     Conv2d   1×4×8×8    1.000     2.000   60 %   50 %  direct
act            ReLU ×3  1×4×8×8    0.250     0.500   15 %         torch
not in layers                      0.750     0.500   25 %
whole step                         2.000     3.000  100 %

Milliseconds. share: of the whole step; limit: least time by the rates above over the time taken.

layer       map      method     ms  limit  next best     ms  ratio
features.0  forward  direct  0.500   50 %  torch      1.000   2.00

One call of each map; + 2: and of 2 layers alike. ratio: the next best's time over the method's."""


def test_the_table_says_all_of_it() -> None:
    assert made().table() == TABLE


def test_a_share_beyond_its_limit_and_a_rest_below_nothing_are_told_as_what_they_are() -> None:
    first, second = made().layers
    winograd = {"forward": "winograd_4x4"}
    layers = (
        first._replace(method=winograd, limit_ms=3.9, map_limit_ms={"forward": 0.7}),
        first._replace(path="torch", limit_ms=3.9, map_limit_ms={"forward": 0.7}, map_limited_by={"forward": "memory"}),
        second._replace(limit_ms=0.9, limited_by="cache"),
    )
    report = made(layers=layers, forward_ms=2.0, backward_ms=4.0)
    lines = report.table().splitlines()
    limits = [re.split("  +", line)[6] for line in lines[5:8]]
    assert limits == ["fewer MACs", "at limit", "in cache"], lines
    assert lines[8].split() == ["not", "in", "layers", *["≈", "0"] * 3] and "-" not in "".join(lines[5:])
    assert " ".join(lines[11:15]) == (
        "Milliseconds. share: of the whole step; limit: least time by the rates above over the time taken. fewer MACs: "
        "it takes fewer multiplications than the direct sum, which the limit counts. in cache: its bytes stay in a "
        "cache that is faster than the copy was. at limit: it is at least as fast as the rates that were measured. "
        "≈ 0: timing the layers costs more than what lies between them."
    )
    assert [" ".join(line.split()[2:6]) for line in lines[17:19]] == [
        "winograd_4x4 0.500 in cache",
        "direct 0.500 at limit",
    ]
    page = report.html()
    assert page.count("≈ 0") == 4 and ">fewer MACs</td>" in page and ">in cache</td>" in page
    assert not re.search(r">-\d|1[0-9]\d %", page.replace("100 %", ""))
    assert page.count("<u style") == 0 and made().html().count("<u style") == 2  # no mark beyond its bar
    assert [layer["beyond_limit"] for layer in report.to_dict()["layers"]] == ["fewer MACs", "at limit", "in cache"]


def test_a_product_that_stands_in_for_the_micro_kernel_is_told() -> None:
    report = made(cached_copy_gb_per_s=None, micro_kernel=False)
    assert "beads: copies 20.0 GB/s, torch multiplies matrices at 300 GFLOP/s\n" in report.table()


def test_the_slowest_come_first_where_only_some_are_asked_for() -> None:
    report = made(layers=made().layers[::-1])
    rows = report.table(top=1).splitlines()[5:9]
    assert [row[:14].rstrip() for row in rows] == ["features.0", "1 more", "not in layers", "whole step"]
    assert rows[1] == "1 more                            0.250     0.500   15 %"
    assert report.slowest(1) == report.layers[1:] and report.slowest() == report.layers


def test_convolutions_that_are_alike_are_told_once() -> None:
    first, second = made().layers
    lines = (
        made(
            layers=(
                first,
                second,
                first._replace(path="features.3"),
                first._replace(path="last", map_ms={"forward": 0.75}),
            )
        )
        .table()
        .splitlines()
    )
    assert [line.split("  ")[0] for line in lines[-4:-2]] == ["features.0 + 1", "last"]
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3))
    rows = quick(model, 1, 3, 6, 6).layers
    assert rows[0].map_ms["weight"] == rows[1].map_ms["weight"] and rows[0].map_ms["weight"] != rows[2].map_ms["weight"]


def test_a_spread_of_a_tenth_or_20_interruptions_a_second_bring_a_warning() -> None:
    warning = (
        "Other work on this machine interrupted the steps {} times a second: do not trust these times, measure "
        "again when it is idle."
    )
    for report, often in ((made(spread=0.1), 3), (made(interruptions_per_s=20.0), 20)):
        assert warning.format(often) in report.table(140) and warning.format(often) in report.html()
    assert "Other work" not in made(spread=0.09, interruptions_per_s=19.0).table()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_lines_fit_however_long_the_names_are(width: int) -> None:
    first, second = made().layers
    long = first._replace(
        path="stage.block." * 9 + "conv",
        type="A" * 50,
        output_shape=(128,) * 12,
        method={"forward": "torch_channels_last", "weight": "winograd"},
    )
    report = made(
        model="m" * 300, layers=(long, second, long._replace(next_best={"forward": ("torch_channels_last", 12345.6)}))
    )
    lines = report.table(width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(re.match("….*conv  A+…", line) for line in lines), "of a path its end is told, of a name its beginning"


def test_json_has_all_of_it_and_its_version() -> None:
    report = quick(small(), 2, 1, 8, 8)
    facts = report.to_dict()
    assert json.loads(json.dumps(facts)) == facts and facts["version"] == 3
    assert facts["layers"][0].keys() == {*LayerTime._fields, "share_of_limit", "beyond_limit"}
    total = sum(layer["forward_ms"] + layer["backward_ms"] for layer in facts["layers"])
    assert total + facts["outside_forward_ms"] + facts["outside_backward_ms"] == pytest.approx(facts["step_ms"])


def test_the_page_asks_for_nothing_from_elsewhere_and_escapes_names() -> None:
    first, second = made().layers
    evil = '<script>alert("&")</script>'
    method = {"forward": "<i>"}
    page = made(model=evil, layers=(first._replace(path=evil, type=evil, method=method), second)).html()
    assert (
        "<script" not in page
        and page.count("&lt;script&gt;alert(&#34;&amp;&#34;)&lt;/script&gt;") >= 4
        and "&lt;i&gt;" in page
    )
    assert not re.search(r"https?:|//|src=|href=|url\(|@import|<link|<img|\bon\w+=", page)
    assert page.startswith("<!doctype html>") and 'name="viewport"' in page and "default-src 'none'" in page
    assert page.count("<tr") == page.count("</tr>") and page.count("<td") == page.count("</td>")


def test_the_page_has_every_layer_and_no_bar_beyond_its_end() -> None:
    report = quick(small(), 2, 1, 8, 8)
    page = report.html()
    for layer in report.layers:
        assert f"<td>{layer.path}<small>{layer.type} " in page and f"{layer.ms:.3f}" in page
    widths = [float(w) for w in re.findall(r"(?:width|left):([\d.]+)%", page.split("</style>")[1])]
    assert widths and all(0 <= w <= 100 for w in widths)


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_cannot_be_profiled_is_refused_in_one_sentence() -> None:
    x, model = torch.randn(2, 1, 8, 8), small()
    cases: list[tuple[Any, str, Any]] = [
        (
            ArgumentTypeError,
            "profile expects a torch.nn.Module, got Tensor. Pass the model itself, then an example.",
            lambda: profile(x, x),
        ),  # type: ignore[arg-type]
        (
            ArgumentTypeError,
            "profile expects a tensor or a tuple of tensors as the example, got list. Pass what the model takes.",
            lambda: profile(model, [x]),  # type: ignore[arg-type]
        ),
        (
            ArgumentTypeError,
            (
                "profile expects a tensor or a tuple of tensors as the example, got ['Tensor', 'int']. Pass what the "
                "model takes."
            ),
            lambda: profile(model, (x, 3)),  # type: ignore[arg-type]
        ),
        (
            ArgumentTypeError,
            "profile expects rounds to be an integer, got 7.0. Leave it out for 7.",
            lambda: profile(model, x, rounds=7.0),
        ),  # type: ignore[arg-type]
        (
            ArgumentError,
            "profile expects at least 3 rounds, got 2. Leave rounds out for 7: a median of fewer says little.",
            lambda: profile(model, x, rounds=2),
        ),
        (
            DtypeError,
            (
                "profile expects an example of floating point, got int64. x: (2, 3). Models of indices are not "
                "profiled; "
                "convert anything else with .float()."
            ),
            lambda: profile(model, torch.ones(2, 3, dtype=torch.long)),
        ),
        (
            ArgumentError,
            "profile expects parameters that have a shape, got a lazy one, 0.weight. Call the model once first.",
            lambda: profile(nn.Sequential(nn.LazyConv2d(3, 3)), x),
        ),
        (
            ArgumentError,
            "profile expects everything on the CPU, got 0.weight on meta. Move it with .cpu().",
            lambda: profile(small().to("meta"), x),
        ),
        (
            ArgumentTypeError,
            (
                "profile expects a model that runs layer by layer, got a compiled one. Profile it before "
                "torch.compile or "
                "torch.jit."
            ),
            lambda: profile(torch.compile(model), x),
        ),
        (
            ShapeError,
            (
                "profile expects an input that the model takes, got (2, 1, 9, 12). error: 5: Linear expects 64 "
                "features, got 96. x: (2, 96). weight: (3, 64). Set in_features=96, or check the layer before. Give "
                "another input or model."
            ),
            lambda: profile(model, torch.randn(2, 1, 9, 12)),
        ),
        (
            ShapeError,
            "profile expects an input that the model takes, got (2, 3, 8, 8). error: 0: Conv2d expects 1 channels, "
            "got 3. x: (2, 3, 8, 8). weight: (4, 1, 3, 3). "
            "Set in_channels=3, or check the layer before. Give another input or model.",
            lambda: profile(model, torch.randn(2, 3, 8, 8)),
        ),
        (
            ArgumentError,
            "Profile.table expects a width of at least 80, got 79. Leave it out for 100.",
            lambda: made().table(79),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == message


def test_an_embedding_is_refused_with_its_name() -> None:
    with pytest.raises(
        ShapeError,
        match=(
            r"^profile expects an input that the model takes, got \(2, 3\)\. error: 0: Expected tensor for argument "
            r"#1 'indices'"
        ),
    ):
        quick(nn.Sequential(nn.Embedding(4, 5)), 2, 3)


def test_a_backward_that_fails_is_said_to_be_backwards() -> None:
    class Overwritten(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x).mul_(2)

    with pytest.raises(
        ShapeError, match=r"error: backward: one of the variables needed for gradient computation has been modified"
    ):
        profile(Overwritten(), torch.randn(2, 3).requires_grad_(), rounds=3)


# ----------------------------------------------------------------------------------------------------- the command line


def test_profile_prints_a_table_of_at_most_100_columns_without_control_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / "told.json"), str(tmp_path / "told.html")]
    assert (
        main(["profile", "cnn_bn", "--input", "2x3x8x8", "--rounds", "3", "--json", files[0], "--html", files[1]]) == 0
    )
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "cnn_bn: training step, x 2×3×8×8 in planes order, float32" and printed.err == ""
    assert max(map(len, lines)) <= 100 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed.out)
    assert lines[-2:] == [f"written to {file}" for file in files]
    facts = json.loads(Path(files[0]).read_text())
    assert facts["model"] == "cnn_bn" and len(facts["layers"]) == 6 and facts["training"]
    assert "<h1>cnn_bn</h1>" in Path(files[1]).read_text()


def test_options_decide_layers_memory_order_mode_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    common = ["profile", "cnn_bn", "--input", "2x3x8x8", "--rounds", "3"]
    assert main([*common, "--forward-only", "--accelerate", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert (
        "cnn_bn: forward, x 2×3×8×8 in planes order" in printed
        and ", 1 thread, " in printed
        and "BatchNorm2d+ReLU" in printed
        and "backward" not in printed
    )
    assert torch.get_num_threads() == threads
    assert main([*common, "--plain", "--channels-last", "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "x 2×3×8×8 in channels order" in printed and "native" not in printed and "7 more" in printed


def write_models(folder: Path) -> None:
    (folder / "mine_to_profile.py").write_text(
        "import torch\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 2))\n"
        "def number(): return 7\n"
        "def broken(): raise OSError('no\\nfile.')\n"
        "class Inner:\n    Net = lambda: net\n"
    )
    (folder / "broken_to_profile.py").write_text("import nothing_of_that_name")


@pytest.mark.parametrize("name", ["net", "Inner.Net"])
def test_a_model_of_ones_own_is_found_in_the_current_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_to_profile", raising=False)
    before = list(sys.path)
    assert main(["profile", f"mine_to_profile:{name}", "--input", "4x3", "--rounds", "3"]) == 0
    assert capsys.readouterr().out.startswith(f"mine_to_profile:{name}: training step, x 4×3 in planes order")
    assert sys.path == before


NAMED = ", ".join(models.NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["resnet", "--input", "1x3x8x8"],
            f"profile expects one of {NAMED}, package.module:callable, or a run of striate train, got 'resnet'. "
            "Choose one of these names, or a callable of your own. Did you mean resnet18 or resnet50?",
        ),
        (
            ["nowhere:net", "--input", "4x3"],
            (
                "profile expects a model from nowhere:net, got ModuleNotFoundError: No module named 'nowhere'. The "
                "current folder is searched too."
            ),
        ),
        (
            ["broken_to_profile:net", "--input", "4x3"],
            (
                "profile expects a model from broken_to_profile:net, got ModuleNotFoundError: No module named "
                "'nothing_of_that_name' (at broken_to_profile.py:1). Import broken_to_profile in Python to see all of "
                "it."
            ),
        ),
        (
            ["mine_to_profile:other", "--input", "4x3"],
            (
                "profile expects a model from mine_to_profile:other, got AttributeError: module 'mine_to_profile' has "
                "no "
                "attribute 'other'. The current folder is searched too."
            ),
        ),
        (
            ["mine_to_profile:broken", "--input", "4x3"],
            "profile expects a model from mine_to_profile:broken, got OSError: no (at mine_to_profile.py:4). "
            "Call mine_to_profile.broken() in Python to see all of it.",
        ),
        (
            ["mine_to_profile:number", "--input", "4x3"],
            (
                "profile expects a torch.nn.Module from mine_to_profile:number, got int. Name a function or class that "
                "makes one without arguments."
            ),
        ),
        (
            ["lenet5", "--input", "4y3"],
            (
                "profile expects --input to be whole numbers from 1 on with x between, got '4y3'. Write as "
                "16x3x112x112, "
                "the batch first."
            ),
        ),
        (
            ["lenet5", "--input", "0x3"],
            (
                "profile expects --input to be whole numbers from 1 on with x between, got '0x3'. Write as "
                "16x3x112x112, "
                "the batch first."
            ),
        ),
        (
            ["lenet5", "--input=-2x3"],
            (
                "profile expects --input to be whole numbers from 1 on with x between, got '-2x3'. Write as "
                "16x3x112x112, "
                "the batch first."
            ),
        ),
        (
            ["lenet5", "--input", "5"],
            "profile expects --input of a batch and at least one axis more, got '5'. Write as 16x3x112x112.",
        ),
        (
            ["lenet5", "--input", "99999x3x99999x99999"],
            "profile expects --input of at most 2^31 values, got '99999x3x99999x99999'. Write as 16x3x112x112.",
        ),
        (
            ["lenet5", "--input", "1x1x9x9"],
            (
                "profile expects an input that the model takes, got (1, 1, 9, 9). error: 7+8: Linear expects 2450 "
                "features, got 200. x: (1, 200). weight: (500, 2450). Set in_features=200, or check the layer before. "
                "Give another input or model."
            ),
        ),
        (
            ["lenet5", "--input", "1x1x28x28", "--rounds", "2"],
            "profile expects at least 3 rounds, got 2. Leave rounds out for 7: a median of fewer says little.",
        ),
        (
            ["lenet5", "--input", "1x1x28x28", "--threads", "0"],
            "profile expects --threads from 1 to 1024, got 0. Leave --threads out.",
        ),
        (
            ["lenet5", "--input", "1x1x28x28", "--top", "0"],
            "profile expects --top from 1 to 1024, got 0. Leave --top out.",
        ),
        (
            ["lenet5", "--input", "1x1x28x28", "--json", "."],
            "profile expects a file to write to, got a folder. file: .. Name another.",
        ),
        (
            ["lenet5", "--input", "1x1x28x28", "--html", "no/such/page.html"],
            (
                "profile expects a file to write to, got one in a folder that cannot be written to. file: "
                "no/such/page.html. Name another."
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_profile_says_in_one_line_what_is_wrong(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_to_profile", raising=False)
    assert main(["profile", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"striate: {message}\n" and printed.out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_on_a_terminal_and_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(["profile", "mlp_bn", "--input", "2x784", "--rounds", "3"]) == 0
    assert (
        screen.getvalue().startswith("\r░")
        and "step 3 of 3" in screen.getvalue()
        and screen.getvalue().endswith("\r\x1b[K")
    )
    assert "█" * 24 + "░" not in screen.getvalue() and "\n" not in screen.getvalue()
    assert "\x1b" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- the recording


@pytest.mark.parametrize("name", ["lenet5", "cnn_bn"])
def test_multiply_adds_are_those_that_inspect_counts(name: str) -> None:
    shape = (2, 1, 28, 28) if name == "lenet5" else (2, 3, 8, 8)
    model = models.by_name(name)()
    report = quick(model, *shape, next_best=False)
    assert (
        sum(layer.macs or 0 for layer in report.layers)
        == sum(row.macs or 0 for row in striate.inspect(model, shape).layers)
        > 0
    )


class Scripted(torch.nn.Module):
    """A model that cannot be recorded, because a part of it is TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.jit.script(torch.nn.Linear(4, 3))
        self.rest = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


def test_a_model_that_cannot_be_recorded_is_profiled_layer_by_layer() -> None:
    report = quick(Scripted(), 6, 4)
    assert [(layer.path, layer.macs, layer.macs_inside) for layer in report.layers] == [
        ("first", None, None),
        ("rest.0", 6 * 3 * 5, 6 * 3 * 5),
        ("rest.1+rest.2", 0, 0),
        ("rest.3", 6 * 5 * 2, 6 * 5 * 2),
    ]
    assert [layer.limit_ms is None for layer in report.layers] == [True, False, False, False]


class Branching(torch.nn.Module):
    """Which layer runs depends on a value, and a layer's forward is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no, self.last = nn.Linear(4, 3), nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.last.forward(self.yes(x) if x.sum() > 0 else self.no.forward(x))


def test_layers_are_those_that_run_on_this_example() -> None:
    for sign, name, filters in ((1, "yes", 3), (-1, "no", 5)):
        report = profile(Branching(), sign * torch.ones(2, 4), rounds=3)
        assert [layer.path for layer in report.layers] == [name, "last.0", "last.1"]
        assert report.layers[0].macs == 2 * 4 * filters
