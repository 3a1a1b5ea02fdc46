"""Rules about modes: each with a network that it reports, and a similar one that it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from findings import reported, severities
from torch import nn

import striate
from striate import inspect

SHAPE = (8, 3, 6, 6)


def network(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), *more)


def test_a_norm_that_trains_in_an_evaluated_model_is_told_and_mended() -> None:
    model = network().eval()
    assert severities(inspect(model, SHAPE), "norm", "mode") == {}
    model[1].train()
    report = inspect(model, SHAPE)
    message = (
        "It is in training mode and the model is not: each batch it sees moves its running statistics by 0.1 of the "
        "way."
    )
    assert reported(report, "norm-in-training-mode") == [
        ("1", message, "Call eval() on the model after the last train(), or on this layer.")
    ]
    assert severities(report, "norm", "mode") == {"norm-in-training-mode": "warning"}
    fixed, difference = report.fix()
    assert (fixed[1].training, model[1].training, difference) == (False, True, "")  # a repr does not show the mode
    assert severities(inspect(fixed, SHAPE), "norm", "mode") == {}
    model[1].momentum = None
    assert "statistics by 1/batches of the way." in reported(inspect(model, SHAPE), "norm-in-training-mode")[0][1]


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(4), striate.nn.BatchNorm2d(4).freeze()],
    ids=lambda n: type(n).__name__,
)
def test_the_mode_of_a_norm_that_does_the_same_in_both_is_nothing(norm: nn.Module) -> None:
    for model_trains in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm).train(model_trains)
        norm.train(not model_trains)
        assert severities(inspect(model, SHAPE), "norm", "mode") == {}


def test_dropout_whose_mode_is_not_the_models_is_told_and_mended() -> None:
    model = network(nn.Dropout(0.3), nn.Dropout(0.0)).eval()
    model[3:].train()
    report = inspect(model, SHAPE)
    message = "It is in training mode and the model is not: it drops 30 % of what it gets."
    assert reported(report, "mixed-modes") == [("3", message, "Call eval() on the model, or on this layer.")]
    assert severities(report, "norm", "mode") == {"mixed-modes": "warning"}
    assert severities(inspect(report.fix()[0], SHAPE), "norm", "mode") == {} and report.fix()[0][3].training is False
    model.train()
    model[3].eval()
    report = inspect(model, SHAPE)
    message = "It is in evaluation mode and the model is not: it drops nothing, where p=0.3 is asked."
    assert reported(report, "mixed-modes") == [("3", message, "Call train() on the model, or on this layer.")]
    assert severities(inspect(report.fix()[0], SHAPE), "norm", "mode") == {} and report.fix()[0][3].training is True


def test_an_evaluated_norm_whose_scale_learns_is_told() -> None:
    model = network()
    assert severities(inspect(model, SHAPE), "norm", "mode") == {}
    model[1].eval()
    report = inspect(model, SHAPE)
    message = (
        "It is in evaluation mode and the model is not: its running statistics stay, and its 8 scales and shifts learn."
    )
    assert reported(report, "mixed-modes") == [
        ("1", message, "Call train() on the model, or freeze() on this layer if that is meant.")
    ]
    # which of the two is meant?
    assert severities(report, "norm", "mode") == {"mixed-modes": "warning"} and report.findings[0].mend is None


def test_a_norm_that_is_frozen_by_eval_thaws_with_the_next_train() -> None:
    model = striate.accelerate(network())
    model[1].eval().requires_grad_(False)
    report = inspect(model, SHAPE)
    message = "It is frozen by eval() alone: with the next train() its 4 running means and variances move again."
    fix = "Call freeze() on striate's batch norm, or eval() on this layer after each train()."
    assert reported(report, "frozen-norm-thaws") == [("1", message, fix)]
    assert severities(report, "norm", "mode") == {"frozen-norm-thaws": "warning"}
    fixed, difference = report.fix()
    assert fixed[1].frozen and not model[1].frozen and "frozen=True" in difference
    assert severities(inspect(fixed, SHAPE), "norm", "mode") == {}
    state = copy.deepcopy(fixed[1].state_dict())
    for net, moves in ((fixed, False), (model, True)):
        net.train()(torch.randn(SHAPE))
        assert torch.equal(net[1].running_mean, state["running_mean"]) is not moves
    assert reported(inspect(model, SHAPE), "frozen-norm-thaws") == []  # it has thawed


def test_torchs_norm_that_thaws_is_told_and_left_to_be_mended_by_hand() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False).eval())
    report = inspect(model.train(), SHAPE)
    assert severities(report, "norm", "mode") == {}
    model[0].eval()
    report = inspect(model, SHAPE)
    assert [(f.rule, f.mend) for f in report.findings] == [("frozen-norm-thaws", None)]


def test_batch_statistics_in_evaluation_are_told() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    assert severities(inspect(model, SHAPE), "norm", "mode") == {}
    report = inspect(model.eval(), SHAPE)
    message = "It keeps no running statistics: in evaluation its 3 channels are normalized by what is in the batch."
    fix = "Build it with track_running_stats=True and train it, or use GroupNorm."
    assert reported(report, "batch-statistics-at-evaluation") == [("0", message, fix)]
    assert severities(report, "norm", "mode") == {"batch-statistics-at-evaluation": "warning"}
    x = torch.randn(SHAPE)
    assert not torch.allclose(model(x)[:1], model(x[:1]))
    assert severities(inspect(nn.Sequential(nn.BatchNorm2d(3)).eval(), SHAPE), "norm", "mode") == {}
