"""Formats boxes and lines of drawings as attributes of SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Box", "grid", "number", "view_box"]

MARGIN = 1 / 50  # margin around a drawing, as a fraction of its longer side


class Box(NamedTuple):
    """A rectangle, by its edges in units of the drawing."""

    top: float
    bottom: float
    left: float
    right: float


def number(value: float) -> str:
    """Formats a number with six digits at most.

    >>> number(2 / 3), number(112.0)
    ('0.666667', '112')
    """
    return f"{value:.6g}"


def view_box(boxes: Sequence[Box]) -> str:
    """The viewBox that contains all boxes, with a margin.

    >>> view_box([Box(0.0, 50.0, 0.0, 100.0)])
    '-2 -2 104 54'
    """
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    high, wide = max(box.bottom for box in boxes) - top, max(box.right for box in boxes) - left
    margin = MARGIN * max(high, wide)
    return f"{left - margin:g} {top - margin:g} {wide + 2 * margin:g} {high + 2 * margin:g}"


def grid(height: int, width: int) -> str:
    """The path of the lines between the pixels of an image.

    >>> grid(2, 3)
    'M1 0V2M2 0V2M0 1H3'
    """
    return "".join([f"M{x} 0V{height}" for x in range(1, width)] + [f"M0 {y}H{width}" for y in range(1, height)])
