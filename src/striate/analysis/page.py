"""A report as text, as Markdown, and as a page to look at."""

from __future__ import annotations

import textwrap
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError, build
from ..sheet import bars, boxes, document
from ..text import columns, short, sizes
from . import picture
from .rows import BOUND, UNKNOWN, Layer

if TYPE_CHECKING:
    from .report import Report
    from .rule import Finding

__all__ = ["markdown", "page", "table"]

LEAST_WIDTH = 80
ABOUT = (
    "MACs: multiply-adds of one forward pass; FLOPs count 2 for each. made: bytes of the output; kept: bytes held for the backward pass. "
    "field: receptive field [px] and, where units see different places, its jump; ≤: an upper bound, ?: unknown."
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
        f"{t['parameters']:,} parameters ({short(t['parameter_bytes'] or 0)}B){trained}",
        f"{told}{back}",
        f"{short(t['activation_bytes'] or 0)}B of outputs, of which a training step keeps {short(t['kept_bytes'] or 0)}B for backward",
    ]


def field(layer: Layer) -> str:
    """Its size and jump: ``16 /4``, of each axis where they differ; without a jump where all units see the same."""
    told = layer.receptive_field
    if told is None:
        return "?" if layer.status["receptive_field"] == UNKNOWN else ""
    size = sizes([int(n) for n in told["size"]]) if len(set(told["size"])) > 1 else str(told["size"][0])
    jumps = [f"{j:g}" for j in told["jump"]]
    jump = "×".join(jumps) if len(set(jumps)) > 1 else jumps[0]
    return ("≤" if layer.status["receptive_field"] == BOUND else "") + size + (f" /{jump}" if any(told["jump"]) else "")


def counted(report: Report) -> str:
    """How many findings there are: ``1 error, 2 warnings``."""
    counts = {name: sum(f.severity == name for f in report.findings) for name in MARKS}
    return ", ".join(f"{n} {name}{'s' if n != 1 else ''}" for name, n in counts.items() if n)


def code_line(finding: Finding) -> str:
    """Where in the code it stands, in brackets, if that is known."""
    return f" ({Path(finding.line).name})" if finding.line else ""


def _rows(report: Report) -> list[list[str]]:
    total = report.totals["macs"] or 0
    rows = [["layer", "type", "output", "weight", "parameters", "MACs", "made", "kept", "field", ""]]
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
        told += ["", counted(report)]
        for finding in report.findings:
            mark = MARKS[finding.severity]
            head = f"{mark} {finding.place}{code_line(finding)}: {finding.message} {finding.fix} [{finding.rule}]"
            first, *more = textwrap.wrap(head, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [""]
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
    found = [f"- **{f.severity}** `{f.place}`{code_line(f)}: {f.message} {f.fix} (`{f.rule}`)" for f in report.findings]
    told = [f"- {line}" for line in [*facts(report), *report.notes]]
    return "\n".join([*told, "", *lines, "", ABOUT, *([""] if found else []), *found]) + "\n"


# ------------------------------------------------------------------------------------------------------------------ page

STYLE = """
:root { --error: #b3261e; --warning: #9a5b00; --note: #9a5b00 }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #e0a84e } }
ul { list-style: none; margin: 12px 0 0; padding: 0 }
li { border-left: 3px solid var(--line); padding: 2px 0 2px 14px; margin: 0 0 14px; overflow-wrap: anywhere }
li.error { border-color: var(--error) }
li.warning { border-color: var(--warning) }
li b { font-weight: 600 }
li.error em { color: var(--error) }
li.warning em { color: var(--warning) }
li em { font-style: normal; color: var(--soft) }
li small { display: block; color: var(--soft); font-size: 12.5px }
td.bar { width: 20% }
@media (max-width: 640px) {
  .layers tr { grid-template-columns: 1fr 1fr 1fr }
  .layers td:first-child { grid-column: 1 / -1 }
  .layers td.n { text-align: left; font-size: 13px }
  .layers td.n:empty { display: none }
  .layers td.n::before { content: attr(data-name) " "; color: var(--soft) }
  .layers td.bar { width: auto }
}
"""


def page(report: Report) -> str:
    title, *_ = facts(report)
    what = title.removeprefix(f"{report.model}: ")
    t = report.totals
    trained = "" if t["trainable_parameters"] == t["parameters"] else f"{short(t['trainable_parameters'] or 0)} trained"
    numbers = [
        ("parameters", f"{t['parameters']:,}", trained),
        ("weights", *_amount(t["parameter_bytes"])),
        ("MACs forward", *_amount(t["macs"], "")),
        ("MACs backward", *_amount(t["backward_macs"], "")),
        ("outputs", *_amount(t["activation_bytes"])),
        ("kept for backward", *_amount(t["kept_bytes"])),
    ]
    noted = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    content = f"""<h1>{escape(report.model)}</h1>
<p>{escape(what)}.</p>
{noted}
{boxes(numbers)}
{_findings(report)}
{picture.picture(report)}
{_layers(report)}"""
    return document(f"{report.model}: inspected", picture.STYLE + STYLE, content)


def _amount(number: int | None, unit: str = "B") -> tuple[str, str]:
    if number is None:
        return "?", unit
    told = short(number)
    return (told[:-1], told[-1] + unit) if told[-1].isalpha() else (told, unit)


def _findings(report: Report) -> str:
    if not report.findings:
        return ""
    listed = []
    for f in report.findings:
        place = f"<em>{f.severity}</em> <b>{escape(f.place)}</b>{escape(code_line(f))}"
        told = f"{escape(f.message)} {escape(f.fix)}<small>{escape(f.rule)}. {escape(f.source)}</small>"
        listed.append(f'<li class="{f.severity}">{place}: {told}</li>')
    return f"<h2>Findings</h2>\n<p>{counted(report)}</p>\n<ul>\n{chr(10).join(listed)}\n</ul>"


def _layers(report: Report) -> str:
    most = max((layer.macs or 0 for layer in report.layers), default=0)
    head, *rows = _rows(report)
    told = []
    for layer, (name, kind, output, weight, *numbers, _) in zip(report.layers, rows, strict=True):
        share = bars([("f", float(layer.macs))], float(most)) if layer.macs else ""
        small = " ".join(filter(None, (escape(kind), output, weight and f"weight {weight}")))
        cells = "".join(f'<td class="n" data-name="{word}">{escape(n)}</td>' for word, n in zip(head[4:9], numbers, strict=True))
        told.append(f'<tr><td>{escape(name)}<small>{small}</small></td>{cells}<td class="bar">{share}</td></tr>')
    names = "".join(f'<th class="n">{word}</th>' for word in head[4:9])
    return f"""<h2>Layers</h2>
<p>{escape(ABOUT)} Bars: MACs.</p>
<table class="layers">
<thead><tr><th>layer</th>{names}<th></th></tr></thead>
<tbody>
{chr(10).join(told)}
</tbody>
</table>"""
