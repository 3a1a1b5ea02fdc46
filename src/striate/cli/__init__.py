"""The command line: parses arguments, calls a command, and prints its result.

Exit codes: 0 success, 1 inspect found mistakes, overfit did not learn or a trial of lab raised an error, 2 the request
failed, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import shtab

from .. import __version__
from .._renamed import accept_old_names
from ..errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError, DependencyError, ShapeError
from . import (
    compare,
    data,
    diagnose,
    doctor,
    evaluate,
    explain,
    find_lr,
    inspect,
    lab,
    overfit,
    predict,
    profile,
    runs,
    train,
)
from .model import COMPLETION
from .parser import Parser

__all__ = ["main", "parser"]

REFUSALS = (ArgumentError, ArgumentTypeError, CheckpointError, DataError, DependencyError, ShapeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, ``sys.argv[1:]`` if None, and returns its exit code.

    >>> main(["--version"])
    striate 0.1.0
    0
    """
    options = argparse.Namespace()
    try:
        parser().parse_args(argv, options)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except REFUSALS as error:
        if getattr(options, "debug", False):
            traceback.print_exc()
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has closed the pipe, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports an error at exit
        return 0
    except OSError as error:  # such as a full disk
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"striate: {str(stopped) or 'stopped.'}", file=sys.stderr)
        return 128 + getattr(stopped, "signum", 2)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def parser() -> Parser:
    """The parser of all commands; each sets ``command``, the function that runs it."""
    made = Parser(
        prog="striate",
        description="Convolutional networks on PyTorch: fast, exact and visible on the CPU you have.",
        epilog="examples:\n"
        "  striate train                                a first run: LeNet-5 on handwritten digits, in a minute\n"
        "  striate inspect resnet18 --input 3x224x224   cost and receptive field of each layer, likely mistakes\n"
        "  striate COMMAND --help                       what a command does, with an example",
    )
    made.add_argument("--version", action="version", version=f"striate {__version__}")
    made.add_argument(
        "--print-completion",
        action=shtab.completion_action(preamble=COMPLETION),
        choices=("bash", "zsh", "tcsh"),
        default=argparse.SUPPRESS,
        help="print a script for that shell that completes commands and options on Tab",
    )
    made.set_defaults(command=_print_help)
    commands = made.add_subparsers(title="commands", metavar="COMMAND")
    own = (
        *(train, evaluate, predict, runs, compare, find_lr, overfit, diagnose, data, explain, inspect, profile),
        *(lab, doctor),
    )
    for one in own:
        made.commands |= one.add(commands)
    return made


def _print_help(options: argparse.Namespace) -> int:
    parser().print_help()
    return 0

accept_old_names(__name__)
