"""With batch norm the largest eigenvalue of the Hessian is lower while a network trains."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from ...diagnostics.curvature import Curvature, curvature
from ..claim import Claim, Trial
from ..landscape import NETS, NETS_AT_RATES, RATES, SETTING, curves, typical, watched
from ..training import Batch

LANCZOS, EACH = 12, 20


def probe(model: nn.Module, batch: Batch) -> Curvature:
    """The curvature on a batch with its statistics."""
    return curvature(model, F.cross_entropy, [batch], mode="train", steps=LANCZOS, samples=2)


def measure(trial: Trial) -> dict[str, float]:
    found = {}
    for name, norm in NETS.items():
        for speed, rate in RATES.items():
            seen = watched(trial, norm, rate, probe, first=EACH, each=EACH)
            key = f"{name}_{speed}"
            found[key] = typical(trial, f"{key}_curve", [one.largest[0] for one in seen])
            found[f"{key}_scaled"] = typical(trial, f"{key}_scaled_curve", [one.scaled for one in seen])
    return found


CLAIM = Claim(
    name="hessian-in-training",
    claim="With batch norm the largest eigenvalue of the Hessian is lower in training.",
    section="7.14.4",
    source="B. Ghorbani et al., An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, 2019",
    expected="holds",
    setting=(
        f"{SETTING} Here at each twentieth step. λ is the largest eigenvalue of the Hessian of the loss with the "
        "batch's statistics, in float64, by 12 steps of the Lanczos iteration."
    ),
    statistics={
        f"{name}_{speed}{suffix}": f"{what} at rate {rate}, {text}"
        for suffix, what in (("", "λ [nats/weight²]"), ("_scaled", "λ·‖w‖² [nats]"))
        for name, text in (("plain", "no norm"), ("batch_norm", "batch norm"))
        for speed, rate in RATES.items()
    },
    criterion="plain_slow >= 1.5 * batch_norm_slow and plain_fast >= 1.5 * batch_norm_fast",
    measure=measure,
    why=(
        "Over five seeds the eigenvalue was 42 to 59 without norm and 14 to 19 with batch norm at the lower rate, "
        "18 to 26 against 8 to 12 at the higher one. Times the squared norm of the weights, which batch norm makes "
        "larger, the difference is smaller: 20 to 28 thousand against 9 to 13 thousand, and 9 to 12.5 against 6 to "
        "8."
    ),
    seconds=180,
    figure=partial(curves, names=NETS_AT_RATES, label="λ [nats/weight²]", first=EACH, each=EACH),
    takes=frozenset({"data", "model"}),
)
