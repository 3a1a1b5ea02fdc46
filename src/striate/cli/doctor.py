"""``striate doctor``: shows the environment that striate runs in."""

from __future__ import annotations

import argparse

from .parser import Commands, Parser

__all__ = ["add", "run"]


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "doctor",
        help="say what striate runs on, and which operations are native",
        description="Says which versions, instruction set and caches striate runs on, and which\n"
        "operations are native.",
        epilog="example:\n  striate doctor",
    )
    parser.set_defaults(command=run)
    return {"doctor": parser}


def run(options: argparse.Namespace) -> int:
    from ..native import Machine, native_info
    from ..render.numbers import byte_size
    from ..render.text import facts
    from ..tuning.select import about

    info = native_info()
    machine = info["machine"]
    if isinstance(machine, Machine):
        first, second, last = map(byte_size, (machine.first_level, machine.second_level, machine.last_level))
        lines = [
            _cores(machine.cores),
            f"{first} of first-level and {second} of second-level cache a core",
            f"{last} of last-level cache, shared by {_cores(machine.sharing)}",
        ]
        info["machine"] = lines
    print(facts({**info, "convolution_methods": about()}))
    return 0


def _cores(number: int) -> str:
    return "1 core" if number == 1 else f"{number} cores"
