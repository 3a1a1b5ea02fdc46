"""Locally connected layers: the kernel against the reference, on any threads, and every error's text."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

import striate.nn as nn
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.ops import gate
from striate.ops import local as ops
from striate.ops.dispatch import explain_choice, prefer
from striate.reference import local as reference

# input, kernel, (samples, channels, filters), arguments
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, int, int], dict[str, Any]]] = {
    "1d": ((19,), (3,), (2, 2, 3), {}),
    "1d_every_argument": ((41,), (3,), (3, 2, 4), dict(stride=2, padding=3, dilation=2)),
    "1d_same": ((37,), (4,), (2, 2, 2), dict(padding="same")),
    "1d_few_positions": ((6,), (3,), (3, 2, 6), {}),
    "1d_one_output": ((4,), (4,), (2, 3, 5), {}),
    "2d": ((7, 9), (3, 3), (2, 2, 3), {}),
    "2d_one_sample": ((7, 9), (3, 2), (1, 2, 3), dict(padding=1)),
    "2d_every_axis_different": ((12, 11), (2, 3), (2, 3, 2), dict(stride=(1, 3), padding=(1, 2), dilation=(3, 1))),
    "2d_stride_beyond_the_kernel": ((13, 11), (2, 2), (2, 2, 3), dict(stride=(3, 4))),
    "2d_same_strided": ((11, 8), (4, 3), (2, 2, 3), dict(padding="same", stride=(2, 3))),
    "2d_dilated_beyond_the_kernel": ((13, 9), (3, 2), (2, 2, 3), dict(dilation=(4, 5))),
    "2d_pointwise": ((5, 6), (1, 1), (3, 3, 2), {}),
    "2d_valid": ((5, 6), (2, 3), (3, 1, 1), dict(padding="valid")),
    "2d_few_positions": ((4, 5), (2, 3), (2, 3, 7), {}),
    "3d": ((5, 4, 6), (2, 3, 2), (2, 2, 2), dict(stride=(2, 1, 1), padding=(0, 1, 0))),
    "1d_more_samples_than_are_taken_at_once": ((9,), (3,), (400, 2, 33), {}),
    "2d_more_channels_than_are_taken_at_once": ((12, 13), (3, 3), (70, 40, 17), dict(padding=1, stride=2)),
    "3d_same_dilated": ((5, 4, 3), (2, 3, 2), (2, 2, 3), dict(padding="same", dilation=(1, 2, 1))),
}
every_case = pytest.mark.parametrize(("input", "kernel", "counts", "arguments"), CASES.values(), ids=CASES)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def sample(
    input: Any, kernel: Any, counts: Any, arguments: Any, whole: bool = True, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """x, weight, bias and dy."""
    samples, channels, filters = counts
    plan = ops.resolve(
        input, kernel, *(arguments.get(k, v) for k, v in (("stride", 1), ("padding", 0), ("dilation", 1))), "test", ()
    )
    output = plan.window.output
    shapes = (
        (samples, channels, *input),
        (filters, channels, *output, *kernel),
        (filters, *output),
        (samples, filters, *output),
    )
    return [torch.randint(-4, 5, s).to(dtype) if whole else torch.randn(s, dtype=dtype) for s in shapes]


def last(x: Tensor) -> Tensor:
    """x, channels_last."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def results(function: Any, x: Tensor, w: Tensor, b: Tensor, dy: Tensor, **arguments: Any) -> list[Tensor]:
    given = [t.detach().requires_grad_() for t in (x, w, b)]
    y = function(*given, **arguments)
    return [y.detach(), *torch.autograd.grad(y, given, dy)]


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_case
def test_whole_numbers_give_exactly_the_references_output_and_gradients(
    input: Any, kernel: Any, counts: Any, arguments: Any, dtype: torch.dtype, isa: str
) -> None:
    x, w, b, dy = sample(input, kernel, counts, arguments, dtype=dtype)
    assert explain_choice(
        ops.METHODS,
        None,
        x,
        w,
        b,
        ops.geometry_for(
            x, w, b, *[arguments.get(k, d) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))], "test"
        ),
    ) == [("local", None)]
    expected = results(reference.local, x, w, b, dy, **arguments)
    for given in ((x, w, b, dy), (last(x), w, b, last(dy)), (x, last(w), last(b), dy)):
        got = results(ops.local, *given, **arguments)
        for a, e in zip(got, expected, strict=True):
            assert a.dtype is dtype and e.count_nonzero() > e.numel() // 4
            assert torch.equal(a, e)


