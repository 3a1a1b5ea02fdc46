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
    why="Not measured yet.",
    seconds=10,
    takes=frozenset({"data"}),
)
