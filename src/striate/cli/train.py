"""``striate train``: trains a model on a data set, in a folder from which it goes on where it was stopped."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

from ..errors import ArgumentError, build, describe_error
from . import output
from .model import SHELL, current_folder
from .parser import Commands, Help, Parser

if TYPE_CHECKING:
    from ..training.run import Prepared, Run
    from ..training.settings import Knob

__all__ = ["add", "run", "setting_options", "settings_in"]

PROFILED = 3  # rounds of timing for the report: some ten steps
FILES = {"data": shtab.FILE, "weights": shtab.FILE, "model": SHELL}  # what completes the value of an option


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "train",
        help="train a model on a data set and test it on images it never saw",
        description="Trains a model, by default LeNet-5 on 1,797 handwritten digits, and tests it on\n"
        "images it never saw. Ctrl-C saves a checkpoint, from which --resume goes on as\n"
        "if nothing had happened. Writes model.safetensors, metrics.json, config.toml,\n"
        "checkpoints/, pictures and report.html.",
        epilog="examples:\n"
        "  striate train --model resnet_cifar --epochs 4 --out runs/mine\n"
        "  striate train --data folder:photos --size 64 --model resnet18 --flip --val-fraction 0.1\n"
        "  striate train --resume --out runs/mine",
        usage="striate train [--data SPEC] [--model NAME] [--epochs N] [--out RUN] [--resume] [options]",
        formatter_class=Help,
    )
    folder = parser.add_argument_group("folder")
    out = "the run's folder (default: a new one, as runs/lenet5-digits)"
    folder.add_argument("--out", metavar="RUN", help=out).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    folder.add_argument("--resume", action="store_true", help="go on with the run there, or begin where there is none")
    folder.add_argument("--overwrite", action="store_true", help="remove the run there, and begin again")
    config = "TOML file with settings, named as the options below, with _ for -; options win over it"
    folder.add_argument("--config", metavar="FILE", help=config).complete = shtab.FILE  # type: ignore[attr-defined]
    setting_options(parser)
    parser.set_defaults(command=run)
    return {"train": parser}


def setting_options(parser: Parser, without: Sequence[str] = ()) -> None:
    """Adds an option for each setting of a run, in its group. One that is not given is not among the parsed options."""
    from ..training.settings import RunSettings, knobs

    groups: dict[str, Any] = {}
    for knob in knobs(RunSettings).values():
        if knob.name in without:
            continue
        if knob.group not in groups:
            groups[knob.group] = parser.add_argument_group(knob.group)
        _add(groups[knob.group], knob)


def _add(group: Any, knob: Knob) -> None:
    text = f"{knob.help}{': ' + ', '.join(knob.choices) if knob.choices else ''} (default: {knob.default_text})"
    about: dict[str, Any] = {"dest": knob.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if knob.kind is bool:
        group.add_argument(knob.flag, action=argparse.BooleanOptionalAction, **about)
        return
    option = group.add_argument(knob.flag, type=knob.kind, metavar=knob.metavar, **about)
    if knob.choices:
        option.choices = _Words(knob.choices)
    elif knob.name in FILES:
        option.complete = FILES[knob.name]


class _Words(tuple[str, ...]):
    """Words that a shell completes. argparse lets any other pass, since the setting itself refuses it and names the
    nearest.
    """

    def __contains__(self, word: object) -> bool:
        return True


def settings_in(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that options give, by name."""
    from ..training.settings import RunSettings, knobs

    return {name: value for name, value in vars(options).items() if name in knobs(RunSettings)}


def run(options: argparse.Namespace) -> int:
    from ..allocator import tune_allocator
    from ..training.config import read_config
    from ..training.run import train_run

    tune_allocator()
    findings: dict[str, Any] = {}
    given = {**(read_config(options.config) if options.config is not None else {}), **settings_in(options)}
    with current_folder():
        made = train_run(
            out=options.out,
            resume=options.resume,
            overwrite=options.overwrite,
            progress=True,
            on_ready=lambda ready, folder: findings.update(_begin(ready, folder)),
            about_layers=lambda ready: {
                **findings,
                "times": _times(ready),
                "diagnoses": [*findings["diagnoses"], *_diagnosed(ready, trained=True)],
            },
            tell=lambda line: print(line, flush=True),
            **given,
        )
    _print_end(made)
    return 0


