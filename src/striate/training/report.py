"""The page of a training run: how it went, what the model gets wrong, what its layers do, by
``render/templates/report.html``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ..extras import needs
from ..render import html
from ..render.chart import Chart, Points, Scale, chart, path, scale_of
from ..render.numbers import short, sizes
from .data import DataSet, Preprocessing
from .evaluation import Evaluation, confusion_blocks
from .history import History
from .pictures import Picture, confusion, feature_maps, filters, image
from .settings import FitSettings, knobs
from .watch import Record

__all__ = ["report"]

MOST_MISTAKES = 24
MOST_NUMBERED = 30  # classes of a confusion matrix with numbers, and of any the classes with names beside it
MOST_CELLS = 100  # classes of one whose cells tell about themselves; a larger one is a picture
MOST_ROWS = 250  # of the picture, so that no screen leaves out cells; with more classes a row stands for several
BESIDE = 15  # classes of one that stands beside the table
CELL_PX = 34
MOST_PAIRS = 10
MOST_CLASSES = 20  # with a row each
NAME = 14  # characters of a class's name beside the matrix
TRAINING, MONITORED = 4, 1  # numbers of colours
HEALTHY = 1e-3  # where the ratio of update and weight should be near
PARTS = {"train": "training", "val": "validation", "test": "test"}


class Mistake(NamedTuple):
    """An image that is taken for another class."""

    picture: Picture
    taken: str
    confidence: str
    is_: str


class Cell(NamedTuple):
    """A cell of the confusion matrix."""

    row: int
    column: int
    images: int
    opacity: str
    about: str


class Track(NamedTuple):
    """A value of one layer over time: its line, and what sums it up."""

    path: str
    about: str


class Watched(NamedTuple):
    """What was seen of a layer over time."""

    name: str
    about: str
    tracks: list[Track]


def report(
    model: nn.Module,
    data: DataSet,
    evaluation: Evaluation,
    history: History,
    *,
    settings: FitSettings,
    preprocessing: Preprocessing,
    part: str = "test",
    name: str = "",
    records: Sequence[Record] = (),
    groups: Sequence[Any] = (),
    counted: str = "",
    times: Mapping[str, Any] | None = None,
    diagnoses: Sequence[tuple[str, str, Sequence[Any]]] = (),
) -> str:
    """Renders the page, which needs nothing from elsewhere and no script.

    model: as it was trained; evaluation: of the data's part ``part``; name: what the page is called, by default the
    class of the model; records: what a :class:`.watch.Watch` saw; groups, counted: findings about the model, as the
    functions ``grouped`` and ``counted`` of :mod:`striate.analysis` give them; times: of its layers, as ``times`` of
    :mod:`striate.diagnostics.page` gives them; diagnoses: when the model was measured, a sentence and the groups of its
    findings, of :func:`striate.diagnostics.diagnose`. The model stays as it is.

    Raises DataError for an image that is broken.
    """
    needs("report", "PIL")
    images = data.parts[part]
    x = preprocessing.batch(images, torch.tensor([0]))
    right = round(evaluation.accuracy * len(evaluation))
    name = name or type(model).__name__
    return html.page(
        "report.html",
        title=f"{name}: training report",
        name=name,
        about=f"{right:,} of {len(evaluation):,} {PARTS[part]} images right",
        notes=_notes(evaluation, history, part),
        facts=_facts(model, evaluation, history),
        charts=_charts(history),
        epochs=history,
        monitored=PARTS.get(history[-1].monitored or "", "") if history else "",
        classes=_classes(evaluation),
        more_classes=max(0, len(evaluation.classes) - MOST_CLASSES),
        matrix=_matrix(evaluation),
        pairs=_pairs(evaluation),
        part=PARTS[part],
        mistakes=_mistakes(evaluation, data, part),
        wrong=len(evaluation) - right,
        filters=filters(model, preprocessing.channels, preprocessing.size),
        sample=image(images.image(0), images.name(0)),
        sample_is=evaluation.classes[int(evaluation.labels[0])],
        sample_taken=evaluation.classes[int(evaluation.predictions[0])],
        maps=feature_maps(model, x),
        weights=_weights(model, records),
        units=_units(model, records),
        groups=groups,
        counted=counted,
        times=times,
        diagnoses=diagnoses,
        settings=_settings(settings),
    )


def _notes(evaluation: Evaluation, history: History, part: str) -> list[str]:
    notes = [f"Training ended early: {history.stopped}."] if history.stopped else []
    if part != "test":
        notes.append("The data have no test part: the numbers are of the validation images.")
    empty = [name for name, count in zip(evaluation.classes, evaluation.support.tolist(), strict=True) if not count]
    if empty:
        notes.append(f"No {PARTS[part]} image is of the class {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}.")
    return notes


def _facts(model: nn.Module, evaluation: Evaluation, history: History) -> list[tuple[str, str, str]]:
    """Name, number and unit of each box."""
    facts = [("accuracy", f"{100 * evaluation.accuracy:.2f}", "%")]
    if len(evaluation.classes) > 5:
        facts.append(("among the top 5", f"{100 * evaluation.top5:.2f}", "%"))
    facts += [
        ("loss", f"{evaluation.loss:.4f}", "nats"),
        ("calibration error", f"{100 * evaluation.ece:.1f}", "%"),
        ("parameters", short(sum(p.numel() for p in model.parameters())), ""),
    ]
    if history:
        number, unit = _duration(history.seconds)
        epochs = f"{len(history)} epoch" + "s" * (len(history) > 1)
        speed = sum(epoch.images_per_second for epoch in history) / len(history)
        facts += [("training", number, f"{unit}, {epochs}"), ("speed", f"{speed:,.0f}", "images/s")]
    return facts


def _duration(seconds: float) -> tuple[str, str]:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}", unit
    return f"{seconds:.1f}", "s"


# --------------------------------------------------------------------------------------------------------------- curves


def _charts(history: History) -> list[Chart]:
    if not history:
        return []
    numbers = [epoch.number for epoch in history]
    monitored = PARTS.get(history[-1].monitored or "", "")

    def lines(
        train: Sequence[float], other: Sequence[float | None], scale: float = 1.0
    ) -> list[tuple[str, int, Points]]:
        def points(values: Sequence[float | None]) -> Points:
            return [(n, None if v is None else scale * v) for n, v in zip(numbers, values, strict=True)]

        given = [("training", TRAINING, points(train))]
        return [*given, (monitored, MONITORED, points(other))] if monitored else given

    accuracy = lines(history.train_accuracy, history.accuracy, 100.0)
    lowest = min(value for _, _, points in accuracy for _, value in points if value is not None)
    rate = [(epoch.number, epoch.learning_rate) for epoch in history]
    return [
        chart("Loss", lines(history.train_loss, history.loss), x_name="epoch"),
        chart("Accuracy", accuracy, x_name="epoch", y=Scale(max(0.0, min(lowest - 5, 90.0)), 100.0), unit=" %"),
        chart("Learning rate", [("at the end of the epoch", 5, rate)], x_name="epoch"),
    ]


# -------------------------------------------------------------------------------------------------------------- classes


def _classes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row for each class, in the order of the labels; of many, those with the least F1."""
    columns = (evaluation.support, evaluation.precision, evaluation.recall, evaluation.f1)
    rows = list(zip(range(len(evaluation.classes)), *(column.tolist() for column in columns), strict=True))
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: (math.isnan(row[4]), row[4]))[:MOST_CLASSES]
    return [
        {
            "name": evaluation.classes[number],
            "images": f"{count:,}",
            "numbers": [(word, _percent(v)) for word, v in (("precision", p), ("recall", r), ("F1", f1))],
            "recall": 0.0 if math.isnan(r) else r,
        }
        for number, count, p, r, f1 in rows
    ]


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def _matrix(evaluation: Evaluation) -> dict[str, Any]:
    """The confusion matrix; names: of some classes, with their places; scale: of the names, in cells; block:
    the classes in a row.
    """
    count = len(evaluation.classes)
    scale = -(-count // MOST_NUMBERED)
    short = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in evaluation.classes[::scale]]
    drawn = confusion_blocks(evaluation.predictions, evaluation.labels, count, MOST_ROWS)
    margin = scale * (0.5 + 0.27 * max(map(len, short)))
    return {
        "cells": _cells(evaluation) if count <= MOST_CELLS else [],
        "picture": confusion(*drawn) if count > MOST_CELLS else None,
        "names": [(scale * number, name) for number, name in enumerate(short)],
        "scale": scale,
        "size": count,
        "block": -(-count // MOST_ROWS),
        "margin": margin,
        "width_px": round(CELL_PX * (count + margin) / scale),
        "is_wide": count > BESIDE,
    }


def _cells(evaluation: Evaluation) -> list[Cell]:
    """The opacity of a cell is its share of the images of its class."""
    names, counts, support = evaluation.classes, evaluation.confusion, evaluation.support.clamp(min=1)
    cells = []
    for row, column in counts.nonzero().tolist():
        count = int(counts[row, column])
        share = count / int(support[row])
        opacity = 0.08 + 0.5 * share if row == column else 0.25 + 0.5 * min(1.0, 4 * share)
        words = "rightly" if row == column else f"for {names[column]}"
        cells.append(Cell(row, column, count, f"{opacity:.2f}", f"{names[row]}: {count:,} taken {words}"))
    return cells


def _pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The classes most often mistaken: is, taken for, how often."""
    counts = evaluation.confusion.clone()
    counts.fill_diagonal_(0)
    order = counts.flatten().argsort(stable=True, descending=True)[:MOST_PAIRS].tolist()
    names, size = evaluation.classes, len(evaluation.classes)
    return [(names[k // size], names[k % size], int(counts[k // size, k % size])) for k in order if counts.flatten()[k]]


def _mistakes(evaluation: Evaluation, data: DataSet, part: str) -> list[Mistake]:
    """The wrong predictions of the highest confidence."""
    confidence, images = evaluation.confidence, data.parts[part]
    wrong = (evaluation.predictions != evaluation.labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(stable=True, descending=True)][:MOST_MISTAKES]
    names = evaluation.classes
    return [
        Mistake(
            image(images.image(index), images.name(index)),
            names[int(evaluation.predictions[index])],
            f"{100 * float(confidence[index]):.0f} %",
            names[int(evaluation.labels[index])],
        )
        for index in order.tolist()
    ]


# ------------------------------------------------------------------------------------------------------------ over time


def _weights(model: nn.Module, records: Sequence[Record]) -> dict[str, Any] | None:
    """Gradients and updates of each layer, each on one logarithmic scale for all layers."""
    if not records:
        return None
    names = list(dict.fromkeys(name for record in records for name in record.update))
    x = _time(records)
    scales = [
        scale_of([value for record in records for value in getattr(record, key).values()], is_log=True)
        for key in ("gradient", "update")
    ]
    rows = []
    for name in names:
        values = [[(r.epochs, _positive(getattr(r, key).get(name))) for r in records] for key in ("gradient", "update")]
        rows.append(
            Watched(
                name,
                _about(model, name),
                [
                    Track(path(points, x, scale), _median(points))
                    for points, scale in zip(values, scales, strict=True)
                ],
            )
        )
    healthy = scales[1].low < HEALTHY < scales[1].high
    return {
        "rows": rows,
        "scales": [(f"{scale.low:g}", f"{scale.high:g}") for scale in scales],
        "marks": [None, f"{100 * (1 - scales[1].share(HEALTHY)):.2f}" if healthy else None],
    }


def _units(model: nn.Module, records: Sequence[Record]) -> list[Watched]:
    """The share of dead units of each activation, on a scale from 0 to 1."""
    names = list(dict.fromkeys(name for record in records for name in record.dead))
    rows, x = [], _time(records)
    for name in names:
        counts = [(record.epochs, record.dead.get(name)) for record in records]
        points = [(at, None if count is None else count[0] / max(1, count[1])) for at, count in counts]
        last = counts[-1][1]
        words = "" if last is None else f"{last[0]} of {last[1]}"
        rows.append(Watched(name, _about(model, name), [Track(path(points, x, Scale(0.0, 1.0)), words)]))
    return rows


def _about(model: nn.Module, name: str) -> str:
    """The class of a layer, and the shape of its weight."""
    layer = dict(model.named_modules()).get(name.partition(" ")[0])
    if layer is None:
        return ""
    weight = getattr(layer, "weight", None)
    return type(layer).__name__ + (f" {sizes(weight.shape)}" if isinstance(weight, torch.Tensor) else "")


def _time(records: Sequence[Record]) -> Scale:
    return scale_of([record.epochs for record in records])


def _median(points: Sequence[tuple[float, float | None]]) -> str:
    """The median: at the end of a training, with a learning rate of 0, the last value says nothing."""
    known = [value for _, value in points if value is not None]
    return f"{statistics.median(known):.2g}" if known else ""


def _positive(value: float | None) -> float | None:
    return None if value is None or value <= 0 else value


def _settings(settings: FitSettings) -> list[tuple[str, str, bool]]:
    """Name and value of each setting, and whether it is another than by default."""
    rows = []
    for knob in knobs(type(settings)).values():
        value = getattr(settings, knob.name)
        words = knob.unset if value is None else ("on" if value else "off") if knob.kind is bool else str(value)
        rows.append((knob.name, words, value != knob.default and knob.default is not None))
    return rows
