"""Convolution by minimal filtering: its error by tile, channels and pass, where it is exact, fused operations, and when
it is chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from samples import channels_last
from torch import Tensor

import striate
import striate.nn as S
from striate.errors import ArgumentError
from striate.nn import container
from striate.ops import conv as ops
from striate.ops import dispatch
from striate.ops.batch_stats import take_statistics
from striate.ops.conv.geometry import resolve
from striate.ops.precision import is_strict, precision

kernels = torch.ops.striate
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"channels_first": Tensor.contiguous, "channels_last": channels_last}
PASSES = ("forward", "backward_data", "backward_weights")
KERNELS = ("forward", "input", "weight")  # the three by the names of the operators
INFINITE = float("inf")


class Case(NamedTuple):
    method: str
    size: tuple[int, ...]  # taps on each axis
    input: tuple[int, ...]
    before: tuple[int, ...]
    batch: int = 2
    channels: int = 20
    filters: int = 17
    groups: int = 1

    @property
    def output(self) -> tuple[int, ...]:
        return tuple(i + 2 * b - k + 1 for i, b, k in zip(self.input, self.before, self.size, strict=True))

    @property
    def rest(self) -> tuple[Any, ...]:
        ones = [1] * len(self.size)
        return ones, ones, list(self.before), self.groups


# Tiles on two axes and on one; sizes that are no multiple of the tile, filters and channels that are no multiple of the
# vector; more padding than taps.
CASES = [
    Case("winograd_4x4", (3, 3), (13, 17), (1, 1)),
    Case("winograd_4x4", (3, 3), (8, 5), (0, 2), channels=5, filters=40),
    Case("winograd_4x4", (3, 3), (3, 3), (3, 4), batch=1, channels=1, filters=1),
    Case("winograd_4x4", (3, 3), (14, 14), (1, 1), batch=16, channels=48, filters=33),
    # a row of more tiles than a block has
    Case("winograd_4x4", (3, 3), (8, 160), (1, 1), batch=1, channels=300, filters=40),
    Case("winograd_4x4", (1, 3), (6, 19), (0, 1)),
    Case("winograd_4x4", (3, 1), (19, 6), (1, 0), groups=2),
    Case("winograd_4x4", (3,), (50,), (1,)),
    Case("winograd_4x4", (3, 3), (9, 9), (1, 1), channels=8, filters=12, groups=3),
    Case("winograd_2x2", (3, 3), (13, 17), (1, 1)),
    Case("winograd_2x2", (3, 3), (7, 7), (1, 1), batch=5, channels=70, filters=64),
    # so many channels that products are made point by point: in many blocks, and in few
    Case("winograd_2x2", (3, 3), (17, 19), (1, 1), batch=5, channels=531, filters=259),
    Case("winograd_2x2", (3, 3), (9, 7), (1, 1), batch=3, channels=531, filters=259),
    Case("winograd_2x2", (1, 3), (4, 9), (0, 0)),
    Case("winograd_2x2", (3, 1), (9, 4), (2, 0)),
    Case("winograd_2x2", (5, 5), (14, 15), (2, 0)),
    Case("winograd_2x2", (5, 5), (6, 7), (4, 6), batch=3, channels=3, filters=50),
    Case("winograd_2x2", (5, 1), (11, 3), (2, 0)),
    Case("winograd_2x2", (5,), (31,), (2,), groups=2),
]


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return LAYOUTS[request.param]


class Given(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor
    dy: Tensor
    residual: Tensor


def tensors(case: Case, make: Callable[..., Tensor]) -> Given:
    y = (case.batch, case.filters * case.groups, *case.output)
    weight = make((case.filters * case.groups, case.channels, *case.size))
    return Given(make((case.batch, case.channels * case.groups, *case.input)), weight, make(y[1:2]), make(y), make(y))


def by_winograd(case: Case, given: Given, lay: Callable[[Tensor], Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    x, w, b, dy, r = (t.to(dtype) for t in given)
    last = lay is channels_last
    method = ops.NUMBERS[case.method]
    rest = (*case.rest, last, method)
    x, dy, r = lay(x), lay(dy), lay(r)
    packed = kernels.conv_pack(w, case.groups, method)
    y, statistics = kernels.conv_measured(x, w, b, case.output, *rest)
    return {
        "forward": kernels.conv(x, w, b, case.output, *rest),
        "input": kernels.conv_backward_data(dy, w, None, case.input, *rest),
        "weight": kernels.conv_backward_weights(dy, x, case.size, *rest),
        "fused": kernels.conv_fused(x, w, packed, b, r, 0, -2.0, 3.0, case.output, *rest),
        "measured": y,
        "statistics": statistics,
    }


def exactly(case: Case, given: Given) -> dict[str, Tensor]:
    x, w = given.x.double().requires_grad_(), given.weight.double().requires_grad_()
    f = (F.conv1d, F.conv2d)[len(case.size) - 1]
    plain = f(x, w, None, padding=case.before, groups=case.groups)
    dx, dw = torch.autograd.grad(plain, (x, w), given.dy.double())
    y = plain.detach() + given.bias.double().reshape(-1, *[1] * len(case.size))
    of_channel = y.transpose(0, 1).flatten(1)
    statistics = torch.stack([of_channel.mean(1), of_channel.var(1, unbiased=False)])
    fused = (y + given.residual.double()).clamp(-2, 3)
    return {"forward": y, "input": dx, "weight": dw, "fused": fused, "measured": y, "statistics": statistics}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_map_is_the_sum_as_it_is_written_to_the_digits_of_its_type(case: Case, layout: Any, isa: str) -> None:
    given = tensors(case, torch.randn)
    expected = exactly(case, given)
    for dtype, most in ((torch.float64, 1e-14), (torch.float32, 1e-5)):
        got = by_winograd(case, given, layout, dtype)
        for name, truth in expected.items():
            if dtype is torch.float64 or name != "statistics":
                # where activations clip sums, little is left to compare with
                scale = expected["forward"] if name == "fused" else truth
                error = (got[name].double() - truth).square().mean().sqrt() / scale.square().mean().sqrt()
                assert error <= most, (name, dtype, float(error))
        of_these = got["measured"].double().transpose(0, 1).flatten(1)
        size = of_these.square().mean(1).sqrt()
        assert ((got["statistics"][0] - of_these.mean(1)).abs() <= 3e-7 * size).all()
        assert torch.allclose(got["statistics"][1], of_these.var(1, unbiased=False), rtol=1e-5, atol=1e-9)
        assert torch.equal(got["measured"], got["forward"])


@pytest.mark.parametrize("case", [c for c in CASES if c.method == "winograd_2x2" and max(c.size) == 3], ids=str)
def test_whole_numbers_and_weights_of_fours_give_exact_sums_where_all_points_are_whole(
    case: Case, layout: Any, isa: str
) -> None:
    given = tensors(case, lambda shape: torch.randint(-5, 6, shape).float())
    given = given._replace(weight=4 * given.weight)  # the divisors are 1 and 2 on each axis
    expected = exactly(case, given)
    got = by_winograd(case, given, layout, torch.float32)
    for name in (*KERNELS, "fused"):
        assert torch.equal(got[name].double(), expected[name]), name
    assert (expected["forward"] != 0).double().mean() > 0.5


def test_the_weights_of_many_channels_and_filters_are_right_where_their_sums_are_made_in_parts(
    layout: Any, isa: str
) -> None:
    # the sums of all channels exceed kSumBytes, all tiles at the points kThreeBytes, and filters fill more than one
    # cell of magnitudes: here every part but the first wrote magnitudes to a null pointer
    case = Case("winograd_4x4", (3, 3), (112, 112), (1, 1), batch=2, channels=128, filters=128)
    x, dy = torch.randn(2, 128, 112, 112), torch.randn(2, 128, 112, 112)
    arguments = (case.size, *case.rest, layout is channels_last, ops.NUMBERS[case.method])
    got = kernels.conv_backward_weights(layout(dy), layout(x), *arguments)
    expected = torch.nn.grad.conv2d_weight(x, got.shape, dy, padding=1)  # torch's sums of as many digits
    assert (got - expected).square().mean().sqrt() <= 1e-5 * expected.square().mean().sqrt()


@pytest.mark.parametrize("outlier", [None, 1e9])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_are_the_same_on_1_2_3_and_8_threads_and_in_both_orders(case: Case, outlier: float | None) -> None:
    given = tensors(case, torch.randn)
    if outlier is not None:
        for t in (given.x, given.dy):
            t[-1].view(-1)[0] = outlier  # in channels_last it lies behind the last channel of the image before
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results += [by_winograd(case, given, lay, torch.float32) for lay in LAYOUTS.values()]
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


def as_in_networks(channels: int, filters: int, size: int) -> tuple[Tensor, Tensor]:
    """The output of a ReLU, and weights initialized as by He et al."""
    x = torch.randn(2, channels, 28, 28).relu()
    return x, torch.randn(filters, channels, size, size) * (2 / (channels * size * size)) ** 0.5


@pytest.mark.parametrize("channels", [16, 64, 256, 512])
@pytest.mark.parametrize(("method", "size"), [("winograd_4x4", 3), ("winograd_2x2", 3), ("winograd_2x2", 5)])
def test_the_error_in_networks_is_at_most_a_hundred_thousandth_of_the_outputs_rms(
    method: str, size: int, channels: int
) -> None:
    x, w = as_in_networks(channels, 64, size)
    dy = torch.randn(2, 64, 28, 28)
    case = Case(method, (size, size), (28, 28), (size // 2,) * 2, 2, channels, 64)
    given = Given(x, w, torch.zeros(64), dy, torch.zeros_like(dy))
    expected, got = exactly(case, given), by_winograd(case, given, channels_last, torch.float32)
    for name in KERNELS:
        error = (got[name].double() - expected[name]).square().mean().sqrt() / expected[name].square().mean().sqrt()
        assert 1e-8 < error <= 1e-5, (name, float(error))


@pytest.mark.parametrize(("method", "size"), [("winograd_4x4", 3), ("winograd_2x2", 3), ("winograd_2x2", 5)])
def test_gradients_and_their_gradients_are_what_finite_differences_say(method: str, size: int, layout: Any) -> None:
    x = layout(torch.randn(1, 2, 6, 7, dtype=torch.float64)).requires_grad_()
    w, b = (
        torch.randn(3, 2, size, size, dtype=torch.float64, requires_grad=True),
        torch.randn(3, dtype=torch.float64, requires_grad=True),
    )
    with dispatch.prefer(method):
        for pass_ in PASSES:
            assert ops.method_for(call((1, 2, 6, 7), (3, 2, size, size), pass_, padding=2)).name == method
        assert torch.autograd.gradcheck(lambda *t: S.functional.conv2d(*t, padding=2), (x, w, b), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda *t: S.functional.conv2d(*t, padding=2), (x, w, b), fast_mode=True)


# ------------------------------------------------------------------------------------------ special values and outliers

SPECIAL = [1e4, -1e10, 1e30, INFINITE, -INFINITE, float("nan")]
WIDE = [
    Case("winograd_4x4", (3, 3), (28, 28), (1, 1), 4, 64, 64),
    Case("winograd_4x4", (3, 3), (28, 28), (1, 1), 1, 64, 32),
    Case("winograd_4x4", (3, 3), (7, 7), (1, 1), 3, 256, 128),  # weights are transformed by each thread
    Case("winograd_2x2", (3, 3), (14, 14), (1, 1), 2, 32, 48, 2),
    Case("winograd_2x2", (5, 5), (14, 14), (2, 2), 2, 32, 48),
    Case("winograd_4x4", (1, 3), (9, 40), (0, 1), 2, 40, 24),
]


def kind(t: Tensor) -> Tensor:
    """Classifies each value: 0 for finite numbers, 1 and -1 for infinities, 2 for NaN."""
    return torch.where(t.isnan(), 2, t.isinf() * t.sign()).int()


def direct(case: Case, given: Given, lay: Callable[[Tensor], Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    x, w, b, dy, r = (t.to(dtype) for t in given)
    x, dy, r = lay(x), lay(dy), lay(r)
    rest = (*case.rest, lay is channels_last, ops.NUMBERS["direct"])
    y = kernels.conv(x, w, b, case.output, *rest)
    return {
        "forward": y,
        "input": kernels.conv_backward_data(dy, w, None, case.input, *rest),
        "weight": kernels.conv_backward_weights(dy, x, case.size, *rest),
        "fused": kernels.conv_fused(x, w, None, b, r, 0, -2.0, 3.0, case.output, *rest),
        "measured": y,
    }


def touched(case: Case, given: Given, where: str, at: Tensor) -> dict[str, Tensor]:
    """Which results depend on one operand's values at these positions."""
    marks = [
        (torch.zeros_like if name == where else torch.ones_like)(t, dtype=torch.float64)
        for name, t in given._asdict().items()
    ]
    marked = Given(*marks)
    getattr(marked, where).view(-1)[at] = 1.0
    x, w = marked.x.requires_grad_(), marked.weight.requires_grad_()
    y = (F.conv1d, F.conv2d)[len(case.size) - 1](x, w, padding=case.before, groups=case.groups)
    dx, dw = torch.autograd.grad(y, (x, w), marked.dy)
    seen = {
        "x": {"forward": y, "weight": dw},
        "weight": {"forward": y, "input": dx},
        "dy": {"input": dx, "weight": dw},
    }[where]
    return {name: t.detach() > 0.5 for name, t in seen.items()}


