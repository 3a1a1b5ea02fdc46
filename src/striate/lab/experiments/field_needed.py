"""How far a network must see to tell how far apart two marks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..claim import Claim, Trial
from ..strips import strip_accuracy

DISTANCES = {"near": 4, "far": 8}
OTHER = 16  # half of a strip: further than any of the networks sees
AROUND = {"below": -1, "at": 0, "above": 1}  # layers more than a field from one mark to the other takes


def measure(trial: Trial) -> dict[str, float]:
    """The accuracies of networks whose field ends before the other mark, on it, and behind it."""
    return {
        f"{name}_{place}": strip_accuracy(trial, [1] * (distance // 2 + more), (distance, OTHER))
        for name, distance in DISTANCES.items()
        for place, more in AROUND.items()
    }


def figure(axes: Any, seeds: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy by receptive field, a line a seed."""
    from ...render.figure import BLUE, ORANGE

    for (name, distance), color in zip(DISTANCES.items(), (BLUE, ORANGE), strict=True):
        fields = [distance + 1 + 2 * more for more in AROUND.values()]
        for number, seed in enumerate(seeds):
            label = f"marks {distance} px apart" if number == 0 else None
            shares = [seed[f"{name}_{place}"] for place in AROUND]
            axes.plot(fields, shares, "o-", color=color, alpha=0.6, markersize=4, label=label)
    axes.set(xlabel="receptive field [px]", ylabel="test accuracy")
    axes.legend(frameon=False, fontsize=9)


CLAIM = Claim(
    name="field-needed",
    claim="What takes two marks k pixels apart to be seen is learnt if the receptive field has k + 1 pixels, and not "
    "at all if it has fewer.",
    section="7.6.3",
    source="notes",
    expected="holds",
    setting="Strips of 32 pixels with joined ends and two marks in noise, 4 (or 8) pixels apart in one class and 16 in "
    "the other; layers of convolutions of kernel 3 and 16 channels with batch norm, 1 to 3 (3 to 5) of them, so that "
    "the field is 3, 5 or 7 (7, 9 or 11) pixels, and the maximum over the strip; 250 steps of SGD with momentum 0.9 on "
    "batches of 64, rate 0.05.",
    statistics={
        f"{name}_{place}": f"test accuracy, a share, marks {distance} px apart, field of {distance + 1 + 2 * more} px"
        for name, distance in DISTANCES.items()
        for place, more in AROUND.items()
    },
    criterion="max(near_below, far_below) < 0.6 and min(near_at, far_at, near_above, far_above) > 0.95",
    measure=measure,
    why="Not measured yet.",
    seconds=35,
    figure=figure,
)
