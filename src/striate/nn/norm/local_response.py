"""Normalization over neighbouring channels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops import local_response
from ..namesake import Namesake

__all__ = ["LocalResponseNorm"]


class LocalResponseNorm(Namesake, torch.nn.LocalResponseNorm):
    r"""Normalization over neighbouring channels; arguments as in ``torch.nn``.

    .. math:: y_c = x_c / (k + \frac{α}{size} Σ_{j} x_j²)^β, \quad j = c - ⌊size/2⌋ … c + ⌊(size - 1)/2⌋

    Source: Krizhevsky, Sutskever, Hinton, *ImageNet classification with deep convolutional neural networks*, 2012.

    >>> LocalResponseNorm(3)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def _compute(self, input: Tensor) -> Tensor:
        return local_response.response(input, self.size, self.alpha, self.beta, self.k, where=type(self).__name__)
