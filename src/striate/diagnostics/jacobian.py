"""The derivative of a function at a point, as a matrix that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .lanczos import Ritz, lanczos

__all__ = ["ROUNDING", "Jacobian", "Largest", "doubles", "largest_singular_value"]

STEPS = 300  # products at most: clustered singular values need tens, see tests/test_lipschitz.py
MEMORY = 2**31  # bytes for the vectors of an iteration at most
ROUNDING = 1e-12  # of a sum of up to ten thousand products in float64, as a share of it


class Jacobian:
    r"""The matrix J of the derivatives of a function at ``x``, known by J v and Jᵀ u.

    Both are passes of autograd through one graph: Jᵀ u is a backward pass, and J v the derivative of Jᵀ u by u, which
    is linear in u, so that no rounding of f(x + v) − f(x) enters. Where an operator cannot be differentiated twice, J v
    is a forward derivative.

    function: from a tensor to a tensor; x: float64, where. :attr:`y`: the value there.

    >>> matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)
    >>> jacobian = Jacobian(matrix.mv, torch.zeros(2, dtype=torch.float64))
    >>> jacobian.times(torch.tensor([1.0, 0.0])).tolist(), jacobian.transposed(torch.tensor([0.0, 0.0, 1.0])).tolist()
    ([1.0, 3.0, 5.0], [5.0, 6.0])
    """

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._function = function
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            y = function(self.x.clone())  # a copy, which a layer may write to
            # what does not depend on x has the derivative 0, and no graph without this
            self._y = y + 0.0 * self.x.sum() if not y.requires_grad else y
            self._seed = torch.zeros_like(self._y).requires_grad_()
            (self._back,) = torch.autograd.grad(self._y, self.x, self._seed, create_graph=True, materialize_grads=True)
        self.y = self._y.detach()

    def times(self, v: Tensor) -> Tensor:
        """J v, with the shape of y. v: with as many values as x."""
        if not self._back.requires_grad:
            return torch.zeros_like(self.y)
        given = v.to(self.x).reshape(self.x.shape)
        try:
            (found,) = torch.autograd.grad(self._back, self._seed, given, retain_graph=True, materialize_grads=True)
        except RuntimeError:  # as of hardsigmoid: "derivative for aten::hardsigmoid_backward is not implemented"
            found = torch.func.jvp(self._function, (self.x.detach(),), (given,))[1].detach()
        return found

    def transposed(self, u: Tensor) -> Tensor:
        """Jᵀ u, with the shape of x. u: with as many values as y."""
        given = u.to(self.y).reshape(self.y.shape)
        (found,) = torch.autograd.grad(self._y, self.x, given, retain_graph=True, materialize_grads=True)
        return found


class Largest(NamedTuple):
    """What an iteration knows of the largest singular value σ of a matrix.

    value: its best estimate, never above σ but for rounding; steps: the estimate after each product with A and with its
    adjoint; residual: ‖AᵀA v − θ v‖/θ at the end: a squared singular value is within this share of θ = value²;
    complete: whether all singular values are known, so that it is σ up to rounding.
    """

    value: float
    steps: tuple[float, ...]
    residual: float
    complete: bool


def largest_singular_value(jacobian: Jacobian, tolerance: float, seed: int = 0) -> Largest:
    r"""The largest singular value of a matrix J, from below.

    .. math:: σ ≥ \sqrt{θ_m}, \qquad θ_m = \max_{v ∈ K_m} \frac{‖J v‖^2}{‖v‖^2}, \quad
              K_m = span\{v_0, J^T J v_0, …, (J^T J)^{m-1} v_0\}

    It is power iteration that keeps all vectors instead of the last one: the Lanczos iteration on JᵀJ, or on JJᵀ where
    that is smaller. It ends where ‖JᵀJ v − θ v‖ is below ``tolerance`` · θ.

    It costs one product with J and one with its adjoint a step, of which there are at most 300.

    >>> jacobian = Jacobian(lambda x: x * torch.tensor([3.0, -4.0]), torch.zeros(2, dtype=torch.float64))
    >>> round(largest_singular_value(jacobian, 1e-6).value, 9)
    4.0
    """
    is_wide = jacobian.y.numel() < jacobian.x.numel()
    inner, outer = (jacobian.transposed, jacobian.times) if is_wide else (jacobian.times, jacobian.transposed)
    like = jacobian.y if is_wide else jacobian.x
    generator = torch.Generator().manual_seed(seed)
    estimates: list[float] = []

    def product(v: Tensor) -> Tensor:
        return outer(inner(v)).reshape(-1)

    def is_enough(ritz: Ritz) -> bool:
        theta = max(0.0, float(ritz.values[-1]))
        estimates.append(theta**0.5)
        return float(ritz.residuals[-1]) <= tolerance * theta

    start = torch.randn(1, like.numel(), generator=generator, dtype=torch.float64)
    steps = max(2, min(STEPS, MEMORY // (8 * like.numel())))
    ritz = lanczos(product, start, steps, generator, is_enough)
    theta = max(0.0, float(ritz.values[-1]))
    residual = float(ritz.residuals[-1]) / theta if theta > 0 else 0.0
    return Largest(theta**0.5, tuple(estimates), residual, ritz.complete)


def doubles(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers by name, floating-point ones in float64, for ``functional_call``."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    copies: dict[int, Tensor] = {}
    found = {}
    for name, tensor in named:
        if id(tensor) not in copies:
            copy = tensor.detach().clone()
            copies[id(tensor)] = copy.double() if copy.is_floating_point() else copy
        found[name] = copies[id(tensor)]
    return found
