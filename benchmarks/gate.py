"""Measures what the gate costs each call: ``python benchmarks/gate.py``. The aim is at most 1 µs for three tensors and
1.3 µs for five.

It prints medians of 15 turns of 100,000 calls each, and the same for a function that does nothing.
"""

from __future__ import annotations

import statistics
import timeit

import torch

from striate.measure import processor
from striate.ops import gate


def nothing(*tensors: object) -> None:
    return None


def nanoseconds(call: str, names: dict[str, object]) -> float:
    """The median time of one call."""
    return statistics.median(timeit.repeat(call, globals=names, number=100_000, repeat=15)) / 100_000 * 1e9


def main() -> None:
    print(f"{processor()}, torch {torch.__version__}")
    x, w, b = torch.ones(2, 3, 4, 4), torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    for count, given in ((1, "x"), (3, "x, w, b"), (5, "x, w, b, w, b")):
        found = [nanoseconds(f"f({given})", {"f": f, "x": x, "w": w, "b": b}) for f in (gate.closed, nothing)]
        print(f"{count} tensors: {found[0]:.0f} ns, of which {found[1]:.0f} are the call")


if __name__ == "__main__":
    main()
