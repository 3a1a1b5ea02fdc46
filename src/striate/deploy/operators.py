"""The operators of programs: which may run, what arguments they take, and which of striate's functions compute them.

Operators are known by name. Only those are known that compute and do nothing else, so that a program from a file can
do nothing else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._torch import OpOverloadPacket
from ..ops import conv, norm, pool
from .program import Node

__all__ = [
    "ARGUMENTS",
    "CONSTANTS",
    "FUSED_CONV",
    "FUSED_LINEAR",
    "FUSED_NORM",
    "LOWERINGS",
    "SIZES",
    "arguments_of",
    "base_of",
    "draws",
    "function_of",
    "is_new",
    "operator_of",
]

# The operators that passes make: a layer with its weights, and the sum and the clamp that it takes in.
FUSED_CONV, FUSED_LINEAR, FUSED_NORM = "fused.conv", "fused.linear", "fused.batch_norm"
# Their arguments: x and residual are nodes, CONSTANTS are constants, the others numbers; None for what is absent.
ARGUMENTS = {
    FUSED_CONV: ("x", "residual", "weight", "bias", "stride", "padding", "dilation", "groups", "low", "high"),
    FUSED_LINEAR: ("x", "weight", "bias", "low", "high"),
    FUSED_NORM: ("x", "residual", "weight", "bias", "mean", "variance", "eps", "activation"),
}
CONSTANTS = ("weight", "bias", "mean", "variance")
SIZES: dict[str, Callable[..., Any]] = {  # of Python: arithmetic of sizes, and parts of tuples
    "getitem": operator.getitem,
    **{
        f"sizes.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg")
    },
    **{f"sizes.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"sizes.{name}": getattr(torch, f"sym_{name}") for name in ("max", "min", "float", "int", "not", "ite")},
}

# ------------------------------------------------------------------------------------------------------- which may run

# Operators that only compute are those of torch that it tags as core or pointwise, those that are methods of tensors or
# functions of torch.fft, torch.linalg, torch.special and torch.nn.functional, and those listed here; and of striate's
# own those listed here, which torch has not. torch's inner operators, whose names begin with _, and gradients are not
# among them.
PUBLIC = {"fft": torch.fft, "linalg": torch.linalg, "special": torch.special}
_OTHERS = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
_softmax _to_copy _unique2 _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm affine_grid_generator arange bartlett_window
blackman_window block_diag bucketize cartesian_prod cdist complex concat convolution_backward einsum empty_like eye
full_like grid_sampler grid_sampler_3d gru hamming_window hann_window im2col item kaiser_window linspace log_sigmoid
logspace lstm meshgrid ones ones_like polar rnn_relu rnn_tanh rrelu scaled_dot_product_attention searchsorted stack
std_mean tensordot tril_indices triu_indices unique_dim upsample_bicubic2d upsample_linear1d upsample_nearest1d
upsample_nearest3d upsample_trilinear3d vander var_mean view_as_complex view_as_real zeros zeros_like
"""
OTHERS = frozenset(_OTHERS.split())
STRIATE = frozenset(
    ["avg_pool", "conv", "conv_input", "local_response", "max_pool_index", "max_pool_offset", "norm", "offset_to_index"]
)
# Operators that depend on the order in memory, which freezing changes, or make tensors of other layouts than strided.
_REFUSED = """
as_strided as_strided_scatter coalesce data empty_strided new_empty_strided pin_memory resize resize_as resize_as_sparse
set slice_inverse smm sparse_mask sparse_resize sparse_resize_and_clear sspaddmm sym_is_contiguous sym_storage_offset
sym_stride to_mkldnn to_padded_tensor to_sparse to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr
"""
REFUSED = frozenset(_REFUSED.split())


def operator_of(name: str) -> Any:
    """The operator of that name if it only computes, without state, random numbers or files; None if not.

    >>> operator_of("aten.relu.default"), operator_of("aten.relu_.default"), operator_of("aten.from_file.default")
    (<OpOverload(op='aten.relu', overload='default')>, None, None)
    """
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
    allowed = {torch.Tag.core, torch.Tag.pointwise} & set(overload.tags) or _is_public(parts[1])
    return overload if allowed and not inner else None


