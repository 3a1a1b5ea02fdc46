"""Lint rules about windows: each with a network that has the mistake, and a similar one that does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from findings import findings
from torch import Tensor, nn

import striate
from striate.analysis.lint.rule import RULES
from striate.analysis.lint.rules import window  # noqa: F401  fills RULES


def convolutions(*strides: int, channels: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, stride, padding=1) for stride in strides]


class Beside(nn.Module):
    """Two branches on one map."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


# --------------------------------------------------------------------------------------------------- fields and objects


def test_a_stride_of_4_before_the_third_convolution_leaves_few_units_of_a_small_object() -> None:
    net = nn.Sequential(*convolutions(2, 2, 1, 2))
    assert findings("early-downsampling", net, (1, 2, 64, 64), object_px=20) == [
        (
            "warning",
            "1",
            "The stride is 4×4 before the third convolution, where an object of 20 px covers 5×5 units, and 2.5 of "
            "the coarsest map.",
        )
    ]


def test_later_strides_larger_objects_and_unknown_ones_are_no_early_downsampling() -> None:
    early, late = nn.Sequential(*convolutions(2, 2, 1, 2)), nn.Sequential(*convolutions(2, 1, 2, 2))
    assert findings("early-downsampling", late, (1, 2, 64, 64), object_px=20) == []
    assert findings("early-downsampling", early, (1, 2, 64, 64), object_px=32) == []
    assert findings("early-downsampling", early, (1, 2, 64, 64)) == []
    assert findings("early-downsampling", nn.Sequential(*convolutions(2, 2)), (1, 2, 64, 64), object_px=20) == []


def test_an_object_is_larger_than_the_largest_field() -> None:
    lenet = striate.models.lenet5()
    assert findings("field-smaller-than-object", lenet, (1, 1, 28, 28), object_px=20) == [
        ("warning", "5", "Its units see 16×16 px, more than those of any other map and less than an object of 20 px.")
    ]
    assert findings("field-smaller-than-object", lenet, (1, 1, 28, 28), object_px=16) == []


def test_fields_of_different_sides_are_judged_by_the_smaller_side() -> None:
    net = nn.Conv2d(1, 1, (3, 9))
    assert findings("field-smaller-than-object", net, (1, 1, 20, 20), object_px=5) == [
        ("warning", "Conv2d", "Its units see 3×9 px, more than those of any other map and less than an object of 5 px.")
    ]


def test_attention_sees_objects_whole_and_networks_without_windows_are_not_asked() -> None:
    class Attending(nn.Module):
        def __init__(self, attends: bool) -> None:
            super().__init__()
            self.conv, self.attends = nn.Conv2d(1, 8, 2, stride=2), attends

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2).transpose(1, 2)
            return F.scaled_dot_product_attention(y, y, y) if self.attends else y.relu()

    assert findings("field-smaller-than-object", Attending(True), (1, 1, 8, 8), object_px=5) == []
    assert [
        place for _, place, _ in findings("field-smaller-than-object", Attending(False), (1, 1, 8, 8), object_px=5)
    ] == ["conv"]
    assert findings("field-smaller-than-object", nn.ReLU(), (1, 1, 8, 8), object_px=5) == []


def test_global_pooling_of_small_fields_is_told_for_classification() -> None:
    net = nn.Sequential(*convolutions(1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5))
    assert findings("field-smaller-than-input", net, (1, 2, 16, 16), task="classification") == [
        ("note", "2", "It pools units that see 5×5 px each of an image of 16×16.")
    ]


def test_fields_of_the_whole_input_flat_heads_and_other_tasks_are_not_told() -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5)]
    net, flat = (
        nn.Sequential(*convolutions(1, 2), *head),
        nn.Sequential(*convolutions(1, 2), nn.Flatten(), nn.Linear(128, 5)),
    )
    assert findings("field-smaller-than-input", net, (1, 2, 5, 5), task="classification") == []
    assert findings("field-smaller-than-input", flat, (1, 2, 16, 16), task="classification") == []
    assert findings("field-smaller-than-input", net, (1, 2, 16, 16)) == []
    assert findings("field-smaller-than-input", net, (1, 2, 16, 16), task="classification", object_px=4) == []


def test_a_mean_in_a_function_is_a_global_pooling() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3))

    assert findings("field-smaller-than-input", Mean(), (1, 2, 16, 16), task="classification") == [
        ("note", "mean", "It pools units that see 3×3 px each of an image of 16×16.")
    ]


