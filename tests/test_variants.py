"""Each knob on each model: it works, with the layers that it names, or is refused with the reason."""

from __future__ import annotations

import copy
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from striate import models, nn
from striate.errors import ArgumentError, ShapeError
from striate.models.convnext import Block
from striate.models.initial import draw
from striate.models.mobilenet import InvertedResidual
from striate.models.places import NORMS, WEIGHTED
from striate.models.resnet import BasicBlock
from striate.models.variant import ACTIVATIONS, KNOBS, gain, vary

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "variants.md"
SHAPES: dict[str, tuple[int, int, int]] = {name: (3, 33, 33) for name in models.NAMES} | {
    "lenet5": (1, 17, 16),
    "mlp_bn": (1, 6, 5),
    "cnn_bn": (3, 13, 16),
    "resnet_cifar": (3, 12, 12),
    "alexnet": (3, 65, 65),
    "resnet18": (3, 65, 65),
    "resnet50": (3, 65, 65),
    "convnext_tiny": (3, 65, 65),
}
SMALL = ["lenet5", "mlp_bn", "cnn_bn", "resnet_cifar"]
CELLS = [(knob, value) for knob, values in KNOBS.items() for value in values if knob != "activation"]
CELLS += [("activation", "tanh"), ("activation", "silu")]
CLASSES = 5

# What models have no place for, with the reason.
NO_NORMS = "one without norms. Choose a norm too, as norm='batch'."
NO_POOL = "one without a max or average pooling between its layers. Leave pool out for this model."
BLOCK = "is one layer at {} places of its block's code. Leave norm_position out for this model."
REFUSED: dict[tuple[str, str, str], str] = {
    **{(model, "norm_position", value): NO_NORMS for model in ("lenet5", "alexnet") for value in ("before", "after")},
    **{
        (model, "pool", value): NO_POOL
        for model in ("resnet_cifar", "mobilenet_v1", "mobilenet_v2", "convnext_tiny")
        for value in ("max", "avg")
    },
    **{("mlp_bn", "pool", value): NO_POOL for value in ("max", "avg", "stride")},
    ("mlp_bn", "norm", "instance"): (
        "one with a single position at 2: a channel's variance over one value is 0. Choose batch, group or layer."
    ),
    ("mlp_bn", "head", "gap"): "one without a feature map before its linear layers. Leave head out for this model.",
    ("resnet_cifar", "norm_position", "after"): f"one whose layer1.0.relu {BLOCK.format(2)}",
    ("resnet18", "norm_position", "after"): f"one whose layer1.0.relu {BLOCK.format(2)}",
    ("resnet50", "norm_position", "after"): f"one whose layer1.0.relu {BLOCK.format(3)}",
    ("convnext_tiny", "norm", "instance"): (
        "one with a single position at classifier.0: a channel's variance over one value is 0. "
        "Choose batch, group or layer."
    ),
    **{
        ("convnext_tiny", "norm_position", value): (
            "one whose norms stand beside no activation. Leave norm_position out for this model."
        )
        for value in ("before", "after")
    },
}


def base(name: str, shape: tuple[int, int, int]) -> nn.Sequential:
    """A classifier of that name; of the deepest that may be shallower, one of few layers."""
    if name == "resnet_cifar":
        return models.resnet_cifar(CLASSES, shape[0], layers=8)
    return models.classifier(name, shape[0], shape[1:], CLASSES)


def norms_of(model: torch.nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, NORMS)]


def of(model: torch.nn.Module, *kinds: Any) -> list[Any]:
    return [m for m in model.modules() if type(m) in kinds]


def kind_of(norm: Any) -> str:
    """The kind of a norm by its class; a group norm of one group is a layer norm."""
    kinds = {
        "batch": (nn.BatchNorm1d, nn.BatchNorm2d),
        "layer": (nn.LayerNorm, nn.LayerNorm2d),
        "instance": (nn.InstanceNorm2d,),
        "sync": (nn.SyncBatchNorm,),
        "ghost": (nn.GhostBatchNorm2d,),
    }
    if type(norm) is nn.GroupNorm:
        return "group" if norm.num_groups > 1 else "layer"
    return next(kind for kind, classes in kinds.items() if type(norm) in classes)


