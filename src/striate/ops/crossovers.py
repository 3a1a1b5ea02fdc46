"""Which method of convolution was fastest where: a table of measurements, ``crossovers.csv``, made by ``benchmarks/tune.py``.

Each row holds for one kind of convolution, up to a number of what the kind is counted by, for small or for larger images, one map and
one memory order; the columns are the times of torch's operator over the methods' own. Results never depend on timing: the table is a
file, and nothing is measured while striate runs.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .conv import Call, Plan

__all__ = ["COUNTED", "PATH", "SMALL", "Row", "kind_of", "row_for", "slower", "table"]

PATH = Path(__file__).with_name("crossovers.csv")
SMALL = 256  # outputs on all axes up to which images count as small
# The kinds of convolution, and what a kind is counted by.
COUNTED = {
    "depthwise": "taps",
    "grouped": "channels a group",
    "few filters": "filters",
    "pointwise": "percent of filters to channels",
    "dense": "channels",
}


class Row(NamedTuple):
    axes: int
    kind: str
    up_to: int
    size: str  # "small" or "large"
    map: str
    order: str  # "planes" or "channels"
    method: str  # the fastest
    ratios: dict[str, float]  # of each method measured: torch's time over its own

    def __str__(self) -> str:
        axes = "1d" if self.axes == 1 else f"{self.axes}d"
        return f"{axes} {self.kind}, up to {self.up_to} {COUNTED[self.kind]}, {self.size} images in {self.order} order"


def kind_of(plan: Plan) -> tuple[str, int]:
    """The kind of a convolution, and the number by which it is counted.

    >>> from .conv import Plan
    >>> kind_of(Plan(1, 8, 8, 8, (9, 9), (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)))
    ('depthwise', 9)
    """
    channels, filters = plan.channels // plan.groups, plan.filters // plan.groups
    if plan.groups > 1:
        return ("depthwise", plan.taps) if channels == filters == 1 else ("grouped", channels)
    if plan.taps == 1:
        return "pointwise", 100 * filters // max(1, channels)
    if filters <= 8 and filters < channels:
        return "few filters", filters
    return "dense", channels


@functools.cache
def table() -> tuple[Row, ...]:
    """All rows, in the order of the file; of one kind by rising ``up_to``."""
    if not PATH.is_file():
        return ()
    with PATH.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    names = list(rows[0])[7:] if rows else []
    found = []
    for r in rows:
        ratios = {name: float(r[name]) for name in names if r[name]}
        found.append(Row(int(r["axes"]), r["kind"], int(r["up_to"]), r["size"], r["map"], r["order"], r["method"], ratios))
    return tuple(found)


@functools.cache
def _rows(axes: int, kind: str, size: str, map: str, order: str) -> tuple[Row, ...]:
    found = [r for r in table() if (r.kind, r.size, r.map, r.order) == (kind, size, map, order)]
    own = [r for r in found if r.axes == axes]
    return tuple(sorted(own or [r for r in found if r.axes == 2], key=lambda r: r.up_to))


def row_for(call: Call) -> Row | None:
    """The row that a call falls into: the first that reaches its number, or the last."""
    kind, number = kind_of(call.plan)
    size = "small" if call.places <= SMALL else "large"
    rows = _rows(call.plan.dims, kind, size, call.map, "channels" if call.channels_last else "planes")
    return next((r for r in rows if number <= r.up_to), rows[-1] if rows else None)


def slower(name: str, call: Call) -> str | None:
    """Why the method is not the first choice for a call, from the measurements; None if it is."""
    row = row_for(call)
    if row is None:
        return "it was not measured for such a convolution (benchmarks/tune.py)"
    if row.method == name:
        return None
    fastest = row.ratios.get(row.method, 1.0)
    if name not in row.ratios:
        return f"it was not measured for {row}"
    return f"{row.method} took {row.ratios[name] / fastest:.2f} of its time for {row}"
