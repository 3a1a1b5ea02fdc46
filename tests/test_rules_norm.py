"""Rules about norms: each with a network that it reports and a similar one that it does not; and what fixes do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from findings import reported, severities
from torch import Tensor, nn

import striate
from striate import inspect


def drawn(model: nn.Module) -> nn.Module:
    """Gives the layers parameters and running statistics other than new layers have."""
    generator = torch.Generator().manual_seed(3)
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point():
            t.data.copy_(
                0.5 + torch.rand(t.shape, generator=generator)
                if "var" in name
                else torch.randn(t.shape, generator=generator)
            )
    return model


# --------------------------------------------------------------------------------------------------- bias before a norm


def test_a_bias_that_batch_norm_subtracts_is_told_and_one_behind_or_before_a_relu_is_not() -> None:
    report = inspect(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        (1, 3, 8, 8),
    )
    assert reported(report, "bias-before-norm") == [
        (
            "0",
            "The 8 values of its bias do nothing: 1 (BatchNorm2d) subtracts each channel's mean, and the bias with it.",
            "Build it with bias=False.",
        )
    ]
    assert severities(report, "norm")["bias-before-norm"] == "warning"


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(6, 4), nn.BatchNorm1d(4), (5, 6)),
        (nn.Conv1d(3, 4, 3), nn.InstanceNorm1d(4), (2, 3, 9)),
        (nn.Conv1d(3, 4, 3), nn.InstanceNorm1d(4), (3, 9)),
        (nn.ConvTranspose2d(3, 4, 2), nn.GroupNorm(4, 4), (2, 3, 5, 5)),
        (striate.nn.Conv2d(3, 4, 3), striate.nn.BatchNormAct2d(4), (2, 3, 5, 5)),
        (nn.Conv3d(3, 4, 2, padding=1), nn.BatchNorm3d(4, affine=False), (2, 3, 4, 4, 4)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_layers_and_norms_of_every_kind_are_seen(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    assert [place for place, _, _ in reported(inspect(nn.Sequential(layer, norm), shape), "bias-before-norm")] == ["0"]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)], (2, 3, 5, 5)),  # channels share a mean
        ([nn.Conv2d(3, 4, 3), striate.nn.LayerNorm2d(4)], (2, 3, 5, 5)),
        # the norm's channels are the second axis, the bias is on the third
        ([nn.Linear(6, 4), nn.BatchNorm1d(7)], (2, 7, 6)),
        ([nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.BatchNorm2d(2)], (2, 3, 5, 5)),  # four biases in a channel
        ([nn.Conv2d(3, 8, 3), nn.Unflatten(1, (4, 2)), nn.BatchNorm3d(4)], (2, 3, 5, 5)),
        ([striate.nn.Conv2d(3, 4, 3), striate.nn.BatchNorm2d(4).freeze()], (2, 3, 5, 5)),  # the mean is a constant
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()], (2, 3, 5, 5)),
        ([nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)], (2, 3, 5, 5)),
    ],
)
def test_a_bias_that_is_not_only_each_channels_own_offset_stays(
    layers: list[nn.Module], shape: tuple[int, ...]
) -> None:
    assert reported(inspect(nn.Sequential(*layers), shape), "bias-before-norm") == []


class Branching(nn.Module):
    """The convolution's output goes to a norm, and also where ``also`` says."""

    def __init__(self, also: str) -> None:
        super().__init__()
        self.also = also
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = striate.nn.BatchNormAct2d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.also == "sum":
            return self.norm(y) + y
        if self.also == "output":
            return self.norm(y), y
        if self.also == "residual":
            return self.norm(x, y)
        if self.also == "code":
            return self.norm(y) * self.conv.bias.sum()
        if self.also == "second call":
            return self.norm(y) + self.conv(x)
        return self.norm(y)


@pytest.mark.parametrize("also", ["sum", "output", "residual", "code", "second call"])
def test_a_bias_that_something_else_reads_stays(also: str) -> None:
    assert reported(inspect(Branching("nothing"), (2, 4, 6, 6)), "bias-before-norm") != []
    assert reported(inspect(Branching(also), (2, 4, 6, 6)), "bias-before-norm") == []


