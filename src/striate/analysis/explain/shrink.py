"""A smaller layer of the same kind, which can be worked through cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...window import output_size

__all__ = ["shrink"]

def shrink(
    family: str, shape: Sequence[int], dims: int, options: dict[str, Any]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Chooses a smaller input and options of the same kind: few channels, at most three taps and at least two outputs
    an axis where the input allows.
    """
    if not dims or family == "layernorm":
        n, c, *axes = shape
        groups = min(2, options.get("groups", 1))
        # three: normalized, two values are always −1 and 1
        each = min(2, c // options.get("groups", 1)) if dims == 0 else min(3, c)
        small = (min(2, n), groups * each, *(min(2, a) for a in axes))
        return small, ({"groups": groups} if "groups" in options else {})
    changed = dict(options)

    def listed(name: str, default: Any) -> list[int]:
        value = options.get(name, default)
        given = list(value) if isinstance(value, list | tuple) else [value]
        return given * dims if len(given) == 1 else given

    size = listed("kernel", 3)
    new_size = [min(3, k) for k in size]
    new_stride = [min(3, s) for s in listed("stride", new_size if family.endswith("pool") else 1)]
    dilation = listed("dilation", 1)
    new_dilation = [min(2, d) for d in dilation]
    changed["kernel"] = new_size
    if "stride" in options:
        changed["stride"] = new_stride
    if "dilation" in options:
        changed["dilation"] = new_dilation
    pads: Any = options.get("padding", 0)
    new_pads = [0] * dims
    if not isinstance(pads, str):
        zipped = zip(listed("padding", 0), size, dilation, new_size, new_dilation, strict=True)
        new_pads = [
            min(2, p if k <= 3 and d <= 2 else p * (n - 1) * e // max(1, (k - 1) * d)) for p, k, d, n, e in zipped
        ]
        changed["padding"] = new_pads
    if "output_padding" in options:
        extra = listed("output_padding", 0)
        changed["output_padding"] = [
            min(e, max(s, d) - 1) for e, s, d in zip(extra, new_stride, new_dilation, strict=True)
        ]
    axes = []
    keep, least = {1: (8, 5), 2: (6, 4), 3: (4, 3)}[dims]
    for i, k, s, d, p in zip(shape[2:], new_size, new_stride, new_dilation, new_pads, strict=True):
        if family == "convtranspose":  # at least one output
            i = min(i, 2 if s > 1 else 3)
            while pads != "same" and (i - 1) * s - 2 * p + d * (k - 1) < 0:
                i += 1
        elif pads != "same":
            i, most = (i, i) if i <= keep else (least, i)
            while (count := output_size(i, k, s, d, p, p)) < 1 or (count < 2 and i < most):
                i += 1
        else:
            i = i if i <= keep else least
        axes.append(i)
    channels, filters = _channels(family, shape[1], dims, options, changed)
    if "out" in changed or family == "depthwise":
        changed["out"] = filters
    return (1, channels, *axes), changed


def _channels(
    family: str, channels: int, dims: int, options: dict[str, Any], changed: dict[str, Any]
) -> tuple[int, int]:
    """Chooses few channels for x and y."""
    out, groups = options.get("out", channels), options.get("groups", 1)
    if family.endswith("pool"):
        return 1, 1
    if family == "depthwise":
        return min(2, channels), min(2, channels) * min(2, out // channels)
    if groups > 1:
        changed["groups"] = 2
        return 2, 2
    if "middle" in options or family in ("bottleneck", "spatial"):
        changed["middle"] = 1
    return (1 if dims == 3 or family in ("spatial", "local") else min(2, channels)), 1
