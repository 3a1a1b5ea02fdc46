"""With batch norm the gradient predicts better what the gradient is farther along."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from ...diagnostics.landscape import gradient_predictiveness
from ..claim import Claim, Trial
from ..landscape import NETS_AT_RATES, SETTING, STEPS_ALONG, at_rates, curves, meanings
from ..training import Batch


def probe(model: nn.Module, batch: Batch) -> float:
    """The largest change of the gradient up to 0.4 gradients beyond the weights, in parts of its norm."""
    return gradient_predictiveness(model, F.cross_entropy, batch, STEPS_ALONG, dtype=None).largest


def measure(trial: Trial) -> dict[str, float]:
    return at_rates(trial, probe)


CLAIM = Claim(
    name="gradient-predictiveness",
    claim="With batch norm the gradient changes less along itself: it predicts better.",
    section="7.14.4",
    source="S. Santurkar et al., How Does Batch Normalization Help Optimization?, 2018, figure 4 (b); notes",
    expected="holds",
    setting=(
        f"{SETTING} The change is the largest ‖g(w - s·g) - g‖/‖g‖, s being 0.05, 0.1, 0.2 and 0.4 and g the gradient."
    ),
    statistics=meanings("change of the gradient, in parts of its norm,"),
    criterion="plain_slow >= 3 * batch_norm_slow and plain_fast >= 3 * batch_norm_fast",
    measure=measure,
    why=(
        "Without norm the gradient 0.4 steps farther along differs from the one that was followed by 18 to 21 times "
        "its norm at the lower rate and 5 to 8 times at the higher one, with batch norm by 1.1 to 2.3 times, over five "
        "seeds. It is a ratio, so that, unlike the range of the loss, it does not become small with the gradient."
    ),
    seconds=50,
    figure=partial(curves, names=NETS_AT_RATES, label="change of the gradient"),
    takes=frozenset({"data", "model"}),
)
