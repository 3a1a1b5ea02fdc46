"""A profile as text, and as a page to look at: no script, nothing from elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..errors import ArgumentError, build

if TYPE_CHECKING:
    from .profile import Layer, Profile

__all__ = ["page", "table"]

LEAST_WIDTH = 80
RESTLESS = 0.1, 20.0  # spread, and interruptions a second, from which on other work on the machine is likelier than chance
CLOSE = 0.97  # of a time, from which on the other method's is as good
MAPS = {"forward": "forward", "input": "input gradient", "weight": "weight gradient"}
ABOUT_LAYERS = "Milliseconds. share: of the whole step; limit: least time by the rates above over the time taken."
ABOUT_MAPS = "One call of each map; + 2: and of 2 layers alike. ratio: the next best's time over the method's."


def facts(profile: Profile) -> list[str]:
    """What was profiled, on what, the whole step, and a warning where the times cannot be trusted: a sentence each."""
    shapes = ", ".join(map(sizes, profile.input_shapes))
    timed = "training step" if profile.backward and profile.training else "forward and backward" if profile.backward else "forward"
    mode = "" if profile.training == profile.backward else ", training mode" if profile.training else ", evaluation mode"
    order = "channels" if profile.channels_last else "planes"
    machine = profile.machine
    threads = f"{profile.threads} thread" + ("s" if profile.threads != 1 else "")
    parts = "" if profile.backward_ms is None else f" = forward {profile.forward_ms:.2f} + backward {profile.backward_ms:.2f}"
    told = [
        f"{profile.model}: {timed}{mode}, x {shapes} in {order} order, {profile.dtype}",
        f"{machine['processor']}, {threads}, {machine['isa']}: copies {profile.copy_gb_per_s:.1f} GB/s, "
        f"multiplies matrices at {profile.gemm_gflops:.0f} GFLOP/s",
        f"step {profile.step_ms:.2f} ms{parts}; medians of {profile.rounds} rounds, spread {100 * profile.spread:.0f} %",
    ]
    if profile.spread >= RESTLESS[0] or profile.interruptions_per_s >= RESTLESS[1]:
        often = f"interrupted the steps {profile.interruptions_per_s:.0f} times a second"
        told.append(f"Other work on this machine {often}: do not trust these times, measure again when it is idle.")
    return told


def sizes(shape: Sequence[int]) -> str:
    """A shape as it is spoken.

    >>> sizes((16, 3, 112, 112))
    '16×3×112×112'
    """
    return "×".join(map(str, shape))


def number(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.3f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def kind(layer: Layer) -> str:
    return layer.type + (f" ×{layer.calls}" if layer.calls > 1 else "")


def sums(profile: Profile, shown: Sequence[Layer]) -> list[tuple[str, float, float]]:
    """The rows below the layers, each with forward and backward [ms]: the layers not shown, what layers leave, and the whole step."""
    rows = []
    left = [layer for layer in profile.layers if not any(layer is one for one in shown)]
    if left:
        rows.append((f"{len(left)} more", sum(layer.forward_ms for layer in left), sum(layer.backward_ms or 0.0 for layer in left)))
    rows.append(("not in layers", profile.outside_forward_ms, profile.outside_backward_ms or 0.0))
    return [*rows, ("whole step", profile.forward_ms, profile.backward_ms or 0.0)]


def alike(layers: Sequence[Layer]) -> list[tuple[str, Layer]]:
    """The convolutions whose methods were timed, those that were timed as one under one name."""
    groups: list[list[Layer]] = []
    for layer in layers:
        told = next((group for group in groups if (layer.method, layer.map_ms) == (group[0].method, group[0].map_ms)), None)
        if told is not None:
            told.append(layer)
        elif layer.map_ms:
            groups.append([layer])
    return [(group[0].path + (f" + {len(group) - 1}" if len(group) > 1 else ""), group[0]) for group in groups]


# ------------------------------------------------------------------------------------------------------------------ text


def table(profile: Profile, width: int, top: int | None) -> str:
    if width < LEAST_WIDTH:
        raise ArgumentError(build("Profile.table", f"a width of at least {LEAST_WIDTH}", width, do="Leave it out for 100."))
    shown = profile.slowest(top)
    rows = [["layer", "type", "output", "forward", "backward", "share", "limit", "method"]]
    for layer in shown:
        times = [number(layer.forward_ms), number(layer.backward_ms), percent(profile.share(layer.ms)), percent(layer.share_of_limit)]
        rows.append([layer.path, kind(layer), sizes(layer.output_shape), *times, layer.methods])
    for name, forward_ms, backward_ms in sums(profile, shown):
        rows.append([name, "", "", number(forward_ms), number(backward_ms), percent(profile.share(forward_ms + backward_ms)), "", ""])
    hidden = () if profile.backward else (4,)
    lines = [*facts(profile), "", *_columns(rows, "<<<>>>><", width, {0: 14, 1: 8, 2: 8, 7: 8}, hidden), "", ABOUT_LAYERS]
    rows = [["layer", "map", "method", "ms", "limit", "next best", "ms", "ratio"]]
    for name, layer in alike(shown):
        for map, ms in layer.map_ms.items():
            other, other_ms = layer.next_best.get(map, ("none", None))
            ratio = "" if other_ms is None else f"{other_ms / ms:.2f}"
            path = name if map == next(iter(layer.map_ms)) else ""
            times = [number(ms), percent(layer.map_limit_ms[map] / ms), other, number(other_ms), ratio]
            rows.append([path, MAPS[map], layer.method[map], *times])
    if len(rows) > 1:
        lines += ["", *_columns(rows, "<<<>><>>", width, {0: 8, 2: 8, 5: 8}), "", ABOUT_MAPS]
    return "\n".join(part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line]))


def _cut(text: str, width: int, end: bool) -> str:
    """Its beginning if it is too long, or its end, where paths differ."""
    if len(text) <= width:
        return text
    return "…" + text[len(text) - width + 1 :] if end else text[: width - 1] + "…"


def _columns(rows: list[list[str]], sides: str, width: int, shrink: dict[int, int], hidden: Sequence[int] = ()) -> list[str]:
    """Rows in columns two apart, the first a header. Those of ``shrink`` give way until lines fit, down to its numbers."""
    kept = [column for column in range(len(sides)) if column not in hidden]
    wide = [max(len(row[column]) for row in rows) for column in range(len(sides))]
    while sum(wide[column] for column in kept) + 2 * (len(kept) - 1) > width:
        able = [column for column in shrink if wide[column] > shrink[column]]
        if not able:
            break
        wide[max(able, key=lambda column: wide[column])] -= 1
    lines = []
    for row in rows:
        cells = (f"{_cut(row[column], wide[column], column == 0):{sides[column]}{wide[column]}}" for column in kept)
        lines.append("  ".join(cells).rstrip())
    return lines


# ------------------------------------------------------------------------------------------------------------------ page

STYLE = """
:root { color-scheme: light dark; --ink: #1c2227; --soft: #66717b; --line: #e3e7ea; --paper: #fff; --forward: #23618e;
  --backward: #8db9d8; --track: #f1f4f6; --note: #9a5b00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --soft: #96a1ab; --line: #2d343a; --paper: #15191c; --forward: #5ba3d6;
  --backward: #2f5f80; --track: #1f252a; --note: #e0a84e } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 56px }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere }
h2 { font-size: 17px; margin: 40px 0 2px }
p { margin: 0; color: var(--soft) }
p.note { color: var(--note); margin-top: 8px }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 1px; margin: 24px 0 0; background: var(--line);
  border: 1px solid var(--line); border-radius: 8px; overflow: hidden }
