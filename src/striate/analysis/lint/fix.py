"""Applies the fixes of findings to a copy of the model, and shows the difference."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from difflib import unified_diff
from typing import Any

from torch.nn import Module

from ...training.parameters import parameter_groups
from ..inspect.result import Result

__all__ = ["fix"]


def fix(report: Result) -> tuple[Module, str]:
    """See :meth:`Report.fix`. Applies the fixes in the order of the findings."""
    before = report.recording.model
    model = copy.deepcopy(before)
    for finding in report.findings:
        if finding.mend is not None:
            finding.mend(model)
    lines = _difference(report.model, repr(before).splitlines(), repr(model).splitlines())
    if report.optimizer is not None and any(f.place == "optimizer" and f.severity != "note" for f in report.findings):
        groups = report.optimizer.param_groups
        decay = max(group.get("weight_decay", 0.0) for group in groups)
        name = f"{type(report.optimizer).__name__}'s groups"
        lines += _difference(name, _groups(before, groups), _groups(model, parameter_groups(model, decay)))
    return model, "\n".join(lines)


def _difference(name: str, before: list[str], after: list[str]) -> list[str]:
    return list(unified_diff(before, after, name, f"{name}, fixed", lineterm=""))


def _groups(model: Module, groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lists the weight decay of each group and the names of its parameters, in the model's order."""
    lines = []
    for group in groups:
        held = {id(p) for p in group["params"]}
        lines.append(f"weight_decay={group.get('weight_decay', 0.0):g}")
        lines += [f"  {name}" for name, p in model.named_parameters() if id(p) in held]
    return lines
