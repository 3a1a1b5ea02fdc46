"""PNG: figures of matplotlib as files, and pixels as what a page has in it."""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING, Any

from ..files import write_atomically

if TYPE_CHECKING:
    import numpy as np

__all__ = ["data_uri", "write_png"]


def write_png(figure: Any, path: str | os.PathLike[str], dpi: int) -> None:
    """Draws a figure as PNG, then writes the file, whole or not at all.

    figure: a matplotlib Figure. dpi: pixels per inch of its size. Raises OSError, which names the file, if it cannot be
    written; what stood at ``path`` is then as it was.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    write_atomically(path, drawn.getvalue())


def data_uri(pixels: np.ndarray) -> str:
    """Pixels as the address of an image that lies within the page itself. Needs Pillow.

    pixels: uint8 ``(H, W, channels)`` of one (grey), two (grey, opacity), three (red, green, blue) or four channels.

    >>> import numpy as np
    >>> data_uri(np.zeros((1, 1, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    drawn = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(drawn, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(drawn.getvalue()).decode()
