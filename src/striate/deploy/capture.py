"""The graph of a model, by torch.export."""

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
from .._torch import OpOverload, tree_unflatten
from ..errors import ArgumentError, build, describe_error
from .graph import DROPOUTS, SIZES, Graph, Node, Refusal, arguments_of, base_of, draws, is_new, operator_of, walk
from .root import Root

__all__ = ["trace"]

TRACEABLE = (
    "Freeze the parts of the model that can be traced one by one, or take what depends on the input's values out of "
    "forward."
)
OTHERWISE = "Take it out of forward, or freeze the parts of the model without it."
# of torch.export's own: of sizes, which follow from the inputs', and of types
CHECKS = "aten._assert", "aten.sym_constrain"
CHANCE = ", which draws random numbers"
FIXED = "Write it with torch.where, or freeze the parts of the model before and behind it."


def trace(model: Module, inputs: tuple[Tensor, ...]) -> Graph:
    """The graph of a model, whose inputs have a first axis of any size wherever the model allows it."""
    modules = {module: name for name, module in model.named_modules()}

    def look(of: Module, name: str, buffer: Any) -> None:  # of what torch.export tells nothing: code that sets a buffer
        if of in modules:
            raise _change(f"{modules[of]}.{name}".lstrip("."))

    batches = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in inputs)
    lines: dict[str, str] = {}
    try:
        with warnings.catch_warnings(), _DataIsDetached(), register_module_buffer_registration_hook(look):
            warnings.simplefilter("ignore")  # of torch.export, about itself
            program = torch.export.export(Root(model), inputs, dynamic_shapes={"inputs": batches}, strict=False)
            try:
                return _Conversion(program, lines).graph
            except Refusal:  # writes where another value lies too, autocast: torch.export has a way, ten times as slow
                functional = program.run_decompositions({})
        _check_state(functional, program)
        return _Conversion(functional, lines).graph
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


def _check_state(functional: Any, program: Any) -> None:
    """Refuses what writes into a parameter, buffer or input, with the line that does so first in the program as it was
    traced.
    """
    specs = {spec.arg.name: spec.target or spec.arg.name for spec in program.graph_signature.input_specs}
    for spec in functional.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            written = [
                one
                for one in _everywhere(program)
                if _is_mutable(one.target) and specs.get(_viewed(one).name) == spec.target
            ]
            # as a norm does
            written += [user for one in program.graph.nodes if specs.get(one.name) == spec.target for user in one.users]
            raise _change(f"{_named(spec.target)}{source.at(next(map(_line, written), None))}")


def _viewed(one: fx.Node) -> fx.Node:
    """What an operator's first argument is a view of."""
    while one.args and isinstance(one.args[0], fx.Node) and isinstance(one.target, OpOverload):
        one = one.args[0]
    return one


def _everywhere(program: Any) -> Iterator[fx.Node]:
    """Its nodes, and those of its sub-graphs."""
    for module in program.graph_module.modules():
        yield from module.graph.nodes if isinstance(module, fx.GraphModule) else ()


def _line(one: fx.Node) -> str | None:
    return source.of_stack(one.meta.get("stack_trace") or "")


class _DataIsDetached(TorchFunctionMode):
    """``x.data`` is ``x.detach()``, which torch.export can trace: the same memory, without a gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].detach() if func == DATA else func(*args, **(kwargs or {}))


DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class _Conversion:
    """torch.export's program as a graph. What writes into a tensor becomes what makes a new one, where no other value
    shares its memory.

    lines: where in the model's code each operator stands, by its name; for those of the program after it, whose
    sub-graphs do not know it.
    """

    def __init__(self, program: Any, lines: dict[str, str]) -> None:
        self.graph, self.lines = Graph(), lines
        self.letters: dict[str, str] = {}
        self.made: dict[fx.Node, Any] = {}
        self.shares: dict[Node, set[Node]] = {}  # the nodes in whose memory a node may lie
        self.specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.tensors = {**program.state_dict, **program.constants}
        for one in _everywhere(program):
            line = _line(one)
            if line is not None:
                lines.setdefault(str(one.target), line)
        leaves = self._read(program.graph_module)
        self.graph.output = tree_unflatten(list(leaves), program.call_spec.out_spec)
        _check_output(self.graph.output)
        for symbol, letter in self.letters.items():
            found = next((r for s, r in program.range_constraints.items() if str(s) == symbol), None)
            least, most = (0, None) if found is None else (found.lower, found.upper)
            self.graph.ranges[letter] = (
                0 if least <= 2 else int(least),
                None if most is None or most > 2**62 else int(most),
            )

    def _read(self, module: fx.GraphModule) -> Any:
        """Adds the operators of a graph, in which its placeholders may be known already; what it returns."""
        for one in module.graph.nodes:
            if one.op == "placeholder" and one not in self.made:
                self.made[one] = self._placeholder(one)
            elif one.op == "call_function" and one not in self.made and not str(one.target).startswith(CHECKS):
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
        return {"shape": _shape(value, self.letters), "dtype": getattr(value, "dtype", None)}

    def _placeholder(self, one: fx.Node) -> Node:
        spec = self.specs[one.name]
        if spec.kind.name == "USER_INPUT":
            self.graph.inputs.append(Node("input", **self._about(one), name=f"input {len(self.graph.inputs)}"))
            return self.graph.inputs[-1]
        tensor = self.tensors.get(spec.target)
        if not isinstance(tensor, Tensor):
            raise Refusal("a model of tensors", f"{_named(spec.target)}, a {type(tensor).__name__}", OTHERWISE)
        return Node("constant", **self._about(one), name=_named(spec.target), value=tensor.detach())

    def _enter(self, one: fx.Node, inner: Any, given: Any) -> None:
        """The operators of a region, where it stands."""
        self.made.update(zip((n for n in inner.graph.nodes if n.op == "placeholder"), self._nodes(given), strict=True))
        results = self._read(inner)
        self.made.update({part: results[part.args[1]] for part in one.users})  # each takes one of them out

    def _operator(self, one: fx.Node) -> Node:
        name, shares = _name(one.target), self.shares
        if _is_mutable(one.target):
            name = name.replace("_.", ".", 1)
        known = operator_of(name) is not None

        def refuse(what: str) -> NoReturn:
            at = source.at(_line(one) or self.lines.get(str(one.target)))
            raise Refusal("operators that only compute", f"{name}{what}{at}", OTHERWISE)

        if not known and not (base_of(name) in DROPOUTS and not one.args[2]):
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
        self.graph.nodes.append(node)
        return node


def _is_mutable(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _region(one: fx.Node) -> fx.Node | None:
    """The sub-graph that a node runs as it stands, with gradients on or off, or without autocast: neither changes a
    value.
    """
    name, first = str(one.target), one.args
    if name == "wrap_with_set_grad_enabled":
        return first[1]  # type: ignore[return-value]
    return first[4] if name == "wrap_with_autocast" and not first[2] else None  # type: ignore[return-value]


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
    plain = output is None or isinstance(output, Node) or type(output) in (tuple, list)
    plain = plain or (type(output) is dict and all(isinstance(key, str) for key in output))
    if not plain:
        hint = "Return those from forward."
        raise Refusal("outputs of tensors in tuples, lists and dicts of names", f"a {type(output).__name__}", hint)
    for part in (
        () if output is None or isinstance(output, Node) else output.values() if isinstance(output, dict) else output
    ):
        _check_output(part)
