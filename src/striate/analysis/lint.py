"""Mistakes that can be seen on the graph: what the rules find, but for what is ignored."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import ArgumentError, build
from . import rules as rules  # fills RULES
from .context import Context, Use
from .ignore import is_ignored
from .report import Report
from .rule import RULES, SEVERITIES, Finding

__all__ = ["lint"]

TASKS = ("classification", "localisation", "segmentation")


def lint(report: Report, use: Use, ignore: Collection[str] = ()) -> list[Finding]:
    """All findings, errors first, in the order of the rows.

    Raises ArgumentError for an id in ``ignore`` that no rule has, and for a task there is not.
    """
    unknown = sorted(set(ignore) - set(RULES))
    if unknown:
        raise ArgumentError(build("lint", "ids of rules to ignore", repr(unknown[0]), do=f"There are {', '.join(sorted(RULES))}."))
    if use.task not in (None, *TASKS):
        raise ArgumentError(build("lint", f"a task of {', '.join(TASKS)}", repr(use.task), do="Choose one of them, or leave it out."))
    context = Context(report, use)
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
