"""Rules about kernels and pooling windows: positions they skip, wasted taps, and receptive fields."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, gcd, prod

import torch

from ....render.numbers import sizes
from ....window import Axis, Field
from ...inspect.rows import Layer
from ..context import Context
from ..rule import Found, rule
from ..windows import (
    POOLING,
    WindowedLayer,
    fields_of,
    followed_axes,
    format_percent,
    format_units,
    image_sizes,
    readers_beyond,
    windowed_layers,
)
from .depth import NORMS, linear_sums
from .norm import ACTIVATIONS

# Kinds of operators that combine all positions of a feature map.
GLOBAL = (*POOLING, "adaptive_max_pool", "adaptive_avg_pool", "mean", "total")
# early-downsampling reports a stride of STRIDE or more before convolution EARLY, if an object covers fewer than UNITS
# units there.
EARLY, STRIDE, UNITS = 3, 4, 8
SHARE = 0.1  # dropping at least this share of the input by rounding down is a warning, less is a note
PART = 0.1  # unproductive layers are reported if they take at least this share of the MACs

# ----------------------------------------------------------------------------------------- receptive fields and objects


@rule(
    "early-downsampling",
    "warning",
    'K. He et al., "Deep Residual Learning for Image Recognition", 2016, sections 4.1 and 4.2',
)
def early_downsampling(context: Context) -> Iterator[Found]:
    """A feature map that becomes coarse before its layers could detect shapes no longer resolves them: each stride of 2
    halves the number of units that an object covers.
    """
    if context.object_px is None:
        return
    convolutions = [window for window in windowed_layers(context) if window.is_convolution and window.looks_around]
    if len(convolutions) < EARLY:
        return
    fields = fields_of(context, convolutions[EARLY - 1].value)
    if fields is None:
        return
    jumps = [float(field.jump) for field in fields]
    left = [context.object_px / jump for jump in jumps if jump]
    if max(jumps) < STRIDE or not left or min(left) >= UNITS:
        return
    made = [(layer, fields_of(context, layer.value)) for layer in context.layers if layer.value is not None]
    first = next(layer for layer, seen in made if seen is not None and max(field.jump for field in seen) >= STRIDE)
    coarsest = max(float(field.jump) for _, seen in made if seen is not None for field in seen)
    yield Found(
        first.name,
        f"The stride is {format_units(jumps)} before the third convolution, where an object of "
        f"{context.object_px:g} px covers {format_units(left)} units, and {context.object_px / coarsest:.3g} of the "
        "coarsest map.",
        "Take strides and poolings out of the first layers, or give larger images.",
    )


@rule(
    "field-smaller-than-object",
    "warning",
    "A. Araujo, W. Norris, J. Sim, \"Computing Receptive Fields of Convolutional Neural Networks\", Distill 2019",
)
def field_smaller_than_object(context: Context) -> Iterator[Found]:
    """If no unit of any feature map sees a whole object, every unit decides by a part of it. Not reported for networks
    with attention, which combines units.
    """
    united = any(op.is_a("attention", "batched_product") for op in context.recording.operations)
    if context.object_px is None or united or not windowed_layers(context):
        return
    best: tuple[Layer, list[int]] | None = None
    for layer in context.layers:
        fields = fields_of(context, layer.value) if layer.value is not None else None
        if fields is not None and (best is None or min(f.size for f in fields) > min(best[1])):
            best = layer, [f.size for f in fields]
    if best is not None and min(best[1]) < context.object_px:
        yield Found(
            best[0].name,
            (
                f"Its units see {sizes(best[1])} px, more than those of any other map and less than an object of "
                f"{context.object_px:g} px."
            ),
            "Add layers, strides or dilation before the head.",
        )


@rule(
    "field-smaller-than-input",
    "note",
    'W. Brendel, M. Bethge, "Approximating CNNs with Bag-of-local-Features Models Works Surprisingly Well on '
    'ImageNet", 2019',
)
def field_smaller_than_input(context: Context) -> Iterator[Found]:
    """After global pooling a class score is a sum over positions: it counts features that are further apart than one
    receptive field, but ignores their arrangement.
    """
    if context.task != "classification" or context.object_px is not None:
        return
    pooled = [(layer, fields) for layer, fields, _ in _globally_pooled(context)]
    image = image_sizes(context)
    for layer, fields in pooled[-1:]:
        seen = [field.size for field in fields]
        if any(field < size for field, size in zip(seen, image, strict=True)):
            yield Found(
                layer.name,
                f"It pools units that see {sizes(seen)} px each of an image of {sizes(image)}.",
                "Give object_px to have it compared with what is to be recognised, or add layers before the pooling.",
            )


def _globally_pooled(context: Context) -> Iterator[tuple[Layer, list[Field], int]]:
    """Yields the rows that reduce a feature map to a vector, with the receptive fields of the map and the map itself.
    """
    for op in context.recording.operations:
        layer = context.row(op)
        if layer is None or not op.inputs or not op.is_a(*GLOBAL):
            continue
        fields = fields_of(context, op.inputs[0])
        if fields is not None and fields_of(context, op.outputs[0]) is None:
            yield layer, fields, op.inputs[0]


@rule("unproductive-layers", "note", "M. L. Richter et al., \"(Input) Size Matters for CNN Classifiers\", 2021")
def unproductive_layers(context: Context) -> Iterator[Found]:
    """If each input of a convolution already sees the whole image, a larger receptive field only adds padding, and such
    layers often add little accuracy. Layers that also read smaller fields, through shortcuts, are not reported.
    """
    image, least, found = image_sizes(context), _least_fields(context), []
    for window in windowed_layers(context):
        seen = least.get(window.value)
        if (
            window.is_convolution
            and window.looks_around
            and seen
            and all(one > size for one, size in zip(seen, image, strict=True))
        ):
            found.append((window.layer, seen))
    if sum(layer.macs or 0 for layer, _ in found) < PART * sum(layer.macs or 0 for layer in context.layers):
        return
    for layer, seen in found:
        yield Found(
            layer.name,
            f"Units that it reads see {sizes(seen)} px each, more than the {sizes(image)} of the image: "
            "its windows add little but padding.",
            "Give larger images, or leave out strides or layers, and compare.",
        )


def _least_fields(context: Context) -> dict[int, list[int]]:
    """For each tensor that depends on the first input, the receptive field [px] on each axis by the path with the
    smallest one.

    Only windows enlarge it: attention and global means do not count.
    """
    axes = context.report.axes()
    least = {context.recording.inputs[0]: [1] * len(axes)} if axes else {}
    windows = {window.operation.index: window for window in windowed_layers(context) if not window.is_transposed}
    for op in context.recording.operations:
        seen = min((least[value] for value in op.inputs if value in least), key=prod, default=None)
        if seen is None:
            continue
        if (window := windows.get(op.index)) is not None:
            followed = followed_axes(context, window)
            steps = (0 if one is None else int((one[0].extent - 1) * one[1]) for one in followed)
            seen = [size + step for size, step in zip(seen, steps, strict=True)]
        least |= dict.fromkeys(op.outputs, seen)
    return least


# -------------------------------------------------------------------------------------------------- what no window sees


def _reached(axis: Axis) -> list[int]:
    """The positions of the input that any window reads, in order.

    Loops over the shorter of outputs and taps only, since an axis may have millions of positions.
    """
    outputs = torch.arange(axis.output, device="cpu") * axis.stride  # whatever the default device is
    taps = torch.arange(axis.size, device="cpu") * axis.dilation
    few, many = sorted((outputs, taps), key=len)
    on = torch.zeros(axis.input, dtype=torch.bool, device="cpu")
    for one in few.tolist():
        at = many + (one - axis.before)
        on[at[(at >= 0) & (at < axis.input)]] = True
    return on.nonzero().flatten().tolist()


def _skips(axis: Axis) -> bool:
    """Whether the windows skip positions between those that they read."""
    reached = _reached(axis)
    return bool(reached) and len(reached) < reached[-1] - reached[0] + 1


def _made_of(context: Context, value: int) -> tuple[int, set[int]]:
    """The feature map from which a tensor follows by pointwise operations, norms, padding and cropping, with the
    indices of those operations.
    """
    on_the_way: set[int] = set()
    while (op := context.recording.maker(value)) is not None:
        if not (op.is_a("pad", *NORMS, *ACTIVATIONS)):
            break
        on_the_way.add(op.index)
        value = op.inputs[0]
    return value, on_the_way


def _unseen(context: Context, window: WindowedLayer, windows: list[WindowedLayer]) -> int:
    """The number of positions of its input that are read neither by it nor by any other reader of the feature map."""
    recording = context.recording
    source, on_the_way = _made_of(context, window.value)
    beside, known = [window], set(on_the_way)
    for other in windows:
        of, between = _made_of(context, other.value)
        # Without padding in between, positions agree.
        if of == source and not any(recording.operations[number].is_a("pad") for number in between | on_the_way):
            beside.append(other)
            known |= between
    ends, ways = {other.operation.index for other in beside}, [source]
    for value in ways:
        readers = [op for op in context.readers.get(value, []) if op.index not in ends]
        if value in recording.outputs or any(
            op.index not in known and not op.is_free and not op.is_a("pad") for op in readers
        ):
            return 0
        ways += [output for op in readers for output in op.outputs]
    # On the CPU, whatever the default device is.
    missed = torch.ones([axis.input for axis in window.axes], dtype=torch.bool, device="cpu")
    for other in beside:
        seen = torch.ones_like(missed)
        for number, axis in enumerate(other.axes):
            on = torch.zeros(axis.input, dtype=torch.bool, device="cpu")
            on[_reached(axis)] = True
            seen &= on.reshape([-1 if k == number else 1 for k in range(len(other.axes))])
        missed &= ~seen
    return int(missed.sum())


def _fate(unseen: int, left_out: int, whole: int) -> str:
    """Describes what happens to the positions that a window skips."""
    if not unseen:
        return "which other branches see"
    return "which reach nothing" if unseen == left_out else f"and {format_percent(unseen / whole)} reach nothing at all"


@rule(
    "dropped-rows", "note", "arithmetic: windows start every stride, and the last that fits ends before the input does"
)
def dropped_rows(context: Context) -> Iterator[Found]:
    """If the stride does not divide input + padding - extent, the last rows and columns are in no window."""
    windows = [window for window in windowed_layers(context) if not window.is_transposed]
    for window in windows:
        if any(map(_skips, window.axes)):
            continue
        names = ("positions",) if len(window.axes) == 1 else ("planes", "rows", "columns")[-len(window.axes) :]
        ends, whole, kept = [], 1, 1
        for name, axis in zip(names, window.axes, strict=True):
            left = axis.input - 1 - max(_reached(axis), default=axis.input - 1) if axis.stride > 1 else 0
            ends += [f"{left} of {axis.input} {name}"] if left > 0 else []
            whole, kept = whole * axis.input, kept * (axis.input - left)
        if ends:
            unseen = _unseen(context, window, windows)
            fate = " reaches nothing" if unseen == whole - kept else f", {_fate(unseen, whole - kept, whole)}"
            yield Found(
                window.layer.name,
                (
                    f"Its windows end before the last {' and '.join(ends)}: {format_percent(1 - kept / whole)} of its "
                    f"input{fate}."
                ),
                "Pad, use ceil_mode, or choose an input whose size the strides divide.",
                severity="warning" if unseen >= SHARE * whole else None,
            )


@rule(
    "skipped-pixels",
    "warning",
    "T. He et al., \"Bag of Tricks for Image Classification with Convolutional Neural Networks\", 2019, section 4",
)
def skipped_pixels(context: Context) -> Iterator[Found]:
    """A stride larger than the window's extent leaves gaps; so does a common factor of stride and dilation."""
    windows = [window for window in windowed_layers(context) if not window.is_transposed]
    for window in windows:
        if not any(map(_skips, window.axes)) or _is_part_of_another(context, window, windows):
            continue
        whole = prod(axis.input for axis in window.axes)
        skipped = whole - prod(len(_reached(axis)) for axis in window.axes)
        unseen = _unseen(context, window, windows)
        message = f"Its windows skip {format_percent(skipped / whole)} of its input, {_fate(unseen, skipped, whole)}."
        if unseen:
            yield Found(window.layer.name, message, "Use a kernel of at least the stride, or pool first.")
        else:
            fix = "Average by the stride before it, as ResNet-D does; leave it where trained weights are loaded."
            yield Found(window.layer.name, message, fix, severity="note")


