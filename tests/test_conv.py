"""Convolution by every method against the reference, in every layout, on every instruction set and number of threads.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import memory
import pytest
import torch
import torch.nn.functional as F
from conftest import ISAS
from samples import CONV, ConvSample, channels_last
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import striate.nn as S
import striate.nn.functional as SF
from striate import native
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.ops import conv as ops
from striate.ops import dispatch, gate
from striate.ops.conv import NUMBERS
from striate.ops.conv.geometry import resolve, resolve_transpose
from striate.ops.layout import is_channels_last
from striate.ops.padding import MODES, fold, pad
from striate.ops.precision import precision
from striate.reference import conv as reference
from striate.window import same_padding

WINOGRAD = ["winograd_4x4", "winograd_2x2"]  # fewer multiplications and larger errors: tests/test_winograd.py has them
NAMES = [m.name for m in ops.METHODS if m.name not in WINOGRAD]
NATIVE = ["depthwise", "direct", "implicit_gemm", "pointwise"]
FROM_TORCH = [name for name in NAMES if name not in NATIVE]  # composed of torch's operators
PASSES = ("forward", "backward_data", "backward_weights")
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"channels_first": Tensor.contiguous, "channels_last": channels_last}
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return LAYOUTS[request.param]


class MethodChoice(NamedTuple):
    """A convolution method; for native methods, also the instruction set that it runs on."""

    method: str
    isa: str | None

    def __str__(self) -> str:
        return self.method + (f"-{self.isa}" if self.isa else "")

    @contextmanager
    def chosen(self) -> Iterator[None]:
        before = native.isa()
        native.use_isa(self.isa or before)
        try:
            # strict: passes that the method lacks must be computed without Winograd's transforms too
            with dispatch.prefer(self.method), precision("strict"):
                yield
        finally:
            native.use_isa(before)


NATIVE_CHOICES = [MethodChoice(name, isa) for name in NATIVE for isa in ISAS]
ALL_CHOICES = [*NATIVE_CHOICES, *(MethodChoice(name, None) for name in FROM_TORCH)]


@pytest.fixture(params=NATIVE_CHOICES, ids=str)
def native_method(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param.chosen():
        yield request.param.method


@pytest.fixture(params=ALL_CHOICES, ids=str)
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param.chosen():
        yield request.param.method


def whole_numbers(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-9, 10, shape).to(dtype)


def geometry_of(sample: ConvSample) -> ops.ConvGeometry:
    dims, a = len(sample.weight) - 2, sample.arguments
    rest = (a.get("dilation", 1), sample.groups, sample.function)
    if sample.transposed:
        extra = a.get("output_padding", 0)
        return resolve_transpose(
            sample.shape, sample.weight, dims, a.get("stride", 1), a.get("padding", 0), extra, *rest
        )
    return resolve(sample.shape, sample.weight, dims, a.get("stride", 1), a.get("padding", 0), *rest)


class Given(NamedTuple):
    """The tensors of a sample, the output gradient dy included; bias may be None."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    dy: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Given:
        return Given(*(None if t is None else change(t) for t in self))  # type: ignore[arg-type]


def tensors(sample: ConvSample, make: Callable[..., Tensor]) -> Given:
    plan = geometry_of(sample)
    y = plan.x_shape if sample.transposed else plan.y_shape
    return Given(make(sample.shape), make(sample.weight), make((sample.filters,)) if sample.bias else None, make(y))


class Results(NamedTuple):
    y: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor | None


def by_reference(sample: ConvSample, given: Given) -> Results:
    x, w, bias, dy = given
    window, groups = geometry_of(sample).window, sample.groups
    if sample.transposed:
        y, dx = reference.conv_backward_data(x, w, window, groups), reference.conv_forward(dy, w, window, groups)
        dw = reference.conv_backward_weights(x, dy, window, groups)
    else:
        y, dx = reference.conv_forward(x, w, window, groups), reference.conv_backward_data(dy, w, window, groups)
        dw = reference.conv_backward_weights(dy, x, window, groups)
    if bias is None:
        return Results(y, dx, dw, None)
    return Results(y + bias.reshape(-1, *[1] * (x.dim() - 2)), dx, dw, dy.sum([0, *range(2, x.dim())]))


def run(call: Callable[..., Tensor], sample: ConvSample, given: Given) -> Results:
    x, w, b = (None if t is None else t.detach().requires_grad_() for t in given[:3])
    y = call(x, w, b, **sample.arguments)
    got = torch.autograd.grad(y, [t for t in (x, w, b) if t is not None], given.dy)
    return Results(y.detach(), got[0], got[1], got[2] if b is not None else None)


def method_of(sample: ConvSample, pass_: str, last: bool = False, dtype: torch.dtype = torch.float32) -> str:
    return ops.method_for(ops.ConvProblem(pass_, geometry_of(sample), last, dtype, None)).name


def strides(x: Tensor) -> list[int]:
    """The strides of the axes longer than 1: only these decide where values lie."""
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


# --------------------------------------------------------------------------------------------------------- every sample


@pytest.mark.parametrize("sample", CONV, ids=str)
def test_whole_numbers_give_exactly_the_reference(sample: ConvSample, method: str) -> None:
    exact = tensors(sample, lambda shape: whole_numbers(shape, torch.float64))
    expected = by_reference(sample, exact)
    assert (expected.y != 0).double().mean() > 0.5  # an output of zeros would prove nothing
    ran = False
    for dtype in (torch.float32, torch.float64):
        for layout_of, of_weight in (
            (Tensor.contiguous, Tensor.contiguous),
            (channels_last, Tensor.contiguous),
            (channels_last, channels_last),
        ):
            given = exact.map(lambda t: t.to(dtype))
            weight = of_weight(given.weight) if len(sample.shape) > 3 else given.weight
            given = Given(layout_of(given.x), weight, given.bias, layout_of(given.dy))
            last = ops.follows_channels_last(given.x, given.weight)
            chosen = [method_of(sample, pass_, last, dtype) for pass_ in PASSES]
            if method not in chosen:
                continue
            ran = True
            got = run(sample.native_function, sample, given)
            for name, native_value, reference_value in zip(Results._fields, got, expected, strict=True):
                assert (native_value is None) == (reference_value is None)
                if native_value is not None:
                    assert torch.equal(native_value, reference_value.to(dtype)), (name, chosen, dtype)
            if method in NATIVE and chosen[0] == chosen[1] == method:
                order = channels_last if last else Tensor.contiguous
                assert strides(got.y) == strides(order(expected.y)) and strides(got.dx) == strides(order(expected.dx))
                assert chosen[2] not in NATIVE or strides(got.dweight) == strides(given.weight)
    if not ran:
        problem = ops.ConvProblem("forward", geometry_of(sample), False, torch.float32, None)
        reasons = dispatch.explain_choice(ops.METHODS, problem)
        assert dict(reasons)[method]  # the method says why it refused
        pytest.skip(f"{method}: {dict(reasons)[method]}")


@pytest.mark.parametrize("sample", [s for s in CONV if not isinstance(s.arguments.get("padding"), str)], ids=str)
def test_torchs_operator_agrees_with_the_reference_on_every_sample(sample: ConvSample) -> None:
    given = tensors(sample, lambda shape: whole_numbers(shape, torch.float64))
    torch_results = run(sample.torch_function, sample, given)
    for reference_value, torch_value in zip(by_reference(sample, given), torch_results, strict=True):
        assert reference_value is None or torch.equal(reference_value, torch_value)


def test_samples_reach_every_method_of_ours() -> None:
    for name in NATIVE:
        with dispatch.prefer(name):
            reached = [name in (method_of(s, pass_), method_of(s, pass_, True)) for s in CONV for pass_ in PASSES]
            assert sum(reached) >= (18 if name == "pointwise" else 60), name  # few samples have one tap
    assert any(s.transposed and s.depthwise for s in CONV) and {len(s.shape) for s in CONV} == {3, 4, 5}


def test_an_output_is_channels_last_where_x_or_the_weight_is(method: str) -> None:
    if method == "reference":
        pytest.skip("its products come as they come")
    for shape, weight in (((2, 6, 9, 10), (6, 1, 3, 3)), ((2, 6, 5, 6, 7), (6, 1, 3, 3, 3))):
        f = getattr(SF, f"conv{len(shape) - 2}d")
        x, w = torch.randn(shape), torch.randn(weight)
        for given in (
            (channels_last(x), w),
            (x, w.expand(6, 2, *weight[2:])[:, 1:]),
            (x, w),
            (channels_last(x)[:, :, 1:, 2:], w),
        ):
            y = f(*given, padding=1, groups=6)
            assert is_channels_last(y) == any(map(is_channels_last, given)), [t.stride() for t in given]
    one = torch.randn(2, 1, 9, 10)  # with one channel the strides decide the memory format, as in torch
    w = torch.randn(6, 1, 3, 3)
    for x, k in (
        (one, w),
        (one.to(memory_format=torch.channels_last), w),
        (one, w.to(memory_format=torch.channels_last)),
    ):
        assert is_channels_last(SF.conv2d(x, k)) == is_channels_last(F.conv2d(x, k))
    dense = channels_last(torch.randn(8, 6, 3, 3))
    assert is_channels_last(SF.conv2d(torch.randn(2, 6, 9, 10), dense))
    assert is_channels_last(SF.conv_transpose2d(torch.randn(2, 8, 9, 10), dense))


# Tests of errors and of threads use random numbers, for which one sample for each kind of geometry is enough.
SOME = [s for k, s in enumerate(CONV) if s.depthwise or k % 3 == 0]


@pytest.mark.parametrize("sample", SOME, ids=str)
def test_the_error_is_at_most_twice_that_of_torch(sample: ConvSample, native_method: str) -> None:
    given = tensors(sample, torch.randn)
    truth = by_reference(sample, given.map(Tensor.double))
    if isinstance(sample.arguments.get("padding"), str):
        torch_results = by_reference(sample, given)
    else:
        torch_results = run(sample.torch_function, sample, given)
    for layout_of in LAYOUTS.values():
        if native_method not in (method_of(sample, pass_, layout_of is channels_last) for pass_ in PASSES):
            pytest.skip(f"not by {native_method}")
        laid_out = Given(layout_of(given.x), given.weight, given.bias, layout_of(given.dy))
        got = run(sample.native_function, sample, laid_out)
        for name, native_value, torch_value, exact in zip(Results._fields, got, torch_results, truth, strict=True):
            # compares root mean squares: the largest of some thousand errors varies by half between draws
            if native_value is not None:
                values = (exact, native_value - exact, torch_value - exact)
                size, error, allowed = (t.double().square().mean().sqrt() for t in values)
                assert error <= 2 * allowed + EPS * size, (name, float(error / size / EPS), float(allowed / size / EPS))


