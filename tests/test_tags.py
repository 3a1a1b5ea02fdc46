"""striate.ops.tags lists every side channel between calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import striate
from striate.ops.tags import TAGS

ROOT = Path(striate.__file__).parent
NAMES = {tag.name for tag in TAGS}
# Attributes of other objects that layers and operations set, and that pass nothing to later calls: of objects under
# construction, and a module's class.
ORDINARY = {
    *("__class__", "__annotations__", "__doc__", "__name__", "__qualname__"),
    *("activation", "negative_slope", "frozen"),  # a layer's arguments, during construction
    *("_as_torch", "measuring"),  # of a class that is made; of a session of whole_batch_statistics, by itself
}


def parsed(*parts: str) -> Iterator[tuple[Path, ast.Module]]:
    for part in parts:
        for path in sorted((ROOT / part).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def constants(tree: ast.Module) -> dict[str, str]:
    """The module's string constants, by name."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def set_on_others(tree: ast.Module) -> set[str]:
    """The attributes that a file sets on anything but self and the ctx of its own autograd functions."""
    names = constants(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "ctx")):
                found.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Attribute) and node.value.attr == "__dict__":
                key = node.slice
                found.add(key.value if isinstance(key, ast.Constant) else names[ast.unparse(key)])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            key = node.args[1]
            if isinstance(key, ast.Constant):
                found.add(key.value)
    return found


def test_what_operations_and_layers_set_on_others_is_listed() -> None:
    found = {path: set_on_others(tree) for path, tree in parsed("ops", "nn")}
    assert {str(path): names - NAMES - ORDINARY for path, names in found.items() if names - NAMES - ORDINARY} == {}
    assert set().union(*found.values()) >= ORDINARY  # none is left over


def test_what_a_context_or_a_thread_holds_is_listed() -> None:
    kinds = {"ContextVar": set(), "local": set()}
    for path, tree in parsed("."):
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            bases = node.bases if isinstance(node, ast.ClassDef) else [called] if called is not None else []
            for base in bases:
                name = ast.unparse(base)
                if name.split(".")[-1] == "ContextVar" or name in ("threading.local", "_thread._local"):
                    kinds[name.split(".")[-1].lstrip("_")].add(str(path.with_suffix("")))
    assert kinds["ContextVar"] == {tag.writer for tag in TAGS if tag.name == "ContextVar"}
    assert kinds["local"] == {tag.writer for tag in TAGS if tag.on == "thread"}


def test_writers_and_readers_are_files_that_say_the_name() -> None:
    for tag in TAGS:
        for place in (tag.writer, tag.reader):
            assert tag.name in (ROOT / f"{place}.py").read_text(), (tag.name, place)


def test_no_name_is_made_up_beside_the_list() -> None:
    """Names by which striate marks foreign objects begin with _striate_."""
    marks = {
        name
        for _, tree in parsed(".")
        for node in ast.walk(tree)
        for name in (
            [node.attr] if isinstance(node, ast.Attribute) else [node.value] if isinstance(node, ast.Constant) else []
        )
        if isinstance(name, str) and name.startswith("_striate_") and name.isidentifier()
    }
    # of the classes that accelerate makes of containers: torch's class; a function of the shell's
    assert marks - NAMES == {"_striate_torch_class", "_striate_models"}
