"""Renders a report as an HTML page, by ``render/templates/inspect.html``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...render import html
from ...render.numbers import short, sizes
from ..lint.group import grouped, percent
from .picture import picture
from .result import Result
from .rows import Layer
from .stage import Stage, stages
from .words import COLUMNS, about, cells, counted, facts

__all__ = ["page"]

OPEN = 24  # networks of up to so many rows have all stages expanded
ORDERS = ("MACs", "parameters", "made", "kept")  # the columns that rows can be sorted by
SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # shares of the MACs at which the scale of bars may end
NUMBERS = slice(4, 9)  # the part of COLUMNS that has columns of its own on the page


class Row(NamedTuple):
    """A layer on the page. share: its share of the MACs; ranks: its position in each of ORDERS."""

    name: str
    about: str
    numbers: list[tuple[str, str]]
    share: float
    ranks: tuple[int, ...]


class StageRow(NamedTuple):
    """A stage on the page, with the rows of its layers."""

    size: str
    names: str
    numbers: list[tuple[str, str]]
    share: float
    rows: list[Row]


def page(report: Result) -> str:
    """Renders the page. It lists the layers twice: by stage, and in one list that CSS sorts, so that no script is
    needed.
    """
    title, *_ = facts(report)
    groups = grouped(report.findings)
    rows = _rows(report)
    by_layer = {id(layer): row for layer, row in zip(report.layers, rows, strict=True)}
    most = max((row.share for row in rows), default=0.0)
    return html.page(
        "inspect.html",
        title=f"{report.model}: inspected",
        model=report.model,
        about=title.removeprefix(f"{report.model}: "),
        notes=report.notes,
        facts=_sums(report),
        groups=groups,
        counted=counted(groups),
        picture=picture(report),
        about_columns=about(COLUMNS),
        columns=[*COLUMNS[NUMBERS], "share"],
        orders=ORDERS,
        end=next(scale for scale in SCALES if most <= scale * (1 + 1e-9)),
        opened=len(report.layers) <= OPEN,
        stages=[_stage(stage, [by_layer[id(layer)] for layer in stage.layers]) for stage in stages(report)],
        rows=rows,
    )


def _sums(report: Result) -> list[tuple[str, str, str]]:
    """Name, number and unit of each total above the layers."""
    t = report.totals
    trained = "" if t["trainable_parameters"] == t["parameters"] else f"{short(t['trainable_parameters'] or 0)} trained"
    return [
        ("parameters", f"{t['parameters']:,}", trained),
        ("weights", *_amount(t["parameter_bytes"])),
        ("MACs forward", *_amount(t["macs"], "")),
        ("MACs backward", *_amount(t["backward_macs"], "")),
        ("outputs", *_amount(t["activation_bytes"])),
        ("kept for backward", *_amount(t["kept_bytes"])),
    ]


def _amount(number: int | None, unit: str = "B") -> tuple[str, str]:
    if number is None:
        return "?", unit
    text = short(number)
    return (text[:-1], text[-1] + unit) if text[-1].isalpha() else (text, unit)


def _rows(report: Result) -> list[Row]:
    total = report.totals["macs"] or sum(layer.macs or 0 for layer in report.layers)
    values = [(layer.macs or 0, layer.parameters, layer.activation_bytes, layer.kept_bytes) for layer in report.layers]
    ranks = zip(*map(_ranks, zip(*values, strict=True)), strict=True)
    rows = []
    for layer, places in zip(report.layers, ranks, strict=True):
        name, kind, output, weight, *numbers = cells(layer)
        share = (layer.macs or 0) / total if total else 0.0
        texts = [*zip(COLUMNS[NUMBERS], numbers, strict=True), ("share", percent(share) if share else "")]
        rows.append(
            Row(name, " ".join(filter(None, (kind, output, weight and f"weight {weight}"))), texts, share, places)
        )
    return rows


def _ranks(values: Sequence[int]) -> list[int]:
    """The rank of each value, from 1 for the largest."""
    places = sorted(range(len(values)), key=lambda place: -values[place])
    ranks = [0] * len(values)
    for rank, place in enumerate(places, 1):
        ranks[place] = rank
    return ranks


def _stage(stage: Stage, rows: list[Row]) -> StageRow:
    first, last = stage.layers[0].name, stage.layers[-1].name
    names = first if len(stage.layers) == 1 else f"{first} to {last}, {len(stage.layers)} rows"
    size = "no map" if stage.size is None else sizes(stage.size)
    share = sum(row.share for row in rows)
    sums = [("parameters", short(_sum(stage.layers, "parameters"))), ("MACs", short(_sum(stage.layers, "macs")))]
    return StageRow(size, names, [*sums, ("share", percent(share) if share else "0 %")], share, rows)


def _sum(layers: Sequence[Layer], name: str) -> int:
    return sum(getattr(layer, name) or 0 for layer in layers)
