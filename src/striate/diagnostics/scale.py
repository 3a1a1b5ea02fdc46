"""What the size of a weight does: which weights have none behind a norm, and how fast their directions turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized

from .._torch import ConvBase
from ..errors import ArgumentError, ArgumentTypeError, build
from ..extras import needs
from ..graph.recording import Operation, Recording, Ref, record
from ..guard import probing
from ..render.figure import BLUE, GREY, ORANGE, RUN_COLORS, blank, plain, svg_text
from ..render.text import columns
from ..training.callbacks import Callback
from ..training.parameters import parameter_groups
from ..training.state import Training
from ..training.watch import interval
from .degrees import DEGREES, FREE, Place, Scaling, convolved
from .jacobian import doubles

__all__ = [
    "EffectiveRates",
    "RateRow",
    "ScaleInvariance",
    "ScaleRecord",
    "ScaleReport",
    "ScaleRow",
    "ScaleWatch",
    "WeightRow",
    "angle",
    "effective_rates",
    "equilibrium_angle",
    "scale_invariant",
]

FACTOR = 2.0  # by which a weight is multiplied to measure what its size does
SETTLED = 0.5  # of the records, the last ones, over which a report averages


class WeightRow(NamedTuple):
    """One weight of a model. invariant: whether its size changes nothing in training mode, up to eps; norms: the layers
    that take its size away; eps: the largest of theirs; why: what keeps it from being invariant, "" if it is; change:
    ‖f(2w) − f(w)‖/‖f(w)‖ as measured, None where that was not asked for.
    """

    name: str
    invariant: bool
    norms: tuple[str, ...]
    eps: float
    why: str
    change: float | None


@dataclass(frozen=True)
class ScaleInvariance:
    """Which weights of a model are scale-invariant, as :func:`scale_invariant` finds them."""

    model: str
    rows: tuple[WeightRow, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are."""
        return tuple(row.name for row in self.rows if row.invariant)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def to_dict(self) -> dict[str, Any]:
        """The rows as JSON holds them."""
        return {"model": self.model, "rows": [row._asdict() | {"norms": list(row.norms)} for row in self.rows]}

    def table(self, width: int = 100) -> str:
        """A line for each weight."""
        rows = [["weight", "scale-invariant", "change", "by, or why not"]]
        for row in self.rows:
            change = "" if row.change is None else f"{row.change:.2g}"
            rows.append([row.name, "yes" if row.invariant else "no", change, row.why or ", ".join(row.norms)])
        return "\n".join(columns(rows, "<<><", width, {0: 12, 3: 16}))

    def picture(self) -> str:
        """What doubling each weight changes, as SVG; weights that were not measured are left out. Needs matplotlib."""
        needs("ScaleInvariance.picture", "matplotlib")
        rows = [row for row in self.rows if row.change is not None]
        figure = blank(7, 0.9 + 0.25 * max(1, len(rows)))
        axes = figure.subplots()
        colors = [BLUE if row.invariant else ORANGE for row in rows]
        axes.barh(range(len(rows)), [max(row.change or 0.0, 1e-17) for row in rows], color=colors)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="change of the output where the weight is doubled, as a share")
        plain(axes)
        return svg_text(figure)


def scale_invariant(model: torch.nn.Module, x: Any) -> ScaleInvariance:
    r"""Which weights of a model are scale-invariant in training mode: their size has no effect on the output.

    .. math:: f(λ w) = f(w) \;∀ λ > 0 \quad ⇒ \quad ⟨∇_w L, w⟩ = 0, \quad ∇L(λ w) = \tfrac1λ ∇L(w)

    It is read from a recording of the model: each value gets the degree in which it grows with the weight, and the axes
    along which what does not grow with it, as a bias, is constant (:mod:`.degrees`). A norm takes a degree away, and
    batch norm a bias of each channel with it; layer and group norm do not take that bias. It holds up to the norm's
    eps: the share ε/σ² by which that breaks it is larger the smaller the weight.

    x: an input ``(N, …)``, or its shape. With an input it is measured too: one weight is doubled at a time.

    Weights are what learns but biases and parameters of norms (:func:`striate.training.parameter_groups`). Norms that
    measure are taken as in training, frozen ones as constants. What the rules do not know counts as not invariant, as
    the weight of :func:`torch.nn.utils.parametrizations.weight_norm`.

    Cost: a recording without arithmetic; with an input a forward pass in float64 for each invariant weight, and one.

    Raises ShapeError and ArgumentTypeError as :func:`striate.inspect` does.

    Source: S. Ioffe, C. Szegedy, "Batch normalization", 2015, section 3.3; Z. Li, S. Arora, "An Exponential Learning
    Rate Schedule for Deep Learning", ICLR 2020, lemma 1.3.

    >>> from striate import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    >>> found = scale_invariant(model, (2, 1, 8, 8))
    >>> found.names, found.rows[1].why
    (('0.weight',), 'the output grows with it')
    """
    with probing(model):
        model.train()
        recording = record(model, x)
        weights = _weights(model)
        rows = [_row(recording, one.index, one.name) for one in recording.values if one.name in weights]
        if isinstance(x, Tensor):
            rows = _measured(model, x, rows)
    return ScaleInvariance(type(model).__name__, tuple(rows))


