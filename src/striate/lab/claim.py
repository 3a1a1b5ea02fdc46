"""Claims of the notes as experiments: the sentence, the setting, what is measured, and the criterion that decides."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import ArgumentError, build
from ..models.custom import custom
from . import images
from .criterion import is_met, names_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TAKES", "VERDICTS", "Claim", "Trial"]

VERDICTS = ("holds", "fails", "inconclusive")
TAKES = ("model", "data")
QUICK_SHARE = 3  # a quick trial takes a third of the steps
QUICK_SEEDS = 2


@dataclass(frozen=True)
class Trial:
    """One run of an experiment: its seed, and what else it may depend on.

    quick: whether it is to take a few seconds only; data, model: one's own, as ``folder:photos`` and
    ``package.module:callable``, or None; kept: curves that :meth:`keep` was given, by name.

    >>> trial = Trial(seed=0, quick=True)
    >>> trial.steps(300), trial.steps(300, quick=50), Trial(seed=0).steps(300)
    (100, 50, 300)
    """

    seed: int
    quick: bool = False
    data: str | None = None
    model: str | None = None
    kept: dict[str, list[float]] = field(default_factory=dict)

    def steps(self, full: int, quick: int | None = None) -> int:
        """So many steps, or fewer in a quick trial: ``quick``, a third if None, but one at least."""
        if not self.quick:
            return full
        return max(1, full // QUICK_SHARE) if quick is None else quick

    def digits(self, size: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Standardised images of a side, and their labels: training images, training labels, test images, test labels.

        The 8×8 digits, or the images of ``data`` in grey, see :func:`.images.load`.

        Shapes: images ``(N, 1, size, size)`` float32 of mean 0 and deviation 1 on the training part, labels ``(N,)``
        int64.

        >>> [tuple(tensor.shape) for tensor in Trial(seed=0).digits()]
        [(1437, 1, 8, 8), (1437,), (360, 1, 8, 8), (360,)]
        """
        return images.load(self.data or "digits", self.seed, size).tensors()

    @property
    def classes(self) -> int:
        """How many classes the images of :meth:`digits` have."""
        return images.load(self.data or "digits", self.seed, 8).classes

    def network(self, default: Callable[[], nn.Module]) -> nn.Module:
        """One's own model made anew, if there is one, or else what ``default`` makes.

        A callable that has parameters ``classes`` and ``in_channels`` gets those of the images.

        >>> Trial(seed=0, model="torch.nn:Flatten").network(lambda: nn.Identity())
        Flatten(start_dim=1, end_dim=-1)
        """
        if self.model is None:
            return default()
        return custom("lab", self.model, classes=self.classes, in_channels=1)

    def keep(self, name: str, values: Sequence[float]) -> None:
        """Keeps a curve for the figure, such as the loss of each step."""
        self.kept[name] = [float(value) for value in values]


@dataclass(frozen=True)
class Claim:
    """A claim, and the experiment that tests it.

    name: words joined by dashes, those of the file; claim: one sentence; section: of the notes, ``7.13``; source: the
    paper, or "notes"; expected: the verdict that theory or the paper gives; setting: net, data, steps and rates, in a
    sentence or two; statistics: what each number means, with its unit, by the names that ``measure`` returns;
    criterion: when a seed meets the claim, see :mod:`.criterion`; measure: makes one trial; why: a paragraph on what
    came out; seconds: of processor time, for all seeds together; at_least: seeds that must meet the criterion, more
    than half of them, None for all; figure: draws on axes what it gets for each seed, the statistics and the curves
    that were kept, by name; takes: which of "model" and "data" may be one's own.

    Raises ArgumentError for a claim that does not fit this.

    >>> claim = Claim(
    ...     name="half-of-it", claim="A half is less than a whole.", section="1.1", source="notes", expected="holds",
    ...     setting="None.", statistics={"half": "a half, a number"}, criterion="half < 1",
    ...     measure=lambda trial: {"half": 0.5}, why="It is.", seconds=1,
    ... )
    >>> claim.is_met({"half": 0.5}), claim.is_met({"half": 1.5}), claim.is_met({}), claim.must_meet(5)
    (True, False, None, 5)
    """

    name: str
    claim: str
    section: str
    source: str
    expected: str
    setting: str
    statistics: Mapping[str, str]
    criterion: str
    measure: Callable[[Trial], Mapping[str, float]]
    why: str
    seconds: float
    seeds: int = 5
    at_least: int | None = None
    figure: Callable[[Axes, Sequence[Mapping[str, Any]]], None] | None = None
    takes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for expects, got in self._mistakes():
            hint = "See striate.lab.claim.Claim for what each field is."
            raise ArgumentError(build(f"the claim {self.name}", expects, got, hint=hint))
        unknown = sorted(names_in(self.criterion) - set(self.statistics))
        if unknown:
            hint = "Give measure and statistics this name too, or mend the criterion."
            raise ArgumentError(build(f"the claim {self.name}", "a criterion on its statistics", unknown[0], hint=hint))

    def _mistakes(self) -> list[tuple[str, object]]:
        """What was expected and what came, for each field that does not fit."""
        checks = [
            (re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name), "a name of words joined by dashes", repr(self.name)),
            (re.fullmatch(r"\d+(\.\d+)*", self.section), "a section such as 7.13", repr(self.section)),
            (self.expected in VERDICTS, f"one of {', '.join(VERDICTS)} as expected", repr(self.expected)),
            (self.statistics, "a statistic at least", "none"),
            (self.seeds > 0, "a seed at least", self.seeds),
            (self._is_majority(), "at_least to be more than half of the seeds", self.at_least),
            (self.seconds > 0 and math.isfinite(self.seconds), "a positive number of seconds", self.seconds),
            (self.takes <= set(TAKES), f"takes to have {' and '.join(TAKES)} only", ", ".join(sorted(self.takes))),
            *((getattr(self, name).strip(), f"a text as {name}", "none") for name in ("claim", "source", "setting")),
        ]
        return [(expects, got) for is_right, expects, got in checks if not is_right]

    def _is_majority(self) -> bool:
        return self.at_least is None or self.seeds < 2 * self.at_least <= 2 * self.seeds

    def is_met(self, values: Mapping[str, float]) -> bool | None:
        """Whether one seed's numbers meet the criterion; None if that is unknown, see :func:`.criterion.is_met`."""
        return is_met(self.criterion, values)

    def seeds_of(self, quick: bool) -> range:
        """The seeds of a run: from 0 on, in a quick one two at most."""
        return range(min(self.seeds, QUICK_SEEDS) if quick else self.seeds)

    def must_meet(self, seeds: int) -> int:
        """How many of so many seeds must meet the criterion: in a run of fewer seeds the same share, rounded up."""
        return seeds if self.at_least is None else math.ceil(self.at_least * seeds / self.seeds)
