r"""How large the values of a program can get, computed once from its weights: where none can overflow, no NaN can
arise inside.

A convolution or linear layer whose input and residual are at most X and R in size gives

.. math:: |y| \le X \max_o \sum_{i,\,taps} |w_{o,i}| + \max_o |b_o| + R

and so no partial sum of it is larger, in whatever order it is summed. Below :data:`LIMIT` that leaves float32 room for
rounding, for the sums of a mean and for what Winograd's tiles add. Bounds are carried through the operators in order,
from inputs of at most :data:`MOST`, by the op table's column "size". Where a bound is needed and unknown, because it
grew beyond the limit or an operator has no rule, the value is *measured* when it is computed: the operators behind it
may count on ``MOST``, and what runs the program must run it by torch's operators if the value is larger, or not finite.

A bound is needed where oneDNN may clamp: its ReLU makes 0 of NaN.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._renamed import accept_old_names
from ..graph.optable import row_of
from ..ops.layout import FORMATS
from .fold.arithmetic import scale_and_shift
from .operators import FUSED_CONV, FUSED_LINEAR, FUSED_NORM
from .program import Node, Program

__all__ = ["LIMIT", "MOST", "Measurements", "is_within", "measurements", "norm_scale_and_shift"]

# The bound of values that are measured: far above those of any network in use, and so far below the limit that 14
# layers may make them 100 times larger each.
MOST = 2.0**32
LIMIT = 2.0**100
PART = 2**30  # torch.dot takes fewer than 2^31 numbers


class Measurements(NamedTuple):
    """What to measure while a program runs: the values to measure when they are computed, and the layers that only
    torch's own operator computes right.
    """

    measured: frozenset[Node]
    exact: frozenset[Node]


def is_within(x: Tensor) -> bool:
    """Whether all values are finite and at most MOST in size, by one pass: no square is larger than the sum of all.

    >>> [is_within(torch.tensor([1.0, v])) for v in (2.0, 2.0**33, float("inf"), float("nan"))]
    [True, False, False, False]
    """
    if not x.is_floating_point():
        return True
    flat = (x.movedim(1, -1) if x.dim() in FORMATS else x).reshape(-1)
    return sum(float(torch.dot(part, part)) for part in flat.split(PART)) <= MOST**2


def measurements(program: Program) -> Measurements:
    """What to measure: as few values as possible, and as late as possible, since feature maps get smaller on their way
    through most networks.
    """
    measured: set[Node] = set()
    exact: set[Node] = set()
    bounds: dict[Node, float] = dict.fromkeys((node for node in program.inputs if node.dtype is torch.float32), MOST)

    def bound(value: Any) -> float:
        if isinstance(value, Node):
            return _largest(value.value) if value.op == "constant" else bounds.get(value, inf)
        return abs(value) if isinstance(value, int | float) else inf

    for node in program.nodes:
        if node.op not in (FUSED_CONV, FUSED_LINEAR):
            found = _bound_of(node, bound)
        else:
            given = node.kwargs
            gain = _largest(given["weight"].value.abs().flatten(1).sum(1))
            clamped = given["low"] is not None or given["high"] is not None
            sources = [given["x"], *([] if given.get("residual") is None else [given["residual"]])]

            def reach(gain: float = gain, sources: list[Node] = sources, bias: Any = given["bias"]) -> float:
                return bound(sources[0]) * gain + sum(map(bound, sources[1:])) + (0.0 if bias is None else bound(bias))

            if clamped and not reach() <= LIMIT:
                lost = [source for source in sources if source.op != "constant" and bound(source) > MOST]
                measured.update(lost)
                bounds.update(dict.fromkeys(lost, MOST))
            found = reach()
            if not isfinite(gain) or (clamped and not found <= LIMIT):
                exact.add(node)
            elif None not in (given["low"], given["high"]) and found <= LIMIT:
                found = max(abs(given["low"]), abs(given["high"]))
        bounds[node] = found if found <= LIMIT else inf
    return Measurements(frozenset(measured), frozenset(exact))


def norm_scale_and_shift(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """s and t of ``y = s·x + t``, in float64, for the arguments of a fused batch norm."""
    mean, variance = given["mean"].value, given["variance"].value
    weight, bias = (None if given[name] is None else given[name].value for name in ("weight", "bias"))
    return scale_and_shift(mean, variance, weight, bias, given["eps"])


def _largest(value: Any) -> float:
    """The largest absolute value of a constant; infinity where a value is not finite, or it is no tensor of floats."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return inf
    found = float(value.abs().max()) if value.numel() else 0.0
    return found if isfinite(found) else inf


def _bound_of(node: Node, bound: Any) -> float:
    """The bound of a result by the operator's rule, from the bounds of its inputs; infinity where there is no rule."""
    row = row_of(node.op)
    size = "-" if row is None else row.size
    sources = [bound(source) for source in node.sources()]
    if node.op == "aten.view.dtype" or "dtype" in node.kwargs:
        return inf  # other numbers from the same bits, or rounded to fewer
    if size == "keeps":
        return max(sources, default=inf)
    if size == "clamps":
        numbers = [abs(v) for v in (*node.args, *node.kwargs.values()) if isinstance(v, int | float)]
        return max([*sources, *numbers], default=inf)
    if size == "unit":
        return 1.0 if max(sources, default=inf) < inf else inf
    if size in ("sum", "product") and not node.kwargs:
        a, b = map(bound, node.args[:2])
        return a * b if size == "product" else a + b
    if node.op == FUSED_NORM:
        scale, shift = map(_largest, norm_scale_and_shift(node.kwargs))
        return (
            bound(node.kwargs["x"]) * scale
            + shift
            + (0.0 if node.kwargs["residual"] is None else bound(node.kwargs["residual"]))
        )
    return inf

accept_old_names(__name__)
