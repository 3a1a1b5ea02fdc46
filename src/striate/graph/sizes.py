"""Sizes that note when their value is asked for: a quick look whether a model's code has conditions on sizes at all.

While :class:`ObservedSizes` is on, ``x.shape`` and its like give stand-ins for numbers. Arithmetic on a stand-in makes
another, functions of torch's get the number, and Python's conversions (``if``, ``range``, ``int``) are noted. Unlike
torch's symbols (:mod:`.conditions`) stand-ins do not know that a convolution's output always has the same number of
channels, so that too much is noted; but a run with them takes no longer than a run without.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .. import source

__all__ = ["ObservedSizes"]


class ObservedSizes(TorchFunctionMode):
    """Calls ``asked`` with each line of the model's code, as "/path/net.py:12", that asks for a size's value.

    >>> found = []
    >>> with ObservedSizes(found.append):
    ...     x = torch.ones(2, 3)
    ...     y = x.view(x.shape[0] * 3)
    >>> y.shape, found
    (torch.Size([6]), [])
    """

    def __init__(self, asked: Callable[[str], None]) -> None:
        super().__init__()
        self.asked = asked
        self.unsure: list[tuple[Any, int, str]] = []  # frame, its instruction and line, of conversions by __index__

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = sys._getframe(1)
        # a function of torch's converts its arguments before it comes here
        self.unsure = [one for one in self.unsure if one[:2] != (caller, caller.f_lasti)]
        result = func(*_plain(args), **_plain(kwargs or {}))
        if func is Tensor.__len__:  # Python takes nothing but a whole number
            self.note()
        return self.wrap(result) if func in SIZES else result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for *_, line in self.unsure:
            self.asked(line)

    def wrap(self, sizes: Any) -> Any:
        return tuple(map(self.wrap, sizes)) if isinstance(sizes, tuple) else _Size(sizes, self)

    def note(self, unsure: bool = False) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        if frame is None or not source.is_users(frame.f_code.co_filename):
            return
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if unsure:
            self.unsure.append((frame, frame.f_lasti, line))
        else:
            self.asked(line)


SIZES: frozenset[Any] = frozenset(
    (Tensor.shape.__get__, Tensor.size, Tensor.stride, Tensor.numel, Tensor.nelement, torch.numel)  # type: ignore[attr-defined]
)


class _Size:
    """A number, or a comparison of numbers."""

    def __init__(self, value: Any, mode: ObservedSizes) -> None:
        self.value, self.mode = value, mode

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, how: str) -> str:
        return format(self.value, how)


def _computed(name: str) -> Any:
    compute = getattr(operator, name) if hasattr(operator, name) else divmod

    def method(self: _Size, *others: Any) -> Any:
        return self.mode.wrap(compute(self.value, *_plain(others)))

    def reflected(self: _Size, other: Any) -> Any:
        return self.mode.wrap(compute(_plain(other), self.value))

    return method, reflected


def _converted(name: str) -> Any:
    def method(self: _Size, *how: Any) -> Any:
        self.mode.note(unsure=name == "__index__")
        return getattr(self.value, name)(*_plain(how))

    return method


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
    "divmod",
):
    _method, _reflected = _computed(f"__{_name}__")
    setattr(_Size, f"__{_name}__", _method)
    setattr(_Size, f"__r{_name}__", _reflected)
for _name in ("neg", "pos", "abs", "invert", "lt", "le", "eq", "ne", "gt", "ge"):
    setattr(_Size, f"__{_name}__", _computed(f"__{_name}__")[0])
for _name in ("bool", "int", "float", "index", "round", "floor", "ceil", "trunc"):
    setattr(_Size, f"__{_name}__", _converted(f"__{_name}__"))


def _plain(given: Any) -> Any:
    """The same with numbers in place of stand-ins."""
    if isinstance(given, _Size):
        return given.value
    if isinstance(given, dict):
        return {key: _plain(value) for key, value in given.items()} if type(given) is dict else given
    if type(given) in (tuple, list):
        return type(given)(map(_plain, given))
    if isinstance(given, slice):
        return slice(_plain(given.start), _plain(given.stop), _plain(given.step))
    return given
