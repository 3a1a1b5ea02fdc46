"""The normalization reference against torch's own operators, autograd, and laws that must hold."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from striate.errors import ArgumentError
from striate.reference import norm

CLOSE = dict(rtol=1e-10, atol=1e-10)
SHAPES = [(4, 6), (3, 6, 5), (2, 6, 4, 5), (2, 6, 3, 2, 4)]
WITH_POSITIONS = SHAPES[1:]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_map = pytest.mark.parametrize("shape", WITH_POSITIONS, ids=str)
affine = pytest.mark.parametrize("affine", [True, False])


def sample(shape, parameter=None, mean=0.0, dtype=torch.float64):
    """x, gamma, beta and dy, whose values are not near 0 or 1."""
    random = torch.Generator().manual_seed(31)
    x = (torch.randn(shape, generator=random, dtype=torch.float64) * 2 + mean).to(dtype).requires_grad_()
    size = shape[1:2] if parameter is None else parameter
    gamma, beta = (
        (torch.rand(size, generator=random, dtype=torch.float64) + 0.5).to(dtype).requires_grad_() for _ in range(2)
    )
    return x, gamma, beta, torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


def check(forward, backward, expected, x, gamma, beta, dy, use):
    """Checks that forward equals torch's, and backward equals autograd's of this forward and of torch's."""
    gamma_beta = (gamma, beta) if use else (None, None)
    wanted = (x, gamma, beta) if use else (x,)
    y, torchs = forward(x, *gamma_beta), expected(x, *gamma_beta)
    assert y.shape == x.shape and y.count_nonzero() == y.numel()
    assert_close(y, torchs, **CLOSE)
    got = backward(dy, x, gamma_beta[0])
    assert got[1].shape == gamma.shape and got[2].shape == beta.shape
    for gradient, autograd_gradient, torch_gradient in zip(
        got, torch.autograd.grad(y, wanted, dy), torch.autograd.grad(torchs, wanted, dy), strict=False
    ):
        assert gradient.count_nonzero() == gradient.numel()
        assert_close(gradient, autograd_gradient, **CLOSE)
        assert_close(gradient, torch_gradient, **CLOSE)


@affine
@pytest.mark.parametrize("eps", [1e-5, 0.3])
@every_shape
def test_batch_norm_in_training_is_torchs(shape, eps, affine):
    check(
        lambda x, g, b: norm.batch_norm(x, g, b, eps),
        lambda dy, x, g: norm.batch_norm_backward(dy, x, g, eps),
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True, eps=eps),
        *sample(shape),
        affine,
    )


@affine
@every_shape
def test_batch_norm_in_evaluation_is_torchs(shape, affine):
    random = torch.Generator().manual_seed(32)
    mean, variance = (torch.rand(shape[1], generator=random, dtype=torch.float64) + 0.5 for _ in range(2))
    check(
        lambda x, g, b: norm.batch_norm(x, g, b, 1e-3, mean, variance),
        lambda dy, x, g: norm.batch_norm_backward(dy, x, g, 1e-3, mean, variance),
        lambda x, g, b: F.batch_norm(x, mean, variance, g, b, training=False, eps=1e-3),
        *sample(shape),
        affine,
    )


@affine
@every_shape
def test_layer_norm_over_everything_but_the_batch_is_torchs(shape, affine):
    check(
        norm.layer_norm,
        norm.layer_norm_backward,
        lambda x, g, b: F.layer_norm(x, shape[1:], g, b),
        *sample(shape, shape[1:]),
        affine,
    )


@affine
@pytest.mark.parametrize("last", [1, 2, 4])
def test_layer_norm_over_the_last_axes_is_torchs(last, affine):
    shape = (2, 3, 4, 5)
    dims = tuple(range(-last, 0))
    check(
        lambda x, g, b: norm.layer_norm(x, g, b, 1e-5, dims),
        lambda dy, x, g: norm.layer_norm_backward(dy, x, g, 1e-5, dims),
        lambda x, g, b: F.layer_norm(x, shape[-last:], g, b),
        *sample(shape, shape[-last:]),
        affine,
    )


@affine
@every_map
def test_layer_norm_over_the_channels_at_one_position_is_torchs_with_the_channels_last(shape, affine):
    check(
        lambda x, g, b: norm.layer_norm(x, g, b, dims=(1,)),
        lambda dy, x, g: norm.layer_norm_backward(dy, x, g, dims=(1,)),
        lambda x, g, b: F.layer_norm(x.movedim(1, -1), shape[1:2], g, b).movedim(-1, 1),
        *sample(shape),
        affine,
    )


