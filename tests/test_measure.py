"""How times are measured, with fake clocks: the order of calls, and the statistics of the times."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import measure, native
from striate.measure import machine, turns


class Clock:
    """A fake clock that only calls advance."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def call(self, *took_ms: float) -> measure.turns.Call:
        """A call that takes these times in turn, cyclically."""
        times: Iterator[float] = iter(())

        def run() -> None:
            nonlocal times
            try:
                ms = next(times)
            except StopIteration:
                times = iter(took_ms)
                ms = next(times)
            self.now += round(ms * 1e6)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "clock_ns", made)
    return made


# ------------------------------------------------------------------------------------------------------------- medians


def test_a_summary_is_the_median_and_the_interquartile_range_over_it() -> None:
    assert measure.summarize([8.0, 2.0, 4.0, 6.0, 10.0, 12.0, 14.0]) == (8.0, 1.0)
    assert measure.summarize([3.0, 3.0, 3.0]) == (3.0, 0.0)
    assert measure.summarize([0.0, 0.0]) == (0.0, 0.0)


# --------------------------------------------------------------------------------------------------------------- turns


def test_the_call_before_the_timed_one_is_not_counted(clock: Clock) -> None:
    assert measure.timed_ms(clock.call(100, 3)) == 3.0
    assert measure.timed_ms(clock.call(5), before=clock.call(100)) == 5.0


def test_medians_are_those_of_each_contestant(clock: Clock) -> None:
    found = measure.medians_ms({"a": clock.call(9, 1, 9, 2, 9, 3), "b": clock.call(0, 8)}, rounds=3)
    assert found == {"a": (2.0, 1.0), "b": (8.0, 0.0)}


def test_a_turn_repeats_a_call_until_its_time_is_over(clock: Clock) -> None:
    assert measure.repeat(clock.call(50, 20, 30, 40), 0.09).ms == 30.0
    assert measure.repeat(clock.call(50, 500), 0.1).ms == 500.0
    assert measure.repeat(clock.call(1, 7), 0.0).ms == 7.0  # once at least


