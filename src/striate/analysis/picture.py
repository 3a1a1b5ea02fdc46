"""What units see of an image, drawn: frames of growing receptive fields over a sample image that is drawn too."""

from __future__ import annotations

from html import escape
from math import log, log1p, prod
from typing import TYPE_CHECKING, NamedTuple

from ..text import sizes
from .rows import BOUND, Layer

if TYPE_CHECKING:
    from .report import Report

__all__ = ["STYLE", "frames", "picture"]

MOST = 6  # frames that can be told apart
GRID_PX = 64  # images up to that size show their pixels
STYLE = """
:root { --k0: #a8123a; --k1: #cf5a00; --k2: #7d6400; --k3: #07703f; --k4: #1157a0; --k5: #6a2fa0 }
@media (prefers-color-scheme: dark) { :root { --k0: #ff6f91; --k1: #ff9d4d; --k2: #e6cf5c; --k3: #62d99a; --k4: #6db7ff; --k5: #c79bff } }
.seen { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 28px; align-items: center; margin-top: 14px }
.seen table { margin: 0 }
.seen td i { display: inline-block; width: 11px; height: 11px; border: 3px solid; margin-right: 8px }
.seen > svg { display: block; width: 100%; max-height: 70vh; border-radius: 4px; background: var(--track) }
svg .frame { fill: none; stroke-width: 2.5; vector-effect: non-scaling-stroke }
svg .halo { stroke: #fff; stroke-width: 5; stroke-opacity: .6 }
svg .edge { fill: none; stroke: var(--soft); stroke-width: 1; vector-effect: non-scaling-stroke }
svg .grid { fill: none; stroke: #000; stroke-opacity: .1; stroke-width: 1; vector-effect: non-scaling-stroke }
svg.grey .sample { filter: grayscale(1) }
@media (prefers-color-scheme: dark) { svg .sample { opacity: .35 } svg .halo { stroke: #000 } }
@media (max-width: 640px) {
  .seen { grid-template-columns: minmax(0, 1fr); gap: 16px }
  .seen tr { grid-template-columns: 1fr auto }
  .seen td[data-name] { text-align: left; font-size: 13px }
  .seen td[data-name]::before { content: attr(data-name) " "; color: var(--soft) }
}
"""
SAMPLE = (  # in hundredths of the image
    '<rect width="100" height="100" fill="#cfe3f1"/>'
    '<circle cx="80" cy="19" r="9" fill="#f7d774"/>'
    '<ellipse cx="20" cy="72" rx="48" ry="22" fill="#b4cfa8"/>'
    '<ellipse cx="84" cy="76" rx="46" ry="20" fill="#a5c49a"/>'
    '<rect y="72" width="100" height="28" fill="#98b98b"/>'
    '<rect x="34" y="44" width="32" height="34" fill="#efe3d0"/>'
    '<polygon points="29,45 50,25 71,45" fill="#c4826a"/>'
    '<rect x="46" y="60" width="9" height="18" fill="#8d6b55"/>'
    '<rect x="38" y="50" width="8" height="8" fill="#93b4cb"/>'
    '<rect x="56" y="50" width="8" height="8" fill="#93b4cb"/>'
    '<rect x="14" y="56" width="4" height="22" fill="#8d6b55"/>'
    '<circle cx="16" cy="50" r="11" fill="#7fa671"/>'
)


class Frame(NamedTuple):
    """What a layer's middle unit sees on rows and columns of the image: from the first to the last position, padding
    and all.
    """

    layer: Layer
    unit: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(last - first + 1 for first, last in self.spans)


def frames(report: Report, most: int = MOST) -> list[Frame]:
    """Of the layers that see more than those before them, the smallest, the largest, and some whose sizes lie evenly
    between.

    None where the first input is no image of rows and columns, or nothing is known.
    """
    if len(report.axes()) != 2 or len(report.input_shapes[0]) != 4:
        return []
    found: dict[tuple[tuple[int, int], ...], Frame] = {}
    for layer in report.layers:
        frame = _frame(report, layer)
        if frame is not None:
            found.setdefault(frame.spans, frame)
    ranked = sorted(found.values(), key=lambda frame: prod(frame.size))
    if len(ranked) <= most:
        return ranked
    ends = [log(prod(frame.size)) for frame in (ranked[0], ranked[-1])]
    wanted = [ends[0] + (ends[1] - ends[0]) * k / (most - 1) for k in range(most)]
    places = {min(range(len(ranked)), key=lambda place: abs(log(prod(ranked[place].size)) - size)) for size in wanted}
    return [ranked[place] for place in sorted(places)]


