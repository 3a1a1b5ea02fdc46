"""Which method computes an operation: the first of an ordered list of candidates that does not refuse.

A candidate refuses with a sentence that says why, so that every choice can be explained. The last one never refuses.

>>> shift = Candidate("shift", lambda n: None if n >= 0 else "shifts need n ≥ 0", lambda n: n << 1)
>>> double = (shift, Candidate("add", always, lambda n: n + n))
>>> choose(double, 21)(21), choose(double, -21)(-21)
(42, -42)
>>> explain_choice(double, -21)
[('shift', 'shifts need n ≥ 0'), ('add', None)]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import ArgumentError, build
from .setting import Block, Setting

__all__ = [
    "AS_MEASURED",
    "NAMES",
    "Candidate",
    "always",
    "choose",
    "explain_choice",
    "first",
    "prefer",
    "preferred",
    "reasons",
]


def always(*args: Any) -> None:
    """Never refuses."""
    return None


class Candidate(NamedTuple):
    """A method: its name, why it refuses these arguments (None: it does not), what computes, and why another method was
    measured to be faster (None: none was).

    A method that refuses never runs; one that is merely not preferred runs where it is asked for by name
    (:class:`prefer`).
    """

    name: str
    refuse: Callable[..., str | None]
    run: Callable[..., Any]
    not_preferred: Callable[..., str | None] = always


# Every method there is, of one family or of several: first convolution's own, in its order.
NAMES = (
    *("depthwise", "direct", "winograd_4x4", "winograd_2x2", "unfolded", "pointwise", "torch_channels_last"),
    *("torch", "reference", "native", "local", "onednn"),
)
AS_MEASURED = ""  # in place of a method's name: the tuning table decides, whatever is preferred


def _known(name: str | None, where: str) -> str | None:
    if name is not None and name not in NAMES:
        hint = f"{'Unset it' if where.isupper() else 'Give None'} for the method that was measured to be the fastest."
        raise ArgumentError(build(where, f"one of {', '.join(NAMES)}", repr(name), hint=hint))
    return name


_PREFERRED = Setting("prefer", _known(os.environ.get("STRIATE_METHOD") or None, "STRIATE_METHOD"))


class prefer(Block[str | None]):  # noqa: N801  used after `with`
    """Inside, the methods of that name go first wherever they can; None: as measured. Names: :data:`NAMES`, of which
    each family has some.

    For tests, measurements, and whoever wants one method's numbers however small the work. ``STRIATE_METHOD`` sets it
    for the process, at start. A block holds for its own context, as :class:`striate.precision`'s do, and for the
    gradients of what was computed in it.

    Raises ArgumentError for a name that no method has.

    >>> with prefer("torch"):
    ...     explain_choice((Candidate("native", always, abs), Candidate("torch", always, abs)), -1)
    [('torch', None)]
    """

    setting = _PREFERRED

    def __init__(self, name: str | None) -> None:
        super().__init__(_known(name, "prefer"))

    def __repr__(self) -> str:
        return f"prefer({self.value!r})"


def preferred() -> str | None:
    """What :class:`prefer` named in this context, or ``STRIATE_METHOD``."""
    return _PREFERRED.value()


def reasons(
    candidates: Sequence[Candidate], *args: Any, method: str | None = None
) -> Iterator[tuple[Candidate, str | None]]:
    """The candidates in the order they are asked, each with the reason against it; first the one named ``method``, or
    the preferred.
    """
    name = preferred() if method is None else method
    for candidate in candidates if not name else sorted(candidates, key=lambda c: c.name != name):
        reason = candidate.refuse(*args)
        yield candidate, candidate.not_preferred(*args) if reason is None and candidate.name != name else reason


def first(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> Candidate:
    """The first candidate that has no reason against it; the last one never has."""
    for candidate, reason in reasons(candidates, *args, method=method):
        if reason is None:
            return candidate
    raise AssertionError(f"the last of {[c.name for c in candidates]} refused")


def choose(candidates: Sequence[Candidate], *args: Any) -> Callable[..., Any]:
    """The ``run`` of the first candidate that has no reason against it."""
    return first(candidates, *args).run


def explain_choice(
    candidates: Sequence[Candidate], *args: Any, method: str | None = None
) -> list[tuple[str, str | None]]:
    """Every candidate up to the chosen one, with the reason against it; the chosen one's is None."""
    asked: list[tuple[str, str | None]] = []
    for candidate, reason in reasons(candidates, *args, method=method):
        asked.append((candidate.name, reason))
        if reason is None:
            break
    return asked
