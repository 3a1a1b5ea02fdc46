"""Batch norm over a batch of which x is only a part: other processes, or other calls, have the rest.

Forward takes the statistics of the whole batch. Backward needs ``mean(γ·g)`` and ``mean(γ·g·x̂)`` over the whole batch
too, but can compute only the sums over its own part. The caller passes the function that makes means of these sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .. import _torch
from ..errors import ArgumentError, ShapeError, build
from ..moments import Moments
from . import gate
from .autograd import without_autocast
from .layout import is_channels_last
from .norm import ACTIVATIONS, CHANNELS, activated, check_channel_arguments
from .norm.autograd import DRESIDUAL, DX

__all__ = ["check_plain", "measure", "normalize_with", "step", "synchronized_batch_norm"]


def measure(x: Tensor) -> Moments:
    """The moments of each channel of x, (N, C, *axes), in float64. Where x is empty, they are those of no values.

    >>> m = measure(torch.tensor([[1.0], [3.0]]))
    >>> m.count, m.mean, m.m2
    (2, tensor([2.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    channels = x.shape[1]
    if x.numel() == 0:
        return Moments.empty(channels)
    if not gate.is_open(x):
        return Moments.of(x.detach(), (0, *range(2, x.dim())))
    count = x.numel() // channels
    mean, variance = torch.ops.striate.norm_measure.default(
        x.detach(), 1, channels, CHANNELS, is_channels_last(x), True
    )
    return Moments(count, mean, variance * count)


class _NormalizeWith(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Any,
        weight: Any,
        bias: Any,
        mean: Tensor,
        variance: Tensor,
        means: Any,
        rest: Any,
    ) -> Tensor:
        eps, activation, slope = rest
        if gate.is_open(x, residual, weight, bias):
            geometry = (
                1,
                x.shape[1],
                CHANNELS,
                is_channels_last(x),
                True,
                eps,
                ACTIVATIONS[activation],
                slope,
            )
            y, statistics = torch.ops.striate.norm.default(x, residual, weight, bias, mean, variance, *geometry)
        else:
            statistics = torch.stack([mean, variance])
            y = activated(_affine(x, residual, weight, bias, statistics, eps)[1], activation, slope).to(x.dtype)
        ctx.save_for_backward(x, residual if activation else None, weight, bias, statistics)
        ctx.means, ctx.rest = means, rest
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        x, residual, weight, bias, statistics = ctx.saved_tensors
        gradients = _backward if gate.is_open(dy, x, residual, weight, bias) else _backward_formula
        return *gradients(ctx, dy, x, residual, weight, bias, statistics), None, None, None, None


def _backward(
    ctx: Any, dy: Tensor, x: Tensor, residual: Any, weight: Any, bias: Any, statistics: Tensor
) -> list[Tensor | None]:
    needs, ops = ctx.needs_input_grad, torch.ops.striate
    eps, activation, slope = ctx.rest
    last, following = is_channels_last(x), (eps, ACTIVATIONS[activation], slope)
    sums = ops.norm_sums.default(dy, x, residual, weight, bias, statistics, last, *following)
    dx = dresidual = None
    if needs[0] or needs[1]:
        means = ctx.means(sums)
        if weight is not None:
            means = means * weight
        wanted = DX * needs[0] + DRESIDUAL * (needs[1] and activation is not None)
        geometry = (1, x.shape[1], CHANNELS, last, True, *following, False, wanted)
        dx, dresidual, _, _ = ops.norm_backward.default(dy, x, residual, weight, bias, statistics, means, *geometry)
        dresidual = dy if activation is None else dresidual
    given = (dx, dresidual, sums[1].to(x.dtype), sums[0].to(x.dtype))
    return [g if need else None for g, need in zip(given, needs, strict=False)]


def _backward_formula(
    ctx: Any, dy: Tensor, x: Tensor, residual: Any, weight: Any, bias: Any, statistics: Tensor
) -> list[Tensor | None]:
    eps, activation, slope = ctx.rest
    x_hat, z = _affine(x, residual, weight, bias, statistics, eps)
    g = dy.to(z.dtype)
    if activation is not None:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (g,) = torch.autograd.grad(activated(z, activation, slope), z, g)
    axes = (0, *range(2, x.dim()))
    sums = torch.stack([g.sum(axes, dtype=torch.float64), (g * x_hat).sum(axes, dtype=torch.float64)])
    scale = statistics.new_ones(x.shape[1]) if weight is None else weight.double()
    first, second = (_per_channel(m, z) for m in ctx.means(sums) * scale)
    dx = (g * _per_channel(scale, z) - first - x_hat * second) * _per_channel((statistics[1] + eps).rsqrt(), z)
    given = (dx, g, sums[1], sums[0])
    likes = (x, x if residual is None else residual, x if weight is None else weight, x if bias is None else bias)
    return [
        t.to(like.dtype) if need else None for t, like, need in zip(given, likes, ctx.needs_input_grad, strict=False)
    ]


def _affine(x: Tensor, residual: Any, weight: Any, bias: Any, statistics: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x̂ and the input of the activation, by torch's operators.

    Half precision is computed in float32, as torch's batch norm does.
    """
    wide = x if x.dtype is torch.float64 else x.float()
    mean, scale = statistics[0], (statistics[1] + eps).rsqrt()
    x_hat = (wide - _per_channel(mean, wide)) * _per_channel(scale, wide)
    z = x_hat if weight is None else x_hat * _per_channel(weight, wide)
    z = z if bias is None else z + _per_channel(bias, wide)
    return x_hat, z if residual is None else z + residual


def _per_channel(p: Tensor, x: Tensor) -> Tensor:
    """Reshapes one number a channel so that it broadcasts with x."""
    return p.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


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
    r"""``act(γ·(x - μ)/√(σ² + ε) + β + residual)`` with given moments, whose gradient takes them for functions of x.

    .. math:: dx = \frac{1}{\sqrt{σ² + ε}} (γ·g - means_0 - x̂·means_1), \quad (means_0, means_1) = γ·means(Σ g, Σ g·x̂)

    means: a function from the sums over this part, (2, C) in float64, to the means over the whole batch.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> normalize_with(measure(x), lambda sums: sums / 2, x, None, None, None, 1e-9)
    tensor([[-1.],
            [ 1.]])
    """
    within = None if activation == "silu" else activation
    y: Tensor = _NormalizeWith.apply(  # type: ignore[no-untyped-call]
        x, residual, weight, bias, moments.mean, moments.variance(), means, (eps, within, slope)
    )
    return F.silu(y) if activation == "silu" else y


def step(running_mean: Any, running_var: Any, moments: Moments, momentum: float) -> None:
    r"""Moves running statistics towards a batch's mean and unbiased variance; the batch has more than one value.

    .. math:: r ← (1 - momentum)·r + momentum·batch

    >>> mean, var = torch.zeros(1), torch.ones(1)
    >>> step(mean, var, measure(torch.tensor([[1.0], [3.0]])), 0.5)
    >>> mean, var
    (tensor([1.]), tensor([1.5000]))
    """
    with torch.no_grad():
        for running, batch in ((running_mean, moments.mean), (running_var, moments.m2 / (moments.count - 1))):
            running.copy_((1 - momentum) * running.double() + momentum * batch)


def check_plain(where: str, *tensors: Tensor | None) -> None:
    """Raises ArgumentError under a function transform or tracer.

    A tracer would record the statistics of this part of the batch as constants for all later calls.

    >>> check_plain("here", torch.ones(1))
    """
    closed = gate.closed(*tensors)
    transformed = any(x is not None and _torch.is_transformed(x) for x in tensors)
    if closed is not None and (closed.symbolic or transformed or _torch.has_forward_derivatives()):
        hint = "Call the layer outside of it, or in evaluation."
        raise ArgumentError(build(where, "a call that shares statistics to be a plain one", closed.reason, hint=hint))


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
    """Training batch norm over all processes of a group.

    Each process measures its part of the batch, and each merges all parts in the order of the ranks. Parts may differ
    in size and may be empty. Every process must call this function, and backward, equally often. Raises ArgumentError
    within function transforms and tracers, and ShapeError where all parts together have one value per channel.
    """
    given = (x, running_mean, running_var, weight, bias, True, momentum, eps, residual, activation, where)
    momentum, eps = check_channel_arguments(*given)
    check_plain(where, x, residual, weight, bias, running_mean)
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
        hint = "Use larger batches or .eval()."
        raise ShapeError(
            build(
                where,
                "more than one value per channel to measure, all processes together",
                1,
                hint=hint,
                x=tuple(x.shape),
            )
        )
    if total.count == 0:  # y has no values, but it needs a gradient: backward is called on every rank
        shape = [1, -1] + [1] * (x.dim() - 2)
        y = x if weight is None else x * weight.view(shape)
        return y.clone() if bias is None else y + bias.view(shape)

    def means(sums: Tensor) -> Tensor:
        parts = gathered(sums)
        return torch.stack(parts).cumsum(0)[-1] / total.count

    y = normalize_with(total, means, x, residual, weight, bias, eps, activation, slope)
    if running_mean is not None:
        step(running_mean, running_var, total, momentum)
    return y
