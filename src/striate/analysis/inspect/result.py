"""The result of inspecting a network: rows, totals, and queries about receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import ArgumentError, build, did_you_mean
from ...graph.recording import Recording
from ..lint.finding import Finding
from .fields import Axes, Fields, Seen, reached_from, seen_by, units_of
from .rows import BOUND, EXACT, ONE_RUN, Layer

__all__ = ["ReceptiveField", "Result"]

VERSION = 1  # of the format that to_dict returns


class ReceptiveField(NamedTuple):
    """The part of the input that one unit of a layer sees.

    rectangle: the first and last position inside the image on each axis of the input; None if it sees none of it.
    taps: the exact positions on each axis, without the gaps of dilation. exact: False if branches cross, so that the
    true set may be smaller than the product of these positions; rectangle is exact even then, unless ``status`` says
    otherwise.
    size, jump, offset: those of the layer, padding included.
    """

    rectangle: tuple[tuple[int, int], ...] | None
    taps: tuple[tuple[int, ...], ...]
    exact: bool
    status: str


@dataclass(eq=False)
class Result:
    """The result, without the output formats that :class:`.report.Report` adds."""

    model: str
    recording: Recording
    fields: Fields
    layers: list[Layer]
    totals: dict[str, int | None]
    notes: list[str]
    findings: list[Finding] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None

    @property
    def graph(self) -> Recording:
        """The recording, under its former name."""
        return self.recording

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        return [self.recording.values[v].shape for v in self.recording.inputs]

    # ------------------------------------------------------------------------------------------------- receptive fields

    def layer(self, name: str) -> Layer:
        """Returns the row of that name."""
        found = [layer for layer in self.layers if layer.name == name]
        if not found:
            near = [layer.name for layer in self.layers if name and layer.name.endswith(name)] or [
                layer.name for layer in self.layers
            ]
            few = ", ".join(near[:8]) + (" …" if len(near) > 8 else "")
            hint = f"Choose the name of a row.{did_you_mean(name, [layer.name for layer in self.layers])}"
            raise ArgumentError(build("Report.layer", f"one of {few}", repr(name), hint=hint))
        return found[0]

    def axes(self, input: int = 0) -> list[Axes]:
        """The axes of one of the model's inputs for which receptive fields are computed."""
        return [axis for axis in self.fields.axes if axis[0] == input]

    def unit_axes(self, layer: str) -> tuple[int, ...]:
        """The axes of a layer's output that give the position of a unit: those that follow the axes of the first input,
        whatever their order; if they are not known, all except batch and channels.

        >>> from striate import inspect
        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(36, 5)), (1, 3, 8, 8))
        >>> report.unit_axes("0"), report.unit_axes("1")
        ((2, 3), (2,))
        """
        row = self.layer(layer)
        places = [None if row.value is None else self.fields.place(row.value, axis) for axis in self.axes()]
        found = tuple(
            place.axis for place in places if place is not None and place.size == row.output_shape[place.axis]
        )
        return found if len(found) == len(places) == len(set(found)) else tuple(range(2, len(row.output_shape)))

    def receptive_field(self, layer: str, unit: Sequence[int] | None = None, input: int = 0) -> ReceptiveField:
        """Computes the part of an input that a unit of a layer sees.

        unit: its position on the axes of the output that follow the image's (:meth:`unit_axes`), by default the middle;
        input: the number of the model's input.

        Raises ArgumentError for a layer or unit that does not exist.

        >>> from striate import inspect
        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(1, 1, 3, padding=2, dilation=2), nn.MaxPool2d(2)), (1, 1, 16, 16))
        >>> report.receptive_field("0", unit=(8, 0))
        ReceptiveField(rectangle=((6, 10), (0, 2)), taps=((6, 8, 10), (0, 2)), exact=True, status='exact')
        """
        value, units = self._units(layer, unit)
        seen = seen_by(self.recording, value, units).get(input)
        axes = self.axes(input)
        if seen is None or not axes:
            return ReceptiveField(None, tuple(() for _ in axes), True, EXACT)
        taps = tuple(tuple(sorted(seen.axes[axis])) for _, axis in axes)
        extents = [self.fields.extent(value, axis) for axis in axes]
        bound = any(extent is not None and not extent.exact for extent in extents)
        status = ONE_RUN if self.recording.reason else BOUND if bound else EXACT
        rectangle = tuple((t[0], t[-1]) for t in taps) if all(taps) else None
        return ReceptiveField(rectangle, taps, seen.exact, status)

    def projective_field(self, layer: str, pixel: Sequence[int], input: int = 0) -> ReceptiveField:
        """Computes which units of a layer depend on a pixel of an input, on the axes of :meth:`unit_axes`.

        Raises ArgumentError for a layer or pixel that does not exist.

        >>> from striate import inspect
        >>> from torch import nn
        >>> report = inspect(nn.Conv2d(1, 1, 3, stride=2), (1, 1, 9, 9))
        >>> report.projective_field("Conv2d", (4, 0)).rectangle
        ((1, 2), (0, 0))
        """
        value = self.layer(layer).value
        axes = self.axes(input)
        given = self.recording.values[self.recording.inputs[input]].shape
        _check_place("Report.projective_field", "pixel", pixel, given[2:])
        assert value is not None
        found = self.unit_axes(layer)
        seen = reached_from(self.recording, value, {input: units_of(given, pixel)})
        if seen is None or not axes:
            return ReceptiveField(None, tuple(() for _ in found), True, EXACT)
        taps = tuple(tuple(sorted(seen.axes[axis])) for axis in found)
        return ReceptiveField(
            tuple((t[0], t[-1]) for t in taps), taps, seen.exact, ONE_RUN if self.recording.reason else EXACT
        )

    def _units(self, layer: str, unit: Sequence[int] | None) -> tuple[int, Seen]:
        row = self.layer(layer)
        if row.value is None:
            raise ArgumentError(
                build("Report.receptive_field", "a layer with an output", repr(layer), hint="Choose another row.")
            )
        shape, axes = self.recording.values[row.value].shape, self.unit_axes(row.name)
        sizes = tuple(shape[axis] for axis in axes)
        if unit is None:
            unit = tuple(n // 2 for n in sizes)
        _check_place("Report.receptive_field", "unit", unit, sizes)
        return row.value, units_of(shape, unit, axes)

    # ------------------------------------------------------------------------------------------------------------ forms

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON types; ``version`` changes whenever a name or its meaning does."""
        layers = []
        for layer in self.layers:
            entry = asdict(layer)
            del entry["value"], entry["call"]
            entry["line"] = layer.line and Path(layer.line).name
            layers.append(entry)
        return {
            "version": VERSION,
            "model": self.model,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "mode": "training" if self.recording.training else "evaluation",
            "traced": self.recording.reason is None,
            "layers": layers,
            "totals": self.totals,
            "notes": self.notes,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def _check_place(where: str, what: str, place: Sequence[int], shape: Sequence[int]) -> None:
    if len(place) != len(shape) or not all(type(p) is int and 0 <= p < n for p, n in zip(place, shape, strict=True)):
        hint = "Count from 0 on each axis behind batch and channels."
        raise ArgumentError(build(where, f"{what} within {tuple(shape)}", tuple(place), hint=hint))
