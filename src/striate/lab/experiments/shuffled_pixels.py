"""What a perceptron and a convolutional network make of images whose pixels are shuffled."""

from __future__ import annotations

import torch
from torch import nn

from ..claim import Claim, Trial
from ..few import FEW, few_images
from ..networks import convnet, mlp
from ..training import accuracy, train_steps

STEPS, RATE, MOMENTUM = 150, 0.1, 0.9


def measure(trial: Trial) -> dict[str, float]:
    """The test errors of both networks on images as they are, and on images shuffled all alike."""
    x, _, _, _ = few_images(trial)
    places = x[0].numel()
    order = torch.randperm(places, generator=torch.Generator().manual_seed(trial.seed))
    found = {}
    for suffix, permutation in (("", torch.arange(places)), ("_shuffled", order)):
        perceptron = mlp(places, depth=2, classes=trial.classes, seed=trial.seed)
        convolutional = convnet("16-16-M-32-32", norm="batch", classes=trial.classes, seed=trial.seed)
        found[f"perceptron{suffix}"] = _error(trial, perceptron, permutation)
        found[f"convolutional{suffix}"] = _error(trial, convolutional, permutation)
    return found


def _error(trial: Trial, model: nn.Module, order: torch.Tensor) -> float:
    x, y, x_test, y_test = few_images(trial)
    x, x_test = (images.flatten(1)[:, order].reshape(images.shape) for images in (x, x_test))
    steps = trial.steps(STEPS)
    train_steps(model, x, y, steps, lr=RATE, momentum=MOMENTUM, schedule="cosine", seed=trial.seed)
    return 1 - accuracy(model, x_test, y_test)


CLAIM = Claim(
    name="shuffled-pixels",
    claim="A perceptron does not use which pixels are neighbours, and a convolutional network does: on shuffled pixels "
    "it loses its lead.",
    section="7.1",
    source="notes",
    expected="holds",
    setting=f"{FEW} digits to learn from, tested on the others; a perceptron with two hidden layers of 128, and "
    "convolutions 16-16-M-32-32 with batch norm and a mean over positions; 150 steps of SGD with momentum 0.9 on "
    "batches of 64, rate 0.1, cosine. One permutation of the pixels for all images.",
    statistics={
        "perceptron": "test error, a share, perceptron, images as they are",
        "perceptron_shuffled": "the same, pixels shuffled",
        "convolutional": "test error, a share, convolutions, images as they are",
        "convolutional_shuffled": "the same, pixels shuffled",
    },
    criterion="convolutional < perceptron and convolutional_shuffled > perceptron_shuffled "
    "and abs(perceptron_shuffled - perceptron) <= 0.02 and convolutional_shuffled - convolutional >= 0.05",
    measure=measure,
    why="Not measured yet.",
    seconds=16,
    takes=frozenset({"data"}),
)
