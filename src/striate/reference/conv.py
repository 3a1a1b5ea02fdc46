r"""Convolution: a weighted sum of the inputs in a window.

:func:`windows` gathers the input that each tap of each output reads; :func:`windows_backward` is its adjoint. Pooling
and locally connected layers reduce the same gathered tensor in other ways.

In formulas o is a position in the output, t a tap, and i(o, t) = o·stride + t·dilation - before the input position that
they read, on each axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from striate.errors import ArgumentError, build
from striate.window import AdaptiveAxis, Axis, Window, output_size, same_padding

from .._renamed import accept_old_names

__all__ = [
    "Axes",
    "conv",
    "conv_backward",
    "conv_backward_data",
    "conv_backward_weights",
    "conv_forward",
    "window",
    "windows",
    "windows_backward",
]

Axes = Window | Sequence[Axis | AdaptiveAxis]
Sizes = int | Sequence[int]


def window(
    input: Sequence[int], size: Sequence[int], stride: Sizes = 1, padding: Sizes | str = 0, dilation: Sizes = 1
) -> Window:
    """The window of a layer with torch's arguments, each one number for all axes or one number for each.

    .. math:: output = ⌊(input + before + after - dilation·(size - 1) - 1) / stride⌋ + 1

    input: spatial sizes; padding: numbers, ``"valid"`` (none) or ``"same"`` (ceil(input / stride) outputs; an odd zero
    goes behind).

    Raises ArgumentError for any other word.

    Source: Dumoulin, Visin, *A guide to convolution arithmetic for deep learning*, 2016.

    >>> window((28, 28), (5, 5), padding="same").output, window((32,), (5,), stride=2).output
    ((28, 28), (14,))
    """
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ArgumentError(
            build("conv", "a padding of 'same', 'valid' or whole numbers", repr(padding), hint="Pass one of these.")
        )
    axes = []
    for d, (i, k) in enumerate(zip(input, size, strict=True)):
        s, dil = (v if isinstance(v, int) else v[d] for v in (stride, dilation))
        if isinstance(padding, str):
            before, after = same_padding(i, k, s, dil) if padding == "same" else (0, 0)
        else:
            before = after = padding if isinstance(padding, int) else padding[d]
        axes.append(Axis(i, output_size(i, k, s, dil, before, after), k, s, dil, before, after))
    return Window(tuple(axes))


def _sources(axis: Axis | AdaptiveAxis, mode: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The input position that each tap of each output reads, and whether it exists: two tensors (output, taps)."""
    # adaptive windows differ in length: the short ones are filled up with taps that read no input
    if isinstance(axis, AdaptiveAxis):
        rows = [axis.taps(o) for o in range(axis.output)]
        longest = max(map(len, rows), default=1)
        at = torch.tensor([row + [-1] * (longest - len(row)) for row in rows], dtype=torch.long, device=device).reshape(
            -1, longest
        )
    else:
        o, t = torch.arange(axis.output, device=device), torch.arange(axis.size, device=device)
        at = o[:, None] * axis.stride + t * axis.dilation - axis.before
    last = axis.input - 1
    inside = (at >= 0) & (at <= last)
    if mode == "zeros":
        return at.clamp(0, last), inside
    if mode == "replicate":
        at = at.clamp(0, last)
    elif mode == "circular":
        at = at % axis.input
    elif mode == "reflect":
        if not bool(((at >= -last) & (at <= 2 * last)).all()):
            fix = "Pad less, or use padding_mode='replicate'."
            raise ArgumentError(
                build("conv", f"a reflected padding of at most {last}, the input's size less one", axis, hint=fix)
            )
        at = last - (last - at.abs()).abs()
    else:
        fix = "Use 'zeros', 'reflect', 'replicate' or 'circular'."
        raise ArgumentError(build("conv", "a padding_mode that exists", repr(mode), hint=fix))
    return at, torch.ones_like(inside)


