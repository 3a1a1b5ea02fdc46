"""``npz:FILE``: images and labels as arrays of NumPy in a zip archive.

Nothing is unpickled and nothing is extracted. The header of each array is matched as text, its size is compared with
the archive's before anything is allocated, and exactly as many bytes are decompressed.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, build
from .dataset import PARTS, DataSet, Part, Request, class_names, split_part
from .sources import DAMAGED, open_file, read_exactly, refuse_claim, user_path

__all__ = ["read"]

NAMES = {  # of the images and the labels of each part
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "all": (("images", "labels"), ("x", "y")),
}
MOST_DIRECTORY_BYTES = 2**16  # of the archive's list of members, which zipfile holds in memory
MOST_HEADER_BYTES = 10_000  # NumPy's own limit
END = struct.Struct("<4s4H2LH")
NPY = re.compile(
    rb"\{'descr': '([<>|=]?)([a-zA-Z]\d{0,6})', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)


def read(request: Request) -> DataSet:
    """Reads the arrays x_train, y_train, x_test, y_test (as Keras names them; x_val, y_val too), train_images,
    train_labels and so on, or images and labels, which are split. ``classes`` may hold the names.
    """
    where, path = request.kind, user_path(request.rest)
    file, file_bytes = open_file(where, path, follows=True)
    with file:
        members = _members(where, path, file, file_bytes)
        pairs = {
            part: pair for part, all_names in NAMES.items() for pair in all_names if set(pair) <= members.names.keys()
        }
        if "train" not in pairs and "all" not in pairs:
            expects = "arrays x_train, y_train, x_test and y_test, or images and labels"
            got = ", ".join(sorted(members.names)[:8]) or "none"
            raise DataError(build(where, expects, got, path=path, hint="Name them so in numpy.savez."))
        kept = [part for part in PARTS if part in pairs] if "train" in pairs else ["all"]
        arrays = {part: (members.images(pairs[part][0]), members.labels(pairs[part][1])) for part in kept}
        names = members.texts("classes") if "classes" in members.names else None
    for part, (images, labels) in arrays.items():
        if len(images) != len(labels):
            got = f"{len(images)} images and {len(labels)} labels in {part}"
            raise DataError(build(where, "as many labels as images", got, path=path, hint="Save them together."))
    if len({images.shape[1] for images, _ in arrays.values()}) > 1:
        raise DataError(build(where, "as many channels in each part", "others", path=path, hint="Save them alike."))
    numbers = sorted({int(label) for _, labels in arrays.values() for label in labels.unique()})
    if names is None:
        order = torch.tensor([int(name) for name in class_names(map(str, numbers))])
        names = tuple(str(int(number)) for number in order)
        arrays = {part: (images, torch.searchsorted(order, labels)) for part, (images, labels) in arrays.items()}
    elif numbers and numbers[-1] >= len(names):
        expects = f"labels from 0 to {len(names) - 1}, as it names {len(names)} classes"
        raise DataError(build(where, expects, numbers[-1], path=path, hint="Save a name for each label."))
    parts = {part: Part(images, labels) for part, (images, labels) in arrays.items()}
    if list(parts) in (["all"], ["train"]):
        parts = split_part(next(iter(parts.values())), request.seed)
    return DataSet(where, names, parts)


class _Members:
    """The arrays of an archive by their names."""

    def __init__(self, where: str, path: Path, archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo]) -> None:
        self.where, self.path, self.archive, self.names = where, path, archive, names

    def images(self, name: str) -> Tensor:
        """uint8 ``(N, C, H, W)`` from ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``."""
        array = self._array(name, "u1")
        if not array.size:
            raise self._error(f"an image at least in {name}", f"shape {array.shape}", "Save some.")
        if array.ndim == 3:
            array = array[:, None]
        elif array.ndim == 4 and array.shape[3] in (1, 3):
            array = array.transpose(0, 3, 1, 2)
        elif array.ndim != 4 or array.shape[1] not in (1, 3):
            expects = f"{name} of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
            raise self._error(expects, array.shape, "Arrange its axes so.")
        return torch.from_numpy(np.ascontiguousarray(array))

    def labels(self, name: str) -> Tensor:
        """int64 ``(N,)`` from whole numbers ``(N,)`` or ``(N, 1)``."""
        array = self._array(name, "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")
        if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
            raise self._error(f"{name} of shape (N,)", array.shape, "Save a number for each image.")
        numbers = array.reshape(-1)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= 2**31):
            raise self._error(f"{name} from 0 to 2147483647", "others", "Number the classes from 0 on.")
        return torch.from_numpy(numbers.astype(np.int64))

    def texts(self, name: str) -> tuple[str, ...]:
        array = self._array(name, "U")
        texts = tuple(map(str, array.reshape(-1).tolist()))
        if len(set(texts)) != len(texts):
            raise self._error(f"{name} without repetitions", "a name twice", "Name each class otherwise.")
        return texts

    def _array(self, name: str, *types: str) -> Any:
        """An array of one of these element types; "U" is text of any length."""
        member, expects = self.names[name], f"an array of NumPy as {name}"
        try:
            stream = self.archive.open(member)
        except Exception as error:  # zipfile raises errors of many kinds for damage
            raise self._error(expects, str(error).rstrip(".") or type(error).__name__, DAMAGED) from None
        with stream:
            order, kind, by_columns, shape, header_bytes = self._header(stream, expects)
            if kind not in types and kind[0] not in types:
                listed = "uint8" if types == ("u1",) else "text" if types == ("U",) else "whole numbers"
                hint = "Convert it: images to numpy.uint8 from 0 to 255, labels to whole numbers."
                raise self._error(f"{name} of {listed}", f"elements {kind}", hint)
            dtype = np.dtype(f"{order}{kind}")
            count = math.prod(shape) * dtype.itemsize
            refuse_claim(self.where, self.path, count, member.compress_size)
            if member.file_size != header_bytes + count:
                expects = f"{header_bytes + count} bytes of {name}, as its header says"
                raise self._error(expects, member.file_size, DAMAGED)
            content = read_exactly(self.where, self.path, stream, count)
        try:
            return content.view(dtype).reshape(shape, order="F" if by_columns else "C")
        except ValueError:
            raise self._error(expects, f"one of shape {shape}", DAMAGED) from None

    def _header(self, stream: Any, expects: str) -> tuple[str, str, bool, tuple[int, ...], int]:
        try:
            start = stream.read(8)
            length_bytes = 2 if start[6:7] == b"\x01" else 4
            length = int.from_bytes(stream.read(length_bytes), "little")
            is_array = start[:6] == b"\x93NUMPY" and start[6:7] in b"\x01\x02\x03" and length <= MOST_HEADER_BYTES
            match = NPY.fullmatch(stream.read(length)) if is_array else None
        except Exception as error:  # damaged streams raise errors of zlib, zipfile and the system
            raise self._error(expects, str(error).rstrip(".") or type(error).__name__, DAMAGED) from None
        words = [word.strip() for word in match[4].decode().split(",")] if match else []
        words = words[:-1] if words and not words[-1] else words
        if match is None or len(words) > 32 or not all(word.isdigit() and len(word) < 20 for word in words):
            raise self._error(expects, "a member with another header", DAMAGED)
        order = match[1].decode().replace("|", "")
        return order, match[2].decode(), match[3] == b"True", tuple(map(int, words)), 8 + length_bytes + length

    def _error(self, expects: str, got: object, hint: str) -> DataError:
        return DataError(build(self.where, expects, got, path=self.path, hint=hint))


def _members(where: str, path: Path, file: BinaryIO, file_bytes: int) -> _Members:
    """Opens the archive, after a look at its end: zipfile holds the whole list of members in memory."""

    def error(got: str) -> DataError:
        return DataError(build(where, "an archive of numpy.savez", got, path=path, hint="Save it again."))

    file.seek(max(0, file_bytes - END.size - 20))
    end = file.read(END.size + 20)
    if len(end) < END.size:
        raise error(f"a file of {file_bytes} bytes")
    mark, *_, directory_bytes, _, comment = END.unpack(end[-END.size :])
    if mark != b"PK\5\6" or comment:
        raise error("a file that does not end as one")
    if directory_bytes > MOST_DIRECTORY_BYTES or end[-END.size - 20 :].startswith(b"PK\6\7"):
        raise error("one with a list of members of more than 65536 bytes, or of 4 GiB")
    file.seek(0)
    try:
        archive = zipfile.ZipFile(file)
    except Exception as problem:  # zipfile raises errors of many kinds for damage
        raise error(str(problem).rstrip(".") or type(problem).__name__) from None
    names: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if not re.fullmatch(r"\w{1,100}", name) or name in names:
            raise error(f"a member {member.filename[:80]!r}" + (" twice" if name in names else ""))
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise error(f"a member {name!r} that is encrypted or compressed otherwise than by deflate")
        names[name] = member
    return _Members(where, path, archive, names)