def test_layers_whose_inputs_see_more_than_the_image_are_told() -> None:
    net = nn.Sequential(*convolutions(1, 1, 1, 1, 1))
    message = "Units that it reads see {} px each, more than the {} of the image: its windows add little but padding."
    assert findings("unproductive-layers", net, (1, 2, 6, 6)) == [
        ("note", "3", message.format("7×7", "6×6")),
        ("note", "4", message.format("9×9", "6×6")),
    ]
    assert findings("unproductive-layers", net, (1, 2, 8, 8)) == [("note", "4", message.format("9×9", "8×8"))]
    strided = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.MaxPool2d(2), *convolutions(1, 1))
    assert findings("unproductive-layers", strided, (1, 1, 12, 12)) == [("note", "3", message.format("13×13", "12×12"))]


def test_a_chain_for_large_images_is_unproductive_on_small_ones_and_a_residual_network_is_not() -> None:
    vgg, resnet = striate.models.vgg11_bn(), striate.models.resnet18()
    assert [place for _, place, _ in findings("unproductive-layers", vgg, (1, 3, 32, 32))] == [
        "features.18",
        "features.22",
        "features.25",
    ]
    assert (
        findings("unproductive-layers", vgg, (1, 3, 224, 224))
        == findings("unproductive-layers", resnet, (1, 3, 224, 224))
        == []
    )


def test_windows_over_rows_and_columns_on_one_axis_are_judged() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.along, self.pool = (
                nn.Conv2d(1, 2, 3, padding=1),
                nn.Conv1d(2, 2, 3, padding=1),
                nn.MaxPool1d(2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.along(self.conv(x).flatten(2)))

    assert findings("unproductive-layers", Tokens(), (1, 1, 6, 6)) == []
    assert findings("pooling-in-localisation", Tokens(), (1, 1, 6, 6), task="localisation") == []


def test_a_map_on_its_side_is_followed_by_its_own_axes() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 1, (5, 1), padding=(2, 0)), nn.Conv2d(1, 1, (1, 3), padding=(0, 1))

        def forward(self, x: Tensor) -> Tensor:  # rows only
            return self.last(self.first(x).transpose(2, 3))

    net = nn.Sequential(Turned(), nn.Conv2d(1, 1, 3, padding=1))
    # an axis of size 1 is never exceeded: no window extends along it
    assert findings("unproductive-layers", net, (1, 1, 6, 1)) == []
    assert findings("unproductive-layers", nn.Sequential(net, net[1]), (1, 1, 6, 2))[0][1:] == (
        "0.1 (call 2)", (
            "Units that it reads see 9×3 px each, more than the 6×2 of the image: its windows add little but "
            "padding."
        )
    )  # fmt: skip


def test_unproductive_layers_that_take_few_of_the_macs_are_not_told() -> None:
    wide = nn.Sequential(
        nn.Conv2d(2, 20, 3, padding=1), *convolutions(1, 1, channels=20), nn.Conv2d(20, 1, 3, padding=1)
    )
    assert findings("unproductive-layers", wide, (1, 2, 6, 6)) == []  # 180 of the 7,740 MACs at each position
    assert [place for _, place, _ in findings("unproductive-layers", wide, (1, 2, 4, 4))] == ["2", "3"]


def test_a_shortcut_that_carries_a_smaller_field_along_leaves_layers_something_to_add() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Sequential(*convolutions(1, 1, 1)), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(x + self.one(x))

    assert findings("unproductive-layers", Residual(), (1, 2, 6, 6)) == []
    model = nn.Sequential(*convolutions(1, 1), Residual())
    assert [place for _, place, _ in findings("unproductive-layers", model, (1, 2, 4, 4))] == [
        "2.one.0", "2.one.1", "2.one.2", "2.other"
    ]  # fmt: skip


def test_fields_of_just_the_image_and_1x1_convolutions_are_productive() -> None:
    assert findings("unproductive-layers", nn.Sequential(*convolutions(1, 1, 1, 1, 1)), (1, 2, 9, 9)) == []
    assert (
        findings("unproductive-layers", nn.Sequential(*convolutions(1, 1, 1), nn.Conv2d(2, 2, 1)), (1, 2, 6, 6)) == []
    )


