"""The convolution reference against torch's own operator, autograd, and numbers worked by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from striate.errors import ArgumentError
from striate.reference.conv import conv, conv_backward, window, windows, windows_backward
from striate.window import AdaptiveAxis, Axis

CLOSE = dict(rtol=1e-10, atol=1e-10)
TORCH = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# input sizes, kernel, channels in and out, and the arguments of conv
CASES = {
    "1d": ((9,), (3,), (2, 3), {}),
    "1d_even_kernel_stride_padding": ((10,), (4,), (2, 3), dict(stride=3, padding=2)),
    "1d_dilation_groups": ((11,), (3,), (4, 6), dict(padding=3, dilation=3, groups=2)),
    "2d": ((6, 7), (3, 3), (2, 3), {}),
    "2d_pointwise": ((5, 4), (1, 1), (3, 5), {}),
    "2d_pointwise_stride": ((5, 4), (1, 1), (3, 5), dict(stride=2)),
    "2d_same_padding": ((7, 6), (5, 5), (2, 3), dict(padding="same")),
    "2d_same_padding_of_an_even_kernel_with_dilation": ((7, 9), (2, 4), (2, 3), dict(padding="same", dilation=(3, 2))),
    "2d_valid_padding": ((7, 6), (3, 2), (2, 3), dict(padding="valid", stride=2)),
    "2d_every_axis_different": (
        (8, 11),
        (2, 5),
        (2, 4),
        dict(stride=(1, 3), padding=(1, 2), dilation=(3, 1), groups=2),
    ),
    "2d_stride_larger_than_kernel": ((9, 8), (2, 2), (2, 3), dict(stride=4)),
    "2d_padding_larger_than_kernel": ((3, 4), (2, 2), (2, 3), dict(padding=3)),
    "2d_kernel_larger_than_input": ((3, 2), (5, 4), (2, 3), dict(padding=2)),
    "2d_depthwise": ((6, 5), (3, 3), (4, 4), dict(padding=1, groups=4)),
    "2d_depthwise_with_multiplier": ((6, 5), (3, 3), (3, 6), dict(padding=1, stride=2, groups=3)),
    "2d_kernel_of_the_whole_input": ((4, 5), (4, 5), (3, 2), {}),
    "3d": ((4, 5, 6), (3, 3, 3), (2, 3), {}),
    "3d_every_axis_different": (
        (5, 6, 7),
        (1, 2, 3),
        (4, 2),
        dict(stride=(2, 1, 3), padding=(0, 1, 2), dilation=(1, 2, 1), groups=2),
    ),
}
MODES = {
    "reflect": (
        ((7,), (3,), (2, 3), dict(padding=3)),
        ((5, 6), (3, 3), (2, 2), dict(padding=(4, 2), stride=2)),
        ((3, 4, 5), (3, 2, 3), (1, 2), dict(padding=(2, 1, 1))),
        ((6, 7), (4, 2), (2, 2), dict(padding="same", groups=2)),
    ),
    "replicate": (
        ((7,), (3,), (2, 3), dict(padding=9)),
        ((5, 6), (3, 3), (2, 2), dict(padding=(7, 2), stride=2)),
        ((3, 4, 5), (3, 2, 3), (1, 2), dict(padding=(4, 1, 1), dilation=2)),
        ((6, 7), (4, 2), (2, 2), dict(padding="same", groups=2)),
    ),
    "circular": (
        ((7,), (3,), (2, 3), dict(padding=7)),
        ((5, 6), (3, 3), (2, 2), dict(padding=(5, 2), stride=2)),
        ((3, 4, 5), (3, 2, 3), (1, 2), dict(padding=(2, 1, 1))),
        ((6, 7), (4, 2), (2, 2), dict(padding="same", groups=2)),
    ),
}
WITH_MODES = [pytest.param(*case, "zeros", id=name) for name, case in CASES.items()] + [
    pytest.param(*case, mode, id=f"{mode}_{i}") for mode, cases in MODES.items() for i, case in enumerate(cases)
]
every_case = pytest.mark.parametrize(("input", "kernel", "channels", "arguments", "mode"), WITH_MODES)


def sample(input, kernel, channels, arguments, whole=False, dtype=torch.float64, batch=2):
    random = torch.Generator().manual_seed(7)
    shapes = (
        (batch, channels[0], *input),
        (channels[1], channels[0] // arguments.get("groups", 1), *kernel),
        (channels[1],),
    )
    make = (
        (lambda s: torch.randint(-8, 9, s, generator=random))
        if whole
        else (lambda s: torch.randn(s, generator=random, dtype=dtype))
    )
    return [make(s).to(dtype) for s in shapes]


def torch_conv(x, weight, bias, mode, **arguments):
    """torch's own layer, which pads first where the mode is not zeros."""
    axes, groups = x.ndim - 2, arguments.get("groups", 1)
    layer = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    layer = layer(
        x.shape[1],
        weight.shape[0],
        weight.shape[2:],
        padding_mode=mode,
        dtype=x.dtype,
        **{**arguments, "groups": groups},
    )
    return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)


