"""Specifications of data sets: a kind, and where it lies, as ``folder:photos``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from ...errors import DataError, build, did_you_mean
from . import call, cifar, folder, idx, npz
from .dataset import DataSet, Request, check_seed
from .digits import read as read_digits
from .shapes import read as read_shapes

__all__ = ["KINDS", "Kind", "open_data"]


class Kind(NamedTuple):
    """A kind of data set: how it is written, what it is, and what reads it."""

    form: str
    meaning: str
    read: Callable[[Request], DataSet]


KINDS: dict[str, Kind] = {
    "digits": Kind("digits", "the 1,797 handwritten digits that come with scikit-learn", read_digits),
    "mnist": Kind("mnist:DIR", "IDX files, gzipped or not: MNIST, Fashion-MNIST, EMNIST", idx.read),
    "cifar10": Kind("cifar10:DIR", "CIFAR-10, the binary or the Python version", cifar.read),
    "cifar100": Kind("cifar100:DIR", "CIFAR-100, the binary or the Python version", cifar.read),
    "folder": Kind("folder:DIR", "a subfolder of images for each class", folder.read),
    "csv": Kind("csv:FILE", "a table with the columns path and label", folder.read_csv),
    "npz": Kind("npz:FILE", "arrays x_train, y_train, x_test and y_test, or images and labels", npz.read),
    "shapes": Kind("shapes", "generated images of five shapes", read_shapes),
    "python": Kind("python:package.module:callable", "a torch Dataset, or a pair of them", call.read),
}


def open_data(spec: str, seed: int = 0, skip_broken: bool = False) -> DataSet:
    """Opens the data set of a specification.

    spec: one of ``digits``, ``mnist:DIR``, ``cifar10:DIR``, ``cifar100:DIR``, ``folder:DIR``, ``csv:FILE``,
    ``npz:FILE``, ``shapes``, ``python:package.module:callable``; seed: of the split where the data have none, and of
    ``shapes``; skip_broken: leave out images of a folder or a table that are broken, instead of raising.

    Raises DataError for another specification, and for files that are missing, damaged or not what they claim to be.

    >>> data = open_data("digits")
    >>> len(data), data.channels, data.size, {name: len(part) for name, part in data.parts.items()}
    (1797, 1, (28, 28), {'train': 1437, 'test': 360})
    """
    check_seed("data", seed)
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS:
        forms = ", ".join(known.form for known in KINDS.values())
        raise DataError(build("data", f"one of {forms}", repr(spec), hint=_advice(spec, kind)))
    form = KINDS[kind].form
    if bool(rest) != (":" in form) or (colon and not rest) or "\0" in rest:
        raise DataError(build("data", form, repr(spec), hint=f"It is {KINDS[kind].meaning}."))
    return KINDS[kind].read(Request(kind, rest, seed, skip_broken))


def _advice(spec: str, kind: str) -> str:
    """What was probably meant."""
    if os.path.isdir(spec):
        return f"Write folder:{spec} if it has a subfolder of images for each class."
    for suffix in ("csv", "npz"):
        if spec.lower().endswith(f".{suffix}"):
            return f"Write {suffix}:{spec}."
    return f"Choose one of these kinds.{did_you_mean(kind, KINDS)}"
