"""The pooling reference against torch's own operators, autograd, and numbers worked by hand."""

from math import inf, nan

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from striate.reference import pool
from striate.window import AdaptiveAxis, Axis, Window, output_size

CLOSE = dict(rtol=1e-10, atol=1e-10)
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}

# input, size, stride, padding, dilation (max only), ceil
CASES = {
    "1d": ((9,), (3,), (2,), (1,), (1,), False),
    "1d_ceil": ((8,), (3,), (2,), (0,), (1,), True),
    "1d_ceil_drops_a_window_that_starts_behind_the_input": ((5,), (2,), (3,), (1,), (1,), True),
    "2d_alexnet": ((9, 9), (3, 3), (2, 2), (0, 0), (1, 1), False),
    "2d_resnet": ((8, 7), (3, 3), (2, 2), (1, 1), (1, 1), False),
    "2d_ceil": ((6, 8), (3, 3), (2, 2), (1, 1), (1, 1), True),
    "2d_overlapping": ((5, 6), (4, 3), (1, 1), (2, 1), (1, 1), False),
    "2d_stride_larger_than_size": ((9, 7), (2, 1), (3, 4), (0, 0), (1, 1), False),
    "2d_every_axis_different": ((10, 7), (4, 3), (3, 2), (2, 1), (1, 1), True),
    "2d_dilated": ((9, 10), (3, 2), (2, 1), (1, 1), (2, 3), False),
    "2d_dilated_ceil": ((10, 10), (3, 2), (2, 3), (1, 0), (2, 3), True),
    "2d_larger_than_input": ((2, 3), (4, 5), (1, 1), (2, 2), (1, 1), False),
    "3d": ((4, 5, 6), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), False),
    "3d_ceil": ((5, 6, 4), (2, 3, 3), (2, 2, 1), (1, 1, 1), (1, 1, 1), True),
    "3d_dilated": ((6, 7, 5), (2, 3, 2), (1, 2, 2), (0, 1, 1), (3, 2, 1), False),
}
every_case = pytest.mark.parametrize(
    ("input", "size", "stride", "padding", "dilation", "ceil"), CASES.values(), ids=CASES
)
AVG_CASES = {name: case for name, case in CASES.items() if set(case[4]) == {1}}
every_avg_case = pytest.mark.parametrize(
    ("input", "size", "stride", "padding", "dilation", "ceil"), AVG_CASES.values(), ids=AVG_CASES
)
ADAPTIVE = [
    ((7,), (3,)),
    ((5,), (8,)),
    ((6, 7), (1, 1)),
    ((8, 10), (4, 5)),
    ((7, 5), (3, 4)),
    ((3, 2), (5, 7)),
    ((5, 6, 7), (2, 3, 4)),
]
every_adaptive = pytest.mark.parametrize(("input", "output"), ADAPTIVE)
STARTS = {
    "normal": lambda s, g: torch.randn(s, generator=g),
    "ties": lambda s, g: torch.randint(0, 3, s, generator=g).float(),
}


def sliding(input, size, stride, padding, dilation, ceil):
    sizes = zip(input, size, stride, padding, dilation, strict=True)
    return Window(tuple(Axis(i, output_size(i, k, s, d, p, p, ceil), k, s, d, p, p) for i, k, s, p, d in sizes))


def adaptive(input, output):
    return tuple(AdaptiveAxis(i, o) for i, o in zip(input, output, strict=True))


def sample(input, kind="normal", dtype=torch.float64):
    return STARTS[kind]((2, 3, *input), torch.Generator().manual_seed(11)).to(dtype)


def sprinkle(x, *odd):
    """Replaces some elements by special values."""
    random = torch.Generator().manual_seed(12)
    which = torch.randint(0, 3 * len(odd), x.shape, generator=random)
    for n, value in enumerate(odd):
        x = x.masked_fill(which == n, value)
    return x


