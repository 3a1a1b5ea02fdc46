"""A checkpoint loads bit for bit, or is refused with one line; a crash never destroys the previous one."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import nn, tensorfile
from striate.errors import CheckpointError
from striate.training import checkpoint
from striate.training.checkpoint import load, previous_path, save


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    model(torch.rand(4, 1, 4, 4))  # running statistics other than the initial ones
    return model


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        key: value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for key, value in model.state_dict().items()
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(small(), tmp_path / "model.safetensors", epoch=3, note='größer " \\ 0')
    return tmp_path / "model.safetensors"


def refusal(path: Path, model: nn.Module | None = None) -> str:
    model = small(1) if model is None else model
    before = bits(model)
    with pytest.raises(CheckpointError) as error:
        load(model, path)
    assert bits(model) == before, "a refused checkpoint changed the model"
    assert "\n" not in str(error.value)
    return str(error.value)


NONE_BEFORE = "No earlier checkpoint beside it would load: copy the file afresh, or train again."


def test_a_round_trip_keeps_every_bit_and_the_metadata(path: Path) -> None:
    model = small(1)
    assert bits(model) != bits(small())
    assert load(model, path) == {"epoch": 3, "note": 'größer " \\ 0'}
    assert bits(model) == bits(small())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.bool])
def test_other_dtypes_empty_tensors_and_nan_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    def holder() -> nn.Module:
        module = nn.Module()
        module.register_buffer("values", torch.zeros(2, 3).to(dtype))
        module.register_buffer("nothing", torch.zeros(0, 4))
        module.register_buffer("odd", torch.zeros(3))
        return module

    kept, model = holder(), holder()
    kept.values.copy_(torch.arange(6).reshape(2, 3) % 2)
    kept.odd.copy_(torch.tensor([float("nan"), float("-inf"), -0.0]))
    save(kept, tmp_path / "m.safetensors")
    load(model, tmp_path / "m.safetensors")
    assert bits(model) == bits(kept)


def test_a_channels_last_model_stays_channels_last(path: Path) -> None:
    model = small(1).to(memory_format=torch.channels_last)
    strides = model[0].weight.stride()
    load(model, path)
    assert model[0].weight.stride() == strides and torch.equal(model[0].weight, small()[0].weight)


def test_the_same_state_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    save(small(), tmp_path / "again.safetensors", epoch=3, note='größer " \\ 0')
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_safetensors_itself_reads_the_file(path: Path) -> None:
    from safetensors.torch import load_file

    found = load_file(path)
    assert {key: value.numpy().tobytes() for key, value in found.items()} == bits(small())


def test_no_flipped_bit_loads(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    chance = random.Random(0)
    spots = [
        *range(64),
        *(chance.randrange(8 * header) for _ in range(100)),
        *(chance.randrange(8 * len(whole)) for _ in range(100)),
    ]
    for spot in spots:
        damaged = bytearray(whole)
        damaged[spot // 8] ^= 1 << spot % 8
        path.write_bytes(damaged)
        message = refusal(path)
        assert message.startswith("load expects a sound checkpoint, got ") and message.endswith(NONE_BEFORE), (
            spot,
            message,
        )


def test_no_flipped_bit_of_a_tiny_checkpoint_loads(tmp_path: Path) -> None:
    path, model = tmp_path / "tiny.safetensors", nn.Linear(1, 1)
    save(model, path)
    whole = path.read_bytes()
    for spot in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[spot // 8] ^= 1 << spot % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(model, path)


def test_no_truncated_or_lengthened_file_loads(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(whole + b"\0")
    size = len(whole) - 8 - int.from_bytes(whole[:8], "little")
    expected = (
        f"load expects a sound checkpoint, got {size + 1} bytes of tensors where the header says {size}. path: "
        f"{path}. {NONE_BEFORE}"
    )
    assert refusal(path) == expected


def test_a_header_longer_than_the_file_is_refused_before_it_is_read(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    got = f"a file of {path.stat().st_size} bytes whose header does not fit in it"
    assert refusal(path) == f"load expects a sound checkpoint, got {got}. path: {path}. {NONE_BEFORE}"


def signed(path: Path, change: Any) -> None:
    """Changes the file's header and signs it with the right digest, as only a program would."""
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    metadata = json.loads(header["__metadata__"]["striate"])
    change(header, metadata)
    metadata["header_sha256"] = "0" * 64
    header["__metadata__"]["striate"] = json.dumps(metadata, separators=(",", ":"))
    text = json.dumps(header, separators=(",", ":")).encode()
    start = bytearray(len(text).to_bytes(8, "little") + text)
    start[tensorfile.DIGEST] = hashlib.sha256(start).hexdigest().encode()
    path.write_bytes(bytes(start) + whole[end:])


def test_the_helper_signs_what_it_leaves_alone(path: Path) -> None:
    signed(path, lambda header, metadata: None)
    load(small(1), path)


