"""From the images of a data set to what a model gets: one size, one number of channels, mean 0 and deviation 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import DataError, build
from ...moments import Moments
from .dataset import Decoded, Part

__all__ = ["Preprocessing"]

LARGEST_PX = 4096
OWN_PIXELS = 2**18  # images of one size of at most 512×512 pixels keep it
USUAL_PX = 224  # the side of others, at most, unless a size is named
SAMPLE = 500  # images that are decoded to measure moments: the error of the mean is a twentieth of the deviation
CHUNK_VALUES = 2**22  # measured at once: 32 MB in float64
MOST_KEPT_BYTES = 2**29  # of a part's images at their new size: 3,566 of 224×224 in colour
LUMA = (19595, 38470, 7471)  # 2¹⁶ times ITU-R BT.601's weights, as Pillow has them


@dataclass(frozen=True)
class Preprocessing:
    r"""How an image becomes the input of a model.

    .. math:: y = (x/255 - mean)/std

    The largest rectangle of the wanted shape in the middle of the image is resized to ``size`` (bilinear, with the
    filter as wide as the step: antialiased). An image of that size is left as it is. Grey images become three equal
    channels, and coloured ones grey (ITU-R BT.601), where ``channels`` asks for it.

    size: (height, width); mean, std: of the training images by channel, of values from 0 to 1.

    Raises DataError for sizes, channels or numbers that are none.

    >>> prepare = Preprocessing((2, 2), 1, mean=(0.5,), std=(0.5,))
    >>> prepare(torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8))
    tensor([[[-1.,  1.],
             [ 1., -1.]]])
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) and len(self.size) == 2 else (0,)
        if not all(type(side) is int and 1 <= side <= LARGEST_PX for side in sides):
            raise _error(f"a height and a width from 1 to {LARGEST_PX} px", repr(self.size), "Use size=(224, 224).")
        if self.channels not in (1, 3) or isinstance(self.channels, bool):
            raise _error("1 or 3 channels", repr(self.channels), "Use those of the training images.")
        for name, values, fits in (("mean", self.mean, lambda v: True), ("std", self.std, lambda v: v > 0)):
            is_numbers = isinstance(values, tuple) and len(values) == self.channels
            if not is_numbers or not all(type(v) is float and math.isfinite(v) and fits(v) for v in values):
                kind = "a finite number" if name == "mean" else "a positive number"
                hint = "Measure them: Preprocessing.of(part)."
                raise _error(f"{kind} as {name} for each of {self.channels} channels", repr(values), hint)

    @classmethod
    def of(cls, part: Part, size: int | tuple[int, int] | None = None, seed: int = 0) -> Preprocessing:
        """Measures the mean and the deviation of a training part, over images that have the size already.

        All images in memory are measured, and at most 500 of those that must be decoded, chosen by the seed. The
        deviation of a channel that never varies is 1.

        size: a side, or (height, width); if None the images' own where they have one of at most 512×512 pixels, else a
        square: half of the images have a shorter side of less, but 224 at most.

        Raises DataError for a size out of range, and for an image that is broken.

        >>> part = Part(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1), torch.tensor([0, 1]))
        >>> Preprocessing.of(part)
        Preprocessing(size=(1, 1), channels=1, mean=(0.5,), std=(0.5,))
        """
        channels = part.channels
        plain = cls(_wanted(part, size), channels, (0.0,) * channels, (1.0,) * channels)
        indices = torch.arange(len(part))
        if not isinstance(part.images, Tensor) and len(part) > SAMPLE:
            chosen = np.random.RandomState(seed).permutation(len(part))[:SAMPLE]
            indices = torch.from_numpy(np.sort(chosen))
        moments = Moments.empty(channels)
        for chunk in indices.split(max(1, CHUNK_VALUES // (channels * math.prod(plain.size)))):
            moments = moments.merge(Moments.of(plain.pixels(part, chunk), (0, 2, 3)))
        mean, std = moments.mean / 255, moments.variance().sqrt() / 255
        return cls(plain.size, channels, tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1).tolist()))

    def __call__(self, image: Tensor) -> Tensor:
        """image: uint8 ``(C, h, w)``. Returns float32 ``(channels, *size)``."""
        return self.normalized(self._fitted(image[None]))[0]

    def batch(self, part: Part, indices: Tensor) -> Tensor:
        """The images of these indices, float32 ``(N, channels, *size)``. Raises DataError for one that is broken."""
        return self.normalized(self.pixels(part, indices))

    def pixels(self, part: Part, indices: Tensor) -> Tensor:
        """The images of these indices at their new size, before anything else: uint8 ``(N, channels, *size)``."""
        if isinstance(part.images, Tensor):
            return self._fitted(torch.from_numpy(part.images.numpy()[indices.numpy()]))  # NumPy copies images whole
        images = torch.empty(len(indices), self.channels, *self.size, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            images[place] = self._fitted(part.image(index)[None])[0]
        return images

    def kept(self, part: Part) -> Part:
        """The part with each image resized when it is first asked for, and kept then: further epochs decode nothing.

        A part whose images lie in memory, or would take more than 512 MiB there, is returned as it is, and so is one
        whose images are kept already.
        """
        images, count = part.images, len(part)
        if isinstance(images, Tensor) or count * self.channels * math.prod(self.size) > MOST_KEPT_BYTES:
            return part
        if isinstance(images.load, _Kept) and images.load.prepare == self:
            return part
        names = [part.name(index) for index in range(count)]
        decoded = Decoded(_Kept(self, part), self.channels, [self.size] * count, names, torch.arange(count))
        return Part(decoded, part.labels, part.boxes)

    def normalized(self, images: Tensor) -> Tensor:
        """``(x - mean)/std`` of values from 0 to 1, or of bytes, of which 255 stands for 1.

        images: ``(N, channels, H, W)``, uint8 or floating-point; the result is float32.
        """
        scale, shift = self._affine
        return (images.to(torch.float32) * (scale / 255 if images.dtype == torch.uint8 else scale)).sub_(shift)

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        """What values are multiplied by, and what is then taken from them, ``(channels, 1, 1)``."""
        mean, std = (torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (1 / std).float(), (mean / std).float()

    def _fitted(self, images: Tensor) -> Tensor:
        """Images of one size, uint8 ``(N, C, h, w)``, at the wanted size and with the wanted channels."""
        height, width = images.shape[2:]
        if (height, width) != self.size:
            # the crop comes first: a resized image of 1×10⁷ pixels would take all memory
            rows = min(height, max(1, round(width * self.size[0] / self.size[1])))
            columns = min(width, max(1, round(height * self.size[1] / self.size[0])))
            top, left = (height - rows) // 2, (width - columns) // 2
            images = images[:, :, top : top + rows, left : left + columns]
            if (rows, columns) != self.size:
                is_pixel = self.size == (1, 1)  # which torch 2.13 makes of floats only
                images = F.interpolate(
                    images.float() if is_pixel else images, self.size, mode="bilinear", antialias=True
                )
                images = images.round().to(torch.uint8) if is_pixel else images
        if images.shape[1] == self.channels:
            return images
        if images.shape[1] == 1:
            return images.expand(-1, 3, -1, -1)
        red, green, blue = (weight * images[:, k].int() for k, weight in enumerate(LUMA))
        return (red + green + blue + 2**15 >> 16).to(torch.uint8)[:, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which JSON can hold and :meth:`from_dict` reads."""
        return {"size": list(self.size), "channels": self.channels, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Reads what :meth:`to_dict` made. Raises DataError for anything else.

        >>> prepare = Preprocessing((28, 28), 1, (0.13,), (0.31,))
        >>> Preprocessing.from_dict(prepare.to_dict()) == prepare
        True
        """
        names = ("size", "channels", "mean", "std")
        if not isinstance(data, Mapping) or set(data) != set(names):
            raise _error(f"a dict of {', '.join(names)}", repr(data)[:80], "Take it from the run that has it.")
        size, mean, std = (tuple(v) if isinstance(v, list) else v for v in (data["size"], data["mean"], data["std"]))
        return cls(size, data["channels"], mean, std)


class _Kept:
    """Gives the resized image of an index. Two threads that ask for one at once both make it, and write the same."""

    def __init__(self, prepare: Preprocessing, part: Part) -> None:
        self.prepare, self.part = prepare, part
        self.images = torch.empty(len(part), prepare.channels, *prepare.size, dtype=torch.uint8)  # no memory until used
        self.is_made = [False] * len(part)

    def __call__(self, index: int) -> Tensor:
        if not self.is_made[index]:
            self.images[index] = self.prepare.pixels(self.part, torch.tensor([index]))[0]
            self.is_made[index] = True
        return self.images[index]


def _wanted(part: Part, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) that images of a part are to have."""
    if size is not None:
        return (size, size) if isinstance(size, int) else size
    sizes = part.sizes
    if len(sizes) == 1 and math.prod(next(iter(sizes))) <= OWN_PIXELS:
        return next(iter(sizes))
    shorter = sorted(min(one) for one in sizes.elements())
    side = min(USUAL_PX, shorter[len(shorter) // 2])
    return side, side


def _error(expects: str, got: str, hint: str) -> DataError:
    return DataError(build("preprocessing", expects, got, hint=hint))
