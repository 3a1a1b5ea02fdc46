"""Calls of a recording's operators on other tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..graph.recording import Operation, Ref

__all__ = ["replay"]


def replay(operation: Operation) -> Callable[[Tensor], Tensor] | None:
    """The operator with the arguments that a recording has, as a function of the only tensor among them; None for one
    that reads several, or that is no operator of torch's.

    >>> from striate.graph.recording import record
    >>> leaky = replay(record(torch.nn.LeakyReLU(0.5), (2, 3)).operations[0])
    >>> leaky(torch.tensor([-2.0, 2.0]))
    tensor([-1.,  2.])
    """
    namespace, _, base = operation.name.partition(".")
    packet: Any = getattr(getattr(torch.ops, namespace), base, None) if base else None
    given = operation.arguments
    tensors = [name for name, value in given.items() if isinstance(value, Ref)]
    is_joined = any(isinstance(one, Ref) for value in given.values() if isinstance(value, list) for one in value)
    if packet is None or len(tensors) != 1 or is_joined:
        return None
    rest = {name: value for name, value in given.items() if name != tensors[0]}

    def call(x: Tensor) -> Tensor:
        made: Tensor = packet(**{tensors[0]: x}, **rest)
        return made

    return call
