"""A run's folder: what is in it, what is refused, how a run goes on in it, and how its model is opened."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import NET, SETTINGS, save_data

from striate import nn
from striate.errors import ArgumentError, CheckpointError
from striate.models import classifier
from striate.training import (
    Callback,
    NotFinite,
    RunSettings,
    checkpoint,
    evaluate,
    open_data,
    open_run,
    parameter_groups,
    signals,
    train_run,
)
from striate.training.checkpoints import latest
from striate.training.config import read_config, write_config
from striate.training.folder import working_in
from striate.training.run import prepare

FILES = {
    "checkpoints", "config.toml", "confusion.png", "curves.png", "filters.png", "metrics.json", "model.safetensors",
    "report.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_data(tmp_path_factory.mktemp("data") / "data.npz")


@pytest.fixture(scope="module")
def settings(data: str) -> dict[str, Any]:
    return {**SETTINGS, "data": data, "epochs": 2}


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended."""
    out = tmp_path_factory.mktemp("runs") / "deep" / "run"
    train_run(out=out, **settings)
    return out


def refused(message: str, *arguments: Any, **more: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        train_run(*arguments, **more)
    assert str(error.value) == message


class StopsAt(Callback):
    """Stops a training as Ctrl-C does, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Any) -> None:
        if training.step == self.step:
            signals.signal.raise_signal(signals.signal.SIGINT)


def test_a_run_leaves_its_files_and_its_metrics_say_what_was_trained(whole: Path, settings: dict[str, Any]) -> None:
    assert {path.name for path in whole.iterdir()} >= FILES
    metrics = json.loads((whole / "metrics.json").read_text())
    counts = {name: metrics[f"{name}_images"] for name in ("train", "val", "test")}
    assert counts == {"train": 96, "val": 24, "test": 30} and metrics["folder"] == str(whole)
    assert [epoch["monitored"] for epoch in metrics["epochs"]] == ["val", "val"]
    assert metrics["val_accuracy"] == metrics["epochs"][-1]["accuracy"] and metrics["stopped"] is None
    assert {**metrics["settings"], **settings} == metrics["settings"] and metrics["settings"]["crop"] == 1
    assert set(metrics["versions"]) == {"striate", "torch", "python"}


def test_the_model_of_a_run_is_the_one_that_was_tested(whole: Path, settings: dict[str, Any]) -> None:
    opened = {name: open_run(path) for name, path in (("folder", whole), ("file", whole / "model.safetensors"))}
    for run in opened.values():
        model = run.model()
        assert not model.training and run.classes == ("0", "1", "2") and run.folder == whole
        part = open_data(settings["data"]).parts["test"]
        torch.set_num_threads(1)
        found = evaluate(model, part, run.preprocessing, classes=run.classes)
        assert (found.accuracy, found.loss) == (run.metrics["test_accuracy"], run.metrics["test_loss"])
        assert run.settings == RunSettings.of(run.metrics["settings"])


def test_the_number_of_threads_and_the_random_states_stay(data: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    train_run(out=tmp_path / "run", **{**SETTINGS, "data": data, "epochs": 1})
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), state)


def test_the_resolved_settings_are_a_file_that_gives_them_again(whole: Path, tmp_path: Path) -> None:
    stored = json.loads((whole / "metrics.json").read_text())["settings"]
    given = read_config(whole / "config.toml")
    assert given == {name: value for name, value in stored.items() if value is not None}
    odd = RunSettings(data='folder:a "b"\\c', learning_rate=1 / 3, ema=0.1 + 0.2, flip=True, weight_decay=0.0)
    write_config(tmp_path / "c.toml", odd)
    assert RunSettings.of(read_config(tmp_path / "c.toml")) == odd


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "epoch = 3",
            "train expects settings only, got 'epoch'. file: {0}. Name a setting as its option, with _ for -. "
            "Did you mean epochs?",
        ),
        ("epochs = '3'", "training expects epochs to be a whole number from 1 on, got '3'. Leave it out for 8."),
        (
            "epochs 3",
            "train expects a TOML file with settings, got Invalid key \"epochs 3\" at line 1 col 0. file: {0}. "
            "Write a setting a line, as epochs = 8.",
        ),
        (
            None,
            "train expects a TOML file with settings, got No such file or directory. file: {0}. "
            "Write a setting a line, as epochs = 8.",
        ),
    ],
    ids=["name", "value", "syntax", "missing"],
)
def test_a_configuration_that_is_none_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArgumentError) as error:
        read_config(path)
    assert " ".join(str(error.value).split()) == message.format(path)


# ----------------------------------------------------------------------------------------------------------- the folder


def test_a_folder_with_a_run_is_refused_and_stays(whole: Path, settings: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    hint = "Add --resume to go on with it, --overwrite to begin again, or give another with --out."
    refused(f"train expects a folder without a run, got one with a run. folder: {whole}. {hint}", out=whole, **settings)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_overwriting_removes_the_run_and_nothing_else(settings: dict[str, Any], tmp_path: Path) -> None:
    train_run(out=tmp_path, **settings)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "epoch-0099-step-000999.safetensors").write_text("later")
    train_run(out=tmp_path, overwrite=True, **{**settings, "epochs": 1})
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name[:10] for path in (tmp_path / "checkpoints").glob("*.safetensors")] == ["epoch-0001"]
    assert len(open_run(tmp_path).metrics["epochs"]) == 1
    assert not (tmp_path / "model.previous.safetensors").exists()


def test_what_is_refused_leaves_no_folder(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (None, "a/b/c"):
        with pytest.raises(ArgumentError):
            train_run(out=out, data=data, model="alexnet")
        assert not list(tmp_path.iterdir())


def test_new_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lenet5-digits", "lenet5-digits-2", "lenet5-digits-3"):
        with working_in(None, "lenet5-digits") as folder:
            (folder / "config.toml").write_text("")
        assert folder == Path("runs") / name


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    out = tmp_path / "run"
    hint = "Wait for it to end, or give another with --out."
    with working_in(out, "run"):
        message = f"train expects a folder of its own, got one in which another process trains. folder: {out}. {hint}"
        refused(message, out=out, **settings)
        assert out.is_dir()
    with working_in(out, "run"):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resume": True}, "train expects --out with --resume, got none. Name the folder of the run."),
        (
            {"resume": True, "overwrite": True, "out": "x"},
            "train expects one of --resume and --overwrite, got both. Go on, or begin again.",
        ),
        (
            {"epoch": 3},
            "training expects settings that it has, got 'epoch'. RunSettings lists them. Did you mean epochs?",
        ),
        ({"out": ""}, "train expects the name of a folder, got an empty one. Give one with --out."),
        (
            {"data": "folder:.", "out": "runs/mine"},
            "train expects a folder outside of that of the images, got one in .. folder: runs/mine. Give another with "
            "--out.",
        ),
    ],
    ids=["out", "both", "name", "empty", "inside"],
)
def test_a_request_that_cannot_be_meant_is_refused(given: dict[str, Any], message: str, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused(message, **given)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------- resume


def bits(folder: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in open_run(folder).model().state_dict().items()}


def test_a_run_that_was_stopped_goes_on_bit_for_bit(whole: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "a run"
    for step in (3, 6, 8):  # within an epoch, at the end of one, and in the last
        with pytest.raises(signals.Stopped) as stopped:
            train_run(out=out, resume=True, callbacks=[StopsAt(step)], **settings)
        assert str(stopped.value) == f"stopped. Go on with: striate train --resume --out '{out}'"
        hint = f"Go on with striate train --resume --out {out}."
        with pytest.raises(CheckpointError) as error:
            open_run(out)
        assert str(error.value) == f"load expects a run that has ended, got one that has not. folder: {out}. {hint}"
    run = train_run(out=out, resume=True, threads=2, checkpoint_minutes=1.0)  # neither changes a result
    assert bits(out) == bits(whole) and run.settings.epochs == 2
    assert signals.signal.getsignal(signals.signal.SIGINT) is signals.signal.default_int_handler


def test_a_run_that_has_ended_says_so_and_stays(whole: Path, settings: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    told: list[str] = []
    run = train_run(out=whole, resume=True, tell=told.append, **settings)
    assert told == [f"the run in {whole} has ended already: nothing is left to do"]
    assert run.metrics == open_run(whole).metrics
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_run_whose_model_is_gone_makes_it_again_from_its_last_checkpoint(
    whole: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(whole, tmp_path / "moved run"))
    (moved / "model.safetensors").unlink()
    train_run(out=moved, resume=True)
    assert bits(moved) == bits(whole)


def test_settings_other_than_those_the_run_began_with_are_refused_by_name(
    whole: Path, settings: dict[str, Any]
) -> None:
    start = f"train expects the settings that the run began with, batch_size = 16, got 8. folder: {whole}. "
    hint = "Leave --batch-size out to go on, or begin a run in another folder with --out."
    refused(start + hint, out=whole, resume=True, batch_size=8)
    refused(start + hint, RunSettings(**{**settings, "batch_size": 8}), out=whole, resume=True)
    train_run(RunSettings(**settings), out=whole, resume=True)


def test_a_run_without_metrics_is_evaluated_and_written_again(
    whole: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from striate.training import run

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run.figures, "confusion", fails)
        with pytest.raises(OSError, match="No space left"):
            train_run(out=tmp_path, **settings)
    assert (tmp_path / "model.safetensors").exists() and not (tmp_path / "metrics.json").exists()
    train_run(out=tmp_path, resume=True)
    assert bits(tmp_path) == bits(whole)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    whole: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    class Breaks(Callback):
        def on_step(self, training: Any) -> None:
            if training.step == 8:
                with torch.no_grad():
                    training.model[-1].weight.fill_(float("nan"))

    with pytest.raises(NotFinite, match="expects a loss that stays finite, got nan") as error:
        train_run(out=tmp_path, callbacks=[Breaks()], **settings)
    good = tmp_path / "checkpoints" / "epoch-0001-step-000006.safetensors"
    assert list((tmp_path / "checkpoints").glob("*.safetensors")) == [good]
    assert str(error.value).endswith(f"The last good checkpoint is kept: --weights {good}")
    run = train_run(out=tmp_path / "other", weights=str(good), **{**settings, "learning_rate": 0.0})
    assert torch.equal(run.model()[-1].weight, latest(good.parent).weights()["6.weight"])
    train_run(out=tmp_path, resume=True)
    assert bits(tmp_path) == bits(whole)


# -------------------------------------------------------------------------------------------------------------- signals


def test_outside_the_main_thread_a_run_trains_without_handlers(settings: dict[str, Any], tmp_path: Path) -> None:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(train_run(out=tmp_path, **{**settings, "epochs": 1})))
    thread.start()
    thread.join()
    assert len(made) == 1


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signals.signal.signal(signals.signal.SIGTERM, signals.signal.SIG_IGN)
    try:
        with signals.listen() as asked:
            signals.signal.raise_signal(signals.signal.SIGTERM)
            assert asked.signum is None
    finally:
        signals.signal.signal(signals.signal.SIGTERM, before)


def test_a_signal_outside_training_stops_at_once(data: str, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        signals.signal.raise_signal(signals.signal.SIGTERM)

    with pytest.raises(signals.Stopped, match=r"^stopped\.$") as stopped:
        train_run(out=tmp_path / "run", data=data, model=NET, on_ready=stop)
    assert stopped.value.signum == signals.signal.SIGTERM and not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- what is trained, how


def test_the_model_is_the_same_for_the_same_seed(data: str) -> None:
    first, again, other = (prepare(RunSettings(data=data, model="mlp_bn", seed=seed)).model for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[1].weight, other[1].weight)


def test_the_knobs_reach_the_model_and_the_weights_of_another_run_its_layers(
    whole: Path, data: str, settings: dict[str, Any]
) -> None:
    ready = prepare(RunSettings(data=data, model=NET, norm="group", activation="silu"))
    assert [type(layer) for layer in ready.model][1:3] == [nn.GroupNorm, nn.SiLU]
    weights = str(whole / "model.safetensors")
    ready = prepare(RunSettings(data=data, model=NET, weights=weights, freeze_until="6"))
    assert torch.equal(ready.model[0].weight, open_run(whole).model()[0].weight)
    assert [p.requires_grad for p in ready.model.parameters()] == [False] * 4 + [True] * 2 and ready.model[1].frozen
    assert len(parameter_groups(ready.model, 0.1)[0]["params"]) == 1 and str(ready.loaded).startswith("Loaded ")


def test_weights_that_fit_in_part_load_only_where_that_is_asked_for(whole: Path, data: str) -> None:
    given = {"data": data, "model": NET, "norm": "group", "weights": str(whole / "model.safetensors")}
    with pytest.raises(CheckpointError, match=r"or load what fits with --weights-partial \(strict=False\)\.$"):
        prepare(RunSettings(**given))
    ready = prepare(RunSettings(**given, weights_partial=True))
    assert str(ready.loaded) == (
        "Loaded 6 tensors. Not in the model: 1.num_batches_tracked, 1.running_mean, 1.running_var."
    )
    assert torch.equal(ready.model[0].weight, open_run(whole).model()[0].weight)


def test_a_model_of_torchs_layers_trains_on_striates(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import made_runs

    def plain() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 3))

    monkeypatch.setattr(made_runs, "plain", plain, raising=False)
    model = prepare(RunSettings(data=data, model="made_runs:plain")).model
    assert isinstance(model[0], nn.Conv2d)


def test_a_file_of_the_runs_before_still_opens(tmp_path: Path) -> None:
    model = classifier("cnn_bn", 1, (28, 28), 10)
    before = {"model": "cnn_bn", "epochs": 1, "batch_size": 64, "learning_rate": 0.025, "momentum": 0.9,
              "weight_decay": 5e-4, "shift_px": 2, "seed": 3, "threads": 1}  # fmt: skip
    checkpoint.save(model, tmp_path / "model.safetensors", settings=before, test_accuracy=0.5)
    run = open_run(tmp_path / "model.safetensors")
    assert run.classes == tuple("0123456789") and run.preprocessing.size == (28, 28) and run.metrics == {}
    assert (run.preprocessing.mean, run.preprocessing.std) == ((0.0,), (1.0,)) and run.settings.batch_size == 64
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(run.model()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("metadata", "got", "hint"),
    [
        ({}, "one that names no model", "Name what makes the model instead, as package.module:callable."),
        ({"frozen": 4}, "a frozen model", "Name what makes the model instead, as package.module:callable."),
    ],
    ids=["plain", "frozen"],
)
def test_a_file_of_no_run_is_refused(metadata: dict[str, Any], got: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(nn.Linear(1, 1), path, **metadata)
    with pytest.raises(CheckpointError) as error:
        open_run(path)
    assert str(error.value) == f"load expects a checkpoint of striate train, got {got}. path: {path}. {hint}"


def test_metrics_that_are_damaged_are_named(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    for content in ("{", "[]"):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(CheckpointError) as error:
            open_run(tmp_path)
        assert str(error.value) == (
            f"load expects the metrics of a run, got a file of something else. path: {tmp_path / 'metrics.json'}. "
            "Remove it, then go on with --resume: it is written again."
        )


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out, why in ((tmp_path / "file" / "run", "Not a directory"), (tmp_path / "file", "File exists")):
        refused(f"train expects a folder it can write to, got {why}. folder: {out}. Give another with --out.", out=out)
    assert os.listdir(tmp_path) == ["file"]
