"""Documents into rows of the context length; pure functions of lengths and seed, so any step can be found again."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: items by index into bins of ``capacity``; longer items must have been cut before.

    Long items are placed first, each into the fullest bin that still takes it (Ding et al., 2024, arXiv:2404.10830).
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(free, (lengths[item], -1))
        if place < len(free):
            room, bin_ = free.pop(place)
        else:
            room, bin_ = capacity, len(bins)
            bins.append([])
        bins[bin_].append(item)
        insort(free, (room - lengths[item], bin_))
    return bins


def shuffled(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``n`` things that depends on seed and epoch alone."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n)


def interleave(weights: Sequence[NDArray[np.float64]]) -> NDArray[np.int16]:
    """Which source gives each row, for weights that may change from row to row.

    Source s is due sum(weight_s / total) rows by then; the one furthest behind gives the next. No randomness: after
    any number of rows each of up to four sources is within one row of its share, of more within two.

    Args:
        weights: for each source its weight at every row.
    """
    share = np.stack(weights)
    share = np.cumsum(share / share.sum(axis=0), axis=1)
    given = np.zeros(len(weights))
    order = np.empty(share.shape[1], dtype=np.int16)
    for row in range(share.shape[1]):
        order[row] = np.argmax(share[:, row] - given)
        given[order[row]] += 1
    return order
