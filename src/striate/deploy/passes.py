"""The passes that make a program shorter, in the order in which they run. Each changes the program it is given.

Constants are computed once. A batch norm is merged into the convolution or linear layer before it. A convolution is
then fused with the sum behind it (a residual) and the activation behind that
(:data:`striate.ops.activation.NAMES`), so that one kernel computes ``y = f(conv(x) + b + r)``; linear layers and
remaining norms are fused as far as their kernels allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import tensorfile
from .._torch import tree_leaves
from ..graph.optable import FUSES, is_kind, kind_of
from ..ops import norm
from ..ops.activation import NONE, clamp
from .bounds import norm_scale_and_shift
from .fold.arithmetic import merge_into_outputs
from .operators import (
    ARGUMENTS,
    CONSTANTS,
    FUSED_CONV,
    FUSED_LINEAR,
    FUSED_NORM,
    activation_of,
    arguments_of,
    base_of,
    function_of,
)
from .program import Node, Program, nodes_of, walk

__all__ = ["PASSES", "shorten"]


def shorten(program: Program) -> None:
    """Runs every pass of :data:`PASSES` on a program."""
    for run in PASSES:
        run(program)


# Passes. Each is a function that changes a program.


def drop_identities(program: Program) -> None:
    """Removes copies, detached views and dropouts, which change no value in inference. Copies that are outputs
    remain: two outputs that share no memory in the model share none here.
    """
    outputs = set(nodes_of(program.output))
    for node in list(program.nodes):
        if is_kind(node.op, "identity", "dropout") and not (node in outputs and base_of(node.op) == "clone"):
            program.nodes.remove(node)
            program.replace(node, node.args[0])


def compute_constants(program: Program) -> None:
    """Computes what depends on no input. Complex values are computed in each call, since files cannot store them."""
    for node in list(program.nodes):
        if any(source.op != "constant" for source in node.sources()):
            continue
        function, args, kwargs = function_of(node)
        args, kwargs = walk(lambda v: v.value if isinstance(v, Node) else v, (args, kwargs))
        value = function(*args, **kwargs)
        if any(isinstance(x, Tensor) and x.dtype not in tensorfile.DTYPES.values() for x in tree_leaves(value)):
            continue
        program.nodes.remove(node)
        if isinstance(value, Tensor | tuple | list):
            node.op, node.args, node.kwargs, node.value = "constant", (), {}, value
        else:
            program.replace(node, value)


def drop_unused(program: Program) -> None:
    """Removes the nodes that the output does not depend on."""
    program.drop_unused()


def fuse_layers(program: Program) -> None:
    """Replaces convolutions and linear layers with constant weights, and batch norms with constant statistics, by fused
    operators, which can include the operators behind them.
    """
    for node in list(program.nodes):
        fused = _fused(node)
        if fused is not None:
            program.nodes[program.nodes.index(node)] = fused
            program.replace(node, fused)


def drop_first_items(program: Program) -> None:
    """Removes ``getitem`` behind fused batch norms, which return one result instead of three."""
    for node in list(program.nodes):
        if node.op == "getitem" and node.args[0].op == FUSED_NORM:
            program.nodes.remove(node)
            program.replace(node, node.args[0])


def fold_norms(program: Program) -> None:
    """Merges each batch norm into the layer before it, if nothing else uses that layer's output."""
    users = program.users()
    for node in list(program.nodes):
        if node.op == FUSED_NORM and users[node.kwargs["x"]] == [node] and _merge(node.kwargs["x"], node.kwargs):
            layer = node.kwargs["x"]
            program.nodes.remove(node)
            program.replace(node, layer)
            users[layer] = users.get(node, [])


def fuse_sums(program: Program) -> None:
    """Replaces ``layer(x) + r``, both of one shape, by a layer with the residual r, at the position of the sum."""
    users = program.users()
    for node in list(program.nodes):
        if node.op != "aten.add.Tensor" or node.kwargs.get("alpha", 1) != 1 or node.dtype is not torch.float32:
            continue
        for layer, other in (node.args, node.args[::-1]):
            if not (isinstance(layer, Node) and isinstance(other, Node)) or layer is other:
                continue
            takes = layer.op in _KINDS and _takes(layer, "sum") and layer.kwargs["residual"] is None
            same = layer.shape == other.shape and other.dtype is torch.float32
            if takes and same and users[layer] == [node]:
                layer.kwargs["residual"] = other
                program.nodes.remove(layer)
                program.nodes[program.nodes.index(node)] = layer
                program.replace(node, layer)
                users = program.users()
                break


def fuse_activations(program: Program) -> None:
    """Replaces ``f(layer(x))`` by a layer with the activation f, and also ``clamp(max_pool(layer(x)))``: since a clamp
    is monotone, it equals ``max_pool(clamp(layer(x)))``.
    """
    users = program.users()
    for node in list(program.nodes):
        before, activation = node.args[0] if node.args else None, activation_of(node)
        if activation is None or not isinstance(before, Node) or users[before] != [node]:
            continue
        # A dilated window may contain only padding, with a maximum of -inf, which a clamp before the pooling misses.
        clamps = activation.name == "clamp"
        pools = clamps and is_kind(before.op, "max_pool") and set(arguments_of(before)["dilation"]) == {1}
        layer = before.args[0] if pools else before
        if layer is not before and users[layer] != [before]:
            continue
        given = layer.kwargs
        if layer.op not in _KINDS or not _takes(layer, "activation"):
            continue
        if given["activation"] is not None or (layer.op == FUSED_NORM and activation not in NORM_ACTIVATIONS):
            continue
        if activation != NONE:
            given["activation"] = NORM_ACTIVATIONS[activation] if layer.op == FUSED_NORM else activation
        program.nodes.remove(node)
        program.replace(node, before)
        users = program.users()


