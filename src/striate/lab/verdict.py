"""What several seeds of an experiment say of its claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .claim import Claim

__all__ = ["Outcome", "Result"]


@dataclass(frozen=True)
class Outcome:
    """What one trial measured.

    values: the statistics by name; kept: its curves; seconds: of processor time; error: what it raised instead, or
    None.
    """

    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with None for a number that is not finite."""
        return {
            "seed": self.seed,
            "values": _finite(self.values),
            "kept": {name: [_number(value) for value in curve] for name, curve in self.kept.items()},
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Reads what :meth:`to_dict` made; None becomes NaN.

        >>> Outcome.from_dict(Outcome(3, {"half": math.inf}).to_dict()).values
        {'half': nan}
        """
        values = {name: math.nan if value is None else value for name, value in data["values"].items()}
        kept = {name: [math.nan if v is None else v for v in curve] for name, curve in data["kept"].items()}
        return cls(data["seed"], values, kept, data["seconds"], data["error"])


@dataclass(frozen=True)
class Result:
    """The outcomes of a claim's seeds, and the verdict.

    quick, data, model: of all trials, see :class:`.claim.Trial`; machine: what they ran on.
    """

    claim: Claim
    outcomes: Sequence[Outcome]
    quick: bool = False
    data: str | None = None
    model: str | None = None
    machine: Mapping[str, str] = field(default_factory=dict)

    @property
    def met(self) -> list[bool | None]:
        """Whether each seed meets the criterion; None if that is unknown: where a number that the criterion names is
        missing or not finite, or the trial raised an error.
        """
        return [self.claim.is_met(outcome.values) for outcome in self.outcomes]

    @property
    def verdict(self) -> str:
        """"holds" if as many seeds meet the criterion as must, "fails" if as many miss it, else "inconclusive".

        A seed of which it is unknown counts for neither.

        >>> from striate.lab.claim import Claim
        >>> claim = Claim("a", "A is small.", "1", "notes", "holds", "None.", {"a": "a number"}, "a < 1",
        ...               lambda trial: {}, "", seconds=1, at_least=2, seeds=3)
        >>> [Result(claim, [Outcome(0, {"a": a}) for a in values]).verdict for values in
        ...  ((0, 0, 5), (0, 5, 5), (0, 5, math.nan))]
        ['holds', 'fails', 'inconclusive']
        """
        must = self.claim.must_meet(len(self.outcomes))
        for verdict, answer in (("holds", True), ("fails", False)):
            if self.outcomes and self.met.count(answer) >= must:
                return verdict
        return "inconclusive"

    @property
    def is_expected(self) -> bool:
        """Whether the verdict is the one that theory or the paper gives."""
        return self.verdict == self.claim.expected

    @property
    def seconds(self) -> float:
        """The processor time of all trials together."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the claim, the verdict, and ``statistic``, the numbers of each seed by its number."""
        claim = self.claim
        return {
            "name": claim.name,
            "claim": claim.claim,
            "section": claim.section,
            "verdict": self.verdict,
            "expected": claim.expected,
            "statistic": {str(outcome.seed): _finite(outcome.values) for outcome in self.outcomes},
            "criterion": claim.criterion,
            "seconds": round(self.seconds, 3),
            "met": {str(outcome.seed): met for outcome, met in zip(self.outcomes, self.met, strict=True)},
            "must_meet": claim.must_meet(len(self.outcomes)),
            "errors": {str(outcome.seed): outcome.error for outcome in self.outcomes if outcome.error is not None},
            "meaning": dict(claim.statistics),
            "setting": claim.setting,
            "source": claim.source,
            "quick": self.quick,
            "data": self.data,
            "model": self.model,
            "machine": dict(self.machine),
        }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