def test_a_gate_that_sees_everything_makes_no_layer_unproductive() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 2), nn.Conv2d(2, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.last(y * self.gate(y.mean((2, 3)))[:, :, None, None])

    assert findings("unproductive-layers", Gated(), (1, 2, 20, 20)) == []


# -------------------------------------------------------------------------------------------------- what no window sees


def test_pooling_drops_what_its_stride_does_not_divide() -> None:
    assert findings("dropped-rows", nn.MaxPool2d(2), (1, 1, 7, 8)) == [
        ("warning", "MaxPool2d", "Its windows end before the last 1 of 7 rows: 14 % of its input reaches nothing.")
    ]
    assert findings("dropped-rows", nn.MaxPool2d(2), (1, 1, 27, 27)) == [
        (
            "note",
            "MaxPool2d",
            "Its windows end before the last 1 of 27 rows and 1 of 27 columns: 7 % of its input reaches nothing.",
        )
    ]
    assert findings("dropped-rows", nn.Conv1d(1, 1, 8, 8), (1, 1, 1007)) == [
        (
            "note",
            "Conv1d",
            "Its windows end before the last 7 of 1007 positions: under 1 % of its input reaches nothing.",
        )
    ]
    assert findings("dropped-rows", nn.AvgPool3d((3, 1, 1)), (1, 1, 5, 4, 4)) == [
        ("warning", "AvgPool3d", "Its windows end before the last 2 of 5 planes: 40 % of its input reaches nothing.")
    ]


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.MaxPool2d(2), 8),
        (nn.MaxPool2d(2, ceil_mode=True), 7),
        (nn.MaxPool2d(3, 2, 1), 7),
        (nn.Conv2d(1, 1, 3, 2, padding=1), 8),
        (nn.Conv2d(1, 1, 3), 7),
        (nn.AdaptiveAvgPool2d(3), 7),
        (nn.Conv2d(1, 1, 2, 2, padding=1, padding_mode="reflect"), 7),
        (nn.ConvTranspose2d(1, 1, 3, 2), 7),
    ],
)
def test_windows_that_reach_the_end_drop_nothing(layer: nn.Module, size: int) -> None:
    assert findings("dropped-rows", layer, (1, 1, size, size)) == []


PADS = [
    nn.ConstantPad2d(1, 0.0),
    nn.ReplicationPad2d(1),
    nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.ReflectionPad2d((0, 1, 0, 1))),
]


@pytest.mark.parametrize("pad", PADS)
def test_padding_that_a_window_leaves_out_is_no_lost_input(pad: nn.Module) -> None:
    assert findings("dropped-rows", nn.Sequential(pad, nn.MaxPool2d(3, 2)), (1, 1, 112, 112)) == []
    assert findings("dropped-rows", nn.Sequential(pad, nn.MaxPool2d(3, 3)), (1, 1, 111, 112)) == [
        ("note", "1", "Its windows end before the last 1 of 111 rows: under 1 % of its input reaches nothing.")
    ]


def test_padding_by_an_operation_of_its_own_is_judged_as_the_layers_own() -> None:
    assert findings(
        "skipped-pixels", nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(1, 1, 1, 2)), (1, 1, 6, 6)
    ) == [("warning", "1", "Its windows skip 75 % of its input, which reach nothing.")]
    assert findings("kernel-larger-than-map", nn.Sequential(nn.ZeroPad2d(3), nn.Conv2d(1, 1, 7)), (1, 1, 4, 4)) == [
        ("warning", "1", "Of the taps of its 7×7 kernel on a map of 4×4, 67 % fall into the padding.")
    ]
    assert findings(
        "even-kernel-same-padding", nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(1, 1, 4)), (1, 1, 8, 8)
    ) == [("note", "1", "Its even windows of 4×4, with 1 padded before and 2 behind, move the map by 0.5×0.5 units.")]


