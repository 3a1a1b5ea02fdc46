"""The process's random number generators: those of torch, NumPy and Python, which layers and data may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["capture", "restore", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In this context the generators begin at a seed; afterwards they go on where they were before.

    >>> before = torch.get_rng_state()
    >>> with seeded(3):
    ...     first = torch.rand(1), random.random(), np.random.rand()
    >>> with seeded(3):
    ...     first == (torch.rand(1), random.random(), np.random.rand())
    True
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    before = capture()
    try:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield
    finally:
        restore(*before)


def capture() -> tuple[Tensor, dict[str, Any]]:
    """The states of the generators: torch's as a uint8 tensor, the others as what JSON can hold."""
    version, numbers, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    return torch.get_rng_state(), {"python": [version, list(numbers), gauss], "numpy": numpy}


def restore(torchs: Tensor, others: dict[str, Any]) -> None:
    """Sets the generators to states that :func:`capture` gave."""
    version, numbers, gauss = others["python"]
    numpy = others["numpy"]
    key = np.array(numpy["state"]["key"], np.uint32)
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(torchs)
