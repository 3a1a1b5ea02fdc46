"""Checkpoints that are whole or refused.

A checkpoint is a safetensors file, which any reader of that format opens. Its metadata has one entry, ``striate``: JSON with
the SHA-256 of every tensor, of the header itself (taken with zeros in its own place), and whatever the caller adds. So each
byte of the file is under a digest, and nothing in it can be run: it holds numbers and text only.

``save`` never leaves a moment without a whole file: it writes beside the old one, flushes, then renames; the old one stays as
``<stem>.previous.safetensors``. ``load`` compares every size with the real file before it allocates anything, and changes the
model only once all has been found to fit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, build

__all__ = ["load", "previous_path", "save"]

SUFFIX = ".safetensors"
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
HEADER_START = b'{"__metadata__":{"striate":"{\\"header_sha256\\":\\"'
DIGEST = slice(8 + len(HEADER_START), 8 + len(HEADER_START) + 64)  # where the header's own digest stands in the file
BLANK = b"0" * 64
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _Place(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    first: int  # byte behind the header
    last: int


def previous_path(path: str | os.PathLike[str]) -> Path:
    """Where ``save`` keeps the checkpoint before the last.

    >>> previous_path("model.safetensors").name
    'model.previous.safetensors'
    """
    path = Path(path)
    return path.with_name(path.stem + ".previous" + SUFFIX)


def save(model: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Writes a model's state so that a crash at any moment leaves the old file or the new one, and never half of one.

    path: its name ends in ``.safetensors``; metadata: anything JSON can say, for ``load`` to give back. The same state and
    metadata give the same bytes. A checkpoint already there is kept as :func:`previous_path`, if it is sound.

    Raises CheckpointError if the state holds something that is not a tensor of a plain dtype, the metadata is not JSON, or
    the file cannot be written; what stood at ``path`` is then as it was.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save(nn.Linear(2, 1), folder.name + "/model.safetensors", epoch=3)
    >>> load(nn.Linear(2, 1), folder.name + "/model.safetensors")
    {'epoch': 3}
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        fix = f"Name it {path.stem or 'model'}{SUFFIX}."
        raise CheckpointError(build("save", f"a name that ends in {SUFFIX}", repr(path.name), do=fix))
    content = _encode(model, metadata)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if path.exists() and _is_sound(path):
                _keep(path, previous_path(path))
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        fix = "Give another folder, or make room in this one."
        raise CheckpointError(build("save", "a folder it can write to", error.strerror or str(error), path=path, do=fix)) from error


def load(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fills a model from a checkpoint, bit for bit, and returns the metadata saved with it.

    Raises CheckpointError, and leaves the model as it was, if the file is missing, damaged in as little as one bit, not a
    checkpoint of :func:`save`, or of another model. The message offers the previous checkpoint where that one would load.
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


def _encode(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    from safetensors.torch import save as to_bytes

    tensors, digests = {}, {}
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.dtype not in DTYPES.values() or value.layout != torch.strided:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                build("save", "a state of plain tensors", f"{key!r} of {kind}", do="Make it dense, or register it with persistent=False.")
            )
        tensors[key] = value.detach().cpu().contiguous().clone()
        digests[key] = hashlib.sha256(_bytes_of(tensors[key])).hexdigest()
    try:
        said = {"header_sha256": BLANK.decode(), "metadata": metadata, "sha256": digests}
        told = json.dumps(said, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        fix = "Keep to text, finite numbers, lists and dicts."
        raise CheckpointError(build("save", "metadata that JSON can say", str(error), do=fix)) from None
    content = bytearray(to_bytes(tensors, {"striate": told}))
    header_end = 8 + int.from_bytes(content[:8], "little")
    if content[8 : DIGEST.stop] != HEADER_START + BLANK:
        raise AssertionError("safetensors writes its metadata first, and compactly")
    content[DIGEST] = hashlib.sha256(content[:header_end]).hexdigest().encode()
    return bytes(content)


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _keep(path: Path, previous: Path) -> None:
    """Gives the file a second name, so that its first is never missing."""
    beside = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    try:
        try:
            os.link(path, beside)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, beside)
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(beside, previous)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A rename lasts once the folder that holds the name is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(build("load", "a sound checkpoint", got, path=path, do="").rstrip())


def _misfit(path: Path, got: str) -> CheckpointError:
    return CheckpointError(build("load", "a checkpoint of this model", got, path=path, do="").rstrip())


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
    """The tensors and the metadata of a sound checkpoint, which fits the model if there is one."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise _damaged(path, "something that is not a file")
            return _decode(path, file, about.st_size, model)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None


def _decode(path: Path, file: Any, file_bytes: int, model: nn.Module | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    start = file.read(8)
    header_bytes = int.from_bytes(start, "little")
    if len(start) < 8 or not DIGEST.stop - 8 <= header_bytes <= min(file_bytes - 8, MOST_HEADER_BYTES):
        raise _damaged(path, f"a file of {file_bytes} bytes whose header does not fit in it")
    header = bytearray(start + file.read(header_bytes))
    if len(header) != 8 + header_bytes or header[8 : DIGEST.start] != HEADER_START:
        raise _damaged(path, "a file whose header striate did not write")
    digest = bytes(header[DIGEST])
    header[DIGEST] = BLANK
    if hashlib.sha256(header).hexdigest().encode() != digest:
        raise _damaged(path, "a header that does not match its SHA-256")
    try:
        entries = json.loads(header[8:])
        told = json.loads(entries.pop("__metadata__")["striate"])
        digests, metadata = dict(told["sha256"]), dict(told["metadata"])
        places = {key: _Place(str(e["dtype"]), tuple(map(int, e["shape"])), *map(int, e["data_offsets"])) for key, e in entries.items()}
        if digests.keys() != places.keys():
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise _damaged(path, "a header that is not a checkpoint's") from None

    in_order = sorted(places.items(), key=lambda item: item[1][2:])
    end = 0
    for key, (dtype, shape, first, last) in in_order:
        if dtype not in DTYPES or min(shape, default=0) < 0 or first != end or last - first != math.prod(shape) * DTYPES[dtype].itemsize:
            raise _damaged(path, f"tensor {key!r} whose size is not that of its dtype and shape")
        end = last
    if end != file_bytes - 8 - header_bytes:
        raise _damaged(path, f"{file_bytes - 8 - header_bytes} bytes of tensors where the header says {end}")

    if model is not None:
        _check_fit(path, places, model)
    tensors = {}
    for key, (dtype, shape, first, last) in in_order:
        content = bytearray(last - first)
        if file.readinto(content) != len(content) or hashlib.sha256(content).hexdigest() != digests[key]:
            raise _damaged(path, f"tensor {key!r} that does not match its SHA-256")
        flat = torch.frombuffer(content, dtype=DTYPES[dtype]) if content else torch.empty(0, dtype=DTYPES[dtype])
        tensors[key] = flat.reshape(shape)
    return tensors, metadata


def _check_fit(path: Path, places: dict[str, _Place], model: nn.Module) -> None:
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
