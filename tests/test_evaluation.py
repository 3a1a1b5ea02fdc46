"""Evaluations: every number by hand on a few images, and as scikit-learn has it on many."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from striate import nn
from striate.errors import ArgumentError, DataError, ShapeError
from striate.training.data import DataSet, Part, Preprocessing
from striate.training.evaluation import Evaluation, evaluate, evaluation_mode, with_classes

NAMES = tuple("abcdefg")



def prepare(classes: int) -> Preprocessing:
    """Changes no value."""
    return Preprocessing((1, classes), 1, (0.0,), (1 / 255,))


def scored(rows: list[list[int]], labels: list[int]) -> Part:
    """Images whose values are the scores of the classes."""
    images = torch.tensor(rows, dtype=torch.uint8)[:, None, None]
    return Part(images, torch.tensor(labels))


def made(count: int = 500, classes: int = 7, seed: int = 0, skips: int | None = None) -> Evaluation:
    """Random scores that lean to the right class; skips: a class without images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    if skips is not None:
        labels[labels == skips] = (skips + 1) % classes
    images = torch.randint(0, 6, (count, 1, 1, classes), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, 0, labels] += 2
    return evaluate(nn.Flatten(), Part(images, labels), prepare(7), classes=NAMES[:classes], batch_size=64)


# -------------------------------------------------------------------------------------------------------------- by hand


def test_six_images_by_hand() -> None:
    # taken for 0 1 2 2 1 0
    part = scored([[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 9], [0, 9, 0], [9, 0, 0]], [0, 1, 2, 1, 1, 1])
    found = evaluate(nn.Flatten(), part, prepare(3), classes=("a", "b", "c"), batch_size=4)
    assert len(found) == 6 and found.predictions.tolist() == [0, 1, 2, 2, 1, 0]
    assert found.accuracy == 4 / 6
    assert found.confusion.tolist() == [[1, 0, 0], [1, 2, 1], [0, 0, 1]]
    assert found.support.tolist() == [1, 4, 1]
    assert found.precision.tolist() == [0.5, 1.0, 0.5]
    assert found.recall.tolist() == [1.0, 0.5, 1.0]
    assert found.f1.tolist() == [2 / 3, 2 / 3, 2 / 3]
    assert found.balanced_accuracy == 2.5 / 3
    right, wrong = -math.log(math.exp(9) / (math.exp(9) + 2)), -math.log(1 / (math.exp(9) + 2))
    assert found.loss == pytest.approx((4 * right + 2 * wrong) / 6, rel=1e-12)
    sure = math.exp(9) / (math.exp(9) + 2)
    assert found.confidence.tolist() == pytest.approx([sure] * 6)
    assert found.ece == pytest.approx(sure - 4 / 6)  # all confidences are in the last bin


def test_the_calibration_error_by_hand() -> None:
    # bins of 1/15: 0.99 in the last one; 0.62 and 0.65 in (9/15, 10/15]
    probabilities = torch.tensor([[0.99, 0.01], [0.01, 0.99], [0.62, 0.38], [0.35, 0.65]])
    found = Evaluation(("a", "b"), torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 0, 1]), probabilities, 0.0)
    last, middle = abs(2 - 2 * 0.99), abs(1 - (0.62 + 0.65))
    assert found.ece == pytest.approx((last + middle) / 4, abs=1e-7)


@pytest.mark.parametrize(("confidence", "number"), [(1.0, 15), (10 / 15, 10), (0.667, 11), (0.5, 8)])
def test_a_confidence_at_the_edge_of_two_bins_is_in_the_lower_one(confidence: float, number: int) -> None:
    probabilities = torch.tensor([[confidence, 1 - confidence]] * 2, dtype=torch.float64)
    probabilities[1] = torch.tensor([(number - 0.5) / 15, 1 - (number - 0.5) / 15])
    labels, predictions = torch.tensor([0, 1]), torch.tensor([0, 0])
    found = Evaluation(("a", "b"), labels, predictions, probabilities, 0.0)
    together = abs(1 - probabilities[:, 0].sum().item()) / 2  # one of the two is right
    assert found.ece == pytest.approx(together)


