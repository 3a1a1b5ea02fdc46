"""Rules about the optimizer's groups: each with a network and optimizer that it reports, and a similar one that it does
not.
"""

from __future__ import annotations

import pytest
import torch
from findings import reported, severities
from torch import nn

import striate
from striate import inspect
from striate.training import parameter_groups

SHAPE = (8, 3, 6, 6)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def test_decay_on_scales_shifts_and_biases_is_told_with_the_group_that_has_it() -> None:
    model = network()
    report = inspect(model, SHAPE, optimizer=torch.optim.SGD(model.parameters(), 0.1, weight_decay=5e-4))
    message = (
        "weight_decay=0.0005 pulls 3 parameters (26 numbers) towards 0, which are scales, shifts and biases: "
        "1.weight, 1.bias, 4.bias."
    )
    fix = "Give it striate.training.parameter_groups(model, weight_decay=0.0005)."
    assert reported(report, "decay-on-norm-or-bias") == [("optimizer", message, fix)]
    assert severities(report, "decay") == {"decay-on-norm-or-bias": "warning", "decay-on-scale-invariant": "note"}
    assert report.findings[0].line is None


def test_groups_of_parameter_groups_no_decay_and_no_optimizer_are_right() -> None:
    model = network()
    right = torch.optim.SGD(parameter_groups(model, 5e-4), 0.1)
    none = torch.optim.SGD(model.parameters(), 0.1)
    plain = torch.optim.Rprop(model.parameters())  # has no decay at all
    assert severities(inspect(model, SHAPE, optimizer=right), "decay") == {"decay-on-scale-invariant": "note"}
    for optimizer in (none, plain, None):
        assert severities(inspect(model, SHAPE, optimizer=optimizer), "decay") == {}


def test_one_bias_is_told_in_the_singular_and_many_are_cut() -> None:
    model = nn.Sequential(nn.Linear(3, 1))
    report = inspect(model, (8, 3), optimizer=torch.optim.AdamW(model.parameters(), weight_decay=0.01))
    message = "weight_decay=0.01 pulls 1 parameter (1 number) towards 0, which are scales, shifts and biases: 0.bias."
    assert [m for _, m, _ in reported(report, "decay-on-norm-or-bias")] == [message]
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    report = inspect(model, (8, 3), optimizer=torch.optim.AdamW(model.parameters(), weight_decay=0.01))
    assert reported(report, "decay-on-norm-or-bias")[0][1].endswith(": 0.bias, 1.bias, 2.bias, ….")


def test_the_diff_goes_on_with_the_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1, weight_decay=5e-4)
    fixed, difference = inspect(model, SHAPE, optimizer=optimizer).fix()
    at = difference.index("--- SGD's groups")
    assert difference[at:].splitlines() == [
        "--- SGD's groups",
        "+++ SGD's groups, fixed",
        "@@ -1,3 +1,5 @@",
        " weight_decay=0.0005",
        "   0.weight",
        "-  0.bias",
        "+weight_decay=0",
        "+  1.weight",
        "+  1.bias",
    ]
    assert fixed[0].bias is None
    again = inspect(fixed, SHAPE, optimizer=torch.optim.SGD(parameter_groups(fixed, 5e-4), 0.1))
    assert severities(again, "decay") == {"decay-on-scale-invariant": "note"} and again.fix()[1] == ""


def test_decay_on_weights_that_a_norm_follows_is_a_note_about_the_learning_rate() -> None:
    model = network()
    report = inspect(model, SHAPE, optimizer=torch.optim.SGD(parameter_groups(model, 5e-4), 0.1))
    message = (
        "weight_decay=0.0005 does not restrain 1 parameter (216 numbers), since a norm behind them takes their size "
        "away: "
        "it sets how fast they learn, lr/‖w‖² (0.weight)."
    )
    fix = "Keep it if the learning rate was found with it; change the two together."
    assert reported(report, "decay-on-scale-invariant") == [("optimizer", message, fix)]


@pytest.mark.parametrize(
    ("layers", "invariant"),
    [
        ([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)], True),  # the bias is subtracted again
        ([nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8)], True),
        ([nn.Conv2d(3, 8, 3, bias=False), striate.nn.LayerNorm2d(8)], True),
        ([nn.Conv2d(3, 8, 3, bias=False), nn.RMSNorm([8, 4, 4])], True),
        ([nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)], False),  # the bias does not grow with the weight
        ([nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(8)], False),
        ([nn.Conv2d(3, 8, 3, bias=False), nn.ReLU()], False),
    ],
)
def test_only_weights_right_before_a_norm_lose_their_size(layers: list[nn.Module], invariant: bool) -> None:
    model = nn.Sequential(*layers)
    report = inspect(model, SHAPE, optimizer=torch.optim.SGD(model[0].parameters(), 0.1, weight_decay=0.1))
    assert bool(reported(report, "decay-on-scale-invariant")) is invariant
    if invariant:
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
        y = model(x)
        with torch.no_grad():
            model[0].weight.mul_(8)
        torch.testing.assert_close(model(x), y, rtol=0, atol=1e-3)  # but for eps


def test_a_step_of_a_norms_weight_is_smaller_the_larger_it_is() -> None:
    model, x = network().double(), torch.randn(SHAPE, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    model[1].eps = 1e-12
    steps = []
    for factor in (1.0, 3.0):
        with torch.no_grad():
            model[0].weight.mul_(factor)
        model.zero_grad()
        model(x).square().sum().backward()
        steps.append(model[0].weight.grad.norm() / model[0].weight.norm())  # the angle of a step of rate 1
    assert (steps[0] / steps[1]).item() == pytest.approx(9, rel=1e-6)


def test_parameters_that_are_in_no_group_are_told() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model[4] = nn.Linear(128, 5)
    report = inspect(model, SHAPE, optimizer=optimizer)
    message = (
        "2 parameters (645 numbers) of 5 that learn are in none of its groups and stay as they are: 4.weight, 4.bias."
    )
    fix = "Make the optimizer when the model is complete, or add them with add_param_group."
    assert reported(report, "parameters-not-in-optimizer") == [("optimizer", message, fix)]
    assert severities(report, "decay") == {"parameters-not-in-optimizer": "warning"}
    model[4].requires_grad_(False)
    assert severities(inspect(model, SHAPE, optimizer=optimizer), "decay") == {}
