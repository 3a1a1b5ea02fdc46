"""What identifies the images of a run: every edit is noticed when it goes on, and nothing else is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from made_data import two_classes
from made_trainings import made_data, made_model
from PIL import Image

from striate.errors import ArgumentError
from striate.training import Callback, Training, fit, open_data, signals, train_run
from striate.training.data import Part, fingerprint


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "photos", each=10)


def of(folder: Path) -> list[str | None]:
    return [fingerprint(part) for part in open_data(f"folder:{folder}").parts.values()]


def edit(path: Path) -> None:
    """One pixel gets another value; size, name and times of the file stay."""
    before = path.stat()
    with Image.open(path) as image:
        image.load()
    image.putpixel((4, 3), tuple(255 - value for value in image.getpixel((4, 3))))  # type: ignore[misc, union-attr]
    image.save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_edited_pixel_a_new_name_and_a_missing_file_are_noticed_and_a_copy_of_the_folder_is_not(
    photos: Path, tmp_path: Path
) -> None:
    began = of(photos)
    assert len(set(began)) == 2 and None not in began
    assert of(Path(shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile))) == began
    edit(photos / "dog" / "7.png")
    assert of(photos) != began
    edit(photos / "dog" / "7.png")
    (photos / "dog" / "7.png").rename(photos / "dog" / "7a.png")
    assert of(photos) != began
    (photos / "dog" / "7a.png").unlink()
    assert of(photos) != began


@pytest.mark.parametrize("place", [0, -1])
def test_of_a_large_file_both_ends_count(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from striate.training.data import fingerprint as made
    from striate.training.data.dataset import Decoded

    monkeypatch.setitem(made.__globals__, "MOST_FILE_BYTES", 64)
    content = bytearray(range(200))
    (tmp_path / "1.png").write_bytes(content)
    images = Decoded(lambda index: torch.zeros(1), 1, [(1, 1)], ["1.png"], torch.tensor([0]), [tmp_path / "1.png"])
    before = fingerprint(Part(images, torch.tensor([0])))
    content[place] += 1
    (tmp_path / "1.png").write_bytes(content)
    assert fingerprint(Part(images, torch.tensor([0]))) != before


def test_in_memory_each_byte_counts_and_so_does_the_order() -> None:
    part = made_data().parts["train"]
    before = fingerprint(part)
    assert fingerprint(part.take(torch.arange(len(part)))) == before
    assert fingerprint(part.take(torch.arange(len(part)).flip(0))) != before
    part.images[23, 0, 7, 7] ^= 1  # type: ignore[index]
    assert fingerprint(part) != before


def test_images_of_the_users_own_code_have_none() -> None:
    import made_runs

    class Items:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.rand(1, 4, 4), index % 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_runs, "items", Items, raising=False)
        data = open_data("python:made_runs:items")
    assert {fingerprint(part) for part in data.parts.values()} == {None}


class _Stops(Callback):
    def on_step(self, training: Training) -> None:
        signals.signal.raise_signal(signals.signal.SIGINT)


def test_a_run_whose_images_were_edited_meanwhile_does_not_go_on(photos: Path, tmp_path: Path) -> None:
    settings = {"data": f"folder:{photos}", "model": "mlp_bn", "epochs": 1, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        train_run(out=tmp_path / "run", callbacks=[_Stops()], **settings)
    edit(photos / "cat" / "0.png")
    with pytest.raises(ArgumentError) as error:
        train_run(out=tmp_path / "run", resume=True)
    assert str(error.value) == (
        "training expects the data it began with, got other data: pixels differ. Give the same data to go on, or begin "
        "a new training."
    )
    edit(photos / "cat" / "0.png")
    assert train_run(out=tmp_path / "run", resume=True).metrics["epochs"]


def test_a_training_in_memory_goes_on_with_the_same_pixels_only() -> None:
    data, snapshots = made_data(), []

    class Keeps(Callback):
        def on_epoch(self, training: Training, epoch: object) -> None:
            snapshots.append(training.snapshot())

    settings = {"epochs": 2, "batch_size": 8, "threads": 1, "workers": 0}
    fit(made_model(), data, callbacks=[Keeps()], **settings)
    assert len(fit(made_model(), data, resume=snapshots[0], **settings)) == 2
    data.parts["test"].images[0, 0, 0, 0] ^= 1  # type: ignore[index]
    with pytest.raises(ArgumentError, match="other data: pixels differ"):
        fit(made_model(), data, resume=snapshots[0], **settings)
