"""What a report looks like: as text, as Markdown, and as a page with a picture of receptive fields."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from math import prod
from pathlib import Path

import pytest
import torch
from graphs import GRAPHS
from torch import Tensor, nn

from striate import models
from striate.analysis import Report, inspect
from striate.analysis.picture import frames
from striate.analysis.rule import Finding
from striate.errors import ArgumentError

GOLDEN = Path(__file__).parent / "golden" / "inspect"
LARGE = ("resnet50", "mobilenet_v2", "convnext_tiny")
FINDINGS = [
    Finding("no-such-thing", "error", "3", "It cannot learn: 5 of 50 filters are 0.", "Initialise them again.", "arithmetic", "/far/away/net.py:12"),
    Finding("too-small", "warning", "model", "The largest field is 16 px.", "Add a layer.", 'A. Author, "A Title", 2019'),
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


class Page(HTMLParser):
    """Fails where a tag is not closed; keeps the elements' attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# --------------------------------------------------------------------------------------------------------------------- as text


@pytest.mark.parametrize("form", ["txt", "md"])
def test_lenet_looks_as_it_is_kept(form: str) -> None:
    report = lenet()
    assert (report.table() + "\n" if form == "txt" else report.markdown()) == (GOLDEN / f"lenet5.{form}").read_text()


def test_printing_a_report_shows_its_table() -> None:
    report = lenet()
    assert str(report) == report.table(100)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("width", [80, 100, 130])
def test_lines_of_large_networks_fit_and_every_layer_has_its_own(name: str, width: int) -> None:
    report = large(name)
    lines = report.table(width).splitlines()
    assert max(map(len, lines)) <= width
    head = lines[lines.index("") + 1]
    first = lines.index("") + 2
    rows = lines[first : lines.index("", first)]
    assert len(rows) == len(report.layers)
    for row, layer in zip(rows, report.layers, strict=True):
        shown = row[: head.index("type")].rstrip()
        assert shown == layer.name or (shown.startswith("…") and layer.name.endswith(shown[1:]))


def test_less_than_80_columns_are_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        lenet().table(79)
    assert str(caught.value) == "Report.table expects a width of at least 80, got 79. Leave it out for 100."


def test_colours_come_only_where_they_are_asked_for_and_change_no_text() -> None:
    report = lenet()
    assert "\x1b" not in report.table()
    colored = report.table(color=True)
    assert re.sub(r"\x1b\[\d*m", "", colored) == report.table()
    assert "\x1b[31m✗\x1b[0m 3 (net.py:12): " in colored and "\x1b[33m!\x1b[0m model: " in colored and "\x1b[34m██████\x1b[0m" in colored


def test_marks_say_what_is_a_bound_and_what_is_unknown() -> None:
    class Distances(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, x)

    bounds = [name for name in GRAPHS if any(row.status["receptive_field"] == "upper bound" for row in odd(name).layers)]
    assert bounds and all(re.search(r" ≤\d", odd(name).table().split("\n\n")[1]) for name in bounds)
    report = inspect(Distances(), (1, 1, 6, 6))
    assert "an unknown number of MACs forward" in report.table() and re.search(r"^\S+ .* \? ", report.table(), re.M)
    assert "| ? |" in report.markdown() and '<dt>MACs forward</dt><dd>? <small></small></dd>' in report.html()


# ------------------------------------------------------------------------------------------------------------------ as a page


def test_the_page_asks_for_nothing_from_elsewhere_and_escapes_names() -> None:
    evil = '<script>alert("&")</script>'
    report = lenet()
    report.model = evil
    report.notes = [evil]
    report.findings = [Finding(evil, "error", evil, evil, evil, evil)]
    page = report.html()
    assert "<script" not in page and page.count("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;") == 8
    assert not re.search(r"https?:|src=|href=|url\(|@import|<link|<img|\bon\w+=", page)
    assert page.startswith("<!doctype html>") and 'name="viewport"' in page and "default-src 'none'" in page
    Page(page)


def test_the_page_tells_facts_findings_and_every_layer() -> None:
    report = lenet()
    told = Page(report.html())
    for text in ("x 1×1×28×28, evaluation mode.", "1,256,080", "1 error, 1 warning, 1 note"):
        assert text.lower() in told.text.lower()
    for finding in FINDINGS:
        assert f"{finding.message} {finding.fix}{finding.rule}. {finding.source}" in told.text
    assert "3 (net.py:12): It cannot learn" in told.text and "/far/away" not in told.text
    assert [attributes["class"] for tag, attributes in told.elements if tag == "li"] == ["error", "warning", "note"]
    for layer in report.layers:
        assert f"{layer.name}{layer.type} {'×'.join(map(str, layer.output_shape))}" in told.text


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_pages_of_odd_networks_are_whole(name: str) -> None:
    report = odd(name)
    page = report.html()
    told = Page(page)
    assert sum(tag == "tr" and "layers" not in attributes for tag, attributes in told.elements) >= len(report.layers) + 1
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", page.split("</style>")[1])]
    assert all(0 < w <= 100 for w in widths) and (max(widths, default=100) == 100)
    drawn = frames(report)
    outlines = [attributes for tag, attributes in told.elements if tag == "rect" and attributes.get("class") == "frame"]
    assert len(outlines) == len(drawn) and (not drawn) == ("<svg" not in page)
    dashed = [frame for frame in drawn if frame.layer.status["receptive_field"] == "upper bound"]
    assert sum("stroke-dasharray" in attributes for attributes in outlines) == len(dashed)


# ---------------------------------------------------------------------------------------------------------------- the picture


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
    told = [(frame.layer.name, frame.size, frame.spans[0]) for frame in frames(lenet())]
    assert told == [
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


def test_frames_lie_in_the_picture_unless_it_says_that_they_do_not() -> None:
    for shape, beyond in (((1, 3, 224, 224), False), ((1, 3, 64, 64), True)):
        page = inspect(models.resnet18().eval(), shape).html()
        assert ("Larger fields lie beyond the edge." in page) == beyond
        box = [float(n) for n in re.findall(r'viewBox="(-[^"]+)"', page)[0].split()]
        rects = [tuple(map(int, told)) for told in re.findall(r'<rect class="frame halo" x="(-?\d+)" y="(-?\d+)" width="(\d+)" height="(\d+)"', page)]
        out = [r for r in rects if r[0] < box[0] or r[1] < box[1] or r[0] + r[2] > box[0] + box[2] or r[1] + r[3] > box[1] + box[3]]
        assert len(rects) == 6 and bool(out) == beyond


def test_an_input_without_rows_and_columns_has_no_picture() -> None:
    for name in ("wave", "volume"):
        assert frames(odd(name)) == [] and "<svg" not in odd(name).html()


def test_a_rules_name_is_never_cut_at_the_end_of_a_line() -> None:
    report = inspect(models.resnet18().eval(), (1, 3, 64, 64))
    for width in range(80, 120):
        told = report.table(width)
        assert all(f"[{finding.rule}]" in told for finding in report.findings)