def check_step(model: torch.nn.Module, shape: tuple[int, int, int], batch: int = 3) -> None:
    """A step of training gives finite scores and a gradient of each parameter, and changes what has one."""
    device = next(model.parameters()).device
    x, labels = torch.randn(batch, *shape, device=device), torch.arange(batch, device=device) % CLASSES
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    scores = model(x)
    assert scores.shape == (batch, CLASSES)
    F.cross_entropy(scores, labels).backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    if device.type != "meta":
        assert bool(scores.isfinite().all()) and all(bool(p.grad.isfinite().all()) for p in model.parameters())
        changed = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
        assert sum(changed) > len(changed) / 2
    assert model.eval()(x[:1]).shape == (1, CLASSES)


def check_cell(name: str, knob: str, value: str) -> None:
    """The knob works on the model, with the layers that it names, or is refused as the table says."""
    shape = SHAPES[name]
    model = base(name, shape)
    kept = {key: (x, x._version) for key, x in model.state_dict(keep_vars=True).items()}
    modules = list(model.named_modules())
    reason = REFUSED.get((name, knob, value))
    if reason is not None:
        with pytest.raises(ArgumentError) as error:
            vary(model, shape, **{knob: value})
        assert str(error.value) == f"vary expects a model that can have {knob}={value!r}, got {reason}"
    else:
        made = vary(model, shape, **{knob: value})
        check_layers(model, made, knob, value)
        assert {m.training for m in made.modules()} == {True}
        check_step(copy.deepcopy(made), shape)
    assert list(model.named_modules()) == modules, "the model given has changed"
    assert {k: (x, x._version) for k, x in model.state_dict(keep_vars=True).items()} == kept


def check_layers(model: Any, made: Any, knob: str, value: str) -> None:
    if knob == "norm":
        assert {kind_of(m) for m in norms_of(made)} == ({value} if value != "none" else set())
        had = len(norms_of(model)) or sum(isinstance(m, WEIGHTED) for m in model.modules()) - 1
        had -= len(of(model, nn.Linear)) - 1 if value == "instance" and not norms_of(model) else 0
        assert len(norms_of(made)) == (0 if value == "none" else had)
    elif knob == "activation":
        kind: Any = ACTIVATIONS[value]
        were = of(model, nn.ReLU, nn.ReLU6, nn.GELU)
        assert len(of(made, kind)) == len(were) > 0 and not of(made, nn.ReLU, nn.ReLU6, nn.GELU)
    elif knob == "pool":
        pools = of(model, nn.MaxPool2d)
        assert not of(made, nn.AvgPool2d, nn.MaxPool2d) if value == "stride" else True
        kind = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d, "stride": nn.Conv2d}[value]
        before = len(of(model, kind)) if value == "stride" else 0
        assert len(of(made, kind)) == before + len(pools)
    elif knob == "head":
        averages = [m for m in of(made, nn.AdaptiveAvgPool2d) if m.output_size in (1, (1, 1))]
        assert len(averages) == (value == "gap")
        if value == "gap":
            rest = list(made.modules())[list(made.modules()).index(averages[0]) :]
            assert len(of(torch.nn.ModuleList(rest), nn.Linear)) == 1


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("knob", "value"), CELLS)
def test_a_knob_works_on_a_small_model_or_is_refused(name: str, knob: str, value: str) -> None:
    torch.manual_seed(0)
    check_cell(name, knob, value)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in models.NAMES if name not in SMALL])
@pytest.mark.parametrize(("knob", "value"), CELLS)
def test_a_knob_works_on_any_model_or_is_refused(name: str, knob: str, value: str) -> None:
    with torch.device("meta"):  # the same steps without values, which the small models have
        check_cell(name, knob, value)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("alexnet", {"norm": "batch", "norm_position": "after", "pool": "avg", "head": "gap"}),
        ("vgg11_bn", {"norm": "sync", "norm_position": "after", "pool": "stride"}),
        ("resnet18", {"norm": "group", "activation": "silu", "pool": "avg"}),
        pytest.param("mobilenet_v1", {"norm": "none", "activation": "hardswish"}, marks=pytest.mark.nightly),
        pytest.param("mobilenet_v2", {"norm": "ghost", "norm_position": "after"}, marks=pytest.mark.nightly),
        pytest.param("convnext_tiny", {"norm": "batch", "head": "flatten"}, marks=pytest.mark.nightly),
    ],
)
def test_knobs_go_together_on_a_larger_model(name: str, knobs: dict[str, str]) -> None:
    with torch.device("meta"):
        made = models.classifier(name, 3, SHAPES[name][1:], CLASSES, **knobs)
        check_step(made, SHAPES[name])
    plain = [m for m in made.modules() if not list(m.children())]
    assert all(type(m).__module__.startswith(("striate.nn", "torch.nn", "striate.models.convnext")) for m in plain)
    assert {kind_of(m) for m in norms_of(made)} == ({knobs["norm"]} if knobs["norm"] != "none" else set())


