"""The formats of a report: text, Markdown, and a page with a picture of receptive fields."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest
import torch
from graphs import GRAPHS
from pages import Page
from torch import Tensor, nn

from striate import models
from striate.analysis import Report, inspect
from striate.analysis.inspect.picture import frames
from striate.analysis.inspect.stage import stages
from striate.analysis.inspect.table import bar as bar_of
from striate.analysis.lint.finding import Finding
from striate.errors import ArgumentError

GOLDEN = Path(__file__).parent / "golden" / "inspect"
LARGE = ("resnet50", "mobilenet_v2", "convnext_tiny")
FINDINGS = [
    Finding(
        "no-such-thing",
        "error",
        "3",
        "It cannot learn: 5 of 50 filters are 0.",
        "Initialise them again.",
        "arithmetic",
        "/far/away/net.py:12",
        0.75,
    ),
    Finding(
        "too-small", "warning", "model", "The largest field is 16 px.", "Add a layer.", 'A. Author, "A Title", 2019'
    ),
    Finding("by-the-way", "note", "9", "Its outputs are scores.", "Nothing is to do.", "arithmetic"),
]


def lenet() -> Report:
    report = inspect(models.lenet5().eval(), (1, 1, 28, 28))
    report.model, report.findings = "lenet5", list(FINDINGS)
    return report


def odd(name: str) -> Report:
    make, input = GRAPHS[name]
    return inspect(make().eval(), input)


def large(name: str) -> Report:
    with torch.device("meta"):
        return inspect(models.by_name(name)().eval(), (1, 3, 224, 224))


# -------------------------------------------------------------------------------------------------------------- as text


@pytest.mark.parametrize("form", ["txt", "md"])
def test_lenet_looks_as_it_is_kept(form: str) -> None:
    report = lenet()
    assert (report.table() + "\n" if form == "txt" else report.markdown()) == (GOLDEN / f"lenet5.{form}").read_text()


def test_printing_a_report_shows_its_table() -> None:
    report = lenet()
    assert str(report) == report.table(100)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("width", [40, 80, 130])
def test_lines_of_large_networks_fit_and_every_layer_has_its_own(name: str, width: int) -> None:
    report = large(name)
    lines = report.table(width).splitlines()
    assert max(map(len, lines)) <= width
    head = lines[lines.index("") + 1]
    first = lines.index("") + 2
    rows = lines[first : lines.index("", first)]
    assert len(rows) == len(report.layers) and head.endswith(" share")
    most = max(layer.macs for layer in report.layers)
    for row, layer in zip(rows, report.layers, strict=True):
        shown = re.split(" {2,}", row)[0]
        assert shown == layer.name or (shown.startswith("…") and layer.name.endswith(shown[1:]))
        bar = row[head.index("share") :]
        assert bar == bar_of(layer.macs / report.totals["macs"]) and (layer.macs < most or bar)


def test_columns_give_way_one_by_one() -> None:
    def head(width: int) -> list[str]:
        return lenet().table(width).split("\n\n")[1].splitlines()[0].split()

    every = ["layer", "type", "output", "weight", "parameters", "MACs", "made", "kept", "field", "share"]
    assert head(124) == every
    left = [[name for name in every if name not in head(width)] for width in (123, 95, 79, 71, 59)]
    assert left == [
        ["weight"],
        ["weight", "made"],
        ["weight", "made", "kept"],
        ["type", "weight", "made", "kept"],
        ["type", "output", "weight", "parameters", "made", "kept"],
    ]


def test_less_than_40_columns_are_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        lenet().table(39)
    assert str(caught.value) == "Report.table expects a width of at least 40, got 39. Leave it out for 100."


def test_colours_come_only_where_they_are_asked_for_and_change_no_text() -> None:
    report = lenet()
    assert "\x1b" not in report.table()
    colored = report.table(color=True)
    assert re.sub(r"\x1b\[\d*m", "", colored) == report.table()
    assert "\x1b[31m✗\x1b[0m no-such-thing: 3 (net.py:12) (75 % of the MACs)" in colored
    assert "\x1b[33m!\x1b[0m too-small: model\n" in colored and "\x1b[34m██████\x1b[0m" in colored


# ------------------------------------------------------------------------------------------------------------- findings


def found(rule: str, severity: str, place: str, share: float | None = None, message: str = "It is wrong.") -> Finding:
    return Finding(rule, severity, place, message, "Mend it.", "arithmetic", share=share)


def findings_of(report: Report, width: int = 100) -> list[str]:
    return report.table(width).split("\n\n")[3].splitlines()


def test_a_rule_is_told_once_with_all_its_layers_and_the_largest_share_first() -> None:
    report = lenet()
    report.findings = [
        found("small", "note", "1", 0.001),
        found("skipped-pixels", "note", "layer2.0", 0.02),
        found("skipped-pixels", "note", "layer3.0", 0.03),
        found("skipped-pixels", "note", "layer4.0", 0.01),
        found("whole", "note", "model"),
        found("skipped-pixels", "warning", "0", 0.0001),
        found("costly", "warning", "3", 0.5),
    ]
    assert findings_of(report) == [
        "2 warnings, 3 notes",
        "! costly: 3 (50 % of the MACs)",
        "  It is wrong. Mend it.",
        "! skipped-pixels: 0 (<0.1 % of the MACs)",
        "  It is wrong. Mend it.",
        "· whole: model",
        "  It is wrong. Mend it.",
        "· skipped-pixels: layer2.0, layer3.0, layer4.0 (3 layers, 6.0 % of the MACs)",
        "  It is wrong. Mend it.",
        "· small: 1 (0.1 % of the MACs)",
        "  It is wrong. Mend it.",
    ]
    page = Page(report.html())
    assert [attributes["class"] for tag, attributes in page.elements if tag == "li"] == [
        "warning",
        "warning",
        "note",
        "note",
        "note",
    ]
    assert (
        "skipped-pixels: layer2.0, layer3.0, layer4.0 (3 layers, 6.0 % of the MACs)" in page.text
        and "each of them" not in page.text
    )
    assert (
        "- **note** skipped-pixels: `layer2.0, layer3.0, layer4.0` (3 layers, 6.0 % of the MACs). It is wrong. Mend "
        "it.\n"
        in report.markdown()
    )


def test_messages_that_differ_are_told_of_the_layer_with_the_largest_share_and_on_the_page_of_each() -> None:
    report = lenet()
    report.findings = [
        found("a-rule", "note", name, share, f"It is {share} wrong.")
        for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.15))
    ]
    assert findings_of(report)[1:] == [
        "· a-rule: a, b, c (3 layers, 45 % of the MACs)",
        "  At b: It is 0.2 wrong. Mend it.",
    ]
    assert (
        "each of thema: It is 0.1 wrong. Mend it.b: It is 0.2 wrong. Mend it.c: It is 0.15 wrong. Mend it."
        in Page(report.html()).text
    )


def test_a_layer_that_a_rule_finds_twice_counts_once_and_many_names_are_joined() -> None:
    report = lenet()
    report.findings = [
        found("a-rule", "note", f"blocks.{k}.attn.{part}", 0.01) for k in range(10) for part in ("qkv", "proj", "qkv")
    ]
    assert findings_of(report)[1] == "· a-rule: blocks.{0-9}.attn.{qkv,proj} (20 layers, 20 % of the MACs)"


def test_marks_say_what_is_a_bound_and_what_is_unknown() -> None:
    class Distances(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, x)

    bounds = [
        name for name in GRAPHS if any(row.status["receptive_field"] == "upper bound" for row in odd(name).layers)
    ]
    assert bounds and all(re.search(r" ≤\d", odd(name).table().split("\n\n")[1]) for name in bounds)
    report = inspect(Distances(), (1, 1, 6, 6))
    assert "an unknown number of MACs forward" in report.table() and re.search(r"^\S+ .* \? ", report.table(), re.M)
    assert "| ? |" in report.markdown() and '<dt>MACs forward</dt><dd>? <small></small></dd>' in report.html()


# ------------------------------------------------------------------------------------------------------------ as a page


def test_the_page_asks_for_nothing_from_elsewhere_and_escapes_names() -> None:
    evil = '<script>alert("&")</script>'
    report = lenet()
    report.model = evil
    report.notes = [evil]
    report.findings = [Finding(evil, "error", evil, evil, evil, evil)]
    page = report.html()
    assert "<script" not in page and page.count("&lt;script&gt;alert(&#34;&amp;&#34;)&lt;/script&gt;") == 8
    assert not re.search(r"https?:|src=|href=|url\(|@import|<link|<img|\bon\w+=", page)
    assert page.startswith("<!doctype html>") and 'name="viewport"' in page and "default-src 'none'" in page
    Page(page)


def test_the_page_tells_facts_findings_and_every_layer() -> None:
    report = lenet()
    page = Page(report.html())
    for text in ("x 1×1×28×28, evaluation mode.", "1,256,080", "1 error, 1 warning, 1 note"):
        assert text.lower() in page.text.lower()
    for finding in FINDINGS:
        assert f"{finding.message} {finding.fix}{finding.source}" in page.text
    assert (
        "no-such-thing: 3 (net.py:12) (75 % of the MACs)It cannot learn" in page.text and "/far/away" not in page.text
    )
    assert [attributes["class"] for tag, attributes in page.elements if tag == "li"] == ["error", "warning", "note"]
    for layer in report.layers:
        assert f"{layer.name}{layer.type} {'×'.join(map(str, layer.output_shape))}" in page.text


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_pages_of_odd_networks_are_whole(name: str) -> None:
    report = odd(name)
    page = report.html()
    parsed = Page(page)
    assert (
        sum(tag == "tr" and "layers" not in attributes for tag, attributes in parsed.elements) >= len(report.layers) + 1
    )
    widths = [float(w) for w in re.findall(r'style="width:([\d.]+)%', page)]
    assert all(0 <= w <= 100 for w in widths)
    drawn = frames(report)
    rects = [attributes for tag, attributes in parsed.elements if tag == "rect"]
    outlines = [attributes for attributes in rects if attributes.get("class") == "frame"]
    assert len(outlines) == len(drawn) and (not drawn) == ("<svg" not in page)
    dashed = [frame for frame in drawn if frame.layer.status["receptive_field"] == "upper bound"]
    assert sum("stroke-dasharray" in attributes for attributes in outlines) == len(dashed)


def test_bars_are_numbered_and_their_scale_is_told() -> None:
    page = lenet().html()
    heads = re.findall(r'<span class="scale"><span>0</span><span>([\d.]+) %</span><span>([\d.]+) %</span></span>', page)
    # the tables of the stages; of the rows in each, and of all rows
    assert set(heads) == {("50", "100")} and len(heads) == 1 + 4 + 1
    row = re.search(r"<tr><td>3<small>.*?</tr>", page)
    assert (
        row is not None and '<td class="n" data-name="share">75 %</td>' in row[0] and 'style="width:75.13%"' in row[0]
    )
    with torch.device("meta"):
        wide = inspect(models.resnet50().eval(), (1, 3, 224, 224))
    share = max(layer.macs for layer in wide.layers) / wide.totals["macs"]
    assert (
        f'style="width:{share / 0.05 * 100:.2f}%"' in wide.html()
        and "<span>2.5 %</span><span>5 %</span>" in wide.html()
    )


def test_rows_fold_by_stage_and_are_sorted_without_a_script() -> None:
    with torch.device("meta"):
        report = inspect(models.resnet50().eval(), (1, 3, 224, 224))
    page = report.html()
    parts = stages(report)
    assert [stage.size for stage in parts] == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7), None]
    assert [layer for stage in parts for layer in stage.layers] == report.layers
    folded, sorted_ = page.split('<div class="sorted">')
    assert (
        folded.count("<details>") == len(parts) and "<details open>" not in page and "<details open>" in lenet().html()
    )
    assert "56×56<small>maxpool to layer2.0.relu, 38 rows" in folded
    rows = re.findall(r'<tr style="--MACs:(\d+);--parameters:(\d+);--made:(\d+);--kept:(\d+)"><td>([^<]+)<', sorted_)
    assert [row[4] for row in rows] == [layer.name for layer in report.layers]
    for place, column in enumerate(("macs", "parameters", "activation_bytes", "kept_bytes")):
        ranked = sorted(zip(rows, report.layers, strict=True), key=lambda pair: int(pair[0][place]))
        assert [int(row[place]) for row, _ in ranked] == list(range(1, len(rows) + 1))
        values = [getattr(layer, column) for _, layer in ranked]
        assert values == sorted(values, reverse=True)
    for name in ("MACs", "parameters", "made", "kept"):
        assert (
            f"#by-{name}:checked ~ .sorted tr {{ order: var(--{name}) }}" in page and f'<label for="by-{name}">' in page
        )


def test_a_stage_goes_on_through_gates_and_tokens() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x * self.gate(x.mean((2, 3)))[:, :, None, None]
            return self.last(x.flatten(2).transpose(1, 2))

    assert [(stage.size, len(stage.layers)) for stage in stages(inspect(Gated(), (1, 3, 8, 8)))] == [((8, 8), 5)]


# ---------------------------------------------------------------------------------------------------------- the picture


@pytest.mark.parametrize("name", [*LARGE, "lenet5"])
def test_frames_are_what_the_middle_unit_sees(name: str) -> None:
    report = lenet() if name == "lenet5" else large(name)
    drawn = frames(report)
    assert 5 <= len(drawn) <= 6
    areas = [prod(frame.size) for frame in drawn]
    assert areas == sorted(areas) and len(set(areas)) == len(areas)
    for frame in drawn:
        limits = report.input_shapes[0][2:]
        inside = tuple((max(0, first), min(n - 1, last)) for (first, last), n in zip(frame.spans, limits, strict=True))
        assert report.receptive_field(frame.layer.name, frame.unit).rectangle == inside
        assert frame.unit == tuple(frame.layer.output_shape[axis] // 2 for axis in report.unit_axes(frame.layer.name))


def test_frames_of_lenet_are_those_of_its_windows() -> None:
    drawn = [(frame.layer.name, frame.size, frame.spans[0]) for frame in frames(lenet())]
    assert drawn == [
        ("0", (5, 5), (12, 16)),
        ("2", (6, 6), (12, 17)),
        ("3", (14, 14), (8, 21)),
        ("5", (16, 16), (6, 21)),
        ("7", (40, 40), (-6, 33)),
    ]


def test_the_smallest_and_the_largest_field_are_among_the_frames() -> None:
    report = large("resnet50")
    sizes = [frame.size[0] for frame in frames(report)]
    fields = [layer.receptive_field["size"][0] for layer in report.layers if layer.receptive_field is not None]
    assert (sizes[0], sizes[-1]) == (min(fields), max(fields)) and sizes == [7, 19, 43, 107, 267, 619]


def test_all_frames_lie_in_the_picture_beyond_an_images_size_shortened() -> None:
    for shape, shortened in (((1, 3, 224, 224), False), ((1, 3, 64, 64), True), ((1, 3, 32, 96), True)):
        report = inspect(models.resnet18().eval(), shape)
        page, drawn = report.html(), frames(report)
        assert ("Distances in it are drawn shortened, the more the further away." in page) == shortened
        box = [float(n) for n in re.findall(r'viewBox="(-[^"]+)"', page)[0].split()]
        number = r'(-?[\d.]+)'
        rects = re.findall(
            rf'<rect class="frame halo" x="{number}" y="{number}" width="{number}" height="{number}"', page
        )
        drawn_at = [tuple(map(float, rect)) for rect in reversed(rects)]
        assert len(drawn_at) == len(drawn) == 6
        for (x, y, wide, high), frame in zip(drawn_at, drawn, strict=True):
            assert box[0] < x and box[1] < y and x + wide < box[0] + box[2] and y + high < box[1] + box[3]
            (top, bottom), (left, right) = frame.spans
            inside = top >= 0 and left >= 0 and bottom < shape[2] and right < shape[3]
            if inside or not shortened:
                assert (x, y, wide, high) == (left, top, right - left + 1, bottom - top + 1)
            else:
                assert (
                    wide <= right - left + 1
                    and high <= bottom - top + 1
                    and (wide, high) != (right - left + 1, bottom - top + 1)
                )
        areas = [wide * high for _, _, wide, high in drawn_at]
        assert areas == sorted(set(areas))


def test_an_input_without_rows_and_columns_has_no_picture() -> None:
    for name in ("wave", "volume"):
        assert frames(odd(name)) == [] and "<svg" not in odd(name).html()


def test_a_rules_name_is_never_cut_at_the_end_of_a_line() -> None:
    report = inspect(models.resnet18().eval(), (1, 3, 64, 64))
    for width in range(40, 120):
        table = report.table(width)
        assert report.findings and all(
            f" {finding.rule}: " in table or f" {finding.rule}:\n" in table for finding in report.findings
        )
