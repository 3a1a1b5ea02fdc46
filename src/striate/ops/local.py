r"""Locally connected layers: three passes, which are the derivatives of one trilinear form.

The kernels are in csrc/kernels/local.cpp.

.. math:: ⟨y, dy⟩ = Σ_{n, k, o, c, t} dy[n, k, o] · x[n, c, o·stride + t·dilation - before] · w[k, c, o, t]
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import _torch
from .._renamed import accept_old_names
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..reference import local as reference
from ..window import Axis, Window
from . import gate
from .arguments import as_key, per_axis
from .autograd import differentiable, fake
from .dispatch import Candidate, always, choose
from .geometry import Sizes, output_sizes, rank_error, resolve_padding
from .layout import empty, is_channels_last, owned

__all__ = ["METHODS", "LocalGeometry", "geometry_for", "local", "resolve"]

MAX_GROWTH = 16  # the padded input may be this many times as large as the input


class LocalGeometry(NamedTuple):
    """The arguments of one call, resolved to a window, and as the reference takes them."""

    window: Window
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(a.before + a.input + a.after for a in self.window)


# ------------------------------------------------------------------------------------------------------------ arguments


def resolve(
    input: Sequence[int], kernel_size: Any, stride: Any, padding: Any, dilation: Any, where: str, shape: tuple[int, ...]
) -> LocalGeometry:
    """The geometry of a window over axes of sizes ``input``. ``shape`` is that of x, for error messages.

    Raises ArgumentError, ArgumentTypeError or ShapeError for arguments no window can have.

    >>> resolve((28, 28), 5, 1, "same", 1, "local", (1, 28, 28)).window.output
    (28, 28)
    """
    dims = len(input)
    size = per_axis(kernel_size, dims, 1, "kernel_size", where, shape)
    steps = per_axis(stride, dims, 1, "stride", where, shape)
    holes = per_axis(dilation, dims, 1, "dilation", where, shape)
    pads = resolve_padding(padding, input, size, steps, holes, where, shape)
    given: str | tuple[int, ...] = padding if isinstance(padding, str) else tuple(p for p, _ in pads)
    output = output_sizes(input, size, steps, holes, pads, where, shape)
    before, after = [p for p, _ in pads], [q for _, q in pads]
    axes = [Axis(*numbers) for numbers in zip(input, output, size, steps, holes, before, after, strict=True)]
    return LocalGeometry(Window(tuple(axes)), steps, given, holes)


def _resolve_for_weight(
    shape: tuple[int, ...], weight: tuple[int, ...], stride: Any, padding: Any, dilation: Any, where: str
) -> LocalGeometry:
    dims = (len(weight) - 2) // 2
    geometry = resolve(shape[-dims:], weight[2 + dims :], stride, padding, dilation, where, shape)
    if geometry.window.output != weight[2 : 2 + dims]:
        expects = f"a weight for outputs of size {geometry.window.output}"
        hint = "Make one for this input, or resize x."
        raise ShapeError(build(where, expects, weight[2 : 2 + dims], hint=hint, x=shape, weight=weight))
    return geometry


_cached_resolve = functools.lru_cache(maxsize=4096)(_resolve_for_weight)


def _check_tensors(x: Any, weight: Any, bias: Any, where: str) -> None:
    for name, t in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(t, Tensor) and not (name == "bias" and t is None):
            raise ArgumentTypeError(
                build(where, f"{name} to be a tensor", type(t).__name__, hint="Call torch.as_tensor on it first.")
            )
    if weight.dim() not in (4, 6, 8):
        hint = "One, two or three axes make 4, 6 or 8."
        raise ShapeError(build(where, "a weight of shape (C_out, C, *output, *taps)", tuple(weight.shape), hint=hint))
    shape, of_weight, dims = tuple(x.shape), tuple(weight.shape), weight.dim() // 2 - 1
    if x.dim() not in (dims + 1, dims + 2):
        raise rank_error(shape, dims, where)
    if 0 in of_weight:
        expects = "a weight with at least one value on each axis"
        raise ShapeError(build(where, expects, of_weight, hint="Only the batch may be empty.", x=shape))
    if shape[-dims - 1] != of_weight[1]:
        hint = f"Set in_channels={shape[-dims - 1]}, or look at what comes before."
        raise ShapeError(
            build(where, f"{of_weight[1]} channels", shape[-dims - 1], hint=hint, x=shape, weight=of_weight)
        )
    if bias is not None and tuple(bias.shape) != (of_weight[0], *of_weight[2 : 2 + dims]):
        expects = f"a bias of shape {(of_weight[0], *of_weight[2 : 2 + dims])}"
        raise ShapeError(build(where, expects, tuple(bias.shape), hint="Give one number for each output.", x=shape))
    if x.dtype is torch.bool:
        raise DtypeError(build(where, "numbers", "bool", hint="Convert x with .float().", x=shape))
    mixed = x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.dtype is not x.dtype and not mixed:
            wanted, got = (str(d).removeprefix("torch.") for d in (x.dtype, t.dtype))
            expects, hint = f"a {name} of x's type, {wanted}", "Convert one with .to()."
            raise DtypeError(build(where, expects, got, hint=hint, x=shape))
        if t is not None and t.device != x.device:
            raise ArgumentError(
                build(where, f"{name} on x's device, {x.device}", t.device, hint="Move one with .to().", x=shape)
            )


def geometry_for(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, where: str
) -> LocalGeometry:
    """Checks the arguments of one call and resolves its geometry, cached by shapes and arguments."""
    _check_tensors(x, weight, bias, where)
    shapes = tuple(x.shape), tuple(weight.shape)
    if _torch.is_recorded():  # torch.jit.trace makes sizes tensors
        shapes = tuple(map(int, x.shape)), tuple(map(int, weight.shape))
    if not torch.compiler.is_compiling() and all(type(n) is int for shape in shapes for n in shape):
        key = (as_key(stride), as_key(padding), as_key(dilation))
        if None not in key:
            return _cached_resolve(*shapes, *key, where)
    return _resolve_for_weight(*shapes, stride, padding, dilation, where)


# ------------------------------------------------------------------------------------------------------------ operators


@fake("local")
def _(x: Any, weight: Any, bias: Any, stride: Any, dilation: Any, before: Any, channels_last: Any) -> Any:
    return empty(x, [x.shape[0], weight.shape[0], *weight.shape[2 : x.dim()]], x.dtype, channels_last)


@fake("local_backward_data")
def _(dy: Any, weight: Any, input: Any, stride: Any, dilation: Any, before: Any, channels_last: Any) -> Any:
    return empty(dy, [dy.shape[0], weight.shape[1], *input], dy.dtype, channels_last)


@fake("local_backward_weights")
def _(dy: Any, x: Any, size: Any, stride: Any, dilation: Any, before: Any) -> Any:
    return dy.new_empty([dy.shape[1], x.shape[1], *dy.shape[2:], *size])


# Each of the three passes is linear in two of x, weight and dy, and its gradients are the other two passes. So the
# derivatives of every order are calls of these operators.


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, _, *ctx.arguments = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: Any) -> Any:
    x, weight = ctx.saved_tensors
    (stride, dilation, before, _), (dx, dw, db) = ctx.arguments, ctx.needs_input_grad[:3]
    return (
        local_backward_data(dy, weight, x.shape[2:], stride, dilation, before, is_channels_last(x)) if dx else None,
        local_backward_weights(dy, x, weight.shape[x.dim() :], stride, dilation, before) if dw else None,
        dy.sum(0) if db else None,
        *[None] * 4,
    )


def _input_setup(ctx: Any, inputs: Any, output: Any) -> None:
    dy, weight, _, *ctx.arguments = inputs
    ctx.save_for_backward(dy, weight)


def _input_backward(ctx: Any, ddx: Any) -> Any:
    dy, weight = ctx.saved_tensors
    (stride, dilation, before, _), (ddy, dw) = ctx.arguments, ctx.needs_input_grad[:2]
    return (
        local_native(ddx, weight, None, stride, dilation, before, is_channels_last(dy)) if ddy else None,
        local_backward_weights(dy, ddx, weight.shape[dy.dim() :], stride, dilation, before) if dw else None,
        *[None] * 5,
    )


def _weight_setup(ctx: Any, inputs: Any, output: Any) -> None:
    dy, x, _, *ctx.arguments = inputs
    ctx.save_for_backward(dy, x)


def _weight_backward(ctx: Any, ddw: Any) -> Any:
    dy, x = ctx.saved_tensors
    (stride, dilation, before), (ddy, dx) = ctx.arguments, ctx.needs_input_grad[:2]
    return (
        local_native(x, ddw, None, stride, dilation, before, is_channels_last(dy)) if ddy else None,
        local_backward_data(dy, ddw, x.shape[2:], stride, dilation, before, is_channels_last(x)) if dx else None,
        *[None] * 4,
    )


def _extra_pad(x: Tensor, weight: Tensor, geometry: Sequence[Any]) -> list[int]:
    """The padding (negative where it cuts) that makes x exactly as large as its windows reach, in F.pad's order."""
    stride, dilation, before = geometry[:3]
    output, size = weight.shape[2 : x.dim()], weight.shape[x.dim() :]
    axes = zip(x.shape[2:], output, size, stride, dilation, before, strict=True)
    pairs = [(p, (o - 1) * s + (k - 1) * d + 1 - i - p) for i, o, k, s, d, p in axes]
    return [n for pair in reversed(pairs) for n in pair]