def windows(x: Tensor, axes: Axes, fill: float = 0, mode: str = "zeros") -> Tensor:
    """Gathers the input that each tap of each output reads, and ``fill`` where a tap reads no input.

    .. math:: seen[n, c, o, t] = x[n, c, i(o, t)]

    x: (N, C, *input); axes: a Window or its axes, adaptive ones too, one for each of the last axes of x; mode: the
    padding, which is ``fill`` for ``"zeros"``, else values of the input by ``"reflect"``, ``"replicate"`` or
    ``"circular"``.
    Result: (N, C, *output, *taps); adaptive windows that are shorter than the longest end in ``fill``.

    Raises ArgumentError for another mode, and where a reflection does not fit into the input.

    Source: Chellapilla, Puri, Simard, *High performance convolutional neural networks for document processing*, 2006.

    >>> windows(torch.tensor([1, 2, 3]), (Axis(input=3, output=3, size=3, before=1, after=1),))
    tensor([[0, 1, 2],
            [1, 2, 3],
            [2, 3, 0]])
    >>> windows(torch.arange(5), (AdaptiveAxis(input=5, output=3),), fill=-1)
    tensor([[ 0,  1, -1],
            [ 1,  2,  3],
            [ 3,  4, -1]])
    """
    axes = tuple(axes)
    lead = x.ndim - len(axes)
    for d, axis in enumerate(axes):
        at, inside = _sources(axis, mode, x.device)
        dim = lead + 2 * d  # each axis before this one has become two, output and tap
        x = torch.unflatten(x.index_select(dim, at.flatten()), dim, at.shape)
        x = x.masked_fill(~inside.reshape(*at.shape, *[1] * (x.ndim - dim - 2)), fill)
    return x.permute(*range(lead), *range(lead, x.ndim, 2), *range(lead + 1, x.ndim, 2))


def windows_backward(dseen: Tensor, axes: Axes, mode: str = "zeros") -> Tensor:
    """The adjoint of :func:`windows`: each input sums the gradients of the (output, tap) pairs that read it.

    .. math:: dx[n, c, i] = Σ_{(o, t): i(o, t) = i} dseen[n, c, o, t]

    dseen: (N, C, *output, *taps); axes, mode: those of ``windows``. Result: (N, C, *input).

    Raises as ``windows`` does.

    >>> windows_backward(torch.ones(3, 3), (Axis(input=3, output=3, size=3, before=1, after=1),))
    tensor([2., 3., 2.])
    """
    axes = tuple(axes)
    count = len(axes)
    lead = dseen.ndim - 2 * count
    dx = dseen.permute(*range(lead), *(lead + d + side for d in range(count) for side in (0, count)))
    for dim, axis in enumerate(axes, lead):  # (output, tap) pairs are summed into inputs, axis by axis
        at, inside = _sources(axis, mode, dx.device)
        dx = dx.masked_fill(~inside.reshape(*at.shape, *[1] * (dx.ndim - dim - 2)), 0)
        # reshape, since flatten has no batching rule for is_grads_batched
        dx = dx.reshape(*dx.shape[:dim], at.numel(), *dx.shape[dim + 2 :])
        zeros = dx.new_zeros(*dx.shape[:dim], axis.input, *dx.shape[dim + 1 :])
        dx = zeros.index_add(dim, at.flatten(), dx)
    return dx


def _grouped(x: Tensor, axes: Window, groups: int, mode: str) -> Tensor:
    """The gathered inputs, (N, G, C/G, positions, taps)."""
    return torch.unflatten(windows(x, axes, mode=mode).flatten(2, x.ndim - 1).flatten(3), 1, (groups, -1))


def conv_forward(x: Tensor, weight: Tensor, axes: Window, groups: int = 1, mode: str = "zeros") -> Tensor:
    r"""The convolution over a resolved window: y[n, k, o] = Σ_c Σ_t x[n, c, i(o, t)] · w[k, c, t].

    x: (N, C, *input); weight: (C_out, C/groups, *taps). Result: (N, C_out, *output).

    >>> conv_forward(torch.tensor([[[1, 2, 3]]]), torch.tensor([[[1, -1]]]), window((3,), (2,)))
    tensor([[[-1, -1]]])
    """
    w = torch.unflatten(weight.flatten(2), 0, (groups, -1))
    y = torch.einsum("ngcpt,gkct->ngkp", _grouped(x, axes, groups, mode), w)
    return y.reshape(x.shape[0], weight.shape[0], *axes.output)


