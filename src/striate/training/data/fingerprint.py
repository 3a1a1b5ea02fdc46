"""What tells the images of a part from others, without decoding them."""

from __future__ import annotations

import hashlib

from torch import Tensor

from .dataset import Part
from .sources import open_file

__all__ = ["fingerprint"]

MOST_BYTES = 2**30  # read of all files of a part, which an epoch reads too
MOST_FILE_BYTES = 2**16  # read of one file
CHUNK = 1024  # images hashed at once


def fingerprint(part: Part) -> str | None:
    """A digest of a part's images, which is another after any of them was edited.

    Of images in memory each byte counts. Of those in files the names count, the sizes in bytes, and the first and last
    32 KiB of each; less where there are more than 16,384 files, so that 1 GiB is read at most. In a compressed file
    another pixel changes what follows, up to the end; only in a larger BMP a change may go unnoticed. The times of
    files do not count: those that were copied are the same. None for images that are made otherwise, as by the code of
    a Dataset.

    >>> import torch
    >>> part = Part(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0]))
    >>> before = fingerprint(part)
    >>> part.images[1, 0, 0, 0] = 1
    >>> fingerprint(part) == before
    False
    """
    digest, images = hashlib.sha256(), part.images
    if isinstance(images, Tensor):
        digest.update(repr(tuple(images.shape)).encode())
        for some in images.split(CHUNK):
            digest.update(some.contiguous().numpy())
        return digest.hexdigest()
    if not images.files:
        return None
    half = min(MOST_FILE_BYTES, MOST_BYTES // len(images)) // 2
    for index in images.indices.tolist():
        file, file_bytes = open_file("data", images.files[index])
        with file:
            digest.update(f"{images.names[index]}\0{file_bytes}\0".encode())
            digest.update(file.read(half))
            file.seek(max(file.tell(), file_bytes - half))
            digest.update(file.read(half))
    return digest.hexdigest()
