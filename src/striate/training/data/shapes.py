"""``shapes``: generated images in which the class is the shape: disk, square, triangle, cross and ring.

Position, size, colours and what hides a part of the shape are random, by the seed. The box of each shape is known, so
the images serve to localise too. Everything is computed in whole numbers: a seed gives the same images anywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, build
from .dataset import DataSet, Part, Request, check_seed

__all__ = ["SHAPES", "make_shapes", "read"]

SHAPES = ("disk", "square", "triangle", "cross", "ring")
TRAIN, TEST = 2000, 500
CHUNK = 256  # images made at once: 32×32 pixels of them in int64 take 2 MB
NOISE = 16  # steps of 255 between pixels of one colour


def read(request: Request) -> DataSet:
    """2,000 images for training and 500 for testing, of 32×32 pixels in colour."""
    images, labels, boxes = make_shapes(TRAIN + TEST, seed=request.seed)
    whole = Part(images, labels, boxes)
    parts = {"train": whole.take(torch.arange(TRAIN)), "test": whole.take(torch.arange(TRAIN, TRAIN + TEST))}
    return DataSet(request.kind, SHAPES, parts)


def make_shapes(count: int, size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Makes images of one shape each; the classes take turns.

    The radius of a shape is a sixth to a third of the image; a bar of another colour hides up to a third of it in
    half of the images. count: from 1 on; size: height and width, 16 to 1024; seed: 0 to 2³²-1.

    Returns images, uint8 ``(N, 3, size, size)``; labels, int64 ``(N,)``, indices of :data:`SHAPES`; boxes, int64
    ``(N, 4)``: first row, first column, last row and last column of the shape, hidden or not.

    Raises DataError for other arguments.

    >>> images, labels, boxes = make_shapes(6)
    >>> images.shape, [SHAPES[label] for label in labels]
    (torch.Size([6, 3, 32, 32]), ['disk', 'square', 'triangle', 'cross', 'ring', 'disk'])
    """
    check_seed("shapes", seed)
    for name, value, least, most in (("count", count, 1, 2**24), ("size", size, 16, 1024)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            expects = f"a {name} from {least} to {most}"
            raise DataError(build("shapes", expects, repr(value), hint="Use make_shapes(2500) for images of 32×32."))
    random = np.random.RandomState(seed)  # its stream is the same in every NumPy
    chunks = [_chunk(random, np.arange(first, min(first + CHUNK, count)), size) for first in range(0, count, CHUNK)]
    images, boxes = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*chunks, strict=True))
    return images, torch.arange(count) % len(SHAPES), boxes


def _chunk(random: np.random.RandomState, indices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    count = len(indices)
    radius = random.randint(size // 6, size // 3 + 1, (count, 1, 1))
    row, column = (radius + random.randint(0, 2**16, (count, 1, 1)) * (size - 2 * radius) // 2**16 for _ in range(2))
    down = np.arange(size)[:, None] - row
    right = np.arange(size) - column
    u, v = np.abs(right), np.abs(down)
    far = u * u + v * v
    kinds = np.stack([
        far <= radius * radius,
        np.maximum(u, v) <= 7 * radius // 8,
        (v <= radius) & (2 * u <= down + radius),
        (np.minimum(u, v) <= radius // 4) & (np.maximum(u, v) <= radius),
        (far <= radius * radius) & (4 * far >= radius * radius),
    ])  # fmt: skip
    shape = kinds[indices % len(SHAPES), np.arange(count)]
    rows, columns = shape.any(2), shape.any(1)
    first = [seen.argmax(1) for seen in (rows, columns)]
    last = [size - 1 - seen[:, ::-1].argmax(1) for seen in (rows, columns)]
    boxes = np.stack([*first, *last], axis=1)

    # A bar from one edge of the image, over up to a third of the shape's width; half of the images have none.
    hidden = random.randint(0, 2, (count, 1, 1)) * random.randint(1, 2**16, (count, 1, 1)) * (2 * radius) // 3 // 2**16
    is_across = random.randint(0, 2, (count, 1, 1)) > 0
    bar = (np.where(is_across, down + 0 * right, right + 0 * down) + radius < hidden) & (hidden > 0)
    back, front, cover = (random.randint(low, high, (count, 3, 1, 1)) for low, high in ((0, 96), (140, 240), (0, 240)))
    image = np.where(bar[:, None], cover, np.where(shape[:, None], front, back))
    image = image + random.randint(0, NOISE, (count, 3, size, size))
    return image.astype(np.uint8), boxes
