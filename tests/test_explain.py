"""The arithmetic of one layer: its numbers against torch's layers and worked examples, every sum that is spelled out,
and every message.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from work import calls_of

import striate
from striate import nn as snn
from striate.analysis.explain import BARE, EXAMPLES, FAMILIES, Explanation, dropped, example, explain, names
from striate.analysis.explain.cells import cell, matrices, number
from striate.cli import main
from striate.ops.local import local
from striate.window import Axis

# For every layer name an example, with the module that it stands for.
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any], Any]] = {
    "conv1d": ("conv1d", (8, 20), dict(out=6, kernel=5, stride=3, padding=1), lambda: nn.Conv1d(8, 6, 5, 3, 1)),
    "conv2d": ("conv2d", (2, 3, 32, 32), dict(out=10, kernel=5, padding=2), lambda: nn.Conv2d(3, 10, 5, padding=2)),
    "conv2d_axes_differ": (
        "conv2d",
        (4, 11, 14),
        dict(out=6, kernel=(3, 4), stride=(2, 1), padding=(0, 3), dilation=(1, 2), groups=2, bias=False),
        lambda: nn.Conv2d(4, 6, (3, 4), (2, 1), (0, 3), (1, 2), 2, bias=False),
    ),
    "conv2d_same": (
        "conv2d",
        (3, 7, 8),
        dict(out=4, kernel=(3, 4), stride=2, padding="same"),
        lambda: snn.Conv2d(3, 4, (3, 4), 2, "same"),
    ),
    "conv3d": ("conv3d", (2, 6, 7, 8), dict(out=4, kernel=(3, 1, 3), stride=2), lambda: nn.Conv3d(2, 4, (3, 1, 3), 2)),
    "depthwise1d": ("depthwise1d", (6, 15), dict(kernel=4, padding=2), lambda: snn.DepthwiseConv1d(6, 4, padding=2)),
    "depthwise2d": ("depthwise2d", (4, 9, 9), dict(kernel=3, out=8), lambda: snn.DepthwiseConv2d(4, 3, multiplier=2)),
    "depthwise3d": (
        "depthwise3d",
        (4, 5, 5, 6),
        dict(kernel=3, padding=1),
        lambda: snn.DepthwiseConv3d(4, 3, padding=1),
    ),
    "separable1d": ("separable1d", (6, 15), dict(out=5, kernel=3), lambda: snn.DepthwiseSeparableConv1d(6, 5, 3)),
    "separable2d": (
        "separable2d",
        (128, 32, 32),
        dict(out=256, kernel=3, padding="same", bias=False),
        lambda: snn.DepthwiseSeparableConv2d(128, 256, 3, padding="same", bias=False),
    ),
    "separable3d": (
        "separable3d",
        (2, 5, 6, 7),
        dict(out=3, kernel=2, stride=2),
        lambda: snn.DepthwiseSeparableConv3d(2, 3, 2, 2),
    ),
    "spatial2d": (
        "spatial2d",
        (3, 12, 13),
        dict(out=8, kernel=(3, 5), stride=(1, 2), padding=1, middle=4),
        lambda: snn.SpatiallySeparableConv2d(3, 8, (3, 5), (1, 2), 1, middle=4),
    ),
    "bottleneck2d": ("bottleneck2d", (256, 64, 64), dict(out=256), lambda: snn.Bottleneck(256, 64, 256)),
    "convtranspose1d": (
        "convtranspose1d",
        (4, 9),
        dict(out=6, kernel=4, stride=3, groups=2),
        lambda: nn.ConvTranspose1d(4, 6, 4, 3, groups=2),
    ),
    "convtranspose2d": (
        "convtranspose2d",
        (8, 16, 15),
        dict(out=4, kernel=3, stride=2, padding=1, output_padding=1),
        lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
    ),
    "convtranspose3d": (
        "convtranspose3d",
        (2, 3, 4, 5),
        dict(out=3, kernel=2, dilation=2),
        lambda: nn.ConvTranspose3d(2, 3, 2, dilation=2),
    ),
    "local1d": ("local1d", (2, 9), dict(out=3, kernel=3, stride=2), lambda: snn.LocallyConnected1d(2, 3, 9, 3, 2)),
    "local2d": (
        "local2d",
        (3, 8, 8),
        dict(out=4, kernel=3, padding=1),
        lambda: snn.LocallyConnected2d(3, 4, 8, 3, padding=1),
    ),
    "local3d": (
        "local3d",
        (1, 4, 4, 5),
        dict(out=2, kernel=2, bias=False),
        lambda: snn.LocallyConnected3d(1, 2, (4, 4, 5), 2, bias=False),
    ),
    "maxpool1d": ("maxpool1d", (4, 17), dict(kernel=3, stride=2), lambda: nn.MaxPool1d(3, 2)),
    "maxpool2d": ("maxpool2d", (20, 29, 28), dict(kernel=2, ceil=True), lambda: nn.MaxPool2d(2, ceil_mode=True)),
    "maxpool3d": (
        "maxpool3d",
        (2, 6, 7, 8),
        dict(kernel=2, dilation=2, stride=1),
        lambda: nn.MaxPool3d(2, 1, dilation=2),
    ),
    "avgpool1d": ("avgpool1d", (4, 18), dict(kernel=4, padding=2), lambda: nn.AvgPool1d(4, padding=2)),
    "avgpool2d": (
        "avgpool2d",
        (3, 7, 8),
        dict(kernel=3, stride=2, padding=1, ceil=True, count_include_pad=False),
        lambda: nn.AvgPool2d(3, 2, 1, True, False),
    ),
    "avgpool3d": ("avgpool3d", (2, 6, 6, 6), dict(kernel=(1, 2, 3)), lambda: nn.AvgPool3d((1, 2, 3))),
    "batchnorm": ("batchnorm", (16, 64, 7, 8), {}, lambda: nn.BatchNorm2d(64)),
    "layernorm": ("layernorm", (2, 4, 5, 6), {}, lambda: nn.LayerNorm((4, 5, 6))),
    "layernorm2d": ("layernorm2d", (2, 4, 5, 6), {}, lambda: snn.LayerNorm2d(4)),
    "instancenorm": ("instancenorm", (2, 4, 9), {}, lambda: nn.InstanceNorm1d(4)),
    "groupnorm": ("groupnorm", (2, 8, 3, 4, 5), dict(groups=4), lambda: nn.GroupNorm(4, 8)),
}
every_case = pytest.mark.parametrize(("layer", "shape", "options", "make"), CASES.values(), ids=CASES)


def batched(layer: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if layer in BARE or len(shape) == int(layer[-2]) + 2 else (1, *shape)


def part(explanation: Explanation, start: str) -> list[str]:
    """The lines below the heading that begins with ``start``."""
    found = [p for p in explanation.parts if p.title.startswith(start)]
    assert len(found) == 1, [p.title for p in explanation.parts]
    return found[0].lines(10_000)


def test_every_layer_has_a_case() -> None:
    assert {case[0] for case in CASES.values()} == set(names())


@every_case
def test_output_and_parameters_are_those_of_the_module(
    layer: str, shape: tuple[int, ...], options: dict[str, Any], make: Any
) -> None:
    explanation, module = explain(layer, shape, **options), make()
    assert explanation.facts["output_shape"] == list(module(torch.randn(batched(layer, shape))).shape)
    assert explanation.facts["parameters"] == sum(p.numel() for p in module.parameters())
    if "steps" in explanation.facts:
        shapes = [s[k] for s in explanation.facts["steps"] for k in ("weight_shape", "bias_shape") if s[k] is not None]
        assert shapes == [list(p.shape) for p in module.parameters()]
    assert explanation.facts.get("running_values", 0) == sum(b.numel() for b in module.buffers() if b.dim())


@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c[0] not in BARE and "pool" not in c[0] and "local" not in c[0]]
)
def test_multiply_adds_are_those_that_inspect_counts(name: str) -> None:
    layer, shape, options, make = CASES[name]
    totals = striate.inspect(make(), batched(layer, shape)).totals
    facts = explain(layer, shape, **options).facts
    counts = ("macs", "flops", "parameters")
    assert [facts[count] for count in counts] == [totals[count] for count in counts]


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, c in CASES.items()
        if "steps" in explain(c[0], c[1], **c[2]).facts and len(explain(c[0], c[1], **c[2]).facts["steps"]) == 1
    ],
)
def test_multiply_adds_inside_are_the_sum_of_a_layer_of_ones(name: str) -> None:
    layer, shape, options, make = CASES[name]
    module = make()
    for p in module.parameters():
        torch.nn.init.ones_(p) if p is module.weight else torch.nn.init.zeros_(p)
    facts = explain(layer, shape, **options).facts
    assert facts["macs_inside"] == module(torch.ones(batched(layer, shape))).sum().item() <= facts["macs"]


@pytest.mark.parametrize(
    "name",
    [n for n, c in CASES.items() if c[0][:-2] in ("conv", "maxpool", "avgpool", "spatial", "bottleneck", "depthwise")],
)
def test_inputs_that_are_never_seen_have_no_gradient(name: str) -> None:
    layer, shape, options, make = CASES[name]
    module, x = make(), torch.ones(batched(layer, shape)).requires_grad_()
    for p in module.parameters():
        torch.nn.init.ones_(p)
    for axis, lost in enumerate(explain(layer, shape, **options).facts["dropped"], 2):
        x.grad = None
        # so the last one is the maximum
        y = module(x + torch.arange(float(x.shape[axis])).reshape(-1, *[1] * (x.dim() - axis - 1)))
        y.sum().backward()
        assert x.grad is not None
        seen = x.grad.abs().sum([d for d in range(x.dim()) if d != axis])
        assert seen[len(seen) - lost :].eq(0).all()
        if "dilation" not in options:
            assert seen[len(seen) - lost - 1] != 0


# ------------------------------------------------------------------------------------------------- worked facts as text


def test_ten_5x5_filters_with_padding_2_have_760_parameters_and_768000_multiply_adds() -> None:
    lines = str(explain("conv2d", (3, 32, 32), out=10, kernel=5, padding=2)).splitlines()
    assert lines[:2] == ["conv2d 3→10, 5×5, stride 1, padding 2", "x 1×3×32×32 → y 1×10×32×32"]
    for line in (
        "Output size = ⌊(input + 2·padding − kernel)/stride⌋ + 1",
        "  height, width  32 = ⌊(32 + 2·2 − 5)/1⌋ + 1",
        "  one filter   3·5·5 + 1 = 76",
        "  all filters  76 × 10 = 760",
        "  one output  3·5·5 = 75",
        "  outputs     10·32·32 = 10,240",
        "  all         75 × 10,240 = 768,000",
        "  in FLOPs    768,000 if a MAC counts as one, 1,536,000 if as two; both are in use",
        "  inside      10·3 × 154·154 = 711,480 without the taps in the padding",
        "  y           10·32·32 × 4 = 40,960 bytes",
        "  parameters  760 × 4 = 3,040 bytes",
        "  dx 1×3×32×32  768,000 MACs: dy convolved with W turned by 180°",
        "  dW 10×3×5×5   768,000 MACs: x correlated with dy",
        "  db 10         10,240 additions: dy summed over the batch and all positions",
        "  together      1,536,000 MACs, twice forward; 768,000 where x needs no gradient (a first layer)",
        "  height, width  1 + (5 − 1) = 5; output 0 looks from −2 on (padding), each next one 1 further",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("layer", "shape", "options", "parameters", "macs", "standard"),
    [
        ("conv2d", (64, 56, 56), dict(out=32, kernel=1), 2_080, 6_422_528, None),
        ("conv2d", (256, 64, 64), dict(out=256, kernel=3), 590_080, 2_267_283_456, None),
        ("bottleneck2d", (256, 64, 64), dict(out=256), 164_160, 633_929_728, (590_080, 2_267_283_456)),
        (
            "separable2d",
            (128, 32, 32),
            dict(out=256, kernel=3, padding="same", bias=False),
            33_920,
            34_734_080,
            (294_912, 301_989_888),
        ),
        ("conv2d", (1, 28, 28), dict(out=20, kernel=5, padding=2), 520, 392_000, None),
        ("conv2d", (20, 14, 14), dict(out=50, kernel=5, padding=2), 25_050, 4_900_000, None),
    ],
)
def test_known_costs(
    layer: str, shape: tuple[int, ...], options: Any, parameters: int, macs: int, standard: Any
) -> None:
    facts = explain(layer, shape, **options).facts
    assert (facts["parameters"], facts["macs"]) == (parameters, macs)
    assert facts.get("standard") == (standard and {"parameters": standard[0], "macs": standard[1]})


def test_a_separable_convolution_is_set_against_the_standard_one() -> None:
    explanation = explain("separable2d", (128, 32, 32), out=256, kernel=3, padding="same", bias=False)
    assert part(explanation, "Against") == [
        "                          parameters         MACs",
        "convolution 128→256, 3×3     294,912  301,989,888",
        "depthwise                      1,152    1,179,648",
        "pointwise                     32,768   33,554,432",
        "together                      33,920   34,734,080",
        "convolution / this              8.69         8.69",
        "ratio of MACs  K²·C_out/(K² + C_out) = 3²·256/(3² + 256) = 8.69",
    ]


def test_a_bottleneck_is_set_against_the_standard_one() -> None:
    explanation = explain("bottleneck2d", (256, 64, 64), out=256)
    assert explanation.title == "bottleneck2d 256→64→256, 3×3, stride 1, padding 0"
    assert part(explanation, "Parameters")[-1] == "together             16,448 + 147,712 = 164,160"
    assert part(explanation, "Multiply-adds")[-2] == "together            67,108,864 + 566,820,864 = 633,929,728"
    assert part(explanation, "Against")[-1] == "convolution / this              3.59           3.58"


def test_a_column_and_then_a_row_have_their_own_sizes() -> None:
    explanation = explain("spatial2d", (1, 9, 8), out=1, kernel=3)
    assert [s["output_shape"] for s in explanation.facts["steps"]] == [[1, 1, 7, 8], [1, 1, 7, 6]]
    last = part(explanation, "Against")[-1]
    assert last == "A 3×3 kernel is one column times one row only if its rank is 1, as here."


def test_a_locally_connected_layer_has_as_many_filters_as_positions() -> None:
    explanation = explain("local2d", (3, 8, 8), out=4, kernel=3)
    assert explanation.facts["standard"] == {"parameters": 112, "macs": 3_888}
    assert explanation.facts["parameters"] == 36 * 112
    assert part(explanation, "Parameters") == [
        "one filter at one position  3·3·3 + 1 = 28",
        "filters × positions         4·6·6 = 144",
        "all                         28 × 144 = 4,032",
    ]
    assert part(explanation, "Against")[-1] == "No weight is shared: as many filters as positions, 6·6 = 36."


def test_a_division_that_is_rounded_says_what_is_never_seen() -> None:
    assert part(explain("conv1d", (1, 32), out=1, kernel=3, stride=2), "Output size") == [
        "length  15 = ⌊(32 + 2·0 − 3)/2⌋ + 1 = ⌊14.5⌋ + 1; the last 1 of the 32 is never seen"
    ]
    assert part(explain("maxpool2d", (1, 8, 7), kernel=2, stride=(3, 2)), "Output size") == [
        "height  3 = ⌊(8 + 2·0 − 2)/3⌋ + 1; between windows 1 of each 3 are skipped",
        "width   3 = ⌊(7 + 2·0 − 2)/2⌋ + 1 = ⌊2.5⌋ + 1; the last 1 of the 7 is never seen",
    ]
    assert part(explain("maxpool1d", (1, 7), kernel=2, ceil=True), "Output size") == [
        "length  4 = ⌈(7 + 2·0 − 2)/2⌉ + 1 = ⌈2.5⌉ + 1"
    ]
    assert part(explain("maxpool1d", (1, 5), kernel=2, stride=4, padding=1, ceil=True), "Output size")[0].startswith(
        "length  2 = ⌈(5 + 2·1 − 2)/4⌉ + 1 − 1 = ⌈1.25⌉ + 1 − 1, since the last window would start behind the input"
    )
    assert dropped(Axis(input=10, output=2, size=3, stride=3)) == 4


def test_same_padding_says_where_it_comes_from() -> None:
    explanation = explain("conv1d", (1, 28), out=1, kernel=4, stride=3, padding="same")
    assert part(explanation, "Output size = ⌊(input + before + after − kernel)/stride⌋ + 1") == [
        'length  padding "same": ⌈28/3⌉ = 10 outputs need (10 − 1)·3 + 4 − 28 = 3 values more, 1 before and 2 behind',
        "length  10 = ⌊(28 + 1 + 2 − 4)/3⌋ + 1",
    ]
    assert part(explain("conv1d", (1, 9), out=1, kernel=1, stride=3, padding="same"), "Output size")[0] == (
        'length  padding "same": ⌈9/3⌉ = 3 outputs need no padding'
    )


def test_dilation_is_in_the_formula_where_there_is_one() -> None:
    explanation = explain("conv2d", (1, 16, 16), out=1, kernel=3, dilation=(1, 2))
    assert part(explanation, "Output size = ⌊(input + 2·padding − dilation·(kernel − 1) − 1)/stride⌋ + 1") == [
        "height  14 = ⌊(16 + 2·0 − 3)/1⌋ + 1",
        "width   12 = ⌊(16 + 2·0 − 2·(3 − 1) − 1)/1⌋ + 1",
    ]
    assert (
        part(explanation, "Receptive field")[1]
        == "width   1 + 2·(3 − 1) = 5; output 0 looks from 0 on, each next one 1 further"
    )


def test_a_transposed_convolution_multiplies_each_input_with_every_tap() -> None:
    explanation = explain("convtranspose2d", (8, 16, 16), out=4, kernel=3, stride=2, padding=1, output_padding=1)
    formula = "Output size = (input − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1"
    assert part(explanation, formula) == [
        "height, width  32 = (16 − 1)·2 − 2·1 + 1·(3 − 1) + 1 + 1"
    ]
    assert part(explanation, "Parameters") == ["weights      8·4·3·3 = 288", "with biases  288 + 4 = 292"]
    assert part(explanation, "Multiply-adds")[:3] == [
        "one input  4·3·3 = 36",
        "inputs     8·16·16 = 2,048",
        "all        36 × 2,048 = 73,728",
    ]
    assert part(explanation, "Receptive") == [
        "height, width  an output is made of 1 or 2 inputs, by its place: 3 is no multiple of 2 (checkerboards)"
    ]
    even = explain("convtranspose2d", (8, 16, 16), out=4, kernel=4, stride=2, padding="same")
    assert part(even, "Output size = input·stride") == ["height, width  32 = 16·2"]
    assert part(even, "Receptive") == ["height, width  every output is made of 2 inputs (fewer at the ends)"]


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("rounds_up", [True, False])
def test_divisors_are_those_that_torch_divides_by(include: bool, rounds_up: bool) -> None:
    x = torch.ones(1, 1, 7, 10)
    arguments: Any = ((3, 4), 2, 1, rounds_up)
    sums, means = F.avg_pool2d(x, *arguments, True, 1), F.avg_pool2d(x, *arguments, include)
    counted = Counter(str(round(v)) for v in (sums / means).flatten().tolist())
    facts = explain(
        "avgpool2d", (1, 7, 10), kernel=(3, 4), stride=2, padding=1, ceil=rounds_up, count_include_pad=include
    ).facts
    assert facts["divisors"] == counted and len(counted) > 1 - include


def test_pooling_says_what_it_divides_by_and_keeps() -> None:
    explanation = explain("avgpool2d", (8, 7, 7), kernel=3, stride=2, padding=1, count_include_pad=False)
    assert part(explanation, "Divisor: only taps inside") == [
        "9 in 4 of the 16 windows; 6 in 8 of the 16 windows; 4 in 4 of the 16 windows"
    ]
    assert part(explain("avgpool2d", (8, 4, 4), kernel=2), "Divisor: taps in the padding count too") == [
        "2·2 = 4 in every window"
    ]
    explanation = explain("maxpool2d", (20, 28, 28), kernel=2)
    assert part(explanation, "Cost") == ["parameters   0", "comparisons  (2·2 − 1) × 20·14·14 = 11,760"]
    last = part(explanation, "Memory")[-1]
    assert last == "kept  1 byte an output, the tap that won (torch: 8), for the backward pass"
    assert (
        part(explain("maxpool2d", (1, 20, 20), kernel=17), "Memory")[-1]
        == "kept  8 bytes an output, the place that won, for the backward pass"
    )


@pytest.mark.parametrize(
    ("layer", "shape", "options", "over", "statistics", "values", "parameters"),
    [
        ("batchnorm", (16, 64, 56, 56), {}, "(N, H, W), once for each channel", 64, 50_176, 128),
        ("batchnorm", (16, 10), {}, "(N), once for each channel", 10, 16, 20),
        ("layernorm", (16, 64, 56, 56), {}, "(C, H, W), once for each sample", 16, 200_704, 401_408),
        ("layernorm2d", (16, 64, 56, 56), {}, "(C), once for each sample and place", 50_176, 64, 128),
        ("instancenorm", (16, 64, 56, 56), {}, "(H, W), once for each sample and channel", 1_024, 3_136, 0),
        (
            "groupnorm",
            (16, 64, 56, 56),
            {"groups": 32},
            "(C/32, H, W), once for each sample and group",
            512,
            6_272,
            128,
        ),
    ],
)
def test_norms_differ_in_the_axes_they_measure(
    layer: str, shape: tuple[int, ...], options: Any, over: str, statistics: int, values: int, parameters: int
) -> None:
    explanation = explain(layer, shape, **options)
    assert part(explanation, "Measured")[0] == f"over            {over}"
    facts = explanation.facts
    assert (facts["statistics"], facts["values_per_statistic"], facts["parameters"]) == (
        statistics,
        values,
        parameters,
    )
    assert explanation.facts["running_values"] == (2 * shape[1] if layer == "batchnorm" else 0)


# ------------------------------------------------------------------------------------------------------- worked by hand


def gradients(layer: str, explanation: Explanation) -> dict[str, Tensor]:
    """What torch makes of the example's x, W, b and dy."""
    v = explanation.values
    leaves = {name: t.clone().requires_grad_() for name, t in v.items() if name in ("x", "γ", "β") or name[0] in "Wb"}
    x, family = leaves["x"], layer if layer in BARE else layer[:-2]
    get = leaves.get
    if family == "batchnorm":
        y = F.batch_norm(x, None, None, get("γ"), get("β"), training=True)
    elif family == "layernorm":
        over = (0, 2, 3, 1) if layer == "layernorm2d" else tuple(range(x.dim()))
        back = (0, 3, 1, 2) if layer == "layernorm2d" else over
        y = F.layer_norm(x.permute(over), leaves["γ"].shape, get("γ"), get("β")).permute(back)
    elif family == "instancenorm":
        y = F.instance_norm(x)
    elif family == "groupnorm":
        y = F.group_norm(x, explanation.facts["small"]["options"]["groups"], get("γ"), get("β"))
    else:
        y = forward(family, x, leaves, explanation.facts["small"]["options"])
    y.backward(v["dy"])
    found = {f"d{name}": t.grad for name, t in leaves.items() if t.grad is not None}
    return {"y": y.detach(), **found}


