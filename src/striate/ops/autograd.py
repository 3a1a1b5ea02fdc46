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

from .. import _torch, native
from . import gate

__all__ = ["detached_leaf", "differentiable", "fake", "without_autocast"]


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


def fake(name: str) -> Callable[..., Any]:
    """A decorator: registers the fake kernel of the operator ``striate::name``, which gives the shapes and layouts of
    its results while it is traced. Without a core there is no operator, and nothing is registered.
    """
    return torch.library.register_fake(f"striate::{name}") if native.core else lambda function: function


def detached_leaf(p: torch.Tensor | None, further: bool) -> Any:
    """A tensor to differentiate a formula by: the same values on a node of their own, which leads on to those of ``p``
    where a ``further`` gradient is to come. (Where dy was computed from x, the gradient at x must not take in the way
    through dy as well.)
    """
    return None if p is None else p.view_as(p) if further and p.requires_grad else p.detach().requires_grad_()


def differentiable(
    name: str, setup: Callable[..., None], backward: Callable[..., Any], formula: Callable[..., Any], tensors: int = 1
) -> Callable[..., Any]:
    """A function that calls the operator ``striate::name``, with a gradient: ``backward(ctx, *gradients)`` uses what
    ``setup(ctx, inputs, output)`` saved.

    ``formula(ctx, *gradients)`` is the same gradient in torch's operators, for when the gate is closed: gradients that
    come batched, a mode that looks on. The first of the arguments is a tensor; gradients may be asked of the first
    ``tensors``, and they may be None after the first. ``backward`` and ``formula`` return one value for each argument.

    Without a core there is no operator, and the function raises; no candidate calls it then.
    """
    if not native.core:
        return _missing
    op = getattr(torch.ops.striate, name).default
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
    eager: Any = type(name, (torch.autograd.Function,), functions)
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


def _missing(*arguments: Any) -> Any:
    raise RuntimeError(f"striate has no native core: {native.missing}")
