"""The building blocks: each equals a composition of torch.nn's layers with the same weights, and has the course notes'
numbers.
"""

from __future__ import annotations

import copy
import functools
import math
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import striate
import striate.nn as nn
from striate.deploy import fold
from striate.errors import ArgumentError, ArgumentTypeError, ShapeError
from striate.reference import conv as reference

CONVS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TORCHS: dict[int, Any] = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
every_number_of_axes = pytest.mark.parametrize("dims", [1, 2, 3], ids=lambda d: f"{d}d")


def named(name: str, dims: int) -> Any:
    return getattr(nn, f"{name}{dims}d")


def whole(*shape: int) -> Tensor:
    return torch.randint(-4, 5, shape).float()


def with_whole_weights(layer: Any) -> Any:
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(whole(*p.shape))
    return layer


def parameters(layer: torch.nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def same_with_gradients(layer: torch.nn.Module, expected: Any, x: Tensor) -> None:
    """Checks exact equality on whole numbers, forward and backward, and that few results are zero."""
    learned = [p for p in layer.parameters() if p.requires_grad]
    results = []
    for f in (layer, expected):
        given = x.clone().requires_grad_()
        y = f(given)
        dy = torch.arange(y.numel()).view(y.shape) % 7 - 3.0
        results.append([y, *torch.autograd.grad(y, [given, *learned], dy)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b) and a.count_nonzero() > a.numel() // 10


def text_of(error: type, call: Any) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


# ------------------------------------------------------------------------------------------------ factored convolutions


@every_number_of_axes
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_is_a_convolution_of_one_tap(dims: int, stride: int) -> None:
    layer = with_whole_weights(named("PointwiseConv", dims)(3, 5, stride=stride))
    same_with_gradients(layer, lambda x: CONVS[dims](x, layer.weight, layer.bias, stride), whole(2, 3, *[5] * dims))
    assert isinstance(layer, TORCHS[dims]) and layer.weight.shape == (5, 3, *[1] * dims)
    assert named("PointwiseConv", dims)(3, 5, False).bias is None


@every_number_of_axes
def test_pointwise_is_a_linear_layer_at_each_position(dims: int) -> None:
    layer, x = with_whole_weights(named("PointwiseConv", dims)(3, 5)), whole(2, 3, *[4] * dims)
    assert torch.equal(layer(x).movedim(1, -1), F.linear(x.movedim(1, -1), layer.weight.flatten(1), layer.bias))


def test_pointwise_has_the_notes_sizes() -> None:
    layer = nn.PointwiseConv2d(64, 32)
    assert layer(torch.ones(1, 64, 56, 56)).shape == (1, 32, 56, 56) and parameters(layer) == 2080


@every_number_of_axes
def test_depthwise_convolves_each_channel_by_itself(dims: int) -> None:
    layer = with_whole_weights(named("DepthwiseConv", dims)(3, 3, 2, 1, multiplier=2))
    x = whole(2, 3, *[6] * dims)
    same_with_gradients(layer, lambda x: CONVS[dims](x, layer.weight, layer.bias, 2, 1, groups=3), x)
    alone = [
        CONVS[dims](x[:, c : c + 1], layer.weight[2 * c : 2 * c + 2], layer.bias[2 * c : 2 * c + 2], 2, 1)
        for c in range(3)
    ]
    assert torch.equal(layer(x), torch.cat(alone, 1))
    assert isinstance(layer, TORCHS[dims]) and layer.groups == 3 and parameters(layer) == 6 * (3**dims + 1)


@every_number_of_axes
def test_depthwise_takes_dilation_same_padding_and_padding_modes(dims: int) -> None:
    layer = with_whole_weights(
        named("DepthwiseConv", dims)(4, 3, padding="same", dilation=2, bias=False, padding_mode="circular")
    )
    x = whole(2, 4, *[6] * dims)
    assert torch.equal(layer(x), reference.conv(x, layer.weight, None, 1, "same", 2, 4, "circular"))
    strided = with_whole_weights(named("DepthwiseConv", dims)(4, 3, 2, "same"))
    assert torch.equal(strided(x), reference.conv(x, strided.weight, strided.bias, 2, "same", 1, 4))


@every_number_of_axes
def test_depthwise_separable_is_depthwise_then_pointwise(dims: int) -> None:
    layer = with_whole_weights(named("DepthwiseSeparableConv", dims)(3, 5, 3, 2, 1, 1, True, 2))
    d, p = layer.depthwise, layer.pointwise

    def composed(x: Tensor) -> Tensor:
        return CONVS[dims](CONVS[dims](x, d.weight, d.bias, 2, 1, groups=3), p.weight, p.bias)

    same_with_gradients(layer, composed, whole(2, 3, *[6] * dims))
    assert list(layer.state_dict()) == ["depthwise.weight", "depthwise.bias", "pointwise.weight", "pointwise.bias"]
    assert list(named("DepthwiseSeparableConv", dims)(3, 5, 3, bias=False).state_dict()) == [
        "depthwise.weight",
        "pointwise.weight",
    ]


def test_depthwise_separable_has_the_notes_cost() -> None:
    layer = nn.DepthwiseSeparableConv2d(128, 256, 3, padding="same", bias=False)
    x = torch.ones(1, 128, 32, 32)
    assert layer(x).shape == (1, 256, 32, 32)
    assert [parameters(m) for m in (layer.depthwise, layer.pointwise, layer)] == [1152, 32768, 33920]
    assert [32 * 32 * parameters(m) for m in (layer.depthwise, layer.pointwise, layer)] == [1179648, 33554432, 34734080]
    one = torch.nn.Conv2d(128, 256, 3, padding="same", bias=False)
    assert (parameters(one), 32 * 32 * parameters(one)) == (294912, 301989888)
    assert (
        parameters(one) / parameters(layer) == 9 * 256 / (9 + 256)
        and round(parameters(one) / parameters(layer), 2) == 8.69
    )


def test_spatially_separable_goes_down_the_columns_and_then_along_the_rows() -> None:
    layer = with_whole_weights(nn.SpatiallySeparableConv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2), middle=2))
    v, h = layer.vertical, layer.horizontal

    def composed(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, v.weight, None, (2, 1), (1, 0), (1, 2)), h.weight, h.bias, 1, 0, (1, 2))

    x = whole(2, 3, 7, 6)
    same_with_gradients(layer, composed, x)
    weight = torch.einsum("mcs,kmt->kcst", v.weight.squeeze(3), h.weight.squeeze(2))
    assert torch.equal(layer(x), F.conv2d(x, weight, h.bias, (2, 1), (1, 0), (1, 2)))
    assert v.bias is None and parameters(layer) == 2 * (3 * 3 + 4 * 2) + 4


