"""The arithmetic of every convolution: a plain, grouped, depthwise, transposed or locally connected one is one step, a
factored one two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import prod
from typing import Any

from ...graph.cost import FLOPS_PER_MAC
from ...ops import conv as convolutions
from ...ops.arguments import per_axis
from ...render.numbers import sizes
from ...render.text import columns
from ...window import Field
from .geometry import (
    by_axis,
    dropped,
    field_facts,
    output_formula,
    output_size,
    padding_same,
    product_of_sizes,
    receptive_field,
    times,
    title,
    transposed_output_size,
)
from .result import BYTES, WIDTH, Part, Row
from .steps import Step, standard_of, steps_of, tensor_names

__all__ = ["explain_convolution", "methods_part"]

PASS_NAMES = {"forward": "forward", "backward_data": "input gradient", "backward_weights": "weight gradient"}
KEYS = {"forward": "forward", "backward_data": "input", "backward_weights": "weight"}  # in a result's data


def explain_convolution(
    layer: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Part]]:
    family = layer[:-2]
    steps = steps_of(family, shape, dims, options)
    standard = standard_of(family, shape, dims, options)
    parameters, macs = sum(s.parameters for s in steps), sum(s.macs for s in steps)
    fields = _fields(steps)
    transposed = steps[0].kind == "transposed"
    parts = [*_output_size(steps), _parameters(steps), _multiply_adds(steps), _memory(steps), _backward(steps)]
    parts.append(receptive_field([s.plan.window for s in steps], fields, transposed))
    facts: dict[str, Any] = {
        "output_shape": list(steps[-1].y_shape),
        "parameters": parameters,
        "parameter_bytes": BYTES * parameters,
        "macs": macs,
        "flops": FLOPS_PER_MAC * macs,
        "macs_inside": sum(s.macs_inside for s in steps),
        "backward_macs": 2 * macs,
        "activation_bytes": BYTES * sum(prod(s.y_shape) for s in steps),
        "receptive_field": field_facts(fields),
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
    return title(layer, size, stride, padding, dilation, through, more), facts, parts


def _output_size(steps: Sequence[Step]) -> list[Part]:
    """Makes the output-size part of each step."""
    parts = []
    for step in steps:
        axes, same = step.plan.window.axes, step.padding == "same"
        if step.kind == "transposed" and same:
            formula, rows = "input·stride", by_axis(axes, lambda a: f"{a.input:,} = {a.output:,}·{a.stride:,}")
        elif step.kind == "transposed":
            formula = "(input − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1"
            rows = by_axis(axes, transposed_output_size)
        else:
            formula = output_formula(axes)
            rows = (by_axis(axes, padding_same) if same else []) + by_axis(axes, output_size)
        parts.append(Part(f"Output size{step.name and ', ' + step.name} = {formula}", tuple(rows)))
    return parts


def _named(step: Step, label: str) -> str:
    return f"{step.name}, {label}" if step.name else label


def _in_group(step: Step) -> str:
    """The channels that a filter reads, or that a transposed convolution spreads an input value over."""
    p = step.plan
    return f"{p.channels:,}" if p.groups == 1 else "1" if p.groups == p.channels else f"({p.channels:,}/{p.groups:,})"


def _parameters(steps: Sequence[Step]) -> Part:
    rows: list[Row] = []
    for step in steps:
        p, plus = step.plan, " + 1" if step.bias else ""
        each = prod(p.weight_shape[1:])
        formula = f"{_in_group(step)}·{times(p.size)}"
        if step.kind == "transposed":
            rows.append((_named(step, "weights"), f"{p.filters:,}·{formula} = {prod(step.weight_shape):,}"))
            if step.bias:
                weights, biases = prod(step.weight_shape), prod(step.bias_shape)
                rows.append((_named(step, "with biases"), f"{weights:,} + {biases:,} = {step.parameters:,}"))
            continue
        one = f"{formula}{plus} = {each + step.bias:,}"
        if step.kind == "local":
            rows.append(("one filter at one position", one))
            rows.append(("filters × positions", f"{times(p.y_shape[1:])} = {prod(p.y_shape[1:]):,}"))
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
        rows.append((_named(step, f"one {source}"), f"{_in_group(step)}·{times(p.size)} = {each:,}"))
        rows.append((_named(step, f"{source}s"), f"{product_of_sizes(p.y_shape)} = {count:,}"))
        rows.append((_named(step, "all"), f"{each:,} × {count:,} = {step.macs:,}"))
    total, inside = sum(s.macs for s in steps), sum(s.macs_inside for s in steps)
    if len(steps) > 1:
        rows.append(("together", f"{' + '.join(f'{s.macs:,}' for s in steps)} = {total:,}"))
    rows.append(("in FLOPs", f"{total:,} if a MAC counts as one, {FLOPS_PER_MAC * total:,} if as two; both are in use"))
    if inside != total:
        text = f"{inside:,} without the taps in the padding"
        if steps[0].kind == "transposed":
            text = f"{inside:,} without the products that fall outside the output"
        if len(steps) == 1:
            p = steps[0].plan
            taps = times([a.tap_count for a in p.window])
            batch = f"{p.batch:,}·" if p.batch > 1 else ""
            text = f"{batch}{p.filters:,}·{_in_group(steps[0])} × {taps} = {text}"
        rows.append(("inside", text))
    return Part("Multiply-adds (MACs)", tuple(rows))


def _memory(steps: Sequence[Step]) -> Part:
    through, _ = tensor_names(len(steps))
    rows: list[Row] = []
    for name, shape in zip(through, [steps[0].x_shape, *(s.y_shape for s in steps)], strict=True):
        rows.append((name, f"{product_of_sizes(shape)} × {BYTES} = {BYTES * prod(shape):,} bytes"))
    count = sum(s.parameters for s in steps)
    rows.append(("parameters", f"{count:,} × {BYTES} = {BYTES * count:,} bytes"))
    return Part(f"Memory, {BYTES} bytes a float32", tuple(rows))


def _backward(steps: Sequence[Step]) -> Part:
    """Describes the three gradients of each step, the last step's first."""
    through, numbers = tensor_names(len(steps))
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


