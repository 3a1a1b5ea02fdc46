"""Decides which findings are ignored, by comments in the model's code and by the project's pyproject.toml."""

from __future__ import annotations

import ast
import linecache
import re
import textwrap
from collections.abc import Iterator, Sequence
from inspect import getsourcelines
from pathlib import Path
from typing import Any

from ...errors import ArgumentError, build
from ..inspect.rows import Layer
from .context import Context

__all__ = ["configured", "is_ignored"]

IGNORED = re.compile(r"#\s*striate:\s*ignore\[([\w\-, ]+)\]")


def is_ignored(context: Context, layer: Layer, id: str) -> bool:
    """Whether a comment ``# striate: ignore[ID]`` stands on the line that calls the layer, or on the lines that assign
    it (``self.name = …``).
    """
    if layer.line is not None:
        file, _, number = layer.line.rpartition(":")
        if _says(id, [linecache.getline(file, int(number))]):
            return True
    if context.call(layer) is None:
        return False
    names = context.path(layer).split(".")
    for depth in range(len(names), 0, -1):
        # The owner of the layer assigns it; if that is one of torch's containers, the owner of the container does.
        owner = context.model.get_submodule(".".join(names[: depth - 1]))
        found = [lines for kind in type(owner).__mro__ for lines in _makes(kind, names[depth - 1], names[depth:])]
        if found:
            return any(_says(id, lines) for lines in found)
    return False


def _says(id: str, lines: Sequence[str]) -> bool:
    matches = (IGNORED.search(line) for line in lines)
    return any(id in re.split(r"[,\s]+", match.group(1)) for match in matches if match)


def _makes(kind: type, name: str, inside: Sequence[str]) -> Iterator[list[str]]:
    """Yields the lines of each statement of a class that sets ``self.name``. inside: the path from there to the layer;
    if ``self.name`` is a container, only the lines of that element are included.
    """
    if kind.__module__.split(".")[0] in ("torch", "striate"):
        return
    try:
        lines = textwrap.dedent("".join(getsourcelines(kind)[0])).splitlines()
        tree = ast.parse("\n".join(lines))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or the file has changed since
        return
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(
            isinstance(t, ast.Attribute) and t.attr == name and isinstance(t.value, ast.Name) and t.value.id == "self"
            for t in targets
        ):
            assert isinstance(node, (ast.Assign, ast.AnnAssign))
            kept = {node.lineno, *_lines_of(node.value, inside)}
            yield [lines[number - 1] for number in sorted(kept)]


def _lines_of(made: ast.expr | None, inside: Sequence[str]) -> Iterator[int]:
    """Yields the lines of the expression that creates a layer, and the first line of each container around it."""
    while inside and isinstance(made, ast.Call) and inside[0].isdigit():
        listed = made.args[0] if len(made.args) == 1 else None
        parts = listed.elts if isinstance(listed, (ast.List, ast.Tuple)) else made.args
        if int(inside[0]) >= len(parts) or any(isinstance(one, ast.Starred) for one in parts):
            break
        yield made.lineno
        made, inside = parts[int(inside[0])], inside[1:]
    if made is not None:
        yield from range(made.lineno, (made.end_lineno or made.lineno) + 1)


def configured(folder: str | Path) -> list[str]:
    """The ids that ``[tool.striate.lint] ignore`` lists in the nearest pyproject.toml, in the folder or above it, for
    the command line.

    Python 3.10 has no TOML parser, and ignores nothing.

    Raises ArgumentError if the file is not valid TOML, or ``ignore`` is not a list of strings.

    >>> configured("/")
    []
    """
    try:
        import tomllib
    except ImportError:
        return []
    start = Path(folder).resolve()
    file = next((at / "pyproject.toml" for at in (start, *start.parents) if (at / "pyproject.toml").is_file()), None)
    if file is None:
        return []
    try:
        table: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(build(str(file), "TOML", str(error).rstrip("."), hint="Mend the file.")) from error
    for name in ("tool", "striate", "lint"):
        table = table.get(name, {}) if isinstance(table, dict) else {}
    ignored = table.get("ignore", []) if isinstance(table, dict) else []
    if not isinstance(ignored, list) or not all(isinstance(id, str) for id in ignored):
        hint = 'Write ignore = ["bias-before-norm"].'
        raise ArgumentError(
            build(str(file), "a list of ids as ignore in [tool.striate.lint]", repr(ignored), hint=hint)
        )
    return ignored
