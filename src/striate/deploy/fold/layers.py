"""What folding knows about modules: which compute as their class says, and which weights can take in a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from ..._torch import ConvBase, ConvTransposeBase
from ...nn import adapters
from ...nn.norm import BATCH_NORMS
from .arithmetic import merge_into_inputs, merge_into_outputs, scale_and_shift

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "following",
    "how_changed",
    "is_library",
    "merge",
    "misplaced",
    "pads_with_zeros",
    "scale_and_shift_of",
]

LAYERS = (ConvBase, torch.nn.Linear)
ACTIVATIONS: dict[str, Callable[[Any], Module]] = {  # what a norm may do after normalizing, as a layer of its own
    "relu": lambda norm: torch.nn.ReLU(),
    "leaky_relu": lambda norm: torch.nn.LeakyReLU(norm.negative_slope),
    "relu6": lambda norm: torch.nn.ReLU6(),
    "silu": lambda norm: torch.nn.SiLU(),
}
OWN_CODE = ("torch.nn.modules.", "striate.nn.")  # where a forward comes from whose formula is known
HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}


def is_library(module: Module) -> bool:
    """Whether a module is of a class of torch's or striate's."""
    return type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.", "striate.nn."))


def how_changed(module: Module, subject: str) -> str | None:
    """Whether a module does something else than its class says, or is not ready: None, or what."""
    for method in ("forward", "_conv_forward", "_output_padding", "_check_input_dim", "__call__"):
        code = getattr(type(module), method, None)
        own = code is not None and not str(getattr(code, "__module__", "")).startswith(OWN_CODE)
        if method in vars(module) or (own and not adapters.is_known(module)):
            return f"{subject} has a {method} of its own"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return f"{subject} has no shape yet: run the model once"
    if parametrize.is_parametrized(module):
        return f"{subject} is parametrized"
    if isinstance(module, (*LAYERS, *BATCH_NORMS)):
        computed = [key for key in ("weight", "bias") if key not in module._parameters or hasattr(type(module), key)]
        computed = ["weight"] if adapters.computes_its_weight(module) else computed
        if computed:
            return f"{subject} computes its {computed[0]} before each call"
    return next((f"{subject} has a {kind}" for hooks, kind in HOOKS.items() if getattr(module, hooks)), None)


def following(norm: Any) -> Module | None:
    """What a norm does after it has normalized, as a module."""
    activation = getattr(norm, "activation", None)
    return adapters.behind(norm) if activation is None else ACTIVATIONS[activation](norm)


def scale_and_shift_of(norm: Any) -> tuple[Tensor, Tensor]:
    """s and t of a norm, ``y = s·x + t``, in float64."""
    return scale_and_shift(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def _groups(layer: Any) -> int:
    return layer.groups if isinstance(layer, ConvBase) else 1


def pads_with_zeros(conv: Any) -> bool:
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return False
    if conv.padding == "same" or adapters.pads_itself(conv):
        return any(size > 1 for size in conv.kernel_size)
    return any(conv.padding) if isinstance(conv.padding, tuple) else bool(conv.padding)


def misplaced(layer: Any, label: str, rank: int, channels: int, *, out: bool) -> str | None:
    """Whether a layer's channels are not the norm's, in number or place: a linear layer's features are on the last
    axis.
    """
    axis = rank - 1 - (len(layer.kernel_size) if isinstance(layer, ConvBase) else 0)
    if axis != 1:
        return f"the channels of {label} are on axis {axis}, those of the norm on axis 1"
    first, second = layer.weight.shape[:2]
    has = first if out != isinstance(layer, ConvTransposeBase) else second * _groups(layer)
    return None if has == channels else f"{label} has {has} channels there, the norm {channels}"


def merge(layer: Any, label: str, scale: Tensor, shift: Tensor, *, out: bool) -> str | None:
    """Puts ``s·x + t`` into a layer, on its outputs or its inputs. None, or why the numbers do not allow it."""
    into = merge_into_outputs if out else merge_into_inputs
    transposed = isinstance(layer, ConvTransposeBase)
    weight, bias = into(layer.weight, layer.bias, scale, shift, groups=_groups(layer), transposed=transposed)
    dtype = layer.weight.dtype
    if not all(x is None or x.to(dtype).isfinite().all() for x in (weight, bias)):
        return f"the folded weights of {label} are not finite in {dtype}"
    layer.weight.copy_(weight)  # in place: memory format, requires_grad and identity stay
    if layer.bias is not None:
        layer.bias.copy_(bias)
    elif bias is not None:
        layer.bias = Parameter(bias.to(layer.weight.device, dtype), requires_grad=layer.weight.requires_grad)
    return None
