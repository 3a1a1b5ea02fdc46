"""A profile as text, and as a page to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..errors import ArgumentError, build
from ..sheet import bars, boxes, document
from ..text import columns, sizes

if TYPE_CHECKING:
    from .profile.result import LayerTime, StepTimes

__all__ = ["page", "table"]

LEAST_WIDTH = 80
# spread, and interruptions a second, from which on other work on the machine is likelier than chance
RESTLESS = 0.1, 20.0
CLOSE = 0.97  # of a time, from which on the other method's is as good
MAPS = {"forward": "forward", "input": "input gradient", "weight": "weight gradient"}
ABOUT_LAYERS = "Milliseconds. share: of the whole step; limit: least time by the rates above over the time taken."
ABOUT_MAPS = "One call of each map; + 2: and of 2 layers alike. ratio: the next best's time over the method's."


def facts(profile: StepTimes) -> list[str]:
    """What was profiled, on what, the whole step, and a warning where the times cannot be trusted: a sentence each."""
    shapes = ", ".join(map(sizes, profile.input_shapes))
    timed = (
        "training step"
        if profile.backward and profile.training
        else "forward and backward"
        if profile.backward
        else "forward"
    )
    mode = (
        "" if profile.training == profile.backward else ", training mode" if profile.training else ", evaluation mode"
    )
    order = "channels" if profile.channels_last else "planes"
    machine = profile.machine
    threads = f"{profile.threads} thread" + ("s" if profile.threads != 1 else "")
    parts = (
        ""
        if profile.backward_ms is None
        else f" = forward {profile.forward_ms:.2f} + backward {profile.backward_ms:.2f}"
    )
    told = [
        f"{profile.model}: {timed}{mode}, x {shapes} in {order} order, {profile.dtype}",
        f"{machine['processor']}, {threads}, {machine['isa']}: copies {profile.copy_gb_per_s:.1f} GB/s, "
        f"multiplies matrices at {profile.gemm_gflops:.0f} GFLOP/s",
        f"step {profile.step_ms:.2f} ms{parts}; medians of {profile.rounds} rounds, spread {100 * profile.spread:.0f} "
        "%",
    ]
    if profile.spread >= RESTLESS[0] or profile.interruptions_per_s >= RESTLESS[1]:
        often = f"interrupted the steps {profile.interruptions_per_s:.0f} times a second"
        told.append(f"Other work on this machine {often}: do not trust these times, measure again when it is idle.")
    return told


def number(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.3f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def kind(layer: LayerTime) -> str:
    return layer.type + (f" ×{layer.calls}" if layer.calls > 1 else "")


def sums(profile: StepTimes, shown: Sequence[LayerTime]) -> list[tuple[str, float, float]]:
    """The rows below the layers, each with forward and backward [ms]: the layers not shown, what layers leave, and the
    whole step.
    """
    rows = []
    left = [layer for layer in profile.layers if not any(layer is one for one in shown)]
    if left:
        rows.append(
            (
                f"{len(left)} more",
                sum(layer.forward_ms for layer in left),
                sum(layer.backward_ms or 0.0 for layer in left),
            )
        )
    rows.append(("not in layers", profile.outside_forward_ms, profile.outside_backward_ms or 0.0))
    return [*rows, ("whole step", profile.forward_ms, profile.backward_ms or 0.0)]


def alike(layers: Sequence[LayerTime]) -> list[tuple[str, LayerTime]]:
    """The convolutions whose methods were timed, those that were timed as one under one name."""
    groups: list[list[LayerTime]] = []
    for layer in layers:
        told = next(
            (group for group in groups if (layer.method, layer.map_ms) == (group[0].method, group[0].map_ms)), None
        )
        if told is not None:
            told.append(layer)
        elif layer.map_ms:
            groups.append([layer])
    return [(group[0].path + (f" + {len(group) - 1}" if len(group) > 1 else ""), group[0]) for group in groups]


# ----------------------------------------------------------------------------------------------------------------- text


def table(profile: StepTimes, width: int, top: int | None) -> str:
    if width < LEAST_WIDTH:
        raise ArgumentError(
            build("Profile.table", f"a width of at least {LEAST_WIDTH}", width, hint="Leave it out for 100.")
        )
    shown = profile.slowest(top)
    rows = [["layer", "type", "output", "forward", "backward", "share", "limit", "method"]]
    for layer in shown:
        times = [
            number(layer.forward_ms),
            number(layer.backward_ms),
            percent(profile.share(layer.ms)),
            percent(layer.share_of_limit),
        ]
        rows.append([layer.path, kind(layer), sizes(layer.output_shape), *times, layer.methods])
    for name, forward_ms, backward_ms in sums(profile, shown):
        rows.append(
            [
                name,
                "",
                "",
                number(forward_ms),
                number(backward_ms),
                percent(profile.share(forward_ms + backward_ms)),
                "",
                "",
            ]
        )
    hidden = () if profile.backward else (4,)
    lines = [
        *facts(profile),
        "",
        *columns(rows, "<<<>>>><", width, {0: 14, 1: 8, 2: 8, 7: 8}, hidden),
        "",
        ABOUT_LAYERS,
    ]
    rows = [["layer", "map", "method", "ms", "limit", "next best", "ms", "ratio"]]
    for name, layer in alike(shown):
        for map, ms in layer.map_ms.items():
            other, other_ms = layer.next_best.get(map, ("none", None))
            ratio = "" if other_ms is None else f"{other_ms / ms:.2f}"
            path = name if map == next(iter(layer.map_ms)) else ""
            times = [number(ms), percent(layer.map_limit_ms[map] / ms), other, number(other_ms), ratio]
            rows.append([path, MAPS[map], layer.method[map], *times])
    if len(rows) > 1:
        lines += ["", *columns(rows, "<<<>><>>", width, {0: 8, 2: 8, 5: 8}), "", ABOUT_MAPS]
    return "\n".join(part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line]))


# ----------------------------------------------------------------------------------------------------------------- page

STYLE = """
td.bar { width: 32% }
.maps td.bar { width: 15% }
.maps td.bar i { height: 7px; margin: 2px 0 }
.key { white-space: nowrap; margin-right: 14px }
.key b { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px }
.key u { display: inline-block; width: 2px; height: 13px; margin-right: 6px; background: var(--ink); vertical-align: -2px }
tr.sum td { border-bottom: 0; color: var(--soft) }
tr.whole td { font-weight: 600; color: var(--ink); padding-top: 0 }
tr.more td { border-bottom-color: transparent }
td.won { color: var(--note) }
@media (max-width: 640px) {
  tr { grid-template-columns: 1fr 5em 3.4em }
  .maps tr { grid-template-columns: 1fr 9.6em 4em 3.2em }
  tr.sum td { padding: 0 }
  td.bar, .maps td.bar { width: auto }
  td.limit { grid-column: 2 / -1; order: 2 }
  td.method { order: 1 }
  td.wide { grid-column: 1 / -1 }
  td.other { grid-column: 1 / 3 }
  td.other::before { content: "next best "; color: var(--soft) }
  td.limit:not(:empty)::before { content: "limit "; color: var(--soft) }
  td.wide:empty { display: none }
  tr.more, tr.sum { border-bottom: 0; padding-bottom: 0 }
}
"""


def page(profile: StepTimes) -> str:
    title, machine, _, *notes = (escape(line) for line in facts(profile))
    name = escape(profile.model)
    what = title.removeprefix(f"{name}: ")
    versions = escape(
        f"torch {profile.machine['torch']}, striate {profile.machine['striate']}, Python {profile.machine['python']}"
    )
    times = [("step", profile.step_ms), ("forward", profile.forward_ms)]
    if profile.backward_ms is not None:
        times.append(("backward", profile.backward_ms))
    times.append(("not in layers", profile.outside_ms))
    warned = "".join(f'<p class="note">{note}</p>' for note in notes)
    content = f"""<h1>{name}</h1>
