"""Figures of matplotlib as files."""

from __future__ import annotations

import io
import os
from typing import Any

from ..files import write_atomically

__all__ = ["write_png"]


def write_png(figure: Any, path: str | os.PathLike[str], dpi: int) -> None:
    """Draws a figure as PNG, then writes the file, whole or not at all.

    figure: a matplotlib Figure. dpi: pixels per inch of its size. Raises OSError, which names the file, if it cannot be
    written; what stood at ``path`` is then as it was.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    write_atomically(path, drawn.getvalue())