@every_case
def test_random_numbers_are_as_near_to_float64_as_the_reference(
    input: Any, kernel: Any, counts: Any, arguments: Any
) -> None:
    given = sample(input, kernel, counts, arguments, whole=False)
    exact = results(reference.local, *(t.double() for t in given), **arguments)
    native_results, plain = (results(f, *given, **arguments) for f in (ops.local, reference.local))
    for a, p, e in zip(native_results, plain, exact, strict=True):
        scale = float(e.square().mean().sqrt())
        assert float((a - e).abs().max()) <= 2 * max(float((p - e).abs().max()), 1e-6 * scale)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=["x", "weight", "bias"]
)
def test_each_gradient_comes_alone_too(wanted: tuple[bool, ...]) -> None:
    x, w, b, dy = sample((7, 9), (3, 3), (2, 2, 3), {})
    expected = results(reference.local, x, w, b, dy)[1:]
    given = [t.clone().requires_grad_(want) for t, want in zip((x, w, b), wanted, strict=True)]
    (got,) = torch.autograd.grad(ops.local(*given), [t for t in given if t.requires_grad], dy)
    assert torch.equal(got, expected[wanted.index(True)])


def test_without_bias_and_for_one_sample_without_a_batch_axis() -> None:
    x, w, _, dy = sample((7, 9), (3, 3), (1, 2, 3), dict(padding=1))
    x, w = x.requires_grad_(), w.requires_grad_()
    y = ops.local(x[0], w, None, padding=1)
    expected = reference.local(x, w, None, padding=1)
    assert y.shape == expected.shape[1:] and torch.equal(y, expected[0])
    for a, e in zip(torch.autograd.grad(y, (x, w), dy[0]), torch.autograd.grad(expected, (x, w), dy), strict=True):
        assert torch.equal(a, e)


def test_equal_weights_everywhere_make_a_convolution() -> None:
    x, own = torch.randint(-4, 5, (2, 3, 9, 8)).float(), torch.randint(-4, 5, (4, 3, 3, 2)).float()
    w = own[:, :, None, None].expand(4, 3, 5, 4, 3, 2)
    y = ops.local(x, w, stride=2, padding=(1, 0))
    assert torch.equal(y, F.conv2d(x, own, stride=2, padding=(1, 0)))


def test_a_gradient_of_ones_broadcast_from_a_sum_is_taken() -> None:
    x, w, b, _ = sample((7, 9), (3, 3), (2, 2, 3), {})
    a, e = (torch.autograd.grad(f(x, w.requires_grad_(), b).sum(), w)[0] for f in (ops.local, reference.local))
    assert torch.equal(a, e)


@pytest.mark.parametrize(
    "case", ["1d_every_argument", "2d_every_axis_different", "2d_few_positions", "3d_same_dilated"]
)
def test_gradcheck_and_gradgradcheck_accept_it(case: str) -> None:
    input, kernel, _, arguments = CASES[case]
    small = tuple(min(i, 9 if len(input) < 3 else 5) for i in input)
    x, w, b, _ = sample(small, kernel, (2, 1, 2), arguments, whole=False, dtype=torch.float64)
    given = [t.requires_grad_() for t in (x, w, b)]
    assert torch.autograd.gradcheck(lambda *a: ops.local(*a, **arguments), given, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *a: ops.local(*a, **arguments), given, fast_mode=True)


# -------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("input", "kernel", "counts"),
    [
        ((28, 28), (3, 3), (16, 32, 32)),
        ((16, 16), (5, 5), (8, 16, 16)),
        ((9, 9), (3, 3), (40, 64, 48)),
        ((3, 4), (3, 3), (17, 64, 32)),  # two positions
        ((5, 5), (5, 5), (5, 64, 64)),  # one
        ((6, 6), (1, 1), (1, 300, 64)),
        ((130,), (9,), (7, 5, 3)),
        ((5, 6, 7), (3, 3, 3), (4, 6, 8)),
    ],
    ids=str,
)
def test_result_is_bitwise_the_same_on_1_2_3_and_8_threads(
    input: Any, kernel: Any, counts: Any, dtype: torch.dtype
) -> None:
    given = sample(input, kernel, counts, dict(padding="valid"), whole=False, dtype=dtype)
    got = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        got.append(results(ops.local, *given))
    for one in got[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, got[0], strict=True))