def _is_part_of_another(context: Context, window: WindowedLayer, windows: list[WindowedLayer]) -> bool:
    """Whether a window is a branch of a re-parameterised block: its taps are among those of a larger convolution of the
    same feature map, the outputs are added, and both together equal one kernel of the larger size.
    """
    if not window.is_convolution:
        return False
    larger = [
        other
        for other in windows
        if other.is_convolution
        and other.value == window.value
        and prod(other.kernel) > prod(window.kernel)
        and all(_lies_within(one, of) for one, of in zip(window.axes, other.axes, strict=True))
    ]
    sums = linear_sums(context, window.layer) if larger else set()
    return any(sums & linear_sums(context, other.layer) for other in larger)


def _lies_within(one: Axis, other: Axis) -> bool:
    """Whether, for each output position, the taps of one axis are among those of the other."""
    taps, others = ({axis.position(0, tap) for tap in range(axis.size)} for axis in (one, other))
    return one.stride == other.stride and taps <= others


# -------------------------------------------------------------------------------------------------- shape of the window


@rule(
    "even-kernel-same-padding",
    "note",
    "arithmetic: the middle of unit o's window lies at o + (extent - 1)/2 - padding before it",
)
def even_kernel_same_padding(context: Context) -> Iterator[Found]:
    """A window of even size has no centre: with padding and stride 1 it shifts the feature map by half a unit, and the
    shifts of several layers add up.
    """
    for window in windowed_layers(context):
        if window.is_transposed or any(
            op.name == "aten.slice" for op in context.readers.get(window.operation.outputs[0], [])
        ):
            continue  # a crop behind it corrects the shift on purpose
        moved = [
            (axis.extent - 1) / 2 - axis.before if axis.stride == 1 and _is_centred(axis) else 0.0
            for axis in window.axes
        ]
        if any(move % 1 for move in moved):
            at = window.axes[max(range(len(moved)), key=lambda k: moved[k] % 1)]
            yield Found(
                window.layer.name,
                f"Its even windows of {sizes(window.kernel)}, with {at.before} padded before and {at.after} behind, "
                f"move the map by {format_units([abs(move) for move in moved])} units.",
                "Use an odd kernel.",
                severity="warning" if context.task in ("localisation", "segmentation") else None,
            )


