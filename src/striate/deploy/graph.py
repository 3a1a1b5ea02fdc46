"""A model as a list of operators: what goes in, what each computes from what, and what comes out.

Operators are known by name, and only those are known that compute: a graph from a file can do nothing else.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .._torch import OpOverloadPacket

__all__ = ["ARGUMENTS", "CONSTANTS", "FUSED_CONV", "FUSED_LINEAR", "FUSED_NORM", "SIZES", "Graph", "Node", "Refusal"]


@dataclass(eq=False)
class Node:
    """One value: an input, a constant, or what an operator makes of the nodes and numbers in ``args`` and ``kwargs``.
    """

    op: str  # "input", "constant", or an operator's name
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int | str, ...] | None = None  # a letter for an axis of any size; None for what is no tensor
    dtype: torch.dtype | None = None
    name: str = ""
    value: Any = None  # of a constant

    def sources(self) -> list[Node]:
        """The nodes it is computed from."""
        return nodes_of((self.args, self.kwargs))


@dataclass
class Graph:
    """Operators in the order they run, what goes in, and what comes out."""

    inputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    output: Any = None  # nodes in tuples, lists and dicts, as the model returns them
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # of the letters: least and most
    example: dict[str, int] = field(default_factory=dict)  # of the letters: the example's sizes
    difference: float = math.nan  # from the model, in parts of the outputs' root mean square

    def users(self) -> dict[Node, list[Node]]:
        """For each node those that use it. The output counts, as a node of its own."""
        users: dict[Node, list[Node]] = {}
        for node in [*self.nodes, Node("output", (self.output,))]:
            for source in dict.fromkeys(node.sources()):
                users.setdefault(source, []).append(node)
        return users

    def replace(self, old: Node, new: Any) -> None:
        """``new`` wherever ``old`` was used."""

        def swap(value: Any) -> Any:
            return new if value is old else value

        for node in self.nodes:
            if old in node.sources():
                node.args, node.kwargs = walk(swap, (node.args, node.kwargs))
        self.output = walk(swap, self.output)

    def drop_unused(self) -> None:
        used = set(nodes_of(self.output))
        for node in reversed(self.nodes):
            if node in used:
                used.update(node.sources())
        self.nodes = [node for node in self.nodes if node in used]


def walk(f: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with f of every leaf of its tuples, lists and dicts."""
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(walk(f, v) for v in value)
    return {key: walk(f, v) for key, v in value.items()} if isinstance(value, dict) else f(value)


def nodes_of(value: Any) -> list[Node]:
    found: list[Node] = []
    walk(lambda v: found.append(v) if isinstance(v, Node) else None, value)
    return found


class Refusal(Exception):
    """What a graph cannot be made of: expected, got, and what to do."""


# ------------------------------------------------------------------------------------------------------------ operators

