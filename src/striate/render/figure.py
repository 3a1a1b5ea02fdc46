"""Figures of matplotlib in one style: a white ground, quiet axes, and colours that everybody can tell apart."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["BLUE", "GREY", "INK", "LIGHT", "ORANGE", "RUN_COLORS", "blank", "plain", "svg_text"]

INK, GREY, LIGHT = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE = "#1f6fb4", "#d9661f"  # distinct in every common colour blindness, and by lightness in print
RUN_COLORS = ("#1f6fb4", "#d9661f", "#2e8b57", "#8d5fd3", "#c2185b", "#7d6400", "#00838f", "#5d4037")


def blank(width_in: float, height_in: float, pad_in: float = 0.12) -> Any:
    """An empty figure of this size in inches, whose layout keeps ``pad_in`` between its parts. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=pad_in, h_pad=pad_in)
    figure = Figure(figsize=(width_in, height_in), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Any) -> None:
    """Leaves of the axes two grey lines, ticks, and thin lines across."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)


def svg_text(figure: Any) -> str:
    """A figure as SVG that a page can have in it: letters stay text, and the same figure gives the same text.

    >>> text = svg_text(blank(1.0, 1.0))
    >>> text[:4], text == svg_text(blank(1.0, 1.0))
    ('<svg', True)
    """
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "striate", "svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
