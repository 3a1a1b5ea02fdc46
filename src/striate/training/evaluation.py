"""Evaluates a classifier on labelled images: loss, accuracy, and what they hide: classes, mistakes and calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, ShapeError, build
from .data.dataset import DataSet, Part
from .data.loader import Loader
from .data.preprocess import Preprocessing
from .state import NotFinite

__all__ = ["BINS", "Evaluation", "confusion_blocks", "evaluate", "evaluation_mode", "scores_of", "with_classes"]

BINS = 15  # of confidence, as Guo et al. have them
TOP = 5
NOT_FINITE = "Look for weights or running statistics that are not finite."


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a classifier of K classes makes of N labelled images.

    classes: their names; labels, predictions: int64 ``(N,)``; probabilities: float32 ``(N, K)``; loss: the mean cross
    entropy in nats; top5: the fraction of images whose class is among the five most probable ones. What is a fraction
    of nothing, as the recall of a class without images, is NaN.

    >>> right = Evaluation(("a", "b"), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.eye(2)[[0, 1, 0]], 1.2)
    >>> round(right.accuracy, 4), right.confusion.tolist(), right.recall.tolist()
    (0.6667, [[1, 0], [1, 1]], [1.0, 0.5])
    """

    classes: tuple[str, ...]
    labels: Tensor
    predictions: Tensor
    probabilities: Tensor
    loss: float
    top5: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified rightly."""
        return (self.predictions == self.labels).double().mean().item()

    @property
    def confusion(self) -> Tensor:
        """How many images of each class (rows) were taken for each class (columns), int64 ``(K, K)``."""
        right, wrong = confusion_blocks(self.predictions, self.labels, len(self.classes), len(self.classes))
        return right + wrong

    @property
    def support(self) -> Tensor:
        """How many images there are of each class, int64 ``(K,)``."""
        return self.labels.bincount(minlength=len(self.classes))

    @property
    def precision(self) -> Tensor:
        """Of the images taken for a class, the fraction that belongs to it, float64 ``(K,)``."""
        return self.confusion.diagonal() / self.confusion.sum(0).double()

    @property
    def recall(self) -> Tensor:
        """Of the images of a class, the fraction taken for it, float64 ``(K,)``."""
        return self.confusion.diagonal() / self.support.double()

    @property
    def f1(self) -> Tensor:
        r"""The harmonic mean of precision and recall, float64 ``(K,)``: :math:`2·TP / (2·TP + FP + FN)`."""
        return 2 * self.confusion.diagonal() / (self.confusion.sum(0) + self.support).double()

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall over the classes that have images: each class counts alike, however many images it has."""
        return self.recall.nanmean().item()

    @property
    def macro_f1(self) -> float:
        """The mean F1 over the classes that have images or predictions."""
        return self.f1.nanmean().item()

    @property
    def confidence(self) -> Tensor:
        """The probability of each prediction, float32 ``(N,)``."""
        return self.probabilities.gather(1, self.predictions[:, None])[:, 0]

    @property
    def ece(self) -> float:
        r"""The expected calibration error: how far confidence and accuracy differ, 0 to 1.

        .. math:: ECE = \sum_{b=1}^{15} \frac{|B_b|}{N} · |accuracy(B_b) - confidence(B_b)|

        where the images of :math:`B_b` have a confidence in :math:`((b-1)/15, b/15]`, and accuracy and confidence are
        means over these. Of 0.1, predictions are on average ten percentage points too sure, or not sure enough.

        Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
        """
        confidence = self.confidence.double()
        right = (self.predictions == self.labels).double()
        number = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, number, right - confidence)
        return gaps.abs().sum().item() / len(self)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for NaN. Images one by one are left out."""
        columns = {
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "f1": self.f1.tolist(),
            "support": self.support.tolist(),
        }
        rows = zip(*columns.values(), strict=True)
        return {
            "images": len(self),
            "accuracy": self.accuracy,
            "top5": self.top5,
            "loss": self.loss,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "ece": self.ece,
            "classes": list(self.classes),
            "per_class": [
                {"class": name, **{key: None if math.isnan(x) else x for key, x in zip(columns, row, strict=True)}}
                for name, row in zip(self.classes, rows, strict=True)
            ],
            "confusion": self.confusion.tolist(),
        }


def confusion_blocks(predictions: Tensor, labels: Tensor, classes: int, most: int) -> tuple[Tensor, Tensor]:
    """The right answers and the mistakes of a confusion matrix of at most ``most`` rows: each row and column stands for
    as many neighbouring classes as that takes. Both are int64 ``(rows, rows)``, true by predicted classes.

    >>> right, wrong = confusion_blocks(torch.tensor([0, 0, 3]), torch.tensor([0, 1, 3]), classes=4, most=2)
    >>> right.tolist(), wrong.tolist()
    ([[1, 0], [0, 1]], [[1, 0], [0, 0]])
    """
    block = -(-classes // most)
    rows = -(-classes // block)
    place, is_right = labels // block * rows + predictions // block, predictions == labels
    right, wrong = (place[chosen].bincount(minlength=rows**2).reshape(rows, rows) for chosen in (is_right, ~is_right))
    return right, wrong


def evaluate(
    model: nn.Module,
    part: Part,
    preprocessing: Preprocessing,
    *,
    classes: Sequence[str],
    batch_size: int = 256,
    workers: int = 1,
    on_images: Callable[[int, int], object] = lambda done, of: None,
) -> Evaluation:
    """Runs a model on the images of a part, in evaluation mode, and compares its predictions with their labels.

    model: gives scores ``(N, K)``, the logarithms of probabilities up to a constant; classes: the names of the K
    classes, in the order of the labels; batch_size: limits memory; workers: threads that prepare images ahead;
    on_images: called with the number of images done and of all. The modes of all modules and the random state are as
    before afterwards.

    Raises DataError where there are no images, or one is broken; ShapeError for scores of another shape; NotFinite
    for scores that are not finite.

    >>> part = Part(torch.tensor([[[[9, 0]]], [[[0, 9]]], [[[9, 0]]]], dtype=torch.uint8), torch.tensor([0, 1, 1]))
    >>> evaluate(nn.Flatten(), part, Preprocessing.of(part), classes=("left", "right")).accuracy
    0.6666666666666666
    """
    if not len(part):
        raise DataError(build("evaluate", "an image at least", "none", hint="Check the part."))
    losses, predictions, probabilities, among_top = [], [], [], 0
    loader = Loader(part, batch_size, preprocessing, classes=len(classes), shuffle=False, workers=workers)
    with evaluation_mode(model), closing(loader.batches(0)) as batches:
        for images, labels, indices in batches:
            scores = scores_of("evaluate", model, images, len(classes)).double()
            loss = F.cross_entropy(scores, labels, reduction="none")
            _check_finite(loss, scores, part, indices)
            order = scores.argsort(stable=True, dim=1, descending=True)[:, :TOP]  # equal ones by their number
            among_top += int((order == labels[:, None]).sum())
            losses.append(loss)
            predictions.append(order[:, 0])
            probabilities.append(scores.softmax(1).float())
            on_images(int(indices[-1]) + 1, len(part))
    return Evaluation(
        tuple(classes),
        part.labels,
        torch.cat(predictions),
        torch.cat(probabilities),
        torch.cat(losses).mean().item(),
        among_top / len(part),
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within this context the model is in evaluation mode and nothing is recorded for gradients. Afterwards the mode of
    each module and the random state are as before.

    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())
    >>> with evaluation_mode(model):
    ...     [module.training for module in model.modules()]
    [False, False, False]
    >>> [module.training for module in model.modules()]
    [True, True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def scores_of(where: str, model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """The model's scores for images, ``(N, K)``. Raises ShapeError for any other result."""
    scores = model(images)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (len(images), classes):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        expects = f"a model that gives scores ({len(images)}, {classes}), one for each image and class"
        hint = f"Use a model of {classes} classes."
        raise ShapeError(build(where, expects, got, x=tuple(images.shape), hint=hint))
    return scores


