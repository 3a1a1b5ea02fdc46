"""Two blocks of convolution, batch normalization, ReLU and max pooling."""

from __future__ import annotations

from .. import nn

__all__ = ["cnn_bn"]


def cnn_bn(in_channels: int = 3) -> nn.Sequential:
    """A feature extractor that shows where batch normalization stands in a convolutional network; it has no classifier.

    ======== ======================= ============ =====================================
    layer    operation               output       parameters
    ======== ======================= ============ =====================================
    input                            (C, H, W)
    0        conv 16, 3×3, padding 1 (16, H, W)   (9·C + 1)·16                    448
    1        batch normalization     (16, H, W)   2·16                             32
    2        ReLU                    (16, H, W)
    3        max 2×2, stride 2       (16, H/2, W/2)
    4        conv 32, 3×3, padding 1 (32, H/2, W/2)                             4,640
    5        batch normalization     (32, H/2, W/2)                                64
    6        ReLU                    (32, H/2, W/2)
    7        max 2×2, stride 2       (32, H/4, W/4)
    ======== ======================= ============ =====================================

    in_channels: C; with C = 3 the model has 5,184 parameters.

    Shapes: x ``(N, C, H, W)``, features ``(N, 32, ⌊⌊H/2⌋/2⌋, ⌊⌊W/2⌋/2⌋)``.

    Source: the course notes on batch normalization in PyTorch.

    >>> import torch
    >>> cnn_bn()(torch.zeros(16, 3, 32, 32)).shape
    torch.Size([16, 32, 8, 8])
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
    )
