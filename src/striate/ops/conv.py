r"""Convolution and its transpose: one trilinear form, three maps, and for each map the fastest method that can compute
it.

.. math:: Σ_{n, k, o} dy[n, k, o] · Σ_{c, t} w[k, c, t] · x[n, c, i(o, t)]

is linear in dy, w and x. Its derivative by dy is the convolution ("forward"), by x the input gradient ("input", which
is also the transposed convolution), by w the weight gradient ("weight"). So the gradients of each map are the two
others, to any order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import native
from .._torch import below_autograd, below_views
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..reference import conv as reference
from ..window import Axis, Window, output_size, same_padding
from . import choose, crossovers, gate, handover
from .arguments import as_int, as_key, is_int, per_axis
from .autograd import without_autocast
from .choose import AS_MEASURED, Candidate, always
from .handed import hand
from .layout import FORMATS, empty, is_channels_last, owned
from .precision import is_strict
from .recipe import keep

__all__ = [
    "METHODS",
    "NAMES",
    "NATIVE",
    "NUMBERS",
    "Call",
    "Plan",
    "conv",
    "conv_transpose",
    "explain",
    "method_for",
    "plan_for",
]

Sizes = int | Sequence[int]
Map = str  # "forward", "input" or "weight"
ANY = 2**63 - 1  # what torch takes of a stride, and of a dilation where there is one tap


class Plan(NamedTuple):
    """The geometry of a convolution, resolved: x (batch, channels, *input), y (batch, filters, *output)."""

    batch: int
    channels: int
    filters: int
    groups: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def window(self) -> Window:
        return Window(
            tuple(
                Axis(*a)
                for a in zip(
                    self.input, self.output, self.size, self.stride, self.dilation, self.before, self.after, strict=True
                )
            )
        )

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def taps(self) -> int:
        return prod(self.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *self.input)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, self.filters, *self.output)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.filters, self.channels // self.groups, *self.size)


# ------------------------------------------------------------------------------------------------------------ arguments


def _letters(dims: int) -> str:
    return ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"


def _check_kinds(x: Any, weight: Any, bias: Any, where: str) -> None:
    if isinstance(x, Tensor) and isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor)):
        return
    for name, t in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(t, Tensor):
            raise ArgumentTypeError(
                build(where, f"{name} to be a tensor", type(t).__name__, hint="Call torch.as_tensor on it first.")
            )


def _check_shapes(
    shape: Any, of_weight: Any, of_bias: Any, groups: Any, dims: int, where: str, transposed: bool
) -> None:
    if len(shape) not in (dims + 1, dims + 2):
        expects = f"x of shape (N, C, {_letters(dims)}) or (C, {_letters(dims)})"
        raise ShapeError(build(where, expects, shape, hint="Add or drop axes with unsqueeze or flatten."))
    if len(of_weight) != dims + 2:
        lead = "(in, out / groups, " if transposed else "(out, in / groups, "
        expects = f"a weight of shape {lead}{_letters(dims)})"
        raise ShapeError(build(where, expects, of_weight, hint="Give it a number of taps for each axis.", x=shape))
    if not is_int(groups):
        raise ArgumentTypeError(
            build(where, "groups to be an integer", repr(groups), hint="Give one integer.", x=shape)
        )
    if groups < 1:
        raise ArgumentError(build(where, "at least 1 group", groups, hint="Leave groups out for one.", x=shape))
    first, second = of_weight[:2]
    if first == 0 or (transposed and second == 0):
        raise ShapeError(
            build(
                where,
                "a weight with at least one filter",
                of_weight,
                hint="Choose out_channels of at least 1.",
                x=shape,
            )
        )
    if any(k == 0 for k in of_weight[2:]):
        expects = "a weight with at least one tap on each axis"
        raise ShapeError(build(where, expects, of_weight, hint="Choose a kernel_size of at least 1.", x=shape))
    if first % groups:
        what = "input" if transposed else "output"
        expects = f"groups that divide the weight's {first} {what} channels"
        raise ArgumentError(build(where, expects, groups, hint="Choose a divisor.", x=shape, weight=of_weight))
    channels, wanted = shape[-dims - 1], first if transposed else second * groups
    if channels != wanted:
        fix = f"Set in_channels={channels}, or check the layer before."
        if groups > 1:
            fix = f"The weight and {groups} groups fit {wanted} channels."
        raise ShapeError(build(where, f"{wanted} channels", channels, hint=fix, x=shape, weight=of_weight))
    if channels == 0:  # torch would give an output without filters
        fix = "Only the batch may be empty."
        raise ShapeError(build(where, "x of at least one channel", shape, hint=fix, weight=of_weight))
    if of_bias is not None:
        filters = second * groups if transposed else first
        if of_bias != (filters,):
            expects = f"a bias of shape ({filters},)"
            raise ShapeError(build(where, expects, of_bias, hint="Give one number for each filter.", x=shape))


_cached_check = functools.lru_cache(maxsize=4096)(_check_shapes)


def _check_types(x: Tensor, weight: Tensor, bias: Tensor | None, where: str) -> None:
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None or (t.dtype is x.dtype and t.device == x.device):
            continue
        if t.device != x.device:
            raise ArgumentError(
                build(
                    where, f"{name} on x's device, {x.device}", t.device, hint="Move one with .to().", x=tuple(x.shape)
                )
            )
        if not torch.is_autocast_enabled(x.device.type):
            wanted_type, got = (str(d).removeprefix("torch.") for d in (x.dtype, t.dtype))
            raise DtypeError(
                build(
                    where, f"{name} of x's type, {wanted_type}", got, hint="Convert one with .to().", x=tuple(x.shape)
                )
            )


def _paddings(
    padding: Any, input: Any, size: Any, stride: Any, dilation: Any, where: str, shape: tuple[int, ...]
) -> list[tuple[int, int]]:
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            fix = 'Use "same" for ceil(input / stride) outputs.'
            raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(padding), hint=fix, x=shape))
        return [
            (0, 0) if padding == "valid" else same_padding(*a) for a in zip(input, size, stride, dilation, strict=True)
        ]
    return [(p, p) for p in per_axis(padding, len(input), 0, "padding", where, shape)]


def check_room(sizes: Sequence[int], where: str, shape: tuple[int, ...], fix: str, what: str = "an output") -> None:
    if torch.compiler.is_compiling() or not all(type(n) is int for n in sizes):
        return
    if prod(max(1, n) for n in sizes) > 2**40:
        raise ShapeError(build(where, f"{what} that fits memory", tuple(sizes), hint=fix, x=shape))


def _steps(
    stride: Any, dilation: Any, size: Any, where: str, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stride and dilation, one an axis; of one tap there is no dilation."""
    steps = per_axis(stride, len(size), 1, "stride", where, shape, most=ANY)
    holes = per_axis(dilation, len(size), 1, "dilation", where, shape, most=ANY)
    alone = tuple(1 if k == 1 else d for k, d in zip(size, holes, strict=True))
    return steps, per_axis(alone, len(size), 1, "dilation", where, shape)


