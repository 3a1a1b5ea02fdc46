"""Which method computes an operation: the first of an ordered list of candidates that does not refuse.

A candidate refuses with a sentence that says why, so that every choice can be explained. The last one never refuses.

>>> shift = Candidate("shift", lambda n: None if n >= 0 else "shifts need n ≥ 0", lambda n: n << 1)
>>> double = (shift, Candidate("add", always, lambda n: n + n))
>>> choose(double, 21)(21), choose(double, -21)(-21)
(42, -42)
>>> explain(double, -21)
[('shift', 'shifts need n ≥ 0'), ('add', None)]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from .. import native
from ..errors import ArgumentError, build
from .setting import Block, Setting

__all__ = ["AS_MEASURED", "NAMES", "Candidate", "always", "choose", "explain", "first", "native_refusal", "prefer", "preferred", "reasons"]


def always(*args: Any) -> None:
    """Never refuses."""
    return None


class Candidate(NamedTuple):
    """A method: its name, why it refuses these arguments (None: it does not), what it computes, and why another is faster.

    A refusal is for good; what is merely slower still runs where it is asked for by name (:class:`prefer`).
    """

    name: str
    refuse: Callable[..., str | None]
    run: Callable[..., Any]
    slower: Callable[..., str | None] = always


# Every method there is, of one family or of several: first convolution's own, in its order.
NAMES = (
    *("depthwise", "direct", "winograd_4x4", "winograd_2x2", "unfolded", "pointwise", "torch_channels_last"),
    *("torch", "reference", "native", "local", "onednn"),
)
AS_MEASURED = ""  # in a method's place: none goes first, whatever is preferred


def _known(name: str | None, where: str) -> str | None:
    if name is not None and name not in NAMES:
        do = f"{'Unset it' if where.isupper() else 'Give None'} for the method that was measured to be the fastest."
        raise ArgumentError(build(where, f"one of {', '.join(NAMES)}", repr(name), do=do))
    return name


_PREFERRED = Setting("prefer", _known(os.environ.get("STRIATE_METHOD") or None, "STRIATE_METHOD"))


class prefer(Block[str | None]):  # noqa: N801  used after `with`
    """Inside, the methods of that name go first wherever they can; None: as measured. Names: :data:`NAMES`, of which each family has some.

    For tests, measurements, and whoever wants one method's numbers however small the work. ``STRIATE_METHOD`` sets it for the process, at
    start. A block holds for its own context, as :class:`striate.precision`'s do, and for the gradients of what was computed in it.

    Raises ArgumentError for a name that no method has.

    >>> with prefer("torch"):
    ...     explain((Candidate("native", always, abs), Candidate("torch", always, abs)), -1)
    [('torch', None)]
    """

    setting = _PREFERRED

    def __init__(self, name: str | None) -> None:
        super().__init__(_known(name, "prefer"))

    def __repr__(self) -> str:
        return f"prefer({self.value!r})"


def preferred() -> str | None:
    """What :class:`prefer` named in this context, or ``STRIATE_METHOD``."""
    return _PREFERRED.value()


def reasons(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> Iterator[tuple[Candidate, str | None]]:
    """The candidates in the order they are asked, each with the reason against it; first the one named ``method``, or the preferred."""
    name = preferred() if method is None else method
    for candidate in candidates if not name else sorted(candidates, key=lambda c: c.name != name):
        reason = candidate.refuse(*args)
        yield candidate, candidate.slower(*args) if reason is None and candidate.name != name else reason


def first(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> Candidate:
    """The first candidate that has no reason against it; the last one never has."""
    for candidate, reason in reasons(candidates, *args, method=method):
        if reason is None:
            return candidate
    raise AssertionError(f"the last of {[c.name for c in candidates]} refused")


def choose(candidates: Sequence[Candidate], *args: Any) -> Callable[..., Any]:
    """What that candidate computes."""
    return first(candidates, *args).run


def explain(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> list[tuple[str, str | None]]:
    """Every candidate up to the chosen one, with the reason against it; the chosen one's is None."""
    told: list[tuple[str, str | None]] = []
    for candidate, reason in reasons(candidates, *args, method=method):
        told.append((candidate.name, reason))
        if reason is None:
            break
    return told


def native_refusal(*tensors: torch.Tensor | None) -> str | None:
    """Why no kernel of ours can take these, whatever the operation."""
    if native.missing is not None:
        return native.missing
    compiling, duals = torch.compiler.is_compiling(), forward_ad._current_level >= 0
    traced = torch._C._get_tracing_state() is not None
    for x in tensors:
        if x is None:
            continue
        plain = not compiling and (type(x) is torch.Tensor or type(x) is torch.nn.Parameter)
        if plain and not duals and x.dtype in _TYPES and x.is_cpu and x.layout is torch.strided and not _is_transformed(x):
            continue
        reason = _reason(x, compiling)
        if reason is not None:
            return reason
        traced = True
    if traced and not compiling and torch.onnx.is_in_onnx_export():
        return "ONNX has no operator for our kernels"
    return None


_TYPES = (torch.float32, torch.float64)
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor


def _reason(x: torch.Tensor, compiling: bool) -> str | None:
    if x.dtype not in _TYPES:
        return f"kernels are for float32 and float64, got {str(x.dtype).removeprefix('torch.')}"
    if not x.is_cpu:
        return f"kernels are for the CPU, got {x.device.type}"
    if x.layout is not torch.strided:
        return f"kernels are for strided tensors, got {x.layout}"
    if compiling:
        return None
    if type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter and not _is_traced(x):
        return f"kernels are for plain tensors, got {type(x).__name__}"
    if _is_transformed(x):
        return "kernels have no rule for function transforms (vmap, grad, jvp)"
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        return "kernels have no forward-mode derivative"
    return None


def _is_traced(x: torch.Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(x, FakeTensor | FunctionalTensor)
