"""MobileNets: a depthwise convolution filters each channel, a 1×1 convolution mixes the channels."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor

from .. import nn
from ..errors import ArgumentError, build
from ..nn.container import RESIDUAL, SUM
from .initial import he

__all__ = ["InvertedResidual", "mobilenet_v1", "mobilenet_v2"]


def mobilenet_v1(classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """MobileNet: a convolution, then 13 depthwise separable blocks.

    A block is a 3×3 depthwise and a 1×1 convolution. Batch normalization and ReLU follow each convolution.

    =========== ================================= ============== ========== ===========
    layer       operation                         output         parameters MACs
    =========== ================================= ============== ========== ===========
    input                                         (3, 224, 224)
    features.0  conv 32, 3×3, stride 2, padding 1 (32, 112, 112)        928  10,838,016
    features.1  block 64                          (64, 112, 112)      2,528  29,302,784
    features.2  block 128, stride 2               (128, 56, 56)       9,152  27,496,448
    features.3  block 128                         (128, 56, 56)      18,048  54,992,896
    features.4  block 256, stride 2               (256, 28, 28)      34,688  26,593,280
    features.5  block 256                         (256, 28, 28)      68,864  53,186,560
    features.6  block 512, stride 2               (512, 14, 14)     134,912  26,141,696
    features.7  block 512                         (512, 14, 14)     268,800  52,283,392
    features.8  block 512                         (512, 14, 14)     268,800  52,283,392
    features.9  block 512                         (512, 14, 14)     268,800  52,283,392
    features.10 block 512                         (512, 14, 14)     268,800  52,283,392
    features.11 block 512                         (512, 14, 14)     268,800  52,283,392
    features.12 block 1024, stride 2              (1024, 7, 7)      531,968  25,915,904
    features.13 block 1024                        (1024, 7, 7)    1,061,888  51,831,808
    avgpool     average                           (1024, 1, 1)
    classifier  linear                            (1000,)         1,025,000   1,024,000
    all                                           (1000,)         4,231,976 568,740,352
    =========== ================================= ============== ========== ===========

    classes: number of classes; in_channels: C; width: the paper's α, by which every number of channels is
    multiplied and rounded. The table is for one image of three channels, 1000 classes and a width of 1; MACs are those
    of convolutions and linear layers. Convolutions are initialized by :func:`.initial.he`, the linear layer by
    N(0, 0.01²) with bias 0.

    Shapes: x ``(N, C, H, W)``, scores ``(N, classes)``, before a softmax.

    Raises ArgumentError for a width that is not a number above 0.

    Source: A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    2017, table 1.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model, x = mobilenet_v1(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 4231976)
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
        hint = "Use 1, 0.75, 0.5 or 0.25."
        raise ArgumentError(build("mobilenet_v1", "a width above 0", repr(width), hint=hint))

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    channels = scaled(32)
    features = nn.Sequential(_conv(in_channels, channels, 3, 2, nn.ReLU))
    for outputs, stride in [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]:
        depthwise = _conv(channels, channels, 3, stride, nn.ReLU, groups=channels)
        pointwise = _conv(channels, scaled(outputs), 1, 1, nn.ReLU)
        features.append(nn.Sequential(*depthwise, *pointwise))
        channels = scaled(outputs)
    return _classified(features, nn.Sequential(nn.Linear(channels, classes)))


