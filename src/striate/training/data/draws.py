r"""Random numbers that are a pure function of a seed, an epoch, the index of an image and the number of the draw.

.. math:: h_0 = 0, \quad h_{j+1} = m(h_j + g·(c_j + 1) \bmod 2^{64}), \quad c = (seed, epoch, index, draw)

``g`` is 2⁶⁴ divided by the golden ratio, ``m`` the finalizer of SplitMix64. Nothing is remembered between calls, so an
image gets the same numbers in a batch of any composition, by any worker, on any machine, and a run that goes on from a
checkpoint needs no more than the two integers.

Source: G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", 2014; the constants of m
are D. Stafford's "Mix13".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["hashed", "shuffled", "uniform"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ORDER = 2**32  # the draw that decides the order of the images; those of augmentations have small numbers


def hashed(seed: int, epoch: int, indices: NDArray[np.int64], draws: Sequence[int]) -> NDArray[np.uint64]:
    """64 random bits for each image and draw, uint64 ``(N, len(draws))``.

    indices: int64 ``(N,)``; seed, epoch, draws: from 0 on.

    >>> both = hashed(0, 1, np.array([7, 8]), [0])
    >>> [hashed(0, 1, np.array([index]), [0]).item() for index in (7, 8)] == both[:, 0].tolist()
    True
    """
    state = np.zeros((1, 1), np.uint64)
    for counter in (np.array([[seed]]), np.array([[epoch]]), indices[:, None], np.array([draws])):
        state = _mixed(state + GOLDEN * (counter.astype(np.uint64) + np.uint64(1)))
    return state


def uniform(seed: int, epoch: int, indices: NDArray[np.int64], draws: Sequence[int]) -> NDArray[np.float64]:
    """Numbers from 0 to below 1 for each image and draw, multiples of 2⁻⁵³, float64 ``(N, len(draws))``.

    >>> uniform(0, 0, np.arange(10000), [3]).mean().round(2)
    np.float64(0.5)
    """
    return (hashed(seed, epoch, indices, draws) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The numbers from 0 to below ``count`` in the random order of an epoch.

    >>> sorted(shuffled(0, 1, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(hashed(seed, epoch, np.arange(count), [ORDER])[:, 0], kind="stable")


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * FIRST
    state = (state ^ (state >> np.uint64(27))) * SECOND
    return state ^ (state >> np.uint64(31))
