"""Formats text in columns, by rich. The result is the same in a terminal, a file and a pipe: the width is an argument,
names from users are never parsed as markup or emoji, and control codes appear only if colours are requested.
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
    """Formats the lines of a table. If they do not fit into ``width``, the widest columns of ``shrink`` become
    narrower, down to their numbers there; then the gap shrinks to 1. Cut text ends in ``…``, but begins with it in the
    first column, since the ends of paths differ.

    sides: the alignment of each column, ``<`` or ``>``; hidden: the numbers of columns to omit; least: minimum widths
    by column; styles: names of :data:`STYLES` by column; with styles the first row, the header, is soft.

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
    """Narrows columns, the widest first, until lines fit, and returns the gap between columns."""
    while sum(widths.values()) + gap * (len(widths) - 1) > width:
        shrinkable = [column for column in widths if widths[column] > shrink.get(column, widths[column])]
        if shrinkable:
            widths[max(shrinkable, key=lambda column: widths[column])] -= 1
        elif gap == 1:
            break
        else:
            gap = 1
    return gap


def _end_of(text: str, width: int) -> str:
    """Shortens a text that is too long to its end."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    first = next(place for place in range(len(text) + 1) if cell_len(text[place:]) < width)
    return "…" + text[first:]


def facts(values: Mapping[str, object]) -> str:
    """Formats names on the left and values on the right; a list takes one line for each item.

    >>> print(facts({"core": True, "isa": "avx2", "native": ["max_pool2d", "avg_pool2d"], "torch_operator": []}))
    core            yes
    isa             avx2
    native          max_pool2d
                    avg_pool2d
    torch operator  none
    """
    rows = []
    for name, value in values.items():
        items = list(value) or ["none"] if isinstance(value, list | tuple) else [value]
        words = [("yes" if item else "no") if isinstance(item, bool) else str(item) for item in items]
        rows += [[name.replace("_", " ") if number == 0 else "", word] for number, word in enumerate(words)]
    return "\n".join(columns(rows, "<<"))


def labelled(
    rows: Sequence[tuple[str, str]], width: int, gap: int = GAP, labels: Sequence[str] | None = None
) -> list[str]:
    """Formats labels in a column, and beside each its text, wrapped to the remaining width. labels: if given, the
    column is as wide as these need.

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
        # Combining marks count as characters, so that no line has more than ``width`` of them.
        marks = " " * (len(label) - cell_len(label))
        first, *more = textwrap.wrap(
            text, width, initial_indent=indent + marks, subsequent_indent=indent, break_on_hyphens=False
        ) or [""]
        cells += [(label, first.strip()), *(("", line.strip()) for line in more)]
    return columns(cells, "<<", gap=gap, least={0: wide})


def beside(blocks: Sequence[Sequence[str]], width: int, gap: int = GAP) -> list[str]:
    """Arranges blocks of lines side by side, as many in a band as fit, with an empty line between bands.

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
    lines: list[str] = []
    for band in bands:
        table = Table.grid(padding=(0, gap, 0, 0), pad_edge=False)
        for block in band:
            table.add_column(width=max(map(cell_len, block)), no_wrap=True)
        table.add_row(*(Text("\n".join(block)) for block in band))
        lines += ["", *_lines(table, sum(max(map(cell_len, block)) + gap for block in band))]
    return lines[1:]


def colored(text: str, name: str) -> str:
    """Colours a text in a style of :data:`STYLES`, by control codes.

    >>> colored("it is wrong", "error")
    '\\x1b[31mit is wrong\\x1b[0m'
    """
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(STYLES[name]).render(text, color_system=ColorSystem.STANDARD)


@cache
def _console() -> Console:
    """A console that ignores the terminal and the environment of the process."""
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
    """Renders with rich, and strips the spaces at the ends of lines."""
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
