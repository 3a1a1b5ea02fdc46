"""The arithmetic of one layer, with its numbers put into the formulas: size, parameters, multiply-adds, memory,
gradients.

Multiply-adds (MACs) include the taps that fall into the padding; ``macs_inside`` leaves them out.

>>> explanation = explain("conv2d", (3, 32, 32), out=10, kernel=5, padding=2)
>>> explanation.facts["parameters"], explanation.facts["macs"]
(760, 768000)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...errors import ArgumentError, build, did_you_mean
from ...render.numbers import sizes
from . import worked
from .convolution import explain_convolution, methods_part
from .examples import EXAMPLES, Example
from .families import BARE, FAMILIES, Family, check_options, checked_shape, family_of, names
from .geometry import dropped
from .norm import explain_norm
from .pooling import divisors, explain_pooling, pooling_window
from .result import Explanation, Part
from .shrink import shrink
from .steps import Step, steps_of

__all__ = [
    "BARE",
    "EXAMPLES",
    "FAMILIES",
    "Example",
    "Explanation",
    "Family",
    "Part",
    "Step",
    "divisors",
    "dropped",
    "example",
    "explain",
    "names",
]

def explain(
    layer: str, shape: Sequence[int], *, small: bool = False, channels_last: bool = False, **options: Any
) -> Explanation:
    """The arithmetic of one layer on an input of one shape.

    layer: one of :func:`names`; shape: of x, (N, C, *axes), or (C, *axes) of one image where the layer's name says how
    many axes there are. options, as far as the layer has them: ``out`` channels, ``kernel``, ``stride``, ``padding``
    (numbers, "same" or "valid"), ``dilation`` (each one number, or one an axis), ``groups``, ``bias``, ``middle``
    channels, ``output_padding``, ``ceil``, ``count_include_pad``; None stands for the layer's own default.
    small: a smaller layer of the same kind is worked through beside it, cell by cell, forward and backward.
    channels_last: the memory order for which the methods of a convolution are listed.

    Raises ArgumentError, ArgumentTypeError or ShapeError for an unknown layer, and for options and numbers that it
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
    family, dims = family_of(layer)
    options = {name: value for name, value in options.items() if value is not None}
    check_options(layer, FAMILIES[family], options)
    x = checked_shape(layer, family, dims, shape)
    title, facts, parts = EXPLAINERS[family](layer, x, dims, options)
    facts = {"layer": layer, "options": options, "input_shape": list(x), **facts}
    values: dict[str, Any] = {}
    if small:
        smaller, fewer = shrink(family, x, dims, options)
        about, small_facts, _ = EXPLAINERS[family](layer, smaller, dims, fewer)
        opening = f"A smaller one worked through: {about}, x {sizes(smaller)} → y {sizes(small_facts['output_shape'])}"
        parts.append(Part(opening, (("", worked.LEGEND),)))
        facts["small"] = {"input_shape": list(smaller), "options": fewer}
        sections, values = _worked_parts(layer, family, smaller, dims, fewer)
        parts += sections
    if family in ("conv", "depthwise"):
        part, methods = methods_part(steps_of(family, x, dims, options)[0].plan, channels_last)
        parts.append(part)
        facts["methods"] = methods
    return Explanation(title, facts, tuple(parts), values)


def example(name: str) -> Explanation:
    """A worked example, one of :data:`EXAMPLES`.

    Raises ArgumentError for an unknown name.

    >>> example("conv1d").values["y"].tolist()
    [[[3.0, -4.0]]]
    """
    if name not in EXAMPLES:
        hint = f"Choose one of these.{did_you_mean(name, EXAMPLES)}"
        raise ArgumentError(build("explain", f"an example of {', '.join(EXAMPLES)}", repr(name), hint=hint))
    given = EXAMPLES[name]
    family, dims = family_of(given.layer)
    shape = tuple(given.x.shape)
    title, facts, parts = EXPLAINERS[family](given.layer, shape, dims, given.options)
    facts = {"layer": given.layer, "options": given.options, "input_shape": list(shape), **facts}
    shown = [Part("Example", (("", given.about), ("", worked.LEGEND)))]
    shown += [part for part in parts if part.title.startswith(("Output size", "Measured"))]
    more, values = _worked_parts(given.layer, family, shape, dims, given.options, given)
    if given.more is not None:
        heading, rows = given.more(values["y"])
        more.insert(1, Part(heading, tuple(rows)))
    return Explanation(title, facts, (*shown, *more), values)


def _worked_parts(
    layer: str,
    family: str,
    shape: tuple[int, ...],
    dims: int,
    options: dict[str, Any],
    given: Example | None = None,
) -> tuple[list[Part], dict[str, Any]]:
    """Works a layer through cell by cell, on small whole numbers where none are given."""
    x, weight, dy = (None, None, None) if given is None else (given.x, given.weight, given.dy)
    if family in BARE:
        sections, values = worked.normalization(layer, shape, options.get("groups", 1), x, dy)
    elif family.endswith("pool"):
        window = pooling_window(shape, dims, options)
        sections, values = worked.pooling(
            family == "maxpool", window, shape, options.get("count_include_pad", True), x, dy
        )
    else:
        sections, values = worked.convolution(steps_of(family, shape, dims, options), x, weight, dy)
    return [Part(heading, tuple(rows)) for heading, rows in sections], values


Explainer = Callable[[str, tuple[int, ...], int, dict[str, Any]], tuple[str, dict[str, Any], list[Part]]]
EXPLAINERS: dict[str, Explainer] = {
    **{
        family: explain_convolution
        for family in ("conv", "depthwise", "separable", "spatial", "bottleneck", "convtranspose", "local")
    },
    **{family: explain_pooling for family in ("maxpool", "avgpool")},
    **{family: explain_norm for family in BARE},
}
