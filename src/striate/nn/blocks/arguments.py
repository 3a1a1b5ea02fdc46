"""Arguments that several blocks take."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import ArgumentTypeError, build

__all__ = ["Sizes", "as_module"]

Sizes = int | tuple[int, ...]


def as_module(given: Any, what: str, where: str) -> torch.nn.Module:
    """Returns ``given`` if it is a module, else the module that the class or function ``given`` makes."""
    made = given if isinstance(given, torch.nn.Module) else given() if callable(given) else given
    if not isinstance(made, torch.nn.Module):
        hint = "Give a class such as nn.ReLU, a function that makes a module, or a module."
        raise ArgumentTypeError(build(where, f"{what} to make a module", repr(given), hint=hint))
    return made
