"""Running against batch statistics of batch norms, statistics of a whole data set, and the noise of batches."""

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

from striate import nn
from striate.diagnostics import norm_mismatch, recompute_statistics, statistics_noise
from striate.errors import ArgumentError, ArgumentTypeError, ShapeError
from striate.moments import Moments


def squares(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def network() -> torch.nn.Sequential:
    """Three norms in a row, whose running statistics are those of a few steps."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=None)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)),
    )
    for _ in range(3):
        model.train()(1 + 2 * torch.randn(16, 2, 8, 8))
    return model


def batches(sizes: tuple[int, ...] = (12, 7, 9)) -> list[Tensor]:
    return [torch.randn(n, 2, 8, 8) * (1 + number) for number, n in enumerate(sizes)]


# ------------------------------------------------------------------------------------------------------------- mismatch


def test_the_mismatch_of_statistics_made_by_hand() -> None:
    """Two channels with running mean 1 and −1 and deviation √(3.75 + 0.25) = 2 and √(0.75 + 0.25) = 1."""
    layer = nn.BatchNorm1d(2, eps=0.25)
    layer.running_mean.copy_(torch.tensor([1.0, -1.0]))
    layer.running_var.copy_(torch.tensor([3.75, 0.75]))
    first = torch.tensor([[6.0, -1.0], [8.0, 1.0]])  # means 7 and 0, variances 1 and 1
    second = torch.tensor([[2.0, -1.0], [4.0, -1.0]])  # means 3 and −1, variances 1 and 0
    found = norm_mismatch(layer, squares, [(first, torch.zeros(2, 2)), (second, torch.zeros(2, 2))])
    [row] = found.rows
    assert row.mean_gap == pytest.approx(math.sqrt((3**2 + 1**2 + 1**2 + 0**2) / 4))
    assert row.pooled_gap == pytest.approx(math.sqrt((2**2 + 0.5**2) / 2))  # means 5 and −0.5
    assert row.deviation_ratio == pytest.approx(math.sqrt((1.25 / 4 * 1.25 / 1 * 1.25 / 4 * 0.25 / 1) ** (1 / 4)))
    assert row.worst == pytest.approx(3.0)
    running = torch.cat([first, second]).sub(torch.tensor([1.0, -1.0])).div(torch.tensor([2.0, 1.0])).square().mean()
    assert found.running == pytest.approx(float(running))
    normalized = [(x - x.mean(0)) / (x.var(0, correction=0) + 0.25).sqrt() for x in (first, second)]
    assert found.batch == pytest.approx(float(torch.cat(normalized).square().mean())) and row.loss == found.batch
    assert found.gap == found.running - found.batch


def test_losses_are_those_of_evaluation_and_of_training_without_dropout() -> None:
    model, data = network(), [(x, torch.randint(0, 5, (len(x),))) for x in batches()]
    found = norm_mismatch(model, F.cross_entropy, data)
    count = sum(len(x) for x, _ in data)
    with torch.no_grad():
        model.eval()
        running = sum(float(F.cross_entropy(model(x), t)) * len(x) for x, t in data) / count
        for layer in (1, 4, 8):
            model[layer].train()
        batch = sum(float(F.cross_entropy(model(x), t)) * len(x) for x, t in data) / count
    assert found.running == pytest.approx(running, rel=1e-6) and found.batch == pytest.approx(batch, rel=1e-4)
    assert abs(found.gap) > 0.01


def test_the_loss_of_each_row_is_with_the_batch_statistics_of_that_norm_alone() -> None:
    model = network().eval()
    data = [(x, torch.randint(0, 5, (len(x),))) for x in batches((8,))]
    found = norm_mismatch(model, F.cross_entropy, data)
    for row, layer in zip(found.rows, (1, 4, 8), strict=True):
        other = copy.deepcopy(model)
        other[layer].train()
        with torch.no_grad():
            assert row.loss == pytest.approx(float(F.cross_entropy(other(data[0][0]), data[0][1])), rel=1e-4)
    assert [row.name for row in found.rows] == ["1", "4", "8"] and len({row.loss for row in found.rows}) == 3


def test_batches_of_one_class_are_far_from_the_running_statistics_each_but_not_together() -> None:
    layer = nn.BatchNorm1d(3)
    classes = [torch.randn(64, 3) * 0.1 + mean for mean in (-1.0, 1.0)]
    recompute_statistics(layer, classes)
    row = norm_mismatch(layer, squares, [(x, torch.zeros(64, 3)) for x in classes]).rows[0]
    assert row.mean_gap == pytest.approx(1.0, abs=0.02) and row.pooled_gap < 1e-6


def test_frozen_norms_and_those_of_samples_have_no_row() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3).freeze(), nn.LayerNorm(3), nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3))
    found = norm_mismatch(model, squares, [(torch.randn(8, 3), torch.zeros(8, 3))])
    assert [row.name for row in found.rows] == ["2", "3"]


def test_a_mismatch_is_shown_and_kept() -> None:
    data = [(x, torch.randint(0, 5, (len(x),))) for x in batches()]
    found = norm_mismatch(network(), F.cross_entropy, data)
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["gap"] == found.gap and kept["rows"][2]["name"] == "8"
    lines = found.table().splitlines()
    assert lines[0] == f"loss, running statistics  {found.running:.4g}" and len(lines) == 7
    assert found.picture().startswith("<svg")


# ----------------------------------------------------------------------------------------------------------- recomputed


def moments_of(x: Tensor) -> Moments:
    return Moments.of(x, [axis for axis in range(x.dim()) if axis != 1])


def normalized(x: Tensor, unbiased: bool) -> Tensor:
    moments = moments_of(x)
    mean, variance = (t.reshape(-1, *[1] * (x.dim() - 2)) for t in (moments.mean, moments.variance(unbiased)))
    return (x.double() - mean) / (variance + 1e-5).sqrt()


def test_recomputed_statistics_are_the_moments_of_the_whole_set_at_each_norm() -> None:
    model, parts = network(), batches()
    recompute_statistics(model, parts)
    double = copy.deepcopy(model).double().eval()
    x = torch.cat(parts).double()
    with torch.no_grad():
        for number, layer in enumerate(double):
            if number in (1, 4, 8):
                own, moments = model[number], moments_of(x)
                assert torch.allclose(own.running_mean.double(), moments.mean, rtol=1e-5, atol=1e-6)
                assert torch.allclose(own.running_var.double(), moments.variance(unbiased=True), rtol=1e-5)
                x = normalized(x, unbiased=True)  # scale and shift are 1 and 0
            else:
                x = layer(x)
    assert model[4].momentum is None and model[4].num_batches_tracked == 3


def test_recomputed_statistics_of_one_norm_are_exact_and_count_each_value_once() -> None:
    layer, parts = nn.BatchNorm2d(2), [torch.randn(n, 2, 5, 3) * 3 + 1 for n in (1, 6, 2)]
    result = recompute_statistics(layer, [(x, torch.zeros(len(x))) for x in parts])
    moments = Moments.of(torch.cat(parts), (0, 2, 3))
    assert torch.equal(layer.running_mean, moments.mean.float())
    assert torch.allclose(layer.running_var, moments.variance(unbiased=True).float(), rtol=1e-7)
    assert result.rows[0].values == 9 * 15 and result.batches == 3
    assert result.rows[0].moved == pytest.approx(float((moments.mean.square() / (1 + 1e-5)).mean().sqrt()))


def test_an_evaluation_with_recomputed_statistics_has_mean_0_and_deviation_1_behind_each_norm() -> None:
    model, parts = network(), batches()
    recompute_statistics(model, parts)
    found: list[Tensor] = []
    for layer in (1, 4, 8):
        model[layer].register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        model.eval()(torch.cat(parts))
    for y in found:
        moments = moments_of(y)
        assert moments.mean.abs().max() < 1e-6 and torch.allclose(
            moments.variance(unbiased=True), torch.ones(y.shape[1]).double(), atol=1e-3
        )
    assert len(found) == 3


def test_in_one_pass_deeper_norms_see_what_each_batch_makes_by_itself() -> None:
    model, parts = network(), batches()
    recompute_statistics(model, parts, layer_by_layer=False)
    first = Moments.empty(4)
    with torch.no_grad():
        for x in parts:
            y = model[3](F.relu(normalized(model[0](x), unbiased=False).float()))
            first = first.merge(moments_of(y))
    assert torch.allclose(model[4].running_mean.double(), first.mean, rtol=1e-4, atol=1e-5)
    assert torch.allclose(model[4].running_var.double(), first.variance(unbiased=True), rtol=1e-4)


def test_only_statistics_change_and_nothing_where_it_fails() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ShapeError):
        recompute_statistics(model, [torch.randn(4, 2, 8, 8), torch.randn(4, 3, 8, 8)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    recompute_statistics(model, batches())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed >= {f"{n}.running_{s}" for n in (1, 4, 8) for s in ("mean", "var")}
    assert all("running" in name or "num_batches" in name for name in changed) and model.training


def test_torchs_norms_special_ones_and_frozen_ones() -> None:
    kinds = [torch.nn.BatchNorm2d(2), nn.NoisyBatchNorm2d(2), nn.GhostBatchNorm2d(2, 2), nn.BatchNormAct2d(2)]
    x = torch.randn(8, 2, 4, 4) * 3 + 1
    for layer in kinds:
        recompute_statistics(nn.Sequential(layer), [x])
        assert torch.allclose(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-5), type(layer)
        assert torch.allclose(layer.running_var, x.var((0, 2, 3)), rtol=1e-5), type(layer)
    frozen = nn.BatchNorm2d(2).freeze()
    recompute_statistics(nn.Sequential(frozen, nn.BatchNorm2d(2)), [x])
    assert frozen.running_mean.eq(0).all()


def test_recomputed_statistics_are_shown_and_kept() -> None:
    result = recompute_statistics(network(), batches())
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["values"] == 28 * 36
    assert result.table().splitlines()[1].split()[:2] == ["1", "1,008"]
    assert result.picture().startswith("<svg")


# ---------------------------------------------------------------------------------------------------------------- noise


def test_noise_falls_with_the_root_of_the_batch_size_and_is_what_theory_expects() -> None:
    noise = statistics_noise(network(), torch.randn(256, 2, 8, 8), [2, 8, 32, 128], draws=1024)
    assert len(noise.rows) == 12
    for row in noise.rows:
        assert row.mean_noise == pytest.approx(row.expected, rel=0.15) and row.deviation_noise > 0
    for name in ("1", "4", "8"):
        expected = [row.expected for row in noise.rows if row.name == name]
        assert [one / expected[0] for one in expected] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8])
        measured = [row.mean_noise for row in noise.rows if row.name == name]
        assert [one / measured[0] for one in measured] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8], rel=0.15)


def test_positions_of_one_image_that_are_alike_do_not_count_as_samples() -> None:
    """Of constant images each is one value; of independent positions, 64."""
    flat = torch.randn(512, 1, 1, 1).expand(512, 1, 8, 8)
    layer = nn.BatchNorm2d(1)
    constant = statistics_noise(layer, flat, [16]).rows[0]
    independent = statistics_noise(layer, torch.randn(512, 1, 8, 8), [16]).rows[0]
    assert constant.expected == pytest.approx(1 / 4, rel=1e-6)
    assert independent.expected == pytest.approx(1 / 32, rel=0.1)
    assert constant.deviation_noise == pytest.approx(1 / math.sqrt(2 * 16), rel=0.2)


def test_noise_by_hand_of_all_batches_of_two() -> None:
    """Of 0 and 2, a batch of two has the means 0, 1, 1, 2: variance ½, of values with variance 1."""
    noise = statistics_noise(nn.BatchNorm1d(1), torch.tensor([[0.0], [2.0]]), [2, 1], draws=4000)
    assert [row.expected for row in noise.rows] == pytest.approx([math.sqrt(0.5), 1.0])
    assert [row.mean_noise for row in noise.rows] == pytest.approx([math.sqrt(0.5), 1.0], rel=0.05)


def test_the_draws_follow_the_seed_and_leave_the_generator_alone() -> None:
    model, x = network(), torch.randn(32, 2, 8, 8)
    before = torch.get_rng_state()
    one, same, other = (statistics_noise(model, x, [4], seed=seed).rows for seed in (0, 0, 1))
    assert one == same and one != other and torch.equal(before, torch.get_rng_state())


def test_noise_is_shown_and_kept() -> None:
    noise = statistics_noise(network(), (torch.randn(16, 2, 8, 8), torch.zeros(16)), [2, 4])
    assert json.loads(json.dumps(noise.to_dict()))["samples"] == 16
    assert noise.table().splitlines()[1].split()[:2] == ["1", "2"] and noise.picture().startswith("<svg")


# --------------------------------------------------------------------------------------------------------------- errors


def text(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as raised:
        call()
    return str(raised.value)


def test_batches_that_are_none_are_refused_in_one_sentence() -> None:
    layer: Any = nn.BatchNorm1d(2)
    x = torch.randn(4, 2)
    assert text(ArgumentError, lambda: norm_mismatch(layer, squares, [])) == (
        "norm_mismatch expects a batch at least, got none. Give a list of pairs (x, target)."
    )
    assert text(ArgumentError, lambda: recompute_statistics(layer, [])) == (
        "recompute_statistics expects a batch at least, got none. Give a list of inputs."
    )
    assert text(ArgumentTypeError, lambda: norm_mismatch(layer, squares, [x])) == (  # type: ignore[list-item]
        "norm_mismatch expects batches that are pairs (x, target), got Tensor. Put one batch into a list: "
        "[(x, target)]."
    )
    assert text(ArgumentTypeError, lambda: recompute_statistics(layer, x)) == (  # type: ignore[arg-type]
        "recompute_statistics expects a sequence of batches, got Tensor. Put it into a list."
    )
    assert text(ArgumentTypeError, lambda: recompute_statistics(layer, [1])) == (
        "recompute_statistics expects batches that are tensors, or pairs (x, target), got int. Take them from a "
        "loader, as list(loader)[:8]."
    )
    assert text(ShapeError, lambda: recompute_statistics(torch.nn.BatchNorm1d(3), [x])).startswith(
        "recompute_statistics expects batches that BatchNorm1d takes, got one of shape (4, 2): RuntimeError: "
    )


def test_losses_that_do_not_fit_are_refused_in_one_sentence() -> None:
    layer, pair = nn.BatchNorm1d(2), (torch.randn(4, 2), torch.zeros(4, 2))
    assert text(ArgumentError, lambda: norm_mismatch(layer, lambda y, t: y - t, [pair])) == (
        "norm_mismatch expects a loss that is one number, got (4, 2). Take its mean over the samples."
    )
    wrong = text(ArgumentError, lambda: norm_mismatch(layer, F.nll_loss, [pair]))
    assert wrong.startswith("norm_mismatch expects a loss that takes the model's output, got RuntimeError: ")


def test_models_without_such_norms_are_refused_in_one_sentence() -> None:
    x = torch.randn(4, 2)
    for model in (nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)):
        assert text(ArgumentError, lambda: statistics_noise(model, x, [2])) == (
            "statistics_noise expects a model with a batch norm that has running statistics, got none. Other norms "
            "have one kind of statistics only."
        )
    twice = nn.BatchNorm1d(2)
    assert text(ArgumentError, lambda: recompute_statistics(nn.Sequential(twice, twice), [x])) == (
        "recompute_statistics expects each batch norm to be called once in a forward pass, got two calls of 0. Give "
        "each place a norm of its own, or use layer_by_layer=False."
    )
    unused = nn.Sequential(nn.BatchNorm1d(2))
    unused.add_module("spare", torch.nn.ModuleList([nn.BatchNorm1d(2)]))
    unused.forward = lambda x: unused[0](x)  # type: ignore[method-assign]
    assert text(ArgumentError, lambda: recompute_statistics(unused, [x])) == (
        "recompute_statistics expects each batch norm to be called in a forward pass, got none of spare.0. Freeze it, "
        "or take it out of the model."
    )
    assert text(ArgumentError, lambda: recompute_statistics(nn.BatchNorm1d(2), [x[:1]])) == (
        "recompute_statistics expects more than one value per channel at BatchNorm1d, got 1. Give more batches."
    )


def test_sizes_of_batches_are_checked() -> None:
    layer, x = nn.BatchNorm1d(2), torch.randn(4, 2)
    assert text(ArgumentError, lambda: statistics_noise(layer, x[:1], [2])) == (
        "statistics_noise expects a batch of two samples at least, got 1. Give some hundred."
    )
    assert text(ArgumentError, lambda: statistics_noise(layer, x, [2, 0])) == (
        "statistics_noise expects batch_sizes of whole numbers from 1 on, got 0. Use batch_sizes=[2, 8, 32]."
    )
    assert text(ArgumentError, lambda: statistics_noise(layer, x, [])) == (
        "statistics_noise expects batch_sizes of whole numbers from 1 on, got none. Use batch_sizes=[2, 8, 32]."
    )