def forward(family: str, x: Tensor, leaves: dict[str, Tensor], o: dict[str, Any]) -> Tensor:
    dims = x.dim() - 2
    conv = getattr(snn.functional, f"conv{dims}d")
    rest = (o.get("stride", 1), o.get("padding", 0), o.get("dilation", 1))
    get = leaves.get
    if family == "maxpool":
        return getattr(F, f"max_pool{dims}d")(x, o["kernel"], o.get("stride"), *rest[1:], o.get("ceil", False))
    if family == "avgpool":
        return getattr(F, f"avg_pool{dims}d")(
            x, o["kernel"], o.get("stride"), rest[1], o.get("ceil", False), o.get("count_include_pad", True)
        )
    if family == "conv":
        return conv(x, get("W"), get("b"), *rest, o.get("groups", 1))
    if family == "depthwise":
        return conv(x, get("W"), get("b"), *rest, x.shape[1])
    if family == "separable":
        return conv(conv(x, get("W1"), get("b1"), *rest, x.shape[1]), get("W2"), get("b2"))
    if family == "bottleneck":
        return conv(conv(x, get("W1"), get("b1")), get("W2"), get("b2"), *rest)
    if family == "spatial":
        (s, t), (p, q) = o.get("stride", (1, 1)), o.get("padding", (0, 0))
        return conv(conv(x, get("W1"), None, (s, 1), (p, 0)), get("W2"), get("b2"), (1, t), (0, q))
    if family == "convtranspose":
        transposed = getattr(F, f"conv_transpose{dims}d")
        return transposed(
            x, get("W"), get("b"), rest[0], rest[1], o.get("output_padding", 0), o.get("groups", 1), rest[2]
        )
    return local(x, get("W"), get("b"), *rest)


