"""The core of products of matrices (csrc/gemm), through the linear operators and the pointwise method."""

from __future__ import annotations

import itertools
from math import inf

import pytest
import torch
import torch.nn.functional as F
from samples import channels_last
from torch import Tensor

from striate import native, ops
from striate.native import isa as isa_in_use

kernels = torch.ops.striate
# Around the sizes of tiles (6 or 14 rows, 2 vectors), of sums in registers (256) and of products that are not packed.
ROWS, INPUTS, OUTPUTS = (1, 6, 7, 17, 100), (1, 8, 17, 300, 1030), (1, 7, 16, 33, 130)


def whole(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Small whole numbers, whose products have exact sums."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_whole_numbers_are_exact(isa: str, dtype: torch.dtype) -> None:
    assert isa_in_use() == isa
    for rows, inputs, outputs in itertools.product(ROWS, INPUTS, OUTPUTS):
        x, w = whole(rows, inputs, dtype=dtype), whole(outputs, inputs, dtype=dtype, seed=1)
        bias, dy = whole(outputs, dtype=dtype, seed=2), whole(rows, outputs, dtype=dtype, seed=3)
        y = kernels.linear(x, w, bias, 0, -5.0, inf)
        case = (rows, inputs, outputs)
        assert torch.equal(y, (x.double() @ w.double().T + bias).clamp(min=-5).to(dtype)), case
        assert torch.equal(kernels.linear_backward_data(dy, w), (dy.double() @ w.double()).to(dtype)), case
        assert torch.equal(kernels.linear_backward_weights(dy, x), (dy.double().T @ x.double()).to(dtype)), case


def test_long_sums_of_a_small_result_are_cut_in_parts(isa: str) -> None:
    dy, x = whole(40_000, 20, dtype=torch.float32), whole(40_000, 30, dtype=torch.float32, seed=1)
    assert torch.equal(kernels.linear_backward_weights(dy, x), (dy.double().T @ x.double()).float())


# images, channels, filters, height, width, stride
POINTWISE = [
    *((2, 5, 7, 9, 8, 1), (3, 16, 33, 7, 7, 2), (5, 40, 20, 13, 11, 3), (1, 3, 64, 30, 30, 1)),
    *((9, 20, 12, 5, 6, 2), (7, 300, 40, 7, 7, 1), (4, 1500, 8, 3, 5, 1), (5, 40, 3, 9, 9, 1)),
]


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pointwise_convolutions_of_whole_numbers_are_exact(isa: str, dtype: torch.dtype, last: bool) -> None:
    order = channels_last if last else torch.Tensor.contiguous
    for images, channels, filters, height, width, stride in POINTWISE:
        x = order(whole(images, channels, height, width, dtype=dtype))
        w, bias = whole(filters, channels, 1, 1, dtype=dtype, seed=1), whole(filters, dtype=dtype, seed=2)
        results = []
        for own in (True, False):
            given = [t.clone().requires_grad_() for t in (x, w, bias)]
            if own:
                y = ops.conv.conv(*given, stride=stride, dims=2, method="pointwise")
            else:
                y = F.conv2d(*given, stride=stride)
            dy = order(whole(*y.shape, dtype=dtype, seed=3))
            results.append([y.detach(), *torch.autograd.grad(y, given, dy)])
        for got, expected in zip(*results, strict=True):
            assert torch.equal(got, expected) and got.count_nonzero() > 0


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_pointwise_adds_a_residual_and_clamps(last: bool) -> None:
    order = channels_last if last else torch.Tensor.contiguous
    x, w = order(whole(2, 20, 9, 10, dtype=torch.float32)), whole(33, 20, 1, 1, dtype=torch.float32, seed=1)
    bias, residual = whole(33, dtype=torch.float32, seed=2), order(whole(2, 33, 9, 10, dtype=torch.float32, seed=3))
    one, zero = [1, 1], [0, 0]
    number = ops.conv.NUMBERS["pointwise"]
    y = kernels.conv_fused(x, w, None, bias, residual, 0, 0.0, 6.0, [9, 10], one, one, zero, 1, last, number)
    assert torch.equal(y, (F.conv2d(x, w, bias) + residual).clamp(0, 6)) and y.count_nonzero() > 0


# rows around a tile and a run of moments, products with few rows or columns, sums in parts, and groups
MEASURED = [
    *((1, 20, 33, 95, 2, 1), (3, 64, 40, 12, 11, 1), (1, 8, 9, 49, 1, 1), (2, 16, 24, 31, 30, 2)),
    *((1, 3000, 12, 6, 7, 1), (1, 700, 5, 2, 2, 1), (2, 400, 3, 20, 20, 1), (2, 300, 130, 20, 20, 1)),
]


@pytest.mark.parametrize("groups", [1, 3])
def test_pointwise_measures_the_channels_that_it_writes(isa: str, groups: int) -> None:
    for images, channels, filters, height, width, stride in MEASURED:
        for dtype in (torch.float32, torch.float64):
            x = channels_last(torch.randn(images, groups * channels, height, width, dtype=dtype) + 3)
            w = torch.randn(groups * filters, channels, 1, 1, dtype=dtype)
            bias = torch.randn(groups * filters, dtype=dtype)
            output = [(height - 1) // stride + 1, (width - 1) // stride + 1]
            rest = (output, [stride] * 2, [1, 1], [0, 0], groups, True, ops.conv.NUMBERS["pointwise"])
            y, (mean, variance) = kernels.conv_measured(x, w, bias, *rest)
            assert torch.equal(y, kernels.conv(x, w, bias, *rest))
            of_channel = y.double().transpose(0, 1).flatten(1)
            size = of_channel.square().mean(1).sqrt()
            digits = 3e-7 if dtype is torch.float32 else 1e-14
            assert ((mean - of_channel.mean(1)).abs() <= digits * size).all()
            assert torch.allclose(variance, of_channel.var(1, unbiased=False), rtol=40 * digits, atol=1e-9)


def test_the_pointwise_kernel_measures_in_channels_last_alone() -> None:
    x, w = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 1, 1)
    rest = ([4, 4], [1, 1], [1, 1], [0, 0], 1, False, ops.conv.NUMBERS["pointwise"])
    message = "striate: only winograd, implicit_gemm, and pointwise in NHWC measure what they write"
    with pytest.raises(RuntimeError, match=message):
        kernels.conv_measured(x, w, None, *rest)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_gradient_by_x_that_is_a_transposed_convolution_adds_its_bias_everywhere(stride: int) -> None:
    w, bias = whole(12, 5, 1, 1, dtype=torch.float32), whole(5, dtype=torch.float32, seed=1)
    for order in (torch.Tensor.contiguous, channels_last):
        dy = order(whole(3, 12, 6, 7, dtype=torch.float32, seed=2))
        expected = F.conv_transpose2d(dy, w, bias, stride=stride)
        rest = ([stride] * 2, [1, 1], [0, 0], 1, order is channels_last, ops.conv.NUMBERS["pointwise"])
        dx = kernels.conv_backward_data(dy, w, bias, list(expected.shape[2:]), *rest)
        assert torch.equal(dx, expected) and dx.count_nonzero() > 0


def test_the_pointwise_kernel_refuses_other_windows() -> None:
    x, w = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 1, 1)
    rest = ([1, 1], [1, 1], [1, 1], 1, False, ops.conv.NUMBERS["pointwise"])
    with pytest.raises(RuntimeError, match="striate: pointwise is for one tap, no padding"):
        kernels.conv(x, w, None, [6, 6], *rest)
    with pytest.raises(RuntimeError, match="striate: pointwise is for one tap, no padding"):
        kernels.conv_backward_weights(torch.ones(1, 2, 2, 2), x, [3, 3], [1, 1], [1, 1], [0, 0], *rest[3:])


