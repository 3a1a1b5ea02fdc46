"""With batch norm the largest eigenvalue of the Hessian is lower while a network trains."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from ...diagnostics.curvature import Curvature, curvature
from ..claim import Claim, Trial
from ..landscape import EACH, NETS, RATES, typical, watched
from ..training import Batch

LANCZOS = 12


def probe(model: nn.Module, batch: Batch) -> Curvature:
    """The curvature on a batch with its statistics."""
    return curvature(model, F.cross_entropy, [batch], mode="train", steps=LANCZOS, samples=1)


def measure(trial: Trial) -> dict[str, float]:
    found = {}
    for name, norm in NETS.items():
        for speed, rate in RATES.items():
            seen = watched(trial, norm, rate, probe, least_step=EACH)
            key = f"{name}_{speed}"
            found[key] = typical(trial, f"{key}_curve", [one.largest[0] for one in seen])
            found[f"{key}_scaled"] = typical(trial, f"{key}_scaled_curve", [one.scaled for one in seen])
    return found


CLAIM = Claim(
    name="hessian-in-training",
    claim="With batch norm the largest eigenvalue of the Hessian is lower in training.",
    section="7.14.4",
    source="B. Ghorbani et al., An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, 2019; notes",
    expected="holds",
    setting=(
        "Convolutions 16-16-M-32-32-M-64-64 on the digits with He's weights: 120 steps of SGD on batches of 128 at rates "
        "0.05 (slow) and 0.1 (fast). At each tenth step from the tenth on, λ of the Hessian of the loss on that batch with "
        "its own statistics, in float64, by 12 steps of the Lanczos iteration; the median over the training steps."
    ),
    statistics={
        f"{name}_{speed}{suffix}": f"{what} at rate {rate}, {text}"
        for suffix, what in (("", "λ [nats/weight²]"), ("_scaled", "λ·‖w‖² [nats]"))
        for name, text in (("plain", "no norm"), ("batch_norm", "batch norm"))
        for speed, rate in RATES.items()
    },
    criterion="plain_slow >= 1.5 * batch_norm_slow and plain_fast >= 1.5 * batch_norm_fast",
    measure=measure,
    why="Not measured yet.",
    seconds=150,
    takes=frozenset({"data", "model"}),
)
