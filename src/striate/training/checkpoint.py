"""Saves and loads checkpoints: files of :mod:`striate.tensorfile` with a model's state and metadata.

``save`` keeps the old file as ``<stem>.previous.safetensors``. ``load`` raises an error for a damaged file, and changes
the model only after it has checked that every tensor fits.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, build
from ..tensorfile import DTYPES, SUFFIX, Damaged, Place, check_name, encode, read, write

__all__ = ["load", "metadata_of", "previous_path", "save"]


def previous_path(path: str | os.PathLike[str]) -> Path:
    """The path where ``save`` keeps the checkpoint before the last one.

    >>> previous_path("model.safetensors").name
    'model.previous.safetensors'
    """
    path = Path(path)
    return path.with_name(path.stem + ".previous" + SUFFIX)


def save(model: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Writes a model's state so that a crash at any moment leaves the old file or the new one, and never half of one.

    path: its name ends in ``.safetensors``; metadata: anything that JSON can hold, which ``load`` returns. The same
    state and metadata give the same bytes. A checkpoint already there is kept as :func:`previous_path`, if it is sound.

    Raises CheckpointError if the state holds something that is not a tensor of a plain dtype, the metadata is not JSON,
    or the file cannot be written; the file at ``path`` is then unchanged.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save(nn.Linear(2, 1), folder.name + "/model.safetensors", epoch=3)
    >>> load(nn.Linear(2, 1), folder.name + "/model.safetensors")
    {'epoch': 3}
    """
    path = Path(path)
    check_name(path)

    def keep() -> None:
        if path.exists() and _is_sound(path):
            _keep(path, previous_path(path))

    write(path, encode(model.state_dict(), metadata), before=keep)


def load(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fills a model from a checkpoint, bit for bit, and returns the metadata saved with it.

    Raises CheckpointError, and leaves the model unchanged, if the file is missing, damaged in as little as one bit, not
    a checkpoint of :func:`save`, or of another model. The message suggests the previous checkpoint if that would load.
    """
    path = Path(path)
    try:
        tensors, metadata = _read(path, model)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {_advice(path, model)}") from None
    state = model.state_dict()
    with torch.no_grad():
        for key, tensor in tensors.items():
            state[key].copy_(tensor)
    return metadata


def metadata_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata saved in a checkpoint.

    Raises CheckpointError if the file is missing, damaged or not a checkpoint.
    """
    try:
        return _read(Path(path), None)[1]
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Give the file of a checkpoint, as runs/lenet5-digits/model.safetensors."
        ) from None


def _keep(path: Path, previous: Path) -> None:
    """Gives the file the second name ``previous``, so that a file named ``path`` exists at any time."""
    temporary = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, previous)
    finally:
        temporary.unlink(missing_ok=True)


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(build("load", "a sound checkpoint", got, path=path, hint="").rstrip())


def _misfit(path: Path, got: str) -> CheckpointError:
    return CheckpointError(build("load", "a checkpoint of this model", got, path=path, hint="").rstrip())


def _advice(path: Path, model: nn.Module) -> str:
    previous = previous_path(path)
    try:
        _read(previous, model)
    except CheckpointError:
        return "No earlier checkpoint beside it would load: copy the file afresh, or train again."
    return f"Load {previous} instead: it is sound and fits."


def _is_sound(path: Path) -> bool:
    try:
        _read(path, None)
    except CheckpointError:
        return False
    return True


def _read(path: Path, model: nn.Module | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and metadata of a checkpoint; raises if it is damaged, or does not fit a given model."""
    try:
        return read(path, lambda places, _: None if model is None else _check_fit(path, places, model))
    except Damaged as found:
        raise _damaged(path, str(found)) from None


def _check_fit(path: Path, places: dict[str, Place], model: nn.Module) -> None:
    state = model.state_dict()
    for key in state:
        if key not in places:
            raise _misfit(path, f"one without tensor {key!r}")
    for key in sorted(places.keys() - state.keys()):
        raise _misfit(path, f"one with a tensor {key!r}, which the model lacks")
    for key, wanted in state.items():
        dtype, shape, *_ = places[key]
        if not isinstance(wanted, Tensor):
            raise _misfit(path, f"a tensor {key!r} where the model has a {type(wanted).__name__}")
        if shape != tuple(wanted.shape):
            raise _misfit(path, f"tensor {key!r} of shape {shape} where the model has {tuple(wanted.shape)}")
        if DTYPES[dtype] != wanted.dtype:
            raise _misfit(path, f"tensor {key!r} of {DTYPES[dtype]} where the model has {wanted.dtype}")
