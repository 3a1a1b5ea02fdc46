"""What the activations of a network give on a data set: their mean, deviation, saturation, rank, and dead units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, build
from ..extras import needs
from ..guard import probing
from ..nn import BatchNormAct2d, GroupNormAct2d
from ..ops import norm as ops
from ..render import figure
from ..render.text import columns
from ..training.units import activations
from .batches import Batch, check_hooks, number, pairs

__all__ = ["ActivationRow", "ActivationStatistics", "DeadUnits", "activation_statistics", "dead_units"]

# A unit is saturated where the slope is below 1/20 of the activation's steepest: beyond ±0.975 of a tanh, below 0.0127
# and above 0.9873 of a sigmoid, at 0 of a ReLU.
FLAT = 1 / 20
GRID = (-8.0, 8.0, 1601)  # where the steepest slope is looked for


@dataclass(frozen=True)
class ActivationRow:
    """What one activation gives over all batches.

    name: the layer's, with ``(call 2)`` and so on where the model calls it more than once; kind: its class. mean,
    deviation: of all its values. saturation: the share of its values at which its slope is below 1/20 of its steepest,
    None where it does not act value by value. dead, channels: how many of its channels have one and the same value
    everywhere, and how many there are. effective_rank: of the channels' covariance, see :func:`activation_statistics`.
    """

    name: str
    kind: str
    mean: float
    deviation: float
    saturation: float | None
    dead: int
    channels: int
    effective_rank: float


@dataclass(frozen=True)
class ActivationStatistics(Sequence[ActivationRow]):
    """The result of :func:`activation_statistics`: a row an activation, in the order of the calls; samples: how many
    it is over.
    """

    rows: tuple[ActivationRow, ...]
    samples: int

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ActivationRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ActivationRow, ...]: ...
    def __getitem__(self, index: int | slice) -> ActivationRow | tuple[ActivationRow, ...]:
        return self.rows[index]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for what is not finite."""
        rows = [asdict(row) for row in self.rows]
        return {
            "samples": self.samples,
            "rows": [
                {key: number(value) if isinstance(value, float) else value for key, value in row.items()}
                for row in rows
            ],
        }

    def table(self, width: int = 100) -> str:
        """The rows as text of at most ``width`` columns."""
        head = ["layer", "class", "mean", "deviation", "saturated", "dead", "of", "rank"]
        rows = [
            [
                row.name,
                row.kind,
                f"{row.mean:.3g}",
                f"{row.deviation:.3g}",
                "" if row.saturation is None else f"{100 * row.saturation:.0f} %",
                str(row.dead),
                str(row.channels),
                f"{row.effective_rank:.3g}",
            ]
            for row in self.rows
        ]
        return "\n".join(columns([head, *rows], "<<>>>>>>", width, {0: 8, 1: 6}))

    def picture(self) -> str:
        """Mean and deviation by layer, and the shares that are saturated, dead and of full rank, as SVG.

        Needs matplotlib.
        """
        needs("activation_statistics", "matplotlib")
        drawn = figure.blank(9, 5.2)
        above, below = drawn.subplots(2, 1, sharex=True)
        places = range(len(self.rows))
        means, deviations = [row.mean for row in self.rows], [row.deviation for row in self.rows]
        above.errorbar(places, means, deviations, fmt="o", color=figure.BLUE, capsize=3, label="mean ± deviation")
        shares = {
            "saturated": [math.nan if row.saturation is None else row.saturation for row in self.rows],
            "dead channels": [row.dead / row.channels for row in self.rows],
            "effective rank": [row.effective_rank / row.channels for row in self.rows],
        }
        for (label, values), color in zip(shares.items(), figure.RUN_COLORS, strict=False):
            below.plot(places, [100 * value for value in values], "o-", color=color, markersize=4, label=label)
        below.set(ylabel="share [%]", ylim=(-3, 103))
        below.set_xticks(places, [row.name for row in self.rows], rotation=90 if len(self.rows) > 6 else 0)
        for axes in (above, below):
            axes.legend(frameon=False, fontsize=9)
            figure.plain(axes)
        return figure.svg_text(drawn)

    def __str__(self) -> str:
        return self.table()