def _is_public(name: str) -> bool:
    """Whether torch offers an operator as a method of tensors, also one that writes in place, or as a function of its
    modules of functions.

    >>> [_is_public(name) for name in ("cumsum", "fill", "fft_rfft2", "pixel_shuffle")]
    [True, True, True, True]
    >>> [_is_public(name) for name in ("from_file", "fbgemm_linear_int8_weight")]
    [False, False]
    """
    family, _, rest = name.partition("_")
    if family in PUBLIC:
        return not rest.startswith("_") and hasattr(PUBLIC[family], rest)
    return hasattr(torch.Tensor, name) or hasattr(torch.Tensor, f"{name}_") or hasattr(torch.nn.functional, name)


def draws(node: Node) -> bool:
    """Whether an operator draws random numbers as it is called here. Attention, an LSTM and a leaky ReLU can, but do
    not in inference.
    """
    if node.op in SIZES or torch.Tag.nondeterministic_seeded not in operator_of(node.op).tags:
        return False
    given = arguments_of(node)
    return bool(given.get("dropout_p") or given.get("training") or (given.get("train") and given.get("dropout")))


# ------------------------------------------------------------------------------------------------------ what they are

# Operators whose results are memory of their own, besides the pointwise ones.
_NEW = """
adaptive_avg_pool2d avg_pool1d avg_pool2d avg_pool3d batch_norm cat clone conv1d conv2d conv3d group_norm layer_norm
linear max_pool1d max_pool2d max_pool3d
"""
NEW = frozenset(_NEW.split())
IDENTITIES = frozenset(("alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy"))
DROPOUTS = frozenset(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"))


def base_of(op: str) -> str:
    """An operator's name without namespace and overload.

    >>> base_of("aten.conv2d.default"), base_of("getitem")
    ('conv2d', '')
    """
    return op.split(".")[1] if op.count(".") == 2 else ""


def is_new(op: str) -> bool:
    """Whether an operator's result is memory of its own, and shares none with its arguments."""
    if op in ARGUMENTS or base_of(op) in NEW:
        return True
    overload = None if op in SIZES else operator_of(op)
    return (
        overload is not None
        and torch.Tag.pointwise in overload.tags
        and all(r.alias_info is None for r in overload._schema.returns)
    )


def arguments_of(node: Node) -> dict[str, Any]:
    """An operator's arguments by name, with the defaults of those that are not given."""
    schema = operator_of(node.op)._schema
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    return {a.name: node.kwargs.get(a.name, given.get(a.name, a.default_value)) for a in schema.arguments}


# ----------------------------------------------------------------------------------------------------------- lowerings


def _by_channel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, weight, bias, mean, variance, *rest: function(x, mean, variance, weight, bias, *rest[:3])


def _contiguous(name: str) -> Callable[..., Any]:
    """An operator that takes contiguous tensors only: what is contiguous in the model may be channels_last here."""
    return lambda *given: operator_of(name)(*(x.contiguous() if isinstance(x, Tensor) else x for x in given))


# striate's functions for operators of torch, with the operator's own arguments.
LOWERINGS: dict[str, Callable[..., Any]] = {
    "aten.view.default": torch.reshape,  # what is a view of a contiguous tensor may not be one of a channels_last one
    "aten._unsafe_view.default": torch.reshape,
    **{
        f"aten.{name}": _contiguous(f"aten.{name}")
        for name in ("kron.default", "view.dtype", "view_as.default", "view_as_complex.default")
    },
    "aten.layer_norm.default": lambda *arguments: norm.layer_norm(*arguments[:5]),  # the last one is about cuDNN
    "aten.group_norm.default": lambda *arguments: norm.group_norm(*arguments[:5]),
    "aten.rms_norm.default": norm.rms_norm,
    "aten.instance_norm.default": _by_channel(norm.instance_norm),
    "aten.batch_norm.default": _by_channel(norm.batch_norm),
    **{f"aten.max_pool{d}d.default": partial(pool.max_pool, dims=d) for d in (1, 2, 3)},
    **{f"aten.avg_pool{d}d.default": partial(pool.avg_pool, dims=d) for d in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{d}d.default": partial(pool.adaptive_avg_pool, dims=d) for d in (1, 2, 3)},
    **{f"aten.conv{d}d.{kind}": partial(conv.conv, dims=d) for d in (1, 2, 3) for kind in ("default", "padding")},
    **{
        f"aten.conv_transpose{d}d.{kind}": partial(conv.conv_transpose, dims=d)
        for d, kind in ((1, "default"), (2, "input"), (3, "input"))
    },
}


def function_of(node: Node) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function that computes a node, torch's or striate's, and its arguments. Not for the fused operators."""
    if node.op in LOWERINGS:
        return LOWERINGS[node.op], tuple(arguments_of(node).values()), {}
    return operator_of(node.op), node.args, node.kwargs
