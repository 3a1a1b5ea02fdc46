"""Batch norm allows higher learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..claim import Claim, Trial
from ..landscape import NETS, network
from ..training import accuracy, train_steps

PLAN = "16-16-M-32-32-M-32-32"
STEPS, ENOUGH = 150, 0.95
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def measure(trial: Trial) -> dict[str, float]:
    x, y, _, _ = trial.digits()
    found = {}
    for name, norm in NETS.items():
        accuracies = []
        for rate in RATES:
            model = network(trial, norm, PLAN)
            train_steps(model, x, y, trial.steps(STEPS, quick=STEPS), lr=rate, seed=trial.seed)
            accuracies.append(accuracy(model, x, y, batch_statistics=True))
        trial.keep(f"{name}_accuracies", accuracies)
        good = [rate for rate, share in zip(RATES, accuracies, strict=True) if share >= ENOUGH]
        found[f"{name}_highest"] = max(good, default=0.0)
        found[f"{name}_range"] = max(good) / min(good) if good else 0.0
    return found


def figure(axes: Any, seeds: Sequence[Mapping[str, Any]]) -> None:
    """Training accuracy by rate, a line a seed."""
    from ...render.figure import BLUE, ORANGE

    for name, color in zip(NETS, (ORANGE, BLUE), strict=True):
        for number, seed in enumerate(seeds):
            label = name.replace("_", " ") if number == 0 else None
            axes.plot(RATES, seed[f"{name}_accuracies"], "o-", color=color, alpha=0.6, markersize=4, label=label)
    axes.axhline(ENOUGH, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="rate", ylabel="training accuracy")
    axes.legend(frameon=False, fontsize=9)


CLAIM = Claim(
    name="higher-rates",
    claim="Batch norm allows higher learning rates, and a wider range of them.",
    section="7.14.4",
    source="notes; J. Bjorck et al., Understanding Batch Normalization, 2018",
    expected="holds",
    setting=(
        "Convolutions 16-16-M-32-32-M-32-32 and a linear layer on the digits, with He's weights: 150 steps of SGD on "
        "batches of 64 at rates 0.01, 0.03, 0.1, 0.3, 1 and 3. A rate is good if 95 % of the training images are "
        "classified rightly after it, with the statistics of them all. The range is the highest good rate over the "
        "lowest."
    ),
    statistics={
        "plain_highest": "the highest good rate without norm",
        "plain_range": "their range, a ratio",
        "batch_norm_highest": "the highest good rate with batch norm",
        "batch_norm_range": "their range, a ratio",
    },
    criterion="batch_norm_highest > plain_highest > 0 and batch_norm_range >= 5 * plain_range",
    measure=measure,
    why=(
        "Without norm the rates from 0.03 to 0.3 train, with it those from 0.01 to 1: three times higher, and a range "
        "ten times wider. At 3 neither does. Weights before a batch norm that a long step has made longer get shorter "
        "relative steps from then on, which is one reason; the loss's smaller curvature while training "
        "(hessian-in-training) is another."
    ),
    seconds=70,
    figure=figure,
    takes=frozenset({"data", "model"}),
)
