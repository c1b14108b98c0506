"""What a process holds while it trains: blocks of their own, and the C library's heap (`footprint.py`).

The command line has glibc map large blocks one by one until the first step is done (`cli/allocator.py`), so weights and
whatever an optimizer remembers take what they are. From then on all lies on the heap, which keeps what is freed: the
process holds it up to the highest piece that ever lay there. A request is given the smallest hole that takes it, or the
end of the heap, and neighbours that are free become one hole.

Torch asks for places that are multiples of 64 (c10/core/impl/alloc_cpu.cpp). For that glibc looks for a hole that has
room for the piece wherever it begins, and frees what is left before and behind it (glibc 2.36, malloc/malloc.c,
`_int_memalign`). So the hole that a piece leaves takes the next one of its size only where it has joined a neighbour.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

_HEADER, _UNIT, _SMALLEST = 16, 16, 32
"""Bytes before what a piece holds; what sizes are multiples of; and the least size."""

_KEPT = 8
"""Bytes of the header that a piece takes beside its own, because the others are the end of the one before."""

_PLACE = 64
"""What torch's tensors begin at multiples of."""

_LEAST = 4096
"""Bytes under which a piece lies in what larger ones leave between them."""


def _sized(nbytes: int) -> int:
    """What a request takes on the heap."""
    return max(_SMALLEST, -(-(nbytes + _KEPT) // _UNIT) * _UNIT)


@dataclass
class Heap:
    """Pieces of memory by address, and the holes between them."""

    top: int = 0
    high: int = 0
    """The highest that ``top`` has been."""
    _pieces: dict[int, int] = field(default_factory=dict)
    """Size of each piece, by where it begins."""
    _holes: list[tuple[int, int]] = field(default_factory=list)
    """Size and address of each, smallest first."""
    _sizes: dict[int, int] = field(default_factory=dict)
    """Of each hole, by where it begins."""
    _starts: dict[int, int] = field(default_factory=dict)
    """Where each hole begins, by where it ends."""

    def take(self, nbytes: int) -> int:
        """Where a new piece begins, ahead of its header."""
        need = _sized(nbytes)
        found, size = self._room(_sized(need + _PLACE + _SMALLEST))
        before = -(found + _HEADER) % _PLACE
        before += _PLACE if 0 < before < _SMALLEST else 0
        if before:
            self._open(found, before)
        at, behind = found + before, size - before - need
        # A piece keeps what is too little to be one.
        self._pieces[at] = need if behind > _SMALLEST else need + behind
        if behind > _SMALLEST:
            self._free(at + need, behind)
        return at

    def give(self, at: int) -> None:
        """Free a piece."""
        self._free(at, self._pieces.pop(at))

    def _room(self, nbytes: int) -> tuple[int, int]:
        """A hole that takes so much, closed, and its size."""
        place = bisect.bisect_left(self._holes, (nbytes, -1))
        if place < len(self._holes):
            size, at = self._holes[place]
            self._fill(at)
            return at, size
        self.top += nbytes
        self.high = max(self.high, self.top)
        return self.top - nbytes, nbytes

    def _free(self, at: int, nbytes: int) -> None:
        if at in self._starts:
            before = self._starts[at]
            nbytes += self._fill(before)
            at = before
        if at + nbytes in self._sizes:
            nbytes += self._fill(at + nbytes)
        if at + nbytes == self.top:
            self.top = at
        else:
            self._open(at, nbytes)

    def _open(self, at: int, nbytes: int) -> None:
        bisect.insort(self._holes, (nbytes, at))
        self._sizes[at], self._starts[at + nbytes] = nbytes, at

    def _fill(self, at: int) -> int:
        """Bytes of a hole that is none any more."""
        nbytes = self._sizes.pop(at)
        del self._starts[at + nbytes]
        self._holes.pop(bisect.bisect_left(self._holes, (nbytes, at)))
        return nbytes


def height(sizes: Sequence[int], events: Sequence[int], again: int, times: int, large: int) -> int:
    """Bytes that a process holds at most while pieces come and go.

    Args:
        sizes: of the pieces.
        events: the number of the piece that comes (from 1 on), or its negative where it goes, in order.
        again: the event from which on all of them happen ``times`` times, as the steps of a run do.
        large: bytes from which on a piece lies beside the heap, where it came before ``again``.
    """
    heap, held = Heap(), dict[int, int]()
    before = [event for event in events[:again] if sizes[abs(event) - 1] >= _LEAST]
    after = [event for event in events[again:] if sizes[abs(event) - 1] >= _LEAST]
    beside = {event for event in before if event > 0 and sizes[event - 1] >= large}
    most = sum(sizes[event - 1] for event in beside - {-event for event in before})
    for event in [*(e for e in before if abs(e) not in beside), *(after * times)]:
        if event > 0:
            held[event] = heap.take(sizes[event - 1])
        elif -event in held:
            heap.give(held.pop(-event))
    return most + heap.high
