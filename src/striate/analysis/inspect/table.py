"""Formats a report as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ...errors import ArgumentError, build
from ...render.text import colored, columns
from ..lint.group import Group, grouped
from .result import Result
from .words import COLUMNS, about, cells, counted, facts, shares

__all__ = ["bar", "finding_lines", "table"]

LEAST_WIDTH = 40
HIDDEN = (  # the widths below which columns, by number, are omitted
    (124, ()),
    (96, (3,)),
    (80, (3, 6)),
    (72, (3, 6, 7)),
    (60, (1, 3, 6, 7)),
    (LEAST_WIDTH, (1, 2, 3, 4, 6, 7)),
)
SHRINK = {0: 12, 1: 9, 2: 9, 3: 9, 8: 8}  # the columns that may shrink, and their least widths
MARKS = {"error": "✗", "warning": "!", "note": "·"}
BAR = 8


def table(report: Result, width: int = 100, color: bool = False) -> str:
    """Formats the table. Columns that do not fit are omitted, first the weight shapes and the bytes made and kept."""
    if width < LEAST_WIDTH:
        raise ArgumentError(
            build("Report.table", f"a width of at least {LEAST_WIDTH}", width, hint="Leave it out for 100.")
        )
    hidden = next(left_out for least, left_out in HIDDEN if width >= least)
    rows = [list(COLUMNS)]
    rows += [[*cells(layer), bar(share)] for layer, share in zip(report.layers, shares(report), strict=True)]
    lines = columns(rows, "<<<<>>>>><", width, SHRINK, hidden, styles={len(COLUMNS) - 1: "bar"} if color else None)
    shown = (name for place, name in enumerate(COLUMNS) if place not in hidden)
    parts = [*_wrapped([*facts(report), *report.notes], width), "", *lines, "", *_wrapped([about(shown)], width)]
    groups = grouped(report.findings)
    parts += ["", counted(groups)] if groups else []
    return "\n".join([*parts, *finding_lines(groups, width, color)])


def finding_lines(groups: Sequence[Group], width: int, color: bool = False) -> list[str]:
    """Formats findings: rule and places with a mark for the severity, and below it what is wrong and how to mend it."""
    lines = []
    for group in groups:
        mark = MARKS[group.severity]
        first, *more = _indented(f"{mark} {group.rule}: {group.places}{group.scope}", width)
        lines += [colored(mark, group.severity) + first[len(mark) :] if color else first, *more]
        lines += _indented(f"  {group.message}", width)
    return lines


def bar(share: float, width: int = BAR) -> str:
    """Draws a bar with a resolution of an eighth of a character.

    >>> bar(0.5, 4), bar(0.03, 4), bar(0.0, 4)
    ('██', '▏', '')
    """
    eighths = round(share * width * 8) if share < 0.005 else max(1, round(share * width * 8))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _indented(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line])]
