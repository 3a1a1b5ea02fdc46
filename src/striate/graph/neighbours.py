"""What stands before and behind a layer: the parts of a recording, and which reads what which made.

A part is a call of a module that calls no other, with all its operations, or an operation outside of such calls.
Between parts, operations that only read the same values otherwise are looked through: in ``relu(conv(x).flatten(1))``
the ReLU follows the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from .recording import ModuleCall, Operation, Recording

__all__ = ["Neighbours", "Part", "parts_of"]


@dataclass(eq=False)
class Part:
    """A call, or an operation that stands alone. index: its place in the order in which they begin."""

    index: int
    call: ModuleCall | None
    operations: list[Operation] = field(default_factory=list)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The values that it makes, as whoever called it gets them."""
        return self.operations[0].outputs if self.call is None else self.call.outputs

    @property
    def inputs(self) -> tuple[int, ...]:
        """The values that it is given; parameters only where it is an operation."""
        return self.operations[0].inputs if self.call is None else self.call.inputs


def parts_of(recording: Recording) -> list[Part]:
    """The parts, in order, also those that return no tensor; without what is free or makes nothing by itself.

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
    """Which part follows which.

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
        """The part that an operation belongs to; None for what is looked through."""
        return self._of_operation.get(op.index)

    def of_call(self, call: ModuleCall) -> Part | None:
        """The part that is a call; None for a call that calls others."""
        return self._of_call.get(call.index)

    def before(self, part: Part) -> list[Part]:
        """The parts that made what it reads."""
        return self._before[part.index]

    def after(self, part: Part) -> list[Part]:
        """The parts that read what it made."""
        return self._after[part.index]

    def is_output(self, part: Part) -> bool:
        """Whether the model returns what it made."""
        return part.index in self._last

    def reader(self, part: Part) -> Part | None:
        """The one part that reads what it made; None where there are several or none, or the model returns it too."""
        found = self.after(part)
        return found[0] if len(found) == 1 and not self.is_output(part) else None

    @cached_property
    def readers(self) -> dict[int, list[Operation]]:
        """For each value the operations that read it."""
        return self.recording.readers()

    def _connect(self) -> None:
        made: dict[int, set[int]] = {}  # of a value the parts it comes from, by their indices
        passed: dict[int, list[Part]] = {}  # calls that do nothing, by where they start: their outputs are their inputs
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
