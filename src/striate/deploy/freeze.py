r"""A model made ready for inference: traced once, folded, fused and packed, run without autograd, kept in a file
without pickle.

The trace (``torch.export``, for any batch size) is a list of operators, the *graph*. It is made shorter:

1. what depends on no input is computed once;
2. a batch norm goes into the convolution or linear layer before it, by :mod:`striate.deploy.fold`'s formula;
3. a convolution takes in the sum behind it (a residual) and then the clamp behind that (ReLU, ReLU6, hardtanh), so that
   one pass computes ``y = min(max(conv(x) + b + r, low), high)``; linear layers and the norms that are left likewise,
   as far as they can.

What is left runs in order, by striate's functions where there is one and torch's operators else, all of them ones that
only compute. When a value is used for the last time is worked out once: there it is dropped, and a sum is written where
its residual lay.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn import Module

from .. import tensorfile
from .._torch import tree_leaves
from ..errors import ArgumentError, ArgumentTypeError, CheckpointError, DtypeError, ShapeError, build, describe_error
from ..ops import conv, gate, norm, pool
from ..ops.fused import FusedConv, FusedLinear
from ..ops.layout import FORMATS
from .bounds import affine, is_within, plan
from .capture import trace
from .copying import copy_model
from .graph import (
    ARGUMENTS,
    CONSTANTS,
    DROPOUTS,
    FUSED_CONV,
    FUSED_LINEAR,
    FUSED_NORM,
    IDENTITIES,
    Graph,
    Node,
    Refusal,
    arguments_of,
    base_of,
    draws,
    is_new,
    nodes_of,
    operator_of,
    walk,
)

__all__ = ["Frozen", "freeze", "load"]

# Of the graph in a file: one more for each change that older code would misread. 2: the method of a convolution is a
# number.
FORMAT = 2
# The most a frozen model's outputs may be off the model's, in parts of their root mean square. Deep networks lose
# digits in float32 by themselves: a ResNet-50 of random weights is off 1.4e-4 from float64, and frozen off 1.8e-4.
ERROR = 1e-3

# ------------------------------------------------------------------------------------------------------------ operators


def _by_channel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, weight, bias, mean, variance, *rest: function(x, mean, variance, weight, bias, *rest[:3])


def _in_rows(name: str) -> Callable[..., Any]:
    """An operator that wants its tensors in rows: what is so in the model may be in channels order here."""
    return lambda *given: operator_of(name)(*(x.contiguous() if isinstance(x, Tensor) else x for x in given))


# striate's functions for operators of torch, of the same arguments.
OURS: dict[str, Callable[..., Any]] = {
    "aten.view.default": torch.reshape,  # what is a view of a tensor in planes order may be none in channels order
    "aten._unsafe_view.default": torch.reshape,
    **{
        f"aten.{name}": _in_rows(f"aten.{name}")
        for name in ("kron.default", "view.dtype", "view_as.default", "view_as_complex.default")
    },
    "aten.layer_norm.default": lambda *arguments: norm.layer_norm(*arguments[:5]),  # the last is about CUDA's library
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


def _call(node: Node) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function that computes a node of torch's or striate's operators, and its arguments."""
    if node.op in OURS:
        return OURS[node.op], tuple(arguments_of(node).values()), {}
    return operator_of(node.op), node.args, node.kwargs


# ----------------------------------------------------------------------------------------------------------- shortening


def _shorten(graph: Graph) -> None:
    _drop_identities(graph)
    _compute_constants(graph)
    graph.drop_unused()
    for node in list(graph.nodes):
        fused = _fusible(node)
        if fused is not None:
            graph.nodes[graph.nodes.index(node)] = fused
            graph.replace(node, fused)
    _pick_first(graph)
    _take_in_norms(graph)
    _take_in_sums(graph)
    _take_in_clamps(graph)
    graph.drop_unused()
    for constant in {source for node in graph.nodes for source in node.sources() if source.op == "constant"}:
        if isinstance(constant.value, Tensor):  # as files hold it: a product with a transposed matrix has other bits
            constant.value = constant.value.contiguous()
    for node in nodes_of(graph.output):
        if node.op == "constant":  # or the caller could write into it
            graph.nodes.append(Node("aten.clone.default", (node,), {}, node.shape, node.dtype, node.name))
            graph.output = walk(partial(_in_place_of, node, graph.nodes[-1]), graph.output)


def _in_place_of(old: Any, new: Any, value: Any) -> Any:
    return new if value is old else value


def _drop_identities(graph: Graph) -> None:
    outputs = set(nodes_of(graph.output))  # two that share no memory stay two
    for node in list(graph.nodes):
        if base_of(node.op) in IDENTITIES | DROPOUTS and not (node in outputs and base_of(node.op) == "clone"):
            graph.nodes.remove(node)
            graph.replace(node, node.args[0])


