r"""Linear layers: three products of matrices, which are the derivatives of one trilinear form.

The kernels are in csrc/kernels/linear.cpp.

.. math:: ⟨y, dy⟩ = Σ_{r, o, i} dy[r, o] · x[r, i] · w[o, i]

So the gradients of each pass are the two others, to any order, and each of them chooses its own method. "forward" takes
(x, w), "backward_data" (dy, w) and "backward_weights" (dy, x).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import inf, prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import native
from .._torch import below_autograd
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..tuning import select
from . import gate
from .activation import (
    NONE,
    Activation,
    activated,
    clamp,
    from_arguments,
    gradient,
    operator_arguments,
    result_tells_gradient,
)
from .autograd import fake, without_autocast
from .dispatch import AS_MEASURED, Candidate, always, explain_choice, first, preferred

__all__ = ["METHODS", "PASSES", "LinearProblem", "explain_methods", "linear", "not_preferred"]

Pass = str  # one of PASSES
PASSES = ("forward", "backward_data", "backward_weights")
# A product of fewer multiply-adds takes less time than the call of an operator of ours costs more.
LEAST_MACS = 2**18
# So many rows at most are multiplied without packing (kFewLines in csrc/gemm/gemm.h), where MKL packs.
FEW_ROWS = 16
# MKL's products run at 0.42 of the micro-kernel's rate on AMD's processors with AVX-512, but on those with AVX2 as fast
# as ours or faster (docs/kernels/gemm.md). On Intel's they have not been measured beside ours.
_MKL_IS_SLOW = select.processor()[0] == "amd" and "avx512" in native.ISAS
_ops = torch.ops.striate


def not_preferred(rows: int, inputs: int, outputs: int, pass_: Pass) -> str | None:
    """The reason to prefer torch's operator for a pass, which was measured to be faster, or None, for x (rows, inputs)
    and y (rows, outputs).

    pass_: one of :data:`PASSES`, or "fused": forward for inference, where oneDNN's packed weights stand in for torch.

    >>> not_preferred(1, 10, 10, "forward"), not_preferred(8, 512, 512, "forward")
    ('torch is faster below 262,144 multiply-adds', None)
    """
    if rows * inputs * outputs < LEAST_MACS:
        return f"torch is faster below {LEAST_MACS:,} multiply-adds"
    if rows <= FEW_ROWS or _MKL_IS_SLOW:
        return None
    return f"torch is as fast or faster here for more than {FEW_ROWS} rows"


class LinearProblem(NamedTuple):
    """One pass of a linear layer, which a method is chosen for."""

    pass_: Pass
    rows: int
    inputs: int
    outputs: int
    dtype: torch.dtype
    refusal: str | None  # why no native kernel may compute with these tensors
    method: str | None = None  # a name or AS_MEASURED; None: the one that `prefer` names while a method is chosen


# -------------------------------------------------------------------------------------------------------------- methods


def _refusal(problem: LinearProblem) -> str | None:
    return problem.refusal


def _not_preferred(problem: LinearProblem) -> str | None:
    return not_preferred(problem.rows, problem.inputs, problem.outputs, problem.pass_)


def _native(
    problem: LinearProblem, a: Tensor, b: Tensor, bias: Tensor | None = None, activation: Activation = NONE
) -> Tensor:
    y: Tensor
    if problem.pass_ == "forward":
        y = _ops.linear.default(a, b, bias, *operator_arguments(activation))
    elif problem.pass_ == "backward_data":
        y = _ops.linear_backward_data.default(a, b)
    else:
        y = _ops.linear_backward_weights.default(a, b)
    return y


def _torch(
    problem: LinearProblem, a: Tensor, b: Tensor, bias: Tensor | None = None, activation: Activation = NONE
) -> Tensor:
    if problem.pass_ == "forward":
        return activated(F.linear(a, b, bias), activation)
    if problem.pass_ == "backward_data":
        return torch.matmul(a, b)
    return torch.mm(a.reshape(problem.rows, problem.outputs).T, b.reshape(problem.rows, problem.inputs))


METHODS = (Candidate("native", _refusal, _native, _not_preferred), Candidate("torch", always, _torch))


class Dispatch(NamedTuple):
    """A problem, the method chosen for it, and whether torch's operator is the choice for all three passes."""

    problem: LinearProblem
    method: Candidate
    all_torch: bool


