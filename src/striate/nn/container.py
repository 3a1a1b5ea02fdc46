"""Layers one after the other, and what neighbours share when nobody looks between them.

A convolution takes the statistics of the batch norm behind it while it writes, a norm computes the activation behind it and the sum with a
shortcut in its own pass, and a convolution makes a norm's output again in backward in place of keeping it. All of that needs a value
that nobody else can see or change: so only the code that calls both neighbours decides it, at that call, from what they are then. A layer
that has a hook, a ``forward`` of its own or another class is called as any module, and its output is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    value: Tensor
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


CONVOLUTIONS = {kind for name, kind in vars(conv).items() if name in conv.__all__ and not name.startswith("Lazy")}
BATCH_NORMS = {norm.BatchNorm1d, norm.BatchNorm2d, norm.BatchNorm3d, norm.BatchNormAct2d}
NORMS = {getattr(norm, name) for name in norm.__all__ if isinstance(getattr(norm, name), type)} - {norm.AdaIN, norm.NoisyBatchNorm2d}
ACTIVATIONS: dict[type, str] = {torch.nn.ReLU: "relu", torch.nn.ReLU6: "relu6"}  # that a batch norm computes in its own pass


def is_plain(module: Module) -> bool:
    """Whether calling ``module`` is calling its class's ``forward`` and nothing else.

    >>> layer = torch.nn.ReLU()
    >>> before, _ = is_plain(layer), layer.register_forward_hook(print)
    >>> before, is_plain(layer)
    (True, False)
    """
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return not hooks and "forward" not in own


def run(modules: Iterable[Module], passed: Passed, residual: Passed | None = None) -> Passed:
    r"""The modules' results, one after the other: what ``for module in modules: x = module(x)`` computes.

    .. math:: y = act(norm(\ldots) + residual)

    residual: what is added to the result of the last module but one, a norm; the last is an activation.

    >>> from striate import nn
    >>> run([nn.BatchNorm2d(1).eval(), nn.ReLU()], Passed(torch.ones(1, 1, 1, 1)), Passed(torch.full((1, 1, 1, 1), -2.0))).value.item()
    0.0
    """
    layers, x = list(modules), passed.value
    if not isinstance(x, Tensor) or not gate.is_open(x) or torch.compiler.is_dynamo_compiling() or _torch.has_global_hooks():
        return _one_by_one(layers, x, residual)
    layers = _seen_through(layers)
    fresh, statistics, at, count = passed.fresh, None, 0, len(layers)
    summing = count - 2 if residual is not None else count  # where the norm before the sum stands
    while at < count:
        layer, kind, following = layers[at], type(layers[at]), layers[at + 1] if at + 1 < count else None
        if getattr(kind, "hands_on", False) and is_plain(layer):
            pass
        elif (kind not in CONVOLUTIONS and kind not in NORMS) or not is_plain(layer):
            x, fresh, statistics = layer(x), False, None
        elif kind in CONVOLUTIONS:
            wanted = following is not None and _measures(following)
            x, fresh = layer._compute(x, *_weights(layer), measure=wanted, fresh=fresh), False  # type: ignore[operator]
            statistics = take(x) if wanted else None
        elif kind in BATCH_NORMS:
            name = _activation(layer, following)
            added = residual if at == summing and (name is not None or layer.activation is not None) else None
            value, again = (None, False) if added is None else added
            x, fresh = layer._compute(x, value, name, statistics=statistics, fresh=again), added is None  # type: ignore[operator]
            at, statistics = at + (name is not None), None
            if added is not None:
                return Passed(x if name is not None else layers[-1](x))
        else:
            x, fresh, statistics = layer(x), True, None
        if at == summing and residual is not None:
            x, fresh = x + residual.value, False
        at += 1
    return Passed(x, fresh)


def _one_by_one(layers: Sequence[Module], x: Any, residual: Passed | None) -> Passed:
    for at, layer in enumerate(layers):
        x = layer(x)
        if residual is not None and at == len(layers) - 2:
            x = x + residual.value
    return Passed(x)


def _seen_through(layers: Sequence[Module]) -> list[Module]:
    """The layers, with those of containers that only call their layers in these containers' places."""
    flat: list[Module] = []
    for layer in layers:
        if isinstance(layer, Sequential) and type(layer).forward is Sequential.forward and is_plain(layer):
            flat += _seen_through(list(layer._modules.values()))
        else:
            flat.append(layer)
    return flat


def _weights(layer: Any) -> tuple[Any, ...]:
    return (None,) if isinstance(layer, conv._ConvTranspose) else (layer.weight, layer.bias)


def _measures(layer: Module) -> bool:
    """Whether this is a batch norm that measures its batch by itself, and nobody looks at what it gets."""
    measures = type(layer) in BATCH_NORMS and (layer.training or layer.running_mean is None)
    return measures and not layer.frozen and layer.whole_batch is None and is_plain(layer)


def _activation(layer: Any, following: Module | None) -> str | None:
    """What a batch norm calls the activation behind it, if it can compute that in its own pass."""
    name = ACTIVATIONS.get(type(following))
    return name if name is not None and layer.activation is None and layer.whole_batch is None and is_plain(following) else None  # type: ignore[arg-type]
