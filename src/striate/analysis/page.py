"""A report as text, as Markdown, and as a page to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from ..errors import ArgumentError, build
from ..sheet import bars, boxes, document
from ..text import columns, short, sizes
from . import picture
from .group import Group, grouped, percent
from .rows import BOUND, UNKNOWN, Layer
from .stage import Stage, stages

if TYPE_CHECKING:
    from .report import Report

__all__ = ["markdown", "page", "table"]

LEAST_WIDTH = 40
ABOUT = {
    "MACs": "multiply-adds of one forward pass; FLOPs count 2 for each.",
    "made": "bytes of the output.",
    "kept": "bytes held for the backward pass.",
    "field": "receptive field [px] and, where units see different places, its jump; ≤: an upper bound, ?: unknown.",
    "share": "of all MACs.",
}
HIDDEN = (  # from which width on which columns are left out, by their numbers
    (124, ()),
    (96, (3,)),
    (80, (3, 6)),
    (72, (3, 6, 7)),
    (60, (1, 3, 6, 7)),
    (LEAST_WIDTH, (1, 2, 3, 4, 6, 7)),
)
MARKS = {"error": "✗", "warning": "!", "note": "·"}
COLORS = {"error": "31", "warning": "33", "note": "36", "bar": "34", "soft": "2"}
BAR = 8
OPEN = 24  # rows of a network whose stages need no folding


def facts(report: Report) -> list[str]:
    """What was inspected, and the sums: a sentence each."""
    t = report.totals
    mode = "training" if report.graph.training else "evaluation"
    shapes = ", ".join(map(sizes, report.input_shapes))
    trained = "" if t["trainable_parameters"] == t["parameters"] else f", {t['trainable_parameters']:,} of them trained"
    told = (
        f"{t['macs']:,} MACs = {t['flops']:,} FLOPs forward"
        if t["macs"] is not None
        else "an unknown number of MACs forward"
    )
    back = f", {t['backward_macs']:,} MACs backward" if t["backward_macs"] is not None else ""
    return [
        f"{report.model}: x {shapes}, {mode} mode",
        f"{t['parameters']:,} parameters ({short(t['parameter_bytes'] or 0)}B){trained}",
        f"{told}{back}",
        f"{short(t['activation_bytes'] or 0)}B of outputs, of which a training step keeps "
        f"{short(t['kept_bytes'] or 0)}B for backward",
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


def about(names: Iterable[str]) -> str:
    """What columns say, of those that need it."""
    return " ".join(f"{name}: {ABOUT[name]}" for name in names if name in ABOUT)


def counted(groups: list[Group]) -> str:
    """How many there are: ``1 error, 2 warnings``."""
    counts = {name: sum(group.severity == name for group in groups) for name in MARKS}
    return ", ".join(f"{n} {name}{'s' if n != 1 else ''}" for name, n in counts.items() if n)


def _rows(report: Report) -> list[list[str]]:
    total = report.totals["macs"] or 0
    rows = [["layer", "type", "output", "weight", "parameters", "MACs", "made", "kept", "field", "share"]]
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
    """Columns that do not fit are left out: first the weights' shapes, the bytes made and those kept."""
    if width < LEAST_WIDTH:
        raise ArgumentError(
            build("Report.table", f"a width of at least {LEAST_WIDTH}", width, hint="Leave it out for 100.")
        )
    hidden = next(left_out for least, left_out in HIDDEN if width >= least)
    rows = _rows(report)
    lines = columns(rows, "<<<<>>>>><", width, {0: 12, 1: 9, 2: 9, 3: 9, 8: 8}, hidden)
    if color:
        lines = [_colored(line, "soft") if at == 0 else _bars(line) for at, line in enumerate(lines)]
    shown = (name for place, name in enumerate(rows[0]) if place not in hidden)
    told = [*_wrapped([*facts(report), *report.notes], width), "", *lines, "", *_wrapped([about(shown)], width)]
    groups = grouped(report.findings)
    told += ["", counted(groups)] if groups else []
    for group in groups:
        mark = MARKS[group.severity]
        first, *more = _indented(f"{mark} {group.rule}: {group.places}{group.scope}", width)
        told += [_colored(mark, group.severity) + first[len(mark) :] if color else first, *more]
        told += _indented(f"  {group.message}", width)
    return "\n".join(told)


