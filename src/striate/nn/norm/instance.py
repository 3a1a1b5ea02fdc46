"""Instance normalization, by statistics of each channel of each sample, and adaptive instance normalization."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ShapeError, build
from ...ops import norm as ops
from ..namesake import recorded
from .base import FusedActivation, check_dimensions

__all__ = ["AdaIN", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "adaptive_instance_norm"]


class _InstanceNorm(FusedActivation):
    # Whether the output is channels_last if the input is; torch's output is always contiguous. accelerate sets it.
    _channels_last = False

    def _normalize(self: Any, input: Tensor, following: tuple[str, float] | None) -> Tensor:
        measured = self.training or not self.track_running_stats
        return ops.instance(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            measured,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            any_order=self._channels_last,
            **self._kernel_options(following),
        )

    def _compute(self: Any, input: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        dims = self._get_no_batch_dim()
        axes = ", ".join("DHW"[4 - dims :]) if dims > 2 else "L"
        check_dimensions(input, (dims, dims + 1), type(self).__name__, f"(N, C, {axes}) or (C, {axes})")
        if (
            isinstance(input, Tensor)
            and input.shape[-dims] != self.num_features
            and (self.affine or self.track_running_stats)
        ):
            expects = f"{self.num_features} channels"
            hint = f"Set num_features={input.shape[-dims]}, or look at what comes before."
            raise ShapeError(build(type(self).__name__, expects, input.shape[-dims], hint=hint, x=tuple(input.shape)))
        if isinstance(input, Tensor) and input.dim() == dims:
            return self._normalize(input.unsqueeze(0), following).squeeze(0)
        return self._normalize(input, following)


class InstanceNorm1d(_InstanceNorm, torch.nn.InstanceNorm1d):
    r"""Instance normalization of (N, C, L) or (C, L); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{nc})/\sqrt{σ²_{nc} + ε} + β_c

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> InstanceNorm1d(4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """


class InstanceNorm2d(_InstanceNorm, torch.nn.InstanceNorm2d):
    r"""Instance normalization of (N, C, H, W) or (C, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{nc})/\sqrt{σ²_{nc} + ε} + β_c

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> InstanceNorm2d(4)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """


class InstanceNorm3d(_InstanceNorm, torch.nn.InstanceNorm3d):
    r"""Instance normalization of (N, C, D, H, W) or (C, D, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{nc})/\sqrt{σ²_{nc} + ε} + β_c

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> InstanceNorm3d(4)(torch.randn(2, 4, 8, 8, 8)).shape
    torch.Size([2, 4, 8, 8, 8])
    """


def adaptive_instance_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Normalizes the content per sample and channel, and gives it the style's mean and deviation.

    .. math:: y = σ(s)·(c - μ(c))/\sqrt{σ²(c) + ε} + μ(s), \quad σ(s) = \sqrt{σ²(s) + ε}

    content: (N, C, *axes); style: (N, C, *other axes). Result: content's shape.

    Raises ShapeError where samples or channels differ.

    Source: Huang, Belongie, *Arbitrary style transfer in real-time with adaptive instance normalization*, 2017.

    >>> c, s = torch.randn(1, 2, 8, 8), 3 + 2 * torch.randn(1, 2, 5, 5)
    >>> torch.allclose(adaptive_instance_norm(c, s).mean((2, 3)), s.mean((2, 3)), atol=1e-5)
    True
    """
    for name, x in (("content", content), ("style", style)):
        ops.check_input(x, "AdaIN", 3, "(N, C, *axes)", name=name)
    eps = ops.check_eps(eps, "AdaIN")
    if style.numel() == 0:
        raise ShapeError(
            build("AdaIN", "a style of at least one value per channel", tuple(style.shape), hint="Give an image.")
        )
    if content.shape[:2] != style.shape[:2]:
        expects, hint = (
            f"a style of {content.shape[0]} samples and {content.shape[1]} channels",
            "Expand the style to the content's batch.",
        )
        raise ShapeError(build("AdaIN", expects, tuple(style.shape[:2]), hint=hint, content=tuple(content.shape)))
    var, mean = torch.var_mean(style.flatten(2), 2, correction=0)
    deviation, mean = (
        (v.to(content.dtype)).reshape(*content.shape[:2], *[1] * (content.dim() - 2))
        for v in ((var + eps).sqrt(), mean)
    )
    return torch.addcmul(
        mean, ops.instance(content, None, None, None, None, True, 0.0, eps, where="AdaIN", any_order=True), deviation
    )


class AdaIN(torch.nn.Module):
    """Adaptive instance normalization, :func:`adaptive_instance_norm`, as a layer without parameters.

    >>> AdaIN()(torch.randn(1, 2, 8, 8), torch.randn(1, 2, 5, 5)).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._as_torch(content, style)
        else:
            return (
                self._compute(content, style)
                if isinstance(content, Tensor)
                else recorded(self, self._compute, content, style)
            )

    def _as_torch(self, content: Tensor, style: Tensor) -> Tensor:
        var, mean = torch.var_mean(style.flatten(2), 2, correction=0)
        shape = list(content.shape[:2]) + [1] * (content.dim() - 2)
        normalized = F.instance_norm(content, eps=self.eps)
        return torch.addcmul(mean.reshape(shape), normalized, (var + self.eps).sqrt().reshape(shape))

    def _compute(self, content: Tensor, style: Tensor) -> Tensor:
        return adaptive_instance_norm(content, style, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
