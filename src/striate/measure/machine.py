"""Names this machine's processor, and measures the rates of the machine."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from .. import native
from . import turns
from .turns import Call, medians_ms

__all__ = ["ABOUT_BEYOND", "Limit", "Rates", "References", "beyond", "measure_rates", "processor"]

COPY_BYTES = 2**27  # of the source of the large copy, and of its target
MOST_BYTES = 2**30  # of either, whatever the caches
MOST_COPIES = 64  # of the small copy in one call
PRODUCT_SIDE = 2048  # at most
LONG_MS = 30.0  # a product that takes longer is large enough: of types that it does not know the processor does few
LEAST_MS, ENOUGH_MS = 3.0, 100.0  # of one call of the micro-kernel
MOST_TILES = 2**24


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


# --------------------------------------------------------------------------------------------------------------- limits


class Limit(NamedTuple):
    """The shortest possible time [ms], and what decides it: "arithmetic", "memory", or "cache" where the bytes fit the
    last-level cache or its size is not known.
    """

    ms: float
    by: str


class Rates(NamedTuple):
    """The highest rates of this machine. Both bytes read and bytes written count; a MAC is a multiply-add.

    bytes_per_ms: of a copy far outside the last-level cache. macs_per_ms: of the micro-kernel of striate's products on
    data in the first-level cache, or, if not ``micro_kernel``, of a product of matrices by torch. cached_bytes_per_ms:
    of a copy within the last-level cache; cache_bytes: the size of that cache, 0 if it is not known.
    """

    bytes_per_ms: float
    macs_per_ms: float
    cached_bytes_per_ms: float = math.inf
    cache_bytes: int = 0
    micro_kernel: bool = True

    @property
    def copy_gb_per_s(self) -> float:
        return self.bytes_per_ms / 1e6

    @property
    def cached_copy_gb_per_s(self) -> float | None:
        """None where the size of the cache is not known."""
        return self.cached_bytes_per_ms / 1e6 if self.cache_bytes else None

    @property
    def peak_gflops(self) -> float:
        return 2 * self.macs_per_ms / 1e6

    def limit(self, moved_bytes: float, macs: float, sweeps: int = 1) -> Limit:
        r"""The shortest possible time for this much work, if moving bytes and multiplying overlap.

        .. math:: \max\left(\frac{c}{r_c} + \frac{b - c}{r},\ \frac{m}{p}\right), \quad c = \min(b,\ s · C)

        with b bytes moved, m MACs, the rates r outside the cache, r_c within it and p, and the size C of the cache.
        s, ``sweeps``, is how many times the work goes through its data, as a batch norm that measures its batch does
        twice: up to a whole cache of each sweep may be in the cache already, left there by whoever ran before. The
        limit assumes that it is, since otherwise what finds it there would beat the limit. Beaten it is by data that
        stay in a nearer cache, and a little by stores past the caches, since a copy by torch reads what it overwrites.

        >>> rates = Rates(bytes_per_ms=10, macs_per_ms=100, cached_bytes_per_ms=40, cache_bytes=80)
        >>> rates.limit(moved_bytes=60, macs=200), rates.limit(moved_bytes=60, macs=100)
        (Limit(ms=2.0, by='arithmetic'), Limit(ms=1.5, by='cache'))
        >>> rates.limit(moved_bytes=100, macs=200), rates.limit(moved_bytes=100, macs=200, sweeps=2)
        (Limit(ms=4.0, by='memory'), Limit(ms=2.5, by='cache'))
        """
        cached = min(moved_bytes, sweeps * self.cache_bytes)
        fast = max(self.cached_bytes_per_ms, self.bytes_per_ms)  # on a busy machine the small copy may come out slower
        bytes_ms = cached / fast + (moved_bytes - cached) / self.bytes_per_ms
        macs_ms = macs / self.macs_per_ms
        if macs_ms > bytes_ms:
            return Limit(macs_ms, "arithmetic")
        return Limit(bytes_ms, "memory" if self.cache_bytes and cached < moved_bytes else "cache")

    def least_ms(self, moved_bytes: float, macs: float, sweeps: int = 1) -> float:
        """The time of :meth:`limit` [ms].

        >>> Rates(bytes_per_ms=10, macs_per_ms=100).least_ms(moved_bytes=50, macs=200)
        5.0
        """
        return self.limit(moved_bytes, macs, sweeps).ms


ABOUT_BEYOND = {
    "fewer MACs": "it takes fewer multiplications than the direct sum, which the limit counts",
    "in cache": "its bytes stay in a cache that is faster than the copy was",
    "at limit": "it is at least as fast as the rates that were measured",
}


def beyond(share: float | None, by: str | None, fewer_macs: bool = False) -> str | None:
    """What a share of a limit above 100 % is, one of the words of ``ABOUT_BEYOND``; None up to 100 % as a percentage is
    rounded.

    by: that of the :class:`Limit`; fewer_macs: whether the method takes fewer multiplications than the direct sum, as
    Winograd's do.

    >>> beyond(1.3, "arithmetic", fewer_macs=True), beyond(1.3, "cache"), beyond(1.01, "memory"), beyond(1.001, "cache")
    ('fewer MACs', 'in cache', 'at limit', None)
    """
    if share is None or share < 1.005:
        return None
    if by == "arithmetic" and fewer_macs:
        return "fewer MACs"
    return "in cache" if by == "cache" else "at limit"


# ---------------------------------------------------------------------------------------------------------------- rates


class References:
    """The calls whose times give the rates, to be timed in turns with contestants.

    copies: adds "copy" and "cached copy". The large copy is of 128 MiB, or of as much as the last-level cache holds if
    that is more (up to 1 GiB), so that source and target are at least twice the cache and nothing of a turn is left
    for the next. The small copy's source and target together are a quarter of the last-level cache, so that they fit
    beside what else runs: half of a cache that other machines share was copied at the rate of memory. A call copies
    several times. It is left out where the core is missing, which tells the cache's size.

    arithmetic: adds "micro-kernel": the innermost loop of striate's products of matrices on every thread, on operands
    in the first-level cache, as many times as take some milliseconds. No product of matrices is faster. Where the core
    is missing or the type is neither float32 nor float64, "product" stands in its place, a product of square matrices
    by torch, of 2048×2048 where that takes no minutes, which may be far from the limit.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, *, copies: bool = True, arithmetic: bool = True) -> None:
        self.calls: dict[str, Call] = {}
        self._amounts: dict[str, float] = {}  # bytes or MACs of a call
        self._cache_bytes = 0
        if copies:
            machine = native.machine()
            last_level = 0 if machine is None else machine.last_level
            large = min(max(COPY_BYTES, last_level), MOST_BYTES)
            self._add("copy", *_copy(large, 1))
            if last_level:
                small = min(last_level, large) // 8
                self._cache_bytes = last_level
                self._add("cached copy", *_copy(small, min(max(1, large // (4 * small)), MOST_COPIES)))
        if arithmetic and native.core and dtype in (torch.float32, torch.float64):
            doubles = dtype is torch.float64
            self._add("micro-kernel", *_multiply_adds(lambda tiles: torch.ops.striate.multiply_adds(tiles, doubles)))
        elif arithmetic:
            self._add("product", *_product(dtype))

    def _add(self, name: str, call: Call, amount: float) -> None:
        self.calls[name], self._amounts[name] = call, amount

    def rates(self, ms: Mapping[str, float]) -> Rates:
        """The rates, from the times of the calls by their names [ms]; one that was not measured is infinite."""
        by_name = {name: amount / ms[name] for name, amount in self._amounts.items()}
        return Rates(
            bytes_per_ms=by_name.get("copy", math.inf),
            macs_per_ms=by_name.get("micro-kernel", by_name.get("product", math.inf)),
            cached_bytes_per_ms=by_name.get("cached copy", math.inf),
            cache_bytes=self._cache_bytes,
            micro_kernel="product" not in by_name,
        )


def _copy(size: int, times: int) -> tuple[Call, float]:
    """Copies so many bytes so many times, and how many bytes are read and written."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)

    def call() -> torch.Tensor:
        for _ in range(times):
            target.copy_(source)
        return target

    return call, 2 * size * times


def _took_ns(call: Call) -> int:
    """The shortest of three calls [ns]: while the processor does other work, one may take many times as long."""
    times = []
    for _ in range(3):
        start = turns.clock_ns()
        call()
        times.append(turns.clock_ns() - start)
    return min(times)


def _multiply_adds(run: Callable[[int], int]) -> tuple[Call, float]:
    """Calls ``run`` with a number of tiles that takes some milliseconds, and how many MACs it does.

    The number is doubled until the time nearly doubles with it: until then, waking the threads takes much of it, which
    on a busy machine is more than milliseconds.

    run: takes the number of tiles and returns that of the MACs.
    """
    tiles = 2**7
    took, before = _took_ns(partial(run, tiles)) / 1e6, math.inf
    while tiles < MOST_TILES and took < ENOUGH_MS and (took < LEAST_MS or took < 1.8 * before):
        tiles *= 2
        before, took = took, _took_ns(partial(run, tiles)) / 1e6
    return partial(run, tiles), run(tiles)


def _product(dtype: torch.dtype) -> tuple[Call, float]:
    """A product of square matrices, whose side is doubled up to the largest that takes no minutes, and its MACs."""
    side = PRODUCT_SIDE // 8
    while True:
        square = torch.randn(side, side).to(dtype)
        product = partial(torch.mm, square, square)
        if side * 2 > PRODUCT_SIDE or _took_ns(product) > LONG_MS * 1e6:
            return product, side**3
        side *= 2


def measure_rates(dtype: torch.dtype, rounds: int) -> Rates:
    """Measures all rates; the calls take turns."""
    references = References(dtype)
    with torch.no_grad():
        times = medians_ms(references.calls, rounds)
    return references.rates({name: one.median for name, one in times.items()})
