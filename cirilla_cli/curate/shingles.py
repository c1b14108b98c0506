"""Sets of character 5-grams as sorted hashes, many texts at a time.

N: texts of a batch; C: characters of all of them; G: distinct grams of all of them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

GRAM = 5
_LOOSE = re.compile(r"[\W_]+")
_HALF = np.uint64(32)


def loose(text: str) -> str:
    """Case, white space and punctuation taken out of consideration; signs between digits stay apart."""
    return _LOOSE.sub(" ", unicodedata.normalize("NFC", text).casefold()).strip()


def odd_numbers(what: str, count: int) -> U64:
    """Odd 64-bit multipliers that are the same on every machine and in every version."""
    digests = (hashlib.sha256(f"{what} {number}".encode()).digest() for number in range(count))
    return np.array([int.from_bytes(digest[:8], "big") | 1 for digest in digests], dtype=np.uint64)


_ODD = odd_numbers("gram", GRAM)


@dataclass(frozen=True, slots=True)
class GramSets:
    """The grams of N texts: those of text n are ``hashes_G[starts[n]:starts[n + 1]]``, ascending and distinct."""

    hashes_G: U32
    starts: I64

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes_N(self) -> I64:
        """How many grams each text has, at least 1."""
        return np.diff(self.starts)

    def sizes_of(self, numbers: I64) -> I64:
        """How many grams some of the texts have."""
        return np.asarray(self.starts[numbers + 1] - self.starts[numbers])

    def take(self, numbers: I64) -> "GramSets":
        """The sets of some of the texts, in the order of ``numbers``."""
        sizes = self.sizes_of(numbers)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        places = np.repeat(self.starts[numbers] - starts[:-1], sizes) + np.arange(starts[-1])
        return GramSets(self.hashes_G[places], starts)


def gram_sets(plain: Sequence[str]) -> GramSets:
    """The sets of character 5-grams of texts that `loose` made; a shorter text is its own only gram.

    A gram is known by a 32-bit hash, the high half of a sum of products (Dietzfelbinger 1996), so two of a text's
    grams are taken for one about once in ten million pairs of texts of 200 characters.
    """
    padded = [text.ljust(GRAM, "\0") for text in plain]
    codes_C = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    text_C = np.repeat(np.arange(len(padded), dtype=np.uint64), [len(text) for text in padded])
    last = max(0, len(codes_C) - GRAM + 1)
    sums = sum((codes_C[i : last + i] * _ODD[i] for i in range(GRAM)), np.zeros(last, dtype=np.uint64))
    whole = text_C[:last] == text_C[GRAM - 1 :]
    keys_G = ((text_C[:last] << _HALF) | (sums >> _HALF))[whole]
    keys_G.sort()
    keys_G = keys_G[np.concatenate([[True], keys_G[1:] != keys_G[:-1]])[: len(keys_G)]]
    starts = np.searchsorted(keys_G, np.arange(len(padded) + 1, dtype=np.uint64) << _HALF)
    return GramSets(keys_G.astype(np.uint32), starts.astype(np.int64))


def jaccard(left: GramSets, right: GramSets) -> NDArray[np.float64]:
    """Shared grams over all grams of each text of ``left`` and the one beside it in ``right``, 0 to 1."""
    numbers = np.arange(len(left), dtype=np.uint64) << _HALF
    parts = [np.repeat(numbers, sets.sizes_N) | sets.hashes_G for sets in (left, right)]
    keys = np.concatenate(parts)
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]] >> _HALF
    shared = np.bincount(twice.astype(np.int64), minlength=len(left))
    return np.asarray(shared / (left.sizes_N + right.sizes_N - shared), dtype=np.float64)