def test_all_knobs_at_once_on_a_small_model_learn() -> None:
    torch.manual_seed(0)
    knobs = {"norm": "group", "norm_position": "after", "pool": "stride", "head": "gap", "init": "he"}
    model = models.classifier("lenet5", 1, (16, 16), 2, activation="gelu", **knobs)
    x, labels = torch.randn(16, 1, 16, 16), torch.arange(16) % 2
    x[labels == 1, :, :8] += 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


# Which layers stand where.


def names(model: torch.nn.Module) -> list[str]:
    return [f"{name} {type(m).__name__}" for name, m in model.named_modules() if not list(m.children())]


def test_norms_are_added_behind_layers_with_weights_but_the_last_and_other_names_stay() -> None:
    model = models.lenet5(classes=CLASSES, size=(8, 8))
    made = vary(model, (1, 8, 8), norm="batch")
    assert names(made) == [
        "0 Conv2d",
        "norm_0 BatchNorm2d",
        "1 ReLU",
        "2 MaxPool2d",
        "3 Conv2d",
        "norm_3 BatchNorm2d",
        "4 ReLU",
        "5 MaxPool2d",
        "6 Flatten",
        "7 Linear",
        "norm_7 BatchNorm1d",
        "8 ReLU",
        "9 Linear",
    ]
    assert all(made.state_dict(keep_vars=True)[key] is x for key, x in model.state_dict(keep_vars=True).items())
    moved = vary(made, (1, 8, 8), norm_position="after")
    assert [name.split()[1] for name in names(moved)][:4] == ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d"]
    assert moved.state_dict().keys() == made.state_dict().keys()
    assert names(vary(moved, (1, 8, 8), norm_position="before")) == names(made)
    assert names(vary(moved, (1, 8, 8), norm="none")) == names(model)


def test_instance_norms_are_added_only_where_there_are_positions() -> None:
    made = vary(models.lenet5(size=(8, 8)), (1, 8, 8), norm="instance")
    assert [name for name, m in made.named_children() if isinstance(m, nn.InstanceNorm2d)] == ["norm_0", "norm_3"]


@pytest.mark.parametrize("block", [BasicBlock(8, 8), InvertedResidual(8, 8, 6)], ids=["basic", "inverted"])
def test_a_block_without_norms_has_biases_in_their_place(block: Any) -> None:
    made = vary(nn.Sequential(block), (8, 6, 6), norm="none")
    convs = of(made, nn.Conv2d)
    assert all(conv.bias is not None and not conv.bias.any() for conv in convs) and not norms_of(made)
    assert all(conv.bias is None for conv in of(block, nn.Conv2d))


def test_convolutions_whose_norm_moves_behind_the_activation_have_biases() -> None:
    made = vary(nn.Sequential(InvertedResidual(8, 8, 6)), (8, 6, 6), norm_position="after")
    kinds = [type(m).__name__ for m in made.modules() if not list(m.children())]
    assert kinds == ["Conv2d", "ReLU6", "BatchNorm2d", "Conv2d", "ReLU6", "BatchNorm2d", "Conv2d", "BatchNorm2d"]
    assert [conv.bias is not None for conv in of(made, nn.Conv2d)] == [True, True, False]


def test_norms_of_the_last_axis_are_exchanged_with_the_axes_moved() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Block(8)).eval(), torch.randn(2, 8, 5, 5)
    torch.nn.init.ones_(model[0].layer_scale)
    made = vary(model, (8, 5, 5), norm="batch")
    assert [type(m).__name__ for m in made[0].block[2]] == ["_Permute", "BatchNorm2d", "_Permute"]
    conv, _, _, first, act, second, _ = model[0].block
    normed = conv(x) / math.sqrt(1 + 1e-5)
    expected = x + second(act(first(normed.movedim(1, -1)))).movedim(-1, 1)
    assert torch.allclose(made(x), expected, atol=1e-5)
    assert vary(model, (8, 5, 5), norm="layer")[0].block[2].weight is model[0].block[2].weight


