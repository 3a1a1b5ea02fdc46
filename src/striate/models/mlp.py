"""A multi-layer perceptron with batch normalization."""

from __future__ import annotations

from .. import nn

__all__ = ["mlp_bn"]


def mlp_bn(inputs: int = 784, hidden: int = 100, classes: int = 10) -> nn.Sequential:
    """A minimal network with batch normalization, between a linear layer and its ReLU.

    ======== ==================== ============ ================================
    layer    operation            output       parameters
    ======== ==================== ============ ================================
    input                         (inputs,)
    0        linear               (hidden,)    (inputs + 1)·hidden      78,500
    1        batch normalization  (hidden,)    2·hidden                    200
    2        ReLU                 (hidden,)
    3        linear               (classes,)   (hidden + 1)·classes      1,010
    ======== ==================== ============ ================================

    inputs, hidden, classes: features of the input, the hidden layer and the output; with the defaults the model has
    79,710 parameters.

    Shapes: x ``(N, inputs)``, scores ``(N, classes)``. In training N is at least 2: one value has no variance.

    Source: the course notes on batch normalization in PyTorch.

    >>> sum(p.numel() for p in mlp_bn().parameters())
    79710
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
