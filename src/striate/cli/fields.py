"""Formats receptive fields as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ..errors import ArgumentError, build

if TYPE_CHECKING:
    from ..analysis.inspect.report import Report

__all__ = ["print_verified", "seen", "unit_of"]

AXES = {1: ("places",), 2: ("rows", "columns"), 3: ("planes", "rows", "columns")}


def unit_of(text: str | None) -> tuple[int, ...] | None:
    """Parses ``3,4`` to its numbers."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        hint = "Write as 3,4, counted from 0."
        raise ArgumentError(build("inspect", "--unit to be whole numbers with commas between", repr(text), hint=hint))
    return tuple(map(int, parts))


def seen(report: Report, layer: str, unit: tuple[int, ...] | None) -> list[str]:
    """Describes the receptive field of a unit of a layer, by default the middle one, in each input."""
    from ..render.text import columns

    output = report.layer(layer).output_shape
    position = unit if unit is not None else tuple(output[axis] // 2 for axis in report.unit_axes(layer))
    lines = []
    for number, shape in enumerate(report.input_shapes):
        found = report.receptive_field(layer, position, number)
        if len(found.taps) in AXES:
            most = "" if found.exact and found.status != "upper bound" else " at most"
            of = f" of input {number + 1}" if len(report.input_shapes) > 1 else ""
            lines += ["", f"{layer}{_of_unit(position)} sees{most}{of}"]
            axes = zip(AXES[len(found.taps)], shape[2:], found.taps, strict=True)
            rows = [(f"  {name}", f"{_runs(taps)}: {len(taps)} of {size}") for name, size, taps in axes]
            lines += columns(rows, "<<", least={0: 9})
    if not lines:
        shapes = ", ".join(map(str, report.input_shapes))
        expects = "an input with axes behind batch and channels"
        raise ArgumentError(build("inspect", expects, shapes, hint="Leave --field out."))
    return lines


def print_verified(report: Report, stream: TextIO) -> bool:
    """Compares all receptive fields with the model, prints those that differ, and returns whether none does."""
    from contextlib import redirect_stdout
    from sys import stderr

    from ..diagnostics.fields import verify

    with redirect_stdout(stderr):
        checked = verify(report)
    wrong = [one for one in checked if not one.holds]
    print(f"\nfields compared with the model: {len(checked) - len(wrong)} of {len(checked)} layers hold", file=stream)
    for one in wrong:
        expected, measured = ("; ".join(map(_runs, taps)) for taps in (one.expected, one.measured))
        print(f"  {one.layer}{_of_unit(one.unit)} sees {measured}, where the report has {expected}", file=stream)
    return not wrong


def _of_unit(unit: Sequence[int]) -> str:
    return f", unit {','.join(map(str, unit))}," if unit else ""


def _runs(positions: Sequence[int]) -> str:
    """Formats sorted integers, with consecutive ones as a range.

    >>> _runs((0, 1, 2, 5, 7, 8)), _runs(())
    ('0 to 2, 5, 7 to 8', 'none')
    """
    starts = [k for k in range(len(positions)) if k == 0 or positions[k] != positions[k - 1] + 1]
    runs = [(positions[a], positions[b - 1]) for a, b in zip(starts, [*starts[1:], len(positions)], strict=False)]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs) or "none"
