"""Containers that call layers one after the other, and compute neighbours together where :mod:`.fusion` allows it."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._renamed import accept_old_names
from ..ops import gate
from ..ops.batch_stats import take_statistics
from . import conv, fusion
from .fusion import BATCH_NORMS, CONVOLUTIONS, LINEARS, NORMS, Intermediate

__all__ = ["RESIDUAL", "SUM", "Intermediate", "Sequential", "container_of", "run", "torch_container_of"]

RESIDUAL: Any = object()  # marks the position in a chain of layers where a shortcut branches off
SUM: Any = object()  # marks the position where the shortcut is added


class Sequential(torch.nn.Sequential):
    """A ``torch.nn.Sequential`` that computes neighbouring layers together where it can (see :mod:`striate.nn.fusion`),
    with the same results.

    Every layer still computes what its class says: it can be indexed, sliced, replaced or hooked, and a hook gets the
    values between layers. ``isinstance(model, torch.nn.Sequential)`` holds, ``type(model) is torch.nn.Sequential`` does
    not.

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
        return run(self._modules.values(), Intermediate(input)).value

    def _chain(self) -> Iterable[Any]:
        return self._modules.values()

    # torch's method would return a torch.nn.Sequential.
    def __add__(self, other: Any) -> Sequential:
        return Sequential(*torch.nn.Sequential.__add__(self, other))

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*torch.nn.Sequential.__mul__(self, other))

    def __rmul__(self, other: int) -> Sequential:
        return self * other


