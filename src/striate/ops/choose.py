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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from .. import native

__all__ = ["Candidate", "always", "choose", "explain", "native_refusal"]


class Candidate(NamedTuple):
    """A method: its name, why it refuses these arguments (None: it does not), and what it computes."""

    name: str
    refuse: Callable[..., str | None]
    run: Callable[..., Any]


def always(*args: Any) -> None:
    """Never refuses."""
    return None


def choose(candidates: Sequence[Candidate], *args: Any) -> Callable[..., Any]:
    """The method of the first candidate that does not refuse ``args``."""
    for candidate in candidates:
        if candidate.refuse(*args) is None:
            return candidate.run
    raise AssertionError(f"the last of {[c.name for c in candidates]} refused")


def explain(candidates: Sequence[Candidate], *args: Any) -> list[tuple[str, str | None]]:
    """Every candidate up to the chosen one, with its reason to refuse; the chosen one's is None."""
    reasons: list[tuple[str, str | None]] = []
    for candidate in candidates:
        reasons.append((candidate.name, candidate.refuse(*args)))
        if reasons[-1][1] is None:
            break
    return reasons


def native_refusal(x: torch.Tensor) -> str | None:
    """Why no kernel of ours can take ``x``, whatever the operation."""
    if native.missing is not None:
        return native.missing
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        return f"kernels are for float32 and float64, got {str(x.dtype).removeprefix('torch.')}"
    if x.device.type != "cpu":
        return f"kernels are for the CPU, got {x.device.type}"
    if x.layout is not torch.strided:
        return f"kernels are for strided tensors, got {x.layout}"
    if torch.compiler.is_compiling():
        return None
    if type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter and not _is_traced(x):
        return f"kernels are for plain tensors, got {type(x).__name__}"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "kernels have no rule for function transforms (vmap, grad, jvp)"
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        return "kernels have no forward-mode derivative"
    if torch.onnx.is_in_onnx_export():
        return "ONNX has no operator for our kernels"
    return None


def _is_traced(x: torch.Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(x, FakeTensor | FunctionalTensor)