def _compute_constants(graph: Graph) -> None:
    for node in list(graph.nodes):
        if any(source.op != "constant" for source in node.sources()):
            continue
        function, args, kwargs = _call(node)
        args, kwargs = walk(lambda v: v.value if isinstance(v, Node) else v, (args, kwargs))
        value = function(*args, **kwargs)
        if any(isinstance(x, Tensor) and x.dtype not in tensorfile.DTYPES.values() for x in tree_leaves(value)):
            continue  # complex, which no file holds
        graph.nodes.remove(node)
        if isinstance(value, Tensor | tuple | list):
            node.op, node.args, node.kwargs, node.value = "constant", (), {}, value
        else:
            graph.replace(node, value)


def _is_constant(*values: Any) -> bool:
    return all(v is None or (isinstance(v, Node) and v.op == "constant") for v in values)


def _fusible(node: Node) -> Node | None:
    """The fused node for a convolution or linear layer of fixed weights, or a batch norm of fixed statistics."""
    base, rank = base_of(node.op), len(node.shape or ())
    if base in ("conv1d", "conv2d", "conv3d") and rank == int(base[4]) + 2:
        op = FUSED_CONV
    elif base == "linear" and rank:
        op = FUSED_LINEAR
    elif base in ("batch_norm", "_native_batch_norm_legit_no_training"):
        op = FUSED_NORM
    else:
        return None
    given = arguments_of(node)
    if op == FUSED_NORM and given.get("training"):
        return None
    names = {"x": "input", "mean": "running_mean", "variance": "running_var"}
    kwargs = {name: given.get(names.get(name, name)) for name in ARGUMENTS[op]}
    constants = [kwargs[name] for name in CONSTANTS if name in kwargs]
    if not _is_constant(*constants) or any(c is not None and c.value.dtype is not torch.float32 for c in constants):
        return None
    named = next((c.name.rpartition(".")[0] for c in constants if c is not None), "")
    shape = node.args[0].shape if op == FUSED_NORM else node.shape
    return Node(op, (), kwargs, shape, torch.float32, named or node.name)


def _pick_first(graph: Graph) -> None:
    """A batch norm that was the first of an operator's three results is all of it now."""
    for node in list(graph.nodes):
        if node.op == "getitem" and node.args[0].op == FUSED_NORM:
            graph.nodes.remove(node)
            graph.replace(node, node.args[0])


def _take_in_norms(graph: Graph) -> None:
    users = graph.users()
    for node in list(graph.nodes):
        if node.op == FUSED_NORM and users[node.kwargs["x"]] == [node] and _merge(node.kwargs["x"], node.kwargs):
            layer = node.kwargs["x"]
            graph.nodes.remove(node)
            graph.replace(node, layer)
            users[layer] = users.get(node, [])


def _merge(layer: Node, given: dict[str, Any]) -> bool:
    """Puts ``s·y + t`` on a layer's outputs, ``W' = s·W`` and ``b' = s·b + t``, in float64, rounded once. False where
    that cannot be.
    """
    transposed = (
        base_of(layer.op).startswith("conv_transpose") and len(layer.shape or ()) == int(base_of(layer.op)[14]) + 2
    )
    if not (transposed or layer.op == FUSED_CONV or (layer.op == FUSED_LINEAR and len(layer.shape or ()) == 2)):
        return False  # of more axes, a linear layer's features are not on the norm's
    arguments = arguments_of(layer) if transposed else layer.kwargs
    weight, bias = arguments["weight"], arguments["bias"]
    if not _is_constant(weight, bias):
        return False
    scale, shift = affine(given)
    w, b = weight.value.double(), 0.0 if bias is None else bias.value.double()
    if transposed:  # its weight is (in, out / groups, *taps)
        along = (arguments["groups"], 1, -1, *[1] * (w.dim() - 2))
        w = (w.unflatten(0, (arguments["groups"], -1)) * scale.view(along)).flatten(0, 1)
    else:
        w = w * scale.view(-1, *[1] * (w.dim() - 1))
    w, b = w.float(), (b * scale + shift).float()
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


def _take_in_sums(graph: Graph) -> None:
    """``conv(x) + r`` of the same shape: the convolution computes the sum, where the sum stood."""
    users = graph.users()
    for node in list(graph.nodes):
        if node.op != "aten.add.Tensor" or node.kwargs.get("alpha", 1) != 1 or node.dtype is not torch.float32:
            continue
        for layer, other in (node.args, node.args[::-1]):
            if (
                not (isinstance(layer, Node) and isinstance(other, Node))
                or layer is other
                or layer.shape != other.shape
            ):
                continue
            takes = layer.op in (FUSED_CONV, FUSED_NORM) and layer.kwargs["residual"] is None
            if takes and users[layer] == [node] and other.dtype is torch.float32:
                layer.kwargs["residual"] = other
                graph.nodes.remove(layer)
                graph.nodes[graph.nodes.index(node)] = layer
                graph.replace(node, layer)
                users = graph.users()
                break


