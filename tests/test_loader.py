"""Preprocessing and batches: exact values, an order that is a function of (seed, epoch), and threads that end."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import memory
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from made_data import picture, two_classes
from PIL import Image

from striate.errors import ArgumentError, DataError
from striate.training.data import Augmentation, Batch, DataSet, Decoded, Loader, Part, Preprocessing, open_data
from striate.training.data.images import BrokenImage


def made(count: int, *shape: int, classes: int = 4, seed: int = 0) -> Part:
    random = np.random.RandomState(seed)
    images = torch.from_numpy(random.randint(0, 256, (count, *shape), np.uint8))
    return Part(images, torch.from_numpy(random.randint(0, classes, count)))


def decoded(part: Part, before: Any = lambda index: None) -> Part:
    """The same images, each made when it is asked for, after a call with its index."""

    def load(index: int) -> torch.Tensor:
        before(index)
        return part.images[index]

    names = [f"image {k}" for k in range(len(part))]
    sizes = [part.size] * len(part)
    return Part(Decoded(load, part.channels, sizes, names, torch.arange(len(part))), part.labels)


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -------------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_normalized_by_the_moments_of_all_training_images(channels: int) -> None:
    part = made(50, channels, 9, 7)
    prepare = Preprocessing.of(part)
    x = part.images.double() / 255
    mean, std = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0).sqrt()
    assert torch.allclose(torch.tensor(prepare.mean).double(), mean) and prepare.size == (9, 7)
    assert torch.allclose(torch.tensor(prepare.std).double(), std) and prepare.channels == channels
    batch = prepare.batch(part, torch.tensor([3, 0, 3]))
    wanted = ((x - mean[:, None, None]) / std[:, None, None])[[3, 0, 3]]
    assert batch.dtype == torch.float32 and (batch - wanted).abs().max() < 1e-6
    assert torch.equal(prepare(part.image(3)), batch[0])
    assert (prepare.normalized(part.images[[3, 0, 3]].float() / 255) - wanted).abs().max() < 1e-6


def test_moments_of_decoded_images_are_those_in_memory_and_of_many_a_sample_that_the_seed_chooses() -> None:
    part = made(30, 1, 6, 6)
    assert Preprocessing.of(decoded(part)) == Preprocessing.of(part)
    asked: list[int] = []
    part = made(700, 1, 2, 2)
    found = Preprocessing.of(decoded(part, asked.append), seed=3)
    assert len(asked) == len(set(asked)) == 500 and found != Preprocessing.of(part)
    assert found == Preprocessing.of(decoded(part), seed=3) != Preprocessing.of(decoded(part), seed=4)
    assert found == Preprocessing.of(part.take(torch.tensor(asked)))


def test_a_channel_that_never_varies_has_the_deviation_1() -> None:
    part = made(5, 3, 4, 4)
    part.images[:, 1] = 51
    prepare = Preprocessing.of(part)
    assert prepare.mean[1] == 0.2 and prepare.std[1] == 1.0
    assert prepare.batch(part, torch.arange(5))[:, 1].abs().max() < 1e-7


@pytest.mark.parametrize(
    ("sizes", "size", "wanted"),
    [
        ([(28, 28)], None, (28, 28)),
        ([(300, 500)], None, (300, 500)),
        ([(512, 513)], None, (224, 224)),
        ([(40, 50), (60, 50), (90, 100)], None, (50, 50)),
        ([(3000, 4000), (600, 400)], None, (224, 224)),
        ([(28, 28)], 32, (32, 32)),
        ([(40, 50), (60, 50)], (20, 30), (20, 30)),
    ],
    ids=str,
)
def test_the_size_is_the_images_own_a_usual_one_or_the_one_asked_for(
    sizes: list[tuple[int, int]], size: Any, wanted: tuple[int, int]
) -> None:
    images = [torch.zeros(1, *one, dtype=torch.uint8) for one in sizes]
    indices = torch.arange(len(sizes))
    part = Part(Decoded(images.__getitem__, 1, sizes, [""] * len(sizes), indices), torch.zeros_like(indices))
    prepare = Preprocessing.of(part, size)
    assert prepare.size == wanted and prepare.batch(part, indices).shape[2:] == wanted


@pytest.mark.parametrize(
    ("shape", "size", "rows", "columns"),
    [
        ((30, 50), (20, 20), (0, 30), (10, 40)),
        ((51, 30), (10, 10), (10, 40), (0, 30)),
        ((30, 30), (20, 40), (7, 22), (0, 30)),
        ((7, 5), (35, 25), (0, 7), (0, 5)),
        ((9, 9), (1, 1), (0, 9), (0, 9)),
        ((9, 9), (1, 3), (3, 6), (0, 9)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_middle_of_an_image_is_resized_without_aliasing(
    shape: tuple[int, int], size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], channels: int
) -> None:
    part = made(3, channels, *shape)
    prepare = Preprocessing(size, channels, (0.0,) * channels, (1.0,) * channels)
    middle = part.images[:, :, slice(*rows), slice(*columns)].double()
    wanted = F.interpolate(middle, size, mode="bilinear", antialias=True)
    found = prepare.pixels(part, torch.arange(3))
    assert found.shape == (3, channels, *size) and (found.double() - wanted).abs().max() <= 1
    one_by_one = prepare.pixels(decoded(part), torch.arange(3))
    assert torch.equal(one_by_one, found) and torch.equal(prepare(part.image(1)), prepare.normalized(found)[1])


def test_an_image_of_extreme_shape_takes_little_memory() -> None:
    image = torch.full((3, 1, 2**22), 7, dtype=torch.uint8)
    prepare = Preprocessing((224, 224), 3, (0.0,) * 3, (1.0,) * 3)
    with memory.at_most(2**28):
        assert torch.allclose(255 * prepare(image), torch.tensor(7.0))
        assert prepare(image.transpose(1, 2)).shape == (3, 224, 224)


def test_images_that_fit_into_memory_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    part, seen = made(20, 3, 7, 9), list[int]()
    slow = decoded(part, seen.append)
    prepare = Preprocessing.of(part, 5)

    def batches(epoch: int) -> list[Batch]:
        return list(loader.batches(epoch))

    loader = Loader(slow, 6, prepare, classes=4, augmentation=Augmentation(crop=1), workers=2)
    found = [batches(epoch) for epoch in (0, 1, 0)]
    assert sorted(seen) == list(range(20)) and all(map(equal, found[0], found[2]))
    assert loader.part.size == (5, 5) and loader.part.name(3) == "image 3"
    monkeypatch.setattr("striate.training.data.preprocess.MOST_KEPT_BYTES", 20 * 75 - 1)
    loader = Loader(slow, 6, prepare, classes=4, augmentation=Augmentation(crop=1), workers=2)
    assert loader.part is slow and all(map(equal, batches(0), found[0])) and all(map(equal, batches(1), found[1]))
    assert len(seen) == 20 + 40
    assert prepare.kept(part) is part


def test_channels_are_made_those_of_the_model() -> None:
    grey, colours = made(2, 1, 4, 4), made(2, 3, 64, 64)
    three, one = Preprocessing((4, 4), 3, (0.0,) * 3, (1.0,) * 3), Preprocessing((64, 64), 1, (0.0,), (1.0,))
    assert torch.equal(three.pixels(grey, torch.arange(2)), grey.images.expand(-1, 3, -1, -1))
    for image, found in zip(colours.images, one.pixels(colours, torch.arange(2)), strict=True):
        wanted = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert torch.equal(found[0], torch.from_numpy(wanted.copy()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": [0, 5]}, "a height and a width from 1 to 4096 px, got (0, 5). Use size=(224, 224)."),
        ({"size": 224}, "a height and a width from 1 to 4096 px, got 224. Use size=(224, 224)."),
        ({"size": [5.0, 5]}, "a height and a width from 1 to 4096 px, got (5.0, 5). Use size=(224, 224)."),
        ({"channels": 2}, "1 or 3 channels, got 2. Use those of the training images."),
        ({"mean": [0.5, 0.5]}, "a finite number as mean for each of 1 channels, got (0.5, 0.5). Measure them: "
         "Preprocessing.of(part)."),
        ({"mean": [float("nan")]}, "a finite number as mean for each of 1 channels, got (nan,). Measure them: "
         "Preprocessing.of(part)."),
        ({"std": [0.0]}, "a positive number as std for each of 1 channels, got (0.0,). Measure them: "
         "Preprocessing.of(part)."),
        ({"more": 1}, "a dict of size, channels, mean, std, got {'size': [28, 28], 'channels': 1, 'mean': [0.5], "
         "'std': [0.5], 'more': 1}. Take it from the run that has it."),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_preprocessing_is_refused(change: dict[str, Any], text: str) -> None:
    data = {"size": [28, 28], "channels": 1, "mean": [0.5], "std": [0.5]} | change
    with pytest.raises(DataError) as error:
        Preprocessing.from_dict(data)
    assert str(error.value) == f"preprocessing expects {text}"


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 5), (1, 3), (7, 1), (33, 32), (100, 8)])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_each_image_once_in_batches_of_nearly_one_size(count: int, batch_size: int, workers: int) -> None:
    part = made(count, 1, 3, 3)
    loader = Loader(part, batch_size, Preprocessing.of(part), classes=4, workers=workers)
    batches = list(loader.batches(3))
    sizes = [len(batch.indices) for batch in batches]
    assert len(batches) == len(loader) and max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(count))
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, loader.preprocessing.batch(part, indices))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), part.labels[indices])


def test_the_order_follows_the_seed_and_the_epoch_and_may_be_the_parts() -> None:
    part = made(40, 1, 3, 3)
    prepare = Preprocessing.of(part)

    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        loader = Loader(part, 7, prepare, classes=4, seed=seed, shuffle=shuffle)
        return torch.cat([batch.indices for batch in loader.batches(epoch)]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6
    assert order(5, 9, shuffle=False) == list(range(40))


AUGMENTED = Augmentation(crop=1, flip=True, rotate=10.0, jitter=0.2, mixup=0.3, cutmix=1.0)


@pytest.mark.parametrize("augmentation", [None, Augmentation(crop=2), AUGMENTED], ids=["none", "crop", "all"])
def test_neither_workers_nor_threads_nor_where_it_began_change_a_bit(augmentation: Augmentation | None) -> None:
    part = made(50, 3, 16, 12)
    prepare, before = Preprocessing.of(part), torch.get_num_threads()

    def batches(workers: int, given: Part = part, first: int = 0) -> list[Batch]:
        loader = Loader(given, 8, prepare, classes=4, augmentation=augmentation, workers=workers)
        return list(loader.batches(2, first))

    wanted = batches(0)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for found in (batches(0), batches(1), batches(3), batches(2, decoded(part))):
                assert len(found) == len(wanted) and all(map(equal, found, wanted))
        for first in range(len(wanted) + 1):
            found = batches(2, first=first)
            assert len(found) == len(wanted) - first and all(map(equal, found, wanted[first:]))
    finally:
        torch.set_num_threads(before)


def test_the_size_of_batches_changes_no_image_of_an_epoch() -> None:
    part, change = made(50, 3, 16, 12), Augmentation(crop=2, flip=True, rotate=9.0, jitter=0.3, cutout=5)
    prepare = Preprocessing.of(part)
    epochs = []
    for batch_size in (1, 3, 8, 50):
        images = torch.zeros(50, 3, 16, 12)
        for batch in Loader(part, batch_size, prepare, classes=4, seed=7, augmentation=change).batches(11):
            images[batch.indices] = batch.images
        epochs.append(images)
    assert all(torch.equal(images, epochs[0]) for images in epochs[1:])
    assert not torch.equal(epochs[0], prepare.batch(part, torch.arange(50)))


def test_no_random_state_is_touched() -> None:
    part = made(20, 1, 8, 8)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    for workers in (0, 1):
        list(Loader(part, 4, Preprocessing.of(part), classes=4, augmentation=AUGMENTED, workers=workers).batches(0))
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])


# ------------------------------------------------------------------------------------------------------------- workers


def test_workers_compute_on_one_thread_and_leave_the_number_of_others_alone() -> None:
    seen: list[int] = []
    part = decoded(made(12, 1, 3, 3), lambda index: seen.append(torch.get_num_threads()))
    prepare, before = Preprocessing((3, 3), 1, (0.0,), (1.0,)), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for _ in Loader(part, 4, prepare, classes=4, workers=2).batches(0):
            assert torch.get_num_threads() == 3
        late: list[int] = []
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert set(seen) == {1} and len(seen) == 12 and late == [3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_decoded_ahead_than_two_batches_a_worker(workers: int) -> None:
    seen: list[int] = []
    part = decoded(made(80, 1, 3, 3), seen.append)
    batches = Loader(part, 4, Preprocessing((3, 3), 1, (0.0,), (1.0,)), classes=4, workers=workers).batches(0)
    for done in range(1, 4):
        next(batches)
        deadline = time.monotonic() + 60
        while len(seen) < 4 * (done + 2 * workers) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(seen) == 4 * (done + 2 * workers)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_threads_end_with_an_iterator_that_is_dropped(taken: int) -> None:
    part, before = made(80, 1, 3, 3), threading.active_count()
    batches = Loader(part, 4, Preprocessing.of(part), classes=4, workers=3).batches(0)
    for _ in range(taken):
        next(batches)
    assert threading.active_count() == before + (3 if taken else 0)
    del batches
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fails_in_a_worker_is_raised_when_its_batch_is_asked_for(tmp_path: Path, workers: int) -> None:
    folder = two_classes(tmp_path, each=10, kind="JPEG", suffix=".jpg")
    part, before = open_data(f"folder:{folder}").parts["train"], threading.active_count()
    prepare = Preprocessing.of(part)
    path = folder / part.name(9)
    path.write_bytes(path.read_bytes()[:-9])
    batches = Loader(part, 4, prepare, classes=2, shuffle=False, workers=workers).batches(0)
    assert [len(next(batches).indices) for _ in range(2)] == [4, 4]
    with pytest.raises(BrokenImage) as error:
        next(batches)
    assert str(error.value) == (
        f"folder expects a sound JPEG, got a file that ends within its pixels. path: {path}. Mend or remove it, or "
        "leave out what is broken (--skip-broken, skip_broken=True)."
    )
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_the_time_that_callers_wait_for_each_batch_is_counted(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    part, clock = made(8, 1, 3, 3), iter(2.0**k for k in range(100))
    loader = Loader(part, 2, Preprocessing.of(part), classes=4, workers=workers)
    monkeypatch.setattr("striate.training.data.loader.clock_s", lambda: next(clock))
    waits = [loader.waited_s for _ in loader.batches(0)]
    assert waits == [1, 1 + 4, 1 + 4 + 16, 1 + 4 + 16 + 64]  # from 1 to 2, from 4 to 8, …


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size from 1 to 16777216, got 0. Use a whole number from 1 on."),
        ({"batch_size": 4.0}, "batch_size from 1 to 16777216, got 4.0. Use a whole number from 1 on."),
        ({"classes": True}, "classes from 1 to 16777216, got True. Use a whole number from 1 on."),
        ({"workers": 1025}, "workers from 0 to 1024, got 1025. Use a whole number from 0 on."),
        ({"workers": -1}, "workers from 0 to 1024, got -1. Use a whole number from 0 on."),
    ],
    ids=str,
)
def test_a_loaders_number_out_of_range_is_refused(options: dict[str, Any], text: str) -> None:
    part = made(4, 1, 3, 3)
    given = {"batch_size": 2, "classes": 4} | options
    with pytest.raises(ArgumentError) as error:
        Loader(part, preprocessing=Preprocessing.of(part), **given)
    assert str(error.value) == f"loader expects {text}"


def test_a_place_that_no_epoch_has_is_refused() -> None:
    part = made(4, 1, 3, 3)
    loader = Loader(part, 2, Preprocessing.of(part), classes=4)
    for place, text in (((-1, 0), "epoch from 0 to 4294967296, got -1"), ((0, 3), "first from 0 to 2, got 3")):
        with pytest.raises(ArgumentError) as error:
            loader.batches(*place)
        assert str(error.value) == f"loader expects {text}. Use a whole number from 0 on."
    with pytest.raises(ArgumentError, match=r"^augmentation expects crop of less than the 3 px"):
        Loader(part, 2, loader.preprocessing, classes=4, augmentation=Augmentation(crop=3))


# ---------------------------------------------------------------------------------------------------------- validation


def test_a_validation_part_is_taken_from_each_class_by_the_seed() -> None:
    data = open_data("digits")
    both = data.with_validation(0.1, seed=4)
    assert list(both.parts) == ["train", "val", "test"] and both.classes == data.classes
    assert both.parts["test"] is data.parts["test"]
    counts = [part.labels.bincount() for part in (data.parts["train"], both.parts["train"], both.parts["val"])]
    assert torch.equal(counts[0], counts[1] + counts[2]) and ((counts[2] - counts[0] / 10).abs() <= 0.5).all()
    rows = {image.numpy().tobytes() for name in ("train", "val") for image in both.parts[name].images}
    assert rows == {image.numpy().tobytes() for image in data.parts["train"].images}
    again, other = data.with_validation(0.1, seed=4), data.with_validation(0.1, seed=5)
    assert torch.equal(again.parts["val"].images, both.parts["val"].images)
    assert not torch.equal(other.parts["val"].images, both.parts["val"].images)


def test_a_validation_part_that_cannot_be_is_refused() -> None:
    data = DataSet("npz", ("a", "b"), {"train": Part(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))})
    for fraction in (0, 1.0, True, "0.1"):
        with pytest.raises(DataError) as error:
            data.with_validation(fraction)  # type: ignore[arg-type]
        assert str(error.value) == (
            f"npz expects a fraction between 0 and 1, got {fraction!r}. Use 0.1 to validate on a tenth of the training "
            "images."
        )
    with pytest.raises(DataError) as error:
        data.with_validation(0.5)
    assert str(error.value) == (
        "npz expects an image in each part at least, also in val, got none. Give more images, or others."
    )
    validated = DataSet("npz", data.classes, {**data.parts, "val": data.parts["train"]})
    with pytest.raises(DataError) as error:
        validated.with_validation(0.5)
    assert str(error.value) == (
        "npz expects no fraction, as it has a part val, got 0.5. Leave the fraction out, to validate on that part."
    )


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**32 - 1), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_epoch_of_every_size_is_cut_evenly(count: int, batch_size: int, seed: int, epoch: int) -> None:
    part = Part(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    prepare = Preprocessing((1, 1), 1, (0.0,), (1.0,))
    loader = Loader(part, batch_size, prepare, classes=1, seed=seed, workers=0)
    indices = [batch.indices for batch in loader.batches(epoch)]
    sizes = list(map(len, indices))
    assert sorted(torch.cat(indices).tolist()) == list(range(count)) and len(indices) == len(loader)
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1


def test_pictures_of_a_folder_come_at_one_size(tmp_path: Path) -> None:
    folder = two_classes(tmp_path, each=4)
    (folder / "cat" / "9.png").write_bytes(picture(size=(40, 30)))
    part = open_data(f"folder:{folder}").parts["train"]
    loader = Loader(part, 4, Preprocessing.of(part, 16), classes=2, workers=2)
    assert all(batch.images.shape[1:] == (3, 16, 16) for batch in loader.batches(0))
