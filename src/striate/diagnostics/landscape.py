"""The loss around a model's weights: along its gradient and on a plane, and how far a gradient holds.

All is measured on one batch, with the statistics of that batch in training mode, so that what changes is the weights
alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, build
from ..extras import needs
from ..render import figure
from ..render.text import columns
from .batches import Batch, Loss, number
from .products import Objective, objective

__all__ = [
    "Plane",
    "Predictiveness",
    "Slice",
    "Smoothness",
    "effective_smoothness",
    "gradient_predictiveness",
    "loss_plane",
    "loss_slice",
]

MOST_POINTS = 201  # on an axis of a plane: 40,401 forward passes
MOST_COLUMNS = 9  # of a plane's table


@dataclass(frozen=True)
class Slice:
    """The loss along the gradient; see :func:`loss_slice`.

    steps: in units of the gradient; losses: at each; loss: at the weights; gradient_norm: ‖g‖.

    >>> found = Slice((0.1, 0.2), (0.5, 0.75), 1.0, 2.0)
    >>> found.range, found.best, found.linear(0.1)
    (0.25, 0.1, 0.6)
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    loss: float
    gradient_norm: float

    @property
    def range(self) -> float:
        """The highest loss minus the lowest, of the steps; infinite if one is not finite."""
        return max(self.losses) - min(self.losses) if all(map(math.isfinite, self.losses)) else math.inf

    @property
    def best(self) -> float:
        """The step with the lowest loss."""
        return self.steps[min(range(len(self.steps)), key=lambda n: _or_infinity(self.losses[n]))]

    def linear(self, step: float) -> float:
        """The loss that the gradient predicts after a step s: L(w) - s‖g‖²."""
        return self.loss - step * self.gradient_norm**2

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for those that are not finite."""
        return {
            "steps": list(self.steps),
            "losses": [number(loss) for loss in self.losses],
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "range": number(self.range),
            "best": self.best,
        }

    def table(self, width: int = 100) -> str:
        """The numbers as text of at most ``width`` columns."""
        rows = [["step · gradient", "loss", "predicted"]]
        rows += [
            [f"{s:.4g}", f"{loss:.4g}", f"{self.linear(s):.4g}"]
            for s, loss in zip(self.steps, self.losses, strict=True)
        ]
        title = f"Loss {self.loss:.4g} along its gradient of norm {self.gradient_norm:.4g}: a range of {self.range:.4g}"
        return "\n".join([title, "", *columns(rows, ">>>", width)])

    def picture(self) -> str:
        """The loss over the steps as SVG, beside what the gradient predicts. Needs matplotlib."""
        drawn, axes = _axes("loss_slice", f"Loss along its gradient: a range of {self.range:.3g}")
        axes.plot(self.steps, self.losses, color=figure.BLUE, linewidth=2, marker="o", markersize=4, label="loss")
        low, high = min(0.0, *self.steps), max(0.0, *self.steps)
        line = [self.linear(low), self.linear(high)]
        axes.plot([low, high], line, color=figure.GREY, linestyle=(0, (1, 2)), label="predicted by the gradient")
        finite = [loss for loss in (*self.losses, self.loss) if math.isfinite(loss)]
        margin = 0.05 * (max(finite) - min(finite)) or 1.0  # beyond it the line of the prediction is cut off
        axes.set(xlabel="step · gradient", ylabel="loss", ylim=(min(finite) - margin, max(finite) + margin))
        axes.legend(frameon=False)
        return figure.svg_text(drawn)


@dataclass(frozen=True)
class Plane:
    """The loss on a plane of two directions; see :func:`loss_plane`.

    axis: positions on both directions, in units of the norms of the filters; losses: a row for each position on the
    second direction, with one for each on the first; loss: at the weights.
    """

    axis: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for those that are not finite."""
        losses = [[number(loss) for loss in row] for row in self.losses]
        return {"axis": list(self.axis), "losses": losses, "loss": self.loss}

    def table(self, width: int = 100) -> str:
        """The numbers as text of at most ``width`` columns, at nine positions at most on each axis."""
        every = -(-(len(self.axis) - 1) // (MOST_COLUMNS - 1))
        places = range(0, len(self.axis), every)
        rows = [["", *(f"{self.axis[place]:.3g}" for place in places)]]
        rows += [
            [f"{self.axis[row]:.3g}", *(f"{self.losses[row][place]:.3g}" for place in places)] for row in places
        ]
        return "\n".join([f"Loss {self.loss:.4g} and around it", "", *columns(rows, ">" * len(rows[0]), width)])

    def picture(self) -> str:
        """Lines of equal loss as SVG, on a logarithmic scale where all losses are above 0. Needs matplotlib."""
        title = f"Loss on a plane of filter-normalised directions: {self.loss:.3g} at the cross"
        drawn, axes = _axes("loss_plane", title)
        losses = torch.tensor(self.losses, dtype=torch.float64)
        finite = losses[losses.isfinite()]
        is_log = bool((finite > 0).all()) and float(finite.max()) > float(finite.min())
        shown = losses.log10() if is_log else losses
        filled = axes.contourf(self.axis, self.axis, shown.numpy(), levels=20, cmap="viridis")
        axes.plot(0, 0, "+", color="white", markersize=10)
        axes.set(xlabel="first direction", ylabel="second direction", aspect="equal")
        bar = drawn.colorbar(filled, ax=axes)
        bar.set_label("log₁₀ of the loss" if is_log else "loss", color=figure.INK, fontsize=9)
        return figure.svg_text(drawn)


@dataclass(frozen=True)
class Predictiveness:
    """How far the gradient changes along itself; see :func:`gradient_predictiveness`.

    steps: in units of the gradient; changes: ‖g(w - s g) - g‖ / ‖g‖ at each; cosines: of the angle between the two;
    loss, gradient_norm: at the weights.

    >>> found = Predictiveness((0.1, 0.2), (0.5, 0.75), (1.0, 1.0), 1.0, 2.0)
    >>> found.largest, found.smoothness.values, found.smoothness.beta
    (0.75, (5.0, 3.75), 5.0)
    """

    steps: tuple[float, ...]
    changes: tuple[float, ...]
    cosines: tuple[float, ...]
    loss: float
    gradient_norm: float

    @property
    def largest(self) -> float:
        """The largest change; infinite if one is not finite."""
        return max(map(_or_infinity, self.changes))

    @property
    def smoothness(self) -> Smoothness:
        """What :func:`effective_smoothness` finds, without further passes. Raises ArgumentError for a step of 0."""
        _check_moves("Predictiveness.smoothness", self.steps)
        values = tuple(change / abs(step) for step, change in zip(self.steps, self.changes, strict=True))
        return Smoothness(self.steps, values, self.loss, self.gradient_norm)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for those that are not finite."""
        return {
            "steps": list(self.steps),
            "changes": [number(change) for change in self.changes],
            "cosines": [number(cosine) for cosine in self.cosines],
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "largest": number(self.largest),
        }

    def table(self, width: int = 100) -> str:
        """The numbers as text of at most ``width`` columns."""
        rows = [["step · gradient", "change", "cosine"]]
        rows += [
            [f"{s:.4g}", f"{change:.4g}", f"{cosine:.4f}"]
            for s, change, cosine in zip(self.steps, self.changes, self.cosines, strict=True)
        ]
        title = f"The gradient of norm {self.gradient_norm:.4g} changes by up to {self.largest:.4g} times its norm"
        return "\n".join([title, "", *columns(rows, ">>>", width)])

    def picture(self) -> str:
        """The changes over the steps as SVG. Needs matplotlib."""
        title = f"Change of the gradient along itself: up to {self.largest:.3g} times its norm"
        return _line("gradient_predictiveness", title, self.steps, self.changes, "change / norm of the gradient")


@dataclass(frozen=True)
class Smoothness:
    """The change of the gradient by the distance moved; see :func:`effective_smoothness`.

    steps: in units of the gradient; values: β of each; loss, gradient_norm: at the weights.
    """

    steps: tuple[float, ...]
    values: tuple[float, ...]
    loss: float
    gradient_norm: float

    @property
    def beta(self) -> float:
        """The largest of the values; infinite if one is not finite."""
        return max(map(_or_infinity, self.values))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for those that are not finite."""
        return {
            "steps": list(self.steps),
            "values": [number(value) for value in self.values],
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "beta": number(self.beta),
        }

    def table(self, width: int = 100) -> str:
        """The numbers as text of at most ``width`` columns."""
        rows = [["step · gradient", "β"]]
        rows += [[f"{s:.4g}", f"{value:.4g}"] for s, value in zip(self.steps, self.values, strict=True)]
        return "\n".join([f"Effective smoothness β = {self.beta:.4g}", "", *columns(rows, ">>", width)])

    def picture(self) -> str:
        """β over the steps as SVG. Needs matplotlib."""
        title = f"Effective smoothness: β = {self.beta:.3g}"
        return _line("effective_smoothness", title, self.steps, self.values, "change of the gradient / distance")


def loss_slice(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    steps: Sequence[float],
    *,
    mode: str = "train",
    dtype: torch.dtype | None = torch.float64,
    seed: int = 0,
) -> Slice:
    r"""Measures the loss along its gradient, on the same batch.

    .. math:: L(w - s g), \quad g = ∇L(w)

    steps: the values of s, as learning rates, in any order. mode: "train" (batch statistics) or "eval". All weights
    that learn are moved; the model is left bit for bit as it was. Where it draws random numbers, as dropout does, each
    step has the same. dtype: in which the model computes: float64, or None for its own. A loss that is not finite after
    a step is a result, not an error.

    Cost: one backward pass, and a forward pass for the gradient and for each step. Unit: that of the loss.

    Raises ArgumentError for steps that are none or not finite, where no parameter learns, and where the loss at the
    weights or its gradient is not one finite number.

    Source: S. Santurkar, D. Tsipras, A. Ilyas, A. Madry, "How Does Batch Normalization Help Optimization?", NeurIPS
    2018, figure 4 (a).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> loss_slice(model, nn.MSELoss(), (torch.ones(1, 1), torch.zeros(1, 1)), [0.0, 0.25, 0.5]).losses  # (3 - 6 s)²
    (9.0, 2.25, 0.0)
    """
    places = _steps("loss_slice", steps)
    with objective("loss_slice", model, loss, [batch], mode=mode, dtype=dtype, seed=seed) as f:
        value, gradient = f.at_start()
        losses = tuple(f.value(f.start - s * gradient) for s in places)
        return Slice(places, losses, value, float(gradient.norm()))


def loss_plane(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    points: int = 21,
    span: float = 1.0,
    *,
    mode: str = "train",
    dtype: torch.dtype | None = torch.float64,
    seed: int = 0,
) -> Plane:
    r"""Measures the loss on a plane of two random directions whose filters are as long as the model's.

    .. math:: L(w + α d + β e), \quad d_i ← d_i \frac{\|w_i\|}{\|d_i\|}

    d, e: Gaussian, of ``seed``; i: a filter, the part of a weight along its first axis, so that planes of nets can be
    compared whose weights differ in scale. Parameters of one axis or none (biases, scales and shifts of norms) stay as
    they are. α, β: ``points`` positions each from -span to span; of an odd number the middle one is the model's own.

    Cost: points² forward passes, and one forward and one backward pass. Unit: that of the loss.

    Raises ArgumentError for points or a span out of range, where no weight of two axes learns, and as
    :func:`loss_slice` does.

    Source: H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS
    2018, section 4.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> plane = loss_plane(model, nn.MSELoss(), (torch.ones(1, 1), torch.zeros(1, 1)), points=3)
    >>> plane.axis, [round(loss, 9) for loss in sorted(plane.losses[1])]  # the direction is 3 or -3
    ((-1.0, 0.0, 1.0), [0.0, 9.0, 36.0])
    """
    if isinstance(points, bool) or not isinstance(points, int) or not 2 <= points <= MOST_POINTS:
        raise ArgumentError(
            build("loss_plane", f"2 to {MOST_POINTS} points on an axis", repr(points), hint="Leave them out for 21.")
        )
    if not 0 < span < math.inf:
        raise ArgumentError(build("loss_plane", "a span above 0", repr(span), hint="Leave it out for 1."))
    with objective("loss_plane", model, loss, [batch], mode=mode, dtype=dtype, seed=seed) as f:
        value, _ = f.at_start()
        generator = torch.Generator().manual_seed(seed)
        first, second = _direction(f, generator), _direction(f, generator)
        axis = torch.linspace(-span, span, points, dtype=torch.float64).tolist()
        losses = tuple(tuple(f.value(f.start + a * first + b * second) for a in axis) for b in axis)
        return Plane(tuple(axis), losses, value)


def gradient_predictiveness(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    steps: Sequence[float],
    *,
    mode: str = "train",
    dtype: torch.dtype | None = torch.float64,
    seed: int = 0,
) -> Predictiveness:
    r"""Measures how far the gradient changes along itself, on the same batch: the less, the farther a step may go.

    .. math:: \frac{\|∇L(w - s g) - g\|}{\|g\|}, \quad g = ∇L(w)

    steps, mode, dtype, seed: as :func:`loss_slice` has them. On a quadratic loss the change is s‖Hg‖/‖g‖.

    Cost: one forward and one backward pass for the gradient and for each step. Unit: none; times ``gradient_norm`` it
    is the distance that the source has.

    Raises ArgumentError where the gradient is zero, and as :func:`loss_slice` does.

    Source: S. Santurkar, D. Tsipras, A. Ilyas, A. Madry, "How Does Batch Normalization Help Optimization?", NeurIPS
    2018, figure 4 (b).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> found = gradient_predictiveness(model, nn.MSELoss(), (torch.ones(1, 1), torch.zeros(1, 1)), [0.25, 0.5, 1.0])
    >>> found.changes, found.cosines  # g = 2 w: half of it after w - g/4, none after w - g/2
    ((0.5, 1.0, 2.0), (1.0, 0.0, -1.0))
    """
    places = _steps("gradient_predictiveness", steps)
    return _predictiveness("gradient_predictiveness", model, loss, batch, places, mode, dtype, seed)


def effective_smoothness(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    steps: Sequence[float],
    *,
    mode: str = "train",
    dtype: torch.dtype | None = torch.float64,
    seed: int = 0,
) -> Smoothness:
    r"""Measures β-smoothness along the gradient: how far the gradient changes by the distance moved, on the same batch.

    .. math:: β = \max_s \frac{\|∇L(w - s g) - g\|}{\|s g\|}, \quad g = ∇L(w)

    A lower bound of the Lipschitz constant of the gradient, and on a quadratic loss ‖Hg‖/‖g‖, which is at most the
    largest magnitude of an eigenvalue. steps, mode, dtype, seed: as :func:`loss_slice` has them; none is 0.

    Cost: one forward and one backward pass for the gradient and for each step. Unit: the loss's per square of a
    weight's.

    Raises ArgumentError for a step of 0, where the gradient is zero, and as :func:`loss_slice` does.

    Source: S. Santurkar, D. Tsipras, A. Ilyas, A. Madry, "How Does Batch Normalization Help Optimization?", NeurIPS
    2018, figure 4 (c).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> effective_smoothness(model, nn.MSELoss(), (torch.ones(1, 1), torch.zeros(1, 1)), [0.25, 0.5]).beta
    2.0
    """
    places = _steps("effective_smoothness", steps)
    _check_moves("effective_smoothness", places)
    return _predictiveness("effective_smoothness", model, loss, batch, places, mode, dtype, seed).smoothness


# -------------------------------------------------------------------------------------------------------------- helpers


def _predictiveness(
    where: str,
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    steps: tuple[float, ...],
    mode: str,
    dtype: torch.dtype | None,
    seed: int,
) -> Predictiveness:
    with objective(where, model, loss, [batch], mode=mode, dtype=dtype, seed=seed) as f:
        value, gradient = f.at_start()
        norm = float(gradient.norm())
        if norm == 0:
            hint = "Measure before the model has converged, and where units are alive."
            raise ArgumentError(build(where, "a gradient that is not zero", "one of zeros", hint=hint, loss=value))
        changes, cosines = [], []
        for s in steps:
            _, there = f.gradient(f.start - s * gradient)
            changes.append(float((there - gradient).norm()) / norm)
            length = float(there.norm())
            cosines.append(float(there @ gradient) / (length * norm) if length else 0.0)
        return Predictiveness(steps, tuple(changes), tuple(cosines), value, norm)


def _direction(f: Objective, generator: torch.Generator) -> Tensor:
    """A random direction, ``(n,)``, with filters as long as those of the weights."""
    parts = []
    for shape, own in zip(f.shapes, f.start.split([shape.numel() for shape in f.shapes]), strict=True):
        if len(shape) < 2:
            parts.append(torch.zeros_like(own))
            continue
        made = torch.randn(len(own), generator=generator, dtype=torch.float64).to(own).view(shape[0], -1)
        filters = own.view(shape[0], -1)
        parts.append((made * filters.norm(dim=1, keepdim=True) / made.norm(dim=1, keepdim=True)).flatten())
    direction = torch.cat(parts)
    if not direction.any():
        got = "none, or zeros"
        hint = "Biases, and scales and shifts of norms, have no direction."
        raise ArgumentError(build(f.where, "a weight of two axes or more that learns", got, hint=hint))
    return direction


def _steps(where: str, steps: Sequence[float]) -> tuple[float, ...]:
    places = tuple(float(s) for s in steps)
    if not places or not all(map(math.isfinite, places)):
        got, hint = list(places) or "none", "Give some: [0.05, 0.1, 0.2, 0.4]."
        raise ArgumentError(build(where, "steps that are finite numbers", got, hint=hint))
    return places


def _check_moves(where: str, steps: Sequence[float]) -> None:
    if 0 in steps:
        raise ArgumentError(build(where, "steps that are not 0", list(steps), hint="Leave 0 out."))


def _or_infinity(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _axes(where: str, title: str) -> tuple[Any, Any]:
    needs(where, "matplotlib")
    drawn = figure.blank(8, 4.2)
    axes = drawn.subplots()
    axes.set_title(title, color=figure.INK, fontsize=12)
    figure.plain(axes)
    return drawn, axes


def _line(where: str, title: str, steps: Sequence[float], values: Sequence[float], name: str) -> str:
    drawn, axes = _axes(where, title)
    axes.plot(steps, values, color=figure.BLUE, linewidth=2, marker="o", markersize=4)
    axes.set(xlabel="step · gradient", ylabel=name)
    axes.set_ylim(bottom=0)
    return figure.svg_text(drawn)