@pytest.mark.parametrize("where", ["x", "weight", "dy"])
@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_special_values_and_outliers_show_where_they_are_seen_and_nowhere_else(
    case: Case, value: float, where: str, isa: str
) -> None:
    for many, lay in ((1, channels_last), (8, Tensor.contiguous)):
        given = tensors(case, torch.randn)
        given = given._replace(weight=given.weight / 16)
        t = getattr(given, where)
        at = torch.randint(t.numel(), (many,))
        at[0] = 0 if many > 1 else at[0]  # at an edge too
        t.view(-1)[at] = value
        got, truth = by_winograd(case, given, lay, torch.float32), direct(case, given, lay, torch.float32)
        for name, seen in touched(case, given, where, at).items():
            assert torch.equal(kind(got[name]), kind(truth[name])), name
            assert torch.isfinite(got[name][~seen]).all()
            clean = truth[name][~seen].double()
            if len(clean):
                assert (
                    got[name][~seen].double() - clean
                ).square().mean().sqrt() <= 1e-5 * clean.square().mean().sqrt(), name
        for name in ("fused", "measured"):  # with packed weights; with statistics of the output
            assert torch.equal(kind(got[name]), kind(truth[name])), name
        sums = got["measured"].double().transpose(0, 1).flatten(1).sum(1)
        assert torch.equal(got["statistics"].isfinite(), sums.isfinite().expand(2, -1))


