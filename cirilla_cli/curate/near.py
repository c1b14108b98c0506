"""Near-duplicates among many rows: MinHash bands find candidates, each is verified by its exact Jaccard similarity.

N: rows of a batch; P: pairs of rows; B: bands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.curate.bands import Bands, Table, enlarged
from cirilla_cli.curate.shingles import I64, U64, GramSets, gram_sets, jaccard

_PAIRS_GRAMS = 1 << 22


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is compared of some rows: their grams, and the keys under which similar rows are found."""

    sets: GramSets
    keys_NB: U64

    def take(self, numbers: Sequence[int]) -> "Prepared":
        """Some of the rows, in the order of ``numbers``."""
        if not numbers:
            return _NOTHING
        chosen = np.array(numbers, dtype=np.int64)
        return Prepared(self.sets.take(chosen), self.keys_NB[chosen])


_NOTHING = Prepared(GramSets(np.empty(0, np.uint32), np.zeros(1, np.int64)), np.empty((0, 1), np.uint64))
"""No rows; most calls that bring one row, made by rules, look at none."""


@dataclass(frozen=True, slots=True)
class Near:
    """Rows alike: one of the batch, an earlier one, and their similarity."""

    row: int
    other: int
    similarity: float


class NearIndex:
    """The rows that stayed; finds those of them that further rows repeat."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._bands = Bands(threshold)
        self._table = Table()
        self._hashes = np.empty(1 << 12, dtype=np.uint32)
        self._starts = np.zeros(1 << 10, dtype=np.int64)
        self._rows = 0

    def prepare(self, plain: Sequence[str], guards_N: U64) -> Prepared:
        """What is compared of rows, by texts as `shingles.loose` makes them; a pure function of each row.

        Only rows with equal ``guards_N`` are alike.
        """
        if not plain:
            return _NOTHING
        sets = gram_sets(plain)
        return Prepared(sets, self._bands.keys(sets, guards_N))

    def among_kept(self, rows: Prepared) -> list[Near]:
        """For each row that repeats rows that stayed, the first of these, as a number in the order of `add`."""
        if not len(rows.sets):
            return []
        places, others = self._table.find(rows.keys_NB.ravel())
        pairs = _distinct(places // rows.keys_NB.shape[1], others)
        return _first_each(self._verified(pairs, rows.sets, self._kept()))

    def among_themselves(self, rows: Prepared) -> list[Near]:
        """Every pair of rows alike within the batch, the later one as `row`; by row, then by the earlier one."""
        if len(rows.sets) < 2:
            return []
        keys = rows.keys_NB.ravel()
        order = np.argsort(keys, kind="stable")
        again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        groups: dict[int, list[int]] = {}
        for place in np.unique(order[np.concatenate([again, again + 1])]).tolist():
            groups.setdefault(int(keys[place]), []).append(place // rows.keys_NB.shape[1])
        found = {(late, early) for group in groups.values() for early, late in combinations(group, 2)}
        return self._verified(np.array(sorted(found), dtype=np.int64).reshape(-1, 2), rows.sets, rows.sets)

    def add(self, rows: Prepared, numbers: Sequence[int]) -> None:
        """Remember some rows of a batch; they are numbered on from those before."""
        if not numbers:
            return
        chosen = rows.take(numbers)
        kept = self._rows + np.arange(len(numbers))
        self._table.add(chosen.keys_NB.ravel(), np.repeat(kept, chosen.keys_NB.shape[1]))
        self._append(chosen.sets)

    def _append(self, sets: GramSets) -> None:
        begin, rows = int(self._starts[self._rows]), self._rows + len(sets)
        end = begin + int(sets.starts[-1])
        if end > len(self._hashes):
            self._hashes = enlarged(self._hashes, max(end, len(self._hashes) * 3 // 2))
        if rows >= len(self._starts):
            self._starts = enlarged(self._starts, 2 * rows)
        self._hashes[begin:end] = sets.hashes_G
        self._starts[self._rows + 1 : rows + 1] = begin + sets.starts[1:]
        self._rows = rows

    def _kept(self) -> GramSets:
        return GramSets(self._hashes, self._starts[: self._rows + 1])

    def _verified(self, pairs_P2: I64, left: GramSets, right: GramSets) -> list[Near]:
        """The pairs at or above the threshold; those whose sizes alone forbid it are not looked at."""
        sizes_P2 = np.stack([left.sizes_of(pairs_P2[:, 0]), right.sizes_of(pairs_P2[:, 1])], axis=1)
        possible = sizes_P2.min(axis=1) >= self.threshold * sizes_P2.max(axis=1)
        pairs_P2, sizes_P = pairs_P2[possible], sizes_P2[possible].sum(axis=1)
        near: list[Near] = []
        for part in _parts(pairs_P2, sizes_P):
            similar = jaccard(left.take(part[:, 0]), right.take(part[:, 1]))
            for number in np.flatnonzero(similar >= self.threshold).tolist():
                near.append(Near(int(part[number, 0]), int(part[number, 1]), float(similar[number])))
        return near


def _distinct(rows: I64, others: I64) -> I64:
    """Pairs in order, each once, shape (P, 2)."""
    keys = np.unique((rows << 40) | others)
    return np.stack([keys >> 40, keys & ((1 << 40) - 1)], axis=1)


def _parts(pairs_P2: I64, sizes_P: I64) -> list[NDArray[np.int64]]:
    """The pairs in parts that hold so few grams that they fit a cache or so."""
    cuts = np.flatnonzero(np.diff(np.cumsum(sizes_P) // _PAIRS_GRAMS)) + 1
    return np.split(pairs_P2, cuts) if len(pairs_P2) else []


def _first_each(near: list[Near]) -> list[Near]:
    first: dict[int, Near] = {}
    for found in near:
        first.setdefault(found.row, found)
    return list(first.values())
