"""The layers before and after a layer, on small networks with an obvious answer; multiply-adds with and without taps in
the padding.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import striate
from striate.graph.cost import macs, macs_inside
from striate.graph.neighbours import Neighbours, Part, parts_of
from striate.graph.recording import record


def name(part: Part) -> str:
    return part.operations[0].name.removeprefix("aten.") if part.call is None else part.call.path


def links_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, list[str]], list[str]]:
    """For each part the parts that follow it, and those that the model returns."""
    neighbours = Neighbours(record(model.eval(), shape))
    after = {name(part): [name(one) for one in neighbours.after(part)] for part in neighbours.parts}
    before = {name(part): [name(one) for one in neighbours.before(part)] for part in neighbours.parts}
    assert all(one in before[other] for one, others in after.items() for other in others)
    return after, [name(part) for part in neighbours.parts if neighbours.is_output(part)]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.nothing = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return torch.relu(self.nothing(y) + x).flatten(1)


def test_branches_views_and_layers_that_do_nothing() -> None:
    after, returned = links_of(Residual(), (1, 4, 6, 6))
    assert after == {"conv": ["norm"], "norm": ["nothing"], "nothing": ["add"], "add": ["relu"], "relu": []}
    assert returned == ["relu"]


def test_a_view_between_is_looked_through_and_a_copy_in_a_layer_is_not() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.flat, self.b = nn.Linear(8, 8), nn.Flatten(), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.flat(self.a(x.transpose(1, 2).contiguous())))

    assert links_of(Views(), (1, 8, 2)) == ({"a": ["flat"], "flat": ["b"], "b": []}, ["b"])


def test_the_one_reader_is_none_where_others_read_too_or_the_model_returns_it() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.other = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.norm(self.conv(x))
            return y, self.other(y)

    neighbours = Neighbours(record(Two().eval(), (1, 3, 4, 4)))
    conv, norm, other = neighbours.parts
    assert neighbours.reader(conv) is norm and neighbours.after(norm) == [other]
    assert neighbours.reader(norm) is None and neighbours.reader(other) is None


def test_a_layer_called_twice_is_two_parts() -> None:
    conv = nn.Conv2d(3, 3, 1)
    parts = parts_of(record(nn.Sequential(conv, nn.ReLU(), conv), (1, 3, 4, 4)))
    assert [part.call and part.call.number for part in parts] == [0, 0, 1]


def products(x: tuple[int, ...], layer: Any) -> int:
    """The multiply-adds of a convolution: counts pairs of an output and a tap on the input, times the channels."""
    y = record(layer, x)
    y_shape = y.values[y.outputs[0]].shape
    size, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    source, target = (y_shape, x) if layer.transposed else (x, y_shape)
    count = 0
    for place in product(*map(range, target[2:])):
        for tap in product(*map(range, size)):
            at = [o * s + t * d - p for o, s, t, d, p in zip(place, stride, tap, dilation, padding, strict=True)]
            count += all(0 <= a < n for a, n in zip(at, source[2:], strict=True))
    return x[0] * count * layer.in_channels * layer.out_channels // layer.groups


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 7)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=2), (1, 4, 9, 6)),
        (nn.Conv1d(4, 4, 5, padding=2, groups=4), (3, 4, 4)),
        (nn.Conv3d(2, 3, 3, stride=2, padding=1), (1, 2, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 4, 3)),
        (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1, groups=2), (1, 4, 5)),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, nn.Module) else "",
)
def test_macs_inside_are_the_products_whose_tap_is_on_the_input(layer: nn.Module, shape: tuple[int, ...]) -> None:
    recording = record(layer, shape)
    (op,) = (op for op in recording.operations if op.is_a("convolution"))
    inside, every = macs_inside(recording, op), macs(recording, op)
    assert inside == products(shape, layer) > 0 and every is not None and inside < every


@pytest.mark.parametrize("layer", [striate.nn.Conv2d(3, 5, 3, padding=1), nn.Linear(6, 4), nn.MaxPool2d(2)])
def test_inspect_tells_both_numbers(layer: nn.Module) -> None:
    report = striate.inspect(layer, (1, 3, 6, 6))
    row = report.layers[0]
    assert row.macs is not None and row.macs_inside is not None
    assert (row.macs, row.macs_inside) == (report.totals["macs"], report.totals["macs_inside"])
    assert row.macs_inside < row.macs if isinstance(layer, nn.Conv2d) else row.macs_inside == row.macs


def test_explain_and_inspect_count_alike() -> None:
    layer = striate.nn.Conv2d(3, 5, 3, padding=1, stride=2)
    row = striate.inspect(layer, (1, 3, 9, 6)).layers[0]
    facts = striate.explain("conv2d", (3, 9, 6), out=5, kernel=3, padding=1, stride=2).facts
    assert (row.macs, row.macs_inside) == (facts["macs"], facts["macs_inside"])