def test_the_footprint_of_a_special_value_is_torchs() -> None:
    for value, batch in ((float("nan"), 4), (INFINITE, 4), (float("nan"), 1), (1e10, 4)):
        x = torch.zeros(batch, 64, 28, 28)
        x[0, 5, 9, 9] = value
        conv = S.Conv2d(64, 64, 3, padding=1, bias=False)
        expected = torch.nn.Conv2d.forward(conv, x)
        with dispatch.prefer("winograd_4x4"):
            y = conv(x)
        assert torch.equal(kind(y), kind(expected))
        assert torch.equal(y == 0, expected == 0)
        assert (~y.isfinite()).sum() in (576, 0)


def test_sums_of_large_numbers_are_finite_where_torchs_are(layout: Any) -> None:
    case = WIDE[0]
    given = tensors(case, torch.randn)
    for scale, of_weights in ((1e36, 1e-2), (1e25, 1e9), (1e-3, 1e37)):
        big = given._replace(x=given.x * scale, dy=given.dy * scale, weight=given.weight * of_weights)
        for name in ("forward", "input"):
            got, truth = by_winograd(case, big, layout, torch.float32)[name].double(), exactly(case, big)[name]
            assert got.isfinite().all()
            assert (got - truth).square().mean().sqrt() <= 1e-5 * truth.square().mean().sqrt()