@every_case
def test_forward_is_torchs_convolution(input, kernel, channels, arguments, mode):
    x, w, b = sample(input, kernel, channels, arguments)
    y = conv(x, w, b, padding_mode=mode, **arguments)
    assert y.count_nonzero() == y.numel()
    assert_close(y, torch_conv(x, w, b, mode, **arguments), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_case
def test_forward_and_backward_of_whole_numbers_are_exactly_torchs(input, kernel, channels, arguments, mode, dtype):
    x, w, b = (t.requires_grad_() for t in sample(input, kernel, channels, arguments, whole=True, dtype=dtype))
    expected = torch_conv(x, w, b, mode, **arguments)
    y = conv(x, w, b, padding_mode=mode, **arguments)
    assert y.dtype == dtype and y.count_nonzero() > y.numel() // 2
    assert torch.equal(y, expected)
    dy = torch.randint(-4, 5, y.shape, generator=torch.Generator().manual_seed(8)).to(dtype)
    got = conv_backward(dy, x, w, padding_mode=mode, **arguments)
    for mine, torchs in zip(got, torch.autograd.grad(expected, (x, w, b), dy), strict=True):
        assert torch.equal(mine, torchs)


@every_case
def test_explicit_backward_is_what_autograd_makes_of_the_forward(input, kernel, channels, arguments, mode):
    x, w, b = (t.requires_grad_() for t in sample(input, kernel, channels, arguments))
    y = conv(x, w, b, padding_mode=mode, **arguments)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(9))
    got = conv_backward(dy, x, w, padding_mode=mode, **arguments)
    for mine, automatic, parameter in zip(got, torch.autograd.grad(y, (x, w, b), dy), (x, w, b), strict=True):
        assert mine.shape == parameter.shape and mine.count_nonzero() > 0
        assert_close(mine, automatic, **CLOSE)


@pytest.mark.parametrize("name", ["1d_dilation_groups", "2d_every_axis_different", "3d"])
def test_double_backward_is_torchs(name):
    *case, arguments = CASES[name]
    x, w, b = (t.requires_grad_() for t in sample(*case, arguments))
    expected = TORCH[x.ndim - 2](x, w, b, **arguments)
    dy = torch.randn(expected.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(9), requires_grad=True)
    torchs = torch.autograd.grad(expected, (x, w), dy, create_graph=True)
    mine = conv_backward(dy, x, w, **arguments)[:2]
    for again, torchs_again in zip(
        *(torch.autograd.grad(sum(g.pow(3).sum() for g in pair), (dy, x, w)) for pair in (mine, torchs)), strict=True
    ):
        assert_close(again, torchs_again, rtol=1e-10, atol=1e-8)


def test_gradcheck_accepts_the_reference_and_its_backward():
    x, w, b = (t.requires_grad_() for t in sample((4, 5), (2, 3), (2, 2), {}, batch=1))
    arguments = dict(stride=(1, 2), padding=1, padding_mode="reflect")
    assert torch.autograd.gradcheck(lambda *a: conv(*a, **arguments), (x, w, b))
    dy = torch.randn_like(conv(x, w, b, **arguments)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: conv_backward(*a, **arguments), (dy, x, w))


def test_an_empty_batch_gives_an_empty_output_and_gradients_of_zero():
    x, w, b = sample((5, 6), (3, 3), (2, 3), {}, batch=0)
    assert conv(x, w, b).shape == (0, 3, 3, 4)
    dx, dw, db = conv_backward(torch.empty(0, 3, 3, 4, dtype=x.dtype), x, w)
    assert dx.shape == x.shape and torch.equal(dw, torch.zeros_like(w)) and torch.equal(db, torch.zeros_like(b))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16])
def test_small_whole_numbers_are_exact_in_every_type(dtype):
    random = torch.Generator().manual_seed(3)
    x, w = torch.randint(-2, 3, (1, 2, 5, 5), generator=random), torch.randint(-2, 3, (3, 2, 3, 3), generator=random)
    y = conv(x.to(dtype), w.to(dtype), padding=1)
    assert y.dtype == dtype and y.count_nonzero() > 0
    assert torch.equal(y.double(), F.conv2d(x.double(), w.double(), padding=1))


