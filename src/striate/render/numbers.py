"""Formats numbers and shapes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["byte_size", "short", "sizes"]


def sizes(shape: Sequence[int]) -> str:
    """Formats a shape with a times sign between its sizes.

    >>> sizes((16, 3, 112, 112))
    '16×3×112×112'
    """
    return "×".join(map(str, shape))


def short(number: float) -> str:
    """Formats a number with three digits and the letter of its power of a thousand.

    >>> [short(n) for n in (0, 999, 1234, 768000, 1814073344)]
    ['0', '999', '1.23k', '768k', '1.81G']
    """
    for letter in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5 or letter == "T":
            return f"{number:.0f}" if not letter else f"{number:.3g}{letter}"
        number /= 1000
    raise AssertionError


def byte_size(number: int) -> str:
    """Formats a number of bytes with the largest unit of which it has whole ones.

    >>> [byte_size(n) for n in (1000, 32768, 1572864, 2**25, 3 * 2**30)]
    ['1000 bytes', '32 KiB', '1536 KiB', '32 MiB', '3 GiB']
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number} bytes"
