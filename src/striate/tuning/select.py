"""Chooses this machine's tuning tables, and in them the row of a convolution.

Rows that the table of the likest processor lacks are taken from the next.

A row applies to one kind of convolution, up to a limit of the number by which the kind is counted (:data:`COUNTED`), to
stride 1 or to larger strides, to one size (a range of the number of outputs, of an image or of the batch), to one pass
and to one memory order. Its columns hold the time of torch's operator (for the pass "fused", of oneDNN's) over that of
each method.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple, Protocol

from .. import native

__all__ = [
    *("COUNTED", "PATH", "PATHS", "TABLES", "Row", "about", "kind_of", "not_preferred", "own_path", "row_for"),
    *("processor", "size_of", "sizes", "table", "tables_for"),
]

TABLES = Path(__file__).with_name("tables")
# The kinds of convolution, and the number by which each is counted.
COUNTED = {
    "depthwise": "taps",
    "grouped": "channels a group",
    "few filters": "filters",
    "pointwise": "percent of filters to channels",
    "dense 3×3": "channels",  # or filters, if they are fewer; Winograd's methods compute this kind, also of one axis
    "dense 5×5": "channels",
    "dense": "channels",
}
# The sizes, and the largest number of outputs of each: outputs of one image; where weights are transformed or packed,
# of the whole batch.
_OF_IMAGE = {"small": 256, "large": 10**18}
_OF_ALL = {"tiny": 256, "small": 1024, "medium": 8192, "large": 10**18}


class Geometry(Protocol):
    """The part of a convolution's geometry that is read here (:class:`striate.ops.conv.ConvGeometry`)."""

    @property
    def batch(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def filters(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def output(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> tuple[int, ...]: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def dilation(self) -> tuple[int, ...]: ...
    @property
    def dims(self) -> int: ...
    @property
    def taps(self) -> int: ...


class Problem(Protocol):
    """The part of one pass of a convolution that is read here (:class:`striate.ops.conv.ConvProblem`)."""

    @property
    def pass_(self) -> str: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def channels_last(self) -> bool: ...


# ---------------------------------------------------------------------------------------------------- the table's rows


def sizes(kind: str, pass_: str) -> dict[str, int]:
    """The sizes of a kind and a pass, and the largest number of outputs of each.

    >>> list(sizes("depthwise", "forward")), list(sizes("depthwise", "fused"))
    (['small', 'large'], ['tiny', 'small', 'medium', 'large'])
    """
    return _OF_ALL if pass_ == "fused" or kind in ("dense 3×3", "dense 5×5") else _OF_IMAGE


class Row(NamedTuple):
    axes: int
    kind: str
    up_to: int
    strided: bool  # by more than 1 on some axis
    size: str  # one of sizes()
    pass_: str  # one of a convolution's passes, or "fused": forward for inference, compared with oneDNN's operator
    order: str  # "NCHW" or "NHWC", of any number of axes
    method: str  # the fastest
    columns: str  # the names of the methods, separated by commas
    cells: str  # the ratio of each method, or nothing if it was not measured

    @property
    def ratios(self) -> dict[str, float]:
        """Torch's time over that of each method that was measured."""
        return {
            name: float(cell) for name, cell in zip(self.columns.split(","), self.cells.split(","), strict=True) if cell
        }


KEY = ("axes", "kind", "up_to", "stride", "size", "pass", "order", "method")  # the columns before the methods'


def _row(line: str, columns: str) -> Row:
    axes, kind, up_to, stride, size, pass_, order, method, cells = line.split(",", len(KEY))
    return Row(int(axes), kind, int(up_to), stride != "1", size, pass_, order, method, columns, cells)


def _reason(row: Row, name: str) -> str:
    """The reason against a method that was measured, but was not the fastest."""
    most = "of any number of" if row.up_to >= 10**9 else f"up to {row.up_to}"
    stride = "a larger stride" if row.strided else "stride 1"
    images = "images" if sizes(row.kind, row.pass_) is _OF_IMAGE else "batches"
    order = "channels" if row.order == "NHWC" else "planes"
    case = f"{row.axes}d {row.kind}, {most} {COUNTED[row.kind]}, {stride}, {row.size} {images} in {order} order"
    share = row.ratios[name] / {"torch": 1.0, "onednn": 1.0, **row.ratios}[row.method]
    lost = (
        f"{row.method} took {share:.2f} of its time"
        if share < 1
        else f"it lost against {row.method} on one of the shapes, or in digits"
    )
    return f"{lost} for {case}"


def kind_of(geometry: Geometry) -> tuple[str, int]:
    """The kind of a convolution, and the number by which it is counted.

    >>> from striate.ops.conv import ConvGeometry
    >>> kind_of(ConvGeometry(1, 8, 8, 8, (9, 9), (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)))
    ('depthwise', 9)
    """
    channels, filters = geometry.channels // geometry.groups, geometry.filters // geometry.groups
    if geometry.groups > 1:
        return ("depthwise", geometry.taps) if channels == filters == 1 else ("grouped", channels)
    if geometry.taps == 1:
        return "pointwise", 100 * filters // max(1, channels)
    if filters <= 8 and filters < channels:
        return "few filters", filters
    wide = [k for k in geometry.size if k > 1]  # not a set, because traced numbers have no hash
    if (
        geometry.dims < 3
        and wide[0] in (3, 5)
        and all(k == wide[0] for k in wide)
        and all(n == 1 for n in (*geometry.stride, *geometry.dilation))
    ):
        return "dense 3×3" if wide[0] == 3 else "dense 5×5", channels if channels < filters else filters
    return "dense", channels


def size_of(kind: str, pass_: str, geometry: Geometry) -> str:
    """The name of a convolution's size.

    >>> from striate.ops.conv import ConvGeometry
    >>> geometry = ConvGeometry(16, 64, 64, 1, (14, 14), (14, 14), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    >>> size_of("dense", "forward", geometry), size_of("dense 3×3", "forward", geometry)
    ('small', 'medium')
    """
    outputs, known = prod(geometry.output), sizes(kind, pass_)
    if known is _OF_ALL:
        if type(geometry.batch) is not int:  # traced with a symbolic batch
            return "large"
        outputs = outputs * geometry.batch
    return next(name for name, most in known.items() if outputs <= most)


# ------------------------------------------------------------------------------------------------ this machine's table


def tables_for(tables: Sequence[Path], maker: str, family: str, isa: str) -> list[Path]:
    """The tables in the order in which the processors they were measured on are like this one: of the same family and
    instruction set, then of the same instruction set, of the same maker, and all others.

    >>> tables = [Path("amd-25-avx2.csv"), Path("intel-6-avx2.csv"), Path("intel-6-avx512.csv")]
    >>> kinds = [("intel", "6", "avx2"), ("amd", "26", "avx512"), ("apple", "0", "baseline")]
    >>> [str(tables_for(tables, *kind)[0]) for kind in kinds]
    ['intel-6-avx2.csv', 'intel-6-avx512.csv', 'amd-25-avx2.csv']
    """

    def likeness(path: Path) -> tuple[bool, bool, bool]:
        of_maker, of_family, of_isa = path.stem.split("-")
        same_maker = of_maker == maker
        return same_maker and of_family == family and of_isa == isa, of_isa == isa, same_maker

    return sorted(tables, key=likeness, reverse=True)  # keeps the order of equally similar tables


def processor() -> tuple[str, str]:
    """The maker and the family of this machine's processor, as in the names of the tables.

    >>> len(processor())
    2
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine().lower(), "0"
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    maker = facts.get("vendor_id", platform.machine()).lower()
    known = {"genuineintel": "intel", "authenticamd": "amd"}
    return known.get(maker, maker), facts.get("cpu family", "0")


def own_path() -> Path:
    """Where a table that is measured on this machine belongs; there need not be one.

    >>> own_path().suffix, own_path().parent == TABLES
    ('.csv', True)
    """
    return TABLES / f"{'-'.join((*processor(), native.isa()))}.csv"


def _chosen() -> list[Path]:
    tables = sorted(TABLES.glob("*.csv"))
    if len(tables) < 2:  # there is no choice, and reading /proc/cpuinfo takes long on some machines
        return tables
    return tables_for(tables, *processor(), native.isa())


PATHS = _chosen()  # the likest processor's first
PATH = next(iter(PATHS), None)


def read(path: Path) -> tuple[str, list[str]]:
    """The names of a table's methods, and its lines in their order, in which ``up_to`` rises within each kind."""
    head, *lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return head.split(",", len(KEY))[-1], lines


# The tables are read at import, because code that torch.compile traces must not open files. A line becomes a Row when
# it is looked up: converting all 1,640 takes 10 ms.
_Key = tuple[str, str, str, str, str, str]  # axes, kind, stride, size, pass, order
_LINES: dict[_Key, tuple[Path, str, list[str]]] = {}  # the table, its columns, and its lines of this key
for _path in PATHS:
    _columns, _lines = read(_path)
    for _line in _lines:
        _axes, _kind, _, _stride, _size, _pass, _order, _ = _line.split(",", 7)
        _of, _, _same = _LINES.setdefault((_axes, _kind, _stride, _size, _pass, _order), (_path, _columns, []))
        if _of is _path:
            _same.append(_line)


def table() -> tuple[Row, ...]:
    """All rows that apply here; ``up_to`` rises within each kind."""
    return tuple(_row(line, columns) for _, columns, lines in _LINES.values() for line in lines)


def row_for(problem: Problem) -> Row | None:
    """The row that applies to a problem: the first whose ``up_to`` is at least the problem's number, else the last. For
    a number of axes that was not measured, the rows of two axes apply.
    """
    kind, number = kind_of(problem.geometry)
    strided, size = any(s > 1 for s in problem.geometry.stride), size_of(kind, problem.pass_, problem.geometry)
    key = (kind, "more" if strided else "1", size, problem.pass_, "NHWC" if problem.channels_last else "NCHW")
    found = _LINES.get((str(problem.geometry.dims), *key)) or _LINES.get(("2", *key))
    if found is None:
        return None
    _, columns, lines = found
    line = next((line for line in lines if number <= int(line.split(",", 3)[2])), lines[-1])
    return _row(line, columns)


def about() -> list[str]:
    """Summarizes the table in a few lines: where it was measured, and for each kind how often a method is the fastest.

    >>> about()[0].startswith("measured on")
    True
    """
    if not PATHS:
        return ["measured nowhere: the table is missing, and torch's operator goes first"]
    lines = []
    for path in PATHS:
        kinds = [kind for kind in COUNTED if any(key[1] == kind and of is path for key, (of, _, _) in _LINES.items())]
        if kinds:
            with path.open() as file:
                head = file.readline().strip("# ").strip()
            lines.append(f"measured on {head}" + (f" ({', '.join(kinds)})" if len(kinds) < len(COUNTED) else ""))
    rows = table()
    for kind in COUNTED:
        chosen: dict[str, int] = {}
        for row in rows:
            if row.kind == kind:
                chosen[row.method] = chosen.get(row.method, 0) + 1
        counts = ", ".join(f"{name} {count}" for name, count in sorted(chosen.items(), key=lambda item: -item[1]))
        lines.append(f"{kind}: {counts} of {sum(chosen.values())} cases")
    return lines


def not_preferred(name: str, problem: Problem) -> str | None:
    """Why the measurements prefer another method for a problem; None if they prefer this one."""
    row = row_for(problem)
    if row is not None and row.method == name:
        return None
    if row is None or name not in row.ratios:
        return "it was not measured for such a convolution (benchmarks/tune.py)"
    return _reason(row, name)
