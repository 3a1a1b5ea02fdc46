"""LeNet-5, the first convolutional network in wide use."""

from __future__ import annotations

from .. import nn
from ..errors import ArgumentError, build

__all__ = ["lenet5"]


def lenet5(classes: int = 10, in_channels: int = 1, size: tuple[int, int] = (28, 28)) -> nn.Sequential:
    """LeNet-5 as it is taught today: two blocks of convolution, ReLU and max pooling, then two linear layers.

    ======== ======================= ============= =============
    layer    operation               output        parameters
    ======== ======================= ============= =============
    input                            (1, 28, 28)
    0        conv 20, 5×5, padding 2 (20, 28, 28)            520
    1        ReLU                    (20, 28, 28)
    2        max 2×2, stride 2       (20, 14, 14)
    3        conv 50, 5×5, padding 2 (50, 14, 14)         25,050
    4        ReLU                    (50, 14, 14)
    5        max 2×2, stride 2       (50, 7, 7)
    6        flatten                 (2450,)
    7        linear                  (500,)            1,225,500
    8        ReLU                    (500,)
    9        linear                  (classes,)  501 per class
    ======== ======================= ============= =============

    classes: number of classes; with ten the model has 1,256,080 parameters. in_channels: C; size: H and W, for which
    the first linear layer has 50·⌊⌊H/2⌋/2⌋·⌊⌊W/2⌋/2⌋ inputs.

    Shapes: x ``(N, C, H, W)`` of that size, scores ``(N, classes)``, before a softmax.

    Raises ArgumentError for a size below 4×4.

    Source: the course notes, section 7.12.1, after Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning
    Applied to Document Recognition", 1998, which had fewer filters, sigmoids and trained subsampling.

    >>> sum(p.numel() for p in lenet5().parameters())
    1256080
    """
    height, width = size
    if min(size) < 4:
        hint = "Use 28×28, or resize the images."
        raise ArgumentError(build("lenet5", "images of at least 4×4 pixels", f"{height}×{width}", hint=hint))
    return nn.Sequential(
        nn.Conv2d(in_channels, 20, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(20, 50, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(50 * (height // 4) * (width // 4), 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )
