"""What a lint rule finds in a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from striate.analysis import inspect


def findings(rule: str, model: nn.Module, input: Any, **options: Any) -> list[tuple[str, str, str]]:
    """The severity, place and message of what this rule finds."""
    return [(f.severity, f.place, f.message) for f in inspect(model, input, **options).findings if f.rule == rule]
