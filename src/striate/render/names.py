"""Many names of layers in few words."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["joined"]


def joined(names: Sequence[str]) -> list[str]:
    """Names in fewer: those that differ in one number or word are one, with all of these.

    >>> joined(["stem.0", "layer1.0.conv", "layer1.1.conv", "layer1.3.conv", "layer2.0.conv"])
    ['stem.0', 'layer1.{0,1,3}.conv', 'layer2.0.conv']
    >>> joined([f"stages.{stage}.{block}.{name}" for stage in (0, 2) for block in range(12) for name in "qk"])
    ['stages.{0,2}.{0-11}.{q,k}']
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
