"""A setting of the process that a ``with`` block changes for its own context alone: for one thread, for one asyncio
task.

Its value is that of the last block that this context entered and has not left; outside of blocks, the process's. A
block is kept as what it is, not as a token that puts back what was before it: so blocks may be left in another order
than they were entered, as those of generators are, and each takes away itself alone.

Compiled code reads and sets no ContextVar, since ``torch.compile`` knows none. It takes for a constant what its context
has while it is compiled. The blocks that it enters itself lie in a plain object, one a thread, whose changes
``torch.compile`` follows; it checks them before it runs the same code again.
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
    """``process``: its value outside of blocks.

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
    """The blocks that compiled code entered, and those entered since in what it calls."""

    def __init__(self) -> None:
        self.blocks: tuple[Block[Any], ...] = ()


class _Compiled(threading.local):
    """One a thread; in an object of its own, since ``torch.compile`` follows no attribute that is set here."""

    def __init__(self) -> None:
        self.code = _Code()


class Block(Generic[T]):
    """A value of a setting, for ``with`` and as a decorator. It may be entered again, inside itself, by many threads:
    it keeps nothing.
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
        # else another context entered it, as with a generator that another thread closes: nothing holds here
        if left is not None:
            entered.set(left)

    def __call__(self, function: Function) -> Function:
        """Decorates a function: each call is a block."""
        if any(
            test(function)
            for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        ):
            got, hint = f"{function.__qualname__}, which runs after its call returns", "Write `with` inside it."
            raise ArgumentTypeError(build(f"@{type(self).__name__}", "a function", got, hint=hint))
        made, value = type(self), self.value

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with made(value):  # a new one: torch.compile enters none that was made outside
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]


def _without(blocks: tuple[Block[T], ...], block: Block[T]) -> tuple[Block[T], ...] | None:
    """The blocks without the last that is this one; None if none is."""
    for k in reversed(range(len(blocks))):
        if blocks[k] is block:
            return (*blocks[:k], *blocks[k + 1 :])
    return None
