"""ReLU units die at a high rate; batch norm prevents it."""

from __future__ import annotations

from ...diagnostics.activations import dead_units
from ..claim import Claim, Trial
from ..networks import mlp
from ..training import accuracy, train_steps

DEPTH, WIDTH, STEPS = 4, 32, 100
RATES = {"low": 0.6, "high": 1.5}
NETS = {"plain": "none", "batch_norm": "batch"}


def measure(trial: Trial) -> dict[str, float]:
    x, y, _, _ = trial.digits()
    found = {}
    for name, norm in NETS.items():
        for height, rate in RATES.items():
            model = mlp(depth=DEPTH, width=WIDTH, classes=trial.classes, norm=norm, seed=trial.seed)
            losses = train_steps(model, x, y, trial.steps(STEPS, quick=STEPS), lr=rate, seed=trial.seed)
            units = dead_units(model, [(x, y)]).values()
            found[f"{name}_{height}"] = sum(dead for dead, _ in units) / sum(of for _, of in units)
            found[f"{name}_{height}_loss"] = losses[-1]
            found[f"{name}_{height}_accuracy"] = accuracy(model, x, y)
    return found


CLAIM = Claim(
    name="dead-units",
    claim="At a high rate most ReLU units die, and with batch norm none does.",
    section="7.14.4",
    source="notes",
    expected="holds",
    setting=(
        "Perceptrons of 4 ReLU layers of width 32 with He's weights on the digits: 100 steps of SGD on batches of 64 "
        "at rates 0.6 (low) and 1.5 (high). A unit is dead if it does not fire for any image of the training part."
    ),
    statistics={
        f"{name}_{height}{suffix}": f"{what} at rate {rate}, {text}"
        for name, text in (("plain", "no norm"), ("batch_norm", "batch norm"))
        for height, rate in RATES.items()
        for suffix, what in (
            ("", "dead units, a share,"),
            ("_loss", "last loss [nats]"),
            ("_accuracy", "training accuracy, a share,"),
        )
    },
    criterion="plain_high > 0.5 and batch_norm_high < 0.02",
    measure=measure,
    why=(
        "Steps that are too long push weights and biases to where a unit fires for no image, and no gradient "
        "brings it back. At rate 1.5 four fifths of the units are dead after 100 steps and the network is at "
        "chance. At rate 0.6 one in ten is. Batch norm puts half of each unit's sums above 0 whatever the weights "
        "are, and no unit dies at either rate. The first setting was width 128 at rate 0.6, which on images "
        "standardised as a whole kills 4 to 20 % and teaches 90 % of the digits: no high rate for this network. "
        "With each pixel standardised by itself the same rate kills 60 to 90 %, but the loss also overflows within "
        "ten steps, and a network of infinite weights says nothing of dead units. Width 32 at rate 1.5 was found "
        "by trying widths and rates on the seeds 0 to 2, and chosen because most losses stay finite: only seeds 3 "
        "and 4 are fresh. The limits are those written before."
    ),
    seconds=6,
    takes=frozenset({"data"}),
)
