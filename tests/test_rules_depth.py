"""Lint rules about depth: each with a network that has the mistake, and a similar one that does not."""

from __future__ import annotations

import pytest
import torch
from findings import findings
from torch import Tensor, nn

import striate


def perceptron(activation: type[nn.Module], count: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(
        *(layer for _ in range(count) for layer in (nn.Linear(4, 4), activation(), *more)), nn.Linear(4, 2)
    )


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


# ----------------------------------------------------------------------------------------------------------- saturation


def test_sigmoids_in_a_row_leave_a_quarter_of_the_gradient_each() -> None:
    assert findings("deep-saturation", perceptron(nn.Sigmoid, 5), (1, 4)) == [
        (
            "warning",
            "9",
            "It is the last of 5 saturating activations without a norm or a shortcut between, whose slopes leave at "
            "most 0.00098 of the "
            "gradient.",
        )
    ]
    assert findings("deep-saturation", perceptron(nn.Tanh, 12), (1, 4)) == [
        (
            "warning",
            "23",
            "It is the last of 12 saturating activations without a norm or a shortcut between, whose slopes leave "
            "about 0.0027 of the "
            "gradient.",
        )
    ]


def test_sigmoids_in_functions_are_counted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:4]:
                x = layer(x).sigmoid()
            return self.layers[4](x)

    assert findings("deep-saturation", Net(), (1, 4)) == [
        (
            "warning",
            "sigmoid_4",
            "It is the last of 4 saturating activations without a norm or a shortcut between, whose slopes leave at "
            "most 0.0039 of the "
            "gradient.",
        )
    ]


@pytest.mark.parametrize(
    "net",
    [
        perceptron(nn.Sigmoid, 3),
        perceptron(nn.Tanh, 11),
        perceptron(nn.ReLU, 20),
        perceptron(nn.SiLU, 20),
        perceptron(nn.Sigmoid, 6, nn.LayerNorm(4)),
        nn.Sequential(*(Residual(perceptron(nn.Sigmoid, 2)[:4]) for _ in range(6))),
        nn.Sequential(perceptron(nn.Sigmoid, 3), nn.Sigmoid()),
    ],
    ids=["few", "few tanh", "relu", "silu", "norm", "residual", "output"],
)
def test_few_sigmoids_norms_shortcuts_and_outputs_are_fine(net: nn.Module) -> None:
    assert findings("deep-saturation", net, (2, 4)) == []


def test_the_slope_of_tanh_is_the_mean_over_a_normal_variable() -> None:
    z = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    weight = (-z * z / 2).exp()
    assert f"{float(((1 - z.tanh() ** 2) * weight).sum() / weight.sum()):.2f}" == "0.61"


# ------------------------------------------------------------------------------------------------------- mixed channels


def depthwise(channels: int = 8, outputs: int | None = None, stride: int = 1) -> nn.Module:
    return nn.Conv2d(channels, outputs or channels, 3, stride, padding=1, groups=channels)


def test_channels_that_are_never_mixed_are_told_with_what_they_reach() -> None:
    rule, stem, input = "depthwise-without-pointwise", nn.Conv2d(3, 8, 3), (1, 3, 12, 12)
    assert findings(rule, nn.Sequential(stem, nn.ReLU(), depthwise(outputs=16), nn.ReLU()), input) == [
        ("warning", "2", "Its 16 channels reach the output without being mixed.")
    ]
    rows = [layer for _ in range(3) for layer in (depthwise(), nn.ReLU())]
    assert findings(rule, nn.Sequential(stem, *rows, nn.Conv2d(8, 4, 1)), input) == [
        ("warning", "1", "Its 8 channels reach the third depthwise convolution in a row, 5, without being mixed.")
    ]
    assert findings(
        rule, nn.Sequential(stem, depthwise(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), input
    ) == [("warning", "1", "Its 8 channels reach the pooling 2 without being mixed.")]


class Scaled(nn.Module):
    """A residual block without an activation, with a layer scale, like the token mixers of FastViT."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.scale = body, nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


class Excited(nn.Module):
    """Squeeze and excite between the depthwise convolution and the pointwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.gate, self.pointwise = depthwise(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).relu()
        return self.pointwise(y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(depthwise(), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        nn.Sequential(nn.Conv2d(8, 8, (1, 7), groups=8), nn.Conv2d(8, 8, (7, 1), groups=8), nn.Conv2d(8, 4, 1)),
        nn.Sequential(depthwise(), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)),
        nn.Sequential(depthwise(), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 4)),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4)),
        nn.Sequential(depthwise(), nn.ReLU(), depthwise(), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        nn.Sequential(*(Scaled(depthwise()) for _ in range(4)), nn.Conv2d(8, 4, 1)),
        Excited(),
        depthwise(),
    ],
    ids=[
        "separable",
        "two axes",
        "pooled",
        "flat",
        "grouped",
        "cheap operation",
        "linear residual",
        "excited",
        "alone",
    ],
)
def test_channels_that_are_mixed_later_are_fine(net: nn.Module) -> None:
    assert findings("depthwise-without-pointwise", net, (2, 8, 12, 12)) == []


