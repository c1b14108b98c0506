"""Many texts to ids at once: a text falls apart where no piece can span, and each distinct part is encoded once.

texts --joined--> bytes_N --cut--> segments_S --dictionary--> distinct_K --encode what is new--> a table of ids
                                                segments_S --their rows of the table, one after another--> ids_T

Where no piece of the vocabulary holds a pair of neighbouring bytes, nothing is ever merged across that pair, whatever
stands around it. So byte-pair encoding gives the parts, one after another, the ids that it gives the whole. Words
recur: a corpus has far fewer distinct parts than parts.

Legend: N bytes, S segments, K distinct ones, D texts, T ids.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22
"""Most bytes that are cut up at once, but for a single text that is longer: what is held is some tens of times this."""
_MOST_REMEMBERED = 1 << 27
"""Bytes of memory after which a table begins anew: text of ever new words would fill all there is."""
_ENTRY_BYTES = 160
"""What a segment costs beside its own bytes: the object, its place in the dictionary, its ids."""
_LINES = 64
"""Segments that are encoded in one call, as lines; longer texts cost the tokenizer more for each byte."""

Ids = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """The ids of several texts in a row, and where each text's end."""

    ids_T: Ids
    ends_D: Places

    @classmethod
    def of(cls, texts: Iterable[Sequence[int]]) -> "Block":
        """From the ids of each text."""
        parts = [np.asarray(ids, dtype=np.int32) for ids in texts]
        return cls(np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum([len(p) for p in parts], dtype=np.int64))

    def parts(self) -> list[Ids]:
        """The ids of each text."""
        return np.split(self.ids_T, self.ends_D[:-1]) if len(self.ends_D) else []

    def lists(self) -> list[list[int]]:
        """The ids of each text, as Python's own numbers."""
        return [ids.tolist() for ids in self.parts()]

    def framed(self, before: Sequence[int], after: Sequence[int]) -> "Block":
        """The same with ids put before and after each text."""
        extra = len(before) + len(after)
        lengths_D = np.diff(self.ends_D, prepend=0)
        ends_D = self.ends_D + extra * np.arange(1, len(lengths_D) + 1)
        starts_D = ends_D - lengths_D - extra
        ids_T = np.empty(len(self.ids_T) + extra * len(lengths_D), dtype=np.int32)
        shift_D = extra * np.arange(len(lengths_D)) + len(before)
        ids_T[np.arange(len(self.ids_T)) + np.repeat(shift_D, lengths_D)] = self.ids_T
        for place, id_ in enumerate(before):
            ids_T[starts_D + place] = id_
        for place, id_ in enumerate(after):
            ids_T[ends_D - len(after) + place] = id_
        return Block(ids_T, ends_D)


def spanned_pairs(pieces: Iterable[bytes]) -> NDArray[np.bool_]:
    """Which pairs of neighbouring bytes stand in some piece, and so may be merged: 256 x 256."""
    held = np.zeros((256, 256), dtype=np.bool_)
    for piece in pieces:
        held[list(piece[:-1]), list(piece[1:])] = True
    # A character is never cut: one that has no piece is taken apart into bytes by the tokenizer.
    held[:, 0x80:0xC0] = True
    return held