def test_spatially_separable_has_the_notes_sizes() -> None:
    layer, x = nn.SpatiallySeparableConv2d(3, 8, 3), torch.ones(1, 3, 32, 28)
    assert layer.vertical(x).shape == (1, 8, 32 - 3 + 1, 28) and layer(x).shape == (1, 8, 32 - 3 + 1, 28 - 3 + 1)
    assert nn.SpatiallySeparableConv2d(3, 8, (3, 5), padding="same")(x).shape == (1, 8, 32, 28)


def test_the_notes_kernel_is_an_outer_product() -> None:
    kernel = torch.tensor([[3.0, 6, 9], [4, 8, 12], [5, 10, 15]])
    layer = nn.SpatiallySeparableConv2d.from_kernel(kernel)
    u, v = layer.vertical.weight.flatten(), layer.horizontal.weight.flatten()
    torch.testing.assert_close(torch.outer(u, v), kernel)
    torch.testing.assert_close(u / u[0] * 3, torch.tensor([3.0, 4, 5]))
    torch.testing.assert_close(v / v[0], torch.tensor([1.0, 2, 3]))
    x = whole(1, 1, 8, 7)
    assert torch.equal(layer(x).round(), F.conv2d(x, kernel.view(1, 1, 3, 3)))
    assert parameters(layer) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_from_kernel_computes_the_convolution_of_many_outer_products(dtype: torch.dtype) -> None:
    u, v = torch.randn(4, 3, 5, 1, dtype=dtype), torch.randn(4, 3, 1, 2, dtype=dtype)
    weight, bias = u * v, torch.randn(4, dtype=dtype)
    layer = nn.SpatiallySeparableConv2d.from_kernel(weight, bias, (1, 2), (2, 1), (1, 3))
    x = torch.randn(2, 3, 9, 8, dtype=dtype)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, bias, (1, 2), (2, 1), (1, 3)), rtol=1e-5, atol=1e-5)
    assert layer.vertical.out_channels == 8 and layer.vertical.weight.dtype is dtype  # min(3·5, 4·2)
    shared = torch.randn(3, 5, 1, dtype=dtype) * torch.randn(4, 3, 1, 2, dtype=dtype)[:, :1]
    assert nn.SpatiallySeparableConv2d.from_kernel(shared).vertical.out_channels <= 3
    assert not nn.SpatiallySeparableConv2d.from_kernel(torch.zeros(3, 3))(torch.ones(1, 5, 5)).any()


