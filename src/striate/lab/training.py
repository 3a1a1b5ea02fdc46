"""The training loop of the experiments: plain steps of SGD on batches in a seeded order, with looks at some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nn
from ..errors import ArgumentError, build
from ..training.evaluation import evaluation_mode

__all__ = ["SCHEDULES", "accuracy", "batches", "mean_loss", "train_steps"]

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
SCHEDULES: dict[str, Callable[[float], float]] = {  # the share of the rate, by the share of the steps that is done
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
}


def batches(count: int, size: int, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """The indices of so many batches: epoch after epoch in a new order, without the rest that makes no whole batch.

    count: of the samples; size: of a batch, at most count. Yields int64 ``(size,)``.
    Raises ArgumentError for a size that is none.

    >>> [batch.tolist() for batch in batches(5, 2, steps=3, seed=1)]
    [[0, 4], [2, 3], [3, 2]]
    """
    if not 1 <= size <= count:
        hint = "Use a smaller batch or more samples."
        raise ArgumentError(build("batches", f"a size from 1 to the {count} samples", size, hint=hint))
    random = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        order = torch.randperm(count, generator=random)
        for batch in order.split(size)[: min(count // size, steps - done)]:
            done += 1
            yield batch


def train_steps(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int,
    *,
    lr: float,
    batch: int = 64,
    momentum: float = 0.0,
    decay: float = 0.0,
    schedule: str = "constant",
    loss: Loss = F.cross_entropy,
    parameters: Iterable[Any] | None = None,
    seed: int = 0,
    each: int = 1,
    before_step: Callable[[int, Batch], None] | None = None,
    after_step: Callable[[int, Batch], None] | None = None,
) -> list[float]:
    r"""Trains a model in training mode by SGD, and returns the loss of each step before its update.

    .. math:: v ← μv + g + λw, \quad w ← w - η·s·v

    with the rate η, the momentum μ, the decay λ, and s of the schedule: 1, or for "cosine" ½ + ½·cos(π·step/steps). At
    the first loss that is not finite it ends, and that loss is the last one returned.

    x, y: samples and targets, of which batches are drawn by the seed; parameters: what is trained, as parameters or
    groups of them, by default all; before_step, after_step: called with the step's number and its batch at each
    ``each``-th step, from step 0 on: the first before the forward pass, the second after the update.

    Raises ArgumentError for another schedule or batch size.

    >>> from striate.lab.networks import mlp
    >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> losses = train_steps(mlp(4, 16, 1, 2, seed=0), x, (x[:, 0] > 0).long(), 50, lr=0.1)
    >>> len(losses), losses[-1] < losses[0] / 2
    (50, True)
    """
    if schedule not in SCHEDULES:
        hint = "Choose one of these."
        raise ArgumentError(build("train_steps", f"{' or '.join(SCHEDULES)} as schedule", repr(schedule), hint=hint))
    optimizer = torch.optim.SGD(
        model.parameters() if parameters is None else parameters, lr=lr, momentum=momentum, weight_decay=decay
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    losses: list[float] = []
    for step, indices in enumerate(batches(len(x), batch, steps, seed)):
        one = x[indices], y[indices]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * SCHEDULES[schedule](step / steps)
        if before_step is not None and step % each == 0:
            before_step(step, one)
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(one[0]), one[1])
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            break
        value.backward()
        optimizer.step()
        if after_step is not None and step % each == 0:
            after_step(step, one)
    return losses


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_statistics: bool = False) -> float:
    """The share of samples that a model classifies rightly, in evaluation mode; its modes are afterwards as before.

    batch_statistics: norms use those of x instead of the running ones, which stay as they are.

    >>> accuracy(nn.Identity(), torch.eye(2), torch.tensor([0, 0]))
    0.5
    """
    return (_outputs(model, x, batch_statistics).argmax(1) == y).double().mean().item()


def mean_loss(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss = F.cross_entropy, batch_statistics: bool = False
) -> float:
    """The loss of all samples at once, in the modes of :func:`accuracy`.

    >>> round(mean_loss(nn.Identity(), torch.zeros(3, 2), torch.tensor([0, 1, 1])), 4)
    0.6931
    """
    return loss(_outputs(model, x, batch_statistics), y).item()


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor, batch_statistics: bool) -> Tensor:
    if not batch_statistics:
        with evaluation_mode(model):
            return model(x)
    return deepcopy(model).train()(x)
