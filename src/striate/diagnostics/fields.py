"""Receptive fields on the live model: verifies those of the recording, and computes effective receptive fields.

Verification sets one row (or column, or plane) of an image to NaN. Exactly those units become NaN that see it, whatever
the weights, since any number times NaN is NaN. Norms are skipped meanwhile, because the recording also treats their
statistics over positions as constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from .._torch import TorchDispatchMode
from ..analysis.inspect.report import Report
from ..analysis.inspect.rows import Layer
from ..errors import ArgumentError, build
from ..extras import needs
from ..graph.optable import is_kind
from ..render.png import write_png

__all__ = ["Checked", "draw", "effective_field", "verify"]

CHUNK = 16  # images in one run of the model


class Checked(NamedTuple):
    """The positions that one unit of one layer sees on each axis: expected by the recording, and measured on the model.

    exact: whether the recording's answer is exact rather than an upper bound.
    """

    layer: str
    unit: tuple[int, ...]
    expected: tuple[tuple[int, ...], ...]
    measured: tuple[tuple[int, ...], ...]
    exact: bool

    @property
    def holds(self) -> bool:
        """Whether the two are equal, or the measured positions are within the upper bound."""
        if self.exact:
            return self.expected == self.measured
        return all(set(m) <= set(e) for m, e in zip(self.measured, self.expected, strict=True))


class _SkipNorms(TorchDispatchMode):
    """Inside this mode norms return a copy of their input."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_kind(str(func), "batch_norm", "norm"):
            x, results = args[0], len(func._schema.returns)
            return x.clone(), *(x.new_empty(0) for _ in range(results - 1))
        return func(*args, **(kwargs or {}))


def verify(report: Report, layers: Sequence[str] | None = None, unit: Sequence[int] | None = None) -> list[Checked]:
    """Compares the receptive fields of a report with those measured on the model.

    layers: names of rows, by default all layers of the model; unit: as for ``Report.receptive_field``, by default the
    middle unit of each layer. The model runs once for every position on every axis of the first input, in evaluation
    mode, without gradients.

    Raises ArgumentError for a row that is no layer, and for an input without axes behind batch and channels.

    >>> from striate import models
    >>> from striate.analysis import inspect
    >>> checked = verify(inspect(models.lenet5(), (1, 1, 28, 28)))
    >>> len(checked), all(one.holds for one in checked)
    (10, True)
    """
    axes = report.axes()
    if not axes:
        raise ArgumentError(
            build("verify", "an input with axes behind batch and channels", report.input_shapes, hint="Give an image.")
        )
    rows = (
        [_layer(report, name) for name in layers]
        if layers is not None
        else [row for row in report.layers if _is_call(report, row)]
    )
    where = {row.name: report.unit_axes(row.name) for row in rows}
    middle = {row.name: tuple(row.output_shape[axis] // 2 for axis in where[row.name]) for row in rows}
    units = middle if unit is None else {row.name: tuple(unit) for row in rows}
    fields = {row.name: report.receptive_field(row.name, units[row.name]) for row in rows}
    seen: dict[str, list[set[int]]] = {row.name: [set() for _ in axes] for row in rows}
    shape = report.input_shapes[0]
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, *shape[1:]), generator=generator)
    others = [torch.randn((1, *other[1:]), generator=generator) for other in report.input_shapes[1:]]
    with _evaluating(report.graph.model) as model, torch.no_grad(), _SkipNorms():  # type: ignore[no-untyped-call]
        for number, (_, axis) in enumerate(axes):
            for first in range(0, shape[axis], CHUNK):
                positions = range(first, min(shape[axis], first + CHUNK))
                x = image.repeat(len(positions), *[1] * (image.dim() - 1))
                for k, position in enumerate(positions):
                    x[k].select(axis - 1, position).fill_(float("nan"))
                more = (other.expand(len(positions), *other.shape[1:]) for other in others)

                def take(name: str, y: Tensor, number: int = number, positions: range = positions) -> None:
                    hit = _at(y, where[name], units[name]).isnan().flatten(1).any(1)
                    seen[name][number] |= {p for p, yes in zip(positions, hit.tolist(), strict=True) if yes}

                _run(report, model, rows, (x, *more), take)
    found = []
    for name, expected in fields.items():
        exact = expected.status != "upper bound"
        found.append(Checked(name, units[name], expected.taps, tuple(tuple(sorted(s)) for s in seen[name]), exact))
    return found