@affine
@every_map
def test_instance_norm_is_torchs(shape, affine):
    check(
        norm.instance_norm,
        norm.instance_norm_backward,
        lambda x, g, b: F.instance_norm(x, weight=g, bias=b),
        *sample(shape),
        affine,
    )


@affine
@pytest.mark.parametrize("groups", [1, 2, 3])
@every_shape
def test_group_norm_is_torchs(shape, groups, affine):
    check(
        lambda x, g, b: norm.group_norm(x, groups, g, b),
        lambda dy, x, g: norm.group_norm_backward(dy, x, groups, g),
        lambda x, g, b: F.group_norm(x, groups, g, b),
        *sample(shape),
        affine,
    )


FAMILY = {
    "batch": (norm.batch_norm, norm.batch_norm_backward, (6,), (0, 2, 3)),
    "layer": (norm.layer_norm, norm.layer_norm_backward, (6, 4, 5), (1, 2, 3)),
    "instance": (norm.instance_norm, norm.instance_norm_backward, (6,), (2, 3)),
    "group": (
        lambda x, *a: norm.group_norm(x, 3, *a),
        lambda dy, x, *a: norm.group_norm_backward(dy, x, 3, *a),
        (6,),
        None,
    ),
}
every_kind = pytest.mark.parametrize(("forward", "backward", "parameter", "dims"), FAMILY.values(), ids=FAMILY)


@every_kind
def test_what_is_measured_has_mean_0_and_variance_1(forward, backward, parameter, dims):
    x = sample((2, 6, 4, 5), mean=50.0)[0]
    y = forward(x, None, None, 0.0)
    if dims is None:  # groups of two channels
        y, dims = y.unflatten(1, (3, 2)), (2, 3, 4)
    mean = y.mean(dims)
    assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    assert_close(y.var(dims, correction=0), torch.ones_like(mean), rtol=0, atol=1e-12)


@every_kind
def test_gradient_is_orthogonal_to_a_shift_and_to_a_scaling_of_the_input(forward, backward, parameter, dims):
    x, gamma, _, dy = sample((2, 6, 4, 5), parameter)
    dx = backward(dy, x, gamma, 0.0)[0]
    assert dx.abs().max() > 0.1
    assert dx.sum().abs() < 1e-12
    assert (dx * x).sum().abs() < 1e-12


@every_kind
def test_gradcheck_accepts_the_reference_and_its_backward(forward, backward, parameter, dims):
    x, gamma, beta, dy = sample((2, 6, 4, 5), parameter)
    x, dy = x[:, :, :2, :2].detach().requires_grad_(), dy[:, :, :2, :2].clone().requires_grad_()
    gamma, beta = (p if p.ndim == 1 else p[:, :2, :2].detach().requires_grad_() for p in (gamma, beta))
    assert torch.autograd.gradcheck(forward, (x, gamma, beta))
    assert torch.autograd.gradcheck(backward, (dy, x, gamma))


@pytest.mark.parametrize("mean", [0.0, 100.0, 1000.0])
@every_kind
def test_float32_is_the_rounded_float64_result_at_every_mean(forward, backward, parameter, dims, mean):
    x, gamma, beta, dy = sample((2, 6, 4, 5), parameter, mean, torch.float32)
    y, exact = forward(x, gamma, beta), forward(x.double(), gamma.double(), beta.double())
    assert y.dtype == torch.float32
    assert torch.equal(y, exact.float())
    for gradient, wide in zip(backward(dy, x, gamma), backward(dy.double(), x.double(), gamma.double()), strict=True):
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, wide.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_kind
def test_half_types_come_back_as_they_went_in(forward, backward, parameter, dims, dtype):
    x, gamma, beta, dy = sample((2, 6, 4, 5), parameter, dtype=dtype)
    y, (dx, dgamma, dbeta) = forward(x, gamma, beta), backward(dy, x, gamma)
    assert {t.dtype for t in (y, dx, dgamma, dbeta)} == {dtype}
    assert torch.equal(y, forward(x.double(), gamma.double(), beta.double()).to(dtype))


def test_half_inputs_with_float32_parameters_give_float32_gradients_of_the_parameters():
    x, gamma, _, dy = sample((2, 6, 4, 5))
    dx, dgamma, dbeta = norm.batch_norm_backward(dy.half(), x.half(), gamma.float())
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (torch.float16, torch.float32, torch.float32)


