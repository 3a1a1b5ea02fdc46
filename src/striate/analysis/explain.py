"""The arithmetic of one layer, with its numbers put into the formulas: size, parameters, multiply-adds, memory,
gradients.

Every convolution here is a list of steps: one for a plain, grouped, depthwise, transposed or locally connected one, two
where it is factored. Multiply-adds (MACs) are counted as in :mod:`.cost`: taps that fall into the padding are
multiplied too.

>>> told = explain("conv2d", (3, 32, 32), out=10, kernel=5, padding=2)
>>> told.facts["parameters"], told.facts["macs"]
(760, 768000)
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, NamedTuple, TypeVar

import torch

from ..errors import ArgumentError, ShapeError, build
from ..ops import conv as convolutions
from ..ops import pool
from ..ops.arguments import is_int, per_axis
from ..text import columns, sizes
from ..window import Axis, Field, Window
from . import worked
from .cost import FLOPS_PER_MAC

__all__ = ["FAMILIES", "Explanation", "Part", "Step", "example", "explain", "names"]

VERSION = 1  # of to_dict's form
WIDTH = 100
BYTES = 4  # of a float32
MOST = 2**31  # values of a tensor: what is counted output by output still ends
AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
METHODS_OF = {"forward": "forward", "backward_data": "input gradient", "backward_weights": "weight gradient"}
KEYS = {"forward": "forward", "backward_data": "input", "backward_weights": "weight"}  # in a report's data

Row = worked.Row
T = TypeVar("T")


@dataclass(frozen=True)
class Family:
    """The layers of one name: for how many axes there are any, the options each has to be given, and those that it
    takes beside them.
    """

    dims: tuple[int, ...]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


_WINDOW = ("stride", "padding", "dilation")
FAMILIES = {
    "conv": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "groups", "bias")),
    "depthwise": Family((1, 2, 3), ("kernel",), ("out", *_WINDOW, "bias")),
    "separable": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "bias")),
    "spatial": Family((2,), ("out", "kernel"), (*_WINDOW, "middle", "bias")),
    "bottleneck": Family((2,), ("out",), ("kernel", *_WINDOW, "middle", "bias")),
    "convtranspose": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "output_padding", "groups", "bias")),
    "local": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "bias")),
    "maxpool": Family((1, 2, 3), ("kernel",), (*_WINDOW, "ceil")),
    "avgpool": Family((1, 2, 3), ("kernel",), ("stride", "padding", "ceil", "count_include_pad")),
    "batchnorm": Family((), ()),
    "layernorm": Family((2,), ()),  # 2: of all channels at one place
    "instancenorm": Family((), ()),
    "groupnorm": Family((), ("groups",)),
}
BARE = ("batchnorm", "layernorm", "instancenorm", "groupnorm")  # they take any number of axes


def names() -> list[str]:
    """The layers that can be explained.

    >>> names()[:5]
    ['conv1d', 'conv2d', 'conv3d', 'depthwise1d', 'depthwise2d']
    """
    found = []
    for family, about in FAMILIES.items():
        found += [family] * (family in BARE) + [f"{family}{dims}d" for dims in about.dims]
    return found


def _columns(text: str) -> int:
    """As it is printed: marks above a letter take no column."""
    return sum(not unicodedata.combining(letter) for letter in text)


@dataclass(frozen=True)
class Part:
    """A heading and its rows: a label and what it says, a sentence (no label), or text that stands as it is (None)."""

    title: str
    rows: tuple[Row, ...]

    def lines(self, width: int = WIDTH) -> list[str]:
        """The rows below the heading, labels in a column.

        >>> print("\\n".join(Part("Memory", (("x", "4 bytes"), ("weights", "8 bytes"))).lines()))
        x        4 bytes
        weights  8 bytes
        """
        gap = 1 if any(text[:1] in ("=", "←") for _, text in self.rows) else 2
        wide = max((_columns(label) for label, _ in self.rows if label), default=-gap) + gap
        told: list[str] = []
        for label, text in self.rows:
            if label is None or not text:
                told += text.splitlines() or [""]
                continue
            indent = " " * wide if label else ""
            first = label + " " * (wide - _columns(label)) if label else ""
            told += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
        return told


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: ``print`` shows it.

    facts: its numbers by name; parts: its text; values: the tensors of the worked example, if there is one.
    """

    title: str
    facts: dict[str, Any]
    parts: tuple[Part, ...]
    values: dict[str, Any] = field(default_factory=dict)

    def lines(self, width: int = WIDTH) -> list[str]:
        told = textwrap.wrap(self.title, width)
        told += [f"x {sizes(self.facts['input_shape'])} → y {sizes(self.facts['output_shape'])}"]
        for part in self.parts:
            told += ["", *textwrap.wrap(part.title, width, subsequent_indent="  ")]
            told += [f"  {line}".rstrip() for line in part.lines(width - 2)]
        return told

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON: the facts, the text of each part, and the worked example's tensors as nested lists."""
        parts = [{"title": part.title, "lines": part.lines()} for part in self.parts]
        values = {name: value.tolist() for name, value in self.values.items()}
        return {"version": VERSION, "title": self.title, **self.facts, "parts": parts, "values": values}


