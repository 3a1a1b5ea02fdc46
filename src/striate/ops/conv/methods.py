"""The methods that compute a convolution or one of its gradients, and the choice among them.

A method computes any of three passes, which are the derivatives of one form that is linear in dy, w and x (see
:mod:`striate.ops.conv`): "forward" takes (x, w), "backward_data" (dy, w) and "backward_weights" (dy, x). It is a
:class:`~striate.ops.dispatch.Candidate` with ``run(problem, a, b, bias)``, where a and b are the two tensors of the
pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import native
from ...errors import build
from ...reference import conv as reference
from ...tuning import select
from .. import torch_calls
from ..batch_stats import attach_statistics
from ..dispatch import Candidate, always, first
from ..layout import FORMATS, empty, is_channels_last
from .geometry import ConvGeometry

__all__ = [
    "METHODS",
    "NAMES",
    "NATIVE",
    "NUMBERS",
    "PASSES",
    "ConvProblem",
    "Dispatch",
    "Pass",
    "dispatch_for",
    "method_for",
    "split_padding",
    "torch_refusal",
]

Pass = str  # one of PASSES
PASSES = ("forward", "backward_data", "backward_weights")
_ops = torch.ops.striate


class ConvProblem(NamedTuple):
    """One pass of a convolution, which a method is chosen for."""

    pass_: Pass
    geometry: ConvGeometry
    channels_last: bool  # whether the kernels read and write activations in NHWC; False for one axis
    dtype: torch.dtype
    refusal: str | None  # why no native kernel may compute with these tensors
    method: str | None = None  # a name or AS_MEASURED; None: the one that `prefer` names while a method is chosen
    strict: bool = False  # see striate.precision
    emit_batch_stats: bool = False  # a norm wants the mean and variance of y's channels
    weight_channels_last: bool = False  # the memory format of the weight, and so that of its gradient


# ----------------------------------------------------------------------------------------------------- torch's operator


def torch_refusal(problem: ConvProblem) -> str | None:
    p = problem.geometry
    # max() is avoided, since it would compare symbolic sizes
    if any(n >= 2**31 - 1 for n in (*p.stride, *p.dilation, *p.before, *p.after, *p.input)):
        return "torch's operators count in 32 bits"
    return None


def split_padding(geometry: ConvGeometry) -> tuple[list[int], list[int]]:
    """Splits the padding into a symmetric part and the rest.

    torch's and oneDNN's operators pad both sides of an axis alike: they take the symmetric part. The rest is put around
    x first, and is in ``torch.nn.functional.pad``'s order.

    >>> from .geometry import resolve
    >>> split_padding(resolve((1, 1, 7), (1, 1, 4), 1, 1, "same", 1, 1, "conv1d"))
    ([1], [0, 1])
    """
    p = geometry
    symmetric_pad = [max(0, min(pads)) for pads in zip(p.before, p.after, strict=True)]
    return symmetric_pad, _extra_pad(p, symmetric_pad)


def _extra_pad(p: ConvGeometry, symmetric_pad: list[int]) -> list[int]:
    return [n for k in reversed(range(p.dims)) for n in (p.before[k] - symmetric_pad[k], p.after[k] - symmetric_pad[k])]


def _torch(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes by torch's operator. What is asymmetric in the padding is put around x, and cut off dx."""
    p, pass_ = problem.geometry, problem.pass_
    if problem.channels_last and pass_ != "backward_weights" and not (is_channels_last(a) or is_channels_last(b)):
        a = a.contiguous(memory_format=FORMATS[a.dim()])  # torch takes the order of the result from its operands
    symmetric_pad, extra_pad = split_padding(p)
    if pass_ == "backward_weights" and p.taps == 1 and max(p.stride) > 1:
        symmetric_pad = [0] * p.dims  # all padding is put around x, which is then sliced by the stride: see below
        extra_pad = _extra_pad(p, symmetric_pad)
    if pass_ == "forward":
        return torch_calls.conv(_padded(a, extra_pad), b, bias, p.stride, symmetric_pad, p.dilation, p.groups, p.dims)
    stride = list(p.stride)
    # outside of the gate: by an operator that has torch's own gradient, for any type, autocast and transforms
    if pass_ == "backward_data" and problem.refusal is not None:
        more = _output_padding(p, symmetric_pad)
        y = torch_calls.conv_transpose(a, b, bias, stride, symmetric_pad, more, p.groups, p.dilation, p.dims)
        return _padded(y, [-n for n in extra_pad])
    if pass_ == "backward_data":
        pads = zip(p.input, p.before, p.after, symmetric_pad, strict=True)
        padded = [i + before + after - 2 * n for i, before, after, n in pads]
        x = empty(a, [p.batch, p.channels, *padded], a.dtype, problem.channels_last)  # only its layout is used
        arguments = (stride, symmetric_pad, list(p.dilation), False, [0] * p.dims, p.groups)
        dx = torch.ops.aten.convolution_backward.default(a, x, b, None, *arguments, [True, False, False])[0]
        dx = _padded(dx, [-n for n in extra_pad])
        return dx if bias is None else dx + bias.reshape(-1, *[1] * p.dims)
    x = _padded(b, extra_pad)
    if p.taps == 1 and max(stride) > 1:  # with a stride oneDNN writes past the end of some of these (its issue 6035)
        x, stride = torch_calls.strided_slice(x, stride), [1] * p.dims
    w = empty(a, p.weight_shape, a.dtype, problem.channels_last)  # only its layout is used
    arguments = (stride, symmetric_pad, list(p.dilation), False, [0] * p.dims, p.groups)
    return torch.ops.aten.convolution_backward.default(a, x, w, None, *arguments, [False, True, False])[1]


