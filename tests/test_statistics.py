"""whole_batch_statistics: a batch in parts is normalized like the whole; what the docstring calls inexact is inexact.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import striate.nn as nn
from striate.errors import ArgumentError, DtypeError, ShapeError
from striate.nn import whole_batch_statistics

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
PARTS = (5, 2, 1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Runs on one thread: the work is small, and threads would only wait for each other."""
    torch.set_num_threads(1)


class Deep(nn.Module):
    """Convolution, norm and ReLU three times, with a shortcut around the last two; no norm comes before ``side``."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=momentum)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=momentum)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNormAct2d(4, momentum=momentum)
        self.side = nn.BatchNorm2d(2, momentum=momentum)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        first = torch.relu(self.bn1(self.conv1(x)))
        second = torch.relu(self.bn2(self.conv2(first)))
        y = self.bn3(self.conv3(second), first) + self.side(x).sum(1, keepdim=True)
        return y if scale is None else y * scale


def deep(dtype: torch.dtype = torch.float64, **options: Any) -> Deep:
    model = Deep(**options)
    with torch.no_grad():
        for layer in norms(model):
            layer.weight.normal_().add_(layer.weight.sign())
            layer.bias.normal_()
    return model.to(dtype)


def batch(dtype: torch.dtype = torch.float64, samples: int = sum(PARTS)) -> Tensor:
    """Samples that differ in mean and deviation, so that no part is like the whole."""
    sample = torch.arange(samples).reshape(-1, 1, 1, 1)
    return (torch.randn(samples, 2, 6, 7) * (1 + sample) + sample).to(dtype)


def norms(model: torch.nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def running(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    return layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


def same_running(layer: Any, other: Any, tolerance: float) -> None:
    close(layer.running_mean, other.running_mean, tolerance)
    close(layer.running_var, other.running_var, tolerance)
    assert torch.equal(layer.num_batches_tracked, other.num_batches_tracked)


# ---------------------------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize("sizes", [PARTS, (4, 4), (1,) * 8, (8,)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_outputs_and_running_statistics_of_a_deep_net_are_the_whole_batchs(
    dtype: torch.dtype, sizes: tuple[int, ...], order: torch.memory_format
) -> None:
    model, x = deep(dtype), batch(dtype).contiguous(memory_format=order)
    whole = copy.deepcopy(model)
    expected = whole(x)
    start = [running(layer) for layer in norms(model)]
    parts = x.split(sizes)
    with whole_batch_statistics(model, parts):
        entered = [running(layer) for layer in norms(model)]
        got = torch.cat([model(part) for part in parts])
    close(got, expected, TOLERANCE[dtype])
    for layer, other, before, inside in zip(norms(model), norms(whole), start, entered, strict=True):
        same_running(layer, other, TOLERANCE[dtype])
        assert all(torch.equal(a, b) for a, b in zip(running(layer), inside, strict=True))  # the step is taken on entry
        assert (layer.running_mean - before[0]).abs().max() > 0.01 and layer.num_batches_tracked == 1


def test_without_it_parts_are_not_the_whole() -> None:
    model, x = deep(), batch()
    expected = copy.deepcopy(model)(x)
    assert (torch.cat([model(part) for part in x.split(PARTS)]) - expected).abs().max() > 0.1


def test_in_one_pass_only_layers_behind_no_other_norm_are_exact() -> None:
    model, x = deep(), batch()
    whole = copy.deepcopy(model)
    expected = whole(x)
    with whole_batch_statistics(model, x.split(PARTS), layer_by_layer=False):
        got = torch.cat([model(part) for part in x.split(PARTS)])
    for name in ("bn1", "side"):
        same_running(getattr(model, name), getattr(whole, name), 1e-12)
    for name in ("bn2", "bn3"):
        layer, other = getattr(model, name), getattr(whole, name)
        assert (layer.running_mean - other.running_mean).abs().max() > 1e-3
        assert (layer.running_var - other.running_var).abs().max() > 1e-3
        assert layer.num_batches_tracked == 1
    assert (got - expected).abs().max() > 0.01


def test_parts_may_be_tuples_of_arguments_and_come_from_a_generator() -> None:
    model, x = deep(), batch()
    scale = torch.rand(len(x), 1, 1, 1, dtype=x.dtype)
    expected = copy.deepcopy(model)(x, scale)
    parts = list(zip(x.split(PARTS), scale.split(PARTS), strict=True))
    with whole_batch_statistics(model, (part for part in parts)):
        got = torch.cat([model(*part) for part in parts])
    close(got, expected, 1e-12)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5), (8, 3, 2, 3, 4)], ids=str)
def test_a_layer_with_activation_and_residual_is_exact_in_any_number_of_axes(
    shape: tuple[int, ...], activation: str | None
) -> None:
    layer = nn.BatchNormAct2d(3, activation=activation).double()
    whole = copy.deepcopy(layer)
    x, residual = torch.randn(2, *shape, dtype=torch.float64)
    parts = list(zip(x.split(PARTS), residual.split(PARTS), strict=True))
    with whole_batch_statistics(layer, parts):
        got = torch.cat([layer(*part) for part in parts])
    close(got, whole(x, residual), 1e-12)
    same_running(layer, whole, 1e-12)


def test_with_momentum_none_the_running_statistics_are_the_mean_over_whole_batches() -> None:
    model = deep(momentum=None)
    whole = copy.deepcopy(model)
    for _ in range(3):
        x = batch()
        whole(x)
        with whole_batch_statistics(model, x.split(PARTS)):
            pass
    for layer, other in zip(norms(model), norms(whole), strict=True):
        same_running(layer, other, 1e-12)
        assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}], ids=str)
def test_layers_without_scale_or_running_statistics_are_exact(options: dict[str, Any]) -> None:
    layer, x = nn.BatchNorm2d(2, **options).double(), batch()
    expected = copy.deepcopy(layer)(x)
    with whole_batch_statistics(layer, x.split(PARTS)):
        got = torch.cat([layer(part) for part in x.split(PARTS)])
    close(got, expected, 1e-12)


def test_a_layer_told_not_to_track_keeps_the_running_statistics_it_has() -> None:
    layer, x = nn.BatchNorm1d(3), torch.randn(6, 3)
    layer.track_running_stats = False
    before = running(layer)
    layer(x)
    assert all(torch.equal(a, b) for a, b in zip(running(layer), before, strict=True))
    with whole_batch_statistics(layer, x.split(2)):
        assert all(torch.equal(a, b) for a, b in zip(running(layer), before, strict=True))


def test_parts_of_one_value_pass_where_the_whole_batch_has_more() -> None:
    layer, x = nn.BatchNorm1d(3).double(), torch.randn(4, 3, dtype=torch.float64)
    expected = copy.deepcopy(layer)(x)
    with whole_batch_statistics(layer, x.split(1)):
        close(torch.cat([layer(part) for part in x.split(1)]), expected, 1e-12)


def test_a_part_without_samples_changes_nothing() -> None:
    model, x = deep(), batch()
    expected = copy.deepcopy(model)(x)
    parts = [x[:5], x[:0], x[5:]]
    with whole_batch_statistics(model, parts):
        got = [model(part) for part in parts]
        sum(y.sum() for y in got).backward()  # type: ignore[union-attr]
    close(torch.cat(got), expected, 1e-12)


def test_measuring_stops_each_pass_at_the_first_layer_not_known() -> None:
    depth, calls = 6, 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    blocks = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(depth)]
    model, x = nn.Sequential(*blocks), torch.randn(8, 3)
    for block in blocks:
        block[0].register_forward_hook(count)
    with whole_batch_statistics(model, x.split(4)):
        passes = calls / (2 * depth)
    assert passes <= (depth + 3) / 2  # the docstring's L/2, and a last one that finds nothing new


# ------------------------------------------------------------------------------------------------------------ gradients


def gradients(model: torch.nn.Module, parts: Any, dys: Any) -> tuple[Tensor, list[Tensor]]:
    """dx, and the parameters' gradients accumulated over the parts."""
    parts = [part.clone().requires_grad_() for part in parts]
    model.zero_grad()
    for part, dy in zip(parts, dys, strict=True):
        model(part).backward(dy)
    return torch.cat([part.grad for part in parts]), [p.grad for p in model.parameters()]


