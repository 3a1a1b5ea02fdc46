"""Normalization: ``y = act(γ·x̂ + β + residual)``, ``x̂ = (x - μ)/√(σ² + ε)``.

What is measured together is all that tells the norms apart. x is (batches·samples, groups·channels, places), and each
of batches × groups has a mean and a variance over its samples, channels and places:

=========  ============================================  =========  =========
norm       measured together                             batches    groups
=========  ============================================  =========  =========
batch      a channel of the whole batch                  1          C
ghost      a channel of a sub-batch                      N/size     C
instance   a channel of a sample                         N          C
group      a group of channels of a sample               N          G
layer      a sample's last axes; γ, β along them         rows       1
layer 2d   all channels at one place                     N·places   1
=========  ============================================  =========  =========

RMS norm is a layer norm that takes the mean as 0. Arguments are checked here, once for every way to compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _torch, native
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..reference import norm as reference
from . import gate, handover
from .arguments import as_float, as_int, as_ints, is_float, is_int
from .autograd import differentiable
from .choose import Candidate, always, choose
from .layout import FORMATS, empty, is_channels_last, owned
from .recipe import keep, offer

__all__ = [
    "ACTIVATIONS",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_norm_2d",
    "local_response_norm",
    "rms_norm",
]

# norm.h's numbers. What gamma and beta run along:
CHANNELS, ELEMENTS, PLACES = 0, 1, 2
# What follows; SiLU is torch's own, behind the kernel.
ACTIVATIONS = {None: 0, "relu": 1, "leaky_relu": 2, "relu6": 3, "silu": 0}
DX, DRESIDUAL, DWEIGHT, DBIAS = 1, 2, 4, 8
ARGUMENTS = 14  # of a method behind the residual, without what only containers give


# ------------------------------------------------------------------------------------------------------------ arguments


def check_input(
    x: Any,
    where: str,
    least: int,
    shape: str,
    *,
    name: str = "x",
    complex_too: bool = False,
    integers_too: bool = False,
) -> None:
    """Raises what cannot be meant of a tensor that is normalized: its type, its rank, its numbers."""
    if not isinstance(x, Tensor):
        what = "a tensor" if name == "x" else f"{name} to be a tensor"
        raise ArgumentTypeError(build(where, what, type(x).__name__, hint="Call torch.as_tensor on it first."))
    if x.dim() < least:
        raise ShapeError(build(where, f"{name} of shape {shape}", tuple(x.shape), hint="Add axes with unsqueeze."))
    if (
        x.is_floating_point()
        or (x.is_complex() and complex_too)
        or (integers_too and not x.is_complex() and x.dtype is not torch.bool)
    ):
        return
    kind = str(x.dtype).removeprefix("torch.")
    what = "floating-point numbers" if name == "x" else f"a {name} of floating-point numbers"
    raise DtypeError(build(where, what, kind, hint="Convert x with .float().", x=tuple(x.shape)))


def check_eps(eps: Any, where: str, zero: bool = True) -> float:
    """``eps`` as a number; 0 where torch takes it (``zero``)."""
    number = as_float(eps)
    if not is_float(number):
        raise ArgumentTypeError(build(where, "eps to be a number", repr(eps), hint="Use 1e-5."))
    if not (0 < number < math.inf or (zero and number == 0)):
        expects = "an eps of 0 or more" if zero else "an eps above 0"
        hint = "Use 1e-5: it keeps a constant channel's variance from dividing by 0."
        raise ArgumentError(build(where, expects, number, hint=hint))
    return number


def _check_channels(x: Tensor, where: str, **parameters: Tensor | None) -> None:
    channels = x.shape[1]
    for name, p in parameters.items():
        if p is None:
            continue
        if not isinstance(p, Tensor):
            raise ArgumentTypeError(
                build(where, f"{name} to be a tensor or None", type(p).__name__, hint="Give one number a channel.")
            )
        if p.dim() != 1 or p.shape[0] != channels:
            expects = f"{name} of shape ({channels},), one number a channel"
            raise ShapeError(
                build(where, expects, tuple(p.shape), hint="x's second axis is the channels.", x=tuple(x.shape))
            )
        if not (p.is_cpu and x.is_cpu) and p.device != x.device:  # devices are slow to compare
            raise ArgumentError(
                build(
                    where, f"{name} on x's device, {x.device}", p.device, hint=f"Move it with .to({str(x.device)!r})."
                )
            )


def _check_residual(x: Tensor, residual: Any, where: str) -> None:
    if not isinstance(residual, Tensor):
        raise ArgumentTypeError(
            build(
                where, "residual to be a tensor or None", type(residual).__name__, hint="Leave it out to add nothing."
            )
        )
    if residual.shape != x.shape:
        raise ShapeError(
            build(
                where, "a residual of x's shape", tuple(residual.shape), hint="Bring it to x's shape.", x=tuple(x.shape)
            )
        )
    if residual.dtype != x.dtype:
        kind = str(residual.dtype).removeprefix("torch.")
        raise DtypeError(
            build(
                where,
                f"a residual of x's type, {str(x.dtype).removeprefix('torch.')}",
                kind,
                hint="Convert it with .to(x).",
            )
        )


def check_activation(activation: Any, where: str) -> None:
    if not (activation is None or isinstance(activation, str)) or activation not in ACTIVATIONS:
        names = ", ".join(repr(a) for a in ACTIVATIONS)
        raise ArgumentError(
            build(where, f"an activation of {names}", repr(activation), hint="Put any other behind the layer.")
        )


def _check_running(where: str, running_mean: Any, running_var: Any, needed: bool) -> None:
    if (running_mean is None) != (running_var is None):
        got = "only a running variance" if running_mean is None else "only a running mean"
        raise ArgumentError(build(where, "running_mean and running_var together", got, hint="Give both or neither."))
    if needed and running_mean is None:
        raise ArgumentError(
            build(
                where,
                "running statistics where the batch is not measured",
                None,
                hint="Give running_mean and running_var, or measure it.",
            )
        )


def _check_momentum(momentum: Any, where: str) -> float:
    number = as_float(momentum)
    if not is_float(number):
        raise ArgumentTypeError(build(where, "momentum to be a number", repr(momentum), hint="Use 0.1."))
    if not -math.inf < number < math.inf:
        raise ArgumentError(build(where, "a finite momentum", number, hint="Use 0.1: the weight of the newest batch."))
    return number


def check_more_than_one(count: int, x: Tensor, where: str, of: str) -> None:
    if count == 1:
        raise ShapeError(
            build(
                where,
                f"more than one value per {of} to measure",
                1,
                hint="Use a larger batch or .eval().",
                x=tuple(x.shape),
            )
        )


def check_channel_arguments(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    measured: bool,
    momentum: Any,
    eps: Any,
    residual: Any,
    activation: Any,
    where: str,
    per_sample: bool = False,
) -> tuple[float, float]:
    """Raises what cannot be meant of a norm whose statistics belong to channels; returns momentum and eps as numbers.

    per_sample: an eps of 0 is taken where the batch is measured too, as torch's instance norm does and its batch norm
    does not.
    """
    check_input(x, where, *((3, "(N, C, *axes)") if per_sample else (2, "(N, C) or (N, C, *axes)")))
    eps = check_eps(eps, where, per_sample or not measured)
    momentum = _check_momentum(momentum, where)
    _check_running(where, running_mean, running_var, not measured)
    _check_channels(x, where, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None:
        _check_residual(x, residual, where)
    if activation is not None:
        check_activation(activation, where)
    return momentum, eps


# ------------------------------------------------------------------------------------------------------------ operators

if native.core:
    _ops = torch.ops.striate

    def _sets(x: Tensor, batches: Any, groups: Any, along: int) -> Any:
        if along == PLACES:
            places = x.shape[0]
            for size in x.shape[2:]:
                places = places * size
            return places
        return batches if along == ELEMENTS else batches * groups

    @torch.library.register_fake("striate::norm")
    def _(
        x: Any,
        residual: Any,
        weight: Any,
        bias: Any,
        mean: Any,
        variance: Any,
        batches: Any,
        groups: Any,
        along: Any,
        *rest: Any,
    ) -> Any:
        statistics = x.new_empty([2, _sets(x, batches, groups, along)], dtype=torch.float64)
        return empty(x, x.shape, x.dtype, rest[0]), statistics

    @torch.library.register_fake("striate::norm_backward")
    def _(
        dy: Any,
        x: Any,
        residual: Any,
        weight: Any,
        bias: Any,
        statistics: Any,
        means: Any,
        batches: Any,
        groups: Any,
        along: Any,
        *rest: Any,
    ) -> Any:
        channels_last, wanted = rest[0], rest[-1]

        def like(p: Any, flag: int) -> Any:
            if not wanted & flag:
                return x.new_empty([0])
            if flag & (DX | DRESIDUAL):
                return empty(x, x.shape, x.dtype, channels_last)
            return (
                empty(x, [1, *p.shape], x.dtype, True).squeeze(0)
                if channels_last and along == ELEMENTS
                else x.new_empty(p.shape)
            )

        return like(x, DX), like(x, DRESIDUAL), like(weight, DWEIGHT), like(bias, DBIAS)

    @torch.library.register_fake("striate::norm_measure")
    def _(x: Any, batches: Any, groups: Any, along: Any, channels_last: Any, centered: Any) -> Any:
        return x.new_empty([2, _sets(x, batches, groups, along)], dtype=torch.float64)

    @torch.library.register_fake("striate::norm_sums")
    def _(dy: Any, x: Any, *rest: Any) -> Any:
        return x.new_empty([2, x.shape[1]], dtype=torch.float64)

    @torch.library.register_fake("striate::norm_update")
    def _(mean: Any, variance: Any, statistics: Any, count: Any, momentum: Any) -> None:
        return None

    def _setup(ctx: Any, inputs: Any, output: Any) -> None:
        x, residual, weight, bias, mean, _, *ctx.geometry, _ = inputs
        activated = ctx.geometry[6] != 0  # only then is the sign of what was activated needed
        ctx.save_for_backward(x, residual if activated else None, weight, bias, output[1])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.given = mean is not None
        # An activation of torch's keeps what it needs: its gradient must not follow who writes scale or shift through
        # `.data` meanwhile.
        eager = activated and not torch.compiler.is_compiling() and gate.is_open(x, weight, bias)
        ctx.applied = [None if p is None else p.clone() for p in (weight, bias)] if eager else []

    def _backward(ctx: Any, dy: Any, _: Any) -> Any:
        if dy is None:
            return (None,) * 15
        x, residual, weight, bias, statistics = ctx.saved_tensors
        if not all(p is None or torch.equal(p, now) for p, now in zip(ctx.applied, (weight, bias), strict=False)):
            return *_formula(ctx, dy, None), *[None] * 11
        needs = ctx.needs_input_grad
        wanted = DX * needs[0] + DWEIGHT * needs[2] + DBIAS * needs[3]
        plain = ctx.geometry[6] == 0
        if needs[1] and not plain:
            wanted += DRESIDUAL
        arguments = (dy, x, residual, weight, bias, statistics, None, *ctx.geometry, ctx.given, wanted)
        dx, dresidual, dweight, dbias = norm_backward(*arguments) if wanted else (None,) * 4
        return (
            dx if needs[0] else None,
            (dy if plain else dresidual) if needs[1] else None,
            dweight if needs[2] else None,
            dbias if needs[3] else None,
            *[None] * 11,
        )

    def _formula(ctx: Any, dy: Any, _: Any) -> Any:
        if dy is None:
            return (None,) * 4
        *inputs, statistics = ctx.saved_tensors
        outputs = _backward_formula(
            [dy, *inputs], statistics if ctx.given else None, *ctx.geometry, applied=ctx.applied
        )
        return tuple(g if need else None for g, need in zip(outputs, ctx.needs_input_grad, strict=False))

    def _backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
        dy, x, residual, weight, bias, statistics, _, *ctx.geometry = inputs
        ctx.save_for_backward(dy, x, residual, weight, bias, statistics)
        ctx.set_materialize_grads(False)

    def _alias(p: Tensor | None, further: bool) -> Any:
        # A node of its own: where dy was computed from x, the gradient at x must not take in the way through dy as
        # well.
        return None if p is None else p.view_as(p) if further and p.requires_grad else p.detach().requires_grad_()

    def _double_backward(ctx: Any, *gradients: Any) -> Any:
        """Differentiates the reference of backward, of which the kernel is the fast form."""
        *inputs, statistics = ctx.saved_tensors
        *geometry, constant, wanted = ctx.geometry
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            given = [_alias(p, further) for p in inputs]
            outputs = _backward_formula(given, statistics if constant else None, *geometry)
        flags = (DX, DRESIDUAL, DWEIGHT, DBIAS)
        used = [
            (out, g) for out, g, flag in zip(outputs, gradients, flags, strict=True) if wanted & flag and g is not None
        ]
        asked = [k for k, p in enumerate(given) if p is not None and ctx.needs_input_grad[k]]
        found: list[Any] = [None] * 17
        if used:
            roots, seeds = zip(*used, strict=True)
            got = torch.autograd.grad(roots, [given[k] for k in asked], seeds, create_graph=further, allow_unused=True)
            for k, gradient in zip(asked, got, strict=True):
                found[k] = gradient
        return tuple(found)

    def _backward_formula(
        inputs: Sequence[Any],
        statistics: Tensor | None,
        batches: int,
        groups: int,
        along: int,
        channels_last: bool,
        centered: bool,
        eps: float,
        activation: int,
        slope: float,
        *,
        applied: Sequence[Tensor | None] = (),
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        dy, x, residual, weight, bias = inputs
        shape, dims, scaled, along_scaled = _axes(x, batches, groups, along)
        (gamma, beta), then = (
            [None if p is None else p.reshape(along_scaled) for p in both] for both in ((weight, bias), applied)
        )
        mean, variance = (None, None) if statistics is None else (s.reshape(along_scaled) for s in statistics)
        g = dy
        if activation:
            scale, shift = then or (gamma, beta)
            z = reference.normalize(
                x.reshape(shape), dims, scale, shift, eps, scaled, mean, variance, centered=centered
            ).reshape(x.shape)
            z = z if residual is None else z + residual
            passes = (z > 0) & (z < 6) if activation == 3 else z > 0
            g = torch.where(passes, dy, dy * slope if activation == 2 else torch.zeros_like(dy))
        dx, dgamma, dbeta = reference.normalize_backward(
            g.reshape(shape), x.reshape(shape), dims, gamma, eps, scaled, mean, variance, centered=centered
        )
        return (
            dx.reshape(x.shape),
            g,
            None if weight is None else dgamma.reshape(weight.shape),
            None if bias is None else dbeta.reshape(bias.shape),
        )

    def _axes(x: Tensor, batches: int, groups: int, along: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """For :mod:`striate.reference.norm`: x's shape there, the axes that are measured, those of scale and shift, and
        their shape.
        """
        if along == ELEMENTS:
            shape, dims, scaled = [batches, -1], [1], [1]
        elif along == PLACES:
            shape, dims, scaled = [*x.shape[:2], -1], [1], [1]
        else:
            shape, dims, scaled = [batches, x.shape[0] // batches, groups, x.shape[1] // groups, -1], [1, 3, 4], [2, 3]
        return shape, dims, scaled, [x.reshape(shape).shape[d] for d in scaled]

    @torch.library.register_fake("striate::local_response")
    def _(x: Any, size: Any, alpha: Any, beta: Any, k: Any, channels_last: Any) -> Any:
        return empty(x, x.shape, x.dtype, channels_last)

    @torch.library.register_fake("striate::local_response_backward")
    def _(dy: Any, x: Any, size: Any, alpha: Any, beta: Any, k: Any, channels_last: Any) -> Any:
        return empty(x, x.shape, x.dtype, channels_last)

    def _response_setup(ctx: Any, inputs: Any, output: Any) -> None:
        x, *ctx.arguments = inputs
        ctx.save_for_backward(x)

    def _response_backward(ctx: Any, dy: Any) -> Any:
        return response_backward(dy, *ctx.saved_tensors, *ctx.arguments), *[None] * 5

    def _response_backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
        dy, x, *ctx.arguments = inputs
        ctx.save_for_backward(dy, x)

    def _response_double_backward(ctx: Any, ddx: Any) -> Any:
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            given = [_alias(p, further) for p in ctx.saved_tensors]
            dx = reference.local_response_norm_backward(*given, *ctx.arguments[:4])
        found = torch.autograd.grad(dx, given, ddx, create_graph=further)
        return (*found, *[None] * 5)

    def _response_formula(ctx: Any, dy: Any) -> Any:
        return (reference.local_response_norm_backward(dy, *ctx.saved_tensors, *ctx.arguments[:4]),)

    response_native = differentiable(
        _ops.local_response.default, _response_setup, _response_backward, _response_formula
    )
    response_backward = differentiable(
        _ops.local_response_backward.default,
        _response_backward_setup,
        _response_double_backward,
        _response_double_backward,
        tensors=2,
    )
    norm_native = differentiable(_ops.norm.default, _setup, _backward, _formula, tensors=4)
    norm_backward = differentiable(
        _ops.norm_backward.default, _backward_setup, _double_backward, _double_backward, tensors=5
    )


# -------------------------------------------------------------------------------------------------------------- methods


def _refusal(closed: gate.Closed | None, x: Tensor, residual: Any, weight: Any, bias: Any, *rest: Any) -> str | None:
    if closed is not None:
        return closed.reason
    for p in (weight, bias):
        if p is not None and p.dtype is not x.dtype:
            return f"kernels need scale and shift of the input's type, {str(x.dtype).removeprefix('torch.')}"
    if x.numel() == 0:
        return "kernels need at least one value"
    if rest[8] == 0:  # eps
        return (
            "with an eps of 0 a constant gives what torch's operator makes of it: NaN in most norms, β in instance norm"
        )
    return None


def _native(
    closed: None,
    x: Tensor,
    residual: Any,
    weight: Any,
    bias: Any,
    running: Any,
    variance: Any,
    measured: bool,
    batches: int,
    groups: int,
    along: int,
    any_order: bool,
    centered: bool,
    eps: float,
    activation: str | None,
    slope: float,
    theirs: Any,
    known: Tensor | None = None,
    fresh: bool = False,
    step: Callable[[Tensor], None] | None = None,
    first: bool = False,
) -> Tensor:
    last = any_order and is_channels_last(x)
    mean, variance = (None, None) if measured else (running, variance)
    number = ACTIVATIONS[activation]
    if step is not None and first:
        known = (
            known
            if known is not None
            else _ops.norm_measure.default(x.detach(), batches, groups, along, last, centered)
        )
        step(known)
        step = None
    rest = (batches, groups, along, last, centered, eps, number, slope, known)
    y, statistics = norm_native(x, residual, weight, bias, mean, variance, *rest)
    if step is not None:
        step(statistics)
    if residual is None:
        offer(y, functools.partial(_again, rest[:-1], mean is not None, activation), (2, 3))
    elif fresh and number:
        keep(residual, y, 1)
    return F.silu(y) if activation == "silu" else y


def _again(
    geometry: Any, given: bool, name: str | None, x: Tensor, residual: None, weight: Any, bias: Any, statistics: Tensor
) -> Tensor:
    if gate.is_open(x, weight, bias):
        return _ops.norm.default(x, residual, weight, bias, *statistics, *geometry, None)[0]
    batches, groups, along, _, centered, eps, _, slope = geometry
    shape, dims, scaled, along_scaled = _axes(x, batches, groups, along)
    gamma, beta = (None if p is None else p.reshape(along_scaled) for p in (weight, bias))
    mean, variance = (s.reshape(along_scaled) for s in statistics) if given else (None, None)
    y = reference.normalize(x.reshape(shape), dims, gamma, beta, eps, scaled, mean, variance, centered).reshape(x.shape)
    return y if name == "silu" else activated(y, name, slope)


def _theirs(closed: Any, x: Tensor, residual: Any, *rest: Any) -> Tensor:
    *_, activation, slope, theirs = rest[:ARGUMENTS]
    y = theirs()
    return activated(y if residual is None else y + residual, activation, slope)


def activated(y: Tensor, activation: str | None, slope: float = 0.01) -> Tensor:
    """What follows a norm, by torch's operator.

    >>> activated(torch.tensor([-1.0, 2.0]), "leaky_relu", 0.5)
    tensor([-0.5000,  2.0000])
    """
    if activation is None:  # in words that TorchScript has
        return y
    if activation == "relu":
        return F.relu(y)
    if activation == "relu6":
        return F.relu6(y)
    return F.silu(y) if activation == "silu" else F.leaky_relu(y, slope)


METHODS = (Candidate("native", _refusal, _native), Candidate("torch", always, _theirs))


# ------------------------------------------------------------------------------------------------------------ functions


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per channel: the batch's in training, else the running ones.

    In training the running statistics become ``(1 - momentum)·r + momentum·batch``, the batch's variance unbiased
    there.
    input: (N, C) or (N, C, *axes); the others: (C,). Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True, eps=1e-9)
    tensor([[-1.],
            [ 1.]])
    """
    return by_channel(input, running_mean, running_var, weight, bias, training, momentum, eps)