def _is_centred(axis: Axis) -> bool:
    """Whether the padding is meant to centre the window. Windows that read nothing behind their position are causal,
    and shift on purpose.
    """
    return axis.before + axis.after > 0 and (axis.after > 0 or axis.before < axis.extent - 1)


@rule("gridding", "warning", 'P. Wang et al., "Understanding Convolution for Semantic Segmentation", 2018, section 3.2')
def gridding(context: Context) -> Iterator[Found]:
    """Stacked dilations with a common factor skip the positions in between: neighbouring units read disjoint sets of
    pixels.
    """
    windows = {
        id(window.layer): window for window in windowed_layers(context) if window.is_convolution or window.is_transposed
    }
    dilated = {place: window for place, window in windows.items() if _dilation(window) > 1}
    if len(dilated) < 2:
        return
    ahead: dict[int, set[int]] = {}  # for each row the convolutions that it depends on
    followed: set[int] = set()
    for layer in context.layers:
        ahead[id(layer)] = set().union(
            *(ahead.get(id(one), set()) | ({id(one)} & set(windows)) for one in context.before(layer))
        )
        if id(layer) in windows:
            followed |= ahead[id(layer)]
    for place, window in windows.items():
        stacked = [dilated[one] for one in windows if one in dilated and (one == place or one in ahead[place])]
        if place in followed or len(stacked) < 2 or fields_of(context, window.operation.outputs[0]) is None:
            continue
        seen = context.report.receptive_field(window.layer.name)
        if seen.rectangle is None:
            continue
        sides = [last - first + 1 for first, last in seen.rectangle]
        taps = prod(map(len, seen.taps))
        if taps < prod(sides):
            dilations = [_dilation(one) for one in stacked]
            factor = gcd(*dilations)
            common = f" have the factor {factor} in common" if factor > 1 else " leave holes"
            yield Found(
                stacked[-1].layer.name,
                f"The dilations {', '.join(map(str, dilations))}{common}: a unit sees {taps} of the {prod(sides)} "
                f"pixels in its field of {sizes(sides)}.",
                "Choose dilations such as 1, 2, 5, without a common factor and beginning with 1.",
            )


