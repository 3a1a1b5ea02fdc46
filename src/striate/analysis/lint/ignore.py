"""Which findings are not told: what the model's code says in comments, and the project's file."""

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
    """Whether the code says so: ``# striate: ignore[ID]`` where the layer is called, or where its owner makes it
    (``self.name = …``).
    """
    if layer.line is not None:
        file, _, number = layer.line.rpartition(":")
        if _says(id, [linecache.getline(file, int(number))]):
            return True
    if context.call(layer) is None:
        return False
    names = context.path(layer).split(".")
    for depth in range(len(names), 0, -1):  # the layer's owner; where that is one of torch's containers, who made that
        owner = context.model.get_submodule(".".join(names[: depth - 1]))
        found = [lines for kind in type(owner).__mro__ for lines in _makes(kind, names[depth - 1], names[depth:])]
        if found:
            return any(_says(id, lines) for lines in found)
    return False


def _says(id: str, lines: Sequence[str]) -> bool:
    told = (IGNORED.search(line) for line in lines)
    return any(id in re.split(r"[,\s]+", one.group(1)) for one in told if one)


def _makes(kind: type, name: str, inside: Sequence[str]) -> Iterator[list[str]]:
    """The lines of a class that set ``self.name``; of a container's one argument's. inside: the names from there on to
    the layer.
    """
    if kind.__module__.split(".")[0] in ("torch", "striate"):
        return
    try:
        lines = textwrap.dedent("".join(getsourcelines(kind)[0])).splitlines()
        tree = ast.parse("\n".join(lines))
    except (OSError, TypeError, SyntaxError):  # typed into a prompt; or no longer what it was
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
    """Of a layer; of a container's calls only those of what is asked, and their first lines."""
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
    """The ids that ``[tool.striate.lint] ignore`` names in the first pyproject.toml of a folder and those above it, for
    the command line.

    Python 3.10 cannot read such a file: nothing is ignored then.

    Raises ArgumentError for a file that is no TOML, or where that is not a list of texts.

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
        told: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(build(str(file), "TOML", str(error).rstrip("."), hint="Mend the file.")) from error
    for name in ("tool", "striate", "lint"):
        told = told.get(name, {}) if isinstance(told, dict) else {}
    ignored = told.get("ignore", []) if isinstance(told, dict) else []
    if not isinstance(ignored, list) or not all(isinstance(id, str) for id in ignored):
        hint = 'Write ignore = ["bias-before-norm"].'
        raise ArgumentError(
            build(str(file), "a list of ids as ignore in [tool.striate.lint]", repr(ignored), hint=hint)
        )
    return ignored
