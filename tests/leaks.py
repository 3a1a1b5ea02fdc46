"""A pytest plugin, for `make asan`: at the end of a run LeakSanitizer looks for memory that nothing points to. What
striate's core took fails the run.

LeakSanitizer's suppressions match any frame of a stack, and torch's dispatcher and Python are on every stack that
comes from striate. So LeakSanitizer reports all it finds, and this plugin decides by addresses: a leak is striate's if
its stack passes through the core.

The check runs while Python is alive (`leak_check_at_exit=0`): what Python does not free at exit would be reported
too. Python must allocate with malloc (`PYTHONMALLOC=malloc`): LeakSanitizer does not search the arenas that Python maps
for itself, and would report whatever only Python objects point to, more than 4000 stacks after `import striate`. With
malloc it reports one, of 200 bytes.

Stacks are unwound by frame pointers, which torch does not keep. They end a frame or two above the core, and miss it
where torch or libstdc++ lies more than a frame below. Of a leaked tensor, the block of its handle
(`aoti_torch_empty_strided`, called by the core) is found, which is enough.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

PLANTED = 4099  # bytes: a size that nothing else allocates
process = ctypes.CDLL(None)
process.malloc.argtypes, process.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p


def plant() -> None:
    """Leaks memory on purpose: if this is not found, LeakSanitizer does not work here."""
    for _ in range(3):  # memory that a register or stack slot still points to does not count as leaked
        process.malloc(PLANTED)


def report() -> str:
    """Runs LeakSanitizer, without ending the process, and returns its report."""
    gc.collect()
    handle, path = tempfile.mkstemp(prefix="leaks.", suffix=".txt")
    print(f"\nlooking for leaks; should that end the process, {path} says why", file=sys.stderr, flush=True)
    stderr = os.dup(2)
    os.dup2(handle, 2)
    try:
        process.__lsan_do_recoverable_leak_check()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(handle)
    text = Path(path).read_text(errors="replace")
    os.unlink(path)
    return text


def leaks_of(text: str) -> list[str]:
    """Parses a report: for each stack the bytes, whether the leak is direct or indirect, and the frames."""
    return [part for part in text.split("\n\n") if re.match(r"\s*(Direct|Indirect) leak of ", part)]


def bytes_of(leak: str) -> int:
    return int(leak.split(" leak of ")[1].split()[0])


def addresses_of(core: str, maps: str) -> list[range]:
    """The address ranges of the core in /proc/self/maps."""
    lines = [line.split(maxsplit=5) for line in maps.splitlines()]
    ends = [line[0].split("-") for line in lines if len(line) == 6 and line[5] == core]
    return [range(int(begin, 16), int(end, 16)) for begin, end in ends]


def passes_through(leak: str, addresses: list[range]) -> bool:
    frames = [int(frame, 16) for frame in re.findall(r"^ *#\d+ (0x[0-9a-f]+)", leak, re.MULTILINE)]
    return any(frame in part for frame in frames for part in addresses)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(process, "__lsan_do_recoverable_leak_check") or os.environ.get("PYTHONMALLOC") != "malloc":
        raise pytest.UsageError(
            "leaks are looked for under AddressSanitizer and with PYTHONMALLOC=malloc. Run `make asan`."
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    plant()
    leaks, core = leaks_of(report()), os.path.realpath(os.environ["STRIATE_CORE"])
    addresses = addresses_of(core, Path("/proc/self/maps").read_text())
    own_leaks = [leak for leak in leaks if passes_through(leak, addresses)]
    others = [leak for leak in leaks if leak not in own_leaks]
    planted = [leak for leak in others if bytes_of(leak) % PLANTED == 0]
    counts = f"leaks of striate's core: {len(own_leaks)} stacks; of others: {len(others) - len(planted)}"
    print(counts, *own_leaks, sep="\n\n")
    if not addresses:
        print(f"{core} is no part of the process: whose a leak is cannot be told")
    if not planted:
        print("LeakSanitizer did not find what was left for it to find: it does not work here")
    if (own_leaks or not addresses or not planted) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
