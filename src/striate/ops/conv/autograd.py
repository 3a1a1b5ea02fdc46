"""The gradients of a convolution, eager and traced, and the fake kernels of its operators.

The three passes are the derivatives of one form that is linear in dy, w and x. So the gradients of each pass are the
two others, to any order, and each of them chooses its own method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import native
from ..._torch import below_autograd, below_views
from .. import gate
from ..autograd import without_autocast
from ..dispatch import AS_MEASURED, preferred
from ..layout import FORMATS, empty, is_channels_last
from ..precision import is_strict
from .geometry import ConvGeometry, padding_behind
from .methods import ConvProblem, Dispatch, Pass, dispatch_for

__all__ = ["apply", "needs_gradient"]

# For each pass, and for its arguments a and b: the pass that computes the gradient, and which of (g, a, b) it takes.
_GRADIENTS: dict[Pass, tuple[tuple[Pass, int, int], tuple[Pass, int, int]]] = {
    # a = x, b = w: dx from dy and w, dw from dy and x
    "forward": (("backward_data", 0, 2), ("backward_weights", 0, 1)),
    "backward_data": (("forward", 0, 2), ("backward_weights", 1, 0)),  # a = dy, b = w
    "backward_weights": (("forward", 2, 0), ("backward_data", 1, 0)),  # a = dy, b = x
}


def _gradients(ctx: Any, problem: ConvProblem, g: Tensor) -> list[Tensor | None]:
    """The gradients of a, b and the bias, None for those that are not wanted."""
    needs = ctx.needs_input_grad
    got: list[Tensor | None] = [None, None, None]
    # g is brought into the kernels' memory order here, once for both passes
    if problem.pass_ != "backward_weights" and problem.refusal is None and problem.geometry.dims > 1:
        g = g.contiguous(memory_format=FORMATS[g.dim()] if problem.channels_last else torch.contiguous_format)
    tensors = [g, *ctx.saved_tensors]
    # The gradient of b comes first: it alone needs a, which may have been recomputed and can be freed after it.
    for wanted in (1, 0):
        if needs[wanted]:
            pass_, first, second = _GRADIENTS[problem.pass_][wanted]
            got[wanted] = apply(dispatch_for(problem._replace(pass_=pass_)), tensors[first], tensors[second], None)
        tensors[1] = None
    if len(needs) > 2 and needs[2]:
        got[2] = _bias_gradient(problem, g)
    return got


def _bias_gradient(problem: ConvProblem, g: Tensor) -> Tensor:
    plain = (
        type(g) is Tensor and not torch.compiler.is_compiling() and not (torch.is_grad_enabled() and g.requires_grad)
    )
    if plain and problem.refusal is None and g.numel() > 0:
        with below_autograd():
            return _ops.conv_bias.default(g, problem.channels_last)
    return g.sum([0, *range(2, g.dim())])


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None, chosen: Dispatch) -> Tensor:
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)
        ctx.problem = chosen.problem
        with below_views():  # autograd must not take the result for a view of a method's intermediate
            return chosen.method.run(chosen.problem, a, b, bias)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        closed = gate.closed_to(g)
        problem = ctx.problem if closed is None else ctx.problem._replace(refusal=closed.reason)
        return (*_gradients(ctx, problem, g), None)


_pass = super(torch.autograd.Function, _Pass).apply  # skips the part of apply that only function transforms need


def apply(chosen: Dispatch, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes one pass by the method chosen for it, with a gradient where one is asked for."""
    traced = torch.compiler.is_compiling() or (type(a) is not Tensor and type(a) is not torch.nn.Parameter)
    if traced or chosen.problem.refusal is not None:
        # every method then consists of operators that have a gradient
        return chosen.method.run(chosen.problem, a, b, bias)
    if needs_gradient(a, b, bias):
        return _pass(a, b, bias, chosen)  # type: ignore[no-untyped-call]
    with below_views():  # as in _Pass.forward
        return chosen.method.run(chosen.problem, a, b, bias)


def needs_gradient(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or (bias is not None and bias.requires_grad))


# -------------------------------------------------------------------------------------------------------- under tracing

if native.core:
    _ops = torch.ops.striate

    @torch.library.register_fake("striate::conv")
    def _(x: Any, weight: Any, bias: Any, output: Any, *rest: Any) -> Any:
        return empty(x, [x.shape[0], weight.shape[0], *output], x.dtype, rest[-2])

    @torch.library.register_fake("striate::conv_backward_data")
    def _(dy: Any, weight: Any, bias: Any, input: Any, *rest: Any) -> Any:
        groups, channels_last, _ = rest[-3:]
        return empty(dy, [dy.shape[0], weight.shape[1] * groups, *input], dy.dtype, channels_last)

    @torch.library.register_fake("striate::conv_bias")
    def _(dy: Any, channels_last: Any) -> Any:
        return dy.new_empty([dy.shape[1]])

    @torch.library.register_fake("striate::conv_fused")
    def _(
        x: Any, weight: Any, packed: Any, bias: Any, residual: Any, activation: Any, low: Any, high: Any, *rest: Any
    ) -> Any:
        return empty(x, [x.shape[0], weight.shape[0], *rest[0]], x.dtype, rest[-2])

    @torch.library.register_fake("striate::conv_measured")
    def _(x: Any, weight: Any, bias: Any, output: Any, *rest: Any) -> Any:
        y = empty(x, [x.shape[0], weight.shape[0], *output], x.dtype, rest[-2])
        return y, x.new_empty([2, weight.shape[0]], dtype=torch.float64)

    @torch.library.register_fake("striate::conv_backward_weights")
    def _(dy: Any, x: Any, size: Any, stride: Any, dilation: Any, before: Any, groups: Any, *rest: Any) -> Any:
        weight_channels_last = len(rest) > 2 and rest[2]  # a default that a tracer may leave out
        return empty(dy, [dy.shape[1], x.shape[1] // groups, *size], dy.dtype, weight_channels_last)

    def _register(op: Any, pass_: Pass) -> None:
        """Registers the gradient of one of striate's operators for tracing."""

        def setup(ctx: Any, inputs: Any, output: Any) -> None:
            a, b = inputs[:2]
            of_weights = pass_ == "backward_weights"
            axes, stride, dilation, before, groups, channels_last, _ = inputs[2:9] if of_weights else inputs[3:]
            x, y = {"forward": (a, output), "backward_data": (output, a), "backward_weights": (b, a)}[pass_]
            input, out, size = tuple(x.shape[2:]), tuple(y.shape[2:]), tuple(axes if of_weights else b.shape[2:])
            after = padding_behind(input, out, size, stride, dilation, [(p, p) for p in before])
            resolved = (input, out, size, tuple(stride), tuple(dilation), tuple(before), after)
            geometry = ConvGeometry(x.shape[0], x.shape[1], y.shape[1], groups, *resolved)
            ctx.problem = ConvProblem(
                *(pass_, geometry, channels_last, a.dtype, None, preferred() or AS_MEASURED, is_strict()),
                weight_channels_last=is_channels_last(output if of_weights else b),
            )
            ctx.save_for_backward(a, b)

        def backward(ctx: Any, g: Any) -> Any:
            got = _gradients(ctx, ctx.problem, g)
            return (*got[:2], *[None] * 8) if pass_ == "backward_weights" else (*got, *[None] * 7)

        torch.library.register_autograd(op, backward, setup_context=setup)

    _register(_ops.conv.default, "forward")
    _register(_ops.conv_backward_data.default, "backward_data")
    _register(_ops.conv_backward_weights.default, "backward_weights")
