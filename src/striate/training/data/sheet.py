"""A contact sheet: some training images of each class on one picture, as they are or as training sees them."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from ...extras import needs
from .augmentation import Augmentation
from .dataset import DataSet
from .preprocess import Preprocessing

__all__ = ["contact_sheet"]

CELL_PX, GAP_PX, LABEL_PX = 64, 4, 120
MOST_CLASSES = 100
LETTERS = 18  # of a class's name that fit beside its images


def contact_sheet(
    data: DataSet, columns: int = 8, augmentation: Augmentation | None = None, seed: int = 0
) -> bytes:
    """A PNG with a row for each of the first 100 classes: its name, and its first training images, so many at most.

    With an augmentation a row has the first image alone: as it is, then as it comes in the epochs from 0 on, by the
    seed; where images are mixed, the next one is that of the next class. Images keep their proportions.

    Raises DataError for an image that is broken, and ArgumentError for an augmentation that is too large for them.

    >>> from .spec import open_data
    >>> contact_sheet(open_data("digits"))[:4]
    b'\\x89PNG'
    """
    needs("contact_sheet", "PIL")
    from PIL import Image, ImageDraw

    step, classes, part = CELL_PX + GAP_PX, data.classes[:MOST_CLASSES], data.parts["train"]
    sheet = Image.new("RGB", (LABEL_PX + columns * step + GAP_PX, len(classes) * step + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    if augmentation is not None:
        augmented = _augmented(data, columns, augmentation, seed)
    for row, name in enumerate(classes):
        top = GAP_PX + row * step
        short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
        draw.text((GAP_PX, top + CELL_PX // 2 - 6), short, fill="black")
        if augmentation is not None:
            cells = augmented.get(row, [])
        else:
            cells = [part.image(index) for index in (part.labels == row).nonzero().flatten()[:columns].tolist()]
        for column, pixels in enumerate(cells):
            image = Image.fromarray(np.ascontiguousarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()))
            scale = CELL_PX / max(image.size)
            width, height = (max(1, round(scale * side)) for side in image.size)
            small = image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            left = LABEL_PX + column * step
            sheet.paste(small, (left + (CELL_PX - width) // 2, top + (CELL_PX - height) // 2))
    drawn = io.BytesIO()
    sheet.save(drawn, format="PNG")
    return drawn.getvalue()


def _augmented(data: DataSet, columns: int, augmentation: Augmentation, seed: int) -> dict[int, list[Tensor]]:
    """The images of each class that has one, uint8 ``(C, H, W)``: the first as it is, and in some epochs."""
    part = data.parts["train"]
    rows = [row for row in part.labels.unique().tolist() if row < MOST_CLASSES]
    firsts = torch.tensor([int((part.labels == row).nonzero()[0]) for row in rows])
    prepare = Preprocessing.of(part, seed=seed)
    pixels, labels = prepare.pixels(part, firsts), part.labels[firsts]
    shown = [pixels]
    for epoch in range(columns - 1):
        mean, classes = prepare.mean, len(data.classes)
        images, _ = augmentation(pixels, labels, firsts, seed, epoch, mean=mean, classes=classes)
        shown.append(images if images.dtype == torch.uint8 else (255 * images).round().to(torch.uint8))
    return {row: [images[place] for images in shown] for place, row in enumerate(rows)}
