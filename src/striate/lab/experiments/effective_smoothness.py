"""With batch norm the gradient changes less by the distance moved along it."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from ...diagnostics.landscape import effective_smoothness
from ..claim import Claim, Trial
from ..landscape import NETS_AT_RATES, SETTING, STEPS_ALONG, at_rates, curves, meanings
from ..training import Batch


def probe(model: nn.Module, batch: Batch) -> float:
    """The largest change of the gradient by the distance, up to 0.4 gradients beyond the weights."""
    return effective_smoothness(model, F.cross_entropy, batch, STEPS_ALONG, dtype=None).beta


def measure(trial: Trial) -> dict[str, float]:
    return at_rates(trial, probe)


CLAIM = Claim(
    name="effective-smoothness",
    claim="With batch norm the loss is smoother along the gradient.",
    section="7.14.4",
    source="S. Santurkar et al., How Does Batch Normalization Help Optimization?, 2018, figure 4 (c); notes",
    expected="holds",
    setting=(
        f"{SETTING} β is the largest ‖g(w - s·g) - g‖/‖s·g‖, s being 0.05, 0.1, 0.2 and 0.4 and g the gradient."
    ),
    statistics=meanings("β [nats/weight²]"),
    criterion="plain_slow >= 2 * batch_norm_slow and plain_fast >= 2 * batch_norm_fast",
    measure=measure,
    why=(
        "Over five seeds β was 44 to 53 without norm and 9 to 11 with batch norm at the lower rate, 21 to 25 against 7 "
        "to 8 at the higher one. At the higher rate training has come to flatter places, in both networks."
    ),
    seconds=50,
    figure=partial(curves, names=NETS_AT_RATES, label="β [nats/weight²]"),
    takes=frozenset({"data", "model"}),
)
