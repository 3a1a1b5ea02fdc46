"""The texts and numbers of a report, shared by its table, Markdown and HTML page."""

from __future__ import annotations

from collections.abc import Iterable

from ...render.numbers import short, sizes
from ..lint.finding import SEVERITIES
from ..lint.group import Group
from .result import Result
from .rows import BOUND, UNKNOWN, Layer

__all__ = ["COLUMNS", "about", "cells", "counted", "facts", "field", "shares"]

COLUMNS = ("layer", "type", "output", "weight", "parameters", "MACs", "made", "kept", "field", "share")
ABOUT = {
    "MACs": "multiply-adds of one forward pass; FLOPs count 2 for each.",
    "made": "bytes of the output.",
    "kept": "bytes held for the backward pass.",
    "field": "receptive field [px] and, where units see different places, its jump; ≤: an upper bound, ?: unknown.",
    "share": "of all MACs.",
}


def facts(report: Result) -> list[str]:
    """Describes what was inspected, and the totals, in one line each."""
    t = report.totals
    mode = "training" if report.graph.training else "evaluation"
    shapes = ", ".join(map(sizes, report.input_shapes))
    trained = "" if t["trainable_parameters"] == t["parameters"] else f", {t['trainable_parameters']:,} of them trained"
    forward = "an unknown number of MACs forward"
    if t["macs"] is not None:
        forward = f"{t['macs']:,} MACs = {t['flops']:,} FLOPs forward"
    backward = f", {t['backward_macs']:,} MACs backward" if t["backward_macs"] is not None else ""
    made, kept = short(t["activation_bytes"] or 0), short(t["kept_bytes"] or 0)
    return [
        f"{report.model}: x {shapes}, {mode} mode",
        f"{t['parameters']:,} parameters ({short(t['parameter_bytes'] or 0)}B){trained}",
        f"{forward}{backward}",
        f"{made}B of outputs, of which a training step keeps {kept}B for backward",
    ]


def cells(layer: Layer) -> list[str]:
    """The cells of a layer in the order of :data:`COLUMNS`, without the share."""
    return [
        layer.name,
        layer.type,
        sizes(layer.output_shape),
        sizes(layer.weight_shape) if layer.weight_shape else "",
        f"{layer.parameters:,}" if layer.parameters else "",
        "?" if layer.macs is None else short(layer.macs) if layer.macs else "",
        short(layer.activation_bytes) + "B" if layer.activation_bytes else "",
        short(layer.kept_bytes) + "B" if layer.kept_bytes else "",
        field(layer),
    ]


def shares(report: Result) -> list[float]:
    """The share of all MACs in each layer; 0 if it has none, or they are not known."""
    total = report.totals["macs"] or 0
    return [(layer.macs or 0) / total if total else 0.0 for layer in report.layers]


def field(layer: Layer) -> str:
    """Formats size and jump of its receptive field, as in ``16 /4``: for each axis if they differ, and without the jump
    if all units have the same field.
    """
    seen = layer.receptive_field
    if seen is None:
        return "?" if layer.status["receptive_field"] == UNKNOWN else ""
    size = sizes([int(n) for n in seen["size"]]) if len(set(seen["size"])) > 1 else str(seen["size"][0])
    jumps = [f"{j:g}" for j in seen["jump"]]
    jump = "×".join(jumps) if len(set(jumps)) > 1 else jumps[0]
    return ("≤" if layer.status["receptive_field"] == BOUND else "") + size + (f" /{jump}" if any(seen["jump"]) else "")


def about(names: Iterable[str]) -> str:
    """Explains those of the columns that need a sentence."""
    return " ".join(f"{name}: {ABOUT[name]}" for name in names if name in ABOUT)


def counted(groups: list[Group]) -> str:
    """Counts findings by severity: ``1 error, 2 warnings``."""
    counts = {name: sum(group.severity == name for group in groups) for name in SEVERITIES}
    return ", ".join(f"{n} {name}{'s' if n != 1 else ''}" for name, n in counts.items() if n)