def test_a_perfectly_sure_and_right_model_has_no_calibration_error() -> None:
    found = Evaluation(("a", "b"), torch.tensor([0, 1]), torch.tensor([0, 1]), torch.eye(2), 0.0)
    assert found.ece == 0 and found.accuracy == 1


def test_top_five_counts_images_whose_class_is_among_the_five_highest_scores() -> None:
    rows = [[6, 5, 4, 3, 2, 1, 0]] * 4
    found = evaluate(nn.Flatten(), scored(rows, [0, 4, 5, 6]), prepare(7), classes=NAMES)
    assert found.top5 == 0.5 and found.accuracy == 0.25


def test_equal_scores_go_to_the_class_of_the_lowest_number() -> None:
    found = evaluate(nn.Flatten(), scored([[3] * 7] * 3, [0, 4, 5]), prepare(7), classes=NAMES)
    assert found.predictions.tolist() == [0, 0, 0] and found.top5 == 2 / 3


def test_a_fraction_of_nothing_is_nan_and_null() -> None:
    found = evaluate(nn.Flatten(), scored([[9, 0, 0], [9, 0, 0]], [0, 1]), prepare(3), classes=("a", "b", "c"))
    assert str(found.precision.tolist()) == "[0.5, nan, nan]" and str(found.recall.tolist()) == "[1.0, 0.0, nan]"
    assert str(found.f1.tolist()) == str([2 / 3, 0.0, math.nan])
    assert found.balanced_accuracy == 0.5 and found.macro_f1 == 1 / 3
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["per_class"][2] == {"class": "c", "precision": None, "recall": None, "f1": None, "support": 0}
    assert facts["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 0, 0]] and facts["classes"] == ["a", "b", "c"]


# ----------------------------------------------------------------------------------------------- as scikit-learn has it


@pytest.mark.parametrize("skips", [None, 3])
def test_metrics_are_scikit_learns(skips: int | None) -> None:
    from sklearn import metrics

    found = made(skips=skips)
    true, taken, numbers = found.labels.numpy(), found.predictions.numpy(), list(range(7))
    assert 0.3 < found.accuracy < 0.9
    assert found.accuracy == metrics.accuracy_score(true, taken)
    assert found.confusion.tolist() == metrics.confusion_matrix(true, taken, labels=numbers).tolist()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, taken, labels=numbers, zero_division=math.nan
    )
    assert found.support.tolist() == support.tolist()
    for own, other in ((found.precision, precision), (found.recall, recall), (found.f1, f1)):
        assert torch.allclose(own, torch.from_numpy(other), rtol=1e-12, atol=0, equal_nan=True)
    assert found.balanced_accuracy == pytest.approx(recall[support > 0].mean(), rel=1e-12)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(true, taken, average="macro"), rel=1e-12)
    chances = found.probabilities.double().numpy()
    chances /= chances.sum(1, keepdims=True)
    assert found.loss == pytest.approx(metrics.log_loss(true, chances, labels=numbers), rel=1e-6)
    distinct = found.probabilities.double() - 1e-9 * torch.arange(7)  # scikit-learn takes equal ones from the end
    assert found.top5 == metrics.top_k_accuracy_score(true, distinct.numpy(), k=5, labels=numbers)


# ----------------------------------------------------------------------------------------------------- what stays as is


def test_results_do_not_depend_on_the_batches() -> None:
    part = scored([[9, 0, 0], [0, 9, 1], [0, 3, 9], [0, 4, 9], [0, 9, 0]], [0, 1, 2, 1, 1])
    one, other = (
        evaluate(nn.Flatten(), part, prepare(3), classes=("a", "b", "c"), batch_size=size) for size in (2, 256)
    )
    assert torch.equal(one.probabilities, other.probabilities) and one.to_dict() == other.to_dict()


