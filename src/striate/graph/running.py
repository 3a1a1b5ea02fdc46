"""Helpers to run a model once without changing it: arguments from shapes, and restoring the modules' attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .. import source
from ..errors import ArgumentTypeError, ShapeError, build

__all__ = ["Shape", "arguments", "describe_failure", "tensors_like", "unchanged"]


@dataclass(frozen=True)
class Shape:
    """The shape of an argument that is still to be created."""

    shape: tuple[int, ...]


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that an example stands for, with shapes as :class:`Shape`."""

    def is_shape(given: Any) -> bool:
        return isinstance(given, (tuple, list, torch.Size)) and len(given) > 0 and all(type(n) is int for n in given)

    def resolved(given: Any) -> Any:
        if is_shape(given):
            if min(given) < 0:
                raise ShapeError(build("inspect", "sizes from 0 on", tuple(given), hint="Give the input's shape."))
            return Shape(tuple(given))
        if isinstance(given, (tuple, list)):
            return type(given)(resolved(one) for one in given)
        return given

    if isinstance(example, Mapping):
        return (), {name: resolved(one) for name, one in example.items()}
    if is_shape(example) or not isinstance(example, (tuple, list)):
        if not is_shape(example) and not isinstance(example, Tensor):
            raise ArgumentTypeError(
                build("inspect", "a shape or a tensor as input", repr(example)[:60], hint="Give (1, 3, 224, 224).")
            )
        return (resolved(example),), {}
    return tuple(resolved(one) for one in example), {}


def describe_failure(error: BaseException) -> str:
    """Describes an error, with its position in the model's code."""
    text = (str(error).strip() or "no more is told").splitlines()[0].rstrip(".")
    return f"{type(error).__name__}: {text[:200]}{source.at(source.of_error(error))}"


@contextmanager
def unchanged(model: Module) -> Iterator[None]:
    """Restores all attributes of the modules at the end, except the contents of tensors."""

    def copied(given: Any) -> Any:
        return given.copy() if isinstance(given, (dict, list, set)) else None

    held = [
        (module, {name: (value, copied(value)) for name, value in module.__dict__.items()})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes in held:
            for name in set(module.__dict__) - set(attributes):
                del module.__dict__[name]
            for name, (value, contents) in attributes.items():
                module.__dict__[name] = value
                if contents is not None:
                    value.clear()
                    value.extend(contents) if isinstance(value, list) else value.update(contents)


def tensors_like(model: Module) -> dict[str, Any]:
    """The dtype and device for tensors that are created from shapes: those of the model's first weight."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
