"""Divides a network into stages: runs of rows whose feature maps have the same size."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from .result import Result
from .rows import Layer

__all__ = ["Stage", "stages"]


class Stage(NamedTuple):
    """A run of rows. size: units on each axis that follows those of the first input, None behind the last feature map.
    """

    size: tuple[int, ...] | None
    layers: list[Layer]


def stages(report: Result) -> list[Stage]:
    """Divides all rows into stages. Rows without a feature map, such as those of gates, belong to that around them.

    >>> from striate import inspect, models
    >>> [(stage.size, len(stage.layers)) for stage in stages(inspect(models.lenet5(), (1, 1, 28, 28)))]
    [((28, 28), 2), ((14, 14), 3), ((7, 7), 2), (None, 3)]
    """
    found: list[Stage] = []
    waiting: list[Layer] = []
    for layer in report.layers:
        waiting.append(layer)
        size = _size(report, layer)
        if size is None:
            continue
        if found and found[-1].size == size:
            found[-1].layers.extend(waiting)
        else:
            found.append(Stage(size, waiting))
        waiting = []
    return [*found, Stage(None, waiting)] if waiting else found


def _size(report: Result, layer: Layer) -> tuple[int, ...] | None:
    """The size of a row's feature map, whatever the order of its axes; None if its output is no feature map."""
    places = [None if layer.value is None else report.fields.place(layer.value, axis) for axis in report.axes()]
    size = tuple(place.size for place in places if place is not None)
    return size if len(size) == len(places) and prod(size) > 1 else None
