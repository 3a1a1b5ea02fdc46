"""Describes which inputs each output of an operation depends on: for each axis of each tensor that it reads, the axis
of the output that follows it, and the positions that an output reads.

There is one function for each kind of operation, in a column of the op table. Outputs of an unknown operation count as
reading everything, and the link is marked as an upper bound.
"""

from __future__ import annotations

from ..optable import is_pointwise
from ..recording import Operation, Recording
from . import axes, reduction, window  # noqa: F401  importing them fills LINKS
from .link import LINKS, SAME, Along, Anywhere, Link, Op, Regroup
from .pointwise import pointwise

__all__ = ["LINKS", "SAME", "Along", "Anywhere", "Link", "Regroup", "links_of"]


def links_of(recording: Recording, operation: Operation) -> list[list[Link]]:
    """The links of each output of an operation."""
    found = LINKS.get(operation.name)
    op = Op(recording, operation)
    if found is not None:
        return found(op)
    if is_pointwise(operation.name):
        return pointwise(op)
    return [[op.everywhere(v, exact=False) for v in dict.fromkeys(operation.inputs)] for _ in operation.outputs]


# Operators of these kinds without a function are tagged as pointwise by torch, never occur in a recording, or count as
# reading everything.
_NONE = """
convolution transposed_convolution local_convolution backward vector_product attention recurrent uncounted_product
batch_norm norm norm_statistics activation relu sigmoid tanh clamp max_pool avg_pool sum scale identity generation
rearrangement stacking dropout resampling lookup other_product value size_query layout packing
"""
LINKS.none(*_NONE.split())
