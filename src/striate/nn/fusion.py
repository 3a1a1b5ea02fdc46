"""Decides at each call which neighbouring layers of a container may be computed together.

A convolution measures the statistics of the batch norm that follows it while it writes its output. A norm computes the
activation that follows it, and the sum with a shortcut, in its own pass; a linear layer computes the ReLU, ReLU6,
LeakyReLU, SiLU, GELU or Hardswish that follows it; where a gradient is asked for, the last three stay operators of
their own, because their gradients need the sum before them. An activation between a convolution and a max pooling is
computed after the pooling, on fewer values. A convolution recomputes a norm's output in backward instead of saving it.
All of that is correct only for a value that nobody else can see or change, so :mod:`.container`, which calls both
neighbours, asks the functions here at each call, for the state that the layers then have. A layer that has a hook, a
``forward`` of its own or another class is called like any module, and its output is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _torch
from ..ops import norm as norm_ops
from ..ops.activation import Activation, clamp
from . import conv, linear, norm, pool

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "LINEARS",
    "NORMS",
    "Intermediate",
    "ObservedForward",
    "activation_behind_pool",
    "activation_of",
    "calls_are_observed",
    "can_add",
    "compute",
    "conv_and_pool",
    "fused_activation",
    "has_known_forward",
    "is_plain",
    "linear_activation",
    "takes_activation",
    "takes_batch_stats",
]

Module = torch.nn.Module


def _layer_classes(family: Any) -> set[Any]:
    """Returns the public classes of a module of layers, without lazy ones, whose class changes at the first call."""
    public = (getattr(family, name) for name in family.__all__ if not name.startswith("Lazy"))
    return {value for value in public if isinstance(value, type)}


CONVOLUTIONS = _layer_classes(conv)
BATCH_NORMS: set[Any] = {norm.BatchNorm1d, norm.BatchNorm2d, norm.BatchNorm3d, norm.BatchNormAct2d}
LINEARS = _layer_classes(linear)
NORMS = _layer_classes(norm) - {norm.AdaIN, norm.NoisyBatchNorm2d, norm.LocalResponseNorm}
MAX_POOLS: set[Any] = {pool.MaxPool1d, pool.MaxPool2d, pool.MaxPool3d}
# The activations that a norm computes in its own pass, and whether each commutes with a maximum, gradients included:
# ReLU and ReLU6 are monotonic, and where they map different inputs to one value the gradient is 0, so it does not
# matter which of these inputs the window picks. A leaky ReLU also maps different inputs to one value by rounding, where
# its gradient is not 0.
ACTIVATIONS: dict[Any, tuple[str, bool]] = {
    torch.nn.ReLU: ("relu", True),
    torch.nn.ReLU6: ("relu6", True),
    torch.nn.LeakyReLU: ("leaky_relu", False),
}
_GELUS = {"none": Activation("gelu"), "tanh": Activation("gelu_tanh")}
# The activations that a linear layer computes in its own pass, from their layers.
LINEAR_ACTIVATIONS: dict[Any, Callable[[Any], Activation | None]] = {
    torch.nn.ReLU: lambda layer: clamp(low=0.0),
    torch.nn.ReLU6: lambda layer: clamp(0.0, 6.0),
    torch.nn.LeakyReLU: lambda layer: Activation("leaky_relu", (float(layer.negative_slope),)),
    torch.nn.SiLU: lambda layer: Activation("silu"),
    torch.nn.GELU: lambda layer: _GELUS.get(layer.approximate),
    torch.nn.Hardswish: lambda layer: Activation("hardswish"),
}
MODULE_CALL = Module.__call__
# Maps each class to the functions that a call of an instance runs: forward and, for convolutions, _conv_forward.
KNOWN_FORWARDS: dict[Any, tuple[Any, Any]] = {
    kind: (kind.forward, getattr(kind, "_conv_forward", None))
    for kind in CONVOLUTIONS | LINEARS | NORMS | MAX_POOLS | ACTIVATIONS.keys() | LINEAR_ACTIVATIONS.keys()
}


class Intermediate(NamedTuple):
    """A value on its way from one layer to the next."""

    value: Any
    fresh: bool = False  # a norm computed it and only the next layer can see it: it may be recomputed in backward


class ObservedForward:
    """Replaces a module's ``forward`` for a tool that observes calls.

    Neighbouring layers are still computed together, and a call that computes several modules is reported once.

    call: receives the modules, the function that computes them, and its positional and keyword arguments.

    >>> layer, seen = torch.nn.ReLU(), []
    >>> def call(modules, compute, args, kwargs):
    ...     seen.append(modules)
    ...     return compute(*args, **kwargs)
    >>> layer.forward = ObservedForward(layer, call)
    >>> layer(torch.tensor(-1.0)), is_plain(layer), seen == [(layer,)]
    (tensor(0.), True, True)
    """

    def __init__(self, module: Any, call: Callable[..., Any]) -> None:
        self.module, self.call = module, call
        self.forward, self.plain = module.forward, "forward" not in module.__dict__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call((self.module,), self.forward, args, kwargs)


def has_known_forward(module: Any) -> bool:
    """Whether the module's class is one of those that can be computed together with their neighbours.

    >>> has_known_forward(torch.nn.ReLU()), has_known_forward(torch.nn.Tanh())
    (True, False)
    """
    return type(module) in KNOWN_FORWARDS


def is_plain(module: Any) -> bool:
    """Whether a call of ``module`` runs its class's ``forward`` as striate or torch defines it, and nothing else.

    >>> layer = torch.nn.ReLU()
    >>> before, _ = is_plain(layer), layer.register_forward_hook(print)
    >>> before, is_plain(layer)
    (True, False)
    """
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    # an instance may override these attributes of its class; compile() sets _compiled_call_impl
    if hooks or "_conv_forward" in own or "_compiled_call_impl" in own:
        return False
    kind = type(module)
    known, known_conv = KNOWN_FORWARDS.get(kind, (None, None))
    # the class's forward or __call__ was replaced
    if known is not None and (kind.forward is not known or kind.__call__ is not MODULE_CALL):
        return False
    if known_conv is not None and kind._conv_forward is not known_conv:
        return False
    forward = own.get("forward")
    return forward is None or (type(forward) is ObservedForward and forward.plain)


def calls_are_observed() -> bool:
    """Whether the calls of all modules are observed, by a global hook or a replaced ``Module.__call__``."""
    return Module.__call__ is not MODULE_CALL or _torch.has_global_hooks()


def compute(
    modules: tuple[Any, ...], how: Callable[..., Any], inputs: tuple[Any, ...], *weights: Any, **options: Any
) -> Any:
    """Computes the modules, one after the other, by calling ``how``, and reports the call to its observer, if any.

    >>> compute((torch.nn.ReLU(),), torch.relu, (torch.tensor(-1.0),))
    tensor(0.)
    """
    observed = modules[0].__dict__.get("forward")
    if observed is None:
        return how(*inputs, *weights, **options)
    return observed.call(modules, lambda *inputs: how(*inputs, *weights, **options), inputs, {})


def conv_and_pool(convolution: Any, layer: Any, activation: tuple[str, float], *inputs: Any, fresh: bool) -> Any:
    """Computes a convolution, the pooling that follows, and then the activation that stands between them, because the
    pooling leaves fewer values.
    """
    return norm_ops.activated(layer._compute(convolution._compute(*inputs, fresh=fresh)), *activation)


def takes_batch_stats(layer: Any) -> bool:
    """Whether the convolution before the layer may measure its statistics: the layer is a batch norm that normalizes
    each batch with that batch's own statistics, and nobody observes its input.
    """
    measures = type(layer) in BATCH_NORMS and (layer.training or layer.running_mean is None)
    return measures and not layer.frozen and layer.whole_batch is None and is_plain(layer)


def takes_activation(layer: Any) -> bool:
    """Whether a norm's kernel may also compute the activation or sum that follows: it computes no activation yet, and
    its statistics are not those of several batches together.
    """
    return layer.activation is None and getattr(layer, "whole_batch", None) is None


def fused_activation(layer: Any, following: Any) -> tuple[str, float] | None:
    """The name and slope of the activation ``following`` a norm, if the norm can compute it in its own pass."""
    return activation_of(following) if takes_activation(layer) else None


def activation_of(module: Any) -> tuple[str, float] | None:
    """The name and slope of the activation that a call of this module computes, if a norm can compute it in its pass.

    >>> activation_of(torch.nn.LeakyReLU(0.1)), activation_of(torch.nn.Tanh())
    (('leaky_relu', 0.1), None)
    """
    name, _ = ACTIVATIONS.get(type(module), (None, False))
    return None if name is None or not is_plain(module) else (name, getattr(module, "negative_slope", 0.01))


def linear_activation(module: Any) -> Activation | None:
    """The activation that a call of this module computes, if a linear layer can compute it in its pass.

    >>> linear_activation(torch.nn.LeakyReLU(0.1)), linear_activation(torch.nn.Tanh())
    (Activation(name='leaky_relu', numbers=(0.1,)), None)
    """
    activation = LINEAR_ACTIVATIONS.get(type(module))
    return activation(module) if activation is not None and is_plain(module) else None


def activation_behind_pool(activation: Any, layer: Any) -> tuple[str, float] | None:
    """The activation's name and slope, if it may be computed after the max pooling ``layer`` that follows it: nobody
    else sees its value, and the two commute.

    Dilated poolings are excluded: a dilated window may cover padding alone, whose maximum is -inf.
    """
    name, commutes = ACTIVATIONS.get(type(activation), (None, False))
    if name is None or not commutes or type(layer) not in MAX_POOLS or layer.return_indices or not is_plain(activation):
        return None
    dilations = layer.dilation if isinstance(layer.dilation, tuple | list) else [layer.dilation]
    return (name, 0.01) if all(dilation == 1 for dilation in dilations) and is_plain(layer) else None


def can_add(x: Any, residual: Any) -> bool:
    """Whether a norm of ``x`` can add the residual in its own pass; only torch's sum broadcasts and mixes dtypes."""
    return type(x) is Tensor and type(residual) is Tensor and residual.shape == x.shape and residual.dtype is x.dtype
