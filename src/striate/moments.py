r"""The moments that a normalization measures: the count, the mean and the sum of squared deviations of its values.

.. math:: n = n_a + n_b, \quad δ = μ_b - μ_a, \quad μ = μ_a + δ·n_b/n, \quad M = M_a + M_b + δ²·n_a·n_b/n

Moments merge, so that threads, processes (synchronized batch norm) and parts of a data set can each measure their own
values.

Source: Chan, Golub, LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from striate.errors import ArgumentError, build

__all__ = ["Moments"]


@dataclass(frozen=True, eq=False)
class Moments:
    r"""The count, mean and sum of squared deviations of some values.

    .. math:: μ = \frac{1}{n} Σ x, \quad M = Σ (x - μ)²

    count: n, one number for all or a tensor that broadcasts with ``mean``; mean: μ; m2: M, with the shape of ``mean``.

    Source: Chan, Golub, LeVeque, 1979.

    >>> Moments(2, torch.tensor(1.5), torch.tensor(0.5)).variance()
    tensor(0.2500)
    """

    count: int | Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, x: Tensor, dims: int | Sequence[int], keepdim: bool = False) -> Moments:
        r"""Measures x over some of its axes.

        .. math:: μ = \frac{1}{n} Σ x, \quad M = Σ (x - μ)²

        It takes two passes, so that a large mean does not cost M digits. Everything is computed and kept in float64,
        for x of any real type: moments are few compared with the values they summarize, and merging many of them must
        not lose that precision again. Where the axes hold no value, the moments are empty.

        x: any shape; dims: the axes that are reduced; mean and m2: x's shape without dims, or with 1 there if
        ``keepdim``.

        Raises ArgumentError if no axis is given.

        Source: Chan, Golub, LeVeque, 1979 (the two-pass algorithm).

        >>> m = Moments.of(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]), 1)
        >>> m.count, m.mean.tolist(), m.m2.tolist()
        (3, [2.0, 4.0], [2.0, 0.0])
        """
        dims = (dims,) if isinstance(dims, int) else tuple(dims)
        if not dims:
            message = build(
                "Moments.of", "at least one axis to reduce", dims, hint="Name the axes, as (0, 2, 3).", x=tuple(x.shape)
            )
            raise ArgumentError(message)
        x = x.to(torch.float64)
        mean = x.sum(dims, keepdim=True)
        count = 1
        for d in dims:
            count *= x.shape[d]
        mean = mean / max(count, 1)
        m2 = (x - mean).square().sum(dims, keepdim=keepdim)
        return cls(count, mean if keepdim else mean.reshape(m2.shape), m2)

    @classmethod
    def empty(
        cls, *shape: int, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
    ) -> Moments:
        """The moments of no values, which are the identity of :meth:`merge`.

        shape: the shape of mean and m2, which are 0.

        >>> Moments.empty(2).merge(Moments(3, torch.tensor([2.0, 4.0]), torch.tensor([2.0, 0.0]))).mean
        tensor([2., 4.])
        """
        return cls(0, torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))

    def merge(self, other: Moments) -> Moments:
        r"""The moments of the union of both sets of values.

        .. math:: n = n_a + n_b, \quad δ = μ_b - μ_a, \quad μ = μ_a + δ·n_b/n, \quad M = M_a + M_b + δ²·n_a·n_b/n

        The merge is associative and commutative up to rounding. Empty moments are its exact identity, also next to
        infinite ones.

        self, other: moments whose shapes broadcast; the result has the broadcast shape.

        Source: Chan, Golub, LeVeque, 1979, equation 2.1.

        >>> left, right = Moments.of(torch.tensor([1.0, 2.0]), 0), Moments.of(torch.tensor([3.0, 4.0, 5.0]), 0)
        >>> both = left.merge(right)
        >>> both.count, both.mean.item(), both.m2.item()
        (5, 3.0, 10.0)
        """
        if isinstance(other.count, int) and other.count == 0:
            return self
        if isinstance(self.count, int) and self.count == 0:
            return other
        wide = torch.promote_types(self.mean.dtype, other.mean.dtype)
        a, b = (torch.as_tensor(n, dtype=wide, device=self.mean.device) for n in (self.count, other.count))
        share = b / (a + b).clamp(min=1)
        delta = other.mean - self.mean
        mean = self.mean + delta * share
        m2 = self.m2 + other.m2 + delta.square() * a * share
        mean = torch.where(b == 0, self.mean, torch.where(a == 0, other.mean, mean))
        m2 = torch.where(b == 0, self.m2, torch.where(a == 0, other.m2, m2))
        return Moments(self.count + other.count, mean, m2)

    def variance(self, unbiased: bool = False) -> Tensor:
        r"""The variance σ², by which a normalization divides, or the ``unbiased`` s² of torch's running statistics.

        .. math:: σ² = M/n, \quad s² = M/(n - 1)

        The result has the shape of ``mean``. It is NaN where the divisor is 0, as in :func:`torch.var`.

        >>> m = Moments.of(torch.tensor([1.0, 2.0, 3.0, 4.0]), 0)
        >>> m.variance().item(), round(m.variance(unbiased=True).item(), 4)
        (1.25, 1.6667)
        """
        return self.m2 / (self.count - unbiased)
