"""Group normalization, by statistics of each group of channels of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops import norm as ops
from ...ops.arguments import as_int
from ..namesake import as_torch
from .base import FusedActivation, WithResidual, set_activation

__all__ = ["GROUP_NORMS", "GroupNorm", "GroupNormAct2d"]


class GroupNorm(FusedActivation, torch.nn.GroupNorm):
    r"""Group normalization of (N, C, *); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{ng})/\sqrt{σ²_{ng} + ε} + β_c

    Source: Wu, He, *Group normalization*, 2018.

    >>> GroupNorm(2, 4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """

    def _compute(
        self, input: Tensor, residual: Tensor | None = None, following: tuple[str, float] | None = None
    ) -> Tensor:
        more = {"residual": residual, **self._kernel_options(following)}
        return ops.by_group(input, self.num_groups, self.weight, self.bias, self.eps, **more)


class GroupNormAct2d(WithResidual, torch.nn.Module):
    r"""Group normalization, the sum with a residual if one is given, and an activation, in one pass forward and
    backward.

    .. math:: y = act(γ_c·(x - μ_{ng})/\sqrt{σ²_{ng} + ε} + β_c + residual)

    x, residual: (N, C, *). activation and negative_slope: as for :class:`BatchNormAct2d`. The other arguments and the
    state are those of :class:`GroupNorm`.

    Raises ArgumentError for any other activation.

    >>> bool((GroupNormAct2d(2, 4)(torch.randn(2, 4, 8, 8)) >= 0).all())
    True
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *args: Any,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        like = GroupNorm(as_int(num_groups), as_int(num_channels), *args, **kwargs)
        self.num_groups, self.num_channels = like.num_groups, like.num_channels
        self.eps, self.affine = like.eps, like.affine
        self.weight, self.bias = like.weight, like.bias
        set_activation(self, activation, negative_slope)

    _as_torch = as_torch(torch.nn.GroupNorm.forward)
    _compute: Any = GroupNorm._compute

    def extra_repr(self) -> str:
        like: Any = torch.nn.GroupNorm
        return str(like.extra_repr(self)) + FusedActivation.extra_repr(self)


GROUP_NORMS: tuple[Any, ...] = (torch.nn.GroupNorm, GroupNormAct2d)  # torch's and striate's
