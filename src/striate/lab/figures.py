"""The figure of a result: what its claim draws, or the numbers of each seed beside the criterion's limits."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..extras import needs
from ..render.figure import BLUE, ORANGE, blank, plain, svg_text
from .claim import Claim
from .verdict import Result

__all__ = ["dots", "limits", "picture"]

WIDTH_IN, HEIGHT_IN = 4.8, 2.6  # as wide as a telephone shows with letters of 9 points
ROW_IN, AXIS_IN = 0.34, 0.75  # of the default figure: a row for each statistic, and the axis below
WIDE = 30.0  # a largest number of so many times the least one is drawn on a logarithmic scale


def picture(result: Result) -> str | None:
    """The figure of a result as SVG; None if no trial measured anything. Needs matplotlib.

    Raises DependencyError where that is missing.
    """
    needs("lab", "matplotlib")
    claim = result.claim
    seeds = [{**outcome.values, **outcome.kept} for outcome in result.outcomes if outcome.error is None]
    if not seeds:
        return None
    height = HEIGHT_IN if claim.figure is not None else AXIS_IN + ROW_IN * len(claim.statistics)
    figure = blank(WIDTH_IN, height)
    axes = figure.subplots()
    plain(axes)
    if claim.figure is not None:
        claim.figure(axes, seeds)
    else:
        dots(axes, seeds, claim)
    return svg_text(figure)


def dots(axes: Any, seeds: Sequence[Mapping[str, Any]], claim: Claim) -> None:
    """Draws a row of dots for each statistic, a dot a seed, and the numbers that the criterion sets it against as bars
    across its row.
    """
    bounds = limits(claim.criterion)
    names = list(claim.statistics)
    shown = [value for name in names for value in (*(seed[name] for seed in seeds), *bounds.get(name, ()))]
    finite = [value for value in shown if math.isfinite(value)]
    for row, name in enumerate(names):
        values = [seed[name] for seed in seeds]
        axes.plot(values, [row] * len(values), "o", color=BLUE, alpha=0.6, markersize=6, markeredgewidth=0)
        for bound in bounds.get(name, ()):
            axes.plot([bound, bound], [row - 0.36, row + 0.36], color=ORANGE, linewidth=2)
    if finite and min(finite) > 0 and max(finite) > WIDE * min(finite):
        axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def limits(criterion: str) -> dict[str, list[float]]:
    """The numbers that a criterion compares each statistic with directly.

    >>> limits("0.2 < plain <= 0.3 and batch_norm > 2 * plain and abs(drift) < 1e-6")
    {'plain': [0.2, 0.3]}
    """
    found: dict[str, list[float]] = {}
    for node in ast.walk(ast.parse(criterion, mode="eval")):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        for pair in pairwise(sides):
            for name, number in (pair, pair[::-1]):
                value = number.value if isinstance(number, ast.Constant) else None
                if isinstance(name, ast.Name) and isinstance(value, int | float):
                    found.setdefault(name.id, []).append(float(value))
    return found
