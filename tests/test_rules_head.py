"""Lint rules about the head: each with a network that has the mistake, and a similar one that does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from findings import findings
from torch import Tensor, nn

import striate


class Ending(nn.Module):
    """A linear layer and a function."""

    def __init__(self, function: str, **arguments: int) -> None:
        super().__init__()
        self.last, self.function, self.arguments = nn.Linear(4, 10), function, arguments

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(x)
        return (
            getattr(F, self.function)(y, **self.arguments)
            if hasattr(F, self.function)
            else getattr(torch, self.function)(y, **self.arguments)
        )


def scores(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 10), *more)


def test_a_linear_layer_on_a_flattened_map_holds_most_parameters() -> None:
    assert findings("flatten-head", striate.models.lenet5(), (1, 1, 28, 28)) == [
        (
            "note",
            "7",
            "Its 1,225,500 parameters, 98 % of all, read a flattened map of 50×7×7; global average pooling before it "
            "would leave one in 49.",
        )
    ]


def test_a_map_flattened_by_a_function_behind_dropout_is_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.dropout(F.relu(self.conv(x)).flatten(1), 0.5, self.training))

    message = (
        "Its 1,450 parameters, 97 % of all, read a flattened map of 4×6×6; global average pooling before it would "
        "leave one in 36."
    )
    assert findings("flatten-head", Net(), (2, 1, 8, 8)) == [("note", "last", message)]
    assert findings("flatten-head", Net().eval(), (2, 1, 8, 8)) == [("note", "last", message)]


@pytest.mark.parametrize(
    ("net", "input"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 99)), (1, 1, 8, 8)),
        (nn.Sequential(nn.Conv2d(1, 64, 5), nn.Flatten(), nn.Linear(256, 5)), (1, 1, 6, 6)),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), (1, 1, 8, 8)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 1), nn.Linear(1, 400)), (1, 1, 4, 4)),
    ],
)
def test_pooled_small_and_perceptrons_heads_are_not_told(net: nn.Module, input: tuple[int, ...]) -> None:
    assert findings("flatten-head", net, input) == []


@pytest.mark.parametrize(("net", "place"), [(scores(nn.Softmax(1)), "1"), (Ending("softmax", dim=-1), "softmax")])
def test_a_softmax_before_cross_entropy_is_an_error(net: nn.Module, place: str) -> None:
    assert findings("double-softmax", net, (2, 4), loss=nn.CrossEntropyLoss()) == [
        ("error", place, "CrossEntropyLoss takes a softmax of this softmax, and cannot fall below 1.46 for 10 classes.")
    ]


def test_the_loss_of_a_double_softmax_stays_above_what_is_told() -> None:
    sure = torch.eye(10) * 1000
    assert f"{F.cross_entropy(sure.softmax(1), torch.arange(10)):.3g}" == "1.46"


def test_scores_and_other_losses_are_no_double_softmax() -> None:
    assert findings("double-softmax", scores(), (2, 4), loss=nn.CrossEntropyLoss()) == []
    assert findings("double-softmax", scores(nn.LogSoftmax(1)), (2, 4), loss=nn.CrossEntropyLoss()) == []
    assert findings("double-softmax", scores(nn.Softmax(1)), (2, 4), loss=nn.MSELoss()) == []
    assert findings("double-softmax", scores(nn.Softmax(1), nn.Linear(10, 3)), (2, 4), loss=nn.CrossEntropyLoss()) == []


def test_a_second_log_softmax_changes_nothing() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0]])
    assert torch.allclose(x.log_softmax(1).log_softmax(1), x.log_softmax(1), rtol=1e-6, atol=0)
    assert findings("repeated-log-softmax", scores(nn.LogSoftmax(1)), (2, 4), loss=nn.CrossEntropyLoss()) == [
        ("note", "1", "CrossEntropyLoss takes the log-softmax of 2×10 values a second time, which changes none.")
    ]
    assert findings("repeated-log-softmax", scores(nn.LogSoftmax(1)), (2, 4), loss=nn.NLLLoss()) == []


def test_a_softmax_at_the_end_is_a_note_while_the_loss_is_unknown() -> None:
    net = scores(nn.Softmax(1))
    assert findings("softmax-output", net, (2, 4)) == [
        ("note", "1", "The model returns the softmax of 10 classes, and CrossEntropyLoss would take another.")
    ]
    assert findings("softmax-output", net, (2, 4), loss=nn.MSELoss()) == []
    assert findings("softmax-output", net.eval(), (2, 4)) == []
    assert findings("softmax-output", scores(), (2, 4)) == []


def test_nll_loss_of_anything_but_logarithms_is_an_error() -> None:
    assert findings("missing-log-softmax", scores(), (2, 4), loss=nn.NLLLoss()) == [
        ("error", "0", "NLLLoss gets scores, and falls below 0 without end as they grow.")
    ]
    assert findings("missing-log-softmax", scores(nn.Softmax(1)), (2, 4), loss=nn.NLLLoss()) == [
        ("error", "1", "NLLLoss gets probabilities, and is between -1 and 0.")
    ]


def test_logarithms_of_probabilities_are_what_nll_loss_takes() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(1).log()

    for last in (nn.LogSoftmax(1), Log()):
        assert findings("missing-log-softmax", scores(last), (2, 4), loss=nn.NLLLoss()) == []
    assert findings("missing-log-softmax", scores(), (2, 4), loss=nn.CrossEntropyLoss()) == []


@pytest.mark.parametrize(("net", "place"), [(scores(nn.Sigmoid()), "1"), (Ending("sigmoid"), "sigmoid")])
def test_a_sigmoid_before_a_loss_with_logits_is_an_error(net: nn.Module, place: str) -> None:
    assert findings("sigmoid-before-bce-with-logits", net, (2, 4), loss=nn.BCEWithLogitsLoss()) == [
        (
            "error",
            place,
            "BCEWithLogitsLoss takes a sigmoid of it, which is at least 0.5 and at most 0.731: a target of 0 costs "
            "0.693 or more, one of 1 0.313 "
            "or more.",
        )
    ]


def test_the_least_costs_behind_a_sigmoid_are_those_that_are_told() -> None:
    loss = nn.BCEWithLogitsLoss()
    low, high = torch.tensor([-1000.0]).sigmoid(), torch.tensor([1000.0]).sigmoid()
    assert [f"{loss(low, torch.zeros(1)):.3g}", f"{loss(high, torch.ones(1)):.3g}"] == ["0.693", "0.313"]


def test_scores_before_it_and_a_sigmoid_before_bce_are_right() -> None:
    assert findings("sigmoid-before-bce-with-logits", scores(), (2, 4), loss=nn.BCEWithLogitsLoss()) == []
    assert findings("sigmoid-before-bce-with-logits", scores(nn.Sigmoid()), (2, 4), loss=nn.BCELoss()) == []


def test_a_softmax_over_the_batch_is_told() -> None:
    assert findings("softmax-over-wrong-axis", scores(nn.Softmax(0)), (8, 4)) == [
        ("warning", "1", "Its sums are over axis 0, the 8 samples of the batch, in place of the 10 values of axis 1.")
    ]
    assert findings("softmax-over-wrong-axis", Ending("log_softmax", dim=-2), (1, 4)) == [
        (
            "warning",
            "log_softmax",
            "Its sums are over axis 0, the one sample of the batch, in place of the 10 values of axis 1.",
        )
    ]


def test_a_softmax_over_classes_or_of_a_vector_is_not() -> None:
    class Vector(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(0).softmax(0)

    assert findings("softmax-over-wrong-axis", scores(nn.Softmax(1)), (8, 4)) == []
    assert findings("softmax-over-wrong-axis", Vector(), (4, 4)) == []