def _weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a model by name: what learns, and is no bias and no part of a norm."""
    chosen = {id(parameter) for parameter in parameter_groups(model, 0.0)[0]["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}


def _row(recording: Recording, weight: int, name: str | None) -> WeightRow:
    known: dict[int, Scaling] = {weight: Scaling(1.0)}
    norms: dict[str, float] = {}
    is_read = False

    def refused(why: str) -> WeightRow:
        return WeightRow(name or "", False, (), 0.0, why, None)

    for operation in recording.operations:
        if not any(value in known for value in operation.inputs):
            continue
        is_read = True
        place = Place(recording, operation, known)
        made = _made(place)
        if made is None:
            return refused(f"its size stays in what {_at(recording, operation)} makes")
        if made == FREE:
            norms[_at(recording, operation)] = _eps(recording, operation)
        else:
            known.update(dict.fromkeys(operation.outputs, made))
    if not is_read:
        return refused("nothing reads it")
    if any(value in known for value in recording.outputs):
        return refused("the output grows with it")
    return WeightRow(name or "", True, tuple(norms), max(norms.values(), default=0.0), "", None)


def _made(place: Place) -> Scaling | None:
    """The scaling of an operation's outputs."""
    call = place.recording.leaf_of(place.operation)
    layer = None if call is None else call.module
    if isinstance(layer, ConvBase) and layer.padding_mode != "zeros" and not is_parametrized(layer):
        # Its padding repeats values, so that nothing that is constant in a channel varies at the border.
        assert call is not None
        x = place.of(Ref(call.inputs[0]))
        return convolved(place, x, is_padded=False) if place.operation.is_a("convolution") else x
    if isinstance(layer, torch.nn.RMSNorm):  # torch computes it by simple operators, of which one adds eps
        x = place.of(Ref(call.inputs[0])) if call is not None else FREE
        return FREE if x.added is None else None
    rule = DEGREES.get(place.operation.name)
    return None if rule is None else rule(place)


def _eps(recording: Recording, operation: Operation) -> float:
    call = recording.leaf_of(operation)
    return float(operation.arguments.get("eps") or getattr(call and call.module, "eps", None) or 0.0)


def _at(recording: Recording, operation: Operation) -> str:
    """The layer of an operation, or its operator."""
    call = recording.leaf_of(operation)
    return operation.name if call is None else f"{call.path} ({type(call.module).__name__})".lstrip()


def _measured(model: torch.nn.Module, x: Tensor, rows: Sequence[WeightRow]) -> list[WeightRow]:
    """The rows with the change of the output that doubling each weight makes."""

    def output(name: str | None) -> Tensor:
        torch.manual_seed(0)  # the same dropout each time
        tensors = doubles(model)
        if name is not None:
            same = tensors[name]
            doubled = FACTOR * same
            tensors |= {other: doubled for other, tensor in tensors.items() if tensor is same}
        made: Tensor = functional_call(model, tensors, (x.double() if x.is_floating_point() else x,))
        return made

    with torch.no_grad():
        before = output(None)
        if not isinstance(before, Tensor):
            return list(rows)
        size = float(before.norm())
        return [row._replace(change=float((output(row.name) - before).norm()) / size if size else None) for row in rows]


# ---------------------------------------------------------------------------------------------------------------- rates