# --------------------------------------------------------------------------------------------------------------- memory


def test_beyond_the_gradients_it_needs_a_quarter_of_the_memory_that_unfolding_needs() -> None:
    beyond = []
    for formulation in ("striate", "unfold"):  # in separate processes, so that the kernels' own memory counts
        run = [
            sys.executable,
            str(Path(__file__).parent.parent / "benchmarks" / "memory.py"),
            "--only",
            "0",
            formulation,
        ]
        taken, gradients = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300).stdout.split()
        beyond.append(int(taken) - int(gradients))
    assert 0 < 4 * beyond[0] < beyond[1]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_and_gradient_are_channels_last_where_x_is(dims: int) -> None:
    x, w, b, _ = sample((6, 5, 7)[:dims], (2, 3, 2)[:dims], (2, 3, 4), dict(padding="same"))
    for method in ("local", "reference"):
        with prefer(method):
            x = last(x).requires_grad_()
            y = ops.local(x, w, b, padding="same")
            follows = dims > 1  # an input with one spatial axis has only one memory order
            assert y.movedim(1, -1).is_contiguous() == follows and y.is_contiguous() != follows
            (dx,) = torch.autograd.grad(y.square().sum(), x)
            assert method == "reference" or (
                dx.movedim(1, -1).is_contiguous() == follows and dx.is_contiguous() != follows
            )
            assert ops.local(x.detach().contiguous(), w, b, padding="same").is_contiguous()


def test_parameters_and_their_gradients_are_contiguous() -> None:
    layer = nn.LocallyConnected2d(3, 4, 8, 3)
    layer(torch.randn(2, 3, 8, 8)).sum().backward()
    for p in layer.parameters():
        assert p.grad is not None and p.grad.is_contiguous() and p.is_contiguous()


# ------------------------------------------------------------------------------------------------ other ways of calling


def refusals(x: Tensor, w: Tensor, b: Tensor | None = None, **arguments: Any) -> str | None:
    plan = ops.geometry_for(
        x, w, b, arguments.get("stride", 1), arguments.get("padding", 0), arguments.get("dilation", 1), "test"
    )
    return explain_choice(ops.METHODS, gate.closed(x, w, b), x, w, b, plan)[0][1]


def test_the_kernel_refuses_with_a_sentence() -> None:
    x, w, b, _ = sample((7, 9), (3, 3), (2, 2, 3), {})
    assert refusals(x, w, b) is None
    assert refusals(x.half(), w.half()) == "kernels are for float32 and float64, got float16"
    assert refusals(x[:0], w) == "an empty batch has nothing to add up"
    assert refusals(x.to("meta"), w.to("meta")) == "kernels are for the CPU, got meta"
    far = torch.randn(3, 2, 107, 109, 3, 3)
    assert refusals(x, far, padding=51) == "padding makes x more than 16 times as large"
    with torch.autocast("cpu"):
        assert refusals(x, w, b) == "autocast chooses the type"
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert refusals(dual, w, b) == "kernels have no forward-mode derivative"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.complex64], ids=str)
def test_other_types_go_to_the_reference(dtype: torch.dtype) -> None:
    x, w, b, _ = sample((5, 6), (2, 2), (2, 2, 2), {}, dtype=dtype)
    y = ops.local(x, w, b)
    assert y.dtype is dtype and torch.equal(y, reference.local(x, w, b)) and y.count_nonzero() > 0


def test_autocast_gives_its_type() -> None:
    x, w, b, _ = sample((5, 6), (2, 2), (2, 2, 2), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.local(x, w).dtype is torch.bfloat16
        torch.testing.assert_close(ops.local(x.bfloat16(), w, b).float(), ops.local(x, w, b).float(), rtol=0.05, atol=1)


def test_vmap_jvp_and_meta_tensors_work() -> None:
    x, w, b, _ = sample((5, 6), (2, 2), (3, 2, 2), {})
    expected = reference.local(x, w, b)
    assert torch.equal(torch.vmap(lambda one: ops.local(one, w, b))(x), expected)
    _, tangent = torch.func.jvp(lambda t: ops.local(t, w, b), (x,), (torch.ones_like(x),))
    assert torch.equal(tangent, reference.local(torch.ones_like(x), w))
    assert ops.local(x.to("meta"), w.to("meta"), b.to("meta")).shape == expected.shape


def test_compile_computes_the_same() -> None:
    layer, x = nn.LocallyConnected2d(2, 3, (5, 6), 2, padding="same"), torch.randn(2, 2, 5, 6)
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))


