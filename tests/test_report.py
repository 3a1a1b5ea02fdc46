"""The page of a training: that it is whole and asks for nothing, and that its numbers and pictures are right."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import save_data
from made_trainings import made_data, made_model
from pages import Page
from PIL import Image
from torch import Tensor

from striate import nn
from striate.analysis.lint.finding import Finding
from striate.analysis.lint.group import grouped
from striate.render.chart import Scale, chart, scale_of, ticks
from striate.training import DataSet, Epoch, Evaluation, FitSettings, History
from striate.training.data import Part, Preprocessing
from striate.training.pictures import feature_maps, filters, image
from striate.training.report import report
from striate.training.run import train_run
from striate.training.watch import Record, read_records

EVIL = '<script>alert("&")</script>'
FIELDS: dict[str, Any] = {"learning_rate": 0.01, "seconds": 90.0, "images_per_second": 1234.0, "waiting": 0.25}


def made_history(epochs: int = 3, part: str | None = "test") -> History:
    return History(
        Epoch(
            number=k,
            train_loss=1.0 / k,
            train_accuracy=0.5 + 0.1 * k,
            monitored=part,
            loss=None if part is None else 0.5 / k,
            accuracy=None if part is None else 0.6 + 0.1 * k,
            **FIELDS,
        )
        for k in range(1, epochs + 1)
    )


def made_evaluation(data: DataSet, part: str = "test", wrong: dict[int, tuple[int, float]] | None = None) -> Evaluation:
    """All images right with a probability of 0.9, but for some: index, and for which class with which probability."""
    labels, count = data.parts[part].labels, len(data.classes)
    predictions = labels.clone()
    probabilities = torch.full((len(labels), count), 0.1 / (count - 1))
    probabilities[torch.arange(len(labels)), labels] = 0.9
    for index, (taken, probability) in (wrong or {}).items():
        predictions[index] = taken
        probabilities[index] = (1 - probability) / (count - 1)
        probabilities[index, taken] = probability
    return Evaluation(data.classes, labels, predictions, probabilities, 0.25, 1.0)


def made_report(
    data: DataSet | None = None,
    model: torch.nn.Module | None = None,
    wrong: dict[int, tuple[int, float]] | None = None,
    **changes: Any,
) -> str:
    data = made_data() if data is None else data
    part = changes.get("part", "test")
    given: dict[str, Any] = {
        "evaluation": made_evaluation(data, part, wrong),
        "history": made_history(),
        "settings": FitSettings(epochs=3, flip=True),
        "preprocessing": Preprocessing.of(data.parts["train"]),
        **changes,
    }
    return report(made_model() if model is None else model, data, **given)


RECORDS = [
    Record(step, step / 4, {"0": 1.0 / step, "8": None}, {"0": 1e-3, "8": 1e-2}, {"2": (step, 4), "5": (0, 6)})
    for step in (1, 2, 3)
]


# ------------------------------------------------------------------------------------------------------------- the page


def test_the_page_asks_for_nothing_from_elsewhere_and_escapes_names() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(EVIL.replace(".", ""), made_model())

        def forward(self, x: Tensor) -> Tensor:
            return next(self.children())(x)

    data = made_data()
    data = DataSet("made", (EVIL, "b", "c"), data.parts)
    found = [Finding(EVIL, "error", EVIL, EVIL, EVIL, EVIL)]
    page = made_report(
        data,
        Odd(),
        {0: (1, 0.5), 1: (0, 0.5)},
        name=EVIL,
        records=[Record(1, 1.0, {EVIL: 1.0}, {EVIL: 1.0}, {EVIL: (1, 2)})],
        groups=grouped(found),
        counted=EVIL,
    )
    assert "<script" not in page and "&lt;script&gt;alert(&#34;&amp;&#34;)&lt;/script&gt;" in page
    assert not re.search(r"https?:|href=|url\(|@import|<link|\bon\w+=", page)
    sources = re.findall(r'src="([^"]{22})', page)
    assert len(sources) == page.count("src=") >= 5 and set(sources) == {"data:image/png;base64,"}
    assert page.startswith("<!doctype html>") and "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    Page(page)


def test_the_page_tells_results_epochs_classes_and_settings() -> None:
    page = Page(made_report(wrong={0: (1, 0.5)}, name="net on made")).text
    told = ("net on made", "5 of 6 test images right", "83.33 %", "0.2500 nats", "4.5 min, 3 epochs", "1,234 images/s")
    assert [text for text in told if text not in " ".join(page.split())] == []
    for epoch in made_history():
        assert f"{epoch.train_loss:.4f}" in page and f"{100 * epoch.accuracy:.2f} %" in page  # type: ignore[operator]
    assert "25.0 %" in page  # waiting
    rows = re.findall(r"<tr class=\"own\"><td>(\w+)</td><td>(\w+)</td>", made_report())
    assert rows == [("epochs", "3"), ("flip", "on")]


def test_cells_of_the_matrix_are_those_of_the_evaluation() -> None:
    data = made_data(classes=3)
    wrong = {0: (1, 0.5), 3: (1, 0.8), 1: (2, 0.7)}
    page, counts = made_report(data, wrong=wrong), made_evaluation(data, wrong=wrong).confusion
    cells = re.findall(r'<rect class="(\w+)" x="(\d)" y="(\d)" width="1" height="1" fill-opacity="([\d.]+)"/>'
                       r"<text[^>]*>(\d+)</text>", page)  # fmt: skip
    found = torch.zeros(3, 3, dtype=torch.int64)
    for kind, column, row, opacity, count in cells:
        found[int(row), int(column)] = int(count)
        assert (kind == "right") == (row == column) and 0 < float(opacity) <= 1
    assert torch.equal(found, counts) and len(cells) == 4
    assert "<b>a</b> for b (2×)" in page and page.index("<b>a</b> for b (2×)") < page.index("<b>b</b> for c (1×)")


def test_mistakes_come_with_the_most_confident_first() -> None:
    page = made_report(wrong={0: (1, 0.5), 3: (2, 0.8), 1: (2, 0.7)})
    found = re.findall(r"<b>(\w)</b><br>as (\w), (\d+) %", page)
    assert found == [("a", "c", "80"), ("b", "c", "70"), ("a", "b", "50")]
    titles = re.findall(r'<figure title="([^"]+)">', page)
    assert titles == ["image 3", "image 1", "image 0"]
    assert "All wrong predictions" in page


def test_a_model_without_mistakes_and_one_with_many() -> None:
    page = made_report()
    assert "None of the test images is taken for another class." in page and "Most often mistaken" not in page
    data = made_data(count=64)
    many = DataSet("made", data.classes, {**data.parts, "test": data.parts["train"]})
    page = made_report(many, wrong={index: (2, 0.9) for index in range(64) if index % 3 != 2})
    assert "24 of 43 wrong predictions" in page and page.count("<br>as ") == 24


@pytest.mark.parametrize("classes", [2, 31, 101])
def test_any_number_of_classes_fits(classes: int) -> None:
    labels = torch.arange(classes)
    part = Part(torch.zeros(classes, 1, 8, 8, dtype=torch.uint8), labels)
    data = DataSet("made", tuple(f"class number {k}" for k in labels.tolist()), {"train": part, "test": part})
    page = made_report(data, nn.Sequential(nn.Flatten(), nn.Linear(64, classes)), {1: (0, 0.9)})
    matrix = page[page.index("<svg class=\"matrix\"") : page.index("Rows: what images are")]
    names = re.findall(r'text-anchor="end">([^<]+)</text>', matrix)
    assert names == [f"class number {k if k < 10 else '…'}" for k in range(0, classes, -(-classes // 30))]
    assert ('<image href="data:image/png;base64,' in matrix) == (classes > 100)
    assert matrix.count("<rect class=") == (1 + classes if classes <= 100 else 1)
    assert page.count('data-name="F1"') == min(classes, 20)
    assert ("evaluate --json lists the other 81 too" in page) == (classes == 101)
    assert "class number 1</b> for class number 0 (1×)" in page
    Page(page)


def test_long_names_are_cut_beside_the_matrix() -> None:
    data = made_data()
    page = made_report(DataSet("made", ("short", "a name of many letters", "b"), data.parts))
    assert ">a name of man…</text>" in page and ">short</text>" in page and "<td>a name of many letters</td>" in page


def test_a_validation_part_stands_in_for_a_test_part() -> None:
    data = made_data()
    data = DataSet("made", data.classes, {"train": data.parts["train"], "val": data.parts["test"]})
    page = made_report(data, part="val", history=made_history(part="val"))
    assert "6 of 6 validation images right" in page
    assert "The data have no test part: the numbers are of the validation images." in page


def test_notes_tell_of_an_early_end_and_of_classes_without_images() -> None:
    history = made_history()
    history.stopped = "no better result"
    data = made_data(count=27)
    images = data.parts["test"].take(torch.tensor([0, 1, 3]))
    data = DataSet("made", data.classes, {**data.parts, "test": images})
    page = made_report(data, history=history)
    assert "Training ended early: no better result." in page and "No test image is of the class c." in page
    assert "nan" not in Page(page).text.lower()


def test_a_training_without_epochs_records_or_activations_has_a_page() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    page = made_report(model=linear, history=History(), records=[])
    for missing in ("Epoch by epoch", "over the training", "What the layers make", "Findings", "Time by layer"):
        assert missing not in page
    assert "3 filters of 8×8 px on 1 channel." in page
    Page(made_report(history=made_history(1, None)))


def test_what_was_watched_is_drawn_on_common_scales() -> None:
    page = made_report(records=RECORDS)
    assert "gradient, 0.1 to 1" in page and "update, 0.001 to 0.01" in page
    assert "Conv2d 4×1×3×3" in page and "3 of 4" in page and "0 of 6" in page
    lines = re.findall(r'<path class="line" d="([^"]+)"', page)
    # gradients of 1, 1/2 and 1/3 between 0.1 and 1; none of the other layer; updates at both; shares of dead units
    assert lines[:2] == ["M0 0L50 30.1L100 47.71", "M0 100L50 100L100 100"]
    assert lines[2:] == ["M0 0L50 0L100 0", "M0 75L50 50L100 25", "M0 100L50 100L100 100"]
    assert re.findall(r'data-name="(gradient|update)">([\d.]*)<', page) == [
        *(("gradient", "0.5"), ("update", "0.001")),
        *(("gradient", ""), ("update", "0.01")),
    ]


def test_findings_and_times_are_shown_as_given() -> None:
    row = {"name": "conv", "about": "Conv2d 1×1", "parts": [("f", 1.0), ("b", 2.0)], "limit_ms": 0.5, "ms": "3.000",
           "share": "75 %", "limit": "17 %", "methods": "direct"}  # fmt: skip
    whole = {"name": "whole step", "is_whole": True, "parts": [], "ms": "4.000", "share": "100 %"}
    times = {"step": "training step", "machine": "a machine", "about": "Milliseconds.", "backward": True, "most": 3.0,
             "layers": [row], "sums": [whole]}  # fmt: skip
    found = [Finding("a-rule", "warning", "conv", "It is wrong.", "Mend it.", "arithmetic")]
    text = Page(made_report(times=times, groups=grouped(found), counted="1 warning")).text
    told = ("A training step. a machine.", "3.000", "direct", "whole step", "a-rule: conv", "It is wrong. Mend it.")
    assert [words for words in told if words not in text] == []


def test_the_model_stays_as_it_was() -> None:
    model = made_model().train()
    model[1].eval()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    data, random = made_data(), torch.get_rng_state()
    made_report(data, model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
    assert model.training and not model[1].training and torch.equal(torch.get_rng_state(), random)


# ------------------------------------------------------------------------------------------------------------- pictures


def pixels_of(address: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))) as picture:
        return np.array(picture)


def test_images_keep_their_pixels_and_large_ones_their_proportions() -> None:
    small = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    found = image(small, "x")
    assert np.array_equal(pixels_of(found.address), small.permute(1, 2, 0).numpy()) and found.is_small
    grey = image(small[:1])
    assert np.array_equal(pixels_of(grey.address), small[0].numpy())
    large = image(torch.zeros(3, 200, 400, dtype=torch.uint8))
    assert (large.width, large.height, large.is_small) == (96, 48, False)


def test_filters_on_one_channel_are_red_above_and_blue_below_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -2.0, 0.0, 1.0]).reshape(2, 1, 1, 2))
    found = filters(model, 1, (8, 8))
    assert found is not None and found.about == "2 filters of 1×2 px on 1 channel"
    red, blue, white, between = (178, 24, 43, 255), (33, 102, 172, 255), (255,) * 4, (216, 140, 149, 255)
    assert pixels_of(found.address).tolist() == [[list(one) for one in (red, blue, (0,) * 4, white, between)]]


def test_filters_on_three_channels_have_their_colours_with_grey_at_zero() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([4.0, -4.0, 0.0]).reshape(1, 3, 1, 1))
    found = filters(model, 3, (8, 8))
    assert found is not None and pixels_of(found.address).tolist() == [[[255, 0, 128, 255]]]


def test_a_linear_layer_on_the_pixels_is_shaped_as_they_are_and_other_models_have_no_filters() -> None:
    found = filters(nn.Sequential(nn.Flatten(), nn.Linear(12, 70)), 1, (3, 4))
    assert found is not None and found.about == "64 of 70 filters of 3×4 px on 1 channel"
    assert filters(nn.Sequential(nn.Linear(5, 2)), 1, (3, 4)) is None and filters(nn.ReLU(), 1, (3, 4)) is None
    assert filters(nn.Conv2d(2, 2, 3), 1, (3, 4)) is None


def test_maps_are_grey_from_the_least_to_the_largest_value_of_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    (found,) = feature_maps(model, torch.tensor([[[[0.0, 1.0], [2.0, -3.0]]]]))
    assert (found.name, found.about) == ("1", "2 of 2 maps of 2×2")
    values = pixels_of(found.address)
    assert values[..., 1].tolist() == [[255, 255, 0, 255, 255]] * 2  # the line between two maps is transparent
    assert values[..., 0].tolist() == [[0, 64, 0, 0, 128], [128, 0, 0, 255, 0]]


def test_of_many_layers_some_are_shown_at_even_intervals_and_without_activations_any() -> None:
    deep = nn.Sequential(*(layer for _ in range(30) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())))
    names = [picture.name for picture in feature_maps(deep, torch.ones(1, 1, 2, 2))]
    assert len(names) == 10 and names[0] == "1" and names[-1] == "59"
    plain = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten())
    assert [picture.name for picture in feature_maps(plain, torch.ones(1, 1, 4, 4))] == ["0", "1"]


# --------------------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [None, 1.0], [float("nan"), float("inf")], [], [1e-9, 1e9]],
                         ids=range(6))  # fmt: skip
@pytest.mark.parametrize("is_log", [False, True])
def test_any_values_have_a_scale_with_a_few_ticks_and_a_line_within_it(values: list[Any], is_log: bool) -> None:
    scale = scale_of(values, is_log=is_log)
    assert scale.low < scale.high and 1 <= len(ticks(scale)) <= 6
    drawn = chart("x", [("line", 0, list(enumerate(values)))], x_name="epoch", y=scale)
    numbers = [float(number) for number in re.findall(r"[\d.]+", drawn.lines[0].path)]
    assert all(0 <= number <= 100 for number in numbers) and all(0 <= float(tick.at) <= 100 for tick in drawn.y)


def test_ticks_of_epochs_are_whole() -> None:
    for epochs in (1, 2, 3, 7, 90):
        made = chart("x", [("line", 0, [(k, 1.0) for k in range(1, epochs + 1)])], x_name="epoch")
        assert made.x and all(float(tick.label).is_integer() for tick in made.x)
    assert [tick.label for tick in ticks(Scale(0.001, 1000.0, True))] == ["0.001", "0.1", "10", "1000"]


# -------------------------------------------------------------------------------------------------------------- the run


def test_a_run_leaves_a_report_and_what_was_watched_and_a_new_one_replaces_them(tmp_path: Path) -> None:
    data, out = save_data(tmp_path / "data.npz"), tmp_path / "run"
    settings: dict[str, Any] = {"data": data, "model": "made_runs:net", "epochs": 2, "batch_size": 40, "threads": 1}
    seen: list[Any] = []

    def about_layers(ready: Any) -> dict[str, Any]:
        seen.append(ready)
        return {"groups": grouped([Finding("a-rule", "note", "0", "It is so.", "", "")]), "counted": "1 note"}

    run = train_run(out=out, about_layers=about_layers, **settings)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"made_runs:net on {data}" in page and "It is so." in page and "Dead units over the training" in page
    assert [record.step for record in read_records(out / "watch.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert len(seen) == 1 and json.loads((out / "metrics.json").read_text())["test_accuracy"] is not None
    right = round(30 * run.metrics["test_accuracy"])
    assert f"{right} of 30 test images right" in page
    train_run(out=out, overwrite=True, **{**settings, "epochs": 1})
    assert [record.step for record in read_records(out / "watch.jsonl")] == [1, 2, 3]
    assert "It is so." not in (out / "report.html").read_text(encoding="utf-8")


def test_records_have_a_shape_that_pages_can_draw_whatever_they_hold() -> None:
    odd = [replace(record, gradient={}, update={"8": None, "gone": 0.0}, dead={"5": (0, 0)}) for record in RECORDS]
    page = made_report(records=odd)
    assert "0 of 0" in page and "gone" in page
    Page(page)
