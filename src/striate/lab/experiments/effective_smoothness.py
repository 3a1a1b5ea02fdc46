"""With batch norm the gradient changes less by the distance moved along it."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from ...diagnostics.landscape import effective_smoothness
from ..claim import Claim, Trial
from ..landscape import NETS, NETS_AT_RATES, RATES, SETTING, STEPS_ALONG, curves, typical, watched
from ..training import Batch


def probe(model: nn.Module, batch: Batch) -> float:
    """The largest change of the gradient by the distance, up to 0.4 gradients beyond the weights."""
    return effective_smoothness(model, F.cross_entropy, batch, STEPS_ALONG, dtype=None).beta


def measure(trial: Trial) -> dict[str, float]:
    return {
        f"{name}_{speed}": typical(trial, f"{name}_{speed}_curve", watched(trial, norm, rate, probe))
        for name, norm in NETS.items()
        for speed, rate in RATES.items()
    }


CLAIM = Claim(
    name="effective-smoothness",
    claim="With batch norm the loss is smoother along the gradient.",
    section="7.14.4",
    source="S. Santurkar et al., How Does Batch Normalization Help Optimization?, 2018, figure 4 (c); notes",
    expected="holds",
    setting=(
        f"{SETTING} β is the largest ‖g(w - s·g) - g‖/‖s·g‖, s being 0.05, 0.1, 0.2 and 0.4 and g the gradient."
    ),
    statistics={
        f"{name}_{speed}": f"β [nats/weight²] at rate {rate}, {text}"
        for name, text in (("plain", "no norm"), ("batch_norm", "batch norm"))
        for speed, rate in RATES.items()
    },
    criterion="plain_slow >= 2 * batch_norm_slow and plain_fast >= 2 * batch_norm_fast",
    measure=measure,
    why="Not measured yet.",
    seconds=50,
    figure=partial(curves, names=NETS_AT_RATES, label="β [nats/weight²]"),
    takes=frozenset({"data", "model"}),
)
