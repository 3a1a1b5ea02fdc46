"""Batch norm does not lower the curvature of deep plain networks before training: it raises it, more with depth."""

from __future__ import annotations

from torch.nn import functional as F

from ...diagnostics.curvature import curvature
from ..claim import Claim, Trial
from ..landscape import NETS
from ..networks import convnet

DEPTHS = (4, 8, 16, 24)
SAMPLES, LANCZOS = 64, 12


def measure(trial: Trial) -> dict[str, float]:
    x, y, _, _ = trial.digits()
    batch = x[:SAMPLES], y[:SAMPLES]
    found = {}
    for name, norm in NETS.items():
        for depth in DEPTHS:
            plan = "-".join(["16"] * depth)
            model = convnet(plan, classes=trial.classes, norm=norm, head="flatten", seed=trial.seed)
            seen = curvature(model, F.cross_entropy, [batch], mode="train", steps=LANCZOS, samples=2, seed=trial.seed)
            found[f"{name}_{depth}"] = seen.largest[0]
    return found


CLAIM = Claim(
    name="hessian-at-initialisation",
    claim="Batch norm lowers the largest eigenvalue of the Hessian of deep plain networks before training.",
    section="7.14.4",
    source="notes; against them G. Yang et al., A Mean Field Theory of Batch Normalization, 2019",
    expected="fails",
    setting=(
        "4, 8, 16 and 24 convolutions of 16 channels with ReLU on maps of 8×8 and a linear layer on all positions, "
        "with He's weights, before training; cross entropy of 64 digits with their batch's statistics, in float64; 12 "
        "steps of the Lanczos iteration."
    ),
    statistics={
        f"{name}_{depth}": f"largest eigenvalue of {depth} convolutions, {text}"
        for name, text in (("plain", "no norm"), ("batch_norm", "batch norm"))
        for depth in DEPTHS
    },
    criterion="batch_norm_16 < plain_16 and batch_norm_24 < plain_24",
    measure=measure,
    why=(
        "The notes say that batch norm lowers the largest eigenvalues, and do not say when. Before training the "
        "opposite is true of deep networks: gradients that grow by 1.2 a layer (batch-norm-explodes) make a loss whose "
        "curvature grows with depth. At 4 layers batch norm does halve the largest eigenvalue, at 8 both are alike, "
        "and at 24 it is a hundred times and more that of the network without norm. What lowers it in training "
        "(hessian-in-training) is where training goes."
    ),
    seconds=110,
    takes=frozenset({"data"}),
)
