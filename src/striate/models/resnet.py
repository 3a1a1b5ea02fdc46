"""Residual networks, whose blocks learn what to add to their input."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from .. import nn
from .._renamed import accept_old_names
from ..errors import ArgumentError, build
from ..nn.container import Intermediate, run
from .initial import he

__all__ = ["BasicBlock", "ResNetBottleneck", "resnet18", "resnet50", "resnet_cifar"]


class BasicBlock(nn.Module):
    r"""Two 3×3 convolutions with a shortcut.

    .. math:: y = relu(bn_2(conv_2(relu(bn_1(conv_1(x))))) + shortcut(x))

    The shortcut, ``downsample``, is the identity where x and y have one shape, else a 1×1 convolution and batch
    normalization.

    inputs: channels of x; width: channels of both convolutions and y; stride: of the first convolution and the
    shortcut.

    Shapes: x ``(N, inputs, H, W)``, y ``(N, width, ⌈H/stride⌉, ⌈W/stride⌉)``.

    Source: He et al., 2016, figure 5, left.

    >>> import torch
    >>> BasicBlock(8, 16, stride=2)(torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 16, 4, 4])
    """

    widening = 1  # channels of y divided by width

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + self.downsample(x))
        else:
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        layers = [self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.relu]
        return run(layers, Intermediate(x), lambda: run([self.downsample], Intermediate(x))).value


class ResNetBottleneck(nn.Module):
    r"""A 1×1 convolution to fewer channels, a 3×3 convolution, and a 1×1 convolution to four times as many, with a
    shortcut.

    .. math:: y = relu(bn_3(conv_3(relu(bn_2(conv_2(relu(bn_1(conv_1(x))))))) + shortcut(x))

    The 3×3 convolution has the stride, so that every input is read. In the paper the first convolution has it and reads
    only every second row and column.

    inputs: channels of x; width: channels of the first two convolutions, a quarter of y's; stride: of the second
    convolution and the shortcut.

    Shapes: x ``(N, inputs, H, W)``, y ``(N, 4·width, ⌈H/stride⌉, ⌈W/stride⌉)``.

    Source: He et al., 2016, figure 5, right; the position of the stride from S. Gross, M. Wilber, "Training and
    investigating residual nets", 2016.

    >>> import torch
    >>> ResNetBottleneck(16, 8, stride=2)(torch.zeros(2, 16, 7, 7)).shape
    torch.Size([2, 32, 4, 4])
    """

    widening = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * self.widening
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
            return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        else:
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        layers = [self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.relu, self.conv3, self.bn3, self.relu]
        return run(layers, Intermediate(x), lambda: run([self.downsample], Intermediate(x))).value


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def resnet18(classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """ResNet-18: four stages of two :class:`BasicBlock` each.

    ======= ================================= ============== ========== =============
    layer   operation                         output         parameters MACs
    ======= ================================= ============== ========== =============
    input                                     (3, 224, 224)
    conv1   conv 64, 7×7, stride 2, padding 3 (64, 112, 112)      9,408   118,013,952
    bn1     batch normalization, ReLU         (64, 112, 112)        128
    maxpool max 3×3, stride 2, padding 1      (64, 56, 56)
    layer1  2 blocks of width 64              (64, 56, 56)      147,968   462,422,016
    layer2  2 blocks of width 128             (128, 28, 28)     525,568   411,041,792
    layer3  2 blocks of width 256             (256, 14, 14)   2,099,712   411,041,792
    layer4  2 blocks of width 512             (512, 7, 7)     8,393,728   411,041,792
    avgpool average                           (512, 1, 1)
    fc      linear                            (1000,)           513,000       512,000
    all                                       (1000,)        11,689,512 1,814,073,344
    ======= ================================= ============== ========== =============

    classes: number of classes; in_channels: C. The table is for one image of three channels and for 1000 classes;
    MACs are those of convolutions and linear layers. Convolutions are initialized by :func:`.initial.he`.
    ``state_dict`` has torchvision's names and shapes.

    Shapes: x ``(N, C, H, W)``, scores ``(N, classes)``, before a softmax.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2016, table 1; shortcuts of
    option B.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model, x = resnet18(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 11689512)
    """
    return _resnet(_stem(in_channels), BasicBlock, [64, 128, 256, 512], [2, 2, 2, 2], classes)


def resnet50(classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """ResNet-50: four stages of 3, 4, 6 and 3 :class:`ResNetBottleneck`.

    ======= ================================= ============== ========== =============
    layer   operation                         output         parameters MACs
    ======= ================================= ============== ========== =============
    input                                     (3, 224, 224)
    conv1   conv 64, 7×7, stride 2, padding 3 (64, 112, 112)      9,408   118,013,952
    bn1     batch normalization, ReLU         (64, 112, 112)        128
    maxpool max 3×3, stride 2, padding 1      (64, 56, 56)
    layer1  3 blocks of width 64              (256, 56, 56)     215,808   667,942,912
    layer2  4 blocks of width 128             (512, 28, 28)   1,219,584 1,027,604,480
    layer3  6 blocks of width 256             (1024, 14, 14)  7,098,368 1,464,336,384
    layer4  3 blocks of width 512             (2048, 7, 7)   14,964,736   809,238,528
    avgpool average                           (2048, 1, 1)
    fc      linear                            (1000,)         2,049,000     2,048,000
    all                                       (1000,)        25,557,032 4,089,184,256
    ======= ================================= ============== ========== =============

    classes: number of classes; in_channels: C. The table is for one image of three channels and for 1000 classes;
    MACs are those of convolutions and linear layers. Convolutions are initialized by :func:`.initial.he`.
    ``state_dict`` has torchvision's names and shapes.

    Shapes: x ``(N, C, H, W)``, scores ``(N, classes)``, before a softmax.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2016, table 1; shortcuts of
    option B.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model, x = resnet50(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 25557032)
    """
    return _resnet(_stem(in_channels), ResNetBottleneck, [64, 128, 256, 512], [3, 4, 6, 3], classes)


def resnet_cifar(classes: int = 10, in_channels: int = 3, layers: int = 20) -> nn.Sequential:
    """The small ResNet for small images: 6n + 2 layers in three stages of n :class:`BasicBlock`, with pooling only at
    the end.

    ======= ========================= ============ ========== ==========
    layer   operation                 output       parameters MACs
    ======= ========================= ============ ========== ==========
    input                             (3, 32, 32)
    conv1   conv 16, 3×3, padding 1   (16, 32, 32)        432    442,368
    bn1     batch normalization, ReLU (16, 32, 32)         32
    layer1  3 blocks of width 16      (16, 32, 32)     14,016 14,155,776
    layer2  3 blocks of width 32      (32, 16, 16)     51,648 13,107,200
    layer3  3 blocks of width 64      (64, 8, 8)      205,696 13,107,200
    avgpool average                   (64, 1, 1)
    fc      linear                    (10,)               650        640
    all                               (10,)           272,474 40,813,184
    ======= ========================= ============ ========== ==========

    classes: number of classes; in_channels: C; layers: 6n + 2, in the paper 20, 32, 44, 56 and 110; the two 1×1
    shortcuts do not count. The table is for one image of three channels, ten classes and 20 layers; MACs are those of
    convolutions and linear layers. Convolutions are initialized by :func:`.initial.he`.

    Shapes: x ``(N, C, H, W)``, of any size, scores ``(N, classes)``, before a softmax.

    Raises ArgumentError for another number of layers.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2. The
    paper's shortcuts pad with zero channels (option A); these are 1×1 convolutions where the shape changes (option B),
    which adds 2,752 parameters.

    >>> import torch
    >>> model = resnet_cifar()
    >>> model(torch.zeros(2, 3, 32, 32)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 272474)
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 8 or layers % 6 != 2:
        hint = "Use 20, 32, 44, 56 or 110."
        raise ArgumentError(build("resnet_cifar", "6n + 2 layers, n from 1 on", repr(layers), hint=hint))
    stem: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(16),
        "relu": nn.ReLU(),
    }
    return _resnet(stem, BasicBlock, [16, 32, 64], [layers // 6] * 3, classes)


def _stem(in_channels: int) -> dict[str, nn.Module]:
    return {
        "conv1": nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, 2, padding=1),
    }


def _resnet(
    layers: dict[str, nn.Module],
    block: type[BasicBlock] | type[ResNetBottleneck],
    widths: list[int],
    blocks: list[int],
    classes: int,
) -> nn.Sequential:
    """Appends stages and the classifier to the stem ``layers``; each stage but the first halves the image."""
    channels = widths[0]  # the stem's
    for number, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        stage = nn.Sequential()
        for stride in [1 if number == 1 else 2] + [1] * (count - 1):
            stage.append(block(channels, width, stride))
            channels = width * block.widening
        layers[f"layer{number}"] = stage
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    return he(nn.Sequential(OrderedDict(layers)))

accept_old_names(__name__)
