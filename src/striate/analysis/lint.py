"""Mistakes that can be seen on the graph: rules, each with a reason and a way to mend it.

A rule is a function in :mod:`striate.analysis.rules` that looks at a :class:`Context` and yields :class:`Found`. Its id, severity and source
stand at its head, its reason in docs/guide/lint.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from inspect import getsourcelines
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import Module

from ..errors import ArgumentError, build
from .trace import Call, Graph, Node

if TYPE_CHECKING:
    from .report import Layer, Report

__all__ = ["RULES", "Context", "Finding", "Found", "Rule", "lint", "rule"]

SEVERITIES = ("error", "warning", "note")
TASKS = ("classification", "localisation", "segmentation")


class Found(NamedTuple):
    """What a rule yields: where, what, how to mend it, and what does so on a model where that is mechanical.

    place: a row's name, "model" or "optimizer"; message: one sentence, with the number; mend: does it to a copy of the model;
    severity: if it is not the rule's.
    """

    place: str
    message: str
    fix: str
    mend: Callable[[Module], None] | None = None
    severity: str | None = None


@dataclass(frozen=True)
class Finding:
    """One finding, as a report holds it. line: of the model's code, where it is known."""

    rule: str
    severity: str
    place: str
    message: str
    fix: str
    source: str
    line: str | None = None
    mend: Callable[[Module], None] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("rule", "severity", "place", "message", "fix", "source")}

    def __str__(self) -> str:
        return f"{self.severity}: {self.place}: {self.message} [{self.rule}] {self.fix}"


class Rule(NamedTuple):
    id: str
    severity: str
    source: str
    find: Callable[[Context], Iterator[Found]]

    @property
    def reason(self) -> str:
        """Its function's docstring."""
        return " ".join((self.find.__doc__ or "").split())


RULES: dict[str, Rule] = {}


def rule(id: str, severity: str, source: str) -> Callable[[Callable[[Context], Iterator[Found]]], Callable[[Context], Iterator[Found]]]:
    """Makes a function a rule. source: a paper, a page of the documentation, or arithmetic that anybody can check."""

    def add(find: Callable[[Context], Iterator[Found]]) -> Callable[[Context], Iterator[Found]]:
        assert severity in SEVERITIES and id not in RULES
        RULES[id] = Rule(id, severity, source, find)
        return find

    return add


class Context:
    """A report, and what rules ask about it."""

    def __init__(
        self,
        report: Report,
        optimizer: torch.optim.Optimizer | None = None,
        batch_size: int | None = None,
        object_px: float | None = None,
        loss: Module | None = None,
        task: str | None = None,
    ) -> None:
        self.report, self.optimizer, self.object_px, self.loss, self.task = report, optimizer, object_px, loss, task
        self.graph: Graph = report.graph
        self.model: Module = report.graph.model
        self.layers: list[Layer] = [layer for layer in report.layers if layer.value is not None]
        shapes = report.input_shapes
        self.batch_given = batch_size is not None
        self.batch_size = batch_size if batch_size is not None else (shapes[0][0] if shapes and shapes[0] else 1)

    def call(self, layer: Layer) -> Call | None:
        """The call that a row stands for; None for an operation outside of layers."""
        if layer.call is None or self.graph.calls[layer.call].has_calls:
            return None
        return self.graph.calls[layer.call]

    def module(self, layer: Layer) -> Module | None:
        """The layer itself."""
        call = self.call(layer)
        return call.module if call is not None else None

    def of(self, *classes: type[Module]) -> Iterator[tuple[Layer, Any]]:
        """The rows whose layers are of these classes, with the layers."""
        for layer in self.layers:
            module = self.module(layer)
            if isinstance(module, classes):
                yield layer, module

    @cached_property
    def _place_of(self) -> dict[int, int]:
        """Of an operation, by its number, the place of its row in ``layers``."""
        places: dict[int, int] = {}
        calls: dict[int, int] = {}
        for place, layer in enumerate(self.layers):
            call = self.call(layer)
            if call is not None:
                calls[call.index] = place
            elif layer.value is not None and (node := self.graph.values[layer.value].node) is not None:
                places[node] = place
        for one in self.graph.nodes:
            leaf = self.graph.leaf_of(one)
            if leaf is not None and leaf.index in calls:
                places[one.index] = calls[leaf.index]
        return places

    def row(self, node: Node) -> Layer | None:
        """The row that an operation is part of; None for what only reads the same values otherwise."""
        place = self._place_of.get(node.index)
        return None if place is None else self.layers[place]

    def nodes(self, layer: Layer) -> list[Node]:
        """The operations that a row stands for."""
        return self._nodes[self._place(layer)]

    @cached_property
    def _nodes(self) -> list[list[Node]]:
        found: list[list[Node]] = [[] for _ in self.layers]
        for node in self.graph.nodes:
            if node.index in self._place_of:
                found[self._place_of[node.index]].append(node)
        return found

    @cached_property
    def readers(self) -> dict[int, list[Node]]:
        """For each value the operations that read it."""
        return self.graph.readers()

    @cached_property
    def _neighbours(self) -> tuple[dict[int, list[Layer]], dict[int, list[Layer]]]:
        """By the rows' places in ``layers``: the rows that made what a row reads, and those that read what it made."""
        from .report import FREE

        made: dict[int, set[int]] = {}  # of a value the rows it comes from, through what only reads it otherwise
        before: dict[int, list[int]] = {place: [] for place in range(len(self.layers))}
        after: dict[int, list[int]] = {place: [] for place in range(len(self.layers))}

        def link(source: int, target: int) -> None:
            if source != target and target not in after[source]:
                after[source].append(target)
                before[target].append(source)

        passed: dict[int, list[int]] = {}  # layers that do nothing: their outputs are their inputs
        for place, layer in enumerate(self.layers):
            call = self.call(layer)
            if call is not None and call.outputs and set(call.outputs) <= set(call.inputs):
                passed.setdefault(call.start, []).append(place)
        for node in [*self.graph.nodes, None]:
            for place in passed.get(node.index if node is not None else len(self.graph.nodes), []):
                call = self.call(self.layers[place])
                assert call is not None
                for value in call.outputs:
                    for source in made.get(value, set()):
                        link(source, place)
                    made[value] = {place}
            if node is None:
                break
            sources = set().union(*(made.get(v, set()) for v in node.inputs)) if node.inputs else set()
            own = self._place_of.get(node.index)
            if own is None or (node.op in FREE and self.graph.leaf_of(node) is None):
                for value in node.outputs:
                    made[value] = sources
                continue
            for source in sources:
                link(source, own)
            for value in node.outputs:
                made[value] = {own}
        self._last = set().union(*(made.get(v, set()) for v in self.graph.outputs))
        named = [{place: [self.layers[p] for p in found] for place, found in one.items()} for one in (before, after)]
        return named[0], named[1]

    def _place(self, layer: Layer) -> int:
        return self._places[id(layer)]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {id(layer): place for place, layer in enumerate(self.layers)}

    def before(self, layer: Layer) -> list[Layer]:
        """The rows that made what it reads."""
        return self._neighbours[0][self._place(layer)]

    def after(self, layer: Layer) -> list[Layer]:
        """The rows that read what it made."""
        return self._neighbours[1][self._place(layer)]

    def is_output(self, layer: Layer) -> bool:
        """Whether the model returns what it made."""
        self._neighbours  # noqa: B018  finds _last
        return self._place(layer) in self._last

    def input_shape(self, layer: Layer) -> tuple[int, ...] | None:
        """Of the first tensor that it reads."""
        call = self.call(layer)
        values = call.inputs if call is not None else ()
        if call is None and layer.value is not None and (node := self.graph.values[layer.value].node) is not None:
            values = self.graph.nodes[node].inputs
        return self.graph.values[values[0]].shape if values else None


