"""Finds size, cost, receptive field and mistakes of a network, layer by layer, without running its arithmetic.

>>> from striate import models
>>> report = inspect(models.lenet5(), (1, 1, 28, 28))
>>> report.totals["parameters"], report.totals["macs"]
(1256080, 6522000)
>>> report.receptive_field("5", unit=(0, 0)).rectangle  # the second pooling
((0, 9), (0, 9))
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch.nn import Module

from ..._torch import ConvBase
from ...errors import ShapeError
from ...graph.recording import Recording, record
from ..lint.context import Use
from ..lint.lint import lint
from .fields import Fields
from .report import Report
from .rows import Layer, Rows

__all__ = ["inspect"]

SPATIAL_NORMS = ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "GlobalResponseNorm")


def inspect(
    model: Module,
    input: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int | None = None,
    object_px: float | None = None,
    loss: Module | None = None,
    task: str | None = None,
    ignore: Collection[str] = (),
) -> Report:
    """Says what a model's layers cost, see and get wrong, without computing any of them.

    input: a shape (``(1, 3, 224, 224)``; without the batch one sample), a tensor, or a tuple or dictionary of them for
    several.
    optimizer: whose groups the lint rules join with the layers. batch_size: training's, if not the input's; object_px:
    how large what is to be recognised is in the input [px]; loss: what the output goes into, as
    ``nn.CrossEntropyLoss()``; task: "classification", "localisation" or "segmentation", if it is known. ignore: ids of
    lint rules, as "bias-before-norm".

    The model is left as it was; it may be in training or evaluation mode, and the rules say what that means.

    Raises ShapeError where the model does not run on such an input, with the line of its code; ArgumentTypeError for
    other arguments.

    Source: receptive fields after A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural
    Networks", 2019.

    >>> from torch import nn
    >>> layer = inspect(nn.Conv2d(3, 10, 5, padding=2), (1, 3, 32, 32)).layers[0]
    >>> layer.output_shape, layer.parameters, layer.macs, layer.receptive_field
    ((1, 10, 32, 32), 760, 768000, {'size': [5, 5], 'jump': [1, 1], 'offset': [-2, -2]})
    """

    notes = []
    example = _with_batch(model, input)
    try:
        recording = record(model, example)
    except ShapeError as error:
        if not (
            isinstance(model, Module)
            and model.training
            and re.search("more than (1|one) value per channel", str(error))
        ):
            raise
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            recording = record(model, example)
        finally:
            for module, training in modes:
                module.training = training
        notes.append("Training would fail on this input: a batch norm gets one value per channel. Told for evaluation.")
    fields = Fields(recording)
    rows = Rows(recording, fields)
    if recording.reason:
        notes.append(
            f"The model could not be traced without values ({recording.reason}); it ran once, and all holds for this "
            "input only."
        )
    measured = [
        row.name for row in rows.layers if row.type in SPATIAL_NORMS or _measures_places(row, recording, fields)
    ]
    if measured:
        few = ", ".join(measured[:3]) + (" …" if len(measured) > 3 else "")
        notes.append(
            f"Receptive fields follow the taps; the statistics that norms take over places ({few}) are not counted."
        )
    report = Report(type(model).__name__, recording, fields, rows.layers, rows.totals, notes, optimizer=optimizer)
    report.findings = lint(report, Use(optimizer, batch_size, object_px, loss, task), ignore)
    return report


def _measures_places(row: Layer, recording: Recording, fields: Fields) -> bool:
    """Whether a row is a norm whose statistics cover axes that follow those of the image."""
    made = None if row.value is None else recording.values[row.value].operation
    if made is None or "norm" not in recording.operations[made].name:
        return False
    over = recording.operations[made].arguments.get("normalized_shape")
    if over is None:
        return recording.operations[made].name == "aten.native_group_norm"
    places = [fields.place(recording.operations[made].inputs[0], axis) for axis in fields.axes]
    return any(place is not None and place.axis >= len(row.output_shape) - len(over) for place in places)


def _with_batch(model: Any, input: Any) -> Any:
    """Adds a batch axis of 1 to a shape without one, judged by the number of axes that the first layer expects; of
    several shapes to all or none.
    """
    if not isinstance(model, Module) or not isinstance(input, (tuple, list)) or not input:
        return input
    if all(isinstance(one, (tuple, list)) for one in input):
        given = [_with_batch(model, one) for one in input]
        return given if all(one is not old for one, old in zip(given, input, strict=True)) else input
    if not all(type(n) is int for n in input):
        return input
    kinds = (ConvBase, torch.nn.Linear)  # a linear layer may stand before the convolutions in the list
    first = next((module for kind in kinds for module in model.modules() if isinstance(module, kind)), None)
    return (1, *input) if first is not None and len(input) == len(getattr(first, "kernel_size", ())) + 1 else input