class InvertedResidual(nn.Module):
    r"""A 1×1 convolution to more channels, a depthwise convolution, and a 1×1 convolution to fewer, with a shortcut.

    .. math:: y = bn(conv_{1×1}(relu_6(bn(depthwise_{3×3}(relu_6(bn(conv_{1×1}(x)))))))) + x

    With an expansion of 1 there is no first convolution. Where the shapes of x and y differ there is no sum. No
    activation follows the last norm: a ReLU on few channels would lose information.

    inputs, outputs: channels of x and y; expansion: channels of the depthwise convolution per channel of x; stride: of
    the depthwise convolution.

    Shapes: x ``(N, inputs, H, W)``, y ``(N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)``.

    Source: Sandler et al., 2018, table 1.

    >>> import torch
    >>> InvertedResidual(8, 16, expansion=6, stride=2)(torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 16, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        middle = inputs * expansion
        self.conv = nn.Sequential(
            *([_conv(inputs, middle, 1, 1, nn.ReLU6)] if expansion != 1 else []),
            _conv(middle, middle, 3, stride, nn.ReLU6, groups=middle),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.adds:
            y = y + x  # += would change a tensor that a hook has saved, and a view that a backward hook has made
        return y

    def _chain(self) -> list[nn.Module]:
        return [RESIDUAL, self.conv, SUM] if self.adds else [self.conv]


def mobilenet_v2(classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """MobileNetV2: 17 :class:`InvertedResidual` between two convolutions.

    Batch normalization follows each convolution, and ReLU6 follows that except at the end of a block.

    =========== ================================= ============== ========== ===========
    layer       operation                         output         parameters MACs
    =========== ================================= ============== ========== ===========
    input                                         (3, 224, 224)
    features.0  conv 32, 3×3, stride 2, padding 1 (32, 112, 112)        928  10,838,016
    features.1  block 16, expansion 1             (16, 112, 112)        896  10,035,200
    features.2  block 24, expansion 6, stride 2   (24, 56, 56)        5,136  29,202,432
    features.3  block 24, expansion 6             (24, 56, 56)        8,832  25,740,288
    features.4  block 32, expansion 6, stride 2   (32, 28, 28)       10,000  15,466,752
    features.5  block 32, expansion 6             (32, 28, 28)       14,848  10,988,544
    features.6  block 32, expansion 6             (32, 28, 28)       14,848  10,988,544
    features.7  block 64, expansion 6, stride 2   (64, 14, 14)       21,056   7,564,032
    features.8  block 64, expansion 6             (64, 14, 14)       54,272  10,311,168
    features.9  block 64, expansion 6             (64, 14, 14)       54,272  10,311,168
    features.10 block 64, expansion 6             (64, 14, 14)       54,272  10,311,168
    features.11 block 96, expansion 6             (96, 14, 14)       66,624  12,719,616
    features.12 block 96, expansion 6             (96, 14, 14)      118,272  22,692,096
    features.13 block 96, expansion 6             (96, 14, 14)      118,272  22,692,096
    features.14 block 160, expansion 6, stride 2  (160, 7, 7)       155,264  15,607,872
    features.15 block 160, expansion 6            (160, 7, 7)       320,000  15,476,160
    features.16 block 160, expansion 6            (160, 7, 7)       320,000  15,476,160
    features.17 block 320, expansion 6            (320, 7, 7)       473,920  23,002,560
    features.18 conv 1280, 1×1                    (1280, 7, 7)      412,160  20,070,400
    avgpool     average                           (1280, 1, 1)
    classifier  dropout 0.2, linear               (1000,)         1,281,000   1,280,000
    all                                           (1000,)         3,504,872 300,774,272
    =========== ================================= ============== ========== ===========

    classes: number of classes; in_channels: C. The table is for one image of three channels and for 1000 classes;
    MACs are those of convolutions and linear layers. Convolutions are initialized by :func:`.initial.he`, the linear
    layer by N(0, 0.01²) with bias 0. ``state_dict`` has torchvision's names and shapes.

    Shapes: x ``(N, C, H, W)``, scores ``(N, classes)``, before a softmax.

    Source: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear
    Bottlenecks", 2018, table 2.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model, x = mobilenet_v2(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 3504872)
    """
    channels = 32
    features = nn.Sequential(_conv(in_channels, channels, 3, 2, nn.ReLU6))
    for expansion, outputs, count, first in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for stride in [first] + [1] * (count - 1):
            features.append(InvertedResidual(channels, outputs, expansion, stride))
            channels = outputs
    features.append(_conv(channels, 1280, 1, 1, nn.ReLU6))
    return _classified(features, nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes)))


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, activation: type[nn.ReLU] | type[nn.ReLU6], groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


def _classified(features: nn.Sequential, classifier: nn.Sequential) -> nn.Sequential:
    layers = OrderedDict(
        features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier
    )
    return he(nn.Sequential(layers), linear_std=0.01)
