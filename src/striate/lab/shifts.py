"""Images somewhere on a larger, empty one."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = ["centred", "scattered", "shifted"]

MARGIN = 4  # [px] around a centred image
FARTHEST = 2  # [px] that an image is shifted: what windows see of it then still ends before the edge


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """The images with 4 pixels of background around them, shifted by so many pixels, 2 at most.

    The least value becomes the background's and 0, which is what convolutions pad with: where the larger image ends,
    there is no edge.

    Shapes: images ``(N, C, H, W)``, returned ``(N, C, H + 8, W + 8)``.

    >>> shifted(torch.tensor([[[[1.0, 3.0]]]]), 1, -2)[0, 0].tolist()[5]
    [0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    edges = (MARGIN + right, MARGIN - right, MARGIN + down, MARGIN - down)
    return torch.nn.functional.pad(images - images.min(), edges)


def centred(images: Tensor) -> Tensor:
    """The images with 4 pixels of background on each side, see :func:`shifted`."""
    return shifted(images, 0, 0)


def scattered(images: Tensor, seed: int) -> Tensor:
    """The images, each with a shift of its own, drawn by the seed, see :func:`shifted`.

    >>> x = scattered(torch.rand(100, 1, 8, 8) + 1, seed=0)
    >>> x.shape, len((x[:, 0] > 0).any(2).int().argmax(1).unique())
    (torch.Size([100, 1, 16, 16]), 5)
    """
    random = torch.Generator().manual_seed(seed)
    shifts = list(product(range(-FARTHEST, FARTHEST + 1), repeat=2))
    chosen = torch.randint(len(shifts), (len(images),), generator=random)
    canvas = centred(images)
    for number, shift in enumerate(shifts):
        canvas[chosen == number] = shifted(images, *shift)[chosen == number]
    return canvas
