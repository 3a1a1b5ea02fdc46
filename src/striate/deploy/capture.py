"""The program of a model, captured by torch.export."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.nn import Module
from torch.nn.modules.module import register_module_buffer_registration_hook
from torch.overrides import TorchFunctionMode

from .. import source
from .._renamed import accept_old_names
from .._torch import OpOverload, tree_unflatten
from ..errors import ArgumentError, build, describe_error
from ..graph.optable import is_kind
from .operators import SIZES, arguments_of, draws, is_new, operator_of
from .program import Node, Program, Refusal, walk
from .root import Root

__all__ = ["capture"]

TRACEABLE = (
    "Freeze the parts of the model that can be traced one by one, or take what depends on the input's values out of "
    "forward."
)
OTHERWISE = "Take it out of forward, or freeze the parts of the model without it."
# The operators by which torch.export checks sizes, which follow from the inputs', and types.
CHECKS = re.compile(r"aten\.(_assert|sym_constrain)")
CHANCE = ", which draws random numbers"
FIXED = "Write it with torch.where, or freeze the parts of the model before and behind it."


def capture(model: Module, inputs: tuple[Tensor, ...]) -> Program:
    """The program of a model. The first axis of its inputs may have any size wherever the model allows it.

    Raises ArgumentError, with the line of the model's code where that is known, for a model that torch.export cannot
    trace or whose forward does more than compute.
    """
    modules = {module: name for name, module in model.named_modules()}

    def refuse_buffer(of: Module, name: str, buffer: Any) -> None:  # torch.export does not report such a change
        if of in modules:
            raise _change(f"{modules[of]}.{name}".lstrip("."))

    batches = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in inputs)
    lines: dict[str, str] = {}
    try:
        with warnings.catch_warnings(), _DataIsDetached(), register_module_buffer_registration_hook(refuse_buffer):
            warnings.simplefilter("ignore")  # torch.export's warnings are about itself
            exported = torch.export.export(Root(model), inputs, dynamic_shapes={"inputs": batches}, strict=False)
            try:
                return _Conversion(exported, lines).program
            except Refusal:  # for writes into shared memory and autocast torch.export has a way, ten times as slow
                functional = exported.run_decompositions({})
        _check_state(functional, exported)
        return _Conversion(functional, lines).program
    except Refusal as refusal:
        expects, got, hint = refusal.args
        raise ArgumentError(
            build("freeze", expects, f"{got}{source.at(source.of_error(refusal))}", hint=hint)
        ) from None
    except Exception as error:
        at = source.at(source.of_error(error))
        if type(error).__name__ == "GuardOnDataDependentSymNode":
            expects, got, hint = (
                "a forward that goes one way whatever the input's values are",
                f"one that asks for a value{at}",
                FIXED,
            )
        else:
            expects, got, hint = "a model that torch.export can trace", f"{describe_error(error)}{at}", TRACEABLE
        raise ArgumentError(build("freeze", expects, got, hint=hint)) from error


def _change(what: str) -> Refusal:
    return Refusal(
        "a model whose forward changes no state", f"one that changes {what}", "Take the change out of forward."
    )


def _check_state(functional: Any, exported: Any) -> None:
    """Raises Refusal for a write into a parameter, buffer or input, with the line of the first one in the program as it
    was exported.
    """
    specs = {spec.arg.name: spec.target or spec.arg.name for spec in exported.graph_signature.input_specs}
    for spec in functional.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            written = [
                one
                for one in _all_nodes(exported)
                if _is_mutable(one.target) and specs.get(_viewed(one).name) == spec.target
            ]
            # a norm writes into its statistics, and its operator is not marked as one that writes
            changed = [one for one in exported.graph.nodes if specs.get(one.name) == spec.target]
            written += [user for one in changed for user in one.users]
            raise _change(f"{_named(spec.target)}{source.at(next(map(_line, written), None))}")


def _viewed(one: fx.Node) -> fx.Node:
    """The node at the root of a chain of operators' first arguments: what a value is a view of."""
    while one.args and isinstance(one.args[0], fx.Node) and isinstance(one.target, OpOverload):
        one = one.args[0]
    return one


def _all_nodes(exported: Any) -> Iterator[fx.Node]:
    """The nodes of an exported program and of its sub-graphs."""
    for module in exported.graph_module.modules():
        yield from module.graph.nodes if isinstance(module, fx.GraphModule) else ()


def _line(one: fx.Node) -> str | None:
    return source.of_stack(one.meta.get("stack_trace") or "")


