"""The gate: decides whether striate's kernels or torch's operators compute a call.

The native kernels compute a plain eager call on plain float32 or float64 tensors in the memory of the CPU. Under
function transforms, tracing, export, dispatch and torch-function modes and autocast, and for tensor subclasses, other
types and devices, a layer behaves as its ``torch.nn`` namesake, so that every tool of torch's sees operators that it
knows. ``torch.compile`` keeps the native operators, for which it has fake kernels, gradients, FLOP formulas and vmap
rules.

:func:`closed` takes this decision, once for each call and once for each backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, compiler
from torch.nn import Parameter

from .. import _torch, native

__all__ = ["Closed", "closed", "closed_to", "is_open", "reason"]

_is_compiling, _is_plain_eager = compiler.is_dynamo_compiling, _torch.is_plain_eager
_float32, _float64, _strided = torch.float32, torch.float64, torch.strided


class Closed(NamedTuple):
    """Why torch's operators compute a call."""

    reason: str  # part of a sentence, worded as a candidate's refusal is
    # the sizes are symbols (of a tracer's proxies, of an export), so that no argument can be checked: torch's operator
    # gets the arguments unchanged
    symbolic: bool


def closed(*tensors: Any) -> Closed | None:
    """Why no native kernel may compute with these tensors here and now, or None where one may.

    tensors: the arguments of a call; those that are None are skipped.

    >>> closed(torch.ones(2)), closed(torch.ones(2).bfloat16())
    (None, Closed(reason='kernels are for float32 and float64, got bfloat16', symbolic=False))
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     closed(torch.ones(2))
    Closed(reason='autocast chooses the type', symbolic=False)
    """
    if _is_compiling() or compiler._is_compiling_flag:
        return _compiled(tensors)
    if native.missing is None and _lacking is None and _is_plain_eager():
        strided = False  # asked of the first tensor alone: torch's operators refuse to mix strided with other layouts
        for x in tensors:
            if x is None:
                continue
            number = (
                (type(x) is Tensor or type(x) is Parameter)
                and ((dtype := x.dtype) is _float32 or dtype is _float64)
                and x.is_cpu
            )
            strided = number and (strided or (x.layout is _strided and not x.is_nested))
            if not strided:
                break
        else:
            return None
    return _why(tensors)


_lacking = f"this torch lacks {_torch.off[_torch.NATIVE][0]}" if _torch.NATIVE in _torch.off else None


def is_open(*tensors: Any) -> bool:
    """Whether native kernels may compute with these tensors.

    >>> is_open(torch.ones(2), None)
    True
    """
    return closed(*tensors) is None


def closed_to(gradient: Tensor) -> Closed | None:
    """:func:`closed` for a backward that does more than call operators, so that it cannot run on batched gradients.

    With ``is_grads_batched`` autograd passes many gradients as one batched tensor.

    >>> closed_to(torch.ones(2))
    """
    if _torch.is_transformed(gradient):
        return Closed("gradients come batched", False)
    return closed(gradient)


def reason(*tensors: Any) -> str | None:
    """The reason of :func:`closed`, or None where native kernels may compute.

    >>> reason(torch.ones(2, dtype=torch.int64))
    'kernels are for float32 and float64, got int64'
    """
    why = closed(*tensors)
    return None if why is None else why.reason


def _compiled(tensors: tuple[Any, ...]) -> Closed | None:
    """While ``torch.compile`` traces, types and devices alone decide; ``torch.export`` gets torch's operators."""
    if compiler.is_exporting():
        return Closed("torch.export gets torch's operators", True)
    missing = native.missing or _lacking
    if missing is not None:
        return Closed(missing, False)
    if _torch.is_transforming():
        return Closed("operators of ours have no gradient within function transforms", False)
    for x in tensors:
        reason = None if x is None or not isinstance(x, Tensor) else _numbers(x)
        if reason is not None:
            return Closed(reason, False)
    return Closed("autocast chooses the type", False) if torch.is_autocast_enabled("cpu") else None


def _why(tensors: tuple[Any, ...]) -> Closed:
    for x in tensors:
        if x is not None and not isinstance(x, Tensor) and hasattr(type(x), "__torch_function__"):
            return Closed(f"a {type(x).__name__} stands for a tensor", True)
    watched = _torch.watching()
    symbolic = _torch.is_recorded() or any(_has_no_sizes(x) for x in tensors if isinstance(x, Tensor))
    # a reason that lies in the tensors is reported before autocast, since it holds without autocast too
    if watched is None or watched.startswith("autocast"):
        for x in tensors:
            if isinstance(x, Tensor):
                reason = _kind(x) or _numbers(x)
                if reason is not None:
                    return Closed(reason, symbolic)
    return Closed(native.missing or _lacking or watched or "there is no tensor", symbolic)


def _has_no_sizes(x: Tensor) -> bool:
    return x.is_nested or any(type(n) is not int for n in x.shape)


def _kind(x: Tensor) -> str | None:
    return (
        None if type(x) is Tensor or type(x) is Parameter else f"kernels are for plain tensors, got {type(x).__name__}"
    )


def _numbers(x: Tensor) -> str | None:
    if x.dtype is not _float32 and x.dtype is not _float64:
        return f"kernels are for float32 and float64, got {str(x.dtype).removeprefix('torch.')}"
    if not x.is_cpu:
        return f"kernels are for the CPU, got {x.device.type}"
    if x.is_nested:
        return "kernels are for tensors of one size, got a nested one"
    return None if x.layout is _strided else f"kernels are for strided tensors, got {x.layout}"
