"""Where the outputs of an operation look: for each axis of each tensor that it reads, along which axis of the output
and how far.

One function for each kind of operation, a column of the op table. What none of them knows is taken to look everywhere,
and the answer is marked as a bound.
"""

from __future__ import annotations

from ..optable import is_pointwise
from ..recording import Operation, Recording
from . import axes, reduction, window  # noqa: F401  they add to LINKS
from .link import LINKS, SAME, Along, Anywhere, Link, Op, Regroup
from .pointwise import pointwise

__all__ = ["LINKS", "SAME", "Along", "Anywhere", "Link", "Regroup", "links_of"]


def links_of(recording: Recording, operation: Operation) -> list[list[Link]]:
    """For each output of an operation its links."""
    found = LINKS.get(operation.name)
    op = Op(recording, operation)
    if found is not None:
        return found(op)
    if is_pointwise(operation.name):
        return pointwise(op)
    return [[op.everywhere(v, exact=False) for v in dict.fromkeys(operation.inputs)] for _ in operation.outputs]


# Operators of these kinds that have no function above: torch tags them as pointwise, or no recording has them, or they
# are taken to look everywhere.
_NONE = """
convolution transposed_convolution local_convolution backward vector_product attention recurrent uncounted_product
batch_norm norm norm_statistics activation relu sigmoid tanh clamp max_pool avg_pool sum scale identity generation
rearrangement stacking dropout resampling lookup other_product value size_query layout packing
"""
LINKS.none(*_NONE.split())
