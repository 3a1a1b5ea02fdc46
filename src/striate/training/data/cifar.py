"""``cifar10:DIR`` and ``cifar100:DIR``: the binary version, or the one pickled for Python, of 32×32 colour images.

A binary record is the label (CIFAR-100: the coarse, then the fine one) in a byte each, then 3072 bytes of the image,
plane by plane. The fine labels are read.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import DataError, build
from .dataset import DataSet, Part, Request
from .pickles import read_pickle
from .sources import DAMAGED, folder_of, open_file, read_exactly, read_whole, refuse_claim, within

__all__ = ["read"]

SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32
MOST_PICKLE_BYTES = 2**28  # CIFAR-100's training images take 155 MB
MOST_NAME_BYTES = 2**16


@dataclass(frozen=True)
class _Layout:
    """What the files of a CIFAR are called, and how their records begin."""

    train: tuple[str, ...]
    test: str
    label_bytes: int  # the last of them is the label
    binary_names: str
    pickled_names: str
    names_key: str
    labels_key: str
    subfolders: tuple[str, str]  # where the archives of both versions put their files
    classes: int


LAYOUTS = {
    "cifar10": _Layout(
        tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch", 1, "batches.meta.txt", "batches.meta",
        "label_names", "labels", ("cifar-10-batches-bin", "cifar-10-batches-py"), 10,
    ),
    "cifar100": _Layout(
        ("train",), "test", 2, "fine_label_names.txt", "meta",
        "fine_label_names", "fine_labels", ("cifar-100-binary", "cifar-100-python"), 100,
    ),
}  # fmt: skip


def read(request: Request) -> DataSet:
    """Reads the files in a folder, or in the subfolder that the archive makes in it."""
    where, layout = request.kind, LAYOUTS[request.kind]
    root = folder_of(where, request.rest)
    for folder in (root, *(root / name for name in layout.subfolders)):
        for suffix in (".bin", ""):
            if os.path.exists(folder / f"{layout.test}{suffix}"):
                return _read(where, layout, folder, root, suffix)
    expects = f"{layout.train[0]}.bin and {layout.test}.bin, or {layout.train[0]} and {layout.test}"
    hint = "Unpack the archive, and give the folder that it makes."
    raise DataError(build(where, expects, "none of them", path=root, hint=hint))


def _read(where: str, layout: _Layout, folder: Path, root: Path, suffix: str) -> DataSet:
    read_part = _binary if suffix else _pickled
    parts = {}
    for name, stems in (("train", layout.train), ("test", (layout.test,))):
        read_parts = [read_part(where, layout, within(where, folder / f"{stem}{suffix}", root)) for stem in stems]
        images, labels = (np.concatenate(both) for both in zip(*read_parts, strict=True))
        parts[name] = Part(torch.from_numpy(images).reshape(-1, *SHAPE), torch.from_numpy(labels).long())
    path = within(where, folder / (layout.binary_names if suffix else layout.pickled_names), root)
    names = _names(where, layout, path, bool(suffix))
    return DataSet(where, names, parts)


def _binary(where: str, layout: _Layout, path: Path) -> tuple[np.ndarray, np.ndarray]:
    record = layout.label_bytes + IMAGE_BYTES
    file, file_bytes = open_file(where, path)
    with file:
        if not file_bytes or file_bytes % record:
            expects = f"a whole number of records of {record} bytes"
            raise DataError(build(where, expects, f"a file of {file_bytes} bytes", path=path, hint=DAMAGED))
        refuse_claim(where, path, file_bytes)
        records = read_exactly(where, path, file, file_bytes).reshape(-1, record)
    labels = records[:, layout.label_bytes - 1]
    _check_labels(where, layout, path, labels)
    return np.ascontiguousarray(records[:, layout.label_bytes :]), labels


def _pickled(where: str, layout: _Layout, path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = read_pickle(where, path, read_whole(where, path, MOST_PICKLE_BYTES))
    known: dict[Any, Any] = data if isinstance(data, dict) else {}
    images, labels = known.get("data"), known.get(layout.labels_key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != IMAGE_BYTES:
        got = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else "none"
        expects = f"an array 'data' of N×{IMAGE_BYTES} bytes"
        raise DataError(build(where, expects, got, path=path, hint=DAMAGED))
    is_number = isinstance(labels, list) and [type(label) is int and 0 <= label < 2**31 for label in labels]
    if not is_number or not all(is_number) or len(is_number) != len(images):
        expects = f"a list {layout.labels_key!r} of {len(images)} whole numbers"
        raise DataError(build(where, expects, "another", path=path, hint=DAMAGED))
    numbers = np.array(labels, np.int64)
    _check_labels(where, layout, path, numbers)
    return images, numbers


def _check_labels(where: str, layout: _Layout, path: Path, labels: np.ndarray) -> None:
    if labels.max() >= layout.classes:
        expects = f"labels from 0 to {layout.classes - 1}"
        raise DataError(build(where, expects, int(labels.max()), path=path, hint=DAMAGED))


def _names(where: str, layout: _Layout, path: Path, is_binary: bool) -> tuple[str, ...]:
    """The names of the classes; their numbers if the file of names is missing."""
    if not os.path.exists(path):
        return tuple(map(str, range(layout.classes)))
    content = read_whole(where, path, MOST_NAME_BYTES)
    names: Any
    if is_binary:
        names = content.decode("utf-8", "replace").split()
    else:
        data = read_pickle(where, path, content)
        names = data.get(layout.names_key) if isinstance(data, dict) else None
    is_names = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not is_names or len(names) != layout.classes or len(set(names)) != layout.classes:
        got = f"{len(set(map(str, names)))} of them" if isinstance(names, list) else "none"
        raise DataError(build(where, f"{layout.classes} names of classes", got, path=path, hint=DAMAGED))
    return tuple(names)
