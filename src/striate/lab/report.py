"""The page of the lab, by ``render/templates/lab.html``, and its table in Markdown: claims by section of the notes."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ..render import html
from .claim import VERDICTS
from .figures import picture
from .verdict import Result

__all__ = ["SECTIONS", "counted", "markdown", "page", "rows"]

SECTIONS = {  # of the notes
    "7.1": "Introduction: the limitations of fully-connected networks",
    "7.2": "Components of convolutional neural networks",
    "7.3": "Convolutional layers: preserving spatial structure",
    "7.4": "Convolutional layers with multi-channel filters",
    "7.5": "Building convolutional neural networks",
    "7.6": "Controlling spatial dimensions in convolutional layers",
    "7.7": "Understanding what convolutional filters learn",
    "7.8": "Parameters and computational complexity in convolutional networks",
    "7.9": "Parameter sharing in convolutional neural networks",
    "7.10": "Special types of convolutions: 1×1, 1D and 3D",
    "7.11": "Pooling layers",
    "7.12": "Classical CNN architectures",
    "7.13": "Vanishing and exploding gradients: a barrier to deep learning",
    "7.14": "Batch normalization",
}
WIDTH = 120  # of a line of Markdown


class Card(NamedTuple):
    """A result as the template shows it."""

    result: Result
    met: str
    figure: str | None
    rows: list[tuple[str, str, list[str]]]
    seconds: str
    also: list[tuple[str, str]]


def page(results: Sequence[Result], missing: int = 0, also: Mapping[str, Sequence[Result]] | None = None) -> str:
    """Renders the page, which needs nothing from elsewhere and no script.

    results: in the order of the sections; missing: how many experiments have none; also: by the name of another data
    set, results on that. Needs matplotlib.
    """
    cards = [_card(result, also or {}) for result in results]
    grouped = [
        (number, SECTIONS.get(number, ""), list(group))
        for number, group in groupby(cards, key=lambda card: _chapter(card.result))
    ]
    return html.page(
        "lab.html",
        title="striate lab: which claims hold",
        about=counted(results),
        notes=_notes(results, missing),
        facts=_facts(results),
        sections=grouped,
        machine=results[0].machine if results else {},
    )


def markdown(results: Sequence[Result], command: str) -> str:
    """The same as a document in Markdown: a table of the verdicts, and what each experiment is and gave.

    command: that makes it, which the document names.
    """
    first = results[0]
    on = ", ".join(f"{first.machine[name]}" for name in ("processor", "isa") if name in first.machine)
    versions = ", ".join(f"{name} {first.machine[name]}" for name in ("striate", "torch") if name in first.machine)
    about = f"Made by `{command}` on {on}; {versions}. {counted(results)}"
    lines = ["# The lab: which claims hold", "", *_wrapped(about), ""]
    lines += ["| experiment | notes | expected | verdict | seeds | seconds |", "|---|---|---|---|---|---|"]
    for result in results:
        claim, verdict = result.claim, result.verdict if result.is_expected else f"**{result.verdict}**"
        cells = (f"[{claim.name}](#{claim.name})", claim.section, claim.expected, verdict, _met(result))
        lines.append(f"| {' | '.join(cells)} | {result.seconds:.0f} |")
    for result in results:
        lines += ["", f"## {result.claim.name}", "", *_section(result)]
    return "\n".join(lines) + "\n"


def counted(results: Sequence[Result]) -> str:
    """How many claims hold, fail and are open, and how many verdicts are as theory or the paper has them.

    >>> counted([])
    '0 claims: 0 hold, 0 fail, 0 are inconclusive; 0 as expected.'
    """
    verdicts = [result.verdict for result in results]
    words = (("holds", "hold"), ("fails", "fail"), ("is inconclusive", "are inconclusive"))
    parts = []
    for verdict, (one, many) in zip(VERDICTS, words, strict=True):
        count = verdicts.count(verdict)
        parts.append(f"{count} {one if count == 1 else many}")
    expected = sum(result.is_expected for result in results)
    claims = "1 claim" if len(results) == 1 else f"{len(results)} claims"
    return f"{claims}: {', '.join(parts)}; {expected} as expected."


def _section(result: Result) -> list[str]:
    """What an experiment is and gave, as lines of Markdown."""
    claim = result.claim
    lines = [
        *_wrapped(f"{claim.claim} ({claim.source})"),
        "",
        *_wrapped(f"Setting: {claim.setting} Criterion: `{claim.criterion}`, met by {_met(result)} seeds."),
        "",
    ]
    for name, meaning, values in rows(result):
        lines += _wrapped(f"- `{name}`, {meaning}: {', '.join(values)}", "  ")
    return [*lines, "", *_wrapped(claim.why)] if claim.why else lines


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _card(result: Result, also: Mapping[str, Sequence[Result]]) -> Card:
    others = [(name, one.verdict) for name, found in also.items() for one in found if one.claim is result.claim]
    return Card(result, _met(result), picture(result), rows(result), f"{result.seconds:.1f}", others)


def rows(result: Result) -> list[tuple[str, str, list[str]]]:
    """Each statistic, what it means, and its value for each seed."""
    return [
        (name, meaning, [_number(outcome.values.get(name)) for outcome in result.outcomes])
        for name, meaning in result.claim.statistics.items()
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _met(result: Result) -> str:
    return f"{result.met.count(True)}/{len(result.outcomes)}"


def _chapter(result: Result) -> str:
    return ".".join(result.claim.section.split(".")[:2])


def _notes(results: Sequence[Result], missing: int) -> list[str]:
    notes = []
    if any(result.quick for result in results):
        notes.append("Quick: with fewer seeds and steps than the claims are decided by.")
    if missing:
        what = "1 experiment has" if missing == 1 else f"{missing} experiments have"
        notes.append(f"{what} no results of this code: striate lab run --all measures what is missing.")
    return notes


def _facts(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Name, number and unit of each box."""
    verdicts = [result.verdict for result in results]
    seeds = [len(result.outcomes) for result in results]
    minutes = sum(result.seconds for result in results) / 60
    return [
        *((verdict, str(verdicts.count(verdict)), f"of {len(results)}") for verdict in VERDICTS),
        ("as expected", str(sum(result.is_expected for result in results)), f"of {len(results)}"),
        ("seeds", str(round(statistics.median(seeds))) if seeds else "0", "each"),
        ("processor time", f"{minutes:.1f}", "min"),
    ]
