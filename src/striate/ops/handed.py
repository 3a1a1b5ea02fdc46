"""The mean and variance of a convolution's channels, taken while it wrote them and handed to the norm behind it with its output."""

from __future__ import annotations

from torch import Tensor

__all__ = ["hand", "handed"]


def hand(y: Tensor, statistics: Tensor) -> None:
    """Gives ``y`` its statistics: (2, C), the channels' means and biased variances."""
    if not y.is_inference():  # such tensors do not count their changes
        y._striate_statistics = (statistics, y._version)  # type: ignore[attr-defined]


def handed(x: Tensor) -> Tensor | None:
    """What :func:`hand` gave this very tensor, unless it was changed since.

    >>> import torch
    >>> y = torch.zeros(1, 2, 3)
    >>> hand(y, torch.zeros(2, 2))
    >>> handed(y) is not None, handed(y.view(1, 2, 3)), handed(y.add_(1))
    (True, None, None)
    """
    statistics, version = getattr(x, "_striate_statistics", (None, 0))
    return statistics if statistics is not None and x._version == version else None
