"""The dependency rule: each part of the package imports only from the parts before it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import structure

import striate
from striate import _torch

ROOT = Path(striate.__file__).parent
MAY_IMPORT = {
    "errors": set(),
    "_renamed": set(),
    "measure": {"errors", "files", "native"},
    "_torch": set(),
    "window": set(),
    "moments": {"errors"},
    "native": {"errors"},
    "allocator": set(),
    "files": set(),
    "extras": {"errors"},
    "tensorfile": {"errors", "files"},
    "render": {"files"},
    "source": set(),
    "random_states": set(),
    "guard": {"errors", "random_states"},
    "graph": {"errors", "_torch", "window", "source"},
    "reference": {"window", "moments", "errors"},
    "tuning": {"files", "native"},
    "ops": {"_torch", "tuning", "window", "moments", "errors", "reference", "native"},
    "nn": {"_torch", "graph", "window", "moments", "errors", "reference", "native", "ops"},
    "models": {"_torch", "errors", "source", "graph", "nn"},
    "deploy": {"_torch", "errors", "source", "graph", "nn", "ops", "native", "tensorfile"},
    "training": {
        "_torch",
        "errors",
        "random_states",
        "guard",
        "moments",
        "files",
        "extras",
        "render",
        "ops",
        "nn",
        "models",
        "tensorfile",
    },
    "analysis": {"_torch", "errors", "source", "window", "graph", "render", "reference", "ops", "nn", "training"},
    "diagnostics": {
        "_torch",
        "errors",
        "guard",
        "random_states",
        "extras",
        "measure",
        "moments",
        "window",
        "graph",
        "ops",
        "nn",
        "native",
        "render",
        "training",
        "analysis",
    },
    "lab": {
        "errors",
        "files",
        "extras",
        "measure",
        "native",
        "tuning",
        "random_states",
        "render",
        "reference",
        "window",
        "graph",
        "nn",
        "models",
        "training",
        "diagnostics",
    },
    "cli": {
        "_torch",
        "errors",
        "tuning",
        "files",
        "source",
        "render",
        "ops",
        "nn",
        "models",
        "training",
        "diagnostics",
        "lab",
        "analysis",
        "native",
        "allocator",
        "deploy",
    },
    "__main__": {"cli"},
}


def imported(path: Path) -> set[str]:
    """The parts of striate that a file imports."""
    parts: set[str] = set()
    package = ["striate", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*module, a.name] for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
        else:
            continue
        parts |= {n[1] for n in names if n[0] == "striate" and len(n) > 1}
    return {p for p in parts if p in MAY_IMPORT}


@pytest.mark.parametrize(
    "path", [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_imports_only_from_parts_before_its_own(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert part in MAY_IMPORT, (
        f"{part} has no place in the dependency rule yet: give it one in this test and in ARCHITECTURE.md"
    )
    assert imported(path) <= MAY_IMPORT[part] | {part, "_renamed"}


# The import circles that remain, and the files over 600 lines that are one thing. These lists only shrink: what is
# resolved must be removed here, and nothing is added without a decision record that says why.
CIRCLES: list[frozenset[str]] = []
LONG_FILES: dict[str, str] = {}


def test_no_modules_import_each_other() -> None:
    assert structure.circles(ROOT) == CIRCLES


def test_a_circle_is_seen_wherever_the_imports_stand(tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    for name, text in {
        "__init__": "from .a import A",
        "a": "def f():\n    from .b import B",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import c",
        "c": "from .a import A",
        "d": "from . import c, __version__",
    }.items():
        (package / f"{name}.py").write_text(text)
    assert structure.circles(package) == [frozenset({"made.a", "made.b", "made.c"})]


def sources() -> Path:
    """The checkout."""
    root = ROOT.parent.parent
    if not (root / "csrc").is_dir():
        pytest.skip("the C++ sources and documents are not installed, only the checkout has them")
    return root


def test_files_have_at_most_600_lines() -> None:
    root = sources()
    code = [*(root / "src").rglob("*.py"), *(root / "csrc").rglob("*.h"), *(root / "csrc").rglob("*.cpp")]
    long = {str(path.relative_to(root)) for path in code if len(path.read_text().splitlines()) > structure.LENGTH}
    assert long == set(LONG_FILES)


def test_lines_have_at_most_120_columns() -> None:
    root = sources()
    long = {
        str(path.relative_to(root)): structure.long_lines(path)
        for path in structure.texts(root, ".py", ".h", ".cpp", ".def", ".md")
    }
    assert {path: lines for path, lines in long.items() if lines} == {}


def private_names(path: Path, own_names: set[str]) -> set[str]:
    """The private names of other libraries that a file uses: attributes that striate does not define, and private
    modules and imports.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(a.name for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for a in node.names for part in a.name.split(".")]
        else:
            continue
        found |= {name for name in names if name.startswith("_") and not name.startswith("__")}
    return found - own_names


def defined(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def test_private_names_of_torchs_are_in_one_place() -> None:
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "_torch.py"]
    own_names = set().union(*map(defined, files)) | {"_striate_statistics", "_core"}
    known = {name for names in _torch.ATTRIBUTES.values() for name in names} | set(_torch.OPERATORS)
    pythons = {"_getframe", "_asdict"}  # sys and named tuples
    used = {path.relative_to(ROOT): private_names(path, own_names) - pythons for path in files}
    assert {path: names - known for path, names in used.items() if names - known} == {}
    # names read by getattr, or from an object's dictionary
    quoted = {name for path in files for name in re.findall(r'"(_[a-z_]+)"', path.read_text())}
    assert known - own_names - quoted <= set().union(*used.values())


def test_window_needs_no_torch() -> None:
    assert not re.search(r"^\s*(import|from) torch", (ROOT / "window.py").read_text(), re.M)


def test_only_the_bindings_include_torch() -> None:
    sources = ROOT.parent.parent / "csrc"
    if not sources.is_dir():
        pytest.skip("the C++ sources are not installed, only the checkout has them")
    files = [p for p in sources.rglob("*") if p.suffix in (".h", ".cpp")]
    assert len(files) >= 7
    includers = {p.relative_to(sources).parts[0] for p in files if re.search(r"#include <torch/", p.read_text())}
    assert includers == {"bindings"}


def test_kernels_use_no_standard_templates() -> None:
    sources = ROOT.parent.parent / "csrc"
    if not sources.is_dir():
        pytest.skip("the C++ sources are not installed, only the checkout has them")
    allowed = {"std::align_val_t"}
    # not once for each instruction set
    compiled_once = {sources / "core" / "dispatch.cpp", sources / "core" / "machine.cpp"}
    files = [p for part in ("core", "gemm", "kernels") for p in (sources / part).rglob("*") if p.is_file()]
    assert len(files) >= 20
    for path in files:
        if path not in compiled_once:
            assert set(re.findall(r"std::\w+", path.read_text())) <= allowed, path.name
