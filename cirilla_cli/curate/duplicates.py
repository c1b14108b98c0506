"""Removal of repeated rows: the first one in the caller's order stays."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Literal

import numpy as np

from cirilla_cli.curate.config import DuplicatesConfig
from cirilla_cli.curate.near import Near, NearIndex, Prepared
from cirilla_cli.curate.shingles import loose
from cirilla_cli.data.rows import Document, Sample

Method = Literal["exact", "normalised", "near"]
_Kept = tuple[str, str]

_BLOCK_ROWS = 256
_BATCH_ROWS = 16 * _BLOCK_ROWS
_BATCH_CHARS = 1 << 20
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"(?<=[\w,;] )[A-Z\u00c0-\u00de]\w+")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row that was dropped, the row that stayed, and how alike they are (1 for all but near-duplicates)."""

    dropped: str
    kept: str
    similarity: float
    method: Method
    source: str = ""
    kept_source: str = ""

    def row(self) -> dict[str, str | float]:
        """One line of duplicates.jsonl."""
        line: dict[str, str | float] = {"dropped": self.dropped, "kept": self.kept}
        line |= {"similarity": self.similarity, "method": self.method}
        return line | ({"source": self.source, "kept_source": self.kept_source} if self.source else {})


@dataclass(frozen=True, slots=True)
class Entry:
    """What is compared of a row, and what it is called."""

    id: str
    text: str
    kind: str
    """Only rows of one kind repeat one another."""
    near: bool = True
    """Whether it can be nearly the same as another row."""
    signs: bool = False
    """Whether punctuation makes a difference, as in `3 - 2` and `3 + 2`."""
    source: str = ""


def entry(row: Sample | Document, source: str = "") -> Entry:
    """What is compared of ``row``: of a sample every turn, answer, chosen and rejected; of a document its text.

    Tasks, and samples that rules made (no teacher, not imported), are near nothing: rows of one template differ by a
    name or a number, and that is the point of them.
    """
    if isinstance(row, Document):
        return Entry(row.id, row.text, "document", source=source)
    free = row.kind != "task" and (row.generator.teacher is not None or row.generator.strategy == "import")
    return Entry(row.id, _turns(row), row.kind, free, row.kind == "task", source)


def _turns(sample: Sample) -> str:
    parts = [f"{message.role}: {message.content}" for message in sample.messages]
    return "\n".join([*parts, *(text for text in (sample.answer, sample.chosen, sample.rejected) if text is not None)])


@dataclass(frozen=True, slots=True)
class _Item:
    entry: Entry
    plain: str
    exact: bytes
    normal: bytes


