"""Upper bounds of the operator norm of a convolution, and of other matrices that autograd can multiply with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as every
from math import cos, gcd, pi, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.padding import fold
from .jacobian import Jacobian

__all__ = ["Bound", "Convolution", "diagonal_bound", "fourier_bound", "is_same_matrix", "row_and_column_bound"]

GRID = 16  # points of a coarse grid a tap: its bound is at most 1/cos(π/32) = 1.005 of the largest value, an axis
CHUNK = 2**22  # complex numbers in memory at once
SAME = 1e-9  # of a product in float64: what counts as equal


class Bound(NamedTuple):
    """An upper bound of an operator norm. by: what gives it, in words; exact: whether it is the norm itself."""

    value: float
    by: str
    exact: bool = False


@dataclass(frozen=True)
class Convolution:
    """A convolution as a matrix, or one whose transposed it is. weight: float64 ``(C_out, C_in / groups, *kernel)``.

    input, output: sizes of the axes; before, after: the padding on each of them; mode: its values, as of
    :func:`striate.ops.padding.pad`.
    """

    weight: Tensor
    input: tuple[int, ...]
    output: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: int
    mode: str

    @property
    def spans(self) -> tuple[int, ...]:
        """The inputs from the first tap to the last on each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))

    @property
    def is_circulant(self) -> bool:
        """Whether it is a convolution on a circle, or some of the outputs of one."""
        return self.mode == "circular" and all(
            n % s == 0 and o * s <= n for n, o, s in zip(self.input, self.output, self.stride, strict=True)
        )

    def circle(self) -> tuple[int, ...]:
        """The sizes of a circle on which the same windows see the same values, with zeros around them."""
        sizes = []
        for n, o, s, b, a in zip(self.input, self.output, self.stride, self.before, self.after, strict=True):
            room = n + max(b, a) if self.mode == "zeros" else n + b + a
            sizes.append(-(-max(room, o * s) // s) * s)
        return tuple(sizes)

    def padding_norm(self) -> float:
        """The operator norm of the padding: the root of how often it repeats one value at most."""
        if self.mode == "zeros":
            return 1.0
        most = 1.0
        for n, b, a in zip(self.input, self.before, self.after, strict=True):
            most *= float(fold(torch.ones(1, 1, n + b + a), [b], [a], self.mode).max())
        return sqrt(most)


def fourier_bound(conv: Convolution) -> Bound:
    r"""An upper bound of a convolution's operator norm, by the Fourier transform of its kernel.

    .. math:: ‖A‖ ≤ \max_θ \frac{1}{\sqrt{S}} ‖[\hat K(θ + 2π j/s)]_{0 ≤ j < s}‖_2 · ‖P‖, \qquad
              \hat K(θ) = Σ_t K_t e^{-i θ·t}

    On a circle a convolution of stride 1 is block-diagonal in the Fourier basis, with the block :math:`\hat K(θ)`
    ``(C_out, C_in)`` at frequency θ = 2π f / N; one of stride s (S = Π s) adds the blocks that alias. With circular
    padding, whole strides and no more outputs than the circle has, that is A, and the bound exact. Other paddings are
    embedded: input and zeros lie on a larger circle, of whose outputs A's are some. A padding that repeats values is a
    matrix P before a convolution without padding.

    Where the circle has more frequencies than 16 a tap, θ runs over that coarser grid, and the maximum is divided by
    cos(π (span - 1)/(2 N)) an axis: between two points of a grid a trigonometric polynomial of degree m rises by no
    more than 1/cos(π m/N).

    Cost: about ``N/2 · min(C_out, C_in · S)³ / groups²`` products for N frequencies, whatever the input's size.

    Source: H. Sedghi, V. Gupta, P. M. Long, "The Singular Values of Convolutional Layers", ICLR 2019, for stride 1;
    H. Ehlich, K. Zeller, "Schwankung von Polynomen zwischen Gitterpunkten", 1964, for the grid.

    >>> ones = torch.ones(1, 1, 3, dtype=torch.float64)
    >>> circular = Convolution(ones, (8,), (8,), (1,), (1,), (1,), (1,), 1, "circular")
    >>> round(fourier_bound(circular).value, 9), fourier_bound(circular).exact
    (3.0, True)
    """
    exact = conv.is_circulant
    whole = conv.input if exact else conv.circle()
    grid, slack = [], 1.0
    for size, span, s in zip(whole, conv.spans, conv.stride, strict=True):
        coarse = -(-GRID * span // s) * s
        grid.append(min(size, coarse))
        if coarse < size:
            slack /= cos(pi * (span - 1) / (2 * coarse))
            exact = False
    largest = max(float(norms.max()) for norms in _block_norms(conv, grid))
    repeated = 1.0 if conv.is_circulant else conv.padding_norm()
    words = "the Fourier transform of the kernel" + (f" × {repeated:.4g} of the padding" if repeated > 1 else "")
    return Bound(largest * slack * repeated, words, exact and conv.output == _outputs_on_circle(conv))


def _outputs_on_circle(conv: Convolution) -> tuple[int, ...]:
    return tuple(n // s for n, s in zip(conv.input, conv.stride, strict=True))


def _block_norms(conv: Convolution, grid: Sequence[int]) -> list[Tensor]:
    """The spectral norms of the blocks at the frequencies of a grid, in some tensors. Those of opposite frequencies are
    equal, so that the last axis takes half of them.
    """
    c_out, c_in, *kernel = conv.weight.shape
    groups, aliases = conv.groups, prod(conv.stride)
    taps = [torch.arange(k, dtype=torch.float64) * d for k, d in zip(kernel, conv.dilation, strict=True)]
    bases = [n // s for n, s in zip(grid, conv.stride, strict=True)]
    firsts = [range(n) for n in bases[:-1]] + [range(bases[-1] // 2 + 1)]
    frequencies = torch.cartesian_prod(*(torch.tensor(first) for first in firsts)).reshape(-1, len(grid))
    matrices = conv.weight.reshape(groups, c_out // groups, c_in, -1).to(torch.complex128)
    found = []
    for part in frequencies.split(max(1, CHUNK // (aliases * c_out * c_in))):
        blocks = []
        for shift in every(*(range(s) for s in conv.stride)):
            phase = torch.zeros(len(part), *kernel, dtype=torch.float64)
            for axis, (j, n, base, tap) in enumerate(zip(shift, grid, bases, taps, strict=True)):
                turns = ((part[:, axis] + j * base).double() / n)[:, None] * tap
                phase = phase + turns.reshape(len(part), *(-1 if a == axis else 1 for a in range(len(grid))))
            wave = torch.polar(torch.ones_like(phase), -2 * pi * phase).flatten(1)
            blocks.append(torch.einsum("goit,ft->fgoi", matrices, wave))
        found.append(_spectral_norms(torch.cat(blocks, 3)) / sqrt(aliases))
    return found


def _spectral_norms(blocks: Tensor) -> Tensor:
    """The largest singular value of each matrix, by the eigenvalues of its smaller Gram matrix."""
    gram = blocks @ blocks.mH if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH @ blocks
    if gram.shape[-1] == 1:
        return gram.real.flatten().sqrt()
    return torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt()


def row_and_column_bound(absolute: Jacobian) -> Bound:
    r"""An upper bound of an operator norm by sums of absolute values.

    .. math:: ‖A‖ ≤ \sqrt{‖A‖_1 · ‖A‖_∞}, \qquad ‖A‖_1 = \max_j Σ_i |a_{ij}|, \quad ‖A‖_∞ = \max_i Σ_j |a_{ij}|

    absolute: a matrix whose numbers are at least :math:`|a_{ij}|`. Cost: one pass forward and one backward.

    Source: I. Schur, "Bemerkungen zur Theorie der beschränkten Bilinearformen", 1911.

    >>> absolute = Jacobian(lambda x: x.reshape(2, 2).mean(1), torch.zeros(4, dtype=torch.float64))
    >>> round(row_and_column_bound(absolute).value ** 2, 9)
    0.5
    """
    rows = absolute.times(torch.ones_like(absolute.x)).max()
    columns = absolute.transposed(torch.ones_like(absolute.y)).max()
    return Bound(sqrt(float(rows) * float(columns)), "sums of rows and columns")


def diagonal_bound(jacobian: Jacobian, v: Tensor) -> Bound | None:
    """The operator norm of a diagonal matrix, its largest number; None for any other. v: a random vector."""
    if jacobian.y.shape != jacobian.x.shape:
        return None
    factors = jacobian.times(torch.ones_like(jacobian.x))
    if not is_same_matrix(jacobian, lambda x: x * factors, v):
        return None
    return Bound(float(factors.abs().max()), "the largest factor", exact=True)


def is_same_matrix(jacobian: Jacobian, function: Callable[[Tensor], Tensor], v: Tensor) -> bool:
    """Whether a linear function is that of a matrix, which one random vector decides: two different ones agree on a set
    of vectors of measure 0 only.
    """
    one, other = jacobian.times(v), function(v.to(jacobian.x).reshape(jacobian.x.shape))
    return one.shape == other.shape and bool((one - other).norm() <= SAME * (one.norm() + other.norm()))


def overlap(size: int, stride: int, dilation: int) -> int:
    """How many windows a value is in at most, on one axis.

    >>> overlap(3, 2, 1), overlap(2, 2, 1), overlap(3, 2, 2)
    (2, 1, 3)
    """
    return -(-size * gcd(stride, dilation) // stride)
