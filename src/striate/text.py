"""Tables and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["columns", "cut", "short", "sizes"]


def sizes(shape: Sequence[int]) -> str:
    """A shape as it is spoken.

    >>> sizes((16, 3, 112, 112))
    '16×3×112×112'
    """
    return "×".join(map(str, shape))


def short(number: float) -> str:
    """A number in three digits and the letter of its thousands.

    >>> [short(n) for n in (0, 999, 1234, 768000, 1814073344)]
    ['0', '999', '1.23k', '768k', '1.81G']
    """
    for letter in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5 or letter == "T":
            return f"{number:.0f}" if not letter else f"{number:.3g}{letter}"
        number /= 1000
    raise AssertionError


def cut(text: str, width: int, end: bool) -> str:
    """Its beginning if it is too long, or its end, where paths differ."""
    if len(text) <= width:
        return text
    return "…" + text[len(text) - width + 1 :] if end else text[: width - 1] + "…"


def columns(rows: list[list[str]], sides: str, width: int, shrink: Mapping[int, int], hidden: Sequence[int] = ()) -> list[str]:
    """Rows in columns two apart, the first a header. Those of ``shrink`` give way until lines fit, down to its numbers.

    sides: for each column ``<`` or ``>``.

    >>> print("\\n".join(columns([["layer", "ms"], ["features.0", "1.25"]], "<>", 12, {0: 6})))
    layer     ms
    …res.0  1.25
    """
    kept = [column for column in range(len(sides)) if column not in hidden]
    wide = [max(len(row[column]) for row in rows) for column in range(len(sides))]

    def over(gap: int) -> int:
        return sum(wide[column] for column in kept) + gap * (len(kept) - 1) - width

    gap = 2
    while over(gap) > 0:
        able = [column for column in shrink if column in kept and wide[column] > shrink[column]]
        if not able:
            if gap == 1:
                break
            gap = 1
            continue
        wide[max(able, key=lambda column: wide[column])] -= 1
    lines = []
    for row in rows:
        cells = (f"{cut(row[column], wide[column], column == 0):{sides[column]}{wide[column]}}" for column in kept)
        lines.append((" " * gap).join(cells).rstrip())
    return lines