@every_case
def test_a_small_layer_is_worked_through_with_torchs_numbers(
    layer: str, shape: tuple[int, ...], options: dict[str, Any], make: Any
) -> None:
    explanation = explain(layer, shape, small=True, **options)
    wanted = gradients(layer, explanation)
    assert wanted.keys() - {"y"} == {name for name in explanation.values if name[0] == "d" and name not in ("dy", "dz")}
    for name, value in wanted.items():
        found = explanation.values[name]
        assert found.dtype is torch.float64 and found.shape == value.shape and found.count_nonzero() > 0
        if layer.startswith(BARE):
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(found, value) or (
                layer.startswith("avg") and torch.allclose(found, value, rtol=1e-15, atol=0)
            )


SUM = re.compile(r"([\wγβσμ²̂()·]+(?:\[[\d,]+\])?) +[=←] (.+) = (−?[\d.]+)$")


def evaluated(formula: str, cells: dict[str, float]) -> float:
    """A spelled-out sum as a number."""
    formula = formula.removeprefix("γ·x̂ + β = ")
    formula = re.sub(r"dy(\[[\d,]*\])?", lambda m: str(cells[m[0]]), formula)
    formula = re.sub(r"√\((.*?) \+ ε\)", r"((\1 + 1e-5)**0.5)", formula)
    formula = re.sub(r"√\((.*)\)", r"((\1)**0.5)", formula)
    return float(eval(formula.replace("²", "**2").replace("−", "-").replace("·", "*"), {"max": lambda *a: max(a)}))


