"""The graph of a model, by torch.export."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .._torch import OpOverload, tree_unflatten
from ..errors import ArgumentError, build
from .fold import _one_line, _Root
from .graph import DROPOUTS, SIZES, Graph, Node, Refusal, arguments_of, base_of, is_new, operator_of, walk

__all__ = ["trace"]

TRACEABLE = "Freeze the parts of the model that can be traced one by one, or take what depends on the input's values out of forward."
OTHERWISE = "Take it out of forward, or freeze the parts of the model without it."


def trace(model: Module, inputs: tuple[Tensor, ...]) -> Graph:
    """The graph of a model, whose inputs have a first axis of any size wherever the model allows it."""
    batches = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about itself
        try:
            program = torch.export.export(_Root(model), inputs, dynamic_shapes={"inputs": batches}, strict=False)
            try:
                return _converted(program)
            except Refusal:  # what writes in place, say, where another value lies too: torch.export has a way, ten times as slow
                program = program.run_decompositions({})
        except Exception as error:
            raise ArgumentError(build("freeze", "a model that torch.export can trace", _one_line(error), do=TRACEABLE)) from error
    try:
        return _converted(program)
    except Refusal as refusal:
        expects, got, do = refusal.args
        raise ArgumentError(build("freeze", expects, got, do=do)) from None


def _converted(program: Any) -> Graph:
    """torch.export's program as a graph. What writes into a tensor becomes what makes a new one, where no other value shares its memory."""
    graph = Graph()
    letters: dict[str, str] = {}
    for spec in program.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            do = "Take the change out of forward."
            raise Refusal("a model whose forward changes no state", f"one that changes {_named(spec.target)}", do)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    tensors = {**program.state_dict, **program.constants}
    made: dict[Any, Any] = {}
    shares: dict[Node, set[Node]] = {}  # the nodes in whose memory a node may lie
    for one in program.graph.nodes:
        value = one.meta.get("val")
        about: dict[str, Any] = {"shape": _shape(value, letters), "dtype": getattr(value, "dtype", None)}
        if one.op == "placeholder" and specs[one.name].kind.name == "USER_INPUT":
            made[one] = Node("input", **about, name=f"input {len(graph.inputs)}")
            graph.inputs.append(made[one])
        elif one.op == "placeholder":
            tensor = tensors.get(specs[one.name].target)
            if not isinstance(tensor, Tensor):
                raise Refusal("a model of tensors", f"{_named(specs[one.name].target)}, a {type(tensor).__name__}", OTHERWISE)
            made[one] = Node("constant", **about, name=_named(specs[one.name].target), value=tensor.detach())
        elif one.op == "call_function" and not str(one.target).startswith("aten._assert"):
            args, kwargs = walk(lambda v: made[v] if isinstance(v, torch.fx.Node) else v, (tuple(one.args), dict(one.kwargs)))
            node = Node(_name(one.target), args, kwargs, **about, name=one.name)
            if isinstance(one.target, OpOverload) and one.target._schema.is_mutable:
                node.op = node.op.replace("_.", ".", 1)
                target = args[0]
                others = {n for n, there in shares.items() if target in there} | shares.get(target, {target})
                if target.op in ("input", "constant") or len(others) > 1:
                    raise Refusal("operators that change no input", f"{one.target}", OTHERWISE)
                made.update({key: node for key, was in made.items() if was is target})
            given = arguments_of(node) if node.op in ("aten.batch_norm.default", "aten.instance_norm.default") else {}
            changes = given.get("running_mean") is not None and (given.get("training") or given.get("use_input_stats"))
            unknown = operator_of(node.op) is None and not (base_of(node.op) in DROPOUTS and not node.args[2])
            if changes or unknown:
                raise Refusal("operators that only compute", f"{node.op} ({node.name})", OTHERWISE)
            shares[node] = {node} if is_new(node.op) else {node}.union(*(shares.get(s, {s}) for s in node.sources()))
            made[one] = node
            graph.nodes.append(node)
        elif one.op == "output":
            leaves = [made.get(leaf, leaf) if isinstance(leaf, torch.fx.Node) else leaf for leaf in one.args[0]]
            graph.output = tree_unflatten(leaves, program.call_spec.out_spec)
            _check_output(graph.output)
    for symbol, letter in letters.items():
        found = next((r for s, r in program.range_constraints.items() if str(s) == symbol), None)
        least, most = (0, None) if found is None else (found.lower, found.upper)
        graph.ranges[letter] = 0 if least <= 2 else int(least), None if most is None or most > 2**62 else int(most)
    return graph


def _named(target: Any) -> str:
    return str(target).removeprefix("model.")


def _name(target: Any) -> str:
    return next((name for name, function in SIZES.items() if function is target), str(target))


def _shape(value: Any, letters: dict[str, str]) -> tuple[int | str, ...] | None:
    """Sizes; those that may be any by letters, N, N1, N2, …, and what follows from them by torch.export's formula."""
    if not isinstance(value, Tensor):
        return None
    told: list[int | str] = []
    for size in map(str, value.shape):
        if re.fullmatch(r"s\d+", size):
            letters.setdefault(size, f"N{len(letters) or ''}")
        told.append(int(size) if size.isdecimal() else letters.get(size, size))
    return tuple(told)


def _check_output(output: Any) -> None:
    plain = isinstance(output, Node) or type(output) in (tuple, list)
    plain = plain or (type(output) is dict and all(isinstance(key, str) for key in output))
    if not plain:
        do = "Return those from forward."
        raise Refusal("outputs of tensors in tuples, lists and dicts of names", f"a {type(output).__name__}", do)
    for part in () if isinstance(output, Node) else output.values() if isinstance(output, dict) else output:
        _check_output(part)
