"""The settings of a training: one table, from which checks, words and documents follow."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

import striate
from striate.errors import ArgumentError
from striate.training import FitSettings, RunSettings
from striate.training.schedule import learning_rate_at
from striate.training.settings import Knob, knobs, markdown, resolved

TABLE = knobs(RunSettings)


def refused(change: dict[str, Any]) -> str:
    with pytest.raises(ArgumentError) as error:
        RunSettings(**change)
    return str(error.value)


def test_every_field_has_a_knob_and_a_default_that_passes() -> None:
    assert list(TABLE) == [one.name for one in dataclasses.fields(RunSettings)]
    assert list(knobs(FitSettings)) == list(TABLE)[: len(knobs(FitSettings))]
    for name, knob in TABLE.items():
        assert knob.name == name and knob.help and knob.group and knob.default_text, name
        assert (knob.default is None) <= bool(knob.unset), name
        assert (knob.metavar == "") == (knob.kind is bool)
        knob.check(knob.default)


def test_groups_stand_together() -> None:
    groups = [knob.group for knob in TABLE.values()]
    assert len([g for k, g in enumerate(groups) if k == 0 or groups[k - 1] != g]) == len(set(groups))


@pytest.mark.parametrize("name", TABLE)
def test_values_of_another_type_are_refused(name: str) -> None:
    knob = TABLE[name]
    wrong: list[object] = [[1], b"1", 1j]
    of_kind: dict[type, list[object]] = {
        int: [True, 2.0, "2", math.nan],
        float: [True, "2", math.nan, math.inf],
        bool: [1, "yes", None],
        str: [1],
    }
    wrong += of_kind[knob.kind]
    if not knob.unset:
        wrong.append(None)
    for value in wrong:
        message = refused({name: value})
        start = f"training expects {name} to be {knob.values}, got {value!r}. Leave it out for {knob.default_text}."
        assert message.startswith(start)


@pytest.mark.parametrize("name", [name for name, knob in TABLE.items() if knob.kind in (int, float)])
def test_a_bound_is_a_value_and_what_lies_beyond_it_is_none(name: str) -> None:
    knob = TABLE[name]
    beyond = {"least": -1, "most": 1, "above": 0, "below": 0}
    assert any(math.isfinite(getattr(knob, bound)) for bound in beyond)
    for bound, step in beyond.items():
        limit = getattr(knob, bound)
        if math.isfinite(limit):
            limit = knob.kind(limit)
            assert refused({name: limit + step})
            if step:
                knob.check(limit)


@pytest.mark.parametrize("name", [name for name, knob in TABLE.items() if knob.choices])
def test_each_word_is_taken_and_a_misspelt_one_gets_the_right_one_for_an_answer(name: str) -> None:
    for word in TABLE[name].choices:
        assert getattr(RunSettings(**{name: word}), name) == word
        assert refused({name: word + "x"}).endswith(f" Did you mean {word}?")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"epochs": 0},
            "training expects epochs to be a whole number from 1 on, got 0. Leave it out for 8.",
        ),
        (
            {"learning_rate": -1},
            "training expects learning_rate to be a number from 0 on, got -1. Leave it out for 0.025 with sgd, 0.001 "
            "with adamw.",
        ),
        (
            {"momentum": 1.0},
            "training expects momentum to be a number from 0 to below 1, got 1.0. Leave it out for 0.9.",
        ),
        (
            {"ema": 1},
            "training expects ema to be a number above 0 and below 1, got 1. Leave it out for no average.",
        ),
        (
            {"resized_crop": 0.0},
            "training expects resized_crop to be a number above 0 to 1, got 0.0. Leave it out for no such crop.",
        ),
        (
            {"threads": 0},
            "training expects threads to be a whole number from 1 to 1024, got 0. Leave it out for its own choice.",
        ),
        (
            {"seed": 2**32},
            "training expects seed to be a whole number from 0 to 4294967295, got 4294967296. Leave it out for 0.",
        ),
        (
            {"flip": 1},
            "training expects flip to be True or False, got 1. Leave it out for off.",
        ),
        (
            {"optimizer": "adam"},
            "training expects optimizer to be one of sgd, adamw, got 'adam'. Leave it out for sgd. Did you mean "
            "adamw?",
        ),
        (
            {"data": 3},
            "training expects data to be text, got 3. Leave it out for digits.",
        ),
        (
            {"accumulate": 40},
            "training expects accumulate to be at most batch_size, 32, got 40. A part has an image at least.",
        ),
    ],
)
def test_a_refusal_names_the_setting_and_what_it_may_be(change: dict[str, Any], message: str) -> None:
    assert refused(change) == message


def test_a_name_that_is_no_setting_is_refused_with_the_nearest() -> None:
    expected = "training expects settings that it has, got 'epoch'. FitSettings lists them. Did you mean epochs?"
    for call in (lambda: FitSettings().replace(epoch=3), lambda: FitSettings.of({"epoch": 3})):
        with pytest.raises(ArgumentError) as error:
            call()
        assert str(error.value) == expected
    with pytest.raises(ArgumentError, match=r"^training expects settings that it has, got 'model'\."):
        FitSettings.of({"model": "lenet5"})


def test_settings_are_what_their_dictionary_says() -> None:
    settings = RunSettings(epochs=3, ema=0.9, flip=True, data="shapes", norm="group")
    values = settings.to_dict()
    assert list(values) == list(TABLE) and values["norm"] == "group" and values["threads"] is None
    assert RunSettings.of(values) == settings != RunSettings()
    assert RunSettings.of({}) == RunSettings()


def test_settings_that_change_no_result_make_no_difference() -> None:
    free = {name for name, knob in TABLE.items() if knob.free}
    assert free == {"threads", "workers", "checkpoint_minutes", "diagnose"}
    changed = RunSettings(threads=3, workers=2, checkpoint_minutes=1.0)
    assert RunSettings().differences(changed) == []
    assert RunSettings().differences(changed.replace(seed=1, pool="avg")) == ["seed", "pool"]
    assert RunSettings().differences(FitSettings(seed=1)) == ["seed"]


@pytest.mark.parametrize(
    ("settings", "kind", "found"),
    [
        ({}, "digits", {"learning_rate": 0.025, "weight_decay": 5e-4, "warm_up": 0.2, "crop": 2, "step_epochs": None}),
        ({"optimizer": "adamw"}, "cifar10", {"learning_rate": 0.001, "weight_decay": 0.01, "crop": 4}),
        ({"schedule": "step", "epochs": 10}, "folder", {"warm_up": 0.05, "crop": 0, "step_epochs": 3}),
        ({"schedule": "step", "epochs": 2}, "folder", {"step_epochs": 1}),
        ({"learning_rate": 0, "weight_decay": 0, "crop": 0, "warm_up": 0}, "digits", {"learning_rate": 0, "crop": 0}),
    ],
)
def test_what_is_left_out_follows_from_the_rest(settings: dict[str, Any], kind: str, found: dict[str, Any]) -> None:
    result = resolved(RunSettings(**settings), kind)
    assert {name: getattr(result, name) for name in found} == found
    assert type(result) is RunSettings and resolved(result, "mnist") == result


def test_precision_is_that_around_the_training() -> None:
    assert resolved(FitSettings(), "digits").precision == "fast"
    with striate.precision("strict"):
        assert resolved(FitSettings(), "digits").precision == "strict"
        assert resolved(FitSettings(precision="fast"), "digits").precision == "fast"


def test_the_table_of_the_guide_is_the_table() -> None:
    root = Path(striate.__file__).parent.parent.parent
    if not (root / "docs").is_dir():
        pytest.skip("the documents are not installed, only the checkout has them")
    assert markdown(RunSettings) in (root / "docs" / "guide" / "settings.md").read_text(encoding="utf-8")


def test_options_and_placeholders_follow_from_the_table() -> None:
    assert TABLE["learning_rate"].flag == "--learning-rate"
    assert [TABLE[name].metavar for name in ("epochs", "ema", "model", "flip", "crop")] == ["N", "X", "NAME", "", "PX"]
    assert [TABLE[n].kind for n in ("epochs", "ema", "model", "flip", "patience")] == [int, float, str, bool, int]
    assert Knob(group="g", help="h", kind=int).values == "a whole number"


# The learning rate.


def rates(steps: int, **settings: Any) -> list[float]:
    chosen = resolved(FitSettings(learning_rate=0.5, **settings), "shapes")
    return [learning_rate_at(step, steps, chosen) for step in range(steps)]


def test_the_learning_rate_rises_then_falls() -> None:
    found = rates(100)
    top = found.index(max(found))
    assert top == 19 and found[top] == 0.5
    assert found[:20] == sorted(found[:20]) and found[19:] == sorted(found[19:], reverse=True)
    assert 0 < found[-1] < 0.001


def test_one_cycle_and_cosine_differ_in_their_warm_up_alone() -> None:
    assert rates(40, schedule="cosine") != rates(40)
    assert rates(40, schedule="cosine", warm_up=0.2) == rates(40)
    falling = [0.5 * (0.5 + 0.5 * math.cos(math.pi * done / 5)) for done in (1, 2, 3, 4)]
    assert rates(4, schedule="cosine", warm_up=0) == falling


def test_a_constant_rate_is_constant_and_steps_fall_where_epochs_begin() -> None:
    assert rates(20, schedule="constant", warm_up=0) == [0.5] * 20
    assert rates(20, schedule="constant", warm_up=0.25)[:5] == [0.1, 0.2, pytest.approx(0.3), 0.4, 0.5]
    steps = rates(12, schedule="step", epochs=4, step_epochs=2, step_factor=0.5, warm_up=0)
    assert steps == [0.5] * 6 + [0.25] * 6
    assert len(set(rates(30, schedule="step", epochs=10, warm_up=0))) == 4


@pytest.mark.parametrize("schedule", TABLE["schedule"].choices)
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("warm_up", [0, 0.2, 1])
def test_the_learning_rate_is_positive_however_few_the_steps(schedule: str, steps: int, warm_up: float) -> None:
    assert all(0 < rate <= 0.5 for rate in rates(steps, schedule=schedule, warm_up=warm_up))
