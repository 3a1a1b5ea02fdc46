"""Draws receptive fields as frames of growing size over a sample image."""

from __future__ import annotations

from math import log, log1p, prod
from typing import NamedTuple

from ...render import svg
from ...render.numbers import sizes
from .result import Result
from .rows import BOUND, Layer

__all__ = ["Frame", "Outline", "Picture", "frames", "picture"]

MOST = 6  # more frames would be hard to distinguish
GRID_PX = 64  # images up to that size show their pixels


class Frame(NamedTuple):
    """The receptive field of a layer's middle unit on rows and columns of the image: first and last position, padding
    included.
    """

    layer: Layer
    unit: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(last - first + 1 for first, last in self.spans)


def frames(report: Result, most: int = MOST) -> list[Frame]:
    """Among the layers that see more than all before them, the smallest, the largest, and some at even intervals
    between.

    None if the first input is no image of rows and columns, or no field is known.
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


def _frame(report: Result, layer: Layer) -> Frame | None:
    if layer.value is None or layer.receptive_field is None:
        return None
    axes = report.unit_axes(layer.name)
    unit = tuple(layer.output_shape[axis] // 2 for axis in axes)
    spans = []
    for axis in report.axes():
        extent, place = report.fields.extent(layer.value, axis), report.fields.place(layer.value, axis)
        if extent is None:
            return None
        if extent.field.shift == 0:  # all units have the same field
            span = extent.field.span(0)
        elif place is not None and place.axis in axes and place.size == layer.output_shape[place.axis]:
            span = extent.field.span(unit[axes.index(place.axis)])
        else:  # rows and columns were merged into one axis
            return None
        if span is None:
            return None
        spans.append(span)
    return Frame(layer, unit, tuple(spans))


class Outline(NamedTuple):
    """A frame with its box in the picture and the text that describes it."""

    layer: str
    about: str
    number: int
    x: str
    y: str
    width: str
    height: str
    size: str
    seen: list[tuple[str, str]]
    is_bound: bool


class Picture(NamedTuple):
    """What ``render/templates/fields.html`` draws: frames over a sample image of that size."""

    height: int
    width: int
    view: str
    grid: str
    outlines: list[Outline]
    is_grey: bool
    is_padded: bool
    is_shortened: bool

    @property
    def has_bounds(self) -> bool:
        return any(outline.is_bound for outline in self.outlines)


def picture(report: Result) -> Picture | None:
    """The image with its frames and their descriptions; None if there are no frames."""
    drawn = frames(report)
    if not drawn:
        return None
    height, width = report.input_shapes[0][2:]
    shortens = any(
        first < -n or last >= 2 * n
        for frame in drawn
        for (first, last), n in zip(frame.spans, (height, width), strict=True)
    )
    image = svg.Box(0.0, float(height), 0.0, float(width))
    boxes = [_box(frame, (height, width), shortens) for frame in drawn]
    return Picture(
        height=height,
        width=width,
        view=svg.view_box([image, *boxes]),
        grid=svg.grid(height, width) if max(height, width) <= GRID_PX else "",
        outlines=[
            _outline(report, frame, box, number)
            for number, (frame, box) in enumerate(zip(drawn, boxes, strict=True))
        ],
        is_grey=report.input_shapes[0][1] == 1,
        is_padded=any(
            box.top < image.top or box.left < image.left or box.bottom > image.bottom or box.right > image.right
            for box in boxes
        ),
        is_shortened=shortens,
    )


def _box(frame: Frame, image: tuple[int, int], shortens: bool) -> svg.Box:
    """The box in which a frame is drawn, in pixels of the image. If frames extend further beyond it than its size, a
    distance d from its edge is drawn as n/2·ln(1 + 2d/n), so that all frames fit and the image does not become too
    small.
    """

    def beyond(pixels: int, n: int) -> float:
        return n / 2 * log1p(2 * pixels / n) if shortens else float(pixels)

    def at(edge: int, n: int) -> float:
        return -beyond(-edge, n) if edge < 0 else n + beyond(edge - n, n) if edge > n else float(edge)

    ends = [(at(first, n), at(last + 1, n)) for (first, last), n in zip(frame.spans, image, strict=True)]
    return svg.Box(*ends[0], *ends[1])


def _outline(report: Result, frame: Frame, box: svg.Box, number: int) -> Outline:
    layer = frame.layer
    seen = report.receptive_field(layer.name, frame.unit).rectangle
    ends = [f"{first} to {last}" for first, last in seen] if seen is not None else ["none", "none"]
    unit = f", unit {', '.join(map(str, frame.unit))}" if frame.unit else ""
    return Outline(
        layer=layer.name,
        about=f"{layer.type}{unit}",
        number=number,
        x=svg.number(box.left),
        y=svg.number(box.top),
        width=svg.number(box.right - box.left),
        height=svg.number(box.bottom - box.top),
        size=sizes(frame.size),
        seen=list(zip(("rows", "columns"), ends, strict=True)),
        is_bound=layer.status["receptive_field"] == BOUND,
    )
