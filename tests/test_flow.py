"""The flow of gradients: its factors against closed forms and theory, its verdicts, and what it cannot take."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import nn as tnn

from striate import models, nn
from striate.diagnostics import GradientFlow, gradient_flow
from striate.errors import ArgumentError, ArgumentTypeError

XAVIER, HE = 1.0, math.sqrt(2)
LARGE = {"resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2"}


def total(output: Tensor, target: object) -> Tensor:
    return output.sum()


def chain(activation: Callable[[], tnn.Module], gain: float, layers: int = 10, width: int = 128) -> nn.Sequential:
    """Linear layers of one width, whose weights have the deviation gain/√width, each with an activation."""
    torch.manual_seed(3)
    parts: list[tnn.Module] = []
    for _ in range(layers):
        linear = nn.Linear(width, width)
        tnn.init.normal_(linear.weight, 0.0, gain / math.sqrt(width))
        tnn.init.zeros_(linear.bias)
        parts += [linear, activation()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def flow_of(model: tnn.Module, width: int = 128, **arguments: Any) -> GradientFlow:
    torch.manual_seed(5)
    return gradient_flow(model, F.cross_entropy, (torch.randn(64, width), torch.arange(64) % 10), **arguments)


# -------------------------------------------------------------------------------------------------------- closed forms


def test_a_chain_of_numbers_has_the_products_of_its_weights() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(4))).double()
    for number, layer in enumerate(model):
        tnn.init.constant_(layer.weight, 0.5 * (number + 1))
    flow = gradient_flow(model, total, (torch.tensor([[2.0]], dtype=torch.float64), None))
    assert [row.factor for row in flow] == [0.5, 1.0, 1.5, 2.0] == [row.expected for row in flow]
    assert [row.input_gradient for row in flow] == [1.5, 3.0, 3.0, 2.0] and flow.output_gradient == 1.0
    # by w_1 of 2·w_1·w_2·w_3·w_4, and so on
    assert [row.weight_gradient for row in flow] == [6.0, 3.0, 2.0, 1.5]
    assert flow.total == 1.5 and flow.mean_factor == pytest.approx(1.5**0.25)
    assert [row.zeros for row in flow] == [0.0] * 4 and [row.slope for row in flow] == [1.0] * 4


def test_an_orthogonal_matrix_keeps_the_norm_times_its_scale() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).double()
    for layer, scale in zip(model, (3.0, 0.25), strict=True):
        tnn.init.orthogonal_(layer.weight, scale)
    x = torch.randn(5, 16, dtype=torch.float64)
    flow = gradient_flow(model, lambda output, target: output.square().sum(), (x, None))
    assert [row.factor for row in flow] == pytest.approx([3.0, 0.25]) == [row.expected for row in flow]


def test_the_slope_of_an_activation_is_the_root_of_its_mean_squared_derivative() -> None:
    model, x = chain(nn.Tanh, XAVIER, layers=2), torch.randn(64, 128)
    flow = gradient_flow(model, F.cross_entropy, (x, torch.arange(64) % 10))
    z = model[0](x).detach()
    assert flow[0].slope == pytest.approx(float((1 - z.tanh().square()).square().mean().sqrt()), rel=1e-6)


def test_the_gain_of_a_layer_is_the_root_of_fan_in_times_the_mean_square_of_its_weights() -> None:
    for layer in (nn.Linear(40, 70), nn.Conv2d(6, 10, 3, groups=2, padding_mode="circular", padding=1)):
        x = torch.randn(64, 40) if isinstance(layer, tnn.Linear) else torch.randn(16, 6, 9, 9)
        flow = gradient_flow(nn.Sequential(layer), lambda output, target: output.square().mean(), (x, None))
        fan_in = layer.weight[0].numel()
        assert flow[0].gain == pytest.approx(math.sqrt(fan_in * float(layer.weight.detach().square().mean())), rel=0.03)


def test_the_gain_counts_the_padding_that_gives_nothing_back() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1)
    tnn.init.normal_(layer.weight, 0.0, 1 / math.sqrt(32 * 9))
    x = torch.randn(64, 32, 2, 2)
    flow = gradient_flow(nn.Sequential(layer), lambda output, target: output.square().mean(), (x, None))
    assert flow[0].gain == pytest.approx(4 / 6, rel=0.03)  # of 3×3 taps, each output of 2×2 has 2×2 on the image


def test_poolings_have_the_slope_that_follows_from_their_windows() -> None:
    for pool, slope in ((nn.AvgPool2d(2), 0.5), (nn.MaxPool2d(2), 1.0), (nn.GlobalAvgPool2d(), 1 / 6)):
        model = nn.Sequential(nn.Conv2d(1, 2, 1), pool)
        x = torch.randn(3, 1, 6, 6)
        flow = gradient_flow(model, lambda output, target: output.square().sum(), (x, None))
        assert flow[0].slope == pytest.approx(slope, rel=1e-5)


def test_a_batch_norm_has_the_slope_of_its_scale_over_the_deviation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 50), nn.BatchNorm1d(50), nn.Linear(50, 5))
    tnn.init.constant_(model[1].weight, 3.0)
    x = 4 * torch.randn(200, 20)
    flow = gradient_flow(model, F.cross_entropy, (x, torch.arange(200) % 5))
    deviations = model[0](x).detach().std(0, correction=0)
    # of each channel's 200 directions, the mean and the variance take two away
    slope = 3 * float(deviations.pow(-2).mean().sqrt()) * math.sqrt(198 / 200)
    assert flow[0].slope == pytest.approx(slope, rel=0.02)
    frozen = gradient_flow(model.eval(), F.cross_entropy, (x, torch.arange(200) % 5))
    assert frozen[0].slope == pytest.approx(3 / math.sqrt(1 + 1e-5))


# -------------------------------------------------------------------------------------------------------------- theory


@pytest.mark.parametrize(
    ("activation", "gain", "low", "high"),
    [
        (nn.Sigmoid, XAVIER, 0.232, 0.240),
        (nn.ReLU, HE, 0.95, 1.05),
        (nn.ReLU, XAVIER, 0.95 * math.sqrt(0.5), 1.05 * math.sqrt(0.5)),
        (nn.ReLU, 3.0, 2.02, 2.22),
    ],
    ids=["sigmoid with Xavier", "relu with He", "relu with Xavier", "relu with gain 3"],
)
@pytest.mark.parametrize("layers", [10, 30])
def test_the_factors_are_those_of_theory(
    activation: Callable[[], tnn.Module], gain: float, low: float, high: float, layers: int
) -> None:
    flow = flow_of(chain(activation, gain, layers))
    assert len(flow) == layers + 1
    whole = math.prod(row.factor or 0.0 for row in flow[:-1])
    assert low < whole ** (1 / layers) < high
    for row in flow[1:-1]:
        assert row.factor == pytest.approx(row.expected, rel=0.12), row


def test_along_a_chain_the_factors_are_the_ratios_of_the_gradients() -> None:
    flow = flow_of(chain(nn.Tanh, 1.5))
    norms = [*(row.input_gradient for row in flow), flow.output_gradient]
    ratios = [one / other for one, other in itertools.pairwise(norms)]  # type: ignore[operator]
    assert [row.factor for row in flow] == pytest.approx(ratios, rel=1e-4)
    assert math.prod(ratios) == pytest.approx(flow.total)


def test_the_norms_are_autograds() -> None:
    model, x, target = chain(nn.ReLU, HE, 3), torch.randn(64, 128), torch.arange(64) % 10
    flow = gradient_flow(model, F.cross_entropy, (x, target), rate=0.5)
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), target).backward()
    assert flow[0].input_gradient == pytest.approx(float(leaf.grad.norm()), rel=1e-5)
    for row, layer in zip(flow, model[::2], strict=True):
        gradient, weight = layer.weight.grad, layer.weight.detach()
        assert row.weight_gradient == pytest.approx(float(gradient.norm()), rel=1e-5)
        assert row.update == pytest.approx(0.5 * float(gradient.norm() / weight.norm()), rel=1e-5)
        assert row.zeros == pytest.approx(float((gradient == 0).float().mean()))


def test_yangs_factor_of_batch_norm_with_relu_is_seen() -> None:
    """√(π/(π − 1)) = 1.211 a layer (Yang et al., 2019): batch norm makes gradients explode at initialisation."""
    torch.manual_seed(0)
    parts: list[tnn.Module] = []
    for _ in range(16):
        parts += [nn.Linear(256, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()]
        tnn.init.kaiming_normal_(parts[-3].weight)
    flow = flow_of(nn.Sequential(*parts, nn.Linear(256, 10)), 256)
    factors = [row.factor for row in flow[4:-1]]
    assert math.prod(factors) ** (1 / len(factors)) == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.04)


# ------------------------------------------------------------------------------------------------------------ networks


class Branched(tnn.Module):
    """u' = relu(u + W₂·relu(W₁·u))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, u: Tensor) -> Tensor:
        return F.relu(u + self.second(F.relu(self.first(u))))


