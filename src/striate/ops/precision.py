"""Whether a faster method may be less exact than the sum as it is written: for convolutions, Winograd's."""

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
    """Whether only sums as they are written are allowed, here and now."""
    return _PRECISION.value() == "strict"


def set_precision(mode: str) -> None:
    """The precision of the whole process: of every thread, wherever no ``with`` block of :class:`precision` says
    another.

    mode: ``"strict"`` or ``"fast"``, as there.

    Raises ArgumentError for another word.

    >>> import striate
    >>> striate.set_precision("strict")
    >>> is_strict()
    True
    >>> striate.set_precision("fast")
    """
    _PRECISION.process = _checked(mode, "set_precision")


class precision(Block[str]):  # noqa: N801  used as a function, and after `with`
    """``with precision("strict"):``, convolutions are summed as they are written; in ``with precision("fast"):``, as at
    first, 3×3 and 5×5 convolutions of stride 1 may be computed by minimal filtering (Winograd), where that was measured
    to be faster.

    Fast: the root mean square of the error is at most 1e-5 of the output's for inputs and weights as networks have them
    (docs/kernels/winograd.md has it by tile and channels; sums as they are written reach about 2e-7). Strict takes up
    to twice as long.

    The block holds for its own context, which is the thread or the asyncio task that entered it, and for the gradients
    of what was computed in it, whenever and wherever they are computed. A thread started inside has the process's
    precision (:func:`set_precision`), unless it runs in a copy of this context (:func:`contextvars.copy_context`). What
    ``torch.compile`` compiles keeps the precision that held while it was compiled. What a checkpoint computes again in
    backward has the precision that holds there: give it a ``context_fn``. One object may be entered any number of
    times. It is a decorator too.

    Raises ArgumentError for another word, ArgumentTypeError as a decorator of what runs after its call returns: a
    generator or a coroutine.

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
    _made: tuple[int, int] | None = None  # where, while it is of no use yet

    def __init__(self, mode: str) -> None:
        super().__init__(_checked(mode, "precision"))
        if not torch.compiler.is_dynamo_compiling():
            self._made = _place()

    def __enter__(self) -> precision:
        self._made = None
        return super().__enter__()

    def __call__(self, function: Function) -> Function:
        self._made = None
        return super().__call__(function)

    def __del__(self) -> None:
        """The call without ``with``: dropped on the line that made it."""
        if self._made is not None and not sys.is_finalizing() and self._made == _place():
            set_precision(self.value)
            told = f"striate.precision({self.value!r}) without `with` has set the precision of the whole process: "
            warnings.warn(
                f"{told}call striate.set_precision({self.value!r}) for that.", DeprecationWarning, stacklevel=2
            )

    def __repr__(self) -> str:
        return f"<precision({self.value!r}), for a with block; set_precision({self.value!r}) is for the whole process>"


def _checked(mode: str, where: str) -> str:
    if mode not in MODES:
        raise ArgumentError(build(where, 'mode to be "fast" or "strict"', repr(mode), hint="Choose one of them."))
    return mode


def _place() -> tuple[int, int] | None:
    """The frame that called the caller, and its line."""
    frame = sys._getframe(1).f_back
    return None if frame is None else (id(frame), frame.f_lineno)
