"""Several processes that share a run: the same gradient, the same run, and none goes on without the others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cells
import gradients
import pytest
import tiny
import torch
from safetensors.torch import load_file

from cirilla_cli.engine.config import FSDPConfig, Place, TrainConfig
from cirilla_cli.engine.parallel import ALONE, Ranks
from cirilla_cli.engine.run import plan, train
from cirilla_cli.engine.step import step_counts
from cirilla_cli.errors import CirillaError
from cirilla_cli.loading import load_model
from cirilla_cli.progress import Silent


@pytest.mark.parametrize(("processes", "sharded"), [(2, False), (3, True)])
@pytest.mark.parametrize("case", gradients.CASES)
def test_a_ragged_step_has_one_gradient(
    case: str, processes: int, sharded: bool, order: Callable[..., list[int]], memory: Path
) -> None:
    """In float64: terms, means, gradients and expert biases, one process against several, one of which idles."""
    path = memory / "step.safetensors"
    assert order(case=case, out=str(path), ranks=processes, sharded=sharded, short=False) == [0] * processes
    found, expected = load_file(path), gradients.step_of(case, ALONE)
    assert found.keys() == expected.keys()
    assert max(float(v.abs().max()) for n, v in expected.items() if n.startswith("gradient")) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", ["text", "pairs", "experts", "states"])
def test_sharded_weights_are_cast_as_whole_ones_are(case: str, order: Callable[..., list[int]], memory: Path) -> None:
    """In bfloat16, routers and decay rates in float32: not a bit differs in one process, and rounding in two."""
    path, expected = memory / "short.safetensors", gradients.step_of(case, ALONE, short=True)
    for processes in (1, 2):
        assert order(case=case, out=str(path), ranks=processes, sharded=True, short=True) == [0] * processes
        for name, value in load_file(path).items():
            bound = {"rtol": 0, "atol": 0} if processes == 1 else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(value, expected[name], **bound, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", ["text", "pairs", "labels"])
def test_padding_in_place_of_a_micro_batch_counts_nowhere(case: str) -> None:
    """A process without a part of the step runs it; it must not move a figure, and reach every weight."""
    objective, batches = gradients.CASES[case].objective.build(), gradients.batches_of(gradients.CASES[case].batches)
    assert set(step_counts(objective, [batches[0].blank()]).values()) == {0.0}
    shares = [list(Ranks(rank, 3).share(batches)) for rank in range(3)]
    assert [[number for number, _ in share] for share in shares] == [[0, 3], [1, 4], [2, 7]]
    counts = [step_counts(objective, [batch for _, batch in share]) for share in shares]
    assert {unit: sum(c[unit] for c in counts) for unit in counts[0]} == step_counts(objective, batches)


CELL = {"objective": "pretrain", "model": "dense", **cells.PLAIN}


@pytest.mark.parametrize("ranks", ["2-ddp", "2-fsdp"])
def test_a_run_one_process_of_which_is_killed_goes_on_to_the_same_bits(
    ranks: str, order: Callable[..., list[int]], result: Callable[[cells.Cell], Any], memory: Path
) -> None:
    """The other cannot go on alone: it ends with what can be done about it, and the last checkpoint stands."""
    cell, out = {**CELL, "ranks": ranks}, memory / f"killed-{ranks}"
    assert order(cell=cell, out=str(out), ranks=2, until=3, kill=1) == [1, -9]
    assert sorted(tiny.saved(out)) == [2]
    assert order(cell=cell, out=str(out), ranks=2, until=cells.STEPS) == [0, 0]
    assert tiny.final_digests(out) == result(cell).bytes


def test_processes_round_weights_alike(order: Callable[..., list[int]], memory: Path) -> None:
    """In bfloat16 by chance: all but one weight in a hundred are those of one process."""
    saved = []
    for ranks in (1, 2):
        out = memory / f"rounded-{ranks}"
        cell = {**CELL, "weights": "bfloat16", "ranks": "2-ddp" if ranks == 2 else "1"}
        assert order(cell=cell, out=str(out), ranks=ranks, until=cells.STEPS) == [0] * ranks
        saved.append(load_file(tiny.saved(out)[cells.STEPS] / "model.safetensors"))
    one, two = (torch.cat([t.float().flatten() for t in tensors.values()]) for tensors in saved)
    assert all(tensor.dtype == torch.bfloat16 for tensor in saved[0].values())
    assert float((one == two).float().mean()) > 0.99
    assert float((one - two).abs().max()) < 0.02


CLIPPED = {**CELL, "cut": "singles", "qk_clip": "0.05"}


def _clipped(cell: cells.Cell, size: int, order: Callable[..., list[int]], out: Path) -> tuple[Any, dict[str, Any]]:
    if not out.exists():
        assert order(cell=cell, out=str(out), ranks=size, until=cells.STEPS) == [0] * size
    return tiny.metrics(out), load_file(tiny.saved(out)[cells.STEPS] / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "size"),
    [({"ranks": "2-ddp"}, 2), ({"ranks": "2-fsdp"}, 2), ({"ranks": "2-fsdp"}, 3), ({"rows": "padded"}, 1)],
    ids=["2-ddp", "2-fsdp", "3-fsdp", "padded"],
)
def test_heads_are_clipped_by_the_largest_logit_of_the_whole_step(
    changes: dict[str, str], size: int, order: Callable[..., list[int]], memory: Path
) -> None:
    """Each process sees its own micro-batches, and may hold rows of half a head; padding is no logit of anybody's."""
    one, weights = _clipped(CLIPPED, 1, order, memory / "clipped")
    other = memory / f"clipped-{size}-{''.join(changes.values())}"
    many, others = _clipped({**CLIPPED, **changes}, size, order, other)
    assert one[0]["qk_clip/shrunk"] > 0
    for key in ("qk_clip/largest", "qk_clip/shrunk", "loss"):
        assert [line[key] for line in many] == pytest.approx([line[key] for line in one], rel=1e-5), key
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_stop_that_one_process_is_told_of_stops_all(order: Callable[..., list[int]], memory: Path) -> None:
    cell, out = {**CELL, "ranks": "2-ddp"}, memory / "told"
    assert order(cell=cell, out=str(out), ranks=2, until=3, told=1) == [3, 3]
    assert max(tiny.saved(out)) == 3


