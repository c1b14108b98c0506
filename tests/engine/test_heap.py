"""The heap of a plan, against addresses worked out by hand, and against the heap of the C library itself."""

import json
import os
import platform
import random
import subprocess
import sys
from itertools import permutations

import pytest

from cirilla_cli.engine.heap import Heap, height


def test_a_piece_lies_where_what_it_holds_begins_at_a_multiple_of_64() -> None:
    """After a header of 16 bytes, and not so that less than 32 bytes, the least piece, are left before it."""
    mine = Heap()
    assert [mine.take(nbytes) for nbytes in (40, 100, 8)] == [48, 176, 368]
    assert mine.top == 368 + 32


def test_a_request_gets_the_smallest_hole_that_takes_it_wherever_it_begins() -> None:
    """Holes of 1,016 and 600 bytes: 600 more than fit into the second, because nobody knows where that begins."""
    mine = Heap()
    first, _, second, last = mine.take(1000), mine.take(1), mine.take(584), mine.take(1)
    mine.give(first)
    mine.give(second)
    assert mine.take(584) == first
    assert mine.take(400) == second
    assert mine.take(1000) > last


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_neighbours_that_come_free_hold_what_all_would(order: tuple[int, ...]) -> None:
    """Three pieces below one that stays, freed in any order: there is room for as much, and for no more."""
    mine = Heap()
    pieces = [mine.take(1000) for _ in range(4)]
    for place in order:
        mine.give(pieces[place])
    room = pieces[3] - pieces[0]
    high = mine.high
    assert mine.take(room) > pieces[3]
    assert mine.take(room - 200) == pieces[0]
    assert mine.high > high


def test_what_ends_the_heap_goes_back_to_its_top() -> None:
    mine = Heap()
    mine.give(mine.take(1000))
    assert (mine.top, mine.high > 1000, mine.take(90)) == (0, True, 48)


def test_later_steps_lie_where_the_first_lay() -> None:
    """A weight, then in each step a large piece and its half: as high after nine steps as after one."""
    sizes, step = [100_000, 60_000, 30_000], [2, 3, -2, -3]
    once = height(sizes, [1, *step], 1, 1, 999_999)
    assert height(sizes, [1, *step], 1, 9, 999_999) == once
    assert sum(sizes) <= once < sum(sizes) + 3 * 256


def test_what_stays_from_the_first_step_lies_beside_the_heap_where_it_is_large() -> None:
    """A weight and what came and went before take no place on it; a smaller piece does, and every later one."""
    sizes, step = [100_000, 90_000, 5_000, 70_000], [4, -4]
    found = height(sizes, [1, 2, 3, -2, *step], 4, 3, 10_000)
    assert 175_000 <= found < 175_000 + 2 * 256


def test_pieces_of_less_than_a_page_take_no_room_of_their_own() -> None:
    assert height([100_000, 4_095], [1, 2, -1, -2], 0, 1, 999_999) == height([100_000], [1, -1], 0, 1, 999_999)


GLIBC = """
import ctypes, json, sys


class Heap(ctypes.Structure):
    _fields_ = [(f"figure{i}", ctypes.c_size_t) for i in range(10)]


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap
libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
sizes, events = json.load(sys.stdin)
M_MXFAST, M_MMAP_MAX, M_TRIM_THRESHOLD = 1, -4, -1
for parameter, value in ((M_MXFAST, 0), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
    assert libc.mallopt(parameter, value)
before, held = libc.mallinfo2().figure0, {}
for event in events:
    if event > 0:
        held[event] = libc.aligned_alloc(64, sizes[event - 1])
    else:
        libc.free(held.pop(-event))
print(libc.mallinfo2().figure0 - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is glibc's")
@pytest.mark.parametrize("seed", range(4))
def test_the_heap_grows_as_that_of_glibc_does(seed: int) -> None:
    """4,000 pieces of twenty sizes that come and go, some 300 at once: within a tenth of the C library's heap."""
    rng = random.Random(seed)
    kinds = [rng.randrange(1 << 15, 1 << 18) for _ in range(20)]
    sizes: list[int] = []
    events: list[int] = []
    live: list[int] = []
    while len(sizes) < 4000:
        if rng.random() < len(live) / 300:
            events.append(-live.pop(rng.randrange(len(live))))
        else:
            sizes.append(rng.choice(kinds))
            live.append(len(sizes))
            events.append(len(sizes))
    without = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    done = subprocess.run(
        [sys.executable, "-c", GLIBC], input=json.dumps([sizes, events]), env=without, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert height(sizes, events, 0, 1, 1 << 40) == pytest.approx(int(done.stdout), rel=0.1)
