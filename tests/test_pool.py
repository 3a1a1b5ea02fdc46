"""Pooling kernels against the reference, in every layout, on every instruction set and number of threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import memory
import pytest
import torch
import torch.nn.functional as F
from samples import POOL, Sample, channels_last

import striate.nn as S
import striate.nn.functional as SF
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.ops import gate
from striate.ops import pool as ops
from striate.ops.dispatch import explain_choice
from striate.reference import pool as reference
from striate.window import same_padding

LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels_first": torch.Tensor.contiguous,
    "channels_last": channels_last,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[[torch.Tensor], torch.Tensor]:
    return LAYOUTS[request.param]


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return DTYPES[request.param]


def whole_numbers(shape: tuple[int, ...], dtype: torch.dtype, least: int = -9, most: int = 9) -> torch.Tensor:
    return torch.randint(least, most + 1, shape).to(dtype)


def geometry_of(sample: Sample, x: torch.Tensor) -> ops.PoolGeometry:
    dims, a = x.dim() - 2, sample.arguments
    if "adaptive" in sample.function:
        return ops.adaptive_geometry_for(x, dims, a["output_size"], sample.function)
    given = (a["kernel_size"], a.get("stride"), a.get("padding", 0), a.get("dilation", 1), a.get("ceil_mode", False))
    return ops.geometry_for(x, dims, *given, sample.function)


def by_reference(sample: Sample, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns (y, index, dy, dx) for a dy of whole numbers; index is empty for averages."""
    window, a = geometry_of(sample, x).window, sample.arguments
    if "max" in sample.function:
        y, index = reference.max_pool(x, window)
        dy = whole_numbers(tuple(y.shape), x.dtype)
        return y, index, dy, reference.max_pool_backward(dy, index, tuple(x.shape[2:]))
    divisor = (a.get("count_include_pad", True), a.get("divisor_override"))
    y = reference.avg_pool(x, window, *divisor)
    dy = whole_numbers(tuple(y.shape), x.dtype)
    return y, torch.empty(0), dy, reference.avg_pool_backward(dy, window, *divisor)


def by_kernel(sample: Sample, x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = x.detach().requires_grad_()
    if "max" in sample.function:
        y, index = sample.native_function(x, **sample.arguments, return_indices=True)
    else:
        y, index = sample.native_function(x, **sample.arguments), torch.empty(0)
    (dx,) = torch.autograd.grad(y, x, dy)
    return y.detach(), index, dx


def steps(x: torch.Tensor) -> list[int]:
    """The strides of the axes longer than 1: only these decide where values lie."""
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def is_native(sample: Sample, x: torch.Tensor) -> bool:
    methods = ops.MAX_METHODS if "max" in sample.function else ops.AVG_METHODS
    return explain_choice(methods, None, x, geometry_of(sample, x), True, None)[-1] == ("native", None)


@pytest.mark.parametrize("sample", POOL, ids=str)
def test_whole_numbers_give_exactly_the_reference(sample: Sample, layout: Any, dtype: torch.dtype, isa: str) -> None:
    x = whole_numbers(sample.shape, dtype)
    assert is_native(sample, x)
    y, index, dy, dx = by_reference(sample, x)
    got_y, got_index, got_dx = by_kernel(sample, layout(x), layout(dy))
    assert torch.equal(got_y, y)
    assert torch.equal(got_index, index)
    assert (y != 0).double().mean() > 0.3  # an output of zeros would prove nothing
    if "avg" in sample.function:  # a gradient of thirds has no exact sum
        torch.testing.assert_close(got_dx, dx)
    else:
        assert torch.equal(got_dx, dx)
    dims = x.dim() - 2
    # the memory format of torch's result
    follows = dims == 2 or ("max_pool" in sample.function and "adaptive" not in sample.function) == (dims == 3)
    assert steps(layout(y) if follows else y.contiguous()) == steps(got_y)
    assert steps(layout(x) if follows else x.contiguous()) == steps(got_dx)


@pytest.mark.parametrize("sample", [s for s in POOL if "avg" in s.function], ids=str)
def test_the_error_of_averages_is_at_most_twice_that_of_torch(sample: Sample, layout: Any, isa: str) -> None:
    x = torch.randn(sample.shape) + 3
    exact_x = x.double().requires_grad_()
    exact = sample.torch_function(exact_x, **sample.arguments)
    dy = torch.randn(exact.shape)
    (exact_dx,) = torch.autograd.grad(exact, exact_x, dy.double())
    native_y, _, native_dx = by_kernel(sample, layout(x), dy)
    torch_x = x.clone().requires_grad_()
    torch_y = sample.torch_function(torch_x, **sample.arguments)
    (torch_dx,) = torch.autograd.grad(torch_y, torch_x, dy)
    eps = torch.finfo(torch.float32).eps
    for native_value, torch_value, truth in ((native_y, torch_y, exact), (native_dx, torch_dx, exact_dx)):
        allowed = 2 * (torch_value - truth).abs().max() + eps * truth.abs().max()
        assert (native_value - truth).abs().max() <= allowed


@pytest.mark.parametrize("sample", POOL, ids=str)
def test_result_is_same_bits_for_1_2_and_3_threads(sample: Sample, layout: Any, isa: str) -> None:
    x = layout(torch.randn(sample.shape))
    dy = torch.randn_like(sample.native_function(x, **sample.arguments))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(by_kernel(sample, x, dy))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d"])
def test_large_work_is_cut_between_threads_and_keeps_its_bits(function: str, layout: Any, isa: str) -> None:
    sample = Sample(function, (4, 37, 61, 67), {"kernel_size": 3, "stride": 2, "padding": 1})
    x = layout(torch.randn(sample.shape))
    dy = torch.randn_like(sample.native_function(x, **sample.arguments))
    torch.set_num_threads(1)
    alone = by_kernel(sample, x, dy)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(by_kernel(sample, x, dy), alone, strict=True))
    torch.testing.assert_close(alone[0], sample.torch_function(x, **sample.arguments))


