"""Loads the model that an argument of the command line names, and parses the shape of its input."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, build, did_you_mean
from ..models import NAMES
from ..models.custom import custom

__all__ = ["COMPLETION", "MODEL", "SHELL", "current_folder", "load", "shape"]

MODEL = (
    f"one of {', '.join(NAMES)}; package.module:callable, which returns a module; or a run of "
    "striate train"
)
SHELL = {"bash": "_striate_models", "zsh": "_striate_models", "tcsh": "f"}  # shell code that completes a model's name
COMPLETION = {
    "bash": f'_striate_models() {{\n  compgen -W "{" ".join(NAMES)}" -- "$1"\n  compgen -f -- "$1"\n}}\n',
    "zsh": f"_striate_models() {{\n  _alternative 'models:model:({' '.join(NAMES)})' 'files:file:_files'\n}}\n",
}
USUAL = ("make", "make_model", "build", "build_model", "create", "create_model", "get_model", "model", "net", "network")


def shape(where: str, text: str) -> tuple[int, ...]:
    """Parses a shape such as ``16x3x224x224``."""
    parts = text.lower().split("x")
    numbers = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(numbers) != len(parts) or 0 in numbers:
        hint = "Write as 16x3x112x112, the batch first."
        raise ArgumentError(build(where, "--input to be whole numbers from 1 on with x between", repr(text), hint=hint))
    if prod(numbers) > 2**31:
        raise ArgumentError(build(where, "--input of at most 2^31 values", repr(text), hint="Write as 16x3x112x112."))
    return numbers


def load(where: str, text: str) -> Any:
    """Loads a model by name, by calling ``package.module:callable``, or from a run of ``striate train``."""
    if text in NAMES:
        return NAMES[text]()
    from ..training.folder import holds_run

    if text.endswith(".safetensors") or holds_run(Path(text)):
        from ..training.run import open_run

        return open_run(text).model()
    if ":" not in text:
        expects = f"one of {', '.join(NAMES)}, package.module:callable, or a run of striate train"
        near = _factories_of(text) or did_you_mean(text, NAMES)
        hint = f"Choose one of these names, or a callable of your own.{near}"
        raise ArgumentError(build(where, expects, repr(text), hint=hint))
    return custom(where, text)


def _factories_of(text: str) -> str:
    """Suggests, in a sentence, what in a module may create a model, without executing the module; "" if nothing."""
    module = text.removesuffix(".py").replace("/", ".")
    path = _file_of(module)
    try:
        tree = ast.parse(path.read_bytes()) if path is not None else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and _is_factory(node)]
    usual = [name for name in USUAL if name in names]
    few = (usual[:1] or names)[:3]
    return f" Did you mean {' or '.join(f'{module}:{name}' for name in few)}?" if few else ""


def _file_of(module: str) -> Path | None:
    here = Path(*module.split(".")) if module else Path()
    for path in (here.with_name(f"{here.name}.py"), here / "__init__.py") if here.name else ():
        if path.is_file():
            return path
    try:
        found = importlib.util.find_spec(module) if module.isidentifier() else None
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found is not None and found.origin and found.has_location else None


def _is_factory(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a definition is public and has no required arguments."""
    if node.name.startswith("_"):
        return False
    if isinstance(node, ast.ClassDef):
        made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        return bool(node.bases) and all(_needed(one.args) <= 1 for one in made)
    return _needed(node.args) == 0


def _needed(arguments: ast.arguments) -> int:
    """The number of arguments without a default."""
    plain = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return plain + sum(default is None for default in arguments.kw_defaults)


@contextmanager
def current_folder() -> Iterator[None]:
    """Within this context, modules in the current folder can be imported."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
