"""Parses command lines. A mistake is reported in one line, with the nearest valid word."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rich_argparse import ArgumentDefaultsRichHelpFormatter, RawDescriptionRichHelpFormatter

from ..errors import did_you_mean

__all__ = ["Commands", "DefaultsHelp", "Help", "Parser"]

Commands = Any  # the type that add_subparsers returns, for which argparse has no public name


class Help(RawDescriptionRichHelpFormatter):
    """Formats help with colours only on a terminal, and prints texts verbatim."""

    group_name_formatter = str
    help_markup = text_markup = usage_markup = False


class DefaultsHelp(ArgumentDefaultsRichHelpFormatter, Help):
    """Formats help in the same way, with the default of each option after its help."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage before it.

    commands: the parsers of its commands.
    """

    def __init__(self, **rest: Any) -> None:
        super().__init__(**{"formatter_class": Help, **rest})
        self.commands: dict[str, Parser] = {}
        self.given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}.{self._nearest(self.given)} See {self.prog} --help.\n")

    def _nearest(self, given: Sequence[str]) -> str:
        """Suggests what the first unknown command or option was probably meant to be; "" if nothing is near."""
        known = self
        for word in given:
            if known.commands and not word.startswith("-"):
                if word not in known.commands:
                    return did_you_mean(word, known.commands)
                known = known.commands[word]
        usage, known.usage = known.usage, None  # which names the most used options only
        options = set(re.findall(r"--[a-z][a-z-]*", known.format_usage()))
        known.usage = usage
        for word in given:
            name = word.split("=")[0]
            if name == "--":
                break
            if name.startswith("--") and not any(option.startswith(name) for option in options):
                near = did_you_mean(name[2:], sorted(option[2:] for option in options))
                return near.replace(" mean ", " mean --").replace(" or ", " or --")
        return ""
