"""Depthwise and 1×1 convolutions in the place of 3×3 ones."""

from __future__ import annotations

from ... import nn
from ..claim import Claim, Trial
from ..few import FEW, rivals, speed
from ..networks import convnet

PLAIN = "32-32-M-64"
SEPARABLE = "32-32g32-32k1-M-32g32-64k1"


def measure(trial: Trial) -> dict[str, float]:
    """The errors of both networks, and how many times as much the plain one costs."""
    plain, cheap = (convnet(plan, classes=trial.classes, norm="batch", seed=trial.seed) for plan in (PLAIN, SEPARABLE))
    layers = nn.Conv2d(128, 256, 3, padding=1), nn.DepthwiseSeparableConv2d(128, 256, 3, padding=1)
    return {**rivals(trial, plain, cheap), "speed": speed(*layers, (1, 128, 32, 32))}


CLAIM = Claim(
    name="depthwise-separable",
    claim="Depthwise separable convolutions take several times fewer parameters and multiply-adds, and less time, for "
    "a modest drop in accuracy.",
    section="7.10.6",
    source="notes; A. G. Howard et al., MobileNets, 2017",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; convolutions {PLAIN}, and the same with each 3×3 one "
    "but the first as a depthwise and a 1×1 one, batch norm and ReLU after each, mean over positions; 150 steps of "
    "SGD with momentum 0.9 on batches of 64, rate 0.1, cosine.",
    statistics={
        "plain_error": "test error, a share, 3×3 convolutions",
        "cheap_error": "the same, depthwise separable ones",
        "parameters": "parameters of the plain network over those of the separable one",
        "macs": "multiply-adds of the plain network over those of the separable one",
        "speed": "processor time of a forward pass, a 3×3 convolution 128→256 over the separable one, maps of 32×32",
    },
    criterion="parameters >= 5 and macs >= 5 and speed > 1 and cheap_error <= plain_error + 0.03",
    measure=measure,
    why="Not measured yet.",
    seconds=21,
    takes=frozenset({"data"}),
)
