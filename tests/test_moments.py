"""moments.py: merging in any grouping gives the moments of the whole, and empty moments are the identity."""

import math
from fractions import Fraction
from functools import reduce
from itertools import chain

import pytest
import torch
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from torch.testing import assert_close

from striate.errors import ArgumentError
from striate.moments import Moments


def given(*strategies):
    """Runs without a deadline: a busy machine is not a failure."""
    return lambda test: settings(deadline=None)(given_any(*strategies)(test))


EXACT = dict(rtol=0, atol=0)
ROUNDING = dict(rtol=1e-12, atol=1e-8)  # squares up to 1e6 cancel: 1e-8 is 1e-14 of them
values = st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=12)
whole = st.lists(st.integers(-50, 50).map(float), min_size=0, max_size=12)


def of(numbers):
    return Moments.of(torch.tensor(numbers, dtype=torch.float64), 0)


def same(a, b, **tolerance):
    assert_close(torch.as_tensor(a.count), torch.as_tensor(b.count), **EXACT)
    assert_close(a.mean, b.mean, **tolerance)
    assert_close(a.m2, b.m2, **tolerance)


@given(st.lists(values, min_size=1, max_size=6))
def test_merging_parts_from_the_left_gives_the_whole(parts):
    same(reduce(Moments.merge, map(of, parts)), of(list(chain(*parts))), **ROUNDING)


@given(values, values, values)
def test_merging_is_associative_up_to_rounding(a, b, c):
    a, b, c = of(a), of(b), of(c)
    same(a.merge(b).merge(c), a.merge(b.merge(c)), **ROUNDING)


@given(values, values)
def test_merging_is_commutative_up_to_rounding(a, b):
    same(of(a).merge(of(b)), of(b).merge(of(a)), **ROUNDING)


@given(st.lists(values, min_size=1, max_size=9), st.randoms())
def test_merging_along_any_tree_gives_the_whole(parts, random):
    pool = [of(p) for p in parts]
    while len(pool) > 1:
        a, b = (pool.pop(random.randrange(len(pool))) for _ in range(2))
        pool.append(a.merge(b))
    same(pool[0], of(list(chain(*parts))), **ROUNDING)


@given(values)
def test_empty_moments_are_the_identity_to_the_last_bit(numbers):
    m = of(numbers)
    same(m.merge(Moments.empty()), m, **EXACT)
    same(Moments.empty().merge(m), m, **EXACT)
    same(m.merge(of([])), m, **EXACT)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_empty_moments_are_the_identity_beside_infinity_and_nan_too(number):
    odd = Moments(torch.tensor([2, 2]), torch.tensor([number, 1.0]), torch.tensor([number, 3.0]))
    none = Moments(torch.tensor([0, 0]), torch.zeros(2), torch.zeros(2))
    for merged in (odd.merge(none), none.merge(odd), odd.merge(Moments.empty(2)), Moments.empty(2).merge(odd)):
        same(merged, odd, equal_nan=True, **EXACT)


def test_counts_that_differ_by_element_merge_element_by_element():
    left = Moments(torch.tensor([2, 0, 1]), torch.tensor([1.5, 0.0, 4.0]), torch.tensor([0.5, 0.0, 0.0]))
    right = Moments(torch.tensor([2, 3, 0]), torch.tensor([3.5, 2.0, 0.0]), torch.tensor([0.5, 2.0, 0.0]))
    both = left.merge(right)
    assert both.count.tolist() == [4, 3, 1]
    assert both.mean.tolist() == [2.5, 2.0, 4.0]
    assert both.m2.tolist() == [5.0, 2.0, 0.0]


def test_nothing_merged_with_nothing_is_nothing():
    none = Moments.empty(3).merge(Moments(torch.zeros(3, dtype=torch.long), torch.zeros(3), torch.zeros(3)))
    assert none.mean.tolist() == none.m2.tolist() == [0, 0, 0]
    assert torch.as_tensor(none.count).sum() == 0


@given(whole.filter(len))
def test_whole_numbers_have_the_moments_of_exact_arithmetic(numbers):
    m, exact = of(numbers), [Fraction(int(v)) for v in numbers]
    mean = sum(exact) / len(exact)
    assert m.count == len(numbers)
    assert m.mean.item() == float(mean)
    assert m.m2.item() == pytest.approx(float(sum((v - mean) ** 2 for v in exact)), rel=1e-13, abs=1e-11)


@pytest.mark.parametrize("dims", [0, (1,), (0, 2), (0, 2, 3), (1, 2, 3), (-1, -2)])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
def test_mean_and_variance_are_those_of_torch(dims, keepdim, unbiased):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    m = Moments.of(x, dims, keepdim)
    assert_close(m.mean, x.mean(dims, keepdim), rtol=1e-13, atol=1e-15)
    assert_close(m.variance(unbiased), x.var(dims, correction=int(unbiased), keepdim=keepdim), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e6])
def test_a_large_mean_takes_no_digits_from_the_variance_of_float32_inputs(offset):
    x = torch.randn(8, 1000, generator=torch.Generator().manual_seed(2)) + offset
    assert_close(Moments.of(x, 1).variance(), x.double().var(1, correction=0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_moments_are_kept_in_float64_for_every_type(dtype):
    m = Moments.of(torch.tensor([[1, 2, 3, 6]], dtype=dtype), 1)
    assert m.mean.dtype == m.m2.dtype == torch.float64
    assert (m.count, m.mean.item(), m.m2.item()) == (4, 3.0, 14.0)


def test_float16_values_whose_sum_overflows_float16_are_measured_exactly():
    m = Moments.of(torch.full((1000,), 60000.0, dtype=torch.float16), 0)
    assert m.mean.item() == 60000.0 and m.m2.item() == 0.0


def test_an_empty_batch_is_empty():
    m = Moments.of(torch.empty(0, 3, 4), (0, 2))
    assert m.count == 0 and m.mean.tolist() == m.m2.tolist() == [0, 0, 0]


def test_variance_of_too_few_values_is_nan_as_in_torch():
    assert Moments.empty(2).variance().isnan().all()
    assert Moments.of(torch.ones(1, 3), 0).variance(unbiased=True).isnan().all()
    assert Moments.of(torch.ones(1, 3), 0).variance().tolist() == [0, 0, 0]


def test_splitting_a_batch_among_workers_changes_nothing():
    x = torch.randn(17, 5, 6, 7, generator=torch.Generator().manual_seed(3)) * 3 + 100
    whole_batch = Moments.of(x, (0, 2, 3))
    for parts in (2, 3, 17):
        merged = reduce(Moments.merge, (Moments.of(part, (0, 2, 3)) for part in x.tensor_split(parts)))
        same(merged, whole_batch, rtol=1e-13, atol=0)


def test_moments_can_be_differentiated():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(4))
    assert torch.autograd.gradcheck(lambda v: Moments.of(v[:1], 0).merge(Moments.of(v[1:], 0)).variance(), x)


def test_without_an_axis_the_error_says_what_to_do():
    with pytest.raises(ArgumentError) as caught:
        Moments.of(torch.ones(2, 3), ())
    assert (
        str(caught.value)
        == "Moments.of expects at least one axis to reduce, got (). x: (2, 3). Name the axes, as (0, 2, 3)."
    )


def test_moments_are_frozen():
    with pytest.raises(AttributeError):
        Moments.empty(1).count = 3  # type: ignore[misc]