def _formula(ctx: Any, dy: Any) -> Any:
    x, weight = ctx.saved_tensors
    extra_pad = _extra_pad(x, weight, ctx.arguments)
    dx, dw, db = reference.local_backward(dy, pad(x, extra_pad), weight, ctx.arguments[0], 0, ctx.arguments[1])
    return pad(dx, [-n for n in extra_pad]), dw, db if ctx.needs_input_grad[2] else None


def _input_formula(ctx: Any, ddx: Any) -> Any:
    dy, weight = ctx.saved_tensors
    padded = pad(ddx, _extra_pad(ddx, weight, ctx.arguments))
    arguments = (ctx.arguments[0], 0, ctx.arguments[1])
    dw = reference.local_backward(dy, padded, weight, *arguments)[1]
    return reference.local(padded, weight, None, *arguments), dw


def _weight_formula(ctx: Any, ddw: Any) -> Any:
    dy, x = ctx.saved_tensors
    extra_pad, arguments = _extra_pad(x, ddw, ctx.arguments), (ctx.arguments[0], 0, ctx.arguments[1])
    padded = pad(x, extra_pad)
    dx = reference.local_backward(dy, padded, ddw, *arguments)[0]
    return reference.local(padded, ddw, None, *arguments), pad(dx, [-n for n in extra_pad])

