"""Changes that training images get anew in each epoch, computed for a whole batch at once.

What an image gets depends on (seed, epoch, index of the image) alone, see :mod:`.draws`: the same in a batch of any
composition. With mixup and cutmix the other half comes from the next image of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, build
from .draws import uniform

__all__ = ["Augmentation"]

# The numbers of the draws. Each change has its own, so that switching one on leaves the others as they are.
SHIFT, FLIP, REGION, ANGLE, COLOURS, HOLE, MIX, BOX = (
    range(0, 2), range(2, 3), range(3, 8), range(8, 9), range(9, 12), range(12, 14), range(14, 15), range(15, 17),
)  # fmt: skip
FIRST = range(17)  # all of these
SHARES = range(50, 82)  # pairs of draws 2k and 2k + 1, of which the first that fits gives the share of a mixture
FLATTEST = 4 / 3  # ratio of the sides of a resized crop, and its inverse
GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    r"""Random changes of training images, in this order; each is off by default.

    - resized_crop: a rectangle that has from this share of the image's area up to all of it, with sides in a ratio of
      3:4 to 4:3, is resized to the whole image (Szegedy et al., "Going Deeper with Convolutions", 2015);
    - rotate: turned by up to so many degrees, either way;
    - crop: shifted by up to so many pixels on each axis; as if cut from an image with so much black padding;
    - flip: mirrored left to right, half of the images;
    - jitter: brightness, contrast about ``mean``, and with three channels saturation, each times 1-jitter to 1+jitter;
    - cutout: a square of so many pixels of side, somewhere, becomes ``mean`` (DeVries, Taylor, "Improved Regularization
      of Convolutional Neural Networks with Cutout", 2017);
    - mixup: :math:`λ·x_i + (1-λ)·x_{i+1}`, with targets mixed alike and λ from Beta(mixup, mixup) (Zhang et al.,
      "mixup", 2018);
    - cutmix: a rectangle of 1-λ of the image comes from the next image, λ from Beta(cutmix, cutmix), targets by the
      areas (Yun et al., "CutMix", 2019). With mixup too, each image gets one of both, at random.

    The changes of place before the first colour are one step: shift and flip alone move pixels without changing them,
    with a resized crop or a rotation the image is sampled once (bilinear). What comes from outside the image is black.

    Raises ArgumentError for a number out of range.

    >>> images = torch.arange(18, dtype=torch.uint8).reshape(2, 1, 3, 3)
    >>> both, targets = Augmentation(crop=1, flip=True)(images, torch.tensor([4, 5]), torch.tensor([7, 8]), 0, 1)
    >>> second, _ = Augmentation(crop=1, flip=True)(images[1:], torch.tensor([5]), torch.tensor([8]), 0, 1)
    >>> torch.equal(both[1:], second), targets.tolist()
    (True, [4, 5])
    """

    crop: int = 0
    resized_crop: float | None = None
    flip: bool = False
    rotate: float = 0.0
    jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, most, hint in (
            ("rotate", 180, "Use 15 for up to 15 degrees either way."),
            ("jitter", 1, "Use 0.4 for 60 to 140 %."),
            ("mixup", 1, "Use 0.2, or 1 for shares of every size."),
            ("cutmix", 1, "Use 1 for shares of every size."),
        ):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= most:
                raise _error(f"a number from 0 to {most} as {name}", value, hint)
        for name, hint in (("crop", "Use 2 for digits, 4 for CIFAR."), ("cutout", "Use a quarter or half of a side.")):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise _error(f"a whole number of pixels as {name}, from 0", value, hint)
        share = self.resized_crop
        if share is not None and (not _is_number(share) or not 0 < share <= 1):
            raise _error("a share of the area from above 0 to 1 as resized_crop", share, "Use 0.5, or None for none.")
        if type(self.flip) is not bool:
            raise _error("True or False as flip", self.flip, "Use flip=True to mirror half of the images.")

    @classmethod
    def from_settings(cls, settings: Any) -> Augmentation | None:
        """The augmentation of an object that has these fields among others; None if each is off."""
        made = cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})
        return None if made == cls() else made

    def check(self, size: tuple[int, int]) -> None:
        """Raises ArgumentError if images of (height, width) are too small for it."""
        least = min(size)
        for name, value in (("crop", self.crop), ("cutout", self.cutout)):
            if value >= least:
                hint = "Use a quarter of the side or less."
                raise _error(f"{name} of less than the {least} px of the images' shorter side", value, hint)

    @property
    def mixes(self) -> bool:
        """Whether targets are shares of the classes, float32 ``(N, classes)``."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        indices: Tensor,
        seed: int,
        epoch: int,
        *,
        mean: float | Sequence[float] = 0.5,
        classes: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Changes a batch.

        images: ``(N, C, H, W)``, uint8, or float32 from 0 to 1; targets: int64 ``(N,)``; indices: int64 ``(N,)``, what
        the images are called in the whole data set; seed, epoch: from 0; mean: what a channel has on average, from 0 to
        1; classes: needed where it mixes.

        Returns images, uint8 if they were and were only moved, else float32 from 0 to 1, and targets, float32
        ``(N, classes)`` where it mixes.
        """
        self.check((images.shape[2], images.shape[3]))
        draws = _Draws(seed, epoch, indices.numpy())
        if self.resized_crop is not None or self.rotate:
            images = self._sampled(_floating(images), draws)
        else:
            images = self._moved(images, draws)
        if not (self.jitter or self.cutout or self.mixes):
            return images, targets
        images = _floating(images)
        middle = torch.as_tensor(mean, dtype=torch.float32).reshape(-1, 1, 1)
        if self.jitter:
            images = self._coloured(images, middle, draws)
        if self.cutout:
            top, left = _places(draws(HOLE), [side - 1 + self.cutout for side in images.shape[2:]])
            hole = _inside(images, top - self.cutout + 1, left - self.cutout + 1, self.cutout, self.cutout)
            images = torch.where(hole, middle, images)
        return self._mixed(images, targets, draws, classes) if self.mixes else (images, targets)

    def _moved(self, images: Tensor, draws: _Draws) -> Tensor:
        """Shifted and flipped, value by value; by NumPy, which copies bytes in rows."""
        count, _, height, width = images.shape
        pixels = images.numpy()
        if self.crop:
            down, right = _places(draws(SHIFT), [2 * self.crop + 1] * 2)
            windows = F.pad(images, (self.crop,) * 4).unfold(2, height, 1).unfold(3, width, 1).numpy()
            pixels = windows[np.arange(count), :, down, right]
        if self.flip:
            pixels, mirrored = pixels.copy(), draws(FLIP)[:, 0] < 0.5
            pixels[mirrored] = pixels[mirrored][..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def _sampled(self, images: Tensor, draws: _Draws) -> Tensor:
        """Cut, turned, shifted and flipped: each pixel of the result is looked up where it comes from.

        A pixel is called by its distance from the middle in halves of the height and the width. The last step is undone
        first.
        """
        count, _, height, width = images.shape
        across = np.broadcast_to((2 * np.arange(width) + 1) / width - 1, (count, 1, width))
        down = np.broadcast_to((2 * np.arange(height)[:, None] + 1) / height - 1, (count, height, 1))
        if self.flip:
            across = np.where(draws(FLIP)[:, :, None] < 0.5, -across, across)
        if self.crop:
            rows, columns = _places(draws(SHIFT), [2 * self.crop + 1] * 2)
            down = down + (2 * (rows - self.crop) / height)[:, None, None]
            across = across + (2 * (columns - self.crop) / width)[:, None, None]
        if self.rotate:
            angles = [math.radians(self.rotate * (2 * draw - 1)) for draw in draws(ANGLE)[:, 0].tolist()]
            cosine, sine = (np.array([f(angle) for angle in angles])[:, None, None] for f in (math.cos, math.sin))
            aspect = width / height
            down, across = cosine * down + sine * aspect * across, cosine * across - sine / aspect * down
        inside = (np.abs(down) < 1) & (np.abs(across) < 1)
        if self.resized_crop is not None:
            high, wide, top, left = self._regions(draws(REGION), width / height)
            down, across = high * down + top, wide * across + left
        grid = np.empty((count, height, width, 2), np.float32)
        grid[..., 0], grid[..., 1] = across, down
        images = F.grid_sample(images, torch.from_numpy(grid), "bilinear", "border", align_corners=False)
        return images * torch.from_numpy(inside)[:, None]

    def _regions(self, draws: NDArray[np.float64], aspect: float) -> list[NDArray[np.float64]]:
        """Of a resized crop: height and width as shares, and where the middle is, each ``(N, 1, 1)``."""
        assert self.resized_crop is not None
        area = self.resized_crop + (1 - self.resized_crop) * draws[:, 0]
        ratio = 1 + (FLATTEST - 1) * draws[:, 1]
        ratio = np.where(draws[:, 2] < 0.5, ratio, 1 / ratio)
        high = np.clip(np.sqrt(area * ratio), area, 1)  # where a side would be over 1, it is 1, and the area as drawn
        wide = np.minimum(1, area / high)
        top, left = (1 - high) * (2 * draws[:, 3] - 1), (1 - wide) * (2 * draws[:, 4] - 1)
        return [one[:, None, None] for one in (high, wide, top, left)]

    def _coloured(self, images: Tensor, middle: Tensor, draws: _Draws) -> Tensor:
        factors = torch.from_numpy(1 + self.jitter * (2 * draws(COLOURS) - 1)).float()
        brightness, contrast, saturation = factors.reshape(-1, 3, 1, 1, 1).unbind(1)
        images = (images * brightness - middle) * contrast + middle
        if images.shape[1] == 3:
            grey = sum(weight * images[:, k : k + 1] for k, weight in enumerate(GREY))
            images = (images - grey) * saturation + grey
        return images.clamp_(0, 1)

    def _mixed(self, images: Tensor, targets: Tensor, draws: _Draws, classes: int | None) -> tuple[Tensor, Tensor]:
        """Mixed with the next image; λ is the share of the image itself."""
        if classes is None:
            raise _error("the number of classes where it mixes", classes, "Give classes=10.")
        is_cut = draws(MIX)[:, 0] < (0.5 if self.mixup else 1.0) if self.cutmix else np.zeros(len(images), bool)
        shares = _shares(np.where(is_cut, self.cutmix, self.mixup), draws)
        others = images.roll(-1, 0)
        kept = torch.from_numpy(shares).float().reshape(-1, 1, 1, 1)
        mixed = images * kept + others * (1 - kept)
        if self.cutmix:
            sides = images.shape[2:]
            rows, columns = (np.rint(np.sqrt(1 - shares) * side).astype(np.int64) for side in sides)
            row, column = _places(draws(BOX), sides)  # of the middle
            box = _inside(images, row - rows // 2, column - columns // 2, rows, columns)
            cut = torch.from_numpy(is_cut).reshape(-1, 1, 1, 1)
            mixed = torch.where(cut, torch.where(box, others, images), mixed)
            kept = torch.where(cut, 1 - box.float().mean((1, 2, 3), keepdim=True), kept)
        hot, kept = F.one_hot(targets, classes).float(), kept.reshape(-1, 1)
        return mixed, hot * kept + hot.roll(-1, 0) * (1 - kept)


class _Draws:
    """The random numbers of a batch's images by the numbers of the draws, float64 ``(N, draws)``."""

    def __init__(self, seed: int, epoch: int, indices: NDArray[np.int64]) -> None:
        self.seed, self.epoch, self.indices = seed, epoch, indices
        self.first = uniform(seed, epoch, indices, FIRST)

    def __call__(self, draws: range) -> NDArray[np.float64]:
        return self.first[:, draws.start : draws.stop]


def _places(draws: NDArray[np.float64], counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Whole numbers from 0 to below each count, one array ``(N,)`` a column of the draws."""
    return [(draws[:, k] * count).astype(np.int64) for k, count in enumerate(counts)]


def _inside(images: Tensor, top: Any, left: Any, rows: Any, columns: Any) -> Tensor:
    """Where the rectangles are, bool ``(N, 1, H, W)``; what lies outside the images is cut off."""
    height, width = images.shape[2:]
    down, right = np.arange(height) - np.reshape(top, (-1, 1)), np.arange(width) - np.reshape(left, (-1, 1))
    high = (down >= 0) & (down < np.reshape(rows, (-1, 1)))
    wide = (right >= 0) & (right < np.reshape(columns, (-1, 1)))
    return torch.from_numpy(high[:, None, :, None] & wide[:, None, None, :])


def _shares(alphas: NDArray[np.float64], draws: _Draws) -> NDArray[np.float64]:
    """A number from Beta(α, α) for each image, α from above 0 to 1, by Jöhnk's method: of pairs (u, v) the first with
    :math:`u^{1/α} + v^{1/α} ≤ 1` gives :math:`u^{1/α}/(u^{1/α} + v^{1/α})`. Half of the pairs fit at least; if none of
    32 does, which happens once in 2³², the number is 1.
    """
    shares, inverses, left = np.ones(len(alphas)), (1 / alphas).tolist(), list(range(len(alphas)))
    for pair in SHARES:
        missing, left = left, []
        pairs = uniform(draws.seed, draws.epoch, draws.indices[missing], [2 * pair, 2 * pair + 1]).tolist()
        for place, (u, v) in zip(missing, pairs, strict=True):
            x, y = u ** inverses[place], v ** inverses[place]  # by Python: NumPy may round the end of a row otherwise
            if 0 < x + y <= 1:
                shares[place] = x / (x + y)
            else:
                left.append(place)
        if not left:
            break
    return shares


def _floating(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error(expects: str, got: object, hint: str) -> ArgumentError:
    return ArgumentError(build("augmentation", expects, repr(got), hint=hint))
