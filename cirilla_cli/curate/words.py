"""Texts as numbers of words, many at a time, with the places where sentences and lines begin.

W: words of a batch, its rows one after another, with an unknown word between them.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.curate.shingles import I64

UNKNOWN = 0
"""Number of every word that stands in no evaluation text."""
_SIGNS = "+-*/=<>^%"
_SENTENCE, _LINE = -1, -2
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+|[+*/=<>^%]|(?<![^\W\d_])-(?![^\W\d_])|\n|[.?!:;\"()\u201c\u201d]")


def tokens(text: str) -> list[str]:
    """Words, numbers and signs of reckoning, casefolded, among the marks at which sentences and lines end."""
    return _TOKEN.findall(unicodedata.normalize("NFC", text).casefold())


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some rows."""

    ids_W: I64
    row_W: I64
    fresh_W: NDArray[np.bool_]
    """Whether a sentence begins with the word, or ended before it."""
    line_W: I64
    """Number of the line that the word stands in."""


class Vocabulary:
    """The words of the evaluation texts; signs come first."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._ids = {".": _SENTENCE, "\n": _LINE} | dict.fromkeys('?!:;"()\u201c\u201d', _SENTENCE)
        self._ids |= {sign: number for number, sign in enumerate(_SIGNS, 1)}
        self.size = len(_SIGNS) + 1
        for text in texts:
            for token in tokens(text):
                if token not in self._ids:
                    self._ids[token] = self.size
                    self.size += 1

    def words(self, texts: Sequence[str]) -> Words:
        """The words of ``texts``, a row each."""
        get, between = self._ids.get, (_LINE, UNKNOWN, _LINE)
        rows = [[get(token, UNKNOWN) for token in tokens(text)] for text in texts]
        marked = np.array([number for row in rows for number in (*row, *between)], dtype=np.int64)
        row = np.repeat(np.arange(len(rows)), [len(row) + len(between) for row in rows])
        is_word = marked >= 0
        lines = np.cumsum(marked == _LINE)
        fresh = np.concatenate([[True], ~is_word[:-1]])[: len(marked)]
        return Words(marked[is_word], row[is_word], fresh[is_word], lines[is_word])


def is_sign(number: int) -> bool:
    """Whether a word is a sign of reckoning."""
    return 1 <= number <= len(_SIGNS)