# ------------------------------------------------------------------------------------------------------- edge semantics


@pytest.mark.parametrize("function", ["max_pool2d", "adaptive_max_pool2d"])
def test_nan_wins_and_the_last_one_keeps_the_index(function: str, layout: Any, isa: str) -> None:
    x = torch.zeros(1, 20, 4, 4)
    x[..., 0, 1] = x[..., 1, 0] = float("nan")
    x[..., 2, 2] = 5.0
    argument = {"kernel_size": 2} if function == "max_pool2d" else {"output_size": 2}
    y, index = getattr(SF, function)(layout(x), **argument, return_indices=True)
    assert y[0, 3].isnan().tolist() == [[True, False], [False, False]]
    assert index[0, 3].tolist() == [[4, 2], [8, 10]]
    torch_value = getattr(F, function)(x, **argument, return_indices=True)[1]
    assert torch.equal(index, torch_value)


def test_minus_infinity_everywhere_gives_the_first_index(layout: Any, isa: str) -> None:
    x = torch.full((1, 20, 5, 5), -float("inf"))
    for padding in (0, 1):
        y, index = SF.max_pool2d(layout(x), 3, 2, padding, return_indices=True)
        expected = F.max_pool2d(x, 3, 2, padding, return_indices=True)
        assert torch.equal(y, expected[0]) and torch.equal(index, expected[1])


def test_ties_go_to_the_first_element_forward_and_backward(layout: Any, isa: str) -> None:
    x = layout(torch.ones(1, 20, 4, 6)).requires_grad_()
    SF.max_pool2d(x, 2).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 7].tolist() == [[1, 0, 1, 0, 1, 0], [0] * 6, [1, 0, 1, 0, 1, 0], [0] * 6]


def test_infinity_and_denormals_stay_what_they_are(layout: Any, isa: str) -> None:
    x = layout(torch.tensor([1e-45, -1e-45, float("inf"), 1.0]).view(1, 1, 2, 2).expand(1, 20, 2, 2).contiguous())
    assert SF.max_pool2d(x[..., :1, :], (1, 2)).flatten()[0] == 1e-45
    assert SF.max_pool2d(x, 2).flatten()[0] == float("inf")
    assert SF.avg_pool2d(x[..., :1, :1].expand(1, 20, 1, 2), (1, 2)).flatten()[0] == 1e-45


def test_a_window_that_holds_nothing_gives_minus_infinity_and_passes_no_gradient(layout: Any, isa: str) -> None:
    x = layout(torch.ones(1, 20, 1, 3)).requires_grad_()
    y, index = SF.max_pool2d(x, 2, 1, 1, 2, return_indices=True)  # taps at -1 and 1, around the only position, 0
    assert y.isinf().all() and (index == -1).all()
    y.sum().backward()
    assert x.grad is not None and (x.grad == 0).all()