def test_in_a_residual_branch_a_factor_is_that_of_the_branch_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Branched(64), Branched(64), nn.Linear(64, 10))
    for block in model[:2]:
        tnn.init.orthogonal_(block.first.weight, 0.5)
        tnn.init.zeros_(block.second.weight)
    flow = flow_of(model, 64)
    assert [row.name for row in flow] == ["0.first", "0.second", "1.first", "1.second", "2"]
    assert flow[0].factor is None and flow[1].factor == 0.0  # nothing reaches the branch
    for block in model[:2]:
        tnn.init.orthogonal_(block.second.weight, 2.0)
    flow = flow_of(model, 64)
    assert flow[0].factor == pytest.approx(0.5 * math.sqrt(0.5), rel=0.15)
    assert flow[0].factor == pytest.approx(flow[0].expected, rel=0.15)
    # to the end of the block, where the branch and its input go through the ReLU; by its input all paths count
    assert flow[1].expected == pytest.approx(flow[1].gain * flow[1].slope)
    assert flow[0].input_gradient > 1.3 * flow[0].factor * flow[1].input_gradient


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if name in LARGE else [])
        for name in models.NAMES
        if name not in ("alexnet", "vgg11_bn", "convnext_tiny")
    ],
)
def test_every_stage_of_a_network_has_a_factor_near_what_is_expected(name: str) -> None:
    torch.manual_seed(0)
    model = models.classifier(name, 3, (32, 32), 10)
    flow = gradient_flow(model, F.cross_entropy, (torch.randn(8, 3, 32, 32), torch.arange(8)))
    weighted = [name for name, m in model.named_modules() if isinstance(m, tnn.Conv2d | tnn.Linear)]
    assert sorted(row.name for row in flow) == sorted(weighted) and flow.kind == "fine"
    for row in flow:
        assert row.input_gradient > 0 and row.weight_gradient > 0
        # where most taps are on padding, maps are 2×2 or 1×1: too few values for gradients to be independent of a norm
        assert row.zeros > 0.5 or row.factor == pytest.approx(row.expected, rel=0.25), row