def test_gradients_of_scale_and_shift_are_the_whole_batchs_and_dx_subtracts_the_parts_own_means() -> None:
    layer, x = nn.BatchNorm2d(2, eps=0.3).double(), batch()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, -0.5]))
    dy = torch.randn_like(x) + 1
    whole_dx, (whole_dweight, whole_dbias) = gradients(copy.deepcopy(layer), [x], [dy])
    with whole_batch_statistics(layer, x.split(PARTS)):
        dx, (dweight, dbias) = gradients(layer, x.split(PARTS), dy.split(PARTS))
    close(dweight, whole_dweight, 1e-12)
    close(dbias, whole_dbias, 1e-12)
    assert (dx - whole_dx).abs().max() > 0.01
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    normalized = (x - mean) / (variance + 0.3).sqrt()
    for part, n, g in zip(
        dx.split(PARTS),
        normalized.split(PARTS),
        (dy * layer.weight.detach().reshape(1, 2, 1, 1)).split(PARTS),
        strict=True,
    ):
        own = [v.mean((0, 2, 3), keepdim=True) for v in (g, g * n)]
        close(part, (g - own[0] - n * own[1]) / (variance + 0.3).sqrt(), 1e-12)


def test_in_a_deep_net_the_last_norm_has_the_whole_batchs_gradients_and_those_before_have_not() -> None:
    model, x = deep(), batch()
    whole = copy.deepcopy(model)
    dy = torch.randn(len(x), 4, 6, 7, dtype=x.dtype) + 1
    gradients(whole, [x], [dy])
    with whole_batch_statistics(model, x.split(PARTS)):
        gradients(model, x.split(PARTS), dy.split(PARTS))
    for name in ("bn3.weight", "bn3.bias", "side.weight", "side.bias"):
        close(model.get_parameter(name).grad, whole.get_parameter(name).grad, 1e-12)  # type: ignore[arg-type]
    for name in ("bn1.weight", "bn2.weight", "conv1.weight"):
        grads: list[Any] = [m.get_parameter(name).grad for m in (model, whole)]
        assert (grads[0] - grads[1]).abs().max() > 0.01