def test_complex_gradients_are_torchs():
    random = torch.Generator().manual_seed(4)
    x, w = (torch.randn(s, dtype=torch.complex128, generator=random).requires_grad_() for s in ((2, 2, 6), (3, 2, 3)))
    y = F.conv1d(x, w, padding=1)
    assert_close(conv(x, w, padding=1), y, **CLOSE)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=random)
    for mine, torchs in zip(conv_backward(dy, x, w, padding=1), torch.autograd.grad(y, (x, w), dy), strict=False):
        assert_close(mine, torchs, **CLOSE)


# Numbers worked by hand
# ----------------------------------------------------------------------------------------------------

SOBEL_X = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
SOBEL_Y = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])


def test_sobel_kernels_are_a_column_times_a_row():
    smooth, difference = torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 0, -1])
    assert torch.equal(torch.outer(smooth, difference), SOBEL_X)
    assert torch.equal(torch.outer(difference, smooth), SOBEL_Y)


def test_sobel_finds_the_edge_and_its_direction():
    x = torch.tensor([[0.0, 0, 3, 3], [0, 0, 3, 3], [0, 0, 3, 3], [4, 4, 7, 7]]).reshape(1, 1, 4, 4)
    gx, gy = conv(x, torch.stack([SOBEL_X, SOBEL_Y])[:, None])[0]
    assert gx.tolist() == [[-12, -12], [-12, -12]]
    assert gy.tolist() == [[0, 0], [-16, -16]]
    assert (gx**2 + gy**2).sqrt().tolist() == [[12, 12], [20, 20]]


def test_sobel_is_a_convolution_with_a_column_and_then_one_with_a_row():
    x = torch.randint(-9, 10, (1, 1, 6, 7), generator=torch.Generator().manual_seed(5)).float()
    column, row = torch.tensor([1.0, 2, 1]).reshape(1, 1, 3, 1), torch.tensor([1.0, 0, -1]).reshape(1, 1, 1, 3)
    half = conv(x, column)
    assert half.shape == (1, 1, 4, 7)  # (H - K + 1) × W
    assert torch.equal(conv(half, row), conv(x, SOBEL_X.reshape(1, 1, 3, 3)))


def test_one_dimensional_example_of_the_notes():
    x = torch.tensor([[2.0, 3, 1, 0, 4], [1, 2, 0, 1, 3], [0, 1, 2, 3, 1]])
    w = torch.tensor([[1.0, 0, -1], [-1, 1, 0], [0, -1, 1]])
    assert conv(x[None], w[None], stride=2).tolist() == [[[3, -4]]]


def test_three_dimensional_example_of_the_notes_with_21_and_minus_67_put_right():
    x = torch.tensor(
        [
            [[1, -2, 5, 2], [-1, 1, 4, -3], [1, 5, 5, 2], [-1, -2, 2, 2]],
            [[-3, 0, -1, -4], [2, 0, -4, -1], [-5, 4, 0, 3], [-5, 5, 5, 4]],
            [[-3, 1, -2, 3], [-3, -1, -3, 1], [-1, 3, 1, -4], [-2, 3, -4, 4]],
            [[3, 4, -1, -4], [-2, 1, 2, -3], [-5, -2, -4, 2], [-2, -4, 0, 0]],
        ]
    )
    w = torch.tensor(
        [
            [[-2, 0, 2], [1, 3, -2], [-2, 0, -2]],
            [[-2, 2, 0], [2, 3, 3], [2, 3, 0]],
            [[-3, 2, 1], [1, -2, 3], [1, -2, -3]],
        ]
    )
    y = conv(x[None, None].float(), w[None, None].float())
    assert y[0, 0].tolist() == [[[-21, 21], [21, 28]], [[32, -67], [17, -29]]]


def test_a_convolution_does_not_flip_its_kernel():
    assert conv(torch.tensor([[[0, 0, 1, 0, 0]]]), torch.tensor([[[1, 2, 3]]])).tolist() == [[[3, 2, 1]]]


def test_a_layer_of_ten_5x5_filters_keeps_32_pixels_with_padding_2_and_a_valid_one_leaves_28():
    x = torch.ones(1, 3, 32, 32)
    assert conv(x, torch.ones(10, 3, 5, 5), torch.ones(10), padding=2).shape == (1, 10, 32, 32)
    y = conv(x, torch.ones(6, 3, 5, 5), torch.ones(6))
    assert y.shape == (1, 6, 28, 28) and (y == 76).all()


