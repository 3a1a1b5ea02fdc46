"""Finds lines of the model's own code, neither torch's nor striate's, in tracebacks and in the stacks of traces."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import torch

__all__ = ["at", "is_users", "of_error", "of_stack"]

HERE, TORCH = str(Path(__file__).parent), str(Path(torch.__file__).parent)


def is_users(file: str) -> bool:
    """Whether a file, as tracebacks name it, is neither torch's nor striate's. Some of torch's traces name its files as
    ``torch/…``.

    >>> is_users("/home/me/net.py"), is_users(torch.__file__), is_users("<string>")
    (True, False, False)
    """
    return not file.startswith((HERE, TORCH, "torch/", "<")) and "/importlib/" not in file


def of_error(error: BaseException) -> str | None:
    """The last line of the model's code in an error's traceback, as "net.py:12"; None if there is none."""
    return _last([(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)])


def of_stack(text: str) -> str | None:
    """The last line of the model's code in a stack that torch's traces keep as text; None if there is none.

    >>> of_stack(f'File "/home/me/net.py", line 12, in forward\\n  return f(x)\\nFile "{torch.__file__}", line 7, in f')
    'net.py:12'
    """
    return _last(re.findall(r'File "([^"]+)", line (\d+)', text))


def at(line: str | None) -> str:
    """The end of a message that names a line; "" if the line is not known.

    >>> at("net.py:12"), at(None)
    (' (at net.py:12)', '')
    """
    return "" if line is None else f" (at {line})"


def _last(frames: list[tuple[str, Any]]) -> str | None:
    return next((f"{Path(file).name}:{line}" for file, line in reversed(frames) if is_users(file)), None)
