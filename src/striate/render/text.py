"""Text in columns, by rich. It is the same in a terminal, a file and a pipe: the width is an argument, what users named
is never read as markup or emoji, and control codes come only where colours are asked for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["beside", "colored", "columns", "facts", "labelled"]

GAP = 2  # columns of space between two cells
STYLES = {"error": "red", "warning": "yellow", "note": "cyan", "bar": "blue", "soft": "dim"}


def columns(
    rows: Sequence[Sequence[str]],
    sides: str,
    width: int | None = None,
    shrink: Mapping[int, int] | None = None,
    hidden: Sequence[int] = (),
    gap: int = GAP,
    least: Mapping[int, int] | None = None,
    styles: Mapping[int, str] | None = None,
) -> list[str]:
    """The lines of a table. Where they do not fit into ``width``, the widest column of ``shrink`` gives way, down to
    its number there; then the gap narrows to 1. What is cut ends in ``…``, in the first column it begins so, where
    paths differ.

    sides: for each column ``<`` or ``>``; hidden: columns to leave out, by their numbers; least: how wide a column is
    at least; styles: for columns that have one, a name of :data:`STYLES`; the first row, the header, is then soft.

    >>> print("\\n".join(columns([["layer", "ms"], ["features.0", "1.25"]], "<>", 12, {0: 6})))
    layer     ms
    …res.0  1.25
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    kept = [column for column in range(len(sides)) if column not in hidden]
    least = least or {}
    widths = {column: max([least.get(column, 0), *(cell_len(row[column]) for row in rows)]) for column in kept}
    if width is not None:
        gap = _fitted(widths, gap, width, shrink or {})
    table = Table.grid(padding=(0, gap, 0, 0), pad_edge=False)
    for column in kept:
        justify: Literal["left", "right"] = "left" if sides[column] == "<" else "right"
        table.add_column(width=widths[column], justify=justify, no_wrap=True, overflow="ellipsis")
    for number, row in enumerate(rows):
        cells = [_end_of(row[column], widths[column]) if column == 0 else row[column] for column in kept]
        names = [None if styles is None else "soft" if number == 0 else styles.get(column) for column in kept]
        table.add_row(*(Text(cell, STYLES.get(name or "", "")) for cell, name in zip(cells, names, strict=True)))
    return _lines(table, sum(widths.values()) + gap * len(kept), styles is not None)


def _fitted(widths: dict[int, int], gap: int, width: int, shrink: Mapping[int, int]) -> int:
    """Narrows columns, the widest first, until lines fit; returns the gap that is left between them."""
    while sum(widths.values()) + gap * (len(widths) - 1) > width:
        able = [column for column in widths if widths[column] > shrink.get(column, widths[column])]
        if able:
            widths[max(able, key=lambda column: widths[column])] -= 1
        elif gap == 1:
            break
        else:
            gap = 1
    return gap


def _end_of(text: str, width: int) -> str:
    """The end of a text that is too long."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    first = next(place for place in range(len(text) + 1) if cell_len(text[place:]) < width)
    return "…" + text[first:]


def facts(told: Mapping[str, object]) -> str:
    """Names on the left, values on the right; a list takes a line for each of its items.

    >>> print(facts({"core": True, "isa": "avx2", "native": ["max_pool2d", "avg_pool2d"], "torch_operator": []}))
    core            yes
    isa             avx2
    native          max_pool2d
                    avg_pool2d
    torch operator  none
    """
    rows = []
    for name, value in told.items():
        items = list(value) or ["none"] if isinstance(value, list | tuple) else [value]
        words = [("yes" if item else "no") if isinstance(item, bool) else str(item) for item in items]
        rows += [[name.replace("_", " ") if number == 0 else "", word] for number, word in enumerate(words)]
    return "\n".join(columns(rows, "<<"))


def labelled(
    rows: Sequence[tuple[str, str]], width: int, gap: int = GAP, labels: Sequence[str] | None = None
) -> list[str]:
    """Labels in a column, and beside each its text, wrapped to what is left of the width. labels: those that the column
    has room for, if not only those of the rows.

    >>> print("\\n".join(labelled([("x", "an image of four pixels"), ("weights", "none")], 22)))
    x        an image of
             four pixels
    weights  none
    """
    from rich.cells import cell_len

    wide = max(map(cell_len, labels if labels is not None else [label for label, _ in rows]), default=0)
    indent = " " * (wide + gap)
    cells: list[tuple[str, str]] = []
    for label, text in rows:
        marks = " " * (len(label) - cell_len(label))  # no line has more characters than columns, marks counted
        first, *more = textwrap.wrap(
            text, width, initial_indent=indent + marks, subsequent_indent=indent, break_on_hyphens=False
        ) or [""]
        cells += [(label, first.strip()), *(("", line.strip()) for line in more)]
    return columns(cells, "<<", gap=gap, least={0: wide})


def beside(blocks: Sequence[Sequence[str]], width: int, gap: int = GAP) -> list[str]:
    """Blocks of lines next to one another, as many in a band as fit, with an empty line between bands.

    >>> print("\\n".join(beside([["x", "0 1", "2 3"], ["b", "4"]], 20)))
    x    b
    0 1  4
    2 3
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    bands: list[list[Sequence[str]]] = [[]]
    used = 0
    for block in blocks:
        wide = max(map(cell_len, block)) + gap
        if bands[-1] and used + wide - gap > width:
            bands.append([])
            used = 0
        bands[-1].append(block)
        used += wide
    told: list[str] = []
    for band in bands:
        table = Table.grid(padding=(0, gap, 0, 0), pad_edge=False)
        for block in band:
            table.add_column(width=max(map(cell_len, block)), no_wrap=True)
        table.add_row(*(Text("\n".join(block)) for block in band))
        told += ["", *_lines(table, sum(max(map(cell_len, block)) + gap for block in band))]
    return told[1:]


def colored(text: str, name: str) -> str:
    """A text in the colour of a name of :data:`STYLES`, by control codes.

    >>> colored("it is wrong", "error")
    '\\x1b[31mit is wrong\\x1b[0m'
    """
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(STYLES[name]).render(text, color_system=ColorSystem.STANDARD)


@cache
def _console() -> Console:
    """Stands for no terminal at all, whatever the process and its environment say."""
    from rich.console import Console

    return Console(
        width=100,
        height=25,
        force_terminal=False,
        force_jupyter=False,
        color_system=None,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _lines(drawn: RenderableType, width: int, is_colored: bool = False) -> list[str]:
    """What rich makes of it, without the spaces that fill lines to their ends."""
    from rich.color import ColorSystem
    from rich.segment import Segment

    console = _console()
    lines = []
    for line in console.render_lines(drawn, console.options.update(width=width), pad=False):
        plain = "".join(segment.text for segment in line).rstrip()
        if is_colored:
            kept = next(iter(Segment.split_and_crop_lines(line, _cells(plain), pad=False)))
            parts = (
                part.style.render(part.text, color_system=ColorSystem.STANDARD) if part.style else part.text
                for part in Segment.simplify(kept)
            )
            lines.append("".join(parts))
        else:
            lines.append(plain)
    return lines


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
