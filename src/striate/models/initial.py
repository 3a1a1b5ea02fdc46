"""Initialization of weights that several networks share."""

from __future__ import annotations

from typing import TypeVar

from torch.nn import init

from .. import nn

__all__ = ["he"]

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