def _against(family: str, steps: Sequence[Step], standard: Step) -> Part:
    p = standard.plan
    parameters, macs = sum(s.parameters for s in steps), sum(s.macs for s in steps)
    plain = f"convolution {p.channels:,}→{p.filters:,}, {sizes(p.size)}"
    table = [["", "parameters", "MACs"], [plain, f"{standard.parameters:,}", f"{standard.macs:,}"]]
    table += [[step.name, f"{step.parameters:,}", f"{step.macs:,}"] for step in steps if len(steps) > 1]
    table.append(["together" if len(steps) > 1 else "this layer", f"{parameters:,}", f"{macs:,}"])
    table.append(["convolution / this", _ratio(standard.parameters, parameters), _ratio(standard.macs, macs)])
    rows: list[Row] = [(None, "\n".join(columns(table, "<>>", WIDTH - 2)))]
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
            ("", f"No weight is shared: as many filters as positions, {times(p.output)} = {prod(p.output):,}.")
        )
    return Part(f"Against one convolution of the same {'window' if p.taps > 1 else 'size'}", tuple(rows))


def _ratio(standard: int, this: int) -> str:
    return f"{standard / this:.2f}" if standard >= this / 100 else f"{standard / this:.2g}"


def methods_part(
    plan: convolutions.ConvGeometry, channels_last: bool
) -> tuple[Part, dict[str, list[list[str | None]]]]:
    """Lists the method that computes each pass, and why the methods before it do not."""
    padding = "same" if plan.before != plan.after else plan.before
    reasons = convolutions.explain_methods(
        plan.x_shape,
        plan.weight_shape,
        plan.stride,
        padding,
        plan.dilation,
        groups=plan.groups,
        channels_last=channels_last,
    )
    rows: list[Row] = []
    for pass_, methods in reasons.items():
        lines = [f"{PASS_NAMES[pass_]}: {methods[-1][0]}"]
        for name, reason in methods[:-1]:
            lines += textwrap.wrap(f"not {name}: {reason}", WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
        rows.append((None, "\n".join(lines)))
    order = "channels" if channels_last and plan.dims > 1 else "planes"
    return Part(f"Method, of x in {order} order", tuple(rows)), {
        KEYS[pass_]: [list(pair) for pair in pairs] for pass_, pairs in reasons.items()
    }
