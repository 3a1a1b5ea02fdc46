"""The least work of a layer: the bytes that its passes must move, and their multiply-adds."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch.nn import Module

from ..._torch import AdaptiveMaxPoolBase, ConvBase, MaxPoolBase, NormBase
from ...nn import norm, pool

__all__ = ["Shapes", "Work", "passes_of"]

Shapes = tuple[tuple[int, ...], ...]

UNKNOWN = (  # layers whose memory traffic is not known
    torch.nn.RNNBase,
    torch.nn.RNNCellBase,
    torch.nn.MultiheadAttention,
    torch.nn.Bilinear,
    torch.nn.Embedding,
    torch.nn.EmbeddingBag,
    ConvBase,  # convolutions whose geometry is not known
)
MAXIMA = (MaxPoolBase, AdaptiveMaxPoolBase, pool._GlobalMax)
NORMS = (
    NormBase,
    *norm.BATCH_NORMS,
    *norm.GROUP_NORMS,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
    torch.nn.LocalResponseNorm,
    norm.LayerNorm2d,
)


class Work(NamedTuple):
    """The least work of a pass: bytes read and written, and multiply-adds without the taps in the padding.

    sweeps: how many times the pass goes through its data; what a sweep reads again counts again in ``moved_bytes``.
    """

    moved_bytes: int
    macs: int
    sweeps: int = 1


def passes_of(
    module: Module, input_shapes: Shapes, output_shape: tuple[int, ...], size: int, macs: int | None, gradients: int
) -> tuple[Work, Work] | None:
    """The work of forward and backward of a layer other than a convolution; None if it is not known.

    size: bytes of a value; macs: the multiply-adds of forward, 0 for a pointwise layer; gradients: how many of the two
    gradients, of input and weights, are computed.
    """
    known = type(module).__module__.startswith(("torch.nn.modules.", "striate.nn.", "striate.models."))
    if macs is None or not known or isinstance(module, UNKNOWN):
        return None
    outputs = prod(output_shape)
    read, written = sum(map(prod, input_shapes)) * size, outputs * size
    weights = sum(p.numel() for p in module.parameters(recurse=False)) * size
    if macs and weights:  # matrix product: each gradient, too, reads two of x, y and weights and writes the third
        moved = read + written + weights
        return Work(moved, macs), Work(gradients * moved, gradients * macs, gradients)
    forward = backward = read + written  # backward reads dy and writes dx
    sweeps = 1
    if isinstance(module, MAXIMA):  # one byte an output stores the position of the maximum
        forward, backward = forward + outputs, backward + outputs
    if isinstance(module, NORMS) or type(module).__module__ == "torch.nn.modules.activation":  # backward reads x too
        backward += read
    if isinstance(module, norm.BATCH_NORMS) and (
        (module.training and not getattr(module, "frozen", False)) or module.running_mean is None
    ):  # batch statistics take a further pass over the input
        forward, backward, sweeps = forward + read, backward + read + written, 2
    return Work(forward, macs, sweeps), (Work(backward, macs, sweeps) if gradients else Work(0, 0))