# -------------------------------------------------------------------------------------------------------- linear chains


def test_two_convolutions_without_an_activation_between_are_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU())
    assert findings("no-nonlinearity", net, (1, 3, 8, 8)) == [
        (
            "warning",
            "1",
            "It reads 0 with no nonlinearity between: their 792 weights, 8×3×3×3 and 8×8×3×3, make one linear map.",
        )
    ]


def test_norms_of_the_batch_poolings_of_means_and_flattening_are_linear() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 5)
    )
    message = (
        "It reads 0 through 1, linear too, with no nonlinearity between: their 576 weights, 8×3×3×3 and 5×72, make "
        "one linear map."
    )
    assert findings("no-nonlinearity", net, (2, 3, 8, 8)) == [("warning", "5", message)]


def test_a_kernel_behind_a_wide_pointwise_convolution_is_told() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 3))
    assert findings("no-nonlinearity", net, (1, 4, 8, 8)) == [
        (
            "warning",
            "1",
            "It reads 0 with no nonlinearity between: their 304 weights, 4×4×1×1 and 8×4×3×3, make one linear map.",
        )
    ]


def test_linear_layers_in_a_row_are_told_each() -> None:
    net = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 9), nn.Linear(9, 3))
    assert findings("no-nonlinearity", net, (1, 4)) == [
        (
            "warning",
            "1",
            "It reads 0 with no nonlinearity between: their 117 weights, 9×4 and 9×9, make one linear map.",
        ),
        (
            "warning",
            "2",
            "It reads 1 with no nonlinearity between: their 108 weights, 9×9 and 3×9, make one linear map.",
        ),
    ]


class Ratio(nn.Module):
    """Products and quotients that are nonlinear, though a factor is the model's own or there is only one."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.one, self.other, self.scale = (
            way,
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1),
            nn.Parameter(torch.ones(4, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.way == "square":
            return self.other(y * y)
        return self.other(self.scale / y if self.way == "inverse" else y / self.scale)


def test_a_scale_is_linear_and_a_square_and_an_inverse_are_not() -> None:
    reported = {
        way: [place for _, place, _ in findings("no-nonlinearity", Ratio(way), (2, 4, 5, 5))]
        for way in ("square", "inverse", "scale")
    }
    assert reported == {"square": [], "inverse": [], "scale": ["other"]}


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.gate, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.other(y * self.gate(y).sigmoid())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)),
        nn.Sequential(nn.Conv2d(4, 4, (3, 1)), nn.Conv2d(4, 4, (1, 3))),
        nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 8, 1)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 16, 1)),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)),
        nn.Sequential(nn.Conv2d(4, 8, 2, 2), nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 3)),
        nn.Sequential(Residual(nn.Conv2d(4, 4, 1)), Residual(nn.Conv2d(4, 4, 1))),
        nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 4, 3)),
        striate.nn.ConvNormAct2d(4, 4, 3),
        Gated(),
    ],
    ids=[
        "activation",
        "separable",
        "axes",
        "bottleneck",
        "expansion",
        "maximum",
        "group norm",
        "residual",
        "shuffle",
        "block",
        "gate",
    ],
)
def test_maps_that_save_work_and_nonlinear_ones_are_fine(net: nn.Module) -> None:
    assert findings("no-nonlinearity", net, (2, 4, 12, 12)) == []


def test_a_block_whose_activation_its_norm_computes_is_not_linear() -> None:
    net = nn.Sequential(striate.nn.ConvNormAct2d(4, 4, 3), striate.nn.ConvNormAct2d(4, 4, 3))
    assert findings("no-nonlinearity", net, (2, 4, 12, 12)) == []


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "convnext_tiny", "vgg11_bn", "mobilenet_v1"])
def test_good_networks_have_none_of_these(name: str) -> None:
    model = striate.models.by_name(name)()
    for rule in ("deep-saturation", "depthwise-without-pointwise", "no-nonlinearity"):
        assert findings(rule, model, (1, 3, 224, 224)) == [], rule
