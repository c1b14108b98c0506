"""A plan says the same each time: a walk's events depend on nothing but the recipe."""

import gc
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import torch

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.footprint import whole
from cirilla_cli.engine.heap import height
from cirilla_cli.engine.walk import Ledger
from cirilla_cli.model.mixers.config import AttentionConfig

PREPARED = """
import torch
from cirilla_cli.engine.walk import Ledger
from cirilla_cli.model.layout import Needs, SequenceLayout, Sight
from cirilla_cli.model.rope import Rotation
from cirilla_cli.model.sections import RopeConfig

rotations = frozenset(Rotation(RopeConfig(theta=1e4 * n), 16) for n in range(2, 9))
needs = Needs(rotations, frozenset(Sight(True, n) for n in range(2, 9)))
documents = torch.arange(64).expand(2, 64) // 8
with Ledger(300, torch.device("cpu")) as ledger:
    layout = SequenceLayout.packed(documents).prepared(needs, torch.float32)
print(list(layout.angles), list(layout.masks), ledger.walked.events)
"""


def test_what_is_prepared_for_attention_comes_in_one_order_in_every_process() -> None:
    """Seven windows and as many rotations stand in sets, whose order follows from hashes that differ by process."""
    call = [sys.executable, "-c", PREPARED]
    said = {
        subprocess.run(
            call, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert "theta" in said.pop()


def test_what_comes_free_after_a_walk_is_no_part_of_its_step() -> None:
    """A step that is walked once and repeated holds its weight to the end, whenever Python lets go of the walk's."""
    with Ledger(300, torch.device("cpu")) as ledger:
        weight: Any = torch.empty(1000)
        ledger.walked.again = len(ledger.walked.events)
        made: Any = torch.empty(500)
        del made
        walked = ledger.end()
    del weight
    gc.collect()
    assert walked.events == [1, 2, -2]
    assert height([piece.nbytes for piece in walked.pieces], walked.events, walked.again, 9) >= 4 * 1500


def test_two_walks_through_a_step_are_the_same(tiny: ModuleType, tmp_path: Any) -> None:
    """Weights that cycles keep for a while come free in the middle of whatever Python does then."""
    config = tiny.decoder(vocab_size=300, context_length=32, mixers={"A": AttentionConfig(n_heads=2, window=8)})
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config)
    tokens_BT = torch.zeros(2, 32, dtype=torch.long)
    batches = [TokenBatch(tokens_BT, tokens_BT, torch.zeros_like(tokens_BT))] * 2

    first = whole(job, config, batches, "cpu")
    gc.disable()
    try:
        assert whole(job, config, batches, "cpu") == first
    finally:
        gc.enable()
