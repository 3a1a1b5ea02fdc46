"""Groups findings for display: one group for each rule and severity, with the largest share of the MACs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...render.names import joined
from .finding import SEVERITIES, Finding

__all__ = ["Group", "grouped", "percent"]

FEW = 6  # up to so many places are all named


@dataclass(frozen=True)
class Group:
    """Findings of one rule and severity, in the order of the rows.

    share: the share of the model's MACs in the rows concerned; None if they concern the model as a whole, or it has no
    MACs.
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
        """The names of all places, each with the line of code that calls it, if known. If there are many, names that
        differ in one number are merged.

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
        """The number of layers and their share of the MACs, in brackets: ``(12 layers, 8.0 % of the MACs)``. Empty if
        there is nothing to say.
        """
        count = len({finding.place for finding in self.findings})
        parts = [f"{count} layers"] if count > 1 else []
        parts += [f"{percent(self.share)} of the MACs"] if self.share else []
        return f" ({', '.join(parts)})" if parts else ""

    @property
    def alike(self) -> bool:
        """Whether all findings have the same text."""
        return len({(finding.message, finding.fix) for finding in self.findings}) == 1

    @property
    def message(self) -> str:
        """What is wrong and how to fix it; if the findings differ, the one with the largest share."""
        first = max(self.findings, key=lambda finding: finding.share or 0.0)
        return f"{'' if self.alike else f'At {first.place}: '}{first.message} {first.fix}"


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """Groups findings by severity and rule: of each severity first those about the whole model, then by share of MACs.

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
    """Formats a share that is not 0.

    >>> percent(0.2345), percent(0.0234), percent(0.00001)
    ('23 %', '2.3 %', '<0.1 %')
    """
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