@pytest.mark.parametrize("training", [True, False])
def test_without_the_bias_the_copy_computes_the_same_in_training_and_in_evaluation(training: bool) -> None:
    model = drawn(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5), nn.BatchNorm1d(5)
        )
    ).double()
    report = inspect(model.train(training), torch.zeros(8, 3, 8, 8, dtype=torch.double))
    before = copy.deepcopy(model.state_dict())
    fixed, difference = report.fix()
    assert (fixed[0].bias, fixed[4].bias) == (None, None) and model[0].bias is not None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = torch.randn(8, 3, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert reported(inspect(fixed, x), "bias-before-norm") == []
    for step in range(2):  # in training the second after the running statistics have moved
        torch.testing.assert_close(fixed(x), model(x), rtol=0, atol=1e-12, msg=str(step))
    torch.testing.assert_close(fixed.eval()(x), model.eval()(x), rtol=0, atol=1e-12)
    assert difference.splitlines()[:2] == ["--- Sequential", "+++ Sequential, fixed"]
    assert [line for line in difference.splitlines()[2:] if line[0] in "+-"] == [
        "-  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))",
        "+  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)",
        "-  (4): Linear(in_features=288, out_features=5, bias=True)",
        "+  (4): Linear(in_features=288, out_features=5, bias=False)",
    ]


def test_a_bias_before_a_norm_of_several_layers_is_told_and_left_to_be_mended_by_hand() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.a(x)) + self.norm(self.b(x))

    report = inspect(Two(), (2, 3, 6, 6))
    assert [(f.place, f.mend) for f in report.findings if f.rule == "bias-before-norm"] == [("a", None), ("b", None)]
    assert report.fix()[0].a.bias is not None


def test_a_convolution_with_norm_and_activation_in_one_is_seen_through() -> None:
    block = striate.nn.ConvNormAct2d(3, 8, 3, bias=True)
    assert [place for place, _, _ in reported(inspect(block, (8, 3, 8, 8)), "bias-before-norm")] == ["conv"]
    assert severities(inspect(striate.nn.ConvNormAct2d(3, 8, 3), (8, 3, 8, 8)), "norm") == {}


# --------------------------------------------------------------------------------------------------- what stands before


@pytest.mark.parametrize(
    ("activation", "word"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.GELU(), "gelu"),
        (nn.ReLU6(), "hardtanh"),
        (nn.PReLU(), "prelu"),
    ],
    ids=["ReLU", "in place", "GELU", "ReLU6", "PReLU"],
)
def test_a_norm_behind_an_activation_is_a_note_and_one_behind_a_pooling_is_none(
    activation: nn.Module, word: str
) -> None:
    report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)), (8, 3, 9, 9))
    message = (
        f"BatchNorm2d stands behind {word}: the means and variances of 8 channels it measures are of values that it "
        "has bent already."
    )
    fix = "Put the norm before the activation, unless that was tried and is worse."
    assert reported(report, "norm-after-activation") == [("2", message, fix)]
    assert severities(report, "norm")["norm-after-activation"] == "note"
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
    assert reported(inspect(pooled, (8, 3, 9, 9)), "norm-after-activation") == []


def test_the_norm_of_an_identity_beside_a_convolution_is_a_branch_and_not_told() -> None:
    class Deployable(nn.Module):
        """The blocks of RepVGG: convolution and identity, each with a norm, are one convolution when they are deployed.
        """

        def __init__(self, bends: bool) -> None:
            super().__init__()
            self.act, self.conv, self.norm, self.identity = (
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.BatchNorm2d(8),
            )
            self.bend = nn.Tanh() if bends else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(x)
            return self.bend(self.norm(self.conv(x))) + self.identity(x)

    assert reported(inspect(Deployable(bends=False), (8, 8, 7, 7)), "norm-after-activation") == []
    report = inspect(Deployable(bends=True), (8, 8, 7, 7))
    assert [place for place, _, _ in reported(report, "norm-after-activation")] == ["identity"]


