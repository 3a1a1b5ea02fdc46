"""Writes files whole or not at all: to a new file beside the old one, flushed to the disk, then renamed onto it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["remove_left", "replace_file", "write_atomically"]

LEFT = re.compile(r"\..+\.\d+\.tmp")  # a file that is being written
SPECIAL = ("/dev/", "/proc/")  # names such as /dev/stdout stand for files that must not be replaced


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that a crash or a full disk leaves the old one or the new one, and never half of one.

    content: bytes, or text, which is encoded as UTF-8. A symbolic link stays, and the file it leads to is replaced.
    The permissions of an existing file stay. A pipe or a device cannot be replaced, and is written to directly.

    Raises OSError, which names the file, if it cannot be written; an existing file is then unchanged.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_atomically(folder.name + "/page.html", "<p>größer</p>")
    >>> Path(folder.name, "page.html").read_text(encoding="utf-8"), os.listdir(folder.name)
    ('<p>größer</p>', ['page.html'])
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    try:
        if os.path.abspath(path).startswith(SPECIAL) or (target.exists() and not target.is_file()):
            with open(path, "wb") as file:
                file.write(data)
            return
        if target.exists():
            with open(target, "rb+"):  # a file that is protected from writing is not replaced
                pass
        replace_file(target, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def replace_file(path: Path, content: bytes, before: Callable[[], None] = lambda: None) -> None:
    """Replaces the file that ``path`` names by a new one, in one step; ``before`` runs right before that step.

    The permissions of an existing file stay. Raises OSError if the file cannot be written; an existing file is then
    unchanged.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, beside)
        before()
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_left(folder: Path) -> None:
    """Removes the files in a folder that were being written when their process was ended. No other process may write
    there.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if LEFT.fullmatch(path.name) and path.is_file():
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk: only then does a rename in it survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
