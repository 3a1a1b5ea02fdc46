"""``striate predict``: says what a trained model takes images for."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import shtab

from . import output
from .evaluate import RUN
from .model import current_folder
from .parser import Commands, Help, Parser

if TYPE_CHECKING:
    from ..training.predict import Prediction

__all__ = ["add", "run"]

SHOWN = 3  # most probable classes in the table


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "predict",
        help="say what a trained model takes images for",
        description="Predicts the class of each image, with probabilities, by a trained model in\n"
        "evaluation mode. A folder stands for all files in it and in its folders.",
        epilog="examples:\n"
        "  striate predict runs/mine cat.jpg more-photos\n"
        "  striate predict runs/mine photos --csv > classes.csv",
        formatter_class=Help,
    )
    option = parser.add_argument
    option("run", metavar="RUN", help=RUN).complete = shtab.FILE  # type: ignore[attr-defined]
    named = "an image (PNG, JPEG, WebP, BMP), or a folder"
    option("files", metavar="FILE", nargs="+", help=named).complete = shtab.FILE  # type: ignore[attr-defined]
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="a JSON list of file, class, and probabilities by class")
    forms.add_argument("--csv", action="store_true", help="a table of file, class, and the probability of each class")
    option("--batch-size", type=int, default=64, metavar="N", help="images at once (default: 64)")
    option("--skip-broken", action="store_true", help="leave out images that are broken, and name them")
    parser.set_defaults(command=run)
    return {"predict": parser}


def run(options: argparse.Namespace) -> int:
    from ..training import open_run
    from ..training.predict import find_images, predict

    # output of the model's own code is not part of the result
    with current_folder(), output.progress_bar() as show, redirect_stdout(sys.stderr):
        opened = open_run(options.run)
        files = find_images(options.files)
        found, skipped = predict(
            opened.model(),
            files,
            opened.preprocessing,
            classes=opened.classes,
            batch_size=options.batch_size,
            skip_broken=options.skip_broken,
            on_images=(lambda done, of: show(done, of, "images")) if show else lambda done, of: None,
        )
    if options.json:
        print(json.dumps([one.to_dict() for one in found], indent=1))
    elif options.csv:
        print(_csv(found, opened.classes), end="")
    else:
        print(_text(found))
    for name in skipped:
        print(f"left out as broken: {name}", file=sys.stderr)
    return 0


def _csv(found: list[Prediction], classes: tuple[str, ...]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "class", *(f"p({name})" for name in classes)])
    for one in found:
        writer.writerow([one.file, one.name, *(f"{chance:.9g}" for chance in one.probabilities.tolist())])
    return table.getvalue()


def _text(found: list[Prediction]) -> str:
    from ..render.text import columns

    rows = [["file", "class", "probability", "next"]]
    for one in found:
        first, *others = [(one.classes[k], f"{100 * one.probabilities[k]:.1f} %") for k in one.order[:SHOWN]]
        rows.append([one.file, *first, ", ".join(f"{name} {chance}" for name, chance in others)])
    styles: dict[int, str] | None = {3: "soft"} if sys.stdout.isatty() else None
    width = output.width(60) if sys.stdout.isatty() else None  # no name is cut for another program
    return "\n".join(columns(rows, "<<><", width, {0: 20, 3: 4}, styles=styles))