def _plan(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    dims: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    where: str,
) -> Plan:
    input, size = shape[-dims:], weight[2:]
    steps, holes = _steps(stride, dilation, size, where, shape)
    pads = _paddings(padding, input, size, steps, holes, where, shape)
    steps = tuple(handover.clamped(s, i + p + q) for s, i, (p, q) in zip(steps, input, pads, strict=True))
    output = []
    for i, k, s, d, (before, after) in zip(input, size, steps, holes, pads, strict=True):
        output.append(output_size(i, k, s, d, before, after))
        if output[-1] < 1:
            expects = f"a window no larger than the padded input, {i + before + after}"
            raise ShapeError(
                build(
                    where,
                    expects,
                    (k - 1) * d + 1,
                    hint="Make the kernel or its dilation smaller, or pad more.",
                    x=shape,
                )
            )
    batch = shape[0] if len(shape) == dims + 2 else 1
    check_room((batch, weight[0], *output), where, shape, "Pad less, or choose a larger stride.")
    befores, afters = tuple(p for p, _ in pads), tuple(p for _, p in pads)
    return Plan(batch, shape[-dims - 1], weight[0], groups, input, tuple(output), size, steps, holes, befores, afters)


def _transpose_plan(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    dims: int,
    stride: Any,
    padding: Any,
    extra: Any,
    dilation: Any,
    groups: int,
    where: str,
) -> Plan:
    """The plan of the convolution whose adjoint is meant: its output is what comes in."""
    output, size = shape[-dims:], weight[2:]
    steps, holes = _steps(stride, dilation, size, where, shape)
    more = per_axis(extra, dims, 0, "output_padding", where, shape)
    for m, s, d in zip(more, steps, holes, strict=True):
        if m >= max(s, d):
            expects = f"output_padding below stride or dilation, {max(s, d)}"
            raise ArgumentError(build(where, expects, m, hint="Choose a smaller one.", x=shape))
    if isinstance(padding, str):  # "same": the output is input · stride; "valid": whatever a tap reaches
        if padding not in ("same", "valid"):
            fix = 'Use "same" for input · stride outputs.'
            raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(padding), hint=fix, x=shape))
        if padding == "same" and any(more):
            raise ArgumentError(
                build(
                    where, 'no output_padding beside padding "same"', extra, hint="Leave output_padding out.", x=shape
                )
            )
        if padding == "same":
            input = [o * s for o, s in zip(output, steps, strict=True)]
        else:
            input = [
                (o - 1) * s + d * (k - 1) + 1 + m
                for o, s, d, k, m in zip(output, steps, holes, size, more, strict=True)
            ]
        pads = _paddings(padding, input, size, steps, holes, where, shape)
    else:
        pads = _paddings(padding, output, size, steps, holes, where, shape)
        input = [
            (o - 1) * s - p - q + d * (k - 1) + 1 + m
            for o, s, d, k, m, (p, q) in zip(output, steps, holes, size, more, pads, strict=True)
        ]
    for i, o, k, s, d, (p, _) in zip(input, output, size, steps, holes, pads, strict=True):
        if i < 1:
            expects = "padding that leaves an output"
            raise ShapeError(
                build(
                    where,
                    expects,
                    p,
                    hint=f"Pad less: {(o - 1) * s + d * (k - 1) + 1} values come out without.",
                    x=shape,
                )
            )
    steps = tuple(handover.clamped(s, i + p + q) for s, i, (p, q) in zip(steps, input, pads, strict=True))
    batch = shape[0] if len(shape) == dims + 2 else 1
    check_room((batch, weight[1] * groups, *input), where, shape, "Pad more, or choose a smaller stride.")
    befores = tuple(p for p, _ in pads)
    # of the convolution: behind, as much as before, or less where its output would else be more than what comes in
    afters = tuple(
        q if output_size(i, k, s, d, p, q) == o else (o - 1) * s + d * (k - 1) + 1 - i - p
        for i, o, k, s, d, (p, q) in zip(input, output, size, steps, holes, pads, strict=True)
    )
    return Plan(
        batch, weight[1] * groups, shape[-dims - 1], groups, tuple(input), output, size, steps, holes, befores, afters
    )


