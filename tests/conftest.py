"""Every test runs with the native core; fixtures run a test for each instruction set, or on a number of threads."""

from __future__ import annotations

import gc
import os
import signal
import threading
import zlib
from collections.abc import Generator, Iterator

# processes share the cores: a waiting thread releases its core instead of spinning (a fifth of the time)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# otherwise three compiled models would start a process of 0.3 GB on each core
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# a suite that a shell started in the background ignores Ctrl-C, and so would each process that a test interrupts
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

import memory
import pytest
import torch

from striate import native

if not native.core:
    pytest.exit(f"{native.missing}: the tests are about the native core. Build it with `make test`.", returncode=3)

ISAS = list(native.ISAS)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn."""
    before = native.isa()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(before)


# Kernels are the same code for each instruction set: of the older ones the suite takes one case in so many, chosen by
# its name, and `make nightly` the others.
OLDER, OLD = 4, set(ISAS[:-1])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        used = [given.get("isa"), *(getattr(value, "isa", None) for value in given.values())]
        if any(name in OLD for name in used if isinstance(name, str)) and zlib.crc32(item.name.encode()) % OLDER:
            item.add_marker(pytest.mark.nightly)


LEFT_BYTES = 2**28  # if memory has grown by more since the last collection, the next one is started
floor_bytes = 0


def pytest_collection_finish() -> None:
    """Freezes the objects that exist before the first test: each full collection would traverse half a million of them.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Frees models in reference cycles, as in reports and graphs, soon instead of at Python's next full collection."""
    global floor_bytes
    yield
    held = memory.resident_bytes()
    if held > floor_bytes + LEFT_BYTES:
        gc.collect()
        floor_bytes = memory.resident_bytes()
    floor_bytes = min(floor_bytes, held)


@pytest.fixture(autouse=True)
def same_threads_and_seed(request: pytest.FixtureRequest) -> Iterator[None]:
    if "compile" in request.node.name:  # code compiled by earlier tests counts against the recompilation limit
        torch._dynamo.reset()
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