def test_an_empty_batch_passes() -> None:
    for call in (lambda x: SF.max_pool2d(x, 2), lambda x: SF.avg_pool2d(x, 2), lambda x: SF.adaptive_max_pool2d(x, 3)):
        x = torch.empty(0, 3, 6, 6, requires_grad=True)
        y = call(x)
        assert y.shape == (0, 3, 3, 3)
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape


def test_unbatched_input_is_a_batch_of_one_without_the_batch() -> None:
    x = torch.randn(3, 8, 9)
    for call in (
        S.MaxPool2d(2),
        S.AvgPool2d(3),
        S.AdaptiveMaxPool2d(3),
        S.AdaptiveAvgPool2d((2, 4)),
        S.GlobalMaxPool2d(),
        S.GlobalAvgPool2d(True),
    ):
        assert torch.equal(call(x), call(x[None])[0])


def test_expanded_offset_and_sliced_inputs_give_the_same_as_their_copies(isa: str) -> None:
    base = torch.randn(3, 40, 12, 14)
    inputs = [
        base[:, :, 1:, 3:],
        base[:, ::2],
        base[1:],
        base[:, :1].expand(3, 24, 12, 14),
        base.transpose(2, 3),
        base.flip(3),
    ]
    inputs += [channels_last(base)[:, :, 2:, 1:], channels_last(base)[:, 3:20]]
    for x in inputs:
        for call in (
            lambda x: SF.max_pool2d(x, 3, 2, 1),
            lambda x: SF.avg_pool2d(x, 2),
            lambda x: SF.adaptive_max_pool2d(x, 5),
        ):
            assert torch.equal(call(x), call(x.clone(memory_format=torch.contiguous_format)))


def test_a_slice_of_a_channels_last_tensor_is_channels_last() -> None:
    x = channels_last(torch.randn(2, 8, 12, 12))[:, :, 2:, 3:]
    assert SF.max_pool2d(x, 2).is_contiguous(memory_format=torch.channels_last)
    assert F.max_pool2d(x, 2).is_contiguous(memory_format=torch.channels_last)


def test_more_than_2_to_the_31_elements_do_not_wrap() -> None:
    x = memory.zeros(2**31 + 128).view(1, 1, -1)
    x[..., -1] = 7.0
    x[..., 2**31 - 1] = 5.0
    y = SF.max_pool1d(x, 64)
    assert y.shape[-1] == 2**25 + 2
    assert y[0, 0, -1] == 7 and y[0, 0, 2**25 - 1] == 5 and y.sum() == 12


@pytest.mark.nightly
def test_the_gradient_of_more_than_2_to_the_31_elements_does_not_wrap() -> None:
    memory.needs_memory(10 * 2**30)  # the gradient takes 8.6 GB
    x = memory.zeros(2**31 + 128).view(1, 1, -1)
    x[..., -1] = 7.0
    x[..., 2**31 - 1] = 5.0
    y = SF.max_pool1d(x.requires_grad_(), 64)
    dy = torch.ones_like(y)
    dy[..., -1], dy[..., 2**25 - 1] = 3.0, 2.0
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx[0, 0, -1] == 3 and dx[0, 0, 2**31 - 1] == 2
    windows = dx.view(-1, 64)
    assert (windows[: 2**25 - 1, 0] == 1).all() and windows[2**25, 0] == 1  # ties go to the first element
    assert dx.count_nonzero() == 2**25 + 2


def test_dilation_of_an_axis_of_one_place_moves_nothing(layout: Any, isa: str) -> None:
    x = layout(torch.arange(300.0).view(1, 1, 300, 1).expand(1, 20, 300, 1).contiguous())
    y, index = SF.max_pool2d(x, (300, 1), 1, 0, (1, 2), return_indices=True)
    assert (y == 299).all() and (index == 299).all()
    assert torch.equal(SF.max_pool2d(x, (1, 1), 1, 0, (2**61, 2**62)), x)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 26, 2, 1, 1), ([2, 1, 2], [1, 1, 3], [1, 0, 1], [1, 1, 2])),
        ((1, 17, 3, 7, 1), ([3, 1, 2], [70, 1, 3], [0, 0, 3], [1, 600, 5])),
        ((1, 19, 3, 4, 1), ([5, 4, 1], [1, 1, 1], "same", [3, 1, 2])),
    ],
)
def test_windows_that_miss_the_input_pass_nothing_to_their_neighbours(
    shape: Any, window: Any, layout: Any, isa: str
) -> None:
    kernel, stride, padding, dilation = window
    x = layout(torch.randn(shape)).requires_grad_()
    y, index = SF.max_pool3d(x, kernel, stride, padding, dilation, return_indices=True)
    geometry = ops.geometry_for(x, 3, kernel, stride, padding, dilation, False, "max_pool3d")
    expected, expected_index = reference.max_pool(x.detach(), geometry.window)
    assert torch.equal(y, expected) and torch.equal(index, expected_index)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close(dx, reference.max_pool_backward(dy, index, shape[2:]))