def test_double_backward_is_torchs():
    x, gamma, beta, dy = sample((2, 6, 4, 5))
    dy.requires_grad_()
    torchs = torch.autograd.grad(
        F.batch_norm(x, None, None, gamma, beta, training=True), (x, gamma), dy, create_graph=True
    )
    gradient = norm.batch_norm_backward(dy, x, gamma)[:2]
    pairs = (torch.autograd.grad(sum(g.pow(3).sum() for g in pair), (dy, x, gamma)) for pair in (gradient, torchs))
    for again, torchs_again in zip(*pairs, strict=True):
        assert again.count_nonzero() > 0
        assert_close(again, torchs_again, **CLOSE)


def test_instance_norm_is_group_norm_of_single_channels_and_layer_norm_of_one_group():
    x, gamma, beta, _ = sample((2, 6, 4, 5))
    assert torch.equal(norm.instance_norm(x, gamma, beta), norm.group_norm(x, 6, gamma, beta))
    assert_close(norm.layer_norm(x), norm.group_norm(x, 1), rtol=1e-13, atol=1e-13)


def test_batch_norm_by_hand():
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 8.0]])  # variances 8/3 and 32/3
    y = norm.batch_norm(x, torch.tensor([1.0, 2.0]), torch.tensor([0.0, 10.0]), eps=0)
    root = 1.5**0.5
    assert_close(y, torch.tensor([[-root, 10 - 2 * root], [0, 10], [root, 10 + 2 * root]]))


def test_gradient_by_hand_where_everything_is_a_whole_number():
    x, dy = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]), torch.tensor([[4.0], [0.0], [2.0], [2.0]])
    # x̂ = x, mean(dy) = 2, mean(dy·x̂) = -1
    dx, dgamma, dbeta = norm.batch_norm_backward(dy, x, torch.tensor([3.0]), eps=0)
    assert dx.tolist() == [[3], [-3], [-3], [3]]
    assert dgamma.tolist() == [-4] and dbeta.tolist() == [8]


def test_evaluation_folds_into_the_layer_in_front():
    random = torch.Generator().manual_seed(33)
    x, w, b = (torch.randn(s, generator=random, dtype=torch.float64) for s in ((2, 3, 6, 6), (4, 3, 3, 3), (4,)))
    gamma, beta, mean, variance = (torch.rand(4, generator=random, dtype=torch.float64) + 0.5 for _ in range(4))
    scale = gamma / (variance + 1e-5).sqrt()
    folded = F.conv2d(x, w * scale.reshape(4, 1, 1, 1), (b - mean) * scale + beta)
    assert_close(norm.batch_norm(F.conv2d(x, w, b), gamma, beta, 1e-5, mean, variance), folded, **CLOSE)


def test_scaling_the_weights_in_front_changes_nothing_but_divides_their_gradient():
    random = torch.Generator().manual_seed(34)
    x, w = (
        torch.randn(8, 3, generator=random, dtype=torch.float64),
        torch.randn(4, 3, generator=random, dtype=torch.float64),
    )
    dy = torch.randn(8, 4, generator=random, dtype=torch.float64)

    def run(w):
        w = w.clone().requires_grad_()
        y = norm.batch_norm(x @ w.T, eps=0)
        return y, torch.autograd.grad(y, w, dy)[0]

    (y, dw), (y_scaled, dw_scaled) = run(w), run(10 * w)
    assert dw.abs().max() > 0.1
    assert_close(y_scaled, y, **CLOSE)
    assert_close(dw_scaled, dw / 10, **CLOSE)


@pytest.mark.parametrize("momentum", [0.1, 0.75, 1.0])
@every_shape
def test_running_statistics_are_torchs_with_the_unbiased_variance(shape, momentum):
    x = sample(shape, mean=3.0)[0].detach()
    mean, variance = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    torch_mean, torch_variance = mean.clone(), variance.clone()
    for batch in (x, 2 * x + 1, x - 5):
        mean, variance = norm.running_statistics(batch, mean, variance, momentum)
        F.batch_norm(batch, torch_mean, torch_variance, training=True, momentum=momentum)
    assert_close(mean, torch_mean, **CLOSE)
    assert_close(variance, torch_variance, **CLOSE)


def test_a_constant_channel_becomes_beta_and_sends_no_infinite_gradient():
    x = torch.full((2, 1, 3, 3), 7.0)
    y = norm.batch_norm(x, torch.tensor([2.0]), torch.tensor([0.5]))
    assert torch.equal(y, torch.full_like(x, 0.5))
    assert norm.batch_norm_backward(torch.randn(x.shape), x)[0].isfinite().all()


