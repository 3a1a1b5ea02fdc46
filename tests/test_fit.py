"""Training: the loop is the one written by hand, and goes on from any step as if it had never stopped."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import random
from collections.abc import Callable as Function
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

import striate
from striate import nn
from striate.errors import ArgumentError, ArgumentTypeError, CheckpointError, ShapeError
from striate.ops.precision import is_strict
from striate.training import (
    Callback,
    DataSet,
    Epoch,
    History,
    NotFinite,
    ProgressBar,
    Snapshot,
    TensorBoard,
    Training,
    evaluate,
    fit,
    open_data,
)
from striate.training.data import Augmentation, Decoded, Loader, Part, Preprocessing, make_shapes
from striate.training.ema import Average, state_of
from striate.training.schedule import learning_rate_at
from striate.training.settings import FitSettings, resolved

TIMES = ("seconds", "images_per_second", "waiting")  # what no run repeats


def shapes(*parts: str, images: int = 70) -> DataSet:
    """70 images of 16×16 pixels for training, in 5 classes, and 20 in each other part."""
    pixels, labels, _ = make_shapes(images + 20 * len(parts), size=16)
    made = {"train": Part(pixels[:images], labels[:images])}
    for number, name in enumerate(parts):
        first = images + 20 * number
        made[name] = Part(pixels[first : first + 20], labels[first : first + 20])
    return DataSet("shapes", ("disk", "square", "triangle", "cross", "ring"), made)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return shapes("test")


def network(dropout: float = 0.2) -> nn.Sequential:
    """A small network with what has a state: running statistics, and random numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * 49, 5),
    )


class Record(Callback):
    """Keeps what it was told, and a snapshot after each step and each epoch."""

    def __init__(self, snapshots: bool = True) -> None:
        self.calls: list[str] = []
        self.snapshots: list[Snapshot] = []
        self.takes = snapshots

    def _note(self, what: str, training: Training) -> None:
        self.calls.append(f"{what} {training.epoch} {training.step}")
        if self.takes:
            self.snapshots.append(training.snapshot())

    def on_start(self, training: Training) -> None:
        self._note("start", training)

    def on_step(self, training: Training) -> None:
        self._note("step", training)
        assert training.batch is not None and len(training.batch.images) > 16 and math.isfinite(training.loss)

    def on_epoch(self, training: Training, epoch: Epoch) -> None:
        self._note("epoch", training)
        assert epoch is training.history[-1] and epoch.number == training.epoch

    def on_end(self, training: Training) -> None:
        self._note("end", training)

    def close(self) -> None:
        self.calls.append("close")


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Training) -> None:
        if training.step == self.step:
            self.snapshot = training.snapshot()
            training.stop("enough")


