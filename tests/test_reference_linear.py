"""The linear reference against torch's function, autograd, and numbers worked by hand."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from striate.reference.linear import linear, linear_backward

SIZES = {
    "a vector": ((5,), 3),
    "rows": ((4, 7), 3),
    "leading axes": ((2, 3, 2, 6), 5),
    "one of each": ((1, 1), 1),
    "no rows": ((0, 3), 2),
    "no inputs": ((2, 0), 3),
    "no outputs": ((2, 3), 0),
}
every_size = pytest.mark.parametrize(("shape", "outputs"), SIZES.values(), ids=SIZES)


def sample(shape, outputs, dtype=torch.float64):
    random = torch.Generator().manual_seed(31)
    shapes = shape, (outputs, shape[-1]), (outputs,), (*shape[:-1], outputs)
    return [torch.randint(-8, 9, s, generator=random).to(dtype) for s in shapes]


@every_size
def test_whole_numbers_give_exactly_torchs_output_and_gradients(shape, outputs):
    x, w, b, dy = sample(shape, outputs)
    learned = [t.requires_grad_() for t in (x, w, b)]
    for with_bias in (True, False):
        y, expected = (f(x, w, b if with_bias else None) for f in (linear, F.linear))
        assert y.shape == expected.shape and torch.equal(y, expected)
    expected = torch.autograd.grad(F.linear(x, w, b), learned, dy)
    for mine, torchs in zip(linear_backward(dy, x, w), expected, strict=True):
        assert mine.shape == torchs.shape and torch.equal(mine, torchs)
    assert 0 in (*shape, outputs) or (y.count_nonzero() > 0 and all(g.count_nonzero() > 0 for g in expected))


def test_gradcheck_accepts_the_reference_and_its_backward():
    x, w, b, dy = (t.requires_grad_() for t in sample((2, 2, 3), 2))
    assert torch.autograd.gradcheck(linear, (x, w, b))
    assert torch.autograd.gradcheck(linear_backward, (dy, x, w))


def test_complex_gradients_are_autograds():
    random = torch.Generator().manual_seed(32)
    x, w = (torch.randn(s, dtype=torch.complex128, generator=random).requires_grad_() for s in ((4, 3), (2, 3)))
    y = linear(x, w)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=random)
    for mine, automatic in zip(linear_backward(dy, x, w), torch.autograd.grad(y, (x, w), dy), strict=False):
        assert_close(mine, automatic, rtol=1e-10, atol=1e-10)
