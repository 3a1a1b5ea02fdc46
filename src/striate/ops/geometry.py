"""Resolves the arguments that convolution, pooling and locally connected layers share to numbers, one for each axis,
with the same error messages for all three.

Each family has a geometry of its own (:class:`~striate.ops.conv.ConvGeometry`,
:class:`~striate.ops.pool.PoolGeometry`, :class:`~striate.ops.local.LocalGeometry`), resolved once from shapes and
arguments and cached by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ..errors import ArgumentError, ShapeError, build
from ..window import output_size, same_padding
from .arguments import per_axis

__all__ = [
    "Sizes",
    "axis_letters",
    "check_fits_memory",
    "output_sizes",
    "rank_error",
    "resolve_dilation",
    "resolve_padding",
]

Sizes = int | Sequence[int]  # one number for all axes, or one for each
SAME = 'Use "same" for ceil(input / stride) outputs.'


def axis_letters(dims: int) -> str:
    """The letters of ``dims`` axes in a shape.

    >>> axis_letters(1), axis_letters(2), axis_letters(3)
    ('L', 'H, W', 'D, H, W')
    """
    return ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"


def rank_error(shape: tuple[int, ...], dims: int, where: str) -> ShapeError:
    """The error about an x that has neither ``dims`` + 1 nor ``dims`` + 2 axes.

    >>> print(rank_error((3, 8), 2, "MaxPool2d"))
    MaxPool2d expects x of shape (N, C, H, W) or (C, H, W), got (3, 8). Add or drop axes with unsqueeze or flatten.
    """
    expects = f"x of shape (N, C, {axis_letters(dims)}) or (C, {axis_letters(dims)})"
    return ShapeError(build(where, expects, shape, hint="Add or drop axes with unsqueeze or flatten."))


def resolve_padding(
    padding: Any,
    input: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    where: str,
    shape: tuple[int, ...],
    hint: str = SAME,
) -> list[tuple[int, int]]:
    """The padding (before, after) of each axis, where ``padding`` is numbers, ``"same"`` or ``"valid"``.

    Raises ArgumentError or ArgumentTypeError; ``shape`` is x's, for the message.

    >>> resolve_padding("same", (7,), (2,), (2,), (1,), "conv1d", (1, 1, 7))
    [(0, 1)]
    >>> resolve_padding((1, 2), (7, 7), (3, 3), (1, 1), (1, 1), "conv2d", (1, 1, 7, 7))
    [(1, 1), (2, 2)]
    """
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(padding), hint=hint, x=shape))
        return [
            (0, 0) if padding == "valid" else same_padding(*a) for a in zip(input, size, stride, dilation, strict=True)
        ]
    return [(p, p) for p in per_axis(padding, len(input), 0, "padding", where, shape)]


def resolve_dilation(
    dilation: Any, size: Sequence[int], where: str, shape: tuple[int, ...], most: int
) -> tuple[int, ...]:
    """The dilation of each axis. Where there is one tap it has no effect: any up to ``most`` is accepted and becomes 1.

    >>> resolve_dilation(2**62, (1, 1), "conv2d", (1, 1, 7, 7), most=2**63 - 1)
    (1, 1)
    """
    given = per_axis(dilation, len(size), 1, "dilation", where, shape, most=most)
    of_taps = tuple(1 if k == 1 else d for k, d in zip(size, given, strict=True))
    return per_axis(of_taps, len(size), 1, "dilation", where, shape)


def output_sizes(
    input: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
    where: str,
    shape: tuple[int, ...],
    ceil: bool = False,
) -> tuple[int, ...]:
    """How many outputs each axis has (:func:`striate.window.output_size`). Raises ShapeError where one has none.

    >>> output_sizes((7, 7), (3, 2), (1, 2), (1, 1), [(1, 1), (0, 0)], "conv2d", (1, 1, 7, 7))
    (7, 3)
    """
    found = []
    for i, k, s, d, (before, after) in zip(input, size, stride, dilation, pads, strict=True):
        found.append(output_size(i, k, s, d, before, after, ceil))
        if found[-1] < 1:
            expects = f"a window no larger than the padded input, {i + before + after}"
            hint = "Make the kernel or its dilation smaller, or pad more."
            raise ShapeError(build(where, expects, (k - 1) * d + 1, hint=hint, x=shape))
    return tuple(found)


def check_fits_memory(
    sizes: Sequence[int], where: str, shape: tuple[int, ...], hint: str, what: str = "an output"
) -> None:
    """Raises ShapeError for a tensor of more than 2⁴⁰ values; does not check while ``torch.compile`` traces.

    >>> check_fits_memory((8, 64, 56, 56), "conv2d", (8, 3, 56, 56), "Pad less.")
    """
    if torch.compiler.is_compiling() or not all(type(n) is int for n in sizes):
        return
    if prod(max(1, n) for n in sizes) > 2**40:
        raise ShapeError(build(where, f"{what} that fits memory", tuple(sizes), hint=hint, x=shape))
