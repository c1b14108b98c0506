"""The longest pieces of an answer that stand word for word in what a model was trained on.

answer --tokenize--> windows of a few tokens --suffix arrays--> places --grow by tokens, then by bytes--> spans

Text is cut into tokens differently at the ends of a piece when other words surround it, so a search begins with half
the tokens that a span must have, and what it finds grows on both sides byte by byte until the two texts differ.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np

from cirilla_cli.data.origins import RowOrigin
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.lineage.index import IndexedShard

_MOST_PLACES = 16
"""Places that are looked at on either side of where an answer would stand in the order of suffixes."""

_REACH = 32
"""Tokens by which the places that go on most like the answer are found."""

_NOTHING = -2
"""Stands behind the answer's end; before all ids, and before what a suffix array has behind a document's end."""


@dataclass(frozen=True)
class _Place:
    """Bytes of the answer, and a document of a shard that holds them."""

    start: int
    end: int
    tokens: int
    """How many whole tokens of the training data they cover."""
    shard: int
    document: int


@dataclass(frozen=True)
class Span:
    """A piece of an answer that stands in the training data."""

    text: str
    start: int
    """Its first byte in the answer."""
    end: int
    """The byte behind its last."""
    tokens: int
    """How many whole tokens of the training data it covers."""
    places: list[_Place]

    def origins(self, shards: Sequence[IndexedShard]) -> list[RowOrigin]:
        """The rows of training data that it stands in, each once."""
        found: dict[str, RowOrigin] = {}
        for number, shard in enumerate(shards):
            rows = shard.origins({place.document for place in self.places if place.shard == number})
            found.update({row.id: row for _, row in sorted(rows.items())})
        return list(found.values())


def find_spans(
    answer: str, tokenizer: Tokenizer, shards: Sequence[IndexedShard], min_tokens: int
) -> tuple[str, list[Span]]:
    """The answer as the tokenizer reads it, and the longest spans of it in ``shards``, the longest first.

    No span lies inside another; each covers at least ``min_tokens`` whole tokens of the training data.
    """
    ids = tokenizer.encode(answer)
    pieces = _Pieces(tokenizer)
    text = b"".join(pieces[i] for i in ids)
    places = [place for n, shard in enumerate(shards) for place in _search(ids, text, n, shard, pieces, min_tokens)]
    return text.decode("utf-8", "replace"), _spans(places, text)


class _Pieces(dict[int, bytes]):
    """The bytes of each token, asked for once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, id: int) -> bytes:
        self[id] = found = self._tokenizer.piece_bytes(id)
        return found


def _search(
    ids: Sequence[int], text: bytes, number: int, shard: IndexedShard, pieces: _Pieces, min_tokens: int
) -> list[_Place]:
    """Every place of a shard where at least ``min_tokens`` tokens stand that also stand in the answer."""
    begins = np.cumsum([0, *(len(pieces[i]) for i in ids)]).tolist()
    found, grown = [], dict[int, int]()
    for at, starts in _places(ids, shard, max(1, min_tokens // 2)):
        for start in starts:
            # What lies on one diagonal grows to the same piece.
            if begins[at] >= grown.get(start - at, 0):
                place = _grow(text, begins[at], start, number, shard, pieces)
                grown[start - at] = max(place.end, begins[at] + 1)
                found.append(place)
    return [place for place in found if place.tokens >= min_tokens]


def _places(ids: Sequence[int], shard: IndexedShard, width: int) -> Iterator[tuple[int, list[int]]]:
    """For each token of the answer the places of the shard that go on most like it, for ``width`` tokens at least."""
    if len(ids) < width:
        return
    answer_T = np.asarray([*ids, *[_NOTHING] * (_REACH - 1)], dtype=np.int64)
    windows_QW = np.lib.stride_tricks.sliding_window_view(answer_T, _REACH)[: len(ids) - width + 1]
    low_Q, high_Q = shard.suffixes.find(windows_QW[:, :width])
    at_Q = np.flatnonzero(low_Q < high_Q)
    nearest_Q = shard.suffixes.insertion(windows_QW[at_Q])
    for at, nearest in zip(at_Q.tolist(), nearest_Q.tolist(), strict=True):
        first, last = max(int(low_Q[at]), nearest - _MOST_PLACES), min(int(high_Q[at]), nearest + _MOST_PLACES)
        yield at, shard.suffixes.order_N[first:last].tolist()


def _grow(text: bytes, at: int, start: int, number: int, shard: IndexedShard, pieces: _Pieces) -> _Place:
    """The longest common piece of the answer and a document around a byte of one and a token of the other."""
    suffixes, document = shard.suffixes, shard.suffixes.document(start)
    first, last = int(suffixes.ends_D[document - 1]) if document else 0, int(suffixes.ends_D[document])
    end, tokens = _ahead(text, at, (pieces[int(suffixes.ids_N[i])] for i in range(start, last)))
    begin, more = _behind(text, at, (pieces[int(suffixes.ids_N[i])] for i in range(start - 1, first - 1, -1)))
    return _Place(*_whole_characters(text, begin, end), tokens + more, number, document)


def _ahead(text: bytes, at: int, pieces: Iterable[bytes]) -> tuple[int, int]:
    """Up to where the pieces repeat ``text`` from ``at`` on, and how many whole ones do; a control token ends it."""
    whole = 0
    for piece in pieces:
        if not piece or not text.startswith(piece, at):
            return at + len(commonprefix([text[at : at + len(piece)], piece])), whole
        at, whole = at + len(piece), whole + 1
    return at, whole


def _behind(text: bytes, at: int, pieces: Iterable[bytes]) -> tuple[int, int]:
    """The same down to where, for the pieces before ``at``, the nearest first."""
    whole = 0
    for piece in pieces:
        if not piece or not text.endswith(piece, 0, at):
            near = text[max(0, at - len(piece)) : at]
            return at - len(commonprefix([near[::-1], piece[::-1]])), whole
        at, whole = at - len(piece), whole + 1
    return at, whole


def _whole_characters(text: bytes, start: int, end: int) -> tuple[int, int]:
    """The characters that lie wholly between two bytes."""
    while start < end and text[start] & 0xC0 == 0x80:
        start += 1
    while start < end < len(text) and text[end] & 0xC0 == 0x80:
        end -= 1
    return start, end


def _spans(places: Iterable[_Place], text: bytes) -> list[Span]:
    """Spans of the answer that lie in no other, the longest first."""
    most: dict[tuple[int, int], list[_Place]] = defaultdict(list)
    for place in places:
        most[place.start, place.end].append(place)
    spans, reached = [], 0
    for (start, end), found in sorted(most.items(), key=lambda item: (item[0][0], -item[0][1])):
        if end > reached:
            reached = end
            tokens = max(place.tokens for place in found)
            spans.append(Span(text[start:end].decode("utf-8", "replace"), start, end, tokens, found))
    return sorted(spans, key=lambda span: (span.start - span.end, span.start))
