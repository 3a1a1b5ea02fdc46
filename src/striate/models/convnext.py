"""ConvNeXt: a residual network with design choices of vision transformers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from torch.nn import init

from .. import nn
from ..errors import ArgumentError, build

__all__ = ["Block", "StochasticDepth", "convnext_tiny"]


class StochasticDepth(nn.Module):
    r"""Drops a residual branch for random samples in training, for which the network is then shallower; it is the
    identity in evaluation.

    .. math:: y_n = x_n·b_n/(1 - p), \quad b_n ∼ Bernoulli(1 - p)

    p: the probability that a sample is dropped, at least 0 and below 1.

    Shapes: x and y ``(N, …)``. Raises ArgumentError for another p.

    Source: G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep Networks with Stochastic Depth", 2016. The paper
    scales the branch by 1 - p in evaluation, this layer by 1/(1 - p) in training.

    >>> _ = torch.manual_seed(0)
    >>> layer, x = StochasticDepth(0.5), torch.ones(6, 2)
    >>> layer(x)[:, 0].unique(), bool((layer.eval()(x) == x).all())
    (tensor([0., 2.]), True)
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
            hint = "Use 0.1; 1 would drop every sample."
            raise ArgumentError(build("StochasticDepth", "a p of 0 or more and below 1", repr(p), hint=hint))
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        mask = x.new_empty([x.shape[0]] + [1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * mask.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Permute(nn.Module):
    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.axes))


class Block(nn.Module):
    r"""A depthwise 7×7 convolution, then a perceptron on the channels at each position, scaled and added to the input.

    .. math:: y = x + drop(λ_c·(W_2·gelu(W_1·norm(depthwise_{7×7}(x)) + b_1) + b_2))

    The perceptron's hidden layer has four times the channels. λ, one for each channel, is initialized to 10⁻⁶, so that
    a new block is nearly the identity. drop: see :class:`StochasticDepth`.

    channels: of x and y; p: the probability that the branch is dropped for a sample in training.

    Shapes: x and y ``(N, channels, H, W)``.

    Source: Liu et al., 2022, figure 4.

    >>> Block(8)(torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 8, 7, 7])
    """

    def __init__(self, channels: int, p: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            _Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            _Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.stochastic_depth = StochasticDepth(p)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


def convnext_tiny(classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """ConvNeXt-T: stages of 3, 3, 9 and 3 :class:`Block`, with a norm and a 2×2 convolution between two stages.

    ========== ============================= ============= ========== =============
    layer      operation                     output        parameters MACs
    ========== ============================= ============= ========== =============
    input                                    (3, 224, 224)
    features.0 conv 96, 4×4, stride 4; norm  (96, 56, 56)       4,896    14,450,688
    features.1 3 blocks                      (96, 56, 56)     237,888   737,888,256
    features.2 norm; conv 192, 2×2, stride 2 (192, 28, 28)     74,112    57,802,752
    features.3 3 blocks                      (192, 28, 28)    918,144   715,760,640
    features.4 norm; conv 384, 2×2, stride 2 (384, 14, 14)    295,680    57,802,752
    features.5 9 blocks                      (384, 14, 14) 10,817,280 2,114,090,496
    features.6 norm; conv 768, 2×2, stride 2 (768, 7, 7)    1,181,184    57,802,752
    features.7 3 blocks                      (768, 7, 7)   14,289,408   699,164,928
    avgpool    average                       (768, 1, 1)
    classifier norm, linear                  (1000,)          770,536       768,000
    all                                      (1000,)       28,589,128 4,455,531,264
    ========== ============================= ============= ========== =============

    classes: number of classes; in_channels: C. The table is for one image of three channels and for 1000 classes;
    MACs are those of convolutions and linear layers. Block i of 18, from 0, is dropped with p = 0.1·i/17 in training.
    Weights are drawn from N(0, 0.02²), truncated at ±2; biases are 0. ``state_dict`` has torchvision's names and
    shapes.

    Shapes: x ``(N, C, H, W)`` with H and W of at least 32, scores ``(N, classes)``, before a softmax.

    Source: Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie, "A ConvNet for the 2020s", 2022.

    >>> with torch.device("meta"):
    ...     model, x = convnext_tiny(), torch.empty(2, 3, 224, 224)
    >>> model(x).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 1000]), 28589128)
    """
    stages = [(96, 3), (192, 3), (384, 9), (768, 3)]
    last = sum(count for _, count in stages) - 1
    features = nn.Sequential(nn.Sequential(nn.Conv2d(in_channels, 96, 4, 4), nn.LayerNorm2d(96)))
    before, done = 96, 0
    for channels, count in stages:
        if channels != before:
            features.append(nn.Sequential(nn.LayerNorm2d(before), nn.Conv2d(before, channels, 2, 2)))
        features.append(nn.Sequential(*(Block(channels, 0.1 * number / last) for number in range(done, done + count))))
        before, done = channels, done + count
    classifier = nn.Sequential(nn.LayerNorm2d(before), nn.Flatten(), nn.Linear(before, classes))
    model = nn.Sequential(OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), classifier=classifier))
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
    return model
