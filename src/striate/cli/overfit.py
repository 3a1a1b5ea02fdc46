"""``striate overfit``: checks whether a model can learn one batch by heart."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from . import output
from .model import current_folder
from .parser import Commands, Help, Parser
from .train import setting_options, settings_in

__all__ = ["add", "run"]

WITHOUT = ("epochs", "val_fraction", "checkpoint_minutes", "strict", "diagnose", "log", "workers")


def add(commands: Commands) -> dict[str, Parser]:
    from ..training.overfit import PLAIN

    parser: Parser = commands.add_parser(
        "overfit",
        help="check whether a model can learn one batch by heart",
        description="Trains on one batch, again and again, without augmentation, decay or schedule,\n"
        "until each of its images is right. A network that cannot do this has a mistake\n"
        "that no data will mend; what to look at is then said. Exit code 1: it did not\n"
        "learn the batch. The settings are those of striate train.",
        epilog="example:\n  striate overfit --model mymodel:make --data folder:photos --batch-size 16",
        usage="striate overfit [--data SPEC] [--model NAME] [--steps N] [options]",
        formatter_class=Help,
    )
    check = parser.add_argument_group("check")
    check.add_argument("--steps", type=int, default=200, metavar="N", help="steps, at most (default: 200)")
    check.add_argument("--json", action="store_true", help="JSON in place of the text")
    setting_options(parser, (*WITHOUT, *PLAIN, "step_epochs", "step_factor", "decay_all"))
    parser.set_defaults(command=run)
    return {"overfit": parser}


def run(options: argparse.Namespace) -> int:
    from ..allocator import tune_allocator
    from ..training.overfit import overfit
    from ..training.run import prepare
    from ..training.settings import RunSettings

    settings = RunSettings.of(settings_in(options))
    tune_allocator()
    with current_folder(), output.progress_bar() as show, redirect_stdout(sys.stderr):
        ready = prepare(settings)
        found = overfit(
            ready.model,
            ready.data,
            ready.settings,
            preprocessing=ready.preprocessing,
            steps=options.steps,
            on_step=(lambda done, of: show(done, of, "steps")) if show else lambda done, of: None,
        )
    if options.json:
        print(output.json_text({"model": settings.model, "data": settings.data, **found.to_dict()}))
    else:
        print(output.wrapped(f"{settings.model} on {settings.data}: {found.verdict}"))
        for hint in found.hints:
            print(output.wrapped(f"- {hint}"))
    return 0 if found.learned else 1
