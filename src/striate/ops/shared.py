"""Batch norm with statistics measured elsewhere too: by other processes, or from other parts of the batch.

Forward is given the statistics of all of it. Backward needs ``mean(γ·g)`` and ``mean(γ·g·x̂)`` of all of it as well, and has the
sums of its own part: whoever calls says how those become means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError, ShapeError, build
from ..moments import Moments
from . import gate, norm
from .layout import is_channels_last

__all__ = ["check_native", "measure", "normalize_with", "synchronized_batch_norm"]


def measure(x: Tensor) -> Moments:
    """The moments of each channel of x, (N, C, *axes), in float64; of no values where x is empty. Call :func:`check_native` before.

    >>> m = measure(torch.tensor([[1.0], [3.0]]))
    >>> m.count, m.mean, m.m2
    (2, tensor([2.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    channels = x.shape[1]
    if x.numel() == 0:
        return Moments.empty(channels)
    count = x.numel() // channels
    mean, variance = torch.ops.striate.norm_measure.default(x.detach(), 1, channels, norm.CHANNELS, is_channels_last(x), True)
    return Moments(count, mean, variance * count)


class _NormalizeWith(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Any, weight: Any, bias: Any, mean: Tensor, variance: Tensor, means: Any, rest: Any
    ) -> Tensor:
        eps, number, slope = rest
        last = is_channels_last(x)
        arguments = (mean, variance, 1, x.shape[1], norm.CHANNELS, last, True, eps, number, slope)
        y, statistics = torch.ops.striate.norm.default(x, residual, weight, bias, *arguments)
        ctx.save_for_backward(x, residual if number else None, weight, bias, statistics)
        ctx.means, ctx.rest, ctx.last = means, rest, last
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, residual, weight, bias, statistics = ctx.saved_tensors
        needs, ops = ctx.needs_input_grad, torch.ops.striate
        sums = ops.norm_sums.default(dy, x, residual, weight, bias, statistics, ctx.last, *ctx.rest)
        dx = dresidual = None
        if needs[0] or needs[1]:
            means = ctx.means(sums)
            if weight is not None:
                means = means * weight
            plain = ctx.rest[1] == 0
            wanted = norm.DX * needs[0] + norm.DRESIDUAL * (needs[1] and not plain)
            geometry = (1, x.shape[1], norm.CHANNELS, ctx.last, True, *ctx.rest, False, wanted)
            dx, dresidual, _, _ = ops.norm_backward.default(dy, x, residual, weight, bias, statistics, means, *geometry)
            dresidual = dy if plain else dresidual
        dweight = sums[1].to(x.dtype) if needs[2] else None
        dbias = sums[0].to(x.dtype) if needs[3] else None
        return (dx if needs[0] else None), (dresidual if needs[1] else None), dweight, dbias, None, None, None, None


def normalize_with(
    moments: Moments,
    means: Callable[[Tensor], Tensor],
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None = None,
    slope: float = 0.01,
) -> Tensor:
    r"""``act(γ·(x - μ)/√(σ² + ε) + β + residual)`` with the moments given, differentiable as if they came from x.

    .. math:: dx = \frac{1}{\sqrt{σ² + ε}} (γ·g - means_0 - x̂·means_1), \quad (means_0, means_1) = γ·means(Σ g, Σ g·x̂)

    means: from the sums of x's part, (2, C) in float64, to the means of the whole.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> normalize_with(measure(x), lambda sums: sums / 2, x, None, None, None, 1e-9)
    tensor([[-1.],
            [ 1.]])
    """
    rest = (eps, norm.ACTIVATIONS[activation], slope)
    y = _NormalizeWith.apply(  # type: ignore[no-untyped-call]
        x, residual, weight, bias, moments.mean, moments.variance(), means, rest
    )
    return F.silu(y) if activation == "silu" else y


def check_native(where: str, *tensors: Tensor | None) -> None:
    """Raises ArgumentError where no kernel takes these: torch has no operator for statistics from elsewhere on the CPU."""
    reason = gate.reason(*tensors)
    if reason is not None:
        raise ArgumentError(build(where, "what a kernel takes", reason, do="Convert x and the layer to float32 on the CPU."))


def synchronized_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    group: Any,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "SyncBatchNorm",
) -> Tensor:
    """Training batch norm over all processes of a group: each measures its part, all merge all parts in the order of the ranks.

    Parts may differ in size, and be empty. Every process must call it, and backward, equally often. Raises ArgumentError
    where no kernel takes x, ShapeError where all parts together have one value per channel.
    """
    given = (x, running_mean, running_var, weight, bias, True, momentum, eps, residual, activation, where)
    momentum, eps = norm.check_channel_arguments(*given)
    check_native(where, x, residual, weight, bias, running_mean)
    channels = x.shape[1]
    own = measure(x)

    def gathered(values: Tensor) -> list[Tensor]:
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, values, group=group)
        return parts

    count = torch.full((1,), float(own.count), dtype=torch.float64)
    total = Moments.empty(channels)
    for part in gathered(torch.cat([count, own.mean, own.m2])):
        total = total.merge(Moments(int(part[0]), part[1 : channels + 1], part[channels + 1 :]))
    if total.count == 1:
        do = "Use larger batches or .eval()."
        raise ShapeError(build(where, "more than one value per channel to measure, all processes together", 1, do=do, x=tuple(x.shape)))
    if total.count == 0:  # no values, but a graph: backward is called on every rank
        shape = [1, -1] + [1] * (x.dim() - 2)
        y = x if weight is None else x * weight.view(shape)
        return y.clone() if bias is None else y + bias.view(shape)

    def means(sums: Tensor) -> Tensor:
        parts = gathered(sums)
        return torch.stack(parts).cumsum(0)[-1] / total.count

    y = normalize_with(total, means, x, residual, weight, bias, eps, activation, slope)
    if running_mean is not None:
        statistics = torch.stack([total.mean, total.variance()])
        torch.ops.striate.norm_update.default(running_mean, running_var, statistics, total.count, momentum)
    return y