@pytest.mark.parametrize(
    ("channels", "groups"), [(3, 1), (4, 1), (8, 2), (16, 4), (20, 4), (50, 2), (64, 16), (128, 32), (512, 32)]
)
def test_a_group_has_four_channels_at_least(channels: int, groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, channels, 1), nn.ReLU(), nn.Conv2d(channels, 2, 1))
    assert vary(model, (1, 4, 4), norm="group").norm_0.num_groups == groups


def test_an_average_ignores_padding_and_a_maximum_comes_back() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.Conv2d(2, 2, 1))
    average = vary(model, (1, 6, 6), pool="avg")
    assert torch.equal(average[1](torch.ones(1, 2, 6, 6)), torch.ones(1, 2, 4, 4))
    again = vary(average, (1, 6, 6), pool="max")[1]
    assert repr(again) == repr(model[1])


def test_a_convolution_in_place_of_a_pooling_has_its_window_and_an_activation() -> None:
    made = vary(plain(nn.LeakyReLU(0.2), nn.MaxPool2d(3, 2, padding=1)), (1, 9, 9), pool="stride")
    assert names(made) == ["0 Conv2d", "1 LeakyReLU", "2 Conv2d", "act_2 LeakyReLU", "3 Conv2d"]
    assert (made[2].kernel_size, made[2].stride, made[2].padding) == ((3, 3), (2, 2), (1, 1))
    assert made[3].negative_slope == 0.2 and made[3] is not made[1]


def test_averaging_the_features_leaves_one_linear_layer() -> None:
    made = vary(models.lenet5(size=(8, 8)), (1, 8, 8), head="gap")
    assert names(made)[-3:] == ["avgpool_6 AdaptiveAvgPool2d", "6 Flatten", "9 Linear"]
    assert made[-1].in_features == 50
    with torch.device("meta"):
        alexnet = models.classifier("alexnet", 3, (64, 64), CLASSES, head="gap")
    head = ["avgpool AdaptiveAvgPool2d", "flatten Flatten", "classifier.0 Dropout", "classifier.6 Linear"]
    assert names(alexnet)[-4:] == head


def test_a_flattened_head_reads_every_position() -> None:
    made = models.classifier("resnet_cifar", 3, (16, 12), CLASSES, head="flatten")
    assert made.fc.in_features == 64 * 4 * 3 and "avgpool" not in dict(made.named_modules())
    again = vary(made, (3, 16, 12), head="gap")
    assert again.fc.in_features == 64


# Sync and ghost batch norm.


def test_sync_batch_norm_on_one_process_is_batch_norm() -> None:
    torch.manual_seed(0)
    plain = models.classifier("lenet5", 1, (12, 12), CLASSES, norm="batch")
    sync = vary(plain, (1, 12, 12), norm="sync")
    sync.load_state_dict(plain.state_dict())
    sync, x = copy.deepcopy(sync), torch.randn(6, 1, 12, 12)
    assert {type(m) for m in norms_of(sync)} == {nn.SyncBatchNorm}
    losses = []
    for model in (plain, sync):
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
        for _ in range(3):
            loss = F.cross_entropy(model(x), torch.arange(6) % CLASSES)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        losses.append(F.cross_entropy(model.eval()(x), torch.arange(6) % CLASSES).item())
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-5)


@pytest.mark.parametrize("batch", [2, 16, 31, 32])
def test_ghost_batch_norm_takes_every_size_of_a_batch(batch: int) -> None:
    made = models.classifier("lenet5", 1, (8, 8), CLASSES, norm="ghost")
    assert {m.ghost_batch_size for m in norms_of(made)} == {16}
    check_step(made, (1, 8, 8), batch)


# First weights.


WIDTH = 512  # inputs and outputs of each layer


def spread(h: Tensor) -> float:
    """The relative variance of the mean square of W·h over WIDTH outputs and all samples, for weights N(0, σ²).

    Of each output it is 2·‖HHᵀ‖²/tr(HHᵀ)²: 2 if all samples are alike, less the more they differ. h: ``(N, inputs)``.
    """
    gram = h @ h.T
    return (2 / WIDTH * gram.square().sum() / gram.trace() ** 2).item()


