"""What lint rules find in a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from striate.analysis import Report, inspect
from striate.analysis.lint.rule import RULES


def findings(rule: str, model: nn.Module, input: Any, **options: Any) -> list[tuple[str, str, str]]:
    """The severity, place and message of what this rule finds."""
    return [(f.severity, f.place, f.message) for f in inspect(model, input, **options).findings if f.rule == rule]


def reported(report: Report, id: str) -> list[tuple[str, str, str]]:
    """Where, what and how to mend it, of one rule's findings."""
    return [(f.place, f.message, f.fix) for f in report.findings if f.rule == id]


def severities(report: Report, *subjects: str) -> dict[str, str]:
    """By rule, of those about these subjects: the names of their files."""
    return {f.rule: f.severity for f in report.findings if RULES[f.rule].find.__module__.rpartition(".")[2] in subjects}
