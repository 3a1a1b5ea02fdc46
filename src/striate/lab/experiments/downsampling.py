"""Maxima, averages and strided convolutions as ways to halve the maps."""

from __future__ import annotations

from ..claim import Claim, Trial
from ..few import FEW, trained
from ..networks import convnet

PLANS = {
    "maximum": "16-M-32-M-32",
    "average": "16-A-32-A-32",
    "learned": "16-16s2-32-32s2-32",  # a strided convolution in the place of each pooling
    "strided": "16s2-32s2-32",  # the convolution before each pooling takes its stride
}


def measure(trial: Trial) -> dict[str, float]:
    """The test error of each plan."""
    models = {name: convnet(plan, classes=trial.classes, norm="batch", seed=trial.seed) for name, plan in PLANS.items()}
    return {name: trained(trial, model).error for name, model in models.items()}


CLAIM = Claim(
    name="downsampling",
    claim="A strided convolution in the place of max pooling costs no accuracy, nor does average pooling.",
    section="7.11.1",
    source="notes; J. T. Springenberg et al., Striving for simplicity: the all convolutional net, 2015",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; convolutions {PLANS['maximum']} with batch norm and "
    "a mean over positions, and three others in place of their max pooling; 150 steps of SGD with momentum 0.9 on "
    "batches of 64, rate 0.1, cosine.",
    statistics={
        "maximum": "test error, a share, maxima of 2×2",
        "average": "test error, a share, averages of 2×2",
        "learned": "test error, a share, one more convolution of stride 2 in place of each maximum",
        "strided": "test error, a share, no pooling, and the convolution before it has stride 2",
    },
    criterion="learned - maximum <= 0.02 and average - maximum <= 0.02",
    measure=measure,
    why="Not measured yet.",
    seconds=26,
    takes=frozenset({"data"}),
)
