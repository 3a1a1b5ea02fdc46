"""Normalization kernels against the reference, in every layout, on every instruction set and number of threads."""

from __future__ import annotations

import copy
import ctypes
import math
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import memory
import pytest
import torch
import torch.nn.functional as F
from samples import NORM, NormSample, channels_last

import striate.nn as S
import striate.nn.functional as SF
from striate import native
from striate._torch import Observer
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.ops import dispatch, local_response
from striate.ops import norm as ops
from striate.ops.dispatch import explain_choice, prefer
from striate.ops.layout import is_channels_last
from striate.ops.norm import functions
from striate.ops.precision import precision
from striate.reference import norm as reference

Layout = Callable[[torch.Tensor], torch.Tensor]
LAYOUTS: dict[str, Layout] = {"planes": torch.Tensor.contiguous, "channels_last": channels_last}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@pytest.fixture(autouse=True)
def kernels_first() -> Iterator[None]:
    """Runs the native kernels even for small calls, which would otherwise go to torch."""
    with prefer("native"):
        yield


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return DTYPES[request.param]


# --------------------------------------------------- a sample by the kernels, by the reference and in plain float32


class Call(NamedTuple):
    """The input tensors of a sample and the output gradient dy."""

    x: torch.Tensor
    dy: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None


class Results(NamedTuple):
    """The output and the gradients; None where there is no scale or shift."""

    y: torch.Tensor
    dx: torch.Tensor
    dweight: torch.Tensor | None
    dbias: torch.Tensor | None


class View(NamedTuple):
    """A norm as the reference computes it: x viewed as ``shape``, reduced over ``dims``, scaled by axes ``scaled``."""

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    scaled: tuple[int, ...]
    centered: bool
    eps: float


def make(sample: NormSample, dtype: torch.dtype, mean: float = 3.0, deviation: float = 2.0) -> Call:
    chance = torch.Generator().manual_seed(5)
    x, dy, weight, bias = (
        torch.randn(shape, generator=chance, dtype=torch.float64)
        for shape in (sample.shape, sample.shape, sample.scaled, sample.scaled)
    )
    given = (x * deviation + mean, dy, weight + 2 if sample.has_weight else None, bias if sample.has_bias else None)
    return Call(*(None if t is None else t.to(dtype) for t in given))  # type: ignore[arg-type]


def run(sample: NormSample, call: Call, layout: Layout = torch.Tensor.contiguous) -> Results:
    x, weight, bias = (
        None if t is None else t.detach().requires_grad_() for t in (layout(call.x), call.weight, call.bias)
    )
    assert x is not None
    y = sample.native_function(x, weight, bias)
    found = iter(torch.autograd.grad(y, [t for t in (x, weight, bias) if t is not None], layout(call.dy)))
    return Results(y.detach(), *(None if t is None else next(found) for t in (x, weight, bias)))  # type: ignore[arg-type]


def view_of(sample: NormSample, dtype: torch.dtype) -> View:
    shape, a = sample.shape, sample.arguments
    eps = a.get("eps", torch.finfo(dtype).eps if sample.function == "rms_norm" else 1e-5)
    if sample.function in ("layer_norm", "rms_norm"):
        last = tuple(range(len(shape) - len(a["normalized_shape"]), len(shape)))
        return View(shape, last, last, sample.function == "layer_norm", eps)
    n, c, *axes = shape
    if sample.function == "layer_norm_2d":
        return View(shape, (1,), (1,), True, eps)
    if sample.function == "group_norm":
        return View(
            (n, a["num_groups"], c // a["num_groups"], *axes), tuple(range(2, len(shape) + 1)), (1, 2), True, eps
        )
    if sample.function == "instance_norm":
        return View(shape, tuple(range(2, len(shape))), (1,), True, eps)
    batches = a.get("batches", 1)
    return View((batches, n // batches, c, *axes), (1, *range(3, len(shape) + 1)), (2,), True, eps)


def in_shape(
    sample: NormSample, y: torch.Tensor, dx: torch.Tensor, dweight: torch.Tensor, dbias: torch.Tensor
) -> Results:
    of_scale = [
        d.reshape(sample.scaled) if has else None for d, has in ((dweight, sample.has_weight), (dbias, sample.has_bias))
    ]
    return Results(y.reshape(sample.shape), dx.reshape(sample.shape), *of_scale)


def by_reference(sample: NormSample, call: Call) -> Results:
    """Computes output and gradients by the reference formulas, all in float64."""
    x, dy, weight, bias = (None if t is None else t.double() for t in call)
    assert x is not None and dy is not None
    if sample.function == "local_response_norm":
        a = sample.arguments
        return Results(
            reference.local_response_norm(x, **a), reference.local_response_norm_backward(dy, x, **a), None, None
        )
    view = view_of(sample, call.x.dtype)
    mean, variance = (None, None) if sample.measures else sample.running(call.x.dtype)
    more: Any = {"eps": view.eps, "scaled": view.scaled, "mean": mean, "variance": variance, "centered": view.centered}
    x, dy = x.reshape(view.shape), dy.reshape(view.shape)
    y = reference.normalize(x, view.dims, weight, bias, **more)
    return in_shape(sample, y, *reference.normalize_backward(dy, x, view.dims, weight, **more))


def statistics_of(x: torch.Tensor, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    mean = x.mean(view.dims, keepdim=True) * view.centered
    return mean, (x - mean).square().mean(view.dims, keepdim=True)


def in_float32(sample: NormSample, call: Call) -> Results:
    """Computes the textbook formulas in float32, one torch operation at a time, each rounded to float32.

    Only statistics are more exact: mean and variance, and in backward mean(γ·g) and mean(γ·g·x̂), are computed in
    float64 and rounded once. So is x - μ, which would lose all digits where the mean is large. dγ and dβ are plain
    float32 sums.
    """
    if sample.function == "local_response_norm":
        x = call.x.clone().requires_grad_()
        y = F.local_response_norm(x, **sample.arguments)
        return Results(y.detach(), torch.autograd.grad(y, x, call.dy)[0], None, None)
    view = view_of(sample, torch.float32)
    x, dy = call.x.reshape(view.shape), call.dy.reshape(view.shape)
    scale_shape = [size if d in view.scaled else 1 for d, size in enumerate(view.shape)]
    if sample.measures:
        mean, variance = statistics_of(x.double(), view)
    else:
        mean, variance = (r.double().reshape(scale_shape) for r in sample.running())
    rstd = (variance + view.eps).rsqrt().float()
    x_hat = (x.double() - mean).float() * rstd
    weight, bias = (
        torch.full((), v) if p is None else p.reshape(scale_shape) for v, p in ((1.0, call.weight), (0.0, call.bias))
    )
    g = dy * weight
    if sample.measures:
        product = (g.double() * x_hat.double()).mean(view.dims, keepdim=True).float()
        gradient = g.double().mean(view.dims, keepdim=True).float() if view.centered else 0.0
        dx = rstd * (g - gradient - x_hat * product)
    else:
        dx = rstd * g
    dweight, dbias = (dy * x_hat).sum_to_size(scale_shape), dy.sum_to_size(scale_shape)
    return in_shape(sample, x_hat * weight + bias, dx, dweight, dbias)


def roundings(sample: NormSample, call: Call, exact: Results) -> list[float]:
    """For y, dx, dγ and dβ, the rounding error of the largest term.

    The terms of dx cancel, so its floor is that of the largest term. For the sums dγ and dβ it is the root of the sum
    of squares, by which independent rounding errors grow.
    """
    step = torch.finfo(call.x.dtype).eps
    if sample.function == "local_response_norm":
        return [step * float(exact.y.abs().max()), step * float(exact.dx.abs().max())]
    view = view_of(sample, call.x.dtype)
    scale_shape = [size if d in view.scaled else 1 for d, size in enumerate(view.shape)]
    x, dy = (t.double().reshape(view.shape) for t in (call.x, call.dy))
    weight = torch.ones(()) if call.weight is None else call.weight.reshape(scale_shape)
    if sample.measures:
        mean, variance = statistics_of(x, view)
    else:
        mean, variance = (r.double().reshape(scale_shape) for r in sample.running())
    rstd = (variance + view.eps).rsqrt()
    dweight, dbias = (
        float(terms.square().sum_to_size(scale_shape).max().sqrt()) for terms in (dy * (x - mean) * rstd, dy)
    )
    return [step * v for v in (float(exact.y.abs().max()), float((rstd * weight * dy).abs().max()), dweight, dbias)]


def assert_accurate(got: Results, exact: Results, plain: Results | None, floors: list[float]) -> None:
    """Bounds the largest errors: in float32 by twice plain float32's and a rounding, in float64 by 64 roundings.

    dγ and dβ are float32 sums of some hundred terms at a time. With as few as one or three of them, their error is
    random: 5 roundings of each term are three standard deviations. For many channels, a test of its own asserts the
    factor 2.
    """
    for name, native_value, exact_value, floor, times in zip(
        Results._fields, got, exact, [*floors, 0.0, 0.0], (1, 1, 5, 5), strict=False
    ):
        assert (native_value is None) == (exact_value is None), name
        if native_value is None or exact_value is None:
            continue
        plain_value = None if plain is None else getattr(plain, name)
        if plain_value is None:
            allowed = 64 * floor
        else:
            allowed = 2 * float((plain_value - exact_value).abs().max()) + times * floor
        error = float((native_value - exact_value).abs().max())
        assert error <= allowed, (
            f"{name}: an error of {error:.3g}, {error / max(allowed, 1e-300):.2f} of what is allowed"
        )


def steps(x: torch.Tensor) -> list[int]:
    """The strides of the axes longer than 1: only these decide where values lie."""
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def every_bit_equal(a: Results, b: Results) -> bool:
    return all(
        (p is None and q is None) or (p is not None and q is not None and torch.equal(p, q))
        for p, q in zip(a, b, strict=True)
    )


class Case:
    """A sample with its expected results, computed once for each type."""

    def __init__(self, sample: NormSample) -> None:
        self.sample = sample
        self.kept: dict[torch.dtype, Any] = {}

    def expected(self, dtype: torch.dtype) -> tuple[Call, Results, Results | None, list[float]]:
        if dtype not in self.kept:
            call = make(self.sample, dtype)
            exact = by_reference(self.sample, call)
            plain = in_float32(self.sample, call) if dtype is torch.float32 else None
            self.kept[dtype] = call, exact, plain, roundings(self.sample, call, exact)
        return self.kept[dtype]


@pytest.fixture(scope="module", params=NORM, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_results_and_gradients_are_the_references(case: Case, dtype: torch.dtype, layout: Layout, isa: str) -> None:
    call, exact, plain, floors = case.expected(dtype)
    got = run(case.sample, call, layout)
    assert got.y.dtype is got.dx.dtype is dtype and got.y.shape == got.dx.shape == call.x.shape
    assert_accurate(got, exact, plain, floors)
    if layout is torch.Tensor.contiguous or "normalized_shape" not in case.sample.arguments:
        follows = call.x.dim() > 3 and case.sample.function != "instance_norm"  # torch's instance norm gives NCHW
        assert steps(got.dx) == steps(layout(call.x) if follows else call.x.contiguous())
        follows = follows or case.sample.function == "local_response_norm"
        assert steps(got.y) == steps(layout(call.x) if follows else call.x.contiguous())


def test_result_is_same_bits_for_1_2_and_3_threads(case: Case, isa: str) -> None:
    call = case.expected(torch.float32)[0]
    for name, layout in LAYOUTS.items():
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(case.sample, call, layout))
        assert all(every_bit_equal(r, results[0]) for r in results[1:]), name


MANY = [
    NormSample("batch_norm", (4, 64, 56, 56), {"training": True}),
    NormSample("by_channel", (4, 256, 14, 14), {"batches": 2}),
    NormSample("instance_norm", (4, 64, 40, 41), {}),
    NormSample("group_norm", (4, 64, 40, 41), {"num_groups": 8}),
    NormSample("layer_norm", (3000, 100), {"normalized_shape": (100,)}),
    NormSample("rms_norm", (3000, 100), {"normalized_shape": (100,)}),
    NormSample("layer_norm_2d", (4, 64, 40, 41), {}),
]


@pytest.mark.parametrize("sample", MANY, ids=str)
def test_gradients_of_many_scales_and_shifts_err_at_most_twice_as_much_as_float32s_sums(sample: NormSample) -> None:
    call = make(sample, torch.float32)
    exact, plain = by_reference(sample, call), in_float32(sample, call)
    floors = roundings(sample, call, exact)
    deviation = lambda a, b: float((a - b).square().mean().sqrt())  # noqa: E731
    before = native.isa()
    try:
        for isa in native.ISAS:
            native.use_isa(isa)
            for layout in LAYOUTS.values():
                got = run(sample, call, layout)
                of_parameters = list(zip(got, plain, exact, floors, strict=True))[2:]
                for native_value, plain_value, exact_value, floor in of_parameters:
                    if native_value is not None:
                        assert deviation(native_value, exact_value) <= 2 * deviation(plain_value, exact_value) + floor
    finally:
        native.use_isa(before)


def operators_of(call: Callable[[], Any]) -> set[str]:
    """The names of striate's operators that a call runs."""
    seen: set[str] = set()

    class Watch(Observer):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "striate":
                seen.add(func._opname)
            return func(*args, **(kwargs or {}))

    with Watch():
        call()
    return seen


def test_every_sample_runs_on_the_kernels(case: Case) -> None:
    name = "local_response" if case.sample.function == "local_response_norm" else "norm"
    for dtype in DTYPES.values():
        call = case.expected(dtype)[0]
        for layout in LAYOUTS.values():
            assert operators_of(lambda: run(case.sample, call, layout)) == {name, f"{name}_backward"}


def test_the_promises_hold_too_where_the_choice_is_left_to_striate(case: Case) -> None:
    call, exact, plain, floors = case.expected(torch.float32)
    for name, layout in LAYOUTS.items():
        results = []
        with prefer(None):
            for threads in (1, 2, 8):
                torch.set_num_threads(threads)
                results.append(run(case.sample, call, layout))
        assert_accurate(results[0], exact, plain, floors)
        assert all(every_bit_equal(r, results[0]) for r in results[1:]), name


SCHEMES = [  # 16 sets are normalized one by one (a single pass over memory for each), 8 of them in two passes over all
    (NormSample("batch_norm", (2, 16, 20000), {"training": True}), 1, torch.Tensor.contiguous),
    (NormSample("instance_norm", (1, 16, 40000), {}), 1, torch.Tensor.contiguous),
    (NormSample("instance_norm", (16, 4, 20000), {}), 0, channels_last),
    (NormSample("by_channel", (32, 4, 10000), {"batches": 16}), 0, channels_last),
    (NormSample("group_norm", (16, 2, 20000), {"num_groups": 1}), 0, torch.Tensor.contiguous),
    (NormSample("group_norm", (16, 6, 15000), {"num_groups": 2}), 0, channels_last),
    (NormSample("layer_norm", (16, 40000), {"normalized_shape": (40000,)}), 0, torch.Tensor.contiguous),
]


@pytest.mark.parametrize(("sample", "axis", "layout"), SCHEMES, ids=[str(s) for s, *_ in SCHEMES])
def test_one_pass_over_each_set_and_two_passes_over_all_give_the_same_bits(
    sample: NormSample, axis: int, layout: Layout, isa: str
) -> None:
    call, size = make(sample, torch.float32), sample.shape[axis]
    whole = run(sample, call, layout)
    halves = []
    for half in range(2):
        shape, arguments = list(sample.shape), dict(sample.arguments)
        shape[axis] //= 2
        if "batches" in arguments:
            arguments["batches"] //= 2
        parts = [t.narrow(axis, half * size // 2, size // 2) for t in (call.x, call.dy)]
        scales = [t if t is None or axis == 0 else t.chunk(2)[half] for t in (call.weight, call.bias)]
        halves.append(run(NormSample(sample.function, tuple(shape), arguments), Call(*parts, *scales), layout))
    for name in ("y", "dx", *(("dweight", "dbias") if axis == 1 else ())):
        assert torch.equal(
            torch.cat([getattr(h, name) for h in halves], axis if name in ("y", "dx") else 0), getattr(whole, name)
        ), name


# ------------------------------------------------------------------------------- residual sum and activation, fused in

RUNNING = torch.linspace(1, 4, 33, dtype=torch.float64), torch.linspace(0.5, 5, 33, dtype=torch.float64)
# for each kind: the native function, the reference, and whether it takes a residual
FUSED: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], bool]] = {
    "train": (
        lambda x, w, b, **more: ops.by_channel(x, None, None, w, b, True, 0.1, 1e-5, **more),
        lambda x, w, b: reference.batch_norm(x, w, b),
        True,
    ),
    "evaluate": (
        lambda x, w, b, **more: ops.by_channel(x, *(r.to(x.dtype) for r in RUNNING), w, b, False, 0.1, 1e-5, **more),
        lambda x, w, b: reference.batch_norm(x, w, b, 1e-5, *RUNNING),
        True,
    ),
    "groups": (
        lambda x, w, b, **more: ops.by_group(x, 3, w, b, 1e-5, **more),
        lambda x, w, b: reference.group_norm(x, 3, w, b),
        True,
    ),
    "instances": (
        lambda x, w, b, **more: ops.instance(x, None, None, w, b, True, 0.1, 1e-5, **more),
        lambda x, w, b: reference.instance_norm(x, w, b),
        False,
    ),
    "elements": (
        lambda x, w, b, **more: ops.by_element(
            x, x.shape[1:], *(p[:, None, None].expand(x.shape[1:]) for p in (w, b)), 1e-5, **more
        ),
        lambda x, w, b: reference.layer_norm(x, *(p[:, None, None].expand(x.shape[1:]) for p in (w, b))),
        False,
    ),
    "places": (
        lambda x, w, b, **more: ops.layer_norm_2d(x, w, b, **more),
        lambda x, w, b: reference.layer_norm(x, w, b, dims=(1,)),
        False,
    ),
}
SLOPE = 0.2
ACTIVATED: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda z: z,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, SLOPE),
    "silu": F.silu,
}


def close_to(value: torch.Tensor, truth: torch.Tensor, roundings: int = 64) -> bool:
    """Whether all errors are within ``roundings`` times eps of the largest value."""
    value, truth = value.detach(), truth.detach()
    return float((value - truth).abs().max()) <= roundings * torch.finfo(value.dtype).eps * float(truth.abs().max())


@pytest.mark.parametrize("activation", ACTIVATED)
@pytest.mark.parametrize(
    ("kind", "residual"), [(k, False) for k in FUSED] + [(k, True) for k, (*_, takes) in FUSED.items() if takes]
)
def test_a_norm_with_what_follows_is_norm_sum_and_activation(
    kind: str, activation: str | None, residual: bool, layout: Layout, isa: str
) -> None:
    native_norm, exact, _ = FUSED[kind]
    x, r, dy = (torch.randn(2, 33, 9, 7) * s + m for s, m in ((2, 3), (1, 0), (1, 0)))
    weight, bias = torch.randn(33) + 2, torch.randn(33)
    wide = [t.double().requires_grad_() for t in ((x, weight, bias, r) if residual else (x, weight, bias))]
    z = exact(*wide[:3]) + (wide[3] if residual else 0)
    dy = dy.masked_fill(z.abs() < 1e-4, 0)  # there, rounding may move a value to the other side of the kink
    expected = ACTIVATED[activation](z)
    narrow = [
        t.detach().requires_grad_()
        for t in ((layout(x), weight, bias, layout(r)) if residual else (layout(x), weight, bias))
    ]
    more = {"residual": narrow[3]} if residual else {}
    y = native_norm(*narrow[:3], activation=activation, slope=SLOPE, **more)
    assert steps(y) == steps(x if kind in ("instances", "elements") else narrow[0])  # these two give NCHW, as in torch
    assert close_to(y, expected, 16)
    with torch.no_grad():
        plain = native_norm(*narrow[:3])
        assert torch.equal(y, ACTIVATED[activation](plain + narrow[3] if residual else plain))
    for got, truth in zip(
        torch.autograd.grad(y, narrow, layout(dy)), torch.autograd.grad(expected, wide, dy.double()), strict=True
    ):
        assert got.shape == truth.shape and close_to(got, truth)


def test_the_slope_of_a_leaky_relu_keeps_its_digits_in_the_formula_of_backward() -> None:
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for y in (
        ops.by_group(x, 2, None, None, 1e-5, activation="leaky_relu", slope=0.2),
        F.leaky_relu(F.group_norm(x, 2), 0.2),
    ):
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("kind", ["train", "evaluate", "groups"])
def test_relu_of_minus_infinity_is_0_and_nan_stays_nan(kind: str, activation: str, layout: Layout, isa: str) -> None:
    x, residual, weight = torch.randn(2, 33, 4, 5), torch.randn(2, 33, 4, 5), torch.ones(33)
    residual[0, ::2, 1, 2], residual[1, ::3, 3, 4], residual[1, 1::3, 0, 0] = -math.inf, math.nan, math.inf
    residual = layout(residual).requires_grad_()
    y = FUSED[kind][0](layout(x), weight, weight, residual=residual, activation=activation, slope=SLOPE)
    assert (y[0, ::2, 1, 2] == (0 if activation == "relu" else -math.inf)).all()
    assert y[1, ::3, 3, 4].isnan().all() and (y[1, 1::3, 0, 0] == math.inf).all() and y.isnan().sum() == 11
    (got,) = torch.autograd.grad(y, residual, torch.ones_like(y))
    z = residual.detach().requires_grad_()
    (expected,) = torch.autograd.grad(
        ACTIVATED[activation](z + FUSED[kind][0](layout(x), weight, weight)), z, torch.ones_like(y)
    )
    assert torch.equal(got, expected)
    assert (got[0, ::2, 1, 2] == (0 if activation == "relu" else torch.tensor(SLOPE))).all()


# ------------------------------------------------------------------------------------------------------------ exactness

VALUES = (0.0, 0.1, -7.7e4, 3.3e-5, 1e30)


def constants(count: int) -> list[NormSample]:
    return [
        NormSample("batch_norm", (1, 3, count), {"training": True}),
        NormSample("batch_norm", (count, 3), {"training": True}),
        NormSample("by_channel", (2, 3, count), {"batches": 2}),
        NormSample("instance_norm", (2, 2, count), {}),
        NormSample("group_norm", (1, 4, count), {"num_groups": 2}),
        NormSample("layer_norm", (2, count), {"normalized_shape": (count,)}),
        NormSample("layer_norm", (1, 2, count), {"normalized_shape": (2, count)}),
        NormSample("layer_norm_2d", (1, count, 1, 2), {}),
    ]


def statistics(sample: NormSample, x: torch.Tensor) -> torch.Tensor:
    """The mean and variance of each normalized set, as the kernel measures them."""
    n, c = sample.shape[:2]
    rows = math.prod(sample.shape) // math.prod(sample.scaled)
    batches, groups, layout = {
        "batch_norm": (1, c, ops.CHANNELS),
        "by_channel": (sample.arguments.get("batches"), c, ops.CHANNELS),
        "instance_norm": (n, c, ops.CHANNELS),
        "group_norm": (n, sample.arguments.get("num_groups"), ops.CHANNELS),
        "layer_norm": (rows, 1, ops.ELEMENTS),
        "layer_norm_2d": (n, 1, ops.POSITIONS),
    }[sample.function]
    return torch.ops.striate.norm_measure.default(x, batches, groups, layout, is_channels_last(x), True)


@pytest.mark.parametrize("count", [2, 49, 1000, 100352])
def test_constant_sets_give_exactly_beta_and_a_variance_of_exactly_0(count: int, layout: Layout, isa: str) -> None:
    for sample in constants(count):
        for kind in (torch.float32, torch.float64) if count <= 1000 else (torch.float32,):
            call, view = make(sample, kind), view_of(sample, kind)
            scale_shape = [size if d in view.scaled else 1 for d, size in enumerate(view.shape)]
            assert call.bias is not None
            beta = call.bias.reshape(scale_shape).expand(view.shape).reshape(sample.shape)
            for value in VALUES:
                x = layout(torch.full(sample.shape, value, dtype=kind))
                assert torch.equal(sample.native_function(x, call.weight, call.bias), beta), (str(sample), value, kind)
                mean, variance = statistics(sample, x)
                assert (mean == x.flatten()[0].double()).all() and (variance == 0).all(), (str(sample), value, kind)


@pytest.mark.parametrize("value", VALUES)
def test_constant_sets_give_exactly_beta_where_the_choice_is_left_to_striate(value: float, layout: Layout) -> None:
    with prefer(None):
        for sample in constants(49):
            call, view = make(sample, torch.float32), view_of(sample, torch.float32)
            scale_shape = [size if d in view.scaled else 1 for d, size in enumerate(view.shape)]
            assert call.weight is not None and call.bias is not None
            x = layout(torch.full(sample.shape, value)).requires_grad_()
            y = sample.native_function(x, call.weight, call.bias)
            assert torch.equal(y, call.bias.reshape(scale_shape).expand(view.shape).reshape(sample.shape)), str(sample)


# Each norm of torch's that accepts an eps of 0, with one scale and shift for each channel or each element.
ZERO_EPS: dict[str, Callable[..., torch.Tensor]] = {
    "batch_norm": lambda f, x, w, b, e: f.batch_norm(
        x, CONSTANT_MEAN.to(x.dtype), CONSTANT_VAR.to(x.dtype), w, b, False, 0.1, 0.0
    ),
    "instance_norm": lambda f, x, w, b, e: f.instance_norm(x, weight=w, bias=b, eps=0),
    "instance_norm of one": lambda f, x, w, b, e: f.instance_norm(x[:1], weight=w, bias=b, eps=0),
    "instance_norm, running": lambda f, x, w, b, e: f.instance_norm(
        x, CONSTANT_MEAN.to(x.dtype), CONSTANT_VAR.to(x.dtype), w, b, use_input_stats=False, eps=0
    ),
    "group_norm": lambda f, x, w, b, e: f.group_norm(x, 2, w, b, 0),
    "layer_norm": lambda f, x, w, b, e: f.layer_norm(x, x.shape[1:], e, eps=0),
    "layer_norm of rows": lambda f, x, w, b, e: f.layer_norm(x, x.shape[3:], e[0, 0], eps=0),
    "rms_norm": lambda f, x, w, b, e: f.rms_norm(x, x.shape[1:], e, 0),
    "rms_norm of rows": lambda f, x, w, b, e: f.rms_norm(x, x.shape[3:], e[0, 0], 0.0),
}
CONSTANT_MEAN, CONSTANT_VAR = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 2.0])


