"""Batch norm's two kinds of statistics: how far running ones are from the batch's, and how noisy those are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, build
from ..extras import needs
from ..guard import probing
from ..moments import Moments
from ..render.figure import BLUE, ORANGE, RUN_COLORS, blank, plain, svg_text
from ..render.text import columns, facts
from .batch_norms import batch_norms, batch_statistics, fits, inputs_of, moments_of, output_of, set_statistics
from .batches import Batch, Loss, loss_of, pairs

__all__ = [
    "MismatchRow",
    "NoiseRow",
    "NormMismatch",
    "RecomputedStatistics",
    "StatisticsNoise",
    "StatisticsRow",
    "norm_mismatch",
    "recompute_statistics",
    "statistics_noise",
]

DRAWS = 256  # sub-batches of each size: a deviation over them is known to 1/√512 = 4.4 %


class MismatchRow(NamedTuple):
    """One batch norm. Means are over channels, and over batches where not said otherwise.

    mean_gap: root of the mean of (μ_b − r)²/(v + ε), for batch mean μ_b, running mean r and variance v; pooled_gap: the
    same for the mean over all batches together, in which chance cancels; deviation_ratio: geometric mean of
    √((σ²_b + ε)/(v + ε)); worst: the largest |μ_b − r|/√(v + ε) of a channel in a batch; loss: with this layer's batch
    statistics and the running ones of all others.
    """

    name: str
    mean_gap: float
    pooled_gap: float
    deviation_ratio: float
    worst: float
    loss: float


@dataclass(frozen=True)
class NormMismatch:
    """What running instead of batch statistics change, as :func:`norm_mismatch` finds it.

    running, batch: the mean loss with the statistics of this name in all batch norms; gap: their difference.
    """

    model: str
    running: float
    batch: float
    rows: tuple[MismatchRow, ...]

    @property
    def gap(self) -> float:
        return self.running - self.batch

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return asdict(self) | {"gap": self.gap, "rows": [row._asdict() for row in self.rows]}

    def table(self, width: int = 100) -> str:
        """Both losses, and a line for each norm."""
        rows = [["norm", "mean off [σ]", "pooled [σ]", "deviation ×", "worst [σ]", "loss with its batch statistics"]]
        for row in self.rows:
            rows.append([row.name, *(f"{number:.3g}" for number in row[1:5]), f"{row.loss:.4g}"])
        both = {"loss, running statistics": f"{self.running:.4g}", "loss, batch statistics": f"{self.batch:.4g}"}
        return "\n".join([facts(both), "", *columns(rows, "<>>>>>", width, {0: 12})])

    def picture(self) -> str:
        """The gaps of each norm, and its loss between the two of the model, as SVG. Needs matplotlib."""
        needs("NormMismatch.picture", "matplotlib")
        figure = blank(9, 1.2 + 0.3 * len(self.rows))
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(self.rows))
        left.barh(places, [row.mean_gap for row in self.rows], color=BLUE, label="a batch")
        left.barh(places, [row.pooled_gap for row in self.rows], color=ORANGE, height=0.4, label="all batches")
        left.set_yticks(places, [row.name for row in self.rows])
        left.invert_yaxis()
        left.set(xlabel="mean off the running one [σ]")
        left.legend(frameon=False, fontsize=8)
        right.plot([row.loss for row in self.rows], places, "o", color=BLUE)
        right.axvline(self.running, color=ORANGE)
        right.axvline(self.batch, color=ORANGE, linestyle="--")
        right.set(xlabel="loss with this norm's batch statistics\n(all running: solid; all of the batch: dashed)")
        for axes in (left, right):
            plain(axes)
        return svg_text(figure)


def norm_mismatch(model: torch.nn.Module, loss: Loss, batches: Sequence[Batch]) -> NormMismatch:
    r"""How far the running statistics of each batch norm are from those of batches, and what that does to the loss.

    .. math:: gap_l = \sqrt{\frac{1}{B C} Σ_{b,c} \frac{(μ_{bc} - r_c)²}{v_c + ε}}, \qquad
              ratio_l = \exp \frac{1}{2 B C} Σ_{b,c} \ln \frac{σ²_{bc} + ε}{v_c + ε}

    μ, σ²: of one of B batches at one of C channels, biased, as normalization takes them; r, v: the running ones. Inputs
    are those of training, where all norms take the batch's statistics. Everything else is in evaluation mode, so that
    the statistics alone make the difference. A small gap of single batches that vanishes in the pooled one is the noise
    of the batch, or batches that are not like each other, as of one class; one that stays means running statistics that
    are stale, or of other data.

    loss: of output and target; batches: pairs of input and target. Frozen norms, and those without running statistics,
    have no other ones and no row. A norm that is called more than once has one row over all calls.

    Cost: L + 2 forward passes of each batch for L norms.

    Raises ArgumentError for no batches, a loss that does not fit or a model without such a norm, ArgumentTypeError for
    batches that are no pairs, ShapeError where the model does not take one.

    Source: Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, sections 3 and 5.

    >>> from striate import nn
    >>> layer = nn.BatchNorm1d(1)
    >>> x = torch.tensor([[3.0], [5.0]])
    >>> found = norm_mismatch(layer, lambda y, target: (y - target).square().mean(), [(x, torch.zeros(2, 1))])
    >>> round(found.rows[0].mean_gap, 4), round(found.running, 4), round(found.batch, 4)
    (4.0, 16.9998, 1.0)
    """
    given = pairs("norm_mismatch", batches)
    with probing(model), torch.no_grad():
        model.eval()
        norms = batch_norms("norm_mismatch", model)

        def mean_loss() -> float:
            total = count = 0.0
            for x, target in given:
                value = float(loss_of("norm_mismatch", loss, output_of("norm_mismatch", model, x), target))
                total, count = total + value * len(x), count + len(x)
            return total / count

        running = mean_loss()
        statistics = {module: _Gaps(module) for module in norms}

        def see(module: Any, moments: Moments) -> None:
            statistics[module].add(moments)

        with batch_statistics(norms, see):
            batch = mean_loss()
        rows = []
        for module, name in norms.items():
            with batch_statistics({module: name}, lambda module, moments: None):
                alone = mean_loss()
            rows.append(statistics[module].row(name, alone))
    return NormMismatch(type(model).__name__, running, batch, tuple(rows))


class _Gaps:
    """Sums over the batches at one norm."""

    def __init__(self, module: Any) -> None:
        self.mean, self.eps = module.running_mean.double().clone(), module.eps
        self.variance = module.running_var.double().clone() + module.eps
        self.squares: list[Tensor] = []
        self.ratios: list[Tensor] = []
        self.pooled = Moments.empty(len(self.mean), device=self.mean.device)

    def add(self, moments: Moments) -> None:
        self.squares.append((moments.mean - self.mean).square() / self.variance)
        self.ratios.append(((moments.variance() + self.eps) / self.variance).log())
        self.pooled = self.pooled.merge(moments)

    def row(self, name: str, loss: float) -> MismatchRow:
        if not self.squares:
            return MismatchRow(name, math.nan, math.nan, math.nan, math.nan, loss)
        squares, ratios = torch.stack(self.squares), torch.stack(self.ratios)
        pooled = (self.pooled.mean - self.mean).square() / self.variance
        gaps = (float(squares.mean().sqrt()), float(pooled.mean().sqrt()))
        return MismatchRow(name, *gaps, float((ratios.mean() / 2).exp()), float(squares.max().sqrt()), loss)


# ----------------------------------------------------------------------------------------------------------- recomputed


class StatisticsRow(NamedTuple):
    """One batch norm. values: how many values of each channel were measured; moved: root of the mean over channels of
    ((new − old mean)/√(old variance + ε))²; deviation_ratio: geometric mean over channels of √(new/old variance), with
    ε in both.
    """

    name: str
    values: int
    moved: float
    deviation_ratio: float


@dataclass(frozen=True)
class RecomputedStatistics:
    """What :func:`recompute_statistics` changed."""

    model: str
    batches: int
    rows: tuple[StatisticsRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return asdict(self) | {"rows": [row._asdict() for row in self.rows]}

    def table(self, width: int = 100) -> str:
        """A line for each norm."""
        rows = [["norm", "values a channel", "mean moved [σ]", "deviation ×"]]
        rows += [[row.name, f"{row.values:,}", f"{row.moved:.3g}", f"{row.deviation_ratio:.3g}"] for row in self.rows]
        return "\n".join(columns(rows, "<>>>", width, {0: 12}))

    def picture(self) -> str:
        """How far the mean of each norm moved, as SVG. Needs matplotlib."""
        needs("RecomputedStatistics.picture", "matplotlib")
        figure = blank(7, 0.9 + 0.25 * len(self.rows))
        axes = figure.subplots()
        axes.barh(range(len(self.rows)), [row.moved for row in self.rows], color=BLUE)
        axes.set_yticks(range(len(self.rows)), [row.name for row in self.rows])
        axes.invert_yaxis()
        axes.set(xlabel="running mean moved by [σ]")
        plain(axes)
        return svg_text(figure)


def recompute_statistics(
    model: torch.nn.Module, batches: Sequence[Any], *, layer_by_layer: bool = True
) -> RecomputedStatistics:
    r"""Gives each batch norm of a model the statistics of a whole set of batches. **It changes the model**: its running
    statistics, and nothing else.

    .. math:: r_c = μ_c, \quad v_c = \frac{M_c}{n - 1}, \qquad (n, μ, M) = \bigoplus_b moments(x_b)

    They are "precise statistics": with the weights as they are now, and each value counted once, where running ones are
    a moving average over weights that have changed. The moments of the batches are merged
    (:class:`striate.moments.Moments`), so that batches may have any sizes. With ``layer_by_layer`` the input of a norm
    is measured only when all norms before it have their new statistics: an evaluation of the set then has exactly these
    moments at each norm. Without it each batch passes once, normalized by its own statistics, as Wu and Johnson do.

    batches: inputs, or pairs of input and target, whose target is not read. Everything but the statistics is in
    evaluation mode: dropout drops nothing. Frozen norms stay. num_batches_tracked becomes the number of batches, so
    that a norm with momentum=None goes on averaging.

    Cost: for L norms L passes without gradients of all batches, each up to the next norm: about L/2 whole ones; without
    ``layer_by_layer`` one.

    Raises ArgumentError for no batches, a model without a batch norm that has running statistics, one that is called
    twice in a pass (with ``layer_by_layer``), one that is never called, and one value a channel; ShapeError where the
    model does not take a batch. The model is then as it was.

    Source: Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.

    >>> from striate import nn
    >>> layer = nn.BatchNorm1d(1)
    >>> _ = recompute_statistics(layer, [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0], [5.0]])])
    >>> layer.running_mean, layer.running_var, layer.num_batches_tracked
    (tensor([3.]), tensor([2.5000]), tensor(2))
    """
    where = "recompute_statistics"
    inputs = inputs_of(where, batches)
    with probing(model), torch.no_grad():
        model.eval()
        norms = batch_norms(where, model)
        measure = _measured_in_turn if layer_by_layer else _measured_at_once
        found = measure(model, norms, inputs)
        _check_measured(norms, found)
    rows = []
    with torch.no_grad():
        for module, name in norms.items():
            rows.append(_statistics_row(name, module, found[module]))
            set_statistics(module, found[module])
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.fill_(len(inputs))
    return RecomputedStatistics(type(model).__name__, len(inputs), tuple(rows))


class _Stop(Exception):
    """Ends a pass at the norm that it was for."""


def _measured_in_turn(model: torch.nn.Module, norms: dict[Any, str], inputs: Sequence[Tensor]) -> dict[Any, Moments]:
    """Measures the first norm of a pass that has no new statistics yet, gives them to it, and goes on."""
    found: dict[Any, Moments] = {}
    while True:
        turn = _Turn(norms, found)
        with ExitStack() as hooks:
            for module in norms:
                hooks.callback(module.register_forward_pre_hook(turn.before).remove)
            for x in inputs:
                turn.called.clear()
                try:
                    output_of("recompute_statistics", model, x)
                except _Stop:
                    continue
        if not turn.new:
            return found
        for module, moments in turn.new.items():
            found[module] = moments
            set_statistics(module, moments)


class _Turn:
    """Passes that end at the first norm that is not among the ``known`` ones."""

    def __init__(self, norms: dict[Any, str], known: dict[Any, Moments]) -> None:
        self.norms, self.known = norms, known
        self.new: dict[Any, Moments] = {}
        self.called: set[Any] = set()

    def before(self, module: Any, args: Any) -> None:
        if module in self.called:
            hint = "Give each place a norm of its own, or use layer_by_layer=False."
            expects = "each batch norm to be called once in a forward pass"
            got = f"two calls of {self.norms[module]}"
            raise ArgumentError(build("recompute_statistics", expects, got, hint=hint))
        self.called.add(module)
        if module not in self.known and fits(module, args):
            moments = moments_of(args[0])
            self.new[module] = self.new[module].merge(moments) if module in self.new else moments
            raise _Stop


def _measured_at_once(model: torch.nn.Module, norms: dict[Any, str], inputs: Sequence[Tensor]) -> dict[Any, Moments]:
    found: dict[Any, Moments] = {}

    def see(module: Any, moments: Moments) -> None:
        found[module] = found[module].merge(moments) if module in found else moments

    with batch_statistics(norms, see):
        for x in inputs:
            output_of("recompute_statistics", model, x)
    return found


def _check_measured(norms: dict[Any, str], found: dict[Any, Moments]) -> None:
    for module, name in norms.items():
        if module not in found:
            hint = "Freeze it, or take it out of the model."
            expects = "each batch norm to be called in a forward pass"
            raise ArgumentError(build("recompute_statistics", expects, f"none of {name}", hint=hint))
        if int(found[module].count) < 2:
            expects = f"more than one value per channel at {name}"
            hint = "Give more batches."
            raise ArgumentError(build("recompute_statistics", expects, int(found[module].count), hint=hint))


def _statistics_row(name: str, module: Any, moments: Moments) -> StatisticsRow:
    old = module.running_var.double() + module.eps
    moved = (moments.mean - module.running_mean.double()).square() / old
    ratio = ((moments.variance(unbiased=True) + module.eps) / old).log().mean() / 2
    return StatisticsRow(name, int(moments.count), float(moved.mean().sqrt()), float(ratio.exp()))


# ---------------------------------------------------------------------------------------------------------------- noise


class NoiseRow(NamedTuple):
    """One batch norm at one batch size. Over random batches, root of the mean over channels: mean_noise, of the
    variance of μ_b/σ; deviation_noise, of that of σ_b/σ; expected: mean_noise in theory, as the samples' means vary.
    """

    name: str
    batch_size: int
    mean_noise: float
    deviation_noise: float
    expected: float


@dataclass(frozen=True)
class StatisticsNoise:
    """How noisy the statistics of batches are, as :func:`statistics_noise` finds it."""

    model: str
    samples: int
    rows: tuple[NoiseRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return asdict(self) | {"rows": [row._asdict() for row in self.rows]}

    def table(self, width: int = 100) -> str:
        """A line for each norm and batch size."""
        rows = [["norm", "batch size", "mean ± [σ]", "in theory", "deviation ± [σ]"]]
        for row in self.rows:
            numbers = (row.mean_noise, row.expected, row.deviation_noise)
            rows.append([row.name, str(row.batch_size), *(f"{number:.3g}" for number in numbers)])
        return "\n".join(columns(rows, "<>>>>", width, {0: 12}))

    def picture(self) -> str:
        """The noise of each norm's mean over the batch size, as SVG; in theory dashed. Needs matplotlib."""
        needs("StatisticsNoise.picture", "matplotlib")
        figure = blank(6, 4)
        axes = figure.subplots()
        for number, name in enumerate(dict.fromkeys(row.name for row in self.rows)):
            own = [row for row in self.rows if row.name == name]
            sizes, color = [row.batch_size for row in own], RUN_COLORS[number % len(RUN_COLORS)]
            axes.plot(sizes, [row.mean_noise for row in own], "o", color=color, markersize=4, label=name)
            axes.plot(sizes, [row.expected for row in own], "--", color=color, linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="deviation of the batch's mean [σ]")
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
        return svg_text(figure)


