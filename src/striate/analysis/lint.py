"""Mistakes that can be seen on the graph: rules, each with a reason and a way to mend it.

A rule is a function in :mod:`striate.analysis.rules` that looks at a :class:`.context.Context` and yields :class:`Found`. Its id,
severity and source stand at its head, its reason in its docstring and, at length, in docs/lint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import Module

from ..errors import ArgumentError, ArgumentTypeError, build
from .context import Context
from .ignore import is_ignored

if TYPE_CHECKING:
    from .report import Report

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

    Raises ArgumentError for an id in ``ignore`` that no rule has, a task there is not, and sizes below what they can be; ArgumentTypeError
    for a loss or an optimizer that is none.
    """
    from . import rules  # noqa: F401  fills RULES

    _check(optimizer, batch_size, object_px, loss)
    ignore = (ignore,) if isinstance(ignore, str) else ignore
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
            if layer is None or not is_ignored(context, layer, one.id):
                line = layer.line if layer is not None else None
                found.append(Finding(one.id, severity or one.severity, place, message, fix, one.source, line, mend))
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), places.get(f.place, len(places))))


def _check(optimizer: Any, batch_size: int | None, object_px: float | None, loss: Any) -> None:
    """What the rules would not understand, and so say nothing of."""
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        do = "Make it, as SGD(model.parameters(), 0.1)."
        raise ArgumentTypeError(build("inspect", "a torch.optim.Optimizer", _kind(optimizer), do=do))
    if loss is not None and not isinstance(loss, Module):
        raise ArgumentTypeError(build("inspect", "a loss that is a module", _kind(loss), do="Make it, as nn.CrossEntropyLoss()."))
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        do = "Leave it out for the input's."
        raise ArgumentError(build("inspect", "batch_size to be a whole number from 1 on", repr(batch_size), do=do))
    if object_px is not None and not (type(object_px) in (int, float) and 0 < object_px < float("inf")):
        raise ArgumentError(build("inspect", "object_px to be more than 0 px", repr(object_px), do="Leave it out."))


def _kind(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
