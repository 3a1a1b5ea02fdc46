"""``striate find-lr``: finds learning rates at which a model learns."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import shtab

from ..errors import ArgumentError, build
from . import output
from .model import current_folder
from .parser import Commands, Help, Parser
from .train import setting_options, settings_in

__all__ = ["add", "run"]

WITHOUT = (
    *("epochs", "learning_rate", "ema", "patience", "schedule", "warm_up", "step_epochs", "step_factor"),
    *("val_fraction", "checkpoint_minutes", "strict", "diagnose", "log"),
)


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "find-lr",
        help="find the learning rates at which a model learns",
        description="The learning-rate range test: trains for some steps while the learning rate\n"
        "rises from one to the next, draws the loss over it, and suggests a peak.\n"
        "The other settings are those of striate train.",
        epilog="example:\n  striate find-lr --data folder:photos --model resnet18 --picture rates.png",
        usage="striate find-lr [--data SPEC] [--model NAME] [--picture FILE] [options]",
        formatter_class=Help,
    )
    test = parser.add_argument_group("test")
    test.add_argument("--steps", type=int, default=200, metavar="N", help="steps of the test (default: 200)")
    lowest = "the first learning rate (default: 0.00001 with sgd, 0.000001 with adamw)"
    test.add_argument("--lowest", type=float, metavar="X", help=lowest)
    highest = "the last learning rate (default: 10 with sgd, 1 with adamw)"
    test.add_argument("--highest", type=float, metavar="X", help=highest)
    picture = "where to draw the loss over the learning rate, as a PNG"
    test.add_argument("--picture", metavar="FILE", help=picture).complete = shtab.FILE  # type: ignore[attr-defined]
    test.add_argument("--json", action="store_true", help="JSON in place of the text")
    setting_options(parser, WITHOUT)
    parser.set_defaults(command=run)
    return {"find-lr": parser}


def run(options: argparse.Namespace) -> int:
    from ..allocator import tune_allocator
    from ..training.find_lr import find_lr
    from ..training.run import prepare
    from ..training.settings import RunSettings

    output.check_files("find-lr", options.picture)
    if options.picture is not None and Path(options.picture).suffix.lower() != ".png":
        expects = "--picture with a file that ends in .png"
        raise ArgumentError(build("find-lr", expects, repr(options.picture), hint="Name another."))
    settings = RunSettings.of(settings_in(options))
    tune_allocator()
    with current_folder(), output.progress_bar() as show, redirect_stdout(sys.stderr):
        ready = prepare(settings)
        found = find_lr(
            ready.model,
            ready.data,
            ready.settings,
            preprocessing=ready.preprocessing,
            lowest=options.lowest,
            highest=options.highest,
            steps=options.steps,
            on_step=(lambda done, of: show(done, of, "steps")) if show else lambda done, of: None,
        )
        if options.picture is not None:
            found.draw(options.picture)
    if options.json:
        print(output.json_text({"model": settings.model, "data": settings.data, **found.to_dict()}))
    else:
        print(output.wrapped(f"{settings.model} on {settings.data}, {ready.settings.optimizer}: {found.summary}"))
        if found.suggestion is not None:
            print(f"try: --learning-rate {found.suggestion:.2g}")
    if options.picture is not None:
        print(f"written to {options.picture}", file=sys.stderr if options.json else sys.stdout)
    return 0
