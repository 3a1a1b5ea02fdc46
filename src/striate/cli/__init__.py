"""The command line: parses, calls, prints.

Exit codes: 0 done, 1 inspect has found what is wrong, 2 a request that cannot be carried out, 130 stopped by Ctrl-C.
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
from . import doctor, explain, inspect, profile, train
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
    except BrokenPipeError:  # who reads has read enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would report it at its end
        return 0
    except OSError as error:  # a full disk
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("striate: stopped.", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def parser() -> Parser:
    """Of all commands; each sets ``command``, the function that runs it."""
    made = Parser(
        prog="striate",
        description="Convolutional networks on PyTorch: fast, exact and visible on the CPU you have.",
        epilog="examples:\n"
        "  striate train                                a first run: LeNet-5 on handwritten digits, in a minute\n"
        "  striate inspect resnet18 --input 3x224x224   what each layer costs and sees, and likely mistakes\n"
        "  striate COMMAND --help                       what a command does, with an example",
    )
    made.add_argument("--version", action="version", version=f"striate {__version__}")
    made.add_argument(
        "--print-completion",
        action=shtab.completion_action(preamble=COMPLETION),
        choices=("bash", "zsh", "tcsh"),
        default=argparse.SUPPRESS,
        help="print what completes commands and options on Tab in that shell",
    )
    made.set_defaults(command=_print_help)
    commands = made.add_subparsers(title="commands", metavar="COMMAND")
    for one in (train, explain, inspect, profile, doctor):
        made.commands |= one.add(commands)
    return made


def _print_help(options: argparse.Namespace) -> int:
    parser().print_help()
    return 0

accept_old_names(__name__)
