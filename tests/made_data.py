"""Small data sets as files, for tests of their readers, and how these refuse one."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import memory
import numpy as np
import pytest
from PIL import Image

from striate.errors import DataError
from striate.training.data import open_data

__all__ = [
    *("LITTLE", "cifar_binary", "cifar_pickled", "idx", "mnist", "picture", "png", "png_header", "refused"),
    "two_classes",
]

LITTLE = 2**26  # bytes; no file of these tests has 1 % of it


def refused(spec: str, message: str) -> None:
    """The specification is refused with this text, in little memory."""
    with memory.at_most(LITTLE), pytest.raises(DataError) as error:
        open_data(spec)
    assert str(error.value) == message


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder: Path, packed: bool = False, prefix: str = "", **changed: bytes) -> dict[str, np.ndarray]:
    """The four files of an MNIST with 6 training and 4 test images of 3×2 pixels. changed: content by name."""
    random = np.random.RandomState(0)
    folder.mkdir(exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": random.randint(0, 256, (6, 3, 2), np.uint8),
        "train-labels-idx1-ubyte": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "t10k-images-idx3-ubyte": random.randint(0, 256, (4, 3, 2), np.uint8),
        "t10k-labels-idx1-ubyte": np.array([2, 1, 0, 0], np.uint8),
    }
    for name, array in arrays.items():
        content = changed.get(name.replace("-", "_"), idx(array))
        path = folder / f"{prefix}{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return arrays


def cifar_binary(folder: Path, label_bytes: int = 1, each: int = 2) -> dict[str, np.ndarray]:
    """The files of a CIFAR in the binary version, of ``each`` records; the labels are 0 and 1 in turns."""
    random = np.random.RandomState(0)
    folder.mkdir(exist_ok=True)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"] if label_bytes == 1 else ["train", "test"]
    records = {}
    for name in names:
        records[name] = random.randint(0, 256, (each, label_bytes + 3072), np.uint8)
        records[name][:, label_bytes - 1] = np.arange(each) % 2
        (folder / f"{name}.bin").write_bytes(records[name].tobytes())
    return records


def cifar_pickled(folder: Path, protocol: int = 2, each: int = 2) -> dict[str, np.ndarray]:
    """The files of a CIFAR-10 in the Python version."""
    random = np.random.RandomState(0)
    folder.mkdir(exist_ok=True)
    arrays = {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        arrays[name] = random.randint(0, 256, (each, 3072), np.uint8)
        batch: dict[Any, Any] = {
            b"batch_label": b"a batch",
            b"labels": [k % 2 for k in range(each)],
            b"data": arrays[name],
            b"filenames": [b"%d.png" % k for k in range(each)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    meta = {"label_names": [f"class {k}" for k in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    return arrays


def picture(
    kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (5, 4), seed: int = 0, **options: Any
) -> bytes:
    """An image file of random pixels; size: (width, height)."""
    random = np.random.RandomState(seed)
    bands = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    image = Image.fromarray(random.randint(0, 256, (size[1], size[0], *bands), np.uint8))
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, with right checksums, and its end."""
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_header(width: int, height: int, depth: int = 8, kind: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0)


def two_classes(folder: Path, each: int = 3, kind: str = "PNG", suffix: str = ".png", mode: str = "RGB") -> Path:
    """A folder of two classes, cat and dog, with so many images of each, all different."""
    for number, label in enumerate(("cat", "dog")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            (folder / label / f"{index}{suffix}").write_bytes(picture(kind, mode, seed=10 * number + index))
    return folder