class Padded(nn.Module):
    """Two branches on one padded map."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.branches = nn.ZeroPad2d(1), Beside(nn.Conv2d(1, 1, 1, 2), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.branches(self.pad(x))


def test_branches_on_a_padded_map_see_each_others_pixels() -> None:
    assert findings("skipped-pixels", Padded(), (1, 1, 8, 8)) == [
        ("note", "branches.one", "Its windows skip 75 % of its input, which other branches see.")
    ]


def test_what_is_cut_off_or_padded_with_channels_is_no_padding_of_windows() -> None:
    class Cut(nn.Module):
        def __init__(self, *margins: int) -> None:
            super().__init__()
            self.margins, self.pool, self.last = margins, nn.MaxPool2d(3, 2), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.pool(F.pad(x, self.margins)))

    message = "Its windows end before the last 1 of {0} rows and 1 of {0} columns: {1} % of its input reaches nothing."
    assert findings("dropped-rows", Cut(0, -1, 0, -1), (1, 1, 9, 9)) == [("warning", "pool", message.format(8, 23))]
    assert findings("dropped-rows", Cut(0, 0, 0, 0, 0, 1), (1, 1, 8, 8)) == [("warning", "pool", message.format(8, 23))]


def test_a_stride_larger_than_the_kernel_skips_pixels() -> None:
    assert findings("skipped-pixels", nn.Conv2d(1, 1, 1, stride=2), (1, 1, 8, 8)) == [
        ("warning", "Conv2d", "Its windows skip 75 % of its input, which reach nothing.")
    ]
    assert findings("skipped-pixels", nn.Conv2d(1, 1, 3, stride=2, dilation=2, padding=2), (1, 1, 8, 8)) == [
        ("warning", "Conv2d", "Its windows skip 75 % of its input, which reach nothing.")
    ]
    assert findings("skipped-pixels", nn.AvgPool1d(2, 3), (1, 1, 9)) == [
        ("warning", "AvgPool1d", "Its windows skip 33 % of its input, which reach nothing.")
    ]


def test_pixels_that_another_branch_sees_are_a_note() -> None:
    net = Beside(nn.Conv2d(1, 1, 1, stride=2), nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.ReLU()))
    assert findings("skipped-pixels", net, (1, 1, 8, 8)) == [
        ("note", "one", "Its windows skip 75 % of its input, which other branches see.")
    ]


def test_branches_that_skip_the_same_pixels_lose_them() -> None:
    wave = Beside(nn.Conv1d(1, 1, 1, stride=2), nn.AvgPool1d(1, 2))
    message = "Its windows skip 50 % of its input, which reach nothing."
    assert findings("skipped-pixels", wave, (1, 1, 8)) == [("warning", "one", message), ("warning", "other", message)]
    net = Beside(nn.Sequential(nn.Conv2d(1, 1, 1, stride=2), nn.ReLU()), nn.Conv2d(1, 1, (1, 2), stride=2))
    assert findings("skipped-pixels", net, (1, 1, 8, 8)) == [
        ("warning", "one.0", "Its windows skip 75 % of its input, and 50 % reach nothing at all."),
        ("warning", "other", "Its windows skip 50 % of its input, which reach nothing."),
    ]


def test_values_that_were_computed_one_by_one_for_a_branch_are_not_lost_where_the_map_is_seen() -> None:
    first = [nn.BatchNorm2d(2), nn.ReLU()]
    net = Beside(
        nn.Sequential(*first, nn.Conv2d(2, 2, 1, stride=2)),
        nn.Sequential(*first, nn.Conv2d(2, 2, 3, stride=2, padding=1)),
    )
    assert findings("skipped-pixels", net, (1, 2, 8, 8)) == [
        ("note", "one.2", "Its windows skip 75 % of its input, which other branches see.")
    ]
    # NASNet's reduction
    moved = Beside(nn.AvgPool2d(1, 2), nn.Sequential(nn.ZeroPad2d((-1, 1, -1, 1)), nn.AvgPool2d(1, 2)))
    assert [(severity, place) for severity, place, _ in findings("skipped-pixels", moved, (1, 2, 8, 8))] == [
        ("note", "one"), ("note", "other.1")
    ]  # fmt: skip


def test_rows_that_another_branch_sees_are_a_note() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.pool(x), self.conv(x)

    message = (
        "Its windows end before the last 1 of 7 rows and 1 of 7 columns: 27 % of its input, which other branches see."
    )
    assert findings("dropped-rows", Pooled(), (1, 1, 7, 7)) == [("note", "pool", message)]


class Deployable(nn.Module):
    """A block whose branches are one convolution when it is deployed, as RepVGG's."""

    def __init__(self, stride: int = 2, size: int = 3, bends: bool = False) -> None:
        super().__init__()
        self.large = nn.Sequential(nn.Conv2d(2, 2, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(2))
        self.small = nn.Sequential(nn.Conv2d(2, 2, 1, stride, bias=False), nn.BatchNorm2d(2))
        self.bend = nn.ReLU() if bends else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.large(x)) + self.small(x)


def test_branches_of_a_reparameterised_block_are_one_kernel_and_skip_nothing() -> None:
    assert findings("skipped-pixels", Deployable(), (1, 2, 8, 8)) == []
    assert [place for _, place, _ in findings("skipped-pixels", Deployable(bends=True), (1, 2, 8, 8))] == ["small.0"]