def test_input_gradient_is_the_full_convolution_with_the_kernel_turned_and_weight_gradient_correlates_the_input():
    x, w, _ = sample((6, 7), (3, 2), (1, 1), {}, whole=True)
    dy = torch.randint(-9, 10, (2, 1, 4, 6), generator=torch.Generator().manual_seed(6)).double()
    dx, dw, db = conv_backward(dy, x, w)
    assert torch.equal(dx, conv(dy, w.flip(2, 3), padding=(2, 1)))
    assert torch.equal(dw, sum(conv(x[n : n + 1], dy[n : n + 1]) for n in range(2)))
    assert db.item() == dy.sum().item()


# The parts
# -----------------------------------------------------------------------------------------------------------------

AXES = {
    "sliding": (Axis(7, 4, size=3, stride=2, before=1, after=1),),
    "dilated": (Axis(9, 5, size=3, dilation=2), Axis(6, 3, size=2, stride=2)),
    "adaptive": (AdaptiveAxis(7, 3), AdaptiveAxis(5, 4)),
    "mixed": (
        Axis(7, 4, size=3, stride=2, before=1, after=1),
        AdaptiveAxis(5, 2),
        Axis(4, 4, size=3, before=1, after=1),
    ),
    "wholly_in_the_padding": (Axis(2, 5, size=2, stride=2, before=4, after=4),),
}
every_axes = pytest.mark.parametrize("axes", AXES.values(), ids=AXES)


@every_axes
def test_windows_holds_what_the_axes_say_and_the_fill_elsewhere(axes):
    x = torch.arange(2 * 3 * torch.tensor([a.input for a in axes]).prod()).reshape(2, 3, *(a.input for a in axes))
    seen = windows(x, axes, fill=-7)
    outputs = tuple(a.output for a in axes)
    assert seen.shape[: 2 + len(axes)] == (2, 3, *outputs)
    for o in torch.cartesian_prod(*(torch.arange(n) for n in outputs)).reshape(-1, len(axes)).tolist():
        at = seen[(slice(None), slice(None), *o)]
        expected = x
        for dim, (a, position) in enumerate(zip(axes, o, strict=True), 2):
            expected = expected.index_select(dim, torch.tensor(a.taps(position), dtype=torch.long))
        assert torch.equal(at[at != -7].sort()[0], expected.flatten().sort()[0])
        assert (at == -7).sum() == at.numel() - expected.numel()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@every_axes
def test_windows_backward_is_the_adjoint_of_windows(axes, mode):
    if mode != "zeros" and any(isinstance(a, Axis) and a.before > a.input for a in axes):
        mode = "replicate"
    random = torch.Generator().manual_seed(1)
    x = torch.randint(-9, 10, (2, 3, *(a.input for a in axes)), generator=random)
    seen = windows(x, axes, mode=mode)
    g = torch.randint(-9, 10, seen.shape, generator=random)
    product = (seen * g).sum()
    assert product != 0
    assert product == (x * windows_backward(g, axes, mode=mode)).sum()


def test_a_nan_that_no_window_sees_stays_out_of_the_result():
    x = torch.tensor([[[1.0, float("nan"), 2.0, float("nan")]]])
    assert conv(x, torch.ones(1, 1, 1), stride=2).tolist() == [[[1, 2]]]


def test_a_nan_reaches_exactly_the_outputs_that_see_it():
    x = torch.zeros(1, 1, 7)
    x[0, 0, 3] = float("nan")
    y = conv(x, torch.zeros(1, 1, 3), padding=1)
    assert y.isnan().flatten().tolist() == [False, False, True, True, True, False, False]


def test_window_gives_the_sizes_that_torch_gives():
    w = window((8, 11), (2, 5), (1, 3), (1, 2), (3, 1))
    assert w.output == F.conv2d(torch.ones(1, 1, 8, 11), torch.ones(1, 1, 2, 5), None, (1, 3), (1, 2), (3, 1)).shape[2:]


def test_an_unknown_padding_mode_is_refused_with_the_ones_there_are():
    with pytest.raises(ArgumentError) as caught:
        conv(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding_mode="mirror")
    expected = (
        "conv expects a padding_mode that exists, got 'mirror'. Use 'zeros', 'reflect', 'replicate' or 'circular'."
    )
    assert str(caught.value) == expected


def test_an_unknown_padding_is_refused():
    with pytest.raises(ArgumentError) as caught:
        conv(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding="full")
    assert (
        str(caught.value)
        == "conv expects a padding of 'same', 'valid' or whole numbers, got 'full'. Pass one of these."
    )


def test_a_reflection_larger_than_the_input_is_refused():
    with pytest.raises(ArgumentError) as caught:
        conv(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding=4, padding_mode="reflect")
    assert str(caught.value) == (
        "conv expects a reflected padding of at most 3, the input's size less one, got "
        "Axis(input=4, output=10, size=3, stride=1, dilation=1, before=4, after=4). Pad less, or use "
        "padding_mode='replicate'."
    )
