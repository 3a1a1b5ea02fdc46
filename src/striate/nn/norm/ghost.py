"""Batch normalization of sub-batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import _torch
from ...errors import ArgumentError, build
from ...ops import norm as ops
from ...ops.arguments import as_int, is_int
from .base import WithResidual
from .batch import _BatchNorm

__all__ = ["GhostBatchNorm2d"]


class GhostBatchNorm2d(WithResidual, _BatchNorm, torch.nn.BatchNorm2d):
    r"""Batch normalization of sub-batches: every ``ghost_batch_size`` consecutive samples have their own statistics;
    in a batch that this does not divide, sub-batches have fewer samples, and differ by one at most.

    .. math:: y = γ_c·(x - μ_{bc})/\sqrt{σ²_{bc} + ε} + β_c

    A large batch then learns with the noise of a small one. The running statistics take one step towards the mean over
    the sub-batches. In evaluation it is :class:`BatchNorm2d`. x: as for :class:`BatchNormAct2d`; a trace or script of a
    layer in training takes multiples of ``ghost_batch_size``, and smaller batches.

    Raises ArgumentError for a size below 1, ShapeError where a sub-batch has one value per channel.

    Source: Hoffer, Hubara, Soudry, *Train longer, generalize better*, 2017.

    >>> from striate.nn import BatchNorm2d
    >>> layer = GhostBatchNorm2d(4, ghost_batch_size=2)
    >>> x = torch.randn(8, 4, 2, 2)
    >>> torch.allclose(layer(x)[2:4], BatchNorm2d(4)(x[2:4]), atol=1e-6)
    True
    """

    def __init__(self, num_features: int, ghost_batch_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.ghost_batch_size = as_int(ghost_batch_size)
        if not is_int(self.ghost_batch_size) or self.ghost_batch_size < 1:
            where = type(self).__name__
            raise ArgumentError(
                build(where, "a ghost_batch_size of at least 1", repr(ghost_batch_size), hint="Choose 16 or 32.")
            )

    def _compute(
        self: Any, input: Tensor, residual: Tensor | None = None, following: Any = None, **given: Any
    ) -> Tensor:
        if _torch.is_recorded():  # a trace must take batches of any size: the number of sub-batches stays symbolic
            y = self._torch_norm(input)
            return ops.activated(y if residual is None else y + residual, self.activation, self.negative_slope)
        return super()._compute(input, residual, following, **given)

    def _torch_norm(self, input: Tensor) -> Tensor:
        """Normalizes a batch of any size by torch's operators."""
        size, mean, var = self.ghost_batch_size, self.running_mean, self.running_var
        if self.frozen or not self.training:
            measured = mean is None or (self.training and not self.frozen)
            return F.batch_norm(input, mean, var, self.weight, self.bias, measured, 0.0, self.eps)
        size = min(size, input.shape[0])
        parts = input.unflatten(0, [-1, size])
        axes = [1] + list(range(3, parts.dim()))  # noqa: RUF005  TorchScript
        now_var, now = torch.var_mean(parts, axes, correction=0, keepdim=True)
        batches = self.num_batches_tracked
        if mean is not None and var is not None and self.track_running_stats:
            momentum = self.momentum
            if batches is not None:
                batches.add_(1)
                if momentum is None:
                    momentum = 1.0 / float(batches)
            count = input[:size].numel() // input.shape[1]  # values of a channel in a sub-batch
            step = 0.0 if momentum is None else momentum
            with torch.no_grad():
                mean.lerp_(now.mean(0).flatten(), step)
                var.lerp_(now_var.mean(0).flatten() * (count / (count - 1)), step)
        shape = [-1] + [1] * (input.dim() - 2)
        y = ((parts - now) * torch.rsqrt(now_var + self.eps)).flatten(0, 1)
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        if self.bias is not None:
            y = y + self.bias.reshape(shape)
        return y

    def _by_channel(
        self: Any, input: Tensor, mean: Tensor | None, var: Tensor | None, measured: bool, momentum: float, **given: Any
    ) -> Tensor:
        def normalized(part: slice, batches: int, momentum: float) -> Tensor:
            own = given | {"residual": None if residual is None else residual[part], "batches": batches}
            return super(GhostBatchNorm2d, self)._by_channel(input[part], mean, var, measured, momentum, **own)

        samples = input.shape[0] if isinstance(input, Tensor) and input.dim() else 0
        residual, batches = given.get("residual"), max(1, -(-samples // self.ghost_batch_size))
        size, larger = samples // batches, samples % batches  # torch.export has no divmod of symbols
        if not measured or larger == 0:
            given["batches"] = batches if measured else 1
            return super()._by_channel(input, mean, var, measured, momentum, **given)
        # The two steps of the running statistics are one towards the mean over all sub-batches: the weight of what was
        # there is (1 - first)·(1 - second) = 1 - momentum. The smaller ones come first, because they may be refused.
        second = momentum * larger / batches
        first = (momentum - second) / (1 - second)
        cut = larger * (size + 1)
        tail = normalized(slice(cut, None), batches - larger, first)
        return torch.cat([normalized(slice(cut), larger, second), tail])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"
