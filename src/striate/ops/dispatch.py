"""Chooses the method that computes an operation: the first of an ordered list of candidates that does not refuse.

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
import warnings
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
    """A method. refuse: returns the reason why it cannot compute these arguments, or None; run: computes them;
    not_preferred: returns the reason to prefer another method, which was measured to be faster, or None.

    A method that refuses never runs. One that is only not preferred runs if it is requested by name (:class:`prefer`).
    """

    name: str
    refuse: Callable[..., str | None]
    run: Callable[..., Any]
    not_preferred: Callable[..., str | None] = always


# The names of the methods of all families, each once: first those of convolution, in the order of its candidates.
NAMES = (
    *("depthwise", "direct", "winograd_4x4", "winograd_2x2", "implicit_gemm", "pointwise", "torch_channels_last"),
    *("torch", "reference", "native", "local", "onednn"),
)
AS_MEASURED = ""  # given instead of a method's name: the tuning table decides, even inside `prefer`


_RENAMED = {"unfolded": "implicit_gemm"}  # the old name works for one more release, with a warning


def current_name(name: str, where: str) -> str:
    """A method's current name; warns if the old one was given."""
    if name in _RENAMED:
        instead = f"{where}: the method {name} is {_RENAMED[name]} now; the old name goes with the next release."
        warnings.warn(instead, DeprecationWarning, stacklevel=4)
    return _RENAMED.get(name, name)


def _known(name: str | None, where: str) -> str | None:
    name = None if name is None else current_name(name, where)
    if name is not None and name not in NAMES:
        hint = f"{'Unset it' if where.isupper() else 'Give None'} for the method that was measured to be the fastest."
        raise ArgumentError(build(where, f"one of {', '.join(NAMES)}", repr(name), hint=hint))
    return name


_PREFERRED = Setting("prefer", _known(os.environ.get("STRIATE_METHOD") or None, "STRIATE_METHOD"))


class prefer(Block[str | None]):  # noqa: N801  used after `with`
    """A context in which the method of that name runs wherever it does not refuse; with None the tuning table decides.
    :data:`NAMES` lists the names; each family has some of them.

    It is for tests and measurements, and for users who want the results of one method, however small the work.
    ``STRIATE_METHOD`` sets it for the whole process at start. A block affects its own thread or task, as a block of
    :class:`striate.precision` does, and the gradients of what was computed in it.

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
    """The method that :class:`prefer` named in this context, or else ``STRIATE_METHOD``."""
    return _PREFERRED.value()


def reasons(
    candidates: Sequence[Candidate], *args: Any, method: str | None = None
) -> Iterator[tuple[Candidate, str | None]]:
    """The candidates in the order in which they are tried, each with the reason against it. The one named ``method``
    comes first, or else the one that :class:`prefer` named.
    """
    name = preferred() if method is None else method
    for candidate in candidates if not name else sorted(candidates, key=lambda c: c.name != name):
        reason = candidate.refuse(*args)
        yield candidate, candidate.not_preferred(*args) if reason is None and candidate.name != name else reason


def first(candidates: Sequence[Candidate], *args: Any, method: str | None = None) -> Candidate:
    """The first candidate without a reason against it; there is never one against the last."""
    for candidate, reason in reasons(candidates, *args, method=method):
        if reason is None:
            return candidate
    raise AssertionError(f"the last of {[c.name for c in candidates]} refused")


def choose(candidates: Sequence[Candidate], *args: Any) -> Callable[..., Any]:
    """The ``run`` of the first candidate without a reason against it."""
    return first(candidates, *args).run


def explain_choice(
    candidates: Sequence[Candidate], *args: Any, method: str | None = None
) -> list[tuple[str, str | None]]:
    """Every candidate up to the chosen one, with the reason against it; the chosen one's is None."""
    tried: list[tuple[str, str | None]] = []
    for candidate, reason in reasons(candidates, *args, method=method):
        tried.append((candidate.name, reason))
        if reason is None:
            break
    return tried
