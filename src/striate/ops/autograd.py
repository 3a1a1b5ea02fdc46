"""Gives an operator its gradient: once for tracing, where it is registered, and once for eager calls, where that is
slow.

An operator registered with ``torch.library`` alone costs about twice as much a call as by the ways below, with a
gradient to come and without. What a call costs now: ``python benchmarks/run.py pool --only 1x64x8x8``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .. import _torch
from . import gate

__all__ = ["differentiable", "without_autocast"]


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward of an ``autograd.Function`` that computes in its tensors' type, also where ``.backward()`` is called
    under autocast.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return backward(ctx, *gradients)
        with torch.autocast("cpu", enabled=False):
            return backward(ctx, *gradients)

    return run


def differentiable(
    op: Any, setup: Callable[..., None], backward: Callable[..., Any], formula: Callable[..., Any], tensors: int = 1
) -> Callable[..., Any]:
    """A function that calls ``op``, whose gradient ``backward(ctx, *gradients)`` uses what ``setup(ctx, inputs,
    output)`` kept.

    ``formula(ctx, *gradients)`` is the same gradient in torch's operators, for when the gate is closed: gradients that
    come batched, a mode that looks on. The first of the arguments is a tensor; gradients may be asked of the first
    ``tensors``, and they may be None after the first. ``backward`` and ``formula`` return one value for each argument.
    """
    torch.library.register_autograd(op, backward, setup_context=setup)

    def forward(ctx: Any, *arguments: Any) -> Any:
        inputs = (*arguments[:-1], *arguments[-1])
        with _torch.below_autograd():
            output = op(*inputs)
        setup(ctx, inputs, output)
        return output

    @without_autocast
    def eager_backward(ctx: Any, *gradients: Any) -> Any:
        run = backward if gate.is_open(*gradients) else formula
        return (*run(ctx, *gradients)[:tensors], None)

    functions = {"forward": staticmethod(forward), "backward": staticmethod(eager_backward)}
    eager: Any = type(f"{op._opname}", (torch.autograd.Function,), functions)
    apply = super(torch.autograd.Function, eager).apply  # without what only function transforms need

    def call(x: torch.Tensor, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or (type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter):
            return op(x, *arguments)
        if torch.is_grad_enabled() and (
            x.requires_grad
            or (tensors > 1 and any(a is not None and a.requires_grad for a in arguments[: tensors - 1]))
        ):
            # all that takes no part as one argument
            return apply(x, *arguments[: tensors - 1], arguments[tensors - 1 :])
        with _torch.below_autograd():
            return op(x, *arguments)

    return call