def lint(
    report: Report,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int | None = None,
    object_px: float | None = None,
    loss: Module | None = None,
    task: str | None = None,
    ignore: Collection[str] = (),
) -> list[Finding]:
    """All findings, errors first, in the order of the rows. The arguments are those of :func:`striate.inspect`.

    Raises ArgumentError for an id in ``ignore`` that no rule has, and for a task there is not.
    """
    from . import rules  # noqa: F401  fills RULES

    unknown = sorted(set(ignore) - set(RULES))
    if unknown:
        raise ArgumentError(build("lint", "ids of rules to ignore", repr(unknown[0]), do=f"There are {', '.join(sorted(RULES))}."))
    if task not in (None, *TASKS):
        raise ArgumentError(build("lint", f"a task of {', '.join(TASKS)}", repr(task), do="Choose one of them, or leave it out."))
    context = Context(report, optimizer, batch_size, object_px, loss, task)
    places = {layer.name: place for place, layer in enumerate(report.layers)}
    lines = {layer.name: layer for layer in report.layers}
    found = []
    for one in RULES.values():
        if one.id in ignore:
            continue
        for place, message, fix, mend, severity in one.find(context):
            layer = lines.get(place)
            if layer is None or not _is_ignored(context, layer, one.id):
                line = layer.line if layer is not None else None
                found.append(Finding(one.id, severity or one.severity, place, message, fix, one.source, line, mend))
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), places.get(f.place, len(places))))


IGNORED = re.compile(r"#\s*striate:\s*ignore\[([\w\-, ]+)\]")


def _is_ignored(context: Context, layer: Layer, id: str) -> bool:
    """Whether the code says so: ``# striate: ignore[ID]`` where the layer is called, or where its owner makes it (``self.name = …``)."""
    call = context.call(layer)
    path, _, name = (call.path if call is not None else layer.name).rpartition(".")
    try:
        owner = context.model.get_submodule(path)
        lines, first = getsourcelines(type(owner))
    except (AttributeError, OSError, TypeError):
        return False
    at = int(layer.line.rpartition(":")[2]) if layer.line else -1
    for number, line in enumerate(lines, first):
        told = IGNORED.search(line)
        if told and id in re.split(r"[,\s]+", told.group(1)) and (number == at or re.search(rf"\bself\.{re.escape(name)}\s*=", line)):
            return True
    return False