@every_case
def test_every_sum_that_is_spelled_out_gives_its_result(
    layer: str, shape: tuple[int, ...], options: dict[str, Any], make: Any
) -> None:
    explanation = explain(layer, shape, small=True, **options)
    check_sums(explanation)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_sum_of_an_example_gives_its_result(name: str) -> None:
    check_sums(example(name))


def check_sums(explanation: Explanation) -> None:
    cells: dict[str, float] = {}
    for name, t in explanation.values.items():
        for index in torch.cartesian_prod(*(torch.arange(n) for n in t.shape)).reshape(-1, t.dim()).tolist():
            cells[
                cell(name, tuple(t.shape), tuple(index), 1 if name[:1] == "b" or name[:2] in ("db", "dγ", "dβ") else 2)
            ] = float(t[tuple(index)])
    checked = 0
    for section in explanation.parts:
        if not section.title.startswith(("Forward", "Backward", "Edges")) or section.title.startswith("Backward, from"):
            continue
        for line in section.lines(10_000):
            found = SUM.match(line.strip())
            if found is None:
                continue
            name, formula, result = found.groups()
            value = float(result.replace("−", "-"))
            # every number is rounded, or the result alone
            rounded = 2e-3 if explanation.facts["layer"].startswith(BARE) else 5e-5
            assert evaluated(formula, cells) == pytest.approx(value, abs=rounded), line
            if name in cells:
                assert round(cells[name], 4) == value, line
            checked += 1
    assert checked >= 3


