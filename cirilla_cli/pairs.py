"""Byte-pair encoding by itself: which neighbours in runs of ids are joined to a new piece, and what comes of it."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

Run = tuple[int, ...]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Vocabulary:
    """What can be joined of a tokenizer's pieces, and what must not come of it."""

    pieces: list[str]
    """By id, in the tokenizer's own alphabet; empty for those that are never joined."""
    taken: Collection[str]
    """Texts that no new piece may have."""
    halves: Mapping[str, set[str]]
    """By a half of an old piece that no text made so far, the other halves: the two would make it from then on."""


def ways(text: str, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others."""
    cuts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
    return [(left, right) for left, right in cuts if left in ids and right in ids]


class Joiner:
    """Joins neighbours in counted runs of ids, and all others that make the same piece."""

    def __init__(self, known: Vocabulary, runs: list[tuple[Run, int]]) -> None:
        self.pieces, self.spelled = list(known.pieces), list[Run]()
        self._known, self._first, self._runs = known, len(known.pieces), runs
        self._ids = {piece: id_ for id_, piece in enumerate(known.pieces) if piece}
        self._counts, self._where = Counter[Pair](), defaultdict[Pair, set[int]](set)
        for place in range(len(runs)):
            self._count(place, 1)
        # Equal counts go by id, so that the same texts give the same pieces.
        self._heap = sorted((-number, pair) for pair, number in self._counts.items())

    def join_all(self, place: int) -> bool:
        """Join a run into one piece, by way of the most frequent pairs; False if no way is allowed."""
        while len(run := self._runs[place][0]) > 1:
            allowed = list(filter(self._allows, pairwise(run)))
            if not allowed:
                return False
            self._join(max(allowed, key=self._counts.__getitem__))
        return True

    def join_best(self) -> bool:
        """Join the most frequent pair that may be joined; False if none occurs twice."""
        while self._heap:
            number, pair = heapq.heappop(self._heap)
            now = self._counts[pair]
            if 1 < now < -number:
                heapq.heappush(self._heap, (-now, pair))
            elif now == -number and now > 1 and self._allows(pair):
                self._join(pair)
                return True
        return False

    def _allows(self, pair: Pair) -> bool:
        text = self.pieces[pair[0]] + self.pieces[pair[1]]
        makes_old = any(rest in self._ids or rest == text for rest in self._known.halves.get(text, ()))
        return self._ids.get(text, self._first) >= self._first and text not in self._known.taken and not makes_old

    def _join(self, pair: Pair) -> None:
        text = self.pieces[pair[0]] + self.pieces[pair[1]]
        if text not in self._ids:
            olds = ((id_,) if id_ < self._first else self.spelled[id_ - self._first] for id_ in pair)
            self.spelled.append(tuple(old for run in olds for old in run))
            self._ids[text] = len(self.pieces)
            self.pieces.append(text)
        new, around = self._ids[text], set[Pair]()
        pairs = {(self._ids[left], self._ids[right]) for left, right in ways(text, self._ids)}
        for place in sorted(set[int]().union(*(self._where.pop(made, ()) for made in pairs))):
            self._count(place, -1)
            run, number = self._runs[place]
            self._runs[place] = tuple(_joined(run, pairs, new)), number
            self._count(place, 1)
            around.update(found for found in pairwise(self._runs[place][0]) if new in found)
        for found in around:
            heapq.heappush(self._heap, (-self._counts[found], found))

    def _count(self, place: int, sign: int) -> None:
        run, number = self._runs[place]
        for pair in pairwise(run):
            self._counts[pair] += sign * number
            self._where[pair].add(place)


def _joined(run: Run, pairs: Collection[Pair], new: int) -> Iterator[int]:
    """A run with ``new`` in the place of ``pairs``, from the left."""
    place = 0
    while place < len(run):
        is_pair = run[place : place + 2] in pairs
        yield new if is_pair else run[place]
        place += 2 if is_pair else 1