def growth(activation: torch.nn.Module) -> float:
    """By what power the mean square behind an activation follows that before it, which is near 1."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    low, high = ((activation(q**0.5 * z).square() * (-z.square() / 2).exp()).sum().log().item() for q in (0.99, 1.01))
    return (high - low) / math.log(1.01 / 0.99)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_he_keeps_the_mean_square_through_many_layers(activation: str) -> None:
    torch.manual_seed(0)
    layers = itertools.chain.from_iterable((nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]()) for _ in range(10))
    x = torch.randn(256, WIDTH)
    made = vary(nn.Sequential(*layers, nn.Linear(WIDTH, 2)), (WIDTH,), init="he")[:-1]
    power, own = growth(ACTIVATIONS[activation]()), gain(ACTIVATIONS[activation]()) ** 2
    variance, h = 0.0, x
    for at in range(0, 20, 2):
        # each layer by itself gives 1 for values of mean square 1 before the activation: four deviations, and 0.02 for
        # the mean square of 131,072 values f(x), whose deviation is 0.006 (of the ReLU, √5/√131,072) at most
        alone = x if at == 0 else made[at - 1](x)
        assert abs(made[at](alone).square().mean().item() - 1) < 4 * spread(alone) ** 0.5 + 0.02
        # and one after the other
        y = made[at](h)
        expected = h.square().mean() * (1 if at == 0 else own)
        assert abs(y.square().mean() / expected - 1) < 4 * spread(h) ** 0.5
        # Each layer adds its deviation, and each activation raises those so far to its power.
        variance, h = power**2 * (variance + spread(h)), made[at + 1](y)
    # Where that power is above 1, as with SiLU, GELU and Hardswish, deviations grow with depth and are soon too large
    # to be added up so: there, the layers one by one must do.
    assert power > 1.01 or abs(math.log(h.square().mean().item() * own)) < 4 * variance**0.5


def test_he_keeps_the_mean_square_through_convolutions_and_small_weights_do_not() -> None:
    torch.manual_seed(0)
    layers = itertools.chain.from_iterable((nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()) for _ in range(8))
    model, x = nn.Sequential(*layers, nn.Conv2d(64, 2, 1)), torch.randn(4, 64, 24, 24)

    def ratio(law: str) -> float:
        made = vary(model, (64, 24, 24), init=law)[:-1]
        first, last = made[:2](x), made(x)
        return (last[..., 8:-8, 8:-8].square().mean() / first[..., 8:-8, 8:-8].square().mean()).item()

    assert 0.6 < ratio("he") < 1.6
    assert ratio("xavier") < 0.03  # a half for each of seven ReLUs
    assert ratio("normal") < 1e-8


@pytest.mark.parametrize("law", KNOBS["init"])
def test_weights_have_the_deviation_of_their_law(law: str) -> None:
    torch.manual_seed(0)
    model = models.mobilenet_v1(classes=10, width=0.5)
    old = copy.deepcopy(model.state_dict())
    made = vary(model, (3, 32, 32), init=law)
    for layer in (m for m in made.modules() if isinstance(m, WEIGHTED)):
        w = layer.weight.detach().double()
        groups = getattr(layer, "groups", 1)
        fan_in, fan_out = w[0].numel(), w.shape[0] // groups * w[0, 0].numel()
        factor = 1 if layer is made.features[0][0] else 2  # the first layer reads no ReLU
        std = {"he": (factor / fan_in) ** 0.5, "xavier": (2 / (fan_in + fan_out)) ** 0.5, "normal": 0.01}[law]
        kurtosis = 1.8 if law == "xavier" else 3.0
        assert abs((w / std).square().mean().item() - 1) < 5 * ((kurtosis - 1) / w.numel()) ** 0.5
        assert layer.bias is None or not layer.bias.any()
        if law == "xavier":
            assert w.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5
    assert all(torch.equal(x, old[key]) for key, x in model.state_dict().items()), "the model given has changed"
    norm = norms_of(made)[0]
    assert norm.weight is norms_of(model)[0].weight


def test_the_gains_are_those_of_the_literature() -> None:
    for slope in (0.0, 0.01, 0.3):
        assert gain(nn.LeakyReLU(slope)) == pytest.approx((2 / (1 + slope**2)) ** 0.5, rel=1e-6)
    assert gain(nn.Tanh()) == pytest.approx(1.5925374, rel=1e-6)  # the paper's 5/3 is an approximation of another law


def test_a_transposed_convolution_has_its_fans_exchanged() -> None:
    torch.manual_seed(0)
    layer = draw(nn.Sequential(nn.ConvTranspose2d(64, 16, 3, groups=2)), "he")[0]
    assert abs(layer.weight.std().item() * (32 * 9) ** 0.5 - 1) < 0.05


def test_tied_weights_stay_tied_when_drawn() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    made = vary(model, (4,), init="normal")
    assert made[0].weight is made[2].weight is not model[0].weight
    assert not model[0].weight.requires_grad or made[0].weight.requires_grad


# Models of users.


class Net(torch.nn.Module):
    """A user's network of torch's layers, whose own code calls them."""

    def __init__(self, functional: bool = False) -> None:
        super().__init__()
        self.conv1, self.relu1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.ReLU()
        self.pool, self.gate = torch.nn.MaxPool2d(2), torch.nn.Sigmoid()
        self.conv2, self.relu2 = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU()
        self.hidden, self.relu3 = torch.nn.Linear(128, 12), torch.nn.ReLU()
        self.out = torch.nn.Linear(12, CLASSES)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        y = self.relu2(self.conv2(x))
        x = torch.flatten(x * self.gate(y), 1)
        x = self.hidden(x)
        return self.out(F.relu(x) if self.functional else self.relu3(x))


@pytest.mark.parametrize(("knob", "value"), [(k, v) for k, v in CELLS if v not in ("before", "after", "gap")])
def test_a_users_network_takes_knobs(knob: str, value: str) -> None:
    made = vary(Net(), (3, 8, 8), **{knob: value})
    check_step(copy.deepcopy(made), (3, 8, 8))
    if knob == "activation":
        assert len(of(made, ACTIVATIONS[value])) == 3 and type(made.gate) is torch.nn.Sigmoid
    if knob == "norm" and value != "none":
        assert [name for name, _ in made.conv1.named_children()] == ["conv2d", "norm"]
    if knob == "pool" and value == "stride":
        assert [type(m).__name__ for m in made.pool] == ["Conv2d", "ReLU"]


def test_norms_of_a_users_network_move() -> None:
    made = vary(Net(), (3, 8, 8), norm="layer", norm_position="after")
    check_step(copy.deepcopy(made), (3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    hidden = made.conv1(x)
    mean = (hidden if isinstance(made.relu1, nn.Identity) else made.relu1(hidden)).mean((1, 2, 3))
    assert mean.abs().max() < 1e-6


def test_activations_that_write_into_their_input_are_seen() -> None:
    layers = [torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(inplace=True)]
    layers += [torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(72, CLASSES)]
    model = torch.nn.Sequential(*layers)
    made = vary(model, (3, 8, 8), norm="batch", norm_position="after", init="he")
    assert [type(m).__name__ for m in made][:3] == ["Conv2d", "ReLU", "BatchNorm2d"] and made[0].bias is not None
    check_step(copy.deepcopy(made), (3, 8, 8))
    last = [vary(one, (3, 8, 8), init="he")[-1].weight.std().item() * 72**0.5 for one in (made, model)]
    assert last == pytest.approx([1, 2**0.5], rel=0.15)  # it reads a norm; it reads the activation


def test_a_model_that_cannot_be_copied_is_told_so() -> None:
    model = plain(nn.ReLU())
    model.open_file = open(__file__)  # type: ignore[assignment]  # noqa: SIM115
    with pytest.raises(ArgumentError) as error:
        vary(model, (1, 9, 9), activation="silu")
    model.open_file.close()
    assert str(error.value) == (
        "vary expects a model that can be copied, got TypeError: cannot pickle '_io.TextIOWrapper' object. Take out "
        "what keeps copy.deepcopy(model) from working."
    )


def test_an_averaged_head_is_put_behind_the_layer_before_a_functional_flatten() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Linear(288, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.conv(x)).flatten(1))

    made = vary(Plain(), (3, 8, 8), head="gap")
    assert made.fc.in_features == 8 and [type(m).__name__ for m in made.act] == ["ReLU", "AdaptiveAvgPool2d"]
    check_step(made, (3, 8, 8))


class Fused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNormAct2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


class Repeated(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(self.conv(x)))


class Counting(torch.nn.Module):
    """Its code needs the pooling's indices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv2d(1, 2, 1), nn.MaxPool2d(2, return_indices=True), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.pool(self.conv(x))
        return self.out(y)