def test_sobel_finds_the_edges() -> None:
    explanation = example("sobel")
    assert explanation.values["y"].tolist() == [[[[-12, -12], [-12, -12]], [[0, 0], [-16, -16]]]]
    assert part(explanation, "Edges: G = √(Gx² + Gy²)") == [
        *("G", "12 12", "20 20", ""),
        "G[0,0] = √((−12)² + 0²) = 12",
        "G[0,1] = √((−12)² + 0²) = 12",
        "G[1,0] = √((−12)² + (−16)²) = 20",
        "G[1,1] = √((−12)² + (−16)²) = 20",
    ]


def test_one_dimensional_example() -> None:
    explanation = example("conv1d")
    assert explanation.values["y"].tolist() == [[[3, -4]]]
    assert part(explanation, "Forward") == [
        "x           W",
        "2 3 1 0 4    1  0 −1",
        "1 2 0 1 3   −1  1  0",
        "0 1 2 3 1    0 −1  1",
        *("", "y", "3 −4", ""),
        "y[0] = 2·1 + 3·0 + 1·(−1) + 1·(−1) + 2·1 + 0·0 + 0·0 + 1·(−1) + 2·1 = 3",
        "y[1] = 1·1 + 0·0 + 4·(−1) + 0·(−1) + 1·1 + 3·0 + 2·0 + 3·(−1) + 1·1 = −4",
    ]
    assert part(explanation, "Output size") == ["length  2 = ⌊(5 + 2·0 − 3)/2⌋ + 1"]


