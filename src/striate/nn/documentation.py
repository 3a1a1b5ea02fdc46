"""Generates the docstrings of layers of one, two and three axes from a common text."""

from __future__ import annotations

__all__ = ["for_axes"]


def for_axes(text: str, dims: int, **words: str) -> str:
    """``text`` with the number of axes and the given words in place of their names in braces.

    The names are ``{dims}``, ``{axes}`` (one axis), ``{letters}`` (of a shape), and those of ``words``.

    >>> for_axes("MaxPool{dims}d takes (N, C, {letters}) and moves over {axes}.", 2)
    'MaxPool2d takes (N, C, H, W) and moves over two axes.'
    """
    words = {
        "dims": str(dims),
        "letters": ("L", "H, W", "D, H, W")[dims - 1],
        "axes": ("one axis", "two axes", "three axes")[dims - 1],
        **words,
    }
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text