@pytest.mark.parametrize("layer_by_layer", [True, False])
def test_with_one_part_gradients_are_exact_too(layer_by_layer: bool) -> None:
    model, x = deep(), batch()
    whole = copy.deepcopy(model)
    dy = torch.randn(len(x), 4, 6, 7, dtype=x.dtype) + 1
    whole_dx, whole_dp = gradients(whole, [x], [dy])
    with whole_batch_statistics(model, [x], layer_by_layer=layer_by_layer):
        dx, dp = gradients(model, [x], [dy])
    close(dx, whole_dx, 1e-11)
    assert len(dp) == 14
    for got, expected in zip(dp, whole_dp, strict=True):
        close(got, expected, 1e-11)


def test_entering_leaves_no_gradients_and_no_graph() -> None:
    model, x = deep(), batch().requires_grad_()
    with whole_batch_statistics(model, x.split(PARTS)):
        assert all(p.grad is None for p in model.parameters()) and x.grad is None
        assert torch.is_grad_enabled() and model(x[:5]).requires_grad


# --------------------------------------------------------------------------------------------------------------- errors


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x) + 1)


def untouched(model: torch.nn.Module) -> None:
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
        assert getattr(module, "whole_batch", None) is None


@pytest.mark.parametrize("layer_by_layer", [True, False])
def test_a_layer_called_twice_in_a_pass_is_refused_by_name(layer_by_layer: bool) -> None:
    model, x = Twice(), torch.randn(4, 3)
    with (
        pytest.raises(ArgumentError) as raised,
        whole_batch_statistics(model, x.split(2), layer_by_layer=layer_by_layer),
    ):
        pytest.fail("entered")
    assert str(raised.value) == (
        "whole_batch_statistics expects each batch norm to be called once in a forward pass, got two calls of inner.0. "
        "Give each place a layer of its own, or leave this one out by freezing it."
    )
    untouched(model)
    assert model.inner[0].num_batches_tracked == 0


def test_a_frozen_layer_may_be_called_twice() -> None:
    model, x = Twice(), torch.randn(4, 3)
    model.inner[0].freeze()
    expected = model(x)
    with whole_batch_statistics(model, x.split(2)):
        torch.testing.assert_close(torch.cat([model(part) for part in x.split(2)]), expected)