def equilibrium_angle(rate: float, decay: float, momentum: float = 0.0) -> float:
    r"""The angle by which a step turns a scale-invariant weight once decay and growth of its norm are even [rad].

    .. math:: α = \sqrt{\frac{2 η λ}{1 + μ}}

    rate: η; decay: λ, added to the gradient as by :class:`torch.optim.SGD`; momentum: μ. It does not depend on the
    gradient's size: it is decay that sets the rate at which the direction turns.

    Source: R. Wan et al., "Spherical Motion Dynamics", NeurIPS 2021, theorem 2; A. Kosson et al., "Rotational
    Equilibrium", ICML 2024, table 1.

    >>> round(equilibrium_angle(0.1, 5e-4, 0.9), 6)
    0.007255
    """
    return math.sqrt(2 * rate * decay / (1 + momentum))


def angle(before: Tensor, after: Tensor) -> float:
    r"""The angle between two weights [rad], exact for small ones too.

    .. math:: α = 2 · atan2(‖u - v‖, ‖u + v‖), \quad u, v \text{ of length 1}

    Source: W. Kahan, "How Futile are Mindless Assessments of Roundoff in Floating-Point Computation?", 2006, §12.

    >>> one, other = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-6])
    >>> round(angle(one, other), 12), angle(one, -one) == math.pi
    (1e-06, True)
    """
    u, v = (w.detach().double() / w.detach().double().norm() for w in (before, after))
    return 2 * math.atan2(float((u - v).norm()), float((u + v).norm()))


class RateRow(NamedTuple):
    """One weight. norm: ‖w‖; rate, decay, momentum: those of its group; effective: η/‖w‖²; angle: that of a step in
    equilibrium [rad], None where there is no decay or the optimizer is not SGD.
    """

    name: str
    norm: float
    rate: float
    decay: float
    momentum: float
    effective: float
    angle: float | None


