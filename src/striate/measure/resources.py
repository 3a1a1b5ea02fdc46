"""Measures what a process has used of the machine: page faults, time in the kernel, interruptions, memory."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

__all__ = ["Resources", "allocated_bytes", "reset_peak", "resident_bytes"]


class Resources(NamedTuple):
    """What a process has used: page faults without disk access, time in the kernel [ms], and how often the kernel gave
    its processor to other work.
    """

    page_faults: float
    system_ms: float
    interruptions: float

    @staticmethod
    def now() -> Resources:
        """What this process has used since it began."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Resources(usage.ru_minflt, usage.ru_stime * 1e3, usage.ru_nivcsw)

    def __sub__(self, before: Resources) -> Resources:
        return Resources(*(a - b for a, b in zip(self, before, strict=True)))


def resident_bytes(which: str, proc: Path = Path("/proc/self")) -> int:
    """This process's resident memory (Linux): "VmRSS" now, "VmHWM" its peak since the start or :func:`reset_peak`.

    ``getrusage`` does not tell it: its ``ru_maxrss`` starts from the parent's.
    """
    lines = (proc / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def reset_peak(proc: Path = Path("/proc/self")) -> None:
    """Resets the peak "VmHWM" of :func:`resident_bytes` to the memory in use now (Linux)."""
    (proc / "clear_refs").write_text("5")


def allocated_bytes(call: Callable[[], Any]) -> int:
    """The peak of what the second call of a function holds from torch's allocator, beyond what was allocated before.

    It is summed from the profiler's record of every allocation, so that it does not depend on what the allocator keeps.
    It does not include the kernels' workspaces.
    """
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = call()
    events: Any = recorded.profiler.kineto_results.events()
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del kept
    return most