@dataclass(frozen=True)
class Step:
    """A convolution in a layer, its geometry resolved. kind: "conv", "transposed" or "local"; padding: as it was given.

    The plan of a transposed one is that of the convolution whose adjoint it is: its output is what comes in.
    """

    name: str
    kind: str
    plan: convolutions.ConvGeometry
    bias: bool
    padding: Any

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.plan.y_shape if self.kind == "transposed" else self.plan.x_shape

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.plan.x_shape if self.kind == "transposed" else self.plan.y_shape

    @property
    def weight_shape(self) -> tuple[int, ...]:
        p = self.plan
        return (p.filters, p.channels, *p.output, *p.size) if self.kind == "local" else p.weight_shape

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return self.y_shape[1:] if self.kind == "local" else self.y_shape[1:2]

    @property
    def parameters(self) -> int:
        return prod(self.weight_shape) + (prod(self.bias_shape) if self.bias else 0)

    @property
    def macs(self) -> int:
        return self.plan.batch * prod(self.plan.output) * prod(self.plan.weight_shape)

    @property
    def macs_inside(self) -> int:
        """Without the taps that see no input; of a transposed one those whose product falls outside its output."""
        p = self.plan
        return p.batch * p.filters * (p.channels // p.groups) * p.window.tap_count


# -------------------------------------------------------------------------------------------------------------- explain


def explain(
    layer: str, shape: Sequence[int], *, small: bool = False, channels_last: bool = False, **options: Any
) -> Explanation:
    """The arithmetic of one layer on an input of one shape.

    layer: one of :func:`names`; shape: of x, (N, C, *axes), or (C, *axes) of one image where the layer's name says how
    many axes there are. options, as far as the layer has them: ``out`` channels, ``kernel``, ``stride``, ``padding``
    (numbers, "same" or "valid"), ``dilation`` (each one number, or one an axis), ``groups``, ``bias``, ``middle``
    channels, ``output_padding``, ``ceil``, ``count_include_pad``; None stands for the layer's own default.
    small: a smaller layer of the same kind is worked through beside it, cell by cell, forward and backward.
    channels_last: the memory order for which the methods of a convolution are told.

    Raises ArgumentError, ArgumentTypeError or ShapeError for a layer that there is not, and options and numbers that it
    cannot have.

    >>> print("\\n".join(explain("maxpool2d", (20, 28, 28), kernel=2).lines()[:7]))
    maxpool2d 2×2, stride 2, padding 0
    x 1×20×28×28 → y 1×20×14×14
    <BLANKLINE>
    Output size = ⌊(input + 2·padding − kernel)/stride⌋ + 1
      height, width  14 = ⌊(28 + 2·0 − 2)/2⌋ + 1
    <BLANKLINE>
    Cost
    """
    family, dims = _family(layer)
    options = {name: value for name, value in options.items() if value is not None}
    _check_options(layer, FAMILIES[family], options)
    x = _shape(layer, family, dims, shape)
    title, facts, parts = _EXPLAINERS[family](layer, x, dims, options)
    facts = {"layer": layer, "options": options, "input_shape": list(x), **facts}
    values: dict[str, Any] = {}
    if small:
        smaller, fewer = worked.shrink(family, x, dims, options)
        about, told_facts, _ = _EXPLAINERS[family](layer, smaller, dims, fewer)
        opening = f"A smaller one worked through: {about}, x {sizes(smaller)} → y {sizes(told_facts['output_shape'])}"
        parts.append(Part(opening, (("", worked.PLACES),)))
        facts["small"] = {"input_shape": list(smaller), "options": fewer}
        sections, values = _work(layer, family, smaller, dims, fewer)
        parts += sections
    if family in ("conv", "depthwise"):
        told, methods = _methods(_steps(family, x, dims, options)[0].plan, channels_last)
        parts.append(told)
        facts["methods"] = methods
    return Explanation(title, facts, tuple(parts), values)


def example(name: str) -> Explanation:
    """A worked example, of those in :data:`striate.analysis.worked.EXAMPLES`.

    Raises ArgumentError for a name there is not.

    >>> example("conv1d").values["y"].tolist()
    [[[3.0, -4.0]]]
    """
    if name not in worked.EXAMPLES:
        raise ArgumentError(
            build("explain", f"an example of {', '.join(worked.EXAMPLES)}", repr(name), hint="Choose one of these.")
        )
    given = worked.EXAMPLES[name]
    family, dims = _family(given.layer)
    shape = tuple(given.x.shape)
    title, facts, parts = _EXPLAINERS[family](given.layer, shape, dims, given.options)
    facts = {"layer": given.layer, "options": given.options, "input_shape": list(shape), **facts}
    shown = [Part("Example", (("", given.about), ("", worked.PLACES)))]
    shown += [part for part in parts if part.title.startswith(("Output size", "Measured"))]
    more, values = _work(given.layer, family, shape, dims, given.options, given)
    if given.more is not None:
        heading, rows = given.more(values["y"])
        more.insert(1, Part(heading, tuple(rows)))
    return Explanation(title, facts, (*shown, *more), values)


def _work(
    layer: str,
    family: str,
    shape: tuple[int, ...],
    dims: int,
    options: dict[str, Any],
    given: worked.Example | None = None,
) -> tuple[list[Part], dict[str, Any]]:
    """A layer cell by cell, with small whole numbers where none are given."""
    x, weight, dy = (None, None, None) if given is None else (given.x, given.weight, given.dy)
    if family in BARE:
        sections, values = worked.normalization(layer, shape, options.get("groups", 1), x, dy)
    elif family.endswith("pool"):
        window = _pool_window(shape, dims, options)
        sections, values = worked.pooling(
            family == "maxpool", window, shape, options.get("count_include_pad", True), x, dy
        )
    else:
        sections, values = worked.convolution(_steps(family, shape, dims, options), x, weight, dy)
    return [Part(heading, tuple(rows)) for heading, rows in sections], values


def _family(layer: str) -> tuple[str, int]:
    """The family, and the number of axes in its name, 0 if there is none."""
    if layer in names():
        bare = layer in BARE
        return (layer, 0) if bare else (layer[:-2], int(layer[-2]))
    fix = "Choose one of these names."
    kinds = [family + "/".join(f"{d}d" for d in about.dims) for family, about in FAMILIES.items() if family not in BARE]
    raise ArgumentError(
        build("explain", f"one of {', '.join(kinds)}, {', '.join(BARE)}, layernorm2d", repr(layer), hint=fix)
    )


def _check_options(layer: str, about: Family, options: dict[str, Any]) -> None:
    for name in options:
        if name not in about.needs + about.takes:
            known = ", ".join(about.needs + about.takes)
            raise ArgumentError(build("explain", f"{layer} with {known or 'no option'}", name, hint="Leave it away."))
    for name in about.needs:
        if name not in options:
            hint = f"Add one, as {'3' if name == 'kernel' else '2' if name == 'groups' else '16'}."
            raise ArgumentError(build("explain", f"{layer} with its {name}", "none", hint=hint))
    for name in ("out", "middle", "groups"):
        value = options.get(name, 1)
        if not is_int(value) or not 1 <= value <= MOST:
            raise ArgumentError(
                build("explain", f"{name} from 1 to 2^31", repr(value), hint=f"Choose a whole number for {name}.")
            )


def _shape(layer: str, family: str, dims: int, given: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(given)
    norm = family in BARE
    if not norm and len(shape) == dims + 1:
        shape = (1, *shape)
    example = "16x64x56x56" if norm else "x".join(("16", "64", *("56",) * dims))
    if norm and (len(shape) < 2 or (dims and len(shape) != 4)):
        expects = f"an input of {'4' if dims else '2 or more'} numbers"
        raise ArgumentError(
            build("explain", expects, sizes(shape) or "none", hint=f"Write batch, channels and axes, as {example}.")
        )
    if not norm and len(shape) != dims + 2:
        expects = f"an input of {dims + 1} or {dims + 2} numbers"
        raise ArgumentError(
            build("explain", expects, sizes(shape) or "none", hint=f"Write batch, channels and axes, as {example}.")
        )
    if not all(is_int(n) and n >= 1 for n in shape):
        raise ArgumentError(
            build("explain", "an input of whole numbers from 1 on", sizes(given), hint=f"Write as {example}.")
        )
    _check_room("x", shape)
    return shape


def _check_room(what: str, shape: Sequence[int]) -> None:
    if prod(shape) > MOST:
        raise ArgumentError(
            build("explain", f"{what} of at most 2^31 values", sizes(shape), hint="Choose smaller numbers.")
        )


# ------------------------------------------------------------------------------------------------------------- geometry


def _step(
    name: str,
    kind: str,
    shape: Sequence[int],
    out: int,
    kernel: Any,
    options: dict[str, Any],
    groups: int = 1,
    bias: bool = True,
) -> Step:
    """A step, checked as the layer itself checks its arguments."""
    dims = len(shape) - 2
    size = per_axis(kernel, dims, 1, "kernel", "explain", tuple(shape))
    for what, count in (("input", shape[1]), ("output", out)):
        if count % groups:
            expects = f"groups that divide the {count} {what} channels"
            raise ArgumentError(build("explain", expects, groups, hint="Choose a divisor.", x=tuple(shape)))
    padding = options.get("padding", 0)
    geometry: tuple[Any, ...] = (options.get("stride", 1), padding)
    if kind == "transposed":
        weight = (shape[1], out // groups, *size)
        geometry += (options.get("output_padding", 0), options.get("dilation", 1), groups)
    else:
        weight = (out, shape[1] // groups, *size)
        geometry += (options.get("dilation", 1), groups)
    _check_room("a weight", weight)
    x, w = (torch.empty(tuple(s), device="meta") for s in (shape, weight))
    plan = convolutions.geometry_for(x, w, None, *geometry, dims=dims, where="explain", transposed=kind == "transposed")
    step = Step(name, kind, plan, bias, padding)
    _check_room("y", step.y_shape)
    _check_room("a weight", step.weight_shape)
    return step


def _steps(family: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]) -> list[Step]:
    """The convolutions that the layer is made of, in their order."""
    channels, bias = shape[1], options.get("bias", True)
    out = options.get("out", channels)
    kernel = options.get("kernel", 3)
    one: dict[str, Any] = {}
    if family == "depthwise":
        if out % channels:
            hint = "Choose a multiple, or leave it away for as many."
            raise ArgumentError(build("explain", f"out to be a multiple of the {channels} channels", out, hint=hint))
        return [_step("", "conv", shape, out, kernel, options, channels, bias)]
    if family == "separable":
        first = _step("depthwise", "conv", shape, channels, kernel, options, channels, bias)
        return [first, _step("pointwise", "conv", first.y_shape, out, 1, one, 1, bias)]
    if family == "bottleneck":
        first = _step("reduce", "conv", shape, options.get("middle", max(1, out // 4)), 1, one, 1, bias)
        return [first, _step("conv", "conv", first.y_shape, out, kernel, options, 1, bias)]
    if family == "spatial":
        high, wide = per_axis(kernel, 2, 1, "kernel", "explain", shape)
        down, along = _split(options, shape)
        first = _step("vertical", "conv", shape, options.get("middle", out), (high, 1), down, 1, False)
        return [first, _step("horizontal", "conv", first.y_shape, out, (1, wide), along, 1, bias)]
    kind = {"conv": "conv", "convtranspose": "transposed", "local": "local"}[family]
    return [_step("", kind, shape, out, kernel, options, options.get("groups", 1), bias)]


def _split(options: dict[str, Any], shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A window's options for its rows alone and for its columns alone."""
    down: dict[str, Any] = {}
    along: dict[str, Any] = {}
    for name, none in (("stride", 1), ("padding", 0), ("dilation", 1)):
        value = options.get(name, none)
        if isinstance(value, str):
            down[name] = along[name] = value
        else:
            first, second = per_axis(value, 2, none, name, "explain", shape)
            down[name], along[name] = (first, none), (none, second)
    return down, along


def _by_axis(axes: Sequence[T], tell: Callable[[T], str]) -> list[Row]:
    """A row for each axis, or one for all that read alike."""
    told: dict[str, list[str]] = {}
    for axis, label in zip(axes, AXES[len(axes)], strict=True):
        told.setdefault(tell(axis), []).append(label)
    return [(", ".join(which), text) for text, which in told.items()]


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".").replace("-", "−")


def _padding(axis: Axis) -> str:
    return f"2·{axis.before:,}" if axis.before == axis.after else f"{axis.before:,} + {axis.after:,}"


def _size(axis: Axis, rounds_up: bool = False) -> str:
    """``32 = ⌊(32 + 2·2 − 5)/1⌋ + 1``, and what is left over."""
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
    """What no window sees, as ``; the last 1 of the 32 is never seen``."""
    seen = (axis.output - 1) * axis.stride + axis.extent - axis.before
    unseen = max(0, axis.input - seen)
    told = f"; the last {unseen:,} of the {axis.input:,} {'is' if unseen == 1 else 'are'} never seen" if unseen else ""
    if axis.stride > axis.extent and axis.output > 1:
        told += f"; between windows {axis.stride - axis.extent:,} of each {axis.stride:,} are skipped"
    return told


def dropped(axis: Axis) -> int:
    """Inputs at the end that no window reaches, because the division was rounded down.

    >>> dropped(Axis(input=32, output=15, size=3, stride=2))
    1
    """
    return max(0, axis.input - ((axis.output - 1) * axis.stride + axis.extent - axis.before))


def _spread_out(axis: Axis) -> str:
    """A transposed convolution's ``32 = (16 − 1)·2 − 2·1 + 1·(3 − 1) + 1 + 1``."""
    extra = axis.input - ((axis.output - 1) * axis.stride - 2 * axis.before + axis.extent)
    taps = f"{axis.dilation:,}·({axis.size:,} − 1)"
    return f"{axis.input:,} = ({axis.output:,} − 1)·{axis.stride:,} − 2·{axis.before:,} + {taps} + {extra:,} + 1"


def _output_size(steps: Sequence[Step]) -> list[Part]:
    """A part for each step."""
    parts = []
    for step in steps:
        axes, same = step.plan.window.axes, step.padding == "same"
        if step.kind == "transposed" and same:
            formula, rows = "input·stride", _by_axis(axes, lambda a: f"{a.input:,} = {a.output:,}·{a.stride:,}")
        elif step.kind == "transposed":
            formula = "(input − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1"
            rows = _by_axis(axes, _spread_out)
        else:
            formula = _formula(axes)
            rows = (_by_axis(axes, _same) if same else []) + _by_axis(axes, _size)
        parts.append(Part(f"Output size{step.name and ', ' + step.name} = {formula}", tuple(rows)))
    return parts


def _formula(axes: Sequence[Axis], rounds_up: bool = False) -> str:
    """Of the size, with the letters that these axes need."""
    pads = "before + after" if any(a.before != a.after for a in axes) else "2·padding"
    window = "dilation·(kernel − 1) − 1" if any(a.dilation > 1 for a in axes) else "kernel"
    left, right = "⌈⌉" if rounds_up else "⌊⌋"
    return f"{left}(input + {pads} − {window})/stride{right} + 1"


def _same(axis: Axis) -> str:
    total = axis.before + axis.after
    need = f"({axis.output:,} − 1)·{axis.stride:,} + {axis.extent:,} − {axis.input:,}"
    count = f"⌈{axis.input:,}/{axis.stride:,}⌉ = {axis.output:,}"
    if (axis.output - 1) * axis.stride + axis.extent <= axis.input:
        return f'padding "same": {count} outputs need no padding'
    return (
        f'padding "same": {count} outputs need {need} = {total:,} values more, {axis.before:,} before and '
        f'{axis.after:,} behind'
    )


# --------------------------------------------------------------------------------------------------------- convolutions


def _times(numbers: Sequence[int]) -> str:
    return "·".join(f"{n:,}" for n in numbers)


def _outputs(shape: Sequence[int]) -> str:
    """Its sizes multiplied; a batch of one left out."""
    return _times(shape[1:] if shape[0] == 1 else shape)


def _named(step: Step, label: str) -> str:
    return f"{step.name}, {label}" if step.name else label


def _in_group(step: Step) -> str:
    """The channels that a filter sees (that an input's value is spread over, of a transposed one)."""
    p = step.plan
    return f"{p.channels:,}" if p.groups == 1 else "1" if p.groups == p.channels else f"({p.channels:,}/{p.groups:,})"


def _parameters(steps: Sequence[Step]) -> Part:
    rows: list[Row] = []
    for step in steps:
        p, plus = step.plan, " + 1" if step.bias else ""
        each = prod(p.weight_shape[1:])
        formula = f"{_in_group(step)}·{_times(p.size)}"
        if step.kind == "transposed":
            rows.append((_named(step, "weights"), f"{p.filters:,}·{formula} = {prod(step.weight_shape):,}"))
            if step.bias:
                weights, biases = prod(step.weight_shape), prod(step.bias_shape)
                rows.append((_named(step, "with biases"), f"{weights:,} + {biases:,} = {step.parameters:,}"))
            continue
        one = f"{formula}{plus} = {each + step.bias:,}"
        if step.kind == "local":
            rows.append(("one filter at one position", one))
            rows.append(("filters × positions", f"{_times(p.y_shape[1:])} = {prod(p.y_shape[1:]):,}"))
            rows.append(("all", f"{each + step.bias:,} × {prod(p.y_shape[1:]):,} = {step.parameters:,}"))
        else:
            rows.append((_named(step, "one filter"), one))
            rows.append((_named(step, "all filters"), f"{each + step.bias:,} × {p.filters:,} = {step.parameters:,}"))
    if len(steps) > 1:
        rows.append(
            ("together", f"{' + '.join(f'{s.parameters:,}' for s in steps)} = {sum(s.parameters for s in steps):,}")
        )
    biased = [s.bias for s in steps]
    about = " = channels · taps + 1 for the bias" if all(biased) else " = channels · taps"
    about = "" if steps[0].kind == "transposed" or len(set(biased)) > 1 else f": a filter{about}"
    return Part(f"Parameters{about}", tuple(rows))


def _multiply_adds(steps: Sequence[Step]) -> Part:
    rows: list[Row] = []
    for step in steps:
        p = step.plan
        each, count = prod(p.weight_shape[1:]), prod(p.y_shape)
        source = "input" if step.kind == "transposed" else "output"
        rows.append((_named(step, f"one {source}"), f"{_in_group(step)}·{_times(p.size)} = {each:,}"))
        rows.append((_named(step, f"{source}s"), f"{_outputs(p.y_shape)} = {count:,}"))
        rows.append((_named(step, "all"), f"{each:,} × {count:,} = {step.macs:,}"))
    total, inside = sum(s.macs for s in steps), sum(s.macs_inside for s in steps)
    if len(steps) > 1:
        rows.append(("together", f"{' + '.join(f'{s.macs:,}' for s in steps)} = {total:,}"))
    rows.append(("in FLOPs", f"{total:,} if a MAC counts as one, {FLOPS_PER_MAC * total:,} if as two; both are in use"))
    if inside != total:
        told = f"{inside:,} without the taps in the padding"
        if steps[0].kind == "transposed":
            told = f"{inside:,} without the products that fall outside the output"
        if len(steps) == 1:
            p = steps[0].plan
            taps = _times([a.tap_count for a in p.window])
            batch = f"{p.batch:,}·" if p.batch > 1 else ""
            told = f"{batch}{p.filters:,}·{_in_group(steps[0])} × {taps} = {told}"
        rows.append(("inside", told))
    return Part("Multiply-adds (MACs)", tuple(rows))


def _memory(steps: Sequence[Step]) -> Part:
    through, _ = worked.letters(len(steps))
    rows: list[Row] = []
    for name, shape in zip(through, [steps[0].x_shape, *(s.y_shape for s in steps)], strict=True):
        rows.append((name, f"{_outputs(shape)} × {BYTES} = {BYTES * prod(shape):,} bytes"))
    count = sum(s.parameters for s in steps)
    rows.append(("parameters", f"{count:,} × {BYTES} = {BYTES * count:,} bytes"))
    return Part(f"Memory, {BYTES} bytes a float32", tuple(rows))


def _backward(steps: Sequence[Step]) -> Part:
    """Of each step its three gradients, the last step's first."""
    through, numbers = worked.letters(len(steps))
    rows: list[Row] = []
    for place in reversed(range(len(steps))):
        step, x, y, n = steps[place], f"d{through[place]}", f"d{through[place + 1]}", numbers[place]
        how = f"{y} convolved with W{n} turned by 180°"
        if step.kind == "transposed":
            how = f"the plain convolution of {y} with W{n}"
        elif step.kind == "local":
            how = f"each {y} times the weights of its own position"
        elif any(s > 1 for s in step.plan.stride):
            how += ", its values a stride apart"
        weight = f"{through[place]} correlated with {y}"
        if step.kind == "local":
            weight = f"each {y} times what it saw, not summed over positions"
        rows.append((f"{x} {sizes(step.x_shape)}", f"{step.macs:,} MACs: {how}"))
        rows.append((f"dW{n} {sizes(step.weight_shape)}", f"{step.macs:,} MACs: {weight}"))
        if step.bias:
            over = "the batch" if step.kind == "local" else "the batch and all positions"
            rows.append(
                (f"db{n} {sizes(step.bias_shape)}", f"{prod(step.y_shape):,} additions: {y} summed over {over}")
            )
    total = sum(s.macs for s in steps)
    rows.append(
        (
            "together",
            f"{2 * total:,} MACs, twice forward; {2 * total - steps[0].macs:,} where x needs no gradient (a first "
            "layer)",
        )
    )
    return Part("Backward, from dy of y's shape", tuple(rows))


def _fields(steps: Sequence[Step]) -> list[Field]:
    fields = []
    for d in range(steps[0].plan.dims):
        found = Field()
        for step in steps:
            axis = step.plan.window.axes[d]
            found = found.then(axis.look_back if step.kind == "transposed" else axis.look)
        fields.append(found)
    return fields


def _field_facts(fields: Sequence[Field]) -> dict[str, list[float]]:
    jumps = [f.jump if isinstance(f.jump, int) else float(f.jump) for f in fields]
    return {
        "size": [f.size for f in fields],
        "jump": list(jumps),
        "offset": [f.start if f.span(0) else 0 for f in fields],
    }


def _receptive(windows: Sequence[Window], fields: Sequence[Field], transposed: bool = False) -> Part:
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
    return Part(f"Receptive field{formula}", tuple(_by_axis(range(len(fields)), tell)))


def _standard(family: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]) -> Step | None:
    """The plain convolution that the layer stands for, or None if it is one itself."""
    if family not in ("separable", "spatial", "bottleneck", "local", "depthwise"):
        return None
    out, kernel = options.get("out", shape[1]), options.get("kernel", 3)
    return _step("", "conv", shape, out, kernel, options, 1, options.get("bias", True))


def _against(family: str, steps: Sequence[Step], standard: Step) -> Part:
    p = standard.plan
    parameters, macs = sum(s.parameters for s in steps), sum(s.macs for s in steps)
    plain = f"convolution {p.channels:,}→{p.filters:,}, {sizes(p.size)}"
    table = [["", "parameters", "MACs"], [plain, f"{standard.parameters:,}", f"{standard.macs:,}"]]
    table += [[step.name, f"{step.parameters:,}", f"{step.macs:,}"] for step in steps if len(steps) > 1]
    table.append(["together" if len(steps) > 1 else "this layer", f"{parameters:,}", f"{macs:,}"])
    table.append(["convolution / this", _ratio(standard.parameters, parameters), _ratio(standard.macs, macs)])
    rows: list[Row] = [(None, "\n".join(columns(table, "<>>", WIDTH - 2, {})))]
    if family == "separable":
        square = len(set(p.size)) == 1
        power = f"K{'' if p.dims == 1 else '²³'[p.dims - 2]}" if square else "taps"
        k = f"{p.size[0]:,}{'' if p.dims == 1 else '²³'[p.dims - 2]}" if square else f"{p.taps:,}"
        put_in = f"{k}·{p.filters:,}/({k} + {p.filters:,})"
        exact = p.taps * p.filters / (p.taps + p.filters)
        rows.append(("ratio of MACs", f"{power}·C_out/({power} + C_out) = {put_in} = {exact:.2f}"))
    elif family == "spatial":
        middle = steps[0].plan.filters
        here = f"; {middle:,} middle channels add up as many." if middle > 1 else ", as here."
        rows.append(("", f"A {sizes(p.size)} kernel is one column times one row only if its rank is 1{here}"))
    elif family == "local":
        rows.append(
            ("", f"No weight is shared: as many filters as positions, {_times(p.output)} = {prod(p.output):,}.")
        )
    return Part(f"Against one convolution of the same {'window' if p.taps > 1 else 'size'}", tuple(rows))


def _ratio(standard: int, this: int) -> str:
    return f"{standard / this:.2f}" if standard >= this / 100 else f"{standard / this:.2g}"


def _spread(values: Sequence[int]) -> str:
    return sizes(values) if len(set(values)) > 1 else f"{values[0]}"


def _title(
    layer: str,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Any,
    dilation: Sequence[int],
    channels: str,
    more: str,
) -> str:
    told = [f"{layer} {channels}{sizes(size) if len(size) > 1 else f'{size[0]} taps'}", f"stride {_spread(stride)}"]
    told.append(f"padding {padding if isinstance(padding, str) else _spread(padding)}")
    if any(d > 1 for d in dilation):
        told.append(f"dilation {_spread(dilation)}")
    return ", ".join(told) + more


def _convolution(
    layer: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Part]]:
    family = layer[:-2]
    steps = _steps(family, shape, dims, options)
    standard = _standard(family, shape, dims, options)
    parameters, macs = sum(s.parameters for s in steps), sum(s.macs for s in steps)
    fields = _fields(steps)
    transposed = steps[0].kind == "transposed"
    parts = [*_output_size(steps), _parameters(steps), _multiply_adds(steps), _memory(steps), _backward(steps)]
    parts.append(_receptive([s.plan.window for s in steps], fields, transposed))
    facts: dict[str, Any] = {
        "output_shape": list(steps[-1].y_shape),
        "parameters": parameters,
        "parameter_bytes": BYTES * parameters,
        "macs": macs,
        "flops": FLOPS_PER_MAC * macs,
        "macs_inside": sum(s.macs_inside for s in steps),
        "backward_macs": 2 * macs,
        "activation_bytes": BYTES * sum(prod(s.y_shape) for s in steps),
        "receptive_field": _field_facts(fields),
        "dropped": [0 if transposed else max(dropped(s.plan.window.axes[d]) for s in steps) for d in range(dims)],
        "steps": [
            {
                "name": s.name or layer,
                "weight_shape": list(s.weight_shape),
                "bias_shape": list(s.bias_shape) if s.bias else None,
                "output_shape": list(s.y_shape),
                "parameters": s.parameters,
                "macs": s.macs,
            }
            for s in steps
        ],
    }
    if standard is not None:
        parts.append(_against(family, steps, standard))
        facts["standard"] = {"parameters": standard.parameters, "macs": standard.macs}
    p = (steps[0] if family != "bottleneck" else steps[1]).plan
    out = steps[-1].y_shape[1]
    through = (
        f"{shape[1]}→{steps[0].plan.filters}→{out}, " if family in ("bottleneck", "spatial") else f"{shape[1]}→{out}, "
    )
    more = f", {p.groups} groups" if p.groups > 1 and family in ("conv", "convtranspose", "depthwise") else ""
    more += "" if options.get("bias", True) else ", no bias"
    size, stride, dilation = p.size, p.stride, p.dilation
    padding: Any = options.get("padding", 0)
    padding = padding if isinstance(padding, str) else per_axis(padding, dims, 0, "padding", "explain", shape)
    if family == "spatial":
        q = steps[1].plan
        size, stride, dilation = (p.size[0], q.size[1]), (p.stride[0], q.stride[1]), (p.dilation[0], q.dilation[1])
    return _title(layer, size, stride, padding, dilation, through, more), facts, parts


def _methods(plan: convolutions.ConvGeometry, channels_last: bool) -> tuple[Part, dict[str, list[list[str | None]]]]:
    """By which method each pass is computed, and the reasons against those that were asked before."""
    padding = "same" if plan.before != plan.after else plan.before
    told = convolutions.explain_methods(
        plan.x_shape,
        plan.weight_shape,
        plan.stride,
        padding,
        plan.dilation,
        groups=plan.groups,
        channels_last=channels_last,
    )
    rows: list[Row] = []
    for pass_, methods in told.items():
        lines = [f"{METHODS_OF[pass_]}: {methods[-1][0]}"]
        for name, reason in methods[:-1]:
            lines += textwrap.wrap(f"not {name}: {reason}", WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
        rows.append((None, "\n".join(lines)))
    order = "channels" if channels_last and plan.dims > 1 else "planes"
    return Part(f"Method, of x in {order} order", tuple(rows)), {
        KEYS[pass_]: [list(pair) for pair in pairs] for pass_, pairs in told.items()
    }


# -------------------------------------------------------------------------------------------------------------- pooling


def _pool_window(shape: tuple[int, ...], dims: int, options: dict[str, Any]) -> Window:
    x = torch.empty(shape, device="meta")
    size, step, pads, holes = (
        options["kernel"],
        options.get("stride"),
        options.get("padding", 0),
        options.get("dilation", 1),
    )
    size = per_axis(size, dims, 1, "kernel", "explain", shape)
    found = pool.geometry_for(x, dims, size, step, pads, holes, options.get("ceil", False), "explain").window
    assert isinstance(found, Window)
    return found


def divisors(window: Window, include_pad: bool) -> dict[int, int]:
    """What average pooling divides by, and how many of the windows by that.

    >>> divisors(Window((Axis(5, 3, size=3, stride=2, before=1, after=1),) * 2), include_pad=False)
    {4: 4, 6: 4, 9: 1}
    """
    found = Counter({1: 1})
    for axis in window:
        along = Counter(axis.counted(o, include_pad) for o in axis.edges) + Counter({axis.size: len(axis.interior)})
        found = _multiply(found, along)
    return dict(sorted(found.items()))


def _multiply(a: Counter[int], b: Counter[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for m, times in a.items():
        for n, more in b.items():
            found[m * n] += times * more
    return found


def _pooling(
    layer: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Part]]:
    window = _pool_window(shape, dims, options)
    maximum, rounds_up, include = (
        layer.startswith("max"),
        options.get("ceil", False),
        options.get("count_include_pad", True),
    )
    y = (*shape[:2], *window.output)
    axes = window.axes
    rows: list[Row] = []
    if options.get("padding") == "same":
        rows += _by_axis(axes, _same)
    rows += _by_axis(axes, lambda axis: _size(axis, rounds_up))
    parts = [Part(f"Output size = {_formula(axes, rounds_up)}", tuple(rows))]
    taps, count, kept = window.taps, prod(y), f"{_outputs(y)}"
    each = "comparisons" if maximum else "additions"
    cost: list[Row] = [("parameters", "0"), (each, f"({_times(window.size)} − 1) × {kept} = {(taps - 1) * count:,}")]
    if not maximum:
        cost.append(("divisions", f"{count:,}, one an output"))
    parts.append(Part("Cost", tuple(cost)))
    facts: dict[str, Any] = {
        "output_shape": list(y),
        "parameters": 0,
        "parameter_bytes": 0,
        "macs": 0,
        "flops": 0,
        "backward_macs": 0,
    }
    facts[each] = (taps - 1) * count
    if not maximum:
        found = divisors(window, include)
        facts["divisors"] = {str(n): times for n, times in found.items()}
        told = "; ".join(
            f"{n:,} in {times:,} of the {prod(window.output):,} windows" for n, times in reversed(found.items())
        )
        told = f"{_times(window.size)} = {taps:,} in every window" if list(found) == [taps] else told
        about = "taps in the padding count too" if include else "only taps inside the input count"
        parts.append(Part(f"Divisor: {about}", (("", told),)))
    memory: list[Row] = [
        (n, f"{_outputs(s)} × {BYTES} = {BYTES * prod(s):,} bytes") for n, s in (("x", shape), ("y", y))
    ]
    if maximum:
        size = (
            "1 byte an output, the tap that won (torch: 8)"
            if taps <= pool.MAX_TAPS
            else "8 bytes an output, the place that won"
        )
        memory.append(("kept", f"{size}, for the backward pass"))
    facts["activation_bytes"] = BYTES * count
    parts.append(Part(f"Memory, {BYTES} bytes a float32", tuple(memory)))
    overlap = any(a.stride < a.extent for a in axes)
    meet = " Windows overlap: an input collects from all that saw it." if overlap else ""
    how = "each dy goes to the element that won, the first of equal ones; the others get 0."
    if not maximum:
        how = "each dy is shared out evenly: dy / divisor to every element of its window."
    parts.append(Part("Backward, from dy of y's shape", ((f"dx {sizes(shape)}", how + meet),)))
    fields = [Field().then(a.look) for a in axes]
    parts.append(_receptive([window], fields))
    facts |= {"receptive_field": _field_facts(fields), "dropped": [dropped(a) for a in axes]}
    padding = options.get("padding", 0)
    padding = padding if isinstance(padding, str) else window.before
    more = (", rounded up" if rounds_up else "") + ("" if include else ", padding not counted")
    return _title(layer, window.size, window.stride, padding, window.dilation, "", more), facts, parts


# ---------------------------------------------------------------------------------------------------------------- norms


class Measured(NamedTuple):
    """What a norm measures: over which axes, in letters, once for each of what; the sizes whose product is the number
    of values in a statistic, and of statistics.
    """

    over: str
    per: str
    values_of: tuple[int, ...]
    count_of: tuple[int, ...]

    @property
    def values(self) -> int:
        return prod(self.values_of)


def _counted(sizes_of: Sequence[int]) -> str:
    return f"{_times(sizes_of)} = {prod(sizes_of):,}" if len(sizes_of) > 1 else f"{prod(sizes_of):,}"


def _measured(layer: str, shape: tuple[int, ...], options: dict[str, Any]) -> Measured:
    n, c, *rest = shape
    axes = tuple(rest)
    letters = {0: "", 1: ", L", 2: ", H, W", 3: ", D, H, W"}.get(len(axes), ", all axes")
    if layer == "batchnorm":
        return Measured(f"N{letters}", "channel", (n, *axes), (c,))
    if layer == "layernorm":
        return Measured(f"C{letters}", "sample", (c, *axes), (n,))
    if layer == "layernorm2d":
        return Measured("C", "sample and place", (c,), (n, *axes))
    if layer == "instancenorm":
        return Measured(letters[2:], "sample and channel", axes, (n, c))
    groups = options["groups"]
    if c % groups:
        raise ArgumentError(
            build("explain", f"groups that divide the {c} channels", groups, hint="Choose a divisor.", x=shape)
        )
    return Measured(f"C/{groups}{letters}", "sample and group", (c // groups, *axes), (n, groups))


def _norm(
    layer: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Part]]:
    m = _measured(layer, shape, options)
    if m.values == 1 and not layer.startswith("layernorm"):  # of a layer norm it is β, and torch takes it
        hint = "A lone value is its own mean: give more."
        raise ShapeError(build("explain", f"more than one value for each {m.per}", 1, hint=hint, x=shape))
    scaled = shape[1:] if layer == "layernorm" else shape[1:2]
    running = 2 * shape[1] if layer == "batchnorm" else 0
    affine = layer != "instancenorm"
    parameters = 2 * prod(scaled) if affine else 0
    parts = [
        Part(
            "Measured",
            (
                ("over", f"({m.over}), once for each {m.per}"),
                ("statistics", f"{_counted(m.count_of)} means μ and as many variances σ²"),
                ("values in each", _counted(m.values_of)),
            ),
        ),
        Part(
            "Formula",
            (
                ("μ", f"Σ x / {m.values:,}"),
                ("σ²", f"Σ (x − μ)² / {m.values:,}, the biased variance"),
                ("y", "γ·(x − μ)/√(σ² + ε) + β, with ε = 0.00001"),
            ),
        ),
    ]
    told: list[Row] = []
    if affine:
        told.append(("γ and β", f"2 × {_times(scaled)} = {parameters:,}; they start at 1 and 0"))
    else:
        told.append(("γ and β", f"none unless affine=True, then 2 × {shape[1]:,} = {2 * shape[1]:,}"))
    if running:
        told.append(
            ("running", f"2 × {shape[1]:,} = {running:,}, mean and variance, and a count of batches; not trained")
        )
        told.append(
            ("", f"running ← 0.9·running + 0.1·batch, of the unbiased variance: σ²·{m.values:,}/{m.values - 1:,}")
        )
    parts.append(Part("Parameters", tuple(told)))
    evaluation = "the same: nothing is kept from training"
    if running:
        evaluation = (
            "μ and σ² are the running ones: linear in x, y = a·x + b, so it folds into the convolution before it"
        )
    elif not affine:
        evaluation = "the same, unless track_running_stats=True keeps running statistics"
    parts.append(Part("Evaluation", (("", evaluation),)))
    count = prod(shape)
    memory: list[Row] = [(name, f"{_outputs(shape)} × {BYTES} = {BYTES * count:,} bytes") for name in "xy"]
    memory.append(("parameters", f"{parameters:,} × {BYTES} = {BYTES * parameters:,} bytes"))
    parts.append(Part(f"Memory, {BYTES} bytes a float32", tuple(memory)))
    back: list[Row] = [
        (f"dx {sizes(shape)}", f"(g − mean(g) − x̂·mean(g·x̂))/√(σ² + ε), g = γ·dy, means over ({m.over})")
    ]
    if affine:
        back += [(f"dγ {sizes(scaled)}", "Σ dy·x̂"), (f"dβ {sizes(scaled)}", "Σ dy")]
    back.append(("", f"dx sums to 0 over what is measured{'; in evaluation dx = γ·dy/√(σ² + ε)' if running else ''}."))
    parts.append(Part("Backward, from dy of y's shape", tuple(back)))
    facts = {
        "output_shape": list(shape),
        "parameters": parameters,
        "parameter_bytes": BYTES * parameters,
        "running_values": running,
        "statistics": prod(m.count_of),
        "values_per_statistic": m.values,
        "macs": 0,
        "flops": 0,
        "backward_macs": 0,
        "activation_bytes": BYTES * count,
    }
    groups = f", {options['groups']} groups" if layer == "groupnorm" else ""
    return f"{layer} of {shape[1]} channels{groups}", facts, parts


Explainer = Callable[[str, tuple[int, ...], int, dict[str, Any]], tuple[str, dict[str, Any], list[Part]]]
_EXPLAINERS: dict[str, Explainer] = {
    **{
        family: _convolution
        for family in ("conv", "depthwise", "separable", "spatial", "bottleneck", "convtranspose", "local")
    },
    **{family: _pooling for family in ("maxpool", "avgpool")},
    **{family: _norm for family in BARE},
}
