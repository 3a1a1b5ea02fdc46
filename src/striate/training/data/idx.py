"""``mnist:DIR``: images and labels in IDX files, gzipped or not: MNIST, Fashion-MNIST, KMNIST and EMNIST.

An IDX file is four bytes (0, 0, the element type, the number of axes), the length of each axis in four bytes, the
largest first, and the elements. Only unsigned bytes (type 8) are read.

Sources: Y. LeCun, C. Cortes, "The MNIST database"; G. Cohen et al., "EMNIST", 2017.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ...errors import DataError, build
from .dataset import DataSet, Part, Request, class_names
from .sources import DAMAGED, folder_of, names_in, open_file, read_exactly, read_whole, refuse_claim, user_path, within

__all__ = ["read", "read_idx"]

UNSIGNED_BYTE = 8
NAME = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.S)
PART_OF = {"train": "train", "t10k": "test", "test": "test"}
MOST_MAPPING_BYTES = 2**16


def read(request: Request) -> DataSet:
    """Reads the four files of a folder, or those whose names begin so: ``mnist:DIR/emnist-letters``."""
    path = user_path(request.rest)
    prefix = "" if os.path.isdir(path) or not os.path.isdir(path.parent) else path.name
    folder = folder_of(request.kind, str(path.parent if prefix else path))
    files, prefix = _files(request.kind, folder, prefix)
    loaded: dict[str, tuple[Tensor, Tensor]] = {}
    for part in ("train", "test"):
        images = read_idx(request.kind, within(request.kind, files[part, "images"], folder), 3)
        labels = read_idx(request.kind, within(request.kind, files[part, "labels"], folder), 1)
        if len(images) != len(labels):
            got, path = f"{len(images)} images and {len(labels)} labels", files[part, "labels"]
            raise DataError(build(request.kind, "as many labels as images", got, path=path, hint=DAMAGED))
        loaded[part] = (images, labels)
    sizes = {images.shape[1:] for images, _ in loaded.values()}
    if len(sizes) > 1:
        got = " and ".join(f"{height}×{width}" for height, width in sorted(sizes))
        expects = "training and test images of one size"
        raise DataError(build(request.kind, expects, got, path=folder, hint="Put each data set into its own folder."))

    names = _mapping(request.kind, folder, prefix)
    numbers = sorted({int(label) for _, labels in loaded.values() for label in labels.unique()})
    order = list(map(int, class_names(map(str, numbers))))
    place = torch.zeros(256, dtype=torch.int64)
    place[order] = torch.arange(len(order))
    parts = {}
    for part, (images, labels) in loaded.items():
        if prefix.startswith("emnist"):  # stored by columns
            images = images.transpose(1, 2).contiguous()
        parts[part] = Part(images.unsqueeze(1), place[labels.long()])
    return DataSet(request.kind, tuple(names.get(number, str(number)) for number in order), parts)


def read_idx(where: str, path: Path, axes: int) -> Tensor:
    """Reads an IDX file of unsigned bytes with so many axes; a name that ends in .gz is decompressed.

    Raises DataError if the file is of another kind, or not exactly as long as its header says.
    """
    file, file_bytes = open_file(where, path)
    start = 4 + 4 * axes
    is_packed = path.suffix == ".gz"
    with file, gzip.GzipFile(fileobj=file, mode="rb") if is_packed else file as stream:
        try:
            header = stream.read(start)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            got = str(error).rstrip(".")
            raise DataError(build(where, "a gzipped IDX file", got, path=path, hint=DAMAGED)) from None
        if len(header) < start or header[:4] != bytes((0, 0, UNSIGNED_BYTE, axes)):
            expects = f"an IDX file of unsigned bytes with {axes} {'axis' if axes == 1 else 'axes'}"
            raise DataError(build(where, expects, f"one that begins with {header[:4].hex()}", path=path, hint=DAMAGED))
        shape = struct.unpack(f">{axes}I", header[4:])
        count = math.prod(shape)
        if not count:
            got = "×".join(map(str, shape))
            raise DataError(build(where, "an image at least", got, path=path, hint="Check which file it is."))
        refuse_claim(where, path, count, file_bytes if is_packed else None)
        if not is_packed and file_bytes != start + count:
            expects, got = f"a file of {start + count} bytes, as its header says", f"{file_bytes}"
            raise DataError(build(where, expects, got, path=path, hint=DAMAGED))
        return torch.from_numpy(read_exactly(where, path, stream, count)).reshape(shape)


def _files(where: str, folder: Path, prefix: str) -> tuple[dict[tuple[str, str], Path], str]:
    """The files by part and content, and what their names begin with. A file that is not gzipped comes first."""
    found: dict[str, dict[tuple[str, str], Path]] = {}
    for name in names_in(where, folder)[::-1]:
        match = NAME.fullmatch(name)
        if match and match[1].startswith(prefix):
            found.setdefault(match[1], {})[PART_OF[match[2]], match[3]] = folder / name
    if len(found) != 1 and prefix not in found:
        expects = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the two of t10k, gzipped or not"
        got, hint = "none of them", "Give the folder that holds them."
        if found:
            sets = sorted(name.rstrip("-") for name in found)
            got, hint = f"several sets: {', '.join(sets)}", f"Name one, as mnist:{folder}/{sets[0]}."
        raise DataError(build(where, expects, got, path=folder, hint=hint))
    begin = prefix if prefix in found else next(iter(found))
    files = found[begin]
    for part, name in (("train", "train"), ("test", "t10k")):
        for content, axes in (("images", 3), ("labels", 1)):
            if (part, content) not in files:
                expects = f"a file {begin}{name}-{content}-idx{axes}-ubyte, gzipped or not"
                raise DataError(build(where, expects, "none", path=folder, hint="Copy it into the folder."))
    return files, begin


def _mapping(where: str, folder: Path, prefix: str) -> dict[int, str]:
    """The names of classes in EMNIST's mapping file: a line a label, with the codes of its characters."""
    path = folder / f"{prefix}mapping.txt"
    if not prefix or not os.path.isfile(path):
        return {}
    text = read_whole(where, within(where, path, folder), MOST_MAPPING_BYTES).decode("ascii", "replace")
    try:
        lines = [[int(word) for word in line.split()] for line in text.splitlines() if line.strip()]
        return {label: chr(code) for label, code, *_ in lines}
    except (ValueError, OverflowError):
        expects = "lines of a label and the code of its character"
        raise DataError(build(where, expects, "other text", path=path, hint=DAMAGED)) from None