def test_one_image_out_of_bounds_leaves_the_others_their_bits(layout: Any) -> None:
    case = WIDE[0]
    given = tensors(case, torch.randn)
    clean = by_winograd(case, given, layout, torch.float32)
    given.x[2, 3, 5, 5] = given.dy[1, 3, 5, 5] = 1e12
    got, summed = by_winograd(case, given, layout, torch.float32), direct(case, given, layout, torch.float32)
    for name, image in (("forward", 2), ("input", 1)):
        others = [n for n in range(case.batch) if n != image]
        assert torch.equal(got[name][others], clean[name][others])
        assert torch.equal(got[name][image], summed[name][image])
        assert not torch.equal(clean[name][others], summed[name][others])
    assert torch.equal(got["weight"], summed["weight"])


@pytest.mark.parametrize(
    "name",
    [
        "normal",
        "behind a ReLU",
        "one in ten",
        "dead channels",
        "decayed channels",
        "one loud channel",
        "heavy tails",
        "a border",
    ],
)
def test_ordinary_images_are_in_bounds(name: str, layout: Any, isa: str) -> None:
    case = WIDE[0]
    x = torch.randn(4, 64, 28, 28)
    x = {
        "normal": x,
        "behind a ReLU": x.relu(),
        "one in ten": x * (torch.rand_like(x) < 0.1),
        "dead channels": x * (torch.arange(64) < 20).view(-1, 1, 1),
        "decayed channels": x * torch.where(torch.arange(64) < 20, 1.0, 1e-12).view(-1, 1, 1),
        "one loud channel": x * torch.where(torch.arange(64) == 9, 2000.0, 1.0).view(-1, 1, 1),
        "heavy tails": x.sign() * x.abs().mul(1.5).exp(),
        "a border": F.pad(x[..., 8:20, 8:20], [8] * 4),
    }[name]
    given = tensors(case, torch.randn)._replace(x=x)
    got, summed = by_winograd(case, given, layout, torch.float32), direct(case, given, layout, torch.float32)
    for n in range(case.batch):
        assert not torch.equal(got["forward"][n], summed["forward"][n])
    assert not torch.equal(got["weight"], summed["weight"])


