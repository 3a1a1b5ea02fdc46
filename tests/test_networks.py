"""The larger networks: torchvision's names, the papers' numbers, and the same training as with torch's layers."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from striate import accelerate, cli, models, nn, restore
from striate.deploy import fold
from striate.errors import ArgumentError
from striate.models.convnext import Block, StochasticDepth
from striate.models.mobilenet import InvertedResidual
from striate.models.resnet import BasicBlock, ResNetBottleneck
from striate.training import DataSet, open_data, open_run, run
from striate.training.data import Part

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = [
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnet50",
    "resnet_cifar",
    "mobilenet_v1",
    "mobilenet_v2",
    "convnext_tiny",
]
PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg11_bn": 132_868_840,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet_cifar": 272_474,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "convnext_tiny": 28_589_128,
}
MACS = {  # those that papers and torchvision print, in 10⁹
    "alexnet": 0.71,
    "vgg11_bn": 7.61,
    "resnet18": 1.81,
    "resnet50": 4.09,
    "resnet_cifar": 0.041,
    "mobilenet_v1": 0.569,
    "mobilenet_v2": 0.301,
    "convnext_tiny": 4.46,
}
LEAST_PX = {"alexnet": 63, "vgg11_bn": 32, "convnext_tiny": 32}


def on_meta(name: str, **arguments: Any) -> nn.Sequential:
    """The network on the meta device: shapes only."""
    with torch.device("meta"):
        return models.by_name(name)(**arguments)


# Names and numbers.


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.txt")))
def test_state_has_torchvisions_names_and_shapes_in_its_order(name: str) -> None:
    """The lists are those of torchvision 0.29.2: ``f"{name} {tuple(x.shape)}"`` for each item of its model's
    ``state_dict()``.
    """
    found = [f"{key} {tuple(x.shape)}" for key, x in on_meta(name).state_dict().items()]
    assert found == (GOLDEN / f"{name}.txt").read_text().splitlines()


def test_every_network_of_torchvision_has_its_list() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} >= set(NETWORKS) - {"resnet_cifar", "mobilenet_v1"}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    _, parameters, macs = measured(name)
    assert parameters[""] == PARAMETERS[name]
    assert round(macs[""] / 1e9, len(str(MACS[name])) - 2) == MACS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_row_of_the_docstrings_table_is_measured(name: str) -> None:
    shapes, parameters, macs = measured(name)
    lines = [line[4:] for line in (models.by_name(name).__doc__ or "").splitlines()]
    rules = [number for number, line in enumerate(lines) if line.startswith("====")]
    assert len(rules) == 3
    columns = [match.span() for match in re.finditer("=+", lines[rules[0]])]
    rows = [[line[start:end].strip() for start, end in columns] for line in lines[rules[1] + 1 : rules[2]]]
    assert (rows[0][0], rows[-1][0]) == ("input", "all")
    for layer, _, shape, own_parameters, own_macs in rows[1:]:
        path = "" if layer == "all" else layer
        documented = (shape, own_parameters, own_macs)
        found = (str(shapes[path]), *(f"{n:,}" if n else "" for n in (parameters[path], macs[path])))
        assert documented == found, layer
    for column, total in ((3, parameters[""]), (4, macs[""])):
        assert sum(int(row[column].replace(",", "") or 0) for row in rows[1:-1]) == total, (
            "the table leaves something out"
        )


@functools.cache
def measured(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, int], dict[str, int]]:
    """For each module: the shape of its output without the batch, its parameters, and its multiplications for one
    image.
    """
    model = restore(on_meta(name)).eval()  # torch's layers: the counter knows torch's operators
    side_px = 32 if name == "resnet_cifar" else 224
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda _, inputs, y, path=path: shapes.update({path: tuple(y.shape[1:])}))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, side_px, side_px, device="meta"))
    flops = counter.get_flop_counts()
    macs = {path: sum(flops.get(f"Sequential.{path}".rstrip("."), {}).values()) // 2 for path in shapes}
    return shapes, {path: sum(p.numel() for p in model.get_submodule(path).parameters()) for path in shapes}, macs


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_and_classes_are_arguments(name: str) -> None:
    model = on_meta(name, in_channels=2, classes=7)
    assert model(torch.empty(3, 2, 64, 64, device="meta")).shape == (3, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smallest_image_is_the_one_told(name: str) -> None:
    model, least = on_meta(name).eval(), LEAST_PX.get(name, 1)
    assert model(torch.empty(2, 3, least, least, device="meta")).shape[0] == 2
    if least > 1:
        with pytest.raises(RuntimeError):
            model(torch.empty(2, 3, least - 1, least, device="meta"))
        assert f"with H and W of at least {least}," in (models.by_name(name).__doc__ or "")


@pytest.mark.parametrize("layers", [8, 20, 56, 110])
def test_resnet_cifar_has_as_many_layers_as_asked(layers: int) -> None:
    model = on_meta("resnet_cifar", layers=layers)
    weighted = [
        path for path, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "downsample" not in path
    ]
    assert len(weighted) == layers
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [(layers - 2) // 6] * 3


@pytest.mark.parametrize(("width", "millions"), [(0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_mobilenet_v1_of_less_width_has_the_papers_parameters(width: float, millions: float) -> None:
    count = sum(p.numel() for p in on_meta("mobilenet_v1", width=width).parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: models.resnet_cifar(layers=18),
            "resnet_cifar expects 6n + 2 layers, n from 1 on, got 18. Use 20, 32, 44, 56 or 110.",
        ),
        (
            lambda: models.resnet_cifar(layers=2),
            "resnet_cifar expects 6n + 2 layers, n from 1 on, got 2. Use 20, 32, 44, 56 or 110.",
        ),
        (
            lambda: models.resnet_cifar(layers=20.0),
            "resnet_cifar expects 6n + 2 layers, n from 1 on, got 20.0. Use 20, 32, 44, 56 or 110.",
        ),
        (
            lambda: models.mobilenet_v1(width=0),
            "mobilenet_v1 expects a width above 0, got 0. Use 1, 0.75, 0.5 or 0.25.",
        ),
        (
            lambda: models.mobilenet_v1(width=float("inf")),
            "mobilenet_v1 expects a width above 0, got inf. Use 1, 0.75, 0.5 or 0.25.",
        ),
        (
            lambda: StochasticDepth(1),
            "StochasticDepth expects a p of 0 or more and below 1, got 1. Use 0.1; 1 would drop every sample.",
        ),
        (
            lambda: StochasticDepth(-0.1),
            "StochasticDepth expects a p of 0 or more and below 1, got -0.1. Use 0.1; 1 would drop every sample.",
        ),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        call()
    assert str(error.value) == message


# Blocks and first weights.


@pytest.mark.parametrize("kind", [BasicBlock, ResNetBottleneck])
@pytest.mark.parametrize(("inputs", "stride"), [(16, 1), (6, 1), (16, 2)])
def test_a_residual_block_whose_branch_is_silent_is_its_shortcut(kind: Any, inputs: int, stride: int) -> None:
    block = kind(inputs, 16 // kind.widening, stride).eval()
    torch.nn.init.zeros_((block.bn3 if kind is ResNetBottleneck else block.bn2).weight)
    x = torch.randn(2, inputs, 7, 7)
    kept = x.clone()
    with torch.no_grad():
        y, shortcut = block(x), block.downsample(x)
    assert torch.equal(y, shortcut.relu()) and y.count_nonzero() > y.numel() / 4
    assert torch.equal(x, kept), "the block wrote into its input"
    assert isinstance(block.downsample, nn.Identity) == (inputs == 16 and stride == 1)


def test_a_bottleneck_strides_in_its_3x3_convolution() -> None:
    block = ResNetBottleneck(16, 4, stride=2)
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3, block.downsample[0])] == [
        (1, 1),
        (2, 2),
        (1, 1),
        (2, 2),
    ]


@pytest.mark.parametrize(("outputs", "stride", "adds"), [(8, 1, True), (16, 1, False), (8, 2, False)])
def test_an_inverted_residual_adds_its_input_where_the_shape_stays(outputs: int, stride: int, adds: bool) -> None:
    block = InvertedResidual(8, outputs, expansion=6, stride=stride).eval()
    torch.nn.init.zeros_(block.conv[-1].weight)
    torch.nn.init.constant_(block.conv[-1].bias, 3.0)
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y, x + 3 if adds else torch.full_like(y, 3))


def test_a_convnext_block_without_its_scale_hands_the_input_on() -> None:
    block, x = Block(8), torch.randn(2, 8, 9, 9)
    assert torch.equal(block.layer_scale, torch.full((8, 1, 1), 1e-6))
    torch.nn.init.zeros_(block.layer_scale)
    assert torch.equal(block(x), x)
    torch.nn.init.ones_(block.layer_scale)
    conv, _, norm, first, _, second, _ = block.block
    normed = F.layer_norm(
        F.conv2d(x, conv.weight, conv.bias, padding=3, groups=8).movedim(1, -1), (8,), norm.weight, norm.bias, 1e-6
    )
    expected = x + F.linear(F.gelu(F.linear(normed, first.weight, first.bias)), second.weight, second.bias).movedim(
        -1, 1
    )
    assert torch.allclose(block(x), expected, atol=1e-5) and not torch.allclose(x, expected, atol=1e-2)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    layer, x = StochasticDepth(0.25), torch.rand(4000, 2, 3) + 0.5
    y = layer(x)
    dropped = y[:, 0, 0] == 0
    assert not y[dropped].any() and torch.equal(y[~dropped], x[~dropped] * torch.tensor(1 / 0.75))
    assert abs(dropped.double().mean().item() - 0.25) < 0.035  # five deviations of √(¼·¾/4000)
    assert layer.eval()(x) is x and StochasticDepth(0.0)(x) is x


def test_convnext_drops_more_the_deeper_the_block() -> None:
    rates = [m.p for m in on_meta("convnext_tiny").modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.1 * i / 17 for i in range(18)])


@pytest.mark.parametrize(
    "make",
    [models.resnet_cifar, models.mobilenet_v2, functools.partial(models.mobilenet_v1, width=0.5)],
    ids=["resnet", "v2", "v1"],
)
def test_first_weights_follow_he(make: Callable[[], nn.Sequential]) -> None:
    model = make()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        scaled = conv.weight.detach() * (conv.out_channels * conv.kernel_size[0] ** 2 / 2) ** 0.5
        assert (
            abs(scaled.std().item() - 1) < 5 / (2 * scaled.numel()) ** 0.5
            and abs(scaled.mean().item()) < 5 / scaled.numel() ** 0.5
        )
    assert len(convs) > 20 and all(conv.bias is None for conv in convs)


def test_first_weights_of_vgg_and_convnext_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, dict[str, Any]]] = []
    for law in ("kaiming_normal_", "normal_", "trunc_normal_", "zeros_"):
        monkeypatch.setattr(torch.nn.init, law, lambda x, law=law, **settings: drawn.append((law, settings)))
    with torch.device("meta"):
        models.vgg11_bn()
    he, zero = ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}), ("zeros_", {})
    own = [draw for draw in drawn if draw in (he, ("normal_", {"std": 0.01}))]
    assert own == [he] * 8 + [("normal_", {"std": 0.01})] * 3
    drawn.clear()
    with torch.device("meta"):
        models.convnext_tiny()
    assert drawn.count(("trunc_normal_", {"std": 0.02})) == 18 * 3 + 4 + 1 and drawn[-2:] == [
        ("trunc_normal_", {"std": 0.02}),
        zero,
    ]


@pytest.mark.parametrize("make", [models.resnet_cifar, models.mobilenet_v2], ids=["resnet_cifar", "mobilenet_v2"])
def test_every_norm_of_a_network_folds(make: Callable[[], nn.Sequential]) -> None:
    model = make().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    _, report = fold(model, (torch.randn(2, 3, 32, 32),))
    assert (report.folded, report.refused) == (len(norms), 0) and len(norms) > 20
    assert report.max_abs_difference <= 1e-5 * report.max_abs_output


# On the digits.


@pytest.mark.parametrize("name", ["resnet_cifar", "mobilenet_v1"])
def test_a_network_classifies_digits(name: str) -> None:
    assert digit_classifier(name)(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def digit_classifier(name: str) -> nn.Sequential:
    return models.classifier(name, 1, (28, 28), 10)


def test_a_model_that_needs_larger_images_is_refused_with_those_that_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--model", "alexnet", "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "striate: classifier expects a model for images of 28×28 pixels, one of lenet5, mlp_bn, cnn_bn, resnet_cifar, "
        "resnet18, resnet50, mobilenet_v1, mobilenet_v2, got 'alexnet'. Choose one of these, or resize the images to "
        "63 pixels or more on each side.\n"
    )
    assert printed.out == "" and not (tmp_path / "run").exists()


def test_the_command_trains_resnet_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_data("digits")
    few = DataSet("digits", data.classes, {name: part.take(torch.arange(64)) for name, part in data.parts.items()})
    monkeypatch.setattr(run, "open_data", lambda *arguments, **more: few)
    arguments = ["--model", "resnet_cifar", "--epochs", "1", "--threads", "1", "--out", str(tmp_path)]
    assert cli.main(["train", *arguments]) == 0
    assert f"results in {tmp_path}" in capsys.readouterr().out
    assert open_run(tmp_path).model().bn1.num_batches_tracked == 2


@pytest.fixture(scope="module")
def few() -> Part:
    return open_data("digits").parts["train"].take(torch.arange(16))


# The same training as with torch's layers.


def loss_curve(model: nn.Module, few: Part, images: int, steps: int, rate: float) -> torch.Tensor:
    """The losses before each step of gradient descent with momentum on the first images."""
    dtype = next(model.parameters()).dtype
    x, labels = few.images[:images].to(dtype) / 255, few.labels[:images]
    optimizer = torch.optim.SGD(model.train().parameters(), lr=rate, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def torchs(model: Any) -> Any:
    """The same network with torch's layers only."""
    twin = restore(copy.deepcopy(model))
    assert not [m for m in twin.modules() if type(m).__module__.startswith("striate.nn")]
    return twin