def test_from_kernel_refuses_other_kernels_and_tells_how_far_they_are() -> None:
    make = nn.SpatiallySeparableConv2d.from_kernel
    name, hint = "SpatiallySeparableConv2d.from_kernel", "Keep the convolution, or train this layer in its place."
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    assert text_of(ArgumentError, lambda: make(laplace)) == (
        f"{name} expects kernels of rank 1, got kernel whose second singular value is 0.101 of the first. "
        f"residual ‖W - uvᵀ‖/‖W‖: 0.101, above the tolerance 1e-05. {hint}"
    )
    many = torch.ones(2, 3, 3, 3)
    many[1, 2] = laplace
    assert "got kernel [1, 2] whose second" in text_of(ArgumentError, lambda: make(many))
    assert make(laplace, tolerance=0.2).vertical.out_channels == 2  # nothing else is in it
    assert text_of(ArgumentTypeError, lambda: make([[1.0]])) == (
        f"{name} expects weight to be a tensor, got list. Call torch.as_tensor on it first."
    )
    assert text_of(ShapeError, lambda: make(torch.ones(3))) == (
        f"{name} expects a weight of shape (K_h, K_w) or (out, in, K_h, K_w), got (3,). Give a kernel (K_h, K_w) or a "
        "convolution's weight."
    )
    assert text_of(ArgumentError, lambda: make(laplace, tolerance=-1)) == (
        f"{name} expects a tolerance from 0 to below 1, got -1. Leave it out for what float32 rounds to."
    )
    assert text_of(ArgumentError, lambda: make(laplace / 0)) == (
        f"{name} expects finite weights, got inf or NaN. Look at what the training did."
    )
    assert text_of(ShapeError, lambda: make(torch.ones(3, 3), torch.ones(2))) == (
        f"{name} expects a bias of shape (1,), got (2,). Give one number for each filter."
    )


def test_bottleneck_has_the_notes_cost() -> None:
    one, two = torch.nn.Conv2d(256, 256, 3), nn.Bottleneck(256, 64, 256)
    assert [parameters(m) for m in (one, two, two.reduce, two.conv)] == [590080, 164160, 16448, 147712]
    x = torch.ones(1, 256, 64, 64, device="meta")
    two = two.to("meta")
    assert two(x).shape == (1, 256, 62, 62) and two(x).numel() == 984064
    macs = two.reduce(x).numel() * 256 + two(x).numel() * 9 * 64
    assert macs == 67108864 + 566820864 == 633929728
    assert round(590080 / 164160, 1) == round(2267283456 / macs, 1) == 3.6


@pytest.mark.parametrize("expand", [False, True])
def test_bottleneck_is_its_convolutions_in_a_row(expand: bool) -> None:
    layer = with_whole_weights(nn.Bottleneck(6, 2, 8, 3, 2, 1, expand=expand))
    r, c, e = layer.reduce, layer.conv, layer.expand

    def composed(x: Tensor) -> Tensor:
        y = F.conv2d(F.conv2d(x, r.weight, r.bias), c.weight, c.bias, 2, 1)
        return y if e is None else F.conv2d(y, e.weight, e.bias)

    same_with_gradients(layer, composed, whole(2, 6, 7, 7))
    names = ["reduce", "conv", "expand"][: 2 + expand]
    assert list(layer.state_dict()) == [f"{n}.{p}" for n in names for p in ("weight", "bias")]
    assert c.out_channels == (2 if expand else 8)


# -------------------------------------------------------------------------------------------------------------- shuffle


@pytest.mark.parametrize(
    "shape", [(2, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 4), (0, 6, 3, 3), (2, 0, 3, 3), (1, 6, 1, 1)], ids=str
)
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_shuffle_is_torchs_and_keeps_the_memory_order(shape: tuple[int, ...], groups: int) -> None:
    x = torch.randn(shape)
    native, torch_layer = nn.ChannelShuffle(groups), torch.nn.ChannelShuffle(groups)
    if x.numel():
        assert torch.equal(native(x), torch_layer(x))
    assert native(x).shape == x.shape and native(x).is_contiguous()
    if x.dim() > 3 and x.numel():
        last = x.contiguous(memory_format=FORMATS[x.dim()])
        assert torch.equal(native(last), native(x))
        assert native(last).is_contiguous(memory_format=FORMATS[x.dim()]) and native(last).stride() == last.stride()


def test_channel_shuffle_undone_by_its_mirror_and_swapped_by_accelerate() -> None:
    x = whole(2, 6, 3, 3)
    assert torch.equal(nn.ChannelShuffle(3)(nn.ChannelShuffle(2)(x)), x)
    model = torch.nn.Sequential(torch.nn.ChannelShuffle(2))
    assert type(striate.accelerate(model)[0]) is nn.ChannelShuffle and torch.equal(
        model(x), torch.nn.ChannelShuffle(2)(x)
    )
    assert type(striate.restore(model)[0]) is torch.nn.ChannelShuffle
    assert repr(nn.ChannelShuffle(2)) == "ChannelShuffle(groups=2)"
    assert torch.autograd.gradcheck(
        nn.ChannelShuffle(2), torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    )


def test_channel_shuffle_refuses_what_it_cannot_divide() -> None:
    assert text_of(ShapeError, lambda: nn.ChannelShuffle(4)(torch.ones(2, 6, 3, 3))) == (
        "ChannelShuffle expects channels that 4 groups divide, got 6. x: (2, 6, 3, 3). Choose groups that divide them."
    )
    assert text_of(ShapeError, lambda: nn.ChannelShuffle(2)(torch.ones(2, 6))) == (
        "ChannelShuffle expects x of shape (N, C, *axes), got (2, 6). Add axes with unsqueeze."
    )
    assert text_of(ArgumentTypeError, lambda: nn.ChannelShuffle(2)([1.0])) == (
        "ChannelShuffle expects a tensor, got list. Call torch.as_tensor on it first."
    )


