"""Layers one after the other, and what neighbours share when nobody looks between them.

A convolution takes the statistics of the batch norm behind it while it writes, a norm computes the activation behind it
and the sum with a shortcut in its own pass, and a convolution makes a norm's output again in backward in place of
keeping it. All of that needs a value
that nobody else can see or change: so only the code that calls both neighbours decides it, at that call, from what they
are then. A layer that has a hook, a ``forward`` of its own or another class is called as any module, and its output is
kept.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _torch
from ..ops import gate
from ..ops import norm as norm_ops
from ..ops.batch_stats import take_statistics
from . import conv, norm, pool

__all__ = [
    "Passed",
    "Sequential",
    "Watched",
    "activation_of",
    "container_of",
    "is_plain",
    "looked_at",
    "run",
    "theirs_of",
]

Module = torch.nn.Module


class Passed(NamedTuple):
    """A value on its way from one layer to the next."""

    value: Any
    fresh: bool = False  # a norm made it, and nobody but the next layer can see it


class Sequential(torch.nn.Sequential):
    """``torch.nn.Sequential``, with what its layers can share (see :mod:`striate.nn.container`); the same results.

    Every layer computes what its name says: index, slice, replace or hook any of them, and the values between are
    there. ``isinstance(model, torch.nn.Sequential)`` holds, ``type(model) is torch.nn.Sequential`` does not.

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

    # torch's make one of torch's
    def __add__(self, other: Any) -> Sequential:
        return Sequential(*torch.nn.Sequential.__add__(self, other))

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*torch.nn.Sequential.__mul__(self, other))

    def __rmul__(self, other: int) -> Sequential:
        return self * other


@functools.cache
def container_of(theirs: type) -> type:
    """The class by which a container of ``theirs``, a ``torch.nn.Sequential`` or a subclass that has its ``forward``,
    shares as ours does.

    It is a subclass of ``theirs`` made at run time: its instances are copied and pickled as ``theirs``.

    >>> class Block(torch.nn.Sequential):
    ...     pass
    >>> kind = container_of(Block)
    >>> kind.__name__, issubclass(kind, Block), theirs_of(kind) is Block, container_of(torch.nn.Sequential) is Sequential
    ('Block', True, True, True)
    """
    if theirs is torch.nn.Sequential:
        return Sequential

    original: Any = theirs.__reduce_ex__

    def reduce(self: Any, protocol: Any) -> Any:
        how, arguments, *state = original(self, protocol)
        # of which pickle asks that it makes self's own class
        how = theirs.__new__ if how is copyreg.__newobj__ else how
        return how, tuple(theirs if a is kind else a for a in arguments), *state

    shared = {name: Sequential.__dict__[name] for name in ("forward", "_run", "_chain")}
    sums = ("__add__", "__mul__", "__rmul__")
    shared |= {
        name: Sequential.__dict__[name] for name in sums if getattr(theirs, name) is getattr(torch.nn.Sequential, name)
    }
    names = {name: getattr(theirs, name) for name in ("__module__", "__qualname__", "__doc__")}
    kind = type(theirs.__name__, (theirs,), {**shared, **names, "__reduce_ex__": reduce, "_striate_theirs": theirs})
    return kind


def theirs_of(kind: type) -> type | None:
    """The class that :func:`container_of` got; None for any other.

    >>> theirs_of(Sequential), theirs_of(torch.nn.ReLU)
    (<class 'torch.nn.modules.container.Sequential'>, None)
    """
    if kind is Sequential:
        return torch.nn.Sequential
    theirs: type | None = kind.__dict__.get("_striate_theirs")
    return theirs


def _kinds(part: Any) -> set[type]:
    return {
        kind for name in part.__all__ if isinstance(kind := getattr(part, name), type) and not name.startswith("Lazy")
    }


CONVOLUTIONS = _kinds(conv)
BATCH_NORMS: set[type] = {norm.BatchNorm1d, norm.BatchNorm2d, norm.BatchNorm3d, norm.BatchNormAct2d}
NORMS = _kinds(norm) - {norm.AdaIN, norm.NoisyBatchNorm2d, norm.LocalResponseNorm}
MAX_POOLS: set[type] = {pool.MaxPool1d, pool.MaxPool2d, pool.MaxPool3d}
# That a norm computes in its own pass, and whether they commute with a maximum, gradients too: they rise, and where
# they make different inputs equal their gradient is 0, so that it does not matter which the window picks. A leaky
# ReLU's rounding makes some equal, too.
ACTIVATIONS: dict[type, tuple[str, bool]] = {
    torch.nn.ReLU: ("relu", True),
    torch.nn.ReLU6: ("relu6", True),
    torch.nn.LeakyReLU: ("leaky_relu", False),
}
RESIDUAL: Any = object()  # stands in a chain where a value goes two ways …
SUM: Any = object()  # … and where they meet
CALL = Module.__call__


