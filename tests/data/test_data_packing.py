"""Packing loses and cuts nothing, and mixtures keep their shares."""

import random
from collections import Counter

import numpy as np
import pytest

from cirilla_cli.data.packing import interleave, pack, shuffled


def realistic(count: int, capacity: int, seed: int = 0) -> list[int]:
    """Lengths as of conversations: lognormal, a median of a fifth of the capacity, cut to it."""
    rng = random.Random(seed)
    return [max(2, min(capacity, round(rng.lognormvariate(0, 0.8) * capacity / 5))) for _ in range(count)]


LENGTHS = {
    "realistic": realistic(800, 256),
    "all the same": [86] * 50,
    "all full": [256] * 5,
    "ones": [1] * 700,
    "one": [3],
    "none": [],
    "with empty ones": [0, 5, 0, 256],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_item_stands_once_in_a_row_that_holds_it(lengths: list[int]) -> None:
    bins = pack(lengths, 256)
    assert Counter(item for row in bins for item in row) == Counter(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 256 for row in bins)


@pytest.mark.parametrize("capacity", [128, 512, 2048])
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_at_least_95_percent_full(capacity: int, seed: int) -> None:
    lengths = realistic(1000, capacity, seed)
    assert sum(lengths) / (len(pack(lengths, capacity)) * capacity) >= 0.95


def test_packing_is_a_function_of_the_lengths() -> None:
    assert pack(LENGTHS["realistic"], 256) == pack(list(LENGTHS["realistic"]), 256)


def test_a_shuffle_is_a_permutation_that_seed_and_epoch_decide() -> None:
    one = shuffled(50, seed=1, epoch=0).tolist()
    assert sorted(one) == [*range(50)]
    assert one == shuffled(50, seed=1, epoch=0).tolist()
    assert len({tuple(shuffled(50, seed=s, epoch=e).tolist()) for s in range(3) for e in range(3)}) == 9


@pytest.mark.parametrize(("sources", "within"), [(2, 1), (3, 1), (4, 1), (9, 2)])
def test_every_source_stays_near_its_share(sources: int, within: int) -> None:
    """At every row, for random weights that change half way, as they do when the learning rate decays."""
    generator, rows = np.random.default_rng(0), 200
    for _ in range(20):
        early, late = generator.random((2, sources)) + 1e-3
        weights = np.where(np.arange(rows) < rows // 2, early[:, None], late[:, None])
        order = interleave([*weights])
        due = np.cumsum(weights / weights.sum(0), axis=1)
        for source in range(sources):
            assert np.abs(np.cumsum(order == source) - due[source]).max() < within


def test_a_source_without_weight_gives_no_row() -> None:
    order = interleave([np.full(100, 3.0), np.zeros(100), np.full(100, 1.0)])
    assert Counter(order.tolist()) == {0: 75, 2: 25}
