"""Lists the side channels: what one call passes to another by other means than arguments and results.

Each is an attribute of a tensor, an autograd node or a module, or a variable of the thread or task. A new one needs a
row here (tests/test_tags.py) that gives the reason why it cannot be an argument.

>>> print(table().splitlines()[0].split())
['name', 'on', 'writer', 'reader', 'lifetime']
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TAGS", "Tag", "table"]


class Tag(NamedTuple):
    """One side channel. writer, reader: files of the package, without ``.py``."""

    name: str
    on: str
    writer: str
    reader: str
    lifetime: str
    why: str


TAGS = (
    Tag(
        *("_striate_statistics", "tensor", "ops/batch_stats", "ops/batch_stats"),
        "from the kernel that wrote the tensor to the container that asked for it and takes it off, in the same call",
        "an autograd.Function returns tensors that autograd would take for outputs: the statistics are none",
    ),
    Tag(
        *("recompute", "autograd node", "ops/rematerialize", "ops/rematerialize"),
        "as long as the node; it holds no tensor, so nothing lives longer for it",
        "the norm that can be computed again and the convolution that would save its output meet only in the graph",
    ),
    Tag(
        *("applied", "autograd node", "ops/norm/autograd", "ops/rematerialize"),
        "as long as the node: copies of scale and shift, as they were in forward",
        "what is computed again in backward has to use the parameters that forward used",
    ),
    Tag(
        *("ContextVar", "thread or task", "ops/setting", "ops/setting"),
        "inside the with blocks of striate.precision and striate.ops.dispatch.prefer",
        "settings hold for every layer that is called inside",
    ),
    Tag(
        *("blocks", "thread", "ops/setting", "ops/setting"),
        "inside those blocks where torch.compile entered them: it knows no ContextVar",
        "as before",
    ),
    Tag(
        *("process", "process", "ops/precision", "ops/setting"),
        "from striate.set_precision on",
        "as before",
    ),
    Tag(
        *("_channels_last", "module", "nn/swap", "nn/conv"),
        "from accelerate(memory_format=torch.channels_last) to restore",
        "the layers' forward has torch's arguments",
    ),
    Tag(
        *("_striate_guard", "module", "nn/swap", "nn/swap"),
        "from accelerate to restore: the handle of a hook",
        "restore removes the hook that accelerate registered",
    ),
    Tag(
        *("whole_batch", "module", "nn/statistics", "nn/norm/batch"),
        "inside the with block of whole_batch_statistics",
        "the layers' forward has torch's arguments",
    ),
    Tag(
        *("forward", "module", "diagnostics/profile/watch", "nn/fusion"),
        "while a profile runs: the wrapper that times a layer",
        "a container computes neighbours in one call, and says to the wrappers which of them that call was for",
    ),
)


def table() -> str:
    """The side channels as text, one a line."""
    heading = ("name", "on", "writer", "reader", "lifetime")
    rows = [heading, *(tag[: len(heading)] for tag in TAGS)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(heading) - 1)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows)
