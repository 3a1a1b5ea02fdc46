"""``striate doctor``: shows the environment that striate runs in."""

from __future__ import annotations

import argparse

from .parser import Commands, Parser

__all__ = ["add", "run"]


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "doctor",
        help="say what striate runs on, and which operations are native",
        description="Says which versions and instruction set striate runs on, and which operations\nare native.",
        epilog="example:\n  striate doctor",
    )
    parser.set_defaults(command=run)
    return {"doctor": parser}


def run(options: argparse.Namespace) -> int:
    from ..native import native_info
    from ..render.text import facts
    from ..tuning.select import about

    print(facts({**native_info(), "convolution_methods": about()}))
    return 0
