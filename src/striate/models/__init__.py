"""Complete networks, each a plain function that returns a ``Sequential``."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ArgumentError, build, did_you_mean
from ..nn import Flatten, Linear, Sequential
from .alexnet import alexnet
from .cnn import cnn_bn
from .convnext import convnext_tiny
from .lenet import lenet5
from .mlp import mlp_bn
from .mobilenet import mobilenet_v1, mobilenet_v2
from .resnet import resnet18, resnet50, resnet_cifar
from .variant import KNOBS, vary
from .vgg import vgg11_bn

__all__ = [
    "KNOBS",
    "NAMES",
    "alexnet",
    "by_name",
    "classifier",
    "cnn_bn",
    "convnext_tiny",
    "lenet5",
    "mlp_bn",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "resnet_cifar",
    "vary",
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


# The shorter side of images that leave something for the last layer; 1 for all others.
LEAST_PX = {"lenet5": 4, "cnn_bn": 4, "alexnet": 63, "vgg11_bn": 32, "convnext_tiny": 32}


def classifier(name: str, channels: int, size: tuple[int, int], classes: int, **knobs: str | None) -> Sequential:
    """Makes a model of :data:`NAMES` that classifies images: :func:`lenet5` for their size, :func:`mlp_bn` behind a
    flatten layer, :func:`cnn_bn` before a linear layer, the others by their arguments.

    channels: C; size: H and W in pixels; classes: at least 2; knobs: see :func:`vary`.

    Shapes: x ``(N, C, H, W)`` of that size, scores ``(N, classes)``, before a softmax.

    Raises ArgumentError for a name, number or knob that is not valid, and where the images are too small for the model;
    the message lists the models that fit.

    >>> import torch
    >>> classifier("cnn_bn", 3, (32, 24), 5)(torch.zeros(2, 3, 32, 24)).shape
    torch.Size([2, 5])
    """
    by_name(name)
    height, width = size
    numbers = (("channels", channels, 1), ("height", height, 1), ("width", width, 1), ("classes", classes, 2))
    for what, number, fewest in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or number < fewest:
            hint = f"Use a whole number from {fewest} on."
            raise ArgumentError(build("classifier", f"{what} of at least {fewest}", repr(number), hint=hint))
    least = LEAST_PX.get(name, 1)
    if min(size) < least:
        fitting = [one for one in NAMES if min(size) >= LEAST_PX.get(one, 1)]
        hint = f"Choose one of these, or resize the images to {least} pixels or more on each side."
        expects = f"a model for images of {height}×{width} pixels, one of {', '.join(fitting)}"
        raise ArgumentError(build("classifier", expects, repr(name), hint=hint))
    return vary(_plain(name, channels, size, classes), (channels, height, width), **knobs)


def _plain(name: str, channels: int, size: tuple[int, int], classes: int) -> Sequential:
    height, width = size
    if name == "lenet5":
        return lenet5(classes, channels, size)
    if name == "mlp_bn":
        return Sequential(Flatten(), *mlp_bn(channels * height * width, classes=classes))
    if name == "cnn_bn":
        features = 32 * (height // 4) * (width // 4)
        return Sequential(*cnn_bn(channels), Flatten(), Linear(features, classes))
    return NAMES[name](classes=classes, in_channels=channels)
