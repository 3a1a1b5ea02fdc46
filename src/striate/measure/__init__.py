"""Measures times: medians over turns in shuffled order, contestants in separate processes, the rates of the machine.

A comparison holds where its contestants ran in one run: on the same machine, in turns whose order is shuffled anew each
round, each turn after a call that is not timed. How far the numbers can be trusted is measured along with them: the
spread of each contestant, a contestant timed twice (A/A), and how often other work took a processor away.
"""

from .machine import ABOUT_BEYOND, Limit, Rates, References, beyond, measure_rates, processor
from .medians import Summary, summarize
from .processes import LineWorker, Worker, in_a_process, run_python
from .resources import Resources, allocated_bytes, reset_peak, resident_bytes
from .turns import Repeated, again, in_turns, medians_ms, ratio_a_a, repeat, timed_ms, with_again

__all__ = [
    "ABOUT_BEYOND",
    "Limit",
    "LineWorker",
    "Rates",
    "References",
    "Repeated",
    "Resources",
    "Summary",
    "Worker",
    "again",
    "allocated_bytes",
    "beyond",
    "in_a_process",
    "in_turns",
    "measure_rates",
    "medians_ms",
    "processor",
    "ratio_a_a",
    "repeat",
    "reset_peak",
    "resident_bytes",
    "run_python",
    "summarize",
    "timed_ms",
    "with_again",
]
