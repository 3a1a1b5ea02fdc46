"""Trains and evaluates a classifier, with results that repeat bit for bit for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArgumentError, DataError, build
from .data import Split
from .parameters import parameter_groups

__all__ = ["Epoch", "History", "check", "evaluate", "learning_rate_at", "shifted", "train"]

WARM_UP = 0.2  # the fraction of all steps in which the learning rate rises
EVALUATION_BATCH = 256  # images; limits LeNet-5's largest activation to 16 MB


@dataclass(frozen=True)
class Epoch:
    """The results of one pass over the training images.

    number: from 1; train_loss: mean over the epoch's batches, each before its step; test_loss, test_accuracy (0 to 1):
    after the epoch; learning_rate: of its last step; seconds: training and testing together.
    """

    number: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    learning_rate: float
    seconds: float


class History(list[Epoch]):
    """A list of the epochs of a training, in order.

    >>> history = History([Epoch(1, 2.3, 2.1, 0.5, 0.1, 0.7), Epoch(2, 1.2, 0.9, 0.8, 0.0, 0.7)])
    >>> history.train_loss, history.test_accuracy, history.seconds
    ([2.3, 1.2], [0.5, 0.8], 1.4)
    """

    @property
    def train_loss(self) -> list[float]:
        return [epoch.train_loss for epoch in self]

    @property
    def test_loss(self) -> list[float]:
        return [epoch.test_loss for epoch in self]

    @property
    def test_accuracy(self) -> list[float]:
        return [epoch.test_accuracy for epoch in self]

    @property
    def seconds(self) -> float:
        """The duration of all epochs together."""
        return sum(epoch.seconds for epoch in self)


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """The learning rate of a one-cycle schedule: it rises linearly to its peak over the first fifth of the steps, then
    falls to zero by a cosine.

    .. math:: rate = peak · min(s/w, ½ + ½·cos(π·(s-w)/(T-w))), \\quad s = step + 1, \\; T = steps + 1, \\; w = steps/5

    step: from 0.

    Source: L. N. Smith, N. Topin, "Super-Convergence", 2017; the cosine from I. Loshchilov, F. Hutter, "SGDR", 2016.

    >>> [round(learning_rate_at(step, 10, 1.0), 2) for step in range(10)]
    [0.5, 1.0, 0.97, 0.88, 0.75, 0.59, 0.41, 0.25, 0.12, 0.03]
    """
    done, warm = step + 1, WARM_UP * steps
    if done < warm:
        return peak * done / warm
    return peak * (0.5 + 0.5 * math.cos(math.pi * (done - warm) / (steps + 1 - warm)))


def shifted(images: Tensor, most_px: int, generator: torch.Generator) -> Tensor:
    """Shifts each image by a random whole number of pixels, at most ``most_px`` on each axis, and fills with zeros.

    images: ``(N, C, H, W)``, and so is the result.

    >>> x = torch.eye(3).reshape(1, 1, 3, 3)
    >>> shifted(x, 1, torch.Generator().manual_seed(0)).shape
    torch.Size([1, 1, 3, 3])
    """
    if most_px == 0:
        return images
    n, _, height, width = images.shape
    down, right = torch.randint(0, 2 * most_px + 1, (2, n, 1), generator=generator).unbind()
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    padded = F.pad(images, (most_px,) * 4).permute(0, 2, 3, 1)
    return (
        padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
    )


def check(split: Split, epochs: int, batch_size: int, shift_px: int, numbers: dict[str, float]) -> None:
    """Raises what :func:`train` would raise for these arguments; numbers: learning_rate, momentum and weight_decay."""
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("shift_px", shift_px, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(
                build("train", f"{name} of at least {least}", repr(value), hint=f"Use a whole number from {least} on.")
            )
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
            raise ArgumentError(
                build("train", f"a {name} of 0 or more", repr(number), hint=f"Set {name} to a finite number from 0 on.")
            )
    if numbers["momentum"] >= 1:
        raise ArgumentError(
            build("train", "a momentum below 1", numbers["momentum"], hint="Use 0.9; from 1 on old steps never fade.")
        )
    for part, images, labels in (
        ("training", split.train_images, split.train_labels),
        ("test", split.test_images, split.test_labels),
    ):
        if len(images) == 0 or len(images) != len(labels):
            got = f"{len(images)} images and {len(labels)} labels"
            raise DataError(
                build("train", f"one label for each {part} image, and an image at least", got, hint="Check the split.")
            )


def train(
    model: nn.Module,
    split: Split,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    seed: int,
    on_epoch: Callable[[Epoch], object] | None = None,
    *,
    shift_px: int = 0,
) -> History:
    """Trains a classifier in place by stochastic gradient descent with Nesterov momentum on the cross entropy.

    .. math:: v ← momentum·v + g, \\quad w ← w - rate·(g + momentum·v)

    ``g`` is the batch's mean gradient plus ``weight_decay·w`` (weights only, see :func:`.parameter_groups`); the rate
    follows :func:`learning_rate_at`. Each epoch visits all images once in a new random order. The batches have at most
    ``batch_size`` images and differ in size by one image at most, so that none is too small for batch normalization.

    The same model, split, arguments, seed and number of threads give the same losses bit for bit. The state of torch's
    global random generator is restored. The model may be any that maps images ``(N, C, H, W)`` to scores
    ``(N, classes)``.

    learning_rate: the peak; on_epoch: called after each epoch; shift_px: see :func:`shifted`, 0 for no shifts.

    Raises ArgumentError for a number out of range, or when the loss is no longer finite; DataError for an empty split.

    >>> images, labels = torch.eye(4).reshape(4, 1, 2, 2), torch.arange(4)
    >>> few = Split(images, labels, images, labels)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    >>> history = train(model, few, epochs=20, batch_size=4, learning_rate=2.0, momentum=0.9, weight_decay=0.0, seed=0)
    >>> len(history), history.test_accuracy[-1]
    (20, 1.0)
    """
    rates: dict[str, float] = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    check(split, epochs, batch_size, shift_px, rates)
    count = len(split.train_images)
    batches = -(-count // batch_size)
    optimizer = torch.optim.SGD(
        parameter_groups(model, weight_decay), lr=learning_rate, momentum=momentum, nesterov=momentum > 0
    )
    generator = torch.Generator().manual_seed(seed)
    history = History()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from the global generator
        for number in range(1, epochs + 1):
            start = time.perf_counter()
            model.train()
            total = 0.0
            for step, batch in enumerate(
                torch.randperm(count, generator=generator).tensor_split(batches), (number - 1) * batches
            ):
                rate = learning_rate_at(step, epochs * batches, learning_rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = F.cross_entropy(
                    model(shifted(split.train_images[batch], shift_px, generator)), split.train_labels[batch]
                )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                total += loss.item() * len(batch)
                if not math.isfinite(total):
                    facts = {"epoch": number, "learning_rate": learning_rate}
                    raise ArgumentError(
                        build("train", "a loss that stays finite", loss.item(), hint="Lower learning_rate.", **facts)
                    )
            test_loss, test_accuracy, _ = evaluate(model, split.test_images, split.test_labels)
            epoch = Epoch(number, total / count, test_loss, test_accuracy, rate, time.perf_counter() - start)
            history.append(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
    return history


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float, Tensor]:
    """Returns the mean cross entropy, the fraction of images classified correctly, and the class predicted for each.

    images: ``(N, C, H, W)``; labels: ``(N,)``; predictions: ``(N,)`` int64. The model runs in evaluation mode; the mode
    of each module is restored afterwards. Raises DataError where there are no images, or not one label for each.

    >>> evaluate(nn.Flatten(), torch.eye(2).reshape(2, 1, 1, 2) * 100, torch.tensor([0, 1]))
    (0.0, 1.0, tensor([0, 1]))
    """
    if len(images) == 0 or len(images) != len(labels):
        got = f"{len(images)} images and {len(labels)} labels"
        raise DataError(
            build("evaluate", "one label for each image, and an image at least", got, hint="Check the split.")
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        scores = torch.cat([model(batch) for batch in torch.split(images, EVALUATION_BATCH)])
    finally:
        for module, mode in modes:
            module.training = mode
    predictions = scores.argmax(1)
    return F.cross_entropy(scores, labels).item(), (predictions == labels).double().mean().item(), predictions
