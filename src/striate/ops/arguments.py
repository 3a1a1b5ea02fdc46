"""What every family asks of its arguments: whole numbers, one or one for each axis, within what 64 bits can add."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ArgumentError, ArgumentTypeError, build

__all__ = ["LARGEST", "as_key", "is_int", "per_axis"]

LARGEST = 2**62  # of any argument: sums of two still fit the kernels' 64 bits


def is_int(value: Any) -> bool:
    """Whether ``value`` is a whole number, a traced one too; True and False are none.

    >>> is_int(2), is_int(2.0), is_int(True)
    (True, False, False)
    """
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)


def per_axis(
    value: Any, dims: int, least: int, what: str, where: str, shape: tuple[int, ...] | None = None, most: int = LARGEST
) -> tuple[int, ...]:
    """One number for each axis, from ``least`` to ``most``, from one for all or a list.

    Raises ArgumentTypeError or ArgumentError, with ``what`` for the argument's name, ``where`` for the operation's, and x's ``shape``.

    >>> per_axis(3, 2, 1, "stride", "conv2d", (1, 3, 8, 8))
    (3, 3)
    """
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * dims
    if len(values) == 1:
        values *= dims
    if len(values) != dims or not all(is_int(v) for v in values):
        one = "an integer" if dims == 1 else f"one integer or {dims}"
        raise ArgumentTypeError(build(where, f"{what} to be {one}", repr(value), do=f"Give {one}.", **_facts(shape)))
    for v in values:
        if not least <= v <= most:
            limit = "2^62" if most == LARGEST else "2^63 - 1"
            bound = f"at least {least}" if v < least else f"{limit} or less"
            fix = f"Choose {'an' if what[0] in 'aeiou' else 'a'} {what} of {bound}."
            raise ArgumentError(build(where, f"{what} from {least} to {limit}", v, do=fix, **_facts(shape)))
    return values


def _facts(shape: tuple[int, ...] | None) -> dict[str, object]:
    return {} if shape is None else {"x": shape}


def as_key(value: Any) -> Any:
    """``value`` if it can be a cache's key, else None: 2, 2.0 and True are one key, so only plain integers may be.

    >>> as_key([2, 3]), as_key("same"), as_key(2.0)
    ((2, 3), 'same', None)
    """
    if type(value) is int or type(value) is str:
        return value
    if type(value) in (tuple, list) and all(type(v) is int for v in value):
        return tuple(value)
    return None
