"""Checks the arguments of norms, once for all methods."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..arguments import as_float, as_int, as_ints, is_float, is_int
from .geometry import ACTIVATIONS

__all__ = [
    *("check_activation", "check_channel_arguments", "check_channels", "check_eps", "check_group_arguments"),
    *("check_input", "check_more_than_one", "check_normalized_shape"),
]


def check_input(
    x: Any,
    where: str,
    least: int,
    shape: str,
    *,
    name: str = "x",
    complex_too: bool = False,
    integers_too: bool = False,
) -> None:
    """Raises ArgumentTypeError, ShapeError or DtypeError unless ``x`` is a tensor of at least ``least`` axes whose
    element type can be normalized.
    """
    if not isinstance(x, Tensor):
        what = "a tensor" if name == "x" else f"{name} to be a tensor"
        raise ArgumentTypeError(build(where, what, type(x).__name__, hint="Call torch.as_tensor on it first."))
    if x.dim() < least:
        raise ShapeError(build(where, f"{name} of shape {shape}", tuple(x.shape), hint="Add axes with unsqueeze."))
    if (
        x.is_floating_point()
        or (x.is_complex() and complex_too)
        or (integers_too and not x.is_complex() and x.dtype is not torch.bool)
    ):
        return
    kind = str(x.dtype).removeprefix("torch.")
    what = "floating-point numbers" if name == "x" else f"a {name} of floating-point numbers"
    raise DtypeError(build(where, what, kind, hint="Convert x with .float().", x=tuple(x.shape)))


def check_eps(eps: Any, where: str, zero: bool = True) -> float:
    """Returns ``eps`` as a number; accepts 0 if ``zero``, that is, where torch accepts it."""
    number = as_float(eps)
    if not is_float(number):
        raise ArgumentTypeError(build(where, "eps to be a number", repr(eps), hint="Use 1e-5."))
    if not (0 < number < math.inf or (zero and number == 0)):
        expects = "an eps of 0 or more" if zero else "an eps above 0"
        hint = "Use 1e-5: it keeps a constant channel's variance from dividing by 0."
        raise ArgumentError(build(where, expects, number, hint=hint))
    return number


def check_channels(x: Tensor, where: str, **parameters: Tensor | None) -> None:
    channels = x.shape[1]
    for name, p in parameters.items():
        if p is None:
            continue
        if not isinstance(p, Tensor):
            raise ArgumentTypeError(
                build(where, f"{name} to be a tensor or None", type(p).__name__, hint="Give one number a channel.")
            )
        if p.dim() != 1 or p.shape[0] != channels:
            expects = f"{name} of shape ({channels},), one number a channel"
            raise ShapeError(
                build(where, expects, tuple(p.shape), hint="x's second axis is the channels.", x=tuple(x.shape))
            )
        if not (p.is_cpu and x.is_cpu) and p.device != x.device:  # devices are slow to compare
            raise ArgumentError(
                build(
                    where, f"{name} on x's device, {x.device}", p.device, hint=f"Move it with .to({str(x.device)!r})."
                )
            )


def _check_residual(x: Tensor, residual: Any, where: str) -> None:
    if not isinstance(residual, Tensor):
        raise ArgumentTypeError(
            build(
                where, "residual to be a tensor or None", type(residual).__name__, hint="Leave it out to add nothing."
            )
        )
    if residual.shape != x.shape:
        raise ShapeError(
            build(
                where, "a residual of x's shape", tuple(residual.shape), hint="Bring it to x's shape.", x=tuple(x.shape)
            )
        )
    if residual.dtype != x.dtype:
        kind = str(residual.dtype).removeprefix("torch.")
        raise DtypeError(
            build(
                where,
                f"a residual of x's type, {str(x.dtype).removeprefix('torch.')}",
                kind,
                hint="Convert it with .to(x).",
            )
        )


def check_activation(activation: Any, where: str) -> None:
    if not (activation is None or isinstance(activation, str)) or activation not in ACTIVATIONS:
        names = ", ".join(repr(a) for a in ACTIVATIONS)
        raise ArgumentError(
            build(where, f"an activation of {names}", repr(activation), hint="Put any other behind the layer.")
        )


def _check_running(where: str, running_mean: Any, running_var: Any, needed: bool) -> None:
    if (running_mean is None) != (running_var is None):
        got = "only a running variance" if running_mean is None else "only a running mean"
        raise ArgumentError(build(where, "running_mean and running_var together", got, hint="Give both or neither."))
    if needed and running_mean is None:
        raise ArgumentError(
            build(
                where,
                "running statistics where the batch is not measured",
                None,
                hint="Give running_mean and running_var, or measure it.",
            )
        )


def _check_momentum(momentum: Any, where: str) -> float:
    number = as_float(momentum)
    if not is_float(number):
        raise ArgumentTypeError(build(where, "momentum to be a number", repr(momentum), hint="Use 0.1."))
    if not -math.inf < number < math.inf:
        raise ArgumentError(build(where, "a finite momentum", number, hint="Use 0.1: the weight of the newest batch."))
    return number


def check_more_than_one(count: int, x: Tensor, where: str, of: str) -> None:
    if count == 1:
        raise ShapeError(
            build(
                where,
                f"more than one value per {of} to measure",
                1,
                hint="Use a larger batch or .eval().",
                x=tuple(x.shape),
            )
        )


def check_channel_arguments(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    measured: bool,
    momentum: Any,
    eps: Any,
    residual: Any,
    activation: Any,
    where: str,
    per_sample: bool = False,
) -> tuple[float, float]:
    """Checks the arguments of a norm whose statistics are per channel; returns momentum and eps as numbers.

    per_sample: accepts an eps of 0 even if the batch is measured, as torch's instance norm does and its batch norm does
    not.
    """
    check_input(x, where, *((3, "(N, C, *axes)") if per_sample else (2, "(N, C) or (N, C, *axes)")))
    eps = check_eps(eps, where, per_sample or not measured)
    momentum = _check_momentum(momentum, where)
    _check_running(where, running_mean, running_var, not measured)
    check_channels(x, where, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None:
        _check_residual(x, residual, where)
    if activation is not None:
        check_activation(activation, where)
    return momentum, eps


def check_group_arguments(
    x: Any, groups: Any, weight: Any, bias: Any, eps: Any, residual: Any, activation: Any, where: str
) -> tuple[int, float]:
    check_input(x, where, 2, "(N, C, *axes)")
    eps = check_eps(eps, where)
    groups = as_int(groups)
    if not is_int(groups):
        raise ArgumentTypeError(
            build(where, "num_groups to be an integer", repr(groups), hint="Use 32, or what divides the channels.")
        )
    if groups < 1 or x.shape[1] % groups != 0:
        expects = f"num_groups that divides the {x.shape[1]} channels"
        raise ArgumentError(build(where, expects, groups, hint="Choose a divisor of the channels.", x=tuple(x.shape)))
    check_channels(x, where, weight=weight, bias=bias)
    if residual is not None:
        _check_residual(x, residual, where)
    if activation is not None:
        check_activation(activation, where)
    if x.numel() > 0:
        check_more_than_one(x.numel() // groups, x, where, "group")  # of all samples, as torch counts
    return groups, eps


def check_normalized_shape(x: Tensor, normalized_shape: Any, where: str) -> tuple[int, ...]:
    sizes = as_ints(normalized_shape)
    shape: tuple[int, ...] = sizes if isinstance(sizes, tuple) else (sizes,)
    if len(shape) == 0 or not all(is_int(n) for n in shape):
        hint = "Give the sizes of the axes to measure."
        raise ArgumentTypeError(
            build(where, "normalized_shape to be an integer or some", repr(normalized_shape), hint=hint)
        )
    if len(shape) > x.dim() or tuple(x.shape[x.dim() - len(shape) :]) != shape:
        hint = "normalized_shape is the sizes of x's last axes."
        raise ShapeError(build(where, f"x to end in the normalized shape, {shape}", tuple(x.shape), hint=hint))
    return shape
