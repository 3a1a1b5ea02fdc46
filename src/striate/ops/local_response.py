"""Local response normalization: divides each value by a power of the sum of squares over neighbouring channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError, build
from ..reference import norm as reference
from . import gate
from .arguments import as_float, as_int, is_float, is_int
from .autograd import detached_leaf, differentiable, fake
from .dispatch import Candidate, always, choose
from .layout import empty, is_channels_last
from .norm.checks import check_input

__all__ = ["METHODS", "local_response_norm", "response"]


@fake("local_response")
def _(x: Any, size: Any, alpha: Any, beta: Any, k: Any, channels_last: Any) -> Any:
    return empty(x, x.shape, x.dtype, channels_last)


@fake("local_response_backward")
def _(dy: Any, x: Any, size: Any, alpha: Any, beta: Any, k: Any, channels_last: Any) -> Any:
    return empty(x, x.shape, x.dtype, channels_last)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, *ctx.arguments = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Any) -> Any:
    return response_backward(dy, *ctx.saved_tensors, *ctx.arguments), *[None] * 5


def _backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
    dy, x, *ctx.arguments = inputs
    ctx.save_for_backward(dy, x)


def _double_backward(ctx: Any, ddx: Any) -> Any:
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        given = [detached_leaf(p, further) for p in ctx.saved_tensors]
        dx = reference.local_response_norm_backward(*given, *ctx.arguments[:4])
    found = torch.autograd.grad(dx, given, ddx, create_graph=further)
    return (*found, *[None] * 5)


def _formula(ctx: Any, dy: Any) -> Any:
    return (reference.local_response_norm_backward(dy, *ctx.saved_tensors, *ctx.arguments[:4]),)


response_native = differentiable("local_response", _setup, _backward, _formula)
response_backward = differentiable(
    "local_response_backward", _backward_setup, _double_backward, _double_backward, tensors=2
)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """``x/(k + α/size·Σ x²)^β``, the sum over the ``size`` channels from ``c - ⌊size/2⌋`` to ``c + ⌊(size - 1)/2⌋``.

    input: (N, C, *axes). Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Krizhevsky, Sutskever, Hinton, *ImageNet classification with deep convolutional neural networks*, 2012.

    >>> local_response_norm(torch.ones(1, 1, 1, 1), 1, alpha=3.0, beta=0.5).flatten()
    tensor([0.5000])
    """
    return response(input, size, alpha, beta, k)


def response(
    x: Tensor, size: int, alpha: float, beta: float, k: float, *, where: str = "local_response_norm"
) -> Tensor:
    """:func:`local_response_norm`, under the name ``where`` in error messages.

    >>> response(torch.full((1, 1, 1), 3), 1, 1.0, 1.0, 1.0).flatten()
    tensor([0.3000])
    """
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        return F.local_response_norm(x, size, alpha, beta, k)
    check_input(x, where, 3, "(N, C, *axes)", integers_too=True)  # torch accepts them
    size = as_int(size)
    if not is_int(size):
        hint = "Give a number of channels, as 5."
        raise ArgumentTypeError(build(where, "size to be an integer", repr(size), hint=hint))
    if not 1 <= size < 2**31:
        raise ArgumentError(
            build(where, "a size from 1 to 2^31 - 1", size, hint="Give a number of channels, as 5.", x=tuple(x.shape))
        )
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not is_float(as_float(value)):
            hint = "See the formula in its docstring."
            raise ArgumentTypeError(build(where, f"{name} to be a number", repr(value), hint=hint))
    arguments = (closed, x, size, float(alpha), float(beta), float(k))
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y


def _refusal(closed: gate.Closed | None, x: Tensor, *rest: Any) -> str | None:
    if closed is not None:
        return closed.reason
    return "kernels need at least one value" if x.numel() == 0 else None


def _native(closed: None, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    y: Tensor = response_native(x, size, alpha, beta, k, is_channels_last(x))
    # torch's operator consists of pointwise operations, which keep x's memory order
    like = y if x.is_contiguous() else torch.empty_like(x)
    return y if like.stride() == y.stride() else like.copy_(y)


def _torch(closed: Any, x: Tensor, *rest: Any) -> Tensor:
    return F.local_response_norm(x, *rest)


METHODS = (Candidate("native", _refusal, _native), Candidate("torch", always, _torch))