@pytest.mark.parametrize("value", [0.0, 1.0, 3.7])
@pytest.mark.parametrize("name", ZERO_EPS)
def test_with_an_eps_of_0_all_is_what_torch_makes_of_it(
    name: str, value: float, dtype: torch.dtype, layout: Layout, isa: str
) -> None:
    x = torch.randn(3, 4, 5, 6, dtype=dtype)
    x[0, 0], x[1], x[2, 3, 2] = value, value, value  # constant channels, a constant sample, a constant row
    x = layout(x)
    tensors = (x, torch.randn(4, dtype=dtype), torch.randn(4, dtype=dtype), torch.randn(4, 5, 6, dtype=dtype))
    found = []
    for f in (SF, F):
        given = [t.clone().requires_grad_() for t in tensors]
        y = ZERO_EPS[name](f, *given)
        y.backward(torch.ones_like(y) + y.detach().isfinite())
        found.append([y.detach(), *(g.grad for g in given)])
    native_results, torch_results = found
    for a, b in zip(native_results, torch_results, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a.nan_to_num(1e3, 1e4, -1e4), b.nan_to_num(1e3, 1e4, -1e4))
    if value == 0.0:  # for other values torch's means are inexact, so 0/0 sometimes comes out as a number
        y = native_results[0]
        sets = y[:, 1] if "running" in name or name == "batch_norm" else y[0, 0] if "instance" in name else y[1]
        if name in ("instance_norm", "instance_norm of one"):  # gives the shift where σ is 0, instead of dividing by 0
            assert torch.equal(sets, tensors[2][0].expand(5, 6))
        else:
            assert not sets.isfinite().any()
        assert y.isfinite().any()


def test_training_batch_norm_refuses_an_eps_of_0_as_torchs_does_and_the_kernels_say_why_they_refuse_it() -> None:
    layers = (
        S.BatchNorm2d(6, eps=0.0),
        S.GhostBatchNorm2d(6, 1, eps=0.0),
        S.BatchNormAct2d(6, eps=0.0),
        S.SyncBatchNorm(6, eps=0.0),
    )
    for layer in layers:
        before = [t.clone() for t in layer.state_dict().values()]
        with pytest.raises(ArgumentError) as raised:
            layer(X)
        assert str(raised.value) == (
            f"{type(layer).__name__} expects an eps above 0, got 0.0. Use 1e-5: it keeps a constant channel's "
            "variance from dividing by 0."
        )
        assert all(torch.equal(a, b) for a, b in zip(before, layer.state_dict().values(), strict=True))
        assert torch.equal(layer.eval()(X), X if layer.activation is None else X.relu())
        assert torch.equal(layer.train().freeze()(X), layer.eval()(X))
    arguments = (None, X, None, None, None, None, None, True, 2, 3, ops.CHANNELS, True, True, 0, None, 0.01, None)
    reason = (
        "with an eps of 0 a constant gives what torch's operator makes of it: NaN in most norms, β in instance norm"
    )
    assert explain_choice(ops.METHODS, *arguments) == [("native", reason), ("torch", None)]


def test_norms_that_torch_lacks_take_an_eps_of_0_too() -> None:
    x = X.clone()
    x[0, :, 1, 2] = 3.0
    y = S.LayerNorm2d(6, eps=0)(x)
    assert y[0, :, 1, 2].isnan().all() and torch.equal(y.isnan().sum(), torch.tensor(6))
    torch.testing.assert_close(S.AdaIN(0)(X, X), X)
    residual = S.GroupNormAct2d(3, 6, 0)(X, residual=X)
    torch.testing.assert_close(residual, F.relu(F.group_norm(X, 3, eps=0) + X))
    assert ops.instance_norm(X[:0], eps=0).shape == X[:0].shape


FAR = [
    NormSample("batch_norm", (4, 6, 20, 21), {"training": True}),
    NormSample("batch_norm", (500, 7), {"training": True}),
    NormSample("by_channel", (4, 6, 20, 21), {"batches": 2}),
    NormSample("instance_norm", (4, 6, 20, 21), {}),
    NormSample("group_norm", (4, 6, 20, 21), {"num_groups": 3}),
    NormSample("layer_norm", (64, 500), {"normalized_shape": (500,)}),
    NormSample("layer_norm", (4, 6, 20, 21), {"normalized_shape": (6, 20, 21)}),
    NormSample("layer_norm_2d", (4, 150, 5, 7), {}),
    NormSample("rms_norm", (64, 500), {"normalized_shape": (500,)}),
]