@pytest.mark.parametrize("case", ["1d_same", "2d_every_axis_different", "3d"])
def test_operators_are_registered_right(case: str) -> None:
    input, kernel, counts, arguments = CASES[case]
    x, w, b, dy = (t.requires_grad_() for t in sample(input, kernel, counts, arguments))
    plan = ops.geometry_for(
        x, w, b, arguments.get("stride", 1), arguments.get("padding", 0), arguments.get("dilation", 1), "test"
    )
    axes, geometry = plan.window.axes, (plan.stride, plan.dilation, [a.before for a in plan.window.axes])
    own = torch.ops.striate
    for channels_last in (False, True):
        torch.library.opcheck(own.local.default, (x, w, b, *geometry, channels_last))
        torch.library.opcheck(
            own.local_backward_data.default, (dy, w, [a.input for a in axes], *geometry, channels_last)
        )
    torch.library.opcheck(own.local_backward_weights.default, (dy, x, [a.size for a in axes], *geometry))


def test_compile_keeps_the_kernel_forward_and_backward() -> None:
    layer, x = nn.LocallyConnected2d(2, 3, (5, 6), 2, padding="same"), torch.randn(2, 2, 5, 6, requires_grad=True)
    found: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.extend(str(node.target) for node in graph.graph.nodes if "striate" in str(node.target))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(layer, backend=aot_autograd(fw_compiler=note, bw_compiler=note), fullgraph=True)
    got, expected = (torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()]) for f in (compiled, layer))
    assert sorted(found) == [
        "striate.local.default",
        "striate.local_backward_data.default",
        "striate.local_backward_weights.default",
    ]
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_batched_gradients_are_the_references() -> None:
    given = [t.requires_grad_() for t in sample((7, 8), (3, 2), (2, 3, 2), dict(padding="same", stride=(2, 1)))[:3]]
    one, ref = (f(*given, padding="same", stride=(2, 1)) for f in (ops.local, reference.local))
    seeds = torch.randint(-3, 4, (3, *one.shape)).float()
    for create in (False, True):
        got, expected = (
            torch.autograd.grad(y, given, seeds, is_grads_batched=True, create_graph=create, retain_graph=True)
            for y in (one, ref)
        )
        assert all(torch.equal(a, e) for a, e in zip(got, expected, strict=True))


def test_export_keeps_the_formula() -> None:
    layer, x = nn.LocallyConnected1d(2, 3, 8, 3), torch.randn(2, 2, 8)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_padding_and_dilation_far_beyond_the_input_work() -> None:
    x, w = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.arange(1.0, 10).view(1, 1, 3, 3)
    assert ops.local(x, w, dilation=2**40, padding=2**40).tolist() == [[[2.0, 10.0, 24.0]]]


def test_an_empty_batch_passes_and_has_gradients_of_zero() -> None:
    layer = nn.LocallyConnected2d(2, 3, 6, 3, padding=1)
    x = torch.empty(0, 2, 6, 6, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, 3, 6, 6)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


# ---------------------------------------------------------------------------------------------------------------- layer


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_layer_has_a_convolutions_start_and_the_weights_of_every_position(dims: int) -> None:
    kind = getattr(nn, f"LocallyConnected{dims}d")
    layer = kind(4, 5, input_size=6, kernel_size=3, stride=2, padding="same", dilation=2)
    assert layer.weight.shape == (5, 4, *[3] * dims, *[3] * dims) and layer.bias.shape == (5, *[3] * dims)
    bound = 1 / math.sqrt(4 * 3**dims)
    assert 0.9 * bound < layer.weight.abs().max() <= bound and 0.6 * bound < layer.bias.abs().max() <= bound
    before = layer.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before) and layer.weight.stride() == before.stride()
    x = torch.randn(2, 4, *[6] * dims)
    expected = reference.local(x, layer.weight, layer.bias, 2, "same", 2)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[0]), expected[0])
    assert kind(4, 5, 6, 3, bias=False).bias is None