@pytest.mark.parametrize("sample", SOME, ids=str)
def test_result_is_same_bits_for_1_2_and_3_threads(sample: ConvSample, native_method: str) -> None:
    given = tensors(sample, torch.randn)
    for layout_of in LAYOUTS.values():
        if {method_of(sample, pass_, layout_of is channels_last) for pass_ in PASSES} != {native_method}:
            pytest.skip(f"not all by {native_method}")
        laid = Given(layout_of(given.x), given.weight, given.bias, layout_of(given.dy))
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(sample.native_function, sample, laid))
        for result in results[1:]:
            for name, a, b in zip(Results._fields, result, results[0], strict=True):
                assert a is None or torch.equal(a, b), name


LARGE = [
    ConvSample("conv2d", (4, 37, 61, 67), (37, 1, 3, 3), {"padding": 1, "groups": 37}),
    ConvSample("conv2d", (2, 40, 61, 67), (40, 1, 5, 5), {"padding": 2, "stride": 2, "groups": 40}),
    ConvSample("conv2d", (2, 17, 61, 67), (33, 17, 3, 3), {"padding": 1}),
    ConvSample("conv2d", (3, 64, 31, 33), (48, 64, 1, 1), {}),
    ConvSample("conv2d", (1, 3, 131, 127), (24, 3, 7, 7), {"padding": 3, "stride": 2}),
    ConvSample("conv1d", (2, 16, 8000), (16, 1, 7), {"padding": 3, "groups": 16}),
]


