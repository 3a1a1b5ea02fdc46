"""Why a network does not learn: runs the probes that suit it, and says what is wrong, the gravest first."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..analysis.inspect.table import finding_lines
from ..analysis.inspect.words import counted
from ..analysis.lint.group import grouped
from ..errors import (
    ArgumentError,
    ArgumentTypeError,
    DependencyError,
    DtypeError,
    ShapeError,
    build,
    describe_error,
    did_you_mean,
)
from ..guard import probing
from ..nn.norm import BATCH_NORMS
from ..render import html
from .activations import activation_statistics, dead_units
from .batch_norms import output_of
from .batches import Batch, Loss, loss_of, number, pairs, plain
from .curvature import curvature
from .flow import gradient_flow
from .lipschitz import lipschitz
from .norms import norm_mismatch
from .scale import effective_rates, scale_invariant
from .symptoms import Descent, Seen, Symptom, symptoms

__all__ = ["PROBES", "Diagnosis", "diagnose"]

QUICK = ("gradient_flow", "activation_statistics", "dead_units", "norm_mismatch")  # some forward and backward passes
# Lanczos keeps a float64 vector a step: 12 of so many weights are 192 MB, and a product is some four passes.
MOST_WEIGHTS = 2_000_000
STEPS, TOLERANCE = 12, 0.05  # the largest eigenvalue to a few percent: 2/λ is no sharper than that
UNIFORM = 1e-3  # of ln K: what the loss of equal probabilities may be off it
OWN = (ArgumentError, ArgumentTypeError, DependencyError, DtypeError, ShapeError)
THEIRS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError)
INDENT = "  "


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a network, as :func:`diagnose` finds it.

    model: its class; samples, batches: how many there were; loss: the mean over the batches in training mode; guessing:
    that of equal probabilities for all classes, None where the loss is no cross entropy; trained: as given; findings:
    the gravest first; results: of the probes, by name; refused: by name, why a probe did not take the model.
    """

    model: str
    samples: int
    batches: int
    loss: float
    guessing: float | None
    trained: bool
    findings: tuple[Symptom, ...]
    results: Mapping[str, Any]
    refused: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """What was found, in a sentence."""
        groups = grouped(self.findings)
        first = ", the gravest first" if len(groups) > 1 else ""
        return f"Found: {counted(groups)}{first}." if groups else "No fault was found."

    @property
    def summary(self) -> str:
        """What was measured, and what was found."""
        state = "trained" if self.trained else "before training"
        guessing = "" if self.guessing is None else f", that of guessing {self.guessing:.4g}"
        of = f"{self.samples:,} samples in {self.batches:,} batch{'es' * (self.batches != 1)}"
        about = f"{self.model}, {state}: a loss of {self.loss:.4g} in training mode{guessing}, on {of}."
        return f"{about} {self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """The findings, and the numbers of all probes, as JSON holds them."""
        return {
            "model": self.model,
            "samples": self.samples,
            "batches": self.batches,
            "loss": number(self.loss),
            "guessing": self.guessing,
            "trained": self.trained,
            "findings": [finding.to_dict() for finding in self.findings],
            "probes": {name: result.to_dict() for name, result in self.results.items()},
            "refused": dict(self.refused),
        }

    def table(self, width: int = 100, *, details: bool = False, color: bool = False) -> str:
        """The findings as text of at most ``width`` columns. details: also the table of each probe."""
        parts = _wrapped(self.summary, width)
        parts += finding_lines(grouped(self.findings), width, color)
        for name, why in self.refused.items():
            parts += ["", *_wrapped(f"{name} was not measured: {why}", width)]
        if details:
            for name, result in self.results.items():
                parts += ["", name, *(f"{INDENT}{line}".rstrip() for line in _table(result, width - len(INDENT)))]
        return "\n".join(parts)

    def picture(self) -> str:
        """The pictures of all probes one below the other, as SVG. Needs matplotlib."""
        return _stacked(list(self._pictures().values()))

    def page(self) -> str:
        """The findings, the pictures and the tables as one HTML page, which needs nothing from elsewhere and no script.

        Needs matplotlib.
        """
        pictures = self._pictures()
        return html.page(
            "diagnose.html",
            title=f"{self.model}: diagnosis",
            model=self.model,
            about=self.summary,
            groups=grouped(self.findings),
            probes=[
                (name, pictures[name], "\n".join(_table(result, 110))) for name, result in self.results.items()
            ],
            refused=self.refused,
        )

    def __str__(self) -> str:
        return self.table()

    def _pictures(self) -> dict[str, str]:
        return {name: result.picture() for name, result in self.results.items()}


class _Given(NamedTuple):
    """What the probes get. optimizer: None where none is known; limited: whether costly probes may refuse."""

    model: nn.Module
    loss: Loss
    batches: list[Batch]
    optimizer: torch.optim.Optimizer | None
    descent: Descent | None
    limited: bool


def diagnose(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    rate: float | None = None,
    trained: bool = True,
    quick: bool = False,
    probes: Sequence[str] | None = None,
    on_probe: Callable[[int, int, str], object] = lambda done, of, name: None,
) -> Diagnosis:
    r"""Runs the probes of :data:`PROBES` that suit a model, in training mode, and says what is wrong with it.

    Findings, each with its number and what to do: something is not finite; units are dead (from 40 % of a layer on);
    the gradient vanishes (10⁻⁴ over all layers) or explodes (10⁴), or reaches no layer; running statistics, or those of
    the batch, lose what was learned (from a fifth on); the rate is above the stable one, for gradient descent 2/λ;
    activations are saturated (from half of the values on); the loss is that of guessing, or twice that; a step moves
    weights by more than 0.1 or less than 10⁻⁵ of their norm. The sources of the thresholds are beside them in
    :mod:`.symptoms`.

    batches: some as the model is trained with, as large and as mixed; gradient and curvature are of the first.
    optimizer or rate: what it is trained with, without which nothing is said of steps. trained: False for a model with
    its first weights, whose loss may be that of guessing and whose running statistics say nothing. quick: only
    gradients, activations and statistics. probes: names of those to run, without a limit on what they cost; by default
    all that take the model, curvature and Lipschitz bounds up to two million weights. on_probe: called before each with
    the number of those done, that of all, and its name.

    Cost: about 10 forward and backward passes of the batches; not quick, also about 30 curvature products of the first.
    The model and the random generators are bit for bit as before (:func:`striate.guard.probing`). A probe that does not
    take the model ends nothing: ``.refused`` has its reason.

    Raises ArgumentError for no batches, probes that there are not, a rate that is none, and a loss that does not fit;
    ArgumentTypeError for what is no model; ShapeError for a model that does not take the batches.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    >>> _ = nn.init.constant_(model[0].bias, -9.0)
    >>> batches = [(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)]
    >>> found = diagnose(model, nn.CrossEntropyLoss(), batches, quick=True)
    >>> print(found.findings[0])  # doctest: +ELLIPSIS
    error: 1: 4 of its 4 units have the same value for all 8 samples: they tell nothing, ... [dead-units] Lower the ...
    """
    checked = pairs("diagnose", batches)
    names = _chosen(probes, quick)
    if rate is not None and not 0 < rate < math.inf:
        raise ArgumentError(build("diagnose", "a rate above 0", rate, hint="Give the optimizer's learning rate."))
    with probing(model):
        model.train()
        if optimizer is None and rate is not None:
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate)
        descent = None if optimizer is None else _descent(optimizer)
        given = _Given(model, loss, checked, optimizer, descent, limited=probes is None)
        mean, guessing = _losses(given)
        results, refused = _run(names, given, on_probe)
        found = symptoms(Seen(model, checked, mean, guessing, trained, descent, results))
    samples = sum(len(x) for x, _ in checked)
    name = type(model).__name__
    return Diagnosis(name, samples, len(checked), mean, guessing, trained, found, results, refused)


def _chosen(probes: Sequence[str] | None, quick: bool) -> list[str]:
    for name in probes or ():
        if name not in PROBES:
            hint = f"Choose one of these.{did_you_mean(name, PROBES)}"
            raise ArgumentError(build("diagnose", f"probes of {', '.join(PROBES)}", repr(name), hint=hint))
    return [name for name in PROBES if (name in QUICK or not quick if probes is None else name in probes)]


def _descent(optimizer: torch.optim.Optimizer) -> Descent | None:
    """How the group of the highest rate learns; None where no rate is above 0."""
    group = max(optimizer.param_groups, key=lambda group: float(group["lr"]))
    rate, is_plain = float(group["lr"]), isinstance(optimizer, torch.optim.SGD)
    if not 0 < rate < math.inf:
        return None
    return Descent(rate, float(group.get("momentum", 0.0)), bool(group.get("nesterov", False)), is_plain)


def _losses(given: _Given) -> tuple[float, float | None]:
    """The mean loss of the batches, and that of guessing. It is ln K for K classes, and the loss is one of classes if
    that is what it gives for equal probabilities.
    """
    total = count = 0.0
    guessing: float | None = None
    with torch.no_grad():
        for x, target in given.batches:
            output = output_of("diagnose", given.model, x)
            total += float(loss_of("diagnose", given.loss, output, target)) * len(x)
            count += len(x)
            if isinstance(output, Tensor) and output.ndim > 1 and output.shape[1] > 1 and guessing is None:
                expected = math.log(output.shape[1])
                equal = torch.full_like(output, -expected)
                is_classes = isinstance(target, Tensor) and not target.is_floating_point()
                if is_classes and abs(float(given.loss(equal, target)) - expected) < UNIFORM * expected:
                    guessing = expected
    return total / count, guessing


def _run(
    names: Sequence[str], given: _Given, on_probe: Callable[[int, int, str], object]
) -> tuple[dict[str, Any], dict[str, str]]:
    results: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for done, name in enumerate(names):
        on_probe(done, len(names), name)
        try:
            result = PROBES[name](given)
        except OWN as error:
            refused[name] = str(error)
        except THEIRS as error:  # of the model's own code, or of an operator that the probe differentiates
            hint = "Call it in Python to see where."
            refused[name] = build(name, "a model that it can run", describe_error(error), hint=hint)
        else:
            if result is not None:
                results[name] = result
    return results, refused


# ----------------------------------------------------------------------------------------------------------- the probes


def _flow(given: _Given) -> Any:
    rate = None if given.descent is None else given.descent.rate
    return gradient_flow(given.model, given.loss, given.batches[0], rate=rate)


def _curvature(given: _Given) -> Any:
    _check_weights("curvature", given)
    mode: Any = "both" if _has_batch_norms(given.model) else "train"
    batches = [tuple(plain(part) for part in given.batches[0])]
    how: dict[str, Any] = {"steps": STEPS, "tolerance": TOLERANCE, "samples": 2, "dtype": None}
    return curvature(given.model, given.loss, batches, mode, **how)


def _norms(given: _Given) -> Any:
    suits = _has_batch_norms(given.model) or not given.limited
    return norm_mismatch(given.model, given.loss, given.batches) if suits else None


def _has_batch_norms(model: nn.Module) -> bool:
    return any(isinstance(module, BATCH_NORMS) for module in model.modules())


def _scale(given: _Given) -> Any:
    x = given.batches[0][0]
    return scale_invariant(given.model, tuple(x.shape) if isinstance(x, Tensor) else x)


def _lipschitz(given: _Given) -> Any:
    _check_weights("lipschitz", given)
    return lipschitz(given.model, given.batches[0][0][:1])


def _check_weights(where: str, given: _Given) -> None:
    count = sum(p.numel() for p in given.model.parameters())
    if given.limited and count > MOST_WEIGHTS:
        hint = f"Name it, as --probe {where}, to measure it all the same."
        expects = f"a model of up to {MOST_WEIGHTS:,} weights, for its cost"
        raise ArgumentError(build(where, expects, f"{count:,}", hint=hint))


PROBES: dict[str, Callable[[_Given], Any]] = {
    "gradient_flow": _flow,
    "activation_statistics": lambda given: activation_statistics(given.model, given.batches),
    "dead_units": lambda given: dead_units(given.model, given.batches),
    "norm_mismatch": _norms,
    "curvature": _curvature,
    "scale_invariant": _scale,
    "effective_rates": lambda given: given.optimizer and effective_rates(given.model, given.optimizer),
    "lipschitz": _lipschitz,
}


# -------------------------------------------------------------------------------------------------------------- drawing


def _table(result: Any, width: int) -> list[str]:
    text: str = result.table(width)
    return text.splitlines()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _stacked(pictures: Sequence[str]) -> str:
    """Pictures of matplotlib one below the other."""
    placed, wide, top = [], 1.0, 0.0
    for one in pictures:
        width, height = map(float, re.findall(r' (?:width|height)="([\d.]+)pt"', one[: one.index(">")]))
        placed.append(one.replace("<svg", f'<svg y="{top:g}"', 1).replace('pt"', '"', 2))
        wide, top = max(wide, width), top + height
    box = f'width="{wide:g}pt" height="{top:g}pt" viewBox="0 0 {wide:g} {top:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n' + "".join(placed) + "</svg>\n"
