"""``python:package.module:callable``: a torch Dataset that the callable returns, or a pair of them.

Each item is an image and its label: an image of Pillow, an array ``(H, W)`` or ``(H, W, C)``, or a tensor ``(H, W)`` or
``(C, H, W)``; uint8, or floating-point from 0 to 1. Every item is asked for once at first, for its size and its label,
and again whenever it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, build, describe_error
from .dataset import DataSet, Decoded, Part, Request, class_names, split_part
from .images import pixels_of

__all__ = ["read"]

ITEM = "Give an image (uint8, or floats from 0 to 1, in 1 or 3 channels) and a whole number from 0 on as its label."


@dataclass(frozen=True)
class _Items:
    """Gives the image of an item of a Dataset."""

    name: str
    items: Any
    channels: int

    def __call__(self, index: int) -> Tensor:
        image = _item(self.name, self.items, index)[0]
        return image.expand(self.channels, -1, -1) if image.shape[0] == 1 else image


def read(request: Request) -> DataSet:
    """Calls the callable without arguments."""
    module, _, name = request.rest.partition(":")
    if not module or not name:
        hint = "Write as python:mypackage.mymodule:make_data."
        raise DataError(build(request.kind, "package.module:callable", repr(request.rest), hint=hint))
    made = _call(request.rest, module, name)
    both = made if isinstance(made, tuple) else (made,)
    if len(both) not in (1, 2) or not all(hasattr(one, "__len__") and hasattr(one, "__getitem__") for one in both):
        got = f"{len(both)} values" if len(both) > 2 else type(made).__name__
        hint = "Return one, or one for training and one for testing."
        raise DataError(build(request.kind, f"a Dataset with a length, or a pair of them, from {request.rest}", got,
                              hint=hint))  # fmt: skip
    scanned = [_scan(f"{request.rest} ({part})", items) for part, items in zip(("train", "test"), both, strict=False)]
    channels = max(channels for channels, _, _ in scanned)
    numbers = sorted({label for _, _, labels in scanned for label in labels})
    given: Any = getattr(both[0], "classes", None)
    is_named = isinstance(given, list | tuple) and all(isinstance(one, str) for one in given) and numbers
    if is_named and numbers[-1] < len(given) and len(set(given)) == len(given):
        names, place = tuple(given), {number: number for number in numbers}
    else:
        names = class_names(map(str, numbers))
        place = {int(text): number for number, text in enumerate(names)}
    parts = {}
    for part, items, (_, sizes, labels) in zip(("train", "test"), both, scanned, strict=False):
        called = [f"item {index} of {request.rest} ({part})" for index in range(len(labels))]
        images = Decoded(_Items(request.rest, items, channels), channels, sizes, called, torch.arange(len(labels)))
        parts[part] = Part(images, torch.tensor([place[label] for label in labels], dtype=torch.int64))
    if len(parts) == 1:
        parts = split_part(parts["train"], request.seed)
    return DataSet(request.kind, names, parts)


def _call(text: str, module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found()
    except (Exception, SystemExit) as error:  # whatever the called code raises
        hint = f"Call {module}.{name}() in Python to see all of it."
        raise DataError(build("python", f"data from {text}", describe_error(error), hint=hint)) from error


def _scan(name: str, items: Any) -> tuple[int, Sequence[tuple[int, int]], Sequence[int]]:
    """The channels, the sizes and the labels of all items."""
    channels, sizes, labels = 1, [], []
    for index in range(len(items)):
        image, label = _item(name, items, index)
        channels = max(channels, image.shape[0])
        sizes.append((image.shape[1], image.shape[2]))
        labels.append(label)
    return channels, sizes, labels


def _item(name: str, items: Any, index: int) -> tuple[Tensor, int]:
    """An item's image, uint8 ``(C, H, W)``, and its label."""
    try:
        image, label = items[index]
        if hasattr(image, "getbands"):
            image = pixels_of(image, 1 if len(image.getbands()) == 1 and image.mode != "P" else 3)
        elif isinstance(image, np.ndarray):
            image = torch.from_numpy(np.ascontiguousarray(image if image.ndim != 3 else image.transpose(2, 0, 1)))
        image, number = torch.as_tensor(image), int(label)
        is_exact = not isinstance(label, float) and 0 <= number < 2**31
    except Exception as error:  # whatever the data set's own code raises
        got = describe_error(error)
        raise DataError(build("python", f"an image and a label as item {index} of {name}", got, hint=ITEM)) from error
    image = image[None] if image.ndim == 2 else image
    if image.is_floating_point() and image.numel() and image.min() >= 0 and image.max() <= 1:
        image = (255 * image).round().to(torch.uint8)
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel() or image.dtype != torch.uint8:
        got = f"{str(image.dtype).removeprefix('torch.')} of shape {tuple(image.shape)}"
        got += f" from {float(image.min()):g} to {float(image.max()):g}" if image.is_floating_point() else ""
        raise DataError(build("python", f"an image as item {index} of {name}", got, hint=ITEM))
    if not is_exact:
        raise DataError(build("python", f"a label as item {index} of {name}", repr(label), hint=ITEM))
    return image, number
