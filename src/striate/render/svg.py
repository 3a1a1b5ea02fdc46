"""Numbers of drawings: boxes and lines, as SVG's attributes say them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Box", "grid", "number", "view_box"]

MARGIN = 1 / 50  # around a drawing, of its longer side


class Box(NamedTuple):
    """A rectangle: its edges, in units of the drawing."""

    top: float
    bottom: float
    left: float
    right: float


def number(value: float) -> str:
    """In six digits at most.

    >>> number(2 / 3), number(112.0)
    ('0.666667', '112')
    """
    return f"{value:.6g}"


def view_box(boxes: Sequence[Box]) -> str:
    """The part of the plane that holds all boxes, and a margin.

    >>> view_box([Box(0.0, 50.0, 0.0, 100.0)])
    '-2 -2 104 54'
    """
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    high, wide = max(box.bottom for box in boxes) - top, max(box.right for box in boxes) - left
    margin = MARGIN * max(high, wide)
    return f"{left - margin:g} {top - margin:g} {wide + 2 * margin:g} {high + 2 * margin:g}"


def grid(height: int, width: int) -> str:
    """A path along the edges between the pixels of an image.

    >>> grid(2, 3)
    'M1 0V2M2 0V2M0 1H3'
    """
    return "".join([f"M{x} 0V{height}" for x in range(1, width)] + [f"M0 {y}H{width}" for y in range(1, height)])
