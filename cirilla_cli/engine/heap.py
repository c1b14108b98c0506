"""What a process holds while it trains: blocks of their own, and the C library's heap (`footprint.py`).

The command line has glibc map large blocks one by one until the first step is done (`cli/allocator.py`), so weights and
whatever an optimizer remembers take what they are. From then on all lies on the heap, which keeps what is freed: the
process holds it up to the highest piece that ever lay there. A request is given the smallest hole that takes it, or the
end of the heap, and neighbours that are free become one hole.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

_HEADER = 16
"""Bytes that each piece has besides."""


@dataclass
class Heap:
    """Pieces of memory by address, and the holes between them."""

    top: int = 0
    high: int = 0
    """The highest that ``top`` has been."""
    _holes: list[tuple[int, int]] = field(default_factory=list)
    """Size and address of each, smallest first."""
    _sizes: dict[int, int] = field(default_factory=dict)
    """Of each hole, by where it begins."""
    _starts: dict[int, int] = field(default_factory=dict)
    """Where each hole begins, by where it ends."""

    def take(self, nbytes: int) -> int:
        """The address of a new piece."""
        place = bisect.bisect_left(self._holes, (nbytes, -1))
        if place == len(self._holes):
            self.top += nbytes
            self.high = max(self.high, self.top)
            return self.top - nbytes
        size, at = self._holes[place]
        self._fill(at)
        if size > nbytes:
            self._open(at + nbytes, size - nbytes)
        return at

    def give(self, at: int, nbytes: int) -> None:
        """Free a piece."""
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
    before = events[:again]
    beside = {event for event in before if event > 0 and sizes[event - 1] >= large}
    most = sum(sizes[event - 1] for event in beside - {-event for event in before})
    for event in [*(e for e in before if abs(e) not in beside), *(list(events[again:]) * times)]:
        nbytes = sizes[abs(event) - 1] + _HEADER
        if event > 0:
            held[event] = heap.take(nbytes)
        elif -event in held:
            heap.give(held.pop(-event), nbytes)
    return most + heap.high