class SegmentEncoder:
    """Encodes texts by their segments, and remembers the segments it met.

    Args:
        encode: Ids of a text by a byte-pair tokenizer that changes nothing before it merges.
        spanned: The pairs of bytes that pieces hold, from `spanned_pairs`; none with a line end.
        line_end: The id of a line end.
    """

    def __init__(self, encode: Callable[[str], list[int]], spanned: NDArray[np.bool_], line_end: int) -> None:
        self._encode, self._apart, self._line_end = encode, ~spanned.reshape(-1), line_end
        self._rows: dict[bytes, int]
        self._ids: Ids
        self._starts: Ids
        self._lengths: Ids
        self._bytes: int
        self._forget()

    def __call__(self, texts: Iterable[str]) -> Block:
        """The ids of ``texts``, the same as ``encode`` gives for each of them whole."""
        blocks = [self._block(some) for some in _batches(text.encode() for text in texts)]
        lengths = [np.diff(block.ends_D, prepend=0) for block in blocks]
        ids_T = np.concatenate([np.zeros(0, np.int32), *(block.ids_T for block in blocks)])
        return Block(ids_T, np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths])))

    def _block(self, texts: list[bytes]) -> Block:
        data = b"".join(texts)
        ends_D = np.cumsum([len(text) for text in texts], dtype=np.int64)
        cuts_S = self._cuts(np.frombuffer(data, np.uint8), ends_D)
        rows_S = self._rows_of(data, cuts_S)
        lengths_S = self._lengths[rows_S]
        ends_S = np.cumsum(lengths_S, dtype=np.int32)
        # Where a segment's ids stand in the table, less where they will stand: then a running number does the rest.
        shift_S = self._starts[rows_S] - (ends_S - lengths_S)
        places_T = np.repeat(shift_S, lengths_S)
        places_T += np.arange(len(places_T), dtype=np.int32)
        before_S = np.concatenate([np.zeros(1, np.int32), ends_S])
        return Block(self._ids[places_T], before_S[np.searchsorted(cuts_S, ends_D)].astype(np.int64))

    def _cuts(self, bytes_N: NDArray[np.uint8], ends_D: Places) -> Places:
        """Where segments begin: where a text does, and between two bytes that no piece holds together."""
        pairs_N = bytes_N[:-1].astype(np.uint16)
        pairs_N <<= 8
        pairs_N |= bytes_N[1:]
        begins_N = np.ones(len(bytes_N), dtype=np.bool_)
        begins_N[1:] = self._apart[pairs_N]
        begins_N[ends_D[ends_D < len(bytes_N)]] = True
        return np.flatnonzero(begins_N)

    def _rows_of(self, data: bytes, cuts_S: Places) -> NDArray[np.intp]:
        """The row of the table of every segment, those of new segments added."""
        if self._bytes > _MOST_REMEMBERED:
            self._forget()
        distinct, index_S = _distinct(data, cuts_S)
        new = [segment for segment in distinct if segment not in self._rows]
        if new:
            self._learn(new)
        rows_K = np.fromiter(map(self._rows.__getitem__, distinct), np.intp, len(distinct))
        return rows_K[index_S]

    def _learn(self, segments: list[bytes]) -> None:
        lines = (segments[i : i + _LINES] for i in range(0, len(segments), _LINES))
        found = [self._lines(some) for some in lines]
        self._rows.update(zip(segments, range(len(self._rows), len(self._rows) + len(segments)), strict=True))
        self._ids = np.concatenate([self._ids, *(ids for ids, _ in found)])
        self._lengths = np.concatenate([self._lengths, *(lengths for _, lengths in found)])
        self._starts = np.cumsum(self._lengths, dtype=np.int32) - self._lengths
        self._bytes += sum(map(len, segments)) + _ENTRY_BYTES * len(segments)

    def _lines(self, segments: list[bytes]) -> tuple[Ids, Ids]:
        """The ids of some segments and how many each has; encoded as lines, which costs less than a call for each."""
        ids_T = np.array(self._encode(b"\n".join(segments).decode()), dtype=np.int32)
        is_end_T = ids_T == self._line_end
        ends = np.append(np.flatnonzero(is_end_T), len(ids_T))
        return ids_T[~is_end_T], (np.diff(ends, prepend=-1) - 1).astype(np.int32)

    def _forget(self) -> None:
        self._rows, self._bytes = {b"\n": 0}, 0
        self._ids = np.array([self._line_end], dtype=np.int32)
        self._starts, self._lengths = np.zeros(1, np.int32), np.ones(1, np.int32)


def _batches(texts: Iterable[bytes]) -> list[list[bytes]]:
    """Texts in order, so many together as make a block."""
    batches: list[list[bytes]] = []
    size = 0
    for text in texts:
        if not batches or size + len(text) > _BLOCK:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    return batches


def _distinct(data: bytes, cuts_S: Places) -> tuple[list[bytes], NDArray[np.int32]]:
    """The distinct segments in order of appearance, and which one each segment is."""
    import pyarrow as pa

    offsets = np.append(cuts_S, len(data)).astype(np.int64, copy=False)
    buffers: list[Any] = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    segments = pa.Array.from_buffers(pa.large_binary(), len(cuts_S), buffers)
    encoded = segments.dictionary_encode()
    # Not `to_numpy`, for which pandas would be imported.
    return encoded.dictionary.to_pylist(), np.frombuffer(encoded.indices.buffers()[1], np.int32, len(cuts_S))
