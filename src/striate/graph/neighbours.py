"""Finds the layers before and behind a layer: divides a recording into parts, and connects them.

A part is a call of a module that calls no other, with all its operations, or an operation outside of such calls.
Views and other free operations between parts are skipped: in ``relu(conv(x).flatten(1))`` the ReLU follows the
convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from .recording import ModuleCall, Operation, Recording

__all__ = ["Neighbours", "Part", "parts_of"]


@dataclass(eq=False)
class Part:
    """A module call, or an operation outside of such calls. index: its position in the order in which parts begin."""

    index: int
    call: ModuleCall | None
    operations: list[Operation] = field(default_factory=list)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The values that it returns to its caller."""
        return self.operations[0].outputs if self.call is None else self.call.outputs

    @property
    def inputs(self) -> tuple[int, ...]:
        """The values that it receives from its caller; those of an operation include parameters."""
        return self.operations[0].inputs if self.call is None else self.call.inputs


def parts_of(recording: Recording) -> list[Part]:
    """The parts in order, including calls that return no tensor, but not free operations or those without outputs.

    >>> from striate.graph.recording import record
    >>> from torch import nn
    >>> recording = record(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 2)), (1, 3, 8, 8))
    >>> [(part.call.path, [op.name for op in part.operations]) for part in parts_of(recording)]
    [('0', ['aten.convolution']), ('1', ['aten.view']), ('2', ['aten.t', 'aten.addmm'])]
    """
    inside: dict[int, list[Operation]] = {}
    found = [(call.start, 0, Part(0, call)) for call in recording.calls if not call.has_calls]
    for op in recording.operations:
        leaf = recording.leaf_of(op)
        if leaf is not None:
            inside.setdefault(leaf.index, []).append(op)
        elif not op.is_free and op.outputs:
            found.append((op.index, 1, Part(0, None, [op])))
    parts = [part for *_, part in sorted(found, key=lambda start: start[:2])]
    for index, part in enumerate(parts):
        part.index = index
        if part.call is not None:
            part.operations = inside.get(part.call.index, [])
    return parts


class Neighbours:
    """The connections between the parts of a recording.

    >>> from striate.graph.recording import record
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> neighbours = Neighbours(record(model.eval(), (1, 3, 8, 8)))
    >>> conv, norm, relu = neighbours.parts
    >>> neighbours.after(conv) == [norm], neighbours.before(relu) == [norm], neighbours.is_output(relu)
    (True, True, True)
    >>> neighbours.reader(conv) is norm, neighbours.reader(relu)
    (True, None)
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.parts = parts_of(recording)
        self._of_operation = {op.index: part for part in self.parts for op in part.operations if part.outputs}
        self._of_call = {part.call.index: part for part in self.parts if part.call is not None}
        self._before: list[list[Part]] = [[] for _ in self.parts]
        self._after: list[list[Part]] = [[] for _ in self.parts]
        self._last: set[int] = set()
        self._connect()

    def part(self, op: Operation) -> Part | None:
        """The part that an operation belongs to; None for operations that are skipped."""
        return self._of_operation.get(op.index)

    def of_call(self, call: ModuleCall) -> Part | None:
        """The part of a module call; None for a call that contains others."""
        return self._of_call.get(call.index)

    def before(self, part: Part) -> list[Part]:
        """The parts whose outputs a part reads."""
        return self._before[part.index]

    def after(self, part: Part) -> list[Part]:
        """The parts that read the output of a part."""
        return self._after[part.index]

    def is_output(self, part: Part) -> bool:
        """Whether the model returns the output of a part."""
        return part.index in self._last

    def reader(self, part: Part) -> Part | None:
        """The only part that reads the output of a part; None if there are several or none, or the model returns it
        too.
        """
        found = self.after(part)
        return found[0] if len(found) == 1 and not self.is_output(part) else None

    @cached_property
    def readers(self) -> dict[int, list[Operation]]:
        """Maps each value to the operations that read it."""
        return self.recording.readers()

    def _connect(self) -> None:
        made: dict[int, set[int]] = {}  # maps each value to the indices of the parts that it comes from
        passed: dict[int, list[Part]] = {}  # calls that return their inputs, by start
        for part in self.parts:
            if part.call is not None and part.outputs and set(part.outputs) <= set(part.inputs):
                passed.setdefault(part.call.start, []).append(part)

        def pass_through(start: int) -> None:
            for part in passed.get(start, []):
                for value in part.outputs:
                    self._link(made.get(value, set()), part)
                    made[value] = {part.index}

        for op in self.recording.operations:
            pass_through(op.index)
            sources: set[int] = set().union(*(made.get(v, set()) for v in op.inputs))
            own = self._of_operation.get(op.index)
            if own is not None:
                self._link(sources, own)
            for value in op.outputs:
                made[value] = sources if own is None else {own.index}
        pass_through(len(self.recording.operations))
        self._last = set().union(*(made.get(v, set()) for v in self.recording.outputs))

    def _link(self, sources: set[int], target: Part) -> None:
        for source in sorted(sources):
            if source != target.index and target not in self._after[source]:
                self._after[source].append(target)
                self._before[target.index].append(self.parts[source])