@pytest.mark.parametrize("parts", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_no_parts_are_refused(parts: Any) -> None:
    model = deep()
    with pytest.raises(ArgumentError) as raised, whole_batch_statistics(model, parts):
        pytest.fail("entered")
    assert (
        str(raised.value)
        == "whole_batch_statistics expects at least one part of the batch, got 0. Split the batch with x.split(size)."
    )
    untouched(model)


def test_a_whole_batch_of_one_value_raises_as_a_batch_norm_does() -> None:
    layer, x = nn.BatchNorm1d(3), torch.randn(1, 3)
    with pytest.raises(ShapeError, match="more than one value per channel"):
        layer(x)
    with pytest.raises(ShapeError, match="more than one value per channel"), whole_batch_statistics(layer, [x]):
        layer(x)


class Looking(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "striate" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "relu6", "silu"])
@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast", "a mode looks on"])
def test_where_no_kernel_runs_torchs_operators_give_the_same(how: str, activation: str | None) -> None:
    layer = nn.BatchNormAct2d(3, activation=activation)
    torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    torch.nn.init.normal_(layer.bias)
    x, residual, dy = torch.randn(3, 6, 3, 4, 5)
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(how, torch.float32)
    contexts = {"autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16), "a mode looks on": Looking}
    found = []
    for to, context in ((torch.float32, contextlib.nullcontext), (kind, contexts.get(how, contextlib.nullcontext))):
        one = copy.deepcopy(layer).to(kind).to(to)
        leaves = [t.to(kind).to(to).requires_grad_() for t in (x, residual)]
        parts = list(zip(*(t.split(2) for t in leaves), strict=True))
        with context(), whole_batch_statistics(one, [(a.detach(), b.detach()) for a, b in parts]):
            y = torch.cat([one(*part) for part in parts])
        (y * dy.to(kind).to(to)).sum().backward()
        found.append(
            [y.detach(), *(t.grad for t in (*leaves, one.weight, one.bias)), one.running_mean, one.running_var]
        )
    tolerance = 1e-5 if kind is torch.float32 else 8 * torch.finfo(kind).eps
    for expected, got in zip(*found, strict=True):
        assert got.dtype is kind
        torch.testing.assert_close(
            got.float(), expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max()))
        )


@pytest.mark.parametrize("how", ["vmap", "jvp", "trace"])
def test_transforms_and_tracers_are_refused(how: str) -> None:
    layer, x = nn.BatchNorm1d(3), torch.randn(6, 3)
    calls = {
        "vmap": lambda: torch.vmap(layer)(x.view(3, 2, 3)),
        "jvp": lambda: torch.func.jvp(layer, (x[:2],), (x[:2],)),
        "trace": lambda: torch.jit.trace(layer, (x[:2],)),
    }
    with (
        whole_batch_statistics(layer, x.split(2)),
        pytest.raises(ArgumentError, match="a call that shares statistics to be a plain one"),
    ):
        calls[how]()


@pytest.mark.parametrize(
    "x", [torch.ones(6, 5), torch.ones(6), torch.ones(6, 3).int()], ids=["channels", "axes", "integers"]
)
def test_an_input_that_does_not_fit_is_refused_as_by_a_batch_norm(x: Tensor) -> None:
    layer = nn.BatchNorm1d(3)
    with pytest.raises((ShapeError, DtypeError)) as expected:
        layer(x)
    with pytest.raises(expected.type), whole_batch_statistics(layer, x.split(2)):
        layer(x[:2])
    untouched(layer)


# --------------------------------------------------------------------------------------------- what it must leave alone


class Stop(Exception):
    pass


def stop(*_: Any) -> None:
    raise Stop


@pytest.mark.parametrize("where", ["nowhere", "in a pass on entry", "inside"])
def test_afterwards_the_model_is_as_before_also_behind_an_exception(where: str) -> None:
    model, x = deep(), batch()
    kept = model.register_forward_pre_hook(lambda *_: None)
    start = copy.deepcopy(model.state_dict())
    if where == "in a pass on entry":
        handle = model.conv3.register_forward_hook(stop)  # it follows two norms that are measured by then
        with pytest.raises(Stop), whole_batch_statistics(model, x.split(PARTS)):
            pytest.fail("entered")
        handle.remove()
        assert all(torch.equal(v, start[name]) for name, v in model.state_dict().items())
    else:
        with contextlib.suppress(Stop), whole_batch_statistics(model, x.split(PARTS)):
            assert model.bn1.whole_batch is not None
            model(x[:5])
            if where == "inside":
                stop()
    assert list(model._forward_pre_hooks) == [kept.id]
    kept.remove()
    untouched(model)
    twin = Deep().double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(x[:5]), twin(x[:5]))


def test_twice_on_end_gives_what_two_whole_batches_give() -> None:
    model = deep()
    whole = copy.deepcopy(model)
    for samples in (8, 16):
        x = batch(samples=samples)
        expected = whole(x)
        with whole_batch_statistics(model, x.split(4)):
            close(torch.cat([model(part) for part in x.split(4)]), expected, 1e-12)
    for layer, other in zip(norms(model), norms(whole), strict=True):
        same_running(layer, other, 1e-12)