@pytest.mark.parametrize(
    "name", ["normal", "one loud filter", "pruned", "decayed filters", "decayed channels", "heavy tails"]
)
def test_ordinary_weights_are_in_bounds(name: str, layout: Any, isa: str) -> None:
    case = WIDE[0]
    given = tensors(case, torch.randn)
    w, few = given.weight, torch.arange(64) < 10
    w = {
        "normal": w,
        "one loud filter": w * torch.where(torch.arange(64) == 9, 2000.0, 1.0).view(-1, 1, 1, 1),
        "pruned": w * (torch.rand_like(w) < 0.05),
        "decayed filters": w * torch.where(few, 1.0, 1e-12).view(-1, 1, 1, 1),
        "decayed channels": w * torch.where(few, 1.0, 1e-12).view(-1, 1, 1),
        "heavy tails": w.sign() * w.abs().mul(1.5).exp(),
    }[name]
    given = given._replace(weight=w)
    got, summed = by_winograd(case, given, layout, torch.float32), direct(case, given, layout, torch.float32)
    for map_ in ("forward", "input", "fused"):
        assert not torch.equal(got[map_], summed[map_])


# ------------------------------------------------------------------------------------------------------ when it is used


def call(
    shape: tuple[int, ...], weight: tuple[int, ...], map_: str = "forward", strict: bool = False, **arguments: Any
) -> ops.ConvProblem:
    rest = (
        arguments.get("stride", 1),
        arguments.get("padding", 0),
        arguments.get("dilation", 1),
        arguments.get("groups", 1),
    )
    return ops.ConvProblem(
        map_, resolve(shape, weight, len(weight) - 2, *rest, "test"), False, torch.float32, None, None, strict
    )


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (call((1, 4, 9, 9), (4, 4, 3, 3), strict=True), "precision is strict"),
        (call((1, 4, 9, 9), (4, 4, 3, 3), stride=2), "it is for stride and dilation 1"),
        (call((1, 4, 9, 9), (4, 4, 3, 3), dilation=2), "it is for stride and dilation 1"),
        (call((1, 4, 9, 9, 9), (4, 4, 3, 3, 3)), "it is for one and two axes"),
        (call((1, 4, 9, 9), (4, 4, 1, 1)), "it is for 3 taps on an axis, and as many or one on the other"),
        (call((1, 4, 9, 9), (4, 4, 5, 5)), "it is for 3 taps on an axis, and as many or one on the other"),
        (call((0, 4, 9, 9), (4, 4, 3, 3)), "there is nothing to compute"),
    ],
    ids=str,
)
def test_what_it_cannot_compute_it_refuses_with_a_reason(one: ops.ConvProblem, reason: str) -> None:
    assert next(m for m in ops.METHODS if m.name == "winograd_4x4").refuse(one) == reason


def test_tiles_of_two_take_five_taps_too_and_say_so() -> None:
    refuse = next(m for m in ops.METHODS if m.name == "winograd_2x2").refuse
    assert refuse(call((1, 4, 9, 9), (4, 4, 5, 5))) is None
    assert (
        refuse(call((1, 4, 9, 9), (4, 4, 3, 5))) == "it is for 3 or 5 taps on an axis, and as many or one on the other"
    )