def by_channel(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    measured: bool,
    momentum: float,
    eps: float,
    *,
    batches: int | None = 1,
    residual: Tensor | None = None,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "batch_norm",
    known: Tensor | None = None,
    fresh: bool = False,
    any_order: bool = True,
) -> Tensor:
    """Batch, ghost and instance norm: each of ``batches`` equal parts of the batch is measured per channel, if it is
    measured.

    ``batches`` None: as many as samples, an instance norm, for which torch has an operator of its own. known: the
    batch's statistics, if the convolution that made x took them; fresh: a norm made the residual and nobody else can
    see it. Both are for containers (see
    :mod:`striate.nn.container`). any_order: the result is channels_last where x is; else contiguous, as that of
    torch's instance norm.

    The running statistics take one step towards the mean over the batches. What follows: the sum with ``residual``,
    then ``activation``, one of ACTIVATIONS.

    >>> by_channel(torch.tensor([[1.0], [3.0]]), None, None, None, None, True, 0.1, 1e-9, activation="relu")
    tensor([[0.],
            [1.]])
    """
    closed = gate.closed(x, residual, weight, bias, running_mean, running_var)
    symbolic = closed is not None and closed.symbolic
    per_sample = batches is None
    if not symbolic:
        given = (x, running_mean, running_var, weight, bias, measured, momentum, eps, residual, activation)
        momentum, eps = check_channel_arguments(*given, where, per_sample)
    channels = x.shape[1]
    batches = (x.shape[0] if measured and not symbolic else 1) if batches is None else batches
    count = x.numel() // (channels * batches) if not symbolic and channels and batches else 0
    if measured and not symbolic:
        check_more_than_one(count, x, where, "channel" if batches == 1 else "channel of a sample")
        if batches > 1 and x.shape[0] % batches != 0:
            hint = "Measure equal parts of the batch."
            raise ShapeError(
                build(where, f"a batch that {batches} parts divide", x.shape[0], hint=hint, x=tuple(x.shape))
            )

    def theirs() -> Tensor:
        if not symbolic and x.numel() == 0 and (per_sample or batches != 1):
            # torch's instance norm takes no empty batch, its batch norm no eps of 0
            return F.batch_norm(x, None, None, weight, bias, True, momentum, eps or 1.0)
        if per_sample:
            return F.instance_norm(x, running_mean, running_var, weight, bias, measured, momentum, eps)
        if batches == 1 or not measured:
            return F.batch_norm(x, running_mean, running_var, weight, bias, measured, momentum, eps)
        if running_mean is None or running_var is None:
            return torch.cat(
                [F.batch_norm(part, None, None, weight, bias, True, momentum, eps) for part in x.chunk(batches)]
            )
        running = [(running_mean.clone(), running_var.clone()) for _ in range(batches)]
        parts = zip(x.chunk(batches), running, strict=True)
        y = torch.cat([F.batch_norm(part, *pair, weight, bias, True, momentum, eps) for part, pair in parts])
        for r, steps in zip((running_mean, running_var), zip(*running, strict=True), strict=True):
            r.copy_(torch.stack(steps).mean(0))
        return y

    def step(statistics: Tensor) -> None:
        _ops.norm_update.default(running_mean, running_var, statistics, count, momentum)

    # A checkpoint ends its second pass when it has what it needs, and this norm may keep the last of it. torch's batch
    # norm has taken its step by then; its instance norm, which is one of many batches, takes it later.
    first = batches == 1 and not per_sample and not torch.compiler.is_compiling() and _torch.saved_tensors_hooked()
    arguments = (
        *(
            closed,
            x,
            residual,
            weight,
            bias,
            running_mean,
            running_var,
            measured,
            batches if measured else 1,
            channels,
            CHANNELS,
        ),
        *(any_order, True, eps, activation, slope, theirs),
        *(known, fresh, step if measured and running_mean is not None else None, first),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per sample and channel, or the running ones (``use_input_stats=False``).

    input: (N, C, *axes); the others: (C,). Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> instance_norm(torch.tensor([[[1.0, 3.0]]]), eps=1e-9)
    tensor([[[-1.,  1.]]])
    """
    return instance(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def instance(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    measured: bool,
    momentum: float,
    eps: float,
    *,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "instance_norm",
    any_order: bool = False,
) -> Tensor:
    """Instance norm and an activation: batch norm of batches of one sample.

    >>> instance(torch.tensor([[[1.0, 3.0]]]), None, None, None, None, True, 0.1, 1e-9, activation="relu")
    tensor([[[0., 1.]]])
    """
    more: Any = {"batches": None, "activation": activation, "slope": slope, "where": where, "any_order": any_order}
    return by_channel(x, running_mean, running_var, weight, bias, measured, momentum, eps, **more)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per sample and group of neighbouring channels.

    input: (N, C, *axes), C a multiple of num_groups; weight, bias: (C,). Raises ArgumentError, ArgumentTypeError,
    ShapeError or DtypeError.

    Source: Wu, He, *Group normalization*, 2018.

    >>> group_norm(torch.tensor([[[1.0], [3.0]]]), 1, eps=1e-9).flatten()
    tensor([-1.,  1.])
    """
    return by_group(input, num_groups, weight, bias, eps)


def by_group(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "group_norm",
) -> Tensor:
    """Group norm, the sum with ``residual``, and an activation.

    >>> by_group(torch.tensor([[[1.0], [3.0]]]), 1, None, None, 1e-9, activation="relu").flatten()
    tensor([0., 1.])
    """
    closed = gate.closed(x, residual, weight, bias)
    if closed is None or not closed.symbolic:
        groups, eps = _check_groups(x, groups, weight, bias, eps, residual, activation, where)

    def theirs() -> Tensor:
        return handover.group_norm(x, groups, weight, bias, eps)

    arguments = (
        *(closed, x, residual, weight, bias, None, None, True, x.shape[0], groups, CHANNELS),
        *(True, True, eps, activation, slope, theirs),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y


def _check_groups(
    x: Any, groups: Any, weight: Any, bias: Any, eps: Any, residual: Any, activation: Any, where: str
) -> tuple[int, float]:
    check_input(x, where, 2, "(N, C, *axes)")
    eps = check_eps(eps, where)
    groups = as_int(groups)
    if not is_int(groups):
        raise ArgumentTypeError(
            build(where, "num_groups to be an integer", repr(groups), hint="Use 32, or what divides the channels.")
        )
    if groups < 1 or x.shape[1] % groups != 0:
        expects = f"num_groups that divides the {x.shape[1]} channels"
        raise ArgumentError(build(where, expects, groups, hint="Choose a divisor of the channels.", x=tuple(x.shape)))
    _check_channels(x, where, weight=weight, bias=bias)
    if residual is not None:
        _check_residual(x, residual, where)
    if activation is not None:
        check_activation(activation, where)
    if x.numel() > 0:
        check_more_than_one(x.numel() // groups, x, where, "group")  # torch's rule: one sample's lone value
    return groups, eps


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² over the last axes, those of ``normalized_shape``; γ and β have that shape.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Ba, Kiros, Hinton, *Layer normalization*, 2016.

    >>> layer_norm(torch.tensor([[1.0, 3.0]]), [2], eps=1e-9)
    tensor([[-1.,  1.]])
    """
    return by_element(input, normalized_shape, weight, bias, eps)


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """``γ·x/√(mean(x²) + ε)`` over the last axes, those of ``normalized_shape``; ε is the type's rounding step if None.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Zhang, Sennrich, *Root mean square layer normalization*, 2019.

    >>> rms_norm(torch.tensor([[3.0, 3.0]]), [2], eps=1e-9)
    tensor([[1., 1.]])
    """
    return by_element(input, normalized_shape, weight, None, eps, centered=False, where="rms_norm")


def by_element(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    *,
    centered: bool = True,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "layer_norm",
) -> Tensor:
    """Layer norm, or RMS norm if not ``centered``, and an activation.

    >>> by_element(torch.tensor([[1.0, 3.0]]), [2], None, None, 1e-9, activation="relu")
    tensor([[0., 1.]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if centered:
            return activated(F.layer_norm(x, sizes, weight, bias, 1e-5 if eps is None else eps), activation, slope)
        return activated(F.rms_norm(x, sizes, weight, eps), activation, slope)
    check_input(x, where, 1, "(*, *normalized_shape)", complex_too=not centered)  # as torch's
    shape = _normalized_shape(x, normalized_shape, where)
    given_eps = eps
    if eps is None and not centered:
        eps = torch.finfo(x.dtype).eps
    eps = check_eps(eps, where)
    for name, p in (("weight", weight), ("bias", bias)):
        if p is not None and not isinstance(p, Tensor):
            hint = "Scale and shift have a number for each normalized element."
            raise ArgumentTypeError(build(where, f"{name} to be a tensor or None", type(p).__name__, hint=hint))
        if p is not None and tuple(p.shape) != shape:
            hint = "Scale and shift have a number for each normalized element."
            raise ShapeError(
                build(where, f"{name} of the normalized shape, {shape}", tuple(p.shape), hint=hint, x=tuple(x.shape))
            )
    if activation is not None:
        check_activation(activation, where)
    rows = 1
    for size in x.shape[: x.dim() - len(shape)]:
        rows = rows * size

    def theirs() -> Tensor:
        if x.numel() == 0:  # torch's would still make statistics for each of what may be 2^31 rows
            y = x.clone() if weight is None else x * weight
            return (y if bias is None else y + bias).to(x.dtype)
        if centered:
            return F.layer_norm(x, shape, weight, bias, eps)
        return F.rms_norm(x, shape, weight, given_eps)

    arguments = (
        *(closed, x, None, weight, bias, None, None, True, rows, 1, ELEMENTS),
        *(False, centered, eps, activation, slope, theirs),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    if closed is None and not centered and is_channels_last(x):  # as torch's RMS norm gives it
        y = y.contiguous(memory_format=FORMATS[x.dim()])
    return y


def _normalized_shape(x: Tensor, normalized_shape: Any, where: str) -> tuple[int, ...]:
    sizes = as_ints(normalized_shape)
    shape: tuple[int, ...] = sizes if isinstance(sizes, tuple) else (sizes,)
    if len(shape) == 0 or not all(is_int(n) for n in shape):
        hint = "Give the sizes of the axes to measure."
        raise ArgumentTypeError(
            build(where, "normalized_shape to be an integer or some", repr(normalized_shape), hint=hint)
        )
    if len(shape) > x.dim() or tuple(x.shape[x.dim() - len(shape) :]) != shape:
        hint = "normalized_shape is the sizes of x's last axes."
        raise ShapeError(build(where, f"x to end in the normalized shape, {shape}", tuple(x.shape), hint=hint))
    return shape


def layer_norm_2d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "layer_norm_2d",
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² over all channels at one place, as ConvNeXt has it.

    x: (N, C, *axes); weight, bias: (C,). Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Liu et al., *A ConvNet for the 2020s*, 2022.

    >>> layer_norm_2d(torch.tensor([[[1.0], [3.0]]]), eps=1e-9).flatten()
    tensor([-1.,  1.])
    """
    closed = gate.closed(x, weight, bias)
    if closed is None or not closed.symbolic:
        check_input(x, where, 2, "(N, C, *axes)")
        eps = check_eps(eps, where)
        _check_channels(x, where, weight=weight, bias=bias)
        if activation is not None:
            check_activation(activation, where)

    def theirs() -> Tensor:
        last = x.dim() - 1  # ONNX's exporter by tracing knows no axes from the end
        y = F.layer_norm(x.movedim(1, last), (x.shape[1],), weight, bias, eps)
        return owned(Tensor.movedim, y, last, 1) if isinstance(y, Tensor) else y.movedim(last, 1)

    arguments = (
        *(closed, x, None, weight, bias, None, None, True, x.shape[0], 1, PLACES),
        *(True, True, eps, activation, slope, theirs),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y


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
    """Local response normalization, named ``where`` in errors."""
    closed = gate.closed(x)
    if closed is not None and closed.symbolic:
        return F.local_response_norm(x, size, alpha, beta, k)
    check_input(x, where, 3, "(N, C, *axes)", integers_too=True)  # as torch's
    size = as_int(size)
    if not is_int(size):
        raise ArgumentTypeError(
            build(where, "size to be an integer", repr(size), hint="Give a number of channels, as 5.")
        )
    if not 1 <= size < 2**31:
        raise ArgumentError(
            build(where, "a size from 1 to 2^31 - 1", size, hint="Give a number of channels, as 5.", x=tuple(x.shape))
        )
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not is_float(as_float(value)):
            raise ArgumentTypeError(
                build(where, f"{name} to be a number", repr(value), hint="See the formula in its docstring.")
            )
    arguments = (closed, x, size, float(alpha), float(beta), float(k))
    y: Tensor = choose(RESPONSE_METHODS, *arguments)(*arguments)
    return y


def _response_refusal(closed: gate.Closed | None, x: Tensor, *rest: Any) -> str | None:
    if closed is not None:
        return closed.reason
    return "kernels need at least one value" if x.numel() == 0 else None


def _native_response(closed: None, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    y: Tensor = response_native(x, size, alpha, beta, k, is_channels_last(x))
    # torch's is made of operations on single values, which keep any order
    like = y if x.is_contiguous() else torch.empty_like(x)
    return y if like.stride() == y.stride() else like.copy_(y)


def _torch_response(closed: Any, x: Tensor, *rest: Any) -> Tensor:
    return F.local_response_norm(x, *rest)


RESPONSE_METHODS = (
    Candidate("native", _response_refusal, _native_response),
    Candidate("torch", always, _torch_response),
)
