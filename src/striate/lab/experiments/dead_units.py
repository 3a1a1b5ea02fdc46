"""ReLU units die at a high rate; batch norm prevents it."""

from __future__ import annotations

from ...diagnostics.activations import dead_units
from ..claim import Claim, Trial
from ..networks import mlp
from ..training import accuracy, train_steps

DEPTH, STEPS, RATE = 4, 100, 0.6


def measure(trial: Trial) -> dict[str, float]:
    x, y, _, _ = trial.digits()
    found = {}
    for name, norm in (("plain", "none"), ("batch_norm", "batch")):
        model = mlp(depth=DEPTH, classes=trial.classes, norm=norm, seed=trial.seed)
        train_steps(model, x, y, trial.steps(STEPS, quick=STEPS), lr=RATE, seed=trial.seed)
        dead, of = map(sum, zip(*dead_units(model, [(x, y)]).values(), strict=True))
        found[name] = dead / of
        found[f"{name}_accuracy"] = accuracy(model, x, y)
    return found


CLAIM = Claim(
    name="dead-units",
    claim="At a high rate most ReLU units die, and with batch norm none does.",
    section="7.14.4",
    source="notes",
    expected="holds",
    setting=(
        "Perceptrons of 4 ReLU layers of width 128 with He's weights on the digits: 100 steps of SGD at rate 0.6 on "
        "batches of 64. A unit is dead if it does not fire for any image of the training part."
    ),
    statistics={
        "plain": "dead units without norm, a share",
        "plain_accuracy": "training accuracy without norm, a share",
        "batch_norm": "dead units with batch norm before each ReLU, a share",
        "batch_norm_accuracy": "training accuracy with batch norm, a share",
    },
    criterion="plain > 0.5 and batch_norm < 0.02",
    measure=measure,
    why="Not measured yet.",
    seconds=10,
    takes=frozenset({"data"}),
)
