"""The convolutions that a layer is made of, one after the other, with their geometry resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ...errors import ArgumentError, build
from ...graph.cost import Macs, conv_macs
from ...ops import conv as convolutions
from ...ops.arguments import per_axis
from .families import check_room

__all__ = ["Step", "standard_of", "steps_of", "tensor_names"]

@dataclass(frozen=True)
class Step:
    """A convolution in a layer, its geometry resolved. kind: "conv", "transposed" or "local"; padding: as it was given.

    The plan of a transposed convolution is that of the plain convolution whose adjoint it is, so its output is this
    step's input.
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
        return self._counted.all

    @property
    def macs_inside(self) -> int:
        """Leaves out the taps in the padding; of a transposed convolution the products that fall outside its output."""
        return self._counted.inside

    @property
    def _counted(self) -> Macs:
        p = self.plan
        return conv_macs(p.window, p.batch, p.channels, p.filters, p.groups)


def _resolved(
    name: str,
    kind: str,
    shape: Sequence[int],
    out: int,
    kernel: Any,
    options: dict[str, Any],
    groups: int = 1,
    bias: bool = True,
) -> Step:
    """Makes a step, checked as the layer itself checks its arguments."""
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
    check_room("a weight", weight)
    x, w = (torch.empty(tuple(s), device="meta") for s in (shape, weight))
    plan = convolutions.geometry_for(x, w, None, *geometry, dims=dims, where="explain", transposed=kind == "transposed")
    step = Step(name, kind, plan, bias, padding)
    check_room("y", step.y_shape)
    check_room("a weight", step.weight_shape)
    return step


def steps_of(family: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]) -> list[Step]:
    """The convolutions that the layer is made of, in their order."""
    channels, bias = shape[1], options.get("bias", True)
    out = options.get("out", channels)
    kernel = options.get("kernel", 3)
    one: dict[str, Any] = {}
    if family == "depthwise":
        if out % channels:
            hint = "Choose a multiple, or leave it away for as many."
            raise ArgumentError(build("explain", f"out to be a multiple of the {channels} channels", out, hint=hint))
        return [_resolved("", "conv", shape, out, kernel, options, channels, bias)]
    if family == "separable":
        first = _resolved("depthwise", "conv", shape, channels, kernel, options, channels, bias)
        return [first, _resolved("pointwise", "conv", first.y_shape, out, 1, one, 1, bias)]
    if family == "bottleneck":
        first = _resolved("reduce", "conv", shape, options.get("middle", max(1, out // 4)), 1, one, 1, bias)
        return [first, _resolved("conv", "conv", first.y_shape, out, kernel, options, 1, bias)]
    if family == "spatial":
        high, wide = per_axis(kernel, 2, 1, "kernel", "explain", shape)
        down, along = _split(options, shape)
        first = _resolved("vertical", "conv", shape, options.get("middle", out), (high, 1), down, 1, False)
        return [first, _resolved("horizontal", "conv", first.y_shape, out, (1, wide), along, 1, bias)]
    kind = {"conv": "conv", "convtranspose": "transposed", "local": "local"}[family]
    return [_resolved("", kind, shape, out, kernel, options, options.get("groups", 1), bias)]


def _split(options: dict[str, Any], shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a window's options into those of its rows and those of its columns."""
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


def standard_of(family: str, shape: tuple[int, ...], dims: int, options: dict[str, Any]) -> Step | None:
    """The plain convolution that the layer replaces, or None if it is one itself."""
    if family not in ("separable", "spatial", "bottleneck", "local", "depthwise"):
        return None
    out, kernel = options.get("out", shape[1]), options.get("kernel", 3)
    return _resolved("", "conv", shape, out, kernel, options, 1, options.get("bias", True))


def tensor_names(steps: int) -> tuple[list[str], list[str]]:
    """The names of the tensors between one step or two, x first, and the numbers behind W and b.

    >>> tensor_names(1), tensor_names(2)
    ((['x', 'y'], ['']), (['x', 'z', 'y'], ['1', '2']))
    """
    return (["x", "y"], [""]) if steps == 1 else (["x", "z", "y"], ["1", "2"])