def test_dropout_draws_for_the_micro_batch_whoever_computes_it(order: Callable[..., list[int]], memory: Path) -> None:
    curves = []
    for name, size in (("1", 1), ("2-ddp", 2), ("2-fsdp", 2)):
        cell, out = {**CELL, "cut": "singles", "ranks": name, "dropout": "0.3"}, memory / f"dropout-{name}"
        assert order(cell=cell, out=str(out), ranks=size, until=cells.STEPS) == [0] * size
        curves.append([loss for _, loss in tiny.curve(out)])
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)


def test_what_sharded_processes_save_is_a_checkpoint_as_any_other(
    result: Callable[[cells.Cell], Any], memory: Path
) -> None:
    cell = {**CELL, "ranks": "2-fsdp"}
    weights = result(cell).weights
    loaded = load_model(memory / cells.named(cell), progress=Silent()).model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


# What is refused before the first step


def _refused(job: Any, go: Callable[..., Any] = plan) -> str:
    with pytest.raises(CirillaError) as caught:
        go(job, Silent())
    return f"{caught.value}\nhint: {caught.value.hint}"


def test_more_processes_than_rows_are_refused(data: Path, memory: Path) -> None:
    few = cells.job_of(CELL, memory / "few", data, Place(size=8, local_size=8))
    assert "8 processes share a step of 7 rows" in _refused(few)
    assert "--nproc 7" in _refused(few)
    many = replace(few, place=Place(size=90), train=TrainConfig(steps=1, batch_tokens=100 * cells.CONTEXT))
    assert "90 processes, and the training data fill" in _refused(many)


def test_processes_cannot_share_standard_input(data: Path, memory: Path) -> None:
    job = cells.job_of({**CELL, "objective": "sft"}, memory / "stdin", data, Place(size=2))
    assert "standard input" in _refused(replace(job, data=job.data.model_copy(update={"path": (Path("-"),)})))


def test_weights_once_whole_are_not_sharded_later_and_the_number_of_processes_is_said(
    data: Path, memory: Path, result: Callable[[cells.Cell], Any]
) -> None:
    result(CELL)
    out, listener = memory / cells.named(CELL), tiny.Listener()
    other = replace(cells.job_of(CELL, out, data, Place()), parallel=FSDPConfig())
    other = replace(other, resolved={**other.resolved, "parallel": {"kind": "fsdp"}})
    assert "`parallel.kind` was 'ddp', is 'fsdp'" in _refused(other)
    assert "`parallel.kind` was 'ddp', is 'fsdp'" in _refused(other, train)
    plan(cells.job_of(CELL, out, data, Place(size=2)), listener)
    assert any("processes was 1, is 2" in text for text in listener.said)