local_native = differentiable("local", _setup, _backward, _formula, tensors=3)
local_backward_data = differentiable("local_backward_data", _input_setup, _input_backward, _input_formula, tensors=2)
local_backward_weights = differentiable(
    "local_backward_weights", _weight_setup, _weight_backward, _weight_formula, tensors=2
)


# -------------------------------------------------------------------------------------------------------------- methods


def _refusal(
    closed: gate.Closed | None, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: LocalGeometry
) -> str | None:
    if closed is not None:
        return closed.reason
    if x.numel() == 0:
        return "an empty batch has nothing to add up"
    if prod(geometry.padded) > MAX_GROWTH * prod(geometry.window.input):
        return f"padding makes x more than {MAX_GROWTH} times as large"
    return None


def _run(closed: None, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: LocalGeometry) -> Tensor:
    before = [a.before for a in geometry.window.axes]
    return local_native(x, weight, bias, geometry.stride, geometry.dilation, before, is_channels_last(x))


def _reference(closed: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: LocalGeometry) -> Tensor:
    y = reference.local(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation)
    if _torch.is_transformed(x):  # its strides cannot be read
        return y
    if is_channels_last(x):
        return owned(Tensor.movedim, y.movedim(1, -1).contiguous(), -1, 1)
    y = y.contiguous()
    return owned(Tensor.view_as, y, y)


METHODS = (Candidate("local", _refusal, _run), Candidate("reference", always, _reference))


def local(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    *,
    where: str = "local",
) -> Tensor:
    r"""A convolution in which every output position has weights of its own.

    .. math:: y[n, k, o] = b[k, o] + Σ_c Σ_t x[n, c, o·stride + t·dilation - before] · w[k, c, o, t]

    x: (N, C, *input) or (C, *input) of one, two or three axes; weight: (C_out, C, *output, *taps); bias: (C_out,
    *output) or None.
    Result: (N, C_out, *output) or (C_out, *output), channels_last where x is. padding: numbers, ``"same"`` (ceil(input
    / stride) outputs; an odd zero goes behind) or ``"valid"``.

    Cost: C_out·C·|output|·|taps| MACs a sample.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments that do not fit each other.

    Source: Gregor, LeCun, *Emergence of complex-like cells in a temporal product network with local receptive fields*,
    2010.

    >>> own = torch.tensor([[[[1.0, 1.0], [1.0, -1.0], [0.0, 10.0]]]])
    >>> local(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), own)
    tensor([[[ 3., -1., 40.]]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic and not isinstance(x, Tensor):
        # a tracer's proxy, which raises errors of its own
        return reference.local(x, weight, bias, stride, padding, dilation)
    geometry = geometry_for(x, weight, bias, stride, padding, dilation, where)
    batch = x if x.dim() == weight.dim() // 2 + 1 else x.unsqueeze(0)
    y = choose(METHODS, closed, batch, weight, bias, geometry)(closed, batch, weight, bias, geometry)
    return y if batch is x else owned(Tensor.squeeze, y, 0)

accept_old_names(__name__)
