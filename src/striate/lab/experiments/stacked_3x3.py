"""Three 3×3 convolutions in the place of one of 7×7."""

from __future__ import annotations

from ... import nn
from ..claim import Claim, Trial
from ..few import FEW, rivals, speed
from ..networks import convnet

LARGE = "16-16k7-M-32"
STACKED = "16-16-16-16-M-32"


def measure(trial: Trial) -> dict[str, float]:
    """The errors of both networks, and how many times as much the one with the large kernel costs."""
    large, stacked = (convnet(plan, classes=trial.classes, norm="batch", seed=trial.seed) for plan in (LARGE, STACKED))
    layers = nn.Conv2d(64, 64, 7, padding=3), nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)))
    return {**rivals(trial, large, stacked), "speed": speed(*layers, (8, 64, 16, 16))}


CLAIM = Claim(
    name="stacked-3x3",
    claim="Three 3×3 convolutions see as far as one of 7×7, cost less, and recognise more.",
    section="7.6.3",
    source="K. Simonyan, A. Zisserman, Very deep convolutional networks for large-scale image recognition, 2015, "
    "section 2.3",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; convolutions {LARGE} and {STACKED}, batch norm and "
    "ReLU after each, mean over positions; 150 steps of SGD with momentum 0.9 on batches of 64, rate 0.1, cosine.",
    statistics={
        "plain_error": "test error, a share, one 7×7 convolution",
        "cheap_error": "the same, three of 3×3",
        "parameters": "parameters with the 7×7 one over those with three of 3×3",
        "macs": "multiply-adds with the 7×7 one over those with three of 3×3",
        "speed": "processor time of a forward pass, one 7×7 convolution 64→64 over three of 3×3, 8 maps of 16×16",
    },
    criterion="parameters > 1 and macs > 1 and cheap_error < plain_error",
    measure=measure,
    why="Not measured yet.",
    seconds=17,
    at_least=4,
    takes=frozenset({"data"}),
)
