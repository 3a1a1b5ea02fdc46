"""Linear layers: drop-ins for torch.nn's.

``Bilinear`` stays torch's: as a product of matrices it would first have to write ``in1_features`` times as many values
as its output has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import linear as ops
from ..ops.activation import NONE, Activation
from .namesake import Namesake

__all__ = ["LazyLinear", "Linear"]


class Linear(Namesake, torch.nn.Linear):
    r"""A linear layer: each output is a weighted sum of all inputs.

    .. math:: y[r, o] = b[o] + Σ_i x[r, i] · w[o, i]

    Arguments as in ``torch.nn``.

    Shapes: x (\*, in_features), with any leading axes; y (\*, out_features); weight (out_features, in_features); bias
    (out_features,). Both are initialized from U(±1 / √in_features).

    Cost: out_features·(in_features + 1) parameters; out_features·in_features MACs a row.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for inputs that do not fit the layer.

    >>> from striate import nn
    >>> layer = nn.Linear(2, 3)
    >>> layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> layer.bias.data = torch.tensor([100.0, 200.0, 300.0])
    >>> layer(torch.tensor([[1.0, 10.0]])).tolist()
    [[121.0, 243.0, 365.0]]
    """

    def _compute(self, input: Tensor, activation: Activation = NONE) -> Tensor:
        return ops.linear(input, self.weight, self.bias, activation=activation, where=type(self).__name__)


class LazyLinear(torch.nn.LazyLinear, Linear):
    """:class:`Linear` that takes ``in_features`` from its first input, and is one from then on.

    Arguments as in ``torch.nn``.

    Raises as :class:`Linear` does.

    >>> from striate import nn
    >>> layer = nn.LazyLinear(8)
    >>> y = layer(torch.ones(2, 5))
    >>> type(layer).__name__, layer.in_features, y.shape
    ('Linear', 5, torch.Size([2, 8]))
    """

    cls_to_become = Linear