def statistics_noise(
    model: torch.nn.Module, batch: Any, batch_sizes: Sequence[int], *, draws: int = DRAWS, seed: int = 0
) -> StatisticsNoise:
    r"""How much the statistics of a batch norm vary from batch to batch, by the size of the batch.

    .. math:: noise_N = \sqrt{\frac1C Σ_c \frac{Var_b(μ_{bc})}{σ²_c}} \;≈\; \sqrt{\frac{1}{N C} Σ_c
              \frac{Var_n(μ_{nc})}{σ²_c}} ∝ \frac{1}{\sqrt N}

    b: ``draws`` batches of N samples, drawn with replacement from the given one; μ_n: the mean of sample n over its
    positions; σ²: of all values. Positions of one image are alike: H · W of them tell less than as many samples.
    Inputs of each norm are those that all batch norms before it make with the statistics of the whole batch: it is the
    noise that a norm adds, without what it gets from norms before it.

    batch: an input, or a pair of input and target, whose target is not read; the more samples, the better known are the
    deviations. batch_sizes: N, each from 1 on. seed: of the draws, which do not touch torch's generator.

    Cost: one forward pass; memory for 2 · N · C numbers for each norm.

    Raises ArgumentError for a batch of one sample, sizes or draws out of range, and a model without a batch norm that
    has running statistics; ShapeError where the model does not take the batch.

    Source: M. Teye, H. Azizpour, K. Smith, "Bayesian Uncertainty Estimation for Batch Normalized Deep Networks", ICML
    2018, for the distribution; E. Hoffer, I. Hubara, D. Soudry, "Train longer, generalize better", NeurIPS 2017.

    >>> from striate import nn
    >>> x = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0))
    >>> noise = statistics_noise(nn.BatchNorm1d(3), x, [16, 64])
    >>> [round(row.expected, 2) for row in noise.rows]
    [0.25, 0.12]
    """
    where = "statistics_noise"
    [x] = inputs_of(where, [batch])
    _check_sizes(x, batch_sizes, draws)
    samples: dict[Any, list[Moments]] = {}
    with probing(model), torch.no_grad():
        model.eval()
        norms = batch_norms(where, model)

        def keep(module: Any, args: Any) -> None:
            samples.setdefault(module, []).append(_sample_moments(args[0]))

        with ExitStack() as hooks:
            for module in norms:  # before the hook that changes the statistics
                hooks.callback(module.register_forward_pre_hook(keep).remove)
            with batch_statistics(norms, lambda module, moments: None):
                output_of(where, model, x)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for module, name in norms.items():
        for moments in samples.get(module, [])[:1]:
            rows += [_noise_row(name, moments, size, draws, generator) for size in batch_sizes]
    return StatisticsNoise(type(model).__name__, len(x), tuple(rows))