def _bounds(node: Node) -> tuple[float, float] | None:
    """Of a clamp by numbers."""
    if node.op == "aten.relu.default":
        return 0.0, math.inf
    if (
        base_of(node.op) not in ("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max")
        or node.dtype is not torch.float32
    ):
        return None
    given = {"min": 0.0, "max": 6.0} if base_of(node.op) == "relu6" else arguments_of(node)
    low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return (
        (float(low), float(high))
        if isinstance(low, int | float) and isinstance(high, int | float) and low <= high
        else None
    )


def _take_in_clamps(graph: Graph) -> None:
    """``clamp(layer(x))``, and ``clamp(max_pool(layer(x)))``, which is ``max_pool(clamp(layer(x)))``: the layer
    computes the clamp.
    """
    users = graph.users()
    for node in list(graph.nodes):
        before, bounds = node.args[0] if node.args else None, _bounds(node)
        if bounds is None or not isinstance(before, Node) or users[before] != [node]:
            continue
        layer = (
            before.args[0]
            if base_of(before.op) in MAX_POOLS and set(arguments_of(before)["dilation"]) == {1}
            else before
        )
        if layer is not before and users[layer] != [before]:
            continue
        given = layer.kwargs
        if layer.op == FUSED_NORM and given["activation"] is None and bounds in NORM_ACTIVATIONS:
            given["activation"] = NORM_ACTIVATIONS[bounds]
        elif layer.op in (FUSED_CONV, FUSED_LINEAR) and given["low"] is None and given["high"] is None:
            given["low"], given["high"] = (None if math.isinf(bound) else bound for bound in bounds)
        else:
            continue
        graph.nodes.remove(node)
        graph.replace(node, before)
        users = graph.users()


# dilated ones may have windows of padding alone, whose maximum is -inf
MAX_POOLS = frozenset(("max_pool1d", "max_pool2d", "max_pool3d"))
NORM_ACTIVATIONS = {(0.0, math.inf): "relu", **({(0.0, 6.0): "relu6"} if "relu6" in norm.ACTIVATIONS else {})}

# -------------------------------------------------------------------------------------------------------------- program

Values = list[Any]


class _Step(NamedTuple):
    run: Callable[[Values], Any]
    slot: int
    done: tuple[int, ...]  # slots that nothing reads any more


class _Beyond(Exception):
    """A value is not finite, or larger than planned for."""


