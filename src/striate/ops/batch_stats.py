"""The mean and variance of a convolution's channels, measured while it wrote them, for the batch norm behind it: they
travel as an attribute of the output from the kernel to the container that called it (see :mod:`.tags`).
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["attach_statistics", "take_statistics"]


def attach_statistics(y: Tensor, statistics: Tensor) -> None:
    """Attaches its statistics to ``y``: (2, C), the channels' means and biased variances."""
    y._striate_statistics = statistics  # type: ignore[attr-defined]


def take_statistics(y: Tensor) -> Tensor | None:
    """The statistics that :func:`attach_statistics` attached to this very tensor, which then has none. For the caller
    that asked the convolution for them, before anybody else sees ``y``.

    >>> import torch
    >>> y = torch.zeros(1, 2, 3)
    >>> attach_statistics(y, torch.zeros(2, 2))
    >>> take_statistics(y) is not None, take_statistics(y)
    (True, None)
    """
    statistics: Tensor | None = y.__dict__.pop("_striate_statistics", None)
    return statistics
