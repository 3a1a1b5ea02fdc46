"""Images somewhere on a larger, empty one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SHIFTS", "centred", "scattered", "shifted"]

MARGIN = 2  # [px] around a centred image: as far as it can be shifted
SHIFTS = [
    (down, right)
    for down in range(-MARGIN, MARGIN + 1)
    for right in range(-MARGIN, MARGIN + 1)
    if (down, right) != (0, 0)
]


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """The images with 2 pixels of background around them, shifted by so many pixels, 2 at most.

    The least value becomes the background's and 0, which is what convolutions pad with: where the larger image ends,
    there is no edge.

    Shapes: images ``(N, C, H, W)``, returned ``(N, C, H + 4, W + 4)``.

    >>> shifted(torch.tensor([[[[1.0, 3.0]]]]), 1, -2)[0, 0].tolist()[3]
    [0.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    """
    edges = (MARGIN + right, MARGIN - right, MARGIN + down, MARGIN - down)
    return torch.nn.functional.pad(images - images.min(), edges)


def centred(images: Tensor) -> Tensor:
    """The images with 2 pixels of background on each side, see :func:`shifted`."""
    return shifted(images, 0, 0)


def scattered(images: Tensor, seed: int) -> Tensor:
    """The images, each with a shift of its own, drawn by the seed, see :func:`shifted`.

    >>> x = scattered(torch.rand(100, 1, 8, 8) + 1, seed=0)
    >>> x.shape, len((x[:, 0] > 0).any(2).int().argmax(1).unique())
    (torch.Size([100, 1, 12, 12]), 5)
    """
    random = torch.Generator().manual_seed(seed)
    shifts = [(0, 0), *SHIFTS]
    chosen = torch.randint(len(shifts), (len(images),), generator=random)
    canvas = centred(images)
    for number, shift in enumerate(shifts):
        canvas[chosen == number] = shifted(images, *shift)[chosen == number]
    return canvas
