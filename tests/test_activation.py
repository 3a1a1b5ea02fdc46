"""The activations behind sums (csrc/kernels/activation.cpp): their values, and that every kernel applies them alike."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from math import inf, nan
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from samples import channels_last
from torch import Tensor

from striate import native
from striate.ops.activation import (
    NAMES,
    NONE,
    Activation,
    activated,
    activated_in_place,
    clamp,
    from_arguments,
    gradient,
    operator_arguments,
    result_tells_gradient,
)
from striate.ops.conv import NUMBERS

kernels = torch.ops.striate
ALL = [
    *(clamp(0.0), clamp(-1.0, 2.5), Activation("leaky_relu", (0.1,)), Activation("leaky_relu", (-0.5,))),
    *map(Activation, NAMES[2:]),
]
TYPES = (torch.float32, torch.float64)


def alone(z: Tensor, activation: Activation) -> Tensor:
    """The kernels' activation of single values: of sums of one product by 1."""
    one = torch.ones(1, 1, dtype=z.dtype)
    return kernels.linear(z.reshape(-1, 1), one, None, *operator_arguments(activation)).reshape(z.shape)


def torchs(z: Tensor, activation: Activation) -> Tensor:
    """torch's activation by its own kernels: on some processors it leaves float32 GELU to oneDNN, whose GELU of
    infinity is NaN.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flags tell of other devices
        with torch.backends.mkldnn.flags(enabled=False):
            return activated(z, activation)


def whole(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ----------------------------------------------------------------------------------------------------------- the values


def test_the_list_names_what_the_core_has() -> None:
    assert native.ACTIVATIONS == NAMES and {activation.name for activation in ALL} == set(NAMES)
    assert [from_arguments(*operator_arguments(activation)) for activation in (*ALL, NONE)] == [*ALL, NONE]
    with pytest.raises(RuntimeError, match="striate: an activation"):
        kernels.linear(torch.ones(1, 1), torch.ones(1, 1), None, len(NAMES), 0.0, 0.0)


RANGES = ((-1e-3, 1e-3), (-1.0, 1.0), (-4.0, 4.0), (-20.0, 20.0), (-100.0, 100.0))


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_an_error_against_float64_is_as_small_as_torchs(isa: str, activation: Activation) -> None:
    for least, most in RANGES:
        z = torch.empty(2**16).uniform_(least, most)
        exact = activated(z.double(), activation)
        errors = [(f(z, activation).double() - exact).abs() for f in (alone, torchs)]
        assert errors[0].max() <= 2 * errors[1].max() and errors[0].norm() <= 2 * errors[1].norm()
        assert exact.count_nonzero() > exact.numel() / 4


def test_an_error_in_float64_is_as_small_as_torchs(isa: str) -> None:
    mpmath = pytest.importorskip("mpmath")  # comes with torch
    with mpmath.workdps(40):
        formulas: dict[str, Callable[[Any], Any]] = {
            "silu": lambda z: z / (1 + mpmath.exp(-z)),
            "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
            "gelu_tanh": lambda z: z * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + 0.044715 * z**3))) / 2,
        }
        for (name, formula), (least, most) in itertools.product(formulas.items(), RANGES[1:]):
            z = torch.empty(300, dtype=torch.float64).uniform_(least, most)
            exact = [formula(mpmath.mpf(value)) for value in z.tolist()]
            own, torchs = (
                max(abs(got - value) for got, value in zip(f(z, Activation(name)).tolist(), exact, strict=True))
                for f in (alone, activated)
            )
            assert own <= 2 * torchs, (name, least, float(own), float(torchs))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ALL, ids=str)
def test_nan_and_infinity_are_where_torch_has_them(isa: str, activation: Activation, dtype: torch.dtype) -> None:
    huge = torch.finfo(dtype).max
    special = [inf, -inf, nan, 0.0, -0.0, huge, -huge, 1e-40, -1e-40, 1e-320, -89.0, -104.5, -746.0, 710.5, 40.0]
    for count in (1, 3, 15, 33):  # partial vectors and whole ones
        z = torch.tensor(special, dtype=dtype).repeat(3)[:count]
        got, expected = alone(z, activation), torchs(z, activation)
        assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())
        torch.testing.assert_close(got, expected, equal_nan=True)
    assert z.isnan().any() and z.isinf().any()


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_by_torchs_operators_too(activation: Activation) -> None:
    z = torch.linspace(-5, 5, 101, dtype=torch.float64).requires_grad_()
    y = activated(z, activation)
    assert torch.equal(activated_in_place(z.detach().clone(), activation), y.detach())
    (expected,) = torch.autograd.grad(y.sum(), z)
    given = y.detach() if result_tells_gradient(activation) else z.detach()
    assert torch.equal(gradient(torch.ones_like(given), given, activation), expected)


# ------------------------------------------------------------------------------------------ products: every kind of one

# rows, inputs, outputs
PRODUCTS = [
    *((1, 1, 1), (1, 300, 37), (3, 700, 130), (16, 1030, 45), (50, 700, 3), (200, 5, 1)),  # few rows or few outputs
    *((17, 8, 33), (100, 300, 130), (20, 600, 16), (35, 0, 9)),  # packed; sums of two parts, and of nothing
    (20, 4100, 20),  # a small result, whose sums are cut in parts
    (700, 40, 256),  # beyond the caches of the smallest machine
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ALL, ids=str)
def test_a_product_activates_every_sum_once(isa: str, activation: Activation, dtype: torch.dtype) -> None:
    for rows, inputs, outputs in PRODUCTS:
        x, w = whole(rows, inputs, dtype=dtype) / 8, whole(outputs, inputs, dtype=dtype, seed=1) / 8
        bias = whole(outputs, dtype=dtype, seed=2) / 8
        for b in (bias, None):
            sums = kernels.linear(x, w, b, *operator_arguments(NONE))
            y = kernels.linear(x, w, b, *operator_arguments(activation))
            assert torch.equal(y, alone(sums, activation)), (rows, inputs, outputs)
            exact = F.linear(x.double(), w.double(), None if b is None else b.double())
            assert torch.equal(sums.double(), exact)  # the sums are exact
            torch.testing.assert_close(y, activated(exact, activation).to(dtype))
        assert inputs < 2 or y.unique().numel() > 2 or y.numel() == 1


# ------------------------------------------------------------------------------------------------------- convolutions


class Case(NamedTuple):
    methods: tuple[str, ...]
    input: tuple[int, ...]
    channels: int  # of a group
    filters: int
    groups: int = 1
    size: int = 3
    stride: int = 1
    batch: int = 2


SPATIAL = ("direct", "implicit_gemm", "winograd_4x4", "winograd_2x2")
CASES = [
    Case(SPATIAL, (9, 11), 5, 7),
    Case(SPATIAL, (13, 6), 20, 33),
    Case(SPATIAL, (12, 13), 16, 9, groups=2),
    Case(SPATIAL, (17,), 9, 18),
    Case(("direct", "implicit_gemm"), (10, 11), 3, 17, stride=2),
    Case(("direct",), (5, 6, 7), 3, 5),
    Case(("direct",), (9, 11), 4, 3),  # columns in lanes, finished by blocks
    Case(("direct",), (9, 10), 2, 3, groups=2),  # and all behind the last
    Case(("direct",), (4, 700), 1, 2, size=5),  # several blocks a row
    Case(("direct",), (4, 700), 9, 40, batch=1),
    Case(("winograd_4x4",), (12, 20), 64, 72, batch=1),  # few blocks: their weights stay in the cache
    Case(("depthwise",), (9, 10), 1, 1, groups=21),
    Case(("depthwise",), (9, 10), 1, 1, groups=3),
    Case(("depthwise",), (4, 700), 1, 2, groups=2),
    Case(("depthwise",), (8, 9), 2, 2, groups=5, stride=2),
    Case(("pointwise",), (9, 7), 20, 33, size=1),
    Case(("pointwise",), (9, 7), 20, 12, size=1, stride=2),
    Case(("pointwise", "implicit_gemm"), (8, 9), 16, 9, groups=2, size=1),
]
EVERY = [(case, method) for case in CASES for method in case.methods]


def fused(case: Case, method: str, last: bool, dtype: torch.dtype, activation: Activation, adds: bool) -> Tensor:
    axes = len(case.input)
    order = channels_last if last else torch.Tensor.contiguous
    before = case.size // 2
    output = [(i + 2 * before - case.size) // case.stride + 1 for i in case.input]
    x = order(whole(case.batch, case.groups * case.channels, *case.input, dtype=dtype) / 8)
    w = whole(case.groups * case.filters, case.channels, *[case.size] * axes, dtype=dtype, seed=1) / 8
    bias = whole(case.groups * case.filters, dtype=dtype, seed=2) / 8
    residual = order(whole(case.batch, case.groups * case.filters, *output, dtype=dtype, seed=3) / 8)
    geometry = [case.stride] * axes, [1] * axes, [before] * axes, case.groups, last, NUMBERS[method]
    after = (bias, residual) if adds else (None, None)
    return kernels.conv_fused(x, w, None, *after, *operator_arguments(activation), output, *geometry)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("case", "method"), EVERY, ids=str)
def test_a_convolution_activates_every_sum_once(isa: str, case: Case, method: str, last: bool) -> None:
    if method == "implicit_gemm" and not last:
        pytest.skip("implicit_gemm is for channels_last")
    for dtype, adds in itertools.product(TYPES, (False, True)):
        sums = fused(case, method, last, dtype, NONE, adds)
        assert sums.unique().numel() > 9
        for activation in ALL:
            y = fused(case, method, last, dtype, activation, adds)
            assert torch.equal(y, alone(sums, activation)), (activation, dtype, adds)


@pytest.mark.parametrize("name", ["direct", "implicit_gemm", "winograd_4x4"])
def test_the_edges_that_a_weight_spoilt_are_activated_too(name: str) -> None:
    x, w, bias = channels_last(torch.randn(2, 16, 9, 9)), torch.randn(8, 16, 3, 3), torch.randn(8)
    w[3, 5, 0, 2] = inf
    y = F.conv2d(x, w, bias, padding=1)
    rest = [9, 9], [1, 1], [1, 1], [1, 1], 1, True, NUMBERS[name]
    for activation in ALL:
        got = kernels.conv_fused(x, w, None, bias, None, *operator_arguments(activation), *rest)
        expected = activated(y, activation)
        assert torch.equal(got.isnan(), expected.isnan())
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4, equal_nan=True)


# -------------------------------------------------------------------------------------------- the gradient of operators


@pytest.mark.parametrize("activation", [NONE, *ALL], ids=str)
def test_the_operator_has_the_gradient_of_its_activation(activation: Activation) -> None:
    given = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((4, 9), (5, 9), (5,))]
    dy = torch.randn(4, 5, dtype=torch.float64)
    results = []
    for own in (True, False):
        y = kernels.linear(*given, *operator_arguments(activation)) if own else activated(F.linear(*given), activation)
        results.append([y.detach(), *torch.autograd.grad(y, given, dy)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert results[0][1].count_nonzero() > 0
