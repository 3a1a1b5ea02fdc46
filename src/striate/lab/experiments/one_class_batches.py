"""Batch norm where each batch that is normalised has images of one class only."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..networks import Norm, convnet
from ..training import accuracy

EACH = 16  # images of a class in a step, and images that share statistics


def measure(trial: Trial) -> dict[str, float]:
    """The same steps with statistics of mixed images and of images of one class, and with group norm."""
    ghost = partial(nn.GhostBatchNorm2d, ghost_batch_size=EACH)
    return {
        "mixed": _error(trial, ghost, shuffled=True),
        "one_class": _error(trial, ghost, shuffled=False),
        "group": _error(trial, "group", shuffled=False),
    }


def _error(trial: Trial, norm: Norm, shuffled: bool) -> float:
    """The test error after training on batches of 16 images of each class, in the order of classes or shuffled."""
    x, y, x_test, y_test = trial.digits()
    model = convnet("16-M-32-M-64", classes=trial.classes, norm=norm, seed=trial.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(trial.seed)
    for _ in range(trial.steps(150)):
        indices = _each_class(y, trial.classes, random)
        if shuffled:
            indices = indices[torch.randperm(len(indices), generator=random)]
        optimizer.zero_grad()
        F.cross_entropy(model(x[indices]), y[indices]).backward()
        optimizer.step()
    return 1 - accuracy(model, x_test, y_test)


def _each_class(y: Tensor, classes: int, random: torch.Generator) -> Tensor:
    """Indices of 16 images of each class, class after class."""
    of = [(y == label).nonzero().flatten() for label in range(classes)]
    return torch.cat([one[torch.randint(len(one), (EACH,), generator=random)] for one in of])


CLAIM = Claim(
    name="one-class-batches",
    claim="Batch norm fails where the images of a batch are all of one class: what it learns with their statistics "
    "does not hold with the running ones. Group norm does not mind.",
    section="7.14.4",
    source="notes; Y. Wu, J. Johnson, Rethinking batch in batch norm, 2021, section 5",
    expected="holds",
    setting="Convolutions 16-M-32-M-64, digits, 150 steps of SGD, rate 0.1, each with 16 images of each class; batch "
    "norm by sub-batches of 16 images, which are of one class, or the same images shuffled.",
    statistics={
        "mixed": "test error, a share, sub-batches of images of all classes",
        "one_class": "the same, sub-batches of one class",
        "group": "the same, with group norm, for which the order makes no difference",
    },
    criterion="mixed < 0.05 and group < 0.1 and one_class > mixed + 0.1",
    measure=measure,
    why="The steps, the images and the sizes of the statistics are the same; only the company differs. Among its own "
    "class an image loses what all of the class have in common, and the network learns to do with what is left; in "
    "evaluation the running statistics, of all classes, do not subtract it, and half of the test images are wrong. "
    "Group norm never looks at the neighbours. The same happens to a sorted data set, to a batch of real and a batch "
    "of made images, and to clients of which each has one class.",
    seconds=30,
    takes=frozenset({"data"}),
)