@dataclass(frozen=True)
class DeadUnits(Mapping[str, tuple[int, int]]):
    """The result of :func:`dead_units`: by the name of an activation, how many channels are dead, and of how many.

    channels: the numbers of the dead ones; counts: how many there are; samples: how many it is over.
    """

    channels: Mapping[str, tuple[int, ...]]
    counts: Mapping[str, int]
    samples: int

    def __getitem__(self, name: str) -> tuple[int, int]:
        return len(self.channels[name]), self.counts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    @property
    def share(self) -> float:
        """The dead ones among all units of the network."""
        return sum(map(len, self.channels.values())) / sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        layers = {
            name: {"dead": dead, "of": of, "channels": list(self.channels[name])} for name, (dead, of) in self.items()
        }
        return {"samples": self.samples, "share": self.share, "layers": layers}

    def table(self, width: int = 100) -> str:
        """The layers as text of at most ``width`` columns."""
        rows = [[name, str(dead), str(of), f"{100 * dead / of:.0f} %"] for name, (dead, of) in self.items()]
        lines = columns([["layer", "dead", "of", ""], *rows], "<>>>", width, {0: 8})
        return "\n".join([*lines, "", f"{100 * self.share:.3g} % of all units are dead on {self.samples} samples."])

    def picture(self) -> str:
        """The share of dead units by layer, as SVG. Needs matplotlib."""
        needs("dead_units", "matplotlib")
        drawn = figure.blank(9, 3.6)
        axes = drawn.subplots()
        axes.bar(range(len(self)), [100 * dead / of for dead, of in self.values()], color=figure.BLUE)
        axes.set(ylabel="dead units [%]", ylim=(0, 100))
        axes.set_xticks(range(len(self)), list(self), rotation=90 if len(self) > 6 else 0)
        figure.plain(axes)
        return figure.svg_text(drawn)

    def __str__(self) -> str:
        return self.table()


def activation_statistics(model: nn.Module, batches: Iterable[Batch]) -> ActivationStatistics:
    r"""Measures what each activation of a model gives over all samples and positions; see :class:`ActivationRow`.

    .. math:: rank = \exp\Big(-\sum_i p_i \ln p_i\Big), \quad p_i = λ_i / \sum_j λ_j

    λ: the eigenvalues of the covariance of the channels over samples and positions, which are its singular values. It
    is C for C channels that vary alike and independently, 1 where all vary together, 0 where none does. A channel is
    an entry of axis 1, ``(N, C, …)``, or of the last axis behind a linear layer, ``(N, …, C)``.

    model: in the mode that it is in; batches: pairs ``(x, target)``, of which the targets are not used.

    Cost: a forward pass, each activation once more, forward and backward, products of C² numbers for each value of C
    channels, and the eigenvalues of a C×C matrix a layer. The model and the random generators are bit for bit as before
    (:func:`striate.guard.probing`). All sums are in float64.

    Raises ArgumentError for a model without activations that are modules, and for no batches.

    Source: O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", 2007; X. Glorot,
    Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010 (saturation).

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = nn.init.constant_(model[0].weight, 1.0), nn.init.constant_(model[0].bias, 0.0)
    >>> (row,) = activation_statistics(model, [(torch.tensor([[-1.0], [1.0], [3.0], [-5.0]]), None)])
    >>> row.mean, row.saturation, row.dead, row.channels, round(row.effective_rank, 6)
    (1.0, 0.5, 0, 2, 1.0)
    """
    checked = pairs("activation_statistics", batches)
    spreads: dict[str, _Spread] = {}
    saturated: dict[str, list[int]] = {}
    ranges: dict[str, _Range] = {}
    kinds: dict[str, str] = {}

    def see(seen: _Seen) -> None:
        values = seen.values()
        kinds[seen.name] = seen.kind
        _merge(spreads, seen.name, _Spread.of(values))
        _merge(ranges, seen.name, _Range.of(values))
        flat = _flat(seen)
        if flat is not None:
            counts = saturated.setdefault(seen.name, [0, 0])
            counts[0] += flat
            counts[1] += values.numel()

    _look("activation_statistics", model, checked, see)
    rows = []
    for name, spread in spreads.items():
        flat, of = saturated.get(name, (0, 0))
        dead = len(ranges[name].dead())
        share, channels = flat / of if of else None, len(spread.mean)
        row = ActivationRow(
            name, kinds[name], spread.all_mean(), spread.all_deviation(), share, dead, channels, spread.effective_rank()
        )
        rows.append(row)
    return ActivationStatistics(tuple(rows), _samples(checked))


