"""The pictures of a training, the groups of its parameters, and what a run of the defaults reaches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from striate import nn
from striate.errors import ArgumentError, DataError, ShapeError
from striate.models import classifier
from striate.training import Epoch, History, figures, parameter_groups, train_run


def test_norms_and_biases_do_not_decay() -> None:
    decayed, free = parameter_groups(classifier("cnn_bn", 1, (28, 28), 10), 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 4, 2] and decayed["weight_decay"] == 0.1
    assert {p.ndim for p in free["params"]} == {1} and free["weight_decay"] == 0


PNG = b"\x89PNG\r\n\x1a\n"


def history(epochs: int, monitored: str | None) -> History:
    return History(
        Epoch(
            number=n,
            train_loss=2.0 / n,
            train_accuracy=1 - 0.6 / n,
            monitored=monitored,
            loss=2.1 / n if monitored else None,
            accuracy=1 - 0.5 / n if monitored else None,
            learning_rate=0.1,
            seconds=1.0,
            images_per_second=1000.0,
            waiting=0.0,
        )
        for n in range(1, epochs + 1)
    )


@pytest.mark.parametrize("monitored", ["val", "test", None])
@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves_are_drawn_for_any_number_of_epochs(tmp_path: Path, epochs: int, monitored: str | None) -> None:
    figures.curves(history(epochs, monitored), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (7, 1, 5, 5), (5, 3, 3, 3), (4, 1, 1, 7)])
def test_filters_of_any_shape_are_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    figures.filters(torch.randn(shape), tmp_path / "f.png")
    figures.filters(torch.zeros(shape), tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(PNG)


def test_confusions_are_drawn_with_and_without_mistakes(tmp_path: Path) -> None:
    labels = torch.arange(10).repeat(3)
    for predictions in (labels, labels.flip(0), torch.zeros_like(labels)):
        figures.confusion(predictions, labels, tmp_path / "m.png")
        assert (tmp_path / "m.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("classes", "side"), [(2, 900), (20, 2000), (30, 2000), (100, 2000), (1000, 2000)])
def test_a_confusion_matrix_of_any_number_of_classes_has_a_bounded_size(
    classes: int, side: int, tmp_path: Path
) -> None:
    labels = torch.arange(classes).repeat(2)
    names = [f"class number {k}" for k in range(classes)]
    figures.confusion(labels.flip(0), labels, tmp_path / "m.png", names)
    with Image.open(tmp_path / "m.png") as drawn:
        assert 600 < drawn.size[0] <= side and 600 < drawn.size[1] <= side


@pytest.mark.filterwarnings("error")
def test_names_are_drawn_letter_by_letter_or_by_number_where_the_font_lacks_one(tmp_path: Path) -> None:
    labels = torch.arange(3)
    figures.confusion(labels, labels, tmp_path / "m.png", ["$\\frac$ a $b$", "猫", "Käfer"])
    assert figures._drawable("$1", "0") == "\\$1" and figures._drawable("猫", "1") == "1"
    assert figures._drawable("Käfer", "2") == "Käfer"
    figures.comparison({"$a$ $\\x": history(2, "val"), "犬": history(2, None)}, tmp_path / "c.png")


def test_pictures_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^figures\.curves expects an epoch at least, got none\. Train first\.$"):
        figures.curves(History(), tmp_path / "c.png")
    with pytest.raises(ShapeError) as error:
        figures.filters(torch.zeros(100, 3, 5, 5), tmp_path / "f.png")
    expected = (
        "figures.filters expects a weight (F, C, h, w) of 1 to 256 pictures, got (100, 3, 5, 5). Pick some filters: "
        "weight[:16, :3]."
    )
    assert str(error.value) == expected
    with pytest.raises(DataError, match=r"^figures\.confusion expects a prediction for each label, got 2 for 3\. "):
        figures.confusion(torch.zeros(2).long(), torch.zeros(3).long(), tmp_path / "m.png")


def test_drawing_does_not_touch_pyplot() -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch; from striate.training import figures\n"
        "figures.filters(torch.ones(2, 1, 3, 3), '/dev/null'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("epochs", "accuracy"), [(2, 0.9), pytest.param(8, 0.97, marks=pytest.mark.nightly)])
def test_lenet5_learns_the_digits(tmp_path: Path, epochs: int, accuracy: float) -> None:
    run = train_run(epochs=epochs, out=tmp_path / "run")  # eight are the default
    assert run.metrics["test_accuracy"] >= accuracy


def test_scale_and_shift_of_every_norm_and_all_biases_do_not_decay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNormAct2d(8),
        nn.LayerNorm([8, 6, 6]),  # a scale of three axes
        nn.LayerNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8, affine=True),
        nn.RMSNorm([6, 6]),
        nn.SyncBatchNorm(8),
        nn.Linear(6, 4),
    )
    decayed, free = parameter_groups(model, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight), id(model[8].weight)] and decayed[
        "weight_decay"
    ] == 0.1
    assert len(free["params"]) == 15 and free["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_a_parameter_used_twice_stands_in_one_group_and_what_does_not_learn_in_none() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    decayed, free = parameter_groups(model, 0.1)
    assert [p is model[0].weight for p in decayed["params"]] == [True] and len(free["params"]) == 2


@pytest.mark.parametrize("decay", [-1e-4, float("nan"), float("inf"), True, "0.1"])
def test_a_weight_decay_that_cannot_be_meant_is_refused(decay: object) -> None:
    with pytest.raises(ArgumentError) as raised:
        parameter_groups(nn.Linear(2, 2), decay)  # type: ignore[arg-type]
    assert (
        str(raised.value)
        == f"parameter_groups expects a weight_decay of 0 or more, got {decay!r}. Use 1e-4, or 0 for none."
    )