def gradient(y):
    return torch.randint(-8, 9, y.shape, generator=torch.Generator().manual_seed(13)).to(y.dtype)


def brute_max(x, axes):
    """Scans each window in order as torch's kernel does: begins with the first value, which a larger value or a NaN
    replaces.
    """
    outputs = torch.cartesian_prod(*(torch.arange(a.output) for a in axes)).reshape(-1, len(axes)).tolist()
    y, index = [], []
    strides = torch.empty(tuple(a.input for a in axes)).stride()
    for plane in x.flatten(0, 1).flatten(1).tolist():
        for o in outputs:
            at = [0]
            for a, position, step in zip(axes, o, strides, strict=True):
                at = [i + tap * step for i in at for tap in a.taps(position)]
            best, where = -inf, at[0] if at else -1
            for i in at:
                if plane[i] > best or plane[i] != plane[i]:
                    best, where = plane[i], i
            y.append(best)
            index.append(where)
    shape = (*x.shape[:2], *(a.output for a in axes))
    return torch.tensor(y, dtype=x.dtype).reshape(shape), torch.tensor(index).reshape(shape)


def same(got, expected):
    (y, index), (torch_y, torch_index) = got, expected
    assert y.shape == torch_y.shape and y.dtype == torch_y.dtype
    assert ((y == torch_y) | (y.isnan() & torch_y.isnan())).all()
    assert torch.equal(index, torch_index)


# Max pooling
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [(), (nan,), (-inf,), (inf,), (nan, inf, -inf)], ids=str)
@pytest.mark.parametrize("kind", STARTS)
@every_case
def test_max_pooling_is_torchs_with_ties_nan_and_infinities(input, size, stride, padding, dilation, ceil, kind, odd):
    x = sample(input, kind)
    x = sprinkle(x, *odd) if odd else x
    expected = MAX[len(input)](x, size, stride, padding, dilation, ceil_mode=ceil, return_indices=True)
    same(pool.max_pool(x, sliding(input, size, stride, padding, dilation, ceil)), expected)


@pytest.mark.parametrize("odd", [(), (nan,), (-inf,), (nan, inf, -inf)], ids=str)
@pytest.mark.parametrize("kind", STARTS)
@every_adaptive
def test_adaptive_max_pooling_is_torchs(input, output, kind, odd):
    x = sample(input, kind)
    x = sprinkle(x, *odd) if odd else x
    same(pool.max_pool(x, adaptive(input, output)), ADAPTIVE_MAX[len(input)](x, output, return_indices=True))


@pytest.mark.parametrize("name", CASES)
def test_max_pooling_is_the_scan_of_every_window(name):
    w = sliding(*CASES[name])
    x = sprinkle(sample(w.input, "ties"), nan, -inf)
    same(pool.max_pool(x, w), brute_max(x, w.axes))


@every_case
def test_max_backward_is_autograds_and_torchs(input, size, stride, padding, dilation, ceil):
    x = sample(input).requires_grad_()
    y, index = pool.max_pool(x, sliding(input, size, stride, padding, dilation, ceil))
    dy = gradient(y)
    dx = pool.max_pool_backward(dy, index, input)
    assert dx.count_nonzero() > 0
    assert torch.equal(dx, torch.autograd.grad(y, x, dy)[0])
    torchs = MAX[len(input)](x, size, stride, padding, dilation, ceil_mode=ceil)
    assert torch.equal(dx, torch.autograd.grad(torchs, x, dy)[0])


@every_adaptive
def test_adaptive_max_backward_is_autograds_and_torchs(input, output):
    x = sample(input).requires_grad_()
    y, index = pool.max_pool(x, adaptive(input, output))
    dy = gradient(y)
    dx = pool.max_pool_backward(dy, index, input)
    assert dx.count_nonzero() > 0
    assert torch.equal(dx, torch.autograd.grad(y, x, dy)[0])
    assert torch.equal(dx, torch.autograd.grad(ADAPTIVE_MAX[len(input)](x, output), x, dy)[0])


