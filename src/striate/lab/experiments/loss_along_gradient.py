"""With batch norm the loss varies less along the gradient while a network trains."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from ...diagnostics.landscape import loss_slice
from ..claim import Claim, Trial
from ..landscape import NETS_AT_RATES, SETTING, STEPS_ALONG, at_rates, curves, meanings
from ..training import Batch


def probe(model: nn.Module, batch: Batch) -> float:
    """The highest loss minus the lowest from the weights to 0.4 gradients beyond."""
    return loss_slice(model, F.cross_entropy, batch, (0.0, *STEPS_ALONG), dtype=None).range


def measure(trial: Trial) -> dict[str, float]:
    return at_rates(trial, probe)


CLAIM = Claim(
    name="loss-along-gradient",
    claim="With batch norm the loss varies less along the gradient.",
    section="7.14.4",
    source="S. Santurkar et al., How Does Batch Normalization Help Optimization?, 2018, figure 4 (a); notes",
    expected="holds",
    setting=(
        f"{SETTING} The range is the highest loss minus the lowest at w - s·g, s being 0, 0.05, 0.1, 0.2 and 0.4 and g "
        "the gradient."
    ),
    statistics=meanings("range of the loss [nats]"),
    criterion="plain_slow >= 20 * batch_norm_slow and plain_fast >= 20 * batch_norm_fast",
    measure=measure,
    why=(
        "A step of 0.4 gradients, four to eight times the rate, changes the loss by half a nat to several without "
        "norm, and by hundredths with batch norm. Part of that is that the network with batch norm has the smaller "
        "loss and gradient at the same step: the range is a difference of losses, not a curvature. Before the first "
        "step both are alike, 1.2 and 1.4."
    ),
    seconds=50,
    figure=partial(curves, names=NETS_AT_RATES, label="range of the loss [nats]"),
    takes=frozenset({"data", "model"}),
)
