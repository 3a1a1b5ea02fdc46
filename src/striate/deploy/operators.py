"""The operators of programs: which may run, what arguments they take, and which of striate's functions compute them.

Operators are identified by name. Only operators without side effects are allowed, so that a program from a file can do
nothing but compute.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from .._torch import OpOverloadPacket
from ..graph.optable import KINDS, TABLE, Column, row_of
from ..ops import conv, linear, norm, pool
from ..ops.activation import Activation, clamp
from .program import Node

__all__ = [
    "ARGUMENTS",
    "CONSTANTS",
    "FUSED_CONV",
    "FUSED_LINEAR",
    "FUSED_NORM",
    "LOWERINGS",
    "SIZES",
    "activation_of",
    "arguments_of",
    "base_of",
    "draws",
    "function_of",
    "is_new",
    "operator_of",
]

# The fused operators that passes create: a layer with its weights, and the sum and activation fused into it.
FUSED_CONV, FUSED_LINEAR, FUSED_NORM = "fused.conv", "fused.linear", "fused.batch_norm"
# Their arguments: x and residual are nodes, CONSTANTS are constants, the others numbers; None if absent. The activation
# of a batch norm is a name, that of the others an Activation or the tuple of its parts.
ARGUMENTS = {
    FUSED_CONV: ("x", "residual", "weight", "bias", "stride", "padding", "dilation", "groups", "activation"),
    FUSED_LINEAR: ("x", "weight", "bias", "activation"),
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

# -------------------------------------------------------------------------------------------------------- which may run

# The op table's column "program" (:mod:`striate.graph.optable`) decides which operators may run. Where it leaves that
# open, those may run that torch tags as core or pointwise, and those that are methods of tensors or functions of
# torch.fft, torch.linalg, torch.special and torch.nn.functional. torch's internal operators, whose names begin with _,
# gradients, and striate's own operators only run if the table says so.
PUBLIC = {"fft": torch.fft, "linalg": torch.linalg, "special": torch.special}


def operator_of(name: str) -> Any:
    """The operator of that name, if it uses no state, random numbers or files; else None.

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
    row = TABLE.get(f"{parts[0]}.{parts[1]}")
    listed = "-" if row is None else row.program
    if overload is None or overload._schema.is_mutable or listed == "refused":
        return None
    if listed == "runs":
        return overload
    inner = (
        parts[0] == "striate"
        or re.search("^_(?!_)|_backward$", parts[1])
        or torch.Tag.nondeterministic_seeded in overload.tags
    )
    allowed = {torch.Tag.core, torch.Tag.pointwise} & set(overload.tags) or _is_public(parts[1])
    return overload if allowed and not inner else None


def _is_public(name: str) -> bool:
    """Whether an operator is public in torch: a method of tensors, in place or not, or a function of the modules above.

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
    """Whether an operator draws random numbers with these arguments. Attention, an LSTM and a leaky ReLU can, but do
    not in inference.
    """
    if node.op in SIZES or torch.Tag.nondeterministic_seeded not in operator_of(node.op).tags:
        return False
    given = arguments_of(node)
    return bool(given.get("dropout_p") or given.get("training") or (given.get("train") and given.get("dropout")))


# ----------------------------------------------------------------------------------------------------------- properties

def base_of(op: str) -> str:
    """An operator's name without namespace and overload.

    >>> base_of("aten.conv2d.default"), base_of("getitem")
    ('conv2d', '')
    """
    return op.split(".")[1] if op.count(".") == 2 else ""


def is_new(op: str) -> bool:
    """Whether an operator's result is new memory, and shares none with its arguments."""
    row = row_of(op)
    if op in ARGUMENTS or (row is not None and row.result == "new"):
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


# ---------------------------------------------------------------------------------------------------------- activations