def test_what_a_turn_uses_is_told_by_call(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([measure.Resources(100, 10.0, 0), measure.Resources(160, 16.0, 3)])
    monkeypatch.setattr(turns.Resources, "now", staticmethod(lambda: next(used)))
    assert measure.repeat(clock.call(10), 0.02) == (10.0, 30.0, 3.0)


def order_of(rounds: int, **rest: Any) -> list[str]:
    seen: list[str] = []
    contestants = {name: (lambda name=name: seen.append(name)) for name in "abcd"}
    measure.in_turns(contestants, rounds, **rest)
    return seen


def test_every_round_has_each_contestant_once_in_an_order_of_its_own() -> None:
    seen = order_of(6)
    by_round = ["".join(seen[k : k + 4]) for k in range(0, 24, 4)]
    assert all(sorted(names) == list("abcd") for names in by_round) and len(set(by_round)) > 3
    assert order_of(6) == seen


def test_uncounted_rounds_are_called_and_left_out() -> None:
    counts = iter(range(10))
    assert measure.in_turns({"a": lambda: next(counts)}, 3, uncounted=2) == {"a": [2, 3, 4]}


def test_those_not_kept_after_the_first_round_are_not_called_again() -> None:
    found = measure.in_turns(
        {"fast": lambda: 1, "slow": lambda: 9, "near": lambda: 2},
        4,
        keep=lambda first: [name for name, ms in first.items() if ms < 5],
    )
    assert {name: len(times) for name, times in found.items()} == {"fast": 4, "slow": 1, "near": 4}


def test_a_contestant_that_is_entered_twice_shows_the_noise(clock: Clock) -> None:
    entered = measure.with_again({"torch": clock.call(4), "striate": clock.call(2)}, "torch")
    assert list(entered) == ["torch", "striate", "again torch"] and entered["again torch"] is entered["torch"]
    assert measure.ratio_a_a({"torch": 4.0, "again torch": 5.0}, "torch") == 1.25


# ------------------------------------------------------------------------------------------------------------- machine


def test_rates_are_amounts_over_medians(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three(machine.References):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__(dtype, copies=False, arithmetic=False)
            self._cache_bytes = 1000
            self._add("copy", clock.call(9, 4), 400.0)
            self._add("cached copy", clock.call(9, 2), 600.0)
            self._add("micro-kernel", clock.call(9, 16), 3200.0)

    monkeypatch.setattr(machine, "References", Three)
    rates = measure.measure_rates(torch.float32, 3)
    assert rates == measure.Rates(100.0, 200.0, 300.0, 1000, micro_kernel=True)
    assert (rates.copy_gb_per_s, rates.cached_copy_gb_per_s, rates.peak_gflops) == (100 / 1e6, 300 / 1e6, 400 / 1e6)


def test_what_is_not_measured_is_no_limit() -> None:
    assert measure.References(copies=False, arithmetic=False).rates({}).least_ms(10**9, 10**9) == 0.0
    assert measure.Rates(10.0, 100.0).cached_copy_gb_per_s is None


def test_as_many_bytes_of_each_sweep_may_be_in_the_cache_as_it_holds() -> None:
    rates = measure.Rates(10.0, 100.0, cached_bytes_per_ms=40.0, cache_bytes=80)
    assert rates.limit(80, 0) == (2.0, "cache") and rates.limit(90, 0) == (3.0, "memory")
    assert rates.limit(160, 0, 2) == (4.0, "cache") and rates.limit(170, 0, 2) == (5.0, "memory")
    assert rates.limit(80, 300) == (3.0, "arithmetic") and rates.limit(0, 0) == (0.0, "cache")
    # without a known cache everything is at the rate of memory, though it may be in a cache
    assert rates._replace(cache_bytes=0).limit(80, 0) == (8.0, "cache")
    # a small copy that came out slower than the large one says nothing
    assert rates._replace(cached_bytes_per_ms=5.0).limit(80, 0) == (8.0, "cache")


def test_a_share_beyond_its_limit_is_told_in_words() -> None:
    told = measure.beyond
    assert told(1.2, "arithmetic", True) == "fewer MACs" and told(1.2, "arithmetic") == "at limit"
    assert told(1.2, "cache", True) == "in cache" and told(1.2, "memory", True) == "at limit"
    assert told(1.0049, "cache") is None and told(0.5, "arithmetic", True) is None and told(None, None) is None
    words = {told(2.0, by, fewer) for by in ("arithmetic", "cache", "memory") for fewer in (False, True)}
    assert words == measure.ABOUT_BEYOND.keys()


def faked(monkeypatch: pytest.MonkeyPatch, last_level: int) -> None:
    made = native.Machine(2, 1024, 1024, last_level, 2)
    monkeypatch.setattr(native, "machine", lambda: made)


@pytest.mark.parametrize(
    ("last_level", "large", "small", "times"), [(1024, 4096, 128, 8), (8192, 8192, 1024, 2), (2**20, 2**14, 2**11, 2)]
)
def test_one_copy_is_far_outside_the_last_level_cache_and_one_within(
    last_level: int, large: int, small: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, last_level)
    monkeypatch.setattr(machine, "COPY_BYTES", 4096)
    monkeypatch.setattr(machine, "MOST_BYTES", 2**14)
    references = measure.References(arithmetic=False)
    assert {name: call().numel() for name, call in references.calls.items()} == {"copy": large, "cached copy": small}
    assert all(bool((call() == 1).all()) for call in references.calls.values())
    rates = references.rates({"copy": 2.0, "cached copy": 4.0})
    assert rates[0] == large and rates[2] == 2 * small * times / 4 and rates.cache_bytes == last_level


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_arithmetic_is_the_micro_kernels_on_every_thread(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ENOUGH_MS", 0.0)  # one number of tiles is enough
    references = measure.References(dtype, copies=False)
    macs = references.calls["micro-kernel"]()
    doubles = dtype is torch.float64
    assert list(references.calls) == ["micro-kernel"] and macs == torch.ops.striate.multiply_adds(2**7, doubles) > 0
    rates = references.rates({"micro-kernel": 0.5})
    assert rates.macs_per_ms == 2 * macs and rates.micro_kernel and rates.bytes_per_ms == math.inf


def test_tiles_are_doubled_until_the_time_doubles_with_them(clock: Clock) -> None:
    asked: list[int] = []

    def run(tiles: int) -> int:
        asked.append(tiles)
        clock.now += 4_000_000 + 1_000 * tiles  # 4 ms to wake the threads, 1 µs a tile
        return 10 * tiles

    call, macs = machine._multiply_adds(run)
    assert macs == 10 * 2**15 and call() == macs  # 4 + 32.8 ms against 4 + 16.4
    assert asked[::3] == [2**k for k in range(7, 16)] + [2**15]


def test_without_a_core_and_for_other_types_torchs_product_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PRODUCT_SIDE", 16)
    half = measure.References(torch.bfloat16, copies=False)
    product = half.calls["product"]()
    assert product.shape == (16, 16) and product.dtype is torch.bfloat16
    assert half.rates({"product": 2.0}) == measure.Rates(math.inf, 16**3 / 2, micro_kernel=False)
    monkeypatch.setattr(machine, "LONG_MS", -1.0)  # whatever takes longer is large enough
    assert measure.References(torch.bfloat16, copies=False).calls["product"]().shape == (2, 2)
    monkeypatch.setattr(native, "core", False)
    monkeypatch.setattr(machine, "COPY_BYTES", 64)
    assert list(measure.References().calls) == ["copy", "product"]


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("model name\t: Abacus 9\ncpu family\t: 6\nmodel\t\t: 143\n", "Abacus 9, family 6 model 143"),
        ("model name : Abacus 9\n", "Abacus 9"),
        ("BogoMIPS : 50\n", machine.platform.machine()),
    ],
)
def test_a_processor_is_named_with_what_tells_its_kinds_apart(lines: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(lines)
    assert measure.processor(tmp_path / "cpuinfo") == name


def test_without_a_list_of_processors_the_platform_names_it(tmp_path: Path) -> None:
    wanted = machine.platform.processor() or machine.platform.machine()
    assert measure.processor(tmp_path / "nothing") == wanted


def test_resident_memory_is_read_from_the_kernel_and_its_peak_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  30 kB\nVmRSS:\t  20 kB\n")
    assert [measure.resident_bytes(which, tmp_path) for which in ("VmRSS", "VmHWM")] == [20480, 30720]
    measure.reset_peak(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"


def test_the_most_that_is_allocated_at_once_is_counted() -> None:
    def call() -> torch.Tensor:
        first = torch.ones(1 << 16)  # 256 KiB, freed before the others are made
        del first
        second = torch.ones(1 << 17)
        return second + 1  # 512 KiB twice

    assert 2**20 <= measure.allocated_bytes(call) < 2**20 + 2**14


def test_what_is_used_is_a_difference() -> None:
    assert measure.Resources(5, 3.0, 2) - measure.Resources(1, 1.0, 2) == (4, 2.0, 0)
    assert measure.Resources.now().page_faults > 0


# ----------------------------------------------------------------------------------------------------------- processes


def counter(start: int) -> Generator[Any, Any, None]:
    asked = yield ("ready", os.getpid())
    while asked != "stop":
        start += asked
        asked = yield start
    yield "stopped"


def failing() -> int:
    raise OSError("nothing there")


def process_id() -> int:
    return os.getpid()


def test_a_contestant_answers_from_a_process_of_its_own() -> None:
    worker = measure.Worker("the counter", counter, 10)
    assert worker.first[0] == "ready" and worker.first[1] != os.getpid()
    assert [worker.ask(1), worker.ask(5), worker.ask("stop")] == [11, 16, "stopped"]
    worker.stop()


def test_a_contestant_that_ends_early_is_named() -> None:
    worker = measure.Worker("the counter", counter, 10)
    worker.kill()
    with pytest.raises(ChildProcessError, match=r"^the counter ended before it was asked to"):
        worker.ask(1)


def test_a_function_runs_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert measure.in_a_process(process_id) != os.getpid()
    with pytest.raises(ChildProcessError, match=r"^failing ended before it was asked to"):
        measure.in_a_process(failing)
    assert "nothing there" in capfd.readouterr().err


def test_python_runs_with_and_without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIATE_HERE", "yes")
    code = "import os; print(os.environ.get('STRIATE_HERE'))"
    assert (
        measure.run_python("-c", code) == "yes\n"
        and measure.run_python("-c", code, without=["STRIATE_HERE"]) == "None\n"
    )
    with pytest.raises(subprocess.CalledProcessError):
        measure.run_python("-c", "raise SystemExit(3)")


def test_a_command_answers_line_by_line() -> None:
    code = "import sys\nfor line in sys.stdin: print(line.strip() * 2, flush=True)"
    worker = measure.LineWorker(sys.executable, "-c", code)
    assert [worker.ask("ab"), worker.ask("c")] == ["abab", "cc"]
    worker.kill()
    with pytest.raises(ChildProcessError, match="ended before it was asked to"):
        worker.ask("d")