# ------------------------------------------------------------------------------------------------------ squeeze, excite


def test_squeeze_excite_is_its_formula() -> None:
    layer, x = nn.SqueezeExcite(8, 4), torch.randn(2, 8, 5, 6, requires_grad=True)
    with torch.no_grad():
        layer.fc1.bias += 1

    def composed(x: Tensor) -> Tensor:
        s = F.conv2d(x.mean((-2, -1), keepdim=True), layer.fc1.weight, layer.fc1.bias).relu()
        return x * F.conv2d(s, layer.fc2.weight, layer.fc2.bias).sigmoid()

    torch.testing.assert_close(layer(x), composed(x))
    learned = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad(f(x).square().sum(), learned) for f in (layer, composed)), strict=True):
        torch.testing.assert_close(a, b)
        assert a.count_nonzero() > 0
    torch.testing.assert_close(layer(x[0]), composed(x[0]))
    assert layer(x.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


def test_squeeze_excite_has_torchvisions_names_and_its_own_widths() -> None:
    assert list(nn.SqueezeExcite(8).state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    widths = [nn.SqueezeExcite(*a).fc1.out_channels for a in ((64,), (8,), (64, 4), (64, 16, 10))]
    assert widths == [4, 1, 16, 10]
    layer = nn.SqueezeExcite(8, activation=torch.nn.SiLU, gate=functools.partial(torch.nn.Hardsigmoid, inplace=True))
    assert isinstance(layer.activation, torch.nn.SiLU) and isinstance(layer.scale_activation, torch.nn.Hardsigmoid)
    assert layer(torch.ones(1, 8, 2, 2)).shape == (1, 8, 2, 2)


# ---------------------------------------------------------------------------------------- convolution, norm, activation


def composed_block(block: Any, order: str, x: Tensor) -> Tensor:
    """What torch's own layers make of the block's state."""
    dims = block.dims
    for name in order.split("-"):
        if name == "conv":
            x = CONVS[dims](x, block.conv.weight, block.conv.bias, block.conv.stride, block.conv.padding)
        elif name == "norm":
            x = F.batch_norm(x, None, None, block.norm.weight, block.norm.bias, True)
        else:
            x = x.relu()
    return x


@every_number_of_axes
@pytest.mark.parametrize("order", ["conv-norm-act", "conv-act-norm", "norm-act-conv"])
def test_conv_norm_act_is_its_layers_in_order(dims: int, order: str) -> None:
    block = named("ConvNormAct", dims)(3, 4, 3, padding=1, order=order)
    with torch.no_grad():
        block.norm.bias.uniform_(-1, 1)
    x = torch.randn(4, 3, *[5] * dims, requires_grad=True)
    torch.testing.assert_close(block(x), composed_block(block, order, x), rtol=1e-4, atol=1e-5)
    learned = [x, *block.parameters()]
    got, expected = (
        torch.autograd.grad(f(x).square().sum(), learned) for f in (block, lambda x: composed_block(block, order, x))
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert [name for name, _ in block.named_children()] == order.split("-")
    assert block.norm.num_features == (3 if order == "norm-act-conv" else 4)
    assert nn.ConvNormAct is nn.ConvNormAct2d


@pytest.mark.parametrize(
    ("arguments", "bias"),
    [
        (dict(), False),
        (dict(norm="instance"), False),
        (dict(norm=nn.BatchNorm2d), False),
        (dict(norm=torch.nn.BatchNorm2d), False),
        (dict(norm=nn.SyncBatchNorm), False),
        (dict(norm=lambda c: nn.GroupNorm(c, c)), False),
        (dict(norm=functools.partial(nn.GroupNorm, 2)), True),
        (dict(norm="group"), False),  # as many groups as channels
        (dict(norm="group", out_channels=64), True),
        (dict(norm="layer"), True),
        (dict(norm=nn.LayerNorm2d), True),
        (dict(norm=None), True),
        (dict(order="norm-act-conv"), True),
        (dict(order="conv-act-norm"), True),
        (dict(order="conv-act-norm", activation=None), False),
        (dict(bias=True), True),
        (dict(bias=False, norm=None), False),
    ],
    ids=lambda given: re.sub(" at 0x[0-9a-f]+", "", str(given)),  # the same in every process
)
def test_bias_is_dropped_where_the_norm_behind_takes_it_away(arguments: dict[str, Any], bias: bool) -> None:
    block = nn.ConvNormAct(**({"in_channels": 3, "out_channels": 4, "kernel_size": 3} | arguments))
    assert (block.conv.bias is not None) == bias
    x = torch.randn(2, 3, 6, 6)
    assert block(x).shape == (2, block.conv.out_channels, 4, 4)
    if "bias" in arguments or bias:
        return
    twin = nn.ConvNormAct(**({"in_channels": 3, "out_channels": 4, "kernel_size": 3} | arguments | {"bias": True}))
    twin.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(twin(x), block(x), rtol=1e-3, atol=1e-4)  # the dropped one did nothing


def test_names_of_norms_make_ours() -> None:
    made = {name: nn.ConvNormAct2d(3, 64, 1, norm=name).norm for name in ("batch", "instance", "group", "layer")}
    assert [type(m) for m in made.values()] == [nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.GroupNorm]
    assert (made["group"].num_groups, made["layer"].num_groups, made["instance"].affine) == (32, 1, True)
    assert nn.ConvNormAct2d(3, 48, 1, norm="group").norm.num_groups == 16
    assert [type(named("ConvNormAct", d)(3, 4, 1).norm) for d in (1, 2, 3)] == [
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
    ]


def test_parts_of_a_block_are_what_they_are_and_may_be_replaced() -> None:
    block = nn.ConvNormAct2d(3, 4, 3, activation=functools.partial(torch.nn.LeakyReLU, 0.2))
    plain = torch.nn.Sequential(block.conv, block.norm, block.act)
    assert [type(m) for m in block] == [nn.Conv2d, nn.BatchNorm2d, torch.nn.LeakyReLU]
    assert list(block.state_dict()) == ["conv.weight", *(f"norm.{n}" for n in torch.nn.BatchNorm2d(4).state_dict())]
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(block(x), plain(x))
    for name, part in (
        ("norm", nn.GroupNorm(2, 4)),
        ("act", torch.nn.Tanh()),
        ("norm", torch.nn.Identity()),
        ("conv", nn.Conv2d(3, 4, 1)),
    ):
        setattr(block, name, part)
        torch.testing.assert_close(block(x), block.act(block.norm(block.conv(x))))


def test_an_activation_that_blocks_share_stays_itself() -> None:
    shared = torch.nn.ReLU()
    blocks = [nn.ConvNormAct2d(3, 4, 3, norm=norm, activation=shared) for norm in ("batch", None)]
    assert type(shared) is torch.nn.ReLU and all(block.act is shared for block in blocks)
    norm = nn.BatchNorm2d(4)
    assert nn.ConvNormAct2d(3, 4, 3, norm=lambda c: norm).norm.activation is None


def test_a_block_is_a_sequential_that_folds_and_slices() -> None:
    block = nn.ConvNormAct2d(3, 4, 3)
    x = torch.randn(2, 3, 6, 6)
    block(x)
    block.eval()
    folded, report = fold(block, x)
    torch.testing.assert_close(folded(x), block(x), rtol=1e-4, atol=1e-5)
    assert report.entries[0].action != "left"
    assert type(block[:1]) is nn.Sequential and torch.equal(block[:1](x), block.conv(x)) and block[0] is block.conv


def test_repr_of_a_block_reads_like_its_layers() -> None:
    assert repr(nn.ConvNormAct2d(3, 8, 3, norm="layer", activation=torch.nn.GELU)) == (
        "ConvNormAct2d(\n  (conv): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))\n  (norm): GroupNorm(1, 8, "
        "eps=1e-05, affine=True"
        + (", bias=True" if "bias" in repr(torch.nn.GroupNorm(1, 8)) else "")
        + ")\n  (act): GELU(approximate='none')\n)"
    )
    assert repr(nn.PointwiseConv2d(3, 8)) == "PointwiseConv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))"
    assert (
        repr(nn.DepthwiseConv1d(3, 5, bias=False))
        == "DepthwiseConv1d(3, 3, kernel_size=(5,), stride=(1,), groups=3, bias=False)"
    )
    assert repr(nn.DepthwiseSeparableConv2d(3, 8, 3)) == (
        "DepthwiseSeparableConv2d(\n  (depthwise): DepthwiseConv2d(3, 3, kernel_size=(3, 3), stride=(1, 1), groups=3)\n"
        "  (pointwise): PointwiseConv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))\n)"
    )
    assert repr(nn.BlurPool2d(8)) == "BlurPool2d(8, size=3, stride=(2, 2), padding_mode='reflect')"


# ----------------------------------------------------------------------------------------------------------------- blur


@every_number_of_axes
@pytest.mark.parametrize("mode", ["reflect", "zeros", "replicate", "circular"])
@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_blur_is_a_binomial_filter_and_a_stride(dims: int, size: int, mode: str) -> None:
    layer, x = named("BlurPool", dims)(3, size, padding_mode=mode), whole(2, 3, *[9, 8, 7][:dims])
    row = torch.tensor([math.comb(size - 1, t) for t in range(size)]) / 2.0 ** (size - 1)
    around = [(size - 1) // 2, size // 2]
    y = x
    for axis in range(dims):  # separable: one axis after the other
        pads = [0, 0] * (dims - 1 - axis) + around + [0, 0] * axis
        y = F.pad(y, pads, mode="constant" if mode == "zeros" else mode)
    weight = functools.reduce(lambda f, _: f[..., None] * row, range(dims - 1), row).expand(3, 1, *[size] * dims)
    expected = CONVS[dims](y, weight, None, 2, groups=3)
    assert torch.equal(layer(x), expected) and expected.count_nonzero() > expected.numel() // 2
    assert layer(x).shape[2:] == tuple(-(-n // 2) for n in x.shape[2:])
    assert torch.equal(layer(x[0]), layer(x)[0])
    assert torch.equal(layer.filter.flatten(1).sum(1), torch.ones(3))


def test_blur_has_no_state_follows_conversions_and_keeps_constants() -> None:
    layer = nn.BlurPool2d(3, 5)
    assert list(layer.state_dict()) == [] and list(layer.parameters()) == []
    assert layer.double().filter.dtype is torch.float64
    assert torch.equal(layer(torch.full((1, 3, 9, 9), 7.0).double()), torch.full((1, 3, 5, 5), 7.0).double())
    x = torch.randn(1, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_blur_answers_a_shift_with_a_smaller_change_than_a_stride() -> None:
    x = torch.randn(4, 8, 32, 32)
    moved = x.roll(1, -1)
    blur = nn.BlurPool2d(8, 5, padding_mode="circular")
    change = (blur(x) - blur(moved)).square().mean() / blur(x).square().mean()
    assert change < 0.7 * (x[..., ::2] - moved[..., ::2]).square().mean() / x.square().mean()


# ------------------------------------------------------------------------------------------------------ what all can do

ALL: dict[str, Any] = {
    "PointwiseConv1d": lambda: (nn.PointwiseConv1d(4, 6), (4, 7)),
    "PointwiseConv2d": lambda: (nn.PointwiseConv2d(4, 6), (4, 7, 6)),
    "PointwiseConv3d": lambda: (nn.PointwiseConv3d(4, 6), (4, 5, 4, 3)),
    "DepthwiseConv1d": lambda: (nn.DepthwiseConv1d(4, 3), (4, 7)),
    "DepthwiseConv2d": lambda: (nn.DepthwiseConv2d(4, 3, multiplier=2), (4, 7, 6)),
    "DepthwiseConv3d": lambda: (nn.DepthwiseConv3d(4, 3), (4, 5, 4, 3)),
    "DepthwiseSeparableConv1d": lambda: (nn.DepthwiseSeparableConv1d(4, 6, 3), (4, 7)),
    "DepthwiseSeparableConv2d": lambda: (nn.DepthwiseSeparableConv2d(4, 6, 3), (4, 7, 6)),
    "DepthwiseSeparableConv3d": lambda: (nn.DepthwiseSeparableConv3d(4, 6, 3), (4, 5, 4, 3)),
    "SpatiallySeparableConv2d": lambda: (nn.SpatiallySeparableConv2d(4, 6, 3), (4, 7, 6)),
    "Bottleneck": lambda: (nn.Bottleneck(4, 2, 6, expand=True), (4, 7, 6)),
    "ChannelShuffle": lambda: (nn.ChannelShuffle(2), None),
    "SqueezeExcite": lambda: (nn.SqueezeExcite(4, 2, activation=torch.nn.SiLU), (4, 7, 6)),
    "ConvNormAct1d": lambda: (nn.ConvNormAct1d(4, 6, 3), None),
    "ConvNormAct2d": lambda: (nn.ConvNormAct2d(4, 6, 3), None),
    "ConvNormAct3d": lambda: (nn.ConvNormAct3d(4, 6, 3), None),
    "BlurPool1d": lambda: (nn.BlurPool1d(4), (4, 7)),
    "BlurPool2d": lambda: (nn.BlurPool2d(4), (4, 7, 6)),
    "BlurPool3d": lambda: (nn.BlurPool3d(4), (4, 5, 4, 3)),
}
ROOM = {"ChannelShuffle": (4, 5, 6), "ConvNormAct1d": (4, 7), "ConvNormAct2d": (4, 7, 6), "ConvNormAct3d": (4, 5, 4, 3)}


def test_every_public_block_is_among_those_tested_here() -> None:
    from striate.nn import blocks

    assert set(ALL) | {"ConvNormAct"} == set(blocks.__all__)


@pytest.mark.parametrize("name", ALL)
def test_copies_and_pickles_compute_the_same_unbatched_channels_last_and_with_gradients(name: str) -> None:
    layer, one = ALL[name]()
    shape = one or ROOM[name]
    x = torch.randn(2, *shape, requires_grad=True)
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), y) and repr(twin) == repr(layer)
    y.square().sum().backward()
    for g in (x.grad, *(p.grad for p in layer.parameters())):
        assert g is not None and g.count_nonzero() > g.numel() // 4
    if one is not None:
        torch.testing.assert_close(layer(x[0]), y[0])
    if x.dim() > 3:
        last = layer(x.detach().contiguous(memory_format=FORMATS[x.dim()]))
        assert last.is_contiguous(memory_format=FORMATS[x.dim()])
        torch.testing.assert_close(last, y)


@pytest.mark.parametrize("name", ALL)
def test_accelerate_takes_blocks_as_ours(name: str, recwarn: pytest.WarningsRecorder) -> None:
    layer, shape = ALL[name]()
    x = torch.randn(2, *(shape or ROOM[name]))
    y = layer(x)
    torch.testing.assert_close(striate.accelerate(torch.nn.Sequential(layer))(x), y)
    assert not [w for w in recwarn if "accelerate" in str(w.message)]


# --------------------------------------------------------------------------------------------------------------- errors

MODULE = "Give a class such as nn.ReLU, a function that makes a module, or a module."
WRONG: list[tuple[Any, type, str]] = [
    (
        lambda: nn.PointwiseConv2d(2.5, 3),
        ArgumentTypeError,
        "PointwiseConv2d expects in_channels to be an integer, got 2.5. Give one integer.",
    ),
    (
        lambda: nn.PointwiseConv2d(3, 0),
        ArgumentError,
        "PointwiseConv2d expects out_channels of at least 1, got 0. Choose a larger one.",
    ),
    (
        lambda: nn.PointwiseConv2d(3, 3, stride=0),
        ArgumentError,
        "PointwiseConv2d expects stride from 1 to 2^62, got 0. Choose a stride of at least 1.",
    ),
    (
        lambda: nn.DepthwiseConv2d(0, 3),
        ArgumentError,
        "DepthwiseConv2d expects channels from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.DepthwiseConv2d(True, 3),
        ArgumentTypeError,
        "DepthwiseConv2d expects channels to be an integer, got True. Give a whole number.",
    ),
    (
        lambda: nn.DepthwiseConv2d(4, 3, multiplier=0),
        ArgumentError,
        "DepthwiseConv2d expects multiplier from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.DepthwiseConv1d(4, 0),
        ArgumentError,
        "DepthwiseConv1d expects kernel_size from 1 to 2^62, got 0. Choose a kernel_size of at least 1.",
    ),
    (
        lambda: nn.DepthwiseConv3d(4, (3, 3)),
        ArgumentTypeError,
        "DepthwiseConv3d expects kernel_size to be one integer or 3, got (3, 3). Give one integer or 3.",
    ),
    (
        lambda: nn.DepthwiseConv2d(4, 3, padding=-1),
        ArgumentError,
        "DepthwiseConv2d expects padding from 0 to 2^62, got -1. Choose a padding of at least 0.",
    ),
    (
        lambda: nn.DepthwiseConv2d(4, 3, dilation=0.5),
        ArgumentTypeError,
        "DepthwiseConv2d expects dilation to be one integer or 2, got 0.5. Give one integer or 2.",
    ),
    (
        lambda: nn.DepthwiseConv2d(4, 3, padding_mode="wrap"),
        ArgumentError,
        (
            "DepthwiseConv2d expects a padding_mode that exists, got 'wrap'. Choose one of zeros, reflect, replicate, "
            "circular."
        ),
    ),
    (
        lambda: nn.DepthwiseSeparableConv2d(-3, 4, 3),
        ArgumentError,
        "DepthwiseSeparableConv2d expects in_channels from 1 to 2^62, got -3. Choose at least 1.",
    ),
    (
        lambda: nn.DepthwiseSeparableConv2d(3, "4", 3),
        ArgumentTypeError,
        "DepthwiseSeparableConv2d expects out_channels to be an integer, got '4'. Give a whole number.",
    ),
    (
        lambda: nn.SpatiallySeparableConv2d(3, 4, (3, 0)),
        ArgumentError,
        "SpatiallySeparableConv2d expects kernel_size from 1 to 2^62, got 0. Choose a kernel_size of at least 1.",
    ),
    (
        lambda: nn.SpatiallySeparableConv2d(3, 4, 3, middle=0),
        ArgumentError,
        "SpatiallySeparableConv2d expects middle from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.SpatiallySeparableConv2d(3, 4, 3, padding="full"),
        ArgumentError,
        (
            'SpatiallySeparableConv2d expects padding "same", "valid" or a number, got \'full\'. Use "same" for '
            "ceil(input / stride) outputs."
        ),
    ),
    (
        lambda: nn.SpatiallySeparableConv2d(3, 4, 3, padding_mode=1),
        ArgumentError,
        (
            "SpatiallySeparableConv2d expects a padding_mode that exists, got 1. Choose one of zeros, reflect, "
            "replicate, "
            "circular."
        ),
    ),
    (
        lambda: nn.Bottleneck(4, 0, 4),
        ArgumentError,
        "Bottleneck expects middle from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.ChannelShuffle(0),
        ArgumentError,
        "ChannelShuffle expects groups from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.ChannelShuffle(2.0),
        ArgumentTypeError,
        "ChannelShuffle expects groups to be an integer, got 2.0. Give a whole number.",
    ),
    (
        lambda: nn.SqueezeExcite(8, 0),
        ArgumentError,
        "SqueezeExcite expects reduction from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.SqueezeExcite(8, squeeze_channels=0),
        ArgumentError,
        "SqueezeExcite expects squeeze_channels from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (
        lambda: nn.SqueezeExcite(8, gate="sigmoid"),
        ArgumentTypeError,
        f"SqueezeExcite expects gate to make a module, got 'sigmoid'. {MODULE}",
    ),
    (
        lambda: nn.ConvNormAct2d(3, 4, 3, order="act-conv-norm"),
        ArgumentError,
        (
            "ConvNormAct2d expects an order of 'conv-norm-act', 'conv-act-norm', 'norm-act-conv', got 'act-conv-norm'. "
            "Name what comes first first."
        ),
    ),
    (
        lambda: nn.ConvNormAct2d(3, 4, 3, norm="weight"),
        ArgumentError,
        (
            "ConvNormAct2d expects a norm of 'batch', 'instance', 'group', 'layer', got 'weight'. Or give a class or "
            "function of the number of channels."
        ),
    ),
    (
        lambda: nn.ConvNormAct1d(3, 4, 3, norm=3),
        ArgumentTypeError,
        (
            "ConvNormAct1d expects norm to make a module, got 3. Give a class such as nn.BatchNorm2d, or a function of "
            "the number of channels that makes a module."
        ),
    ),
    (
        lambda: nn.ConvNormAct3d(3, 4, 3, activation="relu"),
        ArgumentTypeError,
        f"ConvNormAct3d expects activation to make a module, got 'relu'. {MODULE}",
    ),
    (
        lambda: nn.ConvNormAct2d(3, 4, 3, bias=1),
        ArgumentTypeError,
        "ConvNormAct2d expects bias to be True, False or None, got 1. None drops it where it is useless.",
    ),
    (
        lambda: nn.ConvNormAct2d(3, 0, 3),
        ArgumentError,
        "ConvNormAct2d expects out_channels from 1 to 2^62, got 0. Choose at least 1.",
    ),
    (lambda: nn.BlurPool2d(0), ArgumentError, "BlurPool2d expects channels from 1 to 2^62, got 0. Choose at least 1."),
    (
        lambda: nn.BlurPool2d(3, 8),
        ArgumentError,
        "BlurPool2d expects a size from 2 to 7, got 8. Choose 3, or 5 for a stronger blur.",
    ),
    (
        lambda: nn.BlurPool2d(3, 3.0),
        ArgumentTypeError,
        "BlurPool2d expects size to be an integer, got 3.0. Give a whole number.",
    ),
    (
        lambda: nn.BlurPool2d(3, stride=0),
        ArgumentError,
        "BlurPool2d expects stride from 1 to 2^62, got 0. Choose a stride of at least 1.",
    ),
    (
        lambda: nn.BlurPool2d(3, padding_mode="same"),
        ArgumentError,
        "BlurPool2d expects a padding_mode that exists, got 'same'. Choose one of zeros, reflect, replicate, circular.",
    ),
    (
        lambda: nn.BlurPool2d(3)(torch.ones(1, 4, 8, 8)),
        ShapeError,
        "BlurPool2d expects 3 channels, got 4. x: (1, 4, 8, 8). Set channels=4, or look at what comes before.",
    ),
    (
        lambda: nn.BlurPool1d(3)(torch.ones(1, 3, 8, 8)),
        ShapeError,
        (
            "BlurPool1d expects x of shape (N, C, L) or (C, L), got (1, 3, 8, 8). Add or drop axes with unsqueeze or "
            "flatten."
        ),
    ),
    (
        lambda: nn.BlurPool2d(3, 7)(torch.ones(1, 3, 8, 3)),
        ShapeError,
        (
            "BlurPool2d expects at least 4 values on each axis, got 3. x: (1, 3, 8, 3). Choose a smaller size, or "
            "padding_mode='replicate'."
        ),
    ),
    (
        lambda: nn.BlurPool2d(3)(None),
        ArgumentTypeError,
        "BlurPool2d expects a tensor, got NoneType. Call torch.as_tensor on it first.",
    ),
    (
        lambda: nn.SqueezeExcite(8)(torch.ones(1, 4, 3, 3)),
        ShapeError,
        "SqueezeExcite expects 8 channels, got 4. x: (1, 4, 3, 3). Set channels=4, or look at what comes before.",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "text"), WRONG, ids=[text.split(" expects ")[0] + str(k) for k, (_, _, text) in enumerate(WRONG)]
)
def test_what_cannot_be_meant_is_refused_with_this_text(call: Any, error: type, text: str) -> None:
    assert text_of(error, call) == text
