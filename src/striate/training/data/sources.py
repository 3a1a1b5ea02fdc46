"""Opens files of data sets, and reads no further than their headers promise.

A header is data of whoever made the file. What it claims is compared with the size of the real file before anything is
allocated: n compressed bytes become at most 1032·n bytes by deflate, the method of gzip and zip.
"""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import bidirectional, category
from zipfile import BadZipFile

import numpy as np

from ...errors import DataError, build

__all__ = [
    "MOST_BYTES",
    "folder_of",
    "is_plain",
    "names_in",
    "open_file",
    "read_exactly",
    "read_whole",
    "refuse_claim",
    "user_path",
    "within",
]

MOST_BYTES = 2**31  # of the images of one file in memory; the largest usual set, EMNIST by class, has 0.64 GB
DEFLATE = 1032  # bytes from a compressed one, at most: 258 from two bits
CHUNK_BYTES = 2**20
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # codes for the direction of text
TOO_LARGE = "Keep larger sets as a folder of images (folder:DIR)."
DAMAGED = "Copy or download it again."


def open_file(where: str, path: Path, follows: bool = False) -> tuple[BinaryIO, int]:
    """Opens a file and says how many bytes it has. follows: whether the path may be a link, as one that a user named;
    a path from :func:`within` is none, and if it has become one since, it is refused.

    Raises DataError if it is missing, may not be read, or is no file (a pipe is not waited for).
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows else os.O_NOFOLLOW))
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            os.close(handle)
            raise DataError(build(where, "a file", "something else", path=path, hint="Name a file."))
        return open(handle, "rb"), about.st_size
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(build(where, "a file that can be read", why, path=path, hint="Check the path.")) from None


def user_path(text: str) -> Path:
    """The path that a user wrote, with ``~`` replaced."""
    return Path(os.path.expanduser(text))


def is_plain(text: str) -> bool:
    """Whether a name can be printed: it has no control codes, also none that turn the direction of what follows, and no
    bytes that are not UTF-8.

    >>> is_plain("Käfer 2"), is_plain("cat\\x1b[2J"), is_plain("gpj\\u202e"), is_plain("caf\\udce9")
    (True, False, False, False)
    """
    return not any(category(letter) in ("Cc", "Cs") or bidirectional(letter) in TURNING for letter in text)


def folder_of(where: str, text: str) -> Path:
    """The real path of a folder. Raises DataError if there is none."""
    path = user_path(text)
    if not os.path.isdir(path):
        got = "a file" if os.path.exists(path) else "no such folder"
        raise DataError(build(where, "a folder", got, path=path, hint="Check the path."))
    return Path(os.path.realpath(path))


def names_in(where: str, folder: Path) -> list[str]:
    """The names in a folder, in order. Raises DataError if they may not be read, or cannot be printed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        why, hint = error.strerror or str(error), "Check its permissions."
        raise DataError(build(where, "a folder that can be read", why, path=folder, hint=hint)) from None
    for name in names:
        if not is_plain(name):
            expects = "names in UTF-8 without control codes"
            raise DataError(build(where, expects, ascii(name), path=folder, hint="Rename the file."))
    return names


def within(where: str, path: Path, folder: Path) -> Path:
    """The real path of what lies in a folder. Raises DataError if a link or ``..`` leads out of it.

    folder: a real path.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(folder):
        hint = "Copy what is meant into the folder."
        raise DataError(build(where, f"paths that stay in {folder}", "one that leads out", path=path, hint=hint))
    return real


def read_whole(where: str, path: Path, most: int) -> bytes:
    """The bytes of a small file, such as names of classes. Raises DataError if there are more than ``most``."""
    file, file_bytes = open_file(where, path)
    with file:
        if file_bytes > most:
            got = f"{file_bytes} bytes"
            raise DataError(build(where, f"a file of at most {most} bytes", got, path=path, hint="Check the path."))
        return file.read(file_bytes)


def refuse_claim(where: str, path: Path, claimed: int, packed: int | None = None) -> None:
    """Raises DataError if a header claims more bytes than data sets may have in memory, or than ``packed`` compressed
    bytes can become.
    """
    if claimed > MOST_BYTES:
        expects = f"at most {MOST_BYTES} bytes of images in one file"
        raise DataError(build(where, expects, f"{claimed} in its header", path=path, hint=TOO_LARGE))
    if packed is not None and claimed > DEFLATE * packed:
        expects = f"at most {DEFLATE * packed} bytes from {packed} compressed ones"
        raise DataError(build(where, expects, f"{claimed} in its header", path=path, hint=DAMAGED))


def read_exactly(where: str, path: Path, stream: Any, count: int) -> Any:
    """Reads ``count`` bytes, which must be all that is left, as an array. Memory is touched as bytes come.

    Raises DataError if there are fewer or more, or they cannot be decompressed.
    """
    expects = f"{count} bytes behind its header"
    filled = 0
    try:
        content: Any = np.empty(count, np.uint8)
        view = memoryview(content)
        while filled < count:
            got = stream.readinto(view[filled : filled + CHUNK_BYTES])
            if not got:
                raise DataError(build(where, expects, filled, path=path, hint=DAMAGED))
            filled += got
        if stream.read(1):  # also compares the checksum of what was decompressed
            raise DataError(build(where, expects, "more", path=path, hint=DAMAGED))
    except MemoryError:
        got = "too little memory"
        raise DataError(build(where, f"{count} bytes of memory for it", got, path=path, hint=TOO_LARGE)) from None
    except DataError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, BadZipFile) as error:
        got = f"{filled} and then {str(error).rstrip('.') or 'damage'}"
        raise DataError(build(where, expects, got, path=path, hint=DAMAGED)) from None
    return content