def test_copies_pickles_states_and_conversions_keep_values() -> None:
    layer, x = nn.LocallyConnected2d(3, 4, 8, 3), torch.randn(2, 3, 8, 8)
    y = layer(x)
    fresh = nn.LocallyConnected2d(3, 4, 8, 3)
    fresh.load_state_dict(layer.state_dict())
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    saved.seek(0)
    loaded = nn.LocallyConnected2d(3, 4, 8, 3)
    loaded.load_state_dict(torch.load(saved), assign=True)
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        fresh,
        loaded,
        copy.deepcopy(layer).double().float(),
    ):
        assert torch.equal(twin(x), y)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_an_optimizers_step_teaches_it() -> None:
    torch.manual_seed(1)
    layer, x, target = nn.LocallyConnected2d(2, 3, 6, 3), torch.randn(8, 2, 6, 6), torch.randn(8, 3, 4, 4)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_repr_tells_what_is_not_usual() -> None:
    assert (
        repr(nn.LocallyConnected1d(3, 4, 8, 3))
        == "LocallyConnected1d(3, 4, input_size=(8,), kernel_size=(3,), stride=(1,))"
    )
    layer = nn.LocallyConnected2d(3, 4, (8, 9), 3, 2, "same", 2, bias=False)
    options = "3, 4, input_size=(8, 9), kernel_size=(3, 3), stride=(2, 2), padding='same', dilation=(2, 2), bias=False"
    assert repr(layer) == f"LocallyConnected2d({options})"
    assert "padding=(1, 0)" in repr(nn.LocallyConnected2d(3, 4, 8, 3, padding=(1, 0)))


# --------------------------------------------------------------------------------------------------------------- errors