def plain(*between: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), *between, nn.Conv2d(2, 2, 1))


@pytest.mark.parametrize(
    ("model", "knobs", "message"),
    [
        (
            lambda: plain(),
            {"norm": "bach"},
            "vary expects norm to be one of batch, group, layer, instance, sync, ghost, none, got 'bach'. Choose one "
            "of these, or None to leave the model's own. Did you mean batch?",
        ),
        (
            lambda: plain(),
            {"init": 3},
            "vary expects init to be one of he, xavier, normal, got 3. Choose one of these, or None to leave the "
            "model's own.",
        ),
        (
            lambda: nn.ReLU(),
            {"norm": "batch"},
            "vary expects a model with layers in it, got ReLU. Give the model that holds the layers.",
        ),
        (
            lambda: plain(),
            {"activation": "silu"},
            "vary expects a model that can have activation='silu', got one without activations between its layers. "
            "Leave activation out for this model.",
        ),
        (
            lambda: Net(functional=True),
            {"activation": "silu"},
            "vary expects a model that can have activation='silu', got one that calls relu at {line} as a function. "
            "Make it a layer, as nn.ReLU().",
        ),
        (
            lambda: nn.Sequential(Fused(), nn.Linear(4, 2)),
            {"norm": "group"},
            "vary expects a model that can have norm='group', got one whose norm 0.norm computes an activation too. "
            "Use a norm and an activation that are layers of their own.",
        ),
        (
            lambda: Repeated(),
            {"norm": "batch"},
            "vary expects a model that can have norm='batch', got one whose conv is called twice, with one norm for "
            "two distributions. Leave norm out for this model.",
        ),
        (
            lambda: Counting(),
            {"pool": "avg"},
            "vary expects a model that can have pool='avg', got one whose pool gives the places of its maxima too. "
            "Leave pool out for this model.",
        ),
        (
            lambda: plain(nn.MaxPool2d(2, 2, ceil_mode=True)),
            {"pool": "stride"},
            "vary expects a model that can have pool='stride', got one whose 1 rounds its size up. Leave pool out for "
            "this model.",
        ),
        (
            lambda: plain(nn.MaxPool2d(2, 2, dilation=2)),
            {"pool": "avg"},
            "vary expects a model that can have pool='avg', got one whose 1 is dilated, which no average pooling is. "
            "Leave pool out for this model.",
        ),
        (
            lambda: plain(),
            {"head": "gap"},
            "vary expects a model that can have head='gap', got one without a linear layer behind its last feature "
            "map. Leave head out for this model.",
        ),
        (
            lambda: nn.Sequential(Fused(), nn.Linear(4, 2)),
            {"head": "flatten"},
            "vary expects a model that can have head='flatten', got one that averages by mean at {line}. Make it a "
            "layer.",
        ),
        (
            lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(9, 9)) and Parametrized(),
            {"init": "he"},
            "draw expects layer to hold its weight, got one that it computes. Take the parametrization off, or leave "
            "init out.",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(model: Any, knobs: Any, message: str) -> None:
    made = model()
    channels = next((m.in_channels for m in made.modules() if isinstance(m, torch.nn.Conv2d)), 3)
    shape = (9,) if isinstance(made, Parametrized) else (channels, 9, 9) if not isinstance(made, Net) else (3, 8, 8)
    modules = list(made.named_modules())
    with pytest.raises(ArgumentError) as error:
        vary(made, shape, **knobs)
    assert re.sub(r"at \S+\.py:\d+", "at {line}", str(error.value)) == message
    assert list(made.named_modules()) == modules


class Parametrized(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(9, 9))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def test_code_that_depends_on_what_changes_is_told_so() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pool(self.conv(x)).reshape(-1, 2))

    with pytest.raises(ArgumentError) as error:
        vary(Fixed(), (1, 4, 4), head="flatten")
    assert str(error.value).startswith("vary expects a model that gives (2, 2) with head='flatten', got ")
    assert str(error.value).endswith("Its own code depends on the layers that change: change them there.")


def test_samples_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ShapeError, match="a forward that runs on x"):
        vary(models.lenet5(), (3, 28, 28), norm="batch")


