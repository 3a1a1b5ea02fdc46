"""The dependency rule: each part of the package imports only from those before it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import striate

ROOT = Path(striate.__file__).parent
MAY_IMPORT = {
    "errors": set(),
    "_torch": set(),
    "window": set(),
    "moments": {"errors"},
    "native": {"errors"},
    "allocator": set(),
    "tensorfile": {"errors"},
    "text": set(),
    "sheet": set(),
    "reference": {"window", "moments", "errors"},
    "ops": {"_torch", "window", "moments", "errors", "reference", "native"},
    "nn": {"_torch", "window", "moments", "errors", "reference", "native", "ops"},
    "models": {"errors", "nn"},
    "deploy": {"_torch", "errors", "nn", "ops", "native", "tensorfile"},
    "training": {"errors", "nn", "models", "tensorfile"},
    "analysis": {"_torch", "errors", "window", "text", "sheet", "reference", "ops", "nn", "training"},
    "diagnostics": {"_torch", "errors", "ops", "nn", "native", "text", "sheet", "analysis"},
    "cli": {"errors", "ops", "nn", "models", "training", "diagnostics", "analysis", "native", "allocator", "deploy"},
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


@pytest.mark.parametrize("path", [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_parts_before_its_own(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert part in MAY_IMPORT, f"{part} has no place in the dependency rule yet: give it one in this test and in ARCHITECTURE.md"
    assert imported(path) <= MAY_IMPORT[part] | {part}


def test_window_needs_no_torch() -> None:
    assert not re.search(r"^\s*(import|from) torch", (ROOT / "window.py").read_text(), re.M)


def test_only_the_bindings_include_torch() -> None:
    sources = ROOT.parent.parent / "csrc"
    if not sources.is_dir():
        pytest.skip("the C++ sources are not installed, only the checkout has them")
    files = [p for p in sources.rglob("*") if p.suffix in (".h", ".cpp")]
    assert len(files) >= 7
    assert [p.name for p in files if re.search(r"#include <torch/", p.read_text())] == ["bindings.cpp"]


def test_kernels_use_no_standard_templates() -> None:
    sources = ROOT.parent.parent / "csrc"
    if not sources.is_dir():
        pytest.skip("the C++ sources are not installed, only the checkout has them")
    allowed = {"std::align_val_t"}
    shared = [sources / f"{name}.h" for name in ("simd", "parallel", "window", "taps", "turn", "moments", "bands", "chunks", "epilogue", "product", "winograd")]
    for path in [*(sources / "kernels").iterdir(), *shared]:
        assert set(re.findall(r"std::\w+", path.read_text())) <= allowed, path.name