NAME = "LocallyConnected2d"
WRONG: list[tuple[dict[str, Any], type, str]] = [
    (dict(in_channels=0), ArgumentError, "in_channels from 1 to 2^62, got 0. Choose at least 1."),
    (dict(in_channels=2.5), ArgumentTypeError, "in_channels to be an integer, got 2.5. Give a whole number."),
    (dict(out_channels=-1), ArgumentError, "out_channels from 1 to 2^62, got -1. Choose at least 1."),
    (dict(input_size=0), ArgumentError, "input_size from 1 to 2^62, got 0. Choose an input_size of at least 1."),
    (
        dict(input_size=(8, 8, 8)),
        ArgumentTypeError,
        "input_size to be one integer or 2, got (8, 8, 8). Give one integer or 2.",
    ),
    (
        dict(kernel_size=0),
        ArgumentError,
        "kernel_size from 1 to 2^62, got 0. x: (3, 8, 8). Choose a kernel_size of at least 1.",
    ),
    (
        dict(kernel_size=2.5),
        ArgumentTypeError,
        "kernel_size to be one integer or 2, got 2.5. x: (3, 8, 8). Give one integer or 2.",
    ),
    (
        dict(kernel_size=(3, 3, 3)),
        ArgumentTypeError,
        "kernel_size to be one integer or 2, got (3, 3, 3). x: (3, 8, 8). Give one integer or 2.",
    ),
    (
        dict(kernel_size=2**62 + 1),
        ArgumentError,
        f"kernel_size from 1 to 2^62, got {2**62 + 1}. x: (3, 8, 8). Choose a kernel_size of 2^62 or less.",
    ),
    (
        dict(kernel_size=9),
        ShapeError,
        (
            "a window no larger than the padded input, 8, got 9. x: (3, 8, 8). Make the kernel or its dilation "
            "smaller, "
            "or pad more."
        ),
    ),
    (dict(stride=0), ArgumentError, "stride from 1 to 2^62, got 0. x: (3, 8, 8). Choose a stride of at least 1."),
    (dict(stride=-1), ArgumentError, "stride from 1 to 2^62, got -1. x: (3, 8, 8). Choose a stride of at least 1."),
    (
        dict(stride="2"),
        ArgumentTypeError,
        "stride to be one integer or 2, got '2'. x: (3, 8, 8). Give one integer or 2.",
    ),
    (dict(padding=-1), ArgumentError, "padding from 0 to 2^62, got -1. x: (3, 8, 8). Choose a padding of at least 0."),
    (
        dict(padding="full"),
        ArgumentError,
        'padding "same", "valid" or a number, got \'full\'. x: (3, 8, 8). Use "same" for ceil(input / stride) outputs.',
    ),
    (
        dict(padding=2**62),
        ArgumentError,
        (
            f"a weight that fits memory, got (4, 3, {2**63 + 6}, {2**63 + 6}, 3, 3). Choose a larger stride, fewer "
            "channels, or a convolution, which shares them."
        ),
    ),
    (dict(dilation=0), ArgumentError, "dilation from 1 to 2^62, got 0. x: (3, 8, 8). Choose a dilation of at least 1."),
    (
        dict(dilation=2**62),
        ShapeError,
        (
            f"a window no larger than the padded input, 8, got {2**63 + 1}. x: (3, 8, 8). Make the kernel or its "
            "dilation "
            "smaller, or pad more."
        ),
    ),
]


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG, ids=lambda v: str(v)[:40] if isinstance(v, dict) else "")
def test_layers_that_cannot_be_are_refused(wrong: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        nn.LocallyConnected2d(**({"in_channels": 3, "out_channels": 4, "input_size": 8, "kernel_size": 3} | wrong))
    assert str(raised.value) == f"{NAME} expects {text}"


def test_inputs_that_do_not_fit_the_layer_are_refused() -> None:
    layer = nn.LocallyConnected2d(3, 4, 8, 3)
    cases: list[tuple[Any, type, str]] = [
        ([1.0], ArgumentTypeError, "x to be a tensor, got list. Call torch.as_tensor on it first."),
        (
            torch.ones(2, 3, 9, 8),
            ShapeError,
            "an input of size (8, 8), got (9, 8). x: (2, 3, 9, 8). Set input_size=(9, 8), or resize x.",
        ),
        (
            torch.ones(8, 8),
            ShapeError,
            "x of shape (N, C, H, W) or (C, H, W), got (8, 8). Add or drop axes with unsqueeze or flatten.",
        ),
        (
            torch.ones(2, 5, 8, 8),
            ShapeError,
            (
                "3 channels, got 5. x: (2, 5, 8, 8). weight: (4, 3, 6, 6, 3, 3). Set in_channels=5, or look at what "
                "comes "
                "before."
            ),
        ),
        (
            torch.ones(2, 3, 8, 8).double(),
            DtypeError,
            "a weight of x's type, float64, got float32. x: (2, 3, 8, 8). Convert one with .to().",
        ),
        (torch.ones(2, 3, 8, 8).bool(), DtypeError, "numbers, got bool. x: (2, 3, 8, 8). Convert x with .float()."),
        (
            torch.ones(2, 3, 8, 8, device="meta"),
            ArgumentError,
            "weight on x's device, meta, got cpu. x: (2, 3, 8, 8). Move one with .to().",
        ),
    ]
    for x, error, text in cases:
        with pytest.raises(error) as raised:
            layer(x)
        assert str(raised.value) == f"{NAME} expects {text}"


def test_tensors_that_do_not_fit_each_other_are_refused() -> None:
    x, w = torch.ones(2, 3, 8), torch.ones(4, 3, 6, 3)
    cases: list[tuple[tuple[Any, ...], type, str]] = [
        ((x, [1.0]), ArgumentTypeError, "weight to be a tensor, got list. Call torch.as_tensor on it first."),
        ((x, w, 1.0), ArgumentTypeError, "bias to be a tensor, got float. Call torch.as_tensor on it first."),
        (
            (x, w[0]),
            ShapeError,
            "a weight of shape (C_out, C, *output, *taps), got (3, 6, 3). One, two or three axes make 4, 6 or 8.",
        ),
        (
            (x, w[:0]),
            ShapeError,
            (
                "a weight with at least one value on each axis, got (0, 3, 6, 3). x: (2, 3, 8). Only the batch may be "
                "empty."
            ),
        ),
        (
            (x, w, torch.ones(4)),
            ShapeError,
            "a bias of shape (4, 6), got (4,). x: (2, 3, 8). Give one number for each output.",
        ),
        (
            (x, w, None, 2),
            ShapeError,
            (
                "a weight for outputs of size (3,), got (6,). x: (2, 3, 8). weight: (4, 3, 6, 3). Make one for this "
                "input, or resize x."
            ),
        ),
    ]
    for given, error, text in cases:
        with pytest.raises(error) as raised:
            ops.local(*given)
        assert str(raised.value) == f"local expects {text}"