def test_three_dimensional_example() -> None:
    assert example("conv3d").values["y"].tolist() == [[[[[-21, 21], [21, 28]], [[32, -67], [17, -29]]]]]


def test_max_pooling_example_sends_the_gradient_to_the_winners() -> None:
    explanation = example("max-pool")
    assert explanation.values["y"].tolist() == [[[[4, 5], [5, 3]]]]
    assert explanation.values["dx"].tolist() == [[[[0, 0, 0, 0], [0.2, 0, 0, -0.3], [0, 0, 0.1, 0], [0, 0.4, 0, 0]]]]
    assert part(explanation, "Backward: dy goes to the winner")[-5:] == [
        "dx[1,0] = dy[0,0] = 0.2",
        "dx[1,3] = dy[0,1] = −0.3",
        "dx[2,2] = dy[1,1] = 0.1",
        "dx[3,1] = dy[1,0] = 0.4",
        "Every other dx is 0: it did not win.",
    ]


def test_average_pooling_example_shares_the_gradient_out() -> None:
    explanation = example("avg-pool")
    assert explanation.values["y"].tolist() == [[[[2.5, 2.25], [2, 2]]]]
    a, b, c, d = 0.05, -0.075, 0.1, 0.025
    assert explanation.values["dx"].tolist() == [[[[a, a, b, b], [a, a, b, b], [c, c, d, d], [c, c, d, d]]]]
    assert part(explanation, "Forward")[-4:] == [
        "y[0,0] = (1 + 3 + 4 + 2)/4 = 2.5",
        "y[0,1] = (2 + 1 + 1 + 5)/4 = 2.25",
        "y[1,0] = (2 + 0 + 1 + 5)/4 = 2",
        "y[1,1] = (3 + 1 + 2 + 2)/4 = 2",
    ]


def test_batch_norm_example_measures_scales_and_moves_the_running_statistics() -> None:
    explanation = example("batchnorm")
    assert part(explanation, "Forward")[4:9] == [
        "The first channel:",
        "μ            = (1 + 5 + 1 + 5)/4 = 3",
        "σ²           = ((1−3)² + (5−3)² + (1−3)² + (5−3)²)/4 = 4",
        "x̂[0,0,0]     = (1 − 3)/√(4 + ε) = −1",
        "y[0,0,0]     = γ·x̂ + β = 1·(−1) + 0 = −1",
    ]
    layer = nn.BatchNorm1d(2, dtype=torch.float64)
    layer(explanation.values["x"])
    assert torch.equal(layer.running_mean, explanation.values["running_mean"])  # type: ignore[arg-type]
    torch.testing.assert_close(layer.running_var, explanation.values["running_var"])