@dataclass(frozen=True)
class EffectiveRates:
    """The effective learning rate of each weight, as :func:`effective_rates` finds them."""

    optimizer: str
    rows: tuple[RateRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The rows as JSON holds them."""
        return {"optimizer": self.optimizer, "rows": [row._asdict() for row in self.rows]}

    def table(self, width: int = 100) -> str:
        """A line for each weight."""
        rows = [["weight", "‖w‖", "rate η", "decay λ", "η/‖w‖²", "angle in equilibrium [rad]"]]
        for row in self.rows:
            at_end = "" if row.angle is None else f"{row.angle:.3g}"
            numbers = (row.norm, row.rate, row.decay, row.effective)
            rows.append([row.name, *(f"{number:.3g}" for number in numbers), at_end])
        return "\n".join(columns(rows, "<>>>>>", width, {0: 12}))

    def picture(self) -> str:
        """η/‖w‖² of each weight, as SVG. Needs matplotlib."""
        needs("EffectiveRates.picture", "matplotlib")
        figure = blank(7, 0.9 + 0.25 * len(self.rows))
        axes = figure.subplots()
        axes.barh(range(len(self.rows)), [row.effective for row in self.rows], color=BLUE)
        axes.set_yticks(range(len(self.rows)), [row.name for row in self.rows])
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="effective rate η/‖w‖²")
        plain(axes)
        return svg_text(figure)


def effective_rates(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> EffectiveRates:
    r"""The learning rate at which the direction of each weight moves, where its size does not matter.

    .. math:: η_{eff} = η/‖w‖²: \qquad \hat w ← \hat w - \frac{η}{‖w‖²} ∇L(\hat w), \quad \hat w = w/‖w‖

    That holds for scale-invariant weights (:func:`scale_invariant`) under SGD, whose gradient shrinks as 1/‖w‖. Weights
    are those of :func:`scale_invariant` that the optimizer has. It costs no pass.

    Raises ArgumentTypeError for what is no optimizer, ArgumentError for one that has no weight of the model.

    Source: T. van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017, section 3.

    >>> from striate import nn
    >>> layer = nn.Linear(4, 3, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 0.5)
    >>> row = effective_rates(layer, torch.optim.SGD(layer.parameters(), lr=0.3, weight_decay=0.1)).rows[0]
    >>> row.name, round(row.norm**2, 6), round(row.effective, 6), round(row.angle, 6)
    ('weight', 3.0, 0.1, 0.244949)
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        hint = "Give the one that trains the model."
        got = type(optimizer).__name__
        raise ArgumentTypeError(build("effective_rates", "an optimizer, a torch.optim.Optimizer", got, hint=hint))
    rows = []
    names = {parameter: name for name, parameter in _weights(model).items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in names:
                rate, decay, momentum = _setting(optimizer, group)
                norm = float(parameter.detach().double().norm())
                effective = rate / norm**2 if norm else math.inf
                rows.append(
                    RateRow(names[parameter], norm, rate, decay, momentum, effective, _expected(optimizer, group))
                )
    if not rows:
        hint = "Make it of model.parameters()."
        raise ArgumentError(build("effective_rates", "an optimizer with a weight of the model", "none", hint=hint))
    order = {name: number for number, name in enumerate(names.values())}
    return EffectiveRates(type(optimizer).__name__, tuple(sorted(rows, key=lambda row: order[row.name])))


def _setting(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> tuple[float, float, float]:
    return tuple(float(group.get(name, 0.0)) for name in ("lr", "weight_decay", "momentum"))  # type: ignore[return-value]


def _expected(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float | None:
    """The angle in equilibrium; None where the formula does not hold."""
    rate, decay, momentum = _setting(optimizer, group)
    plain = isinstance(optimizer, torch.optim.SGD) and not group["nesterov"] and not group["dampening"]
    return equilibrium_angle(rate, decay, momentum) if plain and decay > 0 else None


# ------------------------------------------------------------------------------------------------------------ trainings


class ScaleRecord(NamedTuple):
    """What one step did. step: from 1 on; by the name of the weight: angle, by how much it turned [rad]; norm: ‖w‖
    after it; expected: the angle in equilibrium at the rate of this step [rad], None where that is not known.
    """

    step: int
    angle: dict[str, float]
    norm: dict[str, float]
    expected: dict[str, float | None]


class ScaleRow(NamedTuple):
    """One weight over a training. angle, expected: means over the last half of the records [rad]; ratio: of both, None
    where the second is not known; first, last: ‖w‖ at the first and the last record; drift: ln(last/first).
    """

    name: str
    angle: float
    expected: float | None
    ratio: float | None
    first: float
    last: float
    drift: float


@dataclass(frozen=True)
class ScaleReport:
    """How far each weight turned a step and how its norm drifted, as a :class:`ScaleWatch` saw it."""

    rows: tuple[ScaleRow, ...]
    records: tuple[ScaleRecord, ...]

    def to_dict(self) -> dict[str, Any]:
        """Rows and records as JSON holds them."""
        return {"rows": [row._asdict() for row in self.rows], "records": [one._asdict() for one in self.records]}

    def table(self, width: int = 100) -> str:
        """A line for each weight."""
        rows = [["weight", "angle [rad]", "in equilibrium", "ratio", "‖w‖ first", "‖w‖ last"]]
        for row in self.rows:
            expected = "" if row.expected is None else f"{row.expected:.3g}"
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            rows.append([row.name, f"{row.angle:.3g}", expected, ratio, f"{row.first:.3g}", f"{row.last:.3g}"])
        return "\n".join(columns(rows, "<>>>>>", width, {0: 12}))

    def picture(self) -> str:
        """Angles, with those in equilibrium dashed, and norms over the steps, as SVG. Needs matplotlib."""
        needs("ScaleReport.picture", "matplotlib")
        figure = blank(10, 3.8)
        left, right = figure.subplots(1, 2)
        steps = [record.step for record in self.records]
        for number, row in enumerate(self.rows):
            color = RUN_COLORS[number % len(RUN_COLORS)]
            left.plot(steps, [record.angle[row.name] for record in self.records], color=color, label=row.name)
            right.plot(steps, [record.norm[row.name] for record in self.records], color=color, label=row.name)
        for row in self.rows[:1]:
            at_end = [record.expected[row.name] for record in self.records]
            left.plot(steps, [math.nan if one is None else one for one in at_end], color=GREY, linestyle="--")
        left.set(yscale="log", xlabel="step", ylabel="angle a step [rad]")
        right.set(xlabel="step", ylabel="‖w‖")
        right.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            plain(axes)
        return svg_text(figure)


class ScaleWatch(Callback):
    r"""Measures by what angle each step turns the scale-invariant weights of a training, and how their norms drift.

    .. math:: α_t = ∠(w_{t-1}, w_t), \qquad \text{in equilibrium } \sqrt{2 η λ/(1 + μ)}

    weights: the names of those to watch, by default the scale-invariant ones; every: steps from one record to the next,
    by default as :class:`striate.training.Watch` has them. records: one for each; :meth:`report` summarizes them.
    Nothing of it reaches the training, which stays the same bit for bit. It costs a copy of these weights before a step
    that is recorded.

    Raises ArgumentError for names that are no weights of the model, or where there are none, and for an ``every`` below
    1.

    Source: :func:`equilibrium_angle`.

    >>> from striate import nn
    >>> from striate.training import fit, open_data
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    >>> watch = ScaleWatch(every=4)
    >>> _ = fit(model, open_data("digits"), epochs=1, batch_size=180, crop=0, callbacks=[watch])
    >>> [record.step for record in watch.records], [row.name for row in watch.report().rows]
    ([4, 8], ['0.weight'])
    """

    def __init__(self, weights: Iterable[str] | None = None, every: int | None = None) -> None:
        if every is not None and (type(every) is not int or every < 1):
            raise ArgumentError(build("ScaleWatch", "every to be a number of steps from 1 on", every, hint="Use 1."))
        self.weights = None if weights is None else tuple(weights)
        self.every = every
        self.records: list[ScaleRecord] = []
        self._interval = 1
        self._watched: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def on_start(self, training: Training) -> None:
        self._interval = self.every or interval(training.steps, len(training.loader))
        self._watched = self._chosen(training)
        self.records = [record for record in self.records if record.step <= training.step]
        self._keep(training)

    def on_step(self, training: Training) -> None:
        if self._before:
            self.records.append(self._record(training))
        self._keep(training)

    def _chosen(self, training: Training) -> dict[str, Tensor]:
        known = _weights(training.model)
        if self.weights is None:
            part = training.data.parts["train"]
            image = training.preprocessing.batch(part, torch.arange(1))
            names = scale_invariant(training.model, (training.settings.batch_size, *image.shape[1:])).names
            hint = "Name weights to watch, as weights=['0.weight'], or put a norm behind them."
            if not names:
                raise ArgumentError(build("ScaleWatch", "a model with a scale-invariant weight", "none", hint=hint))
        else:
            names = self.weights
            unknown = [name for name in names if name not in known]
            hint = f"Its weights are {', '.join(known)}."
            if unknown:
                raise ArgumentError(build("ScaleWatch", "names of the model's weights", unknown[0], hint=hint))
        return {name: known[name] for name in names}

    def _keep(self, training: Training) -> None:
        is_next = (training.step + 1) % self._interval == 0 and training.step < training.steps
        self._before = {name: w.detach().clone() for name, w in self._watched.items()} if is_next else {}

    def _record(self, training: Training) -> ScaleRecord:
        groups = {id(p): group for group in training.optimizer.param_groups for p in group["params"]}
        expected = {
            name: _expected(training.optimizer, groups[id(w)]) if id(w) in groups else None
            for name, w in self._watched.items()
        }
        turned = {name: angle(self._before[name], w) for name, w in self._watched.items()}
        norms = {name: float(w.detach().double().norm()) for name, w in self._watched.items()}
        return ScaleRecord(training.step, turned, norms, expected)

    def report(self) -> ScaleReport:
        """The weights over the training so far. Raises ArgumentError where there is no record."""
        if not self.records:
            hint = "Give it to fit(…, callbacks=[watch]) first, with fewer steps from one record to the next."
            raise ArgumentError(build("ScaleWatch.report", "a record at least", "none", hint=hint))
        late = self.records[int(len(self.records) * SETTLED) :]
        rows = []
        for name in self.records[0].angle:
            mean = sum(record.angle[name] for record in late) / len(late)
            known = [value for record in late if (value := record.expected[name]) is not None]
            expected = sum(known) / len(known) if known else None
            first, last = self.records[0].norm[name], self.records[-1].norm[name]
            drift = math.log(last / first) if first and last else math.nan
            rows.append(ScaleRow(name, mean, expected, mean / expected if expected else None, first, last, drift))
        return ScaleReport(tuple(rows), tuple(self.records))
