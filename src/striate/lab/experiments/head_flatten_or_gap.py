"""A flattened head with a hidden layer against a mean over positions."""

from __future__ import annotations

from ... import nn
from ..claim import Claim, Trial
from ..few import FEW, trained
from ..networks import convnet, redraw

PLAN, HIDDEN = "16-16-M-32-32", 128


def measure(trial: Trial) -> dict[str, float]:
    """Errors and parameters of both networks."""
    layers = list(convnet(PLAN, classes=trial.classes, head="flatten", norm="batch", seed=trial.seed))
    features = 32 * 4 * 4
    head = (nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, trial.classes))
    models = {
        "flattened": redraw(nn.Sequential(*layers[:-1], *head), seed=trial.seed),
        "averaged": convnet(PLAN, classes=trial.classes, norm="batch", seed=trial.seed),
    }
    found: dict[str, float] = {}
    for name, model in models.items():
        one = trained(trial, model)
        found |= {f"{name}_error": one.error, f"{name}_gap": one.error - one.fit, f"{name}_parameters": one.parameters}
    return found


CLAIM = Claim(
    name="head-flatten-or-gap",
    claim="A mean over positions in place of a flattened head with a hidden layer overfits less and generalises no "
    "worse, with a fraction of the parameters.",
    section="7.11.4",
    source="notes; M. Lin, Q. Chen, S. Yan, Network in network, 2014",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; convolutions {PLAN} with batch norm, then either all "
    f"512 values into a hidden layer of {HIDDEN} or 32 means; 150 steps of SGD with momentum 0.9 on batches of 64, "
    "rate 0.1, cosine.",
    statistics={
        f"{name}_{what}": f"{meaning}, {text}"
        for name, text in (("flattened", "flattened head with a hidden layer"), ("averaged", "mean over positions"))
        for what, meaning in (
            ("error", "test error, a share"),
            ("gap", "test error less training error"),
            ("parameters", "parameters of the network"),
        )
    },
    criterion="averaged_gap < flattened_gap and averaged_error <= flattened_error + 0.01 "
    "and flattened_parameters >= 4 * averaged_parameters",
    measure=measure,
    why="Not measured yet.",
    seconds=15,
    takes=frozenset({"data"}),
)