@pytest.mark.parametrize(
    ("norm", "measured"),
    [
        (nn.GroupNorm(2, 8), "means and variances of 2 groups"),
        (nn.GroupNorm(1, 8), "means and variances of 1 group"),
        (nn.LayerNorm([8, 7, 7]), "mean and variance of 392 values each"),
        (striate.nn.LayerNorm2d(8), "mean and variance of 8 values each"),
    ],
)
def test_a_norm_behind_a_functional_activation_is_told_with_what_it_measures(norm: nn.Module, measured: str) -> None:
    class Act(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.silu(x)

    message = (
        f"{type(norm).__name__} stands behind silu: the {measured} it measures are of values that it has bent already."
    )
    assert [m for _, m, _ in reported(inspect(nn.Sequential(Act(), norm), (8, 8, 7, 7)), "norm-after-activation")] == [
        message
    ]


def test_an_activation_that_a_norm_computes_is_seen_by_the_norm_behind_it() -> None:
    model = nn.Sequential(striate.nn.BatchNormAct2d(8), striate.nn.BatchNorm2d(8))
    assert [place for place, _, _ in reported(inspect(model, (8, 8, 7, 7)), "norm-after-activation")] == ["1"]
    assert reported(inspect(model.eval()[1:], (8, 8, 7, 7)), "norm-after-activation") == []


def test_dropout_before_batch_norms_is_told_with_the_variance_it_adds() -> None:
    behind = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    report = inspect(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout2d(0.5), behind), (8, 8, 9, 9))
    message = (
        "p=0.5 stands before 2 batch norms, first 2.1: for values of mean 0 the running variance is 2 times that of "
        "evaluation, "
        "whose outputs are 0.71 of what they should be."
    )
    assert reported(report, "dropout-before-batch-norm") == [
        ("1", message, "Drop behind the last batch norm, or not at all.")
    ]
    assert severities(report, "norm")["dropout-before-batch-norm"] == "warning"
    one = inspect(nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), (8, 4))
    message = (
        "p=0.2 stands before 1 batch norm, first 2: for values of mean 0 the running variance is 1.25 times that of "
        "evaluation, whose outputs are 0.89 of what they should be."
    )
    assert [m for _, m, _ in reported(one, "dropout-before-batch-norm")] == [message]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)],
        [nn.Dropout(0.0), nn.BatchNorm1d(4)],
        [nn.AlphaDropout(0.5), nn.BatchNorm1d(4)],  # keeps the variance
        [nn.Dropout(0.5), nn.LayerNorm(4)],  # has no running statistics
        [nn.Dropout(0.5), nn.BatchNorm1d(4, track_running_stats=False)],
        [nn.Dropout(0.5), striate.nn.BatchNorm1d(4).freeze()],
    ],
)
def test_dropout_behind_batch_norms_or_before_other_norms_is_right(layers: list[nn.Module]) -> None:
    assert reported(inspect(nn.Sequential(*layers), (8, 4)), "dropout-before-batch-norm") == []


def test_the_variance_that_dropout_adds_is_the_one_the_message_says() -> None:
    torch.manual_seed(0)
    x = torch.randn(200_000)
    assert F.dropout(x, 0.5).var().item() == pytest.approx(2 * x.var().item(), rel=0.02)


# ----------------------------------------------------------------------------------------------------- what is measured


def bottle() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())


def test_few_samples_a_step_are_told_where_they_are_training_s() -> None:
    report = inspect(bottle(), (1, 3, 8, 8), batch_size=4)
    message = (
        "It measures 4 samples at once, 144 values a channel, and fewer than 8 samples are known to cost accuracy."
    )
    assert reported(report, "small-batch-norm") == [
        ("1", message, "Use GroupNorm(32, 64), whose statistics are of one sample, or more samples.")
    ]
    assert severities(report, "norm") == {"small-batch-norm": "warning"}
    one = "It measures 1 sample at once, 36 values a channel, and fewer than 8 samples are known to cost accuracy."
    assert [m for _, m, _ in reported(inspect(bottle(), (1, 3, 8, 8), batch_size=1), "small-batch-norm")] == [one]
    assert reported(inspect(bottle(), (2, 3, 8, 8)), "small-batch-norm")[0][1].startswith(
        "It measures 2 samples at once, 72 values"
    )


def test_a_batch_of_one_only_to_look_at_a_model_is_no_mistake() -> None:
    assert severities(inspect(bottle(), (1, 3, 8, 8)), "norm") == {}
    assert severities(inspect(bottle().eval(), (2, 3, 8, 8)), "norm") == {}
    assert severities(inspect(bottle(), (1, 3, 8, 8), batch_size=8), "norm") == {}
    assert severities(inspect(nn.Sequential(striate.nn.BatchNorm2d(3).freeze()), (2, 3, 8, 8)), "norm") == {}


