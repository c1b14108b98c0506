"""The C library's heap while a process trains: how far it grows over pieces that come and go (`footprint.py`).

The command line has glibc keep what is freed (`cli/allocator.py`), so a process holds its heap up to the highest piece
that ever lay there. A request is given the smallest hole that takes it, or the end of the heap. Two freed neighbours
never become one hole, which says a little too much: a tensor's memory is aligned to 64 bytes, and in what that leaves
between two of them small objects come to lie, autograd's and torch's own. So tensors of one size live in each other's
place, and larger ones, such as an optimizer's temporaries after a backward pass, lie beyond.
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

    def take(self, nbytes: int) -> int:
        """The address of a new piece."""
        place = bisect.bisect_left(self._holes, (nbytes, -1))
        if place == len(self._holes):
            self.top += nbytes
            self.high = max(self.high, self.top)
            return self.top - nbytes
        size, at = self._holes.pop(place)
        if size > nbytes:
            bisect.insort(self._holes, (size - nbytes, at + nbytes))
        return at

    def give(self, at: int, nbytes: int) -> None:
        """Free a piece."""
        if at + nbytes == self.top:
            self.top = at
        else:
            bisect.insort(self._holes, (nbytes, at))


def height(sizes: Sequence[int], events: Sequence[int], again: int, times: int) -> int:
    """Bytes that a heap grows to while pieces come and go.

    Args:
        sizes: of the pieces.
        events: the number of the piece that comes (from 1 on), or its negative where it goes, in order.
        again: the event from which on all of them happen ``times`` times, as the steps of a run do.
    """
    heap, held = Heap(), dict[int, int]()
    for event in [*events[:again], *(list(events[again:]) * times)]:
        nbytes = sizes[abs(event) - 1] + _HEADER
        if event > 0:
            held[event] = heap.take(nbytes)
        elif -event in held:
            heap.give(held.pop(-event), nbytes)
    return heap.high
