"""Stores tensors and text in one file, and refuses to read a file that is damaged.

It is a safetensors file, which any reader of that format opens. Its metadata has one entry, ``striate``: JSON with the
SHA-256 of every tensor, the SHA-256 of the header (computed with zeros in place of that digest), and what the caller
adds. So each byte of the file is covered by a digest, and nothing in it can be run: it holds numbers and text only.

At each moment of ``write`` there is a whole file, the old one or the new one (:mod:`.files`). ``read`` compares every
size with that of the real file before it allocates anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError, build
from .files import replace_file

__all__ = ["DTYPES", "SUFFIX", "Damaged", "Place", "encode", "read", "write"]

SUFFIX = ".safetensors"
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
HEADER_START = b'{"__metadata__":{"striate":"{\\"header_sha256\\":\\"'
DIGEST = slice(8 + len(HEADER_START), 8 + len(HEADER_START) + 64)  # the position of the header's digest in the file
BLANK = b"0" * 64
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Place(NamedTuple):
    """The position of a tensor in a file, its element type and its shape."""

    dtype: str
    shape: tuple[int, ...]
    first: int  # byte, counted from the end of the header
    last: int


Check = Callable[[dict[str, Place], dict[str, Any]], None]


class Damaged(Exception):
    """Raised for a file that is refused; its text says what was found, for the caller's message."""


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], where: str = "save") -> bytes:
    """The bytes of a file. The same tensors and metadata give the same bytes.

    Raises CheckpointError for a value that is not a plain tensor, and for metadata that is not JSON.

    >>> encode({"x": torch.zeros(2)}, {}) == encode({"x": torch.zeros(2)}, {})
    True
    """
    from safetensors.torch import save as to_bytes

    plain, digests = {}, {}
    for key, value in tensors.items():
        if not isinstance(value, Tensor) or value.dtype not in DTYPES.values() or value.layout != torch.strided:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            hint = "Make it dense, or register it with persistent=False."
            raise CheckpointError(build(where, "a state of plain tensors", f"{key!r} of {kind}", hint=hint))
        plain[key] = value.detach().cpu().contiguous().clone()
        digests[key] = hashlib.sha256(_bytes_of(plain[key])).hexdigest()
    try:
        entry = {"header_sha256": BLANK.decode(), "metadata": metadata, "sha256": digests}
        entry_json = json.dumps(entry, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        fix = "Keep to text, finite numbers, lists and dicts."
        raise CheckpointError(build(where, "metadata that JSON can say", str(error), hint=fix)) from None
    content = bytearray(to_bytes(plain, {"striate": entry_json}))
    header_end = 8 + int.from_bytes(content[:8], "little")
    if content[8 : DIGEST.stop] != HEADER_START + BLANK:
        raise AssertionError("safetensors writes its metadata first, and compactly")
    content[DIGEST] = hashlib.sha256(content[:header_end]).hexdigest().encode()
    return bytes(content)


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def write(path: Path, content: bytes, where: str = "save", before: Callable[[], None] = lambda: None) -> None:
    """Writes a file so that a crash at any moment leaves the old one or the new one; ``before`` runs right before the
    new one replaces the old one.

    Raises CheckpointError if the name does not end in ``.safetensors`` or the file cannot be written; an existing file
    is then unchanged.
    """
    check_name(path, where)
    try:
        replace_file(path, content, before)
    except OSError as error:
        fix = "Give another folder, or make room in this one."
        raise CheckpointError(
            build(where, "a folder it can write to", error.strerror or str(error), path=path, hint=fix)
        ) from error


def check_name(path: Path, where: str = "save") -> None:
    """Raises CheckpointError if the name does not end in ``.safetensors``."""
    if path.suffix != SUFFIX:
        fix = f"Name it {path.stem or 'model'}{SUFFIX}."
        raise CheckpointError(build(where, f"a name that ends in {SUFFIX}", repr(path.name), hint=fix))


def read(path: Path, check: Check = lambda places, metadata: None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors and the metadata of a file; ``check`` is called with each tensor's :class:`Place` and with the
    metadata before any tensor is read.

    Raises Damaged, with what was found, if the file is missing, was not made by :func:`encode`, or was changed since.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Damaged("something that is not a file")
            return _decode(file, about.st_size, check)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from None


def _decode(file: Any, file_bytes: int, check: Check) -> tuple[dict[str, Tensor], dict[str, Any]]:
    start = file.read(8)
    header_bytes = int.from_bytes(start, "little")
    if len(start) < 8 or not DIGEST.stop - 8 <= header_bytes <= min(file_bytes - 8, MOST_HEADER_BYTES):
        raise Damaged(f"a file of {file_bytes} bytes whose header does not fit in it")
    header = bytearray(start + file.read(header_bytes))
    if len(header) != 8 + header_bytes or header[8 : DIGEST.start] != HEADER_START:
        raise Damaged("a file whose header striate did not write")
    digest = bytes(header[DIGEST])
    header[DIGEST] = BLANK
    if hashlib.sha256(header).hexdigest().encode() != digest:
        raise Damaged("a header that does not match its SHA-256")
    try:
        entries = json.loads(header[8:])
        entry = json.loads(entries.pop("__metadata__")["striate"])
        digests, metadata = dict(entry["sha256"]), dict(entry["metadata"])
        places = {
            key: Place(str(e["dtype"]), tuple(map(int, e["shape"])), *map(int, e["data_offsets"]))
            for key, e in entries.items()
        }
        if digests.keys() != places.keys():
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise Damaged("a header that is not a checkpoint's") from None

    in_order = sorted(places.items(), key=lambda item: item[1][2:])
    end = 0
    for key, (dtype, shape, first, last) in in_order:
        if (
            dtype not in DTYPES
            or min(shape, default=0) < 0
            or first != end
            or last - first != math.prod(shape) * DTYPES[dtype].itemsize
        ):
            raise Damaged(f"tensor {key!r} whose size is not that of its dtype and shape")
        end = last
    if end != file_bytes - 8 - header_bytes:
        raise Damaged(f"{file_bytes - 8 - header_bytes} bytes of tensors where the header says {end}")

    check(places, metadata)
    tensors = {}
    for key, (dtype, shape, first, last) in in_order:
        content = bytearray(last - first)
        if file.readinto(content) != len(content) or hashlib.sha256(content).hexdigest() != digests[key]:
            raise Damaged(f"tensor {key!r} that does not match its SHA-256")
        flat = torch.frombuffer(content, dtype=DTYPES[dtype]) if content else torch.empty(0, dtype=DTYPES[dtype])
        tensors[key] = flat.reshape(shape)
    return tensors, metadata
