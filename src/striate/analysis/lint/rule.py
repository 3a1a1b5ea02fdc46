"""What a lint rule is: a function that looks at a :class:`.context.Context` and yields :class:`Found`; its id, severity
and source.

The rules themselves are in :mod:`striate.analysis.lint.rules`, a file a subject. Each one's reason is its docstring
and, at length, in docs/lint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch.nn import Module

from .context import Context
from .finding import SEVERITIES

__all__ = ["RULES", "Found", "Rule", "rule"]

class Found(NamedTuple):
    """What a rule yields: where, what, how to mend it, and what does so on a model where that is mechanical.

    place: a row's name, "model" or "optimizer"; message: one sentence, with the number; mend: does it to a copy of the
    model;
    severity: if it is not the rule's.
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
        """Its function's docstring."""
        return " ".join((self.find.__doc__ or "").split())


RULES: dict[str, Rule] = {}


def rule(
    id: str, severity: str, source: str
) -> Callable[[Callable[[Context], Iterator[Found]]], Callable[[Context], Iterator[Found]]]:
    """Makes a function a rule. source: a paper, a page of the documentation, or arithmetic that anybody can check."""

    def add(find: Callable[[Context], Iterator[Found]]) -> Callable[[Context], Iterator[Found]]:
        assert severity in SEVERITIES and id not in RULES
        RULES[id] = Rule(id, severity, source, find)
        return find

    return add
