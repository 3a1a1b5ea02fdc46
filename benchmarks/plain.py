"""ResNet-18 and MobileNetV2 as commonly written: torch's layers and a ``forward`` that calls them one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and channels == filters
        self.downsample = (
            None
            if same
            else nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += shortcut
        z: Tensor = self.relu(y)
        return z


class ResNet18(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = (
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.maxpool, self.avgpool = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
        sizes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.layers = nn.ModuleList(nn.Sequential(Residual(c, f, s), Residual(f, f, 1)) for c, f, s in sizes)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return y


class ConvBNReLU(nn.Sequential):
    def __init__(self, channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        convolution = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(filters), nn.ReLU6(inplace=True))


class Inverted(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels * expand
        widening = [ConvBNReLU(channels, wide, 1)] if expand > 1 else []
        narrowing = [nn.Conv2d(wide, filters, 1, bias=False), nn.BatchNorm2d(filters)]
        self.conv = nn.Sequential(*widening, ConvBNReLU(wide, wide, 3, stride, wide), *narrowing)
        self.adds = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = [ConvBNReLU(3, 32, 3, 2)]
        channels = 32
        rows = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for expand, filters, count, stride in rows:
            for k in range(count):
                features.append(Inverted(channels, filters, stride if k == 0 else 1, expand))
                channels = filters
        features.append(ConvBNReLU(320, 1280, 1))
        self.features, self.classifier = (
            nn.Sequential(*features),
            nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return y


NETWORKS = {"resnet18": ResNet18, "mobilenet_v2": MobileNetV2}
