r"""Locally connected layers: a convolution in which every output position has weights of its own.

In formulas o is a position in the output, t a tap, and i(o, t) = o·stride + t·dilation - before the input position that
they read, on each axis. Each position is a product of matrices; one ``bmm`` computes all of them. einsum would be
shorter, but has no batching rule for ``is_grads_batched``.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from striate.reference.conv import Sizes, window, windows, windows_backward
from striate.window import Window

__all__ = ["local", "local_backward"]


def _seen(
    x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes | str, dilation: Sizes
) -> tuple[Window, Tensor, Tensor]:
    """The window; the gathered inputs, (N, C, positions, taps); the weight, (C_out, C, positions, taps)."""
    axes = window(x.shape[2:], weight.shape[x.ndim :], stride, padding, dilation)
    return axes, _paired(windows(x, axes), x.ndim), _paired(weight, x.ndim)


def _paired(seen: Tensor, rank: int) -> Tensor:
    """Reshapes (.., .., *output, *taps) to (.., .., positions, taps)."""
    positions = prod(seen.shape[2:rank])
    return seen.reshape(*seen.shape[:2], positions, prod(seen.shape[rank:]))


def _columns(seen: Tensor) -> Tensor:
    """Permutes (rows, C, positions, taps) to (positions, rows, C·taps)."""
    return seen.permute(2, 0, 1, 3).reshape(seen.shape[2], seen.shape[0], seen.shape[1] * seen.shape[3])


def _placed(columns: Tensor, channels: int) -> Tensor:
    """The inverse of :func:`_columns`."""
    return columns.reshape(*columns.shape[:2], channels, columns.shape[2] // max(1, channels)).permute(1, 2, 0, 3)


def local(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
) -> Tensor:
    r"""A locally connected layer: weights are not shared between positions.

    .. math:: y[n, k, o] = b[k, o] + Σ_c Σ_t x[n, c, i(o, t)] · w[k, c, o, t]

    x: (N, C, *input); weight: (C_out, C, *output, *taps); bias: (C_out, *output). Result: (N, C_out, *output).
    padding: numbers, ``"same"`` or ``"valid"``.

    Raises ArgumentError for another padding, and RuntimeError where shapes do not fit.

    Source: Gregor, LeCun, *Emergence of complex-like cells in a temporal product network with local receptive fields*,
    2010.

    >>> own = torch.tensor([[[[1, 1], [1, -1], [0, 10]]]])
    >>> local(torch.tensor([[[1, 2, 3, 4]]]), own)
    tensor([[[ 3, -1, 40]]])
    """
    axes, seen, w = _seen(x, weight, stride, padding, dilation)
    y = torch.bmm(_columns(seen), _columns(w).mT).permute(1, 2, 0).reshape(x.shape[0], weight.shape[0], *axes.output)
    return y if bias is None else y + bias


def local_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dweight, dbias) of :func:`local`.

    .. math::
        dx[n, c, i] = Σ_{(o, t): i(o, t) = i} Σ_k dy[n, k, o] · w[k, c, o, t], \quad
        dw[k, c, o, t] = Σ_n dy[n, k, o] · x[n, c, i(o, t)], \quad
        db[k, o] = Σ_n dy[n, k, o]

    dy: (N, C_out, *output); the rest as for ``local``. The results have the shapes of x, weight and bias. Complex
    factors are conjugated.

    Raises as ``local`` does.

    Source: Gregor, LeCun, 2010.

    >>> own = torch.tensor([[[[1, 1], [1, -1], [0, 10]]]])
    >>> dx, dw, db = local_backward(torch.tensor([[[1, 2, 3]]]), torch.tensor([[[1, 2, 3, 4]]]), own)
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[[1, 3, -2, 30]]], [[[[1, 2], [4, 6], [9, 12]]]], [[1, 2, 3]])
    """
    axes, seen, w = _seen(x, weight, stride, padding, dilation)
    g = dy.reshape(*dy.shape[:2], prod(dy.shape[2:]))
    g = g.permute(2, 0, 1)  # (positions, N, C_out)
    dseen = _placed(torch.bmm(g, _columns(w).conj()), x.shape[1]).reshape(*x.shape[:2], *axes.output, *axes.size)
    dweight = _placed(torch.bmm(g.mT, _columns(seen).conj()), x.shape[1]).reshape(weight.shape)
    return windows_backward(dseen, axes), dweight, dy.sum(0)