def test_matrices_stand_side_by_side_and_break_where_the_line_ends() -> None:
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert matrices(("x", x), ("b", torch.tensor([-1.0, 0.5])), lead=2, width=20)[1].splitlines() == [
        *("x[0]   x[1]   b", "0 1    4 5    −1 0.5", "2 3    6 7")
    ]
    assert matrices(("x", x), width=10)[1].splitlines() == ["x[0]", "0 1", "2 3", "", "x[1]", "4 5", "6 7"]
    assert [number(v) for v in (1 / 3, -0.00001, 12345.0)] == ["0.3333", "0", "12345"]


# ------------------------------------------------------------------------------------------------- how it is formatted


def test_the_guide_shows_what_is_printed() -> None:
    page = Path(__file__).parent.parent / "docs" / "guide" / "explain.md"
    if not page.is_file():
        pytest.skip("the guide is not installed, only the checkout has it")
    text = page.read_text(encoding="utf-8")
    conv = str(explain("conv2d", (3, 32, 32), out=10, kernel=5, padding=2)).partition("\n\nMethod")[0]
    small = (
        str(explain("conv2d", (3, 9, 9), out=4, kernel=3, padding=1, small=True))
        .partition("\n\nA smaller")[2]
        .partition("\n\nMethod")[0]
    )
    against = str(explain("separable2d", (128, 32, 32), out=256, kernel=3, padding="same", bias=False)).partition(
        "\n\nAgainst"
    )[2]
    for shown in (
        conv,
        f"```\nA smaller{small}\n```",
        f"```\nAgainst{against}\n```",
        f"```\n{example('max-pool')}\n```",
    ):
        assert len(shown) > 200 and shown in text


@every_case
def test_no_line_is_longer_than_100_characters(
    layer: str, shape: tuple[int, ...], options: dict[str, Any], make: Any
) -> None:
    lines = explain(layer, shape, small=True, **options).lines()
    assert len(lines) > 10 and max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)


def test_the_dictionary_holds_facts_text_and_numbers() -> None:
    explanation = explain("maxpool2d", (1, 1, 4, 4), small=True, kernel=2)
    found = json.loads(json.dumps(explanation.to_dict()))
    assert found["version"] == 1 and found["layer"] == "maxpool2d" and found["input_shape"] == [1, 1, 4, 4]
    assert found["receptive_field"] == {"size": [2, 2], "jump": [2, 2], "offset": [0, 0]}
    assert found["parts"][0] == {
        "title": "Output size = ⌊(input + 2·padding − kernel)/stride⌋ + 1",
        "lines": ["height, width  2 = ⌊(4 + 2·0 − 2)/2⌋ + 1"],
    }
    assert found["values"]["x"] == explanation.values["x"].tolist()


def test_methods_are_told_without_a_native_core_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("striate.native.missing", "striate's native core is not installed")
    explanation = explain("conv2d", (3, 8, 8), out=4, kernel=3)
    assert part(explanation, "Method, of x in planes order")[:2] == [
        "forward: torch",
        "  not depthwise: striate's native core is not installed",
    ]


def test_a_long_axis_takes_no_more_work_than_a_short_one() -> None:
    def conv(length: int) -> Any:
        return explain("conv1d", (1, length), out=1, kernel=3, padding=1).facts

    def pool(length: int) -> Any:
        return explain("avgpool1d", (1, length), kernel=3, stride=1, padding=1, count_include_pad=False).facts

    facts = conv(2**30)
    assert facts["macs"] - facts["macs_inside"] == 2
    assert pool(2**30)["divisors"] == {"2": 2, "3": 2**30 - 2}
    for facts_of in (conv, pool):
        facts_of(2**5)
        long = calls_of(lambda facts_of=facts_of: facts_of(2**29))  # type: ignore[misc]
        assert long < 1.5 * calls_of(lambda facts_of=facts_of: facts_of(2**6))  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------- commands


