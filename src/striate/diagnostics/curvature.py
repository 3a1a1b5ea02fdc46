"""Curvature of the loss at a model's weights: extreme eigenvalues, trace and spectral density, by products alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, build
from ..extras import needs
from ..render import figure
from ..render.text import columns
from .batches import Batch, Loss
from .lanczos import Ritz, lanczos, rademacher
from .products import OPERATORS, Objective, objective

__all__ = ["Curvature", "CurvatureByMode", "Density", "curvature"]

POINTS = 400  # of the density in a picture
WIDTH = 0.01  # of the range of the eigenvalues: the standard deviation of a Gaussian in the density
TAIL = 4  # standard deviations that the density goes on beyond the outer eigenvalues: 0.006 % of a Gaussian is beyond
ROUNDING = 1e-9  # of the largest eigenvalue: residuals below it are those of float64
FAINT = 1e-6  # of the highest density: what a picture shows at least
OPERATOR_NAMES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}
MODE_NAMES = {"train": "training mode", "eval": "evaluation mode"}


class Density(NamedTuple):
    """The spectral density: eigenvalues, and the share of all of them per unit there."""

    eigenvalues: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curvature:
    """What :func:`curvature` found in one mode. Eigenvalues have the unit of the loss per square of a weight's.

    mode, operator, layer: as given; size: the number n of weights; loss: at the weights; gradient_norm, weight_norm:
    ‖g‖ and ‖w‖; largest: k eigenvalues, falling; smallest: the lowest one; residuals: ‖H y - λ y‖ of these k + 1, in
    this order: some eigenvalue is no farther away from λ; converged: whether all are as small as was asked for;
    trace, trace_error: the sum of all eigenvalues, and its standard error, which is 0 where it is exact; nodes: pairs
    of an eigenvalue and its weight, by which the density is made; products: how many were computed.
    """

    mode: str
    operator: str
    layer: str | None
    size: int
    loss: float
    gradient_norm: float
    weight_norm: float
    largest: tuple[float, ...]
    smallest: float
    residuals: tuple[float, ...]
    converged: bool
    trace: float
    trace_error: float
    nodes: tuple[tuple[float, float], ...]
    products: int

    @property
    def scaled(self) -> float:
        """λ‖w‖² of the largest eigenvalue: what is left of it where the scale of the weights does not matter, as of
        those before a norm, since λ goes with 1/‖w‖² there.
        """
        return self.largest[0] * self.weight_norm**2

    @property
    def stable_rate(self) -> float | None:
        """2/λ, the learning rate above which gradient descent without momentum leaves the valley of the largest
        eigenvalue; None where that is not above 0.

        Source: J. M. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, "Gradient Descent on Neural Networks Typically
        Occurs at the Edge of Stability", ICLR 2021.
        """
        return 2 / self.largest[0] if self.largest[0] > 0 else None

    def density(self, points: int | Sequence[float] = POINTS, width: float | None = None) -> Density:
        r"""The spectral density, of which the integral over all eigenvalues is 1.

        .. math:: φ(λ) = \sum_i τ_i \, \mathcal N(λ; θ_i, σ^2)

        θ, τ: ``nodes``. points: how many at even distances, or the eigenvalues to take; width: σ, by default a
        hundredth of the range of the nodes.

        Raises ArgumentError for less than two points, or a width that is not above 0.

        >>> found = Curvature("eval", "hessian", None, 2, 1.0, 1.0, 1.0, (2.0,), 0.0, (0.0, 0.0), True, 2.0, 0.0,
        ...     ((0.0, 0.5), (2.0, 0.5)), 2)
        >>> [round(value, 6) for value in found.density([0.0, 1.0, 2.0], width=0.1).values]  # 0.5 / (0.1 √(2π)) or 0
        [1.994711, 0.0, 1.994711]
        """
        places, weights = torch.tensor(self.nodes, dtype=torch.float64).T
        low, high = float(places.min()), float(places.max())
        size = max(abs(low), abs(high))
        spread = high - low if high - low > ROUNDING * size else size or 1.0  # equal ones differ by rounding
        width = WIDTH * spread if width is None else width
        if not 0 < width < math.inf:
            raise ArgumentError(build("Curvature.density", "a width above 0", repr(width), hint="Leave it out."))
        if isinstance(points, int):
            if points < 2:
                raise ArgumentError(
                    build("Curvature.density", "2 points at least", points, hint=f"Leave them out for {POINTS}.")
                )
            where = torch.linspace(low - TAIL * width, high + TAIL * width, points, dtype=torch.float64)
        else:
            where = torch.tensor(list(points), dtype=torch.float64)
        gaussians = torch.exp(-0.5 * ((where[:, None] - places) / width).square()) / (width * math.sqrt(2 * math.pi))
        return Density(tuple(where.tolist()), tuple((gaussians @ weights).tolist()))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return {
            "mode": self.mode,
            "operator": self.operator,
            "layer": self.layer,
            "size": self.size,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "weight_norm": self.weight_norm,
            "largest": list(self.largest),
            "smallest": self.smallest,
            "residuals": list(self.residuals),
            "converged": self.converged,
            "trace": self.trace,
            "trace_error": self.trace_error,
            "scaled": self.scaled,
            "stable_rate": self.stable_rate,
            "nodes": [list(node) for node in self.nodes],
            "products": self.products,
        }

    def table(self, width: int = 100) -> str:
        """The numbers as text of at most ``width`` columns."""
        rows = columns([["", "value", "error"], *_rows(self)], "<>>", width, {0: 12})
        return "\n".join([_title(self), "", *rows, *_note(self.converged)])

    def picture(self) -> str:
        """The spectral density as SVG, logarithmic, with the extreme eigenvalues. Needs matplotlib."""
        return _picture([self])


@dataclass(frozen=True)
class CurvatureByMode:
    """What :func:`curvature` found in training mode, with batch statistics, and in evaluation mode, with running ones.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> curvature(model, nn.MSELoss(), [(torch.ones(2, 1), torch.ones(2, 1))]).gap  # no norm: no difference
    0.0
    """

    train: Curvature
    eval: Curvature

    @property
    def gap(self) -> float:
        """The largest eigenvalue in evaluation mode minus that in training mode."""
        return self.eval.largest[0] - self.train.largest[0]

    @property
    def summary(self) -> str:
        """The gap in a sentence."""
        train, evaluation = self.train.largest[0], self.eval.largest[0]
        times = f", {evaluation / train:.3g} times that" if train > 0 else ""
        return (
            f"The largest eigenvalue is {evaluation:.4g} in evaluation mode{times} in training mode, {train:.4g}: "
            f"a gap of {self.gap:.4g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return {"train": self.train.to_dict(), "eval": self.eval.to_dict(), "gap": self.gap}

    def table(self, width: int = 100) -> str:
        """Both modes beside each other, as text of at most ``width`` columns."""
        head = ["", "training", "error", "evaluation", "error"]
        both = zip(_rows(self.train), _rows(self.eval), strict=True)
        rows = [[*train, *evaluation[1:]] for train, evaluation in both]
        title = _title(self.train).replace(MODE_NAMES["train"], "both modes")
        table = columns([head, *rows], "<>>>>", width, {0: 12})
        return "\n".join([title, "", *table, *_note(self.train.converged and self.eval.converged), "", self.summary])

    def picture(self) -> str:
        """The spectral densities of both modes as SVG, logarithmic, with the extreme eigenvalues. Needs matplotlib."""
        return _picture([self.train, self.eval])


@overload
def curvature(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    mode: Literal["both"] = "both",
    k: int = 1,
    operator: str = "hessian",
    layer: str | None = None,
    seed: int = 0,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
    samples: int = 10,
    runs: int = 1,
    dtype: torch.dtype | None = torch.float64,
) -> CurvatureByMode: ...


@overload
def curvature(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    mode: Literal["train", "eval"],
    k: int = 1,
    operator: str = "hessian",
    layer: str | None = None,
    seed: int = 0,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
    samples: int = 10,
    runs: int = 1,
    dtype: torch.dtype | None = torch.float64,
) -> Curvature: ...


def curvature(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    mode: str = "both",
    k: int = 1,
    operator: str = "hessian",
    layer: str | None = None,
    seed: int = 0,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
    samples: int = 10,
    runs: int = 1,
    dtype: torch.dtype | None = torch.float64,
) -> Curvature | CurvatureByMode:
    r"""Measures the curvature of the loss by the weights that learn, the same for each call with the same arguments.

    .. math:: H = ∇_w^2 \, \frac1B \sum_b loss(model_w(x_b), target_b), \qquad
              tr H ≈ \frac1R \sum_r v_r^T H v_r, \quad v_r ∈ \{-1, 1\}^n

    mode: "train" (batch statistics; the running ones stay as they are), "eval", or "both"; k: how many of the largest
    eigenvalues; operator: "hessian", or "gauss_newton" for :math:`J^T H_{loss} J`, which has no eigenvalue below 0
    where the loss is convex in the output; layer: the name of one whose block of the matrix is taken, with all other
    weights constant; batches: pairs (x, target), which count alike.

    Eigenvalues come by the Lanczos iteration, which ends when the residuals of the k largest and the smallest are below
    ``tolerance`` times the largest magnitude, or after ``steps``. With n ≤ steps weights all n eigenvalues are found,
    and trace and density are exact. Otherwise the trace is the mean over R = ``samples`` vectors v (Hutchinson), and
    the density is of the Lanczos iterations from the first ``runs`` of them (stochastic Lanczos quadrature).

    Cost: a product is two backward and up to two forward passes over the batch; with several batches the loss and its
    gradient, two passes more a product, are computed anew. Products: at most steps · runs + samples. Memory: steps · n
    numbers, and the graph of one batch. dtype: in which the model computes: float64, or None for its own.

    The model is left bit for bit as it was. Where it draws random numbers, as dropout does, each product has the same.

    Raises ArgumentError for arguments out of range, where no parameter learns, and where the loss, its gradient or a
    product is not finite, is not one number or has no derivative; ArgumentTypeError for batches that are no pairs.

    Source: B. Ghorbani, S. Krishnan, Y. Xiao, "An Investigation into Neural Net Optimization via Hessian Eigenvalue
    Density", ICML 2019; M. F. Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian
    Smoothing Splines", Communications in Statistics 19, 1990.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> found = curvature(model, nn.MSELoss(), [(x, torch.zeros(2, 1))], mode="train", k=2)  # H = xᵀx
    >>> [round(value, 9) for value in (*found.largest, found.smallest, found.trace)]
    [4.0, 1.0, 1.0, 5.0]
    """
    asked = _Asked(operator, layer, seed, k, steps, tolerance, samples, runs)
    _check(mode, asked)
    given = list(batches)

    def measured(mode: str) -> Curvature:
        with objective("curvature", model, loss, given, mode=mode, layer=layer, dtype=dtype, seed=seed) as f:
            return _measured(f, mode, asked)

    return CurvatureByMode(measured("train"), measured("eval")) if mode == "both" else measured(mode)


# -------------------------------------------------------------------------------------------------------------- helpers


class _Asked(NamedTuple):
    """Arguments of :func:`curvature`."""

    operator: str
    layer: str | None
    seed: int
    k: int
    steps: int
    tolerance: float
    samples: int
    runs: int


def _measured(f: Objective, mode: str, asked: _Asked) -> Curvature:
    operator, layer, seed, k, steps, tolerance, samples, runs = asked
    if k > f.size:
        hint = "Ask for fewer eigenvalues."
        raise ArgumentError(build("curvature", f"k up to the {f.size} weights that learn", k, hint=hint))
    loss, gradient = f.at_start()
    product = _Counted(partial(f.product, operator))
    generator = torch.Generator().manual_seed(seed)

    def converged(ritz: Ritz) -> bool:
        return len(ritz.values) >= k and bool(_residuals(ritz, k).max() <= tolerance * ritz.values.abs().max())

    enough = converged if f.size > steps else None
    main = lanczos(product, rademacher(k, f.size, generator), steps, generator, enough)
    all_runs = [main]
    for number in range(1, 1 if main.complete else samples):
        length = len(main.values) if number < runs else 1
        all_runs.append(lanczos(product, rademacher(1, f.size, generator), length, generator))
    trace, error = _trace(all_runs, f.size)
    return Curvature(
        mode=mode,
        operator=operator,
        layer=layer,
        size=f.size,
        loss=loss,
        gradient_norm=float(gradient.norm()),
        weight_norm=float(f.start.norm()),
        largest=tuple(main.values.flip(0)[:k].tolist()),
        smallest=float(main.values[0]),
        residuals=tuple(_residuals(main, k).tolist()),
        converged=converged(main),
        trace=trace,
        trace_error=error,
        nodes=_nodes(all_runs[:runs], f.size),
        products=product.count,
    )


class _Counted:
    """A product that counts its calls."""

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        self.product, self.count = product, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.count += 1
        return self.product(v)


def _residuals(ritz: Ritz, k: int) -> Tensor:
    """Of the k largest values, falling, and of the smallest."""
    return torch.cat([ritz.residuals.flip(0)[:k], ritz.residuals[:1]])


def _trace(runs: Sequence[Ritz], size: int) -> tuple[float, float]:
    """The trace, and its standard error."""
    if runs[0].complete:
        return float(runs[0].values.sum()), 0.0
    found = size * torch.tensor([run.first for run in runs], dtype=torch.float64)
    return float(found.mean()), float(found.std() / math.sqrt(len(runs)))


def _nodes(runs: Sequence[Ritz], size: int) -> tuple[tuple[float, float], ...]:
    """The eigenvalues of all runs, rising, and their weights, which add to one."""
    if runs[0].complete:
        return tuple((value, 1 / size) for value in runs[0].values.tolist())
    pairs = ((run.values.tolist(), run.weights.tolist()) for run in runs)
    return tuple(sorted((v, w / len(runs)) for values, weights in pairs for v, w in zip(values, weights, strict=True)))


def _title(found: Curvature) -> str:
    of = "" if found.layer is None else f" of {found.layer}"
    return (
        f"{OPERATOR_NAMES[found.operator]} of a loss of {found.loss:.4g} by the {found.size:,} weights{of}, "
        f"{MODE_NAMES[found.mode]}, by {found.products} products"
    )


def _note(converged: bool) -> list[str]:
    return [] if converged else ["", "Not converged: give more steps, or a higher tolerance."]


def _rows(found: Curvature) -> list[list[str]]:
    values = [*found.largest, found.smallest]
    names = [f"eigenvalue {number}" for number in range(1, len(values))] + ["smallest eigenvalue"]
    rounding = ROUNDING * max(map(abs, values))
    rows = [
        [name, f"{value:.4g}", f"≤ {residual:.1g}" if residual > rounding else "exact"]
        for name, value, residual in zip(names, values, found.residuals, strict=True)
    ]
    error = f"± {found.trace_error:.1g}" if found.trace_error else "exact"
    rows.append(["trace", f"{found.trace:.4g}", error])
    rows.append(["eigenvalue 1 · ‖w‖²", f"{found.scaled:.4g}", ""])
    rows.append(["largest stable rate", "any" if found.stable_rate is None else f"{found.stable_rate:.4g}", ""])
    return rows


def _picture(all_found: Sequence[Curvature]) -> str:
    needs("curvature", "matplotlib")
    drawn = figure.blank(8, 4.2)
    axes = drawn.subplots()
    highest = 0.0
    for found, color in zip(all_found, (figure.BLUE, figure.ORANGE), strict=False):
        density = found.density()
        highest = max(highest, *density.values)
        axes.plot(*density, color=color, linewidth=2, label=MODE_NAMES[found.mode])
        for value in (found.smallest, *found.largest):
            axes.axvline(value, color=color, linewidth=1, linestyle=(0, (1, 2)))
    name = OPERATOR_NAMES[all_found[0].operator]
    axes.set(yscale="log", xlabel="eigenvalue", ylabel="density", ylim=(FAINT * highest, 2 * highest))
    axes.set_title(f"Spectrum of the {name}; dotted: its extreme eigenvalues", color=figure.INK, fontsize=12)
    axes.legend(frameon=False)
    figure.plain(axes)
    return figure.svg_text(drawn)


def _check(mode: str, asked: _Asked) -> None:
    operator, _, _, k, steps, tolerance, samples, runs = asked
    if mode not in MODE_NAMES and mode != "both":
        raise ArgumentError(build("curvature", "the mode 'train', 'eval' or 'both'", repr(mode), hint="Leave it out."))
    if operator not in OPERATORS:
        hint = "Leave it out for the Hessian."
        raise ArgumentError(build("curvature", "the operator 'hessian' or 'gauss_newton'", repr(operator), hint=hint))
    for name, value, least in (("k", k, 1), ("steps", steps, 1), ("samples", samples, 2), ("runs", runs, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(build("curvature", f"{name} from {least} on", repr(value), hint="Leave it out."))
    if steps < k:
        raise ArgumentError(build("curvature", f"k = {k} steps at least", steps, hint="Leave steps out."))
    if runs > samples:
        raise ArgumentError(build("curvature", f"runs up to the {samples} samples", runs, hint="Ask for more samples."))
    if not 0 <= tolerance < math.inf:
        raise ArgumentError(build("curvature", "a tolerance from 0 on", repr(tolerance), hint="Leave it out for 1e-3."))
