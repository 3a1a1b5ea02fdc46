r"""Bounds the values of a program, once, from its weights: where none can overflow, no NaN can arise inside.

A convolution or linear layer whose input and residual are at most X and R in size gives

.. math:: |y| \le X \max_o \sum_{i,\,taps} |w_{o,i}| + \max_o |b_o| + R

and no partial sum is larger, whatever the order of summation. A bound below :data:`LIMIT` leaves float32 enough range
for rounding, the sums of a mean and the additions of Winograd's tiles. Bounds are propagated through the operators in
order, from inputs of at most :data:`MOST`, by the op table's column "size". If a bound is needed but unknown, because
it grew beyond the limit or an operator has no rule, the value is *measured* when it is computed: the operators behind
it may rely on ``MOST``, and if the value is larger or not finite, the program must run again by torch's operators.

A bound is needed where oneDNN may compute an activation, since its ReLU turns NaN into 0. No activation enlarges a
value, but a leaky ReLU of a slope above 1.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._renamed import accept_old_names
from ..graph.optable import row_of
from ..ops.activation import Activation
from ..ops.layout import FORMATS
from .fold.arithmetic import scale_and_shift
from .operators import FUSED_CONV, FUSED_LINEAR, FUSED_NORM
from .program import Node, Program

__all__ = ["LIMIT", "MOST", "Measurements", "is_within", "measurements", "norm_scale_and_shift"]

# The bound of values that are measured: far above those of any network in use, and far enough below the limit that 10
# layers in a row may each enlarge them 100 times (100^10 < 2^67).
MOST = 2.0**32
LIMIT = 2.0**100
PART = 2**30  # torch.dot takes fewer than 2^31 numbers


class Measurements(NamedTuple):
    """What to do while a program runs. measured: the values to measure when they are computed; exact: the layers that
    only torch's own operator computes correctly.
    """

    measured: frozenset[Node]
    exact: frozenset[Node]


def is_within(x: Tensor) -> bool:
    """Whether all values are finite and at most MOST in size, in one pass: no square exceeds the sum of squares.

    >>> [is_within(torch.tensor([1.0, v])) for v in (2.0, 2.0**33, float("inf"), float("nan"))]
    [True, False, False, False]
    """
    if not x.is_floating_point():
        return True
    flat = (x.movedim(1, -1) if x.dim() in FORMATS else x).reshape(-1)
    return sum(float(torch.dot(part, part)) for part in flat.split(PART)) <= MOST**2


def measurements(program: Program) -> Measurements:
    """Chooses what to measure: as few values as possible, and as late as possible, since feature maps become smaller
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
            activation = None if given["activation"] is None else Activation(*given["activation"])
            sources = [given["x"], *([] if given.get("residual") is None else [given["residual"]])]

            def reach(gain: float = gain, sources: list[Node] = sources, bias: Any = given["bias"]) -> float:
                return bound(sources[0]) * gain + sum(map(bound, sources[1:])) + (0.0 if bias is None else bound(bias))

            if activation is not None and not reach() <= LIMIT:
                lost = [source for source in sources if source.op != "constant" and bound(source) > MOST]
                measured.update(lost)
                bounds.update(dict.fromkeys(lost, MOST))
            found = reach()
            if not isfinite(gain) or (activation is not None and not found <= LIMIT):
                exact.add(node)
            elif activation is not None:
                found = _activated(found, activation)
        bounds[node] = found if found <= LIMIT else inf
    return Measurements(frozenset(measured), frozenset(exact))


def norm_scale_and_shift(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """s and t of ``y = s·x + t``, in float64, for the arguments of a fused batch norm."""
    mean, variance = given["mean"].value, given["variance"].value
    weight, bias = (None if given[name] is None else given[name].value for name in ("weight", "bias"))
    return scale_and_shift(mean, variance, weight, bias, given["eps"])


def _activated(size: float, activation: Activation) -> float:
    """The bound of an activation's results, where values are at most ``size``."""
    numbers = [abs(n) for n in activation.numbers if isfinite(n)]
    if activation.name == "clamp":
        return max(numbers) if len(numbers) == 2 else max([size, *numbers])
    return size * max([1.0, *numbers])


def _largest(value: Any) -> float:
    """The largest absolute value of a constant; infinity if a value is not finite, or it is no floating-point tensor.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return inf
    found = float(value.abs().max()) if value.numel() else 0.0
    return found if isfinite(found) else inf


def _bound_of(node: Node, bound: Any) -> float:
    """The bound of a result by the operator's rule, from the bounds of its inputs; infinity if there is no rule."""
    row = row_of(node.op)
    size = "-" if row is None else row.size
    sources = [bound(source) for source in node.sources()]
    if node.op == "aten.view.dtype" or "dtype" in node.kwargs:
        return inf  # reinterprets the bits, or rounds to another type
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