dl div { background: var(--paper); padding: 10px 14px }
dt { color: var(--soft); font-size: 13px }
dd { margin: 0; font-size: 20px }
dd small { font-size: 13px; color: var(--soft) }
table { width: 100%; border-collapse: collapse; margin-top: 12px }
th { text-align: left; font-weight: 500; font-size: 13px; color: var(--soft) }
th, td { padding: 5px 0 5px 18px; border-bottom: 1px solid var(--line); vertical-align: middle }
th:first-child, td:first-child { padding-left: 0; overflow-wrap: anywhere }
td.n, th.n { text-align: right; white-space: nowrap }
td small { display: block; color: var(--soft); font-size: 12.5px; line-height: 1.3 }
td.bar { width: 32% }
.maps td.bar { width: 15% }
td.bar i { display: block; position: relative; height: 12px; border-radius: 2px; background: var(--track); font-size: 0;
  white-space: nowrap }
.maps td.bar i { height: 7px; margin: 2px 0 }
i b { display: inline-block; height: 100% }
i u { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--ink) }
b.f { background: var(--forward) }
b.b { background: var(--backward) }
.key { white-space: nowrap; margin-right: 14px }
.key b { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px }
.key u { display: inline-block; width: 2px; height: 13px; margin-right: 6px; background: var(--ink); vertical-align: -2px }
tr.sum td { border-bottom: 0; color: var(--soft) }
tr.whole td { font-weight: 600; color: var(--ink); padding-top: 0 }
tr.more td { border-bottom-color: transparent }
td.won { color: var(--note) }
@media (max-width: 640px) {
  body { font-size: 14px }
  main { padding: 20px 14px 40px }
  thead { display: none }
  table, tbody { display: block }
  tr { display: grid; grid-template-columns: 1fr 5em 3.4em; column-gap: 8px; padding: 8px 0; border-bottom: 1px solid var(--line) }
  .maps tr { grid-template-columns: 1fr 9.6em 4em 3.2em }
  td, td.n, tr.sum td { display: block; padding: 0; border: 0 }
  td.bar, .maps td.bar { order: 9; grid-column: 1 / -1; width: auto; padding: 5px 0 3px }
  td.limit { grid-column: 2 / -1; order: 2 }
  td.method { order: 1 }
  td.wide { grid-column: 1 / -1 }
  td.other { grid-column: 1 / 3 }
  td.other::before { content: "next best "; color: var(--soft) }
  td.limit:not(:empty)::before { content: "limit "; color: var(--soft) }
  td.wide:empty, td.bar:empty { display: none }
  tr.more, tr.sum { border-bottom: 0; padding-bottom: 0 }
}
"""


def page(profile: Profile) -> str:
    title, machine, _, *notes = (escape(line) for line in facts(profile))
    name = escape(profile.model)
    what = title.removeprefix(f"{name}: ")
    versions = escape(f"torch {profile.machine['torch']}, striate {profile.machine['striate']}, Python {profile.machine['python']}")
    boxes = [("step", profile.step_ms), ("forward", profile.forward_ms)]
    if profile.backward_ms is not None:
        boxes.append(("backward", profile.backward_ms))
    boxes.append(("not in layers", profile.outside_ms))
    told = "".join(f"<div><dt>{word}</dt><dd>{ms:.2f} <small>ms</small></dd></div>" for word, ms in boxes)
    warned = "".join(f'<p class="note">{note}</p>' for note in notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{name}: profile</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p>{what[:1].upper()}{what[1:]}. Medians of {profile.rounds} rounds, spread {100 * profile.spread:.0f} %.</p>
<p>{machine}; {versions}.</p>
{warned}
<dl>{told}</dl>
{_layers(profile)}
{_maps(profile)}
</main>
</body>
</html>
"""