def dead_units(model: nn.Module, batches: Iterable[Batch]) -> DeadUnits:
    """Counts the units of each activation that are dead on a whole data set: flat, so that they tell nothing of it.

    A unit is a channel; it is dead if it has one and the same value for all samples and at all positions. A ReLU's
    gives 0 then, has slope 0, and does not learn any more; :func:`striate.training.units.dead` is the same for one
    batch. A channel is an entry of axis 1, ``(N, C, …)``, or of the last axis behind a linear layer, ``(N, …, C)``.

    model: in the mode that it is in; batches: pairs ``(x, target)``, of which the targets are not used. Exact: no
    tolerance is involved.

    Cost: a forward pass. The model and the random generators are bit for bit as before.

    Raises ArgumentError for a model without activations that are modules, and for no batches.

    Source: L. Lu, Y. Shin, Y. Su, G. Karniadakis, "Dying ReLU and Initialization", 2019.

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = nn.init.constant_(model[0].weight, 1.0), model[0].bias.data.copy_(torch.tensor([0.0, -9.0]))
    >>> dead = dead_units(model, [(torch.tensor([[-1.0], [1.0]]), None), (torch.tensor([[3.0]]), None)])
    >>> dead["1"], dead.channels["1"]
    ((1, 2), (1,))
    """
    checked = pairs("dead_units", batches)
    ranges: dict[str, _Range] = {}
    _look("dead_units", model, checked, lambda seen: _merge(ranges, seen.name, _Range.of(seen.values())))
    return DeadUnits(
        {name: found.dead() for name, found in ranges.items()},
        {name: len(found.least) for name, found in ranges.items()},
        _samples(checked),
    )


def _samples(batches: Sequence[Batch]) -> int:
    return sum(len(x) for x, _ in batches if isinstance(x, Tensor))


# ------------------------------------------------------------------------------------------------------------- a look


class _Seen(NamedTuple):
    """A call of an activation: its input z and output y; apply computes y from z anew; axis: that of the channels."""

    name: str
    kind: str
    z: Tensor
    y: Tensor
    apply: Callable[[Tensor], Tensor]
    axis: int

    def values(self) -> Tensor:
        """The outputs, float64 ``(values of a channel, C)``."""
        return self.y.detach().double().movedim(self.axis, -1).flatten(0, -2)


def _look(where: str, model: nn.Module, batches: Sequence[Batch], see: Callable[[_Seen], None]) -> None:
    """Runs a model on batches, and calls ``see`` for each call of an activation."""
    check_hooks(where, model)
    with probing(model), torch.inference_mode(False), torch.no_grad():
        layers = activations(model)
        if not layers:
            hint = "Make them layers, as nn.ReLU() for torch.relu."
            raise ArgumentError(build(where, "a model with activations that are modules", "none", hint=hint))
        for x, _ in batches:
            with _hooked(model, layers, see):
                model(x)


