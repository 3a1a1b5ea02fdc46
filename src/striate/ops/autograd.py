"""Gives an operator its gradient: once for tracing, where it is registered, and once for eager calls, where that is slow.

An operator registered with ``torch.library`` alone costs about twice as much a call as by the ways below, with a gradient to come and
without. What a call costs now: ``python benchmarks/run.py pool --only 1x64x8x8``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["differentiable"]


def differentiable(op: Any, setup: Callable[..., None], backward: Callable[..., Any], tensors: int = 1) -> Callable[..., Any]:
    """A function that calls ``op``, whose gradient ``backward(ctx, *gradients)`` uses what ``setup(ctx, inputs, output)`` kept.

    The first of the arguments is a tensor; gradients may be asked of the first ``tensors``, and they may be None after the
    first. ``backward`` returns one value for each argument.
    """
    torch.library.register_autograd(op, backward, setup_context=setup)

    def forward(ctx: Any, *arguments: Any) -> Any:
        inputs = (*arguments[:-1], *arguments[-1])
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*inputs)
        setup(ctx, inputs, output)
        return output

    def eager_backward(ctx: Any, *gradients: Any) -> Any:
        return (*backward(ctx, *gradients)[:tensors], None)

    functions = {"forward": staticmethod(forward), "backward": staticmethod(eager_backward)}
    eager: Any = type(f"{op._opname}", (torch.autograd.Function,), functions)
    apply = super(torch.autograd.Function, eager).apply  # without what only function transforms need

    def call(x: torch.Tensor, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or (type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter):
            return op(x, *arguments)
        if torch.is_grad_enabled() and (
            x.requires_grad or (tensors > 1 and any(a is not None and a.requires_grad for a in arguments[: tensors - 1]))
        ):
            return apply(x, *arguments[: tensors - 1], arguments[tensors - 1 :])  # all that takes no part as one argument
        with torch._C._AutoDispatchBelowAutograd():
            return op(x, *arguments)

    return call