def conv_backward_data(dy: Tensor, weight: Tensor, axes: Window, groups: int = 1, mode: str = "zeros") -> Tensor:
    r"""The input gradient, which is also the transposed convolution.

    .. math:: dx[n, c, i] = Σ_{(o, t): i(o, t) = i} Σ_k dy[n, k, o] · w[k, c, t]

    It is a full convolution of dy with the kernel rotated by 180°. dy: (N, C_out, *output). Result: (N, C, *input).

    >>> conv_backward_data(torch.tensor([[[1, 10]]]), torch.tensor([[[1, -1]]]), window((3,), (2,)))
    tensor([[[  1,   9, -10]]])
    """
    w = torch.unflatten(weight.flatten(2), 0, (groups, -1))
    g = torch.unflatten(dy.flatten(2), 1, (groups, -1))
    dseen = torch.einsum("ngkp,gkct->ngcpt", g, w.conj())
    return windows_backward(dseen.reshape(dy.shape[0], weight.shape[1] * groups, *axes.output, *axes.size), axes, mode)


def conv_backward_weights(dy: Tensor, x: Tensor, axes: Window, groups: int = 1, mode: str = "zeros") -> Tensor:
    r"""The weight gradient: dw[k, c, t] = Σ_n Σ_o dy[n, k, o] · x[n, c, i(o, t)], the correlation of x with dy.

    dy: (N, C_out, *output); x: (N, C, *input). Result: (C_out, C/groups, *taps).

    >>> conv_backward_weights(torch.tensor([[[1, 10]]]), torch.tensor([[[1, 2, 3]]]), window((3,), (2,)))
    tensor([[[21, 32]]])
    """
    g = torch.unflatten(dy.flatten(2), 1, (groups, -1))
    dweight = torch.einsum("ngkp,ngcpt->gkct", g, _grouped(x, axes, groups, mode).conj())
    return dweight.reshape(dy.shape[1], x.shape[1] // groups, *axes.size)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    r"""Convolution as neural networks use the word: cross-correlation, with a kernel that is not flipped.

    .. math:: y[n, k, o] = b[k] + Σ_c Σ_t x[n, c, i(o, t)] · w[k, c, t]

    With groups, output channel k sums over the C/G channels c of its own group.

    x: (N, C, *input); weight: (C_out, C/groups, *taps); bias: (C_out,). Result: (N, C_out, *output).
    padding: numbers, ``"same"`` or ``"valid"``; padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or
    ``"circular"``.

    Raises ArgumentError for another padding or padding_mode, and RuntimeError where shapes do not fit.

    Source: Dumoulin, Visin, *A guide to convolution arithmetic for deep learning*, 2016.

    >>> sobel_x = torch.tensor([[[[1, 0, -1], [2, 0, -2], [1, 0, -1]]]])
    >>> conv(torch.arange(16).reshape(1, 1, 4, 4), sobel_x)
    tensor([[[[-8, -8],
              [-8, -8]]]])
    """
    axes = window(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = conv_forward(x, weight, axes, groups, padding_mode)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(axes.axes))


def conv_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dweight, dbias) of :func:`conv`, which is linear in each argument: they are its adjoints.

    .. math::
        dx[n, c, i] = Σ_{(o, t): i(o, t) = i} Σ_k dy[n, k, o] · w[k, c, t], \quad
        dw[k, c, t] = Σ_n Σ_o dy[n, k, o] · x[n, c, i(o, t)], \quad
        db[k] = Σ_n Σ_o dy[n, k, o]

    dx is a full convolution of dy with the kernel rotated by 180°; dw correlates x with dy. Complex factors are
    conjugated.

    dy: (N, C_out, *output); the rest as for ``conv``. The results have the shapes of x, weight and bias.

    Raises as ``conv`` does.

    Source: Dumoulin, Visin, *A guide to convolution arithmetic for deep learning*, 2016.

    >>> x, w = torch.tensor([[[1, 2, 3, 4]]]), torch.tensor([[[1, -1]]])
    >>> dx, dw, db = conv_backward(torch.tensor([[[1, 10, 100]]]), x, w)
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[[1, 9, 90, -100]]], [[[321, 432]]], [111])
    """
    axes = window(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    dx, dweight = (
        conv_backward_data(dy, weight, axes, groups, padding_mode),
        conv_backward_weights(dy, x, axes, groups, padding_mode),
    )
    return dx, dweight, dy.flatten(2).sum((0, 2))

accept_old_names(__name__)
