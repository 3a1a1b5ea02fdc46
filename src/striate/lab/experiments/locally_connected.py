"""Locally connected layers against convolutions, on centred and on shifted images."""

from __future__ import annotations

import math

from ... import nn
from ..claim import Claim, Trial
from ..networks import redraw
from ..shifts import centred, scattered
from ..training import accuracy, train_steps

CHANNELS = (8, 16)
STEPS, RATE, MOMENTUM = 300, 0.05, 0.9


def measure(trial: Trial) -> dict[str, float]:
    """The test errors of both networks on both kinds of images, and how many parameters they have."""
    x, y, x_test, y_test = trial.digits()
    images = {
        "centred": (centred(x), centred(x_test)),
        "scattered": (scattered(x, 2 * trial.seed), scattered(x_test, 2 * trial.seed + 1)),
    }
    found = {}
    for name, is_shared in (("shared", True), ("local", False)):
        for place, (train, test) in images.items():
            model = _network(trial, is_shared, train.shape[-1])
            steps = trial.steps(STEPS)
            train_steps(model, train, y, steps, lr=RATE, momentum=MOMENTUM, schedule="cosine", seed=trial.seed)
            found[f"{name}_{place}"] = 1 - accuracy(model, test, y_test)
            found[f"{name}_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return found


def _network(trial: Trial, is_shared: bool, size: int) -> nn.Sequential:
    """Two layers of 3×3 windows that halve the maps, with or without one weight for all positions, and a flattened
    head.
    """
    layers: list[nn.Module] = []
    before = 1
    for channels in CHANNELS:
        if is_shared:
            layers.append(nn.Conv2d(before, channels, 3, padding=1))
        else:
            layers.append(nn.LocallyConnected2d(before, channels, size, 3, padding=1))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        before, size = channels, size // 2
    model = redraw(nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * size**2, trial.classes)), seed=trial.seed)
    for layer in model:
        if isinstance(layer, nn.LocallyConnected2d):  # He's law, as redraw gives it to convolutions
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * math.prod(layer.kernel_size))))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return model


CLAIM = Claim(
    name="locally-connected",
    claim="Layers that do not share their weights do as well as convolutions on centred images; on shifted ones "
    "sharing generalises better, with a tenth of the parameters.",
    section="7.9.5",
    source="notes; K. Gregor, Y. LeCun, Emergence of complex-like cells in a temporal product network with local "
    "receptive fields, 2010",
    expected="holds",
    setting="Digits on 16×16 pixels, in the middle or each somewhere, in training as in the test; two layers of 3×3 "
    "windows with 8 and 16 channels, each with ReLU and maxima of 2×2, flattened head; 300 steps of SGD with momentum "
    "0.9 on batches of 64, rate 0.05, cosine.",
    statistics={
        **{
            f"{name}_{place}": f"test error, a share, {text}, {images}"
            for name, text in (("shared", "convolutions"), ("local", "locally connected layers"))
            for place, images in (("centred", "centred images"), ("scattered", "images shifted by up to two pixels"))
        },
        "shared_parameters": "parameters, convolutions",
        "local_parameters": "parameters, locally connected layers",
    },
    criterion="abs(local_centred - shared_centred) <= 0.03 and local_scattered - shared_scattered >= 0.05 "
    "and local_parameters >= 10 * shared_parameters",
    measure=measure,
    why="Not measured yet.",
    seconds=40,
    takes=frozenset({"data"}),
)