def test_an_error_against_float64_is_as_small_as_torchs(isa: str) -> None:
    torch.manual_seed(0)
    for rows, inputs, outputs in ((64, 3000, 50), (5, 3000, 50), (3000, 70, 90)):
        x, w, dy = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        for own, a, b in (
            (kernels.linear(x, w, None, 0, -inf, inf), x, w.T),
            (kernels.linear_backward_data(dy, w), dy, w),
            (kernels.linear_backward_weights(dy, x), dy.T, x),
        ):
            exact = a.double() @ b.double()
            assert (own - exact).square().mean() <= 4 * (a @ b - exact).square().mean()


def test_nan_and_infinity_stay_in_their_rows_and_columns() -> None:
    for rows in (1, 5, 40):
        x, w = torch.ones(rows, 300), torch.ones(60, 300)
        x[rows // 2, 7], w[3, 299] = torch.inf, torch.nan
        y = kernels.linear(x, w, None, 0, 0.0, inf)
        expected = torch.full((rows, 60), 300.0)
        expected[rows // 2], expected[:, 3] = torch.inf, torch.nan
        torch.testing.assert_close(y, expected, equal_nan=True)


def test_the_rate_of_multiply_adds_counts_every_thread(isa: str) -> None:
    tile = {"avx512": 14 * 32, "avx2": 6 * 16, "baseline": 6 * 8}[native.isa()]
    for doubles in (False, True):
        of_a_tile = kernels.multiply_adds(1, doubles) / torch.get_num_threads()
        assert of_a_tile % (tile // (1 + doubles)) == 0 and of_a_tile > 0
        assert kernels.multiply_adds(3, doubles) == 3 * torch.get_num_threads() * of_a_tile
    with pytest.raises(RuntimeError, match="striate: a measurement has fewer than 2\\^32 tiles"):
        kernels.multiply_adds(-1, False)