def test_layers_that_are_called_twice_have_a_row_a_call() -> None:
    layer = nn.Linear(4, 4)
    flow = gradient_flow(nn.Sequential(layer, nn.ReLU(), layer), total, (torch.randn(3, 4), None))
    assert [row.name for row in flow] == ["0", "0 (call 2)"] and flow[0].weight_gradient == flow[1].weight_gradient


def test_an_activation_in_place_changes_nothing() -> None:
    flows = []
    for in_place in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.ReLU(in_place), nn.Linear(8, 8), nn.ReLU(in_place), nn.Linear(8, 4), nn.Sigmoid())
        x = torch.randn(6, 8)
        given = x.clone()
        flows.append(gradient_flow(model, total, (x, None)))
        assert torch.equal(x, given)
    assert flows[0] == flows[1] and flows[0][0].slope < 1


def test_recurrent_attending_and_parametrized_layers_have_rows() -> None:
    class Read(tnn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = tnn.Embedding(70, 8)
            self.recurrent = tnn.GRU(8, 8, batch_first=True)
            self.attention = tnn.MultiheadAttention(8, 2, batch_first=True)
            self.norm = tnn.LayerNorm((5, 8))
            self.last = tnn.utils.parametrizations.weight_norm(tnn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.recurrent(self.words(x))
            return self.last(self.norm(self.attention(states, states, states)[0]).mean(1))

    x, target = torch.randint(0, 70, (4, 5)), torch.arange(4) % 3
    flow = gradient_flow(Read(), F.cross_entropy, (x, target))
    assert [row.name for row in flow] == ["words", "recurrent", "attention", "last"]
    assert flow[0].input_gradient is None and flow[0].factor is None and flow[0].weight_gradient > 0
    assert flow[0].zeros > 0  # words that are not in the batch
    assert all(row.factor > 0 and row.expected > 0 and row.weight_gradient > 0 for row in flow[1:])
    assert flow.total is not None and flow.kind == "fine"


def test_branches_that_join_layers_of_no_effect_and_an_output_of_several_parts_are_taken() -> None:
    class Joined(tnn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 8, 3, padding=1)
            self.aside, self.last, self.unused = nn.Linear(8, 2), nn.Linear(8, 4), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = torch.cat([x, F.relu(self.first(x))], 1)
            y = F.relu_(self.second(y)).mean((2, 3))
            return {"aside": self.aside(y), "scores": self.last(y), "unused": self.unused(y)}

    torch.manual_seed(0)
    batch = (torch.randn(16, 3, 8, 8), torch.arange(16) % 4)
    flow = gradient_flow(Joined(), lambda output, target: F.cross_entropy(output["scores"], target), batch)
    assert [row.name for row in flow] == ["first", "second", "aside", "last", "unused"]
    for row in flow[:2]:
        assert row.factor == pytest.approx(row.expected, rel=0.15)
    assert [flow[number].weight_gradient for number in (2, 4)] == [0.0, 0.0] and flow[3].weight_gradient > 0
    assert flow.output_gradient is None and flow.total == flow[0].input_gradient / flow[4].input_gradient


def test_frozen_weights_pass_the_gradient_on_and_have_none() -> None:
    model = chain(nn.ReLU, HE, 2)
    model[2].requires_grad_(False)
    flow = flow_of(model, rate=0.1)
    assert (flow[1].weight_gradient, flow[1].update, flow[1].zeros) == (None, None, None)
    assert flow[1].factor == pytest.approx(1.0, rel=0.1)


def test_layers_that_run_without_gradients_have_no_row() -> None:
    class Frozen(tnn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.first(x)
            return self.last(x)

    (row,) = gradient_flow(Frozen(), total, (torch.randn(4, 3), None))
    assert (row.name, row.input_gradient, row.factor) == ("last", None, None) and row.weight_gradient > 0


def test_the_share_of_zeros_is_that_of_weights_of_dead_units() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    tnn.init.constant_(model[0].weight, 1.0)
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.0] * 5 + [-99.0] * 3))
    flow = gradient_flow(model, total, (torch.rand(3, 4), None))
    assert [row.zeros for row in flow] == [3 / 8, 3 / 8]


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_vanishing_exploding_and_fine_flows_are_named_with_their_number() -> None:
    found = [flow_of(chain(*given)).verdict for given in ((nn.Sigmoid, XAVIER), (nn.ReLU, HE), (nn.ReLU, 4.0))]
    assert [text.split(":")[0] for text in found] == ["vanishing", "fine", "exploding"]
    flow = flow_of(chain(nn.Sigmoid, XAVIER))
    assert found[0] == (
        f"vanishing: the norm of the gradient changes by a factor of {flow.mean_factor:.3g} a layer, "
        f"{flow.total:.3g} over 11 of them."
    )