def _check_sizes(x: Tensor, sizes: Sequence[int], draws: int) -> None:
    if len(x) < 2:
        hint = "Give some hundred."
        raise ArgumentError(build("statistics_noise", "a batch of two samples at least", len(x), hint=hint))
    for what, numbers, least in (("batch_sizes", sizes, 1), ("draws", [draws], 2)):
        wrong = [n for n in numbers if type(n) is not int or n < least]
        if wrong or not numbers:
            got = repr(wrong[0]) if wrong else "none"
            expects = f"{what} of whole numbers from {least} on"
            raise ArgumentError(build("statistics_noise", expects, got, hint="Use batch_sizes=[2, 8, 32]."))


def _sample_moments(x: Tensor) -> Moments:
    """Mean and squared deviations of each sample and channel, ``(N, C)``."""
    return Moments.of(x.reshape(*x.shape[:2], -1), 2)


def _noise_row(name: str, samples: Moments, size: int, draws: int, generator: torch.Generator) -> NoiseRow:
    count, own = len(samples.mean), int(samples.count)
    whole = _merged_samples(samples.mean[None], samples.m2[None], own)
    variance = whole.variance()[0]
    chosen = torch.randint(count, (draws, size), generator=generator).to(samples.mean.device)
    drawn = _merged_samples(samples.mean[chosen], samples.m2[chosen], own)
    is_alive = variance > 0
    means = (drawn.mean.var(0) / variance)[is_alive]
    deviations = (drawn.variance() / variance).sqrt().var(0)[is_alive]
    expected = (samples.mean.var(0, correction=0) / variance / size)[is_alive]
    return NoiseRow(name, size, *(float(one.mean().sqrt()) for one in (means, deviations, expected)))


def _merged_samples(mean: Tensor, m2: Tensor, count: int) -> Moments:
    """The moments of batches ``(b, N, C)`` of samples with ``count`` values each."""
    center = mean.mean(1)
    total = m2.sum(1) + count * (mean - center[:, None]).square().sum(1)
    return Moments(count * mean.shape[1], center, total)
