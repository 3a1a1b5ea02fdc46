"""Layer normalization, over the last axes or over the channels, and root-mean-square normalization."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ArgumentError, ShapeError, build
from ...ops import norm as ops
from ...ops.arguments import as_int, is_int
from ..namesake import recorded
from .base import FusedActivation

__all__ = ["LayerNorm", "LayerNorm2d", "RMSNorm"]


class LayerNorm(FusedActivation, torch.nn.LayerNorm):
    r"""Layer normalization over the last axes; arguments and state as in ``torch.nn``.

    .. math:: y = γ·(x - μ_n)/\sqrt{σ²_n + ε} + β

    Source: Ba, Kiros, Hinton, *Layer normalization*, 2016.

    >>> LayerNorm(4)(torch.randn(2, 4)).shape
    torch.Size([2, 4])
    """

    def _compute(self, input: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        options = self._kernel_options(following)
        return ops.by_element(input, self.normalized_shape, self.weight, self.bias, self.eps, **options)


class LayerNorm2d(FusedActivation, torch.nn.Module):
    r"""Layer normalization over the channels, at each position separately: (N, C, H, W), or any number of axes.

    .. math:: y = γ_c·(x - μ_{nhw})/\sqrt{σ²_{nhw} + ε} + β_c

    num_channels: C; elementwise_affine: whether there are γ and β, of shape (C,); bias: whether there is β.

    Raises ArgumentError for fewer than one channel, ShapeError for another number of channels.

    Source: Liu et al., *A ConvNet for the 2020s*, 2022.

    >>> LayerNorm2d(4)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        given, num_channels = num_channels, as_int(num_channels)
        if not is_int(num_channels) or num_channels < 1:
            hint = "It is the size of x's second axis."
            raise ArgumentError(build("LayerNorm2d", "num_channels of at least 1", repr(given), hint=hint))
        self.num_channels, self.eps, self.elementwise_affine = num_channels, eps, elementwise_affine
        factory = {"device": device, "dtype": dtype}
        self.weight = torch.nn.Parameter(torch.ones(num_channels, **factory)) if elementwise_affine else None
        self.bias = torch.nn.Parameter(torch.zeros(num_channels, **factory)) if elementwise_affine and bias else None

    def _as_torch(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.movedim(1, -1), (self.num_channels,), self.weight, self.bias, self.eps).movedim(-1, 1)

    def _compute(self, input: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        if isinstance(input, Tensor) and input.dim() > 1 and input.shape[1] != self.num_channels:
            hint = f"Set num_channels={input.shape[1]}, or look at what comes before."
            raise ShapeError(
                build("LayerNorm2d", f"{self.num_channels} channels", input.shape[1], hint=hint, x=tuple(input.shape))
            )
        return ops.layer_norm_2d(input, self.weight, self.bias, self.eps, **self._kernel_options(following))

    def extra_repr(self) -> str:
        return (
            f"{self.num_channels}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
            + FusedActivation.extra_repr(self)
        )


class RMSNorm(FusedActivation, torch.nn.RMSNorm):
    r"""Root-mean-square normalization over the last axes; arguments and state as in ``torch.nn``.

    .. math:: y = γ·x/\sqrt{mean(x²) + ε}

    Source: Zhang, Sennrich, *Root mean square layer normalization*, 2019.

    >>> RMSNorm(4)(torch.randn(2, 4)).shape
    torch.Size([2, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(x)
        else:
            return self._compute(x) if isinstance(x, Tensor) else recorded(self, self._compute, x)

    def _compute(self, x: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        options = self._kernel_options(following)
        return ops.by_element(x, self.normalized_shape, self.weight, None, self.eps, centered=False, **options)
