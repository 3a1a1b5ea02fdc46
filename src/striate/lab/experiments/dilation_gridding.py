"""What convolutions that all have dilation 2 do not see."""

from __future__ import annotations

import torch

from ..claim import Claim, Trial
from ..strips import strip_accuracy, strip_net

NETS = {"same": (2, 2, 2), "mixed": (1, 2, 3)}  # both see 13 pixels from the first to the last
DISTANCES = {"odd": (5, 7), "even": (4, 6)}


def measure(trial: Trial) -> dict[str, float]:
    """The accuracies of both networks on both kinds of distances, and the shares of their fields that they see."""
    found = {f"{name}_seen": _seen(dilations, trial.seed) for name, dilations in NETS.items()}
    for name, dilations in NETS.items():
        for kind, distances in DISTANCES.items():
            found[f"{name}_{kind}"] = strip_accuracy(trial, dilations, distances)
    return found


def _seen(dilations: tuple[int, ...], seed: int) -> float:
    """The share of the pixels of its receptive field that an output of the convolutions depends on."""
    layers = [layer for layer in strip_net(dilations, 2, seed) if isinstance(layer, torch.nn.Conv1d)]
    x = torch.zeros(1, 1, 32, requires_grad=True)
    torch.nn.Sequential(*layers)(x)[0, 0, 16].backward()
    assert x.grad is not None
    return (x.grad != 0).sum().item() / (1 + 2 * sum(dilations))


CLAIM = Claim(
    name="dilation-gridding",
    claim="Convolutions that all have dilation 2 see every other pixel of their field only, and miss what lies "
    "between; with dilations 1, 2 and 3 they see all of it.",
    section="7.6.3",
    source="P. Wang et al., Understanding convolution for semantic segmentation, 2018, section 3.2",
    expected="holds",
    setting="Strips of 32 pixels with joined ends and two marks in noise, 5 or 7 pixels apart by class, or 4 or 6; "
    "three convolutions of kernel 3 and 16 channels with batch norm and dilations 2, 2, 2 or 1, 2, 3, whose field is "
    "13 pixels, and the maximum over the strip; 250 steps of SGD with momentum 0.9 on batches of 64, rate 0.05.",
    statistics={
        f"{name}_{kind}": f"{meaning}, dilations {', '.join(map(str, dilations))}"
        for name, dilations in NETS.items()
        for kind, meaning in (
            ("seen", "share of the field's pixels that an output depends on"),
            ("odd", "test accuracy, a share, marks 5 or 7 px apart"),
            ("even", "test accuracy, a share, marks 4 or 6 px apart"),
        )
    },
    criterion="same_seen < 0.6 and mixed_seen > 0.99 "
    "and same_odd < 0.6 and min(same_even, mixed_odd, mixed_even) > 0.95",
    measure=measure,
    why="Not measured yet.",
    seconds=25,
)
