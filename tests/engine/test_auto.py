"""`train.micro_batch_tokens: auto`: the most rows that memory holds, settled once, locked, and shown beforehand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cirilla_cli.data.batches import Cut
from cirilla_cli.engine import auto
from cirilla_cli.engine.config import FSDPConfig, TrainConfig
from cirilla_cli.engine.footprint import footprint, made_up
from cirilla_cli.engine.parallel import ALONE
from cirilla_cli.engine.run import plan, train, verify_resume
from cirilla_cli.engine.sources import cut_of
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.progress import Silent

ROWS, CONTEXT = 12, 32
LASTING = TrainConfig(steps=4, batch_tokens=ROWS * CONTEXT, micro_batch_tokens="auto")


@pytest.fixture
def job(tiny: ModuleType, data: Path, out: Path) -> Any:
    return tiny.job("pretrain", out, data, train=LASTING)


@pytest.fixture
def shape(tiny: ModuleType) -> Any:
    return tiny.decoder(vocab_size=340)


@pytest.fixture(scope="module")
def tried(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[int, int]:
    """The peak of every number of rows there is to choose from."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    job = tiny.job("pretrain", nowhere, nowhere, train=LASTING)
    return {rows: peak(job, tiny.decoder(vocab_size=340), rows) for rows in (12, 6, 4, 3, 2, 1)}


def peak(job: Any, shape: Any, rows: int) -> int:
    """Of steps of so many rows a pass, as `plan` has it."""
    sized = replace(job, train=job.train.model_copy(update={"micro_batch_tokens": rows * CONTEXT}))
    cut = cut_of(sized, CONTEXT, 0)
    return footprint(sized, shape, made_up(sized, cut), cut, "cpu").peak


@pytest.mark.parametrize("rows", [1, 2, 7, 24])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_choices_are_the_cuts_that_differ(rows: int, processes: int) -> None:
    """Every number of rows a pass that some wish ends in, by trying all wishes."""
    wished = set()
    for most in range(1, rows + 1):
        passes = processes * math.ceil(rows / (processes * most))
        wished.add(math.ceil(rows / passes))
    cut = Cut(context_length=CONTEXT, rows_per_step=rows, rows_per_micro_batch=rows, seed=0, pad_id=0)
    assert auto.choices(cut, processes) == sorted(wished, reverse=True)


@pytest.mark.parametrize("limit", range(8))
def test_the_first_that_holds_is_found(limit: int) -> None:
    rows = [24, 12, 8, 6, 5, 2, 1]
    expected = next((n for n in rows if n <= limit), None)
    assert auto.agreed(rows, lambda n: n <= limit, ALONE) == expected


@given(st.lists(st.booleans(), max_size=40))
def test_what_is_taken_holds_whatever_else_does(held: list[bool]) -> None:
    """What a heap grows to may be less for more rows: it is the smallest hole that takes a piece, not the best for all.

    So nothing is taken for granted: what is taken has been seen to hold, the next larger one not to, and nothing is
    taken only where one row alone was seen not to hold.
    """
    rows, asked = list(range(len(held), 0, -1)), set[int]()

    def holds(n: int) -> bool:
        asked.add(n)
        return held[n - 1]

    found = auto.agreed(rows, holds, ALONE)
    if found is None:
        assert not held or (1 in asked and not held[0])
        return
    assert found in asked
    assert held[found - 1]
    assert found == len(held) or (found + 1 in asked and not held[found])


def test_what_is_taken_fits(job: Any, tiny: ModuleType) -> None:
    shape = tiny.decoder(vocab_size=300)
    tried = {rows: peak(job, shape, rows) for rows in (12, 6, 4, 3, 2, 1)}
    for memory in (int(1.15 * tried[rows]) + 2 for rows in (6, 4, 3)):
        rows = auto.reckoned(job, shape, memory).tokens // CONTEXT
        assert 1.15 * tried[rows] <= memory


def test_the_most_rows_that_fit_are_taken(job: Any, shape: Any, tried: dict[int, int]) -> None:
    """By trying every number of rows, each with a tenth to spare."""
    for memory in (int(1.15 * (tried[4] + tried[3]) / 2), int(1.15 * tried[12]) + 2):
        expected = max(rows for rows, size in tried.items() if 1.15 * size <= memory)
        assert auto.reckoned(job, shape, memory).tokens == expected * CONTEXT
    with pytest.raises(CirillaError, match="not one row of 32 tokens fits"):
        auto.reckoned(job, shape, tried[1])


def test_a_run_settles_it_once_and_keeps_it(
    job: Any, tried: dict[int, int], tiny: ModuleType, monkeypatch: Any
) -> None:
    """Memory is what the machine says; a resumed run asks nobody."""
    memory = int(1.15 * tried[6]) + 1
    monkeypatch.setattr(auto, "free_memory", lambda device: memory)
    listener = tiny.Listener()
    expected = f"{6 * CONTEXT} tokens, 6 rows of 32"
    assert any(expected in line for line in plan(job, Silent()).lines())
    with pytest.raises(InterruptedRun):
        train(job, tiny.interrupt_after(2))
    assert json.loads((job.out / "lock.json").read_text())["settled"] == {auto.KEY: 6 * CONTEXT}
    monkeypatch.setattr(auto, "free_memory", lambda device: None)
    assert any(f"{6 * CONTEXT} tokens, as the run found" in line for line in plan(job, Silent()).lines())
    train(job, listener)
    assert not any(auto.KEY in text for text in listener.said)
    verify_resume(job, Silent())
    given = LASTING.model_copy(update={"micro_batch_tokens": 6 * CONTEXT})
    straight = tiny.job("pretrain", job.out.with_name("straight"), job.paths["wiki"], train=given)
    train(straight, Silent())
    assert tiny.final_digests(job.out) == tiny.final_digests(straight.out)


def test_steps_that_run_out_of_memory_are_seen_and_leave_nothing(job: Any, shape: Any, monkeypatch: Any) -> None:
    """On a device that can say so: here torch's own error, from its embedding of more than five rows."""
    whole = torch.nn.Embedding.forward

    def small(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > 5:
            raise torch.OutOfMemoryError("too many rows")
        return whole(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", small)
    choice = auto.tried(job, shape, torch.device("cpu"))
    assert choice.tokens == 4 * CONTEXT
    monkeypatch.setattr(torch.nn.Embedding, "forward", lambda self, ids: small(self, torch.zeros(6, 1)))
    with pytest.raises(CirillaError, match="runs out of memory"):
        auto.tried(job, shape, torch.device("cpu"))


def test_a_machine_that_does_not_say_is_refused_before_anything_is_written(job: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(auto, "free_memory", lambda device: None)
    for would in (plan, train):
        with pytest.raises(CirillaError, match="does not say how much memory is free"):
            would(job, Silent())
    assert not (job.out / "lock.json").exists()


@pytest.mark.parametrize(("changes", "reason"), [({"parallel": FSDPConfig()}, "with parallel.kind fsdp")])
def test_what_it_cannot_be_combined_with_is_refused(job: Any, changes: Any, reason: str) -> None:
    for would in (plan, train):
        with pytest.raises(CirillaError, match=reason):
            would(replace(job, **changes), Silent())