def _method_for(problem: LinearProblem) -> Candidate:
    return first(METHODS, problem, method=problem.method)


def _dispatch(problem: LinearProblem) -> Dispatch:
    all_torch = problem.refusal is not None or all(
        _method_for(problem._replace(pass_=pass_)).name == "torch" for pass_ in PASSES
    )
    return Dispatch(problem, _method_for(problem), all_torch)


_cached_dispatch = functools.lru_cache(maxsize=4096)(_dispatch)


def _dispatch_for(problem: LinearProblem) -> Dispatch:
    if torch.compiler.is_compiling() or type(problem.rows) is not int:
        return _dispatch(problem)
    return _cached_dispatch(problem)


# ------------------------------------------------------------------------------------------------------------ gradients

# For each pass, and for its arguments a and b: the pass that computes the gradient, and which of (g, a, b) it takes.
_GRADIENTS: dict[Pass, tuple[tuple[Pass, int, int], tuple[Pass, int, int]]] = {
    "forward": (("backward_data", 0, 2), ("backward_weights", 0, 1)),  # a = x, b = w
    "backward_data": (("forward", 0, 2), ("backward_weights", 1, 0)),  # a = dy, b = w
    "backward_weights": (("forward", 2, 0), ("backward_data", 1, 0)),  # a = dy, b = x
}


def _gradients(ctx: Any, problem: LinearProblem, g: Tensor) -> list[Tensor | None]:
    """The gradients of a, b and the bias, None for those that are not wanted."""
    needs, tensors = ctx.needs_input_grad, [g, *ctx.saved_tensors[:2]]
    got: list[Tensor | None] = [None, None, None]
    for wanted in (1, 0):
        if needs[wanted]:
            pass_, first, second = _GRADIENTS[problem.pass_][wanted]
            got[wanted] = _apply(_dispatch_for(problem._replace(pass_=pass_)), tensors[first], tensors[second])
    if len(needs) > 2 and needs[2]:
        got[2] = _bias_gradient(problem, g)
    return got


def _bias_gradient(problem: LinearProblem, g: Tensor) -> Tensor:
    plain = (
        type(g) is Tensor and not torch.compiler.is_compiling() and not (torch.is_grad_enabled() and g.requires_grad)
    )
    rows, outputs = problem.rows, problem.outputs
    if plain and problem.refusal is None and rows * outputs >= LEAST_MACS:
        with below_autograd():  # one image in NHWC; its sum does not depend on the number of threads
            return _ops.conv_bias.default(g.reshape(1, rows, outputs).transpose(1, 2), True)
    return g.reshape(rows, outputs).sum(0)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None, chosen: Dispatch, activation: Activation
    ) -> Tensor:
        with below_autograd():  # autograd must not take the result for a view of a method's intermediate
            y: Tensor = chosen.method.run(chosen.problem, a, b, bias, activation)
        kept = (a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)
        ctx.problem, ctx.activation = chosen.problem, activation
        ctx.save_for_backward(*kept, *(() if activation == NONE else (y,)))
        return y

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        closed = gate.closed_to(g)
        problem = ctx.problem if closed is None else ctx.problem._replace(refusal=closed.reason)
        if ctx.activation != NONE:
            g = gradient(g, ctx.saved_tensors[2], ctx.activation)
        return (*_gradients(ctx, problem, g), None, None)


_pass = super(torch.autograd.Function, _Pass).apply  # skips the part of apply that only function transforms need


def _apply(
    chosen: Dispatch, a: Tensor, b: Tensor, bias: Tensor | None = None, activation: Activation = NONE
) -> Tensor:
    """Computes one pass by the method chosen for it, with a gradient where one is asked for."""
    y: Tensor
    traced = torch.compiler.is_compiling() or (type(a) is not Tensor and type(a) is not torch.nn.Parameter)
    if traced or chosen.problem.refusal is not None:
        # every method then consists of operators that have a gradient
        y = chosen.method.run(chosen.problem, a, b, bias, activation)
    elif _needs_gradient(a, b, bias):
        if not result_tells_gradient(activation):
            return activated(_apply(chosen, a, b, bias), activation)
        y = _pass(a, b, bias, chosen, activation)  # type: ignore[no-untyped-call]
    else:
        with below_autograd():  # as in _Pass.forward
            y = chosen.method.run(chosen.problem, a, b, bias, activation)
    return y


