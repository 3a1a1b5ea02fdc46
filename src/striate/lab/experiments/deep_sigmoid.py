"""Deep sigmoid networks do not train; batch norm or residual connections mend it."""

from __future__ import annotations

from typing import Any

from ..claim import Claim, Trial
from ..networks import mlp
from ..training import accuracy, train_steps

DEPTH, STEPS, RATE = 10, 300, 0.3
NETS: dict[str, dict[str, Any]] = {"plain": {}, "batch_norm": {"norm": "batch"}, "residual": {"residual": True}}


def measure(trial: Trial) -> dict[str, float]:
    x, y, _, _ = trial.digits()
    found = {}
    for name, options in NETS.items():
        model = mlp(
            depth=DEPTH, classes=trial.classes, activation="sigmoid", init="xavier", seed=trial.seed, **options
        )
        losses = train_steps(model, x, y, trial.steps(STEPS), lr=RATE, seed=trial.seed)
        trial.keep(f"{name}_losses", losses)
        found[name] = accuracy(model, x, y)
    return found


CLAIM = Claim(
    name="deep-sigmoid",
    claim="A deep sigmoid network does not train, and with batch norm or residual connections it does.",
    section="7.13",
    source="notes",
    expected="holds",
    setting=(
        "Perceptrons of 10 sigmoid layers of width 128 with Xavier's weights on the digits: 300 steps of SGD at rate "
        "0.3 on batches of 64; accuracy on the training images."
    ),
    statistics={
        "plain": "training accuracy of the plain network, a share",
        "batch_norm": "training accuracy with batch norm before each sigmoid, a share",
        "residual": "training accuracy where each layer's input is added to its output, a share",
    },
    criterion="plain < 0.2 and batch_norm > 0.9 and residual > 0.9",
    measure=measure,
    why=(
        "The plain network is at chance after 300 steps, as its first layers get 10⁻⁶ of the gradient and its last one "
        "learns the shares of the classes. The same layers train to more than nine tenths with batch norm, and as well "
        "with nothing but their inputs added to their outputs."
    ),
    seconds=40,
    takes=frozenset({"data"}),
)