def test_a_shape_that_asks_for_terabytes_is_refused_before_allocating(path: Path) -> None:
    signed(path, lambda header, metadata: header["0.bias"].update(shape=[2**40, 2**20]))
    assert "got tensor '0.bias' whose size is not that of its dtype and shape." in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda header, metadata: header["0.bias"].update(data_offsets=[0, 2**50]),
        lambda header, metadata: header["0.bias"].update(data_offsets=[1]),
        lambda header, metadata: header["0.bias"].update(dtype="F8"),
        lambda header, metadata: header["0.bias"].update(shape=[-3]),
        lambda header, metadata: header["0.bias"].update(shape=[1e400]),
        lambda header, metadata: header["0.bias"].update(shape=None),
        lambda header, metadata: header["0.bias"].pop("dtype"),
        lambda header, metadata: header.update({"0.bias": 3}),
        lambda header, metadata: metadata.pop("sha256"),
        lambda header, metadata: metadata["sha256"].pop("0.bias"),
        lambda header, metadata: metadata["sha256"].update({"0.bias": "0" * 64}),
        lambda header, metadata: metadata.update(metadata=3),
    ],
)
def test_a_header_that_lies_is_refused_even_when_signed(path: Path, change: Any) -> None:
    signed(path, change)
    assert refusal(path).startswith("load expects a sound checkpoint, got ")


def test_another_programs_safetensors_file_is_refused(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(small().state_dict(), path, {"format": "a long enough text to reach past the place of the digest" * 3})
    assert (
        refusal(path)
        == (
            f"load expects a sound checkpoint, got a file whose header striate did not write. path: {path}. "
            f"{NONE_BEFORE}"
        )
    )


def test_a_pickle_is_refused_and_never_run(path: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"trap": Trap(), "fill": torch.zeros(999)}, path)
    refusal(path)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_a_pipe_and_nothing_are_refused(tmp_path: Path) -> None:
    start = "load expects a sound checkpoint, got "
    assert refusal(tmp_path) == f"{start}Is a directory. path: {tmp_path}. {NONE_BEFORE}"
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert refusal(tmp_path / "pipe.safetensors").startswith(f"{start}something that is not a file.")
    missing = tmp_path / "no.safetensors"
    assert refusal(missing) == f"{start}No such file or directory. path: {missing}. {NONE_BEFORE}"


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3)), "one with a tensor '1.bias', which the model lacks"),
        (nn.Sequential(*small(), nn.Linear(2, 2)), "one without tensor '4.weight'"),
        (
            nn.Sequential(nn.Conv2d(1, 3, 5), *small()[1:]),
            "tensor '0.weight' of shape (3, 1, 3, 3) where the model has (3, 1, 5, 5)",
        ),
        (small().double(), "tensor '0.weight' of torch.float32 where the model has torch.float64"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(path: Path, model: nn.Module, got: str) -> None:
    message = refusal(path, model)
    start = "load expects a checkpoint of this model, got "
    assert message == f"{start}{got}. path: {path}. {NONE_BEFORE}"


def test_the_previous_checkpoint_is_kept_and_offered(path: Path) -> None:
    save(small(2), path, epoch=4)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.previous.safetensors", "model.safetensors"]
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    previous = previous_path(path)
    message = refusal(path)
    assert "that does not match its SHA-256" in message and message.endswith(
        f"Load {previous} instead: it is sound and fits."
    )
    model = small(1)
    assert load(model, previous)["epoch"] == 3
    assert bits(model) == bits(small())


def test_a_damaged_previous_checkpoint_is_not_offered(path: Path) -> None:
    save(small(2), path)
    for file in (path, previous_path(path)):
        file.write_bytes(file.read_bytes()[:-1])
    assert refusal(path).endswith(NONE_BEFORE)


def test_a_damaged_checkpoint_does_not_replace_the_sound_previous_one(path: Path) -> None:
    save(small(2), path, epoch=4)
    path.write_bytes(path.read_bytes()[:-1])
    save(small(3), path, epoch=5)
    model = small(1)
    assert load(model, path)["epoch"] == 5
    assert load(model, previous_path(path))["epoch"] == 3


@pytest.mark.parametrize("step", ["fsync", "replace", "link"])
def test_an_interrupted_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, step, stop)
        with pytest.raises(KeyboardInterrupt):
            save(small(2), path, epoch=4)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    model = small(1)
    assert load(model, path)["epoch"] == 3
    assert bits(model) == bits(small())


def test_a_full_disk_is_told_in_one_line_and_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(CheckpointError) as error:
            save(small(2), path, epoch=4)
    fix = "Give another folder, or make room in this one."
    assert (
        str(error.value) == f"save expects a folder it can write to, got No space left on device. path: {path}. {fix}"
    )
    assert load(small(1), path)["epoch"] == 3


def test_without_hard_links_the_previous_checkpoint_is_copied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    save(small(2), path, epoch=4)
    assert load(small(1), previous_path(path))["epoch"] == 3


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("model.pt", {}, "save expects a name that ends in .safetensors, got 'model.pt'. Name it model.safetensors."),
        (
            "m.safetensors",
            {"loss": float("nan")},
            "save expects metadata that JSON can say, got Out of range float values are not JSON compliant",
        ),
        (
            "m.safetensors",
            {"when": {1, 2}},
            "save expects metadata that JSON can say, got Object of type set is not JSON serializable",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused_and_writes_nothing(
    tmp_path: Path, name: str, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        save(small(), tmp_path / name, **metadata)
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_state_that_is_not_a_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> str:
            return "text"

    with pytest.raises(CheckpointError) as error:
        save(Odd(), tmp_path / "m.safetensors")
    expected = (
        "save expects a state of plain tensors, got '_extra_state' of str. Make it dense, or register it with "
        "persistent=False."
    )
    assert str(error.value) == expected