def _bar(parts: Sequence[tuple[str, float]], most_ms: float, limit_ms: float | None = None) -> str:
    """Lengths beside each other, each of a class, and a mark at the limit."""
    told = "".join(f'<b class="{name}" style="width:{100 * max(0.0, ms) / most_ms:.2f}%"></b>' for name, ms in parts)
    mark = "" if not limit_ms else f'<u style="left:{min(100.0, 100 * limit_ms / most_ms):.2f}%"></u>'
    return f"<i>{told}{mark}</i>"


def _layers(profile: Profile) -> str:
    most = max(*(layer.ms for layer in profile.layers), profile.outside_ms, 1e-9)
    keys = [("<b class=f></b>", "forward"), ("<b class=b></b>", "backward"), ("<u></u>", "limit")]
    key = "".join(f'<span class="key">{mark}{word}</span>' for mark, word in keys if profile.backward or word != "backward")
    rows = []
    for layer in profile.layers:
        share, limit = percent(profile.share(layer.ms)), percent(layer.share_of_limit)
        bar = _bar([("f", layer.forward_ms), ("b", layer.backward_ms or 0.0)], most, layer.limit_ms)
        rows.append(
            f"<tr><td>{escape(layer.path)}<small>{escape(kind(layer))} {sizes(layer.output_shape)}</small></td>"
            f'<td class="bar">{bar}</td><td class="n">{number(layer.ms)}</td><td class="n">{share}</td>'
            f'<td class="n limit">{limit}</td><td class="method">{escape(layer.methods)}</td></tr>'
        )
    for name, forward_ms, backward_ms in sums(profile, profile.layers):
        ms, whole = forward_ms + backward_ms, name == "whole step"
        bar = "" if whole else _bar([("f", forward_ms), ("b", backward_ms)], most)
        rows.append(
            f'<tr class="sum{" whole" if whole else ""}"><td>{name}</td><td class="bar">{bar}</td>'
            f'<td class="n">{number(ms)}</td><td class="n">{percent(profile.share(ms))}</td></tr>'
        )
    return f"""<h2>Time by layer</h2>
<p>{ABOUT_LAYERS}</p>
<p>{key}</p>
<table>
<thead><tr><th>layer</th><th></th><th class="n">ms</th><th class="n">share</th><th class="n">limit</th><th>method</th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>"""