@pytest.mark.parametrize("sample", LARGE, ids=str)
def test_large_work_is_cut_between_threads_and_keeps_its_bits(
    sample: ConvSample, layout: Any, native_method: str
) -> None:
    if {method_of(sample, pass_, layout is channels_last) for pass_ in PASSES} != {native_method}:
        pytest.skip(f"not all by {native_method}")
    given = tensors(sample, torch.randn)
    given = Given(layout(given.x), given.weight, given.bias, layout(given.dy))
    torch.set_num_threads(1)
    alone = run(sample.native_function, sample, given)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        results = run(sample.native_function, sample, given)
        for name, a, b in list(zip(Results._fields, results, alone, strict=True))[:3]:
            assert torch.equal(a, b), name  # type: ignore[arg-type]
    for a, b in zip(alone, run(sample.torch_function, sample, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_the_bias_gradient_keeps_its_bits_on_any_number_of_threads() -> None:
    sample = LARGE[0]
    given = tensors(sample, torch.randn)
    given = Given(channels_last(given.x), given.weight, given.bias, channels_last(given.dy))
    torch.set_num_threads(1)
    alone = run(sample.native_function, sample, given).dbias
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(run(sample.native_function, sample, given).dbias, alone)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ gradients

SMALL = [
    ConvSample("conv1d", (2, 4, 7), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ConvSample("conv2d", (2, 3, 5, 4), (4, 3, 2, 3), {"padding": 1}),
    ConvSample("conv2d", (1, 4, 5, 6), (4, 1, 3, 3), {"padding": "same", "stride": 2, "groups": 4}),
    ConvSample("conv2d", (2, 2, 5, 5), (3, 2, 1, 1), {"stride": 2, "padding": 1}),
    ConvSample("conv3d", (1, 3, 3, 4, 3), (6, 1, 2, 2, 2), {"groups": 3, "dilation": (1, 2, 1)}),
    ConvSample("conv_transpose1d", (2, 3, 5), (3, 2, 4), {"stride": 2, "padding": 1}),
    ConvSample("conv_transpose2d", (1, 4, 3, 4), (4, 1, 3, 3), {"stride": 2, "output_padding": 1, "groups": 4}),
    ConvSample("conv_transpose2d", (1, 2, 3, 3), (2, 2, 2, 2), {"stride": 3, "padding": "same"}),
]


@pytest.mark.parametrize("sample", SMALL, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_their_gradients_are_what_finite_differences_say(
    sample: ConvSample, name: str, layout: Any
) -> None:
    given = [t.double() for t in tensors(sample, torch.randn)[:3]]  # type: ignore[union-attr]
    inputs = [layout(given[0]).requires_grad_(), *(t.requires_grad_() for t in given[1:])]
    with dispatch.prefer(name):
        if name not in (method_of(sample, pass_, layout is channels_last, torch.float64) for pass_ in PASSES):
            pytest.skip(f"not by {name}")
        call = lambda x, w, b: sample.native_function(x, w, b, **sample.arguments)  # noqa: E731
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("shape", "weight"), [((2, 6, 7, 8), (5, 6, 1, 1)), ((2, 6, 7, 8), (6, 6, 3, 3)), ((2, 6, 9), (6, 6, 3))]
)
def test_an_activation_in_place_may_follow(
    shape: tuple[int, ...], weight: tuple[int, ...], method: str, layout: Any
) -> None:
    x, w = layout(torch.randn(shape)).requires_grad_(), torch.randn(weight, requires_grad=True)
    f = getattr(SF, f"conv{len(shape) - 2}d")
    expected = torch.autograd.grad(f(x, w).relu().sum(), (x, w))
    for gradient, expected_gradient in zip(torch.autograd.grad(f(x, w).relu_().sum(), (x, w)), expected, strict=True):
        assert torch.equal(gradient, expected_gradient)


def test_a_third_derivative_is_that_of_torch() -> None:
    x, w = torch.randn(1, 4, 6, 6, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)

    def third(f: Callable[..., Tensor]) -> Tensor:
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        d = f(a, b, padding=1, groups=4).pow(3).sum()
        for _ in range(3):
            d = sum(g.sin().sum() for g in torch.autograd.grad(d, [a, b], create_graph=True))  # type: ignore[assignment]
        return d

    torch.testing.assert_close(third(SF.conv2d), third(F.conv2d), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "asked",
    [(True, False, False), (False, True, False), (False, False, True), (True, False, True), (False, True, True)],
)
def test_only_the_gradients_that_are_asked_for_come(asked: tuple[bool, ...], method: str) -> None:
    sample = ConvSample("conv2d", (2, 6, 7, 8), (6, 1, 3, 3), {"padding": 1, "groups": 6})
    given = tensors(sample, whole_numbers)
    expected = by_reference(sample, given)
    leaves = [t.clone().requires_grad_(wanted) for t, wanted in zip(given[:3], asked, strict=True)]  # type: ignore[union-attr]
    sample.native_function(*leaves, **sample.arguments).backward(given.dy)
    for leaf, gradient, wanted in zip(leaves, expected[1:], asked, strict=True):
        assert (leaf.grad is not None) == wanted
        assert leaf.grad is None or torch.equal(leaf.grad, gradient)
    with torch.no_grad():
        assert sample.native_function(*leaves, **sample.arguments).grad_fn is None


# ---------------------------------------------------------------------------------------------------------- odd tensors


def test_unbatched_input_is_a_batch_of_one_without_the_batch() -> None:
    for sample in SMALL:
        given = tensors(sample, torch.randn)
        one = sample.native_function(given.x[0], given.weight, given.bias, **sample.arguments)
        assert torch.equal(one, sample.native_function(given.x[:1], given.weight, given.bias, **sample.arguments)[0])


def test_an_empty_batch_passes_with_gradients_of_zero(method: str) -> None:
    for sample in SMALL:
        given = tensors(sample, torch.randn)
        x, w, b = (t.requires_grad_() for t in (given.x[:0].clone(), given.weight, given.bias))  # type: ignore[union-attr]
        y = sample.native_function(x, w, b, **sample.arguments)
        assert y.shape == (0, *given.dy.shape[1:])
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape
        assert not w.grad.any() and not b.grad.any()  # type: ignore[union-attr]


def test_expanded_offset_and_sliced_inputs_give_the_same_as_their_copies(method: str) -> None:
    base, weight = whole_numbers((3, 24, 12, 13)), whole_numbers((12, 2, 3, 4))
    inputs = [
        base[:, :12, 1:, 3:],
        base[:, ::2],
        base[1:, 12:],
        base[:, :1].expand(3, 12, 12, 13),
        base[:, :12].transpose(2, 3),
    ]
    inputs += [
        base.flip(3)[:, 5:17],
        channels_last(base)[:, :12, 2:, 1:],
        channels_last(base)[:, 3:15],
        base[:1, :12].expand(3, 12, 12, 13),
    ]
    weights = [
        weight[:, 1:, :, 1:],
        weight[:, :1, :, ::2].flip(2),
        weight[:1, :1, :1, :1].expand(12, 1, 3, 3),
        channels_last(weight)[:, :1],
    ]
    weights += [weight[:, :1].transpose(2, 3)[:, :, :3]]
    for k, x in enumerate(inputs):
        for w in weights[k % 5], weights[(k + 1) % 5]:
            plain = [t.clone(memory_format=torch.contiguous_format) for t in (x, w)]
            g = whole_numbers(tuple(SF.conv2d(x, w, padding=1, groups=12).shape))
            for dy in (g, g.transpose(2, 3).contiguous().transpose(2, 3), g[:1, :1, :1, :1].expand(g.shape)):
                leaves = [t.detach().requires_grad_() for t in (x, w)]
                y = SF.conv2d(*leaves, padding=1, groups=12)
                assert torch.equal(y, F.conv2d(*plain, padding=1, groups=12))
                expected = by_reference(
                    ConvSample("conv2d", x.shape, w.shape, {"padding": 1, "groups": 12}, False), Given(*plain, None, dy)
                )
                for got, wanted in zip(torch.autograd.grad(y, leaves, dy), expected[1:3], strict=True):
                    assert torch.equal(got, wanted)


def test_zero_channels_are_refused_where_torch_gives_an_output_without_filters() -> None:
    x, w = torch.ones(2, 0, 5, 5), torch.ones(3, 0, 3, 3)
    assert F.conv2d(x, w).shape == (2, 0, 3, 3)  # torch returns no filters, instead of (2, 3, 3, 3)
    with pytest.raises(ShapeError) as raised:
        SF.conv2d(x, w)
    assert (
        str(raised.value)
        == (
            "conv2d expects x of at least one channel, got (2, 0, 5, 5). weight: (3, 0, 3, 3). Only the batch may "
            "be empty."
        )
    )
    with pytest.warns(UserWarning, match="zero-element"):  # torch's initialization warns
        layer = S.Conv2d(0, 3, 3)
    with pytest.raises(ShapeError, match=r"^Conv2d expects x of at least one channel"):
        layer(x)


def test_nan_and_infinity_reach_the_outputs_that_see_them_and_no_other(method: str, layout: Any) -> None:
    x = torch.ones(1, 6, 7, 8)
    x[0, 2, 3, 4], x[0, 4, 0, 0] = float("nan"), float("inf")
    y = SF.conv2d(layout(x), torch.ones(6, 1, 3, 3), padding=1, groups=6)
    assert torch.equal(y.isnan().nonzero()[:, 1:], torch.tensor([[2, i, j] for i in (2, 3, 4) for j in (3, 4, 5)]))
    assert torch.equal(y.isinf().nonzero()[:, 1:], torch.tensor([[4, i, j] for i in (0, 1) for j in (0, 1)]))


def kind(t: Tensor) -> Tensor:
    """Classifies each value: 0 for finite numbers, 1 and -1 for infinities, 2 for NaN."""
    return torch.where(t.isnan(), 2, t.isinf() * t.sign()).int()


@pytest.mark.parametrize("where", ["x", "weight", "dy"])
@pytest.mark.parametrize(
    ("shape", "weight", "arguments"),
    [
        ((2, 16, 9, 10), (12, 16, 3, 3), {"padding": 1}),
        ((3, 16, 9, 10), (12, 16, 3, 3), {"padding": 1, "stride": 2}),
        ((2, 12, 9, 10), (12, 1, 3, 3), {"padding": 1, "groups": 12}),
        ((2, 16, 9, 10), (8, 16, 3, 5), {"padding": (1, 2)}),
        ((2, 16, 2, 2), (8, 16, 3, 3), {"padding": 1}),
        ((2, 8, 40), (8, 8, 3), {"padding": 1}),
        ((2, 8, 5, 6, 7), (8, 8, 3, 3, 3), {"padding": 1}),
    ],
    ids=str,
)
def test_special_values_show_where_torch_shows_them_and_what_is_padded_takes_no_part(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    arguments: dict[str, Any],
    where: str,
    native_method: str,
    layout: Any,
) -> None:
    name = f"conv{len(shape) - 2}d"
    for at, value in ((0, float("nan")), (0, float("inf")), (-1, -float("inf")), (-1, float("nan"))):
        x, w = torch.randn(shape), torch.randn(weight)
        dy = torch.randn_like(getattr(F, name)(x, w, **arguments))
        {"x": x, "weight": w, "dy": dy}[where].view(-1)[at] = value
        marks = {  # 1 at the special value; in the results, nonzero wherever it takes part
            key: torch.ones_like(t) if key != where else (~t.isfinite()).float()
            for key, t in (("x", x), ("weight", w), ("dy", dy))
        }
        results = []
        for functions, given in ((SF, (x, w, dy)), (F, (x, w, dy)), (F, marks.values())):
            *leaves, gradient = (t.clone() for t in given)
            leaves = [layout(leaves[0]).requires_grad_(), leaves[1].requires_grad_()]
            y = getattr(functions, name)(*leaves, **arguments)
            results.append([y, *torch.autograd.grad(y, leaves, layout(gradient))])
        for k, (got, expected, mark) in enumerate(zip(*results, strict=True)):
            # Here torch multiplies the zeros of the padding too, and some methods leave this gradient to torch.
            padded = where == "dy" and k == 2 and (len(shape) == 5 or shape[-1] < weight[-1])
            if not padded:
                assert torch.equal(kind(got), kind(expected))
                assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
            is_torchs = padded and (native_method, layout) in (
                *(("pointwise", of) for of in LAYOUTS.values()),
                ("implicit_gemm", LAYOUTS["channels_first"]),
            )
            if not is_torchs and (where, k) not in (("x", 1), ("weight", 2), ("dy", 0)):
                assert torch.equal(kind(got) != 0, mark > 0.5)


@pytest.mark.parametrize("name", ["direct", "implicit_gemm", "winograd_4x4"])
def test_what_follows_a_sum_follows_at_the_edges_that_a_weight_spoilt_too(name: str) -> None:
    x, w, bias, residual = torch.randn(2, 16, 9, 9), torch.randn(8, 16, 3, 3), torch.randn(8), torch.randn(2, 8, 9, 9)
    w[3, 5, 0, 2] = float("inf")
    x, residual = channels_last(x), channels_last(residual)
    rest = [9, 9], [1, 1], [1, 1], [1, 1], 1, True, ops.NUMBERS[name]
    y = F.conv2d(x, w, bias, padding=1) + residual
    operators = torch.ops.striate
    packed = operators.conv_pack(w, 1, ops.NUMBERS[name])
    for given in (None, packed) if packed.numel() else (None,):
        fused = operators.conv_fused(x, w, given, bias, residual, 0, 0.0, 6.0, *rest)
        assert torch.equal(kind(fused), kind(y.clamp(0, 6)))
        assert torch.allclose(fused, y.clamp(0, 6), atol=1e-4, equal_nan=True)
    if name != "direct":
        w[3, 5, 0, 2], w[3, 5, 1, 1] = 1.0, float("nan")  # every output multiplies the middle tap
        measured, statistics = operators.conv_measured(x, w, bias, *rest)
        assert statistics[:, 3].isnan().all()
        assert statistics[:, :3].isfinite().all()
        w, x = torch.randn(8, 16, 3, 3), channels_last(torch.randn(4, 16, 1, 1))
        w[3, 5, 0, 2] = float("nan")  # this tap meets only padding, which takes no part
        measured, statistics = operators.conv_measured(x, w, bias, [1, 1], *rest[1:])
        expected = F.conv2d(x, w.nan_to_num(), bias, padding=1)
        assert torch.allclose(measured, expected, atol=1e-4)
        assert torch.allclose(statistics[0], expected.double().mean((0, 2, 3)), atol=1e-4)
        assert torch.allclose(statistics[1], expected.double().var((0, 2, 3), unbiased=False), atol=1e-3)


def test_denormals_stay_what_they_are(method: str, layout: Any) -> None:
    x = layout(torch.full((1, 6, 5, 5), 1e-42))
    assert torch.equal(SF.conv2d(x, torch.ones(6, 1, 1, 1), groups=6), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.int64], ids=str)
def test_what_the_kernels_refuse_goes_to_torch_with_the_same_result(dtype: torch.dtype) -> None:
    for shape, weight, arguments in (
        ((2, 6, 7, 8), (6, 1, 3, 3), {"padding": 1, "groups": 6}),
        ((2, 3, 9), (4, 3, 3), {"stride": 2}),
    ):
        name = f"conv{len(shape) - 2}d"
        x, w = (
            torch.randn(s, dtype=dtype) if dtype is not torch.int64 else whole_numbers(s, dtype)
            for s in (shape, weight)
        )
        assert torch.equal(getattr(SF, name)(x, w, **arguments), getattr(F, name)(x, w, **arguments))
        refusal = gate.reason(x, w)
        assert refusal == f"kernels are for float32 and float64, got {str(dtype).removeprefix('torch.')}"
        if dtype is not torch.int64:
            x.requires_grad_()
            gradients = [
                torch.autograd.grad(f(x, w, **arguments).abs().sum(), x)[0]
                for f in (getattr(SF, name), getattr(F, name))
            ]
            assert torch.equal(*gradients)


def test_same_padding_works_for_every_type_too() -> None:
    x, w = whole_numbers((2, 6, 8, 9)), whole_numbers((6, 1, 3, 4))
    for arguments in ({"padding": "same", "stride": 2, "groups": 6}, {"padding": "same", "stride": 1, "groups": 6}):
        expected = SF.conv2d(x.double(), w.double(), **arguments)
        for dtype in (torch.float32, torch.bfloat16, torch.complex64, torch.int64):
            assert torch.equal(SF.conv2d(x.to(dtype), w.to(dtype), **arguments), expected.to(dtype)), dtype
    expected = SF.conv_transpose2d(x.double(), w.double(), stride=2, padding="same", groups=6)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(
            SF.conv_transpose2d(x.to(dtype), w.to(dtype), stride=2, padding="same", groups=6), expected.to(dtype)
        ), dtype


def test_autocast_gives_torchs_type_and_numbers() -> None:
    for native_layer, torch_layer in zip(every_layer(S), every_layer(torch.nn), strict=True):
        native_layer.load_state_dict(torch_layer.state_dict())
        x = torch.randn(2, 6, *[7] * (torch_layer.weight.dim() - 2))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, expected = native_layer(x), torch_layer(x)
            assert y.dtype is expected.dtype is torch.bfloat16 and torch.equal(y, expected)
            y.float().sum().backward()
        assert native_layer.weight.grad.dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for more in ({"padding": "same", "stride": 2}, {"padding": 1, "padding_mode": "circular"}):
            assert S.Conv2d(6, 6, 3, groups=6, **more)(torch.randn(2, 6, 7, 7)).dtype is torch.bfloat16


@pytest.mark.parametrize("kind", ["autocast", "complex"])
def test_a_transposed_same_convolution_takes_autocast_and_complex_numbers(kind: str) -> None:
    x, w = whole_numbers((2, 6, 8, 9)), whole_numbers((6, 1, 3, 4))
    expected = SF.conv_transpose2d(x, w, stride=2, padding="same", groups=6)
    if kind == "complex":
        assert torch.equal(SF.conv_transpose2d(x + 0j, w + 0j, stride=2, padding="same", groups=6), expected + 0j)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        assert SF.conv_transpose2d(x, w, stride=2, padding="same", groups=6).dtype is (
            torch.bfloat16 if kind == "autocast" else torch.float32
        )


def every_layer(nn: Any) -> list[Any]:
    arguments: list[dict[str, Any]] = [{"groups": 6, "padding": 1}, {"stride": 2}]
    return [
        getattr(nn, f"Conv{kind}{d}d")(6, 6, 3, **a) for kind in ("", "Transpose") for d in (1, 2, 3) for a in arguments
    ]


def test_function_transforms_work() -> None:
    x, w = torch.randn(3, 2, 6, 8, 8), torch.randn(6, 1, 3, 3)
    convolve = lambda t, f=SF.conv2d: f(t, w, padding=1, groups=6)  # noqa: E731
    torch_convolve = lambda t: convolve(t, F.conv2d)  # noqa: E731
    torch.testing.assert_close(torch.vmap(convolve)(x), torch.vmap(torch_convolve)(x))
    many = torch.randn(3, 6, 1, 3, 3)
    mapped = torch.vmap(lambda t, k: SF.conv2d(t, k, stride=2, padding="same", groups=6))(x, many)
    torch.testing.assert_close(
        mapped, torch.stack([SF.conv2d(t, k, stride=2, padding="same", groups=6) for t, k in zip(x, many, strict=True)])
    )
    gradient = torch.func.grad(lambda t: convolve(t).square().sum())(x[0])
    torch.testing.assert_close(gradient, torch.func.grad(lambda t: torch_convolve(t).square().sum())(x[0]))
    native_derivative, torch_derivative = (
        torch.func.jvp(f, (x[0],), (torch.ones_like(x[0]),)) for f in (convolve, torch_convolve)
    )
    torch.testing.assert_close(native_derivative, torch_derivative)
    hessian = torch.func.hessian(lambda k: SF.conv2d(x[0][:, :, :3, :3], k, groups=6).pow(3).sum())(w)
    assert hessian.shape == (*w.shape, *w.shape) and hessian.any()
    per_sample = torch.vmap(torch.func.grad(lambda k, t: SF.conv2d(t[None], k, groups=6).square().sum()), (None, 0))(
        w, x[0]
    )
    assert per_sample.shape == (2, *w.shape)


def test_forward_mode_derivatives_go_to_torch() -> None:
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        x = torch.randn(1, 4, 6, 6)
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        w = torch.randn(4, 1, 3, 3)
        tangent = forward_ad.unpack_dual(SF.conv2d(dual, w, groups=4)).tangent
        torch.testing.assert_close(tangent, F.conv2d(torch.ones_like(x), w, groups=4))


def test_a_tensor_subclass_stays_one() -> None:
    class Mine(Tensor):
        pass

    x = torch.randn(1, 4, 6, 6).as_subclass(Mine)
    assert isinstance(SF.conv2d(x, torch.randn(4, 1, 3, 3), groups=4), Mine)
    assert isinstance(SF.conv2d(x, torch.randn(4, 1, 3, 3), groups=4, stride=2, padding="same"), Mine)


def network() -> torch.nn.Module:
    return S.Sequential(
        S.Conv2d(3, 8, 3, stride=2, padding="same"),
        S.ReLU(),
        S.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="circular"),
        S.Conv2d(8, 16, 5, padding=2, groups=8),
        S.ConvTranspose2d(16, 16, 3, stride=2, padding="same", groups=16),
        S.ConvTranspose2d(16, 4, 3, padding=1, padding_mode="reflect"),
        S.GlobalAvgPool2d(),
    )


@pytest.mark.parametrize(
    ("dynamic", "name"),
    [
        pytest.param(True, None, marks=pytest.mark.nightly),
        *(pytest.param(False, name, marks=[pytest.mark.nightly] * (name != "direct")) for name in NATIVE),
    ],
)
def test_models_compile_without_graph_breaks(dynamic: bool, name: str | None) -> None:
    model, x = network(), torch.randn(2, 3, 20, 22)
    if dynamic:  # a smaller model, because compiling with symbolic sizes is slow
        model = S.Sequential(
            *model[:2], S.ConvTranspose2d(8, 8, 3, stride=2, padding="same", groups=8), S.GlobalAvgPool2d()
        )
    with dispatch.prefer(name):
        compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        loss, expected = compiled(x).square().sum(), model(x).square().sum()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(one, list(model.parameters())) for one in (loss, expected)), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(compiled(x[:1]), model(x[:1]))