def _indented(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


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
    total = report.totals["macs"] or 0
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] * 4 + ["--:"] * 6) + "|"]
    for layer, row in zip(report.layers, rows, strict=True):
        share = f"{100 * (layer.macs or 0) / total:.1f} %" if total and layer.macs else ""
        exact = "?" if layer.macs is None else f"{layer.macs:,}" if layer.macs else ""
        cells = [f"`{row[0]}`", *row[1:5], exact, *row[6:9], share]
        lines.append("| " + " | ".join(cells) + " |")
    found = [
        f"- **{group.severity}** {group.rule}: `{group.places}`{group.scope}. {group.message}"
        for group in grouped(report.findings)
    ]
    told = [f"- {line}" for line in [*facts(report), *report.notes]]
    return "\n".join([*told, "", *lines, "", about(head), *([""] if found else []), *found]) + "\n"


# ----------------------------------------------------------------------------------------------------------------- page

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
li details { margin-top: 4px; color: var(--soft); font-size: 13px }
summary { cursor: pointer }
.bar { width: 20% }
.scale { display: flex; justify-content: space-between; font-size: 12px }
.layers { margin-top: 12px }
.layers input { position: absolute; opacity: 0 }
.layers label { display: inline-block; padding: 2px 10px; margin: 0 4px 8px 0; border: 1px solid var(--line); border-radius: 12px;
  cursor: pointer }
