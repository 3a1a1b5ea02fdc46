"""How a layer of ours is its ``torch.nn`` namesake to TorchScript, which compiles the source of ``forward``.

A layer's ``forward`` has two branches. What TorchScript compiles is the namesake's own, under the name ``_as_torch``;
the other, which it does not look into, asks the gate (:mod:`striate.ops.gate`). What pads as no namesake does compiles
:mod:`.scripted`. So a model that was
scripted keeps its layers: nothing is swapped for it.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

__all__ = ["Namesake", "as_torch", "recorded"]


def as_torch(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a class of torch's under the name ``_as_torch``: TorchScript compiles it by its ``__name__`` and its
    source.

    >>> as_torch(torch.nn.MaxPool2d.forward).__name__
    '_as_torch'
    """
    same: Any = types.FunctionType(
        method.__code__, method.__globals__, "_as_torch", method.__defaults__, method.__closure__
    )
    same.__annotations__ = method.__annotations__
    return same


def recorded(layer: Any, compute: Callable[..., Any], *inputs: Any) -> Any:
    """What ``layer`` gives for what is no tensor: a tracer of ``torch.fx`` records it as one node, as it does torch's
    layers.

    The graph then calls the layer, so that its state and kernels stay. A layer that is the root of the trace has no
    name in it: ``compute`` is traced then, as it is for anything else.

    >>> from striate import nn
    >>> [node.op for node in fx.symbolic_trace(torch.nn.Sequential(nn.MaxPool2d(2))).graph.nodes]
    ['placeholder', 'call_module', 'output']
    """
    proxy = next((x for x in inputs if isinstance(x, fx.Proxy)), None)
    if proxy is not None:
        tracer: Any = proxy.tracer
        try:
            path = tracer.path_of_module(layer)
        except NameError:
            path = ""
        if path:
            return tracer.create_proxy("call_module", path, inputs, {})
    return compute(*inputs)


class Namesake:
    """Gives a layer that takes one tensor its ``forward``; the class after it in the bases is the namesake,
    ``_compute`` what we do.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = (c for c in cls.__mro__ if c.__module__.startswith("torch.nn.") and c is not torch.nn.Module)
        theirs = next((c.__dict__["forward"] for c in known if "forward" in c.__dict__), None)
        if theirs is not None:
            cls._as_torch = as_torch(theirs)  # type: ignore[method-assign]

    if TYPE_CHECKING:  # TorchScript reads annotations and comments about types: there are none in what it compiles

        def _as_torch(self, *args: Any, **kwargs: Any) -> Any: ...

        def _compute(self, *args: Any, **kwargs: Any) -> Any: ...

    def forward(self, input: Tensor):  # one tensor, or a maximum with its index: TorchScript infers it
        if torch.jit.is_scripting():
            return self._as_torch(input)
        else:
            return self._compute(input) if isinstance(input, Tensor) else recorded(self, self._compute, input)
