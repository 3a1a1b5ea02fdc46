"""Layers whose units look through windows, as lint rules see them: with all the padding that is done for them, and how
what they read follows the image.
"""

from __future__ import annotations

from typing import NamedTuple

from ...graph.recording import Operation
from ...window import Axis, Field
from ..inspect.rows import Layer
from .context import Context

__all__ = [
    "POOLING",
    "WindowedLayer",
    "fields_of",
    "followed_axes",
    "format_percent",
    "format_units",
    "image_sizes",
    "readers_beyond",
    "windowed_layers",
]

POOLING = ("max_pool", "avg_pool")  # kinds of operators that look through windows besides convolutions


class WindowedLayer(NamedTuple):
    """A layer whose units look through windows.

    operation: the convolution or pooling; value: what it reads, before all padding that is done for it, by itself or by
    operations of their own;
    axes: with this padding; of a transposed convolution its adjoint's.
    """

    layer: Layer
    operation: Operation
    value: int
    axes: tuple[Axis, ...]

    @property
    def is_convolution(self) -> bool:
        return self.operation.is_a("convolution") and not self.operation.arguments["transposed"]

    @property
    def is_transposed(self) -> bool:
        return self.operation.is_a("convolution") and bool(self.operation.arguments["transposed"])

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def looks_around(self) -> bool:
        return max(self.kernel) > 1


def windowed_layers(context: Context) -> list[WindowedLayer]:
    recording, found = context.recording, []
    for op in recording.operations:
        layer = context.row(op)
        if layer is None or not (op.is_a("convolution", *POOLING)):
            continue
        value = op.inputs[0]
        given, made, arguments = recording.values[value].shape, recording.values[op.outputs[0]].shape, op.arguments
        kernel = recording.values[op.inputs[1]].shape[2:] if op.is_a("convolution") else arguments["kernel_size"]
        dims = len(given) - 2 if op.is_a("convolution") else int(op.name.split("pool")[1][0])
        kernel = each_axis(kernel, dims)
        stride, padding = each_axis(arguments["stride"] or kernel, dims), each_axis(arguments["padding"], dims)
        dilation = each_axis(arguments.get("dilation", 1), dims)
        transposed = op.is_a("convolution") and arguments["transposed"]
        before, after = list(padding), list(padding)
        maker = context.recording.maker(value)
        while maker is not None and not transposed and (margins := _margins(maker, dims)) is not None:
            before = [own + more for own, (more, _) in zip(before, margins, strict=True)]
            after = [own + more for own, (_, more) in zip(after, margins, strict=True)]
            value = maker.inputs[0]
            given, maker = recording.values[value].shape, context.recording.maker(value)
        source, target = (made, given) if transposed else (given, made)
        numbers = zip(source[-dims:], target[-dims:], kernel, stride, dilation, before, after, strict=True)
        axes = tuple(Axis(*one) for one in numbers)
        # pooling on one axis is done on two
        if maker is not None and maker.name == "aten.unsqueeze" and op.is_a(*POOLING):
            value, axes = maker.inputs[0], axes[1:]
        found.append(WindowedLayer(layer, op, value, axes))
    return found


def _margins(op: Operation, dims: int) -> list[tuple[int, int]] | None:
    """What a padding adds before and behind each of the last axes; None for what is no padding, cuts off, or adds
    channels.
    """
    if not op.is_a("pad"):
        return None
    listed = op.arguments["pad" if "pad" in op.arguments else "padding"]
    pairs = list(zip(listed[::2], listed[1::2], strict=True))  # the last axis comes first
    pairs += [(0, 0)] * (dims - len(pairs))
    return None if min(listed, default=0) < 0 or any(map(any, pairs[dims:])) else pairs[:dims][::-1]


def each_axis(given: int | list[int] | tuple[int, ...], dims: int) -> list[int]:
    listed = [given] if isinstance(given, int) else list(given)
    return listed * dims if len(listed) == 1 else listed


def fields_of(context: Context, value: int, everything: bool = True) -> list[Field] | None:
    """Of a map's units, on each axis of the input; None for what is no map. everything: with what is seen through
    global means.
    """
    fields, found = context.report.fields, []
    axes = context.report.axes()
    places = [fields.place(value, axis) for axis in axes]
    if (
        not places
        or any(place is None for place in places)
        or max(place.size for place in places if place is not None) < 2
    ):
        return None
    for axis, place in zip(axes, places, strict=True):
        extent = fields.extent(value, axis)
        assert extent is not None and place is not None
        found.append(extent.field if everything else fields.states[value].fields[axis][place])
    return found


def followed_axes(context: Context, window: WindowedLayer) -> list[tuple[Axis, float] | None]:
    """For each axis of the input the window's axis that follows it, with the jump of what it reads [px]; None where
    none does alone.
    """
    fields, shape = context.report.fields, context.recording.values[window.value].shape
    found: list[tuple[Axis, float] | None] = []
    for axis in context.report.axes():
        place = fields.place(window.value, axis)
        number = -1 if place is None else place.axis - (len(shape) - len(window.axes))
        alone = place is not None and number >= 0 and place.size == shape[place.axis]
        found.append(
            (window.axes[number], float(fields.states[window.value].fields[axis][place].jump))
            if place and alone
            else None
        )
    return found


def image_sizes(context: Context) -> list[int]:
    return [context.report.fields.size(axis) for axis in context.report.axes()]


def readers_beyond(context: Context, value: int) -> list[Operation]:
    """What computes with a tensor, also through views of it and with a padding around it."""
    found = []
    for op in context.readers.get(value, []):
        passes = op.is_free or op.is_a("pad")
        found += [one for output in op.outputs for one in readers_beyond(context, output)] if passes else [op]
    return found


def format_percent(share: float) -> str:
    """In whole percents, never all or nothing by rounding.

    >>> format_percent(0.125), format_percent(0.001), format_percent(0.999), format_percent(1)
    ('12 %', 'under 1 %', 'over 99 %', '100 %')
    """
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "under 1 %" if share < 0.5 else "over 99 %"
    return f"{100 * share:.0f} %"


def format_units(numbers: list[float]) -> str:
    return "×".join(f"{n:.3g}" for n in numbers)