def make_constants_contiguous(program: Program) -> None:
    """Makes constants contiguous, as they are in files: a product with a transposed matrix may round differently."""
    for constant in program.constants():
        if isinstance(constant.value, Tensor):
            constant.value = constant.value.contiguous()


def copy_constant_outputs(program: Program) -> None:
    """Copies the constants that the program returns, so that the caller cannot write into them."""
    for node in nodes_of(program.output):
        if node.op == "constant":
            program.nodes.append(Node("aten.clone.default", (node,), {}, node.shape, node.dtype, node.name))
            program.output = walk(partial(_substitute, node, program.nodes[-1]), program.output)


PASSES: list[Callable[[Program], None]] = [
    drop_identities,
    compute_constants,
    drop_unused,
    fuse_layers,
    drop_first_items,
    fold_norms,
    fuse_sums,
    fuse_activations,
    drop_unused,
    make_constants_contiguous,
    copy_constant_outputs,
]


# Helpers.

_KINDS = {FUSED_CONV: "convolution", FUSED_LINEAR: "linear", FUSED_NORM: "batch_norm"}  # of fused operators
NORM_ACTIVATIONS = {clamp(0.0): "relu", **({clamp(0.0, 6.0): "relu6"} if "relu6" in norm.ACTIVATIONS else {})}


def _takes(layer: Node, kind: str) -> bool:
    """Whether the operator of this layer can compute one of that kind behind itself, in its own pass."""
    return kind in FUSES.get(_KINDS.get(layer.op) or kind_of(layer.op), ())


def _substitute(old: Any, new: Any, value: Any) -> Any:
    return new if value is old else value


def _is_constant(value: Any) -> bool:
    """Whether an argument is a constant, or absent."""
    return value is None or (isinstance(value, Node) and value.op == "constant")


def _fused(node: Node) -> Node | None:
    """The fused operator for a convolution or linear layer of constant weights, or a batch norm of constant statistics;
    None for any other node.
    """
    base, rank = base_of(node.op), len(node.shape or ())
    found = re.fullmatch(r"conv(\d)d", base)
    if found and rank == int(found[1]) + 2:
        op = FUSED_CONV
    elif is_kind(node.op, "linear") and rank:
        op = FUSED_LINEAR
    elif base == "batch_norm" or base.endswith("_legit_no_training"):
        op = FUSED_NORM
    else:
        return None
    given = arguments_of(node)
    if op == FUSED_NORM and given.get("training"):
        return None
    names = {"x": "input", "mean": "running_mean", "variance": "running_var"}
    kwargs = {name: given.get(names.get(name, name)) for name in ARGUMENTS[op]}
    constants = [kwargs[name] for name in CONSTANTS if name in kwargs]
    if not all(map(_is_constant, constants)):
        return None
    if any(constant is not None and constant.value.dtype is not torch.float32 for constant in constants):
        return None
    module = next((c.name.rpartition(".")[0] for c in constants if c is not None), "")
    shape = node.args[0].shape if op == FUSED_NORM else node.shape
    return Node(op, (), kwargs, shape, torch.float32, module or node.name)


def _merge(layer: Node, given: dict[str, Any]) -> bool:
    """Merges a batch norm's ``s·y + t`` into the layer whose output y is: ``W' = s·W`` and ``b' = s·b + t``, computed
    in float64 and rounded once. Returns False if that is not possible.
    """
    found, rank = re.fullmatch(r"conv_transpose(\d)d", base_of(layer.op)), len(layer.shape or ())
    transposed = found is not None and rank == int(found[1]) + 2
    if not (transposed or layer.op in _KINDS) or not _takes(layer, "batch_norm"):
        return False
    if layer.op == FUSED_LINEAR and rank != 2:
        return False  # its features are not on the axis of the norm's channels
    arguments = arguments_of(layer) if transposed else layer.kwargs
    weight, bias = arguments["weight"], arguments["bias"]
    if not (_is_constant(weight) and _is_constant(bias)):
        return False
    scale, shift = norm_scale_and_shift(given)
    old_bias, groups = None if bias is None else bias.value, arguments.get("groups", 1)
    w, b = merge_into_outputs(weight.value, old_bias, scale, shift, groups=groups, transposed=transposed)
    w, b = w.float(), b.float()
    if not (w.isfinite().all() and b.isfinite().all()):
        return False
    path = weight.name.removesuffix("weight")
    for name, value in (("weight", w), ("bias", b)):
        arguments[name] = Node(
            "constant", shape=tuple(value.shape), dtype=value.dtype, name=f"{path}{name}", value=value
        )
    if transposed:
        layer.args, layer.kwargs = tuple(arguments.values()), {}
    return True
