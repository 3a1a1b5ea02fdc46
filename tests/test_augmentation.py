"""Augmentation: what each change does, and that an image's is a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from striate.errors import ArgumentError
from striate.training.data import Augmentation
from striate.training.data.augmentation import _Draws, _shares
from striate.training.data.draws import hashed, shuffled, uniform

LABELS = torch.arange(40) % 10
INDICES = torch.arange(40) * 7 + 3


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, shape, np.uint8))


def draw_always(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Each change draws these numbers for every image."""

    def constant(self: _Draws, draws: range) -> np.ndarray:
        return np.tile(np.array(values)[: len(draws)], (len(self.indices), 1))

    monkeypatch.setattr(_Draws, "__call__", constant)


# ------------------------------------------------------------------------------------------------------- random numbers


def test_draws_are_those_of_the_formula_in_whole_numbers() -> None:
    def mixed(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def drawn(*counters: int) -> int:
        state = 0
        for counter in counters:
            state = mixed((state + 0x9E3779B97F4A7C15 * (counter + 1)) % 2**64)
        return state

    found = hashed(2**32 - 1, 5, np.array([0, 7, 2**40]), [0, 3, 2**32])
    assert found.tolist() == [[drawn(2**32 - 1, 5, i, d) for d in (0, 3, 2**32)] for i in (0, 7, 2**40)]


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    values = uniform(3, 1, np.arange(50_000), range(4))
    assert values.min() >= 0 and values.max() < 1
    counts = np.stack([np.histogram(column, 64, (0, 1))[0] for column in values.T])
    chi_square = ((counts - 50_000 / 64) ** 2 / (50_000 / 64)).sum(1)
    assert (chi_square < 63 + 5 * (2 * 63) ** 0.5).all()  # five deviations above its mean
    others = [values[1:, 0], values[:-1, 1], uniform(3, 2, np.arange(50_000), [0])[:-1, 0],
              uniform(4, 1, np.arange(50_000), [0])[:-1, 0]]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(values[:-1, 0], other)[0, 1]) < 5 / 50_000**0.5


def test_the_order_of_an_epoch_is_a_permutation_of_its_own() -> None:
    first, second = shuffled(0, 0, 1000), shuffled(0, 1, 1000)
    assert sorted(first) == sorted(second) == list(range(1000))
    for other in (second, shuffled(1, 0, 1000)):
        assert (first != other).mean() > 0.98
    assert np.array_equal(first, shuffled(0, 0, 1000)) and shuffled(5, 5, 1).tolist() == [0]


# ----------------------------------------------------------------------------------------------- seed, epoch, and index

ALONE: dict[str, dict[str, Any]] = {
    "crop": {"crop": 2},
    "flip": {"flip": True},
    "crop, flip": {"crop": 3, "flip": True},
    "resized crop": {"resized_crop": 0.3},
    "rotate": {"rotate": 20.0},
    "jitter": {"jitter": 0.4},
    "cutout": {"cutout": 5},
    "all but mixtures": {
        "crop": 2, "flip": True, "resized_crop": 0.5, "rotate": 10.0, "jitter": 0.3, "cutout": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 23)])
def test_an_image_is_changed_alike_in_a_batch_of_any_composition(name: str, shape: tuple[int, int, int]) -> None:
    change, images = Augmentation(**ALONE[name]), pictures(40, *shape)
    mean = (0.4,) * shape[0]
    whole, targets = change(images, LABELS, INDICES, 5, 3, mean=mean)
    assert torch.equal(targets, LABELS) and whole.shape == images.shape
    random = np.random.RandomState(1)
    for count in (1, 1, 2, 7, 16, 33, 40):
        some = torch.from_numpy(random.permutation(40)[:count])
        part, _ = change(images[some], LABELS[some], INDICES[some], 5, 3, mean=mean)
        assert torch.equal(part, whole[some])
    assert not torch.equal(change(images, LABELS, INDICES, 5, 4, mean=mean)[0], whole)
    assert not torch.equal(change(images, LABELS, INDICES, 6, 3, mean=mean)[0], whole)
    assert not torch.equal(change(images, LABELS, INDICES + 1, 5, 3, mean=mean)[0], whole)


