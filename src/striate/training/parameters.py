"""Separates the parameters that weight decay applies to from the others."""

from __future__ import annotations

from typing import Any

import torch

from .._torch import NormBase
from ..errors import ArgumentError, build
from ..nn import LayerNorm2d
from ..nn.norm import BATCH_NORMS, GROUP_NORMS

__all__ = ["parameter_groups"]

_NORMS = (
    NormBase,  # batch and instance norm of every kind
    *BATCH_NORMS,
    *GROUP_NORMS,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
    LayerNorm2d,
)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    r"""The parameters that learn, in two groups for an optimizer: those that decay, and those that do not.

    .. math:: w ← w - rate·(g + λ·w) \quad \text{in the first group}, \qquad w ← w - rate·g \quad \text{in the second}

    Scale and shift of norms, of any shape, and all biases do not decay: decay would pull a norm's scale, and with it
    the channel, and a bias towards 0, though neither makes the model simpler. Other parameters of one axis or none (a
    layer's scale, a temperature) do not decay either. A parameter that several modules share is in one group, the
    second if it would be there for any of these modules.

    weight_decay: λ of the first group. Returns two dictionaries with ``params`` and ``weight_decay``.

    Raises ArgumentError where weight_decay is negative or not finite.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.LayerNorm([2, 4, 4]))
    >>> [len(group["params"]) for group in parameter_groups(model, 1e-4)]
    [1, 5]
    """
    if (
        isinstance(weight_decay, bool)
        or not isinstance(weight_decay, int | float)
        or not 0 <= weight_decay < float("inf")
    ):
        hint = "Use 1e-4, or 0 for none."
        raise ArgumentError(build("parameter_groups", "a weight_decay of 0 or more", repr(weight_decay), hint=hint))
    decays: dict[torch.nn.Parameter, bool] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                weight = parameter.ndim > 1 and not isinstance(module, _NORMS) and "bias" not in name.split("_")
                decays[parameter] = decays.get(parameter, True) and weight
    return [
        {"params": [p for p, does in decays.items() if does], "weight_decay": weight_decay},
        {"params": [p for p, does in decays.items() if not does], "weight_decay": 0.0},
    ]
