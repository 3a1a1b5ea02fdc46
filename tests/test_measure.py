"""How times are measured, with fake clocks: the order of calls, and the statistics of the times."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import measure
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


def test_rates_are_those_of_the_copy_and_of_the_product(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "reference_calls", lambda dtype: {"copy": clock.call(4), "product": clock.call(16)})
    rates = measure.measure_rates(torch.float32, 3)
    assert rates == (2 * 4 * 2**25 / 4, 2048**3 / 16) and rates.copy_gb_per_s == rates.bytes_per_ms / 1e6
    assert rates.gemm_gflops == 2 * 2048**3 / 16 / 1e6
    assert rates.least_ms(rates.bytes_per_ms * 3, rates.macs_per_ms * 2) == 3.0
    assert rates.least_ms(rates.bytes_per_ms, rates.macs_per_ms * 2) == 2.0
    assert measure.rates_of(product_ms=16).least_ms(10**9, rates.macs_per_ms) == 1.0
    assert measure.rates_of(copy_ms=4).least_ms(rates.bytes_per_ms, 10**9) == 1.0


def test_the_calls_for_the_rates_copy_and_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COPY_ELEMENTS", 8)
    monkeypatch.setattr(machine, "PRODUCT_SIDE", 3)
    calls = measure.reference_calls(torch.float64)
    assert torch.equal(calls["copy"](), torch.ones(8))
    product = calls["product"]()
    assert product.shape == (3, 3) and product.dtype is torch.float64


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
