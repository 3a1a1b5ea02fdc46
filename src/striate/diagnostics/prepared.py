"""The diagnosis of what a run of ``striate train`` trains, on images of its training part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from ..training.data import Loader
from ..training.run import Prepared
from ..training.state import Training
from .diagnose import Diagnosis, diagnose

__all__ = ["IMAGES", "diagnose_prepared"]

IMAGES = 512


def diagnose_prepared(
    ready: Prepared,
    *,
    trained: bool,
    images: int = IMAGES,
    with_rate: bool = True,
    quick: bool = False,
    probes: Sequence[str] | None = None,
    on_probe: Callable[[int, int, str], object] = lambda done, of, name: None,
) -> Diagnosis:
    """The diagnosis of a model on training images, in batches as large as those of its training, not augmented."""
    settings = ready.settings
    return diagnose(
        ready.model,
        lambda scores, labels: F.cross_entropy(scores, labels, label_smoothing=settings.label_smoothing),
        _batches(ready, images),
        optimizer=_optimizer(ready) if with_rate else None,
        trained=trained,
        quick=quick,
        probes=probes,
        on_probe=on_probe,
    )


def _batches(ready: Prepared, images: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of one size, of images that the seed chooses."""
    settings, part = ready.settings, ready.data.parts["train"]
    count = min(images, len(part))
    size = min(settings.batch_size, count)
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(settings.seed))
    chosen = part.take(order[: count - count % size])
    loader = Loader(chosen, size, ready.preprocessing, classes=len(ready.data.classes), shuffle=False, workers=0)
    return [(batch.images, batch.targets) for batch in loader.batches(0)]


def _optimizer(ready: Prepared) -> Optimizer:
    """That of the training, at its peak."""
    settings = ready.settings.replace(ema=None, patience=None)  # of which a step knows nothing
    return Training(ready.model, ready.data, settings, ready.preprocessing).optimizer
