"""What links are made of, and what the functions that make them ask about an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...window import Look
from ..optable import Column
from ..recording import Operation, Recording, Ref

__all__ = ["LINKS", "SAME", "Along", "Anywhere", "Link", "Linker", "Op", "Regroup", "links_for"]

SAME = Look()


class Along(NamedTuple):
    """An input's axis that is followed by the output's axis ``axis``.

    ends: where what is computed near the ends of the axis looks otherwise, the positions of all outputs, in place of
    ``look``'s.
    """

    axis: int
    look: Look = SAME
    ends: Look | None = None


class Anywhere(NamedTuple):
    """An input's axis of which every output sees these positions."""

    positions: range


class Regroup(NamedTuple):
    """The same values in the same order with other axes: axes of the input, and those of the output with as many
    values.
    """

    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


class Link(NamedTuple):
    """How one output of an operation depends on one tensor that it reads.

    axes: for each axis of that tensor; or a Regroup. exact: False where it may see less. within: an axis of the output
    and the places on it that see that tensor, if not all do. narrows: an axis of the output along which units see parts
    of what is told, all together all.
    """

    value: int
    axes: tuple[Along | Anywhere, ...] | Regroup
    exact: bool = True
    within: tuple[int, range] | None = None
    narrows: int | None = None


class Op:
    """A operation with its recording, and what the functions below ask about it."""

    def __init__(self, recording: Recording, operation: Operation) -> None:
        self.recording, self.operation, self.arguments = recording, operation, operation.arguments

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def value(self, name: str) -> int | None:
        given = self.arguments.get(name)
        return given.value if isinstance(given, Ref) else None

    def shape(self, value: int) -> tuple[int, ...]:
        return self.recording.values[value].shape

    @property
    def input(self) -> int:
        """The tensor that it is about."""
        return self.operation.inputs[0]

    @property
    def output(self) -> tuple[int, ...]:
        return self.shape(self.operation.outputs[0]) if self.operation.outputs else ()

    def everywhere(self, value: int, exact: bool = True) -> Link:
        return Link(value, tuple(Anywhere(range(n)) for n in self.shape(value)), exact)

    def same(self, value: int, changed: dict[int, Along | Anywhere] | None = None, exact: bool = True) -> Link:
        """Axis by axis as the output's, but for those that are changed."""
        changed = changed or {}
        return Link(value, tuple(changed.get(i) or Along(i) for i in range(len(self.shape(value)))), exact)

    def others(self, *known: int) -> list[Link]:
        """Whatever else is read (weights, which may have been computed)."""
        return [self.everywhere(v) for v in dict.fromkeys(self.operation.inputs) if v not in known]

    def axis(self, value: int, number: int) -> int:
        return number % max(1, len(self.shape(value)))


Linker = Callable[[Op], "list[list[Link]]"]
LINKS: Column[Linker] = Column("links")


def links_for(*names: str) -> Callable[[Linker], Linker]:
    """Makes a function that of these operators."""
    return LINKS.of(*(f"aten.{name}" for name in names))
