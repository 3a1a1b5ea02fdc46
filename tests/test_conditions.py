"""Conditions on tensor sizes in a model's own code: which lines are reported, and which are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate
from striate.graph.recording import record

Forward = Callable[[Any, Tensor], Tensor]


class Asking(nn.Module):
    """A convolution, a batch norm, and code that is given."""

    def __init__(self, code: Forward) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 2)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.code(self, x).mean((2, 3)))


def conditions(code: Forward, shape: tuple[int, ...] = (1, 3, 8, 8)) -> list[str]:
    recording = record(Asking(code), shape, symbolic=True)
    assert recording.reason is None and recording.conditions is not None
    return [line.rpartition("/")[2] for line in recording.conditions]


def compared(m: Any, x: Tensor) -> Tensor:
    return m.conv(x) if x.shape[-1] > 4 else m.norm(m.conv(x))


def counted(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    for _ in range(x.shape[2]):
        y = y + 1
    return y


def converted(m: Any, x: Tensor) -> Tensor:
    return m.conv(x).view(int(x.shape[0]), 8, 8, 8)


def larger(m: Any, x: Tensor) -> Tensor:
    return F.pad(m.conv(x), (0, max(0, 9 - x.shape[3])))


def the_batch(m: Any, x: Tensor) -> Tensor:
    return m.conv(x) if x.shape[0] == 1 else m.norm(m.conv(x))


@pytest.mark.parametrize("code", [compared, counted, converted, larger, the_batch])
def test_a_size_asked_in_a_condition_is_told_with_its_line(code: Forward) -> None:
    first = code.__code__.co_firstlineno
    (found,) = conditions(code)
    file, _, line = found.rpartition(":")
    assert file == "test_conditions.py" and first < int(line) <= first + 4


def reshaped(m: Any, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    y = m.norm(m.conv(x))
    y = y.view(n, -1, h // 2, 2, w).flatten(2, 3)
    return F.interpolate(y, size=(h, w)) + y.new_zeros(n, 1, h, w)


def weights(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return y if m.conv.weight.shape[0] == y.shape[1] == 8 and y.dim() == len(y.shape) == 4 else m.norm(y)


def by_a_layer(m: Any, x: Tensor) -> Tensor:
    torch._assert(x.shape[2] == 8, "another size")
    return m.norm(nn.Upsample(scale_factor=2)(nn.ReflectionPad2d(1)(m.conv(x))))


@pytest.mark.parametrize("code", [reshaped, weights, by_a_layer])
def test_arithmetic_on_sizes_and_what_layers_ask_for_are_no_conditions(code: Forward) -> None:
    assert conditions(code) == []


def test_networks_of_striate_have_none_and_their_recording_is_the_same() -> None:
    model = striate.models.resnet18().eval()
    plain, symbolic = record(model, (2, 3, 64, 64)), record(model, (2, 3, 64, 64), symbolic=True)
    assert plain.conditions is None and symbolic.conditions == ()
    assert [op.name for op in plain.operations] == [op.name for op in symbolic.operations]
    assert [value.shape for value in plain.values] == [value.shape for value in symbolic.values]


def test_the_model_is_as_it_was() -> None:
    model = Asking(lambda m, x: m.norm(m.conv(x)))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.random.get_rng_state()
    assert record(model, (2, 3, 8, 8), symbolic=True).conditions == ()
    assert torch.equal(random, torch.random.get_rng_state()) and model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Counting(nn.Module):
    """Fails when it is called a second time."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.count = lambda: calls.append(1) or len(calls)

    def forward(self, x: Tensor) -> Tensor:
        if self.count() > 1:
            raise ValueError("once only")
        return x


def test_what_cannot_be_followed_is_told_in_its_words() -> None:
    recording = record(Counting([]), (1, 3), symbolic=True)
    assert recording.conditions is not None and len(recording.conditions) == 1
    assert recording.conditions[0].startswith("ValueError: once only (at test_conditions.py:")
