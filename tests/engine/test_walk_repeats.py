"""A plan says the same each time: a walk's events depend on nothing but the recipe."""

import gc
import os
import subprocess
import sys
from itertools import groupby
from types import ModuleType
from typing import Any

import pytest
import torch

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine import repeats
from cirilla_cli.engine.config import FullCheckpointingConfig, MemoryConfig
from cirilla_cli.engine.footprint import _walk, whole
from cirilla_cli.engine.heap import height
from cirilla_cli.engine.walk import Ledger
from cirilla_cli.model.mixers.config import AttentionConfig, Mamba2Config

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
        weight: Any = torch.empty(10_000)
        ledger.walked.again = len(ledger.walked.events)
        made: Any = torch.empty(5_000)
        del made
        walked = ledger.end()
    del weight
    gc.collect()
    assert walked.events == [1, 2, -2]
    assert height([piece.nbytes for piece in walked.pieces], walked.events, walked.again, 9, 99_999) >= 4 * 15_000


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


@pytest.mark.parametrize("recomputed", [None, FullCheckpointingConfig()], ids=str)
def test_a_scan_noted_again_is_a_scan_walked_again(
    recomputed: Any, tiny: ModuleType, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every piece, what it is for, and every event, but for the order in which pieces come free at one moment."""
    mamba = Mamba2Config(n_heads=4, head_dim=8, d_state=8, chunk_size=16)
    config = tiny.decoder(vocab_size=300, context_length=64, n_layers=3, pattern="M", mixers={"M": mamba})
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config, memory=MemoryConfig(checkpointing=recomputed))
    tokens_BT = torch.zeros(2, 64, dtype=torch.long)
    batches = [TokenBatch(tokens_BT, tokens_BT, torch.arange(64).expand(2, 64) // 40)] * 2

    noted, _ = _walk(job, config, batches, "cpu")
    monkeypatch.setattr(repeats, "_LOOPS", ())
    walked, _ = _walk(job, config, batches, "cpu")
    assert [(p.nbytes, p.kind) for p in noted.pieces] == [(p.nbytes, p.kind) for p in walked.pieces]
    assert moments(noted.events) == moments(walked.events)
    assert (noted.again, noted.turns, noted.products) == (walked.again, walked.turns, walked.products)


def moments(events: list[int]) -> list[list[int]]:
    """Events with those sorted that free pieces one after another."""
    return [sorted(part) for freed, part in groupby(events, lambda event: event < 0)]
