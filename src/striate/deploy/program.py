"""A program: a model as a list of operators, each a function of the results before it.

It is functional (no operator writes into the result of another), and sizes that depend on the batch are symbols.
:mod:`.capture` creates one from a model, :mod:`.passes` shorten it, :mod:`.execute` runs it and :mod:`.file` saves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Node", "Program", "Refusal", "nodes_of", "walk"]


@dataclass(eq=False)
class Node:
    """One value: an input, a constant, or the result of an operator on the nodes and numbers in ``args`` and
    ``kwargs``.
    """

    op: str  # "input", "constant", or the name of an operator
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int | str, ...] | None = None  # a symbol, such as "N", for a size that may vary; None if no tensor
    dtype: torch.dtype | None = None
    name: str = ""
    value: Any = None  # if it is a constant

    def sources(self) -> list[Node]:
        """The nodes that it is computed from."""
        return nodes_of((self.args, self.kwargs))


@dataclass
class Program:
    """Operators in the order in which they run, with the inputs and the output of the whole.

    >>> x = Node("input", shape=("N", 3), name="input 0")
    >>> y = Node("aten.relu.default", (x,), shape=("N", 3))
    >>> program = Program([x], [y, Node("aten.neg.default", (y,))], output=y)
    >>> program.drop_unused()
    >>> [node.op for node in program.nodes]
    ['aten.relu.default']
    """

    inputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    output: Any = None  # nodes in tuples, lists and dicts, as the model returns them
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # least and greatest size of each symbol
    example: dict[str, int] = field(default_factory=dict)  # the size that each symbol has for the example
    difference: float = math.nan  # from the model, relative to the outputs' root mean square

    def constants(self) -> list[Node]:
        """The constants that its operators use, each once, in the order of their first use."""
        return list(dict.fromkeys(n for node in self.nodes for n in node.sources() if n.op == "constant"))

    def users(self) -> dict[Node, list[Node]]:
        """The nodes that use each node. The program's output counts as a node of its own."""
        users: dict[Node, list[Node]] = {}
        for node in [*self.nodes, Node("output", (self.output,))]:
            for source in dict.fromkeys(node.sources()):
                users.setdefault(source, []).append(node)
        return users

    def replace(self, old: Node, new: Any) -> None:
        """Replaces ``old`` by ``new`` wherever it is used."""

        def swap(value: Any) -> Any:
            return new if value is old else value

        for node in self.nodes:
            if old in node.sources():
                node.args, node.kwargs = walk(swap, (node.args, node.kwargs))
        self.output = walk(swap, self.output)

    def drop_unused(self) -> None:
        """Removes the nodes that the output does not depend on."""
        used = set(nodes_of(self.output))
        for node in reversed(self.nodes):
            if node in used:
                used.update(node.sources())
        self.nodes = [node for node in self.nodes if node in used]


def walk(f: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``f`` applied to every leaf of its tuples, lists and dicts.

    >>> walk(abs, (-1, [-2], {"a": -3}))
    (1, [2], {'a': 3})
    """
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(walk(f, v) for v in value)
    return {key: walk(f, v) for key, v in value.items()} if isinstance(value, dict) else f(value)


def nodes_of(value: Any) -> list[Node]:
    """The nodes among the leaves of tuples, lists and dicts."""
    found: list[Node] = []
    walk(lambda v: found.append(v) if isinstance(v, Node) else None, value)
    return found


class Refusal(Exception):
    """The reason why a model or file gives no program: what was found, and what to do."""
