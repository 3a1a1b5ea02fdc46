"""Line charts as SVG: paths in a box of 100 × 100 units, which the page stretches, and ticks in percent of the box.

The page sets ticks as text, so that letters and lines keep their size at any width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

__all__ = ["Chart", "Line", "Points", "Scale", "Tick", "chart", "dots", "path", "scale_of", "ticks"]

Points = Sequence[tuple[float, float | None]]
SIDE = 100  # units of the box


class Scale(NamedTuple):
    """An axis from low to high; logarithmic if so said, with low above 0.

    >>> Scale(0.0, 4.0).share(1.0), Scale(0.01, 100.0, True).share(1.0)
    (0.25, 0.5)
    """

    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """The position of a value, 0 at the low end and 1 at the high one; values beyond an end are put on it."""
        value = min(self.high, max(self.low, value))
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Tick(NamedTuple):
    """A labelled position on an axis, in percent from its low end."""

    at: str
    label: str


class Line(NamedTuple):
    """A line of a chart: its name, the number of its colour, its path, and a path of dots at its points."""

    name: str
    colour: int
    path: str
    dots: str


class Chart(NamedTuple):
    """What the macro ``chart`` of ``render/templates/parts.html`` draws."""

    title: str
    lines: list[Line]
    x: list[Tick]
    y: list[Tick]
    x_name: str


def chart(
    title: str, lines: Sequence[tuple[str, int, Points]], *, x_name: str, y: Scale | None = None, unit: str = ""
) -> Chart:
    """A chart of lines over whole numbers.

    lines: name, number of the colour, and points (x, y), where a y of None makes a gap; y: its scale, by default from 0
    on; unit: what follows the numbers at that axis.

    >>> made = chart("Loss", [("training", 0, [(1, 2.0), (2, 1.0)])], x_name="epoch")
    >>> made.lines[0].path, [tick.label for tick in made.y], [tick.label for tick in made.x]
    ('M0 0L100 50', ['0', '0.5', '1', '1.5', '2'], ['1', '2'])
    """
    points = [(at, value) for _, _, given in lines for at, value in given if _is_number(value)]
    first, last = min((at for at, _ in points), default=0.0), max((at for at, _ in points), default=1.0)
    x = Scale(first, last) if first < last else Scale(first - 1, last + 1)
    if y is None:
        y = scale_of([value for _, value in points], from_zero=True)
    return Chart(
        title,
        [Line(name, colour, path(given, x, y), dots(given, x, y)) for name, colour, given in lines],
        [tick for tick in ticks(x) if float(tick.label).is_integer()],
        [Tick(at, f"{label}{unit}") for at, label in ticks(y)],
        x_name,
    )


def scale_of(values: Sequence[float | None], *, is_log: bool = False, from_zero: bool = False) -> Scale:
    """A scale that holds all values that are numbers; on a logarithmic one those above 0, between powers of ten.

    >>> scale_of([0.02, 3.0, None], is_log=True), scale_of([])
    (Scale(low=0.01, high=10.0, is_log=True), Scale(low=0.0, high=1.0, is_log=False))
    """
    known = [value for value in values if _is_number(value) and (value > 0 or not is_log)]
    if not known:
        return Scale(0.1, 1.0, True) if is_log else Scale(0.0, 1.0)
    low, high = min(known), max(known)
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return Scale(10.0**first, 10.0 ** max(last, first + 1), True)
    low = min(0.0, low) if from_zero else low
    return Scale(low, high) if low < high else Scale(low, low + 1)


def ticks(scale: Scale, most: int = 5) -> list[Tick]:
    """Positions at round numbers, ``most`` or fewer: whole multiples of 1, 2 or 5 times a power of ten, or of a whole
    power of ten on a logarithmic scale.

    >>> [tick.label for tick in ticks(Scale(0.0, 0.7))], [tick.label for tick in ticks(Scale(1e-4, 0.1, True))]
    (['0', '0.2', '0.4', '0.6'], ['0.0001', '0.001', '0.01', '0.1'])
    """
    if scale.is_log:
        first, last = round(math.log10(scale.low)), round(math.log10(scale.high))
        step = -(-(last - first + 1) // most)
        return [_tick(scale, 10.0**power) for power in range(first, last + 1, step)]
    power = 10.0 ** math.floor(math.log10(scale.high - scale.low)) / 10
    step_of = (factor * power for factor in (1, 2, 5, 10, 20, 50))
    slack = 1e-9 * (scale.high - scale.low)
    for size in step_of:
        first, last = math.ceil((scale.low - slack) / size), math.floor((scale.high + slack) / size)
        if last - first < most:
            return [_tick(scale, round(number * size, 12)) for number in range(first, last + 1)]
    raise AssertionError


def _tick(scale: Scale, value: float) -> Tick:
    return Tick(f"{100 * scale.share(value):.2f}", f"{value:g}")


def path(points: Points, x: Scale, y: Scale) -> str:
    """The path through points, in units of the box; a value that is no number leaves a gap.

    >>> path([(0, 1.0), (1, None), (2, 0.5), (4, 0.0)], Scale(0, 4), Scale(0, 1))
    'M0 0M50 50L100 100'
    """
    parts, draws = [], False
    for at, value in points:
        if _is_number(value):
            parts.append(f"{'L' if draws else 'M'}{_place(at, value, x, y)}")
        draws = _is_number(value)
    return "".join(parts)


def dots(points: Points, x: Scale, y: Scale) -> str:
    """A path of no length at each point, which round line caps make a dot."""
    return "".join(f"M{_place(at, value, x, y)}h0" for at, value in points if _is_number(value))


def _place(at: float, value: float, x: Scale, y: Scale) -> str:
    return f"{round(SIDE * x.share(at), 2):g} {round(SIDE * (1 - y.share(value)), 2):g}"


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