def test_models_compile_to_machine_code() -> None:
    model = S.Sequential(
        S.Conv2d(3, 6, 3, stride=2, padding="same"), S.Conv2d(6, 6, 3, padding=1, groups=6), S.GlobalAvgPool2d()
    )
    x = torch.randn(2, 3, 16, 18)
    compiled = torch.compile(model, fullgraph=True)
    loss, expected = compiled(x).square().sum(), model(x).square().sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(one, list(model.parameters())) for one in (loss, expected)), rtol=1e-4, atol=1e-5
    )


def test_models_export() -> None:
    model, x = network().eval(), torch.randn(2, 3, 20, 22)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "striate" not in str(exported.graph) and "aten.conv2d" in str(exported.graph)
    for batch in (2, 5):
        x = torch.randn(batch, 3, 20, 22)
        torch.testing.assert_close(exported.module()(x), model(x))


def test_symbolic_tracing_takes_axes_of_size_one() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, w = torch.randn(2, 4, 8, 1), torch.randn(4, 1, 3, 1)
    traced = make_fx(lambda x, w: SF.conv2d(x, w, groups=4), tracing_mode="symbolic")(x, w)
    torch.testing.assert_close(traced(x, w), F.conv2d(x, w, groups=4))


class _PassThroughMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_meta_and_fake_tensors_have_the_real_ones_shape_and_strides() -> None:
    for sample in CONV:
        shape = tensors(sample, torch.randn).dy.shape
        given = [torch.empty(s, device="meta") for s in (sample.shape, sample.weight)]
        assert sample.native_function(*given, **sample.arguments).shape == shape
    for sample in SMALL:
        for lay in LAYOUTS.values():
            real = tensors(sample, torch.randn)
            real = (lay(real.x), real.weight, real.bias)
            with _PassThroughMode():  # under a dispatch mode torch's operators run, as for fake tensors
                y = sample.native_function(*real, **sample.arguments)
            with FakeTensorMode() as mode:
                fake = sample.native_function(*(mode.from_tensor(t) for t in real), **sample.arguments)
            assert fake.shape == y.shape and fake.stride() == y.stride()