class Noisy(nn.Module):
    """Adds random numbers in every mode."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        return x.flatten(1) + torch.rand(1)


def test_modes_buffers_and_random_state_are_as_before() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout(), nn.Flatten(), Noisy()).eval())
    model[1][0].train()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    evaluate(model, scored([[9, 0], [0, 9]], [0, 1]), prepare(2), classes=("a", "b"))
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(ValueError), evaluation_mode(model):
        raise ValueError
    assert model.training and model[0].training and torch.is_grad_enabled()


def test_progress_is_told_in_images() -> None:
    told: list[tuple[int, int]] = []
    part = scored([[1, 0]] * 5, [0] * 5)
    evaluate(nn.Flatten(), part, prepare(2), classes=("a", "b"), batch_size=2, on_images=lambda *a: told.append(a))
    assert told == [(2, 5), (4, 5), (5, 5)]


# ------------------------------------------------------------------------------------------------------------- refusals


def test_no_images_are_refused() -> None:
    part = Part(torch.zeros(0, 1, 1, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError) as error:
        evaluate(nn.Flatten(), part, prepare(2), classes=("a", "b"))
    assert str(error.value) == "evaluate expects an image at least, got none. Check the part."


def test_a_model_of_other_classes_is_refused() -> None:
    part = scored([[1, 0, 0]], [0])
    with pytest.raises(ShapeError) as error:
        evaluate(nn.Flatten(), part, prepare(3), classes=("a", "b"))
    assert str(error.value) == (
        "evaluate expects a model that gives scores (1, 2), one for each image and class, got (1, 3). "
        "x: (1, 1, 1, 3). Use a model of 2 classes."
    )


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_model_that_gives_no_tensor_is_refused() -> None:
    with pytest.raises(ShapeError) as error:
        evaluate(Pair(), scored([[1, 0]], [0]), prepare(2), classes=("a", "b"))
    assert str(error.value) == (
        "evaluate expects a model that gives scores (1, 2), one for each image and class, got tuple. "
        "x: (1, 1, 1, 2). Use a model of 2 classes."
    )


class Breaks(nn.Module):
    """Gives a score that is not finite for one image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.flatten(1) == 7, math.nan, x.flatten(1))


def test_scores_that_are_not_finite_are_refused_by_the_name_of_the_image() -> None:
    part = scored([[1, 0], [2, 3], [7, 1], [7, 7]], [0, 0, 0, 0])
    with pytest.raises(ArgumentError) as error:
        evaluate(Breaks(), part, prepare(2), classes=("a", "b"), batch_size=3)
    assert str(error.value) == (
        "evaluate expects scores that are finite, got nan, 1. image: image 2. "
        "Look for weights or running statistics that are not finite."
    )


# ------------------------------------------------------------------------------------------------------ classes by name


def data(classes: tuple[str, ...], labels: list[int]) -> DataSet:
    part = Part(torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1), torch.tensor(labels))
    return DataSet("folder", classes, {"train": part, "test": part})


def test_classes_are_matched_by_name() -> None:
    part = with_classes(data(("cat", "dog", "owl"), [0, 1, 2, 1]), "test", ("owl", "ant", "dog", "cat"))
    assert part.labels.tolist() == [3, 2, 0, 2] and part.images.flatten().tolist() == [0, 1, 2, 3]


def test_a_class_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(DataError) as error:
        with_classes(data(("cat", "dog", "owl"), [0, 1, 2, 1]), "test", ("owl", "ant"))
    assert str(error.value) == (
        "evaluate expects images of the classes 'owl', 'ant', got also 'cat', 'dog'. "
        "Name data with the classes that the model was trained on."
    )


def test_a_part_that_the_data_lack_is_refused() -> None:
    with pytest.raises(DataError) as error:
        with_classes(data(("cat",), [0]), "val", ("cat",))
    assert str(error.value) == "evaluate expects a part of train, test, got 'val'. Choose one of these."
