"""Formats a report as Markdown."""

from __future__ import annotations

from ..lint.group import grouped
from .result import Result
from .words import COLUMNS, about, cells, facts, shares

__all__ = ["markdown"]


def markdown(report: Result) -> str:
    """Formats the facts and findings as lists, and the rows as a table with exact MACs."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "|".join(["---"] * 4 + ["--:"] * 6) + "|"]
    for layer, part in zip(report.layers, shares(report), strict=True):
        name, *row = cells(layer)
        row[4] = "?" if layer.macs is None else f"{layer.macs:,}" if layer.macs else ""
        share = f"{100 * part:.1f} %" if part else ""
        lines.append("| " + " | ".join([f"`{name}`", *row, share]) + " |")
    found = [
        f"- **{group.severity}** {group.rule}: `{group.places}`{group.scope}. {group.message}"
        for group in grouped(report.findings)
    ]
    listed = [f"- {line}" for line in [*facts(report), *report.notes]]
    return "\n".join([*listed, "", *lines, "", about(COLUMNS), *([""] if found else []), *found]) + "\n"
