"""The gradients of the norms' operators, and their fake kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...reference import norm as reference
from .. import gate
from ..autograd import detached_leaf, differentiable, fake
from ..layout import empty
from .geometry import ELEMENTS, reduction_axes, statistics_count

__all__ = ["DRESIDUAL", "DX", "norm_backward", "norm_native"]

DX, DRESIDUAL, DWEIGHT, DBIAS = 1, 2, 4, 8  # flags of norm_backward: the gradients to compute


@fake("norm")
def _(x: Any, residual: Any, weight: Any, bias: Any, mean: Any, variance: Any, *geometry: Any) -> Any:
    batches, groups, reduction, channels_last = geometry[:4]
    statistics = x.new_empty([2, statistics_count(x, batches, groups, reduction)], dtype=torch.float64)
    return empty(x, x.shape, x.dtype, channels_last), statistics


@fake("norm_backward")
def _(dy: Any, x: Any, residual: Any, weight: Any, bias: Any, statistics: Any, means: Any, *geometry: Any) -> Any:
    reduction, channels_last, wanted = geometry[2], geometry[3], geometry[-1]

    def like(p: Any, flag: int) -> Any:
        if not wanted & flag:
            return x.new_empty([0])
        if flag & (DX | DRESIDUAL):
            return empty(x, x.shape, x.dtype, channels_last)
        return (
            empty(x, [1, *p.shape], x.dtype, True).squeeze(0)
            if channels_last and reduction == ELEMENTS
            else x.new_empty(p.shape)
        )

    return like(x, DX), like(x, DRESIDUAL), like(weight, DWEIGHT), like(bias, DBIAS)


@fake("norm_measure")
def _(x: Any, batches: Any, groups: Any, reduction: Any, channels_last: Any, centered: Any) -> Any:
    return x.new_empty([2, statistics_count(x, batches, groups, reduction)], dtype=torch.float64)


@fake("norm_sums")
def _(dy: Any, x: Any, *rest: Any) -> Any:
    return x.new_empty([2, x.shape[1]], dtype=torch.float64)


@fake("norm_update")
def _(mean: Any, variance: Any, statistics: Any, count: Any, momentum: Any) -> None:
    return None


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, residual, weight, bias, mean, _, *ctx.geometry, _ = inputs
    activated = ctx.geometry[6] != 0  # only then does backward need the sign of the activation's input
    ctx.save_for_backward(x, residual if activated else None, weight, bias, output[1])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.given = mean is not None  # statistics that were not measured from x are constants
    # torch's activations save a tensor of their own, so that writing scale or shift through `.data` before backward
    # does not change their gradient. Here backward uses these copies if scale or shift have changed.
    eager = activated and not torch.compiler.is_compiling() and gate.is_open(x, weight, bias)
    ctx.applied = [None if p is None else p.clone() for p in (weight, bias)] if eager else []


def _backward(ctx: Any, dy: Any, _: Any) -> Any:
    if dy is None:
        return (None,) * 15
    x, residual, weight, bias, statistics = ctx.saved_tensors
    if not all(p is None or torch.equal(p, now) for p, now in zip(ctx.applied, (weight, bias), strict=False)):
        return *_formula(ctx, dy, None), *[None] * 11
    needs = ctx.needs_input_grad
    wanted = DX * needs[0] + DWEIGHT * needs[2] + DBIAS * needs[3]
    plain = ctx.geometry[6] == 0
    if needs[1] and not plain:
        wanted += DRESIDUAL
    arguments = (dy, x, residual, weight, bias, statistics, None, *ctx.geometry, ctx.given, wanted)
    dx, dresidual, dweight, dbias = norm_backward(*arguments) if wanted else (None,) * 4
    return (
        dx if needs[0] else None,
        (dy if plain else dresidual) if needs[1] else None,
        dweight if needs[2] else None,
        dbias if needs[3] else None,
        *[None] * 11,
    )


def _formula(ctx: Any, dy: Any, _: Any) -> Any:
    if dy is None:
        return (None,) * 4
    *inputs, statistics = ctx.saved_tensors
    given = statistics if ctx.given else None
    outputs = _backward_formula([dy, *inputs], given, *ctx.geometry, applied=ctx.applied)
    return tuple(g if need else None for g, need in zip(outputs, ctx.needs_input_grad, strict=False))


def _backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
    dy, x, residual, weight, bias, statistics, _, *ctx.geometry = inputs
    ctx.save_for_backward(dy, x, residual, weight, bias, statistics)
    ctx.set_materialize_grads(False)


def _double_backward(ctx: Any, *gradients: Any) -> Any:
    """Differentiates the reference formula of what the kernel of backward computes."""
    *inputs, statistics = ctx.saved_tensors
    *geometry, constant, wanted = ctx.geometry
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        given = [detached_leaf(p, further) for p in inputs]
        outputs = _backward_formula(given, statistics if constant else None, *geometry)
    flags = (DX, DRESIDUAL, DWEIGHT, DBIAS)
    used = [
        (out, g) for out, g, flag in zip(outputs, gradients, flags, strict=True) if wanted & flag and g is not None
    ]
    needed = [k for k, p in enumerate(given) if p is not None and ctx.needs_input_grad[k]]
    found: list[Any] = [None] * 17
    if used:
        roots, seeds = zip(*used, strict=True)
        got = torch.autograd.grad(roots, [given[k] for k in needed], seeds, create_graph=further, allow_unused=True)
        for k, gradient in zip(needed, got, strict=True):
            found[k] = gradient
    return tuple(found)


def _backward_formula(
    inputs: Sequence[Any],
    statistics: Tensor | None,
    batches: int,
    groups: int,
    reduction: int,
    channels_last: bool,
    centered: bool,
    eps: float,
    activation: int,
    slope: float,
    *,
    applied: Sequence[Tensor | None] = (),
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    dy, x, residual, weight, bias = inputs
    shape, reduced, affine, affine_shape = reduction_axes(x, batches, groups, reduction)
    (gamma, beta), forward_affine = (
        [None if p is None else p.reshape(affine_shape) for p in both] for both in ((weight, bias), applied)
    )
    mean, variance = (None, None) if statistics is None else (s.reshape(affine_shape) for s in statistics)
    g = dy
    if activation:
        scale, shift = forward_affine or (gamma, beta)
        z = reference.normalize(
            x.reshape(shape), reduced, scale, shift, eps, affine, mean, variance, centered=centered
        ).reshape(x.shape)
        z = z if residual is None else z + residual
        passes = (z > 0) & (z < 6) if activation == 3 else z > 0
        g = torch.where(passes, dy, dy * slope if activation == 2 else torch.zeros_like(dy))
    dx, dgamma, dbeta = reference.normalize_backward(
        g.reshape(shape), x.reshape(shape), reduced, gamma, eps, affine, mean, variance, centered=centered
    )
    return (
        dx.reshape(x.shape),
        g,
        None if weight is None else dgamma.reshape(weight.shape),
        None if bias is None else dbeta.reshape(bias.shape),
    )


norm_native = differentiable("norm", _setup, _backward, _formula, tensors=4)
norm_backward = differentiable("norm_backward", _backward_setup, _double_backward, _double_backward, tensors=5)
