"""Prepares a program to run: packs the weights of its layers, turns its operators into a list of steps, and finds the
last step that reads each value.

Each step writes its result into a slot. A value is dropped after the last step that reads it, and a sum overwrites its
residual if nothing else reads that. Activations are channels_last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..ops import gate, norm
from ..ops.activation import NONE, Activation
from ..ops.fused import FusedConv, FusedLinear
from .bounds import is_within, measurements
from .operators import ARGUMENTS, FUSED_CONV, FUSED_LINEAR, FUSED_NORM, function_of, is_new
from .program import Node, Program, nodes_of, walk

__all__ = ["Executable"]

Values = list[Any]


class _Step(NamedTuple):
    run: Callable[[Values], Any]
    slot: int
    done: tuple[int, ...]  # the slots that no later step reads


class _OutOfBounds(Exception):
    """A measured value is not finite, or larger than the bounds of the layers behind it allow for."""


class Executable:
    """A program that runs: its layers, and its steps in two versions, fast and exact (by torch's own operators).

    Only the caches of its layers change. The exact steps run if a value is NaN, infinite or too large
    (:mod:`.bounds`).

    >>> import torch
    >>> x = Node("input", shape=("N", 3), dtype=torch.float32)
    >>> y = Node("aten.relu.default", (x,), shape=("N", 3), dtype=torch.float32)
    >>> Executable(Program([x], [y], output=y))((torch.tensor([[-1.0, 0.0, 1.0]]),))
    tensor([[0., 0., 1.]])
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.constants = program.constants()
        self.layers = {node: _layer(node) for node in program.nodes if node.op in (FUSED_CONV, FUSED_LINEAR)}
        slots = {node: slot for slot, node in enumerate([*program.inputs, *self.constants, *program.nodes])}
        constants = [constant.value for constant in self.constants]
        self.start: Values = [None] * len(program.inputs) + constants + [None] * len(program.nodes)
        last = {source: node for node in program.nodes for source in node.sources()}
        for node in [*nodes_of(program.output), *self.constants]:
            last.pop(node, None)
        done: dict[Node, list[int]] = {}
        for source, node in last.items():
            done.setdefault(node, []).append(slots[source])
        users = program.users()
        overwrite = {node for node in self.layers if node.op == FUSED_CONV and _may_overwrite(node, last, users)}
        self.measurements = measurements(program)
        self.fast, self.exact = (
            [
                _Step(self._run(node, slots, node in overwrite, exact), slots[node], tuple(done.get(node, ())))
                for node in program.nodes
            ]
            for exact in (False, True)
        )
        self.output = walk(lambda node: None if node is None else slots[node], program.output)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        """Computes the program's output for inputs of its shapes and types."""
        if gate.is_open(*inputs) and all(map(is_within, inputs)):
            try:
                return self._run_steps(self.fast, inputs)
            except _OutOfBounds:
                pass  # begins again with the exact steps: no step changes a value that was there before
        return self._run_steps(self.exact, inputs)

    def _run_steps(self, steps: list[_Step], inputs: tuple[Tensor, ...]) -> Any:
        values = self.start.copy()
        values[: len(inputs)] = inputs
        for run, slot, done in steps:
            values[slot] = run(values)
            for k in done:
                values[k] = None
        return walk(lambda slot: None if slot is None else values[slot], self.output)

    def _run(self, node: Node, slots: dict[Node, int], overwrite: bool, exact: bool) -> Callable[[Values], Any]:
        """Makes the function that computes a node from the values in the slots, and measures the result if required."""
        run = self._run_unmeasured(node, slots, overwrite, exact or node in self.measurements.exact)
        if exact or node not in self.measurements.measured:
            return run

        def measured(v: Values) -> Any:
            y = run(v)
            if not is_within(y):
                raise _OutOfBounds
            return y

        return measured

    def _run_unmeasured(
        self, node: Node, slots: dict[Node, int], overwrite: bool, exact: bool
    ) -> Callable[[Values], Any]:
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
            return (lambda v: layer.exact(v[x], v[r])) if exact else (lambda v: layer(v[x], v[r], overwrite))
        function, args, kwargs = function_of(node)
        if args and isinstance(args[0], Node) and not nodes_of((args[1:], kwargs)):
            first, others = slots[args[0]], args[1:]
            return lambda v: function(v[first], *others, **kwargs)

        def run_any(v: Values) -> Any:
            given_args, given_kwargs = walk(lambda a: v[slots[a]] if isinstance(a, Node) else a, (args, kwargs))
            return function(*given_args, **given_kwargs)

        return run_any


def _layer(node: Node) -> FusedConv | FusedLinear:
    """Makes the layer of a fused operator. A convolution's constant then shares the layer's weight, in its layout."""
    given = node.kwargs
    weight, bias = given["weight"].value, None if given["bias"] is None else given["bias"].value
    activation = NONE if given["activation"] is None else Activation(*given["activation"])
    if node.op == FUSED_LINEAR:
        return FusedLinear(weight, bias, where=node.name, activation=activation)
    layer = FusedConv(
        *(weight, bias, given["stride"], given["padding"], given["dilation"], given["groups"]),
        where=node.name,
        activation=activation,
    )
    given["weight"].value = layer.weight  # the same numbers, channels_last: one copy serves both
    return layer


def _may_overwrite(node: Node, last: dict[Node, Node], users: dict[Node, list[Node]]) -> bool:
    """Whether a node's residual owns its memory, and no later node reads it."""
    residual = node.kwargs["residual"]
    if residual is None or residual is node.kwargs["x"] or last.get(residual) is not node or not is_new(residual.op):
        return False
    return all(is_new(user.op) for user in users[residual])
