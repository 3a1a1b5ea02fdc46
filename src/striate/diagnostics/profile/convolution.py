"""Describes the passes of a convolution layer: the problem of each, its method, and its work."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..._torch import ConvTransposeBase
from ...graph.cost import Macs, conv_macs
from ...nn import conv
from ...ops import conv as ops
from ...ops import gate
from ...ops.conv import ConvGeometry, ConvProblem
from ...ops.layout import is_channels_last
from ...ops.precision import is_strict
from .methods import Contest
from .work import Work

__all__ = ["contests_of", "macs_of", "problems_of", "work_of"]

# Maps the passes of a layer, as a profile names them, to those of a convolution operation.
PASSES = {"forward": "forward", "input": "backward_data", "weight": "backward_weights"}
# Maps the passes of a transposed convolution layer to those of a convolution: its forward is the input gradient of a
# convolution, and vice versa.
TRANSPOSED = {"forward": "input", "input": "forward", "weight": "weight"}


def problems_of(layer: Any, x: Tensor, more: bool) -> dict[str, ConvProblem] | None:
    """The problem of each pass of a convolution layer on x; None for a transposed one that receives an output size or
    has a padding mode other than zeros.

    more: whether the layer received more arguments than x.
    """
    dims, transposed = len(layer.kernel_size), isinstance(layer, ConvTransposeBase)
    if transposed and (more or layer.padding_mode != "zeros"):
        return None
    w = torch.empty_like(layer.weight, device="meta")

    def geometry_of(sizes: Iterable[int], padding: Any) -> ConvGeometry:
        given = torch.empty(tuple(sizes), dtype=w.dtype, device="meta")
        extra = [layer.output_padding] if transposed else []
        geometry = (layer.stride, padding, *extra, layer.dilation, layer.groups)
        return ops.geometry_for(given, w, None, *geometry, dims=dims, where=type(layer).__name__, transposed=transposed)

    plan = geometry_of(x.shape, layer.padding)
    if layer.padding_mode != "zeros":  # x is padded first, and the convolution itself has no padding
        padded = (i + p + q for i, p, q in zip(plan.input, plan.before, plan.after, strict=True))
        plan = geometry_of((*x.shape[:-dims], *padded), 0)
    refusal = gate.reason(x, layer.weight, layer.bias)
    asked = dims > 1 and getattr(layer, "_channels_last", False)
    last = refusal is None and (asked or ops.follows_channels_last(x, layer.weight))
    of_operation = {pass_: PASSES[TRANSPOSED[pass_] if transposed else pass_] for pass_ in PASSES}
    return {
        pass_: ConvProblem(computed, plan, last, x.dtype, refusal, strict=is_strict())
        for pass_, computed in of_operation.items()
    }


def macs_of(plan: ConvGeometry) -> Macs:
    """The multiply-adds of one pass, which are the same for all three."""
    return conv_macs(plan.window, plan.batch, plan.channels, plan.filters, plan.groups)


def contests_of(
    path: str, layer: Any, x: Tensor, problems: dict[str, ConvProblem], computed: Iterable[str]
) -> tuple[Contest, ...]:
    """Makes a contest for each pass that is computed."""
    plan = problems["forward"].geometry
    values = prod(plan.x_shape) + prod(plan.y_shape) + prod(plan.weight_shape)  # two are read, the third is written
    is_native = isinstance(layer, conv._Conv | conv._ConvTranspose)
    batch = x if x.dim() == plan.dims + 2 else x.unsqueeze(0)
    return tuple(
        Contest(
            what=f"{path}, {pass_}",
            pass_=pass_,
            call=problems[pass_],
            method=ops.method_for(problems[pass_]).name if is_native else "torch",
            x_last=is_channels_last(batch),
            weight=layer.weight,
            bias=layer.bias if pass_ == "forward" else None,
            work=Work(values * x.element_size(), macs_of(plan).inside),
        )
        for pass_ in computed
    )


def work_of(
    group: tuple[Module, ...], contests: tuple[Contest, ...], output_shape: tuple[int, ...], size: int
) -> tuple[Work, Work]:
    """The work of forward and backward of a convolution, with the activation and pooling fused to it.

    size: bytes of a value.
    """
    call, each, gradients = contests[0].call, contests[0].work, len(contests) - 1
    pooled, more = 0, int(len(group) > 1)
    if more:
        pooled = (prod(call.geometry.y_shape) + 3 * prod(output_shape)) * size + prod(output_shape)
    return (
        Work(each.moved_bytes + pooled, each.macs, 1 + more),
        Work(gradients * each.moved_bytes + (pooled if gradients else 0), gradients * each.macs, gradients + more),
    )
