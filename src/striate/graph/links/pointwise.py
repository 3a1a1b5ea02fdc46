"""Links of pointwise operations, and of norms, whose statistics count as constants."""

from __future__ import annotations

from ...window import Look
from .link import Along, Anywhere, Link, Op, links_for


@links_for(  # operators that torch does not tag as pointwise
    "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "native_dropout", "dropout", "bernoulli", "bernoulli_",
    "masked_fill_", "copy_", "rrelu_with_noise", "_prelu_kernel", "prelu", "hardswish", "hardswish_", "fill_",
    "zero_", "uniform_", "normal_", "new_empty", "new_zeros", "new_full", "empty_like", "zeros_like", "ones_like",
    "full_like", "rand_like", "log_sigmoid_forward", "floor_divide", "bucketize", "quantize_per_tensor",
    "fake_quantize_per_tensor_affine",
)
def pointwise(op: Op) -> list[list[Link]]:
    """Broadcasts: axes are aligned at the last one, and those of size 1 are repeated."""
    if op.operation.name.startswith("aten.new_") or op.operation.name.endswith(
        ("_like", ".fill_", ".zero_", ".uniform_", ".normal_")
    ):
        return [[] for _ in op.operation.outputs]  # only the shape of the input matters
    rank = len(op.output)
    links = []
    for value in dict.fromkeys(op.operation.inputs[1:] if op.operation.name == "aten.copy_" else op.operation.inputs):
        shape = op.shape(value)
        ahead = rank - len(shape)
        axes = tuple(
            Anywhere(range(1)) if n == 1 and op.output[ahead + i] != 1 else Along(ahead + i)
            for i, n in enumerate(shape)
        )
        links.append(Link(value, axes))
    return [links for _ in op.operation.outputs]


@links_for("glu")
def gated(op: Op) -> list[list[Link]]:
    """Multiplies the first half of an axis by the sigmoid of the second."""
    axis = op.axis(op.input, op["dim"])
    return [[op.same(op.input, {axis: Along(axis, Look(((0, op.output[axis]),), 1))})]]


@links_for(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "native_group_norm", "native_layer_norm", "_fused_rms_norm",
)
def norm(op: Op) -> list[list[Link]]:
    """Pointwise: statistics count as constants, which they are for a batch norm in evaluation."""
    return [[op.same(op.input)], *([] for _ in op.operation.outputs[1:])]