_cached_plan = functools.lru_cache(maxsize=4096)(_plan)
_cached_transpose_plan = functools.lru_cache(maxsize=4096)(_transpose_plan)


def plan_for(
    x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any, dims: int, where: str, transposed: bool = False
) -> Plan:
    """The checks of one call and its plan, cached by shapes and arguments.

    geometry: stride, padding, dilation and groups; ``transposed``: stride, padding, output_padding, dilation and
    groups.
    """
    *rest, groups = geometry
    groups = as_int(groups)
    _check_kinds(x, weight, bias, where)
    shape, of_weight, of_bias = tuple(x.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape)
    known = not torch.compiler.is_compiling() and all(type(n) is int for n in shape) and type(groups) is int
    check = _cached_check if known else _check_shapes
    check(shape, of_weight, of_bias, groups, dims, where, transposed)
    _check_types(x, weight, bias, where)
    if known:
        key = tuple(as_key(v) for v in rest)
        if None not in key:
            cached: Callable[..., Plan] = _cached_transpose_plan if transposed else _cached_plan
            return cached(shape, of_weight, dims, *key, groups, where)
    make: Callable[..., Plan] = _transpose_plan if transposed else _plan
    return make(shape, of_weight, dims, *rest, groups, where)


# -------------------------------------------------------------------------------------------------------------- methods


class Call(NamedTuple):
    """What a method is chosen by."""

    map: Map
    plan: Plan
    channels_last: bool  # the order in which the kernels take and give activations; for one axis there is but one
    dtype: torch.dtype
    refusal: str | None  # why no kernel of ours takes these tensors
    method: str | None = None  # asked for by name, or AS_MEASURED; None: what is preferred when a method is chosen
    strict: bool = False  # see precision
    measure: bool = False  # the statistics of its channels are wanted, for a norm
    weight_last: bool = False  # the weight is channels_last, so its gradient is to be


def _torch_refusal(call: Call) -> str | None:
    p = call.plan
    # no max(): traced numbers would be compared
    if any(n >= 2**31 - 1 for n in (*p.stride, *p.dilation, *p.before, *p.after, *p.input)):
        return "torch's operators count in 32 bits"
    return None


