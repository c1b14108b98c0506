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
"""A window that so many evaluation texts share is their template's and says nothing."""
_FILTER_BITS = 22
_ODD = odd_numbers("word", _GRAM)


@dataclass(frozen=True, slots=True)
class Run:
    """Words of an evaluation text that stand in a row."""

    row: int
    text: int
    words: int


class SpanIndex:
    """Finds rows that hold an evaluation text whole, or ``span`` words of it in a row if it is longer than that."""

    def __init__(self, texts: Sequence[tuple[int, ...]], span: int) -> None:
        """``texts`` are distinct, as numbers of words, none of them empty."""
        self._texts, self._span = texts, span
        self._anchors: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._lengths = sorted({min(len(text), _GRAM) for text in texts})
        grams = [_hashes(np.array(text, dtype=np.int64), min(len(text), _GRAM)).tolist() for text in texts]
        shared = Counter(gram for text in grams for gram in set(text))
        for number, text in enumerate(grams):
            for place in self._places([shared[gram] for gram in text], len(texts[number])):
                self._anchors[text[place]].append((number, place))
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        self._filter[_slots(np.array(list(self._anchors), dtype=np.uint64))] = True

    def _places(self, shared: list[int], words: int) -> Iterator[int]:
        """Where the windows begin that the text is found by: the rarest one, or one in every run that counts."""
        if words <= self._span:
            yield min(range(len(shared)), key=shared.__getitem__)
            return
        block = max(1, (self._span - _GRAM + 1) // 2)
        for start in range(0, len(shared), block):
            place = min(range(start, min(start + block, len(shared))), key=shared.__getitem__)
            if shared[place] < _SHARED:
                yield place

    def find(self, words: Words) -> Iterator[Run]:
        """For every row, the evaluation texts in it, each as often as it is met."""
        ids = words.ids_W.tolist()
        for length in self._lengths:
            hashes = _hashes(words.ids_W, length)
            places = np.flatnonzero(self._filter[_slots(hashes)])
            for place, key in zip(places.tolist(), hashes[places].tolist(), strict=True):
                for text, offset in self._anchors.get(key, ()):
                    run = self._run(ids, words, place - offset, self._texts[text], offset)
                    if run:
                        yield Run(int(words.row_W[place]), text, run)

    def _run(self, ids: list[int], words: Words, start: int, text: tuple[int, ...], offset: int) -> int:
        """Words in a row that the text whose begin would be at ``start`` shares around ``offset``; 0 where too few."""
        if len(text) <= self._span:
            whole = start >= 0 and tuple(ids[start : start + len(text)]) == text
            return len(text) if whole and _stands_alone(ids, words, start, start + len(text)) else 0
        left, right = offset, offset
        while left > 0 and start + left > 0 and ids[start + left - 1] == text[left - 1]:
            left -= 1
        while right < len(text) and start + right < len(ids) and ids[start + right] == text[right]:
            right += 1
        return right - left if right - left >= self._span else 0


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
