"""Watching a training: what is seen of its layers, that the training stays the same, and the file of the records."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from made_trainings import made_data, made_model
from torch import Tensor

from striate import models, nn
from striate.training import Callback, Snapshot, Training, fit
from striate.training.units import activations, dead, look
from striate.training.watch import Record, Watch, interval, read_records


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one).values(), state(other).values(), strict=True))


SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "crop": 1, "weight_decay": 0.01}


def test_a_training_that_is_watched_is_the_same_bit_for_bit() -> None:
    data = made_data()
    alone, watched, watch = made_model(), made_model(), Watch()
    first = fit(alone, data, **SETTINGS)
    second = fit(watched, data, callbacks=[watch], **SETTINGS)
    assert [record.step for record in watch.records] == list(range(1, 13))
    assert same(alone, watched) and first.train_loss == second.train_loss and first.loss == second.loss


def test_a_watched_training_with_averaged_weights_in_parts_is_the_same_too() -> None:
    data, settings = made_data(), {**SETTINGS, "ema": 0.9, "accumulate": 2, "clip": 0.5, "optimizer": "adamw"}
    alone, watched = made_model(), made_model()
    fit(alone, data, **settings)
    fit(watched, data, callbacks=[Watch()], **settings)
    assert same(alone, watched)


def test_gradients_and_updates_are_those_of_the_step() -> None:
    class Own(Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []
            self.before = torch.empty(0)

        def on_start(self, training: Training) -> None:
            self.before = training.model[4].weight.detach().clone()

        def on_step(self, training: Training) -> None:
            weight = training.model[4].weight
            moved = (weight.detach() - self.before).norm() / self.before.norm()
            self.seen.append((weight.grad.norm().item(), moved.item()))
            self.before = weight.detach().clone()

    own, watch = Own(), Watch()
    fit(made_model(), made_data(), callbacks=[own, watch], **SETTINGS)
    assert [(record.gradient["4"], record.update["4"]) for record in watch.records] == own.seen
    assert list(watch.records[0].gradient) == ["0", "4", "8"] and watch.records[-1].epochs == 2.0
    assert len(set(own.seen)) == 12 and min(min(pair) for pair in own.seen) > 0


def test_what_does_not_learn_is_not_watched() -> None:
    model = made_model()
    model[0].requires_grad_(False)
    watch = Watch()
    fit(model, made_data(), callbacks=[watch], **SETTINGS)
    assert list(watch.records[0].update) == ["4", "8"]


def test_a_unit_is_dead_if_it_has_one_value_for_all_images_and_places() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.0, -1.0, -2.0]))
        model[3].weight.fill_(0.25)
        model[3].weight[1:3] = 0.0
    found: dict[str, tuple[int, int]] = {}
    images = torch.arange(1.0, 9.0).reshape(2, 1, 2, 2) / 8
    look(model, images, activations(model), lambda name, output: found.update({name: dead(output)}))
    assert found == {"1": (2, 3), "4": (2, 4)}  # the second sees only negative sums, the third none above 0
    assert dead(torch.zeros(3, 2)) == (2, 2) and dead(torch.eye(2)) == (0, 2)


def test_looking_leaves_buffers_modes_and_random_numbers_as_they_were() -> None:
    class Restless(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(4, 2), nn.ReLU())
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) + torch.rand(())

    model = Restless().train()
    model[1].eval()
    before = torch.get_rng_state()
    look(model, torch.ones(2, 1, 2, 2), activations(model), lambda name, output: None)
    assert torch.equal(torch.get_rng_state(), before) and model.calls == 0
    assert model.training and not model[1].training and not model[2]._forward_hooks


def test_a_layer_that_is_called_twice_has_a_name_for_each_call() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.relu(x) - 1)

    names: list[str] = []
    look(Twice(), torch.ones(2, 3), activations(Twice()), lambda name, output: names.append(name))
    assert names == []  # those of another model
    model = Twice()
    look(model, torch.ones(2, 3), activations(model), lambda name, output: names.append(name))
    assert names == ["relu", "relu (call 2)"]


def test_activations_of_striates_models_are_found() -> None:
    assert list(activations(models.lenet5())) == ["1", "4", "8"]
    assert len(activations(models.by_name("resnet_cifar")())) >= 7
    assert list(activations(nn.Sequential(nn.BatchNormAct2d(2), nn.BatchNormAct2d(2, activation=None)))) == ["0"]


def test_intervals_keep_the_cost_low_and_leave_enough_to_draw() -> None:
    assert interval(90 * 5000, 5000) == 1250
    for steps_per_epoch in (1, 7, 45, 100, 1875):
        for epochs in (1, 8, 50):
            steps = epochs * steps_per_epoch
            every = interval(steps, steps_per_epoch)
            assert steps // every >= min(8, steps) and (every >= 50 or steps < 8 * 51)


class _Halves(Callback):
    """Takes a snapshot in the middle, and stops there if so told."""

    def __init__(self, at: int, stops: bool) -> None:
        self.at, self.stops = at, stops
        self.snapshot: Snapshot | None = None

    def on_step(self, training: Training) -> None:
        if training.step == self.at:
            self.snapshot = training.snapshot()
        if self.stops and training.step == self.at + 2:
            training.stop("enough")


@pytest.mark.parametrize("at", [3, 6, 9])
def test_records_of_a_training_that_goes_on_are_those_of_one_that_never_stopped(at: int, tmp_path: Path) -> None:
    data, whole, parts = made_data(), tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    fit(made_model(), data, callbacks=[Watch(whole)], **SETTINGS)
    halves = _Halves(at, stops=True)
    fit(made_model(), data, callbacks=[Watch(parts), halves], **SETTINGS)
    assert len(read_records(parts)) == at + 2
    with open(parts, "a", encoding="utf-8") as file:
        file.write('{"step": 99, "epo')  # ended while it wrote
    fit(made_model(), data, callbacks=[Watch(parts)], resume=halves.snapshot, **SETTINGS)
    assert parts.read_bytes() == whole.read_bytes() and len(read_records(whole)) == 12


def test_a_training_that_begins_anew_forgets_what_was_seen(tmp_path: Path) -> None:
    file = tmp_path / "watch.jsonl"
    for epochs in (2, 1):
        fit(made_model(), made_data(), callbacks=[Watch(file)], **{**SETTINGS, "epochs": epochs})
    assert [record.step for record in read_records(file)] == list(range(1, 7))


def test_records_come_back_as_they_were_and_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "watch.jsonl"
    records = [
        Record(step, step / 4, {"a": 0.5, "b": None}, {"a": 1e-3, "b": None}, {"relu": (1, 8)}) for step in (2, 4)
    ]
    lines = [record.to_json() for record in records]
    odd = ["", "null", "[]", '{"step": 1}', lines[0][:-1], lines[0].replace("0.5", '"x"'), "\0" * 40, "[" * 2000]
    file.write_text("\n".join([*lines, *odd]))
    assert read_records(file) == records and read_records(tmp_path / "none") == []
    assert asdict(records[0])["dead"] == {"relu": (1, 8)}


def test_a_file_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "gone" / "watch.jsonl")
    fit(made_model(), made_data(), callbacks=[watch], **SETTINGS)
    assert len(watch.records) == 12 and not list(tmp_path.iterdir())