def timeless(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a snapshot without durations."""
    found = copy.deepcopy(facts)
    for times in (found["sums"], *found["history"]):
        for name in (*TIMES, "waited"):
            times.pop(name, None)
    return found


def assert_equal(a: Snapshot, b: Snapshot) -> None:
    assert list(a.tensors) == list(b.tensors)
    assert [name for name, tensor in a.tensors.items() if not torch.equal(tensor, b.tensors[name])] == []
    assert timeless(a.facts) == timeless(b.facts)


def stored(snapshot: Snapshot) -> Snapshot:
    """A snapshot that went through a file: its facts as JSON."""
    return Snapshot({name: t.clone() for name, t in snapshot.tensors.items()}, json.loads(json.dumps(snapshot.facts)))


# Going on from any moment.

VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "everything": {
        "ema": 0.9,
        "accumulate": 3,
        "mixup": 0.4,
        "cutmix": 1.0,
        "crop": 2,
        "flip": True,
        "rotate": 10.0,
        "jitter": 0.2,
        "cutout": 4,
        "label_smoothing": 0.1,
        "clip": 0.5,
        "schedule": "step",
    },
    "adamw": {"optimizer": "adamw", "ema": 0.5, "schedule": "cosine", "resized_crop": 0.5, "workers": 0},
    "plain": {"momentum": 0.0, "decay_all": True, "schedule": "constant", "precision": "strict"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_from_every_step_it_goes_on_bit_for_bit(data: DataSet, name: str) -> None:
    settings = {"epochs": 2, "batch_size": 20, "seed": 7, **VARIANTS[name]}
    whole, model = Record(), network()
    fit(model, data, **settings, callbacks=[whole])
    steps = [f"step {epoch} {4 * epoch + step}" for epoch in (0, 1) for step in (1, 2, 3, 4)]
    assert whole.calls == ["start 0 0", *steps[:4], "epoch 1 4", *steps[4:], "epoch 2 8", "end 2 8", "close"]
    assert not torch.equal(whole.snapshots[0].tensors["model.0.weight"], whole.snapshots[1].tensors["model.0.weight"])
    for number, snapshot in enumerate(whole.snapshots[:-1]):
        torch.manual_seed(number)
        rest, other = Record(), network()
        nn.init.normal_(other[0].weight)  # whatever it was before
        history = fit(other, data, **settings, callbacks=[rest], resume=stored(snapshot))
        assert rest.calls[1:] == whole.calls[number + 1 :]
        assert_equal(rest.snapshots[0], snapshot)
        assert_equal(rest.snapshots[-1], whole.snapshots[-1])
        for key, tensor in state_of(model).items():
            assert torch.equal(tensor, state_of(other)[key])
        assert [epoch.number for epoch in history] == [1, 2]


def test_a_stopped_training_ends_after_its_step_and_goes_on_later(data: DataSet) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 20}
    whole = Record()
    fit(network(), data, **settings, callbacks=[whole])
    for step in (2, 4, 8):  # in an epoch, and at its end before the evaluation
        stop, calls, rest = StopAt(step), Record(False), Record()
        history = fit(network(), data, **settings, callbacks=[stop, calls])
        assert history.stopped == "enough" and len(history) == (step - 1) // 4
        assert calls.calls[-3:] == [f"step {(step - 1) // 4} {step}", f"end {(step - 1) // 4} {step}", "close"]
        assert fit(network(), data, **settings, callbacks=[rest], resume=stop.snapshot).stopped is None
        assert_equal(rest.snapshots[-1], whole.snapshots[-1])


@pytest.mark.parametrize("lost", ["random.torch", "optimizer.", "averaged.", "model.1.running_mean"])
def test_each_part_of_a_snapshot_is_needed(data: DataSet, lost: str) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 20, "ema": 0.9}
    whole = Record()
    fit(network(), data, **settings, callbacks=[whole])
    snapshot, start = whole.snapshots[3], whole.snapshots[0]
    tensors = dict(snapshot.tensors)
    for name in tensors:
        if name.startswith(lost):
            tensors[name] = start.tensors.get(name, torch.zeros_like(tensors[name]))
    rest = Record()
    fit(network(), data, **settings, callbacks=[rest], resume=Snapshot(tensors, snapshot.facts))
    with pytest.raises(AssertionError):
        assert_equal(rest.snapshots[-1], whole.snapshots[-1])


def test_the_random_numbers_of_numpy_and_python_go_on_too(data: DataSet) -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (1 + 0.1 * random.random() + 0.1 * np.random.rand()) if self.training else x

    def noisy() -> nn.Sequential:
        return nn.Sequential(Noise(), *network())

    whole, settings = Record(), {"epochs": 1, "batch_size": 20}
    fit(noisy(), data, **settings, callbacks=[whole])
    rest = Record()
    fit(noisy(), data, **settings, callbacks=[rest], resume=stored(whole.snapshots[2]))
    assert_equal(rest.snapshots[-1], whole.snapshots[-1])


def test_an_ended_training_goes_on_to_its_end_at_once(data: DataSet) -> None:
    record, again = Record(), Record()
    fit(network(), data, epochs=1, callbacks=[record])
    history = fit(network(), data, epochs=1, callbacks=[again], resume=record.snapshots[-1])
    assert again.calls == ["start 1 3", "end 1 3", "close"] and len(history) == 1


def resumed(data: DataSet, model: nn.Module, snapshot: Snapshot, **settings: Any) -> str:
    """The message with which a snapshot is refused; the model stays as it was."""
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    with pytest.raises((ArgumentError, CheckpointError)) as error:
        fit(model, data, **settings, resume=snapshot)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())
    return str(error.value)


def test_a_snapshot_of_anything_else_is_refused_and_changes_nothing(data: DataSet) -> None:
    record = Record()
    fit(network(), data, epochs=2, callbacks=[record])
    snapshot = record.snapshots[1]
    assert resumed(data, network(), snapshot, epochs=2, momentum=0.8) == (
        "training expects the settings it began with, got momentum=0.8 where it began with 0.9. Leave the setting out "
        "to go on, or begin a new training."
    )
    assert resumed(shapes("test", images=60), network(), snapshot, epochs=2) == (
        "training expects the data it began with, got other data: images differ. Give the same data to go on, or begin "
        "a new training."
    )
    model = network()
    model[5] = nn.Linear(196, 5, bias=False)
    assert resumed(data, model, snapshot, epochs=2) == (
        "training expects a snapshot of this model, got one with model.5.bias. Make the model it was taken of."
    )
    model[5] = nn.Linear(190, 5)
    assert resumed(data, model, snapshot, epochs=2) == (
        "training expects a snapshot of this model, got model.5.weight of shape (5, 196) where the model has (5, "
        "190). Make the model it was taken of."
    )
    assert fit(network(), data, epochs=2, threads=1, workers=2, resume=snapshot).stopped is None


# The loop itself.


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {}),
        ("decay", {"weight_decay": 0.1, "nesterov": False, "momentum": 0.5, "schedule": "cosine"}),
        ("adamw", {"optimizer": "adamw", "beta2": 0.9, "weight_decay": 0.2, "label_smoothing": 0.2, "crop": 2}),
        ("clip", {"clip": 0.1, "mixup": 1.0, "schedule": "constant", "decay_all": True}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_it_is_the_loop_written_by_hand(data: DataSet, name: str, settings: dict[str, Any]) -> None:
    chosen = resolved(FitSettings(epochs=2, batch_size=20, seed=3, **settings), "shapes")
    model, by_hand = network(dropout=0.0), network(dropout=0.0)
    history = fit(model, data, chosen)

    preprocessing = Preprocessing.of(data.parts["train"])
    loader = Loader(
        data.parts["train"],
        20,
        preprocessing,
        classes=5,
        seed=3,
        augmentation=Augmentation.from_settings(chosen),
    )
    norm_and_biases = [by_hand[0].bias, by_hand[1].weight, by_hand[1].bias, by_hand[5].bias]
    groups = [
        {"params": [by_hand[0].weight, by_hand[5].weight], "weight_decay": chosen.weight_decay},
        {"params": norm_and_biases, "weight_decay": chosen.weight_decay if name == "clip" else 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if name == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.9))
    else:
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=chosen.momentum, nesterov=chosen.nesterov)
    step, losses, right = 0, [0.0, 0.0], [0, 0]
    for epoch in (0, 1):
        for images, targets, _ in loader.batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, 2 * len(loader), chosen)
            optimizer.zero_grad()
            scores = by_hand(images)
            loss = F.cross_entropy(scores, targets, label_smoothing=chosen.label_smoothing)
            loss.backward()
            if name == "clip":
                torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1)
            optimizer.step()
            losses[epoch] += loss.item() * len(images)
            labels = targets.argmax(1) if name == "clip" else targets
            right[epoch] += int((scores.argmax(1) == labels).sum())
            step += 1
    for key, tensor in state_of(model).items():
        assert torch.equal(tensor, state_of(by_hand)[key]), key
    assert history.train_loss == [loss / 70 for loss in losses]
    assert history.train_accuracy == [count / 70 for count in right]
    found = evaluate(by_hand, data.parts["test"], preprocessing, classes=data.classes)
    assert (history[-1].loss, history[-1].accuracy) == (found.loss, found.accuracy)
    assert history[-1].learning_rate == learning_rate_at(step - 1, step, chosen)


def test_a_batch_in_parts_is_the_batch(data: DataSet) -> None:
    models = [network(dropout=0.0) for _ in range(2)]
    for model, accumulate in zip(models, (1, 4), strict=True):
        fit(model, data, epochs=1, batch_size=70, accumulate=accumulate, learning_rate=0.1, momentum=0.0)
    whole, parts = map(state_of, models)
    assert parts["1.num_batches_tracked"] == whole["1.num_batches_tracked"] == 1
    for key in ("1.running_mean", "1.running_var"):
        assert torch.allclose(parts[key], whole[key], atol=1e-6)
    for key in ("1.bias", "5.weight", "5.bias"):  # whose gradients are exact, see whole_batch_statistics
        assert torch.allclose(parts[key], whole[key], atol=1e-6)
        assert not torch.equal(whole[key], state_of(network())[key])


def test_a_batch_in_parts_has_the_batchs_gradient_where_no_norm_looks_across_images(data: DataSet) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 5))
    models = [model, copy.deepcopy(model)]
    for one, accumulate in zip(models, (1, 7), strict=True):
        fit(one, data, epochs=2, accumulate=accumulate)
    assert torch.allclose(models[0][2].weight, models[1][2].weight, atol=1e-5)


def test_the_result_has_the_averaged_weights_which_are_those_that_were_evaluated(data: DataSet) -> None:
    model, record = network(dropout=0.0), Record()
    history = fit(model, data, epochs=2, batch_size=20, ema=0.3, callbacks=[record])
    weights = [snapshot.tensors["model.5.weight"] for snapshot in record.snapshots]
    steps = [w for w, call in zip(weights, record.calls, strict=False) if call.startswith("step")]
    average = weights[0]
    for number, weight in enumerate(steps):
        decay = min(0.3, (1 + number) / (10 + number))
        average = average + (1 - decay) * (weight - average)
    assert torch.allclose(model[5].weight, average, atol=1e-6) and not torch.allclose(average, weights[-1], atol=1e-4)
    assert model[1].num_batches_tracked == 8
    preprocessing = Preprocessing.of(data.parts["train"])
    found = evaluate(model, data.parts["test"], preprocessing, classes=data.classes)
    assert (history[-1].loss, history[-1].accuracy) == (found.loss, found.accuracy)


def test_an_average_comes_and_goes_bit_for_bit() -> None:
    model = network()
    average = Average(model, 0.5)
    nn.init.normal_(model[0].weight)
    average.step(5)
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    with average.applied():
        assert not torch.equal(model[0].weight, before["0.weight"])
        assert torch.equal(model[5].weight, before["5.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())


def test_the_validation_part_is_watched_if_there_is_one() -> None:
    for parts, monitored in (((), None), (("test",), "test"), (("test", "val"), "val")):
        history = fit(network(), shapes(*parts), epochs=1)
        assert history[0].monitored == monitored and (history[0].loss is None) == (monitored is None)
        assert history.best is history[0]


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("change", [{}, {"ema": 0.9}], ids=["plain", "averaged"])
def test_the_result_of_an_epoch_is_that_of_evaluate_bit_for_bit_also_of_files_of_which_some_are_broken(
    part: str, change: dict[str, Any], tmp_path: Path
) -> None:
    random = np.random.RandomState(0)
    for name, label in itertools.product(("train", part), ("cat", "dog")):
        (tmp_path / name / label).mkdir(parents=True)
        for number in range(8):
            size = (9 + number, 12 - number // 2, 3)
            pixels = random.randint(0, 256, size) // (1 + (label == "cat"))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / label / f"{number}.png")
        (tmp_path / name / label / "broken.png").write_bytes(b"\x89PNG")
    data = open_data(f"folder:{tmp_path}", skip_broken=True)
    assert len(data.skipped) == 4 and len(data.parts[part]) == 16
    prepare = Preprocessing.of(data.parts["train"], size=8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    history = fit(model, data, epochs=2, batch_size=5, preprocessing=prepare, **change)
    found = evaluate(model, data.parts[part], prepare, classes=data.classes)
    assert (history[-1].monitored, history[-1].accuracy, history[-1].loss) == (part, found.accuracy, found.loss)


def test_each_image_that_is_held_out_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def load(index: int) -> torch.Tensor:
        asked.append(index)
        return pixels[index]

    pixels, labels, _ = make_shapes(20, size=16)
    images = Decoded(load, 3, [(16, 16)] * 20, [f"{k}" for k in range(20)], torch.arange(20))
    data = DataSet("made", ("disk", "square", "triangle", "cross", "ring"),
                   {"train": Part(pixels, labels), "test": Part(images, labels)})  # fmt: skip
    fit(network(), data, epochs=3, workers=0)
    assert sorted(asked) == list(range(20))


def test_patience_ends_the_training_when_nothing_gets_better() -> None:
    data = shapes("val")
    record, rest = Record(), Record(False)
    history = fit(network(), data, epochs=9, learning_rate=0.0, patience=2, momentum=0.0, callbacks=[record])
    best = history.best.number
    assert len(history) == best + 2 < 9
    assert history.stopped == "no better result on the validation part for 2 epochs"
    again = fit(
        network(),
        data,
        epochs=9,
        learning_rate=0.0,
        patience=2,
        momentum=0.0,
        resume=record.snapshots[-1],
        callbacks=[rest],
    )
    assert again.stopped == history.stopped and len(again) == len(history)
    assert rest.calls == [f"start {len(history)} {3 * len(history)}", f"end {len(history)} {3 * len(history)}", "close"]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_with_patience_the_result_is_the_best_epoch(ema: float | None) -> None:
    data, best, snapshots = shapes("val"), {}, []

    class Best(Callback):
        def on_epoch(self, training: Training, epoch: Epoch) -> None:
            snapshots.append(training.snapshot())
            if training.is_best:
                with training.averaged():
                    best.update({name: tensor.clone() for name, tensor in training.model.state_dict().items()})

    settings = FitSettings(epochs=30, learning_rate=0.3, patience=2, ema=ema)
    model, again = network(), network()
    history = fit(model, data, settings, callbacks=[Best()])
    assert history.best is not history[-1]
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())
    fit(again, data, settings, resume=snapshots[-2])
    assert all(torch.equal(tensor, best[name]) for name, tensor in again.state_dict().items())


def test_the_best_epoch_is_the_most_accurate_then_the_one_with_the_lowest_loss() -> None:
    def epoch(number: int, accuracy: float | None, loss: float | None, train: float = 0.5) -> Epoch:
        return Epoch(
            number=number,
            train_loss=1.0,
            train_accuracy=train,
            monitored="val",
            accuracy=accuracy,
            loss=loss,
            learning_rate=0.1,
            seconds=1.0,
            images_per_second=1.0,
            waiting=0.0,
        )

    results = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.8), (0.6, 0.1)]
    assert History(epoch(number, *result) for number, result in enumerate(results, 1)).best.number == 3
    assert History([epoch(1, None, None, 0.5), epoch(2, None, None, 0.6)]).best.number == 2


# What goes wrong.


@pytest.mark.parametrize("rate", [1e30, 1e10])
def test_a_loss_that_explodes_ends_the_training_with_the_weights_before_that_step(data: DataSet, rate: float) -> None:
    class Last(Callback):
        def on_step(self, training: Training) -> None:
            self.step = training.step
            self.state = {name: tensor.clone() for name, tensor in state_of(training.model).items()}

    model, last = network(), Last()
    with pytest.raises(NotFinite) as error:
        fit(model, data, epochs=200, learning_rate=rate, schedule="constant", warm_up=0, callbacks=[last])
    got = str(error.value).partition(", got ")[2].partition(".")[0]
    epoch = last.step // 3 + 1
    assert got in ("nan", "inf") and str(error.value) == (
        f"training expects a loss that stays finite, got {got}. step: {last.step + 1} of 600. epoch: {epoch}. "
        f"learning_rate: {rate}. Lower learning_rate, limit the gradient with clip=1, or raise warm_up."
    )
    for name, tensor in state_of(model).items():
        assert torch.equal(tensor.nan_to_num(7), last.state[name].nan_to_num(7)), name


def test_an_epoch_that_ends_with_scores_that_are_not_finite_is_none(data: DataSet) -> None:
    record = Record(False)
    with pytest.raises(NotFinite) as error:
        fit(network(), data, batch_size=70, learning_rate=1e38, schedule="constant", warm_up=0, callbacks=[record])
    assert str(error.value) == (
        "training expects scores that stay finite on the test part, got infinity or NaN. step: 1 of 8. epoch: 1. "
        "learning_rate: 1e+38. Lower learning_rate, limit the gradient with clip=1, or raise warm_up."
    )
    assert record.calls == ["start 0 0", "step 0 1", "close"]


def test_no_snapshot_is_taken_of_weights_that_are_lost(data: DataSet) -> None:
    class Break(Callback):
        def on_step(self, training: Training) -> None:
            with torch.no_grad():
                model[5].weight[0, 0] = math.nan
            training.snapshot()

    model = network()
    with pytest.raises(NotFinite) as error:
        fit(model, data, callbacks=[Break()])
    assert str(error.value) == (
        "training expects weights that stay finite, got infinity or NaN in 5.weight. step: 1. Go on from the snapshot "
        "before, with a lower learning_rate, or with clip=1."
    )


def test_an_error_in_a_step_takes_back_the_running_statistics(data: DataSet) -> None:
    model = network()
    model.append(nn.Linear(5, 3))
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    with pytest.raises(ShapeError) as error:
        fit(model, data)
    assert str(error.value) == (
        "training expects scores of shape (24, 5) from the model, got (24, 3). Give its last layer 5 outputs, one for "
        "each class."
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())


def test_what_cannot_be_meant_is_refused_before_any_work(data: DataSet) -> None:
    def message(kind: type[Exception], call: Function[[], object]) -> str:
        with pytest.raises(kind) as error:
            call()
        return str(error.value)

    assert message(ArgumentError, lambda: fit(network(), data, epochs=0)).startswith("training expects epochs to be ")
    assert message(ArgumentError, lambda: fit(network(), data, epoch=3)) == (
        "training expects settings that it has, got 'epoch'. FitSettings lists them. Did you mean epochs?"
    )
    assert message(ArgumentTypeError, lambda: fit(network(), data.parts["train"])) == (  # type: ignore[arg-type]
        'fit expects a DataSet, got Part. Open one with open_data("folder:photos"), or make a DataSet of tensors.'
    )
    assert message(ArgumentError, lambda: fit(network(), data, patience=3)) == (
        "training expects a validation part, for patience, got only train and test. Hold one out with "
        "val_fraction=0.1, or data.with_validation(0.1)."
    )
    assert message(ArgumentError, lambda: fit(nn.Flatten(), data)) == (
        "training expects a model with a parameter that learns, got none. Call model.requires_grad_(), or freeze less "
        "of it."
    )
    assert message(ArgumentError, lambda: fit(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), data)) == (
        "training expects a model whose parameters have their sizes, got a lazy 1.weight. Call it once on an image: "
        "model(preprocessing(data.parts['train'].image(0))[None])."
    )


@pytest.mark.parametrize("fails", [False, True])
def test_threads_precision_and_random_numbers_are_afterwards_what_they_were(data: DataSet, fails: bool) -> None:
    seen: list[tuple[int, bool]] = []

    class Look(Callback):
        def on_step(self, training: Training) -> None:
            seen.append((torch.get_num_threads(), is_strict()))
            if fails:
                raise KeyboardInterrupt

        def close(self) -> None:
            seen.append((0, False))

    torch.set_num_threads(2)
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    try:
        fit(network_without_seed(), data, epochs=1, threads=1, precision="strict", callbacks=[Look()])
    except KeyboardInterrupt:
        assert fails
    assert set(seen[:-1]) == {(1, True)} and seen[-1] == (0, False)
    assert torch.get_num_threads() == 2 and not is_strict()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]
    torch.set_num_threads(1)


def network_without_seed() -> nn.Sequential:
    state = torch.get_rng_state()
    model = network()
    torch.set_rng_state(state)
    return model


def test_the_seed_alone_decides(data: DataSet) -> None:
    def losses(seed: int, workers: int, drawn: int) -> list[float]:
        model = network()
        torch.manual_seed(drawn)
        return fit(model, data, epochs=1, seed=seed, workers=workers).train_loss

    assert losses(0, 1, 1) == losses(0, 0, 2) == losses(0, 3, 3) != losses(1, 1, 1)


def test_training_works_where_gradients_are_switched_off(data: DataSet) -> None:
    with torch.no_grad():
        assert len(fit(network(), data, epochs=1)) == 1


def test_frozen_layers_stay(data: DataSet) -> None:
    model = network()
    for layer in model[:2]:
        layer.requires_grad_(False)
    model[1].freeze()
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    fit(model, data, epochs=1, ema=0.9)
    changed = {name for name, tensor in state_of(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"5.weight", "5.bias"}


# What one sees.


def test_a_file_gets_a_line_for_each_epoch(data: DataSet) -> None:
    stream = io.StringIO()
    fit(network(), data, epochs=2, callbacks=[ProgressBar(Console(file=stream, width=60))])
    first, second = stream.getvalue().splitlines()
    assert first.startswith("epoch 1/2   train loss ") and second.startswith("epoch 2/2   train loss ")
    assert "   test loss " in first and " images/s " in first and "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_disappears(data: DataSet) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=140, force_terminal=True, color_system=None)
    fit(network(), data, epochs=2, callbacks=[ProgressBar(console)])
    printed = stream.getvalue()
    last = [line for line in printed.splitlines() if "epoch 2/2 step 3/3 " in line][-1]
    assert all(part in last for part in (" loss ", " accuracy ", " images/s ", " left"))
    assert "epoch 1/2   train loss " in printed and printed.endswith("\x1b[2K")


def test_progress_shows_a_bar(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    fit(network(), data, epochs=1, progress=True)
    assert capsys.readouterr().out.startswith("epoch 1/1   train loss ")


def test_tensorboard_gets_each_step_once_also_after_going_on(data: DataSet, tmp_path: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = Record()
    history = fit(network(), data, epochs=2, callbacks=[TensorBoard(tmp_path), record])
    fit(network(), data, epochs=2, callbacks=[TensorBoard(tmp_path)], resume=record.snapshots[2])
    log = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in log.Scalars("step_loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in log.Scalars("loss/train")] == pytest.approx(history.train_loss)
    assert [event.value for event in log.Scalars("accuracy/test")] == pytest.approx(history.accuracy)


def test_a_log_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(striate.extras, "find_spec", lambda name: None)
    with pytest.raises(striate.errors.DependencyError) as error:
        TensorBoard("log")
    assert str(error.value) == (
        "training expects the package tensorboard, got no such package. Install it with: pip install "
        "'striate[tensorboard]'."
    )


@pytest.mark.parametrize("name", ["lenet5", "mlp_bn"])
def test_two_epochs_lower_the_loss(name: str) -> None:
    from striate.training import open_data

    data = open_data("digits")
    few = DataSet("digits", data.classes, {n: p.take(torch.arange(200)) for n, p in data.parts.items()})
    torch.manual_seed(0)
    made = striate.models.by_name(name)()
    history = fit(made if name == "lenet5" else nn.Sequential(nn.Flatten(), *made), few, epochs=2)
    assert history.train_loss[1] < history.train_loss[0] and history.loss[1] < math.log(10)  # type: ignore[operator]
