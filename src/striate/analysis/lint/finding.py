"""The findings of lint rules, as a report stores them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch.nn import Module

__all__ = ["SEVERITIES", "Finding"]

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One finding of a lint rule.

    line: the line of the model's code, if known; share: the share of the model's MACs that its row takes, None if it
    concerns no row.
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
