"""Times contestants in turns: one after the other, round after round, in an order shuffled anew each round.

In a fixed order each contestant would always find the caches as the same predecessor left them: after a large copy some
take twice their time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from .medians import Summary, summarize
from .resources import Resources

__all__ = ["Call", "Repeated", "again", "in_turns", "medians_ms", "ratio_a_a", "repeat", "timed_ms", "with_again"]

Call = Callable[[], Any]
T = TypeVar("T")
clock_ns = time.perf_counter_ns  # every measurement reads turns.clock_ns, so that a test has one name to replace


def timed_ms(call: Call, before: Call | None = None) -> float:
    """The time of one call [ms], after an untimed call, which faults in the memory it needs, or after ``before``."""
    (before or call)()
    start = clock_ns()
    call()
    return (clock_ns() - start) / 1e6


class Repeated(NamedTuple):
    """Means over the timed calls of one turn: time [ms], page faults, and time that the kernel took [ms]."""

    ms: float
    page_faults: float
    system_ms: float


def repeat(call: Call, least_seconds: float) -> Repeated:
    """Makes one untimed call, then timed ones for ``least_seconds``: a short call is timed many times in a turn."""
    call()
    calls, before, start = 0, Resources.now(), clock_ns()
    while (took := clock_ns() - start) < least_seconds * 1e9 or not calls:
        call()
        calls += 1
    used = Resources.now() - before
    return Repeated(took / 1e6 / calls, used.page_faults / calls, used.system_ms / calls)


def in_turns(
    contestants: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    uncounted: int = 0,
    keep: Callable[[Mapping[str, T]], Collection[str]] | None = None,
) -> dict[str, list[T]]:
    """Calls every contestant once a round, in an order shuffled anew each round, and returns what each answered.

    uncounted: rounds before the first, whose answers are left out; keep: gets the answers of the first counted round
    and returns the names of those that take part in the others. The order is the same in every run.

    >>> in_turns({"one": lambda: 1, "two": lambda: 2}, rounds=3)
    {'one': [1, 1, 1], 'two': [2, 2, 2]}
    """
    answers: dict[str, list[T]] = {name: [] for name in contestants}
    order, chance = list(contestants), random.Random(0)
    for number in range(-uncounted, rounds):
        chance.shuffle(order)
        for name in order:
            answer = contestants[name]()
            if number >= 0:
                answers[name].append(answer)
        if number == 0 and keep is not None:
            kept = keep({name: found[0] for name, found in answers.items()})
            order = [name for name in order if name in kept]
    return answers


def medians_ms(contestants: Mapping[str, Call], rounds: int, before: Call | None = None) -> dict[str, Summary]:
    """The median time of each contestant [ms] and its spread; ``before`` as in :func:`timed_ms`."""
    turns = {name: (lambda call=call: timed_ms(call, before)) for name, call in contestants.items()}
    return {name: summarize(times) for name, times in in_turns(turns, rounds).items()}


def again(name: str) -> str:
    """The name of a contestant's second entry."""
    return f"again {name}"


def with_again(contestants: Mapping[str, T], *names: str) -> dict[str, T]:
    """The contestants, with those of these names entered twice: a difference between a contestant and itself is noise.

    >>> list(with_again({"striate": 1, "torch": 2}, "torch"))
    ['striate', 'torch', 'again torch']
    """
    return {**contestants, **{again(name): contestants[name] for name in names}}


def ratio_a_a(medians: Mapping[str, float], name: str) -> float:
    """The second entry's median over the first's: 1 without noise."""
    return medians[again(name)] / medians[name]
