"""A residual connection keeps the gradient of a sigmoid layer; with He's weights and ReLU it makes it grow by √2."""

from __future__ import annotations

from ..claim import Claim, Trial
from ..depth import FACTOR, flow_at_start, hidden_factor
from ..networks import mlp

DEPTH = 30
INITS = {"sigmoid": "xavier", "relu": "he"}


def measure(trial: Trial) -> dict[str, float]:
    return {
        f"{name}_{activation}": hidden_factor(
            flow_at_start(
                trial,
                mlp(
                    depth=DEPTH,
                    classes=trial.classes,
                    activation=activation,
                    init=init,
                    residual=name == "residual",
                    seed=trial.seed,
                ),
            )
        )
        for activation, init in INITS.items()
        for name in ("plain", "residual")
    }


CLAIM = Claim(
    name="residual-gradient",
    claim="A residual connection keeps the gradient that a sigmoid layer loses.",
    section="7.13",
    source="notes; K. He et al., Deep Residual Learning for Image Recognition, 2016",
    expected="holds",
    setting=(
        "Perceptrons of 30 layers of width 128, where each hidden layer's input is added to its output or not: "
        f"sigmoids with Xavier's weights, and ReLUs with He's beside them. {FACTOR} Theory has √(1 + g²) where the "
        "layer alone has g."
    ),
    statistics={
        "plain_sigmoid": "factor a layer of sigmoids without residual connections",
        "residual_sigmoid": "factor a layer of sigmoids with them",
        "plain_relu": "factor a layer of ReLUs without residual connections",
        "residual_relu": "factor a layer of ReLUs with them: theory has √2, an explosion",
    },
    criterion="plain_sigmoid <= 0.25 and abs(residual_sigmoid - 1) < 0.08",
    measure=measure,
    why=(
        "The identity passes all of the gradient on, and what the sigmoids add is nearly at a right angle to it: a "
        "layer has √(1 + g²). It is 1.006 rather than 1.03, because the sum of the layers' outputs grows, so that the "
        "sigmoids saturate and add ever less. The surprise is beside it: with ReLU and He's weights, which alone keep "
        "the gradient, residual connections make it grow by 1.6 a layer, a million times over 30. That is more than √2 "
        "too: outputs of ReLUs are never negative, so that E[Wᵀφ'] is not 0 and the two parts of the gradient are not "
        "at a right angle. Residual networks need a norm, or smaller first weights in their branches, for this reason."
    ),
    seconds=3,
    takes=frozenset({"data"}),
)
