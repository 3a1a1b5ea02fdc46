"""Sets the C library's allocator to keep freed memory: every training step frees and allocates the same blocks."""

from __future__ import annotations

import ctypes

__all__ = ["tune_allocator"]

# mallopt's parameters, from malloc.h. M_MMAP_MAX is set, because older glibc refuses an M_MMAP_THRESHOLD above 32 MiB.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
SETTINGS = (
    (M_TRIM_THRESHOLD, -1),  # the top of the heap is never given back
    (M_MMAP_MAX, 0),  # no block has a mapping of its own, which free would give back
    (M_ARENA_MAX, 1),  # threads share the heap: a thread's own is cut into pieces of 64 MiB, given back when empty
)


def tune_allocator() -> bool:
    """Makes glibc keep freed memory for later allocations, so that a training step stops paying for page faults.
    Returns whether it did.

    By default glibc gives large blocks back to the kernel when they are freed. The next step allocates them again, and
    the kernel fills each page of 4 KiB with zeros when it is first touched.

    Cost: the process keeps its peak memory until it ends, and the peak grows, since blocks of all sizes share one heap:
    by 15 % on VGG-11, at most 6 % on four other networks. A training step of VGG-11 on 32 images of 64² took 190,000
    page faults and more than half a second of system time; the process had 2.3 GB at its peak and 0.5 GB when
    everything was freed. With this setting a step takes no page fault, and the process has 2.6 GB from its peak to its
    end. ``python benchmarks/networks.py train`` measures all of these.

    Opt-in: importing striate changes nothing. Call it once, before the first step and before threads are started, since
    a thread that has allocated keeps its own heap. It holds for the whole process and cannot be undone: the settings
    could be put back, but blocks would remain where they are.

    Returns False, with little or nothing changed, where the C library has no ``mallopt`` or refuses a setting: musl,
    macOS, AddressSanitizer.

    Source: the manual page mallopt(3).

    >>> tune_allocator()  # doctest: +SKIP
    True
    """
    try:
        # Among the symbols of the process: if another allocator was loaded before glibc's, its mallopt is called.
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(what, value) == 1 for what, value in SETTINGS])
