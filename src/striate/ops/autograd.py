"""Gives an operator its gradient twice: registered with ``torch.library`` for tracing, and as an ``autograd.Function``
for eager calls.

An eager call of an operator whose gradient is only registered takes about twice as long as one by the
``autograd.Function``, or, where no gradient is needed, by a call below autograd. ``python benchmarks/run.py pool --only
1x64x8x8`` measures what a call costs now.
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
    """Wraps the backward of an ``autograd.Function``, so that it computes in its tensors' type even if ``.backward()``
    is called under autocast.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return backward(ctx, *gradients)
        with torch.autocast("cpu", enabled=False):
            return backward(ctx, *gradients)

    return run


def fake(name: str) -> Callable[..., Any]:
    """A decorator that registers the fake kernel of the operator ``striate::name``, which returns results of the right
    shape and layout while the operator is traced. Without a core there is no operator, and nothing is registered.
    """
    return torch.library.register_fake(f"striate::{name}") if native.core else lambda function: function


def detached_leaf(p: torch.Tensor | None, further: bool) -> Any:
    """A tensor with the values of ``p`` and an autograd node of its own, by which a formula is differentiated. Where a
    ``further`` gradient will be taken, that node is connected to ``p``'s.

    The separate node matters where dy was computed from x: the gradient by x must not include the path through dy.
    """
    return None if p is None else p.view_as(p) if further and p.requires_grad else p.detach().requires_grad_()


def differentiable(
    name: str, setup: Callable[..., None], backward: Callable[..., Any], formula: Callable[..., Any], tensors: int = 1
) -> Callable[..., Any]:
    """Returns a function that calls the operator ``striate::name`` and has a gradient: ``backward(ctx, *gradients)``
    uses what ``setup(ctx, inputs, output)`` saved.

    ``formula(ctx, *gradients)`` computes the same gradient with torch's operators, for when the gate is closed: the
    gradients are batched, or a dispatch mode is active. The first ``tensors`` arguments are tensors, which can have
    gradients; all but the first may be None. ``backward`` returns one value for each argument, ``formula`` at least one
    for each of the first ``tensors``.

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
    apply = super(torch.autograd.Function, eager).apply  # skips the checks that only function transforms need

    def call(x: torch.Tensor, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or (type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter):
            return op(x, *arguments)
        if torch.is_grad_enabled() and (
            x.requires_grad
            or (tensors > 1 and any(a is not None and a.requires_grad for a in arguments[: tensors - 1]))
        ):
            # the arguments without a gradient are passed as one tuple
            return apply(x, *arguments[: tensors - 1], arguments[tensors - 1 :])
        with _torch.below_autograd():
            return op(x, *arguments)

    return call


def _missing(*arguments: Any) -> Any:
    raise RuntimeError(f"striate has no native core: {native.missing}")
