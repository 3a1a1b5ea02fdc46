"""Three 3×3 convolutions in the place of one of 7×7."""

from __future__ import annotations

from ..claim import Claim, Trial
from ..few import FEW, rivals
from ..networks import convnet

LARGE = "32-32k7-M-32"
STACKED = "32-32-32-32-M-32"


def measure(trial: Trial) -> dict[str, float]:
    """The errors of both networks, and how many times as much the one with the large kernel costs."""
    large, stacked = (convnet(plan, classes=trial.classes, norm="batch", seed=trial.seed) for plan in (LARGE, STACKED))
    return rivals(trial, large, stacked)


CLAIM = Claim(
    name="stacked-3x3",
    claim="Three 3×3 convolutions see as far as one of 7×7, cost less, and recognise more.",
    section="7.6.3",
    source="K. Simonyan, A. Zisserman, Very deep convolutional networks for large-scale image recognition, 2015, "
    "section 2.3",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; convolutions {LARGE} and {STACKED}, batch norm and "
    "ReLU after each, mean over positions; 200 steps of SGD on batches of 64, rate 0.1, cosine.",
    statistics={
        "plain_error": "test error, a share, one 7×7 convolution",
        "cheap_error": "the same, three of 3×3",
        "parameters": "parameters with the 7×7 one over those with three of 3×3",
        "macs": "multiply-adds with the 7×7 one over those with three of 3×3",
        "speed": "the processor's seconds of a training step with the 7×7 one over those with three of 3×3",
    },
    criterion="parameters > 1 and macs > 1 and cheap_error < plain_error",
    measure=measure,
    why="Not measured yet.",
    seconds=50,
    at_least=4,
    takes=frozenset({"data"}),
)
