"""Memory in tests: how much is free, how much is used, and tensors of zeros that take none."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

__all__ = ["at_most", "free_bytes", "needs_memory", "resident_bytes", "zeros"]

GIB = 2**30
MAP_NORESERVE = 0x4000  # mmap has its name from Python 3.11 on
# For each version of control groups: the files of the limit and the usage, and the name of the part of the usage that
# the kernel reclaims when memory is short (inactive file cache).
FILES = {
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "v2": ("memory.max", "memory.current", "inactive_file"),
}


def free_bytes(root: Path = Path("/")) -> int:
    """The available memory: the smaller of what the machine has available and what each enclosing control group leaves.

    root: the folder that contains proc and sys.
    """
    available = _numbers(root / "proc/meminfo")["MemAvailable:"] * 1024
    return max(0, min([available, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """The limit minus the use of each control group that this process is in and that has a limit."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            tops, version = [root / "sys/fs/cgroup/memory"], "v1"
        elif number == "0" and not controllers:
            tops, version = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"], "v2"
        else:
            continue
        limit_name, use_name, droppable = FILES[version]
        for top in tops:
            # a container may see its own group as the root, whatever the path outside
            for folder in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents):
                if not folder.is_relative_to(top):
                    break
                limit, use = folder / limit_name, folder / use_name
                if limit.is_file() and use.is_file() and limit.read_text().strip() != "max":
                    dropped = _numbers(folder / "memory.stat").get(droppable, 0)
                    yield int(limit.read_text()) - (int(use.read_text()) - dropped)


def _numbers(path: Path) -> dict[str, int]:
    """The lines of a file, each a name and a number."""
    lines = (line.split() for line in path.read_text().splitlines()) if path.is_file() else ()
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def needs_memory(needed: int) -> None:
    """Skips the test unless so many bytes are free."""
    free = free_bytes()
    if free < needed:
        pytest.skip(f"it needs {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free")


def resident_bytes() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Limits the process to so many more bytes of address space, written or not; larger allocations fail.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (held + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def zeros(count: int) -> torch.Tensor:
    """So many float32 zeros, in pages that take memory only when written: reads all see the kernel's single zero page.
    """
    pages = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return torch.frombuffer(pages, dtype=torch.float32)
