"""An update within the backward pass moves weights as one after it does, to the bit, and never holds all gradients."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradients
import pytest
import tiny
import torch
from torch import nn

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.engine.build import trainer_of
from cirilla_cli.engine.config import (
    AdamWConfig,
    AverageConfig,
    CheckpointingConfig,
    DDPConfig,
    DivergenceConfig,
    FSDPConfig,
    FullCheckpointingConfig,
    MemoryConfig,
    MuonConfig,
    Place,
    PrecisionConfig,
    TrainConfig,
)
from cirilla_cli.engine.divergence import Diverged
from cirilla_cli.engine.job import check_job
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.run import train
from cirilla_cli.engine.within import OneByOne, WithinBackward
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Silent

CPU = torch.device("cpu")
WITHIN = MemoryConfig(fused_backward=True)
STEPS = 5


class Rows:
    """A case's micro-batches, one a step."""

    rows_per_epoch = 1

    def __init__(self, kind: str) -> None:
        self._batches = gradients.batches_of(kind)

    def step(self, index: int) -> list[Any]:
        return [self._batches[index]]

    def validation(self, most_tokens: int) -> Any:
        return iter(())


class Notes:
    """Every step's figures, but those of the clock."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def on_start(self, trainer: Any) -> None: ...

    def on_step(self, trainer: Any, metrics: dict[str, Any]) -> None:
        self.lines.append({k: v for k, v in metrics.items() if "second" not in k})

    def on_end(self, trainer: Any, metrics: dict[str, Any]) -> None: ...


def trained(
    case: str, dtype: torch.dtype, tmp_path: Path, memory: MemoryConfig, optim: Any, **keys: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Weights, what the optimizer remembers, and every step's figures, after five steps of a case."""
    shape, objective, kind = gradients.CASES[case]
    model = fresh(shape, seed=1)
    timing = TrainConfig(steps=STEPS, batch_tokens=32, max_grad_norm=None, **keys)
    job = tiny.job("pretrain", tmp_path, tmp_path, objective=objective, optim=optim, memory=memory, train=timing)
    trainer = trainer_of(job, model, Rows(kind), STEPS, CPU, dtype)
    trainer.hooks = [notes := Notes()]
    trainer.fit()
    found: dict[str, Any] = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        found |= {f"{key} of {name}": value for key, value in trainer.optimizer.state[parameter].items()}
    if trainer.average is not None:
        found |= {f"average of {name}": value for name, value in trainer.average.state().items()}
    return found, notes.lines


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", gradients.CASES)
def test_adamw_moves_the_same_to_the_bit_for_every_objective(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Tied weights, experts that no token chose, pairs, states, steps ahead, labels."""
    after, said = trained(case, dtype, tmp_path, MemoryConfig(), AdamWConfig(lr=1e-2))
    for checkpointing in (None, FullCheckpointingConfig()):
        memory = MemoryConfig(fused_backward=True, checkpointing=checkpointing)
        within, lines = trained(case, dtype, tmp_path, memory, AdamWConfig(lr=1e-2))
        assert lines == said
        assert within.keys() == after.keys()
        assert all(torch.equal(within[name], value) for name, value in after.items())
    assert sum(line["grad_norm"] > 0 for line in said) >= 4


def test_muon_moves_the_same_but_for_rounding(tmp_path: Path) -> None:
    """Matrices of one shape are orthogonalised one by one in place of side by side."""
    optim = MuonConfig(lr=0.01, adamw=AdamWConfig(lr=1e-2))
    after, said = trained("experts", torch.float32, tmp_path, MemoryConfig(), optim)
    within, lines = trained("experts", torch.float32, tmp_path, WITHIN, optim)
    assert [line["grad_norm"] for line in lines] == pytest.approx([line["grad_norm"] for line in said], rel=1e-4)
    for name, value in after.items():
        torch.testing.assert_close(within[name], value, rtol=1e-4, atol=1e-5)


def test_the_moving_average_is_the_same(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"optim": AdamWConfig(lr=1e-2), "ema": AverageConfig(decay=0.5)}
    after, _ = trained("text", torch.float32, tmp_path, MemoryConfig(), **keys)
    within, _ = trained("text", torch.float32, tmp_path, WITHIN, **keys)
    assert any(name.startswith("average") for name in after)
    assert all(torch.equal(within[name], value) for name, value in after.items())


class Held(torch.optim.AdamW):
    """Notes how many numbers of gradients there are whenever it moves something."""

    most = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        held = sum(p.grad.numel() for p in WATCHED if p.grad is not None)
        Held.most = max(Held.most, held)
        super().step(closure)


WATCHED: list[torch.Tensor] = []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_gradient_is_held_at_a_time(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weights and of the copies that are reckoned with: the largest weight's at most."""
    shape, objective, kind = gradients.CASES["text"]
    model = fresh(shape, seed=1)
    monkeypatch.setattr(Held, "most", 0)
    within = WithinBackward(model, OneByOne(Held(model.parameters(), lr=1e-3)))
    forward = forward_of(model, dtype, within.move)
    copies = list((forward._cast or {}).values())  # type: ignore[attr-defined]
    monkeypatch.setitem(globals(), "WATCHED", [*{id(p): p for p in [*model.parameters(), *copies]}.values()])
    batch = gradients.batches_of(kind)[0]
    built = objective.build()
    built.backward(forward, batch, {unit: max(1.0, n) for unit, n in built.counts(batch).items()})
    assert Held.most == max(p.numel() for p in model.parameters())
    assert all(p.grad is None for p in WATCHED)


def test_gradients_do_not_wait_for_the_end_of_the_backward_pass() -> None:
    """In bfloat16 too, the last layer's weights have moved before the first layer's have a gradient."""
    shape, objective, kind = gradients.CASES["text"]
    model = fresh(shape, seed=1)
    order: list[str] = []
    names = {id(p): name for name, p in model.named_parameters()}

    def whole(parameter: torch.Tensor) -> None:
        order.append(names[id(parameter)])
        parameter.grad = None

    seen: list[int] = []
    model.model.layers[0].register_full_backward_hook(lambda *_: seen.append(len(order)))
    forward = forward_of(model, torch.bfloat16, whole)
    batch = gradients.batches_of(kind)[0]
    built = objective.build()
    built.backward(forward, batch, {unit: max(1.0, n) for unit, n in built.counts(batch).items()})
    of_the_last = [name for name in names.values() if ".1." in name]
    assert set(of_the_last) <= set(order[: seen[0]])
    assert sorted(order) == sorted(names.values())


def test_a_second_backward_pass_is_an_error() -> None:
    layer = nn.Linear(2, 2)
    WithinBackward(layer, OneByOne(torch.optim.AdamW(layer.parameters())))
    layer(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="exactly one"):
        layer(torch.ones(1, 2)).sum().backward()


@pytest.fixture
def place(memory: Path) -> Iterator[Path]:
    """A folder in memory for one test."""
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


class StopAfter(Silent):
    """Asks to stop after a step of training; the reference pass of preferences has steps of its own."""

    def __init__(self, verb: str, at: int) -> None:
        self._when = verb, at

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        if (what, done) == self._when:
            os.kill(os.getpid(), signal.SIGTERM)


LASTING = TrainConfig(steps=6, batch_tokens=4 * 64, max_grad_norm=None)
EVERY = CheckpointingConfig(every=2, every_time=None)


def job_of(out: Path, data: Path, **changes: Any) -> Any:
    keys = {"train": LASTING, "checkpoint": EVERY, "optim": AdamWConfig(lr=3e-3), "memory": WITHIN, **changes}
    shape = tiny.decoder(context_length=64)
    return tiny.job(keys.pop("verb", "pretrain"), out, data, **{"model": shape, **keys})


@pytest.mark.parametrize("verb", ["pretrain", "sft", "dpo"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_run_and_its_resumption_end_in_the_same_bits(verb: str, compute: str, data: Path, place: Path) -> None:
    """With dropout, whose masks depend on the step alone."""
    changes = {"verb": verb, "precision": PrecisionConfig(compute=compute)}
    train(job_of(place / "after", data, memory=MemoryConfig(), **changes), Silent())
    job = job_of(place / "within", data, **changes)
    for step in (1, 3):
        with pytest.raises(InterruptedRun):
            train(job, StopAfter(verb, step))
    train(job, Silent())
    assert tiny.final_digests(place / "within") == tiny.final_digests(place / "after")
    lines = [[(line["loss"], line["grad_norm"]) for line in tiny.metrics(place / n)] for n in ("within", "after")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("memory_of", [MemoryConfig(), WITHIN], ids=["after", "within"])
def test_what_is_no_number_ends_the_run_with_its_last_good_checkpoint(
    memory_of: MemoryConfig, data: Path, place: Path
) -> None:
    """The step that went wrong has moved weights either way; none of them is saved."""
    job = job_of(place / "run", data, memory=memory_of)

    class Spoil(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if done == 3:
                spoilt.append(None)

    spoilt: list[None] = []
    from cirilla_cli.engine.objectives.cross_entropy import CrossEntropy

    plain = CrossEntropy.terms

    def terms(self: Any, forward: Any, batch: Any) -> Any:
        found = plain(self, forward, batch)
        if not spoilt:
            return found
        return {k: type(t)(t.total * float("nan"), t.unit, t.scale) for k, t in found.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CrossEntropy, "terms", terms)
        with pytest.raises(Diverged, match="step 4: the loss is nan"):
            train(job, Spoil())
    newest = Checkpoint.newest(place / "run")
    assert newest is not None
    assert newest.step == 2
    assert all(bool(p.isfinite().all()) for p in newest.load_model().parameters())
    train(job, Silent())
    train(job_of(place / "straight", data), Silent())
    assert tiny.final_digests(place / "run") == tiny.final_digests(place / "straight")


def test_a_run_that_goes_back_goes_on_as_without(data: Path, place: Path) -> None:
    """A rate that is too high: both ways go back, leave the same batches out, and give up at the same step."""
    watched = DivergenceConfig(action="rollback", spike=0.01, window=2, patience=1, most=1)
    timing = TrainConfig(steps=8, batch_tokens=128, max_grad_norm=None, divergence=watched)
    said, curves = [], []
    for name, saver in (("after", MemoryConfig()), ("within", WITHIN)):
        often = CheckpointingConfig(every=1, every_time=None)
        job = job_of(place / "run", data, memory=saver, train=timing, optim=AdamWConfig(lr=0.3), checkpoint=often)
        with pytest.raises(CirillaError, match="after 1 returns to a checkpoint") as caught:
            train(job, Silent())
        said.append(str(caught.value))
        curves.append([(line["loss"], line["grad_norm"]) for line in tiny.metrics(place / "run")])
        (place / "run").rename(place / name)
    assert said[0] == said[1]
    assert curves[0] == curves[1]
    assert tiny.final_digests(place / "within") == tiny.final_digests(place / "after")


def test_what_it_cannot_be_combined_with_is_refused_all_at_once(data: Path, tmp_path: Path) -> None:
    wrong = TrainConfig(steps=1, batch_tokens=128, micro_batch_tokens=64)
    job = job_of(tmp_path / "run", data, train=wrong, precision=PrecisionConfig(compute="float16"))
    with pytest.raises(CirillaError) as caught:
        check_job(_with(job, parallel=FSDPConfig()))
    keys = ("train.max_grad_norm", "train.micro_batch_tokens", "precision.compute", "parallel.kind")
    lines = str(caught.value).splitlines()
    assert [line.split("`")[1] for line in lines] == list(keys)
    assert all("with memory.fused_backward" in line for line in lines)
    with pytest.raises(CirillaError, match="2 processes, whose gradients must be added up first"):
        check_job(_with(job_of(tmp_path / "run", data), parallel=DDPConfig(), place=Place(0, 2, 0, 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cirilla_cli.engine.job.compute_dtype", lambda config, device: torch.float16)
        auto = job_of(tmp_path / "run", data, precision=PrecisionConfig())
        with pytest.raises(CirillaError, match="`precision.compute` is 'auto', which is float16 on this device"):
            check_job(auto)
    check_job(job_of(tmp_path / "run", data))


def _with(job: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(job, **changes)
