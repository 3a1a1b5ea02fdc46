"""Watches what a training does to each layer: how large its gradients and steps are, how many of its units are dead."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..files import write_atomically
from .callbacks import Callback
from .state import Training
from .units import activations, dead, look

__all__ = ["Record", "Watch", "interval", "read_records"]

# A look is a forward pass of 16 images and a copy of the weights, less than a step of 32 images: with 50 steps between
# two it costs little (`python benchmarks/training.py` has "striate train" with a watch beside "fit" without). A
# training of fewer than 400 steps is looked at 8 times all the same, so that a line can be drawn.
LEAST_STEPS, MOST_AN_EPOCH, LEAST_LOOKS = 50, 4, 8
IMAGES = 16  # on which units must vary to count as alive


@dataclass(frozen=True)
class Record:
    """What was seen at one step.

    step: from 1 on; epochs: how many had passed, with fractions. By the name of the weight's layer: gradient, its norm
    ``‖g‖`` as the step used it; update, ``‖Δw‖/‖w‖``, how far the step moved the weight, in parts of it. By the name of
    the activation: dead, how many of its units are, and how many there are (:func:`.units.dead`). None stands for what
    is not finite or not known.
    """

    step: int
    epochs: float
    gradient: dict[str, float | None]
    update: dict[str, float | None]
    dead: dict[str, tuple[int, int]]

    def to_json(self) -> str:
        """One line; :func:`read_records` reads it."""
        return json.dumps(asdict(self), allow_nan=False)


class Watch(Callback):
    r"""Looks at each layer's gradient, update and dead units some times an epoch, see :class:`Record`.

    .. math:: update_l = ‖w_l^{(t)} - w_l^{(t-1)}‖ / ‖w_l^{(t-1)}‖

    Of the parameters, weights are watched: those that learn and have two axes at least. Dead units are looked for with
    a forward pass in evaluation mode on 16 images of the training part, whose layers are then not computed together
    with their neighbours. Nothing of it reaches the training: it stays the same bit for bit.

    file: where the records are kept, one a line; a training that goes on from a snapshot goes on with those up to it.
    Where it cannot be written, the training goes on and the records are kept in memory alone. records: those so far.

    Source: the ratio of update and weight, which should be near 10⁻³, as in A. Karpathy, "CS231n: Neural Networks Part
    3", 2015.

    >>> from striate import nn
    >>> from striate.training.data import open_data
    >>> from striate.training.fit import fit
    >>> model, watch = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10)), Watch()
    >>> _ = fit(model, open_data("digits"), epochs=1, batch_size=360, callbacks=[watch])
    >>> [(record.step, list(record.update), list(record.dead)) for record in watch.records]
    [(1, ['1', '3'], ['2']), (2, ['1', '3'], ['2']), (3, ['1', '3'], ['2']), (4, ['1', '3'], ['2'])]
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self.file = None if file is None else Path(file)
        self.records: list[Record] = []
        self._every = 1
        self._before: dict[str, Tensor] = {}
        self._images: Tensor | None = None

    def on_start(self, training: Training) -> None:
        self._every = interval(training.steps, len(training.loader))
        if self.file is not None:
            self.records = [record for record in read_records(self.file) if record.step <= training.step]
            self._write(lambda file: write_atomically(file, "".join(f"{one.to_json()}\n" for one in self.records)))
        part = training.data.parts["train"]
        indices = torch.linspace(0, len(part) - 1, min(IMAGES, len(part))).long()
        self._images = training.preprocessing.batch(part, indices)
        self._keep_weights(training)

    def on_step(self, training: Training) -> None:
        if training.step % self._every == 0:
            self._add(self._record(training))
        self._keep_weights(training)

    def _keep_weights(self, training: Training) -> None:
        """Copies the weights that the next step changes, if it is one to look at."""
        is_next = (training.step + 1) % self._every == 0 and training.step < training.steps
        self._before = {name: p.detach().clone() for name, p in _weights(training.model).items()} if is_next else {}

    @torch.no_grad()
    def _record(self, training: Training) -> Record:
        weights = _weights(training.model)
        gradient = {name: None if p.grad is None else _finite(p.grad.norm()) for name, p in weights.items()}
        update = {}
        for name, p in weights.items():
            before = self._before.get(name)
            update[name] = None if before is None else _finite((p - before).norm() / before.norm())
        counts: dict[str, tuple[int, int]] = {}
        assert self._images is not None
        layers = activations(training.model)
        look(training.model, self._images, layers, lambda name, output: counts.update({name: dead(output)}))
        return Record(training.step, training.step / len(training.loader), gradient, update, counts)

    def _add(self, record: Record) -> None:
        self.records.append(record)

        def append(file: Path) -> None:
            with open(file, "a", encoding="utf-8") as lines:
                lines.write(f"{record.to_json()}\n")

        self._write(append)

    def _write(self, write: Callable[[Path], object]) -> None:
        """Writes to the file. After a write that fails, as on a full disk, none is tried again: a record is not worth
        a training.
        """
        try:
            if self.file is not None:
                write(self.file)
        except OSError:
            self.file = None


def interval(steps: int, steps_per_epoch: int) -> int:
    """The number of steps from one look to the next.

    It is 50 at least and a quarter of an epoch at least, but never so many that there are less than 8 looks.

    steps: of the whole training.

    >>> interval(8 * 1875, 1875), interval(8 * 100, 100), interval(8 * 45, 45), interval(3, 3)
    (469, 50, 45, 1)
    """
    return min(max(LEAST_STEPS, math.ceil(steps_per_epoch / MOST_AN_EPOCH)), max(1, steps // LEAST_LOOKS))


def read_records(file: str | os.PathLike[str]) -> list[Record]:
    """The records that a :class:`Watch` kept in a file, in order; [] if it is missing.

    Lines that are not whole, as where the process was ended while it wrote, are passed over.
    """
    try:
        lines = Path(file).read_bytes().split(b"\n")
    except OSError:
        return []
    found: dict[int, Record] = {}
    for line in lines:
        record = _parsed(line)
        if record is not None:
            found[record.step] = record
    return [found[step] for step in sorted(found)]


def _parsed(line: bytes) -> Record | None:
    try:
        values = json.loads(line)
        pairs = {str(name): (int(count), int(of)) for name, (count, of) in values["dead"].items()}
        gradient, update = (_numbers(values[key]) for key in ("gradient", "update"))
        return Record(int(values["step"]), float(values["epochs"]), gradient, update, pairs)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {str(name): None if value is None else float(value) for name, value in values.items()}


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn, by the names of their layers."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad and not is_lazy(p)}
    return {name.removesuffix(".weight"): p for name, p in learning.items() if p.ndim > 1}


def _finite(number: Tensor) -> float | None:
    value = number.item()
    return value if math.isfinite(value) else None
