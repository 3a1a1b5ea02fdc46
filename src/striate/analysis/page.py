"""A report as text, and as Markdown."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from ..errors import ArgumentError, build
from ..text import columns, short, sizes
from .report import BOUND, UNKNOWN

if TYPE_CHECKING:
    from .report import Layer, Report

__all__ = ["markdown", "table"]

LEAST_WIDTH = 80
ABOUT = (
    "MACs: multiply-adds of one forward pass; FLOPs count 2 for each. output: bytes made; kept: bytes held for the backward pass. "
    "field: receptive field [px] and its jump; ≤: an upper bound, ?: unknown."
)
MARKS = {"error": "✗", "warning": "!", "note": "·"}
COLORS = {"error": "31", "warning": "33", "note": "36", "bar": "34", "soft": "2"}
BAR = 8


def facts(report: Report) -> list[str]:
    """What was inspected, and the sums: a sentence each."""
    t = report.totals
    mode = "training" if report.graph.training else "evaluation"
    shapes = ", ".join(map(sizes, report.input_shapes))
    trained = "" if t["trainable_parameters"] == t["parameters"] else f", {t['trainable_parameters']:,} of them trained"
    told = f"{t['macs']:,} MACs = {t['flops']:,} FLOPs forward" if t["macs"] is not None else "an unknown number of MACs forward"
    back = f", {t['backward_macs']:,} MACs backward" if t["backward_macs"] is not None else ""
    return [
        f"{report.model}: x {shapes}, {mode} mode",
        f"{t['parameters']:,} parameters ({short(t['parameter_bytes'] or 0)}B){trained}; {told}{back}",
        f"{short(t['activation_bytes'] or 0)}B of outputs, of which a training step keeps {short(t['kept_bytes'] or 0)}B for backward",
    ]


def field(layer: Layer) -> str:
    """Its size and jump: ``16 /4``, of each axis where they differ."""
    told = layer.receptive_field
    if told is None:
        return "?" if layer.status["receptive_field"] == UNKNOWN else ""
    size = sizes([int(n) for n in told["size"]]) if len(set(told["size"])) > 1 else str(told["size"][0])
    jumps = [f"{j:g}" for j in told["jump"]]
    jump = "×".join(jumps) if len(set(jumps)) > 1 else jumps[0]
    return ("≤" if layer.status["receptive_field"] == BOUND else "") + f"{size} /{jump}"


def _rows(report: Report) -> list[list[str]]:
    total = report.totals["macs"] or 0
    rows = [["layer", "type", "output", "weight", "parameters", "MACs", "output", "kept", "field", ""]]
    for layer in report.layers:
        share = (layer.macs or 0) / total if total else 0.0
        rows.append(
            [
                layer.name,
                layer.type,
                sizes(layer.output_shape),
                sizes(layer.weight_shape) if layer.weight_shape else "",
                f"{layer.parameters:,}" if layer.parameters else "",
                "?" if layer.macs is None else short(layer.macs) if layer.macs else "",
                short(layer.activation_bytes) + "B" if layer.activation_bytes else "",
                short(layer.kept_bytes) + "B" if layer.kept_bytes else "",
                field(layer),
                bar(share),
            ]
        )
    return rows


def bar(share: float, width: int = BAR) -> str:
    """A length in eighths of a character.

    >>> bar(0.5, 4), bar(0.03, 4), bar(0.0, 4)
    ('██', '▏', '')
    """
    eighths = round(share * width * 8) if share < 0.005 else max(1, round(share * width * 8))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def table(report: Report, width: int = 100, color: bool = False) -> str:
    """Columns that do not fit are left out: the weights' shapes, then the bytes made."""
    if width < LEAST_WIDTH:
        raise ArgumentError(build("Report.table", f"a width of at least {LEAST_WIDTH}", width, do="Leave it out for 100."))
    hidden = () if width >= 124 else (3,) if width >= 96 else (3, 6)
    lines = columns(_rows(report), "<<<<>>>>><", width, {0: 12, 1: 9, 2: 9, 3: 9, 8: 8}, hidden)
    if color:
        lines = [_colored(line, "soft") if at == 0 else _bars(line) for at, line in enumerate(lines)]
    told = [*_wrapped([*facts(report), *report.notes], width), "", *lines, "", *_wrapped([ABOUT], width)]
    if report.findings:
        counts = [f"{n} {name}{'s' if n != 1 else ''}" for name in MARKS if (n := sum(f.severity == name for f in report.findings))]
        told += ["", ", ".join(counts)]
        for finding in report.findings:
            mark = MARKS[finding.severity]
            head = f"{mark} {finding.place}: {finding.message} {finding.fix} [{finding.rule}]"
            first, *more = textwrap.wrap(head, width, subsequent_indent="  ", break_long_words=False) or [""]
            told += [_colored(mark, finding.severity) + first[len(mark) :] if color else first, *more]
    return "\n".join(told)


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line])]


def _colored(text: str, name: str) -> str:
    return f"\x1b[{COLORS[name]}m{text}\x1b[0m"


def _bars(line: str) -> str:
    plain = line.rstrip("█▏▎▍▌▋▊▉")
    return plain + (_colored(line[len(plain) :], "bar") if len(plain) < len(line) else "")


def markdown(report: Report) -> str:
    """The facts, the table, and the findings as a list."""
    head, *rows = _rows(report)
    head[-1] = "share"
    total = report.totals["macs"] or 0
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] * 4 + ["--:"] * 6) + "|"]
    for layer, row in zip(report.layers, rows, strict=True):
        share = f"{100 * (layer.macs or 0) / total:.1f} %" if total and layer.macs else ""
        exact = "?" if layer.macs is None else f"{layer.macs:,}" if layer.macs else ""
        cells = [f"`{row[0]}`", *row[1:5], exact, *row[6:9], share]
        lines.append("| " + " | ".join(cells) + " |")
    found = [f"- **{f.severity}** `{f.place}`: {f.message} {f.fix} (`{f.rule}`)" for f in report.findings]
    return "\n".join([*facts(report), *report.notes, "", *lines, "", ABOUT, *([""] if found else []), *found]) + "\n"