def test_a_nan_stays_in_its_own_channel():
    x = torch.randn(2, 3, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    assert norm.batch_norm(x).isnan().all((0, 2, 3)).tolist() == [False, True, False]
    assert norm.batch_norm(x).isnan().any((0, 2, 3)).tolist() == [False, True, False]


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(RuntimeError):
        norm.group_norm(torch.ones(1, 6, 2), 4)


def test_normalizing_over_no_axis_is_refused():
    with pytest.raises(ArgumentError, match=r"Moments\.of expects at least one axis to reduce"):
        norm.normalize(torch.ones(2, 3), ())


RMS_DIMS = [None, (-1,), (-2, -1), (1,), (1, 2, 3), (0, 2)]
every_rms = pytest.mark.parametrize("dims", RMS_DIMS, ids=str)
# besides the usual: an even window, one as wide as the channels, one that is wider, one of a single channel
LOCAL = [
    (5, 1e-4, 0.75, 1.0),
    (2, 0.5, 0.75, 2.0),
    (3, 2.0, 1.5, 0.25),
    (6, 1.0, 1.0, 1.0),
    (9, 3.0, 0.5, 1.0),
    (1, 1.0, 2.0, 0.5),
    (4, 1.0, -0.5, 1),
]
every_window = pytest.mark.parametrize(("size", "alpha", "beta", "k"), LOCAL, ids=str)


def rms_sample(dims, dtype=torch.float64, mean=0.0):
    """x, gamma and dy, and the shape in which gamma broadcasts to x."""
    shape = (2, 6, 4, 5)
    at = {d % 4 for d in (-1,) if dims is None} or {d % 4 for d in dims}
    x, gamma, _, dy = sample(shape, [shape[d] for d in sorted(at)], mean, dtype)
    return x, gamma, dy, [size if d in at else 1 for d, size in enumerate(shape)]


@affine
@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("last", [1, 2, 4])
def test_rms_norm_over_the_last_axes_is_torchs(last, eps, affine):
    shape, dims = (2, 3, 4, 5), tuple(range(-last, 0))
    x, gamma, _, dy = sample(shape, shape[-last:])
    scale, wanted = (gamma, (x, gamma)) if affine else (None, (x,))
    y, torchs = norm.rms_norm(x, scale, eps, None if last == 1 else dims), F.rms_norm(x, shape[-last:], scale, eps)
    assert y.shape == x.shape and y.count_nonzero() == y.numel()
    assert_close(y, torchs, **CLOSE)
    got = norm.rms_norm_backward(dy, x, scale, eps, None if last == 1 else dims)
    assert len(got) == 2 and got[1].shape == gamma.shape
    for gradient, torch_gradient in zip(got, torch.autograd.grad(torchs, wanted, dy), strict=False):
        assert gradient.count_nonzero() == gradient.numel()
        assert_close(gradient, torch_gradient, **CLOSE)


@affine
@every_rms
def test_rms_norm_over_any_axes_is_the_formula_and_its_backward_autograds(dims, affine):
    x, gamma, dy, along = rms_sample(dims)
    scale, wanted = (gamma, (x, gamma)) if affine else (None, (x,))
    y = norm.rms_norm(x, scale, 0.01, dims)
    formula = x / (x.square().mean(dims or -1, keepdim=True) + 0.01).sqrt() * (gamma.reshape(along) if affine else 1)
    assert_close(y, formula, **CLOSE)
    got = norm.rms_norm_backward(dy, x, scale, 0.01, dims)
    for gradient, autograd_gradient, torch_gradient in zip(
        got, torch.autograd.grad(y, wanted, dy), torch.autograd.grad(formula, wanted, dy), strict=False
    ):
        assert gradient.count_nonzero() == gradient.numel()
        assert_close(gradient, autograd_gradient, **CLOSE)
        assert_close(gradient, torch_gradient, **CLOSE)


@every_rms
def test_gradcheck_accepts_rms_norm_and_its_backward(dims):
    x, gamma, dy, _ = rms_sample(dims)
    assert torch.autograd.gradcheck(lambda x, g: norm.rms_norm(x, g, 1e-5, dims), (x, gamma))
    assert torch.autograd.gradcheck(
        lambda dy, x, g: norm.rms_norm_backward(dy, x, g, 1e-5, dims), (dy.requires_grad_(), x, gamma)
    )


def test_rms_norm_brings_the_mean_square_to_1_and_leaves_the_direction():
    x, _, dy, _ = rms_sample((1, 2, 3), mean=50.0)
    y = norm.rms_norm(x, None, 0.0, (1, 2, 3))
    assert_close(y.square().mean((1, 2, 3)), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    ratio = y / x
    assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), rtol=1e-12, atol=0)
    dx, _ = norm.rms_norm_backward(dy, x, None, 0.0, (1, 2, 3))
    assert dx.abs().max() > 1e-3
    assert (dx * x).sum().abs() < 1e-11  # scaling the input changes nothing
    assert dx.sum().abs() > 1e-3  # shifting it does