def test_a_gradient_that_underflows_float32_when_squared_is_still_measured() -> None:
    flow = flow_of(chain(nn.Sigmoid, XAVIER, 50))
    assert flow[0].input_gradient > 0 and flow[0].input_gradient < 1e-28 and flow.kind == "vanishing"


def test_a_loss_that_is_flat_gives_no_gradient() -> None:
    flow = gradient_flow(chain(nn.ReLU, HE, 2), lambda output, target: 0 * output.sum(), (torch.randn(4, 128), None))
    assert flow.kind == "no gradient" and flow.total is None and flow.mean_factor is None
    assert flow.verdict == "no gradient: that of the loss by the output of the model is 0."
    assert [row.factor for row in flow] == [None] * 3 and [row.zeros for row in flow] == [1.0] * 3


def test_a_gradient_that_is_not_finite_is_named_with_the_layer_where_it_begins() -> None:
    model = chain(nn.ReLU, HE, 3)
    tnn.init.constant_(model[2].weight, math.inf)
    flow = gradient_flow(model, lambda output, target: output.nan_to_num(0, 0, 0).sum(), (torch.rand(4, 128), None))
    assert flow.kind == "not finite"
    assert flow.verdict.startswith("not finite: on its way back the gradient is infinite or NaN first at ")


