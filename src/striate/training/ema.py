"""Averaged weights: a moving average of a model's parameters and buffers over the steps of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average", "state_of"]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by name, each once; those that state_dict leaves out too."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class Average:
    r"""The exponential moving average of a model's parameters and floating-point buffers.

    .. math:: a ← a + (1 - d_t)·(w - a), \qquad d_t = \min(d, (1 + t)/(10 + t))

    t counts the steps before, from 0; the rising decay d_t makes the average forget the first weights soon. Whole
    numbers, as a norm's count of batches, are copied.

    decay: d, between 0 and 1; the average begins at the model's weights.

    Source: B. T. Polyak, A. B. Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, for the idea;
    the rising decay is that of TensorFlow's ``ExponentialMovingAverage``.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> average = Average(layer, 0.5)
    >>> _ = nn.init.ones_(layer.weight)
    >>> average.step(0)
    >>> with average.applied():
    ...     round(layer.weight.item(), 6)
    0.9
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._state = state_of(model)
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._state.items()}

    @torch.no_grad()
    def step(self, before: int) -> None:
        """Takes the model's weights into the average. before: the number of steps before this one."""
        keep = min(self.decay, (1 + before) / (10 + before))
        for name, tensor in self._state.items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - keep)
            else:
                self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights and the average, bit for bit."""
        for name, tensor in self._state.items():
            current = tensor.clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(current)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """In this context the model has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