def _output_padding(p: ConvGeometry, symmetric_pad: list[int]) -> list[int]:
    """torch's output_padding, with which a transposed convolution yields x's axes and the extra padding around them."""
    axes = zip(p.input, p.before, p.after, symmetric_pad, p.output, p.stride, p.dilation, p.size, strict=True)
    return [
        i + before + after - 2 * n - ((o - 1) * s - 2 * n + d * (k - 1) + 1) for i, before, after, n, o, s, d, k in axes
    ]


def _padded(x: Tensor, extra_pad: list[int]) -> Tensor:
    return F.pad(x, extra_pad) if any(extra_pad) else x


def _torch_channels_last(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes by torch's operator on activations copied to NHWC, oneDNN's preferred order, and copies the result back.
    """
    format = FORMATS[problem.geometry.dims + 2]
    a = a.contiguous(memory_format=format)
    b = b.contiguous(memory_format=format) if problem.pass_ == "backward_weights" else b
    return _torch(problem._replace(channels_last=True), a, b, bias).contiguous()


def _torch_channels_last_refusal(problem: ConvProblem) -> str | None:
    if problem.refusal is not None:
        return problem.refusal
    if problem.channels_last or problem.geometry.dims == 1:
        return (
            "the activations are channels_last already"
            if problem.channels_last
            else "torch has no channels_last for one axis"
        )
    return torch_refusal(problem)


# -------------------------------------------------------------------------------------------------------- the reference

_REFERENCE = {
    "forward": reference.conv_forward,
    "backward_data": reference.conv_backward_data,
    "backward_weights": reference.conv_backward_weights,
}


def _reference(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    p = problem.geometry
    y = _REFERENCE[problem.pass_](a, b, p.window, p.groups)
    return y if bias is None else y + bias.reshape(-1, *[1] * p.dims)


# ---------------------------------------------------------------------------------------------------- striate's kernels


def _native_refusal(problem: ConvProblem) -> str | None:
    if problem.refusal is not None:
        return problem.refusal
    p = problem.geometry
    if any(n < 1 for n in (*p.x_shape, *p.y_shape)):
        return "there is nothing to compute"
    axes = zip(p.size, p.dilation, p.before, p.stride, strict=True)
    if any(k > 4096 or max((k - 1) * d, before, s) > 65536 for k, d, before, s in axes):
        return "kernels are for windows of some thousand places"
    # an upper bound of the band of one row of outputs: see csrc/kernels/conv/bands.h and direct.cpp; 512 is kColumns
    extents = [(k - 1) * d + 1 for k, d in zip(p.size, p.dilation, strict=True)]
    band = (min(512, max(p.input[-1], p.output[-1])) + 35) * p.stride[-1] + extents[-1]
    for extent, i, o in zip(extents[:-1], p.input[:-1], p.output[:-1], strict=True):
        band *= min(extent + 2, max(i, o))
    if band * max(p.channels, p.filters) // p.groups > 2**23:
        return "what one row of outputs sees may take more than 32 MiB"
    if p.taps * max(p.channels, p.filters) // p.groups > 2**22:
        return "a filter has more than 4 million weights"
    return None


def _depthwise_refusal(problem: ConvProblem) -> str | None:
    p = problem.geometry
    if max(p.channels, p.filters) // p.groups > 32:
        return "it is for at most 32 channels and filters a group"
    return _native_refusal(problem)


def _winograd_refusal(outputs: int) -> Callable[[ConvProblem], str | None]:
    """The refusal of Winograd's method whose tiles have so many outputs on an axis."""
    taps = (1, 3) if outputs == 4 else (1, 3, 5)

    def refuse(problem: ConvProblem) -> str | None:
        p = problem.geometry
        if problem.refusal is not None:
            return problem.refusal
        if problem.strict:
            return "precision is strict"
        if any(n != 1 for n in (*p.stride, *p.dilation)):
            return "it is for stride and dilation 1"
        if p.dims == 3:
            return "it is for one and two axes"
        wide = [k for k in p.size if k > 1]  # no set, since symbolic sizes have no hash
        if not wide or any(k not in taps for k in wide) or any(k != wide[0] for k in wide):
            return f"it is for {'3' if outputs == 4 else '3 or 5'} taps on an axis, and as many or one on the other"
        return _native_refusal(problem)

    return refuse


def _implicit_gemm_refusal(problem: ConvProblem) -> str | None:
    p = problem.geometry
    if problem.refusal is not None:
        return problem.refusal
    if not problem.channels_last:
        return "it is for channels order"
    if p.taps * (max(p.channels, p.filters) // p.groups + 15) > 2**20:
        return "it is for outputs that see at most a million values"
    return _native_refusal(problem)


def _pointwise_refusal(problem: ConvProblem) -> str | None:
    p = problem.geometry
    if problem.refusal is not None:
        return problem.refusal
    if p.taps > 1 or any(p.before) or any(p.after):
        return "it is for one tap and no padding"
    return _native_refusal(problem)


_REFUSALS: dict[str, Callable[[ConvProblem], str | None]] = {
    "depthwise": _depthwise_refusal,
    "direct": _native_refusal,
    "winograd_4x4": _winograd_refusal(4),
    "winograd_2x2": _winograd_refusal(2),
    "implicit_gemm": _implicit_gemm_refusal,
    "pointwise": _pointwise_refusal,
}
# The native methods, in the order of the numbers that the core's operators take (csrc/methods.def). Where there is no
# core, all of them refuse.
NATIVE: tuple[str, ...] = native.CONV_METHODS or tuple(_REFUSALS)
NUMBERS = {name: number for number, name in enumerate(NATIVE)}
if NUMBERS.keys() != _REFUSALS.keys():
    _expects = f"a native core with the convolution methods {', '.join(_REFUSALS)}"
    _hint = "Build the core from the sources of this version."
    raise ImportError(build("striate", _expects, ", ".join(NATIVE), hint=_hint))
_EMIT_BATCH_STATS = ("winograd_4x4", "winograd_2x2", "implicit_gemm")  # they measure while they write y


def _emits_batch_stats(method: str, problem: ConvProblem) -> bool:
    can = method in _EMIT_BATCH_STATS or (method == "pointwise" and problem.channels_last)
    return problem.pass_ == "forward" and problem.emit_batch_stats and can


def _native(method: str) -> Callable[..., Tensor]:
    number = NUMBERS[method]

    def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        p = problem.geometry
        rest = (p.stride, p.dilation, p.before, p.groups, problem.channels_last, number)
        if _emits_batch_stats(method, problem):
            y, statistics = _ops.conv_measured.default(a, b, bias, p.output, *rest)
            attach_statistics(y, statistics)
            return y
        if problem.pass_ == "forward":
            return _ops.conv.default(a, b, bias, p.output, *rest)
        if problem.pass_ == "backward_data":
            return _ops.conv_backward_data.default(a, b, bias, p.input, *rest)
        return _ops.conv_backward_weights.default(a, b, p.size, *rest, problem.weight_channels_last)

    return run


# --------------------------------------------------------------------------------------------------------------- choice


def _not_preferred(name: str) -> Callable[[ConvProblem], str | None]:
    return lambda problem: select.not_preferred(name, problem)


METHODS = (
    *(Candidate(name, _REFUSALS[name], _native(name), _not_preferred(name)) for name in NATIVE),
    Candidate(
        "torch_channels_last",
        _torch_channels_last_refusal,
        _torch_channels_last,
        _not_preferred("torch_channels_last"),
    ),
    Candidate("torch", torch_refusal, _torch),
    Candidate("reference", always, _reference),
)
NAMES = tuple(candidate.name for candidate in METHODS)


def method_for(problem: ConvProblem) -> Candidate:
    """The method that computes this problem: the first in order of preference that nothing speaks against."""
    return first(METHODS, problem, method=problem.method)


class Dispatch(NamedTuple):
    """A problem, the method chosen for it, and whether torch's operator is the choice for all three passes."""

    problem: ConvProblem
    method: Candidate
    all_torch: bool


def _dispatch(problem: ConvProblem) -> Dispatch:
    geometry = problem.geometry
    if problem.refusal is not None:
        all_torch = torch_refusal(problem) is None
    elif geometry.taps == 1 and any(s > 1 for s in geometry.stride):
        all_torch = False  # torch's weight gradient may write past the end: see _torch
    else:
        all_torch = all(method_for(problem._replace(pass_=pass_)).name == "torch" for pass_ in PASSES)
    return Dispatch(problem, method_for(problem), all_torch)


_cached_dispatch = functools.lru_cache(maxsize=4096)(_dispatch)


def dispatch_for(problem: ConvProblem) -> Dispatch:
    """The dispatch of a problem, cached by the whole problem, or made anew while ``torch.compile`` traces."""
    if (
        torch.compiler.is_compiling()
        or type(problem.geometry.batch) is not int
        or not all(type(n) is int for n in problem.geometry.input)
    ):
        return _dispatch(problem)
    return _cached_dispatch(problem)
