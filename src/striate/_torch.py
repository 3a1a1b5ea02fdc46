"""Private names of torch's that striate uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["constant_while_compiling"]

F = TypeVar("F", bound=Callable[..., object])


def constant_while_compiling(function: F) -> F:
    """``function`` itself, which ``torch.compile`` runs once, as it compiles a call of it, and takes the result for a constant.

    As ``torch.compiler.assume_constant_result`` does, which imports the compiler: most of what importing torch leaves out.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
