"""What the filters of a first layer look like after training."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn

from ..claim import Claim, Trial
from ..networks import convnet
from ..training import accuracy, train_steps

PLAN, KERNEL, SIZE = "16k5-M-32-M-32", 5, 16
STEPS, RATE, MOMENTUM, DECAY = 300, 0.05, 0.9, 1e-3
SMALL = 0.1  # of He's deviation: what is left of the first weights is then not what is looked at


def measure(trial: Trial) -> dict[str, float]:
    """How near the first filters are to Gabor filters and to Sobel's, beside filters of random numbers."""
    x, y, x_test, y_test = trial.digits(SIZE)
    model = convnet(PLAN, classes=trial.classes, norm="batch", seed=trial.seed)
    first = model[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight.mul_(SMALL)
    steps = trial.steps(STEPS)
    train_steps(model, x, y, steps, lr=RATE, momentum=MOMENTUM, decay=DECAY, seed=trial.seed)
    filters = first.weight.detach().flatten(1)
    noise = torch.randn(1000, KERNEL**2, generator=torch.Generator().manual_seed(trial.seed))
    return {
        "gabor": _nearest(filters, _gabors()),
        "gabor_random": _nearest(noise, _gabors()),
        "sobel": _within(filters, _sobels()),
        "sobel_random": _within(noise, _sobels()),
        "error": 1 - accuracy(model, x_test, y_test),
    }


def _gabors() -> Tensor:
    """Gabor filters of several widths, wave lengths, angles and phases, of norm 1, ``(N, 25)``."""
    place = torch.arange(KERNEL) - (KERNEL - 1) / 2
    down, right = torch.meshgrid(place, place, indexing="ij")
    found = []
    for width, length, angle, phase in product((1.0, 1.5, 2.0), (3.0, 4.0, 6.0, 8.0), range(8), range(4)):
        turn = math.pi * angle / 8
        along, across = (
            right * math.cos(turn) + down * math.sin(turn),
            down * math.cos(turn) - right * math.sin(turn),
        )
        wave = torch.cos(2 * math.pi * along / length + math.pi * phase / 4)
        found.append((torch.exp(-(along**2 + across**2) / (2 * width**2)) * wave).flatten())
    return nn.functional.normalize(torch.stack(found))


def _sobels() -> Tensor:
    """Sobel's two filters of 5×5 pixels, of norm 1, ``(2, 25)``."""
    smooth, difference = torch.tensor([1.0, 4, 6, 4, 1]), torch.tensor([1.0, 2, 0, -2, -1])
    both = (torch.outer(smooth, difference), torch.outer(difference, smooth))
    return nn.functional.normalize(torch.stack([one.flatten() for one in both]))


def _nearest(filters: Tensor, bank: Tensor) -> float:
    """The mean over filters of the largest squared cosine with one of the bank."""
    return (nn.functional.normalize(filters) @ bank.T).square().amax(1).mean().item()


def _within(filters: Tensor, basis: Tensor) -> float:
    """The mean over filters of the share of their energy that lies in the span of some orthogonal ones."""
    return (nn.functional.normalize(filters) @ basis.T).square().sum(1).mean().item()


CLAIM = Claim(
    name="first-filters",
    claim="The filters that a first layer learns are edge detectors: nearer to Gabor filters and to Sobel's than "
    "random ones.",
    section="7.7.2",
    source="notes; J. Yosinski et al., How transferable are features in deep neural networks?, 2014",
    expected="holds",
    setting="Convolutions 16k5-M-32-M-32, the first of 5×5, on the digits at 16×16 pixels, batch norm, first weights "
    "of that layer a tenth of He's; 300 steps of SGD with momentum 0.9 on batches of 64, rate 0.05, decay 0.001. A "
    "filter is compared with 384 Gabor filters and with Sobel's two of 5×5.",
    statistics={
        "gabor": "squared cosine with the nearest Gabor filter, mean over the 16 learnt filters",
        "gabor_random": "the same, 1,000 filters of normal random numbers",
        "sobel": "share of a filter's energy in the span of Sobel's two, mean over the learnt filters",
        "sobel_random": "the same, random filters: 2/25 in theory",
        "error": "test error, a share",
    },
    criterion="gabor - gabor_random >= 0.15 and sobel >= 2 * sobel_random",
    measure=measure,
    why="Not measured yet.",
    seconds=25,
    takes=frozenset({"data"}),
)