FOUR = (Axis(4, 1, size=4),)


@pytest.mark.parametrize(
    ("values", "value", "index"),
    [
        ([1, 5, 5, 2], 5, 1),
        ([0, 0, 0, 0], 0, 0),
        ([-0.0, 0.0, -0.0, 0.0], 0, 0),
        ([1, nan, 9, 2], nan, 1),
        ([nan, 1, nan, 9], nan, 2),
        ([nan, nan, nan, nan], nan, 3),
        ([nan, inf, inf, 0], nan, 0),
        ([-inf, -inf, -inf, -inf], -inf, 0),
        ([-inf, -inf, -3, -inf], -3, 2),
        ([inf, inf, 1, 1], inf, 0),
    ],
)
def test_nan_wins_by_its_last_place_and_ties_go_to_the_first(values, value, index):
    x = torch.tensor([[values]], dtype=torch.float64)
    y, at = pool.max_pool(x, FOUR)
    assert torch.equal(y.nan_to_num(77), torch.tensor([[[value]]], dtype=torch.float64).nan_to_num(77))
    assert at.item() == index
    same((y, at), F.max_pool1d(x, 4, return_indices=True))


def test_of_minus_infinities_beside_padding_the_first_valid_index_is_kept():
    x = torch.full((1, 1, 3, 3), -inf)
    y, index = pool.max_pool(x, Window((Axis(3, 2, size=3, stride=2, before=1, after=1),) * 2))
    assert (y == -inf).all() and index.flatten().tolist() == [0, 1, 3, 4]


def test_a_window_that_sees_nothing_gives_minus_infinity_index_minus_one_and_no_gradient():
    axes = (Axis(2, 5, size=2, stride=2, before=4, after=4),)
    x = torch.tensor([[[3.0, 4.0]]], requires_grad=True)
    y, index = pool.max_pool(x, axes)
    assert y.tolist() == [[[-inf, -inf, 4, -inf, -inf]]] and index.tolist() == [[[-1, -1, 1, -1, -1]]]
    dy = torch.tensor([[[1.0, 2, 4, 8, nan]]])
    assert pool.max_pool_backward(dy, index, (2,)).tolist() == [[[0, 4]]]
    assert torch.autograd.grad(y, x, dy)[0].tolist() == [[[0, 4]]]


def test_an_element_that_wins_in_two_windows_collects_both_gradients():
    x = torch.tensor([[[1.0, 9.0, 2.0]]])
    y, index = pool.max_pool(x, (Axis(3, 2, size=2),))
    assert y.tolist() == [[[9, 9]]]
    assert pool.max_pool_backward(torch.tensor([[[0.5, 0.25]]]), index, (3,)).tolist() == [[[0, 0.75, 0]]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16])
def test_max_pooling_keeps_every_type(dtype):
    x = torch.tensor([[[1, 7, 3, 2, 7]]], dtype=dtype)
    y, index = pool.max_pool(x, (Axis(5, 3, size=3, stride=2, before=1, after=1),))
    assert y.dtype == dtype and y.tolist() == [[[7, 7, 7]]] and index.tolist() == [[[1, 1, 4]]]


def test_max_pooling_can_be_differentiated_twice():
    w = sliding(*CASES["2d_resnet"])
    x = sample(w.input)[:1, :1].requires_grad_()
    index = pool.max_pool(x, w)[1]
    assert torch.autograd.gradcheck(lambda v: pool.max_pool(v, w)[0], x)
    dy = torch.randn(index.shape, dtype=x.dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: pool.max_pool_backward(g, index, w.input), dy)


# Average pooling
# -----------------------------------------------------------------------------------------------------------


