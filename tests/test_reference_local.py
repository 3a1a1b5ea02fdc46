"""The locally connected reference against loops, convolution, autograd, and numbers worked by hand."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from striate.reference.conv import conv, conv_backward, window
from striate.reference.local import local, local_backward

CLOSE = dict(rtol=1e-10, atol=1e-10)

CASES = {
    "1d": ((9,), (3,), (2, 3), {}),
    "1d_every_argument": ((11,), (3,), (2, 4), dict(stride=2, padding=3, dilation=2)),
    "1d_same": ((7,), (4,), (2, 2), dict(padding="same")),
    "2d": ((5, 6), (3, 3), (2, 3), {}),
    "2d_every_axis_different": ((8, 7), (2, 3), (3, 2), dict(stride=(1, 3), padding=(1, 2), dilation=(3, 1))),
    "2d_pointwise": ((3, 4), (1, 1), (3, 2), {}),
    "2d_one_output": ((4, 3), (4, 3), (2, 5), {}),
    "3d": ((4, 3, 5), (2, 3, 2), (2, 2), dict(stride=(2, 1, 1), padding=(0, 1, 0))),
}
every_case = pytest.mark.parametrize(("input", "kernel", "channels", "arguments"), CASES.values(), ids=CASES)


def sample(input, kernel, channels, arguments, whole=False, dtype=torch.float64):
    output = window(input, kernel, **arguments).output
    shapes = (2, channels[0], *input), (channels[1], channels[0], *output, *kernel), (channels[1], *output)
    random = torch.Generator().manual_seed(21)
    if whole:
        return [torch.randint(-8, 9, s, generator=random).to(dtype) for s in shapes]
    return [torch.randn(s, generator=random, dtype=dtype) for s in shapes]


def convolve_each_position(x, weight, bias, axes, **arguments):
    """Runs a whole convolution with the weights of each position, and keeps only that position."""
    y = torch.empty(x.shape[0], *bias.shape, dtype=x.dtype)
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(axes.axes)]
    for o in torch.cartesian_prod(*(torch.arange(n) for n in axes.output)).reshape(-1, len(axes.axes)).tolist():
        at = (slice(None), slice(None), *o)
        y[at] = convolution(x, weight[at], bias[(slice(None), *o)], **arguments)[at]
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_case
def test_each_position_is_a_convolution_with_its_own_weights_exactly_for_whole_numbers(
    input, kernel, channels, arguments, dtype
):
    x, w, b = (t.requires_grad_() for t in sample(input, kernel, channels, arguments, whole=True, dtype=dtype))
    y = local(x, w, b, **arguments)
    expected = convolve_each_position(x, w, b, window(input, kernel, **arguments), **arguments)
    assert y.dtype == dtype and y.count_nonzero() > y.numel() // 2
    assert torch.equal(y, expected)
    dy = torch.randint(-4, 5, y.shape, generator=torch.Generator().manual_seed(22)).to(dtype)
    for mine, torchs in zip(
        local_backward(dy, x, w, **arguments), torch.autograd.grad(expected, (x, w, b), dy), strict=True
    ):
        assert mine.count_nonzero() > 0
        assert torch.equal(mine, torchs)


@every_case
def test_explicit_backward_is_what_autograd_makes_of_the_forward(input, kernel, channels, arguments):
    x, w, b = (t.requires_grad_() for t in sample(input, kernel, channels, arguments))
    y = local(x, w, b, **arguments)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(23))
    for mine, automatic, parameter in zip(
        local_backward(dy, x, w, **arguments), torch.autograd.grad(y, (x, w, b), dy), (x, w, b), strict=True
    ):
        assert mine.shape == parameter.shape and mine.count_nonzero() > 0
        assert_close(mine, automatic, **CLOSE)


@every_case
def test_equal_weights_everywhere_make_a_convolution(input, kernel, channels, arguments):
    output = window(input, kernel, **arguments).output
    x, own, _ = sample(input, kernel, channels, arguments, whole=True)
    shared = own[(slice(None), slice(None), *[0] * len(output))]
    own = shared.reshape(*shared.shape[:2], *[1] * len(output), *kernel).expand(*shared.shape[:2], *output, *kernel)
    y = local(x, own, **arguments)
    assert y.count_nonzero() > 0
    assert torch.equal(y, conv(x, shared, **arguments))
    dy = torch.randint(-4, 5, y.shape, generator=torch.Generator().manual_seed(24)).to(y.dtype)
    dx, dw, db = local_backward(dy, x, own, **arguments)
    conv_dx, conv_dw, conv_db = conv_backward(dy, x, shared, **arguments)
    positions = tuple(range(2, 2 + len(output)))
    assert torch.equal(dx, conv_dx)
    assert torch.equal(dw.sum(positions), conv_dw)  # a shared weight collects the gradients of all positions
    assert torch.equal(db.sum(tuple(p - 1 for p in positions)), conv_db)


def test_gradcheck_accepts_the_reference_and_its_backward():
    x, w, b = (t.requires_grad_() for t in sample((4, 5), (2, 3), (2, 2), dict(stride=(1, 2), padding=1)))
    assert torch.autograd.gradcheck(lambda *a: local(*a, stride=(1, 2), padding=1), (x, w, b))
    dy = torch.randn_like(local(x, w, b, stride=(1, 2), padding=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: local_backward(*a, stride=(1, 2), padding=1), (dy, x, w))


def test_weights_of_one_position_move_that_output_alone():
    x = torch.ones(1, 1, 4, 4)
    w = torch.zeros(1, 1, 3, 3, 2, 2)
    w[0, 0, 1, 2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert local(x, w).tolist() == [[[[0, 0, 0], [0, 0, 10], [0, 0, 0]]]]


def test_a_layer_of_as_many_taps_as_inputs_is_a_linear_layer():
    x, w, b = sample((4, 3), (4, 3), (2, 5), {}, whole=True)
    assert torch.equal(local(x, w, b).flatten(1), F.linear(x.flatten(1), w.flatten(1), b.flatten()))


def test_complex_gradients_are_autograds():
    random = torch.Generator().manual_seed(25)
    x, w = (
        torch.randn(s, dtype=torch.complex128, generator=random).requires_grad_() for s in ((2, 2, 6), (3, 2, 4, 3))
    )
    y = local(x, w)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=random)
    for mine, automatic in zip(local_backward(dy, x, w), torch.autograd.grad(y, (x, w), dy), strict=False):
        assert_close(mine, automatic, **CLOSE)
