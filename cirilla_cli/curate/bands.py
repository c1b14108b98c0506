"""Band keys of MinHash signatures, and a table that finds rows by them.

N: texts; B: bands; R: bins of a band; Q: keys asked for; E: entries of the table.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.curate.shingles import I64, U64, GramSets, odd_numbers

_BANDS = 24
_RECALL = 0.985
_MIX = odd_numbers("mix", 1)[0]
_NONE = np.uint32(0xFFFFFFFF)
_NOTHING = np.empty(0, dtype=np.int64)

Number = TypeVar("Number", bound=np.generic)


def enlarged(array: NDArray[Number], room: int) -> NDArray[Number]:
    """A longer array that begins with ``array``."""
    longer = np.empty(room, dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def bins_for(threshold: float) -> int:
    """Bins of a band: the most, up to 8, with which 0.985 of the pairs at ``threshold`` share one of 24 bands."""
    enough = [bins for bins in range(1, 9) if 1 - (1 - threshold**bins) ** _BANDS >= _RECALL]
    return max(enough, default=1)


class Bands:
    """Keys of which similar sets share at least one with high probability, 24 a set.

    One-permutation hashing (Li, Owen, Zhang 2012): the range of gram hashes is cut into R bins, and a band is the
    least of each bin under one function (Broder 1997), so that a band costs one function and not R. An empty bin
    agrees with an empty bin.
    """

    def __init__(self, threshold: float) -> None:
        self.bins = bins_for(threshold)
        self._low = (odd_numbers("band", _BANDS) >> np.uint64(31)).astype(np.uint32) | np.uint32(1)
        self._odd_R = odd_numbers("bin", self.bins)
        self._start_B = odd_numbers("start", _BANDS)

    def keys(self, sets: GramSets, guards_N: U64) -> U64:
        """Keys of each set, shape (N, B); sets with different ``guards_N`` share none."""
        edges = self._edges(sets)
        starts, empty = edges[:-1], edges[:-1] == edges[1:]
        # One more, which is the least of nothing, because a last bin without grams begins behind all of them.
        mapped = np.append(sets.hashes_G, _NONE)
        keys_NB = np.empty((len(sets), _BANDS), dtype=np.uint64)
        for band in range(_BANDS):
            np.multiply(sets.hashes_G, self._low[band], out=mapped[:-1])
            least = np.minimum.reduceat(mapped, starts)
            least[empty] = _NONE
            summed_N = (least.reshape(len(sets), self.bins) * self._odd_R).sum(axis=1, dtype=np.uint64)
            keys_NB[:, band] = _mixed(summed_N + guards_N * self._start_B[band] + self._start_B[band])
        return keys_NB

    def _edges(self, sets: GramSets) -> I64:
        """Where each bin of each set begins among the grams, and the end of the last."""
        text_G = np.repeat(np.arange(len(sets), dtype=np.uint64), sets.sizes_N)
        keys_G = (text_G << np.uint64(32)) | sets.hashes_G
        cuts_R = np.array([(number << 32) // self.bins for number in range(self.bins)], dtype=np.uint64)
        cuts = (np.arange(len(sets), dtype=np.uint64)[:, None] << np.uint64(32)) + cuts_R
        return np.append(np.searchsorted(keys_G, cuts.ravel()), len(keys_G)).astype(np.int64)


def _mixed(keys: U64) -> U64:
    """Every bit made to depend on every other, after the finaliser of splitmix64 (Steele et al. 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * _MIX
    return keys ^ (keys >> np.uint64(31))


class Table:
    """Rows by key: a hash table with chains, in arrays, so that it takes some 40 bytes an entry."""

    def __init__(self) -> None:
        self._heads = np.full(1 << 10, -1, dtype=np.int64)
        self._keys_E = np.empty(1 << 10, dtype=np.uint64)
        self._rows_E = np.empty(1 << 10, dtype=np.int64)
        self._next_E = np.empty(1 << 10, dtype=np.int64)
        self._used = 0

    def find(self, keys_Q: U64) -> tuple[I64, I64]:
        """Every entry that has one of the keys: the places of the keys in ``keys_Q``, and the rows beside them."""
        places, entries = np.arange(len(keys_Q)), self._heads[self._slots(keys_Q)]
        found_places, found_rows = [_NOTHING], [_NOTHING]
        while len(places):
            there = entries >= 0
            places, entries = places[there], entries[there]
            equal = self._keys_E[entries] == keys_Q[places]
            found_places.append(places[equal])
            found_rows.append(self._rows_E[entries[equal]])
            entries = self._next_E[entries]
        return np.concatenate(found_places), np.concatenate(found_rows)

    def add(self, keys_Q: U64, rows_Q: I64) -> None:
        """Remember each row under the key beside it."""
        first, self._used = self._used, self._used + len(keys_Q)
        if self._used > len(self._keys_E):
            self._grow()
        self._keys_E[first : self._used] = keys_Q
        self._rows_E[first : self._used] = rows_Q
        self._link(0 if len(self._heads) < len(self._keys_E) else first)

    def _grow(self) -> None:
        room = 2 * self._used
        self._keys_E = enlarged(self._keys_E, room)
        self._rows_E = enlarged(self._rows_E, room)
        self._next_E = enlarged(self._next_E, room)

    def _link(self, first: int) -> None:
        """Put the entries from ``first`` on into the chains; all of them anew where there are too few chains."""
        if first == 0:
            self._heads = np.full(1 << int(len(self._keys_E) - 1).bit_length(), -1, dtype=np.int64)
        slots = self._slots(self._keys_E[first : self._used])
        order = np.argsort(slots)
        slots, entries = slots[order], order + first
        fresh = np.concatenate([[True], slots[1:] != slots[:-1]])[: len(slots)]
        self._next_E[entries[1:]] = entries[:-1]
        self._next_E[entries[fresh]] = self._heads[slots[fresh]]
        last = np.append(fresh[1:], True)[: len(slots)]
        self._heads[slots[last]] = entries[last]

    def _slots(self, keys: U64) -> I64:
        return (keys & np.uint64(len(self._heads) - 1)).astype(np.int64)