def test_sub_batches_of_a_ghost_batch_norm_count_as_batches() -> None:
    ghost = nn.Sequential(striate.nn.GhostBatchNorm2d(3, ghost_batch_size=4))
    assert reported(inspect(ghost, (16, 3, 8, 8)), "small-batch-norm")[0][1].startswith(
        "It measures 4 samples at once, 256 values"
    )
    assert inspect(ghost, (16, 3, 8, 8)).findings[0].mend is None
    assert (
        reported(
            inspect(nn.Sequential(striate.nn.GhostBatchNorm2d(3, ghost_batch_size=8)), (16, 3, 8, 8)),
            "small-batch-norm",
        )
        == []
    )


@pytest.mark.parametrize("channels_and_groups", [(64, 32), (32, 16), (48, 16), (3, 1), (96, 32), (1, 1)])
def test_the_group_norm_that_takes_over_has_the_parameters_and_no_group_of_one_channel(
    channels_and_groups: tuple[int, int],
) -> None:
    channels, groups = channels_and_groups
    model = drawn(
        nn.Sequential(
            striate.nn.Conv2d(3, channels, 3, bias=False), striate.nn.BatchNormAct2d(channels, activation="relu")
        )
    )
    fixed, _ = inspect(model, (2, 3, 8, 8)).fix()
    assert type(fixed[1]) is striate.nn.GroupNormAct2d and (fixed[1].num_groups, fixed[1].activation) == (
        groups,
        "relu",
    )
    assert torch.equal(fixed[1].weight, model[1].weight) and torch.equal(fixed[1].bias, model[1].bias)
    assert reported(inspect(fixed, (2, 3, 8, 8)), "small-batch-norm") == []
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fixed(x), F.relu(F.group_norm(model[0](x), groups, model[1].weight, model[1].bias)))


def test_the_group_norm_that_takes_over_stands_at_all_of_the_norms_names() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)
            self.c = nn.Sequential(self.b)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x))

    fixed, _ = inspect(Held(), (4, 6)).fix()
    # without positions, each channel has one value
    assert type(fixed.b) is nn.GroupNorm and fixed.c[0] is fixed.b and fixed.b.num_groups == 1


def test_one_value_a_channel_is_an_error_where_the_batch_is_said_to_be_one() -> None:
    report = inspect(nn.Sequential(nn.Conv2d(3, 64, 8, bias=False), nn.BatchNorm2d(64)), (1, 3, 8, 8), batch_size=1)
    message = "Each of its 64 channels has 1 value a step, which has no variance: training stops here."
    assert reported(report, "one-value-norm") == [
        ("1", message, "Train on more samples at once, and drop a last batch of 1.")
    ]
    assert severities(report, "norm") == {"one-value-norm": "error"}
    model = nn.Sequential(nn.Conv2d(3, 64, 8, bias=False), nn.BatchNorm2d(64))
    assert (
        severities(inspect(model, (1, 3, 8, 8)).findings == [] and inspect(model, (1, 3, 8, 8), batch_size=8), "norm")
        == {}
    )
    assert inspect(model, (1, 3, 9, 8), batch_size=1).findings[0].rule == "small-batch-norm"
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.GroupNorm(4, 4), (8, 4, 1, 1)), (nn.GroupNorm(4, 4), (8, 4)), (nn.LayerNorm(1), (8, 4, 1))]
)
def test_a_group_of_one_value_is_an_error_at_any_batch(norm: nn.Module, shape: tuple[int, ...]) -> None:
    report = inspect(nn.Sequential(norm).eval(), shape)
    message = "Its means are of 1 value each, so that it returns its shift, whatever comes in."
    assert reported(report, "one-value-norm") == [("0", message, "Leave it out, or give it more channels a group.")]
    assert norm(torch.randn(shape)).abs().max() < 1e-4
    assert reported(inspect(nn.Sequential(nn.GroupNorm(2, 4)), (8, 4, 1, 1)), "one-value-norm") == []


def test_instance_norm_without_a_batch_has_as_many_values_as_places() -> None:
    assert severities(inspect(nn.Sequential(nn.InstanceNorm1d(4)), (4, 9)), "norm") == {}


