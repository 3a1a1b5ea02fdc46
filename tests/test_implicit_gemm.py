"""Convolution as an implicit product of matrices: its passes by geometry, fused operations, statistics, bits, and what
it refuses.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from samples import channels_last
from torch import Tensor

import striate.nn as S
from striate.nn import container
from striate.ops import conv as ops
from striate.ops import dispatch
from striate.ops.batch_stats import take_statistics
from striate.ops.conv.geometry import resolve

kernels = torch.ops.striate
IMPLICIT_GEMM = ops.NUMBERS["implicit_gemm"]
FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
Axes = tuple[int, ...]


class Case(NamedTuple):
    size: Axes  # taps on each axis
    input: Axes
    stride: Axes
    dilation: Axes
    before: Axes
    batch: int = 2
    channels: int = 20  # of a group
    filters: int = 17
    groups: int = 1

    @property
    def output(self) -> Axes:
        axes = zip(self.input, self.size, self.stride, self.dilation, self.before, strict=True)
        return tuple((i + 2 * b - (k - 1) * d - 1) // s + 1 for i, k, s, d, b in axes)

    @property
    def rest(self) -> tuple[Any, ...]:
        return self.stride, self.dilation, self.before, self.groups, True, IMPLICIT_GEMM


# Rows of taps that are contiguous and taps that are not; edges within a vector; fewer channels and filters than lanes,
# and more; windows that miss the input; blocks of one position, of several images, and many blocks; input gradients
# with phases of no taps, and of more and fewer destinations; sums in parts of one row of taps, of several taps, and of
# some channels of one.
CASES = [
    Case((1, 1), (9, 7), (1, 1), (1, 1), (0, 0)),
    Case((1, 1), (9, 7), (2, 3), (1, 1), (1, 2), channels=5, filters=40),
    Case((1, 1), (28, 28), (1, 1), (1, 1), (0, 0), batch=5, channels=48, filters=70),
    Case((3, 3), (13, 17), (1, 1), (1, 1), (1, 1)),
    Case((3, 3), (13, 17), (2, 2), (1, 1), (1, 1), channels=33, filters=64),
    Case((3, 3), (12, 11), (1, 2), (2, 3), (2, 3), filters=32),
    Case((7, 7), (40, 33), (2, 2), (1, 1), (3, 3), channels=3, filters=24),
    Case((2, 4), (9, 10), (1, 1), (1, 1), (0, 3), channels=1, filters=1),
    Case((3, 3), (8, 9), (1, 1), (1, 1), (1, 1), channels=4, filters=18, groups=3),
    Case((3, 5), (4, 3), (1, 1), (1, 2), (4, 9), batch=3, channels=2),
    Case((3, 3), (7, 7), (1, 1), (1, 1), (1, 1), batch=3, channels=600, filters=9),
    Case((5,), (50,), (2,), (1,), (2,)),
    Case((3,), (31,), (1,), (2,), (2,), groups=2),
    Case((2, 3, 3), (5, 6, 7), (1, 2, 1), (1, 1, 1), (1, 1, 1), channels=6),
    Case((3, 3, 2), (5, 6, 7), (1, 1, 1), (2, 1, 1), (2, 1, 0), channels=6),
    Case((3, 3), (29, 31), (2, 2), (1, 1), (1, 1), batch=5, channels=70, filters=40),
    Case((2, 5), (9, 40), (4, 3), (1, 2), (0, 4), channels=40, filters=8, groups=2),
    Case((3, 1, 2), (7, 6, 9), (2, 3, 4), (2, 1, 2), (2, 0, 1), channels=6, filters=20),
    Case((5, 5), (9, 10), (1, 1), (1, 1), (2, 2), channels=50, filters=40),
    Case((3, 3), (9, 9), (2, 2), (1, 1), (1, 1), channels=20, filters=400),
    Case((3, 3), (8, 9), (1, 1), (1, 1), (1, 1), channels=150, filters=20, groups=2),
    Case((3, 3, 3), (4, 5, 6), (1, 2, 1), (1, 1, 1), (1, 1, 1), channels=120, groups=2),
    Case((1, 1), (6, 20), (1, 1), (1, 1), (0, 0), channels=1500, filters=33),
]


class Given(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor
    dy: Tensor
    residual: Tensor
    input_bias: Tensor  # of backward_data, which is a transposed convolution too


def tensors(case: Case, make: Any) -> Given:
    y = (case.batch, case.filters * case.groups, *case.output)
    weight = make((case.filters * case.groups, case.channels, *case.size))
    x = (case.batch, case.channels * case.groups, *case.input)
    return Given(make(x), weight, make(y[1:2]), make(y), make(y), make(x[1:2]))


def implicit_gemm(case: Case, given: Given, dtype: torch.dtype) -> dict[str, Tensor]:
    x, w, b, dy, r, input_bias = (t.to(dtype) for t in given)
    x, dy, r = channels_last(x), channels_last(dy), channels_last(r)
    packed = kernels.conv_pack(w, case.groups, IMPLICIT_GEMM)
    measured, statistics = kernels.conv_measured(x, w, b, case.output, *case.rest)
    return {
        "forward": kernels.conv(x, w, b, case.output, *case.rest),
        "without bias": kernels.conv(x, channels_last(w), None, case.output, *case.rest),
        "fused": kernels.conv_fused(x, w, packed, b, r, 0, -20.0, 30.0, case.output, *case.rest),
        "as it is": kernels.conv_fused(x, w, None, b, None, 0, -float("inf"), 3.0, case.output, *case.rest),
        "measured": measured,
        "statistics": statistics,
        "weight": kernels.conv_backward_weights(dy, x, case.size, *case.rest),
        "weight by channels": kernels.conv_backward_weights(dy, x, case.size, *case.rest, True),
        "input": kernels.conv_backward_data(dy, w, None, case.input, *case.rest),
        "input with bias": kernels.conv_backward_data(dy, channels_last(w), input_bias, case.input, *case.rest),
    }


def exactly(case: Case, given: Given) -> dict[str, Tensor]:
    x, w, b, dy, r, input_bias = (t.double() for t in given)
    x.requires_grad_(), w.requires_grad_()
    plain = FUNCTIONS[len(case.size)](x, w, None, case.stride, case.before, case.dilation, case.groups)
    dx, dw = torch.autograd.grad(plain, (x, w), dy)
    plain = plain.detach()
    y = plain + b.reshape(-1, *[1] * len(case.size))
    of_channel = y.transpose(0, 1).flatten(1)
    return {
        "forward": y,
        "without bias": plain,
        "fused": (y + r).clamp(-20, 30),
        "as it is": y.clamp(max=3),
        "measured": y,
        "statistics": torch.stack([of_channel.mean(1), of_channel.var(1, unbiased=False)]),
        "weight": dw,
        "weight by channels": dw,
        "input": dx,
        "input with bias": dx + input_bias.reshape(-1, *[1] * len(case.size)),
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_numbers_give_exact_sums(case: Case, isa: str) -> None:
    given = tensors(case, lambda shape: torch.randint(-5, 6, shape).float())
    expected = exactly(case, given)
    assert (expected["forward"] != 0).double().mean() > 0.5
    for dtype in (torch.float32, torch.float64):
        for name, y in implicit_gemm(case, given, dtype).items():
            if name == "statistics":
                assert torch.allclose(y, expected[name], rtol=1e-5, atol=1e-4)
            else:
                assert torch.equal(y.double(), expected[name]), (name, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_random_numbers_give_sums_to_the_digits_of_their_type_and_what_was_written_is_measured(
    case: Case, isa: str
) -> None:
    given = tensors(case, torch.randn)
    expected = exactly(case, given)
    for dtype, most in ((torch.float64, 1e-14), (torch.float32, 2e-6)):
        got = implicit_gemm(case, given, dtype)
        for name in expected.keys() - {"statistics"}:
            error = (got[name].double() - expected[name]).square().mean().sqrt() / expected[name].square().mean().sqrt()
            assert error <= most, (name, dtype, float(error))
        of_these = got["measured"].double().transpose(0, 1).flatten(1)
        size = of_these.square().mean(1).sqrt()
        assert ((got["statistics"][0] - of_these.mean(1)).abs() <= 3e-7 * size).all()
        assert torch.allclose(got["statistics"][1], of_these.var(1, unbiased=False), rtol=1e-5, atol=1e-9)
        assert torch.equal(got["measured"], got["forward"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_are_the_same_on_1_2_3_and_8_threads(case: Case) -> None:
    given = tensors(case, torch.randn)
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(implicit_gemm(case, given, torch.float32))
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


# Taps, stride, dilation and padding of an axis: all strides with windows that have more and fewer taps, and taps whose
# distance is and is not a multiple of the stride.
AXES = list(itertools.product((1, 2, 3, 5), (1, 2, 3, 4), (1, 2, 3), (0, 1, 4)))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("input", [(20,), (9, 14), (6, 9, 13)], ids=str)
def test_the_input_gradient_is_exact_for_every_stride_dilation_and_padding(
    input: Axes, groups: int, isa: str
) -> None:
    nonzero = []
    for number in range(len(AXES)):
        # The other axes have other taps and strides.
        axes = [AXES[number * factor % len(AXES)] for factor in (1, 5, 11)[: len(input)]]
        size, stride, dilation, before = zip(*axes, strict=True)
        case = Case(size, input, stride, dilation, before, channels=3, filters=5, groups=groups)
        if min(case.output) < 1:
            continue
        given = tensors(case, lambda shape: torch.randint(-5, 6, shape).double())
        expected = exactly(case, given)["input with bias"]
        dx = kernels.conv_backward_data(
            channels_last(given.dy).float(), given.weight.float(), given.input_bias.float(), input, *case.rest
        )
        assert torch.equal(dx.double(), expected), case
        nonzero.append((expected != 0).double().mean())
    assert len(nonzero) > 100 and torch.stack(nonzero).mean() > 0.5


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_nan_and_infinity_in_a_gradient_reach_only_the_inputs_that_were_seen(stride: int) -> None:
    dy, w = channels_last(torch.randn(1, 20, 5, 5)), torch.randn(20, 4, 3, 3)
    dy[0, 7, 2, 2], dy[0, 3, 0, 4] = float("nan"), float("inf")
    given = [4 * stride + 2] * 2
    for spoilt in (False, True):
        if spoilt:
            w[5, 2, 0, 0] = float("nan")  # what meets the padding takes no part
        rest = [stride] * 2, [1, 1], [1, 1]
        dx = kernels.conv_backward_data(dy, w, None, given, *rest, 1, True, IMPLICIT_GEMM)
        expected = F.conv_transpose2d(dy, w, None, stride, 1, 1)
        assert torch.equal(dx.isnan(), expected.isnan()) and torch.equal(dx.isinf(), expected.isinf())
        assert torch.allclose(dx, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert 0 < dx.isfinite().double().mean() < 1


def test_nan_and_infinity_reach_only_the_outputs_that_see_them() -> None:
    x, w = channels_last(torch.randn(1, 4, 9, 9)), torch.randn(20, 4, 3, 3)
    x[0, 1, 4, 4], x[0, 2, 0, 8] = float("nan"), float("inf")
    y = ops.conv(x, w, padding=1, dims=2, method="implicit_gemm")
    assert torch.equal(y.isnan()[0, 0], F.conv2d(x, w, padding=1).isnan()[0, 0])
    assert torch.equal(y.isfinite(), F.conv2d(x, w, padding=1).isfinite())


def call(
    shape: Axes, weight: Axes, map: str = "forward", last: bool = True, strict: bool = False, **arguments: Any
) -> ops.ConvProblem:
    rest = (
        arguments.get("stride", 1),
        arguments.get("padding", 0),
        arguments.get("dilation", 1),
        arguments.get("groups", 1),
    )
    return ops.ConvProblem(
        map, resolve(shape, weight, len(weight) - 2, *rest, "test"), last, torch.float32, None, None, strict
    )


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (call((1, 4, 9, 9), (4, 4, 3, 3), strict=True), None),
        (call((1, 4, 9, 9, 9), (4, 4, 3, 3, 3)), None),
        (call((1, 4, 9, 9), (4, 4, 3, 3), last=False), "it is for channels order"),
        (call((1, 4, 9, 9), (4, 4, 3, 3), "backward_weights", stride=2), None),
        (call((1, 4, 9, 9), (4, 4, 3, 3), "backward_data", stride=2), None),
        (call((1, 1, 300, 300), (1, 1, 257, 256)), "it is for outputs that see at most a million values"),
        (call((0, 4, 9, 9), (4, 4, 3, 3)), "there is nothing to compute"),
    ],
    ids=str,
)
def test_what_it_cannot_compute_it_refuses_with_a_reason(one: ops.ConvProblem, reason: str | None) -> None:
    assert next(m for m in ops.METHODS if m.name == "implicit_gemm").refuse(one) == reason


def test_operators_called_past_the_checks_refuse_too() -> None:
    x, w = channels_last(torch.randn(1, 2, 12, 12)), torch.randn(3, 2, 3, 3)
    dy, ones, zeros = channels_last(torch.randn(1, 3, 5, 5)), [1, 1], [0, 0]
    with pytest.raises(RuntimeError, match="implicit_gemm takes NHWC alone"):
        kernels.conv(x, w, None, [10, 10], ones, ones, zeros, 1, False, IMPLICIT_GEMM)
    with pytest.raises(RuntimeError, match="implicit_gemm takes NHWC alone"):
        kernels.conv_backward_data(dy, w, None, [12, 12], [2, 2], ones, zeros, 1, False, IMPLICIT_GEMM)
    with pytest.raises(RuntimeError, match="implicit_gemm takes NHWC alone"):
        kernels.conv_backward_weights(dy, x, [3, 3], [2, 2], ones, zeros, 1, False, IMPLICIT_GEMM)
    with pytest.raises(RuntimeError, match="a destination sees at most a million values"):
        kernels.conv(
            torch.randn(1, 1, 300, 300),
            torch.randn(1, 1, 257, 256),
            None,
            [44, 45],
            ones,
            ones,
            zeros,
            1,
            True,
            IMPLICIT_GEMM,
        )


def test_a_norm_takes_the_statistics_of_the_convolution_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, norm = S.Conv2d(16, 33, 1, bias=False), S.BatchNorm2d(33)
    x = channels_last(torch.randn(4, 16, 20, 21) + 3)
    taken = []
    monkeypatch.setattr(container, "take_statistics", lambda y: taken.append(take_statistics(y)) or taken[-1])
    with dispatch.prefer("implicit_gemm"):
        z, y = S.Sequential(conv, norm)(x), conv(x)
    assert [statistics.shape for statistics in taken] == [(2, 33)]
    expected = S.BatchNorm2d(33)(y.detach().clone(memory_format=torch.preserve_format))
    assert (z - expected).abs().max() <= 1e-5 * expected.abs().max()
