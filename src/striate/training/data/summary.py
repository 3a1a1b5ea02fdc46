"""What can be told of a data set before anything is trained on it: counts, sizes, moments, and images that repeat."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...moments import Moments
from .dataset import DataSet, Part

__all__ = ["Summary", "summarize"]

CHUNK = 256  # images of which Moments are measured at once, where they lie in memory
EXAMPLES = 5  # pairs of images that are named


@dataclass(frozen=True)
class Summary:
    """Facts about a data set.

    counts: images of each class by part; sizes: images by (height, width); mean, std: by channel of the training part,
    of values from 0 to 1; repeated: images of all parts that have the pixels of one before; leaked: images of another
    part with the pixels of a training image, by part; contradicting: images with the pixels of one before that has
    another label; pairs: names of some images that repeat, and of the first with these pixels; imbalance: images of the
    largest class for one of the smallest, in training.
    """

    kind: str
    classes: tuple[str, ...]
    channels: int
    counts: dict[str, list[int]]
    sizes: Counter[tuple[int, int]]
    mean: list[float]
    std: list[float]
    repeated: int
    leaked: dict[str, int]
    contradicting: int
    pairs: list[tuple[str, str]]
    imbalance: float
    skipped: tuple[str, ...]

    @property
    def images(self) -> int:
        return sum(map(sum, self.counts.values()))

    def to_dict(self) -> dict[str, object]:
        """The facts as JSON holds them; sizes as lists of height, width and images."""
        return {
            "kind": self.kind,
            "images": self.images,
            "classes": list(self.classes),
            "channels": self.channels,
            "counts": self.counts,
            "sizes": [[*size, count] for size, count in self.sizes.most_common()],
            "mean": self.mean,
            "std": self.std,
            "repeated": self.repeated,
            "leaked": self.leaked,
            "contradicting": self.contradicting,
            "pairs": [list(pair) for pair in self.pairs],
            "imbalance": self.imbalance,
            "skipped": list(self.skipped),
        }


def summarize(data: DataSet, on_image: Callable[[int, int], object] = lambda done, of: None) -> Summary:
    """Goes through every image once. on_image: called with the number of images done and the number of all.

    Raises DataError for an image that is broken.

    >>> from .spec import open_data
    >>> found = summarize(open_data("digits"))
    >>> found.images, found.repeated, round(found.mean[0], 3), found.counts["test"]
    (1797, 0, 0.305, [36, 36, 35, 37, 36, 37, 36, 36, 35, 36])
    """
    moments = Moments.empty(data.channels)
    first: dict[bytes, tuple[str, int, int]] = {}  # by the digest of its pixels: an image's part, index and label
    repeated = contradicting = done = 0
    leaked = {name: 0 for name in data.parts if name != "train"}
    pairs: list[tuple[str, str]] = []
    for name, part in data.parts.items():
        labels = part.labels.tolist()
        for start, images in _chunks(part):
            if name == "train":
                moments = moments.merge(Moments.of(images, (0, 2, 3)))
            for index, image in enumerate(images, start):
                own = (name, index, labels[index])
                before = first.setdefault(_digest(image), own)
                if before is own:
                    continue
                repeated += 1
                contradicting += before[2] != labels[index]
                if name != "train" and before[0] == "train":
                    leaked[name] += 1
                if len(pairs) < EXAMPLES:
                    pairs.append((part.name(index), data.parts[before[0]].name(before[1])))
            done += len(images)
            on_image(done, len(data))
    counts = {name: part.labels.bincount(minlength=len(data.classes)).tolist() for name, part in data.parts.items()}
    trained = [count for count in counts["train"] if count]
    return Summary(
        data.kind,
        data.classes,
        data.channels,
        counts,
        sum((part.sizes for part in data.parts.values()), Counter()),
        (moments.mean / 255).tolist(),
        (moments.variance().sqrt() / 255).tolist(),
        repeated,
        leaked,
        contradicting,
        pairs,
        max(trained) / min(trained),
        data.skipped,
    )


def _chunks(part: Part) -> Iterator[tuple[int, Tensor]]:
    """Batches of images, each with the index of its first."""
    if isinstance(part.images, Tensor):
        for start in range(0, len(part), CHUNK):
            yield start, part.images[start : start + CHUNK]
        return
    for index in range(len(part)):
        yield index, part.image(index)[None]


def _digest(image: Tensor) -> bytes:
    """The SHA-256 of an image's shape and pixels."""
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    pixels: Any = image.contiguous().numpy()
    digest.update(pixels)
    return digest.digest()
