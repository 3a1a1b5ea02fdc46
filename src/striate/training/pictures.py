"""Pictures of a trained network within a page: images, the filters of its first layer, and the maps of its layers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..render.numbers import sizes
from ..render.png import data_uri
from .units import activations, look

__all__ = ["Picture", "confusion", "feature_maps", "filters", "image"]

IMAGE_PX = 96  # the longer side of an image, at most
MAP_PX = 56  # the longer side of a map, at most
MOST_MAPS, MAP_COLUMNS = 16, 8
MOST_FILTERS, FILTER_COLUMNS = 64, 16
MOST_LAYERS = 10  # whose maps are shown
RIGHT, WRONG = (31, 111, 180), (217, 102, 31)  # answers, as the figures have them
RED, BLUE = (178, 24, 43), (33, 102, 172)  # of weights above and below zero, as the figures have them


class Picture(NamedTuple):
    """A picture as a page has it: its address, what it shows, and its size in pixels."""

    name: str
    about: str
    address: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        """Whether its pixels are to be seen as squares."""
        return max(self.width, self.height) < IMAGE_PX


def image(pixels: Tensor, name: str = "", about: str = "") -> Picture:
    """An image, uint8 ``(C, H, W)`` of one or three channels, made smaller if it is large."""
    scale = IMAGE_PX / max(pixels.shape[1:])
    if scale < 1:
        size = [max(1, round(scale * side)) for side in pixels.shape[1:]]
        pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    return _picture(pixels.permute(1, 2, 0), name, about)


def confusion(right: Tensor, wrong: Tensor) -> Picture:
    """A confusion matrix, a pixel a cell, as :func:`.evaluation.confusion_blocks` gives it: its colour tells whether
    there are more right answers or mistakes, the opacity is the share of the images of its row.
    """
    share = (right + wrong) / (right + wrong).sum(1, keepdim=True).clamp(min=1)
    is_wrong = wrong > right
    colors = torch.where(is_wrong[..., None], torch.tensor(WRONG), torch.tensor(RIGHT))
    opacity = torch.where(is_wrong, 0.4 + 0.6 * (4 * share).clamp(max=1), share)
    return _picture(torch.cat([colors, 255 * opacity[..., None]], 2), "", "")


def filters(model: nn.Module, channels: int, size: tuple[int, int]) -> Picture | None:
    """The weight of a model's first layer, a tile a filter; None if it does not see images of ``channels`` and
    ``size``.

    Filters on three channels are tiles in their colours, grey at zero. Others are red above and blue below zero, a tile
    for each filter and channel. Rows of a linear layer are shaped as the images.
    """
    weight = next((p.detach().float() for p in model.parameters() if p.ndim > 1), torch.empty(0))
    if weight.ndim == 2 and weight.shape[1] == channels * math.prod(size):
        weight = weight.reshape(-1, channels, *size)
    if weight.ndim != 4 or weight.shape[1] != channels:
        return None
    shown = weight[:MOST_FILTERS]
    largest = float(shown.abs().max()) or 1.0
    if channels == 3:
        tiles = (127.5 * (1 + shown / largest)).permute(0, 2, 3, 1)
    else:
        tiles = _diverging((shown / largest).flatten(0, 1))
    count = f"{len(shown)} of {len(weight)}" if len(shown) < len(weight) else f"{len(weight)}"
    about = f"{count} filters of {sizes(weight.shape[2:])} px on {channels} channel" + "s" * (channels > 1)
    columns = next((c for c in range(FILTER_COLUMNS, MAP_COLUMNS, -1) if len(tiles) % c == 0), FILTER_COLUMNS)
    return _picture(_mosaic(tiles, columns), "", about)


def _diverging(values: Tensor) -> Tensor:
    """Values from -1 to 1, ``(M, h, w)``, as colours ``(M, h, w, 3)``: blue, white at zero, red."""
    ends = torch.where(values[..., None] > 0, torch.tensor(RED), torch.tensor(BLUE))
    return 255 - values.abs()[..., None] * (255 - ends)


def feature_maps(model: nn.Module, x: Tensor) -> list[Picture]:
    """What layers of a model make of one image ``(1, C, H, W)``: the first 16 maps of some activations at even
    intervals, or of other layers where a model has no activations that are layers.

    The grey values of a layer go from the least to the largest value of its maps.
    """
    found: list[tuple[str, Tensor]] = []

    def see(name: str, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps = output[0, :MOST_MAPS].detach().float()
            scale = MAP_PX / max(maps.shape[1:])
            if scale < 1:
                size = [max(1, round(scale * side)) for side in maps.shape[1:]]
                maps = F.interpolate(maps[None], size, mode="area")[0]
            about = f"{len(maps)} of {output.shape[1]} maps of {sizes(output.shape[2:])}"
            found.append((f"{name}\0{about}", maps.clone()))

    look(model, x, activations(model), see)
    if not found:
        leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
        look(model, x, leaves, see)
    last = len(found) - 1
    places = sorted({round(k * last / (MOST_LAYERS - 1)) for k in range(MOST_LAYERS)}) if last >= MOST_LAYERS else None
    pictures = []
    for place in range(len(found)) if places is None else places:
        label, maps = found[place]
        name, _, about = label.partition("\0")
        low, high = float(maps.min()), float(maps.max())
        tiles = (255 * (maps - low) / (high - low if high > low else 1.0))[..., None]
        pictures.append(_picture(_mosaic(tiles, MAP_COLUMNS), name, about))
    return pictures


def _mosaic(tiles: Tensor, columns: int) -> Tensor:
    """Tiles ``(M, h, w, c)`` in rows, with transparent lines between them: ``(H, W, c + 1)``, the last the opacity."""
    count, height, width, channels = tiles.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    gap = 1 if max(height, width) <= 16 else 2
    whole = torch.zeros(rows * (height + gap) - gap, columns * (width + gap) - gap, channels + 1)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        whole[top : top + height, left : left + width, :channels] = tile
        whole[top : top + height, left : left + width, channels] = 255
    return whole


def _picture(pixels: Tensor, name: str, about: str) -> Picture:
    values = np.ascontiguousarray(pixels.round().clamp(0, 255).to(torch.uint8).numpy())
    return Picture(name, about, data_uri(values), values.shape[1], values.shape[0])