def _dilation(window: WindowedLayer) -> int:
    return max(axis.dilation if axis.size > 1 else 1 for axis in window.axes)


@rule(
    "checkerboard",
    "warning",
    'A. Odena, V. Dumoulin, C. Olah, "Deconvolution and Checkerboard Artifacts", Distill 2016',
)
def checkerboard(context: Context) -> Iterator[Found]:
    """If the stride does not divide the kernel size, outputs of a transposed convolution sum different numbers of taps.
    """
    for window in windowed_layers(context):
        if not window.is_transposed:
            continue
        counts = [[len(taps) for taps in axis.look_back.positions] for axis in window.axes]
        if any(min(of) != max(of) for of in counts):
            strides = [axis.stride for axis in window.axes]
            better = [ceil(axis.size / axis.stride) * axis.stride for axis in window.axes]
            yield Found(
                window.layer.name,
                f"Its kernel of {sizes(window.kernel)} is no multiple of its stride of {sizes(strides)}: outputs are "
                f"sums of {prod(map(min, counts))} to {prod(map(max, counts))} taps, in a pattern that shows.",
                f"Use a kernel of {sizes(better)}, or an upsampling and a convolution.",
            )


@rule("pooling-in-localisation", "warning", "V. Badrinarayanan, A. Kendall, R. Cipolla, \"SegNet\", 2017, section 3")
def pooling_in_localisation(context: Context) -> Iterator[Found]:
    """A maximum keeps the value and loses its position within the window, and so does a mean over all positions;
    localisation and segmentation need the position.
    """
    if context.task not in ("localisation", "segmentation"):
        return
    for window in windowed_layers(context):
        if not window.operation.is_a("max_pool") or all(axis.stride == 1 for axis in window.axes):
            continue
        index_readers = [op for output in window.operation.outputs[1:] for op in readers_beyond(context, output)]
        followed = [one for one in followed_axes(context, window) if one is not None]
        if index_readers or not followed or len(readers_beyond(context, window.value)) > 1:
            continue  # the indices of the maxima, or the feature map itself, are read elsewhere too
        within = [axis.size * jump for axis, jump in followed]
        yield Found(
            window.layer.name,
            (
                f"It forgets which of {sizes(window.kernel)} units was the largest, that is where within "
                f"{format_units(within)} px something lies."
            ),
            "Use a convolution of the same stride, or hand the map on to a decoder.",
        )
    for layer, _, value in _globally_pooled(context):
        if len(readers_beyond(context, value)) == 1:
            shape = context.recording.values[value].shape[2:]
            yield Found(
                layer.name,
                (
                    f"It makes one vector of {prod(shape)} places, {sizes(shape)}, and says nothing of where something "
                    "was."
                ),
                "Flatten a narrow map instead, or predict on the map.",
            )


@rule(
    "kernel-larger-than-map",
    "warning",
    'L.-C. Chen, G. Papandreou, F. Schroff, H. Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", '
    '2017, section 3.3',
)
def kernel_larger_than_map(context: Context) -> Iterator[Found]:
    """A kernel that is larger than its feature map mostly covers padding, where its taps multiply zeros."""
    for window in windowed_layers(context):
        if not window.is_convolution or not any(axis.extent > axis.input for axis in window.axes):
            continue
        share = 1 - prod(axis.tap_count / (axis.output * axis.size) for axis in window.axes)
        if share > 0.5:
            spread = (
                f", {sizes([axis.extent for axis in window.axes])} with its dilation," if _dilation(window) > 1 else ""
            )
            yield Found(
                window.layer.name,
                f"Of the taps of its {sizes(window.kernel)} kernel{spread} on a map of "
                f"{sizes([axis.input for axis in window.axes])}, {format_percent(share)} fall into the padding.",
                "Use a smaller kernel or dilation, fewer strides before it, or larger images.",
            )