@pytest.mark.parametrize("mean", [0.0, 10.0, 1e3, 1e4, -1e4])
@pytest.mark.parametrize("sample", FAR, ids=str)
def test_far_from_zero_the_error_is_at_most_twice_that_of_the_best_float32(
    sample: NormSample, mean: float, layout: Layout, isa: str
) -> None:
    call = make(sample, torch.float32, mean, 1.0)
    exact = by_reference(sample, call)
    assert_accurate(run(sample, call, layout), exact, in_float32(sample, call), roundings(sample, call, exact))


@pytest.mark.parametrize("mean", [0.0, 2.0, 1e4])
@pytest.mark.parametrize("sample", FAR, ids=str)
def test_far_from_zero_the_same_holds_where_the_choice_is_left_to_striate(
    sample: NormSample, mean: float, layout: Layout
) -> None:
    call = make(sample, torch.float32, mean, 1.0)
    exact = by_reference(sample, call)
    with prefer(None):
        got = run(sample, call, layout)
    assert_accurate(got, exact, in_float32(sample, call), roundings(sample, call, exact))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1e30), (1e30, 1e29), (-1e30, 1e26)])
@pytest.mark.parametrize("sample", FAR, ids=str)
def test_values_near_1e30_do_not_overflow(
    sample: NormSample, mean: float, deviation: float, layout: Layout, isa: str
) -> None:
    call = make(sample, torch.float32, mean, deviation)
    exact, got = by_reference(sample, call), run(sample, call, layout)
    assert all(t is None or t.isfinite().all() for t in got)
    assert_accurate(got, exact, in_float32(sample, call), roundings(sample, call, exact))


def test_values_near_1e30_do_not_overflow_in_local_response_norm(layout: Layout, isa: str) -> None:
    x, dy = torch.randn(2, 17, 5, 6) * 1e30, torch.randn(2, 17, 5, 6)
    leaf = layout(x).requires_grad_()
    y = local_response.local_response_norm(leaf, 5, 1.0, 0.5)
    (dx,) = torch.autograd.grad(y, leaf, layout(dy))
    assert close_to(y, reference.local_response_norm(x.double(), 5, 1.0, 0.5), 2)
    assert close_to(dx, reference.local_response_norm_backward(dy.double(), x.double(), 5, 1.0, 0.5), 2)
    assert (y != 0).all() and (dx != 0).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("sample", FAR, ids=str)
def test_nan_and_infinity_touch_what_is_measured_with_them_alone(
    sample: NormSample, poison: float, layout: Layout, isa: str
) -> None:
    call = make(sample, torch.float32)
    view = view_of(sample, torch.float32)
    place = torch.zeros(sample.shape, dtype=torch.bool)
    place.view(-1)[math.prod(sample.shape) // 2 + 3] = True
    touched = place.reshape(view.shape).amax(view.dims, keepdim=True).expand(view.shape).reshape(sample.shape)
    clean, got = run(sample, call, layout), run(sample, call._replace(x=call.x.masked_fill(place, poison)), layout)
    for with_it, without in ((got.y, clean.y), (got.dx, clean.dx)):
        assert torch.equal(with_it[~touched], without[~touched])
        if view.centered or math.isnan(poison):
            assert not with_it[touched].isfinite().any()
    if sample.function in ("batch_norm", "by_channel", "instance_norm"):
        assert got.dweight is not None and clean.dweight is not None
        channels = touched.transpose(0, 1).flatten(1).any(1)
        assert got.dweight[channels].isnan().all() and torch.equal(got.dweight[~channels], clean.dweight[~channels])


def test_denormals_stay_what_they_are(dtype: torch.dtype, layout: Layout, isa: str) -> None:
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the smallest positive number of the type
    x = layout((torch.arange(1, 1 + 2 * 19 * 3 * 5, dtype=dtype) * tiny).view(2, 19, 3, 5)).requires_grad_()
    y = ops.batch_norm(x, torch.zeros(19, dtype=dtype), torch.full((19,), 0.5, dtype=dtype), eps=0.5)  # divides by √1
    assert torch.equal(y, x) and (y != 0).all()
    (dx,) = torch.autograd.grad(y, x, x.detach())
    assert torch.equal(dx, x)
    assert torch.equal(
        ops.by_channel(
            x, torch.zeros(19), torch.full((19,), 0.5), None, None, False, 0, 0.5, residual=x, activation="relu"
        ),
        x + x,
    )
    assert torch.equal(ops.rms_norm(x, [5], eps=1.0), x) and torch.equal(local_response.local_response_norm(x, 3), x)
    both = torch.stack([x, -x], 1).detach().flatten(1, 2)  # pairs of opposite values, whose mean is 0
    for y in (
        ops.layer_norm(both, both.shape[1:], eps=1.0),
        ops.group_norm(layout(both), 1, eps=1.0),
        ops.layer_norm_2d(layout(both), eps=1.0),
    ):
        assert torch.equal(y, both)


def test_the_callers_floating_point_mode_is_left_as_it_is(layout: Layout, isa: str) -> None:
    upward, toward_zero = 0x800, 0xC00  # the rounding modes in fenv.h on x86
    libm = ctypes.CDLL("libm.so.6")
    sample, denormal = NormSample("batch_norm", (4, 20, 30, 31), {"training": True}), torch.tensor(1e-40)
    call = make(sample, torch.float32)
    before = libm.fegetround()
    try:
        for mode in (upward, toward_zero, before):
            assert libm.fesetround(mode) == 0
            run(sample, call, layout)
            local_response.local_response_norm(layout(call.x), 3)
            assert libm.fegetround() == mode
    finally:
        libm.fesetround(before)
    try:
        for flush in (True, False):
            assert torch.set_flush_denormal(flush)
            run(sample, call, layout)
            local_response.local_response_norm(layout(call.x), 3)
            assert ((denormal + denormal) == 0) == flush
    finally:
        torch.set_flush_denormal(False)


# ---------------------------------------------------------------------------------------------------------------- edges


def layers(channels: int = 6) -> dict[str, torch.nn.Module]:
    """One layer of each class that takes an input of (N, 6, 4, 5)."""
    return {
        "BatchNorm2d": S.BatchNorm2d(channels),
        "BatchNormAct2d": S.BatchNormAct2d(channels),
        "GhostBatchNorm2d": S.GhostBatchNorm2d(channels, 2),
        "InstanceNorm2d": S.InstanceNorm2d(channels, affine=True, track_running_stats=True),
        "InstanceNorm2d plain": S.InstanceNorm2d(channels),
        "GroupNorm": S.GroupNorm(3, channels),
        "GroupNormAct2d": S.GroupNormAct2d(3, channels),
        "LayerNorm": S.LayerNorm([channels, 4, 5]),
        "LayerNorm2d": S.LayerNorm2d(channels),
        "RMSNorm": S.RMSNorm(5),
        "LocalResponseNorm": S.LocalResponseNorm(3),
    }


def randomized(layer: torch.nn.Module) -> Any:
    """Returns ``layer`` with scales, shifts and statistics that differ by channel."""
    with torch.no_grad():
        for name, t in [*layer.named_parameters(), *layer.named_buffers()]:
            if t.is_floating_point():
                t.copy_(torch.rand_like(t) + (0.5 if name.endswith(("weight", "running_var")) else -0.5))
    return layer


def state_of(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in layer.state_dict().items()}


def same_state(layer: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = layer.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], t) for name, t in before.items())


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_empty_batch_passes_and_leaves_running_statistics_alone(name: str, training: bool, layout: Layout) -> None:
    layer = randomized(layers()[name]).train(training)
    before = state_of(layer)
    x = torch.empty(0, 6, 4, 5).requires_grad_()
    y = layer(layout(x))
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert all(p.grad is not None and (p.grad == 0).all() and p.grad.shape == p.shape for p in layer.parameters())
    if "num_batches_tracked" in before:
        torch_layer = torch.nn.BatchNorm2d(6).train(training)
        torch_layer(x)
        before["num_batches_tracked"] = torch_layer.num_batches_tracked  # torch counts an empty batch
        if name.startswith("Instance"):
            before["num_batches_tracked"] = torch.tensor(0)
    assert same_state(layer, before)


@pytest.mark.parametrize("shape", [(2, 6, 0, 5), (3, 6, 0)], ids=str)
def test_samples_without_a_place_pass_too(shape: tuple[int, ...]) -> None:
    for call in (
        lambda x: ops.batch_norm(x, None, None, torch.ones(6), training=True),
        lambda x: ops.group_norm(x, 3),
        lambda x: ops.layer_norm(x, shape[1:]),
        lambda x: ops.layer_norm_2d(x),
        lambda x: local_response.local_response_norm(x, 3),
    ):
        x = torch.empty(shape, requires_grad=True)
        try:
            y = call(x)
        except RuntimeError as error:  # what nothing has to be computed for is torch's, which refuses it from 2.14 on
            with pytest.raises(RuntimeError, match=f"^{re.escape(str(error))}$"):
                F.group_norm(x, 3)
            assert torch.__version__ >= (2, 14)
            continue
        y.sum().backward()
        assert y.shape == shape and x.grad is not None


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (S.BatchNorm1d(6), (1, 6)),
        (S.BatchNorm1d(6), (1, 6, 1)),
        (S.BatchNorm2d(6), (1, 6, 1, 1)),
        (S.BatchNorm3d(6), (1, 6, 1, 1, 1)),
        (S.BatchNormAct2d(6), (1, 6, 1, 1)),
        (S.GhostBatchNorm2d(6, 1), (4, 6, 1, 1)),
        (S.InstanceNorm1d(6), (4, 6, 1)),
        (S.InstanceNorm2d(6, track_running_stats=True), (4, 6, 1, 1)),
        (S.GroupNorm(6, 6), (1, 6)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, torch.nn.Module) else "x".join(map(str, v)),
)
def test_one_value_per_channel_cannot_be_measured(layer: torch.nn.Module, shape: tuple[int, ...]) -> None:
    before = state_of(layer)
    with pytest.raises(ShapeError, match=f"^{type(layer).__name__} expects more than one value per"):
        layer(torch.ones(shape))
    assert same_state(layer, before)


def test_one_value_per_channel_can_be_evaluated() -> None:
    assert torch.equal(S.BatchNorm1d(6).eval()(torch.zeros(1, 6)), torch.zeros(1, 6))
    # Torch's rule refuses one value per channel only where there is a single sample.
    assert S.GroupNorm(6, 6)(torch.ones(2, 6)).abs().sum() == 0


def test_statistics_of_an_empty_batch_of_instances_do_not_become_nan() -> None:
    for call in (ops.instance_norm, ops.batch_norm):
        mean, var = torch.zeros(6), torch.ones(6)
        training = {"training": True} if call is ops.batch_norm else {}
        assert call(torch.empty(0, 6, 4, 5), mean, var, **training).shape == (0, 6, 4, 5)
        assert (mean == 0).all() and (var == 1).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unbatched_instance_norm_is_a_batch_of_one_without_the_batch(dims: int) -> None:
    x = torch.randn(6, *[5, 4, 3][:dims])
    for arguments in ({}, {"affine": True}, {"affine": True, "track_running_stats": True}):
        layer = randomized(getattr(S, f"InstanceNorm{dims}d")(6, **arguments))
        twin = copy.deepcopy(layer)
        assert torch.equal(layer(x), twin(x[None])[0])
        assert same_state(layer, twin.state_dict())
        assert torch.equal(layer.eval()(x), twin.eval()(x[None])[0])


CALLS: dict[str, Callable[..., torch.Tensor]] = {  # each takes x: (N, 24, 12, 14), weight and bias: (24,)
    "batch": lambda x, w, b: ops.batch_norm(x, None, None, w, b, True),
    "evaluate": lambda x, w, b: ops.batch_norm(x, torch.linspace(-1, 1, 24), torch.linspace(1, 2, 24), w, b),
    "ghost": lambda x, w, b: ops.by_channel(x, None, None, w, b, True, 0.1, 1e-5, batches=2),
    "instance": lambda x, w, b: ops.instance_norm(x, None, None, w, b),
    "group": lambda x, w, b: ops.group_norm(x, 4, w, b),
    "layer": lambda x, w, b: ops.layer_norm(x, x.shape[-1:], w[:14], b[:14]),
    "sample": lambda x, w, b: ops.layer_norm(x, x.shape[1:]) * w[:, None, None] + b[:, None, None],
    "places": lambda x, w, b: ops.layer_norm_2d(x, w, b),
    "rms": lambda x, w, b: ops.rms_norm(x, x.shape[-1:], w[:14]) + b.sum(),
    "local": lambda x, w, b: local_response.local_response_norm(x, 5, 1.0) * w.sum() + b.sum(),
}


def awkward() -> list[torch.Tensor]:
    """Tensors of (4, 24, 12, 14) with strides that no kernel reads directly."""
    base = torch.randn(5, 50, 13, 17)
    last = channels_last(base)
    found = [
        base[:4, :24, 1:, 3:],
        base[1:, :48:2, :12, :14],
        base[1:, 3:4, 1:, 3:].expand(4, 24, 12, 14),
        base[:1, :24, :12, :14].expand(4, 24, 12, 14),
    ]
    found += [
        base[:4, :24, :12, :14].flip(3),
        base[:4, :24, :12, :14].flip(1),
        last[1:, 10:34, 1:, 3:],
        last[:4, ::2, 1:, 3:][:, :24],
    ]
    found += [
        torch.randn(4, 24, 14, 12).transpose(2, 3),
        torch.randn(24, 4, 12, 14).transpose(0, 1),
        torch.randn(1).expand(4, 24, 12, 14),
    ]
    found += [
        torch.randn(4, 24, 12, 28)[..., ::2],
        torch.randn(12, 14, 4, 24).permute(2, 3, 0, 1),
        last[:4, 1:25, 1:, 3:].flip(2),
    ]
    return found


@pytest.mark.parametrize("name", CALLS)
def test_awkward_strides_of_input_and_gradient_give_the_same_as_their_copies(name: str) -> None:
    call, weight, bias = CALLS[name], torch.randn(24) + 2, torch.randn(24)

    def results(x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        y = call(*leaves)
        return y, *torch.autograd.grad(y, leaves, dy, allow_unused=True)

    variants = awkward()
    for k, x in enumerate(variants):
        dy = variants[(k + 3) % len(variants)]
        expected = results(
            x.clone(memory_format=torch.contiguous_format), dy.clone(memory_format=torch.contiguous_format)
        )
        for got, truth in zip(results(x, dy), expected, strict=True):
            torch.testing.assert_close(
                got,
                truth,
                rtol=1e-4,
                atol=2e-4 * max(1.0, float(truth.detach().abs().max())) if x.stride(3) == 0 else 1e-4,
            )


@pytest.mark.parametrize("name", CALLS)
def test_the_expanded_gradient_of_a_sum_gives_the_same_as_ones(name: str, layout: Layout) -> None:
    leaves = [
        layout(torch.randn(4, 24, 12, 14)).requires_grad_(),
        torch.randn(24).requires_grad_(),
        torch.randn(24).requires_grad_(),
    ]
    y = CALLS[name](*leaves)
    ones = torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True, retain_graph=True)
    for got, truth in zip(torch.autograd.grad(y.sum(), leaves, allow_unused=True), ones, strict=True):
        assert torch.equal(got, truth)


