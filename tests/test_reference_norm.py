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
    """x, gamma, beta and dy, of which none is nearly 0 or 1."""
    random = torch.Generator().manual_seed(31)
    x = (torch.randn(shape, generator=random, dtype=torch.float64) * 2 + mean).to(dtype).requires_grad_()
    size = shape[1:2] if parameter is None else parameter
    gamma, beta = ((torch.rand(size, generator=random, dtype=torch.float64) + 0.5).to(dtype).requires_grad_() for _ in range(2))
    return x, gamma, beta, torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


def check(forward, backward, expected, x, gamma, beta, dy, use):
    """Forward is torch's, backward is autograd's of this forward and torch's own."""
    gamma_beta = (gamma, beta) if use else (None, None)
    wanted = (x, gamma, beta) if use else (x,)
    y, torchs = forward(x, *gamma_beta), expected(x, *gamma_beta)
    assert y.shape == x.shape and y.count_nonzero() == y.numel()
    assert_close(y, torchs, **CLOSE)
    got = backward(dy, x, gamma_beta[0])
    assert got[1].shape == gamma.shape and got[2].shape == beta.shape
    for mine, automatic, theirs in zip(got, torch.autograd.grad(y, wanted, dy), torch.autograd.grad(torchs, wanted, dy), strict=False):
        assert mine.count_nonzero() == mine.numel()
        assert_close(mine, automatic, **CLOSE)
        assert_close(mine, theirs, **CLOSE)


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
    "group": (lambda x, *a: norm.group_norm(x, 3, *a), lambda dy, x, *a: norm.group_norm_backward(dy, x, 3, *a), (6,), None),
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
    for mine, wide in zip(backward(dy, x, gamma), backward(dy.double(), x.double(), gamma.double()), strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, wide.float())


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
    torchs = torch.autograd.grad(F.batch_norm(x, None, None, gamma, beta, training=True), (x, gamma), dy, create_graph=True)
    mine = norm.batch_norm_backward(dy, x, gamma)[:2]
    pairs = (torch.autograd.grad(sum(g.pow(3).sum() for g in pair), (dy, x, gamma)) for pair in (mine, torchs))
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
    dx, dgamma, dbeta = norm.batch_norm_backward(dy, x, torch.tensor([3.0]), eps=0)  # x̂ = x, mean(dy) = 2, mean(dy·x̂) = -1
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
    x, w = torch.randn(8, 3, generator=random, dtype=torch.float64), torch.randn(4, 3, generator=random, dtype=torch.float64)
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
