"""Finds the layers of a model on its recording: modules that call no other, with the multiply-adds of each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.nn import Module

from ...errors import ArgumentError, ArgumentTypeError, ShapeError
from ...graph.cost import Macs, macs, macs_inside
from ...graph.recording import ModuleCall, Operation, Recording, record
from .work import Shapes

__all__ = ["Layers"]


class _LayerCall(NamedTuple):
    module: Module
    input_shapes: Shapes
    output_shapes: Shapes
    macs: Macs | None


class Layers:
    """The layers of a model that is called on an example.

    If the model cannot be recorded (parts of it are TorchScript, or its code depends on values in a way that a
    recording cannot follow), every module counts as a layer until the live run shows that it calls others, and each
    layer is recorded separately.
    """

    def __init__(self, model: Module, example: Any) -> None:
        recording = _recorded(model, example)
        self._calls: list[_LayerCall] = [] if recording is None else _layer_calls(recording)
        callers = set() if recording is None else {call.module for call in recording.calls if call.has_calls}
        named = ((name, m) for name, m in model.named_modules() if ".parametrizations" not in f".{name}")
        self.names = {module: name or type(module).__name__ for name, module in named if module not in callers}

    def macs(self, group: Sequence[Module], input_shapes: Shapes, output_shape: tuple[int, ...]) -> Macs | None:
        """The multiply-adds of one call of a layer, or of neighbours that are computed together; None if unknown."""
        for first, call in enumerate(self._calls):
            # A norm that is fused with the addition of a shortcut also receives the shortcut; in the recording only the
            # addition does.
            if call.module is group[0] and call.input_shapes == input_shapes[: len(call.input_shapes)]:
                calls = self._successive_calls(group, first)
                if calls and calls[-1].output_shapes[:1] == (output_shape,):
                    return _total([call.macs for call in calls])
        return self._recorded_macs(group, input_shapes)

    def _successive_calls(self, group: Sequence[Module], first: int) -> list[_LayerCall]:
        """The successive calls of a group's layers, from call ``first`` on; an empty list if they are not all found."""
        found: list[_LayerCall] = []
        for call in self._calls[first:]:
            if call.module is group[len(found)]:
                found.append(call)
                if len(found) == len(group):
                    return found
        return []

    def _recorded_macs(self, group: Sequence[Module], shapes: Shapes) -> Macs | None:
        found: list[Macs | None] = []
        for module in group:
            recording = _recorded(module, shapes)
            if recording is None:
                return None
            found += [_macs(recording, operation) for operation in recording.operations]
            shapes = tuple(recording.values[value].shape for value in recording.outputs[:1])
        return _total(found)


def _recorded(model: Module, example: Any) -> Recording | None:
    try:
        return record(model, example)
    except (ArgumentError, ArgumentTypeError, ShapeError):
        return None


def _layer_calls(recording: Recording) -> list[_LayerCall]:
    """The calls of modules that call no other module, in order."""
    found: dict[int, list[Macs | None]] = {}
    for operation in recording.operations:
        if operation.call is not None:
            found.setdefault(operation.call, []).append(_macs(recording, operation))

    def shapes(values: tuple[int, ...]) -> Shapes:
        return tuple(recording.values[value].shape for value in values)

    def described(call: ModuleCall) -> _LayerCall:
        return _LayerCall(call.module, shapes(call.inputs), shapes(call.outputs), _total(found.get(call.index, [])))

    return [described(call) for call in recording.calls if not call.has_calls]


def _macs(recording: Recording, operation: Operation) -> Macs | None:
    counted, inside = macs(recording, operation), macs_inside(recording, operation)
    return None if counted is None or inside is None else Macs(counted, inside)


def _total(counts: Sequence[Macs | None]) -> Macs | None:
    """The sum of the counts; None if one is unknown."""
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    return Macs(sum(count.all for count in known), sum(count.inside for count in known))
