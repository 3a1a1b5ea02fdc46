"""The folder of a run: its names, whether it holds a run, and that one process at a time works in it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from ..errors import ArgumentError, build
from ..files import remove_left

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "METRICS",
    "MODEL",
    "PICTURES",
    "REPORT",
    "WATCH",
    "clear",
    "has_ended",
    "holds_run",
    "working_in",
]

MODEL, METRICS, CONFIG, CHECKPOINTS = "model.safetensors", "metrics.json", "config.toml", "checkpoints"
WATCH, REPORT = "watch.jsonl", "report.html"
PICTURES = ("curves.png", "filters.png", "confusion.png")
OURS = (METRICS, CONFIG, MODEL, "model.previous.safetensors", *PICTURES, WATCH, REPORT)  # metrics.json goes first


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder."""
    return any((folder / name).exists() for name in (CONFIG, METRICS, MODEL, CHECKPOINTS))


def has_ended(folder: Path) -> bool:
    """Whether a run has begun in a folder, and has ended: its metrics are written last, after its model."""
    return (folder / METRICS).is_file() and (folder / MODEL).is_file()


def clear(folder: Path) -> None:
    """Removes a run from its folder, and nothing else that lies there."""
    for name in OURS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


@contextmanager
def working_in(out: str | os.PathLike[str] | None, name: str) -> Iterator[Path]:
    """Within this context no other run works in the folder, which is made if it is missing.

    out: the folder; None for a new one, ``runs/<name>``, or ``runs/<name>-2`` and so on where that is taken. What a
    process that was ended has left half written is removed. If the body raises before anything lies in the folder,
    the folder is removed again.

    Raises ArgumentError for a folder that cannot be written to, or that another process works in.
    """
    if out is not None and not os.fspath(out):
        raise ArgumentError(build("train", "the name of a folder", "an empty one", hint="Give one with --out."))
    made: list[Path] = []
    try:
        folder = _new(name, made) if out is None else _made(Path(out), made)
        with tempfile.TemporaryFile(dir=folder):
            pass
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _remove(made)
        why, hint = error.strerror or str(error), "Give another with --out."
        where = Path("runs") if out is None else out
        raise ArgumentError(build("train", "a folder it can write to", why, folder=where, hint=hint)) from None
    try:
        _lock(handle, folder)
        remove_left(folder)
        remove_left(folder / CHECKPOINTS)
        yield folder
    except BaseException:
        _remove(made)
        raise
    finally:
        os.close(handle)  # which also ends the lock, as the end of the process does


def _made(folder: Path, made: list[Path]) -> Path:
    """Makes a folder and those above it; ``made`` gets those that were missing, the innermost last."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    made += reversed(missing)
    return folder


def _new(name: str, made: list[Path]) -> Path:
    runs = _made(Path("runs"), made)
    for number in count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)
            return folder
    raise AssertionError


def _remove(made: list[Path]) -> None:
    for folder in reversed(made):
        with suppress(OSError):  # one that is not empty stays
            folder.rmdir()


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        hint = "Wait for it to end, or give another with --out."
        got = "one in which another process trains"
        raise ArgumentError(build("train", "a folder of its own", got, folder=folder, hint=hint)) from None
