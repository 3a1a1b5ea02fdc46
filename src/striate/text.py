"""Tables and numbers as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["columns", "cut", "joined", "short", "sizes"]


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


def joined(names: Sequence[str]) -> list[str]:
    """Names in fewer: those that differ in one number or word are one, with all of these.

    >>> joined(["stem.0", "layer1.0.conv", "layer1.1.conv", "layer1.3.conv", "layer2.0.conv"])
    ['stem.0', 'layer1.{0,1,3}.conv', 'layer2.0.conv']
    >>> joined([f"stages.{stage}.{block}.{name}" for stage in (0, 2) for block in range(12) for name in ("query", "key")])
    ['stages.{0,2}.{0-11}.{query,key}']
    """
    # what may differ, and what is joined already, comes at the odd places
    for pattern in (r"(\{.*?\}|\d+)", r"(\{.*?\}|[^.{}]+)"):
        while len(fewer := _joined(names, pattern)) < len(names):
            names = fewer
    return list(names)


def _joined(names: Sequence[str], pattern: str) -> list[str]:
    """The same at one place, that where it makes them fewest."""
    split = [re.split(pattern, name) for name in names]

    def at(place: int) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = {}
        for parts in split:
            joins = place < len(parts) and not parts[place].startswith("{")
            differ = found.setdefault((*parts[:place], "", *parts[place + 1 :]) if joins else tuple(parts), [])
            differ += parts[place : place + 1] if joins else []
        return found

    places = range(1, max(map(len, split), default=1), 2)
    place = min(places, key=lambda place: len(at(place)), default=1)
    told = []
    for parts, differ in at(place).items():
        one = differ[0] if len(differ) == 1 else f"{{{_runs(differ)}}}"
        told.append("".join((*parts[:place], one, *parts[place + 1 :])) if differ else "".join(parts))
    return told


def _runs(parts: Sequence[str]) -> str:
    """With commas between; of three numbers in a row and more the first and the last."""
    if not all(part.isdigit() for part in parts):
        return ",".join(parts)
    runs: list[list[int]] = []
    for number in sorted(map(int, parts)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def cut(text: str, width: int, end: bool) -> str:
    """Its beginning if it is too long, or its end, where paths differ."""
    if len(text) <= width:
        return text
    return "…" + text[len(text) - width + 1 :] if end else text[: width - 1] + "…"


def columns(
    rows: list[list[str]], sides: str, width: int, shrink: Mapping[int, int], hidden: Sequence[int] = ()
) -> list[str]:
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
