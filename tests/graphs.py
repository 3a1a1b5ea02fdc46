"""Odd networks for tests of graph analyses: one for each way in which tensors are split, joined and moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate.nn as S


class Inception(nn.Module):
    """Branches of windows that contain each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = (
            nn.Conv2d(2, 3, 1),
            nn.Conv2d(2, 3, 3, padding=1),
            nn.Conv2d(2, 3, 5, padding=2),
        )
        self.last = nn.Conv2d(11, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1)
        return self.last(torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1))


class Cross(nn.Module):
    """A row and a column: the set is no product of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.column = nn.Conv2d(1, 2, (1, 5), padding=(0, 2)), nn.Conv2d(1, 2, (5, 1), padding=(2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.row(x) + self.column(x)


class UNet(nn.Module):
    """Down, up by a transposed convolution whose windows leave gaps, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1, dilation=1)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, self.up(self.deep(self.down(x)))], dim=1))


class Gate(nn.Module):
    """Squeeze and excite: every unit sees everything through the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.gate(y.mean((2, 3)))[:, :, None, None]


class Patches(nn.Module):
    """Patches cut out by reshaping, a sequence of them, and back to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 4 * 4, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(n, h // 4 * (w // 4), c * 16)
        return self.embed(x).transpose(1, 2).reshape(n, 8, h // 4, w // 4)


class Repeated(nn.Module):
    """One layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.conv(x) + x
        return x


class Functional(nn.Module):
    """No layers, only functions, with slices that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 2, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split([2, 2], dim=1)
        y = torch.relu(F.conv2d(a[:, :, ::2, 1:], self.weight, padding=1))
        z = F.interpolate(b, size=y.shape[2:], mode="nearest")
        return torch.stack([y.amax(1), z.flip(-1).sum(1)], 1)


class Two(nn.Module):
    """Two inputs of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return F.softplus(self.large(image) + self.small(depth))


class Margins(nn.Module):
    """Padding of its own, odd pooling, an adaptive mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, (2, 1, 0, 3)))
        return F.adaptive_avg_pool2d(F.avg_pool2d(x, 3, 2, ceil_mode=True), (3, 2))


class Shuffled(nn.Module):
    """Groups, shuffled channels, and space made of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = self.a(x).shape
        y = self.a(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.pixel_shuffle(self.b(y), 2)


class Attention(nn.Module):
    """Attention: every position sees every other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.qkv = nn.Conv2d(1, 8, 2, stride=2), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)


class Written(nn.Module):
    """A tensor that is filled part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], 2, x.shape[2], x.shape[3])
        y[:, :, ::2] = self.conv(F.glu(torch.cat([x, x], 1), 1))[:, :, ::2]
        return self.conv(y)


class Interleaved(nn.Module):
    """Interleaves the positions of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.conv(x)], -1).flatten(-2)


class Picked(nn.Module):
    """Rows that are selected one by one, concatenated, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.stack([x[:, :, 3], x[:, :, 0] + x[:, :, 6], x[:, :, 2]], 2))


class Mirrored(nn.Module):
    """Padding made of the image, wider than the windows that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 2, 3, padding=2, padding_mode="replicate"), nn.Conv2d(2, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(F.pad(x, (4, 1, 3, -1), mode="reflect")))


class Aliased(nn.Module):
    """Views of a tensor that is written into after they were made, by itself and by another view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).clone()
        top, bottom = y[:, :, :-1], y[:, :, 1:]
        y.add_(self.conv(self.conv(x)))
        bottom.add_(self.wide(x)[:, :, 1:])
        return top + bottom


class Cumulative(nn.Module):
    """Cumulative sums, and windows without a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).cumsum(2).unfold(3, 3, 2).amax(-1)


def local() -> nn.Module:
    return nn.Sequential(S.LocallyConnected2d(2, 3, (9, 8), 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 2))


def bilinear() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 1, 3, padding=1)
    )


def enlarged() -> nn.Module:
    """By a factor of which 41 are 0.99999994 in float32, not 1."""
    return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Upsample((82, 9)))


def sparse() -> nn.Module:
    """A transposed convolution with fewer taps than its stride: some outputs see nothing."""
    return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ConvTranspose2d(1, 1, 2, stride=3))


def wave() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 4, 7, stride=3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 4, 3, dilation=4, padding=4)
    )


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, (1, 3, 3), padding=(0, 1, 1)), nn.AvgPool3d((1, 2, 2)), nn.Conv3d(2, 2, (3, 1, 1))
    )


# By name, the constructor and the shapes of the inputs.
GRAPHS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "inception": (Inception, (1, 2, 15, 13)),
    "cross": (Cross, (1, 1, 11, 12)),
    "unet": (UNet, (1, 1, 16, 12)),
    "gate": (Gate, (1, 3, 9, 8)),
    "patches": (Patches, (1, 3, 16, 12)),
    "repeated": (Repeated, (1, 2, 21, 17)),
    "functional": (Functional, (1, 4, 12, 13)),
    "two": (Two, ((1, 3, 20, 16), (1, 1, 5, 4))),
    "margins": (Margins, (1, 1, 19, 22)),
    "shuffled": (Shuffled, (1, 4, 9, 10)),
    "attention": (Attention, (1, 1, 8, 6)),
    "written": (Written, (1, 2, 8, 7)),
    "interleaved": (Interleaved, (1, 1, 6, 5)),
    "picked": (Picked, (1, 1, 8, 6)),
    "mirrored": (Mirrored, (1, 1, 9, 8)),
    "aliased": (Aliased, (1, 1, 9, 8)),
    "cumulative": (Cumulative, (1, 1, 7, 11)),
    "enlarged": (enlarged, (1, 1, 2, 5)),
    "local": (local, (1, 2, 9, 8)),
    "bilinear": (bilinear, (1, 1, 15, 19)),
    "sparse": (sparse, (1, 1, 7, 6)),
    "wave": (wave, (1, 1, 90)),
    "volume": (volume, (1, 1, 5, 8, 6)),
}
