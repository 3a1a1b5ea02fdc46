"""The arithmetic of folding: a batch norm as one multiplication and one addition, and both merged into a weight.

With the running statistics a batch norm is one multiplication and one addition a channel,

    y = s·x + t,   s = γ/√(σ² + ε),   t = β - μ·s,

and a convolution, transposed convolution or linear layer next to it can do both with its own weights:

    layer before the norm:  W'[o, i] = s[o]·W[o, i],  b'[o] = s[o]·b[o] + t[o]
    layer after the norm:   W'[o, i] = s[i]·W[o, i],  b'[o] = b[o] + Σ_{i, taps} t[i]·W[o, i]

The first always holds. The second holds if every output reads every tap of every channel: zero padding does not contain
t, and a transposed convolution does not use all taps everywhere, so that both require t = 0.

Everything is computed in float64 on the CPU; the caller rounds once, when it stores the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merge_into_inputs", "merge_into_outputs", "scale_and_shift"]


def scale_and_shift(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """s and t of a batch norm, ``y = s·x + t``, in float64: (C,) each.

    >>> one = torch.ones(1)
    >>> scale_and_shift(5 * one, 4 * one, weight=6 * one, bias=one, eps=0.0)
    (tensor([3.], dtype=torch.float64), tensor([-14.], dtype=torch.float64))
    """
    scale = 1 / (_exact(variance) + eps).sqrt()
    if weight is not None:
        scale = scale * _exact(weight)
    shift = -_exact(mean) * scale
    if bias is not None:
        shift = shift + _exact(bias)
    return scale, shift


def merge_into_outputs(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *, groups: int = 1, transposed: bool = False
) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the layer that computes ``s·y + t``, where y is the output of this one.

    weight: (out, in / groups, *taps), of a transposed convolution (in, out / groups, *taps). scale, shift: (out,).

    >>> two, one = torch.full((1,), 2.0), torch.ones(1)
    >>> merge_into_outputs(torch.ones(1, 3), None, two, one)
    (tensor([[2., 2., 2.]], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    old_bias = torch.zeros(1, dtype=torch.float64) if bias is None else _exact(bias)
    return _scaled(weight, scale, groups, axis=2 if transposed else 1), old_bias * scale + shift


def merge_into_inputs(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *, groups: int = 1, transposed: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, in float64, of the layer that computes from x what this one computes from ``s·x + t``.

    It holds if every output reads every tap of every channel; otherwise all of t must be 0. The bias is None if the
    layer has none and t is 0.

    weight: (out, in / groups, *taps), of a transposed convolution (in, out / groups, *taps). scale, shift: (in,).

    >>> two, one = torch.full((3,), 2.0), torch.ones(3)
    >>> merge_into_inputs(torch.ones(1, 3), None, two, one)
    (tensor([[2., 2., 2.]], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    axis = 1 if transposed else 2
    new_bias = None if bias is None else _exact(bias)
    if shift.any():
        sums = (_grouped(weight, groups) * shift.view(_channel_shape(groups, axis))).sum((2, 3)).flatten()
        new_bias = (torch.zeros(1, dtype=torch.float64) if new_bias is None else new_bias) + sums
    return _scaled(weight, scale, groups, axis), new_bias


def _exact(x: Tensor) -> Tensor:
    return x.to("cpu", torch.float64)


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """A weight as (groups, out / groups, in / groups, taps), of a transposed convolution (groups, in / groups,
    out / groups, taps).
    """
    return _exact(weight).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _channel_shape(groups: int, axis: int) -> tuple[int, ...]:
    """The shape by which a number for each channel broadcasts over one axis of a grouped weight."""
    return (groups, -1, 1, 1) if axis == 1 else (groups, 1, -1, 1)


def _scaled(weight: Tensor, scale: Tensor, groups: int, axis: int) -> Tensor:
    return (_grouped(weight, groups) * scale.view(_channel_shape(groups, axis))).reshape(weight.shape)