def effective_field(
    report: Report, layer: str, unit: Sequence[int] | None = None, images: int = 32, seed: int = 0
) -> Tensor:
    r"""Computes the effective receptive field: how strongly each position of the input influences a unit.

    .. math:: e(p) = \sqrt{\tfrac1n \sum_i \Big(\sum_c \frac{∂y_{unit}}{∂x_{c,p}}(x_i)\Big)^2},
              \quad \text{divided by its maximum}

    y: the sum of the unit's channels; x: Gaussian noise of mean 0 and variance 1; n: ``images``.
    Returns a tensor of the shape of the image's axes, with values between 0 and 1.

    Source: W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the Effective Receptive Field in Deep Convolutional
    Neural Networks", 2016.

    Raises ArgumentError for a row that is no layer, or images below 1.

    >>> from torch import nn
    >>> from striate.analysis import inspect
    >>> report = inspect(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)), (1, 1, 9, 9))
    >>> (effective_field(report, "1", (2, 2)) > 0).nonzero().amin(0).tolist()
    [2, 2]
    """
    if images < 1:
        raise ArgumentError(build("effective_field", "images from 1 on", images, hint="Leave it out for 32."))
    row = _layer(report, layer)
    axes = report.unit_axes(layer)
    position = tuple(unit) if unit is not None else tuple(row.output_shape[axis] // 2 for axis in axes)
    report.receptive_field(layer, position)  # raises for a unit that does not exist
    shape = report.input_shapes[0]
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(shape[2:], dtype=torch.float64)
    with _evaluating(report.graph.model) as model, torch.enable_grad():
        for first in range(0, images, CHUNK):
            count = min(CHUNK, images - first)
            inputs = [torch.randn((count, *given[1:]), generator=generator) for given in report.input_shapes]
            inputs[0].requires_grad_()
            made: dict[str, Tensor] = {}
            _run(report, model, [row], tuple(inputs), made.setdefault)
            (dx,) = torch.autograd.grad(_at(made[layer], axes, position).sum(), inputs[0])
            total += dx.double().sum(1).square().sum(0)
    return (total / total.max().clamp(min=torch.finfo(torch.float64).tiny)).sqrt().float()


def draw(report: Report, layer: str, path: str | Path, unit: Sequence[int] | None = None, images: int = 32) -> None:
    """Draws the effective receptive field, with the theoretical one as a frame, for images of two axes.

    Raises ArgumentError for an input with another number of axes.
    """
    needs("draw", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shape = report.input_shapes[0]
    if len(shape) != 4:
        raise ArgumentError(
            build(
                "draw", "an input of batch, channels and two axes", shape, hint="Use effective_field for its numbers."
            )
        )
    heat = effective_field(report, layer, unit, images)
    rectangle = report.receptive_field(layer, unit).rectangle
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    plot = figure.add_subplot()
    plot.imshow(heat.sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
    if rectangle is not None:
        (top, bottom), (left, right) = rectangle
        high, wide = bottom - top + 1, right - left + 1
        plot.add_patch(Rectangle((left - 0.5, top - 0.5), wide, high, fill=False, edgecolor="#5ba3d6", linewidth=1.5))
        plot.set_title(
            f"{report.model}, {layer}: what one unit sees\nframe {high}×{wide} px; root of its effect", fontsize=10
        )
    write_png(figure, path, 120)


# -------------------------------------------------------------------------------------------------------------- helpers


def _is_call(report: Report, row: Layer) -> bool:
    return row.call is not None and row.value is not None and not report.graph.calls[row.call].has_calls


def _layer(report: Report, name: str) -> Layer:
    row = report.layer(name)
    if not _is_call(report, row):
        raise ArgumentError(
            build("verify", "a row that is a layer of the model", repr(name), hint="Choose one that is a module.")
        )
    return row


@contextmanager
def _evaluating(model: Module) -> Iterator[Module]:
    """Puts the model into evaluation mode, and restores the mode of each module at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def _at(y: Tensor, axes: Sequence[int], position: Sequence[int]) -> Tensor:
    """Selects the unit at this position on these axes, in all samples and channels."""
    index: list[Any] = [slice(None)] * y.dim()
    for axis, at in zip(axes, position, strict=True):
        index[axis] = at
    return y[tuple(index)]


def _run(
    report: Report,
    model: Callable[..., Any],
    rows: Sequence[Layer],
    inputs: tuple[Tensor, ...],
    take: Callable[[str, Tensor], object],
) -> None:
    """Runs the model, and passes the output of each of these layers to ``take`` at once: later layers may overwrite it.
    """
    wanted: dict[tuple[Module, int], str] = {}
    for row in rows:
        assert row.call is not None
        call = report.graph.calls[row.call]
        wanted[(call.module, call.number)] = row.name
    numbers: dict[Module, int] = {}

    def hook(module: Module, args: Any, y: Any) -> None:
        number = numbers.get(module, 0)
        numbers[module] = number + 1
        name = wanted.get((module, number))
        if name is not None:
            take(name, y if isinstance(y, Tensor) else next(t for t in y if isinstance(t, Tensor)))

    handles = [module.register_forward_hook(hook) for module in dict.fromkeys(module for module, _ in wanted)]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
