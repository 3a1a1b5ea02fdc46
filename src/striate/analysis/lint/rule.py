"""Defines lint rules: functions that query a :class:`.context.Context` and yield :class:`Found`, each with an id, a
severity and a source.

The rules themselves are in :mod:`striate.analysis.lint.rules`, one file for each subject. The docstring of a rule
states its reason, and docs/lint explains it at length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch.nn import Module

from .context import Context
from .finding import SEVERITIES

__all__ = ["RULES", "Found", "Rule", "rule"]


class Found(NamedTuple):
    """What a rule yields: where the mistake is, what it is, and how to fix it.

    place: the name of a row, "model" or "optimizer"; message: one sentence, with the number; mend: a function that
    applies the fix to a copy of the model, if that can be automated; severity: if it differs from the rule's.
    """

    place: str
    message: str
    fix: str
    mend: Callable[[Module], None] | None = None
    severity: str | None = None


class Rule(NamedTuple):
    id: str
    severity: str
    source: str
    find: Callable[[Context], Iterator[Found]]

    @property
    def reason(self) -> str:
        """The docstring of the rule's function, on one line."""
        return " ".join((self.find.__doc__ or "").split())


RULES: dict[str, Rule] = {}


def rule(
    id: str, severity: str, source: str
) -> Callable[[Callable[[Context], Iterator[Found]]], Callable[[Context], Iterator[Found]]]:
    """Registers a function as a rule. source: a paper, a page of documentation, or arithmetic that anybody can check.
    """

    def add(find: Callable[[Context], Iterator[Found]]) -> Callable[[Context], Iterator[Found]]:
        assert severity in SEVERITIES and id not in RULES
        RULES[id] = Rule(id, severity, source, find)
        return find

    return add
