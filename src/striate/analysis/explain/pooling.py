"""The arithmetic of maximum and average pooling."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch

from ...ops import pool
from ...ops.arguments import per_axis
from ...render.numbers import sizes
from ...window import Field, Window
from .geometry import (
    by_axis,
    dropped,
    field_facts,
    output_formula,
    output_size,
    padding_same,
    product_of_sizes,
    receptive_field,
    times,
    title,
)
from .result import BYTES, Part, Row

__all__ = ["divisors", "explain_pooling", "pooling_window"]

def pooling_window(shape: tuple[int, ...], dims: int, options: dict[str, Any]) -> Window:
    x = torch.empty(shape, device="meta")
    size, step, pads, holes = (
        options["kernel"],
        options.get("stride"),
        options.get("padding", 0),
        options.get("dilation", 1),
    )
    size = per_axis(size, dims, 1, "kernel", "explain", shape)
    found = pool.geometry_for(x, dims, size, step, pads, holes, options.get("ceil", False), "explain").window
    assert isinstance(found, Window)
    return found


def divisors(window: Window, include_pad: bool) -> dict[int, int]:
    """The divisors of average pooling, each with the number of windows that it divides.

    >>> from striate.window import Axis
    >>> divisors(Window((Axis(5, 3, size=3, stride=2, before=1, after=1),) * 2), include_pad=False)
    {4: 4, 6: 4, 9: 1}
    """
    found = Counter({1: 1})
    for axis in window:
        along = Counter(axis.counted(o, include_pad) for o in axis.edges) + Counter({axis.size: len(axis.interior)})
        found = _products(found, along)
    return dict(sorted(found.items()))


def _products(a: Counter[int], b: Counter[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for m, count in a.items():
        for n, more in b.items():
            found[m * n] += count * more
    return found


def explain_pooling(
    layer: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Part]]:
    window = pooling_window(shape, dims, options)
    maximum, rounds_up, include = (
        layer.startswith("max"),
        options.get("ceil", False),
        options.get("count_include_pad", True),
    )
    y = (*shape[:2], *window.output)
    axes = window.axes
    rows: list[Row] = []
    if options.get("padding") == "same":
        rows += by_axis(axes, padding_same)
    rows += by_axis(axes, lambda axis: output_size(axis, rounds_up))
    parts = [Part(f"Output size = {output_formula(axes, rounds_up)}", tuple(rows))]
    taps, count, kept = window.taps, prod(y), f"{product_of_sizes(y)}"
    each = "comparisons" if maximum else "additions"
    cost: list[Row] = [("parameters", "0"), (each, f"({times(window.size)} − 1) × {kept} = {(taps - 1) * count:,}")]
    if not maximum:
        cost.append(("divisions", f"{count:,}, one an output"))
    parts.append(Part("Cost", tuple(cost)))
    facts: dict[str, Any] = {
        "output_shape": list(y),
        "parameters": 0,
        "parameter_bytes": 0,
        "macs": 0,
        "flops": 0,
        "backward_macs": 0,
    }
    facts[each] = (taps - 1) * count
    if not maximum:
        found = divisors(window, include)
        facts["divisors"] = {str(n): times for n, times in found.items()}
        text = "; ".join(
            f"{n:,} in {times:,} of the {prod(window.output):,} windows" for n, times in reversed(found.items())
        )
        text = f"{times(window.size)} = {taps:,} in every window" if list(found) == [taps] else text
        about = "taps in the padding count too" if include else "only taps inside the input count"
        parts.append(Part(f"Divisor: {about}", (("", text),)))
    memory: list[Row] = [
        (n, f"{product_of_sizes(s)} × {BYTES} = {BYTES * prod(s):,} bytes") for n, s in (("x", shape), ("y", y))
    ]
    if maximum:
        size = (
            "1 byte an output, the tap that won (torch: 8)"
            if taps <= pool.MAX_TAPS
            else "8 bytes an output, the place that won"
        )
        memory.append(("kept", f"{size}, for the backward pass"))
    facts["activation_bytes"] = BYTES * count
    parts.append(Part(f"Memory, {BYTES} bytes a float32", tuple(memory)))
    overlap = any(a.stride < a.extent for a in axes)
    meet = " Windows overlap: an input collects from all that saw it." if overlap else ""
    how = "each dy goes to the element that won, the first of equal ones; the others get 0."
    if not maximum:
        how = "each dy is shared out evenly: dy / divisor to every element of its window."
    parts.append(Part("Backward, from dy of y's shape", ((f"dx {sizes(shape)}", how + meet),)))
    fields = [Field().then(a.look) for a in axes]
    parts.append(receptive_field([window], fields))
    facts |= {"receptive_field": field_facts(fields), "dropped": [dropped(a) for a in axes]}
    padding = options.get("padding", 0)
    padding = padding if isinstance(padding, str) else window.before
    more = (", rounded up" if rounds_up else "") + ("" if include else ", padding not counted")
    return title(layer, window.size, window.stride, padding, window.dilation, "", more), facts, parts
