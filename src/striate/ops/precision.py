"""Whether a method may be faster but less exact than the plain sum: for convolutions, Winograd's methods."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..errors import ArgumentError, build
from .setting import Block, Setting

__all__ = ["is_strict", "precision", "set_precision"]

MODES = ("fast", "strict")
_PRECISION = Setting("precision", "fast")
Function = TypeVar("Function", bound=Callable[..., Any])


def is_strict() -> bool:
    """Whether only plain sums are allowed in this context now."""
    return _PRECISION.value() == "strict"


def set_precision(mode: str) -> None:
    """Sets the precision of the whole process: of all threads, outside of ``with`` blocks of :class:`precision`.

    mode: ``"strict"`` or ``"fast"``, with the meaning they have there.

    Raises ArgumentError for another word.

    >>> import striate
    >>> striate.set_precision("strict")
    >>> is_strict()
    True
    >>> striate.set_precision("fast")
    """
    _PRECISION.process = _checked(mode, "set_precision")


class precision(Block[str]):  # noqa: N801  used as a function, and after `with`
    """Sets the precision of convolutions within a ``with`` block.

    In ``with precision("strict"):`` convolutions are computed as plain sums. In ``with precision("fast"):``, the
    default, 3×3 and 5×5 convolutions of stride 1 may be computed by minimal filtering (Winograd), where that was
    measured to be faster.

    In fast mode the root mean square of the error is at most 1e-5 of the output's, for inputs and weights as networks
    have them (docs/kernels/winograd.md gives it by tile and channels; plain sums reach about 2e-7). Strict mode takes
    up to twice as long.

    A block applies to its own context, which is the thread or the asyncio task that entered it, and to the gradients of
    the convolutions called in it, wherever and whenever they are computed. A thread started inside has the precision of
    the process (:func:`set_precision`), unless it runs in a copy of this context (:func:`contextvars.copy_context`).
    Code that ``torch.compile`` compiled keeps the precision that was set during compilation. A checkpoint recomputes in
    backward with the precision that is set there; give it a ``context_fn`` to set another. One object may be entered
    any number of times, and serves as a decorator too.

    Raises ArgumentError for another word, and ArgumentTypeError where it decorates a generator or a coroutine, which
    run after their call has returned.

    >>> import striate
    >>> with striate.precision("strict"):
    ...     is_strict()
    True
    >>> is_strict()
    False
    >>> striate.precision("strict")(is_strict)()
    True
    """

    setting = _PRECISION
    _made_at: tuple[int, int] | None = None  # the line that made it, until it is entered or decorates a function

    def __init__(self, mode: str) -> None:
        super().__init__(_checked(mode, "precision"))
        if not torch.compiler.is_dynamo_compiling():
            self._made_at = _calling_line()

    def __enter__(self) -> precision:
        self._made_at = None
        return super().__enter__()

    def __call__(self, function: Function) -> Function:
        self._made_at = None
        return super().__call__(function)

    def __del__(self) -> None:
        """Sets the process's precision if the object was dropped on the line that made it: a call without ``with``."""
        if self._made_at is not None and not sys.is_finalizing() and self._made_at == _calling_line():
            set_precision(self.value)
            message = f"striate.precision({self.value!r}) without `with` has set the precision of the whole process: "
            warnings.warn(
                f"{message}call striate.set_precision({self.value!r}) for that.", DeprecationWarning, stacklevel=2
            )

    def __repr__(self) -> str:
        return f"<precision({self.value!r}), for a with block; set_precision({self.value!r}) is for the whole process>"


def _checked(mode: str, where: str) -> str:
    if mode not in MODES:
        raise ArgumentError(build(where, 'mode to be "fast" or "strict"', repr(mode), hint="Choose one of them."))
    return mode


def _calling_line() -> tuple[int, int] | None:
    """Identifies the line that called the caller: its frame's id and its number."""
    frame = sys._getframe(1).f_back
    return None if frame is None else (id(frame), frame.f_lineno)
