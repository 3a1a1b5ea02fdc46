"""What lint rules find in a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from striate.analysis import Report, inspect
from striate.analysis.lint.rule import RULES


def findings(rule: str, model: nn.Module, input: Any, **options: Any) -> list[tuple[str, str, str]]:
    """The severity, place and message of each finding of this rule."""
    return [(f.severity, f.place, f.message) for f in inspect(model, input, **options).findings if f.rule == rule]


def reported(report: Report, id: str) -> list[tuple[str, str, str]]:
    """The place, message and fix of each finding of one rule."""
    return [(f.place, f.message, f.fix) for f in report.findings if f.rule == id]


def severities(report: Report, *subjects: str) -> dict[str, str]:
    """The names of the files of rules about these subjects, by rule."""
    return {f.rule: f.severity for f in report.findings if RULES[f.rule].find.__module__.rpartition(".")[2] in subjects}