# What a call of a module of these classes goes through.
WRITTEN: dict[Any, tuple[Any, Any]] = {
    kind: (kind.forward, getattr(kind, "_conv_forward", None))
    for kind in CONVOLUTIONS | NORMS | MAX_POOLS | ACTIVATIONS.keys()
}


def is_plain(module: Any) -> bool:
    """Whether calling ``module`` is calling its class's ``forward``, the one that was written for it, and nothing else.

    >>> layer = torch.nn.ReLU()
    >>> before, _ = is_plain(layer), layer.register_forward_hook(print)
    >>> before, is_plain(layer)
    (True, False)
    """
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    # what an instance may have in its class's place, or by compile()
    if hooks or "_conv_forward" in own or "_compiled_call_impl" in own:
        return False
    kind = type(module)
    written, of_conv = WRITTEN.get(kind, (None, None))
    # somebody put another in its place
    if written is not None and (kind.forward is not written or kind.__call__ is not CALL):
        return False
    if of_conv is not None and kind._conv_forward is not of_conv:
        return False
    forward = own.get("forward")
    return forward is None or (type(forward) is Watched and forward.plain)


class Watched:
    """A ``forward`` by which a tool of ours looks on: neighbours share as ever, and what computes several is told as
    one call.

    call: gets the modules, what computes them, and its arguments.

    >>> layer, seen = torch.nn.ReLU(), []
    >>> layer.forward = Watched(layer, lambda modules, compute, args, kwargs: [seen.append(modules), compute(*args, **kwargs)][1])
    >>> layer(torch.tensor(-1.0)), is_plain(layer), seen == [(layer,)]
    (tensor(0.), True, True)
    """

    def __init__(self, module: Any, call: Callable[..., Any]) -> None:
        self.module, self.forward, self.call, self.plain = (
            module,
            module.forward,
            call,
            "forward" not in module.__dict__,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call((self.module,), self.forward, args, kwargs)


def _compute(
    modules: tuple[Any, ...], how: Callable[..., Any], inputs: tuple[Any, ...], *weights: Any, **given: Any
) -> Any:
    """``how`` computes the modules, one after the other, from these inputs; whoever watches them is told."""
    watched = modules[0].__dict__.get("forward")
    if watched is None:
        return how(*inputs, *weights, **given)
    return watched.call(modules, lambda *inputs: how(*inputs, *weights, **given), inputs, {})


def _conv_and_pool(convolution: Any, layer: Any, behind: tuple[str, float], *inputs: Any, fresh: bool) -> Any:
    """There are fewer values behind a pooling to activate."""
    return norm_ops.activated(layer._compute(convolution._compute(*inputs, fresh=fresh)), *behind)


def run(modules: Iterable[Any], passed: Passed, residual: Callable[[], Passed] | None = None) -> Passed:
    r"""The modules' results, one after the other: what ``for module in modules: x = module(x)`` computes.

    .. math:: y = act(norm(\ldots) + residual)

    residual: gives what is added to the input of the last module, in a block of a residual network the activation
    behind a norm; it is called when its time has come.

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
    if not isinstance(x, Tensor) or not gate.is_open(x) or torch.compiler.is_dynamo_compiling() or looked_at():
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
        elif (kind not in CONVOLUTIONS and kind not in NORMS) or not is_plain(layer):
            x, fresh = layer(x), False
        elif kind in CONVOLUTIONS:
            weights = _weights(layer)
            following = _reached(layers, at + 1)
            behind = _pooled(following, _reached(layers, at + 2)) if type(following) in ACTIVATIONS else None
            if behind is not None:
                how = functools.partial(_conv_and_pool, layer, layers[at + 2], behind)
                x, at = _compute(tuple(layers[at : at + 3]), how, (x,), *weights, fresh=fresh), at + 2
            else:
                measure = _measures(following)
                x = _compute((layer,), layer._compute, (x,), *weights, measure=measure, fresh=fresh)
                statistics = take_statistics(x) if measure else None
            fresh = False
        elif kind in BATCH_NORMS:
            if residual is not None and _reached(layers, at + 1) is residual:
                residuals.append(residual())
                del layers[at + 1]
            beside = _reached(layers, at + 1)
            adds = beside is SUM and _ends(layer) and _fits(x, residuals[-1].value)
            following = _following(layer, _reached(layers, at + 2) if adds else beside)
            value, again = residuals.pop() if adds else (None, False)
            both = (layer,) if following is None else (layer, layers[at + 1 + adds])
            inputs = (x,) if value is None else (x, value)
            x = _compute(both, layer._compute, inputs, following=following, statistics=statistics, fresh=again)
            statistics, fresh, at = None, not adds, at + (following is not None) + adds
        else:
            following = _following(layer, _reached(layers, at + 1))
            both = (layer,) if following is None else (layer, layers[at + 1])
            x = _compute(both, layer._compute, (x,), following=following)
            fresh, at = True, at + (following is not None)
        at += 1
    return Passed(x, fresh)


def looked_at() -> bool:
    """Whether somebody looks at the calls of all modules: by a hook, or in the place of ``Module.__call__``."""
    return Module.__call__ is not CALL or _torch.has_global_hooks()


def _reached(layers: list[Any], at: int) -> Any:
    """The layer at this place, None behind the last. What only calls its layers in turn makes way for them."""
    while at < len(layers):
        layer = layers[at]
        if type(layer) in WRITTEN or (inner := _chain(layer)) is None:
            return layer
        layers[at : at + 1] = inner
    return None


_CHAINED: dict[type, tuple[Any, bool]] = {}  # by class: its forward, and whether what defines that says what it calls


def _chain(layer: Any) -> Iterable[Any] | None:
    """The layers that a call of ``layer`` calls one after the other, as its class says beside its ``forward``; None if
    it does more.

    RESIDUAL and SUM may stand among them.
    """
    kind: Any = type(layer)
    forward, chained = _CHAINED.get(kind, (None, False))
    if forward is None or forward is not getattr(kind, "forward", None):
        definer: Any = next((c for c in kind.__mro__ if "forward" in c.__dict__), object)
        chained = "_chain" in definer.__dict__
        _CHAINED[kind] = getattr(kind, "forward", None), chained
    if not chained or kind.__call__ is not CALL or not is_plain(layer):
        return None
    chain: Iterable[Any] | None = layer._chain()
    return chain


def _weights(layer: Any) -> tuple[Any, ...]:
    return (None,) if isinstance(layer, conv._ConvTranspose) else (layer.weight, layer.bias)


def _measures(layer: Any) -> bool:
    """Whether this is a batch norm that measures its batch by itself, and nobody looks at what it gets."""
    measures = type(layer) in BATCH_NORMS and (layer.training or layer.running_mean is None)
    return measures and not layer.frozen and layer.whole_batch is None and is_plain(layer)


def _following(layer: Any, activation: Any) -> tuple[str, float] | None:
    """The activation behind a norm, its name and slope, if the norm can compute it in its own pass."""
    return activation_of(activation) if _ends(layer) else None


def _ends(layer: Any) -> bool:
    """Whether a norm computes nothing behind the norm yet, and by a kernel that can."""
    return layer.activation is None and getattr(layer, "whole_batch", None) is None


def activation_of(module: Any) -> tuple[str, float] | None:
    """The activation that calling this module is, its name and slope, of those that a norm computes in its own pass.

    >>> activation_of(torch.nn.LeakyReLU(0.1)), activation_of(torch.nn.Tanh())
    (('leaky_relu', 0.1), None)
    """
    name, _ = ACTIVATIONS.get(type(module), (None, False))
    return None if name is None or not is_plain(module) else (name, getattr(module, "negative_slope", 0.01))


def _pooled(activation: Any, layer: Any) -> tuple[str, float] | None:
    """The activation that can as well stand behind the max pooling that follows it; its value nobody else sees.

    A dilated window may take in padding alone, whose maximum is -inf.
    """
    name, commutes = ACTIVATIONS.get(type(activation), (None, False))
    if name is None or not commutes or type(layer) not in MAX_POOLS or layer.return_indices or not is_plain(activation):
        return None
    steps = layer.dilation if isinstance(layer.dilation, tuple | list) else [layer.dilation]
    return (name, 0.01) if all(step == 1 for step in steps) and is_plain(layer) else None


def _fits(x: Any, residual: Any) -> bool:
    """Whether a norm of ``x`` can add the residual in its own pass: torch's sum takes other shapes and types too."""
    return type(x) is Tensor and type(residual) is Tensor and residual.shape == x.shape and residual.dtype is x.dtype
