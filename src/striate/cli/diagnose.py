"""``striate diagnose``: says why a model does not learn, by measuring it on training images."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

from ..errors import ArgumentError, build
from . import output
from .data import SPEC
from .model import MODEL, SHELL, current_folder
from .parser import Commands, Help, Parser

if TYPE_CHECKING:
    from ..training.run import Prepared

__all__ = ["add", "run"]

IMAGES = 512


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "diagnose",
        help="say why a model does not learn, by measuring it on training images",
        description="Measures a model, with its first weights or trained, on some training images:\n"
        "how the gradient flows, what units do, what batch norms' statistics change, the\n"
        "curvature of the loss. Says what is wrong, the gravest first, and what to do.\n"
        "Exit code 1: the findings include errors.",
        epilog="examples:\n"
        "  striate diagnose mymodel:make --data folder:photos\n"
        "  striate diagnose runs/mine --page why.html\n"
        "  striate diagnose lenet5 --probe gradient_flow --probe curvature",
        formatter_class=Help,
    )
    option = parser.add_argument
    option("model", metavar="MODEL|RUN", help=MODEL).complete = SHELL  # type: ignore[attr-defined]
    spec = f"the data set: {SPEC} (default: the run's own, or digits)"
    option("--data", metavar="SPEC", help=spec).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--images", type=int, default=IMAGES, metavar="N", help=f"training images, at most (default: {IMAGES})")
    batch = "images in a batch, as in training (default: the run's own, or 32)"
    option("--batch-size", type=int, metavar="N", help=batch)
    rate = "the peak of the training (default: 0.025; without it nothing is said of the steps of a run)"
    option("--learning-rate", type=float, metavar="X", help=rate)
    option("--quick", action="store_true", help="only gradients, activations and statistics of norms")
    probe = "a probe to run and show, as gradient_flow; repeatable (default: all that take the model)"
    option("--probe", action="append", metavar="NAME", help=probe)
    option("--json", action="store_true", help="JSON in place of the text")
    picture, page = "where to draw what was measured, as an SVG", "where to write all of it as an HTML page"
    option("--picture", metavar="FILE", help=picture).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--page", metavar="FILE", help=page).complete = shtab.FILE  # type: ignore[attr-defined]
    seed = "decides the first weights, the split and the images (default: the run's own, or 0)"
    option("--seed", type=int, metavar="N", help=seed)
    option("--skip-broken", action="store_true", help="leave out images that are broken")
    parser.set_defaults(command=run)
    return {"diagnose": parser}


def run(options: argparse.Namespace) -> int:
    from ..allocator import tune_allocator
    from ..diagnostics.prepared import diagnose_prepared
    from ..training.folder import holds_run

    _check(options)
    tune_allocator()
    is_run = options.model.endswith(".safetensors") or holds_run(Path(options.model))
    # output of the model's and the data set's own code is not part of the report
    with current_folder(), output.progress_bar() as show, redirect_stdout(sys.stderr):
        ready = _opened(options) if is_run else _made(options)
        found = diagnose_prepared(
            ready,
            trained=is_run,
            images=options.images,
            with_rate=not is_run or options.learning_rate is not None,
            quick=options.quick,
            probes=options.probe,
            on_probe=show or (lambda done, of, name: None),
        )
    about = {"model": options.model, "data": ready.settings.data}
    if options.json:
        print(output.json_text({**found.to_dict(), **about}))
    else:
        print(f"{options.model} on {ready.settings.data}\n")
        color = sys.stdout.isatty()
        print(found.table(output.width(60), details=options.probe is not None, color=color))
    stream = sys.stderr if options.json else sys.stdout
    output.write(options.picture, found.picture, stream)
    output.write(options.page, found.page, stream)
    return 1 if any(finding.severity == "error" for finding in found.findings) else 0


def _made(options: argparse.Namespace) -> Prepared:
    """A model with its first weights, and the data set, as a training begins with them."""
    from ..training.run import prepare
    from ..training.settings import RunSettings

    return prepare(RunSettings(model=options.model, skip_broken=options.skip_broken, **_settings(options)))


def _opened(options: argparse.Namespace) -> Prepared:
    """A trained model, and images of its classes, split as its training split them."""
    from ..training import DataSet, open_data, open_run
    from ..training.evaluation import with_classes
    from ..training.run import Prepared

    opened = open_run(options.model)
    settings = opened.settings.replace(**_settings(options))
    data = open_data(settings.data, settings.seed, options.skip_broken or settings.skip_broken)
    if settings.val_fraction is not None and options.data is None:
        data = data.with_validation(settings.val_fraction, settings.seed)
    part = with_classes(data, "train", opened.classes)
    data = DataSet(data.kind, opened.classes, {"train": part})
    return Prepared(settings, data, opened.preprocessing, opened.model())


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that options give, by name."""
    given = {name: getattr(options, name) for name in ("data", "batch_size", "learning_rate", "seed")}
    return {name: value for name, value in given.items() if value is not None}


def _check(options: argparse.Namespace) -> None:
    """Raises for options that are out of range, before any work."""
    if options.images < 1:
        hint = f"Leave --images out for {IMAGES}."
        raise ArgumentError(build("diagnose", "--images from 1 on", options.images, hint=hint))
    if options.quick and options.probe is not None:
        hint = "--quick chooses the probes itself."
        raise ArgumentError(build("diagnose", "one of --quick and --probe", "both", hint=hint))
    output.check_files("diagnose", options.picture, options.page)
    if options.picture is not None and Path(options.picture).suffix.lower() != ".svg":
        expects = "--picture with a file that ends in .svg"
        raise ArgumentError(build("diagnose", expects, repr(options.picture), hint="Name another."))
