"""Removal of repeated rows, in one pass, the first one staying."""

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.data.rows import Sample, content_hash
from cirilla_cli.synth.config import DedupeConfig

Method = Literal["exact", "normalised", "near"]

_GRAM = 5
_LOOSE = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"(?<=[\w,;] )[A-Z\u00c0-\u00de]\w+")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row that was dropped, the row that stayed, and how alike they are (1 for all but near-duplicates)."""

    dropped: str
    kept: str
    similarity: float
    method: Method

    def row(self) -> dict[str, str | float]:
        """One line of duplicates.jsonl."""
        return {"dropped": self.dropped, "kept": self.kept, "similarity": self.similarity, "method": self.method}


def text_of(sample: Sample) -> str:
    """What is compared: every turn, then answer, chosen and rejected; so question and answer together decide."""
    parts = [f"{message.role}: {message.content}" for message in sample.messages]
    return "\n".join([*parts, *(text for text in (sample.answer, sample.chosen, sample.rejected) if text is not None)])


def loose(text: str) -> str:
    """Case, white space and punctuation taken out of consideration; signs between digits stay apart."""
    return _LOOSE.sub(" ", unicodedata.normalize("NFC", text).casefold()).strip()


def grams(text: str) -> frozenset[str]:
    """Character 5-grams of the loose text (the text itself where it is shorter)."""
    plain = loose(text)
    return frozenset(plain[i : i + _GRAM] for i in range(max(1, len(plain) - _GRAM + 1)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Shared grams over all grams, 0 to 1."""
    return len(left & right) / len(left | right)


class Deduper:
    """Remembers the rows that stayed; `check` says whether a further one repeats one of them.

    Rows of templates and verifiable tasks are compared up to case, spacing and punctuation only, tasks with their
    punctuation: `3 - 2` is not `3 + 2`. Free text from teachers is also compared by MinHash over character 5-grams
    (Broder 1997), each candidate verified exactly, and rows that differ in a number or a name stay.
    """

    def __init__(self, config: DedupeConfig) -> None:
        self.config = config
        self._exact: dict[tuple[str, str], str] = {}
        self._loose: dict[tuple[str, str], str] = {}
        self._near: dict[str, NearIndex] = defaultdict(lambda: NearIndex(config))

    def check(self, sample: Sample) -> Duplicate | None:
        """The duplicate that ``sample`` is of a row seen before, or None; then it is remembered itself."""
        text = text_of(sample)
        exact = (sample.kind, content_hash(text))
        if exact in self._exact:
            return Duplicate(sample.id, self._exact[exact], 1.0, "exact")
        normal = (
            sample.kind,
            content_hash(" ".join(text.casefold().split()) if sample.kind == "task" else loose(text)),
        )
        if normal in self._loose:
            return Duplicate(sample.id, self._loose[normal], 1.0, "normalised")
        if self.config.near and sample.kind == "chat" and sample.generator.teacher is not None:
            found = self._near[sample.kind].check(sample.id, text)
            if found is not None:
                return found
        self._exact[exact] = self._loose[normal] = sample.id
        return None


class NearIndex:
    """MinHash signatures in bands, and the grams of each row for exact verification."""

    def __init__(self, config: DedupeConfig) -> None:
        self.config = config
        random = np.random.default_rng(0)
        self._a = random.integers(0, 2**63, config.permutations, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._b = random.integers(0, 2**63, config.permutations, dtype=np.uint64)
        self._rows: list[tuple[str, frozenset[str], frozenset[str]]] = []
        self._bands: dict[bytes, list[int]] = defaultdict(list)

    def check(self, id_: str, text: str) -> Duplicate | None:
        """The nearest row at or above the threshold with the same numbers and names; else ``text`` is added."""
        own, guard = grams(text), _guard(text)
        keys = self._keys(own)
        best: tuple[float, str] | None = None
        for number in sorted({number for key in keys for number in self._bands.get(key, ())}):
            other, theirs, their_guard = self._rows[number]
            similarity = jaccard(own, theirs) if guard == their_guard else 0.0
            if similarity >= self.config.threshold and (best is None or similarity > best[0]):
                best = (similarity, other)
        if best is not None:
            return Duplicate(id_, best[1], best[0], "near")
        for key in keys:
            self._bands[key].append(len(self._rows))
        self._rows.append((id_, own, guard))
        return None

    def _keys(self, own: Iterable[str]) -> list[bytes]:
        """One key a band of the signature."""
        signature = self._signature(own)
        bands = signature.reshape(self.config.bands, -1)
        return [number.to_bytes(2, "big") + band.tobytes() for number, band in enumerate(bands)]

    def _signature(self, own: Iterable[str]) -> NDArray[np.uint64]:
        """Least hash of the grams under each of P random functions, shape (P,).

        Multiply-shift hashing (Dietzfelbinger et al. 1997) of CRC-32 sums, which are the same on every machine.
        """
        hashes_G = np.array([zlib.crc32(gram.encode("utf-8", "surrogatepass")) for gram in own], dtype=np.uint64)
        mixed_PG = (self._a[:, None] * hashes_G[None, :] + self._b[:, None]) >> np.uint64(32)
        least: NDArray[np.uint64] = mixed_PG.min(axis=1)
        return least


def _guard(text: str) -> frozenset[str]:
    """The numbers, and the capitalised words inside sentences, that must agree between near-duplicates."""
    return frozenset(_NUMBER.findall(text)) | frozenset(_NAME.findall(text))
