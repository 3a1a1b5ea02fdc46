"""Packages that not everybody needs: whether one is installed, and what to do where it is not."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import DependencyError, build

__all__ = ["needs"]

PACKAGES = {  # and the extra each is in
    "sklearn": ("scikit-learn", "train"),
    "matplotlib": ("matplotlib", "train"),
    "PIL": ("pillow", "train"),
    "tomlkit": ("tomlkit", "train"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlxtend": ("mlxtend", "lab"),
}


def needs(where: str, *modules: str) -> None:
    """Raises DependencyError if a module of :data:`PACKAGES` is not installed; imports none.

    >>> needs("train", "sklearn", "matplotlib")
    """
    for module in modules:
        if find_spec(module) is None:
            package, extra = PACKAGES[module]
            hint = f"Install it with: pip install 'striate[{extra}]'."
            raise DependencyError(build(where, f"the package {package}", "no such package", hint=hint))
