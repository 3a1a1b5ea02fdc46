"""Complete networks, each a plain function that returns a ``Sequential``."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ArgumentError, build, did_you_mean
from ..nn import Sequential
from .alexnet import alexnet
from .cnn import cnn_bn
from .convnext import convnext_tiny
from .lenet import lenet5
from .mlp import mlp_bn
from .mobilenet import mobilenet_v1, mobilenet_v2
from .resnet import resnet18, resnet50, resnet_cifar
from .vgg import vgg11_bn

__all__ = [
    "NAMES",
    "alexnet",
    "by_name",
    "cnn_bn",
    "convnext_tiny",
    "lenet5",
    "mlp_bn",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "resnet_cifar",
    "vgg11_bn",
]

NAMES: dict[str, Callable[..., Sequential]] = {
    "lenet5": lenet5,
    "mlp_bn": mlp_bn,
    "cnn_bn": cnn_bn,
    "resnet_cifar": resnet_cifar,
    "alexnet": alexnet,
    "vgg11_bn": vgg11_bn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "convnext_tiny": convnext_tiny,
}


def by_name(name: str) -> Callable[..., Sequential]:
    """Returns the function that makes the model of that name.

    Raises ArgumentError for any other name; the message lists the valid ones.

    >>> by_name("lenet5") is lenet5
    True
    """
    if name not in NAMES:
        hint = f"Choose one of these names.{did_you_mean(name, NAMES)}"
        raise ArgumentError(build("models.by_name", f"one of {', '.join(NAMES)}", repr(name), hint=hint))
    return NAMES[name]