def test_a_flat_batch_may_be_a_slice_a_transpose_and_expanded(isa: str) -> None:
    base = torch.randn(40, 90)
    for x in (
        base[:, 3:],
        base[::2],
        base.t(),
        base[:, ::3],
        base[:1].expand(40, 90),
        base[:, :1].expand(40, 90),
        base.flip(0),
    ):
        c = x.shape[1]
        weight, bias, copied = torch.randn(c), torch.randn(c), x.contiguous()
        for call in (
            lambda x: ops.batch_norm(x, None, None, weight, bias, True),
            lambda x: ops.group_norm(x, 3, weight[: c // 3 * 3] if c % 3 == 0 else None) if c % 3 == 0 else x,
            lambda x: ops.layer_norm(x, [c], weight, bias),
            lambda x: ops.layer_norm_2d(x, weight, bias),
        ):
            assert torch.equal(call(x), call(copied))


def test_scales_may_be_slices_expanded_and_permuted(layout: Layout, isa: str) -> None:
    x, dy = layout(torch.randn(2, 6, 4, 5)), layout(torch.randn(2, 6, 4, 5))

    def check(call: Callable[..., torch.Tensor], weight: torch.Tensor, bias: torch.Tensor) -> None:
        results = []
        for w, b in (
            (weight, bias),
            (weight.clone(memory_format=torch.contiguous_format), bias.clone(memory_format=torch.contiguous_format)),
        ):
            w, b = w.detach().requires_grad_(), b.detach().requires_grad_()
            y = call(x, w, b)
            dw, db = torch.autograd.grad(y, [w, b], dy)
            assert dw.shape == w.shape and db.shape == b.shape
            results.append((y, dw, db))
        assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))

    line = torch.randn(40)
    for weight in (line[::5][:6], line[:1].expand(6), line[7:13], line.view(8, 5)[:6, 2], line[:6].flip(0)):
        check(lambda x, w, b: ops.batch_norm(x, None, None, w, b, True), weight, line[4:28:4])
        check(lambda x, w, b: ops.group_norm(x, 2, w, b), weight, line[4:28:4])
        check(lambda x, w, b: ops.layer_norm_2d(x, w, b), weight, line[4:28:4])
        mean, var = line[::4][:6], (line[1::4][:6] ** 2 + 0.1).flip(0)
        assert torch.equal(
            ops.batch_norm(x, mean, line[3:4].square().expand(6), weight),
            ops.batch_norm(x, mean.clone(), line[3:4].square().repeat(6), weight),
        )
        assert torch.equal(ops.batch_norm(x, mean, var), ops.batch_norm(x, mean.clone(), var.clone()))
    block = torch.randn(4, 5, 6)
    for weight in (
        block.permute(2, 0, 1),
        torch.randn(6, 4, 10)[..., ::2],
        torch.randn(6, 1, 1).expand(6, 4, 5),
        torch.randn(5).expand(6, 4, 5),
    ):
        check(lambda x, w, b: ops.layer_norm(x, [6, 4, 5], w, b), weight, torch.randn(6, 5, 4).transpose(1, 2))


def test_running_statistics_may_be_every_other_number_of_a_row(layout: Layout) -> None:
    x, rows = layout(torch.randn(2, 6, 4, 5)), torch.ones(2, 12)
    plain = [torch.ones(6), torch.ones(6)]
    ops.batch_norm(x, rows[0, ::2], rows[1, ::2], training=True)
    ops.batch_norm(x, *plain, training=True)
    assert torch.equal(rows[:, ::2], torch.stack(plain)) and (rows[:, 1::2] == 1).all()


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("rms", "local", "sample")])
def test_gradients_are_made_for_what_needs_them_alone_and_are_the_same_then(name: str, layout: Layout) -> None:
    tensors = [layout(torch.randn(4, 24, 12, 14)), torch.randn(24), torch.randn(24)]
    dy = torch.randn(4, 24, 12, 14)
    leaves = [t.detach().requires_grad_() for t in tensors]
    every = torch.autograd.grad(CALLS[name](*leaves), leaves, dy)
    for wanted in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        leaves = [t.detach().requires_grad_(k in wanted) for k, t in enumerate(tensors)]
        CALLS[name](*leaves).backward(dy)
        for k, t in enumerate(leaves):
            assert (t.grad is None) == (k not in wanted)
            assert t.grad is None or torch.equal(t.grad, every[k])
    assert not CALLS[name](*tensors).requires_grad


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("kind", ["train", "evaluate", "groups"])
def test_the_residual_alone_may_need_a_gradient_and_may_be_the_input_itself(
    kind: str, activation: str | None, layout: Layout
) -> None:
    x, w, b = layout(torch.randn(2, 33, 4, 5)), torch.randn(33), torch.randn(33)
    dy, r = layout(torch.randn(2, 33, 4, 5)), layout(torch.randn(2, 33, 4, 5)).requires_grad_()
    y = FUSED[kind][0](x, w, b, residual=r, activation=activation)
    (dr,) = torch.autograd.grad(y, r, dy)
    z = r.detach().requires_grad_()
    (expected,) = torch.autograd.grad(ACTIVATED[activation](FUSED[kind][0](x, w, b) + z), z, dy)
    assert torch.equal(dr, expected)
    x = x.detach().requires_grad_()
    (dx,) = torch.autograd.grad(FUSED[kind][0](x, w, b, residual=x, activation=activation), x, dy)
    (expected,) = torch.autograd.grad(ACTIVATED[activation](FUSED[kind][0](x, w, b) + x), x, dy)
    torch.testing.assert_close(dx, expected)


def test_a_residual_in_another_memory_order_is_added_place_by_place(isa: str) -> None:
    x, r = torch.randn(2, 33, 4, 5), torch.randn(2, 33, 4, 5)
    expected = ops.by_channel(x, None, None, None, None, True, 0.1, 1e-5, residual=r, activation="relu")
    for a in (x, channels_last(x)):
        for b in (channels_last(r), r.transpose(2, 3).contiguous().transpose(2, 3), r):
            y = ops.by_channel(a, None, None, None, None, True, 0.1, 1e-5, residual=b, activation="relu")
            torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("name", CALLS)
def test_results_are_the_same_bits_with_and_without_a_gradient_to_come(name: str, layout: Layout) -> None:
    x, w, b = layout(torch.randn(4, 24, 12, 14)), torch.randn(24), torch.randn(24)
    y = CALLS[name](x.detach().requires_grad_(), w, b)
    with torch.no_grad():
        assert torch.equal(CALLS[name](x, w, b), y)
    with torch.inference_mode():
        assert torch.equal(CALLS[name](x, w, b), y)


def test_changing_the_input_before_backward_is_noticed(layout: Layout) -> None:
    x = layout(torch.randn(4, 24, 12, 14)).requires_grad_()
    copied = x * 1
    y = ops.batch_norm(copied, None, None, training=True)
    copied.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --------------------------------------------------------------------------------------------------- running statistics


def batch_norms(dims: int, **arguments: Any) -> tuple[Any, Any]:
    native_layer = randomized(getattr(S, f"BatchNorm{dims}d")(6, **arguments))
    torch_layer = getattr(torch.nn, f"BatchNorm{dims}d")(6, **arguments)
    torch_layer.load_state_dict(native_layer.state_dict())
    return native_layer, torch_layer


def assert_same_state(native_layer: torch.nn.Module, torch_layer: torch.nn.Module) -> None:
    torch.testing.assert_close(dict(native_layer.state_dict()), dict(torch_layer.state_dict()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, None, 0.0, 1.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_running_statistics_are_torchs_after_some_batches(dims: int, momentum: float | None, layout: Layout) -> None:
    native_layer, torch_layer = batch_norms(dims, momentum=momentum)
    for step in range(4):
        x = layout(torch.randn(3 + step, 6, *[5, 4, 3][:dims]) * (1 + step) + step)
        torch.testing.assert_close(native_layer(x), torch_layer(x), rtol=1e-4, atol=1e-5)
        assert_same_state(native_layer, torch_layer)
    assert native_layer.num_batches_tracked == 4
    torch.testing.assert_close(native_layer.eval()(x), torch_layer.eval()(x), rtol=1e-4, atol=1e-5)
    assert native_layer.num_batches_tracked == 4


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_running_statistics_of_instance_norm_are_torchs_and_used_in_evaluation(dims: int, layout: Layout) -> None:
    arguments = {"affine": True, "track_running_stats": True, "momentum": 0.3}
    native_layer = randomized(getattr(S, f"InstanceNorm{dims}d")(6, **arguments))
    torch_layer = getattr(torch.nn, f"InstanceNorm{dims}d")(6, **arguments)
    torch_layer.load_state_dict(native_layer.state_dict())
    for step in range(3):
        x = layout(torch.randn(3 + step, 6, *[5, 4, 3][:dims]) * (1 + step) + step)
        torch.testing.assert_close(native_layer(x), torch_layer(x), rtol=1e-4, atol=1e-5)
        assert_same_state(native_layer, torch_layer)
    assert native_layer.num_batches_tracked == torch_layer.num_batches_tracked
    torch.testing.assert_close(native_layer.eval()(x), torch_layer.eval()(x), rtol=1e-4, atol=1e-5)
    assert_same_state(native_layer, torch_layer)


def test_running_statistics_of_functions_are_the_references(layout: Layout) -> None:
    x, mean, var = layout(torch.randn(3, 6, 4, 5) + 2), torch.rand(6), torch.rand(6)
    expected = reference.running_statistics(x, mean, var, 0.3)
    ops.batch_norm(x, mean, var, training=True, momentum=0.3)
    torch.testing.assert_close((mean, var), expected, rtol=2e-7, atol=0)
    wide = [torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)]  # a wider type than x's
    ops.batch_norm(x, *wide, training=True, momentum=1.0)
    torch.testing.assert_close(wide[0], x.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    before = mean.clone(), var.clone()
    ops.batch_norm(x, mean, var)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1])


def test_ghost_batch_norm_steps_towards_the_mean_of_its_parts(layout: Layout) -> None:
    layer, x = randomized(S.GhostBatchNorm2d(6, 4)), layout(torch.randn(12, 6, 4, 5) + 2)
    parts = []
    for part in x.split(4):
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        F.batch_norm(part, mean, var, training=True)
        parts.append((mean, var))
    y = layer(x)
    for got, of_parts in zip((layer.running_mean, layer.running_var), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(of_parts).mean(0))
    expected = torch.cat([F.batch_norm(part, None, None, layer.weight, layer.bias, True) for part in x.split(4)])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    smaller = x[:3]
    torch.testing.assert_close(
        layer(smaller), F.batch_norm(smaller, None, None, layer.weight, layer.bias, True), rtol=1e-4, atol=1e-5
    )
    plain = S.BatchNorm2d(6).eval()
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), plain(x))


@pytest.mark.parametrize("name", ["BatchNorm2d", "InstanceNorm2d"])
def test_without_running_statistics_evaluation_measures_the_batch(name: str, layout: Layout) -> None:
    native_layer, torch_layer = (getattr(m, name)(6, affine=True, track_running_stats=False) for m in (S, torch.nn))
    x = layout(torch.randn(3, 6, 4, 5) + 2)
    assert native_layer.running_mean is None and native_layer.num_batches_tracked is None
    for training in (True, False):
        y, expected = native_layer.train(training)(x), torch_layer.train(training)(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(native_layer.eval()(x), native_layer.train()(x))
    native_layer, torch_layer = (getattr(m, name)(6, track_running_stats=True) for m in (S, torch.nn))
    for layer in (native_layer, torch_layer):  # the buffers exist, but are no longer updated
        layer.track_running_stats = False
        layer.train()
    before = state_of(native_layer)
    torch.testing.assert_close(native_layer(x), torch_layer(x), rtol=1e-4, atol=1e-5)
    if name == "BatchNorm2d":
        assert_same_state(native_layer, torch_layer)
        assert same_state(native_layer, before)


def test_frozen_batch_norm_is_evaluation_in_training_and_leaves_everything_alone(layout: Layout) -> None:
    layer, x = randomized(S.BatchNormAct2d(6)), layout(torch.randn(3, 6, 4, 5) + 2)
    before, expected = state_of(layer), layer.eval()(x)
    layer.train().freeze()
    assert torch.equal(layer(x), expected) and same_state(layer, before)
    leaf = x.detach().requires_grad_()
    layer(leaf).sum().backward()
    assert layer.weight.grad is not None and leaf.grad is not None
    layer.freeze(parameters=True)
    assert not layer(x).requires_grad and "frozen=True" in repr(layer)
    layer.unfreeze(parameters=True)
    assert not torch.equal(layer(x), expected) and layer.weight.requires_grad and not same_state(layer, before)


def test_layer_norm_of_channels_last_samples_is_contiguous(isa: str) -> None:
    layer, x, dy = randomized(S.LayerNorm([33, 9, 7])), torch.randn(2, 33, 9, 7), torch.randn(2, 33, 9, 7)
    results = []
    for layout in LAYOUTS.values():
        leaf = layout(x).requires_grad_()
        y = layer(leaf)
        assert y.is_contiguous()
        found = torch.autograd.grad(y, [leaf, layer.weight, layer.bias], dy)
        assert found[1].shape == found[2].shape == (33, 9, 7) and found[0].is_contiguous()
        results.append((y, *found))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    layer(channels_last(x)).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()


# -------------------------------------------------------------------------------------------------- finite differences

RUNNING5 = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0.5, 2, 5, dtype=torch.float64)
DIFFERENCES: dict[str, tuple[Callable[..., torch.Tensor], tuple[tuple[int, ...], ...]]] = {
    "batch_norm": (lambda x, w, b: ops.batch_norm(x, None, None, w, b, True), ((3, 5, 4), (5,), (5,))),
    "batch_norm flat": (lambda x, w, b: ops.batch_norm(x, None, None, w, b, True), ((6, 5), (5,), (5,))),
    "batch_norm plain": (lambda x: ops.batch_norm(x, None, None, training=True), ((3, 5, 2, 2),)),
    "batch_norm in evaluation": (lambda x, w, b: ops.batch_norm(x, *RUNNING5, w, b), ((3, 5, 4), (5,), (5,))),
    "ghost": (
        lambda x, w, b: ops.by_channel(x, None, None, w, b, True, 0.1, 1e-5, batches=2),
        ((4, 3, 2, 2), (3,), (3,)),
    ),
    "instance_norm": (lambda x, w, b: ops.instance_norm(x, None, None, w, b), ((2, 3, 5), (3,), (3,))),
    "group_norm": (lambda x, w, b: ops.group_norm(x, 2, w, b), ((2, 6, 2, 3), (6,), (6,))),
    "layer_norm": (lambda x, w, b: ops.layer_norm(x, [3, 4], w, b), ((2, 3, 4), (3, 4), (3, 4))),
    "layer_norm of rows": (lambda x, w, b: ops.layer_norm(x, [4], w, b), ((2, 3, 4), (4,), (4,))),
    "layer_norm_2d": (lambda x, w, b: ops.layer_norm_2d(x, w, b), ((2, 5, 2, 3), (5,), (5,))),
    "rms_norm": (lambda x, w: ops.rms_norm(x, [5], w), ((2, 3, 5), (5,))),
    "local_response_norm": (lambda x: local_response.local_response_norm(x, 3, 0.7, 0.75, 1.2), ((2, 5, 2, 2),)),
    "local_response_norm of an even size": (lambda x: local_response.local_response_norm(x, 4, 0.7, 0.6), ((2, 5, 3),)),
    "fused training": (
        lambda x, w, b, r: ops.by_channel(
            x, None, None, w, b, True, 0.1, 1e-5, residual=r, activation="leaky_relu", slope=0.3
        ),
        ((3, 5, 4), (5,), (5,), (3, 5, 4)),
    ),
    "fused evaluation": (
        lambda x, w, b, r: ops.by_channel(
            x, *RUNNING5, w, b, False, 0.1, 1e-5, residual=r, activation="leaky_relu", slope=0.3
        ),
        ((3, 5, 4), (5,), (5,), (3, 5, 4)),
    ),
    "fused groups": (
        lambda x, w, b, r: ops.by_group(x, 2, w, b, 1e-5, residual=r, activation="leaky_relu", slope=0.3),
        ((2, 6, 3), (6,), (6,), (2, 6, 3)),
    ),
    "fused silu": (
        lambda x, w, b, r: ops.by_channel(x, None, None, w, b, True, 0.1, 1e-5, residual=r, activation="silu"),
        ((3, 5, 4), (5,), (5,), (3, 5, 4)),
    ),
    "fused elements": (
        lambda x, w, b: ops.by_element(x, [3, 4], w, b, 1e-5, activation="leaky_relu", slope=0.3),
        ((2, 3, 4), (3, 4), (3, 4)),
    ),
    "fused places": (
        lambda x, w, b: ops.layer_norm_2d(x, w, b, activation="leaky_relu", slope=0.3),
        ((2, 5, 2, 3), (5,), (5,)),
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_gradcheck_and_gradgradcheck(name: str, layout: Layout) -> None:
    call, shapes = DIFFERENCES[name]
    x, *rest = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    leaves = [t.requires_grad_() for t in (layout(x), *rest)]
    assert operators_of(lambda: call(*leaves))
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize(
    "name", ["batch_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm", "fused training"]
)
def test_second_derivatives_are_right_also_while_a_graph_of_them_is_kept(name: str) -> None:
    call, shapes = DIFFERENCES[name]
    leaves = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]

    def second(keep: bool) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(3)
        y = call(*leaves)
        first = torch.autograd.grad((y**3).sum(), leaves, create_graph=True)  # the gradient of y³ depends on x as well
        return torch.autograd.grad(sum((g * torch.randn_like(g)).sum() for g in first), leaves, create_graph=keep)

    for with_graph, without in zip(second(True), second(False), strict=True):
        torch.testing.assert_close(with_graph, without)


@pytest.mark.parametrize("create_graph", [False, True])
def test_third_derivatives_are_those_of_the_formula(create_graph: bool) -> None:
    x, w, b = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 5, 4), (5,), (5,)))
    v = torch.randn(3, 3, 5, 4, dtype=torch.float64)

    def third(call: Callable[..., torch.Tensor]) -> torch.Tensor:
        out = (call(x, w, b) ** 3 * v[0]).sum()
        for k in (1, 2):
            out = (torch.autograd.grad(out, x, create_graph=True)[0] * v[k]).sum()
        return torch.autograd.grad(out, x, create_graph=create_graph)[0]

    torch.testing.assert_close(
        third(lambda x, w, b: ops.batch_norm(x, None, None, w, b, True)), third(reference.batch_norm)
    )


