"""A setting of the process that a ``with`` block changes for its own context alone: one thread or one asyncio task.

The value of a setting is that of the last block that this context entered and has not left; outside of blocks it is the
value of the process. A context keeps the list of the blocks themselves, not tokens that restore an earlier value. So
blocks may be left in another order than they were entered, as those of generators are, and each removes only itself.

Compiled code neither reads nor sets a ContextVar, since ``torch.compile`` does not support them. It takes the value
that its context has during compilation for a constant. The blocks that compiled code enters itself are kept in a plain
object, one a thread, whose changes ``torch.compile`` follows: its guards check them before the same code runs again.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, Generic, TypeVar

import torch

from .._torch import constant_while_compiling
from ..errors import ArgumentTypeError, build

__all__ = ["Block", "Setting"]

T = TypeVar("T")
B = TypeVar("B", bound="Block[Any]")
Function = TypeVar("Function", bound=Callable[..., Any])


class Setting(Generic[T]):
    """One setting. ``process`` is its value outside of blocks.

    >>> size = Setting("size", "small")
    >>> class sized(Block[str]):
    ...     setting = size
    >>> with sized("large"), sized("huge"):
    ...     size.value()
    'huge'
    >>> size.value()
    'small'
    """

    def __init__(self, name: str, process: T) -> None:
        self.process = process
        self.entered: ContextVar[tuple[Block[T], ...]] = ContextVar(f"striate.{name}", default=())
        self.compiled = _Compiled()

    def value(self) -> T:
        blocks = self.compiled.code.blocks
        return blocks[-1].value if blocks else self._of_context()

    @constant_while_compiling
    def _of_context(self) -> T:
        blocks = self.entered.get()
        return blocks[-1].value if blocks else self.process


class _Code:
    """The blocks that compiled code entered, and those that were entered since in the functions it calls."""

    def __init__(self) -> None:
        self.blocks: tuple[Block[Any], ...] = ()


class _Compiled(threading.local):
    """Holds one :class:`_Code` a thread. ``torch.compile`` follows attributes of that object, but none set on this."""

    def __init__(self) -> None:
        self.code = _Code()


class Block(Generic[T]):
    """Sets a value of a setting, as a ``with`` block or as a decorator.

    One object may be entered again, inside itself and by many threads at once, since it keeps no state.
    """

    setting: ClassVar[Setting[Any]]

    def __init__(self, value: T) -> None:
        self.value = value

    def __enter__(self: B) -> B:
        code, entered = self.setting.compiled.code, self.setting.entered
        if torch.compiler.is_dynamo_compiling() or code.blocks:
            code.blocks = (*code.blocks, self)
        else:
            entered.set((*entered.get(), self))
        return self

    def __exit__(self, *raised: object) -> None:
        code, entered = self.setting.compiled.code, self.setting.entered
        left = _without(code.blocks, self)
        if left is not None:
            code.blocks = left
            return
        left = _without(entered.get(), self)
        # None: another context entered it, as with a generator that another thread closes; here it had no effect
        if left is not None:
            entered.set(left)

    def __call__(self, function: Function) -> Function:
        """Decorates a function so that each of its calls runs in a block of its own."""
        if any(
            test(function)
            for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        ):
            got, hint = f"{function.__qualname__}, which runs after its call returns", "Write `with` inside it."
            raise ArgumentTypeError(build(f"@{type(self).__name__}", "a function", got, hint=hint))
        made, value = type(self), self.value

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with made(value):  # a new one, since torch.compile cannot enter a block that was made outside
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]


def _without(blocks: tuple[Block[T], ...], block: Block[T]) -> tuple[Block[T], ...] | None:
    """The blocks without the last occurrence of ``block``; None if it is not among them."""
    for k in reversed(range(len(blocks))):
        if blocks[k] is block:
            return (*blocks[:k], *blocks[k + 1 :])
    return None
