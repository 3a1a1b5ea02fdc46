"""The mean and variance of a convolution's channels, taken while it wrote them, for the norm behind it."""

from __future__ import annotations

from torch import Tensor

__all__ = ["hand", "take"]


def hand(y: Tensor, statistics: Tensor) -> None:
    """Gives ``y`` its statistics, (2, C), the channels' means and biased variances, on the way out of an
    ``autograd.Function``.
    """
    y._striate_statistics = statistics  # type: ignore[attr-defined]


def take(y: Tensor) -> Tensor | None:
    """What :func:`hand` gave this very tensor; it is ``y``'s no longer. For whoever asked the convolution for it,
    before y is anybody's.

    >>> import torch
    >>> y = torch.zeros(1, 2, 3)
    >>> hand(y, torch.zeros(2, 2))
    >>> take(y) is not None, take(y)
    (True, None)
    """
    statistics: Tensor | None = y.__dict__.pop("_striate_statistics", None)
    return statistics
