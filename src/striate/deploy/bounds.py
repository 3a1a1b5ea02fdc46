r"""How large the values of a graph can get, worked out once from its weights: where they cannot overflow, NaN cannot be
born.

A convolution or linear layer whose input and residual are at most X and R in size gives

.. math:: |y| \le X \max_o \sum_{i,\,taps} |w_{o,i}| + \max_o |b_o| + R

and so no partial sum of it is larger, in whatever order it is summed. Below :data:`LIMIT` that leaves float32 room for
rounding, for the sums of a mean and for what Winograd's tiles add. Graphs are gone through in order, from inputs of at
most :data:`MOST`. Where a bound is needed and is lost, because it grew beyond the limit or an operator has no rule
here, the value is *measured* when it is computed: the plan goes on from ``MOST``, and whoever runs the graph must take
another way if the value is larger, or not finite.

A bound is needed where oneDNN may clamp: its ReLU makes 0 of NaN.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.layout import FORMATS
from .fold.arithmetic import scale_and_shift
from .graph import FUSED_CONV, FUSED_LINEAR, FUSED_NORM, Graph, Node, base_of

__all__ = ["LIMIT", "MOST", "Plan", "affine", "is_within", "plan"]

# of values that are measured: far above those of any network in use, and 14 layers of 100 times below the limit
MOST = 2.0**32
LIMIT = 2.0**100
PART = 2**30  # torch.dot takes fewer than 2^31 numbers
# No result is larger than the largest of what goes in, and where all of that is finite, so is this.
_KEEP = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d alias amax amin cat
channel_shuffle chunk clone concat expand flatten flip gelu getitem hardswish max_pool1d max_pool2d
max_pool3d max_pool2d_with_indices mean mish movedim narrow permute pixel_shuffle pixel_unshuffle relu relu6 repeat reshape roll select silu
slice split split_with_sizes squeeze stack transpose unbind unflatten unsqueeze upsample_bilinear2d upsample_nearest2d view
"""
KEEP = frozenset(_KEEP.split())
CLAMPS = frozenset(("clamp", "clamp_max", "clamp_min", "hardtanh"))  # the same, or one of the numbers
UNIT = frozenset(("hardsigmoid", "sigmoid", "softmax", "tanh"))  # at most 1 where all that goes in is finite


class Plan(NamedTuple):
    """The values to measure when they are computed, and the layers that only torch's own operator computes right."""

    measured: frozenset[Node]
    exact: frozenset[Node]


def is_within(x: Tensor) -> bool:
    """Whether all values are finite and at most MOST in size, by one pass: no square is more than the sum of all.

    >>> [is_within(torch.tensor([1.0, v])) for v in (2.0, 2.0**33, float("inf"), float("nan"))]
    [True, False, False, False]
    """
    if not x.is_floating_point():
        return True
    flat = (x.movedim(1, -1) if x.dim() in FORMATS else x).reshape(-1)
    return sum(float(torch.dot(part, part)) for part in flat.split(PART)) <= MOST**2


def plan(graph: Graph) -> Plan:
    """What to measure, as late and as little as can be: maps get smaller on their way through most networks."""
    measured: set[Node] = set()
    exact: set[Node] = set()
    bounds: dict[Node, float] = dict.fromkeys((node for node in graph.inputs if node.dtype is torch.float32), MOST)

    def bound(value: Any) -> float:
        if isinstance(value, Node):
            return _largest(value.value) if value.op == "constant" else bounds.get(value, inf)
        return abs(value) if isinstance(value, int | float) else inf

    for node in graph.nodes:
        if node.op not in (FUSED_CONV, FUSED_LINEAR):
            found = _rule(node, bound)
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
    return Plan(frozenset(measured), frozenset(exact))


def affine(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """s and t of a batch norm of constants, ``y = s·x + t``, in float64."""
    weight, bias = (None if given[k] is None else given[k].value for k in ("weight", "bias"))
    return scale_and_shift(given["mean"].value, given["variance"].value, weight, bias, given["eps"])


def _largest(value: Any) -> float:
    """The largest absolute value of a constant; infinity where one is not finite, or it is no tensor of floats."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return inf
    found = float(value.abs().max()) if value.numel() else 0.0
    return found if isfinite(found) else inf


def _rule(node: Node, bound: Any) -> float:
    name = base_of(node.op) or node.op
    sources = [bound(source) for source in node.sources()]
    if node.op == "aten.view.dtype" or "dtype" in node.kwargs:
        return inf  # other numbers from the same bits, or rounded to fewer
    if name in KEEP:
        return max(sources, default=inf)
    if name in CLAMPS:
        return max(
            [*sources, *(abs(v) for v in (*node.args, *node.kwargs.values()) if isinstance(v, int | float))],
            default=inf,
        )
    if name in UNIT:
        return 1.0 if max(sources, default=inf) < inf else inf
    if name in ("add", "sub", "mul") and not node.kwargs:
        a, b = map(bound, node.args[:2])
        return a * b if name == "mul" else a + b
    if node.op == FUSED_NORM:
        scale, shift = map(_largest, affine(node.kwargs))
        return (
            bound(node.kwargs["x"]) * scale
            + shift
            + (0.0 if node.kwargs["residual"] is None else bound(node.kwargs["residual"]))
        )
    return inf