FUSED_CONV, FUSED_LINEAR, FUSED_NORM = "fused.conv", "fused.linear", "fused.batch_norm"
# Their arguments: x and residual are nodes, CONSTANTS constants, the others numbers; None for what there is not.
ARGUMENTS = {
    FUSED_CONV: ("x", "residual", "weight", "bias", "stride", "padding", "dilation", "groups", "low", "high"),
    FUSED_LINEAR: ("x", "weight", "bias", "low", "high"),
    FUSED_NORM: ("x", "residual", "weight", "bias", "mean", "variance", "eps", "activation"),
}
CONSTANTS = ("weight", "bias", "mean", "variance")
SIZES: dict[str, Callable[..., Any]] = {  # of Python, for sizes and the parts of tuples
    "getitem": operator.getitem,
    **{
        f"sizes.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg")
    },
    **{f"sizes.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"sizes.{name}": getattr(torch, f"sym_{name}") for name in ("max", "min", "float", "int", "not", "ite")},
}
# Operators that only compute: those of torch that it tags as core or pointwise, that are methods of tensors or
# functions of torch.fft, torch.linalg, torch.special and torch.nn.functional, and these; and some of striate's, for
# what torch has not. Not among them are torch's inner ones, whose names begin with _, and gradients.
PUBLIC = {"fft": torch.fft, "linalg": torch.linalg, "special": torch.special}
_OTHERS = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _softmax _to_copy
_unique2 _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm affine_grid_generator arange bartlett_window blackman_window block_diag bucketize cartesian_prod
cdist complex concat convolution_backward einsum empty_like eye full_like grid_sampler grid_sampler_3d gru hamming_window hann_window
im2col item kaiser_window linspace log_sigmoid logspace lstm meshgrid ones ones_like polar rnn_relu rnn_tanh rrelu
scaled_dot_product_attention searchsorted stack std_mean tensordot tril_indices triu_indices unique_dim upsample_bicubic2d
upsample_linear1d upsample_nearest1d upsample_nearest3d upsample_trilinear3d vander var_mean view_as_complex view_as_real zeros zeros_like
"""
OTHERS = frozenset(_OTHERS.split())
STRIATE = frozenset(
    ["avg_pool", "conv", "conv_input", "local_response", "max_pool_index", "max_pool_offset", "norm", "offset_to_index"]
)
# They go by the order in memory, which freezing changes, or make tensors of other layouts than rows and columns.
_REFUSED = """
as_strided as_strided_scatter coalesce data empty_strided new_empty_strided pin_memory resize resize_as resize_as_sparse set slice_inverse
smm sparse_mask sparse_resize sparse_resize_and_clear sspaddmm sym_is_contiguous sym_storage_offset sym_stride to_mkldnn to_padded_tensor
to_sparse to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr
"""
REFUSED = frozenset(_REFUSED.split())
# Results in memory of their own, beside those of the pointwise operators.
_NEW = """
adaptive_avg_pool2d avg_pool1d avg_pool2d avg_pool3d batch_norm cat clone conv1d conv2d conv3d group_norm layer_norm linear max_pool1d
max_pool2d max_pool3d
"""
NEW = frozenset(_NEW.split())
IDENTITIES = frozenset(("alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy"))
DROPOUTS = frozenset(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"))


def operator_of(name: str) -> Any:
    """The operator of that name if it is one that only computes: no state, no chance, no files; None if not."""
    if name in SIZES:
        return SIZES[name]
    parts = name.split(".")
    if len(parts) != 3 or parts[0] not in ("aten", "striate") or not all(re.fullmatch(r"\w+", part) for part in parts):
        return None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    known = isinstance(packet, OpOverloadPacket) and parts[2] in packet.overloads()
    overload: Any = getattr(packet, parts[2]) if known else None
    if overload is None or overload._schema.is_mutable or parts[1] in REFUSED:
        return None
    if parts[1] in (STRIATE if parts[0] == "striate" else OTHERS):
        return overload
    inner = (
        parts[0] == "striate"
        or re.search("^_(?!_)|_backward$", parts[1])
        or torch.Tag.nondeterministic_seeded in overload.tags
    )
    return (
        overload
        if not inner and ({torch.Tag.core, torch.Tag.pointwise} & set(overload.tags) or _is_public(parts[1]))
        else None
    )


def _is_public(name: str) -> bool:
    """Whether torch offers an operator as a method of tensors, in place ones too, or as a function of its modules of
    functions.

    >>> [_is_public(name) for name in ("cumsum", "fill", "fft_rfft2", "pixel_shuffle", "from_file", "fbgemm_linear_int8_weight")]
    [True, True, True, True, False, False]
    """
    family, _, rest = name.partition("_")
    if family in PUBLIC:
        return not rest.startswith("_") and hasattr(PUBLIC[family], rest)
    return hasattr(torch.Tensor, name) or hasattr(torch.Tensor, f"{name}_") or hasattr(torch.nn.functional, name)


def draws(node: Node) -> bool:
    """Whether an operator draws random numbers as it is called here: attention, an LSTM and a leaky ReLU may, and need
    not.
    """
    if node.op in SIZES or torch.Tag.nondeterministic_seeded not in operator_of(node.op).tags:
        return False
    given = arguments_of(node)
    return bool(given.get("dropout_p") or given.get("training") or (given.get("train") and given.get("dropout")))


def base_of(op: str) -> str:
    """The name without namespace and overload: conv2d of aten.conv2d.default."""
    return op.split(".")[1] if op.count(".") == 2 else ""


def is_new(op: str) -> bool:
    """Whether a result is memory of its own, not what its arguments lie in."""
    if op in ARGUMENTS or base_of(op) in NEW:
        return True
    overload = None if op in SIZES else operator_of(op)
    return (
        overload is not None
        and torch.Tag.pointwise in overload.tags
        and all(r.alias_info is None for r in overload._schema.returns)
    )


def arguments_of(node: Node) -> dict[str, Any]:
    """An operator's arguments by name, the defaults too."""
    schema = operator_of(node.op)._schema
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    return {a.name: node.kwargs.get(a.name, given.get(a.name, a.default_value)) for a in schema.arguments}