class _Program:
    """A graph ready to run: its layers, and what to do in what order. Nothing in it changes but what its layers
    remember.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = list(dict.fromkeys(n for node in graph.nodes for n in node.sources() if n.op == "constant"))
        self.layers = {node: _layer(node) for node in graph.nodes if node.op in (FUSED_CONV, FUSED_LINEAR)}
        slots = {node: slot for slot, node in enumerate([*graph.inputs, *self.constants, *graph.nodes])}
        self.start: Values = [None] * len(graph.inputs) + [c.value for c in self.constants] + [None] * len(graph.nodes)
        last = {source: node for node in graph.nodes for source in node.sources()}
        for node in [*nodes_of(graph.output), *self.constants]:
            last.pop(node, None)
        done: dict[Node, list[int]] = {}
        for source, node in last.items():
            done.setdefault(node, []).append(slots[source])
        users = graph.users()
        reuse = {node for node in self.layers if node.op == FUSED_CONV and _may_overwrite(node, last, users)}
        self.plan = plan(graph)
        self.fast, self.exact = (
            [
                _Step(self._run(node, slots, node in reuse, exact), slots[node], tuple(done.get(node, ())))
                for node in graph.nodes
            ]
            for exact in (False, True)
        )
        self.output = walk(lambda node: None if node is None else slots[node], graph.output)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        if gate.is_open(*inputs) and all(map(is_within, inputs)):
            try:
                return self._through(self.fast, inputs)
            except _Beyond:
                pass  # once more: no step keeps anything
        return self._through(self.exact, inputs)

    def _through(self, steps: list[_Step], inputs: tuple[Tensor, ...]) -> Any:
        values = self.start.copy()
        values[: len(inputs)] = inputs
        for run, slot, done in steps:
            values[slot] = run(values)
            for k in done:
                values[k] = None
        return walk(lambda slot: None if slot is None else values[slot], self.output)

    def _run(self, node: Node, slots: dict[Node, int], reuse: bool, exact: bool) -> Callable[[Values], Any]:
        """What computes a node from the values in their slots."""
        run = self._computing(node, slots, reuse, exact or node in self.plan.exact)
        if exact or node not in self.plan.measured:
            return run

        def measured(v: Values) -> Any:
            y = run(v)
            if not is_within(y):
                raise _Beyond
            return y

        return measured

    def _computing(self, node: Node, slots: dict[Node, int], reuse: bool, exact: bool) -> Callable[[Values], Any]:
        given = node.kwargs
        if node.op in ARGUMENTS:
            x, r = slots[given["x"]], slots[given["residual"]] if given.get("residual") is not None else None
            if node.op == FUSED_NORM:
                constants = (given[name] for name in ("mean", "variance", "weight", "bias"))
                rest = (*(None if c is None else c.value for c in constants), False, 0.1, given["eps"])
                return lambda v: norm.by_channel(
                    v[x], *rest, residual=None if r is None else v[r], activation=given["activation"]
                )
            layer: Any = self.layers[node]
            if r is None:
                run = layer.exact if exact else layer
                return lambda v: run(v[x])
            return (lambda v: layer.exact(v[x], v[r])) if exact else (lambda v: layer(v[x], v[r], reuse))
        function, given_args, given = _call(node)
        if given_args and isinstance(given_args[0], Node) and not nodes_of((given_args[1:], given)):
            first, rest = slots[given_args[0]], given_args[1:]
            return lambda v: function(v[first], *rest, **given)

        def run_any(v: Values) -> Any:
            args, kwargs = walk(lambda a: v[slots[a]] if isinstance(a, Node) else a, (given_args, given))
            return function(*args, **kwargs)

        return run_any


def _layer(node: Node) -> FusedConv | FusedLinear:
    given = node.kwargs
    weight, bias = given["weight"].value, None if given["bias"] is None else given["bias"].value
    bounds = {
        "low": -math.inf if given["low"] is None else given["low"],
        "high": math.inf if given["high"] is None else given["high"],
    }
    if node.op == FUSED_LINEAR:
        return FusedLinear(weight, bias, **bounds, where=node.name)
    layer = FusedConv(
        weight, bias, given["stride"], given["padding"], given["dilation"], given["groups"], **bounds, where=node.name
    )
    given["weight"].value = layer.weight  # the same numbers in channels order: one copy for both
    return layer


def _may_overwrite(node: Node, last: dict[Node, Node], users: dict[Node, list[Node]]) -> bool:
    """Whether a node's residual is memory of its own that nothing but the node reads from there on."""
    residual = node.kwargs["residual"]
    if residual is None or residual is node.kwargs["x"] or last.get(residual) is not node or not is_new(residual.op):
        return False
    return all(is_new(user.op) for user in users[residual])


# --------------------------------------------------------------------------------------------------------------- frozen