@pytest.mark.parametrize(
    "arguments", [{"stride": 2, "padding": 1}, {"dilation": 2}, {"stride": 2, "dilation": 3, "padding": 3}]
)
def test_windows_that_meet_skip_nothing(arguments: dict[str, int]) -> None:
    assert findings("skipped-pixels", nn.Conv2d(1, 1, 3, **arguments), (1, 1, 12, 12)) == []


def test_functions_are_judged_as_layers() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.max_pool2d(F.conv2d(x, self.weight, stride=2), 2))

    assert findings("skipped-pixels", Skipping(), (1, 1, 10, 10)) == [
        ("warning", "convolution", "Its windows skip 75 % of its input, which reach nothing.")
    ]
    assert findings("dropped-rows", Skipping(), (1, 1, 10, 10)) == [
        (
            "warning",
            "max_pool2d",
            "Its windows end before the last 1 of 5 rows and 1 of 5 columns: 36 % of its input reaches nothing.",
        )
    ]


# --------------------------------------------------------------------------------------------------- windows themselves


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_even_windows_with_padding_move_the_map() -> None:
    assert findings("even-kernel-same-padding", nn.Conv2d(1, 1, 4, padding="same"), (1, 1, 8, 8)) == [
        ("note", "Conv2d", "Its even windows of 4×4, with 1 padded before and 2 behind, move the map by 0.5×0.5 units.")
    ]
    assert findings(
        "even-kernel-same-padding", nn.Conv2d(1, 1, (3, 2), padding=(1, 1)), (1, 1, 8, 8), task="segmentation"
    ) == [
        (
            "warning",
            "Conv2d",
            "Its even windows of 3×2, with 1 padded before and 1 behind, move the map by 0×0.5 units.",
        )
    ]


