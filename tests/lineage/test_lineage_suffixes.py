"""The suffix array against sorting all suffixes as lists, and its searches against looking at every place."""

import random

import numpy as np
import pytest

from cirilla_cli.lineage.suffixes import Suffixes, suffix_array


def documents(seed: int) -> list[list[int]]:
    """A few documents with repeats, some of them empty, the first three twice."""
    draw = random.Random(seed)
    vocab = draw.choice([2, 3, 50, 70_000])
    made = [[draw.randrange(vocab) for _ in range(draw.choice([0, 1, 3, 10, 30]))] for _ in range(draw.randint(1, 9))]
    return [*made, *made[:3], [1, 0]]


def laid_out(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([token for text in texts for token in text], dtype=np.uint32)
    return flat, np.cumsum([len(text) for text in texts])


def every_suffix(texts: list[list[int]]) -> list[tuple[list[int], int]]:
    places = ((text, at) for text in texts for at in range(len(text)))
    return [(text[at:], start) for start, (text, at) in enumerate(places)]


@pytest.mark.parametrize("seed", range(40))
def test_suffixes_stand_in_the_order_of_lists(seed: int) -> None:
    texts = documents(seed)
    expected = [start for _, start in sorted(every_suffix(texts))]
    assert suffix_array(*laid_out(texts)).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_window_is_found_wherever_it_stands_and_nowhere_else(seed: int, width: int) -> None:
    texts = documents(seed)
    flat, ends = laid_out(texts)
    suffixes = Suffixes(flat, ends, suffix_array(flat, ends))
    windows = [text[at : at + width] for text in texts for at in range(len(text) - width + 1)]
    windows += [[0] * width, [1] * width, [69_999] * width]
    first, last = suffixes.find(np.array(windows))
    for window, low, high in zip(windows, first, last, strict=True):
        expected = sorted(start for suffix, start in every_suffix(texts) if suffix[:width] == window)
        assert sorted(suffixes.order_N[low:high].tolist()) == expected


def test_one_token_repeated_is_sorted_by_what_is_left() -> None:
    assert suffix_array(np.zeros(1000, np.uint16), np.array([1000])).tolist() == list(range(999, -1, -1))
