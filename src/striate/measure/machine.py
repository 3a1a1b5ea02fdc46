"""Names this machine's processor, and measures the rates of the machine."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import NamedTuple

import torch

from .turns import Call, medians_ms

__all__ = ["COPY_ELEMENTS", "PRODUCT_SIDE", "Rates", "measure_rates", "processor", "rates_of", "reference_calls"]

PRODUCT_SIDE = 2048
COPY_ELEMENTS = 2**25  # 128 MiB read, 128 MiB written: far beyond any cache


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the processor with its family and model: ``AMD EPYC, family 25 model 1``."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in entries:
        return platform.machine()
    known = {"cpu family", "model"} <= entries.keys()
    kind = f", family {entries['cpu family']} model {entries['model']}" if known else ""
    return entries["model name"] + kind


# ---------------------------------------------------------------------------------------------------------------- rates


class Rates(NamedTuple):
    """The highest rates of this machine. Both bytes read and bytes written count; a MAC is a multiply-add."""

    bytes_per_ms: float
    macs_per_ms: float

    @property
    def copy_gb_per_s(self) -> float:
        return self.bytes_per_ms / 1e6

    @property
    def gemm_gflops(self) -> float:
        return 2 * self.macs_per_ms / 1e6

    def least_ms(self, moved_bytes: float, macs: float) -> float:
        """The shortest possible time [ms] for this much work, if moving bytes and multiplying overlap.

        >>> Rates(bytes_per_ms=10, macs_per_ms=100).least_ms(moved_bytes=50, macs=200)
        5.0
        """
        return max(moved_bytes / self.bytes_per_ms, macs / self.macs_per_ms)


def reference_calls(dtype: torch.dtype = torch.float32) -> dict[str, Call]:
    """The calls whose times give the rates: a large copy, and a product of two 2048×2048 matrices of that type."""
    source, target = torch.ones(COPY_ELEMENTS), torch.empty(COPY_ELEMENTS)
    square = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE).to(dtype)
    return {"copy": lambda: target.copy_(source), "product": lambda: square @ square}


def rates_of(copy_ms: float = 0.0, product_ms: float = 0.0) -> Rates:
    """The rates, from the times of :func:`reference_calls` [ms]; one that was not measured is infinite."""
    return Rates(
        bytes_per_ms=2 * 4 * COPY_ELEMENTS / copy_ms if copy_ms else math.inf,
        macs_per_ms=PRODUCT_SIDE**3 / product_ms if product_ms else math.inf,
    )


def measure_rates(dtype: torch.dtype, rounds: int) -> Rates:
    """Measures both rates; the two calls take turns."""
    with torch.no_grad():
        times = medians_ms(reference_calls(dtype), rounds)
    return rates_of(times["copy"].median, times["product"].median)
