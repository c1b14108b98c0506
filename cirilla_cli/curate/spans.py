"""Runs of words of evaluation texts that stand in training rows.

W: words of a batch of rows; the windows of `_GRAM` words begin at each of them but the last few.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cirilla_cli.curate.shingles import I64, U64, odd_numbers
from cirilla_cli.curate.words import Words, is_sign

_GRAM = 8
"""Words of a window; a text of fewer words must stand between the ends of sentences."""
_SHARED = 16
"""Windows that so many evaluation texts share find too many of them to be looked for."""
_FILTER_BITS = 22
_ODD = odd_numbers("word", _GRAM)


@dataclass(frozen=True, slots=True)
class Run:
    """Words of an evaluation text that stand in a row."""

    row: int
    text: int
    words: int


class SpanIndex:
    """Finds rows that hold an evaluation text whole, or so long a part of it that ``span`` of its own words are in it.

    A word is a text's own when no window around it stands in another text: what texts share is their template's.
    """

    def __init__(self, texts: Sequence[tuple[int, ...]], span: int) -> None:
        """``texts`` are distinct, as numbers of words, none of them empty."""
        self._texts, self._span = texts, span
        self._anchors: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._lengths = sorted({min(len(text), _GRAM) for text in texts})
        grams = [_hashes(np.array(text, dtype=np.int64), min(len(text), _GRAM)).tolist() for text in texts]
        holders = Counter(gram for text in grams for gram in set(text))
        self._own = [_own_words([holders[gram] for gram in text], len(texts[n])) for n, text in enumerate(grams)]
        for number, text in enumerate(grams):
            for place in self._places([holders[gram] for gram in text], len(texts[number])):
                self._anchors[text[place]].append((number, place))
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        self._filter[_slots(np.array(list(self._anchors), dtype=np.uint64))] = True

    def _places(self, holders: list[int], words: int) -> set[int]:
        """Where the windows begin that a text is found by: the rarest one, and one in every part that may count."""
        rarest = min(range(len(holders)), key=holders.__getitem__)
        if words <= self._span:
            return {rarest}
        block = max(1, (self._span - _GRAM + 1) // 2)
        parts = (range(start, min(start + block, len(holders))) for start in range(0, len(holders), block))
        places = {min(part, key=holders.__getitem__) for part in parts}
        return {place for place in places if holders[place] < _SHARED} | {rarest}

    def find(self, words: Words) -> Iterator[Run]:
        """For every row, the evaluation texts in it, each as often as it is met."""
        ids = words.ids_W.tolist()
        for length in self._lengths:
            hashes = _hashes(words.ids_W, length)
            places = np.flatnonzero(self._filter[_slots(hashes)])
            for place, key in zip(places.tolist(), hashes[places].tolist(), strict=True):
                for text, offset in self._anchors.get(key, ()):
                    run = self._run(ids, words, place - offset, text, offset)
                    if run:
                        yield Run(int(words.row_W[place]), text, run)

    def _run(self, ids: list[int], words: Words, start: int, number: int, offset: int) -> int:
        """Words in a row that the text whose begin would be at ``start`` shares around ``offset``; 0 where too few."""
        text = self._texts[number]
        left, right = offset, offset
        while left > 0 and start + left > 0 and ids[start + left - 1] == text[left - 1]:
            left -= 1
        while right < len(text) and start + right < len(ids) and ids[start + right] == text[right]:
            right += 1
        if right - left == len(text):
            return len(text) if _stands_alone(ids, words, start, start + len(text)) else 0
        return right - left if self._own[number][right] - self._own[number][left] >= self._span else 0


def _own_words(holders: list[int], words: int) -> list[int]:
    """How many words before each place, and before the end, stand in no window that another text holds too."""
    own = np.ones(words, dtype=np.int64)
    for place in np.flatnonzero(np.array(holders) > 1).tolist():
        own[place : place + _GRAM] = 0
    return [0, *np.cumsum(own).tolist()]


def _stands_alone(ids: list[int], words: Words, start: int, end: int) -> bool:
    """Whether words are a text of their own: no longer sum goes on beside them, and few words fill a sentence."""
    begins, ends = bool(words.fresh_W[start]), bool(words.fresh_W[end])
    if end - start < _GRAM:
        return begins and ends
    return (begins or not is_sign(ids[start - 1])) and (ends or not is_sign(ids[end]))


def _hashes(ids_W: I64, length: int) -> U64:
    """A number for each run of ``length`` words, shape (W - length + 1,)."""
    count = max(0, len(ids_W) - length + 1)
    ids = ids_W.astype(np.uint64)
    sums = np.full(count, length, dtype=np.uint64)
    for number in range(length):
        sums += ids[number : count + number] * _ODD[number]
    mixed: U64 = (sums ^ (sums >> np.uint64(32))) * _ODD[0]
    return mixed


def _slots(hashes: U64) -> I64:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)
