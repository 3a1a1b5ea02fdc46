"""Every test runs with the native core; fixtures run one once for each instruction set, or on a number of threads."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def same_threads_and_seed(request: pytest.FixtureRequest) -> Iterator[None]:
    if "compile" in request.node.name:  # what earlier tests compiled counts against the limit of recompilations
        torch._dynamo.reset()
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
