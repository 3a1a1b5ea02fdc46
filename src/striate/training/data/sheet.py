"""A contact sheet: some training images of each class on one picture."""

from __future__ import annotations

import io

import numpy as np

from ...extras import needs
from .dataset import DataSet

__all__ = ["contact_sheet"]

CELL_PX, GAP_PX, LABEL_PX = 64, 4, 120
MOST_CLASSES = 100
LETTERS = 18  # of a class's name that fit beside its images


def contact_sheet(data: DataSet, columns: int = 8) -> bytes:
    """A PNG with a row for each of the first 100 classes: its name, and its first training images, so many at most.

    Images keep their proportions. Raises DataError for an image that is broken.

    >>> from .spec import open_data
    >>> contact_sheet(open_data("digits"))[:4]
    b'\\x89PNG'
    """
    needs("contact_sheet", "PIL")
    from PIL import Image, ImageDraw

    step, classes, part = CELL_PX + GAP_PX, data.classes[:MOST_CLASSES], data.parts["train"]
    sheet = Image.new("RGB", (LABEL_PX + columns * step + GAP_PX, len(classes) * step + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(classes):
        top = GAP_PX + row * step
        short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
        draw.text((GAP_PX, top + CELL_PX // 2 - 6), short, fill="black")
        for column, index in enumerate((part.labels == row).nonzero().flatten()[:columns].tolist()):
            pixels = part.image(index).expand(3, -1, -1).permute(1, 2, 0)
            image = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
            scale = CELL_PX / max(image.size)
            width, height = (max(1, round(scale * side)) for side in image.size)
            small = image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            left = LABEL_PX + column * step
            sheet.paste(small, (left + (CELL_PX - width) // 2, top + (CELL_PX - height) // 2))
    drawn = io.BytesIO()
    sheet.save(drawn, format="PNG")
    return drawn.getvalue()
