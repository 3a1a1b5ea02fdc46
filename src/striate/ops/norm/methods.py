"""The methods of norms: striate's kernel, or torch's operators for the norm, the residual and the activation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reference import norm as reference
from .. import gate
from ..dispatch import Candidate, always
from ..layout import is_channels_last
from ..rematerialize import allow_recompute, save_or_recompute
from .autograd import norm_native
from .geometry import ACTIVATIONS, reduction_axes

__all__ = ["METHODS", "activated"]

ARGUMENTS = 14  # how many arguments of a method follow the residual, without those that only containers pass
_ops = torch.ops.striate


def _refusal(closed: gate.Closed | None, x: Tensor, residual: Any, weight: Any, bias: Any, *rest: Any) -> str | None:
    if closed is not None:
        return closed.reason
    for p in (weight, bias):
        if p is not None and p.dtype is not x.dtype:
            return f"kernels need scale and shift of the input's type, {str(x.dtype).removeprefix('torch.')}"
    if x.numel() == 0:
        return "kernels need at least one value"
    if rest[8] == 0:  # eps
        return (
            "with an eps of 0 a constant gives what torch's operator makes of it: NaN in most norms, β in instance norm"
        )
    return None


def _native(
    closed: None,
    x: Tensor,
    residual: Any,
    weight: Any,
    bias: Any,
    running: Any,
    variance: Any,
    measured: bool,
    batches: int,
    groups: int,
    reduction: int,
    any_order: bool,
    centered: bool,
    eps: float,
    activation: str | None,
    slope: float,
    torch_norm: Any,
    statistics: Tensor | None = None,
    rematerialize_residual: bool = False,
    step: Callable[[Tensor], None] | None = None,
    step_first: bool = False,
) -> Tensor:
    last = any_order and is_channels_last(x)
    mean, variance = (None, None) if measured else (running, variance)
    number = ACTIVATIONS[activation]
    if step is not None and step_first:
        if statistics is None:
            statistics = _ops.norm_measure.default(x.detach(), batches, groups, reduction, last, centered)
        step(statistics)
        step = None
    rest = (batches, groups, reduction, last, centered, eps, number, slope, statistics)
    y, used = norm_native(x, residual, weight, bias, mean, variance, *rest)
    if step is not None:
        step(used)
    if residual is None:
        allow_recompute(y, functools.partial(_recompute, rest[:-1], mean is not None, activation), (2, 3))
    elif rematerialize_residual and number:
        save_or_recompute(residual, y, 1)
    return F.silu(y) if activation == "silu" else y


def _recompute(
    geometry: Any, given: bool, name: str | None, x: Tensor, residual: None, weight: Any, bias: Any, statistics: Tensor
) -> Tensor:
    """Recomputes the norm's output, with the same bits, from what its node saved for backward."""
    if gate.is_open(x, weight, bias):
        return _ops.norm.default(x, residual, weight, bias, *statistics, *geometry, None)[0]
    batches, groups, reduction, _, centered, eps, _, slope = geometry
    shape, reduced, affine, affine_shape = reduction_axes(x, batches, groups, reduction)
    gamma, beta = (None if p is None else p.reshape(affine_shape) for p in (weight, bias))
    mean, variance = (s.reshape(affine_shape) for s in statistics) if given else (None, None)
    y = reference.normalize(x.reshape(shape), reduced, gamma, beta, eps, affine, mean, variance, centered)
    y = y.reshape(x.shape)
    return y if name == "silu" else activated(y, name, slope)


def _torch(closed: Any, x: Tensor, residual: Any, *rest: Any) -> Tensor:
    *_, activation, slope, torch_norm = rest[:ARGUMENTS]
    y = torch_norm()
    return activated(y if residual is None else y + residual, activation, slope)


def activated(y: Tensor, activation: str | None, slope: float = 0.01) -> Tensor:
    """Applies the activation after a norm, by torch's operator.

    >>> activated(torch.tensor([-1.0, 2.0]), "leaky_relu", 0.5)
    tensor([-0.5000,  2.0000])
    """
    if activation is None:  # only syntax that TorchScript has
        return y
    if activation == "relu":
        return F.relu(y)
    if activation == "relu6":
        return F.relu6(y)
    return F.silu(y) if activation == "silu" else F.leaky_relu(y, slope)


METHODS = (Candidate("native", _refusal, _native), Candidate("torch", always, _torch))
