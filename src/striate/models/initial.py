"""Initialization of weights that several networks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import init

from .. import nn
from .._torch import ConvBase, ConvTransposeBase
from ..errors import ArgumentError, build

__all__ = ["LAWS", "draw", "he"]

Model = TypeVar("Model", bound=nn.Module)


def he(model: Model, linear_std: float | None = None) -> Model:
    r"""Draws each convolution's weights so that gradients keep their size on the way back through ReLUs; returns the
    model.

    .. math:: w ∼ N(0, 2/(C_{out}·K_h·K_w)), \quad b = 0

    This includes depthwise convolutions, as in torchvision, although each of their inputs contributes to K_h·K_w
    outputs only: the batch norm that follows corrects the scale. Norms keep γ = 1 and β = 0.

    linear_std: σ of linear layers, w ∼ N(0, σ²) and b = 0; None leaves them as torch initializes them.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015, section 2.2.

    >>> conv = he(nn.Conv2d(32, 64, 5))
    >>> bool(conv.bias.any()), abs(conv.weight.std().item() / (2 / (64 * 25)) ** 0.5 - 1) < 0.02
    (False, True)
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and linear_std is not None:
            init.normal_(module.weight, std=linear_std)
        else:
            continue
        if module.bias is not None:
            init.zeros_(module.bias)
    return model


# The first weights of a layer, from its fan-in, its fan-out and the gain of the activation.
LAWS: dict[str, Callable[[Tensor, float, float, float], object]] = {
    "he": lambda w, fan_in, fan_out, gain: init.normal_(w, std=gain / math.sqrt(fan_in)),
    "xavier": lambda w, fan_in, fan_out, gain: init.uniform_(w, *_symmetric(math.sqrt(6 / (fan_in + fan_out)))),
    "normal": lambda w, fan_in, fan_out, gain: init.normal_(w, std=0.01),
}


def _symmetric(most: float) -> tuple[float, float]:
    return -most, most


def draw(model: Model, law: str, gains: Mapping[torch.nn.Module, float] | None = None) -> Model:
    r"""Gives each convolution and linear layer new weights of a law and a bias of 0; returns the model.

    .. math::
        \text{he: } w ∼ N(0, g²/fan_{in}), \quad \text{xavier: } w ∼ U(±\sqrt{6/(fan_{in} + fan_{out})}), \quad
        \text{normal: } w ∼ N(0, 0.01²)

    fan_in is the number of inputs that an output sums, fan_out the number of outputs that an input reaches, without the
    stride: with taps K and G groups C_in·K/G and C_out·K/G. Parameters are made anew, those of norms stay.

    law: "he", "xavier" or "normal"; gains: g of a layer, 1 for a layer that has none. A layer that reads a ReLU has √2,
    so that the mean square of its outputs is that of its inputs before the ReLU.

    Raises ArgumentError for a layer that computes its weight from other parameters.

    Source: K. He et al., "Delving Deep into Rectifiers", 2015; X. Glorot, Y. Bengio, "Understanding the difficulty of
    training deep feedforward neural networks", 2010; A. Krizhevsky et al., "ImageNet Classification with Deep
    Convolutional Neural Networks", 2012, section 5.

    >>> layer = draw(nn.Linear(200, 300), "he")
    >>> bool(layer.bias.any()), abs(layer.weight.std().item() * 200**0.5 - 1) < 0.02
    (False, True)
    """
    made: dict[Tensor, torch.nn.Parameter] = {}  # layers may share a weight
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, (ConvBase, torch.nn.Linear))]
    for name, module in found:
        if "weight" not in module._parameters:
            hint = "Take the parametrization off, or leave init out."
            raise ArgumentError(build("draw", f"{name} to hold its weight", "one that it computes", hint=hint))
    for _, module in found:
        layer: Any = module
        for key, tensor in list(layer._parameters.items()):
            if tensor is not None and tensor not in made:
                made[tensor] = torch.nn.Parameter(torch.empty_like(tensor), requires_grad=tensor.requires_grad)
                if key == "weight":
                    LAWS[law](made[tensor], *_fans(layer), (gains or {}).get(layer, 1.0))
                else:
                    init.zeros_(made[tensor])
            layer._parameters[key] = None if tensor is None else made[tensor]
    return model


def _fans(layer: Any) -> tuple[float, float]:
    """The fan-in and the fan-out of a layer."""
    first, second, *window = layer.weight.shape
    taps = math.prod(window)
    fans = (second * taps, first // getattr(layer, "groups", 1) * taps)
    return fans[::-1] if isinstance(layer, ConvTransposeBase) else fans
