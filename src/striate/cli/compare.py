"""``striate compare``: sets training runs beside each other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import shtab

from ..errors import ArgumentError, build
from . import output
from .parser import Commands, Parser
from .runs import accuracy_of, seconds_text, value_text

if TYPE_CHECKING:
    from ..training import History
    from ..training.runs import RunRecord

__all__ = ["add", "run"]

MOST_EPOCHS = 12  # rows of the table of accuracies


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "compare",
        help="set training runs beside each other: what differs, and their curves",
        description="Shows in which settings runs differ, what each reached, and the accuracy after\n"
        "each epoch. --picture draws loss and accuracy of all of them over one another.",
        epilog="example:\n  striate compare runs/lenet5-digits runs/lenet5-digits-2 --picture compare.png",
    )
    option = parser.add_argument
    runs = option("runs", metavar="RUN", nargs="+", help="folders of striate train, two at least")
    runs.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    picture = "where to draw their curves over one another"
    option("--picture", metavar="FILE", help=picture).complete = shtab.FILE  # type: ignore[attr-defined]
    option("--json", action="store_true", help="JSON in place of the tables")
    parser.set_defaults(command=run)
    return {"compare": parser}


def run(options: argparse.Namespace) -> int:
    from ..training.figures import comparison
    from ..training.runs import curves_of, differences, read_run, short_names, summary

    _check(options)
    records = [read_run(folder) for folder in options.runs]
    names, histories = short_names([record.folder for record in records]), [curves_of(record) for record in records]
    if options.json:
        told = {"differences": differences(records), "runs": [summary(record) for record in records]}
        print(output.json_text(told))
    else:
        print("\n\n".join(_tables(names, records, histories)))
    if options.picture is not None:
        comparison(dict(zip(names, histories, strict=True)), options.picture)
        print(f"written to {options.picture}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _check(options: argparse.Namespace) -> None:
    folders = [Path(folder).resolve() for folder in options.runs]
    if len(set(folders)) < max(2, len(folders)):
        got = "one" if len(folders) == 1 else "one of them twice"
        hint = "Name two, as runs/lenet5-digits runs/lenet5-digits-2; striate runs lists them."
        raise ArgumentError(build("compare", "two runs at least, each once", got, hint=hint))
    output.check_files("compare", options.picture)
    if options.picture is not None and Path(options.picture).suffix.lower() != ".png":
        expects = "--picture with a file that ends in .png"
        raise ArgumentError(build("compare", expects, repr(options.picture), hint="Name another."))


def _tables(names: list[str], records: list[RunRecord], histories: list[History]) -> list[str]:
    from ..render.text import columns
    from ..training.runs import differences

    differing = differences(records)
    rows = [["setting", *names]]
    rows += [[name, *map(value_text, values)] for name, values in differing.items()]
    if not differing:
        rows.append(["no difference", *("" for _ in names)])
    results = [["result", *names], ["state", *(record.state for record in records)]]
    for part in ("test", "val"):
        if any(accuracy_of(record)[1] == part for record in records):
            key = f"{part}_accuracy"
            results.append([f"{part} accuracy", *(_percent(record.metrics.get(key)) for record in records)])
    results.append(["best epoch", *(str(history.best.number) if history else "" for history in histories)])
    results.append(["parameters", *(_number(record.metrics.get("parameters")) for record in records)])
    results.append(["images/s", *(_speed(history) for history in histories)])
    results.append(["training", *(seconds_text(history.seconds) if history else "" for history in histories)])
    tables = [rows, results, _epochs(names, histories)]
    shrink = dict.fromkeys(range(1, len(names) + 1), 8)
    sides = "<" + ">" * len(names)
    return ["\n".join(columns(table, sides, output.width(60), shrink)) for table in tables if len(table) > 1]


def _epochs(names: list[str], histories: list[History]) -> list[list[str]]:
    """The accuracy after some epochs at even intervals."""
    last = max(map(len, histories))
    step = -(-last // MOST_EPOCHS)
    rows = [["accuracy after epoch", *names]]
    for number in sorted({*range(step, last + 1, step), last} - {0}):
        rows.append([str(number), *(_accuracy(history, number) for history in histories)])
    return rows


def _accuracy(history: History, number: int) -> str:
    if number > len(history):
        return ""
    epoch = history[number - 1]
    return _percent(epoch.train_accuracy if epoch.accuracy is None else epoch.accuracy)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _speed(history: History) -> str:
    return f"{sum(epoch.images_per_second for epoch in history) / len(history):,.0f}" if history else ""
