"""VGG: deep networks of 3×3 convolutions and max pooling."""

from __future__ import annotations

from collections import OrderedDict

from .. import nn
from .initial import he

__all__ = ["vgg11_bn"]


def vgg11_bn(classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-11, the paper's configuration A, with batch normalization after each convolution.

    ============ ========================= =============== =========== =============
    layer        operation                 output          parameters  MACs
    ============ ========================= =============== =========== =============
    input                                  (3, 224, 224)
    features.0   conv 64, 3×3, padding 1   (64, 224, 224)        1,792    86,704,128
    features.1   batch normalization, ReLU (64, 224, 224)          128
    features.3   max 2×2, stride 2         (64, 112, 112)
    features.4   conv 128, 3×3, padding 1  (128, 112, 112)      73,856   924,844,032
    features.5   batch normalization, ReLU (128, 112, 112)         256
    features.7   max 2×2, stride 2         (128, 56, 56)
    features.8   conv 256, 3×3, padding 1  (256, 56, 56)       295,168   924,844,032
    features.9   batch normalization, ReLU (256, 56, 56)           512
    features.11  conv 256, 3×3, padding 1  (256, 56, 56)       590,080 1,849,688,064
    features.12  batch normalization, ReLU (256, 56, 56)           512
    features.14  max 2×2, stride 2         (256, 28, 28)
    features.15  conv 512, 3×3, padding 1  (512, 28, 28)     1,180,160   924,844,032
    features.16  batch normalization, ReLU (512, 28, 28)         1,024
    features.18  conv 512, 3×3, padding 1  (512, 28, 28)     2,359,808 1,849,688,064
    features.19  batch normalization, ReLU (512, 28, 28)         1,024
    features.21  max 2×2, stride 2         (512, 14, 14)
    features.22  conv 512, 3×3, padding 1  (512, 14, 14)     2,359,808   462,422,016
    features.23  batch normalization, ReLU (512, 14, 14)         1,024
    features.25  conv 512, 3×3, padding 1  (512, 14, 14)     2,359,808   462,422,016
    features.26  batch normalization, ReLU (512, 14, 14)         1,024
    features.28  max 2×2, stride 2         (512, 7, 7)
    avgpool      average to 7×7            (512, 7, 7)
    classifier.0 linear, ReLU, dropout 0.5 (4096,)         102,764,544   102,760,448
    classifier.3 linear, ReLU, dropout 0.5 (4096,)          16,781,312    16,777,216
    classifier.6 linear                    (1000,)           4,097,000     4,096,000
    all                                    (1000,)         132,868,840 7,609,090,048
    ============ ========================= =============== =========== =============

    classes: number of classes; in_channels: C. The table is for one image of three channels and for 1000 classes;
    MACs are those of convolutions and linear layers. Convolutions are initialized by :func:`.initial.he`, linear
    layers by N(0, 0.01²) with bias 0. ``state_dict`` has torchvision's names and shapes.

    Shapes: x ``(N, C, H, W)`` with H and W of at least 32, scores ``(N, classes)``, before a softmax.

    Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, which
    has no batch normalization.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model, x = vgg11_bn(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 132868840)
    """
    features = nn.Sequential()
    channels = in_channels
    for stage in ([64], [128], [256, 256], [512, 512], [512, 512]):
        for width in stage:
            features.extend([nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()])
            channels = width
        features.append(nn.MaxPool2d(2, 2))
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, classes),
    )
    model = nn.Sequential(
        OrderedDict(
            features=features, avgpool=nn.AdaptiveAvgPool2d((7, 7)), flatten=nn.Flatten(), classifier=classifier
        ),
    )
    return he(model, linear_std=0.01)
