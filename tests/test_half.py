"""float16 and bfloat16: layers run on torch's operators, and striate's own formulas do not sum in so few digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from samples import channels_last

import striate.nn as S
import striate.nn.functional as SF
from striate.reference import pool as reference
from striate.window import Axis, Window

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
Layout = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return DTYPES[request.param]


@pytest.fixture(params=["planes", "channels_last"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return channels_last if request.param == "channels_last" else torch.Tensor.contiguous


def error(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, in units of the type's rounding at the largest value."""
    assert y.isfinite().all() and truth.abs().max() > 0
    y, truth = y.detach(), truth.detach()
    return float((y.double() - truth).abs().max() / truth.abs().max()) / torch.finfo(y.dtype).eps


AVERAGES: dict[str, tuple[int, Callable[[torch.Tensor], torch.Tensor]]] = {
    "same": (2, S.AvgPool2d(8, 1, padding="same")),
    "same, without the padding": (2, S.AvgPool2d(8, 1, padding="same", count_include_pad=False)),
    "same of a stride": (2, S.AvgPool2d((9, 6), (2, 3), padding="same")),
    "same, on one axis": (1, S.AvgPool1d(24, 1, padding="same")),
    "same, on three axes": (3, S.AvgPool3d(4, 1, padding="same")),
    "a divisor on one axis": (1, lambda x: SF.avg_pool1d(x, 24, 1, divisor_override=24)),
    "numbers": (2, lambda x: SF.avg_pool2d(x, 8, 1, 4)),
    "adaptive": (2, S.AdaptiveAvgPool2d(5)),
    "global": (2, S.GlobalAvgPool2d()),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_finite_where_their_sums_are_not_and_rounded_once(
    name: str, dtype: torch.dtype, layout: Layout
) -> None:
    dims, pool = AVERAGES[name]
    x = layout(torch.full((2, 3, *[24 if dims < 3 else 8] * dims), 3000.0, dtype=dtype))
    y = pool(x)
    assert y.dtype is dtype and torch.equal(y, pool(x.double()).to(dtype))
    x = layout(3000 + 100 * torch.randn(x.shape)).to(dtype)
    assert torch.equal(layout(x), x) and error(pool(x), pool(x.double())) <= 0.51
    if dtype is torch.float16:
        assert pool(x.abs() * 0 + 65504).isfinite().all()


@pytest.mark.parametrize("name", AVERAGES)
def test_gradients_of_averages_lose_no_more_than_torchs_do(name: str, dtype: torch.dtype, layout: Layout) -> None:
    dims, pool = AVERAGES[name]
    x = layout(torch.randn(2, 3, *[24 if dims < 3 else 8] * dims)).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    y = pool(x)
    dy = (torch.rand(y.shape, dtype=torch.float64) + 1).to(dtype)
    y.backward(dy)
    pool(wide).backward(dy.double())
    assert x.grad is not None and wide.grad is not None
    torchs = name in ("numbers", "adaptive", "global")  # which add in the type itself
    assert error(x.grad, wide.grad) <= (5 if torchs else 0.51)


def test_the_gradient_of_the_reference_is_rounded_once_too(dtype: torch.dtype) -> None:
    window = Window((Axis(24, 24, 8, 1, 1, 3, 4),) * 2)
    dy = (torch.rand(2, 3, 24, 24) + 1).to(dtype)
    dx = reference.avg_pool_backward(dy, window)
    assert dx.dtype is dtype and error(dx, reference.avg_pool_backward(dy.double(), window)) <= 0.51
    wide = Window((Axis(512, 1, 512),) * 2)  # 262,144 taps: more than float16's largest number
    assert torch.equal(
        reference.avg_pool(torch.full((1, 1, 512, 512), 0.5, dtype=dtype), wide),
        torch.full((1, 1, 1, 1), 0.5, dtype=dtype),
    )
    spread = reference.avg_pool_backward(torch.full((1, 1, 1, 1), 1024.0, dtype=dtype), wide)
    assert torch.equal(spread, torch.full((1, 1, 512, 512), 2**-8, dtype=dtype))


LAYERS: dict[str, tuple[Callable[..., torch.nn.Module], Callable[[Any, torch.Tensor], torch.Tensor] | None]] = {
    "Conv2d, same of an even kernel": (
        lambda **t: S.Conv2d(3, 8, 4, padding="same", **t),
        lambda layer, x: F.conv2d(F.pad(x, [1, 2, 1, 2]), layer.weight, layer.bias),
    ),
    "Conv2d, same of a stride": (
        lambda **t: S.Conv2d(3, 8, 4, 2, padding="same", **t),
        lambda layer, x: F.conv2d(x, layer.weight, layer.bias, 2, 1),
    ),
    "Conv2d, circular": (lambda **t: S.Conv2d(3, 8, 3, padding=1, padding_mode="circular", **t), None),
    "ConvTranspose2d, same": (
        lambda **t: S.ConvTranspose2d(3, 8, 4, 2, padding="same", **t),
        lambda layer, x: F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1),
    ),
    "LocallyConnected2d": (lambda **t: S.LocallyConnected2d(3, 4, 24, 5, padding="same", **t), None),
    "BlurPool2d": (lambda **t: S.BlurPool2d(3, 5, **t), None),
    "LayerNorm2d": (
        lambda **t: S.LayerNorm2d(3, **t),
        lambda layer, x: F.layer_norm(x.movedim(1, -1), (3,), eps=layer.eps).movedim(-1, 1),
    ),
    "GroupNorm": (lambda **t: S.GroupNorm(3, 3, **t), lambda layer, x: F.group_norm(x, 3)),
    "InstanceNorm2d": (lambda **t: S.InstanceNorm2d(3, **t), lambda layer, x: F.instance_norm(x)),
    "RMSNorm": (lambda **t: S.RMSNorm(24, **t), lambda layer, x: F.rms_norm(x, [24])),
    "GhostBatchNorm2d": (lambda **t: S.GhostBatchNorm2d(3, 1, **t), lambda layer, x: F.instance_norm(x)),
    "SqueezeExcite": (lambda **t: S.SqueezeExcite(3, **t), None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_lose_no_more_digits_than_torchs_operators_do(name: str, dtype: torch.dtype, layout: Layout) -> None:
    make, torch_call = LAYERS[name]
    layer = make(dtype=dtype)
    scale = 30 if "Conv" in name else 1
    x = layout((3000 + 100 * torch.randn(2, 3, 24, 24)) / scale).to(dtype)
    y, truth = layer(x), copy.deepcopy(layer).double()(x.double())
    assert y.dtype is dtype
    assert error(y, truth) <= max(1.0, 0.0 if torch_call is None else error(torch_call(layer, x), truth))


@pytest.mark.parametrize("name", ["conv2d", "local"])
def test_sums_that_overflow_on_the_way_and_come_back_are_finite(name: str, dtype: torch.dtype) -> None:
    from striate.ops.local import local

    signs = torch.ones(8, 8, 8)
    signs[4:] = -1
    weight = signs.to(dtype).expand(8, 8, 8, 8).contiguous()
    own = weight[:, :, None, None].expand(8, 8, 5, 5, 8, 8)
    x = torch.full((2, 8, 12, 12), 3000.0, dtype=dtype, requires_grad=True)
    y = local(x, own) if name == "local" else SF.conv2d(x, weight)
    assert torch.equal(y, torch.zeros_like(y))
    dy = torch.full_like(y, 3000.0)
    dy[:, 4:] = -3000
    y.backward(dy)
    assert x.grad is not None and torch.equal(x.grad, torch.zeros_like(x))
