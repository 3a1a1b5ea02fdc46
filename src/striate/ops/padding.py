"""Convolutions with any padding mode, their adjoints, and transposed convolutions with a given output size.

Each is a convolution without padding. :func:`padded_conv` puts the margins around the input before it;
:func:`padded_conv_transpose` adds the margins of its result to the values that they are copies of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError, ShapeError, build
from ..window import same_padding
from . import gate, torch_calls
from .arguments import as_ints, is_int, per_axis
from .conv import conv, conv_transpose, geometry_for
from .geometry import Sizes, check_fits_memory
from .layout import owned

__all__ = ["MODES", "fold", "folded", "pad", "padded_conv", "padded_conv_transpose"]

MODES = ("zeros", "reflect", "replicate", "circular")


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], mode: str) -> Tensor:
    """``x`` with margins around its last axes.

    mode: "zeros"; "reflect", the values next to the edge in reverse; "replicate", the value at the edge; "circular",
    the values at the other end.

    Differentiable. The result has the memory order that torch's operator gives it.

    >>> x = torch.tensor([[1, 2, 3]])
    >>> [pad(x.float(), [2], [1], mode).int().tolist()[0] for mode in MODES]
    [[0, 0, 1, 2, 3, 0], [3, 2, 1, 2, 3, 2], [1, 1, 1, 2, 3, 3], [2, 3, 1, 2, 3, 1]]
    """
    margins = [n for sides in zip(reversed(before), reversed(after), strict=True) for n in sides]
    return F.pad(x, margins, mode="constant" if mode == "zeros" else mode)


def fold(y: Tensor, before: Sequence[int], after: Sequence[int], mode: str, in_place: bool = True) -> Tensor:
    """The adjoint of :func:`pad`: removes the margins and adds them to the values that pad copies into them.

    .. math:: ⟨fold(y), x⟩ = ⟨y, pad(x)⟩

    in_place: adds the margins in place, to one copy an axis; else as :func:`folded`.

    Differentiable. The result keeps the memory order of y.

    >>> y = torch.tensor([[10.0, 20, 1, 2, 3, 30]])
    >>> [fold(y, [2], [1], mode).int().tolist()[0] for mode in MODES]
    [[1, 2, 3], [1, 52, 13], [31, 2, 33], [31, 12, 23]]
    """
    if not in_place:
        return folded(y, list(before), list(after), mode)
    for dim, (p, q) in enumerate(zip(before, after, strict=True), y.dim() - len(before)):
        if p == 0 and q == 0:
            continue
        size = y.shape[dim] - p - q
        head, tail, y = y.narrow(dim, 0, p), y.narrow(dim, p + size, q), y.narrow(dim, p, size)
        if mode == "zeros":
            continue
        y = y.clone()
        if mode == "reflect":
            y.narrow(dim, 1, p).add_(head.flip(dim))
            y.narrow(dim, size - 1 - q, q).add_(tail.flip(dim))
        elif mode == "circular":
            y.narrow(dim, size - p, p).add_(head)
            y.narrow(dim, 0, q).add_(tail)
        elif mode == "replicate":  # added one by one, since the bits of sum() may depend on the number of threads
            y.narrow(dim, 0, 1).index_add_(dim, y.new_zeros(p, dtype=torch.long), head)
            y.narrow(dim, size - 1, 1).index_add_(dim, y.new_zeros(q, dtype=torch.long), tail)
    return y


def folded(y: Tensor, before: list[int], after: list[int], mode: str) -> Tensor:
    """:func:`fold` without in-place operations, in a form that TorchScript compiles.

    >>> torch.jit.script(folded)(torch.tensor([[10.0, 20, 1, 2, 3, 30]]), [2], [1], "circular")
    tensor([[31., 12., 23.]])
    """
    for axis in range(len(before)):
        dim, p, q = y.dim() - len(before) + axis, before[axis], after[axis]
        size = y.shape[dim] - p - q
        head, tail, y = y.narrow(dim, 0, p), y.narrow(dim, p + size, q), y.narrow(dim, p, size)
        if mode == "reflect":
            y = y + _spread(head.flip(dim), dim, size, 1) + _spread(tail.flip(dim), dim, size, size - 1 - q)
        elif mode == "circular":
            y = y + _spread(head, dim, size, size - p) + _spread(tail, dim, size, 0)
        elif mode == "replicate":
            y = (
                y
                + _spread(head.sum(dim, keepdim=True), dim, size, 0)
                + _spread(tail.sum(dim, keepdim=True), dim, size, size - 1)
            )
    return y


def _spread(values: Tensor, dim: int, size: int, at: int) -> Tensor:
    """Puts ``values`` at position ``at`` of an axis of ``size`` values, the rest of which are zeros."""
    return F.pad(values, [0, 0] * (values.dim() - 1 - dim) + [at, size - at - values.shape[dim]])


def _check_margins(
    sizes: Sequence[int], before: Sequence[int], after: Sequence[int], mode: str, where: str, shape: Any
) -> None:
    """Raises where margins cannot be made of axes of these ``sizes``.

    sizes: the axes inside the margins, of an input or of the output of a transposed convolution.
    """
    if mode not in MODES:
        raise ArgumentError(
            build(where, f"a padding_mode of {_words(MODES)}", repr(mode), hint="Leave it out for zeros.", x=shape)
        )
    for size, p, q in zip(sizes, before, after, strict=True):
        if size < 1 and mode != "zeros":
            raise ShapeError(
                build(
                    where, f"values to make a {mode} padding of", size, hint="Give at least one on each axis.", x=shape
                )
            )
        most = {"reflect": size - 1, "circular": size}.get(mode)
        if most is not None and max(p, q) > most:
            expects = f"a {mode} padding of at most {most} on an axis of {size}"
            raise ArgumentError(
                build(where, expects, max(p, q), hint="Pad less, or use padding_mode='replicate'.", x=shape)
            )


def _words(names: Sequence[str]) -> str:
    *most, last = (repr(n) for n in names)
    return f"{', '.join(most)} or {last}"


def padded_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    mode: str = "zeros",
    *,
    dims: int,
    where: str = "conv",
    channels_last: bool = False,
) -> Tensor:
    """:func:`striate.ops.conv.conv` of the padded x, whose margins are those of :func:`pad` in this ``mode``.

    The arguments are those of conv. Raises as conv does, and ArgumentError where a margin of mode "reflect" or
    "circular" is longer than the input allows.

    >>> x, w = torch.tensor([[[1.0, 2, 3]]]), torch.ones(1, 1, 3)
    >>> padded_conv(x, w, padding=1, mode="circular", dims=1)
    tensor([[[6., 6., 6.]]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        x = F.pad(
            x,
            torch_calls.resolved_pad_list(x, weight, stride, padding, dilation, dims),
            mode="constant" if mode == "zeros" else mode,
        )
        return torch_calls.conv_unchecked(x, weight, bias, stride, 0, dilation, groups, dims)
    geometry = geometry_for(x, weight, bias, stride, padding, dilation, groups, dims=dims, where=where)
    shape = tuple(x.shape)
    _check_margins(geometry.input, geometry.before, geometry.after, mode, where, shape)
    padded = tuple(i + p + q for i, p, q in zip(geometry.input, geometry.before, geometry.after, strict=True))
    check_fits_memory((*shape[:-dims], *padded), where, shape, "Pad less.", what="a padded input")
    if closed is not None:
        margins = torch_calls.pad_list(list(zip(geometry.before, geometry.after, strict=True)))
        x = F.pad(x, margins, mode="constant" if mode == "zeros" else mode)
    elif mode == "circular" or any(geometry.before) or any(geometry.after):  # without margins F.pad would still copy x
        x = pad(x, geometry.before, geometry.after, mode)
    rest: Any = {"dims": dims, "where": where, "channels_last": channels_last}
    return conv(x, weight, bias, geometry.stride, 0, geometry.dilation, groups, **rest)


def padded_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    mode: str = "zeros",
    output_size: Sequence[int] | None = None,
    *,
    dims: int,
    where: str = "conv_transpose",
    channels_last: bool = False,
) -> Tensor:
    """The adjoint of :func:`padded_conv` in x, plus a bias: an unpadded transposed convolution, then :func:`fold`.

    output_size: the sizes of the result's axes, with or without batch and channels before them, which are ignored. It
    must be a size from which the convolution makes x's, and takes the place of ``output_padding``.

    Raises as :func:`striate.ops.conv.conv_transpose` does, and ArgumentError for a size from which the convolution does
    not make x's, and where a margin of mode "reflect" or "circular" is longer than the result allows.

    >>> x, w = torch.tensor([[[1.0, 10, 100]]]), torch.tensor([[[1.0, 2, 3]]])
    >>> padded_conv_transpose(x, w, padding=1, mode="circular", dims=1)
    tensor([[[312., 123., 231.]]])
    >>> padded_conv_transpose(x, w, stride=2, padding="same", output_size=[5], dims=1)
    tensor([[[  2.,  13.,  20., 130., 200.]]])
    """
    shape = tuple(x.shape)
    if output_size is not None:  # resolves the largest possible output first
        output_padding = (
            0 if padding == "same" else tuple(s - 1 for s in per_axis(stride, dims, 1, "stride", where, shape))
        )
    p = geometry_for(
        x, weight, bias, stride, padding, output_padding, dilation, groups, dims=dims, where=where, transposed=True
    )
    sizes = p.input if output_size is None else _checked_output_size(output_size, p.input, p.stride, where, shape)
    before, after, tail = [], [], []
    for i, o, k, s, d, n in zip(sizes, p.output, p.size, p.stride, p.dilation, p.before, strict=True):
        front, behind = same_padding(i, k, s, d) if padding == "same" else (n, n)
        before.append(front)
        after.append(behind)
        tail.append(i + front + behind - ((o - 1) * s + d * (k - 1) + 1))
    _check_margins(sizes, before, after, mode, where, shape)
    rest: Any = {"dims": dims, "where": where, "channels_last": channels_last}
    if mode == "zeros" and padding != "same":
        return conv_transpose(x, weight, bias, p.stride, p.before, tail, groups, p.dilation, **rest)
    y = conv_transpose(x, weight, None, p.stride, 0, tail, groups, p.dilation, **rest)
    in_place = gate.is_open(y)
    if mode == "zeros" and in_place:
        y = owned(fold, y, before, after, mode)  # other modes add in place through views: autograd must see those
    else:
        y = fold(y, before, after, mode, in_place=in_place)
    return y if bias is None else y + bias.to(y.dtype).reshape(-1, *[1] * dims)


def _checked_output_size(
    given: Any, most: tuple[int, ...], stride: Sequence[int], where: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The axes of ``output_size``, checked: any sizes from ``most`` - stride + 1 to ``most``."""
    dims, rank = len(most), len(shape)
    sizes = as_ints(given)
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    if len(sizes) == rank:
        sizes = sizes[rank - dims :]
    if len(sizes) != dims or not all(is_int(n) for n in sizes):
        expects = f"an output_size of {dims} or {rank} integers"
        raise ArgumentTypeError(build(where, expects, repr(given), hint="Give the sizes of the axes.", x=shape))
    least = tuple(max(1, n - s + 1) for n, s in zip(most, stride, strict=True))
    if not all(a <= n <= b for a, n, b in zip(least, sizes, most, strict=True)):
        fix = "A convolution brings only these to x's size."
        raise ArgumentError(build(where, f"an output_size from {least} to {most}", sizes, hint=fix, x=shape))
    return sizes
