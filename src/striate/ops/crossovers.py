"""Which method of convolution was fastest where: a table of measurements, ``crossovers.csv``, made by
``benchmarks/tune.py``.

Each row holds for one kind of convolution, up to a number of what the kind is counted by, with stride 1 or more, up to
a number of outputs (of an image, or of all of them), one map and one memory order; the columns are the times of torch's
operator (for frozen layers of oneDNN's) over the methods' own. Results never depend on timing: the table is a file, and
nothing is measured while striate runs.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .conv import Call, Plan

__all__ = ["COUNTED", "PATH", "Row", "about", "kind_of", "row_for", "size_of", "sizes", "slower", "table"]

PATH = Path(__file__).with_name("crossovers.csv")
# The kinds of convolution, and what a kind is counted by.
COUNTED = {
    "depthwise": "taps",
    "grouped": "channels a group",
    "few filters": "filters",
    "pointwise": "percent of filters to channels",
    "dense 3×3": "channels",  # or filters, whichever are fewer: those that Winograd's tiles are for, on one axis too
    "dense 5×5": "channels",
    "dense": "channels",
}
# The sizes, and up to how many outputs: of an image; where weights are transformed or lie packed, of all images
# together.
_OF_IMAGE = {"small": 256, "large": 10**18}
_OF_ALL = {"tiny": 256, "small": 1024, "medium": 8192, "large": 10**18}


def sizes(kind: str, map: str) -> dict[str, int]:
    """The sizes there are, and up to how many outputs.

    >>> list(sizes("depthwise", "forward")), list(sizes("depthwise", "fused"))
    (['small', 'large'], ['tiny', 'small', 'medium', 'large'])
    """
    return _OF_ALL if map == "fused" or kind in ("dense 3×3", "dense 5×5") else _OF_IMAGE


class Row(NamedTuple):
    axes: int
    kind: str
    up_to: int
    strided: bool  # by more than 1 on some axis
    size: str  # one of sizes()
    map: str  # or "fused": forward, for inference, and the ratios are to oneDNN's operator for that
    order: str  # "planes" or "channels"
    method: str  # the fastest
    columns: str  # the names of the methods, and what was measured of each
    cells: str

    @property
    def ratios(self) -> dict[str, float]:
        """Of each method measured: torch's time over its own."""
        return {
            name: float(cell) for name, cell in zip(self.columns.split(","), self.cells.split(","), strict=True) if cell
        }


_PLACE = ("axes", "kind", "up_to", "stride", "size", "map", "order", "method")  # the columns in front of the methods


def _row(line: str, columns: str) -> Row:
    axes, kind, up_to, stride, size, map, order, method, cells = line.split(",", len(_PLACE))
    return Row(int(axes), kind, int(up_to), stride != "1", size, map, order, method, columns, cells)


def _reason(row: Row, name: str) -> str:
    """Against a method that was measured, but was not the fastest."""
    most = "of any number of" if row.up_to >= 10**9 else f"up to {row.up_to}"
    stride = "a larger stride" if row.strided else "stride 1"
    images = "images" if sizes(row.kind, row.map) is _OF_IMAGE else "batches"
    place = f"{row.axes}d {row.kind}, {most} {COUNTED[row.kind]}, {stride}, {row.size} {images} in {row.order} order"
    share = row.ratios[name] / {"torch": 1.0, "onednn": 1.0, **row.ratios}[row.method]
    lost = (
        f"{row.method} took {share:.2f} of its time"
        if share < 1
        else f"it lost against {row.method} on one of the shapes, or in digits"
    )
    return f"{lost} for {place}"


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
    wide = [k for k in plan.size if k > 1]  # in no set: traced numbers have no hash
    if (
        plan.dims < 3
        and wide[0] in (3, 5)
        and all(k == wide[0] for k in wide)
        and all(n == 1 for n in (*plan.stride, *plan.dilation))
    ):
        return "dense 3×3" if wide[0] == 3 else "dense 5×5", channels if channels < filters else filters
    return "dense", channels


def size_of(kind: str, map: str, plan: Plan) -> str:
    """Which of the sizes a convolution has.

    >>> from .conv import Plan
    >>> plan = Plan(16, 64, 64, 1, (14, 14), (14, 14), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    >>> size_of("dense", "forward", plan), size_of("dense 3×3", "forward", plan)
    ('small', 'medium')
    """
    places, known = prod(plan.output), sizes(kind, map)
    if known is _OF_ALL:
        if type(plan.batch) is not int:  # traced for any batch
            return "large"
        places = places * plan.batch
    return next(name for name, most in known.items() if places <= most)


def _read() -> tuple[str, list[str]]:
    """The names of the methods, and the lines of the file, in its order: of one kind by rising ``up_to``."""
    if not PATH.is_file():
        return "", []
    head, *lines = [line for line in PATH.read_text().splitlines() if not line.startswith("#")]
    return head.split(",", len(_PLACE))[-1], lines


def table() -> tuple[Row, ...]:
    """All rows, in the order of the file; of one kind by rising ``up_to``."""
    columns, lines = _read()
    return tuple(_row(line, columns) for line in lines)


# Read at import: what torch.compile traces opens no files. A line is made a row when it is looked up: making all 1,640
# takes 10 ms.
_Place = tuple[str, str, str, str, str, str]  # axes, kind, stride, size, map, order
_COLUMNS, _lines = _read()
_LINES: dict[_Place, list[str]] = {}
for _line in _lines:
    _axes, _kind, _, _stride, _size, _map, _order, _ = _line.split(",", 7)
    _LINES.setdefault((_axes, _kind, _stride, _size, _map, _order), []).append(_line)


def row_for(call: Call) -> Row | None:
    """The row that a call falls into: the first that reaches its number, or the last. What was not measured for its
    axes is as for two.
    """
    kind, number = kind_of(call.plan)
    strided, size = any(s > 1 for s in call.plan.stride), size_of(kind, call.map, call.plan)
    place = (kind, "more" if strided else "1", size, call.map, "channels" if call.channels_last else "planes")
    lines = _LINES.get((str(call.plan.dims), *place)) or _LINES.get(("2", *place), [])
    for line in lines:
        if number <= int(line.split(",", 3)[2]):
            return _row(line, _COLUMNS)
    return _row(lines[-1], _COLUMNS) if lines else None


def about() -> list[str]:
    """What the table says, in a few lines: on what it was measured, and how often each method is the fastest, by kind.

    >>> about()[0].startswith("measured on")
    True
    """
    if not PATH.is_file():
        return ["measured nowhere: the table is missing, and torch's operator goes first"]
    with PATH.open() as file:
        lines = [f"measured on {file.readline().strip('# ').strip()}"]
    rows = table()
    for kind in COUNTED:
        chosen: dict[str, int] = {}
        for row in rows:
            if row.kind == kind:
                chosen[row.method] = chosen.get(row.method, 0) + 1
        told = ", ".join(f"{name} {count}" for name, count in sorted(chosen.items(), key=lambda item: -item[1]))
        lines.append(f"{kind}: {told} of {sum(chosen.values())} cases")
    return lines


def slower(name: str, call: Call) -> str | None:
    """Why the method is not the first choice for a call, from the measurements; None if it is."""
    row = row_for(call)
    if row is not None and row.method == name:
        return None
    if row is None or name not in row.ratios:
        return "it was not measured for such a convolution (benchmarks/tune.py)"
    return _reason(row, name)