class _DataIsDetached(TorchFunctionMode):
    """``x.data`` is ``x.detach()``, which torch.export can trace: the same memory, without a gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].detach() if func == DATA else func(*args, **(kwargs or {}))


DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class _Conversion:
    """Converts torch.export's program. An operator that writes into a tensor becomes one that makes a new tensor, where
    no other value shares its memory.

    lines: the line of the model's code where an operator stands, by the operator's name. Filled by the first program
    and read by the one that torch.export makes of it, whose sub-graphs have no lines.
    """

    def __init__(self, exported: Any, lines: dict[str, str]) -> None:
        self.program, self.lines = Program(), lines
        self.symbols: dict[str, str] = {}  # a program's names of sizes, by torch.export's
        self.made: dict[fx.Node, Any] = {}
        self.shares: dict[Node, set[Node]] = {}  # the nodes in whose memory a node may lie
        self.specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        self.tensors = {**exported.state_dict, **exported.constants}
        for one in _all_nodes(exported):
            line = _line(one)
            if line is not None:
                lines.setdefault(str(one.target), line)
        leaves = self._read(exported.graph_module)
        self.program.output = tree_unflatten(list(leaves), exported.call_spec.out_spec)
        _check_output(self.program.output)
        for torch_symbol, symbol in self.symbols.items():
            found = next((r for s, r in exported.range_constraints.items() if str(s) == torch_symbol), None)
            least, most = (0, None) if found is None else (found.lower, found.upper)
            self.program.ranges[symbol] = (
                0 if least <= 2 else int(least),
                None if most is None or most > 2**62 else int(most),
            )

    def _read(self, module: fx.GraphModule) -> Any:
        """Adds the operators of a graph, whose placeholders may have values already; returns the graph's results."""
        for one in module.graph.nodes:
            if one.op == "placeholder" and one not in self.made:
                self.made[one] = self._placeholder(one)
            elif one.op == "call_function" and one not in self.made and not CHECKS.match(str(one.target)):
                inner = _region(one)
                if inner is None:
                    self.made[one] = self._operator(one)
                else:
                    self._enter(one, module.get_submodule(str(inner.target)), one.args[one.args.index(inner) + 1 :])
        return self._nodes(module.graph.output_node().args[0])

    def _nodes(self, value: Any) -> Any:
        return walk(lambda v: self.made[v] if isinstance(v, fx.Node) else v, value)

    def _about(self, one: fx.Node) -> dict[str, Any]:
        value = one.meta.get("val")
        return {"shape": _shape(value, self.symbols), "dtype": getattr(value, "dtype", None)}

    def _placeholder(self, one: fx.Node) -> Node:
        spec = self.specs[one.name]
        if spec.kind.name == "USER_INPUT":
            self.program.inputs.append(Node("input", **self._about(one), name=f"input {len(self.program.inputs)}"))
            return self.program.inputs[-1]
        tensor = self.tensors.get(spec.target)
        if not isinstance(tensor, Tensor):
            raise Refusal("a model of tensors", f"{_named(spec.target)}, a {type(tensor).__name__}", OTHERWISE)
        return Node("constant", **self._about(one), name=_named(spec.target), value=tensor.detach())

    def _enter(self, one: fx.Node, inner: Any, given: Any) -> None:
        """Adds the operators of a region of the model, in the place of the node that runs it."""
        self.made.update(zip((n for n in inner.graph.nodes if n.op == "placeholder"), self._nodes(given), strict=True))
        results = self._read(inner)
        self.made.update({part: results[part.args[1]] for part in one.users})  # each user takes one result

    def _operator(self, one: fx.Node) -> Node:
        name, shares = _name(one.target), self.shares
        if _is_mutable(one.target):
            name = name.replace("_.", ".", 1)
        known = operator_of(name) is not None

        def refuse(what: str) -> NoReturn:
            at = source.at(_line(one) or self.lines.get(str(one.target)))
            raise Refusal("operators that only compute", f"{name}{what}{at}", OTHERWISE)

        if not known and not (is_kind(name, "dropout") and not one.args[2]):
            refuse(
                CHANCE
                if isinstance(one.target, OpOverload) and torch.Tag.nondeterministic_seeded in one.target.tags
                else ""
            )
        args, kwargs = self._nodes((tuple(one.args), dict(one.kwargs)))
        node = Node(name, args, kwargs, **self._about(one), name=one.name)
        given = arguments_of(node) if known and name not in SIZES else {}
        if known and draws(node):
            refuse(CHANCE)
        if given.get("running_mean") is not None and (given.get("training") or given.get("use_input_stats")):
            refuse(", which changes its running statistics")
        if _is_mutable(one.target):
            target = args[0]
            others = {n for n, there in shares.items() if target in there} | shares.get(target, {target})
            if target.op in ("input", "constant") or len(others) > 1:
                raise Refusal("operators that change no input", f"{one.target}", OTHERWISE)
            self.made.update({key: node for key, was in self.made.items() if was is target})
        shares[node] = {node} if is_new(node.op) else {node}.union(*(shares.get(s, {s}) for s in node.sources()))
        self.program.nodes.append(node)
        return node


def _is_mutable(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _region(one: fx.Node) -> fx.Node | None:
    """The sub-graph that a node runs with gradients on or off, or without autocast, neither of which changes a value;
    None for any other node.
    """
    name, first = str(one.target), one.args
    if name == "wrap_with_set_grad_enabled":
        return first[1]  # type: ignore[return-value]
    return first[4] if name == "wrap_with_autocast" and not first[2] else None  # type: ignore[return-value]


def _named(target: Any) -> str:
    return str(target).removeprefix("model.")


def _name(target: Any) -> str:
    return next((name for name, function in SIZES.items() if function is target), str(target))


def _shape(value: Any, symbols: dict[str, str]) -> tuple[int | str, ...] | None:
    """The sizes of a tensor. One that may vary is a symbol, N, N1, N2, …; one that follows from those is
    torch.export's formula.
    """
    if not isinstance(value, Tensor):
        return None
    shape: list[int | str] = []
    for size in map(str, value.shape):
        if re.fullmatch(r"s\d+", size):
            symbols.setdefault(size, f"N{len(symbols) or ''}")
        shape.append(int(size) if size.isdecimal() else symbols.get(size, size))
    return tuple(shape)


def _check_output(output: Any) -> None:
    plain = output is None or isinstance(output, Node) or type(output) in (tuple, list)
    plain = plain or (type(output) is dict and all(isinstance(key, str) for key in output))
    if not plain:
        hint = "Return those from forward."
        raise Refusal("outputs of tensors in tuples, lists and dicts of names", f"a {type(output).__name__}", hint)
    for part in (
        () if output is None or isinstance(output, Node) else output.values() if isinstance(output, dict) else output
    ):
        _check_output(part)

accept_old_names(__name__)
