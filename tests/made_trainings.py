"""A small data set and a small model, for tests of what watches and reports a training."""

from __future__ import annotations

import torch

from striate import nn
from striate.training import DataSet
from striate.training.data import Part


def made_data(count: int = 24, classes: int = 3, size: int = 8) -> DataSet:
    images = torch.randint(0, 256, (count + 6, 1, size, size), dtype=torch.uint8)
    whole = Part(images, torch.arange(count + 6) % classes)
    parts = {"train": whole.take(torch.arange(count)), "test": whole.take(torch.arange(count, count + 6))}
    return DataSet("made", tuple("abcdefgh"[:classes]), parts)


def made_model() -> torch.nn.Module:
    """Layers that are computed together where nobody looks, statistics that move, and dropout that draws numbers."""
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.5), nn.Linear(24, 3)),
    )
