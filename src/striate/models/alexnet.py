"""AlexNet, the first convolutional network that won the ImageNet challenge."""

from __future__ import annotations

from collections import OrderedDict

from .. import nn

__all__ = ["alexnet"]


def alexnet(classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """AlexNet in its second form: five convolutions on one processor, without local response normalization, then three
    linear layers.

    ============ ========================================= ============= ========== ===========
    layer        operation                                 output        parameters MACs
    ============ ========================================= ============= ========== ===========
    input                                                  (3, 224, 224)
    features.0   conv 64, 11×11, stride 4, padding 2, ReLU (64, 55, 55)      23,296  70,276,800
    features.2   max 3×3, stride 2                         (64, 27, 27)
    features.3   conv 192, 5×5, padding 2, ReLU            (192, 27, 27)    307,392 223,948,800
    features.5   max 3×3, stride 2                         (192, 13, 13)
    features.6   conv 384, 3×3, padding 1, ReLU            (384, 13, 13)    663,936 112,140,288
    features.8   conv 256, 3×3, padding 1, ReLU            (256, 13, 13)    884,992 149,520,384
    features.10  conv 256, 3×3, padding 1, ReLU            (256, 13, 13)    590,080  99,680,256
    features.12  max 3×3, stride 2                         (256, 6, 6)
    avgpool      average to 6×6                            (256, 6, 6)
    classifier.1 dropout 0.5, linear, ReLU                 (4096,)       37,752,832  37,748,736
    classifier.4 dropout 0.5, linear, ReLU                 (4096,)       16,781,312  16,777,216
    classifier.6 linear                                    (1000,)        4,097,000   4,096,000
    all                                                    (1000,)       61,100,840 714,188,480
    ============ ========================================= ============= ========== ===========

    classes: number of classes; in_channels: C. The table is for one image of three channels and for 1000 classes;
    MACs are those of convolutions and linear layers. Weights are initialized as torch does. ``state_dict`` has
    torchvision's names and shapes.

    Shapes: x ``(N, C, H, W)`` with H and W of at least 63, scores ``(N, classes)``, before a softmax.

    Source: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014; the first form in
    A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model, x = alexnet(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 61100840)
    """
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, classes),
    )
    return nn.Sequential(
        OrderedDict(
            features=features, avgpool=nn.AdaptiveAvgPool2d((6, 6)), flatten=nn.Flatten(), classifier=classifier
        ),
    )
