"""Convolutions and poolings as lint rules see them: with all the padding before them, and the axes of the image that
their axes follow.
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

POOLING = ("max_pool", "avg_pool")  # kinds of operators that slide a window, besides convolutions


class WindowedLayer(NamedTuple):
    """A layer that slides a window over its input.

    operation: the convolution or pooling; value: its input before all padding, whether done by itself or by padding
    operations before it; axes: the geometry with this padding, for a transposed convolution that of its adjoint.
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
        # torch computes pooling of one axis as pooling of two.
        if maker is not None and maker.name == "aten.unsqueeze" and op.is_a(*POOLING):
            value, axes = maker.inputs[0], axes[1:]
        found.append(WindowedLayer(layer, op, value, axes))
    return found


def _margins(op: Operation, dims: int) -> list[tuple[int, int]] | None:
    """What a padding adds before and behind each of the last axes; None for other operations, and for padding that
    crops or adds channels.
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
    """The receptive field of a feature map's units on each axis of the input; None for tensors that are no feature map.

    everything: includes what is seen through global means.
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
    """For each axis of the input, the axis of the window that follows it, and the jump [px] of the values it reads;
    None if no axis of the window corresponds to that axis alone.
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
    """The operations that compute with a tensor, directly or through views and padding of it."""
    found = []
    for op in context.readers.get(value, []):
        passes = op.is_free or op.is_a("pad")
        found += [one for output in op.outputs for one in readers_beyond(context, output)] if passes else [op]
    return found


def format_percent(share: float) -> str:
    """Formats a share in whole percents, without rounding it to 0 % or 100 %.

    >>> format_percent(0.125), format_percent(0.001), format_percent(0.999), format_percent(1)
    ('12 %', 'under 1 %', 'over 99 %', '100 %')
    """
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "under 1 %" if share < 0.5 else "over 99 %"
    return f"{100 * share:.0f} %"


def format_units(numbers: list[float]) -> str:
    return "×".join(f"{n:.3g}" for n in numbers)
