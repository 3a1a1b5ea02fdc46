"""What folding did, norm by norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["LEFT", "FoldEntry", "FoldReport"]

LEFT = "left"  # the action of an entry whose norm stays


class FoldEntry(NamedTuple):
    """What became of one batch norm, and, if it was left, why."""

    name: str
    action: str
    reason: str


@dataclass(frozen=True)
class FoldReport:
    """What :func:`striate.fold` did, norm by norm, and how far apart the two models are on the example.

    entries: one for each batch norm of the model and each call of the function.
    max_abs_difference: the largest between the two models' outputs; NaN if they return no floating-point tensor.
    max_abs_output: the largest absolute output of the model as it was given, to compare with.

    >>> print(FoldReport((FoldEntry("bn", "left", "the model calls it 2 times"),), 0.0, 1.5))
    norm  action  reason
    bn    left    the model calls it 2 times
    0 folded, 1 left; largest difference 0.0e+00 where outputs reach 1.5e+00
    """

    entries: tuple[FoldEntry, ...]
    max_abs_difference: float
    max_abs_output: float

    @property
    def folded(self) -> int:
        """How many norms are gone."""
        return len(self.entries) - self.refused

    @property
    def refused(self) -> int:
        """How many norms are left."""
        return sum(entry.action == LEFT for entry in self.entries)

    def __str__(self) -> str:
        rows = [("norm", "action", "reason"), *self.entries] if self.entries else []
        name, action = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
        table = [f"{row[0]:{name}}  {row[1]:{action}}  {row[2]}".rstrip() for row in rows]
        if math.isnan(self.max_abs_output):
            compared = "the outputs have no floating-point tensor to compare"
        else:
            compared = f"largest difference {self.max_abs_difference:.1e} where outputs reach {self.max_abs_output:.1e}"
        count = f"{self.folded} folded, {self.refused} left" if self.entries else "no batch norm found"
        return "\n".join([*table, f"{count}; {compared}"])
