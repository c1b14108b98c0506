"""What must not be seen in a result is not: every pair of ways to run, against the plainest run of the same thing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cells
import numpy as np
import pytest
import torch
from textbook import first_loss

pytestmark = pytest.mark.slow

CELLS = cells.covering()
LOSS, WEIGHT = 1e-5, 5e-5
"""Relative for losses and gradient lengths, absolute for weights, which move by 4e-3: float32 in another order."""


def plain(cell: cells.Cell) -> cells.Cell:
    """The plainest run that learns the same."""
    return {**cell, **cells.PLAIN}


def test_the_cells_have_every_pair_of_values_and_no_illegal_one() -> None:
    found = set().union(*(cells.pairs(cell) for cell in CELLS))
    assert found == cells.all_pairs()
    assert all(cells.is_legal(cell) and list(cell) == list(cells.FACTORS) for cell in CELLS)
    n = [len(values) for values in cells.FACTORS.values()]
    assert len(cells.all_pairs()) == sum(a * b for i, a in enumerate(n) for b in n[:i]) - len(cells.ILLEGAL)
    assert len(CELLS) < 32, "so many runs are slow: is the choice of values still greedy?"


@pytest.mark.parametrize("cell", CELLS, ids=cells.named)
def test_nothing_is_seen_of_how_it_was_run(cell: cells.Cell, result: Callable[[cells.Cell], Any]) -> None:
    found, expected = result(cell), result(plain(cell))
    assert found.steps == list(range(1, cells.STEPS + 1))
    np.testing.assert_allclose(found.curve, expected.curve, rtol=LOSS)
    np.testing.assert_allclose(found.validation, expected.validation, rtol=LOSS)
    assert found.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        torch.testing.assert_close(found.weights[name], value, rtol=0, atol=WEIGHT, msg=lambda m, n=name: f"{n}: {m}")


PROMISED = [c for c in CELLS if (c["sittings"] == "two" or c["save"] == "beside") and c["sittings"] != "two-elsewhere"]


@pytest.mark.parametrize("cell", PROMISED, ids=cells.named)
def test_a_stop_or_a_save_beside_the_training_changes_no_bit(
    cell: cells.Cell, result: Callable[[cells.Cell], Any]
) -> None:
    assert result(cell).bytes == result({**cell, "sittings": "one", "save": "at-once"}).bytes


WITHIN = [c for c in CELLS if c["update"] == "within" and c["model"] == "dense"]


@pytest.mark.parametrize("cell", WITHIN, ids=cells.named)
def test_an_update_within_the_backward_pass_changes_no_bit(
    cell: cells.Cell, result: Callable[[cells.Cell], Any]
) -> None:
    """Where AdamW moves all of it; Muon's matrices are orthogonalised one by one."""
    assert result(cell).bytes == result({**cell, "update": "after"}).bytes


@pytest.mark.parametrize("objective", cells.FACTORS["objective"])
def test_the_plainest_run_begins_at_the_textbook_loss(
    objective: str, result: Callable[[cells.Cell], Any], data: Path, memory: Path
) -> None:
    """Each document alone, its targets read from the shards, one probability at a time."""
    cell = {"objective": objective, "model": "dense", **cells.PLAIN}
    expected = first_loss(cell, memory / "textbook" / objective, data)
    assert result(cell).first["sft" if objective == "dpo" else "nll"] == pytest.approx(expected, rel=LOSS)