class Causal(nn.Module):
    """Padded on both sides, and cut behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :-1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(1, 1, 3, padding="same"),
        nn.Conv1d(1, 1, 4, stride=2, padding=1),
        nn.Conv1d(1, 1, 2),
        nn.Conv1d(1, 1, 2, dilation=2, padding=1),
        Causal(),
        nn.Sequential(nn.ConstantPad1d((3, 0), 0.0), nn.Conv1d(1, 1, 4)),
    ],
)
def test_odd_windows_strides_and_causal_ones_do_not(layer: nn.Module) -> None:
    assert findings("even-kernel-same-padding", layer, (1, 1, 9)) == []


def dilated(*dilations: int) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in dilations))


def test_dilations_with_a_common_factor_leave_holes() -> None:
    assert findings("gridding", dilated(2, 2, 2), (1, 1, 32, 32)) == [
        (
            "warning",
            "2",
            "The dilations 2, 2, 2 have the factor 2 in common: a unit sees 49 of the 169 pixels in its field of "
            "13×13.",
        )
    ]
    assert findings("gridding", nn.Sequential(dilated(4, 6), nn.ReLU(), nn.Conv2d(1, 1, 1)), (1, 1, 64, 64)) == [
        (
            "warning",
            "0.1",
            "The dilations 4, 6 have the factor 2 in common: a unit sees 81 of the 441 pixels in its field of 21×21.",
        )
    ]
    assert findings("gridding", dilated(3, 7), (1, 1, 64, 64)) == [
        ("warning", "1", "The dilations 3, 7 leave holes: a unit sees 81 of the 441 pixels in its field of 21×21.")
    ]


@pytest.mark.parametrize(
    "net",
    [
        dilated(1, 2, 5),
        dilated(2),
        dilated(2, 2, 1),
        dilated(1, 2, 2),
        dilated(1, 1),
        nn.Sequential(nn.AvgPool2d(2, 1), dilated(2, 2)),
    ],
)
def test_dilations_that_fill_each_others_holes_do_not(net: nn.Module) -> None:
    assert findings("gridding", net, (1, 1, 32, 32)) == []


def test_branches_of_different_dilations_are_no_stack() -> None:
    assert findings("gridding", Beside(dilated(2), dilated(4)), (1, 1, 32, 32)) == []


def test_a_transposed_convolution_whose_stride_does_not_divide_its_kernel_makes_a_pattern() -> None:
    assert findings("checkerboard", nn.ConvTranspose2d(1, 1, 3, stride=2), (1, 1, 8, 8)) == [
        (
            "warning",
            "ConvTranspose2d",
            "Its kernel of 3×3 is no multiple of its stride of 2×2: outputs are sums of 1 to 4 taps, in a pattern "
            "that shows.",
        )
    ]
    (found,) = striate.inspect(nn.ConvTranspose1d(1, 1, 5, stride=3), (1, 1, 8)).findings
    assert found.fix == "Use a kernel of 6, or an upsampling and a convolution."


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1), nn.ConvTranspose2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=2)],
)
def test_kernels_that_strides_divide_make_none(layer: nn.Module) -> None:
    assert findings("checkerboard", layer, (1, 1, 8, 8)) == []


def test_places_that_poolings_forget_are_told_where_they_are_asked_for() -> None:
    net = nn.Sequential(*convolutions(2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))
    assert findings("pooling-in-localisation", net, (1, 2, 16, 16), task="localisation") == [
        ("warning", "1", "It forgets which of 3×3 units was the largest, that is where within 6×6 px something lies."),
        ("warning", "2", "It makes one vector of 16 places, 4×4, and says nothing of where something was."),
    ]
    assert findings("pooling-in-localisation", net, (1, 2, 16, 16), task="classification") == []
    assert findings("pooling-in-localisation", nn.MaxPool1d(4, 2), (1, 1, 16), task="segmentation") == [
        (
            "warning",
            "MaxPool1d",
            "It forgets which of 4 units was the largest, that is where within 4 px something lies.",
        )
    ]


class Decoder(nn.Module):
    """A pooling whose input map, or whose positions of maxima, are passed on."""

    def __init__(self, unpools: bool) -> None:
        super().__init__()
        self.conv, self.last, self.unpools = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 1), unpools

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        small, places = F.max_pool2d(x, 2, return_indices=True)
        return self.last(F.max_unpool2d(small, places, 2) if self.unpools else x + F.interpolate(small, scale_factor=2))


@pytest.mark.parametrize("unpools", [True, False])
def test_places_that_are_handed_on_are_not_forgotten(unpools: bool) -> None:
    assert findings("pooling-in-localisation", Decoder(unpools), (1, 1, 8, 8), task="segmentation") == []


def test_a_kernel_larger_than_its_map_lies_on_padding() -> None:
    assert findings("kernel-larger-than-map", nn.Conv2d(1, 1, 7, padding=3), (1, 1, 4, 4)) == [
        ("warning", "Conv2d", "Of the taps of its 7×7 kernel on a map of 4×4, 67 % fall into the padding.")
    ]
    assert findings("kernel-larger-than-map", nn.Conv2d(1, 1, 3, padding=1), (1, 1, 1, 1)) == [
        ("warning", "Conv2d", "Of the taps of its 3×3 kernel on a map of 1×1, 89 % fall into the padding.")
    ]
    assert findings("kernel-larger-than-map", nn.Conv2d(1, 1, 3, padding=24, dilation=24), (1, 1, 28, 28)) == [
        (
            "warning",
            "Conv2d",
            "Of the taps of its 3×3 kernel, 49×49 with its dilation, on a map of 28×28, 82 % fall into the padding.",
        )
    ]


@pytest.mark.parametrize(
    ("layer", "size"), [(nn.Conv2d(1, 1, 7, padding=3), 7), (nn.Conv2d(1, 1, 4), 4), (nn.MaxPool2d(3, 2, 1), 1)]
)
def test_a_kernel_of_its_maps_size_is_not_too_large(layer: nn.Module, size: int) -> None:
    assert findings("kernel-larger-than-map", layer, (1, 1, size, size)) == []


SOURCES = {rule.source for rule in RULES.values() if rule.find.__module__.endswith(".window")}
SHAPES: dict[str, Any] = {
    "lenet5": (1, 1, 28, 28),
    "vgg11_bn": (1, 3, 224, 224),
    "resnet18": (1, 3, 224, 224),
    "mobilenet_v2": (1, 3, 224, 224),
}


@pytest.mark.parametrize("name", SHAPES)
def test_good_networks_have_notes_on_shortcuts_and_fields_only(name: str) -> None:
    model = striate.models.by_name(name)()
    found = [
        (f.rule, f.severity, f.place) for f in striate.inspect(model, SHAPES[name]).findings if f.source in SOURCES
    ]
    shortcuts = (
        [("skipped-pixels", "note", f"layer{number}.0.downsample.0") for number in (2, 3, 4)]
        if name == "resnet18"
        else []
    )
    assert [one for one in found if one[0] != "unproductive-layers"] == shortcuts
