"""What a data set is: classes, and parts for training, validation and testing with images and labels.

A part holds its images in memory, as one tensor, or decodes each when it is asked for. Both are read alike:
``part.image(index)`` is uint8 ``(C, H, W)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, build
from .sources import is_plain

__all__ = [
    "PARTS",
    "TEST_FRACTION",
    "DataSet",
    "Decoded",
    "Part",
    "Request",
    "check_seed",
    "class_names",
    "split_part",
    "stratified",
]

PARTS = ("train", "val", "test")
TEST_FRACTION = 0.2  # held out for testing where the data do not say what is


@dataclass(frozen=True)
class Request:
    """What a reader gets: the kind of the data set, what follows it in the specification, the seed of a split, and
    whether broken images are left out.
    """

    kind: str
    rest: str = ""
    seed: int = 0
    skip_broken: bool = False


@dataclass(frozen=True, eq=False)
class Decoded:
    """Images that are made one at a time, by index.

    load: gives uint8 ``(C, H, W)`` for an index; sizes: (height, width) of each; names: what messages call each;
    indices: which of them, in order, are meant; files: where each lies, () for images that are made otherwise.
    """

    load: Callable[[int], Tensor]
    channels: int
    sizes: Sequence[tuple[int, int]]
    names: Sequence[str]
    indices: Tensor
    files: Sequence[Path] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        return self.load(int(self.indices[index]))


@dataclass(frozen=True, eq=False)
class Part:
    """Some images with their labels.

    images: uint8 ``(N, C, H, W)`` in memory, or :class:`Decoded`; labels: int64 ``(N,)``; boxes: where it is known,
    int64 ``(N, 4)``: first row, first column, last row and last column of the object, each inclusive.

    >>> part = Part(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]))
    >>> len(part), part.channels, part.size, part.image(2).shape, part.name(2)
    (3, 1, (8, 8), torch.Size([1, 8, 8]), 'image 2')
    """

    images: Tensor | Decoded
    labels: Tensor
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """One image, uint8 ``(C, H, W)``. Raises DataError if its file is broken."""
        return self.images[index]

    def name(self, index: int) -> str:
        """What messages call an image: its path, or its number."""
        if isinstance(self.images, Tensor):
            return f"image {index}"
        return self.images.names[int(self.images.indices[index])]

    @property
    def channels(self) -> int:
        return self.images.shape[1] if isinstance(self.images, Tensor) else self.images.channels

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images there are of each (height, width)."""
        if isinstance(self.images, Tensor):
            return Counter({(self.images.shape[2], self.images.shape[3]): len(self)}) if len(self) else Counter()
        return Counter(self.images.sizes[index] for index in self.images.indices.tolist())

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every image; None if they differ."""
        sizes = self.sizes
        return next(iter(sizes)) if len(sizes) == 1 else None

    def take(self, indices: Tensor) -> Part:
        """The part with the images of these indices only, in their order."""
        images = self.images
        if isinstance(images, Tensor):
            images = images[indices]
        else:
            images = replace(images, indices=images.indices[indices])
        return Part(images, self.labels[indices], None if self.boxes is None else self.boxes[indices])


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set: what it was opened as, the names of its classes in the order of the labels, its parts by name
    ("train", and "val" or "test" or both), and the broken images that were left out.

    Raises DataError if a part has no image, or an image of a class that the training part lacks, or if the name of a
    class cannot be printed or stands for two.
    """

    kind: str
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    skipped: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        odd = [name for name in self.classes if not name or not is_plain(name)]
        if odd:
            expects = "names of classes in UTF-8 without control codes"
            raise DataError(build(self.kind, expects, ascii(odd[0]), hint="Rename the class."))
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise DataError(build(self.kind, "a name for each class", f"{twice[0]!r} twice", hint="Rename the class."))
        for name, part in self.parts.items():
            if not len(part):
                hint = "Give more images, or others."
                raise DataError(build(self.kind, f"an image in each part at least, also in {name}", "none", hint=hint))
        trained = set(self.parts["train"].labels.unique().tolist())
        for name, part in self.parts.items():
            unknown = [self.classes[label] for label in part.labels.unique().tolist() if label not in trained]
            if unknown:
                expects = f"only classes of the training part in the part {name}"
                hint = "Give training images of each class."
                raise DataError(build(self.kind, expects, ", ".join(map(repr, unknown[:5])), hint=hint))

    @property
    def channels(self) -> int:
        return self.parts["train"].channels

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every image of every part; None if they differ."""
        sizes = {part.size for part in self.parts.values()}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def with_validation(self, fraction: float, seed: int = 0) -> DataSet:
        """The data set with a part "val": this share of each class of the training part, see :func:`stratified`.

        Raises DataError if it has one already, for a fraction that is not between 0 and 1, and where no class has two
        images.

        >>> labels = torch.tensor([0] * 8 + [1] * 2)
        >>> data = DataSet("npz", ("a", "b"), {"train": Part(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), labels)})
        >>> {name: part.labels.tolist() for name, part in data.with_validation(0.25).parts.items()}
        {'train': [0, 0, 0, 0, 0, 0, 1], 'val': [0, 0, 1]}
        """
        check_seed(self.kind, seed)
        if "val" in self.parts:
            hint = "Leave the fraction out, to validate on that part."
            raise DataError(build(self.kind, "no fraction, as it has a part val", repr(fraction), hint=hint))
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            hint = "Use 0.1 to validate on a tenth of the training images."
            raise DataError(build(self.kind, "a fraction between 0 and 1", repr(fraction), hint=hint))
        train = self.parts["train"]
        first, second = stratified(train.labels, fraction, seed)
        rest = {name: part for name, part in self.parts.items() if name != "train"}
        parts = {"train": train.take(first), "val": train.take(second), **rest}
        return DataSet(self.kind, self.classes, parts, self.skipped)


def check_seed(where: str, seed: int) -> None:
    """Raises DataError for a seed that is not a whole number from 0 to 2³²-1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise DataError(build(where, "a seed from 0 to 4294967295", repr(seed), hint="Use seed=0."))


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in the order of their numbers: by value if all are whole numbers, else as text.

    >>> class_names(["10", "9", "10"]), class_names(["cat", "10", "9"])
    (('9', '10'), ('10', '9', 'cat'))
    """
    names = set(labels)
    whole = all(name.isascii() and name.isdigit() and len(name) < 19 for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if whole else None))


def stratified(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits indices in two, at random, so that each class has the same share in both: ``n·fraction`` of its n images,
    rounded, are in the second part, but at least one of two, and at least one stays in the first.

    labels: int64 ``(N,)``; seed: 0 to 2³²-1. Both results are in rising order.

    >>> first, second = stratified(torch.tensor([0] * 10 + [1] * 5), 0.2, seed=0)
    >>> len(first), len(second), int((second >= 10).sum())
    (12, 3, 1)
    """
    random = np.random.RandomState(seed)  # its stream is the same in every NumPy
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        indices = (labels == label).nonzero().flatten()
        count = min(max(1, int(len(indices) * fraction + 0.5)), len(indices) - 1)
        held_out[indices[torch.from_numpy(random.permutation(len(indices))[:count])]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def split_part(part: Part, seed: int) -> dict[str, Part]:
    """A training part of four fifths and a test part of one fifth of each class."""
    first, second = stratified(part.labels, TEST_FRACTION, seed)
    return {"train": part.take(first), "test": part.take(second)}