@pytest.mark.parametrize(
    ("name", "dtype", "images", "steps", "rate", "tolerance"),
    [
        # Torch's own convolutions in two memory formats differ by 1e-6, or by 2e-4 where a rounding switches a ReLU.
        ("lenet5", torch.float32, 16, 30, 0.015, 1e-3),
        # Roundings of 1e-16 grow fivefold a step: 1e-8 was the most after 12 steps, over three seeds. In float32 see
        # below.
        ("lenet5", torch.float64, 16, 30, 0.015, 1e-6),
        ("resnet_cifar", torch.float64, 8, 12, 0.01, 1e-6),
    ],
)
def test_a_network_trains_as_with_torchs_layers(
    few: Part, name: str, dtype: torch.dtype, images: int, steps: int, rate: float, tolerance: float
) -> None:
    torch.set_num_threads(1)
    model = digit_classifier(name).to(dtype)
    torch_losses, native_losses = (loss_curve(m, few, images, steps, rate) for m in (torchs(model), model))
    for losses in (torch_losses, native_losses):
        assert losses[-3:].max() < 0.7 * losses[0], "it does not learn"
    assert (native_losses - torch_losses).abs().max() <= tolerance


def test_resnet_cifar_in_float32_trains_as_with_torchs_layers_within_what_a_rounding_changes(few: Part) -> None:
    """In float32, roundings switch some of the ReLUs of 20 layers within a few steps, so that two runs of torch's
    layers diverge too.

    Their distance is measured, with initial weights that differ by at most half a unit in the last place. Striate's
    layers may diverge as far.
    """
    torch.set_num_threads(1)
    model = digit_classifier("resnet_cifar")
    settings = (few, 16, 12, 0.01)
    torch_losses, twins = loss_curve(torchs(model), *settings), []
    for _ in range(2):
        twin = torchs(model)
        with torch.no_grad():
            for p in twin.parameters():
                p.mul_(1 + (torch.rand_like(p) - 0.5) * 2**-22)
        twins.append(loss_curve(twin, *settings))
    noise = max((twin - torch_losses).abs().max().item() for twin in twins)
    assert noise < 0.3, "noise that large hides mistakes"
    for native_losses in (loss_curve(copy.deepcopy(model), *settings), loss_curve(accelerate(model), *settings)):
        for losses in (torch_losses, native_losses):
            assert losses[-3:].max() < 0.7 * losses[0], "it does not learn"
        assert abs(native_losses[0] - torch_losses[0]) <= 1e-5 and abs(native_losses[1] - torch_losses[1]) <= 1e-3, (
            "so early there is hardly any noise"
        )
        assert (native_losses - torch_losses).abs().max() <= 4 * noise
