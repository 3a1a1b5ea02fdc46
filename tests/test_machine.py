"""The machine as a value: where it comes from, and that results do not depend on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from samples import channels_last
from torch import Tensor

import striate.nn as S
from striate import native
from striate.native import Machine, use_machine
from striate.ops.activation import Activation, operator_arguments
from striate.ops.conv import NUMBERS
from striate.ops.dispatch import prefer

kernels = torch.ops.striate

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
VARIABLES = [f"STRIATE_{name.upper()}" for name in Machine._fields]
OWN = native.machine()


def started(*values: str) -> subprocess.CompletedProcess[str]:
    """Prints the machine of a process with these values in its environment."""
    code = "from striate import native; print(*native.machine())"
    environment = {**os.environ, **dict(zip(VARIABLES, values, strict=True))}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    return run


def test_the_environment_sets_each_value_at_start() -> None:
    documented = "STRIATE_CORES STRIATE_FIRST_LEVEL STRIATE_SECOND_LEVEL STRIATE_LAST_LEVEL STRIATE_SHARING"
    assert " ".join(VARIABLES) == documented
    run = started("7", "1024", "00300000", "1099511627776", "65536")
    assert run.stdout.split() == ["7", "1024", "300000", "1099511627776", "65536"] and run.stderr == ""


@pytest.mark.skipif(any(name in os.environ for name in VARIABLES), reason="this process has values of its own")
def test_bad_values_of_the_environment_are_told_and_ignored() -> None:
    bad = ["0", "32K", "1023", "9" * 30, "-1"]
    run = started(*bad)
    assert OWN and run.stdout.split() == [str(value) for value in OWN]
    for name, text, value in zip(VARIABLES, bad, OWN, strict=True):
        least, most = (1024, 1099511627776) if "LEVEL" in name else (1, 65536)
        assert (
            f"UserWarning: {name}={text} is no whole number from {least} to {most}; the system's value, {value}, is "
            "used.\n"
        ) in run.stderr


@pytest.mark.skipif(not (CACHES / "index0" / "size").is_file(), reason="the system does not tell its caches")
@pytest.mark.skipif(any(name in os.environ for name in VARIABLES), reason="this process has values of its own")
def test_the_values_are_the_systems() -> None:
    assert OWN
    cores, first, second, last, sharing = OWN
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    sizes: dict[int, int] = {}
    for index in CACHES.glob("index*"):
        text = {name: (index / name).read_text().strip() for name in ("level", "type", "size")}
        if text["type"] != "Instruction":
            unit = {"K": 2**10, "M": 2**20, "G": 2**30}[text["size"][-1]]
            sizes[int(text["level"])] = int(text["size"][:-1]) * unit
    # where cores are of several kinds, the smallest caches count; the second level may be shared
    assert 0 < first <= sizes[1] and 0 < second <= sizes.get(2, sizes[1]) and 0 < last <= sizes[max(sizes)]
    assert 1 <= sharing <= (os.cpu_count() or 1)


def test_a_machine_is_used_until_the_next() -> None:
    before = native.machine()
    assert before and native.native_info()["machine"] == before
    other = Machine(3, 2**15, 2**20, 2**25, 2)
    try:
        use_machine(other)
        assert native.machine() == other
    finally:
        use_machine(before)
    assert native.machine() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            [1, 2, 3],
            "use_machine expects a Machine of whole numbers, got [1, 2, 3]. "
            "Change the one in use: native.machine()._replace(cores=1).",
        ),
        (
            Machine(1, 2**15, 2**19, 2.0**23, 1),  # type: ignore[arg-type]
            "use_machine expects a Machine of whole numbers, got Machine(cores=1, first_level=32768, "
            "second_level=524288, last_level=8388608.0, sharing=1). "
            "Change the one in use: native.machine()._replace(cores=1).",
        ),
        (
            Machine(0, 2**15, 2**19, 2**23, 1),
            "use_machine expects cores from 1 to 65536, got 0. Choose at least 1.",
        ),
        (
            Machine(1, 32, 2**19, 2**23, 1),
            "use_machine expects first_level from 1024 to 1099511627776, got 32. The caches are in bytes.",
        ),
    ],
)
def test_what_is_no_machine_is_refused(wrong: Any, message: str) -> None:
    before = native.machine()
    with pytest.raises((ValueError, TypeError)) as raised:
        use_machine(wrong)
    assert str(raised.value) == message
    assert native.machine() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1] * 4, "striate: a machine is 5 numbers, got 4"),
        ([1, 2**15, 2**10 - 1, 2**23, 1], "striate: number 2 of a machine is from 1024 to 1099511627776, got 1023"),
        ([1, 2**15, 2**19, 2**23, 2**17], "striate: number 4 of a machine is from 1 to 65536, got 131072"),
    ],
)
def test_numbers_that_are_no_machine_are_refused(values: list[int], message: str) -> None:
    before = native.machine()
    with pytest.raises(RuntimeError) as raised:
        torch.ops.striate.machine_choose(values)
    assert message in str(raised.value)
    assert native.machine() == before


# ---------------------------------------------------------------------------------------------------- the same results

MACHINES = [
    Machine(1, 1024, 1024, 1024, 1),  # the smallest blocks; every result is stored past the caches
    Machine(2, 2**14, 2**17, 2**18, 2),
    Machine(8, 2**15, 2**19, 2**23, 8),
    Machine(48, 49152, 2**21, 105 * 2**20, 48),
    Machine(64, 2**20, 2**28, 2**40, 1),  # the largest blocks
]


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    before = native.machine()
    assert before
    yield MACHINES
    use_machine(before)


def assert_same_bits(machines: list[Machine], compute: Callable[[], list[Tensor]]) -> None:
    """Of what is computed, on each machine."""
    first: list[Tensor] | None = None
    for one in machines:
        use_machine(one)
        results = compute()
        first = results if first is None else first
        assert len(results) == len(first) > 0
        for number, (result, expected) in enumerate(zip(results, first, strict=True)):
            assert torch.equal(result, expected), f"result {number} on {one}"
    assert first and all(result.isfinite().all() and result.count_nonzero() > 0 for result in first)
    assert first[0].count_nonzero() > first[0].numel() / 2


class Conv(NamedTuple):
    method: str
    input: tuple[int, ...]
    batch: int
    channels: int  # of a group
    filters: int
    groups: int = 1
    size: int = 3
    stride: int = 1

    def run(self, last: bool) -> list[Tensor]:
        """All passes; what is measured is of the forward pass."""
        generator = torch.Generator().manual_seed(1)
        axes, taps = len(self.input), (self.size,) * len(self.input)
        order = channels_last if last else torch.Tensor.contiguous
        before = 0 if self.method == "pointwise" else self.size // 2
        output = [(i + 2 * before - self.size) // self.stride + 1 for i in self.input]
        x = order(torch.rand(self.batch, self.groups * self.channels, *self.input, generator=generator) - 0.25)
        weight = torch.randn(self.groups * self.filters, self.channels, *taps, generator=generator)
        dy = order(torch.rand(self.batch, self.groups * self.filters, *output, generator=generator) - 0.25)
        bias = torch.rand(self.groups * self.filters, generator=generator)
        rest = ([self.stride] * axes, [1] * axes, [before] * axes, self.groups, last, NUMBERS[self.method])
        results = [kernels.conv(x, weight, bias, output, *rest), kernels.conv_bias(dy, last)]
        measures = "implicit_gemm", *(["pointwise"] if last else [])
        if self.method.startswith("winograd") or self.method in measures:
            results += kernels.conv_measured(x, weight, bias, output, *rest)
        results.append(kernels.conv_backward_data(dy, weight, None, list(self.input), *rest))
        results.append(kernels.conv_backward_weights(dy, x, list(taps), *rest))
        for activation in (Activation("leaky_relu", (0.5,)), Activation("gelu")):
            after = (bias, dy, *operator_arguments(activation))
            results.append(kernels.conv_fused(x, weight, None, *after, output, *rest))
        return results


CONVOLUTIONS = [
    Conv("winograd_4x4", (20, 23), 2, 24, 40),  # few tiles, in one chunk
    Conv("winograd_4x4", (12, 20), 1, 64, 72),  # few blocks: their weights stay in the cache
    Conv("winograd_4x4", (18, 21), 4, 8, 9, groups=8),  # few tiles and many units
    Conv("winograd_4x4", (72, 73), 2, 72, 8),  # many chunks; several parts of the channels
    Conv("winograd_4x4", (30, 29), 2, 150, 264),  # point by point where the cache is small
    Conv("winograd_2x2", (31, 30), 2, 40, 24),
    Conv("winograd_2x2", (400,), 3, 20, 24),
    Conv("implicit_gemm", (19, 23), 2, 40, 24),
    Conv("implicit_gemm", (9, 23), 2, 150, 24, stride=2),
    Conv("implicit_gemm", (7, 9, 14), 2, 20, 12, stride=3),
    Conv("implicit_gemm", (40, 41), 1, 16, 9, size=1, groups=2),
    Conv("pointwise", (33, 40), 2, 300, 70, size=1),
    Conv("pointwise", (31, 30), 3, 24, 144, size=1, stride=2),
    Conv("pointwise", (90, 91), 1, 16, 9, size=1, groups=2),
    Conv("direct", (70, 37), 2, 9, 20),
    Conv("direct", (45, 600), 1, 2, 3, size=5, stride=2),
    Conv("direct", (11, 13, 12), 2, 5, 6, groups=2),
    Conv("direct", (900,), 2, 6, 18),
    Conv("depthwise", (70, 37), 2, 1, 1, groups=20),
    Conv("depthwise", (30, 29), 2, 2, 2, groups=5, stride=2),
    Conv("depthwise", (9, 14, 13), 2, 1, 2, groups=7),
]


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_do_not_depend_on_the_machine(machines: list[Machine], case: Conv, last: bool) -> None:
    if case.method == "implicit_gemm" and not last:
        pytest.skip("implicit_gemm is for channels_last")
    assert_same_bits(machines, lambda: case.run(last))


@pytest.mark.parametrize("exponent", range(2, 10))
def test_what_is_out_of_winograds_bounds_does_not_depend_on_the_machine(machines: list[Machine], exponent: int) -> None:
    case = Conv("winograd_4x4", (72, 73), 2, 72, 8)
    x, dy = torch.rand(2, 72, 72, 73), torch.rand(2, 8, 72, 73)
    x[1, 37:38, 11, 12] *= 2**exponent  # from some power on an image is computed directly
    rest = ([1, 1], [1, 1], [1, 1], 1, False, NUMBERS[case.method])
    assert_same_bits(machines, lambda: [kernels.conv_backward_weights(dy, x, [3, 3], *rest)])


OPERATORS = {"_Pass", "avg_pool", "local", "local_response", "max_pool_index", "max_pool_offset", "norm"}
LAYERS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "batch norm": (lambda: S.BatchNorm2d(18), (2, 18, 140, 131)),
    "batch norm of joined rows": (lambda: S.BatchNorm2d(33), (3, 33, 61, 63)),
    "batch norm of many channels": (lambda: S.BatchNorm2d(1100), (3, 1100, 5, 6)),
    "instance norm": (lambda: S.InstanceNorm2d(3, affine=True), (6, 3, 190, 191)),
    "group norm": (lambda: S.GroupNorm(4, 8), (5, 8, 70, 140)),
    "layer norm": (lambda: S.LayerNorm(700), (70, 700)),
    "layer norm of short rows": (lambda: S.LayerNorm(40), (300, 40)),
    "layer norm of long rows": (lambda: S.LayerNorm(40000), (9, 40000)),
    "layer norm of channels": (lambda: S.LayerNorm2d(24), (2, 24, 50, 61)),
    "RMS norm": (lambda: S.RMSNorm(900), (70, 900)),
    "local response norm": (lambda: S.LocalResponseNorm(5), (2, 20, 31, 33)),
    "max pooling": (lambda: S.MaxPool2d(3, 2, padding=1), (2, 10, 90, 91)),
    "max pooling of wide windows": (lambda: S.MaxPool2d(60, 10), (2, 10, 90, 91)),
    "max pooling in three dimensions": (lambda: S.MaxPool3d(2), (2, 10, 12, 24, 25)),
    "average pooling": (lambda: S.AvgPool2d(3, 2, padding=1), (2, 10, 90, 91)),
    "average pooling of overlapping windows": (lambda: S.AvgPool2d((5, 4), 1), (2, 17, 40, 300)),
    "adaptive average pooling": (lambda: S.AdaptiveAvgPool2d(7), (2, 20, 45, 46)),
    "linear": (lambda: S.Linear(700, 300), (400, 700)),
    "linear of few rows": (lambda: S.Linear(700, 1000), (5, 700)),
    "linear of few outputs": (lambda: S.Linear(300, 20), (9000, 300)),
    "linear of a shallow sum": (lambda: S.Linear(16, 512), (2000, 16)),
    "locally connected": (lambda: S.LocallyConnected2d(12, 20, (10, 13), 3, padding=1), (9, 12, 10, 13)),
}


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_do_not_depend_on_the_machine(machines: list[Machine], name: str, last: bool) -> None:
    make, shape = LAYERS[name]
    if last and len(shape) < 4:
        pytest.skip("two dimensions have one memory order")
    order = channels_last if last else torch.Tensor.contiguous
    layer = make()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    x, seen = order(torch.randn(shape) + 3), order(torch.rand(layer(torch.zeros(shape)).shape) - 0.25)

    def compute() -> list[Tensor]:
        given = x.detach().requires_grad_()
        with prefer("native"):
            y = layer(given)
            assert type(y.grad_fn).__name__.removesuffix("Backward") in OPERATORS  # not torch's
            return [y.detach(), *torch.autograd.grad(y, [given, *layer.parameters()], seen)]

    assert_same_bits(machines, compute)


# rows, inputs, outputs
PRODUCTS = [(400, 700, 300), (5, 700, 1000), (9000, 300, 20), (2000, 16, 512), (1, 900, 130), (20, 5000, 24)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", PRODUCTS, ids=str)
def test_activated_products_do_not_depend_on_the_machine(
    machines: list[Machine], size: tuple[int, int, int], threads: int
) -> None:
    rows, inputs, outputs = size
    x, w, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    torch.set_num_threads(1)
    arguments = [operator_arguments(Activation(name)) for name in ("silu", "gelu_tanh")]
    expected = [kernels.linear(x, w, bias, *given) for given in arguments]
    torch.set_num_threads(threads)
    assert_same_bits(machines, lambda: [kernels.linear(x, w, bias, *given) for given in arguments])
    use_machine(machines[1])
    got = [kernels.linear(x, w, bias, *given) for given in arguments]
    assert all(map(torch.equal, got, expected))


def test_every_instruction_set_is_independent_of_the_machine(machines: list[Machine], isa: str) -> None:
    assert native.isa() == isa
    for number in (1, 3, 6, 8, 10, 17):
        assert_same_bits(machines, lambda case=CONVOLUTIONS[number]: case.run(True))  # type: ignore[misc]