def test_rms_norm_of_what_has_mean_0_is_layer_norm():
    x, gamma, dy, _ = rms_sample((1, 2, 3))
    x = (x - x.mean((1, 2, 3), keepdim=True)).detach()
    assert_close(norm.rms_norm(x, gamma, dims=(1, 2, 3)), norm.layer_norm(x, gamma), **CLOSE)
    dx = norm.rms_norm_backward(dy, x, gamma, dims=(1, 2, 3))[0]
    assert_close(dx - dx.mean((1, 2, 3), keepdim=True), norm.layer_norm_backward(dy, x, gamma)[0], **CLOSE)


def test_rms_norm_by_hand_where_everything_is_a_whole_number():
    x, dy = torch.tensor([[1.0, 7.0], [5.0, -5.0]]), torch.tensor([[7.0, 49.0], [10.0, 0.0]])
    assert_close(norm.rms_norm(x, torch.tensor([5.0, 10.0]), 0.0), torch.tensor([[1.0, 14.0], [5.0, -10.0]]))
    dx, dgamma = norm.rms_norm_backward(dy, x, torch.tensor([1.0, 1.0]), 0.0)
    assert_close(dx, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), rtol=0, atol=1e-6)  # dy of the first row runs along x
    assert_close(dgamma, torch.tensor([11.4, 68.6]))


def test_given_statistics_are_taken_as_they_are_centered_or_not():
    x, gamma, beta, dy = sample((2, 6, 4, 5))
    mean, variance = torch.zeros(6, dtype=torch.float64), x.detach().square().mean((0, 2, 3))
    arguments = ((0, 2, 3), gamma, beta, 1e-5, (1,))
    measured = norm.normalize(x, *arguments, centered=False)
    assert_close(norm.normalize(x, *arguments, mean, variance), measured, **CLOSE)
    given = [
        norm.normalize_backward(dy, x, (0, 2, 3), gamma, 1e-5, (1,), mean, variance, centered)
        for centered in (True, False)
    ]
    for one, other in zip(*given, strict=True):
        assert torch.equal(one, other)
    assert not torch.allclose(given[0][0], norm.normalize_backward(dy, x, (0, 2, 3), gamma, centered=False)[0])


@pytest.mark.parametrize("x", [(2, 0), (0, 3), (0, 2, 3, 4)], ids=str)
def test_rms_norm_of_nothing_is_nothing(x):
    x = torch.ones(x)
    dx, dgamma = norm.rms_norm_backward(x, x)
    assert norm.rms_norm(x).shape == dx.shape == x.shape
    assert torch.equal(dgamma, torch.zeros(x.shape[-1:]))


def test_rms_norm_over_no_axis_is_refused():
    with pytest.raises(ArgumentError, match=r"Moments\.of expects at least one axis to reduce"):
        norm.rms_norm(torch.ones(2, 3), dims=())


def test_an_infinity_makes_the_rest_0_and_a_nan_stays_in_its_own_row():
    x = torch.ones(3, 4)
    x[0, 1], x[1, 1] = float("inf"), float("nan")
    y = norm.rms_norm(x)
    assert y.isnan().tolist() == [[False, True, False, False], [True] * 4, [False] * 4]
    assert y[0, 0] == 0 and torch.equal(y.isnan(), F.rms_norm(x, (4,)).isnan())


@every_window
@every_map
def test_local_response_norm_is_torchs(shape, size, alpha, beta, k):
    x, _, _, dy = sample(shape)
    y, torchs = norm.local_response_norm(x, size, alpha, beta, k), F.local_response_norm(x, size, alpha, beta, k)
    assert y.shape == x.shape and y.count_nonzero() == y.numel()
    assert_close(y, torchs, **CLOSE)
    dx = norm.local_response_norm_backward(dy, x, size, alpha, beta, k)
    assert dx.shape == x.shape and dx.count_nonzero() == dx.numel()
    assert_close(dx, torch.autograd.grad(y, x, dy)[0], **CLOSE)
    assert_close(dx, torch.autograd.grad(torchs, x, dy)[0], **CLOSE)


