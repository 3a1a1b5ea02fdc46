"""What the numbers of probes say is wrong with a network: a rule for each fault, with its threshold and its source."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..analysis.lint.finding import SEVERITIES, Finding
from ..training.overfit import HIGH
from .activations import ActivationStatistics, DeadUnits
from .batches import Batch, number
from .curvature import Curvature, CurvatureByMode
from .flow import EXPLODING, VANISHING, GradientFlow
from .norms import NormMismatch

__all__ = ["Descent", "Seen", "Symptom", "symptoms"]

# The share of dead units in a layer that Karpathy ("CS231n: Neural Networks Part 1", 2015) names as what a rate that is
# too high leaves; all of them let nothing through.
DEAD = 0.4
# From half on the median value of an activation is where its slope is below 1/20 of the steepest.
SATURATED = 0.5
BOUNDED = ("Hardsigmoid", "Hardtanh", "Sigmoid", "Softsign", "Tanh")  # flat on both sides; a ReLU is at 0 by design
# Of what a network has learned, guessing - loss, the part that is lost where the other statistics are used.
LOST, MOSTLY_LOST = 0.2, 0.5
STALE = 0.5  # of the gap of single batches: what is left in the mean over all of them, where chance cancels
UNLEARNED = 0.95  # times the loss of guessing: a twentieth has been learned at most
# Karpathy ("CS231n: Neural Networks Part 3", 2015) has the ratio of update and weight near 10⁻³: two orders either way.
LARGE_UPDATE, SMALL_UPDATE = 1e-1, 1e-5
# Rates above 2/λ: gradient descent leaves the valley (Cohen et al. 2021), but up to 4/λ lands in a flatter one, and
# with ReLU up to about 12/λ (Lewkowycz et al. 2020).
UNSTABLE, DIVERGING = 1.0, 6.0
ARITHMETIC = "arithmetic"


@dataclass(frozen=True)
class Symptom(Finding):
    """A fault of a live network: a finding as a lint rule has it, and the number that it comes from.

    value: this number, None where it is not finite; limit: beyond which it is a fault.
    """

    value: float | None = None
    limit: float | None = None

    def to_dict(self) -> dict[str, str | float | None]:
        """The finding as JSON holds it."""
        told = {name: value for name, value in super().to_dict().items() if name != "share"}
        return {**told, "value": self.value, "limit": self.limit}


class Descent(NamedTuple):
    """How the network learns. rate: η; momentum: μ; nesterov: whether it looks ahead; is_plain: whether it is SGD,
    whose stable rates are known.
    """

    rate: float
    momentum: float = 0.0
    nesterov: bool = False
    is_plain: bool = True

    def stable(self, largest: float) -> float:
        """The largest rate at which it is stable where the largest eigenvalue is ``largest``.

        Source: Cohen et al., ICLR 2021, equation 1 and appendix B.

        >>> Descent(0.1).stable(4.0), Descent(0.1, 0.5).stable(4.0), Descent(0.1, 0.5, nesterov=True).stable(4.0)
        (0.5, 0.75, 0.375)
        """
        heavy_ball = 2 * (1 + self.momentum) / largest
        return heavy_ball / (1 + 2 * self.momentum) if self.nesterov else heavy_ball


class Seen(NamedTuple):
    """What is known of a network. loss: the mean over the batches in training mode; guessing: that of a model that
    gives each class the same probability, None where that is not known; results: of the probes, by name.
    """

    model: nn.Module
    batches: list[Batch]
    loss: float
    guessing: float | None
    trained: bool
    descent: Descent | None
    results: Mapping[str, Any]

    @property
    def flow(self) -> GradientFlow | None:
        return self.results.get("gradient_flow")


def symptoms(seen: Seen) -> tuple[Symptom, ...]:
    """What is wrong, the gravest first. Where something is not finite, that alone: all other numbers follow from it."""
    found = list(_not_finite(seen)) or [one for rule in RULES for one in rule(seen)]
    return tuple(sorted(found, key=lambda one: SEVERITIES.index(one.severity)))


# ----------------------------------------------------------------------------------------------------------- the faults


def _not_finite(seen: Seen) -> Iterator[Symptom]:
    inputs = [x for x, _ in seen.batches if isinstance(x, Tensor)]
    broken = "Look for broken images, and for a division by a deviation of 0, in what prepares them."
    given = [("input", "the batches", inputs, broken)]
    lower = "A step was too large: begin again with a lower learning rate, or clip=1."
    given += [(name, "it", [tensor], lower) for name, tensor in seen.model.state_dict().items()]
    for place, whose, tensors, fix in given:
        wrong = sum(int((~tensor.isfinite()).sum()) for tensor in tensors)
        if wrong:
            values = sum(tensor.numel() for tensor in tensors)
            message = f"{wrong:,} of the {values:,} values of {whose} are infinite or NaN."
            yield Symptom("not-finite", "error", place, message, fix, ARITHMETIC, value=wrong, limit=0)
            return
    rows: ActivationStatistics | tuple[()] = seen.results.get("activation_statistics", ())
    first = next((row.name for row in rows if not math.isfinite(row.mean)), None)
    if first is not None:
        message = "It is the first activation whose outputs are infinite or NaN."
        fix = "Look at what the layers up to it compute: values too large, a root or a logarithm of 0, a division by 0."
        yield Symptom("not-finite", "error", first, message, fix, ARITHMETIC)
    elif not math.isfinite(seen.loss):
        fix = "Look at what the last layers and the loss compute: a logarithm of 0, a division by 0, values too large."
        yield Symptom("not-finite", "error", "loss", f"The loss is {seen.loss}.", fix, ARITHMETIC)
    elif seen.flow is not None and seen.flow.kind == "not finite":
        told = seen.flow.verdict.removeprefix("not finite: o")
        fix = "Look for a root or a norm of 0, whose derivative is infinite."
        yield Symptom("not-finite", "error", "gradient", f"O{told}", fix, ARITHMETIC)


def _dead(seen: Seen) -> Iterator[Symptom]:
    found: DeadUnits | None = seen.results.get("dead_units")
    if found is None:
        return
    kinds = dict(seen.model.named_modules())
    for name, (dead, of) in found.items():
        if dead >= DEAD * of:
            same = f"{dead:,} of its {of:,} units have the same value for all {found.samples:,} samples"
            if type(kinds[name.partition(" ")[0]]).__name__ in BOUNDED:
                message = f"{same}: what tells these apart is lost on the way."
                fix = "Begin with larger weights, put a norm before each activation, or shortcuts around the layers."
            else:
                message = f"{same}: they tell nothing, and ReLUs at 0 learn no more."
                fix = "Lower the learning rate, begin with He's weights, or put a norm before it."
            severity = "error" if dead == of else "warning"
            source = "Lu et al. 2019; Karpathy, CS231n"
            yield Symptom("dead-units", severity, name, message, fix, source, value=dead / of, limit=DEAD)


def _gradient(seen: Seen) -> Iterator[Symptom]:
    flow = seen.flow
    if flow is None or flow.kind == "fine":
        return
    mean, total = flow.mean_factor, flow.total
    if not total or mean is None:
        if seen.loss and not any(_dead(seen)):  # else that is why
            fix = "Look for what cuts it off: detach(), no_grad(), units that are 0 for every sample."
            message = "No gradient reaches the first layer: it learns nothing."
            yield Symptom("no-gradient", "error", "model", message, fix, ARITHMETIC, value=0.0, limit=0)
        return
    gain, slope = (
        statistics.median(known) if (known := [v for row in flow if (v := getattr(row, name)) is not None]) else 1.0
        for name in ("gain", "slope")
    )
    effect = "the first layers hardly learn" if flow.kind == "vanishing" else "a step is far too long for them"
    message = (
        f"On its way back the gradient is multiplied by {mean:.3g} a layer, by {total:.2g} up to the first: {effect}. "
        f"Weights multiply it by {gain:.2g}, what stands between them by {slope:.2g} (medians)."
    )
    if flow.kind == "exploding":
        fix = "Begin with He's weights, put a norm before each activation, or limit the gradient with clip=1."
    elif slope < 0.5 and not any(type(module).__name__ in BOUNDED for module in seen.model.modules()):
        fix = "Batch norms of few values pass hardly any gradient: take larger batches, or group norm (norm=group)."
    elif slope < 0.5:  # a ReLU's is 0.7
        fix = "Use ReLU in place of activations that saturate, with He's weights; or a norm before each, or shortcuts."
    else:
        fix = "Begin with He's weights, put a norm before each activation, or shortcuts around the layers."
    limit = VANISHING if flow.kind == "vanishing" else EXPLODING
    rule = f"{flow.kind}-gradient"
    yield Symptom(rule, "error", "model", message, fix, "He et al. 2015, section 2.2", value=total, limit=limit)


def _mode(seen: Seen) -> Iterator[Symptom]:
    found: NormMismatch | None = seen.results.get("norm_mismatch")
    if found is None or not seen.trained:  # before training running statistics are 0 and 1, and no one's
        return
    better = min(found.running, found.batch)
    learned = better if seen.guessing is None else seen.guessing - better
    lost = abs(found.gap) / learned if learned > 0 else 0.0
    if not lost >= LOST:
        return
    worst = max(found.rows, key=lambda row: (not math.isnan(row.mean_gap), row.mean_gap))
    share = "" if seen.guessing is None else f", which loses {100 * min(lost, 1):.0f} % of what was learned"
    losses = {
        "running statistics, as in evaluation mode,": found.running,
        "statistics of the batch, as in training mode,": found.batch,
    }
    (bad, most), (good, least) = sorted(losses.items(), key=lambda item: -item[1])
    message = (
        f"With {bad} the loss is {most:.4g}, with {good} {least:.4g}{share}. Means of a batch are "
        f"{worst.mean_gap:.2g} deviations off the running ones, those of all batches {worst.pooled_gap:.2g}."
    )
    if found.gap > 0 and worst.pooled_gap >= STALE * worst.mean_gap:
        fix = "Running statistics are stale: take momentum=0.1, more steps, or recompute_statistics(model, batches)."
    else:
        fix = "Batches are too small, or not alike: take larger ones, shuffle them, or use group norm (norm=group)."
    severity = "error" if lost >= MOSTLY_LOST else "warning"
    source = "Wu & Johnson 2021, section 3"
    yield Symptom("mode-mismatch", severity, worst.name, message, fix, source, value=number(lost), limit=LOST)


def _saturated(seen: Seen) -> Iterator[Symptom]:
    for row in seen.results.get("activation_statistics", ()):
        if row.kind in BOUNDED and row.saturation >= SATURATED:
            message = f"{100 * row.saturation:.0f} % of its values are where its slope is below 1/20 of the steepest."
            fix = "Begin with smaller weights, normalize the inputs, put a norm before it, or lower the learning rate."
            source = "Glorot & Bengio 2010, section 3"
            value, limit = row.saturation, SATURATED
            yield Symptom("saturated", "warning", row.name, message, fix, source, value=value, limit=limit)


def _rate(seen: Seen) -> Iterator[Symptom]:
    found: Curvature | CurvatureByMode | None = seen.results.get("curvature")
    if found is None or seen.descent is None or not seen.descent.is_plain:
        return
    largest = (found.train if isinstance(found, CurvatureByMode) else found).largest[0]
    if largest <= 0:
        return
    stable = seen.descent.stable(largest)
    times = seen.descent.rate / stable
    if times < UNSTABLE:
        return
    momentum = f" and a momentum of {seen.descent.momentum:g}" if seen.descent.momentum else ""
    message = (
        f"The learning rate {seen.descent.rate:g} is {times:.2g} times the largest that is stable here, {stable:.2g} "
        f"for a largest eigenvalue of {largest:.3g}{momentum}: steps along its direction grow."
    )
    severity = "warning" if times >= DIVERGING else "note"
    fix = "Lower it, let it rise slowly (warm_up), or put norms into the network."
    source = "Cohen et al. 2021; Lewkowycz et al. 2020"
    yield Symptom("rate-too-high", severity, "model", message, fix, source, value=times, limit=UNSTABLE)


def _loss(seen: Seen) -> Iterator[Symptom]:
    if seen.guessing is None:
        return
    both = f"The loss is {seen.loss:.4g}, that of guessing {seen.guessing:.4g}"
    source, value = "Karpathy, A Recipe for Training Neural Networks, 2019", seen.loss / seen.guessing
    if value > HIGH:
        fix = "Begin with smaller weights in the last layer, normalize the inputs, or lower the learning rate."
        message = f"{both}: it is sure of what is wrong."
        yield Symptom("loss-above-guessing", "warning", "loss", message, fix, source, value=value, limit=HIGH)
    elif seen.trained and value >= UNLEARNED:
        fix = "See striate overfit: what cannot learn one batch by heart has a fault that no data will mend."
        message = f"{both}: it has learned nothing."
        yield Symptom("loss-at-guessing", "error", "loss", message, fix, source, value=value, limit=UNLEARNED)


def _updates(seen: Seen) -> Iterator[Symptom]:
    flow = seen.flow
    if flow is None or flow.kind != "fine":
        return
    source = "Karpathy, CS231n"
    for row in flow:
        value = row.update
        if value is None or SMALL_UPDATE <= value <= LARGE_UPDATE:
            continue
        message = f"A step moves its weights by {100 * value:.2g} % of their norm, where 0.1 % is usual."
        if value > LARGE_UPDATE:
            fix, limit = "Lower the learning rate, or let it rise slowly (warm_up).", LARGE_UPDATE
            severity = "warning" if value > 1 else "note"
            yield Symptom("large-updates", severity, row.name, message, fix, source, value=value, limit=limit)
        elif not seen.trained:  # a network that has learned has small gradients
            fix, limit = "Raise the learning rate; striate find-lr looks for one.", SMALL_UPDATE
            yield Symptom("small-updates", "note", row.name, message, fix, source, value=value, limit=limit)


RULES: tuple[Callable[[Seen], Iterator[Symptom]], ...] = (  # the gravest first
    _dead,
    _gradient,
    _mode,
    _rate,
    _saturated,
    _loss,
    _updates,
)