def _maps(profile: Profile) -> str:
    rows = []
    for name, layer in alike(profile.layers):
        for place, (map, ms) in enumerate(layer.map_ms.items(), 1):
            other, other_ms = layer.next_best.get(map, ("none", None))
            ratio = "" if other_ms is None else f"{other_ms / ms:.2f}"
            won = " won" if other_ms is not None and other_ms < CLOSE * ms else ""
            path = f"{escape(name)}<small>{escape(layer.type)} {sizes(layer.output_shape)}</small>" if place == 1 else ""
            more = ' class="more"' if place < len(layer.map_ms) else ""
            limit = layer.map_limit_ms[map]
            most = max(ms, other_ms or 0.0, limit)
            bars = _bar([("f", ms)], most, limit) + _bar([("b", other_ms or 0.0)], most)
            rows.append(
                f'<tr{more}><td class="wide">{path}</td><td>{MAPS[map]}</td><td>{escape(layer.method[map])}</td>'
                f'<td class="n">{number(ms)}</td><td class="n">{percent(limit / ms)}</td><td class="bar">{bars}</td>'
                f'<td class="other">{escape(other)}</td><td class="n">{number(other_ms)}</td><td class="n{won}">{ratio}</td></tr>'
            )
    if not rows:
        return ""
    keys = [("<b class=f></b>", "the method"), ("<b class=b></b>", "the next best"), ("<u></u>", "limit")]
    key = "".join(f'<span class="key">{mark}{word}</span>' for mark, word in keys)
    return f"""<h2>Convolutions, map by map</h2>
<p>{ABOUT_MAPS} Below 1 the next best was faster here.</p>
<p>{key}</p>
<table class="maps">
<thead><tr><th>layer</th><th>map</th><th>method</th><th class="n">ms</th><th class="n">limit</th><th></th><th>next best</th>
<th class="n">ms</th><th class="n">ratio</th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>"""
