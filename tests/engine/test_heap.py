"""The heap of a plan, against addresses worked out by hand."""

from itertools import permutations

import pytest

from cirilla_cli.engine.heap import Heap, height

_HEADER = 16


def test_a_request_gets_the_smallest_hole_that_takes_it() -> None:
    """Holes of 50 and 30 bytes among pieces that stay: 20 bytes lie in the second, 40 in the first, 60 beyond all."""
    mine = Heap()
    first, _, second, _ = mine.take(50), mine.take(10), mine.take(30), mine.take(10)
    mine.give(first, 50)
    mine.give(second, 30)
    assert (mine.take(20), mine.take(40), mine.take(60), mine.high) == (60, 0, 100, 160)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_neighbours_that_come_free_hold_what_all_would(order: tuple[int, ...]) -> None:
    """Three pieces of 100 bytes below one that stays, freed in any order: 300 bytes lie there, 301 beyond."""
    mine = Heap()
    pieces = [mine.take(100) for _ in range(4)]
    for place in order:
        mine.give(pieces[place], 100)
    assert (mine.take(301), mine.take(300), mine.high) == (400, 0, 701)


def test_what_ends_the_heap_goes_back_to_its_top() -> None:
    mine = Heap()
    mine.give(mine.take(70), 70)
    assert (mine.top, mine.high, mine.take(90), mine.high) == (0, 70, 0, 90)


def test_later_steps_lie_where_the_first_lay() -> None:
    """A weight, then in each step a large piece and its half: as high after nine steps as after one."""
    sizes, step = [1000, 600, 300], [2, 3, -2, -3]
    expected = 1000 + 600 + 300 + 3 * _HEADER
    assert height(sizes, [1, *step], 1, 1, 9999) == height(sizes, [1, *step], 1, 9, 9999) == expected


def test_what_stays_from_the_first_step_lies_beside_the_heap_where_it_is_large() -> None:
    """A weight of 1,000 bytes and what came and went before take no place; a small piece does, and every later one."""
    sizes, step = [1000, 900, 50, 700], [4, -4]
    assert height(sizes, [1, 2, 3, -2, *step], 4, 3, 100) == 1000 + 50 + 700 + 2 * _HEADER
