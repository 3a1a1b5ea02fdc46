"""Eigenvalues of a symmetric matrix that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Ritz", "lanczos", "rademacher"]

NOTHING = 1e-10  # of a vector: what is left of it is rounding, or leaves a new direction 1e-6 accurate, in float64


class Ritz(NamedTuple):
    """What an iteration knows of a matrix A after m products.

    values: its approximate eigenvalues, rising, ``(m,)``; residuals: ‖A y − θ y‖ of each with its vector y of length
    one, ``(m,)``: an eigenvalue of A is no farther away; weights: the share of each in the first start vector,
    ``(m,)``, which add to one; first: vᵀ A v of that vector v, of length one; complete: whether m = n, and the values
    are all eigenvalues.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor
    first: float
    complete: bool


def rademacher(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Vectors of random signs, float64 ``(count, size)``.

    >>> rademacher(2, 3, torch.Generator().manual_seed(0)).abs().tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    return torch.randint(0, 2, (count, size), generator=generator).double().mul_(2).sub_(1)


def lanczos(
    product: Callable[[Tensor], Tensor],
    starts: Tensor,
    steps: int,
    generator: torch.Generator,
    is_enough: Callable[[Ritz], bool] | None = None,
) -> Ritz:
    r"""The Lanczos iteration with full reorthogonalisation, from one or more vectors.

    .. math:: T = Q^T A Q, \quad Q = orthonormal\{v_1, …, v_b, A v_1, …, A v_b, A^2 v_1, …\}

    Eigenvalues of T are the Ritz values of A. From one start a repeated eigenvalue is found once; from b starts,
    ``(b, n)``, up to b times. A new vector is orthogonalised against all before, twice, so that no value appears again
    by rounding ("twice is enough"). Where nothing is left of it, the space is invariant, and a random vector goes on:
    after n steps T has all eigenvalues of A. It ends after ``steps`` products (or n), or when ``is_enough``.

    It costs one product a step, and ``steps`` · n numbers of memory.

    Source: A. Ruhe, "Implementation Aspects of Band Lanczos Algorithms for Computation of Eigenvalues of Large Sparse
    Symmetric Matrices", Mathematics of Computation 33, 1979; B. N. Parlett, "The Symmetric Eigenvalue Problem", 1980.

    >>> generator = torch.Generator().manual_seed(0)
    >>> matrix = torch.diag(torch.tensor([3.0, 3.0, -1.0], dtype=torch.float64))
    >>> [round(value, 12) for value in lanczos(matrix.mv, rademacher(1, 3, generator), 3, generator).values.tolist()]
    [-1.0, 3.0, 3.0]
    """
    block, size = starts.shape
    steps = min(steps, size)
    basis = _Basis(min(steps + block, size), size, generator)  # an empty tensor: memory is taken where it is written
    for start in starts:
        basis.add(start)
    projected = torch.zeros(len(basis.vectors), steps, dtype=torch.float64)
    for step in range(steps):
        if step == basis.count:
            basis.add(torch.zeros(size, dtype=torch.float64))
        rest, parts = basis.split(product(basis.vectors[step]).cpu())
        projected[: basis.count, step] = parts
        length = float(rest.norm())
        if basis.count < len(basis.vectors) and length > NOTHING * float(projected.abs().max()):
            projected[basis.count, step] = length
            basis.append(rest / length)
        # after each step only where that may be the last: the eigenvalues of T cost m³, in all n⁴ for small n
        if is_enough is not None or step + 1 == steps:
            ritz = _ritz(projected[: basis.count, : step + 1], step + 1 == size)
            if is_enough is not None and is_enough(ritz):
                break
    return ritz


class _Basis:
    """Orthonormal vectors, rows of ``vectors``, of which there are ``count`` so far."""

    def __init__(self, most: int, size: int, generator: torch.Generator) -> None:
        self.vectors = torch.empty(most, size, dtype=torch.float64)
        self.count, self.generator = 0, generator

    def split(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is orthogonal to the vectors so far, and the parts along them."""
        known = self.vectors[: self.count]
        total = torch.zeros(self.count, dtype=torch.float64)
        for _ in range(2):
            parts = known @ v
            v = v - parts @ known
            total += parts
        return v, total

    def add(self, v: Tensor) -> None:
        """Appends a vector, or a random one if it lies in the space so far."""
        rest, _ = self.split(v)
        while not float(rest.norm()) > NOTHING * max(float(v.norm()), 1.0):
            v = torch.randn(len(v), generator=self.generator, dtype=torch.float64)
            rest, _ = self.split(v)
        self.append(rest / rest.norm())

    def append(self, v: Tensor) -> None:
        self.vectors[self.count] = v
        self.count += 1


def _ritz(projected: Tensor, complete: bool) -> Ritz:
    """projected: A on the vectors that were multiplied, ``(rows, m)``, rows ≥ m: what leads out of them is behind m."""
    m = projected.shape[1]
    square = projected[:m]
    values, vectors = torch.linalg.eigh((square + square.T) / 2)
    image = projected @ vectors
    image[:m] -= vectors * values
    return Ritz(values, image.norm(dim=0), vectors[0].square(), float(square[0, 0]), complete)
