"""Which line of the model's own code is meant: not torch's, not striate's."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import torch

__all__ = ["at", "is_users", "of_error", "of_stack"]

HERE, TORCH = str(Path(__file__).parent), str(Path(torch.__file__).parent)


def is_users(file: str) -> bool:
    """Whether a file, as tracebacks name it, is neither torch's nor striate's. Of torch's traces some names begin at
    its own folder.

    >>> is_users("/home/me/net.py"), is_users(torch.__file__), is_users("<string>")
    (True, False, False)
    """
    return not file.startswith((HERE, TORCH, "torch/", "<")) and "/importlib/" not in file


def of_error(error: BaseException) -> str | None:
    """The line of the model's code that an error came from, as "net.py:12"; None where it came from none."""
    return _last([(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)])


def of_stack(told: str) -> str | None:
    """The same of a stack in words, as torch's traces keep it.

    >>> of_stack(f'File "/home/me/net.py", line 12, in forward\\n  return f(x)\\nFile "{torch.__file__}", line 7, in f')
    'net.py:12'
    """
    return _last(re.findall(r'File "([^"]+)", line (\d+)', told))


def at(line: str | None) -> str:
    """How a message goes on with a line, if it is known.

    >>> at("net.py:12"), at(None)
    (' (at net.py:12)', '')
    """
    return "" if line is None else f" (at {line})"


def _last(frames: list[tuple[str, Any]]) -> str | None:
    return next((f"{Path(file).name}:{line}" for file, line in reversed(frames) if is_users(file)), None)
