"""Models of the user's own, named on the command line and in settings as ``package.module:callable``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from .. import source
from ..errors import ArgumentError, build, did_you_mean

__all__ = ["custom"]


def custom(where: str, text: str, **known: Any) -> nn.Module:
    """Imports what ``package.module:callable`` names, calls it, and returns the module that it gives; what is a module
    already is not called.

    where: what messages begin with; known: values that the callable gets if it has parameters of these names.

    Raises ArgumentError, with the line of the model's own code, whatever that code raises.

    >>> custom("train", "torch.nn:Flatten")
    Flatten(start_dim=1, end_dim=-1)
    """
    module, _, name = text.partition(":")
    made = _named(where, text, module, name)
    if not isinstance(made, nn.Module) and callable(made):
        try:
            made = made(**_accepted(made, known))
        except (Exception, SystemExit) as error:  # whatever the called code raises
            at = source.of_error(error)
            hint = f"Call {module}.{name}() in Python to see all of it."
            raise _failed(where, text, error, hint if at is not None else _without_arguments(known)) from error
    if not isinstance(made, nn.Module):
        hint = _without_arguments(known)
        raise ArgumentError(build(where, f"a torch.nn.Module from {text}", type(made).__name__, hint=hint))
    return made


def _accepted(made: Callable[..., Any], known: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):  # a callable written in C
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: value for name, value in known.items() if name in parameters and parameters[name].kind in named}


def _without_arguments(known: dict[str, Any]) -> str:
    without = f" but {', '.join(known)}" if known else ""
    return f"Name a function or class that makes one without arguments{without}."


def _named(where: str, text: str, module: str, name: str) -> Any:
    """Imports a module and returns its attribute of a dotted name."""
    hint = "Name the module without .py." if module.endswith(".py") else "The current folder is searched too."
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the imported code raises
        at = source.of_error(error)
        raise _failed(
            where, text, error, hint if at is None else f"Import {module} in Python to see all of it."
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except (Exception, SystemExit) as error:
            near = did_you_mean(part, [word for word in dir(found) if not word.startswith("_")])
            raise _failed(where, text, error, f"{hint}{near}") from error
    return found


def _failed(where: str, text: str, error: BaseException, hint: str) -> ArgumentError:
    """Describes an error in the model's own code, with its line."""
    why = (str(error).strip() or "no more is told").splitlines()[0].rstrip(".")
    got = f"{type(error).__name__}: {why}{source.at(source.of_error(error))}"
    return ArgumentError(build(where, f"a model from {text}", got, hint=hint))
