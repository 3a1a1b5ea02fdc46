"""Output of commands: files, JSON, the width of lines, and a progress bar."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import ArgumentError, build
from ..files import write_atomically

__all__ = ["Show", "check_files", "json_text", "progress_bar", "width", "wrapped", "write"]

Show = Callable[[int, int, str], None]  # how much is done, of how much, and of what


def write(path: str | None, text: Callable[[], str], stream: TextIO | None = None) -> None:
    """Writes a file atomically, if a path is given. stream: where a message says so, by default standard output."""
    if path is not None:
        write_atomically(path, text())
        print(f"written to {path}", file=stream)


def json_text(facts: Mapping[str, object] | Sequence[object], only_ascii: bool = True) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=only_ascii)


def width(least: int) -> int:
    """The width of lines: that of the terminal, between ``least`` and 160 columns, or 100 without a terminal."""
    columns = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    return max(least, min(columns, 160))


def wrapped(text: str) -> str:
    """A sentence in lines that the terminal has room for; elsewhere, for programs that read it, in one."""
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(text, width(60), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def check_files(where: str, *paths: str | None) -> None:
    """Raises for files that cannot be written, before the work instead of after it."""
    given = [path for path in paths if path is not None]
    for number, path in enumerate(given):
        why = None
        if Path(path).is_dir():
            why = "a folder"
        elif not os.access(Path(path).parent, os.W_OK):
            why = "one in a folder that cannot be written to"
        elif Path(path).resolve() in [Path(other).resolve() for other in given[:number]]:
            why = "one that another option writes"
        if why is not None:
            raise ArgumentError(build(where, "a file to write to", why, file=path, hint="Name another."))


@contextmanager
def progress_bar(width: int = 24) -> Iterator[Show | None]:
    """A progress bar on standard error that disappears at the end; None if that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: int, of: int, what: str) -> None:
        full = width * done // max(1, of)
        print(f"\r{'█' * full}{'░' * (width - full)} {done}/{of} {what[:40]:<40}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