def test_a_norm_that_is_called_again_mixes_statistics() -> None:
    class Twice(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(self.norm(x)))

    report = inspect(Twice(nn.BatchNorm2d(3)), (8, 3, 8, 8))
    message = (
        "It is called 2 times in a pass: training measures each place by itself, and the running statistics mix them."
    )
    assert reported(report, "norm-reused") == [("norm", message, "Give each place a norm of its own.")]
    assert severities(report, "norm") == {"norm-reused": "warning"}
    for norm in (
        nn.GroupNorm(1, 3),
        nn.BatchNorm2d(3, track_running_stats=False),
        striate.nn.BatchNorm2d(3).freeze(),
        nn.InstanceNorm2d(3),
    ):
        assert reported(inspect(Twice(norm), (8, 3, 8, 8)), "norm-reused") == []


def test_a_norm_as_last_layer_is_told_where_its_output_is_compared() -> None:
    report = inspect(nn.Sequential(nn.Linear(4, 10, bias=False), nn.BatchNorm1d(10)), (8, 4))
    message = (
        "BatchNorm1d is the last layer: its shift and scale are the mean and spread of the 10 outputs over the batch."
    )
    assert reported(report, "norm-on-output") == [("1", message, "Leave it out, or put it before the last layer.")]
    assert severities(report, "norm") == {"norm-on-output": "warning"}
    maps = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.GroupNorm(5, 5))
    message = (
        "GroupNorm is the last layer: its shift and scale are the mean and spread of the 5 outputs in each sample."
    )
    assert [m for _, m, _ in reported(inspect(maps, (8, 3, 8, 8), task="segmentation"), "norm-on-output")] == [message]
    assert [m for _, m, _ in reported(inspect(maps, (8, 3, 8, 8), loss=nn.MSELoss()), "norm-on-output")] == [message]
    assert reported(inspect(maps, (8, 3, 8, 8)), "norm-on-output") == []  # it may be a part of a network
    assert reported(inspect(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 10)), (8, 4)), "norm-on-output") == []
    activated = nn.Sequential(nn.Linear(4, 10), striate.nn.BatchNormAct2d(10))
    assert reported(inspect(activated, (8, 4)), "norm-on-output") == []


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("momentum", "message", "meant"),
    [
        (
            0,
            (
                "momentum=0 leaves the running mean and variance as they are, 0 and 1 in a new layer, and evaluation "
                "uses "
                "them."
            ),
            0.1,
        ),
        (1, "momentum=1 forgets all batches but the last: evaluation uses the statistics of 1 batch.", 0.1),
        (
            0.99,
            (
                "momentum=0.99 is the weight of the new batch in torch: 99 % of the running statistics are the last "
                "batch's."
            ),
            0.01,
        ),
        (
            0.9,
            (
                "momentum=0.9 is the weight of the new batch in torch: 90 % of the running statistics are the last "
                "batch's."
            ),
            0.1,
        ),
        (1.5, "momentum=1.5 gives the old statistics a weight of -0.5: they do not stay within the batches'.", 0.1),
        (-0.5, "momentum=-0.5 gives the old statistics a weight of 1.5: they do not stay within the batches'.", 0.1),
    ],
)
def test_a_momentum_that_makes_no_average_is_told_and_mended(momentum: float, message: str, meant: float) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum))
    report = inspect(model, (8, 3, 8, 8))
    assert reported(report, "norm-momentum") == [("0", message, f"Set momentum={meant:g}.")]
    assert severities(report, "norm") == {"norm-momentum": "warning"}
    fixed, difference = report.fix()
    assert (fixed[0].momentum, model[0].momentum) == (meant, momentum) and f"momentum={meant}" in difference
    assert severities(inspect(fixed, (8, 3, 8, 8)), "norm") == {}


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3, momentum=0.01),
        nn.BatchNorm2d(3, momentum=0.5),
        nn.BatchNorm2d(3, momentum=0, track_running_stats=False),
        nn.InstanceNorm2d(3, momentum=0),
        striate.nn.BatchNorm2d(3, momentum=0).freeze(),
    ],
)
def test_a_momentum_that_is_an_average_or_is_not_used_is_right(norm: nn.Module) -> None:
    assert reported(inspect(nn.Sequential(norm), (8, 3, 8, 8)), "norm-momentum") == []


