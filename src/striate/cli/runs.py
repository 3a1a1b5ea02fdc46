"""``striate runs``: lists the runs in a folder with their settings and results."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import shtab

from . import output
from .parser import Commands, Parser

if TYPE_CHECKING:
    from ..training.runs import RunRecord

__all__ = ["add", "run", "seconds_text", "value_text"]

ORDERS = ("name", "accuracy", "time")


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "runs",
        help="list training runs with their settings and results",
        description="Lists the runs of striate train in a folder and its subfolders: how far each\n"
        "is, its accuracy on the test images (else on those of validation, marked val),\n"
        "how long it took, and its settings that are others than by default.",
        epilog="examples:\n  striate runs\n  striate runs experiments --sort accuracy",
    )
    option = parser.add_argument
    folder = option("folder", metavar="FOLDER", nargs="?", default="runs", help="where the runs are (default: runs)")
    folder.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    order = f"one of {', '.join(ORDERS)}, the highest accuracy or shortest time first (default: name)"
    option("--sort", choices=ORDERS, default="name", metavar="BY", help=order)
    option("--json", action="store_true", help="JSON in place of the table")
    parser.set_defaults(command=run)
    return {"runs": parser}


def run(options: argparse.Namespace) -> int:
    from ..training.runs import find_runs

    found = find_runs(options.folder)
    if options.sort == "accuracy":
        found.sort(key=lambda record: -(accuracy_of(record)[0] or -1.0))
    elif options.sort == "time":
        found.sort(key=lambda record: record.metrics.get("seconds") or float("inf"))
    if options.json:
        print(output.json_text({"runs": [record.to_dict() for record in found]}))
    elif found:
        print(_table(found))
    else:
        print(f"{options.folder}: no runs; striate train makes one")
    return 0


def _table(found: list[RunRecord]) -> str:
    from ..render.text import columns
    from ..training.runs import own_settings

    rows = [["run", "model", "data", "seed", "state", "epochs", "accuracy", "time", "settings"]]
    for record in found:
        settings = record.settings
        if settings is None:
            rows.append([str(record.folder), "", "", "", record.state, "", "", "", record.damage])
            continue
        accuracy, part = accuracy_of(record)
        percent = "" if accuracy is None else f"{100 * accuracy:.2f} %{'' if part == 'test' else f' {part}'}"
        own = " ".join(f"{name}={value_text(value)}" for name, value in own_settings(settings).items())
        seconds = record.metrics.get("seconds")
        rows.append([
            str(record.folder), settings.model, settings.data, str(settings.seed), record.state,
            str(settings.epochs), percent, "" if seconds is None else seconds_text(seconds), record.damage or own,
        ])  # fmt: skip
    return "\n".join(columns(rows, "<<<><>>><", output.width(80), {0: 14, 1: 8, 2: 10, 8: 8}))


def accuracy_of(record: RunRecord) -> tuple[float | None, str]:
    """The accuracy of a run, and of which part it is."""
    for part in ("test", "val"):
        accuracy = record.metrics.get(f"{part}_accuracy")
        if accuracy is not None:
            return accuracy, part
    return None, ""


def seconds_text(seconds: float) -> str:
    """A duration in its two largest units.

    >>> seconds_text(12.34), seconds_text(83), seconds_text(7260)
    ('12.3 s', '1 min 23 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def value_text(value: Any) -> str:
    """The value of a setting in a word; none where it has none."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
