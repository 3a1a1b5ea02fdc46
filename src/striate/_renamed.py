"""Public names that were moved or renamed since the last release: they work for one more, with a warning.

A module that is gone is imported as an alias of the one that took its place. A name that is gone from a module that
stays is found by the module's ``__getattr__``, which :func:`renamed` makes.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = ["old_keywords", "renamed"]

P = ParamSpec("P")
T = TypeVar("T")

# Modules, and names as "module:name"; all of them without "striate." before.
MODULES: dict[str, str] = {}
NAMES: dict[str, str] = {}

PACKAGE = __name__.partition(".")[0]


def _lookup(module: str, name: str) -> Any:
    """What has taken the place of a name in a module, with a warning to whoever asked for it."""
    old = module.removeprefix(f"{PACKAGE}.")
    home, _, new = NAMES.get(f"{old}:{name}", f"{MODULES.get(old, '')}:{name}").partition(":")
    if f"{old}.{name}" in MODULES or (module == PACKAGE and name in MODULES):
        return import_module(f"{module}.{name}")
    if name.startswith("__") or not home:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    value = getattr(import_module(f"{PACKAGE}.{home}"), new)
    instead = f"{module}.{name} is {PACKAGE}.{home}.{new} now; the old name goes with the next release."
    warnings.warn(instead, DeprecationWarning, stacklevel=3)
    return value


def renamed(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names were renamed, or of a package some of whose modules were
    moved.
    """
    return lambda name: _lookup(module, name)


def old_keywords(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Lets a function take the old names of its arguments, ``old="new"``, with a warning."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for old in names.keys() & kwargs.keys():
                instead = f"{function.__name__} takes {names[old]}= in place of {old}=, which goes with the next release."
                warnings.warn(instead, DeprecationWarning, stacklevel=2)
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


class _Alias(ModuleType):
    """A module that is gone."""

    def __getattr__(self, name: str) -> Any:
        return _lookup(self.__name__, name)


class _AliasLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = f"{PACKAGE}.{MODULES[module.__name__.removeprefix(f'{PACKAGE}.')]}"
        instead = f"{module.__name__} is {new} now; the old name goes with the next release."
        warnings.warn(instead, DeprecationWarning, stacklevel=2)


class _AliasFinder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        gone = fullname.startswith(f"{PACKAGE}.") and fullname.removeprefix(f"{PACKAGE}.") in MODULES
        return ModuleSpec(fullname, _AliasLoader()) if gone else None


if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
    sys.meta_path.append(_AliasFinder())  # asked last: it costs nothing where a module is found