class Deduper:
    """Remembers the rows that stayed; says whether further ones repeat one of them.

    Rows are compared exactly, then up to case, white space and punctuation, then by the Jaccard similarity of their
    character 5-grams, as far as ``config.match`` goes. What is dropped depends on the rows and their order alone:
    they may come one at a time or all at once.
    """

    def __init__(self, config: DuplicatesConfig) -> None:
        self.config = config
        self._index = NearIndex(config.threshold)
        self._normal: dict[bytes, tuple[_Kept, bytes]] = {}
        self._near: list[_Kept] = []

    def check(self, row: Sample | Document, source: str = "") -> Duplicate | None:
        """The duplicate that ``row`` is of a row seen before, or None; then it is remembered itself."""
        (duplicate,) = self.entries([entry(row, source)])
        return duplicate

    def checked(
        self, rows: Iterable[tuple[str, Sample | Document]]
    ) -> Iterator[tuple[str, Sample | Document, Duplicate | None]]:
        """Rows beside the names of their sources, in order, each with what `check` says; thousands are read ahead."""
        rows, again = tee(rows)
        found = self.entries(entry(row, source) for source, row in again)
        for (source, row), duplicate in zip(rows, found, strict=True):
            yield source, row, duplicate

    def entries(self, entries: Iterable[Entry]) -> Iterator[Duplicate | None]:
        """For each entry, in order, the duplicate that it is, or None; some thousands are read ahead."""
        for batch in _batches(entries):
            items = [self._item(one) for one in batch]
            near = [number for number, item in enumerate(items) if self._looks_near(item)]
            guards = np.array([self._guard(batch[number]) for number in near], dtype=np.uint64)
            prepared = self._index.prepare([items[number].plain for number in near], guards)
            places = {number: place for place, number in enumerate(near)}
            for start in range(0, len(items), _BLOCK_ROWS):
                yield from self._block(items, range(start, min(start + _BLOCK_ROWS, len(items))), places, prepared)

    def _item(self, one: Entry) -> _Item:
        plain = loose(one.text)
        normal = " ".join(one.text.casefold().split()) if one.signs else plain
        normal = one.text if self.config.match == "exact" else normal
        return _Item(one, plain, _digest(one.kind, one.text), _digest(one.kind, normal))

    def _looks_near(self, item: _Item) -> bool:
        return self.config.match == "near" and item.entry.near and item.normal not in self._normal

    def _guard(self, one: Entry) -> int:
        """What must agree between near-duplicates: the kind, and the numbers and the names inside sentences."""
        facts = {*_NUMBER.findall(one.text), *_NAME.findall(one.text)} if self.config.same_facts else set()
        return int.from_bytes(_digest(one.kind, "\n".join(sorted(facts)))[:8], "big")

    def _block(
        self, items: Sequence[_Item], numbers: range, places: dict[int, int], prepared: Prepared
    ) -> list[Duplicate | None]:
        """What becomes of some rows of a batch, of which those in ``places`` have a place in ``prepared``."""
        looked = [n for n in numbers if n in places and items[n].normal not in self._normal]
        rows = prepared.take([places[n] for n in looked])
        alike, row_of, before = _Alike.of(self._index, rows), {n: row for row, n in enumerate(looked)}, len(self._near)
        stayed: dict[int, int] = {}
        found = []
        for number in numbers:
            row = row_of.get(number)
            duplicate = self._known(items[number]) or self._alike(items[number].entry, alike.first(row, stayed))
            if duplicate is None:
                kept = self._remember(items[number])
                if row is not None:
                    stayed[row] = before + len(stayed)
                    self._near.append(kept)
            found.append(duplicate)
        self._index.add(rows, list(stayed))
        return found

    def _known(self, item: _Item) -> Duplicate | None:
        known = self._normal.get(item.normal)
        return known and _duplicate(item.entry, known[0], 1.0, "exact" if known[1] == item.exact else "normalised")

    def _alike(self, one: Entry, found: tuple[int, float] | None) -> Duplicate | None:
        return found and _duplicate(one, self._near[found[0]], found[1], "near")

    def _remember(self, item: _Item) -> _Kept:
        kept = item.entry.id, item.entry.source
        self._normal[item.normal] = (kept, item.exact)
        return kept


@dataclass(frozen=True, slots=True)
class _Alike:
    """What the rows of a block are like: the first row that stayed before it, and rows of the block."""

    kept: dict[int, Near]
    block: dict[int, list[Near]]

    @classmethod
    def of(cls, index: NearIndex, rows: Prepared) -> "_Alike":
        block: dict[int, list[Near]] = {}
        for near in index.among_themselves(rows):
            block.setdefault(near.row, []).append(near)
        return cls({near.row: near for near in index.among_kept(rows)}, block)

    def first(self, row: int | None, stayed: dict[int, int]) -> tuple[int, float] | None:
        """The first row that stayed and that ``row`` repeats, by number; ``stayed`` has those of the block."""
        if row is None:
            return None
        if row in self.kept:
            return self.kept[row].other, self.kept[row].similarity
        block = (near for near in self.block.get(row, ()) if near.other in stayed)
        return next(((stayed[near.other], near.similarity) for near in block), None)


def _duplicate(one: Entry, kept: _Kept, similarity: float, method: Method) -> Duplicate:
    return Duplicate(one.id, kept[0], similarity, method, one.source, kept[1])


def _digest(kind: str, text: str) -> bytes:
    return hashlib.blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in order, so few at a time that their grams fit into memory."""
    batch: list[Entry] = []
    chars = 0
    for one in entries:
        batch.append(one)
        chars += len(one.text)
        if len(batch) == _BATCH_ROWS or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
