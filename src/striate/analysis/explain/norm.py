"""The arithmetic of normalization: which statistics are computed over which axes, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from ...errors import ArgumentError, ShapeError, build
from ...render.numbers import sizes
from .geometry import product_of_sizes, times
from .result import BYTES, Part, Row

__all__ = ["explain_norm"]

class Measured(NamedTuple):
    """What a norm measures. over: the axes it reduces, in letters; per: what has a statistic of its own; values_of,
    count_of: the sizes whose products are the values in a statistic and the number of statistics.
    """

    over: str
    per: str
    values_of: tuple[int, ...]
    count_of: tuple[int, ...]

    @property
    def values(self) -> int:
        return prod(self.values_of)


def _counted(sizes_of: Sequence[int]) -> str:
    return f"{times(sizes_of)} = {prod(sizes_of):,}" if len(sizes_of) > 1 else f"{prod(sizes_of):,}"


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


def explain_norm(
    layer: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Part]]:
    m = _measured(layer, shape, options)
    if m.values == 1 and not layer.startswith("layernorm"):  # a layer norm of one value returns β, which torch allows
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
    rows: list[Row] = []
    if affine:
        rows.append(("γ and β", f"2 × {times(scaled)} = {parameters:,}; they start at 1 and 0"))
    else:
        rows.append(("γ and β", f"none unless affine=True, then 2 × {shape[1]:,} = {2 * shape[1]:,}"))
    if running:
        rows.append(
            ("running", f"2 × {shape[1]:,} = {running:,}, mean and variance, and a count of batches; not trained")
        )
        rows.append(
            ("", f"running ← 0.9·running + 0.1·batch, of the unbiased variance: σ²·{m.values:,}/{m.values - 1:,}")
        )
    parts.append(Part("Parameters", tuple(rows)))
    evaluation = "the same: nothing is kept from training"
    if running:
        evaluation = (
            "μ and σ² are the running ones: linear in x, y = a·x + b, so it folds into the convolution before it"
        )
    elif not affine:
        evaluation = "the same, unless track_running_stats=True keeps running statistics"
    parts.append(Part("Evaluation", (("", evaluation),)))
    count = prod(shape)
    memory: list[Row] = [(name, f"{product_of_sizes(shape)} × {BYTES} = {BYTES * count:,} bytes") for name in "xy"]
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