@pytest.mark.parametrize(
    ("method", "size", "stride", "message"),
    [
        ("winograd_4x4", (5, 5), [1, 1], "Winograd's tiles are for 3 taps on an axis, those of two outputs for 5 too"),
        ("winograd_2x2", (3, 3), [2, 2], "Winograd's is for stride and dilation 1"),
        ("winograd_2x2", (5, 3), [1, 1], "Winograd's tiles have as many taps on both axes, or one"),
    ],
)
def test_operators_called_past_the_checks_refuse_too(
    method: str, size: tuple[int, int], stride: list[int], message: str
) -> None:
    x, w = torch.randn(1, 2, 12, 12), torch.randn(3, 2, *size)
    output = [(12 - k) // s + 1 for k, s in zip(size, stride, strict=True)]
    with pytest.raises(RuntimeError) as raised:
        kernels.conv(x, w, None, output, stride, [1, 1], [0, 0], 1, False, ops.NUMBERS[method])
    assert message in str(raised.value)


def test_a_packed_weight_of_another_method_is_refused() -> None:
    x, w = torch.randn(1, 2, 12, 12), torch.randn(3, 2, 3, 3)
    packed = kernels.conv_pack(w, 1, ops.NUMBERS["winograd_2x2"])
    with pytest.raises(RuntimeError, match="a packed weight is of this method and map"):
        kernels.conv_fused(
            x,
            w,
            packed,
            None,
            None,
            0,
            -INFINITE,
            INFINITE,
            [10, 10],
            [1, 1],
            [1, 1],
            [0, 0],
            1,
            False,
            ops.NUMBERS["winograd_4x4"],
        )
    assert kernels.conv_pack(w, 1, ops.NUMBERS["direct"]).numel() == 0


def test_strict_precision_never_uses_it_and_fast_does_where_it_was_faster() -> None:
    x, w = torch.randn(8, 64, 56, 56, requires_grad=True), torch.randn(64, 64, 3, 3, requires_grad=True)
    assert not is_strict()
    explained = ops.explain_methods(x.shape, w.shape, padding=1, channels_last=True)
    chosen = [methods[-1][0] for methods in explained.values()]
    assert set(chosen) == {"winograd_4x4"}
    with precision("strict"):
        assert is_strict()
        for methods in ops.explain_methods(x.shape, w.shape, padding=1, channels_last=True).values():
            assert dict(methods)["winograd_4x4"] == dict(methods)["winograd_2x2"] == "precision is strict"
        plain = S.functional.conv2d(x, w, padding=1)
    torch_y = F.conv2d(x, w, padding=1)
    assert torch.equal(plain, torch_y)
    # the gradients too, though they are computed after the context
    for gradient, expected in zip(
        torch.autograd.grad(plain.sum(), (x, w)), torch.autograd.grad(torch_y.sum(), (x, w)), strict=True
    ):
        assert torch.equal(gradient, expected)
    assert not torch.equal(S.functional.conv2d(x, w, padding=1), torch_y)


@pytest.mark.parametrize("mode", ["exact", None, 3])
def test_another_word_for_precision_is_refused(mode: Any) -> None:
    with pytest.raises(ArgumentError) as raised:
        precision(mode)
    assert str(raised.value) == f'precision expects mode to be "fast" or "strict", got {mode!r}. Choose one of them.'
    assert not is_strict()


# --------------------------------------------------------------------------------------- statistics for the norm behind


@contextmanager
def counting() -> Iterator[list[Tensor]]:
    """Records the statistics that containers take from convolutions in the block."""
    taken: list[Tensor] = []

    def spy(y: Tensor) -> Tensor | None:
        statistics = take_statistics(y)
        if statistics is not None:
            taken.append(statistics)
        return statistics

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(container, "take_statistics", spy)
        yield taken


def test_a_norm_takes_the_statistics_of_the_convolution_before_it_and_gives_the_same(layout: Any) -> None:
    first = S.Conv2d(16, 33, 3, padding=1, bias=False)
    x = layout(torch.randn(4, 16, 20, 21) + 3)
    dz = torch.randn(4, 33, 20, 21)
    results = []
    for shared in (False, True):
        conv, norm = copy.deepcopy(first), S.BatchNorm2d(33)
        with dispatch.prefer("winograd_4x4"), counting() as taken:
            z = S.Sequential(conv, norm)(x) if shared else norm(conv(x))
        assert len(taken) == shared
        results.append(
            (z, norm.running_mean, norm.running_var, *torch.autograd.grad(z, [conv.weight, norm.weight], dz))
        )
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_statistics_far_from_zero_and_near_overflow_are_as_good() -> None:
    for shift, scale in ((1e4, 1.0), (0.0, 1e25)):
        x = torch.randn(2, 8, 12, 12) * scale
        conv, norm = S.Conv2d(8, 16, 3, padding=1), S.BatchNorm2d(16)
        conv.bias.data.fill_(shift)
        with dispatch.prefer("winograd_4x4"), counting() as taken:
            z, y = S.Sequential(conv, norm)(x), conv(x)
        assert len(taken) == 1
        expected = F.batch_norm(y.double(), None, None, training=True)
        alone = S.BatchNorm2d(16)(y.detach().clone())
        assert (z - expected).abs().max() <= 2 * (alone - expected).abs().max() + 1e-6, shift


def test_only_a_container_asks_for_statistics_and_takes_them_away_with_it() -> None:
    conv, norm = S.Conv2d(4, 8, 3), S.BatchNorm2d(8)
    x = torch.randn(2, 4, 9, 9)
    with dispatch.prefer("winograd_2x2"), torch.no_grad(), counting() as taken:
        y = conv(x)
        assert take_statistics(y) is None
        y.data.add_(5)  # which does not bump the version counter
        norm(y)
        assert abs(float(norm.running_mean.mean() - 0.1 * y.mean())) < 1e-5
        assert not taken
        S.Sequential(conv, norm.eval())(x)
        assert not taken
        with torch.inference_mode():
            z = S.Sequential(conv, norm.train())(x)
        assert len(taken) == 1 and (z - S.BatchNorm2d(8)(conv(x))).abs().max() <= 1e-5 * z.abs().max()


def test_blocks_networks_and_accelerate_give_their_norms_statistics_and_restore_does_not() -> None:
    x = torch.randn(2, 3, 8, 8)

    def taken(model: torch.nn.Module, x: Tensor) -> int:
        with dispatch.prefer("winograd_4x4"), torch.no_grad(), counting() as found:
            model(x)
        return len(found)

    assert taken(S.ConvNormAct2d(3, 8, 3), x) == 1
    assert taken(S.ConvNormAct2d(3, 8, 3, norm="group"), x) == 0
    assert taken(S.ConvNormAct2d(3, 8, 3, order="conv-act-norm"), x) == 0
    model = striate.models.resnet18(10)
    squares = [
        m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) and m.stride == (1, 1)
    ]
    assert taken(model, torch.randn(2, 3, 64, 64)) == len(squares) == 13
    torch_y = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 8, 3))
    assert taken(striate.accelerate(torch_y), x) == 1
    assert taken(striate.restore(torch_y), x) == 0


