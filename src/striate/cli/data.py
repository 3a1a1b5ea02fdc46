"""``striate data``: says what is in a data set."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import shtab

from ..errors import ArgumentError, build
from ..files import write_atomically
from . import output
from .model import current_folder
from .parser import Commands, DefaultsHelp, Parser
from .train import setting_options, settings_in

if TYPE_CHECKING:
    from ..training.data import Augmentation
    from ..training.data.summary import Summary

__all__ = ["add", "run"]

SPEC = (
    "digits, mnist:DIR, cifar10:DIR, cifar100:DIR, folder:DIR (a subfolder a class), csv:FILE (path,label), npz:FILE, "
    "shapes, or python:package.module:callable"
)
MOST_CLASSES = 40  # in the table; the JSON has all
MOST_SIZES = 5


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "data",
        help="say what is in a data set: classes, sizes, moments, repeated images",
        description="Says what is in a data set: images of each class and part, their sizes, mean\n"
        "and deviation by channel of the training images, images that repeat, also\n"
        "between training and testing, and what is broken.",
        epilog="examples:\n"
        "  striate data folder:photos --sheet photos.png\n"
        "  striate data shapes --sheet seen.png --crop 4 --flip --rotate 15",
        usage="striate data [SPEC] [--json] [--seed N] [--skip-broken] [--sheet FILE] [options]",
        formatter_class=DefaultsHelp,
    )
    option = parser.add_argument
    option("spec", metavar="SPEC", nargs="?", default="digits", help=SPEC).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--json", action="store_true", default=argparse.SUPPRESS, help="JSON in place of the table")
    option("--seed", type=int, default=0, metavar="N", help="decides the split where the data have none")
    skipped = "leave out and count images that are broken"
    option("--skip-broken", action="store_true", default=argparse.SUPPRESS, help=skipped)
    sheet = "where to draw some images of each class, as a PNG; with options of augmentation as training sees them"
    option("--sheet", metavar="FILE", default=argparse.SUPPRESS, help=sheet).complete = shtab.FILE  # type: ignore[attr-defined]
    from ..training.settings import RunSettings, knobs

    setting_options(parser, [name for name, knob in knobs(RunSettings).items() if knob.group != "augmentation"])
    parser.set_defaults(command=run, json=False, skip_broken=False, sheet=None)
    return {"data": parser}


def run(options: argparse.Namespace) -> int:
    from ..training.data import open_data
    from ..training.data.sheet import contact_sheet
    from ..training.data.summary import summarize

    output.check_files("data", options.sheet)
    if options.sheet is not None and Path(options.sheet).suffix.lower() != ".png":
        expects = "--sheet with a file that ends in .png"
        raise ArgumentError(build("data", expects, repr(options.sheet), hint="Name another."))
    augmentation = _augmentation(options)
    # output of the data set's own code is not part of the report
    with current_folder(), output.progress_bar() as show, redirect_stdout(sys.stderr):
        data = open_data(options.spec, options.seed, options.skip_broken)
        found = summarize(data, (lambda done, of: show(done, of, "images")) if show else lambda done, of: None)
        sheet = contact_sheet(data, augmentation=augmentation, seed=options.seed) if options.sheet is not None else None
    print(output.json_text(found.to_dict()) if options.json else _text(options.spec, found))
    if sheet is not None:
        write_atomically(options.sheet, sheet)
        print(f"written to {options.sheet}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _augmentation(options: argparse.Namespace) -> Augmentation | None:
    """What `striate train` makes of the images with these options; None if none of augmentation is among them."""
    from ..training.data import Augmentation
    from ..training.settings import FitSettings, knobs, resolved

    groups = {name: knob.group for name, knob in knobs(FitSettings).items()}
    given = {name: value for name, value in settings_in(options).items() if groups.get(name) == "augmentation"}
    if not given:
        return None
    if options.sheet is None:
        hint = "These options change what is drawn there."
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ArgumentError(build("data", "--sheet FILE", f"{flags} without it", hint=hint))
    return Augmentation.from_settings(resolved(FitSettings(**given), options.spec.partition(":")[0]))


def _text(spec: str, found: Summary) -> str:
    from ..render.text import columns, labelled

    parts = list(found.counts)
    listed = ", ".join(f"{sum(found.counts[part]):,} {part}" for part in parts)
    lines = [f"{spec}: {found.images:,} images ({listed}), {len(found.classes)} classes, {_channels(found.channels)}"]
    rows = [["class", *parts]]
    for number, name in enumerate(found.classes[:MOST_CLASSES]):
        rows.append([name, *(f"{found.counts[part][number]:,}" for part in parts)])
    lines += ["", *columns(rows, "<" + ">" * len(parts), output.width(60), {0: 12})]
    if len(found.classes) > MOST_CLASSES:
        lines.append(f"and {len(found.classes) - MOST_CLASSES} more, which --json lists")
    sizes = [f"{height}×{width}: {count:,}" for (height, width), count in found.sizes.most_common(MOST_SIZES)]
    more = len(found.sizes) - MOST_SIZES
    leaked = ", ".join(f"{count:,} images of {part}" for part, count in found.leaked.items() if count)
    facts = [
        ("sizes (height×width)", ", ".join(sizes) + (f" and {more} sizes more" if more > 0 else "")),
        ("mean of training", ", ".join(f"{value:.4f}" for value in found.mean) + " (pixels from 0 to 1)"),
        ("deviation", ", ".join(f"{value:.4f}" for value in found.std)),
        ("imbalance", f"{found.imbalance:.2f} times as many images in the largest class as in the smallest"),
        ("repeated", _repeated(found)),
        ("leakage", f"{leaked} have the pixels of a training image" if leaked else "none"),
    ]
    if found.skipped:
        names = ", ".join(found.skipped[:5]) + (" …" if len(found.skipped) > 5 else "")
        facts.append(("left out as broken", f"{len(found.skipped):,}: {names}"))
    return "\n".join([*lines, "", *labelled(facts, output.width(60))])


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _repeated(found: Summary) -> str:
    if not found.repeated:
        return "none"
    pairs = "; ".join(f"{name} as {before}" for name, before in found.pairs[:3])
    other = f", {found.contradicting:,} of them with another label" if found.contradicting else ""
    return f"{found.repeated:,} images have the pixels of one before{other}: {pairs}"