# ------------------------------------------------------------------------------------------------------------- results


def test_a_flow_is_a_sequence_and_json() -> None:
    flow = flow_of(chain(nn.ReLU, HE, 2), rate=0.1)
    assert len(flow) == 3 == len(list(flow)) and flow[-1].name == "4" and flow[:2] == flow.rows[:2]
    found = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert found["kind"] == "fine" and found["verdict"] == flow.verdict and found["total"] == flow.total
    assert found["rows"][1]["factor"] == flow[1].factor and found["rows"][1]["expected"] == flow[1].expected


def test_the_table_has_a_line_a_layer_and_the_verdict() -> None:
    flow = flow_of(chain(nn.ReLU, HE, 2), rate=0.1)
    lines = flow.table().splitlines()
    assert lines[0].split() == ["layer", "class", "‖∂L/∂x‖", "‖∂L/∂w‖", "factor", "expected", "update", "zeros"]
    assert lines[2].split()[:2] == ["2", "Linear"] and lines[-1] == flow.verdict and str(flow) == flow.table()
    assert len(lines) == 1 + 3 + 2 and "update" not in flow_of(chain(nn.ReLU, HE, 2)).table()


def test_the_picture_is_svg_with_the_names_of_the_layers() -> None:
    text = flow_of(chain(nn.ReLU, HE, 2)).picture()
    assert text.startswith("<svg") and "measured" in text and "expected" in text and ">fine: " in text


def test_the_same_seed_gives_the_same_flow_and_the_global_generators_do_not_matter() -> None:
    model = chain(nn.ReLU, HE, 3)
    first = flow_of(model)
    torch.rand(7)
    assert flow_of(model) == first != flow_of(model, seed=1)


def test_a_flow_is_measured_where_gradients_are_off() -> None:
    model = chain(nn.ReLU, HE, 2)
    first = flow_of(model)
    with torch.no_grad():
        assert flow_of(model) == first
    with torch.inference_mode():
        assert flow_of(model) == first


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"batch": torch.ones(2, 4)},
            ArgumentTypeError,
            "gradient_flow expects batches that are pairs (x, target), got Tensor. Put one batch into a list: "
            "[(x, target)].",
        ),
        (
            {"batch": (torch.ones(0, 4), None)},
            ArgumentError,
            "gradient_flow expects batches with samples, got an empty one. Leave it out.",
        ),
        (
            {"rate": 0.0},
            ArgumentError,
            "gradient_flow expects a rate above 0, got 0.0. Give the optimizer's learning rate.",
        ),
        (
            {"loss": lambda output, target: output},
            ArgumentError,
            "gradient_flow expects a loss that is one number, got (2, 3). Take its mean over the samples.",
        ),
        (
            {"loss": lambda output, target: output.sum().item()},
            ArgumentError,
            "gradient_flow expects a loss that is one number, got float. Take its mean over the samples.",
        ),
        (
            {"loss": lambda output, target: output.scores},
            ArgumentError,
            "gradient_flow expects a loss that takes the model's output, got AttributeError: 'Tensor' object has no "
            "attribute 'scores'. Give loss(output, target) that fits both, as torch.nn.functional.cross_entropy.",
        ),
        (
            {"loss": lambda output, target: output.detach().sum()},
            ArgumentError,
            "gradient_flow expects a loss with a gradient, got one that depends on no weight and no input. Compute it "
            "by torch, from the model's output, and do not detach it.",
        ),
        (
            {"model": nn.ReLU()},
            ArgumentError,
            "gradient_flow expects a layer with weights, got none that passes a gradient on. A layer counts if it is "
            "a module with a weight of two axes or more, and runs with gradients.",
        ),
        (
            {"model": torch.jit.script(tnn.Linear(4, 3))},
            ArgumentTypeError,
            "gradient_flow expects a model whose layers take hooks, got one of TorchScript. Give the model as it was "
            "before torch.jit.",
        ),
    ],
    ids=["no pair", "empty", "rate", "no mean", "no tensor", "other output", "detached", "no weights", "scripted"],
)
def test_what_cannot_be_taken_gets_one_sentence(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    given = {"model": nn.Sequential(nn.Linear(4, 3)), "loss": total, "batch": (torch.ones(2, 4), None), **arguments}
    with pytest.raises(error) as raised:
        gradient_flow(**given)
    assert str(raised.value) == text