# ------------------------------------------------------------------------------------------------------- whole networks


def test_scores_of_resnet50_differ_by_little_between_fast_and_strict() -> None:
    model = striate.accelerate(striate.models.resnet50(10)).train()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        for _ in range(3):  # running statistics as after some steps
            model(x)
        model.eval()
        fast = model(x)
        with precision("strict"):
            strict = model(x)
    exact = copy.deepcopy(model).double()(x.double()).detach()
    size = exact.square().mean().sqrt()
    error, allowed = ((y - exact).square().mean().sqrt() / size for y in (fast, strict))
    assert not torch.equal(fast, strict)
    assert error <= 1e-4 and error <= 30 * allowed, (float(error), float(allowed))
    assert torch.equal(fast.argmax(1), strict.argmax(1))


def test_a_training_run_ends_at_the_same_accuracy_under_fast_and_strict(tmp_path: Any) -> None:
    from striate.training import train_run

    accuracies = []
    for mode in ("fast", "strict"):
        with precision(mode):
            run = train_run(model="lenet5", epochs=1, threads=1, out=tmp_path / mode)
            accuracies.append(run.metrics["test_accuracy"])
    assert min(accuracies) > 0.4
    assert abs(accuracies[0] - accuracies[1]) <= 0.03, accuracies
