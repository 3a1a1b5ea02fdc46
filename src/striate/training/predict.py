"""Predicts the classes of images in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, DataError, build
from .data.folder import files_below
from .data.images import BrokenImage, decode, read_header
from .data.preprocess import Preprocessing
from .data.sources import folder_of, is_plain, user_path
from .evaluation import NOT_FINITE, evaluation_mode, scores_of

__all__ = ["Prediction", "find_images", "predict"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model takes an image for. probabilities: of each of the classes, float64 ``(K,)``."""

    file: str
    classes: tuple[str, ...]
    probabilities: Tensor

    @property
    def order(self) -> list[int]:
        """The numbers of the classes, the most probable one first."""
        return self.probabilities.argsort(stable=True, descending=True).tolist()

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.classes[self.order[0]]

    def to_dict(self) -> dict[str, Any]:
        """``file``, ``class``, and ``probabilities`` by the names of the classes."""
        chances = dict(zip(self.classes, self.probabilities.tolist(), strict=True))
        return {"file": self.file, "class": self.name, "probabilities": chances}


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that paths name, in order: a file is itself, a folder all files in it and in its folders, by name,
    without hidden ones.

    Raises DataError for a path that is not there, a folder without files, a link that leads out of its folder.
    """
    found: list[str] = []
    for path in paths:
        text = os.fspath(path)
        if not is_plain(text):
            hint = "Rename the file."
            raise DataError(build("predict", "names in UTF-8 without control codes", ascii(text), hint=hint))
        if not os.path.isdir(user_path(text)):
            found.append(text)
            continue
        root = folder_of("predict", text)
        below = [str(Path(text) / name.relative_to(root)) for _, name in files_below("predict", root, root)]
        if not below:
            raise DataError(build("predict", "images", "a folder without files", path=text, hint="Name another."))
        found += below
    return found


def predict(
    model: nn.Module,
    files: Sequence[str | os.PathLike[str]],
    preprocessing: Preprocessing,
    *,
    classes: Sequence[str],
    batch_size: int = 64,
    skip_broken: bool = False,
    on_images: Callable[[int, int], object] = lambda done, of: None,
) -> tuple[list[Prediction], list[str]]:
    """Predicts the class of each image, in evaluation mode.

    classes: their names, in the order of the model's scores; skip_broken: leave out broken images; on_images: called
    with the number of files done and of all. Returns the predictions in the order of the files, and the files that were
    left out. All headers are read before the model runs. The modes of all modules and the random state are as before
    afterwards.

    Raises DataError for an image that is broken, or where all are; ShapeError for a model of other classes;
    ArgumentError for scores that are not numbers.
    """
    given = [os.fspath(file) for file in files]
    skipped: set[str] = set()

    def sound(work: Callable[[], Any], name: str) -> Any:
        try:
            return work()
        except BrokenImage:
            if not skip_broken:
                raise
            skipped.add(name)
            return None

    paths = {name: Path(os.path.realpath(user_path(name))) for name in given}
    names = [name for name in given if sound(lambda: read_header("predict", paths[name]), name)]  # noqa: B023
    predictions: list[Prediction] = []
    with evaluation_mode(model):
        for first in range(0, len(names), batch_size):
            images, kept = [], []
            for name in names[first : first + batch_size]:
                image = sound(lambda: decode("predict", paths[name], preprocessing.channels), name)  # noqa: B023
                if image is not None:
                    images.append(preprocessing(image))
                    kept.append(name)
            if images:
                scores = scores_of("predict", model, torch.stack(images), len(classes)).double()
                for name, row in zip(kept, scores.softmax(1), strict=True):
                    if row.isnan().any():
                        expects = "scores that are finite"
                        raise ArgumentError(build("predict", expects, "NaN", image=name, hint=NOT_FINITE))
                    predictions.append(Prediction(name, tuple(classes), row))
            on_images(min(first + batch_size, len(names)), len(names))
    if not predictions:
        got = f"{len(skipped)} broken ones" if skipped else "none"
        raise DataError(build("predict", "an image at least that is sound", got, hint="Name others."))
    return predictions, [name for name in given if name in skipped]