# ----------------------------------------------------------------------------------------------- what is left to torch


def explained(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """For the single choice that a call makes, each candidate and why it refused; None for the one that ran."""
    seen: list[list[tuple[str, str | None]]] = []

    def spy(candidates: Any, *arguments: Any) -> Any:
        seen.append(explain_choice(candidates, *arguments))
        return chosen(candidates, *arguments)

    chosen = dispatch.choose
    with monkeypatch.context() as patch:
        patch.setattr(functions, "choose", spy)
        patch.setattr(local_response, "choose", spy)
        call()
    assert len(seen) == 1
    return seen[0]


# the native function and torch's, each on x: (2, 6, 4, 5), weight and bias: (6,)
PAIRS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "batch_norm": (
        lambda x, w, b: ops.batch_norm(x, None, None, w, b, True),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    ),
    "evaluate": (
        lambda x, w, b: ops.batch_norm(x, torch.ones_like(b), torch.ones_like(b), w, b),
        lambda x, w, b: F.batch_norm(x, torch.ones_like(b), torch.ones_like(b), w, b),
    ),
    "instance_norm": (
        lambda x, w, b: ops.instance_norm(x, None, None, w, b),
        lambda x, w, b: F.instance_norm(x, None, None, w, b),
    ),
    "group_norm": (lambda x, w, b: ops.group_norm(x, 3, w, b), lambda x, w, b: F.group_norm(x, 3, w, b)),
    "layer_norm": (
        lambda x, w, b: ops.layer_norm(x, [5], w[:5], b[:5]),
        lambda x, w, b: F.layer_norm(x, [5], w[:5], b[:5]),
    ),
    "rms_norm": (lambda x, w, b: ops.rms_norm(x, [5], w[:5]), lambda x, w, b: F.rms_norm(x, [5], w[:5])),
    "layer_norm_2d": (
        lambda x, w, b: ops.layer_norm_2d(x, w, b),
        lambda x, w, b: F.layer_norm(x.movedim(1, -1), [6], w, b).movedim(-1, 1),
    ),
    "local_response_norm": (
        lambda x, w, b: local_response.local_response_norm(x, 3, 1.0),
        lambda x, w, b: F.local_response_norm(x, 3, 1.0),
    ),
    "fused": (
        lambda x, w, b: ops.by_channel(x, None, None, w, b, True, 0.1, 1e-5, residual=x, activation="relu"),
        lambda x, w, b: F.relu(F.batch_norm(x, None, None, w, b, True) + x),
    ),
    "ghost": (
        lambda x, w, b: ops.by_channel(x, None, None, w, b, True, 0.1, 1e-5, batches=2),
        lambda x, w, b: torch.cat([F.batch_norm(p, None, None, w, b, True) for p in x.chunk(2)]),
    ),
}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", PAIRS)
def test_other_floats_go_to_torch_through_the_same_function(
    name: str, kind: torch.dtype, layout: Layout, monkeypatch: Any
) -> None:
    native_norm, torch_norm = PAIRS[name]
    given = [layout(torch.randn(2, 6, 4, 5)).to(kind), torch.randn(6).to(kind), torch.randn(6).to(kind)]
    leaves, twins = ([t.detach().requires_grad_() for t in given] for _ in range(2))
    try:
        expected = torch_norm(*twins)
    except NotImplementedError:  # torch's local response norm does not support this type
        with pytest.raises(NotImplementedError):
            native_norm(*leaves)
        return
    y = native_norm(*leaves)
    assert y.dtype is kind and torch.equal(y, expected)
    for got, truth in zip(
        *(torch.autograd.grad(z.sum(), ts, allow_unused=True) for z, ts in ((y, leaves), (expected, twins))),
        strict=True,
    ):
        assert (got is None and truth is None) or torch.equal(got, truth)
    reasons = explained(lambda: native_norm(*given), monkeypatch)
    assert ("native", f"kernels are for float32 and float64, got {str(kind)[6:]}") in reasons and reasons[-1] == (
        "torch",
        None,
    )


def test_scales_of_another_type_go_to_torch(monkeypatch: Any) -> None:
    x, w, b = torch.randn(2, 6, 4, 5).bfloat16(), torch.randn(6), torch.randn(6)
    for name in ("batch_norm", "evaluate", "group_norm", "layer_norm"):
        native_norm, torch_norm = PAIRS[name]
        assert torch.equal(native_norm(x, w, b), torch_norm(x, w, b))
        assert explained(lambda: native_norm(x, w, b), monkeypatch)[0] == (
            "native",
            "kernels are for float32 and float64, got bfloat16",
        )


@pytest.mark.parametrize("name", PAIRS)
def test_function_transforms_go_to_torch_and_are_right(name: str, layout: Layout, monkeypatch: Any) -> None:
    native_norm, torch_norm = PAIRS[name]
    x, w, b = layout(torch.randn(2, 6, 4, 5)), torch.randn(6), torch.randn(6)
    gradient = torch.func.grad(lambda *t: native_norm(*t).square().sum(), argnums=(0, 1))
    expected = torch.func.grad(lambda *t: torch_norm(*t).square().sum(), argnums=(0, 1))
    torch.testing.assert_close(gradient(x, w, b), expected(x, w, b))
    assert explained(lambda: gradient(x, w, b), monkeypatch)[0] == (
        "native",
        "kernels have no rule for function transforms (vmap, grad, jvp)",
    )
    forward = lambda call: torch.func.jvp(lambda t: call(t, w, b), (x,), (torch.ones_like(x),))  # noqa: E731
    try:
        expected = forward(torch_norm)
    except RuntimeError:  # torch's group norm raises for channels_last
        with pytest.raises(RuntimeError):
            forward(native_norm)
    else:
        torch.testing.assert_close(forward(native_norm), expected)


@pytest.mark.parametrize("axis", [0, 1, 4])
@pytest.mark.parametrize("name", PAIRS)
def test_vmap_over_any_axis_is_a_loop(name: str, axis: int) -> None:
    native_norm, torch_norm = PAIRS[name]
    x, w, b = torch.randn(3, 2, 6, 4, 5).movedim(0, axis).contiguous(), torch.randn(6), torch.randn(6)
    mapped = torch.vmap(lambda t: native_norm(t, w, b), in_dims=axis)(x)
    torch.testing.assert_close(mapped, torch.stack([torch_norm(t, w, b) for t in x.unbind(axis)]))


@pytest.mark.parametrize("name", PAIRS)
def test_forward_mode_derivatives_go_to_torch(name: str, monkeypatch: Any) -> None:
    from torch.autograd import forward_ad

    native_norm, torch_norm = PAIRS[name]
    x, tangent, w, b = torch.randn(2, 6, 4, 5), torch.randn(2, 6, 4, 5), torch.randn(6), torch.randn(6)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        got, expected = (forward_ad.unpack_dual(norm(dual, w, b)).tangent for norm in (native_norm, torch_norm))
        torch.testing.assert_close(got, expected)
        assert explained(lambda: native_norm(dual, w, b), monkeypatch)[0] == (
            "native",
            "kernels have no forward-mode derivative",
        )


@pytest.mark.parametrize("name", PAIRS)
def test_without_the_core_everything_is_torchs(name: str, monkeypatch: Any) -> None:
    native_norm, torch_norm = PAIRS[name]
    x, w, b = torch.randn(2, 6, 4, 5), torch.randn(6), torch.randn(6)
    monkeypatch.setattr(native, "missing", "the native core is away")
    assert torch.equal(native_norm(x, w, b), torch_norm(x, w, b))
    reasons = explained(lambda: native_norm(x, w, b), monkeypatch)
    assert reasons[0] == ("native", "the native core is away") and reasons[-1] == ("torch", None)


def test_without_the_core_running_statistics_are_torchs(monkeypatch: Any) -> None:
    monkeypatch.setattr(native, "missing", "the native core is away")
    native_layer, torch_layer = batch_norms(2)
    x = torch.randn(4, 6, 4, 5)
    assert torch.equal(native_layer(x), torch_layer(x)) and same_state(native_layer, torch_layer.state_dict())
    ghost, kernel = S.GhostBatchNorm2d(6, 2), S.GhostBatchNorm2d(6, 2)
    y = ghost(x)
    monkeypatch.undo()
    torch.testing.assert_close(kernel(x), y, rtol=1e-4, atol=1e-5)
    assert_same_state(kernel, ghost)


def test_tensor_subclasses_and_other_devices_go_to_torch(monkeypatch: Any) -> None:
    class Mine(torch.Tensor):
        pass

    x = torch.randn(2, 6, 4, 5).as_subclass(Mine)
    assert isinstance(ops.batch_norm(x, None, None, training=True), Mine)
    assert explained(lambda: ops.layer_norm_2d(x), monkeypatch)[0] == (
        "native",
        "kernels are for plain tensors, got Mine",
    )
    meta = torch.empty(2, 6, 4, 5, device="meta")
    assert ops.group_norm(meta, 3).is_meta
    assert explained(lambda: ops.group_norm(meta, 3), monkeypatch)[0] == ("native", "kernels are for the CPU, got meta")


def test_many_gradients_at_once_are_those_one_at_a_time() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    for call in (
        lambda x: ops.batch_norm(x, None, None, training=True),
        lambda x: ops.layer_norm(x, [4]),
        lambda x: local_response.local_response_norm(x, 3),
    ):
        loop = torch.autograd.functional.jacobian(call, x)
        torch.testing.assert_close(torch.autograd.functional.jacobian(call, x, vectorize=True), loop)


def test_autocast_gives_what_torch_gives() -> None:
    x, w, b = torch.randn(2, 6, 4, 5), torch.randn(6), torch.randn(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for native_norm, torch_norm in PAIRS.values():
            torch.testing.assert_close(native_norm(x, w, b), torch_norm(x, w, b), rtol=1e-4, atol=1e-5)


def test_who_prefers_a_method_gets_it_however_small_the_work(monkeypatch: Any) -> None:
    x = torch.randn(2, 6, 4, 5, requires_grad=True)
    assert explained(lambda: ops.layer_norm(x, [5]), monkeypatch) == [("native", None)]
    with prefer("torch"):
        assert explained(lambda: ops.layer_norm(x, [5]), monkeypatch) == [("torch", None)]
        assert torch.equal(ops.layer_norm(x, [5]), F.layer_norm(x, [5]))


# ------------------------------------------------------------------------------------------- compiled, exported, copied


def network() -> Any:
    return S.Sequential(
        S.Conv2d(3, 6, 3),
        S.BatchNormAct2d(6),
        S.GhostBatchNorm2d(6, 2),
        S.InstanceNorm2d(6, affine=True),
        S.GroupNormAct2d(3, 6, activation="leaky_relu"),
        S.LocalResponseNorm(3),
        S.LayerNorm2d(6),
        S.LayerNorm([6, 5, 6]),
        S.RMSNorm(6),
        S.BatchNorm2d(6),
    )


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_models_compile_without_graph_breaks(dynamic: bool, layout: Layout) -> None:
    model = randomized(network())
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for _ in range(2):
        x = layout(torch.randn(4, 3, 7, 8))
        loss, expected = compiled(x).square().sum(), twin(x).square().sum()
        torch.testing.assert_close(loss, expected)
        gradients = [torch.autograd.grad(one, list(m.parameters())) for one, m in ((loss, model), (expected, twin))]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
        assert_same_state(model, twin)
    assert model[1].num_batches_tracked == 2
    torch.testing.assert_close(compiled(layout(torch.randn(6, 3, 7, 8))).shape, torch.Size([6, 6, 5, 6]))


@pytest.mark.nightly
def test_a_training_step_compiles_to_machine_code_with_its_running_statistics() -> None:
    model = randomized(S.BatchNorm2d(6))
    twin, x = copy.deepcopy(model), torch.randn(4, 6, 7, 8)
    compiled = torch.compile(model, fullgraph=True)
    loss, expected = compiled(x).square().sum(), twin(x).square().sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(one, list(m.parameters())) for one, m in ((loss, model), (expected, twin)))
    )
    assert model.num_batches_tracked == 1
    assert_same_state(model, twin)


