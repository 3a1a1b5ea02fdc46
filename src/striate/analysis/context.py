"""What lint rules ask about a report: which layer a row is, what stands before and behind it, what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import Module

from ..graph.recording import FREE, ModuleCall, Operation, Recording
from .rows import Layer

if TYPE_CHECKING:
    from .report import Report

__all__ = ["Context", "Use"]


class Use(NamedTuple):
    """What a network is trained with and for, as far as it is known: the arguments of :func:`striate.inspect` of these
    names.
    """

    optimizer: torch.optim.Optimizer | None = None
    batch_size: int | None = None
    object_px: float | None = None
    loss: Module | None = None
    task: str | None = None


class Context:
    """A report, and what rules ask about it."""

    def __init__(self, report: Report, use: Use) -> None:
        self.report = report
        self.optimizer, batch_size, self.object_px, self.loss, self.task = use
        self.recording: Recording = report.recording
        self.model: Module = report.recording.model
        self.layers: list[Layer] = [layer for layer in report.layers if layer.value is not None]
        shapes = report.input_shapes
        self.batch_given = batch_size is not None
        self.batch_size = batch_size if batch_size is not None else (shapes[0][0] if shapes and shapes[0] else 1)

    def call(self, layer: Layer) -> ModuleCall | None:
        """The call that a row stands for; None for an operation outside of layers."""
        if layer.call is None or self.recording.calls[layer.call].has_calls:
            return None
        return self.recording.calls[layer.call]

    def module(self, layer: Layer) -> Module | None:
        """The layer itself."""
        call = self.call(layer)
        return call.module if call is not None else None

    def of(self, *classes: type[Module]) -> Iterator[tuple[Layer, Any]]:
        """The rows whose layers are of these classes, with the layers."""
        for layer in self.layers:
            module = self.module(layer)
            if isinstance(module, classes):
                yield layer, module

    def first(self, *classes: type[Module]) -> Iterator[tuple[Layer, Any]]:
        """The same, with each layer once, where it is called first."""
        seen: set[int] = set()
        for layer, module in self.of(*classes):
            if id(module) not in seen:
                seen.add(id(module))
                yield layer, module

    def path(self, layer: Layer) -> str:
        """Where in the model the layer of a row is; for an operation its row's name."""
        call = self.call(layer)
        return call.path if call is not None else layer.name

    @cached_property
    def _place_of(self) -> dict[int, int]:
        """Of an operation, by its number, the place of its row in ``layers``."""
        places: dict[int, int] = {}
        calls: dict[int, int] = {}
        for place, layer in enumerate(self.layers):
            call = self.call(layer)
            if call is not None:
                calls[call.index] = place
            elif layer.value is not None and (op := self.recording.values[layer.value].operation) is not None:
                places[op] = place
        for one in self.recording.operations:
            leaf = self.recording.leaf_of(one)
            if leaf is not None and leaf.index in calls:
                places[one.index] = calls[leaf.index]
        return places

    def row(self, op: Operation) -> Layer | None:
        """The row that an operation is part of; None for what only reads the same values otherwise."""
        place = self._place_of.get(op.index)
        return None if place is None else self.layers[place]

    def operations(self, layer: Layer) -> list[Operation]:
        """The operations that a row stands for."""
        return self._operations[self._place(layer)]

    @cached_property
    def _operations(self) -> list[list[Operation]]:
        found: list[list[Operation]] = [[] for _ in self.layers]
        for op in self.recording.operations:
            if op.index in self._place_of:
                found[self._place_of[op.index]].append(op)
        return found

    @cached_property
    def readers(self) -> dict[int, list[Operation]]:
        """For each value the operations that read it."""
        return self.recording.readers()

    @cached_property
    def _neighbours(self) -> tuple[dict[int, list[Layer]], dict[int, list[Layer]]]:
        """By the rows' places in ``layers``: the rows that made what a row reads, and those that read what it made."""
        made: dict[int, set[int]] = {}  # of a value the rows it comes from, through what only reads it otherwise
        before: dict[int, list[int]] = {place: [] for place in range(len(self.layers))}
        after: dict[int, list[int]] = {place: [] for place in range(len(self.layers))}

        def link(source: int, target: int) -> None:
            if source != target and target not in after[source]:
                after[source].append(target)
                before[target].append(source)

        passed: dict[int, list[int]] = {}  # layers that do nothing: their outputs are their inputs
        for place, layer in enumerate(self.layers):
            call = self.call(layer)
            if call is not None and call.outputs and set(call.outputs) <= set(call.inputs):
                passed.setdefault(call.start, []).append(place)

        def passes(index: int) -> None:
            for place in passed.get(index, []):
                call = self.call(self.layers[place])
                for value in call.outputs if call is not None else ():
                    for source in made.get(value, set()):
                        link(source, place)
                    made[value] = {place}

        for op in self.recording.operations:
            passes(op.index)
            sources: set[int] = set().union(*(made.get(v, set()) for v in op.inputs))
            own = self._place_of.get(op.index)
            if own is None or (op.name in FREE and self.recording.leaf_of(op) is None):
                for value in op.outputs:
                    made[value] = sources
                continue
            for source in sources:
                link(source, own)
            for value in op.outputs:
                made[value] = {own}
        passes(len(self.recording.operations))
        self._last: set[int] = set().union(*(made.get(v, set()) for v in self.recording.outputs))
        named = [{place: [self.layers[p] for p in found] for place, found in one.items()} for one in (before, after)]
        return named[0], named[1]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {id(layer): place for place, layer in enumerate(self.layers)}

    def _place(self, layer: Layer) -> int:
        return self._places[id(layer)]

    def before(self, layer: Layer) -> list[Layer]:
        """The rows that made what it reads."""
        return self._neighbours[0][self._place(layer)]

    def after(self, layer: Layer) -> list[Layer]:
        """The rows that read what it made."""
        return self._neighbours[1][self._place(layer)]

    def is_output(self, layer: Layer) -> bool:
        """Whether the model returns what it made."""
        self._neighbours  # noqa: B018  finds _last
        return self._place(layer) in self._last

    def input_shape(self, layer: Layer) -> tuple[int, ...] | None:
        """Of the first tensor that it reads."""
        call = self.call(layer)
        values = call.inputs if call is not None else ()
        if call is None and layer.value is not None and (op := self.recording.maker(layer.value)) is not None:
            values = op.inputs
        return self.recording.values[values[0]].shape if values else None
