"""Findings as they are told: one of each rule and severity, with all its layers, what takes most of the MACs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...render.names import joined
from .finding import SEVERITIES, Finding

__all__ = ["Group", "grouped", "percent"]

FEW = 6  # places that are named each


@dataclass(frozen=True)
class Group:
    """Findings of one rule and severity, in the order of the rows.

    share: of the model's MACs, by the rows that they are about; None where they are about the model as a whole, or
    nothing is multiplied.
    """

    findings: tuple[Finding, ...]
    share: float | None

    @property
    def rule(self) -> str:
        return self.findings[0].rule

    @property
    def severity(self) -> str:
        return self.findings[0].severity

    @property
    def source(self) -> str:
        return self.findings[0].source

    @property
    def places(self) -> str:
        """All of them, with where in the code they are called if that is known; of many, those whose names differ in a
        number as one.

        >>> texts = "It is wrong.", "Mend it.", "arithmetic"
        >>> found = [Finding("a-rule", "note", f"blocks.{k}.conv", *texts) for k in range(12)]
        >>> grouped(found)[0].places, grouped(found[:2])[0].places
        ('blocks.{0-11}.conv', 'blocks.0.conv, blocks.1.conv')
        """
        by_line: dict[str, list[str]] = {}
        for finding in self.findings:
            names = by_line.setdefault(f" ({Path(finding.line).name})" if finding.line else "", [])
            names += [finding.place] if finding.place not in names else []
        few = sum(map(len, by_line.values())) <= FEW
        return ", ".join(", ".join(names if few else joined(names)) + line for line, names in by_line.items())

    @property
    def scope(self) -> str:
        """How many layers, and of how much of the MACs, in brackets where that says something: ``(12 layers, 8.0 % of
        the MACs)``.
        """
        count = len({finding.place for finding in self.findings})
        told = [f"{count} layers"] if count > 1 else []
        told += [f"{percent(self.share)} of the MACs"] if self.share else []
        return f" ({', '.join(told)})" if told else ""

    @property
    def alike(self) -> bool:
        """Whether the same is told of all."""
        return len({(finding.message, finding.fix) for finding in self.findings}) == 1

    @property
    def message(self) -> str:
        """What is wrong and how it is mended, of the layer with the largest share where they differ."""
        first = max(self.findings, key=lambda finding: finding.share or 0.0)
        return f"{'' if self.alike else f'At {first.place}: '}{first.message} {first.fix}"


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """By severity, in it what is about the whole model, then what takes the largest share of the MACs.

    >>> shares = {"a": 0.1, "b": 0.4}
    >>> found = [Finding(rule, "note", rule, "It is wrong.", "Mend it.", "", share=shares[rule]) for rule in shares]
    >>> [(group.rule, group.places + group.scope) for group in grouped(found)]
    [('b', 'b (40 % of the MACs)'), ('a', 'a (10 % of the MACs)')]
    """
    held: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        held.setdefault((finding.severity, finding.rule), []).append(finding)
    groups = []
    for same in held.values():
        shares = {finding.place: finding.share for finding in same}
        known = [share for share in shares.values() if share is not None]
        groups.append(Group(tuple(same), sum(known) if known else None))
    return sorted(
        groups, key=lambda group: (SEVERITIES.index(group.severity), group.share is not None, -(group.share or 0.0))
    )


def percent(share: float) -> str:
    """Of a share that is not 0.

    >>> percent(0.2345), percent(0.0234), percent(0.00001)
    ('23 %', '2.3 %', '<0.1 %')
    """
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