def test_without_a_knob_the_model_itself_comes_back() -> None:
    model = models.lenet5()
    assert vary(model, (1, 28, 28)) is model


def test_a_variant_can_be_scripted_copied_and_loaded() -> None:
    made = models.classifier("lenet5", 1, (8, 8), CLASSES, norm="batch", norm_position="after").eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(torch.jit.script(made)(x), made(x), atol=1e-6)
    twin = models.classifier("lenet5", 1, (8, 8), CLASSES, norm="batch", norm_position="after").eval()
    twin.load_state_dict(made.state_dict())
    assert torch.equal(twin(x), made(x)) and torch.equal(copy.deepcopy(made)(x), made(x))


# Classifiers.


@pytest.mark.parametrize("name", models.NAMES)
def test_every_model_classifies_images_from_its_least_size_on(name: str) -> None:
    least = models.LEAST_PX.get(name, 1)
    with torch.device("meta"):
        for size in ((least, least + 9), (least + 5, least)):
            assert models.classifier(name, 2, size, 7).eval()(torch.empty(3, 2, *size)).shape == (3, 7)


@pytest.mark.parametrize("name", models.LEAST_PX)
def test_images_that_are_too_small_are_refused_with_the_models_that_fit(name: str) -> None:
    least = models.LEAST_PX[name]
    with pytest.raises(ArgumentError) as error:
        models.classifier(name, 2, (100, least - 1), 7)
    fitting = [one for one in models.NAMES if models.LEAST_PX.get(one, 1) < least]
    assert str(error.value) == (
        f"classifier expects a model for images of 100×{least - 1} pixels, one of {', '.join(fitting)}, got '{name}'. "
        f"Choose one of these, or resize the images to {least} pixels or more on each side."
    )
    if name != "lenet5":  # which refuses by itself, see below
        with torch.device("meta"):
            features, x = models.by_name(name)().eval(), torch.empty(2, 3, 99, least - 1)
        with pytest.raises(RuntimeError):
            features(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet6", 1, (28, 28), 10), "Did you mean lenet5?"),
        (
            ("lenet5", 0, (28, 28), 10),
            "classifier expects channels of at least 1, got 0. Use a whole number from 1 on.",
        ),
        (("lenet5", 1, (28, 0), 10), "classifier expects width of at least 1, got 0. Use a whole number from 1 on."),
        (("lenet5", 1, (28, 28), 1), "classifier expects classes of at least 2, got 1. Use a whole number from 2 on."),
        (
            ("lenet5", 1, (28, 28), True),
            "classifier expects classes of at least 2, got True. Use a whole number from 2 on.",
        ),
    ],
)
def test_a_classifier_that_cannot_be_meant_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        models.classifier(*arguments)
    assert str(error.value).endswith(message)