def test_local_response_norms_defaults_are_torchs():
    x, _, _, dy = sample((2, 6, 4, 5))
    torchs = F.local_response_norm(x, 5)
    assert_close(norm.local_response_norm(x, 5), torchs, rtol=1e-14, atol=0)
    assert_close(norm.local_response_norm_backward(dy, x, 5), torch.autograd.grad(torchs, x, dy)[0], rtol=1e-13, atol=0)


@every_window
def test_gradcheck_accepts_local_response_norm_and_its_backward(size, alpha, beta, k):
    x, _, _, dy = sample((2, 6, 3))
    assert torch.autograd.gradcheck(lambda x: norm.local_response_norm(x, size, alpha, beta, k), (x,))
    both = (dy.requires_grad_(), x)
    assert torch.autograd.gradcheck(lambda dy, x: norm.local_response_norm_backward(dy, x, size, alpha, beta, k), both)


def test_an_even_windows_odd_channel_is_the_one_before():
    x = torch.zeros(1, 5)
    x[0, 2] = 2.0
    probe = torch.full_like(x, 1e-9)  # too small to count: its own size tells its divisor
    y = norm.local_response_norm(x + probe, 4, alpha=1, beta=1, k=1)
    # 4/4 more in the windows of channels 1 to 4
    assert_close(y / (x + probe), torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]]))


def test_local_response_norm_with_alpha_0_divides_by_a_power_of_k():
    x, _, _, dy = sample((2, 6, 4, 5))
    assert_close(norm.local_response_norm(x, 5, 0, 0.5, 4), x / 2, rtol=1e-14, atol=0)
    assert_close(norm.local_response_norm_backward(dy, x, 5, 0, 0.5, 4), dy / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_local_response_norm_of_nothing_is_nothing(shape):
    x = torch.ones(shape)
    assert norm.local_response_norm(x, 3).shape == norm.local_response_norm_backward(x, x, 3).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rms_and_local_response_norm_are_rounded_once(dtype):
    x, gamma, dy, _ = rms_sample((1,), dtype, mean=100.0)
    wide, wide_gamma, wide_dy = x.double(), gamma.double(), dy.double()
    pairs = [
        (norm.rms_norm(x, gamma, dims=(1,)), norm.rms_norm(wide, wide_gamma, dims=(1,))),
        (norm.local_response_norm(x, 3, 0.3, 0.7), norm.local_response_norm(wide, 3, 0.3, 0.7)),
        (
            norm.local_response_norm_backward(dy, x, 3, 0.3, 0.7),
            norm.local_response_norm_backward(wide_dy, wide, 3, 0.3, 0.7),
        ),
        (norm.leaky(x, 0.3), norm.leaky(wide, 0.3)),
        (norm.leaky(dy, 0.3), norm.leaky(wide_dy, 0.3)),
        *zip(
            norm.rms_norm_backward(dy, x, gamma, dims=(1,)),
            norm.rms_norm_backward(wide_dy, wide, wide_gamma, dims=(1,)),
            strict=True,
        ),
    ]
    for gradient, exact in pairs:
        assert gradient.dtype == dtype and gradient.count_nonzero() > 0
        assert torch.equal(gradient, exact.to(dtype))


@pytest.mark.parametrize("slope", [0, 0.01, 0.25, 1, 2.0, -1.0])
def test_leaky_is_torchs_forward_and_backward_at_0_too(slope):
    z = torch.tensor([-3.0, -0.5, -0.0, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    y, torchs = norm.leaky(z, slope), F.leaky_relu(z, slope)
    assert torch.equal(y, torchs) and y.count_nonzero() >= 2
    dy = torch.arange(1.0, 7, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(y, z, dy)[0], torch.autograd.grad(torchs, z, dy)[0])
    away = torch.tensor([-3.0, -0.5, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: norm.leaky(z, slope), (away,))


def test_leaky_of_slope_0_is_the_relu_of_infinities_too_and_nan_stays_nan():
    z = torch.tensor([float("-inf"), float("inf"), float("nan"), -1.0])
    for slope, least in ((0, 0.0), (0.5, float("-inf")), (1, float("-inf"))):
        y = norm.leaky(z, slope)
        assert y[:2].tolist() == [least, float("inf")] and y[2].isnan() and y[3] == -slope
    assert torch.equal(norm.leaky(z, 0)[:2], F.relu(z)[:2])
