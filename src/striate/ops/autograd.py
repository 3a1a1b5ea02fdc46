"""Gives an operator its gradient: once for tracing, where it is registered, and once for eager calls, where that is slow.

An operator registered with ``torch.library`` alone costs about twice as much a call as by the ways below, with a gradient to come and
without. What a call costs now: ``python benchmarks/run.py pool --only 1x64x8x8``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["differentiable"]


def differentiable(op: Any, setup: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls ``op``, whose gradient ``backward(ctx, *gradients)`` uses what ``setup(ctx, inputs, output)`` kept.

    The tensors that take part come first among the arguments. ``backward`` returns one value for each argument.
    """
    torch.library.register_autograd(op, backward, setup_context=setup)

    def forward(ctx: Any, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*arguments)
        setup(ctx, arguments, output)
        return output

    eager: Any = type(f"{op._opname}", (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})

    def call(x: torch.Tensor, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or (type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter):
            return op(x, *arguments)
        if x.requires_grad and torch.is_grad_enabled():
            return eager.apply(x, *arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return op(x, *arguments)

    return call
