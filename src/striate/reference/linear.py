r"""Linear layers: a product of matrices and its two gradients, which are products of matrices too.

Leading axes of x are rows of a matrix: the layer computes each of them alone.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

__all__ = ["linear", "linear_backward"]


def _rows(x: Tensor) -> Tensor:
    """Reshapes (*, features) to (rows, features)."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""A linear layer: each output is a weighted sum of all inputs.

    .. math:: y[r, o] = b[o] + Σ_i x[r, i] · w[o, i]

    x: (*, in); weight: (out, in); bias: (out,). Result: (*, out).

    Raises RuntimeError where shapes do not fit.

    >>> linear(torch.tensor([1, 10]), torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([100, 200, 300]))
    tensor([121, 243, 365])
    """
    y = torch.mm(_rows(x), weight.T).reshape(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


def linear_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dweight, dbias) of :func:`linear`.

    .. math::
        dx[r, i] = Σ_o dy[r, o] · w[o, i], \quad
        dw[o, i] = Σ_r dy[r, o] · x[r, i], \quad
        db[o] = Σ_r dy[r, o]

    dy: (*, out); the rest as for ``linear``. The results have the shapes of x, weight and bias. Complex factors are
    conjugated.

    Raises RuntimeError where shapes do not fit.

    >>> dx, dw, db = linear_backward(torch.tensor([1, 0]), torch.tensor([5, 7]), torch.tensor([[1, 2], [3, 4]]))
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([1, 2], [[5, 7], [0, 0]], [1, 0])
    """
    g = _rows(dy)
    dx = torch.mm(g, weight.conj()).reshape(x.shape)
    return dx, torch.mm(g.T, _rows(x).conj()), g.sum(0)