def _needs_gradient(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or (bias is not None and bias.requires_grad))


# --------------------------------------------------------------------------------------------------------- the function


def _check(x: Any, weight: Any, bias: Any, where: str) -> None:
    """Raises for arguments that no linear layer can have. Everything else is left to torch's operator."""
    for name, t in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(t, Tensor) and not (name == "bias" and t is None):
            hint = "Call torch.as_tensor on it first."
            raise ArgumentTypeError(build(where, f"{name} to be a tensor", type(t).__name__, hint=hint))
    _check_shapes(x.shape, weight.shape, None if bias is None else bias.shape, where)
    shape = tuple(x.shape)
    if x.dtype is torch.bool:
        raise DtypeError(build(where, "numbers", "bool", hint="Convert x with .float().", x=shape))
    mixed = x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.device != x.device:
            expects, hint = f"{name} on x's device, {x.device}", "Move one with .to()."
            raise ArgumentError(build(where, expects, t.device, hint=hint, x=shape))
        if t is not None and t.dtype is not x.dtype and not mixed:
            wanted, got = (str(d).removeprefix("torch.") for d in (x.dtype, t.dtype))
            expects, hint = f"{name} of x's type, {wanted}", "Convert one with .to()."
            raise DtypeError(build(where, expects, got, hint=hint, x=shape))


def _check_shapes(shape: Sequence[int], of_weight: Sequence[int], of_bias: Sequence[int] | None, where: str) -> None:
    shape, of_weight = tuple(shape), tuple(of_weight)
    if len(of_weight) not in (1, 2):
        raise ShapeError(build(where, "a weight of shape (out, in)", of_weight, hint="Flatten it.", x=shape))
    if not shape:
        raise ShapeError(build(where, "x of shape (*, in)", shape, hint="Add an axis with unsqueeze(0)."))
    if shape[-1] != of_weight[-1]:
        hint = f"Set in_features={shape[-1]}, or check the layer before."
        raise ShapeError(build(where, f"{of_weight[-1]} features", shape[-1], hint=hint, x=shape, weight=of_weight))
    outputs = of_weight[:-1]
    # torch broadcasts a bias, which a layer has no use for
    if of_bias is not None and len(of_bias) == 1 and outputs and of_bias[0] not in (1, outputs[0]):
        hint, got = "Give one number for each output.", tuple(of_bias)
        raise ShapeError(build(where, f"a bias of shape {outputs}", got, hint=hint, x=shape, weight=of_weight))


def _problem_of(
    shape: Sequence[int],
    of_weight: Sequence[int],
    of_bias: Sequence[int] | None,
    dtype: torch.dtype,
    refusal: str | None,
    method: str,
) -> LinearProblem:
    if len(of_weight) != 2:
        refusal = refusal or "the weight has no axis of outputs"
    elif of_bias is not None and (len(of_bias) != 1 or of_bias[0] != of_weight[0]):
        refusal = refusal or "the bias is not one number for each output"
    return LinearProblem("forward", prod(shape[:-1]), of_weight[-1], of_weight[0], dtype, refusal, method)


@functools.lru_cache(maxsize=4096)
def _plain_dispatch(
    shape: Sequence[int],
    of_weight: Sequence[int],
    of_bias: Sequence[int] | None,
    dtype: torch.dtype,
    method: str,
    where: str,
) -> Dispatch:
    """Checks the shapes of a call for which the gate is open, and chooses its method.

    Both are one look-up, because a small layer takes no more than some microseconds.
    """
    _check_shapes(shape, of_weight, of_bias, where)
    return _dispatch_for(_problem_of(shape, of_weight, of_bias, dtype, None, method))


