"""Output sizes and receptive fields, with their numbers put into the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, TypeVar

from ...render.numbers import sizes
from ...window import Axis, Field, Window
from .result import Part, Row

__all__ = [
    "by_axis",
    "dropped",
    "field_facts",
    "output_formula",
    "output_size",
    "padding_same",
    "product_of_sizes",
    "receptive_field",
    "times",
    "title",
    "transposed_output_size",
]

AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
T = TypeVar("T")


def by_axis(axes: Sequence[T], describe: Callable[[T], str]) -> list[Row]:
    """A row for each axis; axes with the same text share one."""
    labels: dict[str, list[str]] = {}
    for axis, label in zip(axes, AXES[len(axes)], strict=True):
        labels.setdefault(describe(axis), []).append(label)
    return [(", ".join(which), text) for text, which in labels.items()]


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".").replace("-", "−")


def _padding(axis: Axis) -> str:
    return f"2·{axis.before:,}" if axis.before == axis.after else f"{axis.before:,} + {axis.after:,}"


def output_size(axis: Axis, rounds_up: bool = False) -> str:
    """``32 = ⌊(32 + 2·2 − 5)/1⌋ + 1``, and the inputs at the end that no window sees."""
    room = axis.input + axis.before + axis.after - axis.extent
    window = f"{axis.size:,}" if axis.dilation == 1 else f"{axis.dilation:,}·({axis.size:,} − 1) − 1"
    left, right = "⌈⌉" if rounds_up else "⌊⌋"
    count = (ceil(room / axis.stride) if rounds_up else room // axis.stride) + 1
    inner = f"{left}({axis.input:,} + {_padding(axis)} − {window})/{axis.stride:,}{right} + 1"
    exact = "" if room % axis.stride == 0 else f" = {left}{_number(room / axis.stride)}{right} + 1"
    if count != axis.output:
        return (
            f"{axis.output:,} = {inner} − 1{exact and exact + ' − 1'}, since the last window would start behind the "
            "input"
        )
    return f"{axis.output:,} = {inner}{exact}{_left_over(axis)}"


def _left_over(axis: Axis) -> str:
    """Describes the inputs that no window sees, as ``; the last 1 of the 32 is never seen``."""
    seen = (axis.output - 1) * axis.stride + axis.extent - axis.before
    unseen = max(0, axis.input - seen)
    text = f"; the last {unseen:,} of the {axis.input:,} {'is' if unseen == 1 else 'are'} never seen" if unseen else ""
    if axis.stride > axis.extent and axis.output > 1:
        text += f"; between windows {axis.stride - axis.extent:,} of each {axis.stride:,} are skipped"
    return text


def dropped(axis: Axis) -> int:
    """Inputs at the end that no window reaches, because the division was rounded down.

    >>> dropped(Axis(input=32, output=15, size=3, stride=2))
    1
    """
    return max(0, axis.input - ((axis.output - 1) * axis.stride + axis.extent - axis.before))


def transposed_output_size(axis: Axis) -> str:
    """A transposed convolution's ``32 = (16 − 1)·2 − 2·1 + 1·(3 − 1) + 1 + 1``."""
    extra = axis.input - ((axis.output - 1) * axis.stride - 2 * axis.before + axis.extent)
    taps = f"{axis.dilation:,}·({axis.size:,} − 1)"
    return f"{axis.input:,} = ({axis.output:,} − 1)·{axis.stride:,} − 2·{axis.before:,} + {taps} + {extra:,} + 1"


def output_formula(axes: Sequence[Axis], rounds_up: bool = False) -> str:
    """The formula of the output size, with only the terms that these axes need."""
    pads = "before + after" if any(a.before != a.after for a in axes) else "2·padding"
    window = "dilation·(kernel − 1) − 1" if any(a.dilation > 1 for a in axes) else "kernel"
    left, right = "⌈⌉" if rounds_up else "⌊⌋"
    return f"{left}(input + {pads} − {window})/stride{right} + 1"


def padding_same(axis: Axis) -> str:
    total = axis.before + axis.after
    need = f"({axis.output:,} − 1)·{axis.stride:,} + {axis.extent:,} − {axis.input:,}"
    count = f"⌈{axis.input:,}/{axis.stride:,}⌉ = {axis.output:,}"
    if (axis.output - 1) * axis.stride + axis.extent <= axis.input:
        return f'padding "same": {count} outputs need no padding'
    return (
        f'padding "same": {count} outputs need {need} = {total:,} values more, {axis.before:,} before and '
        f'{axis.after:,} behind'
    )


def times(numbers: Sequence[int]) -> str:
    return "·".join(f"{n:,}" for n in numbers)


def product_of_sizes(shape: Sequence[int]) -> str:
    """The sizes as a product; a batch of one is left out."""
    return times(shape[1:] if shape[0] == 1 else shape)


def _one_or_each(values: Sequence[int]) -> str:
    return sizes(values) if len(set(values)) > 1 else f"{values[0]}"


def title(
    layer: str,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Any,
    dilation: Sequence[int],
    channels: str,
    more: str,
) -> str:
    parts = [
        f"{layer} {channels}{sizes(size) if len(size) > 1 else f'{size[0]} taps'}",
        f"stride {_one_or_each(stride)}",
    ]
    parts.append(f"padding {padding if isinstance(padding, str) else _one_or_each(padding)}")
    if any(d > 1 for d in dilation):
        parts.append(f"dilation {_one_or_each(dilation)}")
    return ", ".join(parts) + more


def field_facts(fields: Sequence[Field]) -> dict[str, list[float]]:
    jumps = [f.jump if isinstance(f.jump, int) else float(f.jump) for f in fields]
    return {
        "size": [f.size for f in fields],
        "jump": list(jumps),
        "offset": [f.start if f.span(0) else 0 for f in fields],
    }


def receptive_field(windows: Sequence[Window], fields: Sequence[Field], transposed: bool = False) -> Part:
    def tell(d: int) -> str:
        found = fields[d]
        if transposed:
            axis = windows[0].axes[d]
            counts = sorted({len(seen) for seen in axis.look_back.positions})
            if len(counts) == 1:
                return f"every output is made of {counts[0]} inputs (fewer at the ends)"
            taken = " or ".join(f"{n}" for n in counts)
            return (
                f"an output is made of {taken} inputs, by its place: {axis.size} is no multiple of {axis.stride} "
                "(checkerboards)"
            )
        terms, jump = "", 1
        for window in windows:
            axis = window.axes[d]
            reach = f"({axis.size:,} − 1)" if axis.dilation == 1 else f"{axis.dilation:,}·({axis.size:,} − 1)"
            terms += f" + {reach}" if jump == 1 else f" + {reach}·{jump:,}"
            jump *= axis.stride
        begins = f"{_number(found.start)} on (padding)" if found.start < 0 else f"{found.start} on"
        return f"1{terms} = {found.size:,}; output 0 looks from {begins}, each next one {jump:,} further"

    formula = (
        ""
        if transposed
        else " = 1 + dilation·(kernel − 1)"
        if len(windows) == 1
        else " = 1 + Σ dilation·(kernel − 1)·strides before"
    )
    return Part(f"Receptive field{formula}", tuple(by_axis(range(len(fields)), tell)))