def test_layers_in_evaluation_and_frozen_ones_stay_as_they_are() -> None:
    model = deep()
    model.bn1.eval()
    model.bn2.freeze()
    for layer in norms(model):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    start = [running(layer) for layer in norms(model)]
    x = batch()
    whole = copy.deepcopy(model)
    expected = whole(x)
    with whole_batch_statistics(model, x.split(PARTS)):
        assert model.bn1.whole_batch is None and model.bn2.whole_batch is None
        got = torch.cat([model(part) for part in x.split(PARTS)])
    close(got, expected, 1e-12)
    for layer, other, before in zip(norms(model), norms(whole), start, strict=True):
        same_running(layer, other, 1e-12)
        assert all(torch.equal(a, b) for a, b in zip(running(layer), before, strict=True)) is (
            layer in (model.bn1, model.bn2)
        )


def test_a_model_in_evaluation_is_left_alone() -> None:
    model, x = deep().eval(), batch()
    expected, start = model(x), copy.deepcopy(model.state_dict())
    with whole_batch_statistics(model, x.split(PARTS)):
        close(torch.cat([model(part) for part in x.split(PARTS)]), expected, 1e-12)
    assert all(torch.equal(v, start[name]) for name, v in model.state_dict().items())


OTHERS = {
    "SyncBatchNorm": nn.SyncBatchNorm,
    "InstanceNorm2d": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
    "torch's BatchNorm2d": torch.nn.BatchNorm2d,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_norms_see_parts_and_learn_nothing_from_the_passes_on_entry(name: str) -> None:
    model, x = nn.Sequential(OTHERS[name](2), nn.BatchNorm2d(2)).double(), batch()
    first = copy.deepcopy(model[0])
    seen = torch.cat([copy.deepcopy(first)(part) for part in x.split(PARTS)])
    with whole_batch_statistics(model, x.split(PARTS)):
        assert all(torch.equal(a, b) for a, b in zip(running(model[0]), running(first), strict=True))
        got = torch.cat([model(part) for part in x.split(PARTS)])
    close(got, nn.BatchNorm2d(2).double()(seen), 1e-12)


def test_a_ghost_batch_norm_stays_one() -> None:
    layer, x = nn.GhostBatchNorm2d(2, ghost_batch_size=2).double(), batch()
    expected = copy.deepcopy(layer)(x)
    with whole_batch_statistics(layer, x.split(4)):
        close(torch.cat([layer(part) for part in x.split(4)]), expected, 1e-12)


class Chance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        )
        self.drawn: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.drawn.append(torch.rand(1).item())
        return self.body(x)


def test_torchs_random_numbers_are_left_alone() -> None:
    model, x = Chance(), torch.randn(8, 3)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with whole_batch_statistics(model, x.split(4)):
        assert torch.equal(torch.get_rng_state(), before)
        assert len(set(model.drawn)) > 1
        model.drawn.clear()
        model(x[:4])
    torch.manual_seed(3)
    assert model.drawn == [torch.rand(1).item()]


def test_a_branch_that_measuring_did_not_pass_is_a_batch_norm_of_the_part() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor, other: bool = False) -> Tensor:
            return self.unused(x) if other else self.used(x)

    model, x = Branch().double(), torch.randn(8, 3, dtype=torch.float64)
    expected = copy.deepcopy(model.unused)(x[:4])
    with whole_batch_statistics(model, x.split(4)):
        close(model(x[:4], True), expected, 1e-12)
    assert model.used.num_batches_tracked == 1


def test_parts_are_not_changed() -> None:
    model, x = deep(), batch()
    before = x.clone()
    with whole_batch_statistics(model, x.split(PARTS)):
        pass
    assert torch.equal(x, before)


def test_a_loop_that_is_broken_off_inside_ends_it() -> None:
    model, x = deep(), batch()

    def enter() -> Iterator[None]:
        with whole_batch_statistics(model, x.split(PARTS)):
            yield

    generator = enter()
    next(generator)
    generator.close()
    untouched(model)


def test_a_model_of_torchs_norms_alone_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    with pytest.raises(ArgumentError) as raised, whole_batch_statistics(model, [torch.randn(2, 3, 4, 4)]):
        pass
    assert str(raised.value) == (
        "whole_batch_statistics expects batch norms of striate's, got only torch's, 1 of them. Call "
        "striate.accelerate(model) first."
    )
