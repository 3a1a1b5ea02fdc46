"""Base classes of the norms: an activation in the kernel's pass, a residual, and checks of the input's axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ShapeError, build
from ...ops import norm as ops
from ..namesake import Namesake, recorded

__all__ = ["FusedActivation", "WithResidual", "check_dimensions", "set_activation"]


class FusedActivation(Namesake):
    """A norm whose kernel can compute an activation in the same pass; by default it computes none.

    In TorchScript, torch's operators compute the activation after the namesake's ``forward``.
    """

    activation: str | None = None
    negative_slope: float = 0.01
    frozen = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = [name for base in cls.__mro__ for name in base.__dict__.get("__constants__", ())]
        cls.__constants__ = list(dict.fromkeys([*known, "activation", "negative_slope", "frozen"]))

    def _scripted(self, input: Tensor) -> Tensor:
        return ops.activated(self._torch_norm(input), self.activation, self.negative_slope)

    def _torch_norm(self, input: Tensor) -> Tensor:  # by torch's operators, without the activation
        return self._as_torch(input)

    def _kernel_options(self, following: tuple[str, float] | None) -> dict[str, Any]:
        """Returns arguments of the operation: the name and slope of the activation after the norm, ``following`` if a
        container passes one and else the layer's own, and the name of the layer for error messages.
        """
        name, slope = following or (self.activation, self.negative_slope)
        return {"activation": name, "slope": slope, "where": type(self).__name__}

    def extra_repr(self: Any) -> str:
        text: str = super().extra_repr()  # type: ignore[misc]
        if self.activation is not None:
            text += f", activation={self.activation!r}"
            if self.activation == "leaky_relu":
                text += f", negative_slope={self.negative_slope}"
        return text


class WithResidual(FusedActivation):
    """A norm whose ``forward`` takes a residual, unlike that of torch's norms and their drop-ins."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            y = self._torch_norm(input)
            if residual is not None:
                y = y + residual
            return ops.activated(y, self.activation, self.negative_slope)
        else:
            inputs = (input,) if residual is None else (input, residual)
            return self._compute(*inputs) if isinstance(input, Tensor) else recorded(self, self._compute, *inputs)


def set_activation(module: Any, activation: str | None, negative_slope: float) -> None:
    ops.check_activation(activation, type(module).__name__)
    module.activation, module.negative_slope = activation, negative_slope


def check_dimensions(x: Any, allowed: tuple[int, ...], where: str, shape: str) -> None:
    if isinstance(x, Tensor) and x.dim() not in allowed:
        raise ShapeError(
            build(where, f"x of shape {shape}", tuple(x.shape), hint="Add or drop axes with unsqueeze or flatten.")
        )