@contextmanager
def _hooked(model: nn.Module, layers: Mapping[str, nn.Module], see: Callable[[_Seen], None]) -> Iterator[None]:
    calls: Counter[str] = Counter()
    linear: list[Tensor] = []  # the output of the last linear layer

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        linear[:] = [output]

    def called(name: str) -> str:
        calls[name] += 1
        return name if calls[name] == 1 else f"{name} (call {calls[name]})"

    def hooks_of(name: str, module: nn.Module) -> tuple[Any, Any]:
        kept: list[tuple[Tensor, int]] = []

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            z = inputs[0] if inputs else None
            if isinstance(z, Tensor) and z.ndim > 1:
                axis = -1 if linear and z is linear[0] else 1
                kept[:] = [(z.detach().clone(), axis)]  # the activation may work in place

        def after(_: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> None:
            if kept:
                z, axis = kept.pop()
                see(_Seen(called(name), type(module).__name__, z, y, module.forward, axis))

        return before, after

    def fused_of(name: str, module: BatchNormAct2d | GroupNormAct2d, activation: str | None) -> Any:
        def apply(z: Tensor) -> Tensor:
            return ops.activated(z, activation, module.negative_slope)

        def after(_: nn.Module, inputs: Any, z: Tensor) -> Tensor:
            y = apply(z)
            see(_Seen(called(name), type(module).__name__, z, y, apply, 1))
            return y

        return after

    with ExitStack() as hooks:
        for name, module in layers.items():
            if isinstance(module, BatchNormAct2d | GroupNormAct2d):
                activation, module.activation = module.activation, None  # computed by the hook, which so sees z too
                hooks.callback(setattr, module, "activation", activation)
                hooks.callback(module.register_forward_hook(fused_of(name, module, activation)).remove)
            else:
                before, after = hooks_of(name, module)
                hooks.callback(module.register_forward_pre_hook(before).remove)
                hooks.callback(module.register_forward_hook(after).remove)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_hook(keep).remove)
        yield


# ---------------------------------------------------------------------------------------------------------- the numbers


@dataclass(frozen=True, eq=False)
class _Spread:
    """The count, mean and scatter of vectors of C channels. They merge as :class:`striate.moments.Moments` do."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Spread:
        mean = values.mean(0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    def merge(self, other: _Spread) -> _Spread:
        count = self.count + other.count
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        return _Spread(count, self.mean + delta * (other.count / count), scatter)

    def all_mean(self) -> float:
        return float(self.mean.mean())

    def all_deviation(self) -> float:
        within, between = self.scatter.trace() / (self.count * len(self.mean)), self.mean.var(correction=0)
        return float((within + between).sqrt())

    def effective_rank(self) -> float:
        if not self.scatter.isfinite().all():
            return math.nan
        values = torch.linalg.eigvalsh(self.scatter).clamp(min=0)
        total = values.sum()
        return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Range:
    """The least and the largest value of each channel."""

    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Range:
        return cls(values.amin(0), values.amax(0))

    def merge(self, other: _Range) -> _Range:
        return _Range(torch.minimum(self.least, other.least), torch.maximum(self.most, other.most))

    def dead(self) -> tuple[int, ...]:
        return tuple((self.least == self.most).nonzero().flatten().tolist())


def _merge(found: dict[str, Any], name: str, new: _Spread | _Range) -> None:
    found[name] = found[name].merge(new) if name in found else new


def _flat(seen: _Seen) -> int | None:
    """How many values are where the slope is below 1/20 of the steepest; None where it is not value by value."""
    slopes = _slopes(seen.z, seen.apply)
    if slopes is None:
        return None
    steps = torch.linspace(*GRID).to(seen.z)
    grid = steps[:, None].expand(-1, seen.z.shape[1])  # a PReLU has a slope for each entry of axis 1
    steepest = _slopes(grid, seen.apply)
    assert steepest is not None
    return int((slopes.abs() < FLAT * steepest.abs().max()).sum())


def _slopes(z: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor | None:
    with torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        y = apply(leaf.clone())  # not a leaf: it may be changed in place
        return torch.autograd.grad(y.sum(), leaf)[0] if y.shape == z.shape else None