.layers input:checked + label { border-color: var(--strong); color: var(--strong) }
.layers input:focus-visible + label { outline: 2px solid var(--strong) }
.sorted, .layers input:not(#by-stage):checked ~ .stages { display: none }
.layers input:not(#by-stage):checked ~ .sorted { display: block }
.sorted table { display: grid; grid-template-columns: minmax(0, 1fr) repeat(6, auto) 20% }
.sorted thead, .sorted tbody { display: contents }
.sorted tr { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1; border-bottom: 1px solid var(--line) }
.sorted th, .sorted td { border: 0; align-self: center; width: auto }
.stages > details { border-bottom: 1px solid var(--line) }
.stages summary, .stages > .head { display: grid; grid-template-columns: minmax(0, 1fr) 96px 80px 64px 20%; column-gap: 18px;
  align-items: center; padding: 7px 0; list-style: none }
.stages summary::before { content: "▸"; position: absolute; margin-left: -14px; color: var(--soft) }
.stages [open] > summary::before { content: "▾" }
.stages summary small { display: block; color: var(--soft); font-size: 12.5px; overflow-wrap: anywhere }
.stages .head { color: var(--soft); font-size: 13px; border-bottom: 1px solid var(--line) }
.stages .n { text-align: right; white-space: nowrap }
.stages summary .bar, .stages > .head .bar { width: auto }
.stages .bar i { display: block; height: 12px; border-radius: 2px; background: var(--track); font-size: 0 }
.stages table { margin: 0 0 18px; table-layout: fixed }
.stages th:first-child { width: 26% }
.stages th:nth-child(2) { width: 12% }
@media (max-width: 640px) {
  .stages summary, .stages > .head { grid-template-columns: minmax(0, 1fr) auto auto; column-gap: 10px; padding-left: 14px }
  .stages summary .bar, .stages > .head .bar { grid-column: 1 / -1 }
  .stages summary .parameters, .stages > .head .parameters { display: none }
  .sorted table { display: flex; flex-direction: column }
  .sorted thead { display: none }
  .sorted td { align-self: auto }
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
    return document(f"{report.model}: inspected", picture.STYLE + STYLE + SORTED, content)


def _amount(number: int | None, unit: str = "B") -> tuple[str, str]:
    if number is None:
        return "?", unit
    told = short(number)
    return (told[:-1], told[-1] + unit) if told[-1].isalpha() else (told, unit)


def _findings(report: Report) -> str:
    groups = grouped(report.findings)
    if not groups:
        return ""
    listed = []
    for group in groups:
        head = f"<em>{group.severity}</em> <b>{escape(group.rule)}</b>: {escape(group.places)}{escape(group.scope)}"
        each = "".join(f"<br><b>{escape(f.place)}</b>: {escape(f.message)} {escape(f.fix)}" for f in group.findings)
        more = "" if group.alike else f"<details><summary>each of them</summary>{each.removeprefix('<br>')}</details>"
        listed.append(
            "<li "
            f'class="{group.severity}">{head}<br>{escape(group.message)}<small>{escape(group.source)}</small>{more}</li>'
        )
    return f"<h2>Findings</h2>\n<p>{counted(groups)}</p>\n<ul>\n{chr(10).join(listed)}\n</ul>"


ORDERS = ("MACs", "parameters", "made", "kept")  # what rows can be sorted by
SORTED = "".join(f"#by-{name}:checked ~ .sorted tr {{ order: var(--{name}) }}\n" for name in ORDERS)
SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the MACs, that bars may end at


def _layers(report: Report) -> str:
    """Twice: by stage, and in one list that the page's style sorts, so that it needs no script."""
    head, *rows = _rows(report)
    total = report.totals["macs"] or sum(layer.macs or 0 for layer in report.layers)
    shares = [(layer.macs or 0) / total if total else 0.0 for layer in report.layers]
    end = next(scale for scale in SCALES if max(shares, default=0.0) <= scale * (1 + 1e-9))
    cells = {
        id(layer): _cells(row, head, share, end) for layer, row, share in zip(report.layers, rows, shares, strict=True)
    }
    by_layer = {id(layer): share for layer, share in zip(report.layers, shares, strict=True)}
    names = "".join(f'<th class="n">{word}</th>' for word in (*head[4:9], "share"))
    header = f'<thead><tr><th>layer</th>{names}<th class="bar">{_scale(end)}</th></tr></thead>'

    def table(inside: str) -> str:
        return f"<table>\n{header}\n<tbody>\n{inside}\n</tbody>\n</table>"

    opened = " open" if len(report.layers) <= OPEN else ""
    folded = []
    for stage in stages(report):
        share = sum(by_layer[id(layer)] for layer in stage.layers)
        inside = "\n".join(f"<tr>{cells[id(layer)]}</tr>" for layer in stage.layers)
        folded.append(f"<details{opened}><summary>{_sums(stage, share)}</summary>\n{table(inside)}\n</details>")
    ranks = [_ranks(values) for values in zip(*(_values(layer) for layer in report.layers), strict=True)]
    ordered = []
    for place, layer in enumerate(report.layers):
        style = ";".join(f"--{name}:{rank[place]}" for name, rank in zip(ORDERS, ranks, strict=True))
        ordered.append(f'<tr style="{style}">{cells[id(layer)]}</tr>')
    choices = "".join(
        f'<input type="radio" name="by" id="by-{name}"><label for="by-{name}">by {name}</label>' for name in ORDERS
    )
    return f"""<h2>Layers</h2>
<p>{escape(about(head))} Stages: runs of layers whose maps are of one size.</p>
<div class="layers">
<input type="radio" name="by" id="by-stage" checked><label for="by-stage">by stage</label>{choices}
<div class="stages">
<div class="head"><span>stage</span><span class="n parameters">parameters</span><span class="n">MACs</span><span class="n">share</span>
<span class="bar">{_scale(1.0)}</span></div>
{chr(10).join(folded)}
</div>
<div class="sorted">
{table(chr(10).join(ordered))}
</div>
</div>"""


def _cells(row: list[str], head: list[str], share: float, end: float) -> str:
    name, kind, output, weight, *numbers, _ = row
    small = " ".join(filter(None, (escape(kind), output, weight and f"weight {weight}")))
    told = [*zip(head[4:9], numbers, strict=True), ("share", percent(share) if share else "")]
    cells = "".join(f'<td class="n" data-name="{word}">{escape(n)}</td>' for word, n in told)
    drawn = bars([("f", share)], end) if share else ""
    return f'<td>{escape(name)}<small>{small}</small></td>{cells}<td class="bar">{drawn}</td>'


def _scale(end: float) -> str:
    """What bars begin and end at, and their middle."""
    ends = "".join(f"<span>{100 * at:g}{' %' if at else ''}</span>" for at in (0.0, end / 2, end))
    return f'<span class="scale">{ends}</span>'


def _sums(stage: Stage, share: float) -> str:
    first, last = stage.layers[0].name, stage.layers[-1].name
    names = escape(first) if len(stage.layers) == 1 else f"{escape(first)} to {escape(last)}, {len(stage.layers)} rows"
    size = "no map" if stage.size is None else sizes(stage.size)
    parameters, macs = (sum(getattr(layer, name) or 0 for layer in stage.layers) for name in ("parameters", "macs"))
    numbers = (("parameters", short(parameters)), ("MACs", short(macs)), ("share", percent(share) if share else "0 %"))
    told = "".join(f'<span class="n {name}">{number}</span>' for name, number in numbers)
    return f'<span>{size}<small>{names}</small></span>{told}<span class="bar">{bars([("f", share)], 1.0)}</span>'


def _values(layer: Layer) -> tuple[int, ...]:
    """By what rows are sorted, as ORDERS has it."""
    return layer.macs or 0, layer.parameters, layer.activation_bytes, layer.kept_bytes


def _ranks(values: Sequence[int]) -> list[int]:
    """The place of each from 1 on, the largest first."""
    places = sorted(range(len(values)), key=lambda place: -values[place])
    ranks = [0] * len(values)
    for rank, place in enumerate(places, 1):
        ranks[place] = rank
    return ranks
