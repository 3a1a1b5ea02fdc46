"""Converts and checks the numbers that are arguments of every family: one for all axes or one for each, small enough
that sums of two fit 64 bits.

Accepts what torch accepts: numbers of Python and numpy and tensors of one element, also in lists, tuples and arrays.
:func:`as_int`, :func:`as_ints` and :func:`as_float` convert them to Python's types. They return anything that is not a
number unchanged, for a check to refuse.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError, build

__all__ = ["LARGEST", "as_float", "as_int", "as_ints", "as_key", "is_float", "is_int", "per_axis", "whole"]

LARGEST = 2**62  # the largest argument: sums of two still fit the kernels' 64 bits


def as_int(value: Any) -> Any:
    """Converts a whole number of any library to Python's; returns a traced one, and anything else, unchanged.

    >>> as_int(torch.tensor(2)), as_int(True), as_int(2.0), as_int("same")
    (2, True, 2.0, 'same')
    """
    if type(value) is int or value is None or isinstance(value, bool | float | str | list | tuple | torch.SymInt):
        return value
    if isinstance(value, Tensor) and value.dtype is torch.bool:  # operator.index accepts it, as it accepts True
        return value
    try:
        return int(operator.index(value))
    except TypeError:
        return value


def as_ints(value: Any) -> Any:
    """:func:`as_int` of a number; for a list, an array or another iterable, a tuple of :func:`as_int` of each element.

    >>> as_ints(2), as_ints([2, torch.tensor(3)]), as_ints(torch.tensor([2, 3])), as_ints("same")
    (2, (2, 3), (2, 3), 'same')
    """
    if not isinstance(value, list | tuple):
        value = as_int(value)
        if is_int(value) or isinstance(value, str | bytes) or not isinstance(value, Iterable):
            return value
        try:
            value = tuple(value)
        except TypeError:  # a tensor or array without an axis cannot be iterated
            return value
    return tuple([as_int(v) for v in value])


def as_float(value: Any) -> Any:
    """Converts a real number of any library to Python's; returns a traced one, and anything else, unchanged.

    >>> as_float(torch.tensor(0.5)), as_float(1), as_float(True), as_float("1e-5")
    (0.5, 1, True, '1e-5')
    """
    if type(value) is float or type(value) is int or isinstance(value, bool | torch.SymFloat):
        return value
    if isinstance(value, Tensor):
        number = (
            value.dim() == 0 and not value.requires_grad and not value.is_complex() and value.dtype is not torch.bool
        )
        return value.item() if number else value
    # under torch.compile numpy's numbers are arrays, which are not instances of Real
    real = isinstance(value, Real) or (torch.compiler.is_compiling() and hasattr(value, "__float__"))
    return float(value) if real else value


def is_int(value: Any) -> bool:
    """Whether ``value`` is a whole number, possibly traced; True and False do not count.

    >>> is_int(2), is_int(2.0), is_int(True)
    (True, False, False)
    """
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)


def is_float(value: Any) -> bool:
    """Whether ``value`` is a real number, possibly traced; True and False do not count.

    >>> is_float(2), is_float(2.0), is_float(True)
    (True, True, False)
    """
    return isinstance(value, int | float | torch.SymFloat) and not isinstance(value, bool)


def whole(value: Any, what: str, where: str, least: int = 1) -> int:
    """Returns ``value`` as a whole number of at least ``least``; raises ArgumentTypeError or ArgumentError.

    >>> whole(3, "in_channels", "LocallyConnected2d")
    3
    """
    number = as_int(value)
    if not is_int(number):
        raise ArgumentTypeError(build(where, f"{what} to be an integer", repr(value), hint="Give a whole number."))
    if not least <= number <= LARGEST:
        raise ArgumentError(build(where, f"{what} from {least} to 2^62", number, hint=f"Choose at least {least}."))
    return int(number)


def per_axis(
    value: Any, dims: int, least: int, what: str, where: str, shape: tuple[int, ...] | None = None, most: int = LARGEST
) -> tuple[int, ...]:
    """One number for each axis, between ``least`` and ``most``; ``value`` is one for all axes, or a list.

    Raises ArgumentTypeError or ArgumentError. The message names the argument (``what``) and the operation (``where``),
    and gives x's ``shape``.

    >>> per_axis(3, 2, 1, "stride", "conv2d", (1, 3, 8, 8))
    (3, 3)
    """
    values = as_ints(value)
    values = values if isinstance(values, tuple) else (values,) * dims
    if len(values) == 1:
        values *= dims
    if len(values) != dims or not all(is_int(v) for v in values):
        one = "an integer" if dims == 1 else f"one integer or {dims}"
        raise ArgumentTypeError(build(where, f"{what} to be {one}", repr(value), hint=f"Give {one}.", **_facts(shape)))
    for v in values:
        if not least <= v <= most:
            limit = "2^62" if most == LARGEST or v < least else "2^63 - 1"
            bound = f"at least {least}" if v < least else f"{limit} or less"
            fix = f"Choose {'an' if what[0] in 'aeiou' else 'a'} {what} of {bound}."
            raise ArgumentError(build(where, f"{what} from {least} to {limit}", v, hint=fix, **_facts(shape)))
    return values


def _facts(shape: tuple[int, ...] | None) -> dict[str, object]:
    return {} if shape is None else {"x": shape}


def as_key(value: Any) -> Any:
    """``value`` as a key of a cache, or None if it cannot be one: 2, 2.0 and True would be the same key, so only whole
    numbers and strings are accepted.

    >>> as_key([2, 3]), as_key("same"), as_key(2.0), as_key(torch.tensor(2))
    ((2, 3), 'same', None, 2)
    """
    if type(value) is int or type(value) is str:
        return value
    if type(value) in (tuple, list) and all(type(v) is int for v in value):
        return tuple(value)
    if isinstance(value, Iterator):  # reading it here would use it up
        return None
    value = as_ints(value)
    if isinstance(value, tuple):
        return value if all(type(v) is int for v in value) else None
    return value if type(value) is int else None