def _chosen(x: Tensor, weight: Tensor, bias: Tensor | None, closed: gate.Closed | None, where: str) -> Dispatch:
    """The dispatch of a call, after its checks."""
    method = preferred() or AS_MEASURED  # fixed here, so that it applies to the gradients too
    if closed is None and x is not None and weight is not None and not torch.compiler.is_compiling():
        dtype = x.dtype
        if weight.dtype is dtype and (bias is None or bias.dtype is dtype):
            return _plain_dispatch(x.shape, weight.shape, None if bias is None else bias.shape, dtype, method, where)
    _check(x, weight, bias, where)
    of_bias, refusal = None if bias is None else bias.shape, None if closed is None else closed.reason
    return _dispatch_for(_problem_of(x.shape, weight.shape, of_bias, x.dtype, refusal, method))


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation | None = None,
    low: float = -inf,
    high: float = inf,
    where: str = "linear",
) -> Tensor:
    r"""A linear layer, and an activation in the same pass.

    .. math:: y[r, o] = f(b[o] + Σ_i x[r, i] · w[o, i])

    x: (\*, in), with any leading axes; weight: (out, in); bias: (out,) or None. Result: (\*, out). activation: f; where
    none is given, low and high are the bounds of a clamp, 0 and infinity for ReLU, 0 and 6 for ReLU6. NaN stays NaN.

    Where a gradient is asked for, clamps and leaky ReLUs are in the same pass, since their results tell their
    gradients; any other activation is then torch's operator behind the layer, and keeps the sum.

    Cost: in·out MACs a row.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments that do not fit each other.

    >>> linear(torch.tensor([1.0, 10.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([100.0, -200.0]))
    tensor([ 121., -157.])
    >>> linear(torch.tensor([1.0, 10.0]), torch.tensor([[1.0, 2.0], [3.0, -4.0]]), low=0.0)
    tensor([21.,  0.])
    """
    activation = clamp(low, high) if activation is None else activation
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        return activated(F.linear(x, weight, bias), activation)
    chosen = _chosen(x, weight, bias, closed, where)
    if chosen.all_torch:
        return activated(F.linear(x, weight, bias), activation)
    return _apply(chosen, x, weight, bias, activation)


def explain_methods(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, pass_: Pass = "forward"
) -> list[tuple[str, str | None]]:
    """The methods of a pass in order of preference, up to the chosen one, each with the reason against it.

    Raises as :func:`linear` does.

    >>> explain_methods(torch.ones(2, 3), torch.ones(4, 3))[-1]
    ('torch', None)
    """
    problem = _chosen(x, weight, bias, gate.closed(x, weight, bias), "linear").problem
    return explain_choice(METHODS, problem._replace(pass_=pass_), method=problem.method)


# -------------------------------------------------------------------------------------------------------- under tracing


@fake("linear")
def _(x: Any, weight: Any, bias: Any, activation: Any, low: Any, high: Any) -> Any:
    return x.new_empty([*x.shape[:-1], weight.shape[0]])


@fake("linear_backward_data")
def _(dy: Any, weight: Any) -> Any:
    return dy.new_empty([*dy.shape[:-1], weight.shape[1]])


@fake("linear_backward_weights")
def _(dy: Any, x: Any) -> Any:
    return dy.new_empty([dy.shape[-1], x.shape[-1]])


def _register(op: Any, pass_: Pass) -> None:
    """Registers the gradient of one of striate's operators for tracing."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        a, b = inputs[:2]
        x, y = {"forward": (a, output), "backward_data": (output, a), "backward_weights": (b, a)}[pass_]
        sizes = prod(x.shape[:-1]), x.shape[-1], y.shape[-1]
        ctx.problem = LinearProblem(pass_, *sizes, x.dtype, None, preferred() or AS_MEASURED)
        ctx.activation = from_arguments(*inputs[3:]) if pass_ == "forward" else NONE
        ctx.save_for_backward(a, b, *(() if ctx.activation == NONE else (output, inputs[2])))

    def backward(ctx: Any, g: Any) -> Any:
        if ctx.activation != NONE:
            a, b, y, bias = ctx.saved_tensors
            # sums that nobody kept are computed again
            z = y if result_tells_gradient(ctx.activation) else op(a, b, bias, *operator_arguments(NONE))
            g = gradient(g, z, ctx.activation)
        got = _gradients(ctx, ctx.problem, g)
        return (*got, None, None, None) if pass_ == "forward" else tuple(got[:2])

    torch.library.register_autograd(op, backward, setup_context=setup)


if native.core:
    _register(_ops.linear.default, "forward")
    _register(_ops.linear_backward_data.default, "backward_data")
    _register(_ops.linear_backward_weights.default, "backward_weights")