def test_models_export(layout: Layout) -> None:
    model = randomized(network()).eval()
    with precision("strict"):  # the convolution's method may differ between batch sizes
        exported = torch.export.export(
            model, (layout(torch.randn(2, 3, 7, 8)),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        assert "striate" not in str(exported.graph) and "aten.batch_norm" in str(exported.graph)
        for batch in (2, 5):
            x = layout(torch.randn(batch, 3, 7, 8))
            torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize("name", layers())
def test_a_copy_and_a_pickle_are_the_same_layer(name: str) -> None:
    layer, x = randomized(layers()[name]), torch.randn(4, 6, 4, 5)
    if name.startswith("Batch"):
        layer.freeze()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer) and same_state(twin, state_of(layer))
        before = state_of(layer)
        assert torch.equal(twin(x), layer(x))
        assert same_state(twin, state_of(layer))
        layer.load_state_dict(before)


def saved_bytes(layer: torch.nn.Module, x: torch.Tensor) -> int:
    """The bytes that a layer saves for backward, each storage counted once."""
    sizes: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        memory = t.untyped_storage()
        sizes[memory.data_ptr()] = memory.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    assert y.requires_grad
    return sum(sizes.values())


def test_batch_norm_and_relu_keep_about_half_of_torchs_bytes_for_backward(layout: Layout) -> None:
    # striate saves x alone; torch's batch norm saves x and its ReLU y. The ratio is 1/2, but for per-channel values.
    x = layout(torch.randn(4, 20, 16, 16)).requires_grad_()
    torch_bytes = saved_bytes(torch.nn.Sequential(torch.nn.BatchNorm2d(20), torch.nn.ReLU()), x)
    assert saved_bytes(S.BatchNormAct2d(20), x) <= 0.55 * torch_bytes
    assert saved_bytes(S.BatchNormAct2d(20, activation="leaky_relu"), x) <= 0.55 * torch_bytes
    assert saved_bytes(S.GroupNormAct2d(5, 20), x) <= 0.55 * saved_bytes(
        torch.nn.Sequential(torch.nn.GroupNorm(5, 20), torch.nn.ReLU()), x
    )


# ------------------------------------------------------------------------------------------------------------ bad input

X = torch.randn(2, 6, 4, 5)
ONE = torch.randn(1, 6, 1, 1)
RM, RV = torch.zeros(6), torch.ones(6)
LAYERS: dict[str, Any] = {
    "BatchNorm1d": S.BatchNorm1d(6),
    "BatchNorm2d": S.BatchNorm2d(6),
    "BatchNorm3d": S.BatchNorm3d(6),
    "BatchNormAct2d": S.BatchNormAct2d(6),
    "GhostBatchNorm2d": S.GhostBatchNorm2d(6, 2),
    "InstanceNorm1d": S.InstanceNorm1d(6, track_running_stats=True),
    "InstanceNorm2d": S.InstanceNorm2d(6, track_running_stats=True),
    "InstanceNorm3d": S.InstanceNorm3d(6, track_running_stats=True),
    "GroupNorm": S.GroupNorm(3, 6),
    "GroupNormAct2d": S.GroupNormAct2d(3, 6),
    "LayerNorm": S.LayerNorm(5),
    "LayerNorm2d": S.LayerNorm2d(6),
    "RMSNorm": S.RMSNorm(5),
    "LocalResponseNorm": S.LocalResponseNorm(3),
}


def fused(x: torch.Tensor, **more: Any) -> torch.Tensor:
    return ops.by_channel(x, RM, RV, None, None, True, 0.1, 1e-5, **more)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # batch_norm
    (
        lambda: SF.batch_norm(ONE[0, :, 0, 0], RM, RV),
        ShapeError,
        "batch_norm expects x of shape (N, C) or (N, C, *axes), got (6,). Add axes with unsqueeze.",
    ),
    (
        lambda: SF.batch_norm(X.long(), RM, RV),
        DtypeError,
        "batch_norm expects floating-point numbers, got int64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.batch_norm(X > 0, RM, RV),
        DtypeError,
        "batch_norm expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.batch_norm(X + 0j, RM, RV),
        DtypeError,
        "batch_norm expects floating-point numbers, got complex64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.batch_norm([[1.0]], RM, RV),
        ArgumentTypeError,
        "batch_norm expects a tensor, got list. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.batch_norm(None, RM, RV),
        ArgumentTypeError,
        "batch_norm expects a tensor, got NoneType. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, torch.ones(5)),
        ShapeError,
        (
            "batch_norm expects weight of shape (6,), one number a channel, got (5,). x: (2, 6, 4, 5). x's second "
            "axis is "
            "the channels."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, torch.ones(6), torch.ones(7)),
        ShapeError,
        (
            "batch_norm expects bias of shape (6,), one number a channel, got (7,). x: (2, 6, 4, 5). x's second axis "
            "is "
            "the channels."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, torch.ones(6, 1)),
        ShapeError,
        (
            "batch_norm expects weight of shape (6,), one number a channel, got (6, 1). x: (2, 6, 4, 5). x's second "
            "axis "
            "is the channels."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, torch.ones(())),
        ShapeError,
        (
            "batch_norm expects weight of shape (6,), one number a channel, got (). x: (2, 6, 4, 5). x's second axis "
            "is "
            "the channels."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, 1.0),
        ArgumentTypeError,
        "batch_norm expects weight to be a tensor or None, got float. Give one number a channel.",
    ),
    (
        lambda: SF.batch_norm(X, RM, torch.ones(5)),
        ShapeError,
        (
            "batch_norm expects running_var of shape (6,), one number a channel, got (5,). x: (2, 6, 4, 5). x's second "
            "axis is the channels."
        ),
    ),
    (
        lambda: SF.batch_norm(X, torch.zeros(5), RV, training=True),
        ShapeError,
        (
            "batch_norm expects running_mean of shape (6,), one number a channel, got (5,). x: (2, 6, 4, 5). x's "
            "second "
            "axis is the channels."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, [1.0] * 6),
        ArgumentTypeError,
        "batch_norm expects running_var to be a tensor or None, got list. Give one number a channel.",
    ),
    (
        lambda: SF.batch_norm(X, RM, None, training=True),
        ArgumentError,
        "batch_norm expects running_mean and running_var together, got only a running mean. Give both or neither.",
    ),
    (
        lambda: SF.batch_norm(X, None, RV),
        ArgumentError,
        "batch_norm expects running_mean and running_var together, got only a running variance. Give both or neither.",
    ),
    (
        lambda: SF.batch_norm(X, None, None),
        ArgumentError,
        (
            "batch_norm expects running statistics where the batch is not measured, got None. Give running_mean and "
            "running_var, or measure it."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps=0),
        ArgumentError,
        (
            "batch_norm expects an eps above 0, got 0. Use 1e-5: it keeps a constant channel's variance from dividing "
            "by "
            "0."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps=-1e-5),
        ArgumentError,
        (
            "batch_norm expects an eps above 0, got -1e-05. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps=math.nan),
        ArgumentError,
        (
            "batch_norm expects an eps above 0, got nan. Use 1e-5: it keeps a constant channel's variance from "
            "dividing "
            "by 0."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps=math.inf),
        ArgumentError,
        (
            "batch_norm expects an eps above 0, got inf. Use 1e-5: it keeps a constant channel's variance from "
            "dividing "
            "by 0."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, eps=-1e-5),
        ArgumentError,
        (
            "batch_norm expects an eps of 0 or more, got -1e-05. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps="1e-5"),
        ArgumentTypeError,
        "batch_norm expects eps to be a number, got '1e-5'. Use 1e-5.",
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps=None),
        ArgumentTypeError,
        "batch_norm expects eps to be a number, got None. Use 1e-5.",
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, eps=True),
        ArgumentTypeError,
        "batch_norm expects eps to be a number, got True. Use 1e-5.",
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, momentum=math.nan),
        ArgumentError,
        "batch_norm expects a finite momentum, got nan. Use 0.1: the weight of the newest batch.",
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, momentum="much"),
        ArgumentTypeError,
        "batch_norm expects momentum to be a number, got 'much'. Use 0.1.",
    ),
    (
        lambda: SF.batch_norm(X, RM, RV, training=True, momentum=None),
        ArgumentTypeError,
        "batch_norm expects momentum to be a number, got None. Use 0.1.",
    ),
    (
        lambda: SF.batch_norm(ONE, RM, RV, training=True),
        ShapeError,
        (
            "batch_norm expects more than one value per channel to measure, got 1. x: (1, 6, 1, 1). Use a larger "
            "batch or "
            ".eval()."
        ),
    ),
    (
        lambda: SF.batch_norm(ONE[:, :, 0, 0], RM, RV, training=True),
        ShapeError,
        (
            "batch_norm expects more than one value per channel to measure, got 1. x: (1, 6). Use a larger batch or "
            ".eval()."
        ),
    ),
    (
        lambda: fused(X, residual=X[:1]),
        ShapeError,
        "batch_norm expects a residual of x's shape, got (1, 6, 4, 5). x: (2, 6, 4, 5). Bring it to x's shape.",
    ),
    (
        lambda: fused(X, residual=X.double()),
        DtypeError,
        "batch_norm expects a residual of x's type, float32, got float64. Convert it with .to(x).",
    ),
    (
        lambda: fused(X, residual=1.0),
        ArgumentTypeError,
        "batch_norm expects residual to be a tensor or None, got float. Leave it out to add nothing.",
    ),
    (
        lambda: fused(X, activation="gelu"),
        ArgumentError,
        (
            "batch_norm expects an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu', got 'gelu'. Put any "
            "other "
            "behind the layer."
        ),
    ),
    (
        lambda: fused(X, activation=["relu"]),
        ArgumentError,
        (
            "batch_norm expects an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu', got ['relu']. Put any "
            "other "
            "behind the layer."
        ),
    ),
    (
        lambda: fused(X, residual=X[..., :0]),
        ShapeError,
        "batch_norm expects a residual of x's shape, got (2, 6, 4, 0). x: (2, 6, 4, 5). Bring it to x's shape.",
    ),
    # instance_norm
    (
        lambda: SF.instance_norm(X[:, :, 0, 0]),
        ShapeError,
        "instance_norm expects x of shape (N, C, *axes), got (2, 6). Add axes with unsqueeze.",
    ),
    (
        lambda: SF.instance_norm(X.int()),
        DtypeError,
        "instance_norm expects floating-point numbers, got int32. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.instance_norm(X > 0),
        DtypeError,
        "instance_norm expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.instance_norm(X + 0j),
        DtypeError,
        "instance_norm expects floating-point numbers, got complex64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.instance_norm("x"),
        ArgumentTypeError,
        "instance_norm expects a tensor, got str. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.instance_norm(X, weight=torch.ones(5)),
        ShapeError,
        (
            "instance_norm expects weight of shape (6,), one number a channel, got (5,). x: (2, 6, 4, 5). x's second "
            "axis "
            "is the channels."
        ),
    ),
    (
        lambda: SF.instance_norm(X, weight=torch.ones(1, 6)),
        ShapeError,
        (
            "instance_norm expects weight of shape (6,), one number a channel, got (1, 6). x: (2, 6, 4, 5). x's second "
            "axis is the channels."
        ),
    ),
    (
        lambda: SF.instance_norm(X, bias=torch.ones(12)),
        ShapeError,
        (
            "instance_norm expects bias of shape (6,), one number a channel, got (12,). x: (2, 6, 4, 5). x's second "
            "axis "
            "is the channels."
        ),
    ),
    (
        lambda: SF.instance_norm(X, RM, torch.ones(5)),
        ShapeError,
        (
            "instance_norm expects running_var of shape (6,), one number a channel, got (5,). x: (2, 6, 4, 5). x's "
            "second "
            "axis is the channels."
        ),
    ),
    (
        lambda: SF.instance_norm(X, RM),
        ArgumentError,
        "instance_norm expects running_mean and running_var together, got only a running mean. Give both or neither.",
    ),
    (
        lambda: SF.instance_norm(X, use_input_stats=False),
        ArgumentError,
        (
            "instance_norm expects running statistics where the batch is not measured, got None. Give running_mean and "
            "running_var, or measure it."
        ),
    ),
    (
        lambda: SF.instance_norm(X, eps=-0.5),
        ArgumentError,
        (
            "instance_norm expects an eps of 0 or more, got -0.5. Use 1e-5: it keeps a constant channel's variance "
            "from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.instance_norm(X, eps=math.nan),
        ArgumentError,
        (
            "instance_norm expects an eps of 0 or more, got nan. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.instance_norm(X, eps="small"),
        ArgumentTypeError,
        "instance_norm expects eps to be a number, got 'small'. Use 1e-5.",
    ),
    (
        lambda: SF.instance_norm(X, RM, RV, momentum=math.inf),
        ArgumentError,
        "instance_norm expects a finite momentum, got inf. Use 0.1: the weight of the newest batch.",
    ),
    (
        lambda: SF.instance_norm(X, RM, RV, momentum=[0.1]),
        ArgumentTypeError,
        "instance_norm expects momentum to be a number, got [0.1]. Use 0.1.",
    ),
    (
        lambda: SF.instance_norm(X[..., :1, :1], RM, RV),
        ShapeError,
        (
            "instance_norm expects more than one value per channel of a sample to measure, got 1. x: (2, 6, 1, 1). "
            "Use a "
            "larger batch or .eval()."
        ),
    ),
    # group_norm
    (
        lambda: SF.group_norm(ONE[0, :, 0, 0], 3),
        ShapeError,
        "group_norm expects x of shape (N, C, *axes), got (6,). Add axes with unsqueeze.",
    ),
    (
        lambda: SF.group_norm(X.long(), 3),
        DtypeError,
        "group_norm expects floating-point numbers, got int64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.group_norm(X > 0, 3),
        DtypeError,
        "group_norm expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.group_norm(X + 0j, 3),
        DtypeError,
        "group_norm expects floating-point numbers, got complex64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.group_norm(3, X),
        ArgumentTypeError,
        "group_norm expects a tensor, got int. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.group_norm(X, 0),
        ArgumentError,
        (
            "group_norm expects num_groups that divides the 6 channels, got 0. x: (2, 6, 4, 5). Choose a divisor of "
            "the "
            "channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, -3),
        ArgumentError,
        (
            "group_norm expects num_groups that divides the 6 channels, got -3. x: (2, 6, 4, 5). Choose a divisor of "
            "the "
            "channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, 4),
        ArgumentError,
        (
            "group_norm expects num_groups that divides the 6 channels, got 4. x: (2, 6, 4, 5). Choose a divisor of "
            "the "
            "channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, 12),
        ArgumentError,
        (
            "group_norm expects num_groups that divides the 6 channels, got 12. x: (2, 6, 4, 5). Choose a divisor of "
            "the "
            "channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3.0),
        ArgumentTypeError,
        "group_norm expects num_groups to be an integer, got 3.0. Use 32, or what divides the channels.",
    ),
    (
        lambda: SF.group_norm(X, True),
        ArgumentTypeError,
        "group_norm expects num_groups to be an integer, got True. Use 32, or what divides the channels.",
    ),
    (
        lambda: SF.group_norm(X, "3"),
        ArgumentTypeError,
        "group_norm expects num_groups to be an integer, got '3'. Use 32, or what divides the channels.",
    ),
    (
        lambda: SF.group_norm(X, 2**63),
        ArgumentError,
        (
            "group_norm expects num_groups that divides the 6 channels, got 9223372036854775808. x: (2, 6, 4, 5). "
            "Choose "
            "a divisor of the channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3, torch.ones(3)),
        ShapeError,
        (
            "group_norm expects weight of shape (6,), one number a channel, got (3,). x: (2, 6, 4, 5). x's second "
            "axis is "
            "the channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3, torch.ones(6), torch.ones(6, 1)),
        ShapeError,
        (
            "group_norm expects bias of shape (6,), one number a channel, got (6, 1). x: (2, 6, 4, 5). x's second "
            "axis is "
            "the channels."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3, [1.0] * 6),
        ArgumentTypeError,
        "group_norm expects weight to be a tensor or None, got list. Give one number a channel.",
    ),
    (
        lambda: SF.group_norm(X, 3, eps=math.inf),
        ArgumentError,
        (
            "group_norm expects an eps of 0 or more, got inf. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3, eps=-1.0),
        ArgumentError,
        (
            "group_norm expects an eps of 0 or more, got -1.0. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3, eps=math.nan),
        ArgumentError,
        (
            "group_norm expects an eps of 0 or more, got nan. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.group_norm(X, 3, eps="1e-5"),
        ArgumentTypeError,
        "group_norm expects eps to be a number, got '1e-5'. Use 1e-5.",
    ),
    (
        lambda: SF.group_norm(ONE, 6),
        ShapeError,
        (
            "group_norm expects more than one value per group to measure, got 1. x: (1, 6, 1, 1). Use a larger batch "
            "or "
            ".eval()."
        ),
    ),
    (
        lambda: ops.by_group(X, 3, None, None, 1e-5, residual=X[..., :4]),
        ShapeError,
        "group_norm expects a residual of x's shape, got (2, 6, 4, 4). x: (2, 6, 4, 5). Bring it to x's shape.",
    ),
    (
        lambda: ops.by_group(X, 3, None, None, 1e-5, residual=X.bfloat16()),
        DtypeError,
        "group_norm expects a residual of x's type, float32, got bfloat16. Convert it with .to(x).",
    ),
    (
        lambda: ops.by_group(X, 3, None, None, 1e-5, activation="tanh"),
        ArgumentError,
        (
            "group_norm expects an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu', got 'tanh'. Put any "
            "other "
            "behind the layer."
        ),
    ),
    # layer_norm
    (
        lambda: SF.layer_norm(ONE[0, 0, 0, 0], [1]),
        ShapeError,
        "layer_norm expects x of shape (*, *normalized_shape), got (). Add axes with unsqueeze.",
    ),
    (
        lambda: SF.layer_norm(X.long(), [5]),
        DtypeError,
        "layer_norm expects floating-point numbers, got int64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.layer_norm(X > 0, [5]),
        DtypeError,
        "layer_norm expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.layer_norm(X + 0j, [5]),
        DtypeError,
        "layer_norm expects floating-point numbers, got complex64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.layer_norm([1.0], [1]),
        ArgumentTypeError,
        "layer_norm expects a tensor, got list. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.layer_norm(X, [4]),
        ShapeError,
        (
            "layer_norm expects x to end in the normalized shape, (4,), got (2, 6, 4, 5). normalized_shape is the "
            "sizes "
            "of x's last axes."
        ),
    ),
    (
        lambda: SF.layer_norm(X, 4),
        ShapeError,
        (
            "layer_norm expects x to end in the normalized shape, (4,), got (2, 6, 4, 5). normalized_shape is the "
            "sizes "
            "of x's last axes."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [4, 6]),
        ShapeError,
        (
            "layer_norm expects x to end in the normalized shape, (4, 6), got (2, 6, 4, 5). normalized_shape is the "
            "sizes "
            "of x's last axes."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [1, 2, 6, 4, 5]),
        ShapeError,
        (
            "layer_norm expects x to end in the normalized shape, (1, 2, 6, 4, 5), got (2, 6, 4, 5). normalized_shape "
            "is "
            "the sizes of x's last axes."
        ),
    ),
    (
        lambda: SF.layer_norm(X, []),
        ArgumentTypeError,
        "layer_norm expects normalized_shape to be an integer or some, got []. Give the sizes of the axes to measure.",
    ),
    (
        lambda: SF.layer_norm(X, 5.0),
        ArgumentTypeError,
        "layer_norm expects normalized_shape to be an integer or some, got 5.0. Give the sizes of the axes to measure.",
    ),
    (
        lambda: SF.layer_norm(X, [5.0]),
        ArgumentTypeError,
        (
            "layer_norm expects normalized_shape to be an integer or some, got [5.0]. Give the sizes of the axes to "
            "measure."
        ),
    ),
    (
        lambda: SF.layer_norm(X, True),
        ArgumentTypeError,
        (
            "layer_norm expects normalized_shape to be an integer or some, got True. Give the sizes of the axes to "
            "measure."
        ),
    ),
    (
        lambda: SF.layer_norm(X, "5"),
        ArgumentTypeError,
        "layer_norm expects normalized_shape to be an integer or some, got '5'. Give the sizes of the axes to measure.",
    ),
    (
        lambda: SF.layer_norm(X, None),
        ArgumentTypeError,
        (
            "layer_norm expects normalized_shape to be an integer or some, got None. Give the sizes of the axes to "
            "measure."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [-5]),
        ShapeError,
        (
            "layer_norm expects x to end in the normalized shape, (-5,), got (2, 6, 4, 5). normalized_shape is the "
            "sizes "
            "of x's last axes."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], torch.ones(4)),
        ShapeError,
        (
            "layer_norm expects weight of the normalized shape, (5,), got (4,). x: (2, 6, 4, 5). Scale and shift have "
            "a "
            "number for each normalized element."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], torch.ones(1, 5)),
        ShapeError,
        (
            "layer_norm expects weight of the normalized shape, (5,), got (1, 5). x: (2, 6, 4, 5). Scale and shift "
            "have a "
            "number for each normalized element."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [4, 5], torch.ones(4, 5), torch.ones(20)),
        ShapeError,
        (
            "layer_norm expects bias of the normalized shape, (4, 5), got (20,). x: (2, 6, 4, 5). Scale and shift "
            "have a "
            "number for each normalized element."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], [1.0] * 5),
        ArgumentTypeError,
        (
            "layer_norm expects weight to be a tensor or None, got list. Scale and shift have a number for each "
            "normalized element."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], None, 0.0),
        ArgumentTypeError,
        (
            "layer_norm expects bias to be a tensor or None, got float. Scale and shift have a number for each "
            "normalized "
            "element."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], eps=math.inf),
        ArgumentError,
        (
            "layer_norm expects an eps of 0 or more, got inf. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], eps=-1e-5),
        ArgumentError,
        (
            "layer_norm expects an eps of 0 or more, got -1e-05. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], eps=math.nan),
        ArgumentError,
        (
            "layer_norm expects an eps of 0 or more, got nan. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.layer_norm(X, [5], eps="tiny"),
        ArgumentTypeError,
        "layer_norm expects eps to be a number, got 'tiny'. Use 1e-5.",
    ),
    (
        lambda: SF.layer_norm(X, [5], eps=None),
        ArgumentTypeError,
        "layer_norm expects eps to be a number, got None. Use 1e-5.",
    ),
    # rms_norm
    (
        lambda: SF.rms_norm(ONE[0, 0, 0, 0], [1]),
        ShapeError,
        "rms_norm expects x of shape (*, *normalized_shape), got (). Add axes with unsqueeze.",
    ),
    (
        lambda: SF.rms_norm(X.long(), [5]),
        DtypeError,
        "rms_norm expects floating-point numbers, got int64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.rms_norm(X > 0, [5]),
        DtypeError,
        "rms_norm expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.rms_norm(None, [5]),
        ArgumentTypeError,
        "rms_norm expects a tensor, got NoneType. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.rms_norm(X, [4]),
        ShapeError,
        (
            "rms_norm expects x to end in the normalized shape, (4,), got (2, 6, 4, 5). normalized_shape is the sizes "
            "of "
            "x's last axes."
        ),
    ),
    (
        lambda: SF.rms_norm(X, []),
        ArgumentTypeError,
        "rms_norm expects normalized_shape to be an integer or some, got []. Give the sizes of the axes to measure.",
    ),
    (
        lambda: SF.rms_norm(X, 5.0),
        ArgumentTypeError,
        "rms_norm expects normalized_shape to be an integer or some, got 5.0. Give the sizes of the axes to measure.",
    ),
    (
        lambda: SF.rms_norm(X, [True]),
        ArgumentTypeError,
        (
            "rms_norm expects normalized_shape to be an integer or some, got [True]. Give the sizes of the axes to "
            "measure."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], torch.ones(4)),
        ShapeError,
        (
            "rms_norm expects weight of the normalized shape, (5,), got (4,). x: (2, 6, 4, 5). Scale and shift have a "
            "number for each normalized element."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], torch.ones(5, 1)),
        ShapeError,
        (
            "rms_norm expects weight of the normalized shape, (5,), got (5, 1). x: (2, 6, 4, 5). Scale and shift have "
            "a "
            "number for each normalized element."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], 1.0),
        ArgumentTypeError,
        (
            "rms_norm expects weight to be a tensor or None, got float. Scale and shift have a number for each "
            "normalized "
            "element."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], eps=math.inf),
        ArgumentError,
        (
            "rms_norm expects an eps of 0 or more, got inf. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], eps=-1.0),
        ArgumentError,
        (
            "rms_norm expects an eps of 0 or more, got -1.0. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], eps=math.nan),
        ArgumentError,
        (
            "rms_norm expects an eps of 0 or more, got nan. Use 1e-5: it keeps a constant channel's variance from "
            "dividing by 0."
        ),
    ),
    (
        lambda: SF.rms_norm(X, [5], eps="tiny"),
        ArgumentTypeError,
        "rms_norm expects eps to be a number, got 'tiny'. Use 1e-5.",
    ),
    # layer_norm_2d
    (
        lambda: ops.layer_norm_2d(ONE[0, :, 0, 0]),
        ShapeError,
        "layer_norm_2d expects x of shape (N, C, *axes), got (6,). Add axes with unsqueeze.",
    ),
    (
        lambda: ops.layer_norm_2d(X.long()),
        DtypeError,
        "layer_norm_2d expects floating-point numbers, got int64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: ops.layer_norm_2d(X, torch.ones(5)),
        ShapeError,
        (
            "layer_norm_2d expects weight of shape (6,), one number a channel, got (5,). x: (2, 6, 4, 5). x's second "
            "axis "
            "is the channels."
        ),
    ),
    (
        lambda: ops.layer_norm_2d(X, None, torch.ones(6, 1, 1)),
        ShapeError,
        (
            "layer_norm_2d expects bias of shape (6,), one number a channel, got (6, 1, 1). x: (2, 6, 4, 5). x's "
            "second "
            "axis is the channels."
        ),
    ),
    (
        lambda: ops.layer_norm_2d(X, eps=-0.5),
        ArgumentError,
        (
            "layer_norm_2d expects an eps of 0 or more, got -0.5. Use 1e-5: it keeps a constant channel's variance "
            "from "
            "dividing by 0."
        ),
    ),
    (
        lambda: ops.layer_norm_2d(X, activation="gelu"),
        ArgumentError,
        (
            "layer_norm_2d expects an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu', got 'gelu'. Put any "
            "other behind the layer."
        ),
    ),
    # local_response_norm
    (
        lambda: SF.local_response_norm(X[:, :, 0, 0], 3),
        ShapeError,
        "local_response_norm expects x of shape (N, C, *axes), got (2, 6). Add axes with unsqueeze.",
    ),
    (
        lambda: SF.local_response_norm(X > 0, 3),
        DtypeError,
        "local_response_norm expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.local_response_norm(X + 0j, 3),
        DtypeError,
        "local_response_norm expects floating-point numbers, got complex64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: SF.local_response_norm([X], 3),
        ArgumentTypeError,
        "local_response_norm expects a tensor, got list. Call torch.as_tensor on it first.",
    ),
    (
        lambda: SF.local_response_norm(X, 0),
        ArgumentError,
        (
            "local_response_norm expects a size from 1 to 2^31 - 1, got 0. x: (2, 6, 4, 5). Give a number of "
            "channels, as "
            "5."
        ),
    ),
    (
        lambda: SF.local_response_norm(X, -3),
        ArgumentError,
        (
            "local_response_norm expects a size from 1 to 2^31 - 1, got -3. x: (2, 6, 4, 5). Give a number of "
            "channels, "
            "as 5."
        ),
    ),
    (
        lambda: SF.local_response_norm(X, 2**31),
        ArgumentError,
        (
            "local_response_norm expects a size from 1 to 2^31 - 1, got 2147483648. x: (2, 6, 4, 5). Give a number of "
            "channels, as 5."
        ),
    ),
    (
        lambda: SF.local_response_norm(X, 2**80),
        ArgumentError,
        (
            "local_response_norm expects a size from 1 to 2^31 - 1, got 1208925819614629174706176. x: (2, 6, 4, 5). "
            "Give "
            "a number of channels, as 5."
        ),
    ),
    (
        lambda: SF.local_response_norm(X, 3.0),
        ArgumentTypeError,
        "local_response_norm expects size to be an integer, got 3.0. Give a number of channels, as 5.",
    ),
    (
        lambda: SF.local_response_norm(X, True),
        ArgumentTypeError,
        "local_response_norm expects size to be an integer, got True. Give a number of channels, as 5.",
    ),
    (
        lambda: SF.local_response_norm(X, None),
        ArgumentTypeError,
        "local_response_norm expects size to be an integer, got None. Give a number of channels, as 5.",
    ),
    (
        lambda: SF.local_response_norm(X, 3, "1e-4"),
        ArgumentTypeError,
        "local_response_norm expects alpha to be a number, got '1e-4'. See the formula in its docstring.",
    ),
    (
        lambda: SF.local_response_norm(X, 3, 1e-4, None),
        ArgumentTypeError,
        "local_response_norm expects beta to be a number, got None. See the formula in its docstring.",
    ),
    (
        lambda: SF.local_response_norm(X, 3, 1e-4, 0.75, True),
        ArgumentTypeError,
        "local_response_norm expects k to be a number, got True. See the formula in its docstring.",
    ),
    # layers
    (
        lambda: LAYERS["BatchNorm1d"](X),
        ShapeError,
        (
            "BatchNorm1d expects x of shape (N, C) or (N, C, L), got (2, 6, 4, 5). Add or drop axes with unsqueeze or "
            "flatten."
        ),
    ),
    (
        lambda: LAYERS["BatchNorm2d"](X[0]),
        ShapeError,
        "BatchNorm2d expects x of shape (N, C, H, W), got (6, 4, 5). Add or drop axes with unsqueeze or flatten.",
    ),
    (
        lambda: LAYERS["BatchNorm3d"](X),
        ShapeError,
        "BatchNorm3d expects x of shape (N, C, D, H, W), got (2, 6, 4, 5). Add or drop axes with unsqueeze or flatten.",
    ),
    (
        lambda: LAYERS["BatchNorm2d"](X[:, :5]),
        ShapeError,
        (
            "BatchNorm2d expects weight of shape (5,), one number a channel, got (6,). x: (2, 5, 4, 5). x's second "
            "axis "
            "is the channels."
        ),
    ),
    (
        lambda: LAYERS["BatchNorm2d"](X.long()),
        DtypeError,
        "BatchNorm2d expects floating-point numbers, got int64. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: LAYERS["BatchNorm2d"]([X]),
        ArgumentTypeError,
        "BatchNorm2d expects a tensor, got list. Call torch.as_tensor on it first.",
    ),
    (
        lambda: LAYERS["BatchNorm2d"]._compute(X, X[:1]),
        ShapeError,
        "BatchNorm2d expects a residual of x's shape, got (1, 6, 4, 5). x: (2, 6, 4, 5). Bring it to x's shape.",
    ),
    (
        lambda: LAYERS["BatchNorm2d"](ONE),
        ShapeError,
        (
            "BatchNorm2d expects more than one value per channel to measure, got 1. x: (1, 6, 1, 1). Use a larger "
            "batch "
            "or .eval()."
        ),
    ),
    (
        lambda: LAYERS["BatchNormAct2d"](ONE[0, :, 0, 0]),
        ShapeError,
        (
            "BatchNormAct2d expects x of shape (N, C) or (N, C, *axes), got (6,). Add or drop axes with unsqueeze or "
            "flatten."
        ),
    ),
    (
        lambda: LAYERS["BatchNormAct2d"](X[:, :5]),
        ShapeError,
        (
            "BatchNormAct2d expects weight of shape (5,), one number a channel, got (6,). x: (2, 5, 4, 5). x's second "
            "axis is the channels."
        ),
    ),
    (
        lambda: LAYERS["GhostBatchNorm2d"](X[:, :5]),
        ShapeError,
        (
            "GhostBatchNorm2d expects weight of shape (5,), one number a channel, got (6,). x: (2, 5, 4, 5). x's "
            "second "
            "axis is the channels."
        ),
    ),
    (
        lambda: LAYERS["GhostBatchNorm2d"](torch.tensor(1.0)),
        ShapeError,
        (
            "GhostBatchNorm2d expects x of shape (N, C) or (N, C, *axes), got (). Add or drop axes with unsqueeze or "
            "flatten."
        ),
    ),
    (
        lambda: LAYERS["GhostBatchNorm2d"](None),
        ArgumentTypeError,
        "GhostBatchNorm2d expects a tensor, got NoneType. Call torch.as_tensor on it first.",
    ),
    (
        lambda: LAYERS["InstanceNorm1d"](X),
        ShapeError,
        (
            "InstanceNorm1d expects x of shape (N, C, L) or (C, L), got (2, 6, 4, 5). Add or drop axes with unsqueeze "
            "or "
            "flatten."
        ),
    ),
    (
        lambda: LAYERS["InstanceNorm2d"](X[0, 0]),
        ShapeError,
        (
            "InstanceNorm2d expects x of shape (N, C, H, W) or (C, H, W), got (4, 5). Add or drop axes with unsqueeze "
            "or "
            "flatten."
        ),
    ),
    (
        lambda: LAYERS["InstanceNorm3d"](X[0]),
        ShapeError,
        (
            "InstanceNorm3d expects x of shape (N, C, D, H, W) or (C, D, H, W), got (6, 4, 5). Add or drop axes with "
            "unsqueeze or flatten."
        ),
    ),
    (
        lambda: LAYERS["InstanceNorm2d"](X[:, :5]),
        ShapeError,
        "InstanceNorm2d expects 6 channels, got 5. x: (2, 5, 4, 5). Set num_features=5, or look at what comes before.",
    ),
    (
        lambda: LAYERS["InstanceNorm2d"](X > 0),
        DtypeError,
        "InstanceNorm2d expects floating-point numbers, got bool. x: (2, 6, 4, 5). Convert x with .float().",
    ),
    (
        lambda: LAYERS["InstanceNorm2d"](ONE),
        ShapeError,
        (
            "InstanceNorm2d expects more than one value per channel to measure, got 1. x: (1, 6, 1, 1). Use a larger "
            "batch or .eval()."
        ),
    ),
    (
        lambda: LAYERS["GroupNorm"](X[:, :5]),
        ArgumentError,
        (
            "GroupNorm expects num_groups that divides the 5 channels, got 3. x: (2, 5, 4, 5). Choose a divisor of the "
            "channels."
        ),
    ),
    (
        lambda: LAYERS["GroupNorm"](X[:, :3]),
        ShapeError,
        (
            "GroupNorm expects weight of shape (3,), one number a channel, got (6,). x: (2, 3, 4, 5). x's second axis "
            "is "
            "the channels."
        ),
    ),
    (
        lambda: LAYERS["GroupNormAct2d"](X, residual=X.double()),
        DtypeError,
        "GroupNormAct2d expects a residual of x's type, float32, got float64. Convert it with .to(x).",
    ),
    (
        lambda: LAYERS["LayerNorm"](X[..., :4]),
        ShapeError,
        (
            "LayerNorm expects x to end in the normalized shape, (5,), got (2, 6, 4, 4). normalized_shape is the "
            "sizes of "
            "x's last axes."
        ),
    ),
    (
        lambda: LAYERS["LayerNorm2d"](X[:, :5]),
        ShapeError,
        "LayerNorm2d expects 6 channels, got 5. x: (2, 5, 4, 5). Set num_channels=5, or look at what comes before.",
    ),
    (
        lambda: LAYERS["LayerNorm2d"](X[0, 0, 0]),
        ShapeError,
        "LayerNorm2d expects x of shape (N, C, *axes), got (5,). Add axes with unsqueeze.",
    ),
    (
        lambda: LAYERS["RMSNorm"](X[..., :4]),
        ShapeError,
        (
            "RMSNorm expects x to end in the normalized shape, (5,), got (2, 6, 4, 4). normalized_shape is the sizes "
            "of "
            "x's last axes."
        ),
    ),
    (
        lambda: LAYERS["LocalResponseNorm"](X[0, 0]),
        ShapeError,
        "LocalResponseNorm expects x of shape (N, C, *axes), got (4, 5). Add axes with unsqueeze.",
    ),
    (
        lambda: S.GhostBatchNorm2d(6, 0),
        ArgumentError,
        "GhostBatchNorm2d expects a ghost_batch_size of at least 1, got 0. Choose 16 or 32.",
    ),
    (
        lambda: S.GhostBatchNorm2d(6, -2),
        ArgumentError,
        "GhostBatchNorm2d expects a ghost_batch_size of at least 1, got -2. Choose 16 or 32.",
    ),
    (
        lambda: S.GhostBatchNorm2d(6, 2.0),
        ArgumentError,
        "GhostBatchNorm2d expects a ghost_batch_size of at least 1, got 2.0. Choose 16 or 32.",
    ),
    (
        lambda: S.GhostBatchNorm2d(6, True),
        ArgumentError,
        "GhostBatchNorm2d expects a ghost_batch_size of at least 1, got True. Choose 16 or 32.",
    ),
    (
        lambda: S.BatchNormAct2d(6, activation="gelu"),
        ArgumentError,
        (
            "BatchNormAct2d expects an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu', got 'gelu'. Put any "
            "other behind the layer."
        ),
    ),
    (
        lambda: S.GroupNormAct2d(3, 6, activation=7),
        ArgumentError,
        (
            "GroupNormAct2d expects an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu', got 7. Put any other "
            "behind the layer."
        ),
    ),
    (
        lambda: S.LayerNorm2d(0),
        ArgumentError,
        "LayerNorm2d expects num_channels of at least 1, got 0. It is the size of x's second axis.",
    ),
    (
        lambda: S.LayerNorm2d(6.0),
        ArgumentError,
        "LayerNorm2d expects num_channels of at least 1, got 6.0. It is the size of x's second axis.",
    ),
    (lambda: S.GroupNorm(4, 6), ValueError, "num_channels (6) must be divisible by num_groups (4)"),
    (
        lambda: S.BatchNorm2d(6, track_running_stats=False).freeze(),
        ArgumentError,
        (
            "BatchNorm2d.freeze expects running statistics, got None. Build the layer with track_running_stats=True "
            "and "
            "train it."
        ),
    ),
]


def everything() -> list[torch.Tensor]:
    return [t.clone() for t in (X, ONE, RM, RV, *(t for layer in LAYERS.values() for t in layer.state_dict().values()))]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[f"{k}-{m[:50]}" for k, (_, _, m) in enumerate(BAD)])
def test_bad_input_raises_its_message_takes_little_memory_and_changes_nothing(
    call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    before = everything()
    with pytest.raises(kind) as raised, memory.at_most(2**29):
        call()
    assert str(raised.value) == message
    assert isinstance(raised.value, RuntimeError) or kind is ValueError  # ValueError comes from torch's own constructor
    assert all(torch.equal(p, q) for p, q in zip(everything(), before, strict=True))


@pytest.mark.parametrize(
    "other", [torch.bfloat16, torch.complex64, torch.int64], ids=["bfloat16", "complex64", "int64"]
)
def test_running_statistics_of_an_impossible_type_change_nothing(other: torch.dtype) -> None:
    x = torch.randn(2, 6, 4, 5) + 3
    for running in ((torch.zeros(6), torch.ones(6).to(other)), (torch.zeros(6).to(other), torch.ones(6))):
        before = [r.clone() for r in running]
        for training in (True, False):
            with pytest.raises(RuntimeError):
                ops.batch_norm(x, *running, training=training)
            assert all(torch.equal(p, q) for p, q in zip(running, before, strict=True))


def test_layer_norm_without_an_eps_is_refused_whoever_computes_it() -> None:
    for method in ("native", "torch"):
        with prefer(method), pytest.raises(ArgumentTypeError):
            ops.layer_norm(X, [5], eps=None)


def test_operators_called_past_the_checks_raise_instead_of_reading_outside() -> None:
    operators = torch.ops.striate
    statistics, more = torch.zeros(2, 6, dtype=torch.float64), (True, 1e-5, 0, 0.0)

    def norm(
        x: Any,
        residual: Any = None,
        weight: Any = None,
        mean: Any = None,
        batches: int = 1,
        groups: int = 6,
        along: int = 0,
    ) -> Any:
        return operators.norm(x, residual, weight, None, mean, mean, batches, groups, along, False, *more)

    def backward(
        dy: Any,
        x: Any,
        weight: Any = None,
        kept: Any = statistics,
        means: Any = None,
        wanted: int = 1,
        residual: Any = None,
    ) -> Any:
        return operators.norm_backward(dy, x, residual, weight, None, kept, means, 1, 6, 0, False, *more, False, wanted)

    norm(X), backward(X, X)
    bad = [
        lambda: norm(X, residual=X[:1]),
        lambda: norm(X, residual=X.double()),
        lambda: norm(X, weight=torch.ones(5)),
        lambda: norm(X, weight=torch.ones(6, dtype=torch.float64)),
        lambda: norm(X, mean=torch.ones(5)),
        lambda: norm(X, batches=0),
        lambda: norm(X, batches=3),
        lambda: norm(X, groups=-6),
        lambda: norm(X, groups=4),
        lambda: norm(X, along=1, batches=7),
        lambda: norm(X, along=7),
        lambda: norm(X[0, :, 0, 0]),
        lambda: norm(X.half()),
        lambda: operators.norm(X, None, None, None, None, None, 1, 6, 0, False, True, 1e-5, 9, 0.0),
        lambda: backward(X[:1], X),
        lambda: backward(X.double(), X),
        lambda: backward(X, X, weight=torch.ones(7), wanted=5),
        lambda: backward(X, X, wanted=4),
        lambda: backward(X, X, wanted=8),
        lambda: backward(X, X, kept=statistics[:, :5]),
        lambda: backward(X, X, kept=statistics.float()),
        lambda: backward(X, X, means=statistics[:, :3]),
        lambda: backward(X, X, residual=X[..., :2]),
        lambda: operators.norm_sums(X[:1], X, None, None, None, statistics, False, 1e-5, 0, 0.0),
        lambda: operators.norm_update(torch.zeros(6), torch.ones(5), statistics, 4, 0.1),
        lambda: operators.norm_update(torch.zeros(5), torch.ones(5), statistics, 4, 0.1),
        lambda: operators.local_response(X, 0, 1.0, 1.0, 1.0, False),
        lambda: operators.local_response(X[0, 0, 0], 3, 1.0, 1.0, 1.0, False),
        lambda: operators.local_response_backward(X[:1], X, 3, 1.0, 1.0, 1.0, False),
        lambda: operators.local_response_backward(X.double(), X, 3, 1.0, 1.0, 1.0, False),
    ]
    for call in bad:
        with pytest.raises(RuntimeError, match="striate: "):
            call()


def test_a_negative_running_variance_is_refused_by_channel() -> None:
    variance = torch.tensor([1.0, 0.0, -0.5, 1.0])
    with pytest.raises(RuntimeError) as raised:
        ops.batch_norm(torch.randn(2, 4, 3, 3), torch.zeros(4), variance)
    assert str(raised.value).splitlines()[0] == (
        "striate: running variances are at least 0, got -0.500000 in channel 2. reset_running_stats() starts them anew."
    )


def test_rows_of_nothing_are_not_gone_through_and_take_no_memory() -> None:
    for norm in (ops.layer_norm, ops.rms_norm):
        x = torch.empty(2**60, 0, requires_grad=True)  # a loop over its 2^60 rows would never end
        with memory.at_most(2**29):
            y = norm(x, [0], torch.ones(0))
            assert y.shape == x.shape and torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@pytest.mark.nightly
def test_more_than_2_to_the_31_elements_do_not_wrap() -> None:
    memory.needs_memory(10 * 2**30)  # the output takes 8.6 GB
    x = memory.zeros(2**31 + 128).view(-1, 64)
    bias = torch.linspace(1, 2, 64)
    for row in (2**25 - 1, 2**25, -1):
        x[row] = torch.randn(64)
    y = ops.layer_norm(x, [64], None, bias)
    for row in (2**25 - 1, 2**25, -1):
        torch.testing.assert_close(y[row], F.layer_norm(x[row], [64], None, bias))
        y[row] = bias
    assert all((part == bias).all() for part in y.split(2**20))


def test_parts_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ShapeError) as raised:
        ops.by_channel(torch.randn(6, 3, 4), None, None, None, None, True, 0.1, 1e-5, batches=4, where="Ghost")
    assert (
        str(raised.value)
        == "Ghost expects a batch that 4 parts divide, got 6. x: (6, 3, 4). Measure equal parts of the batch."
    )


@pytest.mark.parametrize(
    "name", ["evaluation", "instance_norm", "group_norm", "layer_norm", "last axis", "layer_norm_2d", "residual"]
)
def test_what_is_written_past_the_caches_has_the_same_bits(isa: str, layout: Layout, name: str) -> None:
    # Compares 5.3 MB at once with its quarters, which use ordinary stores. 31·27 is no whole number of vectors.
    x, dy, other = (layout(torch.randn(48, 33, 31, 27)) for _ in range(3))
    weight, bias, mean, variance = torch.rand(33), torch.randn(33), torch.randn(33), torch.rand(33) + 0.5
    calls: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "evaluation": lambda t, _: ops.batch_norm(t, mean, variance, weight, bias),
        "instance_norm": lambda t, _: ops.instance_norm(t, weight=weight, bias=bias),
        "group_norm": lambda t, _: ops.group_norm(t, 3, weight, bias),
        "layer_norm": lambda t, _: ops.layer_norm(
            t, [33, 31, 27], weight.view(-1, 1, 1).expand(33, 31, 27).contiguous()
        ),
        "last axis": lambda t, _: ops.layer_norm(t, [27]),
        "layer_norm_2d": lambda t, _: ops.layer_norm_2d(t, weight, bias),
        "residual": lambda t, r: ops.by_channel(
            t, mean, variance, weight, bias, False, 0.1, 1e-5, residual=r, activation="relu"
        ),
    }

    def both_ways(t: torch.Tensor, r: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
        t, r = t.detach().requires_grad_(), r.detach().requires_grad_()
        y = calls[name](t, r)
        return y, *(d for d in torch.autograd.grad(y, (t, r), g, allow_unused=True) if d is not None)

    assert x.numel() * 4 >= 2**22 > x[:12].numel() * 4
    whole = both_ways(x, other, dy)
    parts = [both_ways(*quarter) for quarter in zip(x.split(12), other.split(12), dy.split(12), strict=True)]
    for k, result in enumerate(whole):
        assert torch.equal(result, torch.cat([part[k] for part in parts]))
    assert len(whole) == (3 if name == "residual" else 2)
