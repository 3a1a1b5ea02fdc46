"""What a lint rule is: a function that looks at a :class:`.context.Context` and yields :class:`Found`; its id, severity
and source.

The rules themselves are in :mod:`striate.analysis.rules`, a file a subject. Each one's reason is its docstring and, at
length, in docs/lint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch.nn import Module

from .context import Context

__all__ = ["RULES", "SEVERITIES", "Finding", "Found", "Rule", "rule"]

SEVERITIES = ("error", "warning", "note")


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


@dataclass(frozen=True)
class Finding:
    """One finding, as a report holds it. line: of the model's code, where it is known; share: of the model's MACs that
    its row takes, None where it is about no row.
    """

    rule: str
    severity: str
    place: str
    message: str
    fix: str
    source: str
    line: str | None = None
    share: float | None = None
    mend: Callable[[Module], None] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, str | float | None]:
        return {
            name: getattr(self, name) for name in ("rule", "severity", "place", "message", "fix", "source", "share")
        }

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


def rule(
    id: str, severity: str, source: str
) -> Callable[[Callable[[Context], Iterator[Found]]], Callable[[Context], Iterator[Found]]]:
    """Makes a function a rule. source: a paper, a page of the documentation, or arithmetic that anybody can check."""

    def add(find: Callable[[Context], Iterator[Found]]) -> Callable[[Context], Iterator[Found]]:
        assert severity in SEVERITIES and id not in RULES
        RULES[id] = Rule(id, severity, source, find)
        return find

    return add