def torch_avg(x, size, stride, padding, ceil, include, override):
    if override is None:
        return AVG[len(size)](x, size, stride, padding, ceil, include)
    if len(size) == 1:  # torch's avg_pool1d has no divisor_override: a plane of one row has
        x, size, stride, padding = x.unsqueeze(2), (1, *size), (1, *stride), (0, *padding)
        return F.avg_pool2d(x, size, stride, padding, ceil, include, override).squeeze(2)
    return AVG[len(size)](x, size, stride, padding, ceil, include, override)


@pytest.mark.parametrize(("include", "override"), [(True, None), (False, None), (True, 7), (False, 7)])
@every_avg_case
def test_average_pooling_and_its_backward_are_torchs_and_autograds(
    input, size, stride, padding, dilation, ceil, include, override
):
    w = sliding(input, size, stride, padding, dilation, ceil)
    x = sample(input).requires_grad_()
    y = pool.avg_pool(x, w, include, override)
    torchs = torch_avg(x, size, stride, padding, ceil, include, override)
    assert y.count_nonzero() == y.numel()
    assert_close(y, torchs, **CLOSE)
    dy = gradient(y)
    dx = pool.avg_pool_backward(dy, w, include, override)
    assert dx.shape == x.shape and dx.count_nonzero() > 0
    assert_close(dx, torch.autograd.grad(y, x, dy)[0], **CLOSE)
    assert_close(dx, torch.autograd.grad(torchs, x, dy)[0], **CLOSE)


@pytest.mark.parametrize("include", [True, False])
@every_avg_case
def test_averages_of_whole_numbers_are_exactly_torchs_in_float32(input, size, stride, padding, dilation, ceil, include):
    x = torch.randint(-50, 51, (2, 3, *input), generator=torch.Generator().manual_seed(14)).float()
    y = pool.avg_pool(x, sliding(input, size, stride, padding, dilation, ceil), include)
    assert y.dtype == torch.float32 and y.count_nonzero() > 0
    assert torch.equal(y, torch_avg(x, size, stride, padding, ceil, include, None))


@every_adaptive
def test_adaptive_average_pooling_and_its_backward_are_torchs_and_autograds(input, output):
    x, axes = sample(input).requires_grad_(), adaptive(input, output)
    y, torchs = pool.avg_pool(x, axes), ADAPTIVE_AVG[len(input)](x, output)
    assert_close(y, torchs, **CLOSE)
    dy = gradient(y)
    dx = pool.avg_pool_backward(dy, axes)
    assert dx.shape == x.shape and dx.count_nonzero() > 0
    assert_close(dx, torch.autograd.grad(y, x, dy)[0], **CLOSE)
    assert_close(dx, torch.autograd.grad(torchs, x, dy)[0], **CLOSE)


def test_average_of_a_window_that_sees_nothing_is_zero():
    axes = (Axis(2, 5, size=2, stride=2, before=4, after=4),)
    assert pool.avg_pool(torch.tensor([[[3.0, 5.0]]]), axes, count_include_pad=False).tolist() == [[[0, 0, 4, 0, 0]]]
    assert pool.avg_pool_backward(torch.ones(1, 1, 5), axes, count_include_pad=False).tolist() == [[[0.5, 0.5]]]


def test_padding_counts_as_zeros_or_not_at_all():
    axes = (Axis(3, 3, size=3, before=1, after=1),)
    x = torch.tensor([[[6.0, 6.0, 6.0]]])
    assert pool.avg_pool(x, axes).tolist() == [[[4, 6, 4]]]
    assert pool.avg_pool(x, axes, count_include_pad=False).tolist() == [[[6, 6, 6]]]
    assert pool.avg_pool(x, axes, divisor_override=2).tolist() == [[[6, 9, 6]]]


def test_average_pooling_can_be_differentiated_twice():
    w = sliding(*CASES["2d_ceil"])
    x = sample(w.input)[:1, :1].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: pool.avg_pool(v, w, False), x)
    dy = torch.randn(1, 1, *w.output, dtype=x.dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: pool.avg_pool_backward(g, w, False), dy)


