"""Complete networks, each a plain function that returns a ``Sequential``."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn import Sequential

from ..errors import ArgumentError, build
from .cnn import cnn_bn
from .lenet import lenet5
from .mlp import mlp_bn

__all__ = ["NAMES", "by_name", "cnn_bn", "lenet5", "mlp_bn"]

NAMES: dict[str, Callable[..., Sequential]] = {"lenet5": lenet5, "mlp_bn": mlp_bn, "cnn_bn": cnn_bn}


def by_name(name: str) -> Callable[..., Sequential]:
    """The function that makes the model of that name.

    Raises ArgumentError, with the names there are, for any other.

    >>> by_name("lenet5") is lenet5
    True
    """
    if name not in NAMES:
        raise ArgumentError(build("models.by_name", f"one of {', '.join(NAMES)}", repr(name), do="Choose one of these names."))
    return NAMES[name]
