"""What numbers depend on: the code that measures them, and the machine it runs on."""

from __future__ import annotations

import ast
import hashlib
import inspect
import platform
from functools import cache
from pathlib import Path

import numpy
import torch

from .. import native
from ..measure import processor
from ..tuning import select
from .claim import Claim

__all__ = ["fingerprint", "machine"]

PACKAGE = Path(__file__).parent.parent
SHARED = ("random_states.py", "_core.so")
PARTS = ("diagnostics", "models", "nn", "ops", "reference", "training/data")  # all of whose files may change numbers
NOT_MEASURING = {"criterion.py", "figures.py", "fingerprint.py", "report.py", "runner.py", "store.py", "verdict.py"}


def fingerprint(claim: Claim) -> str:
    """Sixteen digits that change with the code of an experiment, of what it is made of, and with torch's version.

    Of the experiment's file counts what measures, and neither docstrings, comments, the figure nor the texts and the
    criterion of the claim: they may be mended after a run.

    >>> from striate.lab.experiments import all_claims
    >>> {len(fingerprint(claim)) for claim in all_claims()[:3]} <= {16}
    True
    """
    text = f"{_of_experiment(claim)}\n{_of_package()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_experiment(claim: Claim) -> str:
    """The code of the file that defines a claim's measurement, as a tree without what does not measure."""
    path = inspect.getsourcefile(claim.measure)
    tree = ast.parse(Path(path).read_text(encoding="utf-8")) if path is not None else ast.Module([], [])
    figure = getattr(claim.figure, "__name__", None)
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call) and _is_claim(node))
        and not (isinstance(node, ast.FunctionDef) and node.name == figure)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _is_claim(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == "CLAIM" for target in targets)


@cache
def _of_package() -> str:
    """The digests of the files of the package that experiments run on."""
    own = [path for path in (PACKAGE / "lab").glob("*.py") if path.name not in NOT_MEASURING]
    paths = own + [path for part in PARTS for path in (PACKAGE / part).rglob("*.py")]
    paths += [PACKAGE / name for name in SHARED]
    digest = hashlib.sha256(f"{torch.__version__} {numpy.__version__}".encode())
    for path in sorted(paths):
        if path.is_file():  # an installation without the core has none
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def machine() -> dict[str, str]:
    """The versions, the processor, the instruction set in use, and the tuning table that goes first.

    >>> sorted(machine())
    ['isa', 'numpy', 'processor', 'python', 'striate', 'torch', 'tuning_table']
    """
    return {
        "striate": str(native.native_info()["striate"]),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "isa": native.isa(),
        "tuning_table": select.PATHS[0].name if select.PATHS else "none",
    }