def _begin(ready: Prepared, folder: Path) -> dict[str, Any]:
    """Prints what is about to be trained, and what inspecting the model finds; raises for errors if settings are
    strict. Returns the findings, for the report.
    """
    from ..render.text import labelled

    settings, data, batch = ready.settings, ready.data, _batch(ready)
    count = sum(p.numel() for p in ready.model.parameters())
    frozen = sum(p.numel() for p in ready.model.parameters() if not p.requires_grad)
    height, width = ready.preprocessing.size
    parts = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
    steps = -(-len(data.parts["train"]) // batch)
    rows = [
        ("model", f"{settings.model}, {count:,} parameters" + (f", {frozen:,} of them frozen" if frozen else "")),
        ("data", f"{settings.data}: {parts} images in {len(data.classes)} classes, "
                 f"{ready.preprocessing.channels}×{height}×{width}"),
        ("epochs", f"{settings.epochs} of {steps:,} step{'s' * (steps != 1)}, {batch} images each"),
        ("results", str(folder)),
    ]  # fmt: skip
    if data.skipped:
        rows.insert(2, ("left out", f"{len(data.skipped):,} broken images, as {data.skipped[0]}"))
    if ready.new_head is not None:
        name, given = ready.new_head
        rows.insert(1, ("head", f"{name} is new, for {len(data.classes)} classes: the model gives {given} scores"))
    if ready.loaded is not None:
        rows.insert(1, ("weights", f"{settings.weights}: {ready.loaded}"))
    if ready.snapshot is not None:
        facts = ready.snapshot.facts
        rows.append(("goes on", f"after epoch {facts['epoch']}, step {facts['step']:,} of {settings.epochs * steps:,}"))
    print("\n".join([*labelled(rows, output.width(60)), ""]), flush=True)
    return {**_lint(ready), "diagnoses": _diagnosed(ready, trained=False) if ready.snapshot is None else []}


def _batch(ready: Prepared) -> int:
    """The images of a step, at most: never more than there are."""
    return min(ready.settings.batch_size, len(ready.data.parts["train"]))


def _lint(ready: Prepared) -> dict[str, Any]:
    from torch import nn

    from ..analysis.inspect.inspection import inspect
    from ..analysis.inspect.words import counted
    from ..analysis.lint.group import grouped
    from ..analysis.lint.ignore import configured

    settings, preprocessing, batch = ready.settings, ready.preprocessing, _batch(ready)
    ready.model.train()
    try:
        report = inspect(
            ready.model,
            (batch, preprocessing.channels, *preprocessing.size),
            batch_size=max(1, batch // settings.accumulate),
            loss=nn.CrossEntropyLoss(),
            task="classification",
            ignore=configured(Path.cwd()),
        )
    except (ValueError, RuntimeError) as error:  # the first step says so too, if it is the model's mistake
        print(f"the model could not be inspected: {describe_error(error)}\n", flush=True)
        return {}
    groups = grouped(report.findings)
    for group in groups:
        print(output.wrapped(f"{group.severity}: {group.rule}: {group.places}{group.scope}: {group.message}"))
    if report.findings:
        print(flush=True)
    errors = sorted({finding.rule for finding in report.findings if finding.severity == "error"})
    if settings.strict and errors:
        hint = "Mend the model, or leave --strict out."
        raise ArgumentError(build("train", "a model without errors, since it is strict", ", ".join(errors), hint=hint))
    return {"groups": groups, "counted": counted(groups)}


def _diagnosed(ready: Prepared, *, trained: bool) -> list[tuple[str, str, Any]]:
    """Prints what is wrong with the model, if settings ask for it; returns it for the report: when, what, findings."""
    from ..analysis.lint.group import grouped
    from ..diagnostics.prepared import diagnose_prepared

    if not ready.settings.diagnose:
        return []
    found = diagnose_prepared(ready, trained=trained, with_rate=not trained)
    print(f"{found.table(output.width(60))}\n", flush=True)
    return [("After training" if trained else "Before training", found.summary, grouped(found.findings))]


def _times(ready: Prepared) -> dict[str, Any] | None:
    """What the report shows of the layers' times in a step; None for a model that cannot be profiled."""
    import torch

    from ..diagnostics import profile
    from ..diagnostics.page import times

    settings, preprocessing = ready.settings, ready.preprocessing
    count = max(1, _batch(ready) // settings.accumulate)
    images = torch.zeros(count, preprocessing.channels, *preprocessing.size)
    try:
        return times(profile(ready.model, images, rounds=PROFILED, next_best=False))
    except (TypeError, ValueError, RuntimeError):  # a page without times is a page still
        return None


def _print_end(made: Run) -> None:
    metrics = made.metrics
    held_out = "test" if metrics.get("test_accuracy") is not None else "val"
    accuracy = metrics.get(f"{held_out}_accuracy")
    if metrics.get("stopped"):
        print(f"stopped early: {metrics['stopped']}")
    if accuracy is not None:
        seen = "it never saw" if held_out == "test" else "of validation"
        images = f"{metrics[f'{held_out}_images']:,} images {seen}"
        print(f"{made.settings.model}: {held_out} accuracy {100 * accuracy:.2f} % on {images}")
    print(f"results in {made.folder}: report.html shows them")
    run, spec = shlex.quote(str(made.folder)), shlex.quote(made.settings.data)
    channels, (height, width) = made.preprocessing.channels, made.preprocessing.size
    commands = [
        (f"striate evaluate {run} --data {spec}", "accuracy of each class, and which are confused"),
        (f"striate predict {run} IMAGE …", "classes of your own images"),
        (f"striate inspect {run} --input {channels}x{height}x{width}", "its layers, what they cost and see"),
        (f"striate train --data {spec} --model cnn_bn --norm group", "another model; --help lists all settings"),
        ("striate runs", "all runs beside each other"),
    ]
    most, longest = max(len(command) for command, _ in commands), max(len(what) for _, what in commands)
    lines = [f"  {command:<{most}}   {what}" for command, what in commands]
    if sys.stdout.isatty() and most + longest + 5 > output.width(60):
        lines = [f"  {what}:\n    {command}" for command, what in commands]
    print("\n".join(["", "what to try next:", *lines]))
