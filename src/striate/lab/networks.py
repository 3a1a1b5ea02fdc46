"""The small networks of the experiments, whose first weights depend on the seed and not on the norm between them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import nn
from ..errors import ArgumentError, build
from ..models.initial import draw
from ..random_states import seeded

__all__ = ["ACTIVATIONS", "GAINS", "NORMS", "Residual", "convnet", "mlp", "redraw"]

Norm = str | Callable[[int], nn.Module]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
GROUPS = 4
NORMS: dict[str, Callable[[int], nn.Module]] = {  # of maps, by the number of channels
    "batch": nn.BatchNorm2d,
    "noisy": nn.NoisyBatchNorm2d,
    "group": partial(nn.GroupNorm, GROUPS),
    "layer": partial(nn.GroupNorm, 1),  # over channels and positions, as Wu and He have it
    "instance": partial(nn.InstanceNorm2d, affine=True),
}
VECTOR_NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
GAINS = {"he": math.sqrt(2), "lecun": 1.0}  # deviation of a weight times the root of its fan-in
STEP = re.compile(r"(?P<channels>\d+)(k(?P<kernel>\d+))?(s(?P<stride>\d+))?(d(?P<dilation>\d+))?(g(?P<groups>\d+))?")


class Residual(nn.Module):
    """Adds to the output of some layers their input: x + f(x).

    Shapes: x as the layers take it; their output has the same shape.

    >>> Residual(nn.Identity())(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _Layout(NamedTuple):
    """What stands around each weighted layer."""

    activation: Callable[[], nn.Module]
    norm: Callable[[int], nn.Module] | None
    norm_after: bool
    residual: bool

    def stage(self, weighted: nn.Module, features: int, keeps_shape: bool) -> list[nn.Module]:
        """A weighted layer with its norm and activation, in one module if their input is added."""
        norm = [] if self.norm is None else [self.norm(features)]
        after = [self.activation(), *norm] if self.norm_after else [*norm, self.activation()]
        stage = [weighted, *after]
        return [Residual(*stage)] if self.residual and keeps_shape else stage


def mlp(
    inputs: int = 64,
    width: int = 128,
    depth: int = 10,
    classes: int = 10,
    *,
    activation: str = "relu",
    init: str | float = "he",
    norm: Norm = "none",
    norm_after: bool = False,
    residual: bool = False,
    bias: bool | None = None,
    seed: int | None = None,
) -> nn.Sequential:
    """A perceptron: flatten, ``depth`` hidden layers, and a linear layer for the scores.

    A hidden layer is linear, norm, activation; with ``norm_after`` linear, activation, norm; with ``residual`` its
    input is added where the widths are equal, so not to the first.

    activation: a name of :data:`ACTIVATIONS`; init: see :func:`redraw`; norm: "none", "batch", "layer", or what makes
    one for a number of features; bias: of the hidden linear layers, by default only without norm; seed: of the first
    weights, None draws from the global generator.

    Shapes: x ``(N, …)`` with ``inputs`` values each, scores ``(N, classes)``.
    Raises ArgumentError for an unknown name.

    >>> [type(layer).__name__ for layer in mlp(depth=1, norm="batch")]
    ['Flatten', 'Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layout = _layout("mlp", activation, norm, VECTOR_NORMS, norm_after, residual)
    has_bias = layout.norm is None if bias is None else bias
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(depth):
        before = inputs if number == 0 else width
        layers += layout.stage(nn.Linear(before, width, bias=has_bias), width, before == width and number > 0)
    layers.append(nn.Linear(width if depth else inputs, classes))
    return redraw(nn.Sequential(*layers), init, seed)


def convnet(
    plan: str = "16-16-M-32-32-M-32-32",
    channels: int = 1,
    classes: int = 10,
    *,
    norm: Norm = "none",
    activation: str = "relu",
    init: str | float = "he",
    norm_after: bool = False,
    residual: bool = False,
    bias: bool | None = None,
    head: str = "gap",
    size: int = 8,
    padding_mode: PaddingMode = "zeros",
    seed: int | None = None,
) -> nn.Sequential:
    """A plain convolutional network from a plan, and a linear layer for the scores.

    A plan is made of words joined by dashes: ``M`` halves the maps by their maxima and ``A`` by their averages; a
    number is a convolution with so many output channels, norm and activation. Its kernel is 3 with stride 1, unless it
    says otherwise: ``32k5s2d2g4`` has kernel 5, stride 2, dilation 2, 4 groups. Padding keeps the maps' size at stride
    1. With ``residual`` the input of a convolution, norm and activation is added where the shapes are equal.

    norm: "none", "batch", "noisy", "group" (4 groups), "layer" (1 group), "instance", or what makes one for a number of
    channels; head: "gap", a mean over positions before the linear layer, or "flatten"; size: of the images [px], which
    matters to "flatten" only; bias: of the convolutions, by default only without norm; activation, init, norm_after and
    seed as :func:`mlp` has them.

    Shapes: x ``(N, channels, H, W)``, scores ``(N, classes)``.
    Raises ArgumentError for a plan or a name that is none.

    >>> [type(layer).__name__ for layer in convnet("8-M", norm="batch")]
    ['Conv2d', 'BatchNorm2d', 'ReLU', 'MaxPool2d', 'AdaptiveAvgPool2d', 'Flatten', 'Linear']
    """
    layout = _layout("convnet", activation, norm, NORMS, norm_after, residual)
    has_bias = layout.norm is None if bias is None else bias
    layers: list[nn.Module] = []
    features = channels
    for word in plan.split("-"):
        if word in ("M", "A"):
            layers.append(nn.MaxPool2d(2) if word == "M" else nn.AvgPool2d(2))
            continue
        found = STEP.fullmatch(word)
        if found is None:
            expects = "a plan of M, A and numbers such as 16 or 16k5s2d2g4, joined by dashes"
            raise ArgumentError(build("convnet", expects, repr(word), hint="See convnet's docstring.", plan=plan))
        conv = _conv(found, features, bias=has_bias, padding_mode=padding_mode)
        layers += layout.stage(conv, conv.out_channels, features == conv.out_channels and conv.stride == (1, 1))
        features = conv.out_channels
    if head not in ("gap", "flatten"):
        raise ArgumentError(build("convnet", "gap or flatten as head", repr(head), hint="Choose one of these."))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if head == "gap" else [nn.Flatten()]
    if head == "flatten":
        features = _flat_features(nn.Sequential(*layers), channels, size)
    return redraw(nn.Sequential(*layers, nn.Linear(features, classes)), init, seed)


def redraw(model: nn.Sequential, init: str | float = "he", seed: int | None = None) -> nn.Sequential:
    """Gives a model new first weights, and noise of its own to each noisy norm; returns it.

    init: "he" is N(0, 2/fan_in), "lecun" N(0, 1/fan_in), a number g N(0, g²/fan_in), "xavier" U(±√(6/(fan_in +
    fan_out))), each with biases of 0; "torch" is the default of its layers. seed: of the weights, the same for
    networks that differ in norms only; None draws from the global generator.

    Raises ArgumentError for another name.

    Source: K. He et al., "Delving Deep into Rectifiers", 2015; Y. LeCun et al., "Efficient BackProp", 1998; X. Glorot,
    Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.

    >>> one, other = (convnet("8-M", norm=norm, seed=3)[0].weight for norm in ("none", "noisy"))
    >>> torch.equal(one, other)
    True
    """
    if seed is not None:
        with seeded(seed):
            return redraw(model, init)
    if isinstance(init, str) and init not in (*GAINS, "xavier", "torch"):
        expects = f"{', '.join(GAINS)}, xavier, torch or a number as init"
        raise ArgumentError(build("redraw", expects, repr(init), hint="Choose one of these."))
    if init == "torch":
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
    elif init == "xavier":
        draw(model, "xavier")
    else:
        gain = GAINS[init] if isinstance(init, str) else float(init)
        draw(model, "he", {layer: gain for layer in model.modules()})
    for layer in model.modules():
        if isinstance(layer, nn.NoisyBatchNorm2d):
            layer.reseed(int(torch.randint(2**31, ())))
    return model


def _layout(
    where: str, activation: str, norm: Norm, norms: dict[str, Callable[[int], nn.Module]], after: bool, residual: bool
) -> _Layout:
    if activation not in ACTIVATIONS:
        expects = f"{', '.join(ACTIVATIONS)} as activation"
        raise ArgumentError(build(where, expects, repr(activation), hint="Choose one of these."))
    if isinstance(norm, str) and norm not in ("none", *norms):
        expects = f"none, {', '.join(norms)} as norm"
        raise ArgumentError(build(where, expects, repr(norm), hint="Choose one of these."))
    made = norms.get(norm) if isinstance(norm, str) else norm
    return _Layout(ACTIVATIONS[activation], made, after, residual)


def _conv(found: re.Match[str], channels: int, bias: bool, padding_mode: PaddingMode) -> nn.Conv2d:
    """The convolution of a plan's word."""
    given = {name: int(value) for name, value in found.groupdict().items() if value is not None}
    kernel, dilation = given.get("kernel", 3), given.get("dilation", 1)
    return nn.Conv2d(
        channels,
        given["channels"],
        kernel,
        given.get("stride", 1),
        dilation * (kernel - 1) // 2,
        dilation,
        given.get("groups", 1),
        bias,
        padding_mode,
    )


def _flat_features(body: nn.Sequential, channels: int, size: int) -> int:
    """How many values the body gives for an image, by a run on zeros that measures no statistics."""
    with torch.no_grad():
        features = body.eval()(torch.zeros(1, channels, size, size)).shape[1]
    body.train()
    return features
