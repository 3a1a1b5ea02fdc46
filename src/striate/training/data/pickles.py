"""Reads pickled data without running anything: dicts, lists, tuples, text, numbers, bytes, and NumPy arrays of bytes.

A pickle is a program. Unpickling runs it, and it may call any function there is. Here its instructions are only listed
(by :mod:`pickletools`), and those that build plain data are carried out by this file. The functions that build a NumPy
array are known by their names and never called: an array is made from its bytes, after its shape was compared with
them. Any other instruction or function is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, build

__all__ = ["read_pickle"]

MOST_INSTRUCTIONS = 1_000_000  # CIFAR-100's training images take 0.2 million; each makes 0.3 kB at most by itself
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
FROM_BUFFER = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")
ARRAY, DTYPE, ENCODE = "numpy ndarray", "numpy dtype", "_codecs encode"
KNOWN = {*RECONSTRUCT, *FROM_BUFFER, ARRAY, DTYPE, ENCODE}
BYTE_TYPES = ("u1", "|u1")

VALUES = {  # instructions that push their argument
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


class _Mark:
    """What MARK pushes: where a list of items begins."""


@dataclass(frozen=True)
class _Function:
    """A function by its name, which is never called."""

    name: str


@dataclass
class _Unfinished:
    """An array or element type between the instruction that makes it and the one that gives it its state."""

    kind: str
    value: Any = None


class _Refused(Exception):
    """Raised for what is no plain data; its text says what was found."""


def read_pickle(where: str, path: Path, content: bytes) -> Any:
    """The plain data in a pickle. Text of Python 2 is decoded as Latin-1, which keeps bytes as they are.

    Raises DataError for a pickle that holds or does anything else, and for damage.

    >>> import pickle
    >>> read_pickle("cifar10", Path("meta"), pickle.dumps({"label_names": ["cat", "dog"]}))
    {'label_names': ['cat', 'dog']}
    """
    expects = "a pickle of dicts, lists, text, numbers and arrays of bytes"
    try:
        return _finished(_run(content), {})
    except _Refused as refused:
        got = str(refused)
    except Exception as error:  # pickletools raises errors of many kinds for damage
        got = f"damage ({(str(error).splitlines() or [''])[0].rstrip('.')[:80] or type(error).__name__})"
    raise DataError(build(where, expects, got, path=path, hint="Nothing of it was run. Download it again."))


def _run(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for number, (instruction, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
        name = instruction.name
        if number >= MOST_INSTRUCTIONS:
            raise _Refused(f"more than {MOST_INSTRUCTIONS} instructions")
        if name in VALUES:
            stack.append(argument)
        elif name in MADE:
            stack.append(MADE[name]())
        elif name in PUTS:
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in GETS:
            stack.append(memo[int(argument)])
        elif name == "MARK":
            stack.append(_Mark)
        elif name == "STOP":
            (value,) = stack
            return value
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = _pop(stack, 2)
            stack.append(_known(f"{module} {attribute}"))
        elif name == "REDUCE":
            function, arguments = _pop(stack, 2)
            stack.append(_called(function, arguments))
        elif name == "BUILD":
            (state,) = _pop(stack, 1)
            _give_state(stack[-1], state)
        elif name in CONTAINERS:
            CONTAINERS[name](stack)
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"the instruction {name}")
    raise _Refused("no end")


def _pop(stack: list[Any], count: int) -> list[Any]:
    items = stack[len(stack) - count :]
    if len(items) < count or any(item is _Mark for item in items):
        raise _Refused("an instruction without what it needs")
    del stack[len(stack) - count :]
    return items


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is _Mark:
            items = stack[index + 1 :]
            del stack[index:]
            return items
    raise _Refused("an instruction without what it needs")


def _extend(stack: list[Any], items: list[Any]) -> None:
    if not stack or type(stack[-1]) is not list:
        raise _Refused("items for what is no list")
    stack[-1].extend(items)


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if not stack or type(stack[-1]) is not dict or len(items) % 2:
        raise _Refused("items for what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        key = key.decode("latin-1") if isinstance(key, bytes) else key
        if type(key) not in (str, int):
            raise _Refused("a dict whose keys are no text")
        stack[-1][key] = value


def _new_dict(stack: list[Any]) -> None:
    items = _pop_to_mark(stack)
    stack.append({})
    _set_items(stack, items)


CONTAINERS: dict[str, Callable[[list[Any]], None]] = {  # instructions that put values into containers
    "TUPLE": lambda stack: stack.append(tuple(_pop_to_mark(stack))),
    "TUPLE1": lambda stack: stack.append(tuple(_pop(stack, 1))),
    "TUPLE2": lambda stack: stack.append(tuple(_pop(stack, 2))),
    "TUPLE3": lambda stack: stack.append(tuple(_pop(stack, 3))),
    "LIST": lambda stack: stack.append(_pop_to_mark(stack)),
    "APPEND": lambda stack: _extend(stack, _pop(stack, 1)),
    "APPENDS": lambda stack: _extend(stack, _pop_to_mark(stack)),
    "DICT": _new_dict,
    "SETITEM": lambda stack: _set_items(stack, _pop(stack, 2)),
    "SETITEMS": lambda stack: _set_items(stack, _pop_to_mark(stack)),
}


def _known(name: str) -> _Function:
    if name not in KNOWN:
        raise _Refused(f"the function {name.replace(' ', '.')[:80]!r}")
    return _Function(name)


def _called(function: Any, arguments: Any) -> Any:
    """What a known function would give for these arguments."""
    if not isinstance(function, _Function) or not isinstance(arguments, tuple):
        raise _Refused("a call of what is no function")
    name = function.name
    if name in RECONSTRUCT and arguments and arguments[0] == _Function(ARRAY):
        return _Unfinished("array")
    if name == DTYPE and arguments and arguments[0] in BYTE_TYPES:
        return _Unfinished("dtype", "u1")
    if name == DTYPE and arguments:
        raise _Refused(f"an array of {str(arguments[0])[:20]!r}, not of bytes")
    if name == ENCODE and arguments[1:] == ("latin1",) and isinstance(arguments[0], str):
        return arguments[0].encode("latin-1")
    if name in FROM_BUFFER and len(arguments) == 4:
        content, dtype, shape, order = arguments
        return _array(shape, dtype, order == "F", content)
    raise _Refused(f"a call of {name.replace(' ', '.')} with other arguments")


def _give_state(unfinished: Any, state: Any) -> None:
    if not isinstance(unfinished, _Unfinished) or not isinstance(state, tuple):
        raise _Refused("a state for what has none")
    if unfinished.kind == "array":
        if len(state) != 5 or unfinished.value is not None:
            raise _Refused("an array with another state")
        unfinished.value = _array(state[1], state[2], bool(state[3]), state[4])


def _array(shape: Any, dtype: Any, by_columns: bool, content: Any) -> Any:
    content = content.encode("latin-1") if isinstance(content, str) else content
    is_shape = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(dtype, _Unfinished) or dtype.value != "u1" or not isinstance(content, bytes | bytearray):
        raise _Refused("an array not of bytes")
    if not is_shape or math.prod(shape) != len(content):
        raise _Refused(f"an array of shape {str(shape)[:40]} in {len(content)} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _finished(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """The data with arrays in place of what they were made by, three levels of them at most.

    done: the results by the identity of what they were made from: what is in a pickle once is made once.
    """
    if id(value) in done:
        return done[id(value)]
    if depth > 3:
        raise _Refused("data of more than three levels")
    if isinstance(value, dict):
        result: Any = {key: _finished(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(_finished(item, done, depth + 1) for item in value)
    elif isinstance(value, _Unfinished) and isinstance(value.value, np.ndarray):
        result = value.value
    elif value is None or isinstance(value, str | bytes | bytearray | int | float | np.ndarray):
        return value
    else:
        raise _Refused("a function or an array without its numbers as data")
    done[id(value)] = result
    return result
