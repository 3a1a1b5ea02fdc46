"""Links of reductions, matrix products and attention, and of operations that read no tensor."""

from __future__ import annotations

from .link import LINKS, Along, Anywhere, Link, Op, links_for
from .pointwise import pointwise


@links_for(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "norm",
    "linalg_vector_norm", "logsumexp", "argmax", "argmin", "any", "all", "nansum", "median", "mode", "count_nonzero",
    "aminmax", "nanmean", "kthvalue",
)
def reduced(op: Op) -> list[list[Link]]:
    shape = op.shape(op.input)
    given = op["dim"]
    axes = range(len(shape)) if given is None or given == [] else [given] if isinstance(given, int) else given
    gone = {a % max(1, len(shape)) for a in axes}
    if op.operation.name in ("aten.max", "aten.min") and len(op.operation.inputs) == 2:
        return pointwise(op)
    kept = len(op.output) == len(shape)
    found, position = [], 0
    for i, n in enumerate(shape):
        found.append(Anywhere(range(n)) if i in gone else Along(i if kept else position))
        position += i not in gone
    return [[Link(op.input, tuple(found))] for _ in op.operation.outputs]


@links_for(
    "_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod", "cummax", "cummin",
    "logcumsumexp", "sort", "topk",
)
def along_one(op: Op) -> list[list[Link]]:
    """Each output reads the whole axis. For cumulative operations that is an upper bound."""
    axis = op.axis(op.input, op["dim"] if op["dim"] is not None else -1)
    everything = Anywhere(range(op.shape(op.input)[axis]))
    return [[op.same(op.input, {axis: everything}, exact="cum" not in op.operation.name)] for _ in op.operation.outputs]


@links_for("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "matmul", "linear")
def product(op: Op) -> list[list[Link]]:
    """Each output reads a row of the first matrix and a column of the second; further operands are added."""
    pairs = (("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec"), ("self", "vec"), ("self", "mat2"))
    a, b = (
        op.value(name)
        for name in next((pair for pair in pairs if pair[0] in op.arguments and pair[1] in op.arguments), pairs[-1])
    )
    if a is None or b is None:
        return [[op.everywhere(v, exact=op.output == ()) for v in dict.fromkeys(op.operation.inputs)]]
    if len(op.shape(b)) == 1:  # matrix times vector
        rows = [Link(a, (Along(0), Anywhere(range(op.shape(a)[1])))), op.everywhere(b)]
        return [[*rows, *(link for link in pointwise(op)[0] if link.value not in (a, b))]]
    rank = len(op.output)
    lead = tuple(Along(i) for i in range(rank - 2))
    left = Link(a, (*lead, Along(rank - 2), Anywhere(range(op.shape(a)[-1]))))
    right = Link(b, (*lead, Anywhere(range(op.shape(b)[-2])), Along(rank - 1)))
    added = [v for v in dict.fromkeys(op.operation.inputs) if v not in (a, b)]
    more = []
    for value in added:
        shape = op.shape(value)
        more.append(
            Link(
                value,
                tuple(Anywhere(range(1)) if n == 1 else Along(rank - len(shape) + i) for i, n in enumerate(shape)),
            )
        )
    return [[left, right, *more]]


@LINKS.of("striate.linear")
def linear(op: Op) -> list[list[Link]]:
    """Each output reads a row of x and all weights."""
    x, lead = op.input, len(op.output) - 1
    row = Link(x, (*(Along(i) for i in range(lead)), Anywhere(range(op.shape(x)[-1]))))
    return [[row, *op.others(x)]]


@links_for(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
)
def attention(op: Op) -> list[list[Link]]:
    """Each query reads all keys and values; with a mask that is an upper bound."""
    query, key, value = op.operation.inputs[:3]
    exact = not op["is_causal"] and op.value("attn_mask") is None and op.value("attn_bias") is None
    rank = len(op.output)
    lead = tuple(Along(i) for i in range(rank - 2))
    every = {v: Link(v, (*lead, *(Anywhere(range(n)) for n in op.shape(v)[-2:])), exact) for v in (key, value)}
    asks = Link(query, (*lead, Along(rank - 2), Anywhere(range(op.shape(query)[-1]))))
    first = [asks, *(every[v] for v in dict.fromkeys((key, value))), *op.others(query, key, value)]
    return [first, *([] for _ in op.operation.outputs[1:])]


@links_for("embedding")
def embedded(op: Op) -> list[list[Link]]:
    indices = op.value("indices")
    assert indices is not None
    return [[Link(indices, tuple(Along(i) for i in range(len(op.shape(indices)))))]]


@links_for(
    "empty", "zeros", "ones", "full", "arange", "scalar_tensor", "rand", "randn", "eye", "linspace", "empty_strided",
    "randint",
)
def made(op: Op) -> list[list[Link]]:
    return [[] for _ in op.operation.outputs]