<p>{what[:1].upper()}{what[1:]}. Medians of {profile.rounds} rounds, spread {100 * profile.spread:.0f} %.</p>
<p>{machine}; {versions}.</p>
{warned}
{boxes([(word, f"{ms:.2f}", "ms") for word, ms in times])}
{_layers(profile)}
{_maps(profile)}"""
    return document(f"{profile.model}: profile", STYLE, content)


def _layers(profile: StepTimes) -> str:
    most = max(*(layer.ms for layer in profile.layers), profile.outside_ms, 1e-9)
    keys = [("<b class=f></b>", "forward"), ("<b class=b></b>", "backward"), ("<u></u>", "limit")]
    key = "".join(
        f'<span class="key">{mark}{word}</span>' for mark, word in keys if profile.backward or word != "backward"
    )
    rows = []
    for layer in profile.layers:
        share, limit = percent(profile.share(layer.ms)), percent(layer.share_of_limit)
        bar = bars([("f", layer.forward_ms), ("b", layer.backward_ms or 0.0)], most, layer.limit_ms)
        rows.append(
            f"<tr><td>{escape(layer.path)}<small>{escape(kind(layer))} {sizes(layer.output_shape)}</small></td>"
            f'<td class="bar">{bar}</td><td class="n">{number(layer.ms)}</td><td class="n">{share}</td>'
            f'<td class="n limit">{limit}</td><td class="method">{escape(layer.methods)}</td></tr>'
        )
    for name, forward_ms, backward_ms in sums(profile, profile.layers):
        ms, whole = forward_ms + backward_ms, name == "whole step"
        bar = "" if whole else bars([("f", forward_ms), ("b", backward_ms)], most)
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


def _maps(profile: StepTimes) -> str:
    rows = []
    for name, layer in alike(profile.layers):
        for place, (map, ms) in enumerate(layer.map_ms.items(), 1):
            other, other_ms = layer.next_best.get(map, ("none", None))
            ratio = "" if other_ms is None else f"{other_ms / ms:.2f}"
            won = " won" if other_ms is not None and other_ms < CLOSE * ms else ""
            path = (
                f"{escape(name)}<small>{escape(layer.type)} {sizes(layer.output_shape)}</small>" if place == 1 else ""
            )
            more = ' class="more"' if place < len(layer.map_ms) else ""
            limit = layer.map_limit_ms[map]
            most = max(ms, other_ms or 0.0, limit)
            both = bars([("f", ms)], most, limit) + bars([("b", other_ms or 0.0)], most)
            rows.append(
                f'<tr{more}><td class="wide">{path}</td><td>{MAPS[map]}</td><td>{escape(layer.method[map])}</td>'
                f'<td class="n">{number(ms)}</td><td class="n">{percent(limit / ms)}</td><td class="bar">{both}</td>'
                f'<td class="other">{escape(other)}</td><td class="n">{number(other_ms)}</td><td '
                f'class="n{won}">{ratio}</td></tr>'
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
