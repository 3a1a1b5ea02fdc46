"""Errors that say what was expected, what was given, where, and what to do next.

Every message is made by :func:`build`, so that they all read alike. The classes also inherit the exceptions torch
raises for the same mistakes: code that catches ``RuntimeError`` or ``ValueError`` around a torch layer catches these
too.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CheckpointError",
    "DataError",
    "DependencyError",
    "DtypeError",
    "ShapeError",
    "build",
    "describe_error",
]


LEAST_LIKENESS = 0.6  # difflib's ratio from which a name counts as a misspelling of another


class ArgumentError(ValueError, RuntimeError):
    """An argument has an invalid value: a stride of 0, a padding over half the window."""


class ArgumentTypeError(TypeError, RuntimeError):
    """An argument has the wrong type or length: a kernel of 2.5, two strides for three axes."""


class ShapeError(ValueError, RuntimeError):
    """A tensor's shape does not fit the operation."""


class DtypeError(TypeError, RuntimeError):
    """A tensor's element type does not fit the operation."""


class CheckpointError(ValueError):
    """A checkpoint is damaged, or does not fit the model."""


class DataError(ValueError):
    """A data file or a request for data cannot be used."""


class DependencyError(ImportError):
    """A package that a part of striate needs is not installed."""


def build(where: str, expects: str, got: object, *, hint: str, **facts: object) -> str:
    """The text of an error: one sentence that says what is wrong, the facts, and what to do next (``hint``).

    >>> build("MaxPool2d", "a stride of at least 1", 0, hint="Leave stride out to step by the kernel's size.", x=(1, 3))
    "MaxPool2d expects a stride of at least 1, got 0. x: (1, 3). Leave stride out to step by the kernel's size."
    """
    listed = "".join(f" {name}: {value}." for name, value in facts.items())
    return f"{where} expects {expects}, got {got}.{listed} {hint}"


def describe_error(error: BaseException) -> str:
    """The class of an error and the first line of its text, as part of a message.

    >>> describe_error(ValueError("no size 0.\\nTraceback"))
    'ValueError: no size 0'
    """
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """A question to append to a hint, with the names nearest to a mistyped one; "" if none is near.

    >>> did_you_mean("lenet", ["lenet5", "alexnet"]), did_you_mean("resnet", ["resnet18", "resnet50"])
    (' Did you mean lenet5?', ' Did you mean resnet18 or resnet50?')
    >>> did_you_mean("vgg99", ["lenet5"])
    ''
    """
    from difflib import SequenceMatcher

    scores = {name: SequenceMatcher(None, name.lower(), given.lower()).ratio() for name in names}
    best = max(scores.values(), default=0.0)
    nearest = [name for name, score in scores.items() if score == best][:3]
    return f" Did you mean {' or '.join(nearest)}?" if best >= LEAST_LIKENESS else ""
