"""Defines links, and the view of an operation by which functions construct them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...window import Look
from ..optable import Column
from ..recording import Operation, Recording, Ref

__all__ = ["LINKS", "SAME", "Along", "Anywhere", "Link", "Linker", "Op", "Regroup", "links_for"]

SAME = Look()


class Along(NamedTuple):
    """An axis of an input that axis ``axis`` of the output follows.

    look: the positions that each output reads. ends: if outputs near the ends of the axis read other positions than
    ``look`` says, the exact positions of all outputs.
    """

    axis: int
    look: Look = SAME
    ends: Look | None = None


class Anywhere(NamedTuple):
    """An axis of an input of which every output reads these positions."""

    positions: range


class Regroup(NamedTuple):
    """A reshape: each group pairs axes of the input with the axes of the output that have the same values."""

    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


class Link(NamedTuple):
    """How one output of an operation depends on one tensor that it reads.

    axes: one for each axis of that tensor, or a Regroup. exact: False if outputs may read less. within: an axis of the
    output and the positions on it that depend on that tensor, if not all do. narrows: an axis of the output by which
    units read different parts of these positions, all of them together.
    """

    value: int
    axes: tuple[Along | Anywhere, ...] | Regroup
    exact: bool = True
    within: tuple[int, range] | None = None
    narrows: int | None = None


class Op:
    """An operation in its recording, with the queries that link functions make."""

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
        """The value of the first input."""
        return self.operation.inputs[0]

    @property
    def output(self) -> tuple[int, ...]:
        return self.shape(self.operation.outputs[0]) if self.operation.outputs else ()

    def everywhere(self, value: int, exact: bool = True) -> Link:
        return Link(value, tuple(Anywhere(range(n)) for n in self.shape(value)), exact)

    def same(self, value: int, changed: dict[int, Along | Anywhere] | None = None, exact: bool = True) -> Link:
        """A link in which each axis follows the same axis of the output, except those in ``changed``."""
        changed = changed or {}
        return Link(value, tuple(changed.get(i) or Along(i) for i in range(len(self.shape(value)))), exact)

    def others(self, *known: int) -> list[Link]:
        """Links to all other inputs, such as weights (which may be computed): every output reads all of them."""
        return [self.everywhere(v) for v in dict.fromkeys(self.operation.inputs) if v not in known]

    def axis(self, value: int, number: int) -> int:
        return number % max(1, len(self.shape(value)))


Linker = Callable[[Op], "list[list[Link]]"]
LINKS: Column[Linker] = Column("links")


def links_for(*names: str) -> Callable[[Linker], Linker]:
    """Registers the link function of these operators."""
    return LINKS.of(*(f"aten.{name}" for name in names))
