"""Abbreviates lists of layer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["joined"]


def joined(names: Sequence[str]) -> list[str]:
    """Merges names that differ in one number or word into one, with all of these in braces.

    >>> joined(["stem.0", "layer1.0.conv", "layer1.1.conv", "layer1.3.conv", "layer2.0.conv"])
    ['stem.0', 'layer1.{0,1,3}.conv', 'layer2.0.conv']
    >>> joined([f"stages.{stage}.{block}.{name}" for stage in (0, 2) for block in range(12) for name in "qk"])
    ['stages.{0,2}.{0-11}.{q,k}']
    """
    # re.split puts the parts that match, which may differ or are merged already, at odd positions.
    for pattern in (r"(\{.*?\}|\d+)", r"(\{.*?\}|[^.{}]+)"):
        while len(fewer := _joined(names, pattern)) < len(names):
            names = fewer
    return list(names)


def _joined(names: Sequence[str], pattern: str) -> list[str]:
    """Merges names at one position, the one that leaves the fewest names."""
    split = [re.split(pattern, name) for name in names]

    def at(position: int) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = {}
        for parts in split:
            joins = position < len(parts) and not parts[position].startswith("{")
            differ = found.setdefault((*parts[:position], "", *parts[position + 1 :]) if joins else tuple(parts), [])
            differ += parts[position : position + 1] if joins else []
        return found

    positions = range(1, max(map(len, split), default=1), 2)
    position = min(positions, key=lambda position: len(at(position)), default=1)
    merged = []
    for parts, differ in at(position).items():
        one = differ[0] if len(differ) == 1 else f"{{{_runs(differ)}}}"
        merged.append("".join((*parts[:position], one, *parts[position + 1 :])) if differ else "".join(parts))
    return merged


def _runs(parts: Sequence[str]) -> str:
    """Joins parts by commas, and shortens runs of three or more consecutive numbers to the first and last."""
    if not all(part.isdigit() for part in parts):
        return ",".join(parts)
    runs: list[list[int]] = []
    for number in sorted(map(int, parts)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
