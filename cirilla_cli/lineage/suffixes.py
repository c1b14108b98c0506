"""A suffix array over the documents of one shard: every run of tokens that stands in them, found by bisection.

ids, document ends --sort by doubling--> start of every suffix, in the order of what follows up to its document's end

N: tokens of the shard; Q: starts in a query; W: tokens of a window; U: suffixes whose place is not settled yet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.errors import CirillaError

Ids = NDArray[np.integer[Any]]
_MOST = 2**31 - 1


def suffix_array(ids_N: Ids, ends_D: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Starts of the suffixes in lexicographic order, shape (N,); a suffix ends with its document, a prefix comes first.

    Prefix doubling (Manber and Myers 1993), sorting only what is not yet told apart, as Larsson and Sadakane 2007 do.
    Equal suffixes of different documents stand in the order of their starts. About 60 bytes a token while it sorts.

    Raises:
        CirillaError: more tokens than a 32-bit number counts.
    """
    n = len(ids_N)
    if n > _MOST:
        raise CirillaError(f"{n:,} tokens in one shard, at most {_MOST:,} can be indexed", hint="tokenize.shard_tokens")
    left_N = _left(np.arange(n), ends_D)
    width, key_N = _first_key(ids_N, left_N)
    sorting = _Sorting(key_N, left_N)
    del key_N
    while sorting.refine(width):
        width *= 2
    return sorting.order_N


class _Sorting:
    """Suffixes in groups that the tokens looked at so far do not tell apart."""

    def __init__(self, key_N: NDArray[np.int64], left_N: NDArray[np.int64]) -> None:
        n = len(key_N)
        self.left_N = left_N
        self.order_N = np.argsort(key_N, kind="stable").astype(np.int32)
        self.opens_N = np.ones(n + 1, dtype=np.bool_)
        """Whether a group begins at a place; the end closes the last."""
        self.opens_N[1:n] = np.diff(key_N[self.order_N]) != 0
        self.rank_N = np.empty(n, dtype=np.int32)
        """The first place of each suffix's group."""
        self.rank_N[self.order_N] = _group_starts(np.arange(n), self.opens_N[:n])

    def refine(self, width: int) -> bool:
        """Compare ``width`` tokens more, those that follow the first ``width``; False where nothing came of it."""
        n = len(self.order_N)
        places_U = np.flatnonzero(~(self.opens_N[:-1] & self.opens_N[1:]))
        at_U = self.order_N[places_U]
        next_U = np.minimum(at_U.astype(np.int64) + width, n - 1)
        more_U = np.where(self.left_N[at_U] > width, self.rank_N[next_U].astype(np.int64) + 1, 0)
        key_U = self.rank_N[at_U] * np.int64(n + 1) + more_U
        turn_U = np.argsort(key_U, kind="stable")
        begins_U = np.ones(len(places_U), dtype=np.bool_)
        begins_U[1:] = np.diff(key_U[turn_U]) != 0
        if np.array_equal(begins_U, self.opens_N[places_U]):
            return False  # what this width does not tell apart, no greater one does
        self.order_N[places_U] = at_U[turn_U]
        self.opens_N[places_U] = begins_U
        self.rank_N[self.order_N[places_U]] = _group_starts(places_U, begins_U)
        return True


def _left(at: NDArray[np.integer[Any]], ends_D: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Tokens from each place to the end of its document."""
    ends = ends_D.astype(np.int64)
    return np.asarray(ends[np.searchsorted(ends, at, side="right")] - at)


def _first_key(ids_N: Ids, left_N: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """How many tokens fit into one 63-bit number, and that number of each suffix."""
    base = int(ids_N.max(initial=0)) + 2
    width, room = 1, 2**62 // base
    while room >= base and width < 8:
        width, room = width + 1, room // base
    key_N = np.zeros(len(ids_N), dtype=np.int64)
    for step in range(width):
        key_N *= base
        if step < len(ids_N):
            more_N = left_N[: len(ids_N) - step] > step
            key_N[: len(ids_N) - step] += np.where(more_N, ids_N[step:].astype(np.int64) + 1, 0)
    return width, key_N


def _group_starts(places_U: NDArray[np.int64], begins_U: NDArray[np.bool_]) -> NDArray[np.int32]:
    """For each place the first place of its group."""
    first_U = np.maximum.accumulate(np.where(begins_U, np.arange(len(places_U)), 0))
    return places_U[first_U].astype(np.int32)


@dataclass(frozen=True)
class Suffixes:
    """A shard's ids with their order; all three may be memory maps."""

    ids_N: Ids
    ends_D: NDArray[np.int64]
    order_N: NDArray[np.int32]

    def find(self, windows_QW: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last place (excluded) in the order of the suffixes that begin with each window, shapes (Q,)."""
        return self.insertion(windows_QW), self._bisect(windows_QW, after=True)

    def insertion(self, windows_QW: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of the first suffix that does not stand before each window, shape (Q,)."""
        return self._bisect(windows_QW, after=False)

    def _bisect(self, windows_QW: NDArray[np.int64], *, after: bool) -> NDArray[np.int64]:
        low_Q = np.zeros(len(windows_QW), dtype=np.int64)
        high_Q = np.full(len(windows_QW), len(self.order_N), dtype=np.int64)
        while (low_Q < high_Q).any():
            middle_Q = (low_Q + high_Q) // 2
            sign_Q = self._compare(np.minimum(middle_Q, len(self.order_N) - 1), windows_QW)
            before_Q = ((sign_Q < 0) | (after & (sign_Q == 0))) & (low_Q < high_Q)
            low_Q, high_Q = np.where(before_Q, middle_Q + 1, low_Q), np.where(before_Q, high_Q, middle_Q)
        return low_Q

    def _compare(self, places_Q: NDArray[np.int64], windows_QW: NDArray[np.int64]) -> NDArray[np.int64]:
        """-1, 0 or 1: whether the suffix stands before a window, begins with it, or stands behind it."""
        starts_Q = self.order_N[places_Q].astype(np.int64)
        steps_W = np.arange(windows_QW.shape[1])
        inside_QW = steps_W < _left(starts_Q, self.ends_D)[:, None]
        at_QW = np.minimum(starts_Q[:, None] + steps_W, len(self.ids_N) - 1)
        own_QW = np.where(inside_QW, self.ids_N[at_QW].astype(np.int64), -1)
        differs_QW = own_QW != windows_QW
        first_Q = differs_QW.argmax(axis=1)[:, None]
        sign_Q = np.sign(np.take_along_axis(own_QW - windows_QW, first_Q, axis=1)[:, 0])
        return np.where(differs_QW.any(axis=1), sign_Q, 0)

    def document(self, start: int) -> int:
        """The number of the document that a token stands in."""
        return int(np.searchsorted(self.ends_D, start, side="right"))