class Frozen(Module):
    r"""A model that :func:`freeze` made: it computes, and nothing else can be done to it.

    ``frozen(*inputs)``: tensors of the example's shapes, with any batch size, float32 ones on the CPU; returns what the
    model returned. Nothing is kept for a gradient. Results are channels_last where they have four or five axes. Threads
    may call it at once: each gets the bits it would get alone.

    It has no parameters and no ``state_dict``, stays in evaluation mode whatever ``train()`` says, and is saved with
    :meth:`save`. Copies share its weights, which never change.

    Raises ShapeError, DtypeError or ArgumentError for inputs it was not frozen for.

    >>> frozen = freeze(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.ones(1, 3, 8, 8))
    >>> frozen(torch.ones(5, 3, 8, 8)).shape
    torch.Size([5, 8, 6, 6])
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.training = False
        self._program = _Program(graph)

    @property
    def difference(self) -> float:
        """How far its outputs were off the model's when it was frozen, in parts of their root mean square."""
        return self._program.graph.difference

    def forward(self, *inputs: Tensor) -> Any:
        given = self._checked(inputs)
        if torch.is_autocast_enabled("cpu"):
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                return self._program(given)
        with torch.no_grad():
            return self._program(given)

    def _checked(self, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        graph = self._program.graph
        sizes: dict[str, int] = {}
        if len(inputs) != len(graph.inputs):
            _refuse(
                ArgumentTypeError, f"{_count(len(graph.inputs), 'input')}", len(inputs), "Give what the model takes."
            )
        given = []
        for node, x in zip(graph.inputs, inputs, strict=True):
            if not isinstance(x, Tensor):
                _refuse(
                    ArgumentTypeError,
                    f"{node.name} to be a tensor",
                    x.__class__.__name__,
                    "Call torch.as_tensor on it first.",
                )
            shape, before = node.shape or (), sizes.copy()
            wanted = [
                sizes.setdefault(n, size) if isinstance(n, str) else n for n, size in zip(shape, x.shape, strict=False)
            ]
            if x.dim() != len(shape) or list(x.shape) != wanted:
                hint = "Freeze the model with an example of that shape."
                _refuse(ShapeError, f"{node.name} of shape {_told(shape)}", tuple(x.shape), hint, **before)
            if x.dtype is not node.dtype or not x.is_cpu:
                type, got = (str(d).removeprefix("torch.") for d in (node.dtype, x.dtype))
                _refuse(
                    DtypeError,
                    f"{node.name} of {type} on the CPU",
                    f"{got} on {x.device.type}",
                    "Convert it with .to().",
                )
            if x.requires_grad and torch.is_grad_enabled():
                hint = "Call it under torch.no_grad(), or train with the model it was frozen from."
                _refuse(ArgumentError, f"{node.name} without a gradient", "one that requires it", hint)
            given.append(x.detach().contiguous(memory_format=FORMATS[x.dim()]) if x.dim() in FORMATS else x.detach())
        for letter, size in sizes.items():
            least, most = graph.ranges.get(letter, (0, None))
            if size < least or (most is not None and size > most):
                bound = f"{letter} of at least {least}" if size < least else f"{letter} of at most {most}"
                _refuse(ShapeError, bound, size, "The model was traced for those.")
        return tuple(given)

    # what it is

    def explain(self) -> dict[str, list[tuple[str, str | None]]]:
        """For each convolution and linear layer, with the example's shape: the methods in the order they are asked, up
        to the chosen one, each with the reason against it.

        >>> frozen = freeze(torch.nn.Conv2d(8, 8, 3), torch.ones(1, 8, 8, 8))
        >>> [methods[-1][1] for methods in frozen.explain().values()]
        [None]
        """
        layers = self._named_layers()
        return {name: layer.explain_methods(self._example(node.kwargs["x"])) for name, node, layer in layers}

    def _named_layers(self) -> list[tuple[str, Node, FusedConv | FusedLinear]]:
        named: dict[str, tuple[Node, FusedConv | FusedLinear]] = {}
        for node, layer in self._program.layers.items():
            name = node.name
            while name in named:
                name += "'"
            named[name] = node, layer
        return [(name, *of) for name, of in named.items()]

    def _example(self, node: Node) -> Tensor:
        """A tensor of the shape a node has for the example, of one number."""
        sizes = self._program.graph.example
        shape = [sizes.get(n, 1) if isinstance(n, str) else n for n in node.shape or ()]
        return torch.empty(1).expand(shape)

    def __repr__(self) -> str:
        graph, names = self._program.graph, {node: name for name, node, _ in self._named_layers()}
        rows = [("operator", "of", "method", "output")]
        for node in graph.nodes:
            layer = self._program.layers.get(node)
            if layer is not None:
                method = layer.method(self._example(node.kwargs["x"]))
            else:
                method = "striate" if node.op in OURS or node.op == FUSED_NORM else "torch"
            rows.append(
                (_what(node), names.get(node, node.name), method, "" if node.shape is None else _told(node.shape))
            )
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        table = ["  ".join([*(f"{row[k]:{widths[k]}}" for k in range(3)), row[3]]).rstrip() for row in rows]
        inputs = ", ".join(
            f"{_told(node.shape or ())} {str(node.dtype).removeprefix('torch.')}" for node in graph.inputs
        )
        numbers = sum(c.value.numel() for c in self._program.constants if isinstance(c.value, Tensor))
        head = f"Frozen: {inputs}; {_count(len(graph.nodes), 'operator')}, {numbers:,} numbers"
        return "\n  ".join([head, *table])

    # what cannot be done to it

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a frozen model has no parameters."""
        hint = "Keep the model it was frozen from: that has the state. Save this one with .save(path)."
        _refuse(ArgumentError, "to be saved whole", "a call of state_dict", hint)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a frozen model has no parameters."""
        hint = "Load it into the model it was frozen from, and freeze that again."
        _refuse(ArgumentError, "its weights to stay", "a call of load_state_dict", hint)

    def train(self, mode: bool = True) -> Frozen:
        """No effect: it stays in evaluation mode, also as a part of a model that trains."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        moved = fn(torch.zeros(1))
        if moved.dtype is not torch.float32 or not moved.is_cpu:
            got = f"{str(moved.dtype).removeprefix('torch.')} on {moved.device.type}"
            _refuse(ArgumentError, "to stay float32 on the CPU", got, "Convert the model it was frozen from.")
        return self

    def __copy__(self) -> Frozen:
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        hint = "Save it with .save(path), and load that with striate.load_frozen(path)."
        _refuse(ArgumentError, "to be kept in a file of numbers and text", "a call of pickle", hint)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one safetensors file: the weights, and the graph as JSON in its metadata, each byte under a SHA-256;
        no code.

        A crash at any moment leaves the file there was or the new one. ``striate.load_frozen`` reads it.

        Raises CheckpointError if the name does not end in ``.safetensors`` or the file cannot be written.

        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> frozen = freeze(torch.nn.Linear(2, 1), torch.ones(1, 2))
        >>> frozen.save(folder.name + "/model.safetensors")
        >>> torch.equal(load(folder.name + "/model.safetensors")(torch.ones(3, 2)), frozen(torch.ones(3, 2)))
        True
        """
        tensorfile.check_name(Path(path))
        metadata, tensors = _encoded(self._program)
        tensorfile.write(Path(path), tensorfile.encode(tensors, metadata))


def _refuse(error: type[Exception], expects: str, got: Any, hint: str, **facts: Any) -> NoReturn:
    raise error(build("Frozen", expects, got, hint=hint, **facts))


def _told(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _what(node: Node) -> str:
    """An operator and what it takes in."""
    if node.op not in ARGUMENTS:
        return base_of(node.op) or node.op
    given, told = node.kwargs, node.op.partition(".")[2]
    told += " + sum" if given.get("residual") is not None else ""
    low, high = given.get("low"), given.get("high")
    clamp = "relu" if (low, high) == (0, None) else "relu6" if (low, high) == (0, 6) else f"clamp {low} to {high}"
    after = given.get("activation") or (None if low is None and high is None else clamp)
    return f"{told} + {after}" if after else told


# ------------------------------------------------------------------------------------------------------------- freezing


def freeze(model: Module, example_input: Tensor | tuple[Tensor, ...]) -> Frozen:
    r"""A copy of ``model`` for inference only: folded, fused and packed once, for any batch size. ``model`` stays as it
    is.

    .. math:: \max |frozen(x) - model(x)| ≤ 10^{-3} \sqrt{\operatorname{mean}\, model(x)^2}

    That is checked on the example, and on a batch of 1, with a warning where it does not hold; ``frozen.difference``
    has the ratio. NaN stays what it is, where it comes in and where it is born inside: there the call goes by torch's
    own operators (:mod:`.bounds`).

    model: of float32 on the CPU. It is frozen as ``model.eval()`` computes, whatever its mode. example_input: a tensor,
    or a tuple of tensors, that ``model(*example_input)`` runs on. All axes but the first are frozen with it; the first
    too, where the model needs it.

    Cost: the time is that of a trace, some seconds; the memory twice that of the weights, which are kept as they are
    and packed.

    Raises ArgumentTypeError for what is no model or example, DtypeError for other types and devices, and ArgumentError
    for a model that torch.export cannot trace, that changes state in forward, draws random numbers, goes by its input's
    values, or returns something else than tensors and None; with the line of its code where torch's trace tells that.

    Source: V. Vanhoucke, A. Senior, M. Mao, "Improving the speed of neural networks on CPUs", 2011, for fixed weights
    laid out once;
    :func:`striate.fold` for the norms.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> frozen = freeze(model, torch.ones(2, 3, 8, 8))
    >>> [line.split("  ")[1] for line in str(frozen).splitlines()[2:]]  # printed whole it says by which method, too
    ['conv + relu', 'max_pool2d']
    >>> frozen(torch.ones(7, 3, 8, 8)).shape
    torch.Size([7, 8, 3, 3])
    """
    if not isinstance(model, Module):
        raise ArgumentTypeError(
            build("freeze", "a torch.nn.Module", type(model).__name__, hint="Pass the model itself, then an example.")
        )
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    strange = [type(x).__name__ for x in inputs if not isinstance(x, Tensor)]
    if strange or not inputs:
        hint = "Pass what model(*example_input) takes; give a model with other arguments a forward that takes tensors."
        raise ArgumentTypeError(
            build("freeze", "a tensor or a tuple of tensors", ", ".join(strange) or "an empty tuple", hint=hint)
        )
    _check_types(model, inputs)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):  # as it runs
        copied = copy_model(model, "freeze").eval()
        inputs = tuple(x.detach().clone() for x in inputs)
        batches = {x.shape[0] for x in inputs if x.dim()}
        # torch.export takes an axis of 0 or 1 for one that always is
        traced = tuple(torch.cat([x, x]) if x.dim() and batches <= {1} else x for x in inputs)
        graph = trace(copied, traced)
        for node, x in zip(graph.inputs, inputs, strict=True):
            graph.example |= {
                size: x.shape[axis] for axis, size in enumerate(node.shape or ()) if isinstance(size, str)
            }
        _shorten(graph)
        frozen = Frozen(graph)
        graph.difference = _difference(copied, frozen, inputs)
        if not graph.difference <= ERROR:
            hint = (
                "Compare the two on your own data before you use the frozen one; a condition on the batch size in "
                "forward is one cause."
            )
            found = f"{graph.difference:.1e}"
            told = build(
                "freeze",
                f"outputs within {ERROR:.0e} of the model's, in parts of their root mean square",
                found,
                hint=hint,
            )
            warnings.warn(told, stacklevel=2)
    return frozen


def _check_types(model: Module, inputs: tuple[Tensor, ...]) -> None:
    for name, x in [
        *model.named_parameters(),
        *model.named_buffers(),
        *((f"input {k}", x) for k, x in enumerate(inputs)),
    ]:
        if (
            not x.is_cpu
            or x.layout is not torch.strided
            or x.is_complex()
            or (x.is_floating_point() and x.dtype is not torch.float32)
        ):
            got = f"{name} in {str(x.dtype).removeprefix('torch.')} on {x.device.type}"
            hint = "Convert model and example with .float().cpu()."
            raise DtypeError(build("freeze", "a model and an example of float32 on the CPU", got, hint=hint))


def _difference(model: Module, frozen: Frozen, inputs: tuple[Tensor, ...]) -> float:
    """The largest over the outputs, for the example and for a batch of 1, in parts of an output's root mean square."""
    graph, found = frozen._program.graph, 0.0
    single = tuple(
        x[:1] if node.shape and isinstance(node.shape[0], str) else x
        for node, x in zip(graph.inputs, inputs, strict=True)
    )
    allowed = all(least <= 1 for least, _ in graph.ranges.values())
    for given in (
        (inputs, single)
        if allowed and any(a.shape != b.shape for a, b in zip(inputs, single, strict=True))
        else (inputs,)
    ):
        try:
            expected = tree_leaves(model(*(x.clone() for x in given)))
        except Exception:
            if given is inputs:
                raise
            continue  # a batch of 1 is more than the model can do
        try:
            got = frozen(*given)
        except Exception as error:
            hint = "Freeze the parts of the model without it."
            raise ArgumentError(
                build("freeze", "operators that take tensors in channels order", describe_error(error), hint=hint)
            ) from error
        for a, b in zip(expected, tree_leaves(got), strict=True):
            if a is None:
                continue
            if a.shape != b.shape:
                return math.inf
            a, b = a.detach().double(), b.detach().double()
            apart = (a - b).abs().masked_fill((a == b) | (a.isnan() & b.isnan()), 0)
            size = a[a.isfinite()].square().mean().sqrt() if a.isfinite().any() else 1.0
            if apart.numel() and apart.max() > 0:
                found = max(found, float(apart.max() / size), key=lambda v: (math.isnan(v), v))
    return found


# ---------------------------------------------------------------------------------------------------------------- files

# Values of torch in a graph, by name.
VALUES: dict[str, Any] = {
    **{str(v).removeprefix("torch."): v for v in tensorfile.DTYPES.values()},
    **{
        str(v).removeprefix("torch."): v
        for v in (torch.contiguous_format, torch.preserve_format, *FORMATS.values(), torch.strided)
    },
    "cpu": torch.device("cpu"),
}


def _encoded(program: _Program) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A graph in words and numbers that JSON has, and the tensors it names."""
    graph = program.graph
    tensors: dict[str, Tensor] = {}
    names: dict[Node, str] = {}
    for constant in program.constants:
        names[constant] = name = (
            f"{constant.name or 'constant'}{'' if constant.name not in tensors else f'.{len(tensors)}'}"
        )
        tensors[name] = constant.value
    numbers = {node: number for number, node in enumerate([*graph.inputs, *graph.nodes])}

    def told(value: Any) -> Any:
        if isinstance(value, Node):
            return {"tensor": names[value]} if value.op == "constant" else {"node": numbers[value]}
        if isinstance(value, tuple | list):
            return {"tuple" if isinstance(value, tuple) else "list": [told(v) for v in value]}
        if isinstance(value, dict):
            return {"dict": {key: told(v) for key, v in value.items()}}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        found = [name for name, known in VALUES.items() if type(known) is type(value) and known == value]
        if not found:
            hint = "Freeze the parts of the model without it."
            raise CheckpointError(
                build("save", "a graph of numbers, text and tensors", f"{type(value).__name__} {value}", hint=hint)
            )
        return {"torch": found[0]}

    parts = ((node, told(node.args), {key: told(value) for key, value in node.kwargs.items()}) for node in graph.nodes)
    nodes = [
        {"op": node.op, "args": args, "kwargs": kwargs, "shape": node.shape, "name": node.name}
        for node, args, kwargs in parts
    ]
    inputs = [
        {"shape": node.shape, "dtype": str(node.dtype).removeprefix("torch."), "name": node.name}
        for node in graph.inputs
    ]
    rest = {"ranges": graph.ranges, "example": graph.example, "difference": told(graph.difference)}
    return {"frozen": FORMAT, "inputs": inputs, "nodes": nodes, "output": told(graph.output), **rest}, tensors


def load(path: str | os.PathLike[str]) -> Frozen:
    """The model that :meth:`Frozen.save` wrote, ready to run: it gives the same bits.

    The file is data: it names operators of a list of ones that only compute, and any other is refused. The model runs
    once, on zeros of the example's shape, so that weights are packed and methods chosen. A file of an older striate's
    format is converted.

    Raises CheckpointError, in one line, for a file that is missing, damaged in as little as one bit, of something else,
    of a newer striate, or with an operator or a method that is not on the list.
    """
    path = Path(path)

    def refusal(got: str, hint: str = "Copy the file afresh, or freeze the model again.") -> CheckpointError:
        return CheckpointError(build("load_frozen", "a sound frozen model", got, path=path, hint=hint))

    def check(places: dict[str, tensorfile.Place], metadata: dict[str, Any]) -> None:
        format = metadata.get("frozen")
        if type(format) is not int:
            raise refusal(
                "a file of something else", "Load a checkpoint with striate.training.load, or freeze its model."
            )
        if format > FORMAT:
            raise refusal(f"one of format {format}, where this striate knows up to {FORMAT}", "Use a newer striate.")

    try:
        tensors, metadata = tensorfile.read(path, check)
    except tensorfile.Damaged as found:
        raise refusal(str(found)) from None
    try:
        graph = _decoded(metadata, tensors)
        with torch.inference_mode(False), torch.no_grad():
            frozen = Frozen(graph)
            shapes = (
                [graph.example[n] if isinstance(n, str) else n for n in node.shape or ()] for node in graph.inputs
            )
            frozen(*(torch.zeros(shape, dtype=node.dtype) for shape, node in zip(shapes, graph.inputs, strict=True)))
    except Refusal as unknown:
        raise refusal(*unknown.args) from None
    except Exception as error:
        raise refusal(f"a graph that does not run ({describe_error(error)})") from None
    return frozen


def _numbered(op: str, value: Any) -> Any:
    """An argument of a convolution: in format 1 the only text is the name of its method."""
    if not isinstance(value, str):
        return value
    if value not in conv.NUMBERS:
        raise Refusal(f"method {value!r} of {op}, which is not one it has", "Use the striate it was frozen with.")
    return conv.NUMBERS[value]


def _decoded(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Graph:
    """Raises Refusal for an operator or a method that it does not have, and whatever comes for what no graph has."""
    graph = Graph()
    known: list[Node] = []
    constants: dict[str, Node] = {}

    def read(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        ((kind, inner),) = value.items()
        if kind == "node" and type(inner) is int and inner >= 0:
            return known[inner]
        if kind == "tensor":
            return constants.setdefault(
                inner, Node("constant", name=inner, shape=tuple(tensors[inner].shape), value=tensors[inner])
            )
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(map(read, inner))
        if kind == "dict":
            return {str(key): read(v) for key, v in inner.items()}
        if kind == "float":
            return float(inner)
        if kind == "torch":
            return VALUES[inner]
        raise ValueError(f"a {kind} in a graph")

    def shape_of(told: Any) -> tuple[int | str, ...] | None:
        return None if told is None else tuple(n if type(n) is int and n >= 0 else str(n) for n in told)

    for one in metadata["inputs"]:
        known.append(Node("input", shape=shape_of(one["shape"]), dtype=VALUES[one["dtype"]], name=str(one["name"])))
    graph.inputs = known.copy()
    for one in metadata["nodes"]:
        args, kwargs = read(one["args"]), {str(key): read(value) for key, value in one["kwargs"].items()}
        node = Node(str(one["op"]), args, kwargs, shape_of(one["shape"]), name=str(one["name"]))
        if node.op not in ARGUMENTS and (operator_of(node.op) is None or draws(node)):
            raise Refusal(
                f"operator {node.op!r}, which is not one it runs", "Use the striate and torch it was frozen with."
            )
        if metadata["frozen"] == 1 and node.op in ("striate.conv.default", "striate.conv_input.default"):
            node.args, node.kwargs = walk(partial(_numbered, node.op), (node.args, node.kwargs))
        if node.op in ARGUMENTS:
            wanted = ARGUMENTS[node.op]
            if (
                node.args
                or node.kwargs.keys() != set(wanted)
                or not _is_constant(*(node.kwargs[k] for k in CONSTANTS if k in wanted))
            ):
                raise ValueError(f"arguments that {node.op} does not have")
        known.append(node)
        graph.nodes.append(node)
    graph.output = read(metadata["output"])
    graph.ranges = {
        str(k): (int(least), None if most is None else int(most)) for k, (least, most) in metadata["ranges"].items()
    }
    graph.example = {str(k): int(v) for k, v in metadata["example"].items()}
    graph.difference = float(read(metadata["difference"]))
    return graph
