"""1×1 convolutions that narrow the maps before 3×3 ones."""

from __future__ import annotations

from ... import nn
from ..claim import Claim, Trial
from ..few import FEW, rivals, speed
from ..networks import convnet

PLAIN = "32-32-M-64"
NARROWED = "32-8k1-32-M-8k1-64"


def measure(trial: Trial) -> dict[str, float]:
    """The errors of both networks, and how many times as much the plain one costs."""
    plain, cheap = (convnet(plan, classes=trial.classes, norm="batch", seed=trial.seed) for plan in (PLAIN, NARROWED))
    layers = nn.Conv2d(256, 256, 3, padding=1), nn.Sequential(nn.Conv2d(256, 64, 1), nn.Conv2d(64, 256, 3, padding=1))
    return {**rivals(trial, plain, cheap), "speed": speed(*layers, (1, 256, 32, 32))}


CLAIM = Claim(
    name="bottleneck",
    claim="A 1×1 convolution to a quarter of the channels before each 3×3 one saves most of the parameters, the "
    "multiply-adds and the time, at equal accuracy.",
    section="7.10.1",
    source="notes; K. He et al., Deep residual learning for image recognition, 2016",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; convolutions {PLAIN}, and {NARROWED}, where k1 is a "
    "1×1 one, batch norm and ReLU after each, mean over positions; 150 steps of SGD with momentum 0.9 on batches of "
    "64, rate 0.1, cosine.",
    statistics={
        "plain_error": "test error, a share, 3×3 convolutions",
        "cheap_error": "the same, with bottlenecks",
        "parameters": "parameters without bottlenecks over those with them",
        "macs": "multiply-adds without bottlenecks over those with them",
        "speed": "processor time of a forward pass, a 3×3 convolution 256→256 over 1×1 256→64 and 3×3 64→256, maps "
        "of 32×32",
    },
    criterion="parameters >= 3 and macs >= 2.5 and speed > 1 and cheap_error <= plain_error + 0.02",
    measure=measure,
    why="Not measured yet.",
    seconds=22,
    takes=frozenset({"data"}),
)