def test_an_empty_batch_pools_to_an_empty_batch():
    w = sliding(*CASES["2d_resnet"])
    x = torch.empty(0, 3, *w.input)
    y, index = pool.max_pool(x, w)
    assert y.shape == index.shape == pool.avg_pool(x, w).shape == (0, 3, *w.output)
    assert pool.max_pool_backward(y, index, w.input).shape == pool.avg_pool_backward(y, w).shape == x.shape


# Global pooling
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("input", [(5,), (4, 7), (3, 4, 5)])
def test_global_pooling_is_torchs_adaptive_pooling_to_one(input):
    x = sample(input).requires_grad_()
    one = (1,) * len(input)
    average, torchs = pool.global_avg_pool(x), ADAPTIVE_AVG[len(input)](x, one)
    assert_close(average, torchs, **CLOSE)
    dy = gradient(average) + 20
    dx = pool.global_avg_pool_backward(dy, input)
    assert dx.shape == x.shape
    assert_close(dx, torch.autograd.grad(average, x, dy)[0], **CLOSE)
    assert_close(dx, torch.autograd.grad(torchs, x, dy)[0], **CLOSE)

    y, index = pool.global_max_pool(x)
    expected = ADAPTIVE_MAX[len(input)](x, one, return_indices=True)
    same((y, index), expected)
    dx = pool.global_max_pool_backward(dy, index, input)
    assert dx.count_nonzero() == dy.numel()
    assert torch.equal(dx, torch.autograd.grad(y, x, dy)[0])
    assert torch.equal(dx, torch.autograd.grad(expected[0], x, dy)[0])


def test_global_max_sends_its_gradient_to_one_element_also_where_there_are_ties():
    x = torch.tensor([[[[2.0, 7.0], [7.0, 7.0]]]])
    y, index = pool.global_max_pool(x)
    assert y.item() == 7
    assert pool.global_max_pool_backward(torch.tensor([[[[3.0]]]]), index, (2, 2)).tolist() == [[[[0, 3], [0, 0]]]]


# Numbers worked by hand
# ----------------------------------------------------------------------------------------------------

X = torch.tensor([[[[1.0, 3, 2, 1], [4, 2, 1, 5], [2, 0, 3, 1], [1, 5, 2, 2]]]])
DY = torch.tensor([[[[0.2, -0.3], [0.4, 0.1]]]])
QUADRANTS = Window((Axis(4, 2, size=2, stride=2),) * 2)


def test_max_pooling_example_of_the_notes():
    y, index = pool.max_pool(X, QUADRANTS)
    assert y.tolist() == [[[[4, 5], [5, 3]]]]
    assert [(i // 4, i % 4) for i in index.flatten().tolist()] == [(1, 0), (1, 3), (3, 1), (2, 2)]
    dx = pool.max_pool_backward(DY, index, (4, 4))
    assert torch.equal(dx, torch.tensor([[[[0, 0, 0, 0], [0.2, 0, 0, -0.3], [0, 0, 0.1, 0], [0, 0.4, 0, 0]]]]))


def test_average_pooling_example_of_the_notes():
    assert pool.avg_pool(X, QUADRANTS).tolist() == [[[[2.5, 2.25], [2, 2]]]]
    a, b, c, d = 0.05, -0.075, 0.1, 0.025
    expected = torch.tensor([[[[a, a, b, b], [a, a, b, b], [c, c, d, d], [c, c, d, d]]]])
    assert torch.equal(pool.avg_pool_backward(DY, QUADRANTS), expected)


def test_pooling_of_two_by_two_halves_the_sizes_of_lenet():
    x = torch.rand(1, 20, 28, 28)
    y, _ = pool.max_pool(x, Window((Axis(28, 14, size=2, stride=2),) * 2))
    assert y.shape == (1, 20, 14, 14)
