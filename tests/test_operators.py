"""striate's operators as registered with the dispatcher: their arguments, the meaning of numbers in them, and that a
call leaks nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import native
from striate.ops import conv
from striate.ops.conv import NUMBERS

OPERATORS = sorted(
    name.removeprefix("striate::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("striate::")
)
CALLS = 100_000
# bytes: the least that malloc gives is 32, so that a leak of one block a call would be three times as much
KEPT = 1 << 20


def cases() -> dict[str, tuple[Any, ...]]:
    """For each operator, arguments of a small call; for convolutions, by each method in turn."""
    x, w, scale = torch.rand(1, 2, 4, 4), torch.rand(2, 2, 3, 3), torch.rand(2)
    last, own = x.contiguous(memory_format=torch.channels_last), w[:, :1]
    places = torch.rand(2, 2, 3, 3, 2, 2)
    index, statistics = torch.zeros(1, 2, 2, 2, dtype=torch.int64), torch.ones(2, 2).double()
    four, two, one, zero, half = [4, 4], [2, 2], [1, 1], [0, 0], x[..., :2, :2].contiguous()
    pool, norm, act = (two, two, one, zero, False), (1, 2, 0, False), (True, 1e-5, 1, 0.0)

    def by(method: str, groups: int = 1, channels_last: bool = False) -> tuple[Any, ...]:
        return one, one, one, groups, channels_last, NUMBERS[method]

    return {
        "avg_pool": (x, two, two, two, zero, zero, False, True, None),
        "avg_pool_backward": (half, four, two, two, zero, zero, False, True, 3),
        "conv": (x, w, scale, four, *by("direct")),
        "conv_bias": (x, False),
        "conv_fused": (last, w, None, scale, last, 0, 0.0, 6.0, four, *by("implicit_gemm", channels_last=True)),
        "conv_backward_data": (x, own, scale, four, *by("depthwise", groups=2)),
        "conv_measured": (x, w, scale, four, *by("winograd_4x4")),
        "activations": (),
        "conv_methods": (),
        "conv_pack": (w, 1, NUMBERS["winograd_2x2"]),
        "conv_backward_weights": (x, x, [3, 3], *by("winograd_2x2")),
        "isa_available": (),
        "isa_choose": (0,),
        "isa_chosen": (),
        "machine": (),
        "machine_choose": (torch.ops.striate.machine(),),
        "multiply_adds": (1, False),
        "linear": (x, w.flatten(1)[:, :4], scale, 0, 0.0, 6.0),
        "linear_backward_data": (x[..., :2], w.flatten(1)[:, :4]),
        "linear_backward_weights": (x, x[..., :3]),
        "local": (x, places, scale[:, None, None].expand(2, 3, 3), one, one, zero, False),
        "local_backward_data": (x[..., :3, :3], places, four, one, one, zero, False),
        "local_backward_weights": (x[..., :3, :3], x, two, one, one, zero),
        "local_response": (x, 3, 1.0, 0.75, 1.0, False),
        "local_response_backward": (x, x, 3, 1.0, 0.75, 1.0, False),
        "max_pool_index": (x, two, *pool),
        "max_pool_index_backward": (half, index, four, False),
        "max_pool_offset": (x, two, *pool, True),
        "max_pool_offset_backward": (half, index.byte(), four, *pool),
        "norm": (x, x, scale, scale, None, None, *norm, *act, statistics),
        "norm_backward": (x, x, x, scale, scale, statistics, None, *norm, *act, False, 15),
        "norm_measure": (x, *norm, True),
        "norm_sums": (x, x, None, scale, scale, statistics, False, 1e-5, 1, 0.0),
        "norm_update": (scale.clone(), scale.clone(), statistics, 16, 0.1),
        "offset_to_index": (index.byte(), four, *pool),
    }


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def print_what_calls_keep() -> None:
    """For each operator, its name and the growth of the process in bytes after that many calls."""
    torch.set_num_threads(1)
    with torch.inference_mode():  # tensors made here bypass autograd
        for name, arguments in cases().items():
            call = getattr(torch.ops.striate, name).default
            for count in (1000, CALLS):  # at first it takes what it needs
                before = resident_bytes()
                for _ in range(count):
                    call(*arguments)
            print(name, resident_bytes() - before, flush=True)


def test_the_cases_are_all_operators_there_are() -> None:
    assert sorted(cases()) == OPERATORS and len(OPERATORS) >= 25


def test_calls_of_an_operator_give_the_same_bits_each_time(isa: str) -> None:
    # few calls, but of every operator on every instruction set: for `make asan`, which has no time for those of the
    # test below
    with torch.inference_mode():
        for name, arguments in cases().items():
            first, *others = (getattr(torch.ops.striate, name).default(*arguments) for _ in range(3))
            native.use_isa(isa)  # isa_choose chose another
            for other in others:
                torch.testing.assert_close(other, first, rtol=0, atol=0)


@pytest.mark.nightly
def test_calls_of_an_operator_keep_no_memory() -> None:
    code = "import test_operators; test_operators.print_what_calls_keep()"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    kept = {name: int(count) for name, count in map(str.split, run.stdout.splitlines())}
    assert sorted(kept) == OPERATORS
    assert {name: count for name, count in kept.items() if count > KEPT} == {}


def test_no_operator_takes_or_gives_text() -> None:
    for name in OPERATORS:
        schema = str(getattr(torch.ops.striate, name).default._schema)
        assert schema.startswith(f"striate::{name}(") and not re.search(r"\bstr\b", schema), schema


def test_a_method_is_the_number_of_its_line() -> None:
    # files store their numbers: a new one is added at the end
    saved = ("depthwise", "direct", "winograd_4x4", "winograd_2x2", "implicit_gemm", "pointwise")
    assert conv.NATIVE == native.CONV_METHODS and conv.NATIVE[: len(saved)] == saved
    assert list(NUMBERS.values()) == list(range(len(NUMBERS)))
    source = Path(conv.__file__).parents[3] / "csrc" / "methods.def"
    if not source.is_file():
        pytest.skip("the C++ sources are not installed, only the checkout has them")
    lines = [line for line in source.read_text().splitlines() if line.startswith("STRIATE_METHOD")]
    assert lines == [f"STRIATE_METHOD({name})" for name in NUMBERS]


@pytest.mark.parametrize("number", [-1, len(NUMBERS), 2**32, -(2**63)])
def test_a_number_that_is_no_methods_is_refused(number: int) -> None:
    ops, one, x, w = torch.ops.striate, [1, 1], torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3)
    rest = (one, one, one, 1, False, number)
    calls: list[Callable[[], Any]] = [
        lambda: ops.conv(x, w, None, [4, 4], *rest),
        lambda: ops.conv(x[:0], w, None, [4, 4], *rest),
        lambda: ops.conv_backward_data(x, w, None, [4, 4], *rest),
        lambda: ops.conv_backward_weights(x, x, [3, 3], *rest),
        lambda: ops.conv_measured(x, w, None, [4, 4], *rest),
        lambda: ops.conv_fused(x, w, None, None, None, 0, 0.0, 1.0, [4, 4], *rest),
        lambda: ops.conv_pack(w, 1, number),
    ]
    known = "0 depthwise, 1 direct, 2 winograd_4x4, 3 winograd_2x2, 4 implicit_gemm, 5 pointwise"
    for call in calls:
        with pytest.raises(RuntimeError) as raised:
            call()
        assert f"striate: a method of convolution is one of {known}, got {number}" in str(raised.value)


@pytest.mark.parametrize("number", [-1, len(native.ISAS), 2**32])
def test_a_number_that_is_no_instruction_sets_is_refused(number: int) -> None:
    before = native.isa()
    with pytest.raises(RuntimeError) as raised:
        torch.ops.striate.isa_choose(number)
    known = ", ".join(f"{k} {name}" for k, name in enumerate(native.ISAS))
    assert f"striate: an instruction set is one of {known}, got {number}" in str(raised.value)
    assert native.isa() == before


def imported(core: str) -> subprocess.CompletedProcess[str]:
    """Of striate, where the core's operators are changed as ``core`` says."""
    code = f"""
import os, torch
from importlib.util import find_spec
folders = find_spec("striate").submodule_search_locations
cores = [os.environ.get("STRIATE_CORE"), *(os.path.join(folder, "_core.so") for folder in folders)]
torch.ops.load_library(next(core for core in cores if core and os.path.isfile(core)))
{core}
import striate
print(striate.native.core, len(striate.ops.conv.NATIVE))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_core_with_other_methods_is_an_error_at_import() -> None:
    listed = "depthwise direct winograd_4x4 winograd_2x2 implicit_gemm fft"
    run = imported(f"torch.ops.striate.conv_methods = lambda: list({listed.encode()!r})")
    assert run.stderr.splitlines()[-1] == (
        "ImportError: striate expects a native core with the convolution methods depthwise, direct, winograd_4x4, "
        "winograd_2x2, implicit_gemm, pointwise, got "
        "depthwise, direct, winograd_4x4, winograd_2x2, implicit_gemm, fft. Build the core from the sources of this "
        "version."
    )


def test_a_core_of_another_version_is_none() -> None:
    run = imported(
        "torch.ops.striate = torch._ops._OpNamespace('striate_of_old'); torch.ops.load_library = lambda path: None"
    )
    assert run.stdout == f"False {len(NUMBERS)}\n", run.stderr
    assert (
        "UserWarning: striate's native core is of another version; every layer uses torch's operator instead."
        in run.stderr
    )
