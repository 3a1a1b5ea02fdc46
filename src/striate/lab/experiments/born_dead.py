"""Deep narrow ReLU networks are often dead before training begins."""

from __future__ import annotations

import torch
from torch import Tensor

from ..claim import Claim, Trial
from ..networks import mlp

NETWORKS = 300
DEPTHS, WIDTHS = (5, 10, 20), {"narrow": 2, "wide": 8}


@torch.no_grad()
def share_dead(trial: Trial, x: Tensor, depth: int, width: int, norm: str = "none") -> float:
    """The share of networks whose scores are the same for all images, because all units of some layer are dead."""
    count = trial.steps(NETWORKS)
    dead = 0
    for _ in range(count):
        scores = mlp(depth=depth, width=width, norm=norm)(x)
        dead += bool((scores == scores[0]).all())
    return dead / count


def measure(trial: Trial) -> dict[str, float]:
    x, _, _, _ = trial.digits()
    found = {
        f"{name}_{depth}": share_dead(trial, x, depth, width) for name, width in WIDTHS.items() for depth in DEPTHS
    }
    return {**found, "batch_norm_20": share_dead(trial, x, DEPTHS[-1], WIDTHS["narrow"], "batch")}


CLAIM = Claim(
    name="born-dead",
    claim="A deep and narrow ReLU network is often born dead, with the same scores for all images.",
    section="7.14.4",
    source="L. Lu et al., Dying ReLU and Initialization: Theory and Numerical Examples, 2019; notes",
    expected="holds",
    setting=(
        "300 perceptrons of each kind, with He's weights and biases of 0, before training, on all training digits: 5, "
        "10 and 20 ReLU layers of width 2 and of width 8, and 20 layers of width 2 with batch norm."
    ),
    statistics={
        **{
            f"{name}_{depth}": f"dead networks of {depth} layers of width {width}, a share"
            for name, width in WIDTHS.items()
            for depth in DEPTHS
        },
        "batch_norm_20": "dead networks of 20 layers of width 2 with batch norm, a share",
    },
    criterion="narrow_5 < narrow_10 < narrow_20 and narrow_20 > 0.9 and wide_20 < 0.1 and batch_norm_20 < 0.01",
    measure=measure,
    why=(
        "A layer is dead if none of its units fires for any image, and one dead layer makes the scores constant. With "
        "symmetric weights and no biases a unit of a narrow layer is dead with a probability of about one half, so "
        "that a layer of two is with one quarter, and depth takes a power of what is left; a layer of eight has 1/256. "
        "Nothing but another draw mends it. Batch norm does prevent it: each unit has sums of mean 0, and so fires for "
        "some image."
    ),
    seconds=40,
    takes=frozenset({"data"}),
)
