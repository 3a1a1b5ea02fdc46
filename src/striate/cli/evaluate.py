"""``striate evaluate``: says how well a trained model does on labelled images."""

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
from .model import current_folder
from .parser import Commands, Help, Parser

if TYPE_CHECKING:
    from ..training import DataSet, Evaluation, Run

__all__ = ["RUN", "add", "run"]

RUN = "the folder of a run of striate train, or its model.safetensors"
MOST_CLASSES = 40  # in the table; the JSON has all
MOST_MISTAKES = 10
MODE = "evaluation mode: batch norms use their running statistics, dropout is off"


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "evaluate",
        help="say how well a trained model does on labelled images",
        description="Runs a trained model, in evaluation mode, on one part of a data set: accuracy,\n"
        "top-5, precision, recall and F1 of each class, calibration, and which classes\n"
        "are mistaken for which. Classes are matched by name.",
        epilog="examples:\n"
        "  striate evaluate runs/lenet5-digits\n"
        "  striate evaluate runs/mine --data folder:photos --json",
        formatter_class=Help,
    )
    option = parser.add_argument
    option("run", metavar="RUN", help=RUN).complete = shtab.FILE  # type: ignore[attr-defined]
    spec = f"the data set: {SPEC} (default: the run's own)"
    option("--data", metavar="SPEC", help=spec).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--part", metavar="NAME", help="train, val or test (default: test, or val where there is no test part)")
    option("--json", action="store_true", help="JSON in place of the tables")
    picture = "where to draw the confusion matrix, as a PNG"
    option("--picture", metavar="FILE", help=picture).complete = shtab.FILE  # type: ignore[attr-defined]
    seed = "decides the split where the data have none (default: the run's own, so that no training image is tested)"
    option("--seed", type=int, metavar="N", help=seed)
    option("--batch-size", type=int, default=256, metavar="N", help="images at once (default: 256)")
    option("--workers", type=int, default=1, metavar="N", help="threads that prepare images ahead (default: 1)")
    option("--skip-broken", action="store_true", help="leave out and count images that are broken")
    parser.set_defaults(command=run)
    return {"evaluate": parser}


def run(options: argparse.Namespace) -> int:
    from ..training import evaluate, figures, open_run
    from ..training.evaluation import with_classes

    output.check_files("evaluate", options.picture)
    if options.picture is not None and Path(options.picture).suffix.lower() != ".png":
        expects = "--picture with a file that ends in .png"
        raise ArgumentError(build("evaluate", expects, repr(options.picture), hint="Name another."))
    # output of the model's and the data set's own code is not part of the report
    with current_folder(), output.progress_bar() as show, redirect_stdout(sys.stderr):
        opened = open_run(options.run)
        model = opened.model()
        data = _data(opened, options)
        name = options.part or ("test" if "test" in data.parts else "val" if "val" in data.parts else "train")
        found = evaluate(
            model,
            with_classes(data, name, opened.classes),
            opened.preprocessing,
            classes=opened.classes,
            batch_size=options.batch_size,
            workers=options.workers,
            on_images=(lambda done, of: show(done, of, "images")) if show else lambda done, of: None,
        )
        if options.picture is not None:
            figures.confusion(found.predictions, found.labels, options.picture, found.classes)
    about = {"run": options.run, "data": _spec(opened, options), "part": name, "mode": "evaluation"}
    if options.json:
        print(output.json_text({**about, **found.to_dict(), "skipped": list(data.skipped)}))
    else:
        print(_text(about, found, data))
    if options.picture is not None:
        print(f"written to {options.picture}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _spec(opened: Run, options: argparse.Namespace) -> str:
    return opened.settings.data if options.data is None else options.data


def _data(opened: Run, options: argparse.Namespace) -> DataSet:
    """The data set, split as the run split it."""
    from ..training import open_data

    spec, settings = _spec(opened, options), opened.settings
    seed = settings.seed if options.seed is None else options.seed
    data = open_data(spec, seed, options.skip_broken or (options.data is None and settings.skip_broken))
    if spec == settings.data and settings.val_fraction is not None:
        data = data.with_validation(settings.val_fraction, seed)
    return data


def _text(about: dict[str, Any], found: Evaluation, data: DataSet) -> str:
    from ..render.text import columns, labelled

    wide, count = output.width(60), len(found)
    styles: dict[int, str] | None = {} if sys.stdout.isatty() else None
    right = int((found.predictions == found.labels).sum())
    facts = [
        ("model", f"{about['run']}, in {MODE}"),
        ("data", f"{about['data']}, part {about['part']}: {count:,} images in {len(found.classes)} classes"),
    ]
    if data.skipped:
        names = ", ".join(data.skipped[:5]) + (" …" if len(data.skipped) > 5 else "")
        facts.append(("left out as broken", f"{len(data.skipped):,}: {names}"))
    results = [("accuracy", f"{100 * found.accuracy:.2f} % ({right:,} of {count:,} images)")]
    if len(found.classes) > 5:
        results.append(("top-5 accuracy", f"{100 * found.top5:.2f} %"))
    results += [
        ("balanced accuracy", f"{100 * found.balanced_accuracy:.2f} % (mean recall of the classes)"),
        ("macro F1", f"{found.macro_f1:.4f}"),
        ("loss", f"{found.loss:.4f} nats (mean cross entropy)"),
        ("calibration error", f"{found.ece:.4f} (ECE: mean confidence is {100 * found.confidence.mean():.2f} %)"),
    ]
    labels = [label for label, _ in (*facts, *results)]
    lines = [*labelled(facts, wide, labels=labels), "", *labelled(results, wide, labels=labels), ""]
    rows = [["class", "images", "precision", "recall", "F1"]]
    for row in found.to_dict()["per_class"][:MOST_CLASSES]:
        shares = ("–" if row[key] is None else f"{row[key]:.4f}" for key in ("precision", "recall", "f1"))
        rows.append([row["class"], f"{row['support']:,}", *shares])
    lines += columns(rows, "<>>>>", wide, {0: 12}, styles=styles)
    if len(found.classes) > MOST_CLASSES:
        lines.append(f"and {len(found.classes) - MOST_CLASSES} classes more, which --json lists")
    return "\n".join([*lines, "", *_confusion(found, wide, styles)])


def _confusion(found: Evaluation, wide: int, styles: dict[int, str] | None) -> list[str]:
    """The confusion matrix where it fits, else the most frequent mistakes."""
    from ..render.text import columns

    rows = [["true \\ taken for", *found.classes]]
    for name, row in zip(found.classes, found.confusion.tolist(), strict=True):
        rows.append([name, *(f"{count:,}" if count else "·" for count in row)])
    needed = sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0])))
    if needed <= wide + 2:
        return columns(rows, "<" + ">" * len(found.classes), wide, {0: 12}, styles=styles)
    mistakes = found.confusion.clone().fill_diagonal_(0)
    if not mistakes.any():
        return ["no mistakes"]
    order = mistakes.flatten().argsort(stable=True, descending=True)[:MOST_MISTAKES].tolist()
    rows = [["true", "taken for", "images", "of"]]
    for place in order:
        true, taken = divmod(place, len(found.classes))
        if mistakes[true, taken]:
            count = f"{int(mistakes[true, taken]):,}"
            rows.append([found.classes[true], found.classes[taken], count, f"{int(found.support[true]):,}"])
    return ["the most frequent mistakes", *columns(rows, "<<>>", wide, {0: 12, 1: 12}, styles=styles)]
