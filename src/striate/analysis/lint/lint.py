"""Runs the lint rules on a report and collects what they find, without ignored findings."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.nn import Module

from ...errors import ArgumentError, ArgumentTypeError, build, did_you_mean
from ..inspect.result import Result
from . import rules as rules  # registers the rules in RULES
from .context import Context, Use
from .finding import SEVERITIES, Finding
from .ignore import is_ignored
from .rule import RULES

__all__ = ["lint"]

TASKS = ("classification", "localisation", "segmentation")


def lint(report: Result, use: Use, ignore: Collection[str] = ()) -> list[Finding]:
    """Returns all findings, errors first, then in the order of the rows.

    Raises ArgumentError for an id in ``ignore`` that no rule has, an unknown task, or a size that is not positive;
    ArgumentTypeError if the loss or the optimizer is an object of another kind.
    """
    _check(use)
    ignore = (ignore,) if isinstance(ignore, str) else ignore
    unknown = sorted(set(ignore) - set(RULES))
    if unknown:
        hint = f"There are {', '.join(sorted(RULES))}.{did_you_mean(unknown[0], RULES)}"
        raise ArgumentError(build("lint", "ids of rules to ignore", repr(unknown[0]), hint=hint))
    if use.task not in (None, *TASKS):
        raise ArgumentError(
            build("lint", f"a task of {', '.join(TASKS)}", repr(use.task), hint="Choose one of them, or leave it out.")
        )
    context = Context(report, use)
    places = {layer.name: place for place, layer in enumerate(report.layers)}
    lines = {layer.name: layer for layer in report.layers}
    found, total = [], sum(layer.macs or 0 for layer in report.layers)
    for one in RULES.values():
        if one.id in ignore:
            continue
        for place, message, fix, apply_fix, severity in one.find(context):
            layer = lines.get(place)
            if layer is None or not is_ignored(context, layer, one.id):
                line = layer.line if layer is not None else None
                share = (layer.macs or 0) / total if layer is not None and total else None
                found.append(
                    Finding(one.id, severity or one.severity, place, message, fix, one.source, line, share, apply_fix)
                )
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), places.get(f.place, len(places))))


def _check(use: Use) -> None:
    """Rejects arguments that rules could not use and would silently ignore."""
    optimizer, batch_size, object_px, loss, _ = use
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        hint = "Make it, as SGD(model.parameters(), 0.1)."
        raise ArgumentTypeError(build("inspect", "a torch.optim.Optimizer", _kind(optimizer), hint=hint))
    if loss is not None and not isinstance(loss, Module):
        raise ArgumentTypeError(
            build("inspect", "a loss that is a module", _kind(loss), hint="Make it, as nn.CrossEntropyLoss().")
        )
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        hint = "Leave it out for the input's."
        raise ArgumentError(build("inspect", "batch_size to be a whole number from 1 on", repr(batch_size), hint=hint))
    if object_px is not None and not (type(object_px) in (int, float) and 0 < object_px < float("inf")):
        raise ArgumentError(build("inspect", "object_px to be more than 0 px", repr(object_px), hint="Leave it out."))


def _kind(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