# --------------------------------------------------------------------------------------- geometry beyond torch's layers


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (2, 1, 1), (4, 3, 1), (5, 2, 2), (1, 3, 1), (2, 4, 3)]
)
def test_same_padding_is_explicit_padding(dims: int, kernel: int, stride: int, dilation: int, layout: Any) -> None:
    sizes = (9, 8, 10)[:dims]
    conv = getattr(S, f"Conv{dims}d")(4, 4, kernel, stride, "same", dilation, groups=4)
    x = layout(torch.randn(2, 4, *sizes))
    y = conv(x)
    assert y.shape[2:] == tuple(-(-i // stride) for i in sizes)
    padding = [n for i in reversed(sizes) for n in same_padding(i, kernel, stride, dilation)]
    torch_y = getattr(F, f"conv{dims}d")(F.pad(x, padding), conv.weight, conv.bias, stride, 0, dilation, 4)
    torch.testing.assert_close(y, torch_y)
    if stride == 1:
        twin = getattr(torch.nn, f"Conv{dims}d")(4, 4, kernel, stride, "same", dilation, groups=4)
        twin.load_state_dict(conv.state_dict())
        torch.testing.assert_close(y, twin(x))
        assert conv._reversed_padding_repeated_twice == twin._reversed_padding_repeated_twice
    back = getattr(S, f"ConvTranspose{dims}d")(4, 4, kernel, stride, "same", dilation=dilation, groups=4, bias=False)
    back.load_state_dict({"weight": conv.weight})
    up = back(y)
    assert up.shape[2:] == tuple(-(-i // stride) * stride for i in sizes)
    there = back(y, output_size=x.shape)
    assert there.shape == x.shape
    g = torch.randn_like(y)
    (adjoint,) = torch.autograd.grad(
        getattr(SF, f"conv{dims}d")(x.requires_grad_(), conv.weight, None, stride, "same", dilation, 4), x, g
    )
    torch.testing.assert_close(back(g, output_size=list(sizes)), adjoint)


@pytest.mark.parametrize("mode", MODES)
def test_pad_is_torchs_and_fold_its_adjoint(mode: str, layout: Any) -> None:
    for sizes, before, after in (((7,), (3,), (2,)), ((5, 6), (2, 0), (4, 1)), ((3, 4, 5), (1, 2, 0), (2, 0, 3))):
        x = layout(whole_numbers((2, 3, *sizes), torch.float64)).requires_grad_()
        padding = [n for sides in zip(before[::-1], after[::-1], strict=True) for n in sides]
        padded = pad(x, before, after, mode)
        torch_padded = F.pad(x, padding, mode="constant" if mode == "zeros" else mode)
        assert torch.equal(padded, torch_padded) and padded.stride() == torch_padded.stride()
        y = layout(whole_numbers(tuple(padded.shape), torch.float64))
        (dx,) = torch.autograd.grad(padded, x, y)
        folded = fold(y, before, after, mode)
        assert torch.equal(folded, dx)
        assert is_channels_last(folded) == is_channels_last(x)
        assert torch.autograd.gradgradcheck(
            lambda t: fold(t, before, after, mode).square(), y.requires_grad_(), fast_mode=True
        )


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_are_those_of_torch(dims: int, mode: str, layout: Any) -> None:
    for arguments in (
        {"padding": 2, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": (1, 2, 3)[:dims], "groups": 2},
        {"padding": "valid"},
    ):
        a: dict[str, Any] = {"kernel_size": 3, "padding_mode": mode, **arguments}
        native_layer, torch_layer = (getattr(nn, f"Conv{dims}d")(4, 6, **a) for nn in (S, torch.nn))
        native_layer.load_state_dict(torch_layer.state_dict())
        assert repr(native_layer) == repr(torch_layer)
        x = layout(torch.randn(2, 4, *(7, 6, 5)[:dims]))
        torch.testing.assert_close(native_layer(x), torch_layer(x))
        torch.testing.assert_close(native_layer(x[0]), torch_layer(x[0]))
        assert is_channels_last(native_layer(x)) == is_channels_last(torch_layer(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_same_padding_with_a_mode_and_a_stride_is_explicit_padding(dims: int, mode: str) -> None:
    sizes = (7, 6, 8)[:dims]
    conv = getattr(S, f"Conv{dims}d")(2, 3, 4, stride=2, padding="same", padding_mode=mode)
    x = torch.randn(2, 2, *sizes)
    padding = [n for i in reversed(sizes) for n in same_padding(i, 4, 2)]
    expected = getattr(F, f"conv{dims}d")(F.pad(x, padding, mode=mode), conv.weight, conv.bias, 2)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 2},
        {"padding": 1, "stride": 2},
        {"padding": 2, "stride": 3, "dilation": 2},
        {"padding": "same", "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": "valid", "stride": 2, "groups": 2},
    ],
    ids=str,
)
def test_a_transposed_convolution_is_the_adjoint_of_the_padded_one(
    dims: int, mode: str, arguments: dict[str, Any]
) -> None:
    sizes = (7, 8, 6)[:dims]
    down = getattr(S, f"Conv{dims}d")(4, 6, 3, padding_mode=mode, bias=False, **arguments).double()
    up = getattr(S, f"ConvTranspose{dims}d")(6, 4, 3, padding_mode=mode, **arguments).double()
    torch.nn.init.zeros_(up.bias)
    up.load_state_dict({"weight": down.weight, "bias": up.bias})
    x = torch.randn(2, 4, *sizes, dtype=torch.float64, requires_grad=True)
    y = down(x)
    g = torch.randn_like(y, requires_grad=True)
    (expected,) = torch.autograd.grad(y, x, g, create_graph=True)
    got = up(g, output_size=x.shape)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(up(g[0], output_size=sizes), expected[0])
    torch.testing.assert_close(
        *(
            torch.autograd.grad(t.square().sum(), [g, down.weight, up.weight], allow_unused=True)[0]
            for t in (got, expected)
        )
    )
    with torch.no_grad():
        up.bias.copy_(torch.arange(4.0))
        torch.testing.assert_close(up(g, output_size=x.shape), expected + torch.arange(4.0).reshape(-1, *[1] * dims))


def test_output_size_chooses_as_in_torch() -> None:
    for arguments in (
        {"stride": 3, "padding": 1},
        {"stride": 2, "dilation": 3},
        {"stride": 3, "padding": 2, "output_padding": 1},
    ):
        native_layer, torch_layer = (nn.ConvTranspose2d(3, 2, 3, **arguments) for nn in (S, torch.nn))
        native_layer.load_state_dict(torch_layer.state_dict())
        x = torch.randn(2, 3, 5, 6)
        smallest = [n - native_layer.output_padding[0] for n in torch_layer(x).shape[2:]]
        for more in range(arguments["stride"]):
            size = [n + more for n in smallest]
            torch.testing.assert_close(native_layer(x, size), torch_layer(x, size))
            torch.testing.assert_close(
                native_layer(x[0], output_size=[2, *size]), torch_layer(x[0], output_size=[2, *size])
            )
        for size in ([n - 1 for n in smallest], [n + arguments["stride"] for n in smallest], [4], [1, 2, 3, 4, 5]):
            for layer in (native_layer, torch_layer):
                with pytest.raises(ValueError if layer is torch_layer else (ArgumentError, ArgumentTypeError)):
                    layer(x, size)


def test_huge_strides_dilations_and_paddings_are_legal_where_the_output_is_small() -> None:
    x = whole_numbers((2, 3, 5, 6)).requires_grad_()
    far = S.Conv2d(3, 4, 3, stride=2**31, padding=2**31)
    y = far(x)  # only the middle output has inputs in its window
    assert y.shape == (2, 4, 3, 3)
    torch.testing.assert_close(y[..., 1, 1], F.conv2d(x[..., :3, :3], far.weight, far.bias)[..., 0, 0])
    assert torch.equal(y[..., 0, 0], far.bias.expand(2, 4))
    wide = S.Conv2d(3, 4, 3, dilation=2**40, padding=2**40)
    z = wide(x)  # only the middle tap falls on the input
    torch.testing.assert_close(z, F.conv2d(x, wide.weight[..., 1:2, 1:2], wide.bias))
    for result, layer in ((y, far), (z, wide)):
        dx, dw = torch.autograd.grad(result.sum(), [x, layer.weight])
        assert dx.any() and dw.any()
    torch.testing.assert_close(S.Conv2d(3, 4, 3, dilation=2**40, padding="same")(x).shape, torch.Size([2, 4, 5, 6]))
    assert S.Conv1d(3, 4, 1, stride=2**62)(x[..., 0]).shape == (2, 4, 1)
    up = S.ConvTranspose2d(3, 4, 3, dilation=2**40, padding=2**40)
    torch.testing.assert_close(up(x), F.conv_transpose2d(x, up.weight[..., 1:2, 1:2], up.bias))


def test_outputs_of_more_values_than_memory_holds_are_refused_before_any_is_made() -> None:
    x, w = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
    for call in (
        lambda: SF.conv2d(x, w, padding=2**31),  # 2^64 values
        lambda: SF.conv2d(x, w, padding=2**61),
        lambda: SF.conv_transpose2d(x, w.transpose(0, 1), stride=2**31),
        lambda: SF.conv_transpose2d(x, w.transpose(0, 1), stride=2**61),
        lambda: SF.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=2**61),
        lambda: S.Conv2d(3, 4, 3, padding=2**31, stride=2**31, padding_mode="replicate")(x),
        lambda: S.Conv2d(3, 4, 2**31),
        lambda: S.Conv2d(2**31, 2**31, 1),
        lambda: SF.conv2d(torch.empty(0, 3, 8, 8), w, padding=2**40),
    ):
        with (
            pytest.raises((ShapeError, ArgumentError), match=r"that fits memory|leaves an output"),
            memory.at_most(2**29),
        ):
            call()


# --------------------------------------------------------------------------------------------------------------- layers


def test_layers_have_torchs_state_initialization_and_repr() -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"stride": 2, "padding": 1, "bias": False},
        {"groups": 2, "dilation": 2},
        {"dtype": torch.float64},
    ]
    for kind in ("Conv", "ConvTranspose"):
        for d in (1, 2, 3):
            for more in [*cases, {"kernel_size": [3, 2, 1][:d], "stride": [2, 1, 2][:d]}]:
                built = []
                for nn in (S, torch.nn):
                    torch.manual_seed(5)
                    built.append(getattr(nn, f"{kind}{d}d")(4, 6, **{"kernel_size": 3, **more}))
                native_layer, torch_layer = built
                assert repr(native_layer) == repr(torch_layer)
                assert {k: v for k, v in vars(native_layer).items() if not k.startswith("_p")} == {
                    k: v for k, v in vars(torch_layer).items() if not k.startswith("_p")
                }
                states = (native_layer.state_dict().items(), torch_layer.state_dict().items())
                for (name, a), (other, b) in zip(*states, strict=True):
                    assert name == other and torch.equal(a, b) and a.dtype is b.dtype


def test_layers_take_whole_numbers_of_other_libraries_and_one_for_all_axes() -> None:
    import numpy as np

    conv = S.Conv2d(
        np.int64(4),
        np.int32(6),
        np.int64(3),
        stride=np.array([2, 1]),
        padding=torch.tensor(1),
        dilation=(1,),
        groups=np.int8(2),
    )
    expected_repr = "Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 1), padding=(1, 1), groups=2)"
    assert repr(conv) == expected_repr
    assert conv(torch.ones(1, 4, 8, 8)).shape == (1, 6, 4, 8)


def test_repr_of_what_is_our_own() -> None:
    assert repr(S.Conv2d(3, 8, 3, 2, "same")) == "Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=same)"
    expected_repr = "ConvTranspose1d(3, 8, kernel_size=(3,), stride=(2,), padding=same, padding_mode=circular)"
    assert repr(S.ConvTranspose1d(3, 8, 3, 2, "same", padding_mode="circular")) == expected_repr


def test_layers_survive_copying_pickling_and_subclassing() -> None:
    class Mine(S.Conv2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, channels, 3, stride=2, padding="same", groups=channels)

    x = torch.randn(1, 4, 7, 7)
    for layer in (Mine(4), S.ConvTranspose2d(4, 4, 3, padding=1, padding_mode="circular")):
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    with pytest.raises(ArgumentError, match=r"^Mine expects out_channels of at least 1, got 0"):
        Mine(0)
    saved = io.BytesIO()
    layer = S.Conv2d(4, 4, 3, stride=2, padding="same")
    torch.save(layer, saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(x), layer(x))
    spectral = torch.nn.utils.parametrizations.weight_norm(S.Conv2d(4, 4, 3))
    spectral(x).sum().backward()


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_lazy_layers_become_ours_with_torchs_numbers(kind: str, dims: int) -> None:
    x = torch.randn(2, 4, *[6] * dims)
    results = []
    for nn in (S, torch.nn):
        layer = getattr(nn, f"Lazy{kind}{dims}d")(6, 3, stride=2, padding=1, groups=2)
        torch.manual_seed(3)
        results.append(layer(x))
        assert type(layer) is getattr(nn, f"{kind}{dims}d") and layer.in_channels == 4
    torch.testing.assert_close(*results)
    lazy_class = getattr(S, f"Lazy{kind}{dims}d")
    same = lazy_class(6, 3, stride=2, padding="same", padding_mode="circular")
    assert same(x[0]).shape == (6, *[12 if kind == "ConvTranspose" else 3] * dims)
    assert (same.stride, same.padding, same.padding_mode) == ((2,) * dims, "same", "circular")
    with pytest.raises(ArgumentError, match="expects groups that divide x's channels, 4, got 3"):
        lazy_class(6, 3, groups=3)(x)


# ------------------------------------------------------------------------------------------------------------ bad input

X, W, T = torch.ones(1, 4, 8, 8), torch.ones(6, 4, 3, 3), torch.ones(4, 6, 3, 3)
# fmt: off
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: SF.conv2d([[1.0]], W), ArgumentTypeError, (
        "conv2d expects x to be a tensor, got list. Call torch.as_tensor on it first."
    )),
    (lambda: SF.conv2d(X, [[1.0]]), ArgumentTypeError, (
        "conv2d expects weight to be a tensor, got list. Call torch.as_tensor on it first."
    )),
    (lambda: SF.conv2d(X, W, 1.0), ArgumentTypeError, (
        "conv2d expects bias to be a tensor, got float. Call torch.as_tensor on it first."
    )),
    (lambda: SF.conv2d(X[0, 0], W), ShapeError, (
        "conv2d expects x of shape (N, C, H, W) or (C, H, W), got (8, 8). Add or drop axes with unsqueeze or "
        "flatten."
    )),
    (lambda: SF.conv1d(X, W[0]), ShapeError, (
        "conv1d expects x of shape (N, C, L) or (C, L), got (1, 4, 8, 8). Add or drop axes with unsqueeze or "
        "flatten."
    )),
    (lambda: SF.conv3d(X[0, 0], torch.ones(6, 4, 3, 3, 3)), ShapeError, (
        "conv3d expects x of shape (N, C, D, H, W) or (C, D, H, W), got (8, 8). Add or drop axes with unsqueeze or "
        "flatten."
    )),
    (lambda: SF.conv2d(X, W[0]), ShapeError, (
        "conv2d expects a weight of shape (out, in / groups, H, W), got (4, 3, 3). x: (1, 4, 8, 8). Give it a "
        "number of taps for each axis."
    )),
    (lambda: SF.conv2d(X, W, groups=2.0), ArgumentTypeError, (
        "conv2d expects groups to be an integer, got 2.0. x: (1, 4, 8, 8). Give one integer."
    )),
    (lambda: SF.conv2d(X, W, groups=True), ArgumentTypeError, (
        "conv2d expects groups to be an integer, got True. x: (1, 4, 8, 8). Give one integer."
    )),
    (lambda: SF.conv2d(X, W, groups=0), ArgumentError, (
        "conv2d expects at least 1 group, got 0. x: (1, 4, 8, 8). Leave groups out for one."
    )),
    (lambda: SF.conv2d(X, W, groups=-2), ArgumentError, (
        "conv2d expects at least 1 group, got -2. x: (1, 4, 8, 8). Leave groups out for one."
    )),
    (lambda: SF.conv2d(X, W, groups=4), ArgumentError, (
        "conv2d expects groups that divide the weight's 6 output channels, got 4. x: (1, 4, 8, 8). weight: (6, 4, "
        "3, 3). Choose a divisor."
    )),
    (lambda: SF.conv2d(X, W, groups=2), ShapeError, (
        "conv2d expects 8 channels, got 4. x: (1, 4, 8, 8). weight: (6, 4, 3, 3). The weight and 2 groups fit 8 "
        "channels."
    )),
    (lambda: SF.conv2d(X, W[:0]), ShapeError, (
        "conv2d expects a weight with at least one filter, got (0, 4, 3, 3). x: (1, 4, 8, 8). Choose out_channels "
        "of at least 1."
    )),
    (lambda: SF.conv2d(X, W[..., :0]), ShapeError, (
        "conv2d expects a weight with at least one tap on each axis, got (6, 4, 3, 0). x: (1, 4, 8, 8). Choose a "
        "kernel_size of at least 1."
    )),
    (lambda: SF.conv2d(X[:, :3], W), ShapeError, (
        "conv2d expects 4 channels, got 3. x: (1, 3, 8, 8). weight: (6, 4, 3, 3). Set in_channels=3, or check the "
        "layer before."
    )),
    (lambda: SF.conv2d(X, W, torch.ones(5)), ShapeError, (
        "conv2d expects a bias of shape (6,), got (5,). x: (1, 4, 8, 8). Give one number for each filter."
    )),
    (lambda: SF.conv2d(X, W, torch.ones(6, 1)), ShapeError, (
        "conv2d expects a bias of shape (6,), got (6, 1). x: (1, 4, 8, 8). Give one number for each filter."
    )),
    (lambda: SF.conv2d(X, W.double()), DtypeError, (
        "conv2d expects weight of x's type, float32, got float64. x: (1, 4, 8, 8). Convert one with .to()."
    )),
    (lambda: SF.conv2d(X, W, torch.ones(6).half()), DtypeError, (
        "conv2d expects bias of x's type, float32, got float16. x: (1, 4, 8, 8). Convert one with .to()."
    )),
    (lambda: SF.conv2d(X, W.to("meta")), ArgumentError, (
        "conv2d expects weight on x's device, cpu, got meta. x: (1, 4, 8, 8). Move one with .to()."
    )),
    (lambda: SF.conv2d(X, W, stride=0), ArgumentError, (
        "conv2d expects stride from 1 to 2^62, got 0. x: (1, 4, 8, 8). Choose a stride of at least 1."
    )),
    (lambda: SF.conv2d(X, W, stride=(1, 2, 3)), ArgumentTypeError, (
        "conv2d expects stride to be one integer or 2, got (1, 2, 3). x: (1, 4, 8, 8). Give one integer or 2."
    )),
    (lambda: SF.conv2d(X, W, stride=1.0), ArgumentTypeError, (
        "conv2d expects stride to be one integer or 2, got 1.0. x: (1, 4, 8, 8). Give one integer or 2."
    )),
    (lambda: SF.conv2d(X, W, stride=2**63), ArgumentError, (
        "conv2d expects stride from 1 to 2^63 - 1, got 9223372036854775808. x: (1, 4, 8, 8). Choose a stride of "
        "2^63 - 1 or less."
    )),
    (lambda: SF.conv2d(X, W, padding=-1), ArgumentError, (
        "conv2d expects padding from 0 to 2^62, got -1. x: (1, 4, 8, 8). Choose a padding of at least 0."
    )),
    (lambda: SF.conv2d(X, W, padding=(1, True)), ArgumentTypeError, (
        "conv2d expects padding to be one integer or 2, got (1, True). x: (1, 4, 8, 8). Give one integer or 2."
    )),
    (
        lambda: SF.conv2d(X, W, padding="full"),
        ArgumentError,
        'conv2d expects padding "same", "valid" or a number,'
        """ got 'full'. x: (1, 4, 8, 8). Use "same" for ceil(input / stride) outputs.""",
    ),
    (lambda: SF.conv2d(X, W, dilation=0), ArgumentError, (
        "conv2d expects dilation from 1 to 2^62, got 0. x: (1, 4, 8, 8). Choose a dilation of at least 1."
    )),
    (lambda: SF.conv2d(X, W, dilation=2**63 - 1), ArgumentError, (
        "conv2d expects dilation from 1 to 2^62, got 9223372036854775807. x: (1, 4, 8, 8). Choose a dilation of "
        "2^62 or less."
    )),
    (lambda: SF.conv2d(X, W, dilation=2**62), ShapeError, (
        "conv2d expects a window no larger than the padded input, 8, got 9223372036854775809. x: (1, 4, 8, 8). Make "
        "the kernel or its dilation smaller, or pad more."
    )),
    (lambda: SF.conv2d(X, W, dilation=5), ShapeError, (
        "conv2d expects a window no larger than the padded input, 8, got 11. x: (1, 4, 8, 8). Make the kernel or "
        "its dilation smaller, or pad more."
    )),
    (lambda: SF.conv1d(X[0], W[0], stride=(1, 1)), ShapeError, (
        "conv1d expects 3 channels, got 8. x: (4, 8, 8). weight: (4, 3, 3). Set in_channels=8, or check the layer "
        "before."
    )),
    (lambda: SF.conv2d(X, W, padding=2**40), ShapeError, (
        "conv2d expects an output that fits memory, got (1, 6, 2199023255558, 2199023255558). x: (1, 4, 8, 8). Pad "
        "less, or choose a larger stride."
    )),
    (lambda: SF.conv_transpose2d(X, T[0]), ShapeError, (
        "conv_transpose2d expects a weight of shape (in, out / groups, H, W), got (6, 3, 3). x: (1, 4, 8, 8). Give "
        "it a number of taps for each axis."
    )),
    (lambda: SF.conv_transpose2d(X, T[:3]), ShapeError, (
        "conv_transpose2d expects 3 channels, got 4. x: (1, 4, 8, 8). weight: (3, 6, 3, 3). Set in_channels=4, or "
        "check the layer before."
    )),
    (lambda: SF.conv_transpose2d(X, T, groups=3), ArgumentError, (
        "conv_transpose2d expects groups that divide the weight's 4 input channels, got 3. x: (1, 4, 8, 8). weight: "
        "(4, 6, 3, 3). Choose a divisor."
    )),
    (lambda: SF.conv_transpose2d(X, T[:, :0]), ShapeError, (
        "conv_transpose2d expects a weight with at least one filter, got (4, 0, 3, 3). x: (1, 4, 8, 8). Choose "
        "out_channels of at least 1."
    )),
    (lambda: SF.conv_transpose2d(X, T, torch.ones(4)), ShapeError, (
        "conv_transpose2d expects a bias of shape (6,), got (4,). x: (1, 4, 8, 8). Give one number for each filter."
    )),
    (lambda: SF.conv_transpose2d(X, T, stride=0), ArgumentError, (
        "conv_transpose2d expects stride from 1 to 2^62, got 0. x: (1, 4, 8, 8). Choose a stride of at least 1."
    )),
    (lambda: SF.conv_transpose2d(X, T, output_padding=1), ArgumentError, (
        "conv_transpose2d expects output_padding below stride or dilation, 1, got 1. x: (1, 4, 8, 8). Choose a "
        "smaller one."
    )),
    (lambda: SF.conv_transpose2d(X, T, output_padding=-1), ArgumentError, (
        "conv_transpose2d expects output_padding from 0 to 2^62, got -1. x: (1, 4, 8, 8). Choose an output_padding "
        "of at least 0."
    )),
    (lambda: SF.conv_transpose2d(X, T, stride=2, output_padding=1.0), ArgumentTypeError, (
        "conv_transpose2d expects output_padding to be one integer or 2, got 1.0. x: (1, 4, 8, 8). Give one integer "
        "or 2."
    )),
    (
        lambda: SF.conv_transpose2d(X, T, padding="full"),
        ArgumentError,
        'conv_transpose2d expects padding "same", "valid" or a number,'
        """ got 'full'. x: (1, 4, 8, 8). Use "same" for input · stride outputs.""",
    ),
    (
        lambda: SF.conv_transpose2d(X, T, stride=2, padding="same", output_padding=1),
        ArgumentError,
        'conv_transpose2d expects no output_padding beside padding "same",'
        """ got 1. x: (1, 4, 8, 8). Leave output_padding out.""",
    ),
    (lambda: SF.conv_transpose2d(X, T, padding=6), ShapeError, (
        "conv_transpose2d expects padding that leaves an output, got 6. x: (1, 4, 8, 8). Pad less: 10 values come "
        "out without."
    )),
    (lambda: SF.conv_transpose2d(X, T, stride=2**40), ShapeError, (
        "conv_transpose2d expects an output that fits memory, got (1, 6, 7696581394435, 7696581394435). x: (1, 4, "
        "8, 8). Pad more, or choose a smaller stride."
    )),
    (lambda: S.Conv2d(4, 0, 3), ArgumentError, (
        "Conv2d expects out_channels of at least 1, got 0. Choose a larger one."
    )),
    (lambda: S.Conv2d(4, -1, 3), ArgumentError, (
        "Conv2d expects out_channels of at least 1, got -1. Choose a larger one."
    )),
    (lambda: S.Conv2d(-4, 1, 3), ArgumentError, (
        "Conv2d expects in_channels of at least 0, got -4. Choose a larger one."
    )),
    (lambda: S.Conv2d(4.0, 6, 3), ArgumentTypeError, (
        "Conv2d expects in_channels to be an integer, got 4.0. Give one integer."
    )),
    (lambda: S.Conv2d(4, 6, 0), ArgumentError, (
        "Conv2d expects kernel_size from 1 to 2^62, got 0. Choose a kernel_size of at least 1."
    )),
    (lambda: S.Conv2d(4, 6, (3, 3, 3)), ArgumentTypeError, (
        "Conv2d expects kernel_size to be one integer or 2, got (3, 3, 3). Give one integer or 2."
    )),
    (lambda: S.Conv2d(4, 6, 3.0), ArgumentTypeError, (
        "Conv2d expects kernel_size to be one integer or 2, got 3.0. Give one integer or 2."
    )),
    (lambda: S.Conv2d(4, 6, "3"), ArgumentTypeError, (
        "Conv2d expects kernel_size to be one integer or 2, got '3'. Give one integer or 2."
    )),
    (lambda: S.Conv1d(4, 6, (3, 3)), ArgumentTypeError, (
        "Conv1d expects kernel_size to be an integer, got (3, 3). Give an integer."
    )),
    (lambda: S.Conv2d(4, 6, 2**62), ArgumentError, (
        "Conv2d expects a weight that fits memory, got (4611686018427387904, 4611686018427387904). Choose a smaller "
        "kernel_size."
    )),
    (lambda: S.Conv2d(4, 6, 2**62 + 1), ArgumentError, (
        "Conv2d expects kernel_size from 1 to 2^62, got 4611686018427387905. Choose a kernel_size of 2^62 or less."
    )),
    (lambda: S.Conv2d(4, 6, 3, stride=-1), ArgumentError, (
        "Conv2d expects stride from 1 to 2^62, got -1. Choose a stride of at least 1."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding=-1), ArgumentError, (
        "Conv2d expects padding from 0 to 2^62, got -1. Choose a padding of at least 0."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding=1.5), ArgumentTypeError, (
        "Conv2d expects padding to be one integer or 2, got 1.5. Give one integer or 2."
    )),
    (
        lambda: S.Conv2d(4, 6, 3, padding="full"),
        ArgumentError,
        'Conv2d expects padding "same", "valid" or a number,'
        """ got 'full'. Use "same" for ceil(input / stride) outputs.""",
    ),
    (lambda: S.Conv2d(4, 6, 3, dilation=0), ArgumentError, (
        "Conv2d expects dilation from 1 to 2^62, got 0. Choose a dilation of at least 1."
    )),
    (lambda: S.Conv2d(4, 6, 3, dilation=None), ArgumentTypeError, (
        "Conv2d expects dilation to be one integer or 2, got None. Give one integer or 2."
    )),
    (lambda: S.Conv2d(4, 6, 3, groups=0), ArgumentError, (
        "Conv2d expects groups of at least 1, got 0. Choose a larger one."
    )),
    (lambda: S.Conv2d(4, 6, 3, groups=-2), ArgumentError, (
        "Conv2d expects groups of at least 1, got -2. Choose a larger one."
    )),
    (lambda: S.Conv2d(4, 6, 3, groups=1.0), ArgumentTypeError, (
        "Conv2d expects groups to be an integer, got 1.0. Give one integer."
    )),
    (lambda: S.Conv2d(4, 6, 3, groups=3), ArgumentError, (
        "Conv2d expects groups that divide in_channels, 4, got 3. Choose a divisor."
    )),
    (lambda: S.Conv2d(4, 6, 3, groups=4), ArgumentError, (
        "Conv2d expects groups that divide out_channels, 6, got 4. Choose a divisor."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding_mode="mirror"), ArgumentError, (
        "Conv2d expects a padding_mode that exists, got 'mirror'. Choose one of zeros, reflect, replicate, circular."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding_mode=None), ArgumentError, (
        "Conv2d expects a padding_mode that exists, got None. Choose one of zeros, reflect, replicate, circular."
    )),
    (
        lambda: S.ConvTranspose2d(4, 6, 3, padding="full"),
        ArgumentError,
        'ConvTranspose2d expects padding "same", "valid" or a number,'
        """ got 'full'. Use "same" for input · stride outputs.""",
    ),
    (lambda: S.ConvTranspose2d(4, 6, 3, output_padding=-1), ArgumentError, (
        "ConvTranspose2d expects output_padding from 0 to 2^62, got -1. Choose an output_padding of at least 0."
    )),
    (
        lambda: S.ConvTranspose2d(4, 6, 3, 2, "same", 1),
        ArgumentError,
        'ConvTranspose2d expects no output_padding beside padding "same",'
        """ got (1, 1). Leave output_padding out.""",
    ),
    (lambda: S.ConvTranspose2d(4, 6, 3, padding_mode="mirror"), ArgumentError, (
        "ConvTranspose2d expects a padding_mode that exists, got 'mirror'. Choose one of zeros, reflect, replicate, "
        "circular."
    )),
    (lambda: S.LazyConv2d(0, 3), ArgumentError, (
        "LazyConv2d expects out_channels of at least 1, got 0. Choose a larger one."
    )),
    (lambda: S.LazyConv2d(6, 3, groups=4), ArgumentError, (
        "LazyConv2d expects groups that divide out_channels, 6, got 4. Choose a divisor."
    )),
    (lambda: S.LazyConv2d(6, 3, groups=3)(X), ArgumentError, (
        "LazyConv2d expects groups that divide x's channels, 4, got 3. x: (1, 4, 8, 8). Choose a divisor."
    )),
    (lambda: S.LazyConv2d(6, 3)(X[0, 0]), ShapeError, (
        "LazyConv2d expects x of shape (N, C, H, W) or (C, H, W), got (8, 8). Add or drop axes with unsqueeze or "
        "flatten."
    )),
    (lambda: S.LazyConv2d(6, 3)([1.0]), ArgumentTypeError, (
        "LazyConv2d expects x to be a tensor, got list. Call torch.as_tensor on it first."
    )),
    (lambda: S.LazyConvTranspose2d(6, 3)(X[:, :0]), ShapeError, (
        "LazyConvTranspose2d expects x of at least one channel, got (1, 0, 8, 8). Give the first input channels."
    )),
    (lambda: S.Conv2d(3, 6, 3)(X), ShapeError, (
        "Conv2d expects 3 channels, got 4. x: (1, 4, 8, 8). weight: (6, 3, 3, 3). Set in_channels=4, or check the "
        "layer before."
    )),
    (lambda: S.Conv2d(4, 6, 9)(X), ShapeError, (
        "Conv2d expects a window no larger than the padded input, 8, got 9. x: (1, 4, 8, 8). Make the kernel or its "
        "dilation smaller, or pad more."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding=8, padding_mode="reflect")(X), ArgumentError, (
        "Conv2d expects a reflect padding of at most 7 on an axis of 8, got 8. x: (1, 4, 8, 8). Pad less, or use "
        "padding_mode='replicate'."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding=9, padding_mode="circular")(X), ArgumentError, (
        "Conv2d expects a circular padding of at most 8 on an axis of 8, got 9. x: (1, 4, 8, 8). Pad less, or use "
        "padding_mode='replicate'."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding=1, padding_mode="replicate")(X[:, :, :0]), ShapeError, (
        "Conv2d expects a window no larger than the padded input, 2, got 3. x: (1, 4, 0, 8). Make the kernel or its "
        "dilation smaller, or pad more."
    )),
    (lambda: S.Conv2d(4, 6, 9, padding="same", padding_mode="reflect")(X[..., :4]), ArgumentError, (
        "Conv2d expects a reflect padding of at most 3 on an axis of 4, got 4. x: (1, 4, 8, 4). Pad less, or use "
        "padding_mode='replicate'."
    )),
    (lambda: S.Conv2d(4, 6, 3, padding=2**31, stride=2**31, padding_mode="replicate")(X), ShapeError, (
        "Conv2d expects a padded input that fits memory, got (1, 4, 4294967304, 4294967304). x: (1, 4, 8, 8). Pad "
        "less."
    )),
    (lambda: S.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")(X), ShapeError, (
        "Conv2d expects 3 channels, got 4. x: (1, 4, 8, 8). weight: (6, 3, 3, 3). Set in_channels=4, or check the "
        "layer before."
    )),
    (lambda: S.ConvTranspose2d(4, 6, 3, padding=9, padding_mode="reflect")(X), ShapeError, (
        "ConvTranspose2d expects padding that leaves an output, got 9. x: (1, 4, 8, 8). Pad less: 10 values come "
        "out without."
    )),
    (lambda: S.ConvTranspose2d(4, 6, 3, padding=4, padding_mode="circular")(X[..., :6]), ShapeError, (
        "ConvTranspose2d expects padding that leaves an output, got 4. x: (1, 4, 8, 6). Pad less: 8 values come out "
        "without."
    )),
    (lambda: S.ConvTranspose2d(3, 6, 3, padding_mode="circular")(X), ShapeError, (
        "ConvTranspose2d expects 3 channels, got 4. x: (1, 4, 8, 8). weight: (3, 6, 3, 3). Set in_channels=4, or "
        "check the layer before."
    )),
    (lambda: S.ConvTranspose2d(4, 6, 3, stride=2)(X, [5]), ArgumentTypeError, (
        "ConvTranspose2d expects an output_size of 2 or 4 integers, got [5]. x: (1, 4, 8, 8). Give the sizes of the "
        "axes."
    )),
    (lambda: S.ConvTranspose2d(4, 6, 3, stride=2)(X, [5, 5]), ArgumentError, (
        "ConvTranspose2d expects an output_size from (17, 17) to (18, 18), got (5, 5). x: (1, 4, 8, 8). A "
        "convolution brings only these to x's size."
    )),
    (lambda: S.ConvTranspose2d(4, 6, 3, stride=2)(X, [17, 17.0]), ArgumentTypeError, (
        "ConvTranspose2d expects an output_size of 2 or 4 integers, got [17, 17.0]. x: (1, 4, 8, 8). Give the sizes "
        "of the axes."
    )),
    (lambda: S.ConvTranspose2d(4, 6, 3, 2, "same")(X, [17, 16]), ArgumentError, (
        "ConvTranspose2d expects an output_size from (15, 15) to (16, 16), got (17, 16). x: (1, 4, 8, 8). A "
        "convolution brings only these to x's size."
    )),
    (lambda: S.Conv2d(4, 6, 3)(X.double()), DtypeError, (
        "Conv2d expects weight of x's type, float64, got float32. x: (1, 4, 8, 8). Convert one with .to()."
    )),
]
# fmt: on


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_input_raises_its_message_takes_little_memory_and_changes_nothing(
    call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    for _ in range(2):  # the second time the geometry comes from the cache
        with pytest.raises(kind) as raised, memory.at_most(2**29):
            call()
        assert str(raised.value) == message
        assert isinstance(raised.value, RuntimeError)
    assert (X == 1).all() and (W == 1).all() and (T == 1).all()


def test_a_float_that_equals_a_cached_integer_is_still_refused() -> None:
    SF.conv2d(X, W, stride=(2, 2))
    with pytest.raises(ArgumentTypeError):
        SF.conv2d(X, W, stride=(2, 2.0))


def test_operators_called_past_the_checks_raise_instead_of_reading_outside() -> None:
    ops, one, zero = torch.ops.striate, [1, 1], [0, 0]
    x, w, y = torch.ones(1, 4, 8, 8), torch.ones(4, 1, 3, 3), torch.ones(1, 4, 6, 6)
    depthwise = NUMBERS["depthwise"]
    good = (one, one, zero, 4, False, depthwise)
    assert ops.conv(x, w, None, [6, 6], *good).shape == y.shape
    bad = [
        lambda: ops.conv(x, w, None, [6], *good),
        lambda: ops.conv(x, w, None, [6, 2**61], *good),
        lambda: ops.conv(x, w, torch.ones(3), [6, 6], *good),
        lambda: ops.conv(x, w.double(), None, [6, 6], *good),
        lambda: ops.conv(x, w[:, :0], None, [6, 6], *good),
        lambda: ops.conv(x[:, :3], w, None, [6, 6], *good),
        lambda: ops.conv(x.int(), w.int(), None, [6, 6], *good),
        lambda: ops.conv(x, w, None, [6, 6], [0, 1], one, zero, 4, False, depthwise),
        lambda: ops.conv(x, w, None, [6, 6], one, [1, -1], zero, 4, False, depthwise),
        lambda: ops.conv(x, w, None, [6, 6], one, [1, 2**62], zero, 4, False, depthwise),
        lambda: ops.conv(x, w, None, [6, 6], one, one, [-1, 0], 4, False, depthwise),
        lambda: ops.conv(x, w, None, [6, 6], one, one, zero, 3, False, depthwise),
        lambda: ops.conv(x, w, None, [6, 6], one, one, zero, 0, False, depthwise),
        lambda: ops.conv_backward_data(y[:, :3], w, None, [8, 8], *good),
        lambda: ops.conv_backward_data(y, w, None, [8, 2**61], *good),
        lambda: ops.conv_backward_weights(y, x[:0], [3, 3], *good),
        lambda: ops.conv_backward_weights(y, x.double(), [3, 3], *good),
        lambda: ops.conv_backward_weights(y, x, [3, 2**61], *good),
    ]
    for call in bad:
        with pytest.raises(RuntimeError, match="striate: "):
            call()


def test_an_operator_called_past_the_checks_with_a_weight_without_taps_raises_too() -> None:
    code = """
import torch
from striate.ops.conv import NUMBERS
try:
    geometry = ([6, 6], [1, 1], [1, 1], [0, 0], 4, False, NUMBERS["depthwise"])
    torch.ops.striate.conv(torch.ones(1, 4, 8, 8), torch.ones(4, 1, 3, 0), None, *geometry)
except RuntimeError as error:
    print("striate: " in str(error))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300).stdout == "True\n"


FAR = [  # buffering every input row that a row of outputs reads would take gigabytes, or overflow 32-bit counts
    ("conv2d", (1, 2, 40001, 1), (16, 2, 3, 3), {"padding": 20000, "dilation": 20000}),
    ("conv2d", (1, 600, 2000, 1), (1, 600, 3, 3), {"padding": 1000, "dilation": 1000}),
    ("conv1d", (1, 1000, 5), (16, 1000, 1), {"stride": 65536}),
    ("conv_transpose1d", (1, 256, 1), (256, 1, 4096), {"stride": 4096}),
    ("conv_transpose1d", (1, 512, 10), (512, 1, 256), {"stride": 128}),
]


@pytest.mark.parametrize(("function", "shape", "weight", "arguments"), FAR)
def test_windows_that_reach_far_are_computed_in_bounded_memory(
    function: str, shape: tuple[int, ...], weight: tuple[int, ...], arguments: dict[str, int], native_method: str
) -> None:
    x, w = whole_numbers(shape), whole_numbers(weight)
    assert torch.equal(
        getattr(SF, function)(x, w, **arguments), getattr(F, function)(x.double(), w.double(), **arguments).float()
    )


def test_a_transposed_convolution_that_leaves_out_what_lies_behind_stays_with_a_method() -> None:
    native_layer = S.ConvTranspose2d(64, 64, 3, dilation=3, output_padding=2)  # more than the stride
    torch_layer = torch.nn.ConvTranspose2d(64, 64, 3, dilation=3, output_padding=2)
    torch_layer.load_state_dict(native_layer.state_dict())
    x = torch.randn(2, 64, 9, 9)
    for name in (None, *NAMES):
        with dispatch.prefer(name):
            torch.testing.assert_close(native_layer(x), torch_layer(x), rtol=1e-4, atol=1e-5)


def test_the_weight_gradient_of_a_long_row_keeps_its_digits(layout: Any, native_method: str) -> None:
    x, w = layout(torch.randn(1, 16, 1 << 17)), torch.randn(16, 1, 3, requires_grad=True)
    dy = torch.randn(1, 16, (1 << 17) - 2)
    exact = torch.autograd.grad(F.conv1d(x.double(), w.double(), groups=16), w, dy.double())[0]
    got = torch.autograd.grad(SF.conv1d(x, w, groups=16), w, dy)[0]
    assert (got - exact).abs().max() <= 4 * EPS * exact.abs().max()


def test_of_one_axis_there_is_one_memory_order_by_every_method(method: str) -> None:
    if method == "reference":
        pytest.skip("its products come as they come")
    x, w = torch.randn(2, 50, 64).transpose(1, 2).requires_grad_(), torch.randn(64, 64, 3)
    y = SF.conv1d(x, w)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.is_contiguous() and dx.is_contiguous()


@pytest.mark.parametrize("name", NATIVE)
def test_the_operator_for_the_weight_gradient_refuses_an_empty_batch(name: str) -> None:
    empty = torch.ones(0, 4, 3, 3)
    with pytest.raises(RuntimeError, match="striate: x and dy have one batch, and it is not empty"):
        torch.ops.striate.conv_backward_weights(empty, empty, [1, 1], [1, 1], [1, 1], [0, 0], 4, False, NUMBERS[name])


# --------------------------------------------------------------------------------------------------------- worked facts


def filled(layer: Any, weight: Any) -> Any:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float32).reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def parameters(*layers: torch.nn.Module) -> int:
    return sum(p.numel() for layer in layers for p in layer.parameters())


def macs(layer: Any, shape: tuple[int, ...]) -> int:
    """The multiply-adds of one image, from shapes alone, on the meta device."""
    return layer.to("meta")(torch.empty(1, *shape, device="meta")).numel() * layer.weight[0].numel()


def test_1d_by_hand(method: str) -> None:
    conv = filled(S.Conv1d(3, 1, 3, stride=2), [[1, 0, -1], [-1, 1, 0], [0, -1, 1]])
    assert conv(torch.tensor([[[2.0, 3, 1, 0, 4], [1, 2, 0, 1, 3], [0, 1, 2, 3, 1]]])).tolist() == [[[3, -4]]]


def test_3d_by_hand(method: str) -> None:
    x = [
        [[1, -2, 5, 2], [-1, 1, 4, -3], [1, 5, 5, 2], [-1, -2, 2, 2]],
        [[-3, 0, -1, -4], [2, 0, -4, -1], [-5, 4, 0, 3], [-5, 5, 5, 4]],
        [[-3, 1, -2, 3], [-3, -1, -3, 1], [-1, 3, 1, -4], [-2, 3, -4, 4]],
        [[3, 4, -1, -4], [-2, 1, 2, -3], [-5, -2, -4, 2], [-2, -4, 0, 0]],
    ]
    w = [
        [[-2, 0, 2], [1, 3, -2], [-2, 0, -2]],
        [[-2, 2, 0], [2, 3, 3], [2, 3, 0]],
        [[-3, 2, 1], [1, -2, 3], [1, -2, -3]],
    ]
    assert filled(S.Conv3d(1, 1, 3), w)(torch.tensor(x, dtype=torch.float32)[None])[0].tolist() == [
        [[-21, 21], [21, 28]],
        [[32, -67], [17, -29]],
    ]


def test_sobel_is_a_product_of_smoothing_and_difference(method: str) -> None:
    image = torch.zeros(1, 1, 5, 6)
    image[..., 3:] = 1  # a vertical edge
    sobel_x = filled(S.Conv2d(1, 1, 3), [[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    sobel_y = filled(S.Conv2d(1, 1, 3), [[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    gx, gy = sobel_x(image), sobel_y(image)
    assert gx[0, 0].tolist() == [[0, -4, -4, 0]] * 3 and not gy.any()  # cross-correlation: the kernel is not flipped
    assert (gx**2 + gy**2).sqrt()[0, 0, 0].tolist() == [0, 4, 4, 0]
    smooth, difference = filled(S.Conv2d(1, 1, (3, 1)), [1, 2, 1]), filled(S.Conv2d(1, 1, (1, 3)), [1, 0, -1])
    x = whole_numbers((1, 1, 7, 9))
    assert smooth(x).shape == (1, 1, 5, 9) and torch.equal(difference(smooth(x)), sobel_x(x))
    separable = filled(S.Conv2d(1, 1, 3), [[3, 6, 9], [4, 8, 12], [5, 10, 15]])
    down, across = filled(S.Conv2d(1, 1, (3, 1)), [3, 4, 5]), filled(S.Conv2d(1, 1, (1, 3)), [1, 2, 3])
    assert torch.equal(across(down(x)), separable(x))


def test_the_backward_pass_by_hand(method: str) -> None:
    x, w = torch.tensor([[[1.0, 2, 3, 4]]]).requires_grad_(), torch.tensor([[[1.0, -1]]]).requires_grad_()
    b = torch.zeros(1, requires_grad=True)
    SF.conv1d(x, w, b).backward(torch.tensor([[[1.0, 10, 100]]]))
    assert (x.grad.tolist(), w.grad.tolist(), b.grad.tolist()) == ([[[1, 9, 90, -100]]], [[[321, 432]]], [111])  # type: ignore[union-attr]


def test_sizes_parameters_and_macs_of_the_notes() -> None:
    ten = S.Conv2d(3, 10, 5, padding=2)
    assert ten(torch.ones(1, 3, 32, 32)).shape == (1, 10, 32, 32)
    assert (parameters(ten), ten.weight[0].numel() + 1, ten.weight[0].numel(), macs(ten, (3, 32, 32))) == (
        760,
        76,
        75,
        768_000,
    )
    assert S.Conv2d(3, 6, 5)(torch.ones(1, 3, 32, 32)).shape == (1, 6, 28, 28)
    assert S.Conv2d(64, 32, 1)(torch.ones(1, 64, 56, 56)).shape == (1, 32, 56, 56)
    big = S.Conv2d(256, 256, 3)
    assert (parameters(big), 256 * 62 * 62, macs(big, (256, 64, 64))) == (590_080, 984_064, 2_267_283_456)
    narrow, wide = S.Conv2d(256, 64, 1), S.Conv2d(64, 256, 3)
    assert (parameters(narrow), parameters(wide), parameters(narrow, wide)) == (16_448, 147_712, 164_160)
    assert (macs(narrow, (256, 64, 64)), macs(wide, (64, 64, 64))) == (67_108_864, 566_820_864)
    full = S.Conv2d(128, 256, 3, padding="same", bias=False)
    depthwise, pointwise = (
        S.Conv2d(128, 128, 3, padding="same", groups=128, bias=False),
        S.Conv2d(128, 256, 1, bias=False),
    )
    assert [parameters(layer) for layer in (full, depthwise, pointwise)] == [294_912, 1_152, 32_768]
    assert [macs(layer, (128, 32, 32)) for layer in (full, depthwise, pointwise)] == [
        301_989_888,
        1_179_648,
        33_554_432,
    ]
    assert round(301_989_888 / (1_179_648 + 33_554_432), 2) == round(9 * 256 / (9 + 256), 2) == 8.69


def test_a_stack_of_three_by_threes_sees_two_more_pixels_each() -> None:
    x = torch.zeros(1, 1, 1, 15, requires_grad=True)
    y = x
    for _ in range(4):
        y = SF.conv2d(y, torch.ones(1, 1, 1, 3), padding=(0, 1))
    (seen,) = torch.autograd.grad(y[0, 0, 0, 7], x)
    # the receptive field is 1 + 4·2 pixels, with the largest weight in the middle
    assert seen[0, 0, 0].tolist() == [0] * 3 + [1, 4, 10, 16, 19, 16, 10, 4, 1] + [0] * 3


# (channels, size of the image, filters, taps, stride, groups): layers of VGG, ResNet, MobileNet, ConvNeXt and of their
# first layers. Blocks, chunks and parts are cut as in training there, and not as in the small cases above.
OF_NETWORKS = [
    (3, 224, 64, 7, 2, 1),
    (3, 224, 96, 4, 4, 1),
    (64, 56, 64, 3, 1, 1),
    (64, 56, 256, 1, 1, 1),
    (64, 112, 128, 3, 1, 1),
    (96, 56, 96, 3, 2, 96),
    (96, 56, 96, 7, 1, 96),
    (128, 28, 128, 3, 1, 1),
    (128, 56, 128, 3, 2, 1),
    (128, 28, 128, 3, 1, 32),
    (256, 14, 256, 3, 1, 1),
    (256, 56, 128, 1, 2, 1),
    (384, 14, 384, 7, 1, 384),
    (512, 7, 512, 3, 1, 1),
    (32, 28, 96, 5, 1, 1),
]


@pytest.mark.nightly
@pytest.mark.parametrize("shape", OF_NETWORKS, ids=str)
def test_every_method_is_right_on_layers_of_networks_with_batches_of_training(
    shape: tuple[int, ...], layout: Any
) -> None:
    channels, size, filters, taps, stride, groups = shape
    arguments: dict[str, Any] = {"stride": stride, "padding": taps // 2 if stride < 4 else 0, "groups": groups}
    batch = max(1, 26 * 28**2 // size**2)
    x, w = torch.randn(batch, channels, size, size), torch.randn(filters, channels // groups, taps, taps)

    def passes(function: Callable[..., Tensor], given: Tensor, dy: Tensor | None) -> list[Tensor]:
        leaves = given.detach().requires_grad_(), w.detach().requires_grad_()
        y = function(*leaves, **arguments)
        gradient = torch.randn_like(y) if dy is None else dy
        return [y.detach(), *torch.autograd.grad(y, leaves, gradient), gradient]

    *expected, dy = passes(F.conv2d, x, None)
    for method in (*NATIVE, *WINOGRAD):
        with dispatch.prefer(method):
            *got, _ = passes(SF.conv2d, layout(x), layout(dy))
        for name, y, torch_y in zip(PASSES, got, expected, strict=True):
            error = (y - torch_y).square().mean().sqrt() / torch_y.square().mean().sqrt()
            assert error <= 1e-5, (method, name, float(error))