def _torch(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's operator. It takes as much padding before as behind: what is more on one side is put around x, or less
    cut off.
    """
    p = call.plan
    if call.channels_last and call.map != "weight" and not (is_channels_last(a) or is_channels_last(b)):
        a = a.contiguous(memory_format=FORMATS[a.dim()])  # nothing else tells torch which order is wanted
    least = [max(0, min(pads)) for pads in zip(p.before, p.after, strict=True)]
    if call.map == "weight" and p.taps == 1 and max(p.stride) > 1:
        least = [0] * p.dims  # all of it is put around x, and then what no tap sees left out: see below
    around = [n for k in reversed(range(p.dims)) for n in (p.before[k] - least[k], p.after[k] - least[k])]
    if call.map == "forward":
        return handover.conv(_padded(a, around), b, bias, p.stride, least, p.dilation, p.groups, p.dims)
    stride = list(p.stride)
    # with torch's own gradient: of any type, under autocast and transforms
    if call.map == "input" and call.refusal is not None:
        y = handover.conv_transpose(a, b, bias, stride, least, _extra(call, least), p.groups, p.dilation, p.dims)
        return _padded(y, [-n for n in around])
    if call.map == "input":
        padded = [
            i + before + after - 2 * n for i, before, after, n in zip(p.input, p.before, p.after, least, strict=True)
        ]
        x = empty(a, [p.batch, p.channels, *padded], a.dtype, call.channels_last)  # its layout is what counts
        geometry = (stride, least, list(p.dilation), False, [0] * p.dims, p.groups)
        dx = torch.ops.aten.convolution_backward.default(a, x, b, None, *geometry, [True, False, False])[0]
        dx = _padded(dx, [-n for n in around])
        return dx if bias is None else dx + bias.reshape(-1, *[1] * p.dims)
    x = _padded(b, around)
    if p.taps == 1 and max(stride) > 1:  # with a stride oneDNN writes past the end of some of these (its issue 6035)
        x, stride = handover.sliced(x, stride), [1] * p.dims
    w = empty(a, p.weight_shape, a.dtype, call.channels_last)  # its layout is what counts
    geometry = (stride, least, list(p.dilation), False, [0] * p.dims, p.groups)
    return torch.ops.aten.convolution_backward.default(a, x, w, None, *geometry, [False, True, False])[1]


def _extra(call: Call, padding: list[int]) -> list[int]:
    """torch's output_padding, by which a transposed convolution with that padding gets all values and those around."""
    p = call.plan
    axes = zip(p.input, p.before, p.after, padding, p.output, p.stride, p.dilation, p.size, strict=True)
    return [
        i + before + after - 2 * n - ((o - 1) * s - 2 * n + d * (k - 1) + 1) for i, before, after, n, o, s, d, k in axes
    ]


def _padded(x: Tensor, around: list[int]) -> Tensor:
    return F.pad(x, around) if any(around) else x


def _reference(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    p = call.plan
    run = {"forward": reference.conv_forward, "input": reference.conv_input, "weight": reference.conv_weight}[call.map]
    y = run(a, b, p.window, p.groups)
    return y if bias is None else y + bias.reshape(-1, *[1] * p.dims)


def _torch_channels_last(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's operator on activations turned to channels_last and back: oneDNN is at home there."""
    format = FORMATS[call.plan.dims + 2]
    a = a.contiguous(memory_format=format)
    b = b.contiguous(memory_format=format) if call.map == "weight" else b
    return _torch(call._replace(channels_last=True), a, b, bias).contiguous()


def _turning_refusal(call: Call) -> str | None:
    if call.refusal is not None:
        return call.refusal
    if call.channels_last or call.plan.dims == 1:
        return (
            "the activations are channels_last already"
            if call.channels_last
            else "torch has no channels_last for one axis"
        )
    return _torch_refusal(call)


def _pointwise(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1×1 convolution is a product of matrices: of all pixels at once in channels order, image by image in planes
    order.
    """
    p = call.plan
    axes = zip(p.input, p.output, p.stride, strict=True)
    seen = (slice(None), slice(None), *(slice(0, (o - 1) * s + 1, min(s, i)) for i, o, s in axes))
    if call.map == "weight":
        x = b[seen]
        if call.channels_last:
            return (_pixels(a).T @ _pixels(x)).view(p.weight_shape)
        return torch.bmm(a.flatten(2), x.flatten(2).transpose(1, 2)).sum(0).view(p.weight_shape)
    w = b.reshape(p.filters, p.channels)
    w, x = (w, a[seen]) if call.map == "forward" else (w.T, a)
    if call.channels_last:
        y = F.linear(_pixels(x), w, bias).view(p.batch, *p.output, len(w)).movedim(-1, 1)
    else:  # by bmm: torch.matmul would turn x
        y = torch.bmm(w.expand(p.batch, *w.shape), x.flatten(2)).view(p.batch, len(w), *p.output)
        y = y if bias is None else y + bias.reshape(-1, *[1] * p.dims)
    if call.map == "forward" or all(s == 1 for s in p.stride):
        return y
    dx = empty(y, p.x_shape, y.dtype, call.channels_last).zero_()
    if bias is not None:
        dx += bias.reshape(-1, *[1] * p.dims)
    dx[seen] = y
    return dx


def _pixels(x: Tensor) -> Tensor:
    """(N, C, *axes) as a matrix of one pixel a row, without a copy where x is channels_last."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _pointwise_refusal(call: Call) -> str | None:
    p = call.plan
    if call.refusal is not None:
        return call.refusal
    if p.taps > 1 or p.groups > 1 or any(p.before) or any(p.after):
        return "it is for one tap, one group and no padding"
    return "there is nothing to compute" if any(n < 1 for n in (*p.x_shape, *p.y_shape)) else None


def _native_refusal(call: Call) -> str | None:
    if call.refusal is not None:
        return call.refusal
    p = call.plan
    if any(n < 1 for n in (*p.x_shape, *p.y_shape)):
        return "there is nothing to compute"
    axes = zip(p.size, p.dilation, p.before, p.stride, strict=True)
    if any(k > 4096 or max((k - 1) * d, before, s) > 65536 for k, d, before, s in axes):
        return "kernels are for windows of some thousand places"
    # the band of one row of outputs at its largest: see csrc/bands.h and direct.cpp; 512 is kColumns
    extents = [(k - 1) * d + 1 for k, d in zip(p.size, p.dilation, strict=True)]
    band = (min(512, max(p.input[-1], p.output[-1])) + 35) * p.stride[-1] + extents[-1]
    for extent, i, o in zip(extents[:-1], p.input[:-1], p.output[:-1], strict=True):
        band *= min(extent + 2, max(i, o))
    if band * max(p.channels, p.filters) // p.groups > 2**23:
        return "what one row of outputs sees may take more than 32 MiB"
    if p.taps * max(p.channels, p.filters) // p.groups > 2**22:
        return "a filter has more than 4 million weights"
    return None


def _depthwise_refusal(call: Call) -> str | None:
    p = call.plan
    if max(p.channels, p.filters) // p.groups > 32:
        return "it is for at most 32 channels and filters a group"
    return _native_refusal(call)


def _winograd_refusal(outputs: int) -> Callable[[Call], str | None]:
    """Of the tiles of so many outputs on an axis."""
    taps = (1, 3) if outputs == 4 else (1, 3, 5)

    def refuse(call: Call) -> str | None:
        p = call.plan
        if call.refusal is not None:
            return call.refusal
        if call.strict:
            return "precision is strict"
        if any(n != 1 for n in (*p.stride, *p.dilation)):
            return "it is for stride and dilation 1"
        if p.dims == 3:
            return "it is for one and two axes"
        wide = [k for k in p.size if k > 1]  # in no set: traced numbers have no hash
        if not wide or any(k not in taps for k in wide) or any(k != wide[0] for k in wide):
            return f"it is for {'3' if outputs == 4 else '3 or 5'} taps on an axis, and as many or one on the other"
        return _native_refusal(call)

    return refuse


def _unfolded_refusal(call: Call) -> str | None:
    p = call.plan
    if call.refusal is not None:
        return call.refusal
    if not call.channels_last:
        return "it is for channels order"
    if call.map == "weight":
        return "it has no weight gradient"
    if call.map == "input" and any(s != 1 for s in p.stride):
        return "its input gradient is for stride 1"
    if p.taps * (max(p.channels, p.filters) // p.groups + 15) > 2**20:
        return "it is for outputs that see at most a million values"
    return _native_refusal(call)


_REFUSALS: dict[str, Callable[[Call], str | None]] = {
    "depthwise": _depthwise_refusal,
    "direct": _native_refusal,
    "winograd_4x4": _winograd_refusal(4),
    "winograd_2x2": _winograd_refusal(2),
    "unfolded": _unfolded_refusal,
}
# The native methods, in the order of the numbers that the core's operators take (csrc/methods.def). Without a core all
# of them refuse.
NATIVE: tuple[str, ...] = native.CONV_METHODS or tuple(_REFUSALS)
NUMBERS = {name: number for number, name in enumerate(NATIVE)}
if NUMBERS.keys() != _REFUSALS.keys():
    _expects = f"a native core with the convolution methods {', '.join(_REFUSALS)}"
    raise ImportError(
        build("striate", _expects, ", ".join(NATIVE), hint="Build the core from the sources of this version.")
    )
_MEASURING = ("winograd_4x4", "winograd_2x2", "unfolded")


def _native(method: str) -> Callable[..., Tensor]:
    number = NUMBERS[method]

    def run(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        p = call.plan
        rest = (p.stride, p.dilation, p.before, p.groups, call.channels_last, number)
        if call.map == "forward" and call.measure and method in _MEASURING:
            y, statistics = _ops.conv_measured.default(a, b, bias, p.output, *rest)
            hand(y, statistics)
            return y
        if call.map == "forward":
            return _ops.conv.default(a, b, bias, p.output, *rest)
        if call.map == "input":
            return _ops.conv_input.default(a, b, bias, p.input, *rest)
        return _ops.conv_weight.default(a, b, p.size, *rest, call.weight_last)

    return run


def _slower(name: str) -> Callable[[Call], str | None]:
    return lambda call: crossovers.slower(name, call)


METHODS = (
    *(Candidate(name, _REFUSALS[name], _native(name), _slower(name)) for name in NATIVE),
    Candidate("pointwise", _pointwise_refusal, _pointwise, _slower("pointwise")),
    Candidate("torch_channels_last", _turning_refusal, _torch_channels_last, _slower("torch_channels_last")),
    Candidate("torch", _torch_refusal, _torch),
    Candidate("reference", always, _reference),
)


NAMES = tuple(candidate.name for candidate in METHODS)


def method_for(call: Call) -> Candidate:
    """The method that computes this call: the first in order that has no reason against it."""
    return choose.first(METHODS, call, method=call.method)


class Route(NamedTuple):
    """A call, the method chosen for it, and whether torch's operator is the choice for it and for its gradients."""

    call: Call
    method: Candidate
    all_torch: bool


def _route(call: Call) -> Route:
    plan = call.plan
    if call.refusal is not None:
        theirs = _torch_refusal(call) is None
    elif plan.taps == 1 and any(s > 1 for s in plan.stride):
        theirs = False  # its weight gradient may write past the end
    else:
        theirs = all(method_for(call._replace(map=m)).name == "torch" for m in ("forward", "input", "weight"))
    return Route(call, method_for(call), theirs)


_cached_route = functools.lru_cache(maxsize=4096)(_route)


def _route_for(call: Call) -> Route:
    if (
        torch.compiler.is_compiling()
        or type(call.plan.batch) is not int
        or not all(type(n) is int for n in call.plan.input)
    ):
        return _route(call)
    return _cached_route(call)


# ------------------------------------------------------------------------------------------------------------ gradients

# Of each map, for both of its arguments a and b: the map that gives the gradient, and what of (g, a, b) it takes.
_GRADIENTS: dict[Map, tuple[tuple[Map, int, int], tuple[Map, int, int]]] = {
    "forward": (("input", 0, 2), ("weight", 0, 1)),  # a = x, b = w: dx from dy and w, dw from dy and x
    "input": (("forward", 0, 2), ("weight", 1, 0)),  # a = dy, b = w
    "weight": (("forward", 2, 0), ("input", 1, 0)),  # a = dy, b = x
}


def _gradients(ctx: Any, call: Call, g: Tensor) -> list[Tensor | None]:
    """Of a, b and the bias, as far as they are asked for."""
    needs = ctx.needs_input_grad
    got: list[Tensor | None] = [None, None, None]
    if call.map != "weight" and call.refusal is None and call.plan.dims > 1:  # turned once, not by each
        g = g.contiguous(memory_format=FORMATS[g.dim()] if call.channels_last else torch.contiguous_format)
    tensors = [g, *ctx.saved_tensors]
    for wanted in (1, 0):  # of b first: a is for it alone, and if it was made for it, it need not live longer
        if needs[wanted]:
            map, first, second = _GRADIENTS[call.map][wanted]
            got[wanted] = _apply(_route_for(call._replace(map=map)), tensors[first], tensors[second], None)
        tensors[1] = None
    if len(needs) > 2 and needs[2]:
        got[2] = _bias_gradient(call, g)
    return got


def _bias_gradient(call: Call, g: Tensor) -> Tensor:
    plain = (
        type(g) is Tensor and not torch.compiler.is_compiling() and not (torch.is_grad_enabled() and g.requires_grad)
    )
    if plain and call.refusal is None and g.numel() > 0:
        with below_autograd():
            return _ops.conv_bias.default(g, call.channels_last)
    return g.sum([0, *range(2, g.dim())])


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None, route: Route) -> Tensor:
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)
        ctx.call = route.call
        with below_views():  # a view of what a method made is not one to autograd
            return route.method.run(route.call, a, b, bias)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        closed = gate.closed_to(g)
        return (*_gradients(ctx, ctx.call if closed is None else ctx.call._replace(refusal=closed.reason), g), None)


_map = super(torch.autograd.Function, _Map).apply  # without what only function transforms need


def _apply(route: Route, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    traced = torch.compiler.is_compiling() or (type(a) is not Tensor and type(a) is not torch.nn.Parameter)
    if traced or route.call.refusal is not None:
        return route.method.run(route.call, a, b, bias)  # every method then consists of operators that have a gradient
    if _needs_gradient(a, b, bias):
        return _map(a, b, bias, route)  # type: ignore[no-untyped-call]
    with below_views():  # no view either
        return route.method.run(route.call, a, b, bias)


def _needs_gradient(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or (bias is not None and bias.requires_grad))


if native.core:
    _ops = torch.ops.striate

    @torch.library.register_fake("striate::conv")
    def _(
        x: Any,
        weight: Any,
        bias: Any,
        output: Any,
        stride: Any,
        dilation: Any,
        before: Any,
        groups: Any,
        last: Any,
        method: Any,
    ) -> Any:
        return empty(x, [x.shape[0], weight.shape[0], *output], x.dtype, last)

    @torch.library.register_fake("striate::conv_input")
    def _(
        dy: Any,
        weight: Any,
        bias: Any,
        input: Any,
        stride: Any,
        dilation: Any,
        before: Any,
        groups: Any,
        last: Any,
        method: Any,
    ) -> Any:
        return empty(dy, [dy.shape[0], weight.shape[1] * groups, *input], dy.dtype, last)

    @torch.library.register_fake("striate::conv_bias")
    def _(dy: Any, last: Any) -> Any:
        return dy.new_empty([dy.shape[1]])

    @torch.library.register_fake("striate::conv_fused")
    def _(
        x: Any, weight: Any, packed: Any, bias: Any, residual: Any, low: Any, high: Any, output: Any, *rest: Any
    ) -> Any:
        return empty(x, [x.shape[0], weight.shape[0], *output], x.dtype, rest[-2])

    @torch.library.register_fake("striate::conv_measured")
    def _(x: Any, weight: Any, bias: Any, output: Any, *rest: Any) -> Any:
        y = empty(x, [x.shape[0], weight.shape[0], *output], x.dtype, rest[-2])
        return y, x.new_empty([2, weight.shape[0]], dtype=torch.float64)

    @torch.library.register_fake("striate::conv_weight")
    def _(dy: Any, x: Any, size: Any, stride: Any, dilation: Any, before: Any, groups: Any, *rest: Any) -> Any:
        weight_last = len(rest) > 2 and rest[2]  # left out where it is the default
        return empty(dy, [dy.shape[1], x.shape[1] // groups, *size], dy.dtype, weight_last)

    def _register(op: Any, map: Map) -> None:
        """The gradient of an operator of ours where it is traced."""

        def setup(ctx: Any, inputs: Any, output: Any) -> None:
            a, b = inputs[:2]
            axes, stride, dilation, before, groups, last, _ = inputs[2:9] if map == "weight" else inputs[3:]
            x, y = {"forward": (a, output), "input": (output, a), "weight": (b, a)}[map]
            size = axes if map == "weight" else b.shape[2:]
            input, out = tuple(x.shape[2:]), tuple(y.shape[2:])
            after = tuple(
                p if output_size(i, k, s, d, p, p) == o else (o - 1) * s + d * (k - 1) + 1 - i - p
                for i, o, k, s, d, p in zip(input, out, size, stride, dilation, before, strict=True)
            )
            geometry = (input, out, tuple(size), tuple(stride), tuple(dilation), tuple(before))
            plan = Plan(x.shape[0], x.shape[1], y.shape[1], groups, *geometry, after)
            weight_last = is_channels_last(output if map == "weight" else b)
            ctx.call = Call(
                map, plan, last, a.dtype, None, choose.preferred() or AS_MEASURED, is_strict(), weight_last=weight_last
            )
            ctx.save_for_backward(a, b)

        def backward(ctx: Any, g: Any) -> Any:
            got = _gradients(ctx, ctx.call, g)
            return (*got[:2], *[None] * 8) if map == "weight" else (*got, *[None] * 7)

        torch.library.register_autograd(op, backward, setup_context=setup)

    for _op, _name in ((_ops.conv, "forward"), (_ops.conv_input, "input"), (_ops.conv_weight, "weight")):
        _register(_op.default, _name)


# ------------------------------------------------------------------------------------------------------------ functions


def _run(
    map: Map,
    plan: Plan,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    theirs: Callable[[], Tensor] | None,
    method: str | None,
    where: str,
    closed: gate.Closed | None,
    measure: bool = False,
    fresh: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """``theirs``: torch's operator as it is, where there is one for these arguments."""
    if method is not None and method not in NAMES:
        raise ArgumentError(
            build(where, f"method to be one of {', '.join(NAMES)}", repr(method), hint="Leave it out for the fastest.")
        )
    refusal = None if closed is None else closed.reason
    batch = x if x.dim() == plan.dims + 2 else x.unsqueeze(0)
    follows = refusal is None and follows_channels_last(x, weight)
    weight_last = follows and is_channels_last(weight)
    last = follows or (channels_last and refusal is None and plan.dims > 1)
    method = method or choose.preferred() or AS_MEASURED  # settled here, for the gradients too
    route = _route_for(Call(map, plan, last, x.dtype, refusal, method, is_strict(), measure, weight_last))
    plain = route.method.name == "torch" and not _needs_gradient(x, weight, bias)
    if theirs is not None and last == follows and (route.all_torch or plain):
        y = theirs()
    else:
        y = _apply(route, batch, weight, bias)
        y = y if batch is x else owned(Tensor.squeeze, y, 0)
    if fresh and refusal is None and weight.requires_grad:
        keep(x, y)
    return y


def follows_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's convolution of these gives channels_last: of an image without a batch axis the weight alone
    decides.
    """
    return (x.dim() == weight.dim() and is_channels_last(x)) or is_channels_last(weight)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    dims: int,
    where: str = "conv",
    method: str | None = None,
    measure: bool = False,
    fresh: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """Cross-correlation: ``y[n, k, o] = b[k] + sum over c, t of w[k, c, t] · x[n, c, o·stride + t·dilation - before]``.

    x: (N, C, *axes) or (C, *axes) of ``dims`` axes, weight: (K, C / groups, *taps), bias: (K,); y: (N, K, *outputs).
    padding: numbers, ``"valid"`` (none) or ``"same"`` (ceil(input / stride) outputs, an odd one behind).

    method: one of ``striate.ops.conv.NAMES``, to go before the one that was measured to be fastest, wherever it can.
    measure: a batch norm follows; methods that can then take its statistics while they write (see :mod:`.handed`).
    fresh: a norm made x and nobody else can see it, so that it may be made again in backward (see :mod:`.recipe`).
    channels_last: y has that memory format whatever x and weight have; else, as torch's, where one of them has it.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    >>> conv(torch.ones(1, 3, 32, 32), torch.ones(10, 3, 5, 5), padding=2, dims=2).shape
    torch.Size([1, 10, 32, 32])
    >>> conv(torch.ones(1, 1, 7), torch.ones(1, 1, 3), stride=2, padding="same", dims=1)
    tensor([[[2., 3., 3., 2.]]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        return handover.conv_as_it_came(x, weight, bias, stride, padding, dilation, groups, dims)
    plan = plan_for(x, weight, bias, stride, padding, dilation, groups, dims=dims, where=where)
    arguments = (x, weight, bias, plan.stride, plan.before, plan.dilation, plan.groups, dims)
    theirs: Callable[[], Tensor] | None = None
    if plan.before == plan.after:
        theirs = lambda: handover.conv(*arguments)  # noqa: E731
    elif closed is not None:
        theirs = lambda: handover.conv_as_it_came(x, weight, bias, stride, padding, dilation, groups, dims)  # noqa: E731
    return _run("forward", plan, x, weight, bias, theirs, method, where, closed, measure, fresh, channels_last)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    *,
    dims: int,
    where: str = "conv_transpose",
    method: str | None = None,
    fresh: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """The adjoint of :func:`conv` in x, a layer of its own: ``y[n, c, i] = b[c] + sum of w[k, c, t] · x[n, k, o]`` over
    the o and t with ``i = o·stride + t·dilation - before``.

    x: (N, K, *axes) or (K, *axes), weight: (K, C / groups, *taps), bias: (C,); y: (N, C, *outputs) with
    ``(axis - 1)·stride - 2·padding + dilation·(taps - 1) + 1 + output_padding`` values on each axis. padding: numbers,
    ``"valid"`` (none) or ``"same"`` (axis · stride values).

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no transposed convolution can have.

    >>> conv_transpose(torch.ones(1, 8, 16, 16), torch.ones(8, 4, 2, 2), stride=2, dims=2).shape
    torch.Size([1, 4, 32, 32])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        return handover.transpose_as_it_came(x, weight, bias, stride, padding, output_padding, groups, dilation, dims)
    plan = plan_for(
        x, weight, bias, stride, padding, output_padding, dilation, groups, dims=dims, where=where, transposed=True
    )
    theirs = None
    if not isinstance(padding, str):
        more = per_axis(output_padding, dims, 0, "output_padding", where, plan.x_shape)
        arguments = (x, weight, bias, plan.stride, plan.before, more, plan.groups, plan.dilation, dims)
        theirs = lambda: handover.conv_transpose(*arguments)  # noqa: E731
    return _run("input", plan, x, weight, bias, theirs, method, where, closed, fresh=fresh, channels_last=channels_last)


def explain(
    shape: Sequence[int],
    weight: Sequence[int],
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    channels_last: bool = False,
) -> dict[Map, list[tuple[str, str | None]]]:
    """For each map of a float32 convolution, the methods in the order they are asked, up to the chosen one, and the
    reasons against them.

    shape: of x, (N, C, *axes); weight: its shape, (K, C / groups, *taps).

    Raises as :func:`conv` does for arguments no convolution can have.

    >>> [methods[-1] for methods in explain((16, 64, 56, 56), (64, 1, 3, 3), padding=1, groups=64).values()]
    [('depthwise', None), ('depthwise', None), ('depthwise', None)]
    """
    dims = len(weight) - 2
    if dims not in handover.CONV:
        raise ShapeError(
            build(
                "explain", "a weight of one to three axes of taps", tuple(weight), hint="Give (K, C / groups, *taps)."
            )
        )
    x, w = (torch.empty(tuple(sizes), device="meta") for sizes in (shape, weight))
    plan = plan_for(x, w, None, stride, padding, dilation, groups, dims=dims, where="explain")
    calls = (
        Call(map, plan, channels_last and dims > 1, torch.float32, native.missing, strict=is_strict())
        for map in _GRADIENTS
    )
    return {call.map: choose.explain(METHODS, call) for call in calls}