def test_lenet5_refuses_images_that_vanish() -> None:
    with pytest.raises(ArgumentError) as error:
        models.lenet5(size=(3, 28))
    expected = "lenet5 expects images of at least 4×4 pixels, got 3×28. Use 28×28, or resize the images."
    assert str(error.value) == expected


# The guide.

guide = pytest.mark.skipif(not GUIDE.exists(), reason="documents are not installed, only the checkout has them")


def table(first: str) -> list[list[str]]:
    """The rows of the guide's table whose first column has this title."""
    lines = GUIDE.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


@guide
def test_the_guide_lists_the_knobs_and_their_values() -> None:
    rows = {row[0].strip("`"): tuple(re.findall("`(.+?)`", row[1])) for row in table("knob")[2:]}
    assert rows == KNOBS


@guide
def test_the_guides_table_lists_what_is_refused() -> None:
    head, _, *rows = table("model")
    assert [row[0] for row in rows] == list(models.NAMES) and head[1:] == list(KNOBS)
    listed = {
        (row[0], knob, value)
        for row in rows
        for knob, cell in zip(head[1:], row[1:], strict=True)
        for value in re.findall("`(.+?)`", cell)
    }
    assert listed == set(REFUSED)


@guide
def test_the_numbers_of_the_guide_are_those_of_the_code() -> None:
    text = " ".join(GUIDE.read_text().split())
    gap = sum(p.numel() for p in models.classifier("lenet5", 1, (28, 28), 10, head="gap").parameters())
    assert gap == 520 + 25_050 + 510 and f"{round(gap / 1000)} thousand are left" in text
    with torch.device("meta"):
        resnet18 = models.resnet18(classes=5).state_dict()
    assert f"Loaded {len(resnet18) - 2} of {len(resnet18)} tensors." in text
    with pytest.raises(ArgumentError, match="one with a single position at layer4"), torch.device("meta"):
        models.classifier("resnet18", 3, (32, 32), 5, norm="instance")
