"""Batches of a part, in an order that is a pure function of (seed, epoch), made ahead by threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from time import perf_counter as clock_s
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, build
from .augmentation import Augmentation
from .dataset import Part, check_seed
from .draws import shuffled
from .preprocess import Preprocessing

__all__ = ["Batch", "Loader"]

AHEAD = 2  # batches that a worker has in hand or ready
MOST_WORKERS = 1024


class Batch(NamedTuple):
    """images: float32 ``(N, C, H, W)``; targets: int64 ``(N,)``, or float32 ``(N, classes)`` where images are mixed;
    indices: int64 ``(N,)``, of the images in their part.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor


class Loader:
    """Gives the batches of a part, epoch by epoch.

    Every epoch visits each image once. The sizes of batches differ by one image at most, and none is larger than
    ``batch_size``. The order depends on (seed, epoch) alone and what an augmentation does to an image on (seed, epoch,
    index), so a loader has no state: two integers, the epoch and the batches done, say where it is. Neither the number
    of workers nor that of torch's threads changes a bit. Images that must be decoded are kept at their new size if all
    of them fit into 512 MiB, see :meth:`.Preprocessing.kept`.

    classes: the number of them; shuffle: whether the order is random, else it is the part's; workers: threads that
    decode and augment ahead, each two batches at most and on one thread of its own, 0 for none; waited_s: how long
    :meth:`batches` has kept its callers waiting, in all.

    Raises ArgumentError for a number out of range, and for an augmentation that is too large for the images.

    >>> part = Part(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10) % 2)
    >>> loader = Loader(part, 4, Preprocessing.of(part), classes=2)
    >>> len(loader), [len(batch.indices) for batch in loader.batches(epoch=0)]
    (3, [4, 3, 3])
    """

    def __init__(
        self,
        part: Part,
        batch_size: int,
        preprocessing: Preprocessing,
        *,
        classes: int,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        shuffle: bool = True,
        workers: int = 1,
    ) -> None:
        check_seed("loader", seed)
        for name, value, least, most in (
            ("batch_size", batch_size, 1, 2**24),
            ("classes", classes, 1, 2**24),
            ("workers", workers, 0, MOST_WORKERS),
        ):
            if type(value) is not int or not least <= value <= most:
                hint = f"Use a whole number from {least} on."
                raise ArgumentError(build("loader", f"{name} from {least} to {most}", repr(value), hint=hint))
        if augmentation is not None:
            augmentation.check(preprocessing.size)
        self.part, self.batch_size, self.preprocessing = preprocessing.kept(part), batch_size, preprocessing
        self.classes, self.seed, self.augmentation = classes, seed, augmentation
        self.shuffle, self.workers = shuffle, workers
        self.waited_s = 0.0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.part) // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from number ``first`` on.

        An iterator that is no longer used ends its threads. What goes wrong in one of them, such as an image that
        cannot be decoded, is raised here when the batch's turn comes.
        """
        for name, value, most in (("epoch", epoch, 2**32), ("first", first, len(self))):
            if type(value) is not int or not 0 <= value <= most:
                hint = "Use a whole number from 0 on."
                raise ArgumentError(build("loader", f"{name} from 0 to {most}", repr(value), hint=hint))
        order = shuffled(self.seed, epoch, len(self.part)) if self.shuffle else np.arange(len(self.part))
        return self._made(epoch, np.array_split(order, max(1, len(self)))[first:])

    def _made(self, epoch: int, chunks: list[NDArray[np.int64]]) -> Generator[Batch, None, None]:
        if not self.workers or not chunks:
            for chunk in chunks:
                start = clock_s()
                batch = self._make(epoch, chunk)
                self.waited_s += clock_s() - start
                yield batch
            return
        with _pool(min(self.workers, len(chunks))) as pool:
            rest = iter(chunks)
            ahead = deque(pool.submit(self._make, epoch, chunk) for chunk in islice(rest, AHEAD * self.workers))
            while ahead:
                start = clock_s()
                batch = ahead.popleft().result()
                self.waited_s += clock_s() - start
                ahead.extend(pool.submit(self._make, epoch, chunk) for chunk in islice(rest, 1))
                yield batch

    def _make(self, epoch: int, chunk: NDArray[np.int64]) -> Batch:
        indices = torch.from_numpy(chunk)
        images, targets = self.preprocessing.pixels(self.part, indices), self.part.labels[indices]
        if self.augmentation is not None:
            mean, classes = self.preprocessing.mean, self.classes
            images, targets = self.augmentation(
                images, targets, indices, self.seed, epoch, mean=mean, classes=classes
            )
        return Batch(self.preprocessing.normalized(images), targets, indices)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch computes on one thread each, so that they take no more from a training step than they use.

    torch keeps the number of threads twice: for the calling thread, and for threads that ask for it for the first time,
    which then forget what was set for them before. So the workers ask first, and the second number is set back as soon
    as all have begun.
    """
    begun = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        begun.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "striate-loader", begin)
    try:
        for _ in range(workers):
            pool.submit(int)  # a thread begins with each, as none is idle yet
        begun.wait()
        torch.set_num_threads(before)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