def test_no_momentum_is_a_cumulative_average_of_batch_norm_and_none_of_instance_norm() -> None:
    report = inspect(nn.Sequential(nn.BatchNorm2d(3, momentum=None)), (8, 3, 8, 8))
    message = (
        "momentum=None averages all batches alike: after 1,000 of them the last counts 0.1 %, and so does the first."
    )
    assert reported(report, "cumulative-average") == [
        ("0", message, "Set momentum=0.1 to train; None is for measuring again with weights that stay.")
    ]
    assert severities(report, "norm") == {"cumulative-average": "note"}
    assert severities(inspect(nn.Sequential(nn.BatchNorm2d(3)), (8, 3, 8, 8))) == {}
    instance = nn.Sequential(nn.InstanceNorm2d(3, momentum=None, track_running_stats=True))
    assert severities(inspect(instance, (8, 3, 8, 8)), "norm") == {"norm-momentum": "warning"}
    instance(torch.full((2, 3, 4, 4), 5.0))
    assert not instance[0].running_mean.any()


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (1e-20, "eps=1e-20 multiplies the gradient of a channel that does not vary by 1e+10."),
        (0.1, "eps=0.1 is added to the variance: one of 1 comes out as 0.909, one of 0.01 as 0.0909."),
    ],
)
def test_an_eps_that_is_lost_or_decides_is_told_and_mended(eps: float, message: str) -> None:
    report = inspect(nn.Sequential(nn.BatchNorm2d(3, eps=eps), striate.nn.LayerNorm2d(3, eps=eps)), (8, 3, 8, 8))
    assert reported(report, "norm-eps") == [("0", message, "Set eps=1e-05."), ("1", message, "Set eps=1e-06.")]
    assert severities(report, "norm") == {"norm-eps": "warning"}
    fixed, _ = report.fix()
    assert (fixed[0].eps, fixed[1].eps) == (1e-5, 1e-6) and inspect(fixed, (8, 3, 8, 8)).findings == []


def test_an_eps_of_zero_divides_by_zero() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, eps=0.0)).eval()  # torch refuses to train it
    message = "eps=0 divides a channel that does not vary by 0, and the result is not a number."
    assert reported(inspect(model, (8, 3, 8, 8)), "norm-eps") == [("0", message, "Set eps=1e-05.")]
    model[0].running_var.zero_()
    assert model(torch.zeros(1, 3, 1, 1)).isnan().all()
    assert inspect(model, (8, 3, 8, 8)).fix()[0](torch.zeros(1, 3, 1, 1)).isfinite().all()


@pytest.mark.parametrize("eps", [1e-12, 1e-8, 1e-5, 1e-3, 1e-2])
def test_an_eps_that_is_in_use_is_right(eps: float) -> None:
    assert (
        severities(
            inspect(
                nn.Sequential(nn.BatchNorm2d(3, eps=eps), nn.GroupNorm(1, 3, eps=eps)),
                (8, 3, 8, 8),
                ignore=["groups-are-layer-norm"],
            ),
            "norm",
        )
        == {}
    )
    assert severities(inspect(nn.Sequential(nn.RMSNorm(8)), (8, 3, 8)), "norm") == {}  # without an eps


def test_a_class_that_knows_of_one_group_only_means_it() -> None:
    class OneGroup(nn.GroupNorm):
        def __init__(self, channels: int) -> None:
            super().__init__(1, channels)

    assert reported(inspect(OneGroup(8), (2, 8, 5, 5)), "groups-are-layer-norm") == []


def test_groups_of_one_channel_and_one_group_of_all_have_names_of_their_own() -> None:
    report = inspect(nn.Sequential(nn.GroupNorm(8, 8), nn.GroupNorm(1, 8), nn.GroupNorm(4, 8)), (2, 8, 5, 5))
    assert reported(report, "groups-are-instance-norm") == [
        (
            "0",
            "8 groups of 1 channel are instance norm.",
            "Say InstanceNorm2d(…, affine=True) if that is meant, or use fewer groups.",
        )
    ]
    assert reported(report, "groups-are-layer-norm") == [
        (
            "1",
            "1 group of 8 channels is layer norm over channels and places together.",
            "Leave it if that is meant; LayerNorm2d does it at each place by itself.",
        )
    ]
    assert severities(report, "norm") == {"groups-are-instance-norm": "note", "groups-are-layer-norm": "note"}
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(nn.GroupNorm(8, 8)(x), nn.InstanceNorm2d(8)(x))
    torch.testing.assert_close(nn.GroupNorm(1, 8)(x), nn.LayerNorm([8, 5, 5])(x))
