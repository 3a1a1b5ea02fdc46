"""``striate profile``: shows where the time of a model goes, layer by layer."""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace

import shtab

from ..errors import ArgumentError, build
from . import output
from .model import MODEL, SHELL, current_folder, load, shape
from .parser import Commands, Parser

__all__ = ["add", "run"]


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "profile",
        help="say where a model's time goes, layer by layer",
        description="Times a model's layers inside training steps on random numbers: by which\n"
        "method each is computed, how near that is to what the machine can do, and what\n"
        "the next best method of each convolution would cost.",
        epilog="example:\n  striate profile resnet18 --input 16x3x112x112 --top 10 --html resnet18.html",
    )
    option = parser.add_argument
    option("model", metavar="MODEL", help=MODEL).complete = SHELL  # type: ignore[attr-defined]
    option("--input", required=True, metavar="NxCxHxW", help="shape of x, as 16x3x112x112")
    option("--forward-only", action="store_true", help="inference: evaluation mode, no backward")
    order = parser.add_mutually_exclusive_group()
    channels_last = "x and the weights are in channels_last memory format"
    order.add_argument("--channels-last", action="store_true", help=channels_last)
    order.add_argument("--planes", action="store_true", help="x and the weights are contiguous, NCHW (default)")
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--accelerate", action="store_true", help="striate's layers in place of torch's")
    classes.add_argument("--plain", action="store_true", help="torch's layers in place of striate's")
    option("--rounds", type=int, default=7, metavar="N", help="timed rounds, whose medians are reported (default 7)")
    option("--threads", type=int, metavar="N", help="threads for torch (default: its own choice)")
    option("--top", type=int, metavar="N", help="the N slowest layers only, in the text")
    json, page = "where to write the whole report as JSON", "where to write the report as an HTML page"
    option("--json", metavar="FILE", help=json).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--html", metavar="FILE", help=page).complete = shtab.FILE  # type: ignore[attr-defined]
    parser.set_defaults(command=run)
    return {"profile": parser}


def run(options: argparse.Namespace) -> int:
    import torch

    from ..diagnostics.profile import profile
    from ..nn.swap import accelerate, restore

    sizes = _checked(options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        with current_folder():
            torch.manual_seed(0)
            model = load("profile", options.model).train(not options.forward_only)
            with warnings.catch_warnings(record=True) as caught:
                model = accelerate(model) if options.accelerate else restore(model) if options.plain else model
            for one in caught:
                print(f"striate: {one.message}", file=sys.stderr)
            x = torch.randn(sizes)
            if options.planes:
                model = model.to(memory_format=torch.contiguous_format)
            if options.channels_last:
                model = model.to(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)
                x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            with output.progress_bar() as progress:
                found = profile(model, x, backward=not options.forward_only, rounds=options.rounds, progress=progress)
    finally:
        torch.set_num_threads(threads)
    found = replace(found, model=options.model)
    print(found.table(output.width(80), options.top))
    output.write(options.json, lambda: output.json_text(found.to_dict()) + "\n")
    output.write(options.html, found.html)
    return 0


def _checked(options: argparse.Namespace) -> tuple[int, ...]:
    """Checks the options, and returns the shape of the input."""
    sizes = shape("profile", options.input)
    if len(sizes) < 2:
        expects = "--input of a batch and at least one axis more"
        raise ArgumentError(build("profile", expects, repr(options.input), hint="Write as 16x3x112x112."))
    for option in ("top", "threads"):
        value = getattr(options, option)
        if value is not None and not 1 <= value <= 1024:
            hint = f"Leave --{option} out."
            raise ArgumentError(build("profile", f"--{option} from 1 to 1024", value, hint=hint))
    output.check_files("profile", options.json, options.html)
    return sizes
