"""Layers one after the other, and what neighbours share when nobody looks between them.

A convolution takes the statistics of the batch norm behind it while it writes, a norm computes the activation behind it and the sum with a
shortcut in its own pass, and a convolution makes a norm's output again in backward in place of keeping it. All of that needs a value
that nobody else can see or change: so only the code that calls both neighbours decides it, at that call, from what they are then. A layer
that has a hook, a ``forward`` of its own or another class is called as any module, and its output is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _torch
from ..ops import gate
from ..ops.handed import take
from . import conv, norm

__all__ = ["Passed", "Sequential", "is_plain", "run"]

Module = torch.nn.Module


class Passed(NamedTuple):
    """A value on its way from one layer to the next."""

    value: Any
    fresh: bool = False  # a norm made it, and nobody but the next layer can see it


class Sequential(torch.nn.Sequential):
    """``torch.nn.Sequential``, with what its layers can share (see :mod:`striate.nn.container`); the same results.

    Every layer computes what its name says: index, slice, replace or hook any of them, and the values between are there.
    ``isinstance(model, torch.nn.Sequential)`` holds, ``type(model) is torch.nn.Sequential`` does not.

    >>> from striate import nn
    >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> block(torch.ones(2, 3, 6, 6)).shape, type(block[:2]) is type(block)
    (torch.Size([2, 8, 4, 4]), True)
    """

    def forward(self, input):
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
            return input
        else:
            return self._run(input)

    def _run(self, input: Any) -> Any:
        return run(self._modules.values(), Passed(input)).value

    def _chain(self) -> Iterable[Any]:
        return self._modules.values()


def _kinds(part: Any) -> set[type]:
    return {kind for name in part.__all__ if isinstance(kind := getattr(part, name), type) and not name.startswith("Lazy")}


CONVOLUTIONS = _kinds(conv)
BATCH_NORMS: set[type] = {norm.BatchNorm1d, norm.BatchNorm2d, norm.BatchNorm3d, norm.BatchNormAct2d}
NORMS = _kinds(norm) - {norm.AdaIN, norm.NoisyBatchNorm2d}
ACTIVATIONS: dict[type, str] = {torch.nn.ReLU: "relu", torch.nn.ReLU6: "relu6"}  # that a batch norm computes in its own pass
RESIDUAL: Any = object()  # stands in a chain where a value goes two ways …
SUM: Any = object()  # … and where they meet
CALL = Module.__call__
REPLACED = ("forward", "_conv_forward", "_compiled_call_impl")  # what an instance may have in its class's place, the last by compile()


def is_plain(module: Any) -> bool:
    """Whether calling ``module`` is calling its class's ``forward`` and nothing else.

    >>> layer = torch.nn.ReLU()
    >>> before, _ = is_plain(layer), layer.register_forward_hook(print)
    >>> before, is_plain(layer)
    (True, False)
    """
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return not hooks and own.keys().isdisjoint(REPLACED)


def run(modules: Iterable[Any], passed: Passed, residual: Callable[[], Passed] | None = None) -> Passed:
    r"""The modules' results, one after the other: what ``for module in modules: x = module(x)`` computes.

    .. math:: y = act(norm(\ldots) + residual)

    residual: gives what is added to the input of the last module, in a block of a residual network the activation behind a norm; it is
    called when its time has come.

    >>> from striate import nn
    >>> x = torch.ones(1, 1, 1, 1)
    >>> run([nn.BatchNorm2d(1).eval(), nn.ReLU()], Passed(x), lambda: Passed(-2 * x)).value.item()
    0.0
    """
    layers, x = list(modules), passed.value
    residuals: list[Passed] = []
    if residual is not None:
        last = max(0, len(layers) - 1)
        layers[last:last] = [residual, SUM]
    if not isinstance(x, Tensor) or not gate.is_open(x) or torch.compiler.is_dynamo_compiling() or _looked_at():
        for layer in layers:
            if layer is residual and residual is not None:
                residuals.append(residual())
            else:
                x = x + residuals.pop().value if layer is SUM else layer(x)
        return Passed(x)
    fresh, statistics, at = passed.fresh, None, 0
    while at < len(layers):
        layer = _reached(layers, at)
        kind = type(layer)
        if at == len(layers):  # containers without layers were the last
            break
        elif layer is RESIDUAL:
            residuals.append(Passed(x))
        elif layer is residual:
            residuals.append(residual())
        elif layer is SUM:
            x, fresh = x + residuals.pop().value, False
        elif getattr(kind, "hands_on", False) and is_plain(layer):
            pass
        elif (kind not in CONVOLUTIONS and kind not in NORMS) or not is_plain(layer):
            x, fresh = layer(x), False
        elif kind in CONVOLUTIONS:
            measure = _measures(_reached(layers, at + 1))
            x, fresh = layer._compute(x, *_weights(layer), measure=measure, fresh=fresh), False
            statistics = take(x) if measure else None
        elif kind in BATCH_NORMS:
            if residual is not None and _reached(layers, at + 1) is residual:
                residuals.append(residual())
                del layers[at + 1]
            adds = _reached(layers, at + 1) is SUM and _fits(x, residuals[-1].value)
            name = _activation(layer, _reached(layers, at + 1 + adds))
            adds = adds and name is not None
            value, again = residuals.pop() if adds else (None, False)
            x, fresh = layer._compute(x, value, name, statistics=statistics, fresh=again), not adds
            statistics, at = None, at + (name is not None) + adds
        else:
            x, fresh = layer(x), True
        at += 1
    return Passed(x, fresh)


def _looked_at() -> bool:
    """Whether somebody looks at the calls of all modules: by a hook, or in the place of ``Module.__call__``."""
    return Module.__call__ is not CALL or _torch.has_global_hooks()


def _reached(layers: list[Any], at: int) -> Any:
    """The layer at this place, None behind the last. What only calls its layers in turn makes way for them."""
    while at < len(layers):
        inner = _chain(layers[at])
        if inner is None:
            return layers[at]
        layers[at : at + 1] = inner
    return None


def _chain(layer: Any) -> Iterable[Any] | None:
    """The layers that a call of ``layer`` calls one after the other, as its class says beside its ``forward``; None if it does more.

    RESIDUAL and SUM may stand among them.
    """
    definer: Any = next((c for c in type(layer).__mro__ if "forward" in c.__dict__), None)
    if definer is None or "_chain" not in definer.__dict__ or type(layer).__call__ is not CALL or not is_plain(layer):
        return None
    chain: Iterable[Any] | None = layer._chain()
    return chain


def _weights(layer: Any) -> tuple[Any, ...]:
    return (None,) if isinstance(layer, conv._ConvTranspose) else (layer.weight, layer.bias)


def _measures(layer: Any) -> bool:
    """Whether this is a batch norm that measures its batch by itself, and nobody looks at what it gets."""
    measures = type(layer) in BATCH_NORMS and (layer.training or layer.running_mean is None)
    return measures and not layer.frozen and layer.whole_batch is None and is_plain(layer)


def _activation(layer: Any, following: Any) -> str | None:
    """What a batch norm calls the activation behind it, if it can compute that in its own pass."""
    name = ACTIVATIONS.get(type(following))
    return name if name is not None and layer.activation is None and layer.whole_batch is None and is_plain(following) else None


def _fits(x: Any, residual: Any) -> bool:
    """Whether a norm of ``x`` can add the residual in its own pass: torch's sum takes other shapes and types too."""
    return type(x) is Tensor and type(residual) is Tensor and residual.shape == x.shape and residual.dtype is x.dtype
