"""Which method computes an operation: the first of an ordered list of candidates that does not refuse.

A candidate refuses with a sentence that says why, so that every choice can be explained. The last one never refuses.

>>> shift = Candidate("shift", lambda n: None if n >= 0 else "shifts need n ≥ 0", lambda n: n << 1)
>>> double = (shift, Candidate("add", always, lambda n: n + n))
>>> choose(double, 21)(21), choose(double, -21)(-21)
(42, -42)
>>> explain(double, -21)
[('shift', 'shifts need n ≥ 0'), ('add', None)]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Candidate", "always", "choose", "explain", "first", "prefer", "preferred", "reasons"]


def always(*args: Any) -> None:
    """Never refuses."""
    return None


class Candidate(NamedTuple):
    """A method: its name, why it refuses these arguments (None: it does not), what it computes, and why another is faster.

    A refusal is for good; what is merely slower still runs where it is asked for by name (:func:`prefer`).
    """

    name: str
    refuse: Callable[..., str | None]
    run: Callable[..., Any]
    slower: Callable[..., str | None] = always


_preferred: str | None = os.environ.get("STRIATE_METHOD")


@contextmanager
def prefer(name: str | None) -> Iterator[None]:
    """Inside, the methods of that name go first wherever they can; None: as measured. Names: ``striate.ops.choose.explain`` lists them.

    For tests, measurements, and whoever wants one method's numbers however small the work. ``STRIATE_METHOD`` sets it at start.

    >>> with prefer("torch"):
    ...     explain((Candidate("native", always, abs), Candidate("torch", always, abs)), -1)
    [('torch', None)]
    """
    global _preferred
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def preferred() -> str | None:
    """What :func:`prefer` or ``STRIATE_METHOD`` named."""
    return _preferred


def reasons(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> Iterator[tuple[Candidate, str | None]]:
    """The candidates in the order they are asked, each with the reason against it; the one named ``method`` first."""
    name = method or _preferred
    for candidate in candidates if name is None else sorted(candidates, key=lambda c: c.name != name):
        reason = candidate.refuse(*args)
        yield candidate, candidate.slower(*args) if reason is None and candidate.name != name else reason


def first(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> Candidate:
    """The first candidate that has no reason against it; the last one never has."""
    for candidate, reason in reasons(candidates, *args, method=method):
        if reason is None:
            return candidate
    raise AssertionError(f"the last of {[c.name for c in candidates]} refused")


def choose(candidates: Sequence[Candidate], *args: Any) -> Callable[..., Any]:
    """What that candidate computes."""
    return first(candidates, *args).run


def explain(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> list[tuple[str, str | None]]:
    """Every candidate up to the chosen one, with the reason against it; the chosen one's is None."""
    told: list[tuple[str, str | None]] = []
    for candidate, reason in reasons(candidates, *args, method=method):
        told.append((candidate.name, reason))
        if reason is None:
            break
    return told