@pytest.mark.parametrize("mixture", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 0.5}], ids=str)
def test_a_mixture_depends_on_the_image_and_the_next_one_alone(mixture: dict[str, float]) -> None:
    change, images = Augmentation(crop=1, **mixture), pictures(40, 3, 12, 10)
    whole, shares = change(images, LABELS, INDICES, 0, 0, classes=10)
    for first in (0, 1, 18, 38):
        pair = torch.tensor([first, first + 1])
        part, targets = change(images[pair], LABELS[pair], INDICES[pair], 0, 0, classes=10)
        assert torch.equal(part[0], whole[first]) and torch.equal(targets[0], shares[first])


@pytest.mark.parametrize("name", ["crop, flip", "all but mixtures"])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    change, images = Augmentation(mixup=0.3, cutmix=0.3, **ALONE[name]), pictures(64, 3, 32, 32)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(change(images, torch.zeros(64).long(), torch.arange(64), 0, 0, classes=2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_switching_one_change_on_leaves_the_draws_of_the_others() -> None:
    images = pictures(40, 1, 9, 9)
    both = Augmentation(crop=2, flip=True)(images, LABELS, INDICES, 0, 0)[0]
    crop = Augmentation(crop=2)(images, LABELS, INDICES, 0, 0)[0]
    is_same, is_mirrored = ((both == other).flatten(1).all(1) for other in (crop, crop.flip(3)))
    assert (is_same | is_mirrored).all() and is_same.any() and is_mirrored.any()


# ------------------------------------------------------------------------------------------------------ what each does


def test_a_crop_moves_each_image_by_whole_pixels_and_fills_with_black() -> None:
    images = pictures(400, 2, 6, 7)
    found = Augmentation(crop=2)(images, torch.zeros(400).long(), torch.arange(400), 0, 0)[0]
    padded = F.pad(images, (2, 2, 2, 2))
    shifts = torch.zeros(5, 5, dtype=torch.int64)
    for image, moved in zip(padded, found, strict=True):
        fits = [(r, c) for r in range(5) for c in range(5) if torch.equal(image[:, r : r + 6, c : c + 7], moved)]
        assert len(fits) == 1
        shifts[fits[0]] += 1
    assert found.dtype == torch.uint8 and shifts.min() >= 4 and shifts.max() <= 36  # 16 each on average


def test_a_flip_mirrors_half_of_the_images() -> None:
    images = pictures(400, 3, 5, 6)
    found = Augmentation(flip=True)(images, torch.zeros(400).long(), torch.arange(400), 0, 0)[0]
    is_mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert torch.equal(found[~is_mirrored], images[~is_mirrored]) and 150 < is_mirrored.sum() < 250


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_a_rotation_turns_counterclockwise_by_the_angle_drawn(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    images = pictures(3, 2, *size)
    draw_always(monkeypatch, [1.0])
    half = Augmentation(rotate=180.0)(images, torch.zeros(3).long(), torch.arange(3), 0, 0)[0]
    assert torch.allclose(255 * half, images.rot90(2, (2, 3)).float(), atol=1e-2)
    quarter = Augmentation(rotate=90.0)(images, torch.zeros(3).long(), torch.arange(3), 0, 0)[0]
    if size == (8, 8):
        assert torch.allclose(255 * quarter, images.rot90(1, (2, 3)).float(), atol=1e-2)
    else:  # what was left and right of the middle is out of the image, and black is what comes in
        assert (quarter[:, :, :, 0] == 0).all() and (quarter[:, :, :, -1] == 0).all()


def test_a_resized_crop_looks_at_its_rectangle_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(2, 3, 12, 16)
    draw_always(monkeypatch, [0.0, 0.0, 0.0, 0.0, 0.0])  # a quarter of the area, square, at the top left
    found = Augmentation(resized_crop=0.25)(images, torch.zeros(2).long(), torch.arange(2), 0, 0)[0]
    wanted = F.interpolate(images[:, :, :6, :8].float(), (12, 16), mode="bilinear")
    assert torch.allclose(255 * found[:, :, :-1, :-1], wanted[:, :, :-1, :-1], atol=1e-2)
    draw_always(monkeypatch, [1.0, 1.0, 0.0, 1.0, 1.0])  # all of it: no place to be elsewhere
    found = Augmentation(resized_crop=0.25)(images, torch.zeros(2).long(), torch.arange(2), 0, 0)[0]
    assert torch.allclose(255 * found, images.float(), atol=1e-2)


def test_resized_crops_have_the_areas_and_ratios_that_were_asked_for() -> None:
    change = Augmentation(resized_crop=0.2)
    high, wide, top, left = (one.ravel() for one in change._regions(uniform(0, 0, np.arange(5000), range(5)), 1.0))
    area = high * wide
    assert area.min() >= 0.2 - 1e-12 and area.max() <= 1 and abs(area.mean() - 0.6) < 0.02
    free = (high < 1) & (wide < 1)
    ratio = (high / wide)[free]
    assert free.mean() > 0.7 and ratio.min() >= 0.75 and ratio.max() <= 4 / 3 and abs((ratio > 1).mean() - 0.5) < 0.03
    assert (np.abs(top) + high <= 1 + 1e-12).all() and (np.abs(left) + wide <= 1 + 1e-12).all()


def test_flip_and_crop_are_the_same_moves_where_images_are_sampled() -> None:
    images = pictures(40, 3, 11, 14)
    moved = Augmentation(crop=2, flip=True)(images, LABELS, INDICES, 0, 0)[0]
    sampled = Augmentation(crop=2, flip=True, resized_crop=1.0)(images, LABELS, INDICES, 0, 0)[0]
    assert torch.allclose(255 * sampled, moved.float(), atol=1e-2)


def test_jitter_scales_brightness_contrast_and_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.tensor([0.5, 0.25, 0.75]).reshape(1, 3, 1, 1)
    for draws, wanted in (
        ([0.0, 0.5, 0.5], image * 0.5),
        ([0.5, 1.0, 0.5], (image - 0.25) * 1.5 + 0.25),
        ([0.5, 0.5, 0.0], 0.5 * image + 0.5 * (0.5 * 0.299 + 0.25 * 0.587 + 0.75 * 0.114)),
    ):
        draw_always(monkeypatch, draws)
        found = Augmentation(jitter=0.5)(image, torch.zeros(1).long(), torch.arange(1), 0, 0, mean=0.25)[0]
        assert torch.allclose(found, wanted, atol=1e-6)
    draw_always(monkeypatch, [1.0, 1.0, 1.0])
    found = Augmentation(jitter=1.0)(image, torch.zeros(1).long(), torch.arange(1), 0, 0)[0]
    assert found.min() >= 0 and found.max() == 1


def test_cutout_puts_the_mean_into_one_square() -> None:
    images = pictures(300, 2, 9, 12).clamp(max=100)
    found = Augmentation(cutout=4)(images, torch.zeros(300).long(), torch.arange(300), 0, 0, mean=(0.75, 0.5))[0]
    hole = found[:, 0] == 0.75
    assert torch.equal(hole, found[:, 1] == 0.5)
    assert torch.equal(found[~hole[:, None].expand_as(found)], (images.float() / 255)[~hole[:, None].expand_as(found)])
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), rows * columns) and rows.max() == columns.max() == 4
    assert rows.min() == columns.min() == 1  # at the border a part of the square is outside
    assert hole.float().mean(0).std() < 0.05  # no place is spared


def test_mixup_mixes_images_and_targets_by_the_same_share() -> None:
    images = torch.zeros(40, 1, 4, 4)
    images[::2] = 1
    found, targets = Augmentation(mixup=1.0)(images, LABELS, INDICES, 0, 0, classes=10)
    share = targets[torch.arange(40), LABELS]
    assert torch.equal(targets[torch.arange(40), LABELS.roll(-1)], 1 - share) and targets.shape == (40, 10)
    assert torch.equal(found[::2], share[::2].reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    assert torch.equal(found[1::2], (1 - share[1::2]).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    assert share.min() < 0.1 and share.max() > 0.9


def test_cutmix_puts_in_a_rectangle_of_the_next_image_and_counts_its_area() -> None:
    images = torch.zeros(40, 1, 10, 8)
    images[::2] = 1
    found, targets = Augmentation(cutmix=1.0)(images, LABELS, INDICES, 0, 0, classes=10)
    other = (found != images)[:, 0]
    rows, columns = other.any(2).sum(1), other.any(1).sum(1)
    assert torch.equal(other.sum((1, 2)), rows * columns) and len(set((rows * columns).tolist())) > 10
    share = targets[torch.arange(40), LABELS]
    assert torch.allclose(share, 1 - other.float().mean((1, 2))) and torch.equal(targets.sum(1), torch.ones(40))


def test_with_both_mixtures_each_image_gets_one_of_them() -> None:
    images = torch.zeros(40, 1, 10, 8)
    images[::2] = 1
    found, _ = Augmentation(mixup=1.0, cutmix=1.0)(images, LABELS, INDICES, 0, 0, classes=10)
    is_blended = ((found > 0) & (found < 1)).flatten(1).any(1)
    assert 10 < is_blended.sum() < 30
    assert ((found[is_blended] > 0) & (found[is_blended] < 1)).all()


def test_a_mixture_of_one_image_leaves_it() -> None:
    image = pictures(1, 1, 4, 4)
    found, targets = Augmentation(cutmix=1.0)(image, torch.tensor([2]), torch.tensor([7]), 0, 0, classes=3)
    assert torch.equal(found, image.float() / 255) and targets.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0])
def test_shares_have_the_moments_of_a_beta_distribution(alpha: float) -> None:
    shares = _shares(np.full(20_000, alpha), _Draws(0, 0, np.arange(20_000)))
    assert shares.min() >= 0 and shares.max() <= 1 and abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() * 4 * (2 * alpha + 1) - 1) < 0.03
    if alpha == 1:
        assert np.abs(np.sort(shares) - np.linspace(0, 1, 20_000)).max() < 0.015  # uniform


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"crop": -1}, "a whole number of pixels as crop, from 0, got -1. Use 2 for digits, 4 for CIFAR."),
        ({"crop": 2.0}, "a whole number of pixels as crop, from 0, got 2.0. Use 2 for digits, 4 for CIFAR."),
        ({"cutout": True}, "a whole number of pixels as cutout, from 0, got True. Use a quarter or half of a side."),
        ({"resized_crop": 0}, "a share of the area from above 0 to 1 as resized_crop, got 0. Use 0.5, or None for "
         "none."),
        ({"flip": 1}, "True or False as flip, got 1. Use flip=True to mirror half of the images."),
        ({"rotate": float("nan")}, "a number from 0 to 180 as rotate, got nan. Use 15 for up to 15 degrees either "
         "way."),
        ({"jitter": 1.5}, "a number from 0 to 1 as jitter, got 1.5. Use 0.4 for 60 to 140 %."),
        ({"mixup": 2}, "a number from 0 to 1 as mixup, got 2. Use 0.2, or 1 for shares of every size."),
        ({"cutmix": "1"}, "a number from 0 to 1 as cutmix, got '1'. Use 1 for shares of every size."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_number_out_of_range_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError) as error:
        Augmentation(**fields)
    assert str(error.value) == f"augmentation expects {text}"


def test_changes_that_are_too_large_for_the_images_are_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        Augmentation(crop=8).check((28, 8))
    assert str(error.value) == (
        "augmentation expects crop of less than the 8 px of the images' shorter side, got 8. Use a quarter of the side "
        "or less."
    )
    with pytest.raises(ArgumentError) as error:
        Augmentation(mixup=0.2)(pictures(2, 1, 4, 4), LABELS[:2], INDICES[:2], 0, 0)
    assert str(error.value) == (
        "augmentation expects the number of classes where it mixes, got None. Give classes=10."
    )


def test_settings_that_change_nothing_make_no_augmentation() -> None:
    class Settings:
        crop, resized_crop, flip, rotate, jitter, cutout = 0, None, False, 0.0, 0.0, 0
        mixup, cutmix, epochs = 0.0, 0.0, 3

    assert Augmentation.from_settings(Settings()) is None
    Settings.flip = True
    assert Augmentation.from_settings(Settings()) == Augmentation(flip=True)