def _frame(report: Report, layer: Layer) -> Frame | None:
    if layer.value is None or layer.receptive_field is None:
        return None
    axes = report.unit_axes(layer.name)
    unit = tuple(layer.output_shape[axis] // 2 for axis in axes)
    spans = []
    for axis in report.axes():
        extent, place = report.fields.extent(layer.value, axis), report.fields.place(layer.value, axis)
        if extent is None:
            return None
        if extent.field.shift == 0:  # all units see the same
            span = extent.field.span(0)
        elif place is not None and place.axis in axes and place.size == layer.output_shape[place.axis]:
            span = extent.field.span(unit[axes.index(place.axis)])
        else:  # rows and columns lie on one axis
            return None
        if span is None:
            return None
        spans.append(span)
    return Frame(layer, unit, tuple(spans))


def picture(report: Report) -> str:
    """The image with its frames, and what each is; nothing where there are none."""
    drawn = frames(report)
    if not drawn:
        return ""
    height, width = report.input_shapes[0][2:]
    shortens = any(
        first < -n or last >= 2 * n
        for frame in drawn
        for (first, last), n in zip(frame.spans, (height, width), strict=True)
    )
    boxes = [_box(frame, (height, width), shortens) for frame in drawn]
    top, left = (min([0.0, *(box[axis][0] for box in boxes)]) for axis in (0, 1))
    bottom, right = (max([float(n), *(box[axis][1] for box in boxes)]) for axis, n in enumerate((height, width)))
    margin = max(bottom - top, right - left) / 50
    view = f"{left - margin:g} {top - margin:g} {right - left + 2 * margin:g} {bottom - top + 2 * margin:g}"
    grid = ""
    if max(height, width) <= GRID_PX:
        lines = "".join(f"M{x} 0V{height}" for x in range(1, width)) + "".join(
            f"M0 {y}H{width}" for y in range(1, height)
        )
        grid = f'<path class="grid" d="{lines}"/>'
    outlines = "".join(
        _outline(frame, box, place) for place, (frame, box) in reversed(list(enumerate(zip(drawn, boxes, strict=True))))
    )
    rows = "".join(_row(report, frame, place) for place, frame in enumerate(drawn))
    outside = " Around the image: padding." if (top, bottom, left, right) != (0, height, 0, width) else ""
    outside += " Distances in it are drawn shortened, the more the further away." if shortens else ""
    bound = " Dashed: an upper bound." if any(_is_bound(frame) for frame in drawn) else ""
    grey = ' class="grey"' if report.input_shapes[0][1] == 1 else ""
    return f"""<h2>What a unit sees</h2>
<p>The receptive field of the middle unit of some layers, pixel by pixel, over a sample image of {height}×{width} px.
rows, columns: what of it lies in the image.{outside}{bound}</p>
<div class="seen">
<svg{grey} viewBox="{view}" role="img" aria-label="Receptive fields over a sample image">
<svg class="sample" width="{width}" height="{height}" viewBox="0 0 100 100" preserveAspectRatio="none">{SAMPLE}</svg>
{grid}<rect class="edge" width="{width}" height="{height}"/>
{outlines}
</svg>
<table>
<thead><tr><th>layer</th><th class="n">field</th><th class="n">rows</th><th class="n">columns</th></tr></thead>
<tbody>{rows}</tbody>
</table>
</div>"""


def _is_bound(frame: Frame) -> bool:
    return frame.layer.status["receptive_field"] == BOUND


Box = tuple[tuple[float, float], ...]  # on rows and columns of the picture, from and to


def _box(frame: Frame, image: tuple[int, int], shortens: bool) -> Box:
    """Where a frame is drawn: in pixels of the image, and where frames go further from it than its size, d of them
    beyond its edge as n/2·ln(1 + 2d/n), so that all are seen and the image is not too small.
    """

    def beyond(pixels: int, n: int) -> float:
        return n / 2 * log1p(2 * pixels / n) if shortens else float(pixels)

    def at(edge: int, n: int) -> float:
        return -beyond(-edge, n) if edge < 0 else n + beyond(edge - n, n) if edge > n else float(edge)

    return tuple((at(first, n), at(last + 1, n)) for (first, last), n in zip(frame.spans, image, strict=True))


def _outline(frame: Frame, at: Box, place: int) -> str:
    (top, bottom), (left, right) = at
    box = f'x="{left:.6g}" y="{top:.6g}" width="{right - left:.6g}" height="{bottom - top:.6g}"'
    dashes = ' stroke-dasharray="6 4"' if _is_bound(frame) else ""
    title = f"<title>{escape(frame.layer.name)}: {sizes(frame.size)} px</title>"
    return (
        f'<rect class="frame halo" {box}/><rect class="frame" style="stroke:var(--k{place})" '
        f'{box}{dashes}>{title}</rect>'
    )


def _row(report: Report, frame: Frame, place: int) -> str:
    layer, mark = frame.layer, "≤ " if _is_bound(frame) else ""
    seen = report.receptive_field(layer.name, frame.unit).rectangle
    ends = [f"{first} to {last}" for first, last in seen] if seen is not None else ["none", "none"]
    unit = f", unit {', '.join(map(str, frame.unit))}" if frame.unit else ""
    places = (
        f'<td class="n" data-name="{axis}">{told}</td>' for axis, told in zip(("rows", "columns"), ends, strict=True)
    )
    return (
        '<tr><td><i '
        f'style="border-color:var(--k{place})"></i>{escape(layer.name)}<small>{escape(layer.type)}{unit}</small></td>'
        f'<td class="n">{mark}{sizes(frame.size)} px</td>{"".join(places)}</tr>'
    )