# The activation that an operator computes, from its arguments, if a layer before it can compute it; else None.
_ACTIVATIONS: Column[Callable[[dict[str, Any]], Activation | None]] = Column("the activation of a layer before it")
_ACTIVATIONS.none(*KINDS)
_ACTIVATIONS.of("aten.relu")(lambda given: clamp(low=0.0))
_ACTIVATIONS.of("aten.relu6")(lambda given: clamp(0.0, 6.0))
_ACTIVATIONS.of("aten.leaky_relu")(lambda given: Activation("leaky_relu", (float(given["negative_slope"]),)))
_ACTIVATIONS.of("aten.silu")(lambda given: Activation("silu"))
_ACTIVATIONS.of("aten.gelu")(lambda given: Activation("gelu_tanh" if given["approximate"] == "tanh" else "gelu"))
_ACTIVATIONS.of("aten.hardswish")(lambda given: Activation("hardswish"))


@_ACTIVATIONS.of("aten.hardtanh", "aten.clamp", "aten.clamp_min", "aten.clamp_max")
def _clamp(given: dict[str, Any]) -> Activation | None:
    low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
    low, high = -inf if low is None else low, inf if high is None else high
    by_numbers = isinstance(low, int | float) and isinstance(high, int | float) and low <= high
    return clamp(low, high) if by_numbers else None


def activation_of(node: Node) -> Activation | None:
    """The activation that a node computes in float32, if layers have it; None for any other node.

    >>> activation_of(Node("aten.silu.default", (None,), dtype=torch.float32))
    Activation(name='silu', numbers=())
    """
    found = _ACTIVATIONS.get(node.op)
    return None if found is None or node.dtype is not torch.float32 else found(arguments_of(node))


# ------------------------------------------------------------------------------------------------------------ lowerings


def _by_channel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, weight, bias, mean, variance, *rest: function(x, mean, variance, weight, bias, *rest[:3])


def _lower_to_contiguous(name: str) -> None:
    """Lowers an operator that requires contiguous tensors to itself on contiguous copies: tensors that are contiguous
    in the model may be channels_last here.
    """
    LOWERINGS.of(name)(
        lambda *given: operator_of(name)(*(x.contiguous() if isinstance(x, Tensor) else x for x in given))
    )


# striate's functions that replace operators of torch, with the same arguments. Most rows are for one overload.
LOWERINGS: Column[Callable[..., Any]] = Column("striate's function for an operator in a frozen model")
LOWERINGS.none(*KINDS)

# A view of a contiguous tensor need not be one of a channels_last tensor.
LOWERINGS.of("aten.view.default", "aten._unsafe_view.default")(torch.reshape)
_lower_to_contiguous("aten.kron.default")
_lower_to_contiguous("aten.view.dtype")
_lower_to_contiguous("aten.view_as.default")
_lower_to_contiguous("aten.view_as_complex.default")
LOWERINGS.of("aten.layer_norm.default")(lambda *arguments: norm.layer_norm(*arguments[:5]))  # drops cudnn_enable
LOWERINGS.of("aten.group_norm.default")(lambda *arguments: norm.group_norm(*arguments[:5]))
LOWERINGS.of("aten.rms_norm.default")(norm.rms_norm)
LOWERINGS.of("aten.instance_norm.default")(_by_channel(norm.instance_norm))
LOWERINGS.of("aten.batch_norm.default")(_by_channel(norm.batch_norm))
LOWERINGS.of("aten.linear.default")(linear.linear)
for _dims in (1, 2, 3):
    LOWERINGS.of(f"aten.max_pool{_dims}d.default")(partial(pool.max_pool, dims=_dims))
    LOWERINGS.of(f"aten.avg_pool{_dims}d.default")(partial(pool.avg_pool, dims=_dims))
    LOWERINGS.of(f"aten.adaptive_avg_pool{_dims}d.default")(partial(pool.adaptive_avg_pool, dims=_dims))
    LOWERINGS.of(f"aten.conv{_dims}d.default", f"aten.conv{_dims}d.padding")(partial(conv.conv, dims=_dims))
    _overload = "default" if _dims == 1 else "input"
    LOWERINGS.of(f"aten.conv_transpose{_dims}d.{_overload}")(partial(conv.conv_transpose, dims=_dims))


def function_of(node: Node) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function of torch or striate that computes a node, and its arguments. Not for fused operators."""
    native = LOWERINGS.get(node.op)
    if native is not None:
        return native, tuple(arguments_of(node).values()), {}
    return operator_of(node.op), node.args, node.kwargs
