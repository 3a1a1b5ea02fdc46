"""Batch normalization followed by noise."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import WithResidual
from .batch import _BatchNorm

__all__ = ["NoisyBatchNorm2d"]


class NoisyBatchNorm2d(WithResidual, _BatchNorm, torch.nn.BatchNorm2d):
    r"""Batch normalization followed by a random shift and scale, whose distribution changes at each step, so that it
    does not stabilize what follows.

    .. math::
        z_{nc} = s_{nc}·y_{nc} + m_{nc}, \quad m_{nc} ∼ U(μ_c ± r_μ), \; s_{nc} ∼ N(σ_c, r_σ), \quad
        μ_c ∼ U(±n_μ), \; σ_c ∼ U(1, n_σ)

    Each step draws μ and σ for every channel, and from them a shift and a scale for every sample. The next layer gets
    inputs whose distribution shifts more than without any normalization; that training still goes well shows that batch
    norm does not help by removing that shift. In evaluation, or frozen, it is :class:`BatchNorm2d`. The noise comes
    from the layer's own generator: the same ``seed`` gives the same noise, and forward does not use torch's global
    generator. Without a seed the constructor draws one from that.

    mean_noise, scale_noise: n_μ and n_σ; mean_spread, scale_spread: r_μ and r_σ; the defaults are the paper's.

    Source: Santurkar, Tsipras, Ilyas, Mądry, *How does batch normalization help optimization?*, 2018, appendix A.

    >>> NoisyBatchNorm2d(4, seed=1)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """

    def __init__(
        self,
        num_features: int,
        *args: Any,
        mean_noise: float = 0.5,
        scale_noise: float = 1.25,
        mean_spread: float = 0.1,
        scale_spread: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.mean_noise, self.scale_noise = mean_noise, scale_noise
        self.mean_spread, self.scale_spread = mean_spread, scale_spread
        self.reseed(int(torch.randint(2**31, (), device="cpu")) if seed is None else seed)

    def reseed(self, seed: int) -> None:
        """Restarts the noise with this seed."""
        self.seed, self.step = seed, 0

    def _torch_norm(self, input: Tensor) -> Tensor:
        if self.training and not self.frozen:
            raise RuntimeError(
                "NoisyBatchNorm2d expects evaluation mode in TorchScript, got training. Its noise is drawn by Python: "
                "call .eval() first."
            )
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.running_mean is None, 0.0, self.eps
        )

    def _compute(self, input: Tensor, residual: Tensor | None = None, following: Any = None, **shared: Any) -> Tensor:
        y = super()._compute(input, residual, following, **shared)
        if not self.training or self.frozen:
            return y
        # the CPU's generator uses 32 bits of a seed
        mixed = hashlib.blake2b(f"{self.seed} {self.step}".encode(), digest_size=4)
        random: Any = {
            "generator": torch.Generator("cpu").manual_seed(int.from_bytes(mixed.digest(), "little")),
            "device": "cpu",
        }
        self.step += 1
        channels, shape = input.shape[1], input.shape[:2]
        center = (2 * torch.rand(channels, **random) - 1) * self.mean_noise
        width = 1 + torch.rand(channels, **random) * (self.scale_noise - 1)
        shift = center + (2 * torch.rand(shape, **random) - 1) * self.mean_spread
        scale = width + torch.randn(shape, **random) * self.scale_spread
        shift, scale = (t.to(y).reshape(*shape, *[1] * (y.dim() - 2)) for t in (shift, scale))
        return torch.addcmul(shift, y, scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, seed={self.seed}"
