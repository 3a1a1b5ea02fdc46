"""The activations that kernels compute behind the sums of a convolution or a linear layer, in the pass that sums.

csrc/activations.def lists them, csrc/kernels/activation.cpp has their formulas.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import native

__all__ = [
    "NAMES",
    "NONE",
    "Activation",
    "activated",
    "activated_in_place",
    "clamp",
    "describe",
    "from_arguments",
    "gradient",
    "operator_arguments",
    "result_tells_gradient",
]

NAMES = ("clamp", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish")
if native.core and native.ACTIVATIONS != NAMES:
    raise ImportError(f"striate's core has the activations {native.ACTIVATIONS}, ops/activation.py has {NAMES}")


class Activation(NamedTuple):
    """An activation: its name, one of :data:`NAMES`, and its numbers: the bounds of a clamp, the slope of a leaky ReLU.

    >>> Activation("leaky_relu", (0.1,)), clamp(low=0.0)
    (Activation(name='leaky_relu', numbers=(0.1,)), Activation(name='clamp', numbers=(0.0, inf)))
    """

    name: str
    numbers: tuple[float, ...] = ()


def clamp(low: float = -inf, high: float = inf) -> Activation:
    """``min(max(z, low), high)``: ReLU with 0 and infinity, ReLU6 with 0 and 6."""
    return Activation("clamp", (float(low), float(high)))


NONE = clamp()
_RELU = clamp(low=0.0)


def operator_arguments(activation: Activation) -> tuple[int, float, float]:
    """The arguments ``activation, low, high`` of striate's operators: a leaky ReLU's slope is ``low``.

    >>> operator_arguments(Activation("leaky_relu", (0.1,)))
    (1, 0.1, 0.0)
    """
    low, high = (*activation.numbers, 0.0, 0.0)[:2]
    return NAMES.index(activation.name), low, high


def from_arguments(number: int, low: float, high: float) -> Activation:
    """The activation of an operator's arguments.

    >>> from_arguments(*operator_arguments(clamp(high=6.0)))
    Activation(name='clamp', numbers=(-inf, 6.0))
    """
    name = NAMES[number]
    return Activation(name, {"clamp": (low, high), "leaky_relu": (low,)}.get(name, ()))


def activated(z: Tensor, activation: Activation) -> Tensor:
    """Computes an activation by torch's operators, which have a gradient.

    >>> activated(torch.tensor([-1.0, 7.0]), clamp(0.0, 6.0)), activated(torch.tensor([-1.0, 7.0]), clamp(0.0))
    (tensor([0., 6.]), tensor([0., 7.]))
    """
    name, numbers = activation
    if activation == NONE:
        return z
    if name == "clamp":
        return F.relu(z) if activation == _RELU else F.hardtanh(z, numbers[0], numbers[1])
    if name == "leaky_relu":
        return F.leaky_relu(z, numbers[0])
    if name == "silu":
        return F.silu(z)
    if name == "hardswish":
        return F.hardswish(z)
    return F.gelu(z, approximate=_approximation(activation))


def activated_in_place(z: Tensor, activation: Activation) -> Tensor:
    """The same, written over z. It has no gradient.

    >>> activated_in_place(torch.tensor([-1.0, 4.0]), Activation("hardswish"))
    tensor([-0.3333,  4.0000])
    """
    name, numbers = activation
    if activation == NONE:
        return z
    if name == "clamp":
        return z.relu_() if activation == _RELU else z.clamp_(*numbers)
    if name == "leaky_relu":
        return F.leaky_relu_(z, *numbers)
    if name == "silu":
        return F.silu(z, inplace=True)
    if name == "hardswish":
        return F.hardswish(z, inplace=True)
    result: Tensor = torch.ops.aten.gelu_.default(z, approximate=_approximation(activation))
    return result


def result_tells_gradient(activation: Activation) -> bool:
    """Whether the gradient follows from the result, so that the sum before the activation need not be kept.

    >>> [result_tells_gradient(a) for a in (NONE, Activation("leaky_relu", (0.1,)), Activation("silu"))]
    [True, True, False]
    """
    return activation.name == "clamp" or (activation.name == "leaky_relu" and activation.numbers[0] >= 0)


def gradient(g: Tensor, z: Tensor, activation: Activation) -> Tensor:
    """The gradient by the sum, by the operators of torch's activations.

    z: the result of the activation where :func:`result_tells_gradient`, else the sum. A clamp's gradient is 0 where the
    result is a bound.

    >>> gradient(torch.ones(2), torch.tensor([-0.2, 3.0]), Activation("leaky_relu", (0.1,)))
    tensor([0.1000, 1.0000])
    """
    ops = torch.ops.aten
    name, numbers = activation
    found: Tensor
    if activation == NONE:
        found = g
    elif activation == _RELU:
        found = ops.threshold_backward.default(g, z, 0)
    elif name == "clamp":
        found = ops.hardtanh_backward.default(g, z, *numbers)
    elif name == "leaky_relu":
        found = ops.leaky_relu_backward.default(g, z, *numbers, result_tells_gradient(activation))
    elif name == "silu":
        found = ops.silu_backward.default(g, z)
    elif name == "hardswish":
        found = ops.hardswish_backward.default(g, z)
    else:
        found = ops.gelu_backward.default(g, z, approximate=_approximation(activation))
    return found


def describe(activation: Activation) -> str:
    """What tables say of it.

    >>> [describe(a) for a in (clamp(0), clamp(0, 6), clamp(-1, 1), Activation("leaky_relu", (0.1,)))]
    ['relu', 'relu6', 'clamp -1.0 to 1.0', 'leaky_relu 0.1']
    """
    if activation.name == "clamp":
        low, high = activation.numbers
        named = {(0.0, inf): "relu", (0.0, 6.0): "relu6"}.get((low, high))
        return named or f"clamp {_bound(low)} to {_bound(high)}"
    return " ".join(map(str, (activation.name, *activation.numbers)))


def _bound(number: float) -> str:
    return str(None if number in (-inf, inf) else number)


def _approximation(activation: Activation) -> str:
    return "tanh" if activation.name == "gelu_tanh" else "none"