@functools.cache
def container_of(torch_class: type) -> type:
    """Returns the class that makes a container of ``torch_class`` compute neighbouring layers together, as
    :class:`Sequential` does.

    torch_class: ``torch.nn.Sequential`` or a subclass that inherits its ``forward``. The result is a subclass made at
    run time, whose instances are copied and pickled as those of ``torch_class``.

    >>> class Block(torch.nn.Sequential):
    ...     pass
    >>> kind = container_of(Block)
    >>> kind.__name__, issubclass(kind, Block), torch_container_of(kind) is Block
    ('Block', True, True)
    >>> container_of(torch.nn.Sequential) is Sequential
    True
    """
    if torch_class is torch.nn.Sequential:
        return Sequential

    original: Any = torch_class.__reduce_ex__

    def reduce(self: Any, protocol: Any) -> Any:
        how, arguments, *state = original(self, protocol)
        # pickle requires that __newobj__ creates an instance of type(self).
        how = torch_class.__new__ if how is copyreg.__newobj__ else how
        return how, tuple(torch_class if a is kind else a for a in arguments), *state

    shared = {name: Sequential.__dict__[name] for name in ("forward", "_run", "_chain")}
    for name in ("__add__", "__mul__", "__rmul__"):
        if getattr(torch_class, name) is getattr(torch.nn.Sequential, name):
            shared[name] = Sequential.__dict__[name]
    names = {name: getattr(torch_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {"__reduce_ex__": reduce, "_striate_torch_class": torch_class}
    kind = type(torch_class.__name__, (torch_class,), {**shared, **names, **own})
    return kind


def torch_container_of(kind: type) -> type | None:
    """The class for which :func:`container_of` made ``kind``; None for any other class.

    >>> torch_container_of(Sequential), torch_container_of(torch.nn.ReLU)
    (<class 'torch.nn.modules.container.Sequential'>, None)
    """
    if kind is Sequential:
        return torch.nn.Sequential
    torch_class: type | None = kind.__dict__.get("_striate_torch_class")
    return torch_class


def run(
    modules: Iterable[Any], passed: Intermediate, residual: Callable[[], Intermediate] | None = None
) -> Intermediate:
    r"""Computes the modules, one after the other: what ``for module in modules: x = module(x)`` computes.

    .. math:: y = act(norm(\ldots) + residual)

    residual: computes the value that is added to the input of the last module, which in a block of a residual network
    is the activation after a norm; it is called where the block's code would compute it.

    >>> from striate import nn
    >>> x = torch.ones(1, 1, 1, 1)
    >>> run([nn.BatchNorm2d(1).eval(), nn.ReLU()], Intermediate(x), lambda: Intermediate(-2 * x)).value.item()
    0.0
    """
    layers, x = list(modules), passed.value
    if residual is not None:
        last = max(0, len(layers) - 1)
        layers[last:last] = [residual, SUM]
    if not _may_share(x):
        return _run_apart(layers, x, residual)
    residuals: list[Intermediate] = []
    fresh, statistics, at = passed.fresh, None, 0
    while at < len(layers):
        layer = _layer_at(layers, at)
        kind = type(layer)
        if at == len(layers):  # only containers without layers were left
            break
        elif layer is RESIDUAL:
            residuals.append(Intermediate(x))
        elif layer is residual:
            residuals.append(residual())
        elif layer is SUM:
            x, fresh = x + residuals.pop().value, False
        elif (kind not in CONVOLUTIONS and kind not in NORMS and kind not in LINEARS) or not fusion.is_plain(layer):
            x, fresh = layer(x), False
        elif kind in LINEARS:  # the linear layer, then the activation
            activation = fusion.linear_activation(_layer_at(layers, at + 1))
            fused = (layer,) if activation is None else (layer, layers[at + 1])
            x = fusion.compute(fused, layer._compute, (x,), *(() if activation is None else (activation,)))
            fresh, at = False, at + (activation is not None)
        elif kind in CONVOLUTIONS:
            weights = _weights(layer)
            following, postponed = _layer_at(layers, at + 1), None
            if type(following) in fusion.ACTIVATIONS:
                postponed = fusion.activation_behind_pool(following, _layer_at(layers, at + 2))
            if postponed is not None:  # convolution, pooling, then the activation
                how = functools.partial(fusion.conv_and_pool, layer, layers[at + 2], postponed)
                x, at = fusion.compute(tuple(layers[at : at + 3]), how, (x,), *weights, fresh=fresh), at + 2
            else:  # the convolution, with the statistics of a batch norm that follows
                measure = fusion.takes_batch_stats(following)
                x = fusion.compute((layer,), layer._compute, (x,), *weights, measure=measure, fresh=fresh)
                statistics = take_statistics(x) if measure else None
            fresh = False
        elif kind in BATCH_NORMS:  # the norm, then the sum, then the activation
            if residual is not None and _layer_at(layers, at + 1) is residual:
                residuals.append(residual())
                del layers[at + 1]
            after = _layer_at(layers, at + 1)
            adds = after is SUM and fusion.takes_activation(layer) and fusion.can_add(x, residuals[-1].value)
            following = fusion.fused_activation(layer, _layer_at(layers, at + 2) if adds else after)
            value, recomputable = residuals.pop() if adds else (None, False)
            fused = (layer,) if following is None else (layer, layers[at + 1 + adds])
            inputs = (x,) if value is None else (x, value)
            options = {"following": following, "statistics": statistics, "fresh": recomputable}
            x = fusion.compute(fused, layer._compute, inputs, **options)
            statistics, fresh, at = None, not adds, at + (following is not None) + adds
        else:  # any other norm, then the activation
            following = fusion.fused_activation(layer, _layer_at(layers, at + 1))
            fused = (layer,) if following is None else (layer, layers[at + 1])
            x = fusion.compute(fused, layer._compute, (x,), following=following)
            fresh, at = True, at + (following is not None)
        at += 1
    return Intermediate(x, fresh)


def _may_share(x: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and gate.is_open(x)
        and not torch.compiler.is_dynamo_compiling()
        and not fusion.calls_are_observed()
    )


def _run_apart(layers: list[Any], x: Any, residual: Callable[[], Intermediate] | None) -> Intermediate:
    """Calls each layer as a module, as torch does."""
    residuals: list[Intermediate] = []
    for layer in layers:
        if layer is residual and residual is not None:
            residuals.append(residual())
        else:
            x = x + residuals.pop().value if layer is SUM else layer(x)
    return Intermediate(x)


def _layer_at(layers: list[Any], at: int) -> Any:
    """Returns the layer at this position, None after the last; replaces a container in the list by its layers."""
    while at < len(layers):
        layer = layers[at]
        if fusion.has_known_forward(layer) or (inner := _chain(layer)) is None:
            return layer
        layers[at : at + 1] = inner
    return None


# Maps a class to its forward, and whether the class that defines this forward has a _chain.
_CHAINED: dict[type, tuple[Any, bool]] = {}


def _chain(layer: Any) -> Iterable[Any] | None:
    """The layers that a call of ``layer`` calls one after the other; None if it does more.

    The class that defines its ``forward`` lists them in a method ``_chain``. RESIDUAL and SUM may be among them.
    """
    kind: Any = type(layer)
    forward, chained = _CHAINED.get(kind, (None, False))
    if forward is None or forward is not getattr(kind, "forward", None):
        definer: Any = next((c for c in kind.__mro__ if "forward" in c.__dict__), object)
        chained = "_chain" in definer.__dict__
        _CHAINED[kind] = getattr(kind, "forward", None), chained
    if not chained or kind.__call__ is not fusion.MODULE_CALL or not fusion.is_plain(layer):
        return None
    chain: Iterable[Any] | None = layer._chain()
    return chain


def _weights(layer: Any) -> tuple[Any, ...]:
    return (None,) if isinstance(layer, conv._ConvTranspose) else (layer.weight, layer.bias)

accept_old_names(__name__)
