"""Mistakes that can be seen on the graph: rules, each with a reason and a way to mend it.

A rule is a function in :mod:`striate.analysis.rules` that looks at a :class:`Context` and yields :class:`Found`. Its id, severity and
source stand at its head, its reason in its docstring and, at length, in docs/lint.
"""

from __future__ import annotations

import ast
import linecache
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import getsourcelines
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import Module

from ..errors import ArgumentError, build
from .trace import Call, Graph

if TYPE_CHECKING:
    from .report import Layer, Report

__all__ = ["RULES", "Context", "Finding", "Found", "Rule", "configured", "lint", "rule"]

SEVERITIES = ("error", "warning", "note")
TASKS = ("classification", "localisation", "segmentation")


class Found(NamedTuple):
    """What a rule yields: where, what, how to mend it, and what does so on a model where that is mechanical.

    place: a row's name, "model" or "optimizer"; message: one sentence, with the number; mend: does it to a copy of the model.
    """

    place: str
    message: str
    fix: str
    mend: Callable[[Module], None] | None = None


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

    def first(self, *classes: type[Module]) -> Iterator[tuple[Layer, Any]]:
        """The same, with each layer once, where it is called first."""
        seen: set[int] = set()
        for layer, module in self.of(*classes):
            if id(module) not in seen:
                seen.add(id(module))
                yield layer, module

    def path(self, layer: Layer) -> str:
        """Where in the model the layer of a row is; for an operation its row's name."""
        call = self.call(layer)
        return call.path if call is not None else layer.name

    @cached_property
    def _neighbours(self) -> tuple[dict[int, list[Layer]], dict[int, list[Layer]]]:
        """By the rows' places in ``layers``: the rows that made what a row reads, and those that read what it made."""
        from .report import FREE

        place_of: dict[int, int] = {}  # of a node its row
        for place, layer in enumerate(self.layers):
            maker = self.graph.values[layer.value].node if layer.value is not None else None
            if self.call(layer) is None and maker is not None:
                place_of[maker] = place
        calls = {call.index: place for place, layer in enumerate(self.layers) if (call := self.call(layer)) is not None}
        for node in self.graph.nodes:
            leaf = self.graph.leaf_of(node)
            if leaf is not None:
                place_of[node.index] = calls[leaf.index]
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

        def passes(index: int) -> None:
            for place in passed.get(index, []):
                call = self.call(self.layers[place])
                for value in call.outputs if call is not None else ():
                    for source in made.get(value, set()):
                        link(source, place)
                    made[value] = {place}

        for node in self.graph.nodes:
            passes(node.index)
            sources: set[int] = set().union(*(made.get(v, set()) for v in node.inputs))
            own = place_of.get(node.index)
            if own is None or (node.op in FREE and self.graph.leaf_of(node) is None):
                for value in node.outputs:
                    made[value] = sources
                continue
            for source in sources:
                link(source, own)
            for value in node.outputs:
                made[value] = {own}
        passes(len(self.graph.nodes))
        self._last: set[int] = set().union(*(made.get(v, set()) for v in self.graph.outputs))
        named = [{place: [self.layers[p] for p in found] for place, found in one.items()} for one in (before, after)]
        return named[0], named[1]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {id(layer): place for place, layer in enumerate(self.layers)}

    def _place(self, layer: Layer) -> int:
        return self._places[id(layer)]

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
        for place, message, fix, mend in one.find(context):
            layer = lines.get(place)
            if layer is None or not _is_ignored(context, layer, one.id):
                line = layer.line if layer is not None else None
                found.append(Finding(one.id, one.severity, place, message, fix, one.source, line, mend))
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), places.get(f.place, len(places))))


IGNORED = re.compile(r"#\s*striate:\s*ignore\[([\w\-, ]+)\]")


def _is_ignored(context: Context, layer: Layer, id: str) -> bool:
    """Whether the code says so: ``# striate: ignore[ID]`` where the layer is called, or where its owner makes it (``self.name = …``)."""
    if layer.line is not None:
        file, _, number = layer.line.rpartition(":")
        if _says(id, [linecache.getline(file, int(number))]):
            return True
    if context.call(layer) is None:
        return False
    names = context.path(layer).split(".")
    for depth in range(len(names), 0, -1):  # the layer's owner; where that is one of torch's containers, who made that
        owner = context.model.get_submodule(".".join(names[: depth - 1]))
        found = [lines for kind in type(owner).__mro__ for lines in _makes(kind, names[depth - 1], names[depth:])]
        if found:
            return any(_says(id, lines) for lines in found)
    return False


def _says(id: str, lines: Sequence[str]) -> bool:
    told = (IGNORED.search(line) for line in lines)
    return any(id in re.split(r"[,\s]+", one.group(1)) for one in told if one)


def _makes(kind: type, name: str, inside: Sequence[str]) -> Iterator[list[str]]:
    """The lines of a class that set ``self.name``; of a container's one argument's. inside: the names from there on to the layer."""
    if kind.__module__.split(".")[0] in ("torch", "striate"):
        return
    try:
        lines = textwrap.dedent("".join(getsourcelines(kind)[0])).splitlines()
        tree = ast.parse("\n".join(lines))
    except (OSError, TypeError, SyntaxError):  # typed into a prompt; or no longer what it was
        return
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(t, ast.Attribute) and t.attr == name and isinstance(t.value, ast.Name) and t.value.id == "self" for t in targets):
            assert isinstance(node, (ast.Assign, ast.AnnAssign))
            kept = {node.lineno, *_lines_of(node.value, inside)}
            yield [lines[number - 1] for number in sorted(kept)]


def _lines_of(made: ast.expr | None, inside: Sequence[str]) -> Iterator[int]:
    """Of a layer; of a container's calls only those of what is asked, and their first lines."""
    while inside and isinstance(made, ast.Call) and inside[0].isdigit():
        listed = made.args[0] if len(made.args) == 1 else None
        parts = listed.elts if isinstance(listed, (ast.List, ast.Tuple)) else made.args
        if int(inside[0]) >= len(parts) or any(isinstance(one, ast.Starred) for one in parts):
            break
        yield made.lineno
        made, inside = parts[int(inside[0])], inside[1:]
    if made is not None:
        yield from range(made.lineno, (made.end_lineno or made.lineno) + 1)


def configured(folder: str | Path) -> list[str]:
    """The ids that ``[tool.striate.lint] ignore`` names in the first pyproject.toml of a folder and those above it, for the command line.

    Python 3.10 cannot read such a file: nothing is ignored then.

    Raises ArgumentError for a file that is no TOML, or where that is not a list of texts.

    >>> configured("/")
    []
    """
    try:
        import tomllib
    except ImportError:
        return []
    start = Path(folder).resolve()
    file = next((at / "pyproject.toml" for at in (start, *start.parents) if (at / "pyproject.toml").is_file()), None)
    if file is None:
        return []
    try:
        told: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(build(str(file), "TOML", str(error).rstrip("."), do="Mend the file.")) from error
    for name in ("tool", "striate", "lint"):
        told = told.get(name, {}) if isinstance(told, dict) else {}
    ignored = told.get("ignore", []) if isinstance(told, dict) else []
    if not isinstance(ignored, list) or not all(isinstance(id, str) for id in ignored):
        do = 'Write ignore = ["bias-before-norm"].'
        raise ArgumentError(build(str(file), "a list of ids as ignore in [tool.striate.lint]", repr(ignored), do=do))
    return ignored
