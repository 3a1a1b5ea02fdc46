"""``striate inspect``: shows costs and receptive fields of a model's layers, and likely mistakes."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

from ..errors import ArgumentError, build
from . import fields, output
from .model import MODEL, SHELL, current_folder, load, shape
from .parser import Commands, Parser

if TYPE_CHECKING:
    from ..analysis.inspect.report import Report

__all__ = ["add", "run"]


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "inspect",
        help="show costs and receptive fields of a model's layers, and likely mistakes",
        description="Shapes, parameters, multiply-adds, memory and receptive fields of a model,\n"
        "layer by layer, and likely mistakes, before any of it is computed. Exit code\n"
        "1: the findings include errors, or --verify finds a wrong receptive field.",
        epilog="examples:\n"
        "  striate inspect resnet18 --input 3x224x224 --html resnet18.html\n"
        "  striate inspect mymodel:make --input 16x3x32x32 --train --fix",
    )
    option = parser.add_argument
    option("model", metavar="MODEL", help=MODEL).complete = SHELL  # type: ignore[attr-defined]
    given = "shape of x, as 3x224x224 or 16x3x224x224; repeatable"
    option("--input", required=True, action="append", metavar="CxHxW", help=given)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--eval", action="store_true", help="evaluation mode (default)")
    modes.add_argument("--train", action="store_true", help="training mode")
    option("--markdown", action="store_true", help="Markdown in place of the table")
    json = "where to write the whole report as JSON; - for standard output, in place of the table"
    option("--json", metavar="FILE", help=json).complete = shtab.FILE  # type: ignore[attr-defined]
    page = "where to write the report as an HTML page"
    option("--html", metavar="FILE", help=page).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--field", metavar="LAYER", help="also show the receptive field of a unit of that layer")
    option("--unit", metavar="Y,X", help="position of that unit, counted from 0 (default: the middle)")
    drawn = "draw the effective receptive field of a unit, as a PNG"
    option("--erf", nargs=2, metavar=("LAYER", "FILE"), help=drawn)
    compared = "compare the receptive fields with the model, by running it many times"
    option("--verify", action="store_true", help=compared)
    option("--batch-size", type=int, metavar="N", help="batch size of training, for the rules (default: the input's)")
    object_px = "size of the objects to recognise in the input, for the rules"
    option("--object", type=float, metavar="PX", help=object_px)
    option("--task", metavar="TASK", help="for the rules: classification, localisation or segmentation")
    loss = "loss of torch.nn that gets the output, for the rules, as CrossEntropyLoss"
    option("--loss", metavar="NAME", help=loss)
    ignored = "a rule to leave out, as bias-before-norm; repeatable"
    option("--ignore", action="append", default=[], metavar="ID", help=ignored)
    fixed = "show the fixes of findings that can be fixed mechanically, as a diff"
    option("--fix", action="store_true", help=fixed)
    option("--strict", action="store_true", help="exit code 1 for warnings too")
    option("--debug", action="store_true", help="show where in the code a request failed")
    parser.set_defaults(command=run)
    return {"inspect": parser}


def run(options: argparse.Namespace) -> int:
    import torch

    from ..analysis.inspect.inspection import inspect
    from ..analysis.lint.ignore import configured

    shapes = tuple(shape("inspect", text) for text in options.input)
    _check(options)
    unit, loss = fields.unit_of(options.unit), _loss(options.loss)
    to_stdout = options.json == "-"
    json_file = None if to_stdout else options.json
    output.check_files("inspect", json_file, options.html, options.erf and options.erf[1])
    if options.erf is not None and Path(options.erf[1]).suffix.lower() != ".png":
        expects = "--erf with a file that ends in .png"
        raise ArgumentError(build("inspect", expects, repr(options.erf[1]), hint="Name another."))
    with current_folder():
        torch.manual_seed(0)
        with redirect_stdout(sys.stderr):  # output of the model's own code is not part of the report
            report = inspect(
                load("inspect", options.model).train(options.train),
                shapes[0] if len(shapes) == 1 else shapes,
                batch_size=options.batch_size,
                object_px=options.object,
                loss=loss,
                task=options.task,
                ignore=[*options.ignore, *configured(os.getcwd())],
            )
        report.model = options.model
        seen = fields.seen(report, options.field, unit) if options.field is not None else []
        if options.erf is not None:
            from ..diagnostics.fields import draw

            with redirect_stdout(sys.stderr):
                draw(report, options.erf[0], options.erf[1], unit)
        _print(report, options)
        # Standard output contains nothing else if another program reads it.
        stream = sys.stderr if to_stdout or options.markdown else sys.stdout
        if options.erf is not None:
            print(f"written to {options.erf[1]}", file=stream)
        for line in seen:
            print(line, file=stream)
        if options.fix:
            print("\n" + (report.fix()[1] or "fix: nothing can be mended mechanically"), file=stream)
        holds = fields.print_verified(report, stream) if options.verify else True
    output.write(json_file, lambda: output.json_text(report.to_dict()) + "\n", stream)
    output.write(options.html, report.html, stream)
    wrong = ("error", "warning") if options.strict else ("error",)
    return 0 if holds and not any(finding.severity in wrong for finding in report.findings) else 1


def _check(options: argparse.Namespace) -> None:
    """Raises for options that contradict each other."""
    if options.unit is not None and options.field is None and options.erf is None:
        expects = "--field or --erf with --unit"
        raise ArgumentError(build("inspect", expects, "neither", hint="Name a layer with --field."))
    if options.batch_size is not None and options.batch_size < 1:
        hint = "Leave --batch-size out for the input's."
        raise ArgumentError(build("inspect", "--batch-size from 1 on", options.batch_size, hint=hint))
    if options.object is not None and not 0 < options.object < float("inf"):
        expects = "--object of more than 0 px"
        raise ArgumentError(build("inspect", expects, f"{options.object:g}", hint="Leave --object out."))


def _loss(name: str | None) -> Any:
    if name is None:
        return None
    from torch import nn

    from .._torch import LossBase

    kind: Any = getattr(nn, name, None)
    is_loss = isinstance(kind, type) and issubclass(kind, LossBase)
    if not is_loss:
        expects = "--loss to be a loss of torch.nn"
        raise ArgumentError(build("inspect", expects, repr(name), hint="Write as CrossEntropyLoss."))
    return kind()


def _print(report: Report, options: argparse.Namespace) -> None:
    if options.json == "-":
        print(output.json_text(report.to_dict()))
    elif options.markdown:
        print(report.markdown(), end="")
    else:
        print(report.table(output.width(40), color=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
