"""The models have the numbers of the course notes."""

from __future__ import annotations

import copy

import pytest
import torch

from striate import models, nn, restore
from striate.errors import ArgumentError
from striate.nn.swap import BASES


def shapes_of(model: nn.Sequential, x: torch.Tensor) -> list[tuple[int, ...]]:
    shapes = []
    for layer in model:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    return shapes


def test_lenet5_has_the_notes_shapes() -> None:
    found = shapes_of(models.lenet5(), torch.rand(2, 1, 28, 28))
    assert found == [
        (20, 28, 28),
        (20, 28, 28),
        (20, 14, 14),
        (50, 14, 14),
        (50, 14, 14),
        (50, 7, 7),
        (2450,),
        (500,),
        (500,),
        (10,),
    ]


def test_lenet5_has_1256080_parameters() -> None:
    counts = [p.numel() for p in models.lenet5().parameters()]
    assert [a + b for a, b in zip(counts[::2], counts[1::2], strict=True)] == [520, 25_050, 1_225_500, 5_010]
    assert sum(counts) == 1_256_080


def test_lenet5_weights_have_the_notes_shapes() -> None:
    weights = [tuple(p.shape) for p in models.lenet5().parameters() if p.ndim > 1]
    assert weights == [(20, 1, 5, 5), (50, 20, 5, 5), (500, 2450), (10, 500)]


def test_lenet5_with_three_classes_gives_three_scores() -> None:
    assert models.lenet5(classes=3)(torch.rand(2, 1, 28, 28)).shape == (2, 3)


def test_mlp_bn_is_linear_norm_relu_linear() -> None:
    model = models.mlp_bn()
    assert [type(layer).__name__ for layer in model] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [p.numel() for p in model.parameters()] == [78_400, 100, 100, 100, 1_000, 10]
    assert model(torch.rand(64, 784)).shape == (64, 10)


def test_cnn_bn_halves_the_image_twice() -> None:
    model = models.cnn_bn()
    assert model(torch.rand(16, 3, 32, 32)).shape == (16, 32, 8, 8)
    assert sum(p.numel() for p in model.parameters()) == 448 + 32 + 4_640 + 64


@pytest.mark.parametrize("name", models.NAMES)
def test_every_name_makes_a_sequential_of_striates_layers_with_torchs_state(name: str) -> None:
    with torch.device("meta"):
        model = models.by_name(name)()
    assert type(model) is nn.Sequential and isinstance(model, torch.nn.Sequential)
    native_types = [type(m) for m in model.modules() if type(m).__module__.startswith("striate.nn")]
    assert not [m for m in model.modules() if type(m) in BASES], "a layer of torch's where striate has one"
    assert len(native_types) >= 1
    twin = restore(copy.deepcopy(model))
    assert {type(m) for m in twin.modules() if type(m).__module__.startswith("striate.nn")} <= {nn.LayerNorm2d}
    assert [(k, v.shape) for k, v in twin.state_dict().items()] == [(k, v.shape) for k, v in model.state_dict().items()]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ArgumentError) as error:
        models.by_name("lenet6")
    assert str(error.value) == (
        "models.by_name expects one of lenet5, mlp_bn, cnn_bn, resnet_cifar, alexnet, vgg11_bn, resnet18, resnet50, "
        "mobilenet_v1, mobilenet_v2, convnext_tiny, got 'lenet6'. Choose one of these names. Did you mean lenet5?"
    )
