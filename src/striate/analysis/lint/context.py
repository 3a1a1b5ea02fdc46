"""Queries of lint rules on a report: the module of a row, the rows before and after it, and its operations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.nn import Module

from ...graph.neighbours import Neighbours, Part
from ...graph.recording import ModuleCall, Operation, Recording
from ..inspect.result import Result
from ..inspect.rows import Layer

__all__ = ["Context", "Use"]


class Use(NamedTuple):
    """How a network is trained and what for, as far as known: the arguments of :func:`striate.inspect` of these names.
    """

    optimizer: torch.optim.Optimizer | None = None
    batch_size: int | None = None
    object_px: float | None = None
    loss: Module | None = None
    task: str | None = None


class Context:
    """A report, with the queries that rules make on it."""

    def __init__(self, report: Result, use: Use) -> None:
        self.report = report
        self.optimizer, batch_size, self.object_px, self.loss, self.task = use
        self.recording: Recording = report.recording
        self.model: Module = report.recording.model
        self.layers: list[Layer] = [layer for layer in report.layers if layer.value is not None]
        shapes = report.input_shapes
        self.batch_given = batch_size is not None
        self.batch_size = batch_size if batch_size is not None else (shapes[0][0] if shapes and shapes[0] else 1)

    def call(self, layer: Layer) -> ModuleCall | None:
        """The call that a row represents; None for an operation outside of layers."""
        if layer.call is None or self.recording.calls[layer.call].has_calls:
            return None
        return self.recording.calls[layer.call]

    def module(self, layer: Layer) -> Module | None:
        """The module that a row calls; None for an operation outside of layers."""
        call = self.call(layer)
        return call.module if call is not None else None

    def of(self, *classes: type[Module]) -> Iterator[tuple[Layer, Any]]:
        """Yields the rows that call a module of these classes, each with the module."""
        for layer in self.layers:
            module = self.module(layer)
            if isinstance(module, classes):
                yield layer, module

    def first(self, *classes: type[Module]) -> Iterator[tuple[Layer, Any]]:
        """Yields the same as :meth:`of`, but each module only once, at its first call."""
        seen: set[int] = set()
        for layer, module in self.of(*classes):
            if id(module) not in seen:
                seen.add(id(module))
                yield layer, module

    def path(self, layer: Layer) -> str:
        """The path of a row's module within the model; for an operation the name of its row."""
        call = self.call(layer)
        return call.path if call is not None else layer.name

    @cached_property
    def neighbours(self) -> Neighbours:
        """The predecessors and successors of each part of the recording."""
        return Neighbours(self.recording)

    @cached_property
    def _rows(self) -> dict[int, Layer]:
        """Maps the index of each part of the recording to its row."""
        parts = ((self._part_of(layer), layer) for layer in self.layers)
        return {part.index: layer for part, layer in parts if part is not None}

    def _part_of(self, layer: Layer) -> Part | None:
        call = self.call(layer)
        if call is not None:
            return self.neighbours.of_call(call)
        maker = None if layer.value is None else self.recording.maker(layer.value)
        return None if maker is None else self.neighbours.part(maker)

    def row(self, op: Operation) -> Layer | None:
        """The row that an operation belongs to; None for views and other operations that cost nothing."""
        part = self.neighbours.part(op)
        return None if part is None else self._rows.get(part.index)

    def operations(self, layer: Layer) -> list[Operation]:
        """The operations of a row."""
        part = self._part_of(layer)
        return [] if part is None else part.operations

    @cached_property
    def readers(self) -> dict[int, list[Operation]]:
        """Maps each value to the operations that read it."""
        return self.neighbours.readers

    def before(self, layer: Layer) -> list[Layer]:
        """The rows whose outputs a row reads."""
        part = self._part_of(layer)
        return [] if part is None else [self._rows[one.index] for one in self.neighbours.before(part)]

    def after(self, layer: Layer) -> list[Layer]:
        """The rows that read the output of a row."""
        part = self._part_of(layer)
        return [] if part is None else [self._rows[one.index] for one in self.neighbours.after(part)]

    def is_output(self, layer: Layer) -> bool:
        """Whether the model returns the output of a row."""
        part = self._part_of(layer)
        return part is not None and self.neighbours.is_output(part)

    def input_shape(self, layer: Layer) -> tuple[int, ...] | None:
        """The shape of the first tensor that a row reads; None if it reads none."""
        call = self.call(layer)
        values = call.inputs if call is not None else ()
        if call is None and layer.value is not None and (op := self.recording.maker(layer.value)) is not None:
            values = op.inputs
        return self.recording.values[values[0]].shape if values else None
