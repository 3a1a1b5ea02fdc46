"""The op table: for each operator that recordings and programs hold, what is known of it.

One row an operator (:data:`striate.graph.operators.ROWS`), by the name of its overload packet: ``aten.conv2d``,
whatever the overload. A recording has the packets that torch's dispatcher sees (``aten.convolution``), a program those
of ``torch.export`` (``aten.conv2d.default``); rows are of both. A name that ends in ``*`` is a row for all names that
begin so and have none of their own. An operator that writes into its argument (``aten.relu_``) has the row of the one
that does not, where it has none of its own.

===========  ===========================================================================================================
kind         what it does: "convolution", "sum", "view", …; one word, by which most questions are asked
result       whether its result is new memory: "new", "view" (of its first argument's memory), "input" (the argument
             itself, changed), "?" where nobody relies on either
size         how large its results are, where what goes in is finite: "keeps" (no larger than the largest of it),
             "clamps" (that, or one of its numbers), "unit" (at most 1), "sum" and "product" of two, "-" for unknown
program      whether a frozen program may hold it: "runs", "refused" (its results go by the order in memory), "-" where
             torch's tags decide
===========  ===========================================================================================================

What only one part of striate knows of operators, a function for each, that part adds as a :class:`Column`: for each row
a value by name or by kind, or explicitly none (tests/test_optable.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from .operators import ROWS

__all__ = [
    "COLUMNS",
    "FUSES",
    "TABLE",
    "Column",
    "Row",
    "base_name",
    "is_free",
    "is_kind",
    "is_pointwise",
    "kind_of",
    "names",
    "packet_of",
    "row_of",
]

T = TypeVar("T")


class Row(NamedTuple):
    name: str
    kind: str
    result: str
    size: str
    program: str


TABLE: dict[str, Row] = {row.name: row for row in (Row(*line.split()) for line in ROWS.strip().splitlines())}
KINDS: frozenset[str] = frozenset(row.kind for row in TABLE.values())
_PATTERNS = tuple(name[:-1] for name in TABLE if name.endswith("*"))
# They only say how the same values are read, or make tensors of none.
_FREE = frozenset(("view", "identity", "cast", "creation", "written"))
# For each kind the kinds that its operator can compute in its own pass, behind itself and in this order.
FUSES: dict[str, tuple[str, ...]] = {
    "convolution": ("batch_norm", "sum", "relu", "activation"),
    "transposed_convolution": ("batch_norm",),
    "linear": ("batch_norm", "relu", "activation"),
    "batch_norm": ("sum", "relu", "activation"),
    "norm": ("sum", "relu", "activation"),
}


def packet_of(name: str) -> str:
    """An operator's name without its overload.

    >>> packet_of("aten.conv2d.default"), packet_of("aten.convolution"), packet_of("getitem")
    ('aten.conv2d', 'aten.convolution', 'getitem')
    """
    return ".".join(name.split(".")[:2])


def base_name(name: str) -> str:
    """Its name alone, without namespace and overload.

    >>> base_name("aten.conv2d.default"), base_name("aten.convolution"), base_name("getitem")
    ('conv2d', 'convolution', 'getitem')
    """
    return name.split(".")[:2][-1]


@lru_cache(maxsize=4096)
def row_of(name: str) -> Row | None:
    """The row of an operator; None for one that the table does not know.

    >>> row_of("aten.relu.default").size, row_of("aten.relu_").result, row_of("aten.fft_rfft2").kind
    ('keeps', 'input', 'uncounted_product')
    """
    packet = packet_of(name)
    if packet in TABLE:
        return TABLE[packet]
    if packet.endswith("_") and (row := TABLE.get(packet[:-1])) is not None:
        return row._replace(name=packet, result="input")
    prefix = max((p for p in _PATTERNS if packet.startswith(p)), key=len, default=None)
    return None if prefix is None else TABLE[f"{prefix}*"]


@lru_cache(maxsize=4096)
def kind_of(name: str) -> str:
    """Its row's kind; for one without a row "pointwise", where torch tags it so, or "unknown".

    >>> kind_of("aten.sub_"), kind_of("aten.exp"), kind_of("aten.no_such_operator")
    ('sum', 'pointwise', 'unknown')
    """
    row = row_of(name)
    return row.kind if row is not None else "pointwise" if is_pointwise(name) else "unknown"


def is_kind(name: str, *kinds: str) -> bool:
    """Whether an operator is of one of these kinds.

    >>> is_kind("aten.addmm", "matrix_product", "batched_product")
    True
    """
    assert KINDS.issuperset(kinds), kinds
    return kind_of(name) in kinds


def is_free(name: str) -> bool:
    """Whether an operator only says how the same values are read, or makes tensors of none. Those that change a view in
    place (``squeeze_``) count as operations.

    >>> is_free("aten.view"), is_free("aten.squeeze"), is_free("aten.squeeze_"), is_free("aten.relu")
    (True, True, False, False)
    """
    row = TABLE.get(packet_of(name))
    return row is not None and row.kind in _FREE


def names(*kinds: str) -> Iterator[str]:
    """The names of all rows of these kinds, patterns left out.

    >>> list(names("matrix_product"))
    ['aten.mm', 'aten.addmm', 'striate.linear']
    """
    assert KINDS.issuperset(kinds), kinds
    return (row.name for row in TABLE.values() if row.kind in kinds and not row.name.endswith("*"))


@lru_cache(maxsize=4096)
def is_pointwise(name: str) -> bool:
    """Whether torch tags an operator as one that computes value by value.

    >>> is_pointwise("aten.exp"), is_pointwise("aten.mm")
    (True, False)
    """
    namespace, _, base = packet_of(name).partition(".")
    packet = getattr(getattr(torch.ops, namespace), base, None) if base else None
    overloads = packet.overloads() if packet is not None else []
    return bool(overloads) and torch.Tag.pointwise in getattr(packet, overloads[0]).tags


class Column(Generic[T]):
    """What one part of striate knows of operators: a value for an operator's name or for all of a kind, or none.

    >>> column = Column[str]("an example")
    >>> column.of_kinds("sum")("adds"); column.of("aten.mul")("multiplies"); column.none("scale")
    'adds'
    'multiplies'
    >>> [column.get(name) for name in ("aten.add.Tensor", "aten.mul", "aten.div")], column.answers(TABLE["aten.mean"])
    (['adds', 'multiplies', None], False)
    >>> COLUMNS.remove(column)
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._names: dict[str, T] = {}
        self._kinds: dict[str, T | None] = {}
        COLUMNS.append(self)

    def of(self, *names: str) -> Callable[[T], T]:
        """Makes a value that of these operators, named with or without an overload; as a decorator too."""

        def add(value: T) -> T:
            self._names.update(dict.fromkeys(names, value))
            return value

        return add

    def of_kinds(self, *kinds: str) -> Callable[[T], T]:
        """Makes a value that of all operators of these kinds that have none of their own."""
        assert KINDS.issuperset(kinds), kinds

        def add(value: T) -> T:
            self._kinds.update(dict.fromkeys(kinds, value))
            return value

        return add

    def none(self, *kinds: str) -> None:
        """Says that operators of these kinds have no value, but those that have one by name."""
        assert KINDS.issuperset(kinds), kinds
        self._kinds.update(dict.fromkeys(kinds))

    def get(self, name: str) -> T | None:
        """The value of an operator: by its whole name, its packet's, or its kind."""
        found = self._names.get(name)
        if found is None:
            found = self._names.get(packet_of(name))
        return found if found is not None else self._kinds.get(kind_of(name))

    def answers(self, row: Row) -> bool:
        """Whether something is said of a row, be it that there is nothing."""
        return row.name in self._names or row.kind in self._kinds

    def unknown(self) -> list[str]:
        """Names with a value for which the table has no row."""
        return [name for name in self._names if row_of(name) is None]


COLUMNS: list[Column[Any]] = []
