"""Lets TorchScript, which compiles the source of ``forward``, compile a striate layer as its ``torch.nn`` namesake.

The ``forward`` of a layer has two branches. TorchScript compiles the first, ``_scripted``, which is the namesake's own
``forward`` under the name ``_as_torch`` unless the layer computes more. TorchScript skips the second, ``_compute``,
which asks the gate (:mod:`striate.ops.gate`) whether a native kernel may run. For padding that the namesake does not
have, TorchScript compiles the functions of :mod:`.scripted`. So a model is scripted with striate's layers in it, and
none of them has to be swapped first.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

__all__ = ["Namesake", "as_torch", "recorded"]


def as_torch(method: Callable[..., Any]) -> Callable[..., Any]:
    """Copies a method of a torch class under the name ``_as_torch``: TorchScript finds a method by its ``__name__`` and
    compiles its source.

    >>> as_torch(torch.nn.MaxPool2d.forward).__name__
    '_as_torch'
    """
    same: Any = types.FunctionType(
        method.__code__, method.__globals__, "_as_torch", method.__defaults__, method.__closure__
    )
    same.__annotations__ = method.__annotations__
    return same


def recorded(layer: Any, compute: Callable[..., Any], *inputs: Any) -> Any:
    """Computes ``layer`` for inputs that are not tensors; the tracer of ``torch.fx`` records it as one node, as it does
    torch's layers.

    The traced graph then calls the layer, with its state and kernels. A layer that is the root of the trace has no name
    in the graph: then the operations of ``compute`` are traced. For inputs other than proxies ``compute`` is called.

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
    """Gives a layer of one input its ``forward``.

    The namesake is the class of torch that follows among the bases. The layer defines ``_compute``, which calls
    striate's operation.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = (c for c in cls.__mro__ if c.__module__.startswith("torch.nn.") and c is not torch.nn.Module)
        torch_forward = next((c.__dict__["forward"] for c in known if "forward" in c.__dict__), None)
        if torch_forward is not None:
            cls._as_torch = as_torch(torch_forward)  # type: ignore[method-assign]

    if TYPE_CHECKING:  # TorchScript reads annotations and type comments, so the methods it compiles have none of these

        def _as_torch(self, *args: Any, **kwargs: Any) -> Any: ...

        def _compute(self, *args: Any, **kwargs: Any) -> Any: ...

    def forward(self, input: Tensor):  # one tensor, or a maximum with its index: TorchScript infers it
        if torch.jit.is_scripting():
            return self._scripted(input)
        else:
            return self._compute(input) if isinstance(input, Tensor) else recorded(self, self._compute, input)

    def _scripted(self, input: Tensor):  # what TorchScript compiles in place of _compute; a layer may do more here
        return self._as_torch(input)