def test_the_command_prints_the_explanation_and_the_methods_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["explain", "conv2d", "--input", "3x32x32", "--out", "10", "--kernel", "5", "--padding", "2", "--small"])
        == 0
    )
    assert (
        capsys.readouterr().out == f"{explain('conv2d', (3, 32, 32), out=10, kernel=(5,), padding=(2,), small=True)}\n"
    )


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "explain",
                "avgpool2d",
                "--input",
                "3x7x7",
                "--kernel",
                "3",
                "--padding",
                "1",
                "--exclude-pad",
                "--ceil",
                "--json",
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["options"] == {"kernel": [3], "padding": [1], "ceil": True, "count_include_pad": False}
    assert printed["output_shape"] == [1, 3, 3, 3] and printed["divisors"] == {"4": 4, "6": 4, "9": 1}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_prints_each_example_and_help_lists_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--example", name]) == 0
    assert capsys.readouterr().out == f"{example(name)}\n"
    assert main(["explain", "--help"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"  {name:<10} {EXAMPLES[name].layer}. {EXAMPLES[name].about}" in printed
        and max(map(len, printed.splitlines())) <= 100
    )


LAYERS = (
    "conv1d/2d/3d, depthwise1d/2d/3d, separable1d/2d/3d, spatial2d, bottleneck2d, convtranspose1d/2d/3d, "
    "local1d/2d/3d, maxpool1d/2d/3d, "
    "avgpool1d/2d/3d, batchnorm, layernorm, instancenorm, groupnorm, layernorm2d"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "a layer or --example, got neither. Write as striate explain conv2d --input 3x32x32 --out 10 --kernel 5."),
        (
            "conv4d --input 3x3",
            f"one of {LAYERS}, got 'conv4d'. Choose one of these names. Did you mean conv1d or conv2d or conv3d?",
        ),
        ("conv2d", "conv2d with its --input, got none. Add --input, as 16x64x56x56."),
        ("conv2d --input 3x9x9", "conv2d with its out, got none. Add one, as 16."),
        ("conv2d --input 3x9x9 --out 4", "conv2d with its kernel, got none. Add one, as 3."),
        ("groupnorm --input 2x6x3", "groupnorm with its groups, got none. Add one, as 2."),
        (
            "maxpool1d --input 3x9 --kernel 3 --out 3",
            "maxpool1d with kernel, stride, padding, dilation, ceil, got out. Leave it away.",
        ),
        ("batchnorm --input 2x6x3 --kernel 3", "batchnorm with no option, got kernel. Leave it away."),
        (
            "conv2d --input 3y4 --out 1 --kernel 3",
            "--input to be whole numbers with x between, got '3y4'. Write as 16x64x56x56.",
        ),
        (
            "convtranspose1d --input 3x4 --out 1 --kernel 3 --output-padding one",
            "--output-padding to be whole numbers with x between, got 'one'. Write as 3 or 3x5.",
        ),
        (
            "conv1d --input 3 --out 1 --kernel 3",
            "an input of 2 or 3 numbers, got 3. Write batch, channels and axes, as 16x64x56.",
        ),
        (
            "conv2d --input 3x4 --out 1 --kernel 3",
            "an input of 3 or 4 numbers, got 3×4. Write batch, channels and axes, as 16x64x56x56.",
        ),
        (
            "batchnorm --input 3",
            "an input of 2 or more numbers, got 3. Write batch, channels and axes, as 16x64x56x56.",
        ),
        (
            "layernorm2d --input 3x4x4",
            "an input of 4 numbers, got 3×4×4. Write batch, channels and axes, as 16x64x56x56.",
        ),
        (
            "conv2d --input 0x9x9 --out 3 --kernel 3",
            "an input of whole numbers from 1 on, got 0×9×9. Write as 16x64x56x56.",
        ),
        (
            "conv1d --input 3x9999999999 --out 3 --kernel 3",
            "x of at most 2^31 values, got 1×3×9999999999. Choose smaller numbers.",
        ),
        (
            "conv1d --input 3x99 --out 9999999 --kernel 99",
            "a weight of at most 2^31 values, got 9999999×3×99. Choose smaller numbers.",
        ),
        (
            "conv1d --input 3x99 --out 3 --kernel 3 --padding 9999999999",
            "y of at most 2^31 values, got 1×3×20000000095. Choose smaller numbers.",
        ),
        ("conv2d --input 3x9x9 --out 0 --kernel 3", "out from 1 to 2^31, got 0. Choose a whole number for out."),
        (
            "bottleneck2d --input 3x9x9 --out 8 --middle -1",
            "middle from 1 to 2^31, got -1. Choose a whole number for middle.",
        ),
        (
            "conv2d --input 3x9x9 --out 4 --kernel 0",
            "kernel from 1 to 2^62, got 0. x: (1, 3, 9, 9). Choose a kernel of at least 1.",
        ),
        (
            "conv2d --input 3x9x9 --out 4 --kernel 3x3x3",
            "kernel to be one integer or 2, got (3, 3, 3). x: (1, 3, 9, 9). Give one integer or 2.",
        ),
        (
            "conv2d --input 3x9x9 --out 4 --kernel 3 --groups 2",
            "groups that divide the 3 input channels, got 2. x: (1, 3, 9, 9). Choose a divisor.",
        ),
        (
            "convtranspose2d --input 4x9x9 --out 3 --kernel 3 --groups 2",
            "groups that divide the 3 output channels, got 2. x: (1, 4, 9, 9). Choose a divisor.",
        ),
        (
            "groupnorm --input 2x6x3 --groups 4",
            "groups that divide the 6 channels, got 4. x: (2, 6, 3). Choose a divisor.",
        ),
        (
            "depthwise2d --input 3x9x9 --out 4 --kernel 3",
            "out to be a multiple of the 3 channels, got 4. Choose a multiple, or leave it away for as many.",
        ),
        (
            "instancenorm --input 2x6x1",
            "more than one value for each sample and channel, got 1. x: (2, 6, 1). A lone value is its own mean: give "
            "more.",
        ),
        (
            "conv2d --input 3x2x2 --out 4 --kernel 3",
            "a window no larger than the padded input, 2, got 3. x: (1, 3, 2, 2). Make the kernel or its dilation "
            "smaller, or pad more.",
        ),
        ("--example canny", f"an example of {', '.join(EXAMPLES)}, got 'canny'. Choose one of these."),
        ("conv2d --example sobel", "--example alone, got a layer or its options too. Leave out one or the other."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments.split()]) == 2
    found = capsys.readouterr()
    assert found.err == f"striate: explain expects {message}\n" and found.out == ""


def test_every_family_is_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(family in printed for family in FAMILIES)