def test_a_window_over_a_large_volume_takes_little_memory_besides() -> None:
    # in a separate process: this one may have passed its peak already
    code = """
import resource, torch, striate.nn.functional as SF
peak_kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.ones(1, 1, 64, 1025, 256)
SF.max_pool3d(x[..., :8, :8], 2)
before_kib = peak_kib()
assert SF.max_pool3d(x, (64, 2, 1), 1, 0, (1, 1023, 1)).shape[2:] == (1, 2, 256)
SF.avg_pool3d(x, (64, 64, 256))
print((peak_kib() - before_kib) * 1024 / (4 * x.numel()))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.75, "more than three quarters of the input's own bytes"


def test_a_negative_divisor_works_in_every_type() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(1, 1, 4, 4, dtype=dtype)
        assert (SF.avg_pool2d(x, 2, divisor_override=-2) == -2).all()
        assert (SF.avg_pool1d(x[0], 2, divisor_override=-2) == -1).all()


def test_symbolic_tracing_takes_axes_of_size_one() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.randn(2, 3, 8, 1)
    traced = make_fx(lambda x: SF.max_pool2d(x, (2, 1)), tracing_mode="symbolic")(x)
    assert torch.equal(traced(x), F.max_pool2d(x, (2, 1)))


def test_huge_dilation_and_padding_are_legal_where_the_output_is_small() -> None:
    x = torch.tensor([[[3.0, 1.0, 2.0]]])
    assert SF.max_pool1d(x, 3, 1, 2**40, 2**40).tolist() == [[[3.0, 1.0, 2.0]]]
    y, index = SF.max_pool1d(x, 1, 2**40, return_indices=True)
    assert y.tolist() == [[[3.0]]] and index.tolist() == [[[0]]]


# ------------------------------------------------------------------------------------------------------ what is our own


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_same_padding_gives_one_output_for_every_stride_inputs(kernel: int, stride: int, layout: Any) -> None:
    x = layout(torch.randn(2, 20, 11, 14))
    y = S.MaxPool2d(kernel, stride, padding="same")(x)
    assert y.shape[2:] == (-(-11 // stride), -(-14 // stride))
    before, after = zip(*(same_padding(i, kernel, stride) for i in (11, 14)), strict=True)
    padded = F.pad(x, (before[1], after[1], before[0], after[0]), value=-float("inf"))
    assert torch.equal(y, F.max_pool2d(padded, kernel, stride))
    mean = S.AvgPool2d(kernel, stride, padding="same", count_include_pad=False)(x)
    ones = F.pad(torch.ones_like(x), (before[1], after[1], before[0], after[0]))
    expected = F.avg_pool2d(padded.clamp(min=-1e30).where(ones > 0, 0.0), kernel, stride) / F.avg_pool2d(
        ones, kernel, stride
    )
    torch.testing.assert_close(mean, expected)


def test_same_padding_works_for_every_type_too() -> None:
    x = torch.randn(2, 3, 7, 8, dtype=torch.bfloat16)
    geometry = ops.geometry_for(x, 2, 2, 1, "same", 1, False, "MaxPool2d")
    assert explain_choice(ops.MAX_METHODS, gate.closed(x), x, geometry, False) == [
        ("native", "kernels are for float32 and float64, got bfloat16"),
        ("torch", "torch's operator pads both sides alike"),
        ("reference", None),
    ]
    assert torch.equal(S.MaxPool2d(2, 1, padding="same")(x), S.MaxPool2d(2, 1, padding="same")(x.float()).bfloat16())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_global_pooling_is_one_value_a_channel(dims: int, layout: Any, isa: str) -> None:
    x = layout(torch.randn(2, 19, *[5, 6, 7][:dims])).requires_grad_()
    largest = getattr(S, f"GlobalMaxPool{dims}d")()(x)
    assert torch.equal(largest, x.flatten(2).amax(-1))
    mean = getattr(S, f"GlobalAvgPool{dims}d")()(x)
    torch.testing.assert_close(mean, x.flatten(2).mean(-1))
    (dx,) = torch.autograd.grad(mean.sum(), x)
    torch.testing.assert_close(dx, torch.full_like(x, 1 / x[0, 0].numel()))
    (dx,) = torch.autograd.grad(largest.sum(), x)
    assert (dx.flatten(2).sum(-1) == 1).all() and ((dx == 1) | (dx == 0)).all()
    kept = getattr(S, f"GlobalMaxPool{dims}d")(keepdim=True)
    assert kept(x).shape == (2, 19, *[1] * dims) and repr(kept) == f"GlobalMaxPool{dims}d(keepdim=True)"


def test_max_pooling_keeps_a_fifth_of_torchs_bytes_for_backward(layout: Any) -> None:
    def kept(call: Callable[[torch.Tensor], torch.Tensor]) -> int:
        sizes: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            sizes[t.data_ptr()] = t.numel() * t.element_size()
            return t

        x = layout(torch.randn(4, 20, 16, 16)).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            call(x)
        return sum(sizes.values())

    for arguments in ((2,), (3, 2, 1)):
        native_value, torch_value = (
            kept(lambda x, a=arguments: SF.max_pool2d(x, *a)),
            kept(lambda x, a=arguments: F.max_pool2d(x, *a)),
        )
        assert native_value == 4 * 20 * 8 * 8
        assert native_value * 5 <= torch_value


# ------------------------------------------------------------------------------------------------------ what is torch's


def test_what_the_kernels_refuse_goes_to_torch_and_is_right() -> None:
    x = torch.randn(2, 3, 8, 8)
    geometry = ops.geometry_for(x, 2, 2, 2, 0, 1, False, "MaxPool2d")
    assert explain_choice(ops.MAX_METHODS, gate.closed(x.to("meta")), x, geometry, False)[0] == (
        "native",
        "kernels are for the CPU, got meta",
    )
    assert torch.equal(SF.max_pool2d((x * 9).long(), 2), F.max_pool2d((x * 9).long(), 2))
    mapped = torch.vmap(lambda one: SF.max_pool2d(one, 2))(x)
    assert torch.equal(mapped, F.max_pool2d(x, 2))
    gradient = torch.func.grad(lambda t: SF.avg_pool2d(t, 2).square().sum())(x)
    torch.testing.assert_close(gradient, torch.func.grad(lambda t: F.avg_pool2d(t, 2).square().sum())(x))
    y, tangent = torch.func.jvp(lambda t: SF.avg_pool2d(t, 2), (x,), (torch.ones_like(x),))
    assert torch.equal(tangent, torch.ones_like(y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SF.max_pool2d(x, 2), F.max_pool2d(x, 2))


def test_forward_mode_derivatives_go_to_torch() -> None:
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.randn(1, 2, 4, 4), torch.ones(1, 2, 4, 4))
        assert forward_ad.unpack_dual(SF.avg_pool2d(dual, 2)).tangent.tolist() == torch.ones(1, 2, 2, 2).tolist()


def test_a_tensor_subclass_goes_to_torch() -> None:
    class Mine(torch.Tensor):
        pass

    x = torch.randn(1, 2, 4, 4).as_subclass(Mine)
    geometry = ops.geometry_for(x, 2, 2, 2, 0, 1, False, "MaxPool2d")
    assert explain_choice(ops.MAX_METHODS, gate.closed(x), x, geometry, False)[0] == (
        "native",
        "kernels are for plain tensors, got Mine",
    )
    assert isinstance(SF.max_pool2d(x, 2), Mine)


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_models_compile_without_graph_breaks(dynamic: bool) -> None:
    model = S.Sequential(
        S.Conv2d(3, 8, 3),
        S.BatchNorm2d(8),
        S.ReLU(),
        S.MaxPool2d(3, 2, 1),
        S.AvgPool2d(2),
        S.AdaptiveMaxPool2d(3),
        S.GlobalAvgPool2d(),
    )
    x = torch.randn(2, 3, 40, 44)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    loss, expected = compiled(x).square().sum(), model(x).square().sum()
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(one, list(model.parameters())) for one in (loss, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(compiled(torch.randn(2, 3, 33, 44)).shape, torch.Size([2, 8]))


def test_models_compile_to_machine_code() -> None:
    model = S.Sequential(S.Conv2d(3, 8, 3), S.ReLU(), S.MaxPool2d(2), S.AvgPool2d(2), S.GlobalAvgPool2d())
    x = torch.randn(2, 3, 16, 18)
    compiled = torch.compile(model, fullgraph=True)
    loss, expected = compiled(x).square().sum(), model(x).square().sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, list(model.parameters())) for one in (loss, expected)))


def test_models_export() -> None:
    model = S.Sequential(
        S.Conv2d(3, 8, 3), S.MaxPool2d(2), S.AvgPool2d(3, 2, padding="same"), S.GlobalMaxPool2d()
    ).eval()
    x = torch.randn(2, 3, 20, 22)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "striate" not in str(exported.graph) and "aten.max_pool2d" in str(exported.graph)
    for batch in (2, 5):
        x = torch.randn(batch, 3, 20, 22)
        # the convolution's method was chosen for any batch, not for this one
        torch.testing.assert_close(exported.module()(x), model(x))


# ------------------------------------------------------------------------------------------------------------ bad input

X = torch.randn(1, 2, 8, 8)
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: SF.max_pool2d(X, 0),
        ArgumentError,
        "max_pool2d expects kernel_size from 1 to 2^62, got 0. x: (1, 2, 8, 8). Choose a kernel_size of at least 1.",
    ),
    (
        lambda: SF.max_pool2d(X, -3),
        ArgumentError,
        "max_pool2d expects kernel_size from 1 to 2^62, got -3. x: (1, 2, 8, 8). Choose a kernel_size of at least 1.",
    ),
    (
        lambda: SF.max_pool2d(X, 2, 0),
        ArgumentError,
        "max_pool2d expects stride from 1 to 2^62, got 0. x: (1, 2, 8, 8). Choose a stride of at least 1.",
    ),
    (
        lambda: SF.max_pool2d(X, 2, 2, -1),
        ArgumentError,
        "max_pool2d expects padding from 0 to 2^62, got -1. x: (1, 2, 8, 8). Choose a padding of at least 0.",
    ),
    (
        lambda: SF.max_pool2d(X, 2, 2, 0, 0),
        ArgumentError,
        "max_pool2d expects dilation from 1 to 2^62, got 0. x: (1, 2, 8, 8). Choose a dilation of at least 1.",
    ),
    (
        lambda: SF.max_pool2d(X, 2.0),
        ArgumentTypeError,
        "max_pool2d expects kernel_size to be one integer or 2, got 2.0. x: (1, 2, 8, 8). Give one integer or 2.",
    ),
    (
        lambda: SF.max_pool2d(X, True),
        ArgumentTypeError,
        "max_pool2d expects kernel_size to be one integer or 2, got True. x: (1, 2, 8, 8). Give one integer or 2.",
    ),
    (
        lambda: SF.max_pool2d(X, (2, 2, 2)),
        ArgumentTypeError,
        "max_pool2d expects kernel_size to be one integer or 2, got (2, 2, 2). x: (1, 2, 8, 8). Give one integer or 2.",
    ),
    (
        lambda: SF.max_pool2d(X, (2.0, 2)),
        ArgumentTypeError,
        "max_pool2d expects kernel_size to be one integer or 2, got (2.0, 2). x: (1, 2, 8, 8). Give one integer or 2.",
    ),
    (
        lambda: SF.max_pool1d(X[0], (2, 2)),
        ArgumentTypeError,
        "max_pool1d expects kernel_size to be an integer, got (2, 2). x: (2, 8, 8). Give an integer.",
    ),
    (
        lambda: SF.max_pool2d(X, 2, 2**63 - 1),
        ArgumentError,
        (
            "max_pool2d expects stride from 1 to 2^62, got 9223372036854775807. x: (1, 2, 8, 8). Choose a stride of "
            "2^62 "
            "or less."
        ),
    ),
    (
        lambda: SF.max_pool2d(X, 3, 2, 2),
        ArgumentError,
        (
            "max_pool2d expects padding of at most half the window, 1, got 2. x: (1, 2, 8, 8). Pad x with "
            "torch.nn.functional.pad first if windows of padding alone are meant."
        ),
    ),
    (
        lambda: SF.max_pool2d(X, 9),
        ShapeError,
        (
            "max_pool2d expects a window no larger than the padded input, 8, got 9. x: (1, 2, 8, 8). Make the kernel "
            "or "
            "its dilation smaller, or pad more."
        ),
    ),
    (
        lambda: SF.max_pool1d(X[0], 2**62, dilation=4),
        ShapeError,
        (
            "max_pool1d expects a window no larger than the padded input, 8, got 18446744073709551613. x: (2, 8, 8). "
            "Make "
            "the kernel or its dilation smaller, or pad more."
        ),
    ),
    (
        lambda: S.MaxPool1d(2**62 + 1, 1, dilation=4)(X[0]),
        ArgumentError,
        (
            "MaxPool1d expects kernel_size from 1 to 2^62, got 4611686018427387905. x: (2, 8, 8). Choose a "
            "kernel_size of "
            "2^62 or less."
        ),
    ),
    (
        lambda: S.MaxPool1d(2, 1, dilation=2**62)(X[0]),
        ShapeError,
        (
            "MaxPool1d expects a window no larger than the padded input, 8, got 4611686018427387905. x: (2, 8, 8). "
            "Make "
            "the kernel or its dilation smaller, or pad more."
        ),
    ),
    (
        lambda: S.MaxPool1d(2147483697, 2147483697, dilation=2147483697)(X[0]),
        ShapeError,
        (
            "MaxPool1d expects a window no larger than the padded input, 8, got 4611686226733304113. x: (2, 8, 8). "
            "Make "
            "the kernel or its dilation smaller, or pad more."
        ),
    ),
    (
        lambda: SF.max_pool2d(X, 2, padding="full"),
        ArgumentError,
        'max_pool2d expects padding "same", "valid" or a number,'
        """ got 'full'. x: (1, 2, 8, 8). Use "same" for ceil(input / stride) outputs.""",
    ),
    (
        lambda: SF.avg_pool2d(X, 2, divisor_override=0),
        ArgumentError,
        (
            "avg_pool2d expects divisor_override other than 0 and within 2^62, got 0. x: (1, 2, 8, 8). Leave it out to "
            "divide by the window's taps."
        ),
    ),
    (
        lambda: SF.avg_pool2d(X, 2, divisor_override=1.5),
        ArgumentTypeError,
        (
            "avg_pool2d expects divisor_override to be an integer or None, got 1.5. x: (1, 2, 8, 8). Leave it out to "
            "divide by the window's taps."
        ),
    ),
    (
        lambda: SF.adaptive_avg_pool2d(X, -1),
        ArgumentError,
        (
            "adaptive_avg_pool2d expects output_size from 0 to 2^62, got -1. x: (1, 2, 8, 8). Choose how many values "
            "to "
            "keep on each axis."
        ),
    ),
    (
        lambda: SF.adaptive_avg_pool2d(X, ()),
        ArgumentTypeError,
        (
            "adaptive_avg_pool2d expects output_size to be one integer or None, or 2, got (). x: (1, 2, 8, 8). None "
            "keeps "
            "an axis as it is."
        ),
    ),
    (
        lambda: SF.adaptive_max_pool2d(X, 4800000000000000000),
        ArgumentError,
        (
            "adaptive_max_pool2d expects output_size from 0 to 2^62, got 4800000000000000000. x: (1, 2, 8, 8). Choose "
            "how "
            "many values to keep on each axis."
        ),
    ),
    (
        lambda: SF.adaptive_max_pool2d(X, 2**40),
        ArgumentError,
        (
            "adaptive_max_pool2d expects an output that fits memory, got 1099511627776. x: (1, 2, 8, 8). Choose a "
            "smaller "
            "output_size."
        ),
    ),
    (
        lambda: SF.max_pool2d(X[0, 0], 2),
        ShapeError,
        (
            "max_pool2d expects x of shape (N, C, H, W) or (C, H, W), got (8, 8). Add or drop axes with unsqueeze or "
            "flatten."
        ),
    ),
    (
        lambda: SF.max_pool2d(X[:, :0], 2),
        ShapeError,
        (
            "max_pool2d expects at least one channel and one value on each axis, got (1, 0, 8, 8). Only the batch may "
            "be "
            "empty."
        ),
    ),
    (
        lambda: SF.max_pool2d(torch.empty(2**40, 2, 0, 8), 2),
        ShapeError,
        (
            "max_pool2d expects at least one channel and one value on each axis, got (1099511627776, 2, 0, 8). Only "
            "the "
            "batch may be empty."
        ),
    ),
    (
        lambda: SF.max_pool2d(X > 0, 2),
        DtypeError,
        "max_pool2d expects real numbers, got bool. x: (1, 2, 8, 8). Convert x with .float() or .real.",
    ),
    (
        lambda: SF.avg_pool2d(X + 0j, 2),
        DtypeError,
        "avg_pool2d expects real numbers, got complex64. x: (1, 2, 8, 8). Convert x with .float() or .real.",
    ),
    (
        lambda: SF.max_pool2d([[1.0]], 2),
        ArgumentTypeError,
        "max_pool2d expects a tensor, got list. Call torch.as_tensor on it first.",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m[:60] for _, _, m in BAD])
def test_bad_input_raises_its_message_takes_little_memory_and_changes_nothing(
    call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    before = X.clone()
    for _ in range(2):  # the second time the geometry comes from the cache
        with pytest.raises(kind) as raised, memory.at_most(2**29):
            call()
        assert str(raised.value) == message
        assert isinstance(raised.value, RuntimeError)
    assert torch.equal(X, before)


def test_a_float_that_equals_a_cached_integer_is_still_refused() -> None:
    SF.max_pool2d(X, (2, 2))
    with pytest.raises(ArgumentTypeError):
        SF.max_pool2d(X, (2, 2.0))


def test_operators_called_past_the_checks_raise_instead_of_reading_outside() -> None:
    ops = torch.ops.striate
    two, one, zero = [2, 2], [1, 1], [0, 0]
    good = (X, [4, 4], two, two, one, zero, False)
    ops.max_pool_offset(*good, True)
    bad = [
        lambda: ops.max_pool_offset(X, [4], two, two, one, zero, False, True),
        lambda: ops.max_pool_offset(X, [4, 4], [0, 2], two, one, zero, False, True),
        lambda: ops.max_pool_offset(X, [4, 2**61], two, two, one, zero, False, True),
        lambda: ops.max_pool_offset(X, [4, 4], [20, 20], two, one, zero, False, True),
        lambda: ops.max_pool_offset(X.int(), [4, 4], two, two, one, zero, False, True),
        lambda: ops.max_pool_offset_backward(X, X.byte()[..., :4], [16, 16], two, two, one, zero, False),
        lambda: ops.max_pool_index_backward(X, torch.full((1, 2, 8, 8), 256), [16, 16], False),
        lambda: ops.max_pool_index_backward(X, torch.full((1, 2, 8, 8), -2), [16, 16], False),
        lambda: ops.avg_pool(X, [4, 4], two, two, zero, zero, False, True, 0),
        lambda: ops.avg_pool(X, [4, 4], two, two, [-1, 0], zero, False, True, None),
        lambda: ops.avg_pool_backward(
            torch.ones(1, 9999, 1, 1), [1, 4], one, [1, 2**63 - 1], [0, 2], zero, True, True, 1
        ),
        lambda: ops.max_pool_offset_backward(X, X.byte(), [20000, 1], one, [2**63 - 1, 1], one, [2, 0], False),
        lambda: ops.max_pool_offset(X, [4, 4], two, two, [9, 9], [5, 5], False, True),
    ]
    for call in bad:
        with pytest.raises(RuntimeError, match="striate: "):
            call()


def test_offsets_from_elsewhere_cannot_write_outside_the_gradient(layout: Any, isa: str) -> None:
    offset = layout(torch.randint(0, 256, (2, 20, 6, 6), dtype=torch.uint8))
    dy = layout(torch.ones(2, 20, 6, 6))
    dx = torch.ops.striate.max_pool_offset_backward(
        dy, offset, [11, 11], [3, 3], [2, 2], [1, 1], [1, 1], layout is channels_last
    )
    assert dx.shape == (2, 20, 11, 11) and dx.sum() <= dy.sum()


def test_unpooling_refuses_indices_out_of_range() -> None:
    for dims in (1, 2, 3):
        x = torch.ones(1, 1, *[2] * dims)
        with pytest.raises((RuntimeError, ValueError)):
            getattr(S, f"MaxUnpool{dims}d")(2)(x, torch.full(x.shape, 10**6))