def _check_finite(losses: Tensor, scores: Tensor, part: Part, indices: Tensor) -> None:
    for place in (~losses.isfinite()).nonzero().flatten().tolist():
        row, name = scores[place].tolist(), part.name(int(indices[place]))
        got = ", ".join(f"{score:g}" for score in row[:TOP]) + (", …" if len(row) > TOP else "")
        raise NotFinite(build("evaluate", "scores that are finite", got, image=name, hint=NOT_FINITE))


def with_classes(data: DataSet, part: str, classes: Sequence[str]) -> Part:
    """A part of a data set, with its labels as numbers of these classes, which are found by name.

    A class that the data set lacks has no images. Raises DataError for a part that it lacks, or a class that is not
    among ``classes``.

    >>> from striate.training.data import make_shapes
    >>> images, labels, _ = make_shapes(4, 16, 0)
    >>> data = DataSet("shapes", ("disk", "square", "triangle", "cross"), {"train": Part(images, labels)})
    >>> labels.tolist(), with_classes(data, "train", ("cross", "disk", "triangle", "square")).labels.tolist()
    ([0, 1, 2, 3], [1, 3, 2, 0])
    """
    if part not in data.parts:
        expects = f"a part of {', '.join(data.parts)}"
        raise DataError(build("evaluate", expects, repr(part), hint="Choose one of these."))
    known = {name: number for number, name in enumerate(classes)}
    used = [data.classes[label] for label in data.parts[part].labels.unique().tolist()]
    unknown = [name for name in used if name not in known]
    if unknown:
        expects = f"images of the classes {_few(classes)}"
        hint = "Name data with the classes that the model was trained on."
        raise DataError(build("evaluate", expects, f"also {_few(unknown)}", hint=hint))
    numbers = torch.tensor([known.get(name, -1) for name in data.classes], dtype=torch.int64)
    chosen = data.parts[part]
    return Part(chosen.images, numbers[chosen.labels], chosen.boxes)


def _few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
