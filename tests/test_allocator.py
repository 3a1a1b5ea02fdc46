"""tune_allocator makes the allocator keep freed memory, which ends repeated page faults; it does not before."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from striate import allocator

# By default, blocks of 64 MiB have mappings of their own; blocks of 24 MiB soon lie at the top of the heap, which is
# trimmed.
FAULTS = """
import resource, sys, threading
import torch
from striate.allocator import tune_allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(mebibytes * 2**18) for mebibytes in (64, 24, 24, 64)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def run():
    faults()
    # a small block that settles between the large ones may cost one of them its place, once
    print(answer, min(faults() for _ in range(3)))

answer = tune_allocator() if sys.argv[1] == "tuned" else None
if sys.argv[2] == "main":
    run()
else:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
"""


def page_faults(which: str, thread: str) -> tuple[str, int]:
    """Counts page faults in a separate process, because the setting is global and cannot be undone."""
    done = subprocess.run([sys.executable, "-c", FAULTS, which, thread], capture_output=True, text=True, check=True)
    answer, count = done.stdout.split()
    return answer, int(count)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="there is no glibc")
@pytest.mark.parametrize("thread", [pytest.param("main", marks=pytest.mark.nightly), "another"])
def test_large_blocks_fault_once_and_not_at_every_use(thread: str) -> None:
    (_, default), (answer, tuned) = page_faults("default", thread), page_faults("tuned", thread)
    assert answer == "True"
    # 30 even with pages of 2 MiB
    assert default > 5 * 2 * 30, "the blocks of 64 MiB do not go back by default: the test shows nothing"
    assert tuned < default / 20


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: None) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(allocator.ctypes, "CDLL", fails)
    assert allocator.tune_allocator() is False
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: SimpleNamespace())  # as musl's, which has no mallopt
    assert allocator.tune_allocator() is False


def test_each_setting_is_made_and_a_refusal_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    for answer in (1, 0):
        library = SimpleNamespace(mallopt=lambda what, value: made.append((what, value)) or answer)
        monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
        assert allocator.tune_allocator() is bool(answer)
    assert made == 2 * [(-1, -1), (-4, 0), (-8, 1)]
