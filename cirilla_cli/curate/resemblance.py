"""Lines that say much the same as an evaluation text in other words or another order.

W: words of a batch; P: pairs of a line and a text that share a word.
"""

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.curate.shingles import I64
from cirilla_cli.curate.words import Words

_COMMON = 50
_COMMON_SHARE = 0.05
_LONGER = 4


class Resemblance:
    """The rare words of evaluation texts, and how much of their weight a line holds.

    A word weighs the logarithm of the texts over those that hold it (inverse document frequency, Sparck Jones 1972);
    words of more than 50 texts and a twentieth of them weigh nothing.
    """

    def __init__(self, texts: list[tuple[int, ...]], vocabulary: int, share: float) -> None:
        self._share = share
        pairs = sorted({(word, number) for number, text in enumerate(texts) for word in text})
        words, self._texts = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        counts = np.bincount(words, minlength=vocabulary)
        common = counts > max(_COMMON, _COMMON_SHARE * len(texts))
        self._weight: NDArray[np.float64] = np.where(common, 0.0, np.log((1 + len(texts)) / np.maximum(counts, 1)))
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._total = np.bincount(self._texts, self._weight[words], minlength=len(texts))
        self._sizes = np.bincount(self._texts, minlength=len(texts))

    def find(self, words: Words) -> I64:
        """The evaluation texts that a line resembles, shape (texts, 2): number of the row, number of the text."""
        rows_L, lines_W = np.unique(words.line_W, return_index=True)[1], words.line_W - words.line_W.min(initial=0)
        keys = np.unique(lines_W * len(self._weight) + words.ids_W)
        line_P, word_P = keys // len(self._weight), keys % len(self._weight)
        sizes_L = np.bincount(line_P)
        weighs = self._weight[word_P] > 0
        line_P, text_P, weight_P = self._shared(line_P[weighs], word_P[weighs])
        pairs, place = np.unique(line_P * len(self._sizes) + text_P, return_inverse=True)
        line, text = pairs // len(self._sizes), pairs % len(self._sizes)
        alike = np.bincount(place, weight_P, minlength=len(pairs)) >= self._share * self._total[text]
        alike &= sizes_L[line] <= _LONGER * self._sizes[text]
        row_of = np.zeros(len(sizes_L), dtype=np.int64)
        row_of[lines_W[rows_L]] = words.row_W[rows_L]
        return np.unique(np.stack([row_of[line[alike]], text[alike]], axis=1), axis=0)

    def _shared(self, lines: I64, words: I64) -> tuple[I64, I64, NDArray[np.float64]]:
        """Every text that holds one of the words: its line, its number, the word's weight."""
        sizes = self._starts[words + 1] - self._starts[words]
        ends = np.cumsum(sizes)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self._starts[words] - ends + sizes, sizes)
        return np.repeat(lines, sizes), self._texts[places], np.repeat(self._weight[words], sizes)
