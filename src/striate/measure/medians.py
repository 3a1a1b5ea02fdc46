"""Summarizes several times by their median and their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Summary", "summarize"]


class Summary(NamedTuple):
    """median: in the unit of the times; spread: their interquartile range over the median."""

    median: float
    spread: float


def summarize(times: Sequence[float]) -> Summary:
    """The median of two or more times, and their spread; a spread of 0 where the median is 0.

    >>> summarize([4.0, 1.0, 3.0, 2.0, 5.0])
    Summary(median=3.0, spread=1.0)
    """
    low, median, high = statistics.quantiles(times, n=4)
    return Summary(median, (high - low) / median if median else 0.0)
