"""Measures the structure of the source code: sizes by part, import circles, lists of operators, repeated code, long
lines.

``python tests/structure.py`` prints the numbers of the working tree, ``python tests/structure.py COMMIT`` prints those
of a commit beside them. tests/test_architecture.py asserts some of them.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
WIDTH = 120  # columns of a line
LENGTH = 600  # lines of a file
REPEATED = 6  # so many equal lines in a row in two places are a repetition

# ------------------------------------------------------------------------------------------------------------- imports


class Import(NamedTuple):
    """One import of a module of striate's, and its line."""

    module: str
    line: int


def modules(package: Path) -> dict[str, Path]:
    """The files of a package's modules by their dotted names; ``__init__.py`` has the name of its package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> list[Import]:
    """The modules of the same package that a module imports: at its top, within functions, and for type checking."""
    found = []
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                if alias.name.startswith("__"):  # a package sets its version and its folders before its imports
                    continue
                module = f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source
                found.append(Import(module, node.lineno))
        elif isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
    return [one for one in dict.fromkeys(found) if one.module in known and one.module != name]


def circles(package: Path) -> list[frozenset[str]]:
    """The sets of modules that import each other, directly or by way of others, at their top or anywhere else.

    A package's ``__init__.py`` imports from its modules to export their names. That makes no circle, unless one of them
    imports from the package.
    """
    known = modules(package)
    edges = {name: [one.module for one in imports_of(name, path, known)] for name, path in known.items()}
    return sorted((frozenset(group) for group in components(edges) if len(group) > 1), key=sorted)


def components(edges: dict[str, list[str]]) -> Iterator[list[str]]:
    """The strongly connected components of a graph (Tarjan, 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in edges[node]:
            if target not in number:
                yield from visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], number[target])
        if low[node] == number[node]:
            at = stack.index(node)
            yield stack[at:]
            del stack[at:]

    for node in edges:
        if node not in number:
            yield from visit(node)


# --------------------------------------------------------------------------------------------------- lists of operators


def operator_lists(path: Path, names: frozenset[str]) -> list[int]:
    """The lines at which a file lists torch's operators by name, in a tuple, list, set, dictionary or string of words.

    names: the names of torch's operators, without their namespace.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            words = [one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        elif isinstance(node, ast.Dict):
            words = [one.value for one in node.keys if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            words = node.value.split()
        else:
            continue
        base = [word.removeprefix("aten.").partition(".")[0].rstrip("_") for word in words]
        if len(words) >= 3 and sum(word in names for word in base) >= 0.8 * len(words):
            found.append(node.lineno)
    return found


def operator_names() -> frozenset[str]:
    """The names of torch's own operators, without namespace, overload and the underscore of in-place variants."""
    import torch

    names = torch._C._dispatch_get_all_op_names()
    return frozenset(n.partition("::")[2].partition(".")[0].rstrip("_") for n in names if n.startswith("aten::"))


# ------------------------------------------------------------------------------------------------- repeated code, lines


def repetitions(paths: list[Path]) -> int:
    """The number of lines in runs of at least six lines that occur more than once. Imports, comments and blank lines do
    not count.
    """
    positions: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path in paths:
        lines = [(n, text.strip()) for n, text in enumerate(path.read_text().splitlines()) if text.strip()]
        lines = [(n, text) for n, text in lines if not text.startswith(("import ", "from ", "#include", "//", "#"))]
        for at in range(len(lines) - REPEATED + 1):
            window = lines[at : at + REPEATED]
            if sum(len(text) for _, text in window) > 20 * REPEATED:
                positions[tuple(text for _, text in window)] += [(path, n) for n, _ in window]
    repeated = {position for found in positions.values() if len(found) > REPEATED for position in found}
    return len(repeated)


def long_lines(path: Path) -> list[int]:
    """The numbers of a file's lines of more than 120 columns. As in ruff, comments that silence a checker do not count;
    nor do the rows of Markdown's tables, which cannot be broken.
    """
    found = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        code = re.sub(r"\s+# (type: ignore|noqa)\S*$", "", text)
        columns = sum(not unicodedata.combining(letter) for letter in code)
        if columns > WIDTH and not (path.suffix == ".md" and text.startswith("|")):
            found.append(number)
    return found


def texts(root: Path, *suffixes: str) -> list[Path]:
    """The repository's files with these suffixes, without those that are generated or built."""
    folders = [root / name for name in ("src", "csrc", "tests", "benchmarks", "docs")]
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    found += [path for path in root.glob("*") if path.suffix in suffixes]
    return sorted(path for path in found if "golden" not in path.parts)


# ----------------------------------------------------------------------------------------------------------- the report


def report(root: Path) -> dict[str, int]:
    """All numbers of a tree, by the names under which they are printed."""
    package = root / "src" / "striate"
    numbers: dict[str, int] = {}
    sizes: Counter[str] = Counter()
    for path in texts(root, ".py", ".h", ".cpp"):
        relative = path.relative_to(root)
        inside = relative.parts[:-1]
        part = "/".join(inside[:3] if inside[:2] == ("src", "striate") else inside[:2]) or "."
        sizes[part] += len(path.read_text().splitlines())
    numbers |= {f"lines of {part}": count for part, count in sorted(sizes.items())}
    code = [*package.rglob("*.py"), *(root / "csrc").rglob("*.h"), *(root / "csrc").rglob("*.cpp")]
    numbers[f"files of src and csrc over {LENGTH} lines"] = sum(len(p.read_text().splitlines()) > LENGTH for p in code)
    groups = circles(package)
    numbers["import circles"] = len(groups)
    numbers["modules in circles"] = sum(map(len, groups))
    names = operator_names()
    numbers["lists of operators"] = sum(len(operator_lists(path, names)) for path in package.rglob("*.py"))
    numbers["lists of operators outside graph/"] = sum(
        len(operator_lists(path, names))
        for path in package.rglob("*.py")
        if "graph" not in path.relative_to(package).parts
    )
    numbers["repeated lines in src and csrc"] = repetitions(sorted(code))
    for kind, suffixes in (("Python", (".py",)), ("C++", (".h", ".cpp", ".def")), ("Markdown", (".md",))):
        numbers[f"lines of {kind} over {WIDTH} columns"] = sum(len(long_lines(path)) for path in texts(root, *suffixes))
    return numbers


def main() -> None:
    now = report(ROOT)
    before = dict.fromkeys(now, 0)
    if len(sys.argv) > 1:
        archive = subprocess.run(["git", "archive", sys.argv[1]], cwd=ROOT, capture_output=True, check=True).stdout
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(folder, filter="data")
            before = report(Path(folder))
    for name in sorted({*now, *before}, key=lambda n: (not n.startswith("lines of") or "over" in n, n)):
        columns = [f"{before[name]:7}" if name in before else "      -"] if len(sys.argv) > 1 else []
        print(*columns, f"{now[name]:7}" if name in now else "      -", name, sep="  ")


if __name__ == "__main__":
    main()
