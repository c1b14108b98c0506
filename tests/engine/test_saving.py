"""When state is written: beside the training, on request, and what is left when the program is told to go."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cirilla_cli.checkpoint import Checkpoint, snapshot
from cirilla_cli.engine.background import Background
from cirilla_cli.engine.config import CheckpointingConfig, TrainConfig
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Silent

BATCH = {"batch_tokens": 256, "micro_batch_tokens": 128}
RARELY = CheckpointingConfig(every=1000, every_time=None, keep=5)


# Beside the training


def test_writing_beside_the_training_leaves_the_same_checkpoints(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, memory: Path
) -> None:
    lasting = TrainConfig(steps=9, **BATCH)
    often = CheckpointingConfig(every=1, every_time=None, keep=20)
    run(train=lasting, checkpoint=often)
    beside = memory / "beside"
    asynchronous = often.model_copy(update={"asynchronous": True})
    train(tiny.job("pretrain", beside, data, train=lasting, checkpoint=asynchronous), Silent())
    assert sorted(tiny.saved(beside)) == sorted(tiny.saved(out)) == list(range(1, 10))
    for step, path in tiny.saved(out).items():
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (tiny.saved(beside)[step] / name).read_bytes() == (path / name).read_bytes(), f"step {step}"
        assert Checkpoint(step, tiny.saved(beside)[step]).verify() == []


def test_a_copied_snapshot_is_of_the_moment_it_was_taken(tiny: ModuleType, tmp_path: Path) -> None:
    model = fresh(tiny.decoder(vocab_size=32), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state: dict[str, Any] = {"step": 1, "skips": [[1, 2]]}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    held = snapshot(1, model, optimizer, state=state, tokenizer=None, texts={}).copied()
    optimizer.step()
    state["skips"].append([3, 4])
    saved = held.write(tmp_path)
    assert all(torch.equal(t, before[n]) for n, t in load_file(saved.path / "model.safetensors").items())
    read = load_file(saved.path / "optimizer.safetensors")
    assert all(torch.equal(read[f"{name}.exp_avg"], moment) for name, moment in moments.items())
    assert saved.state()["skips"] == [[1, 2]]
    assert any(not torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_at_most_one_write_is_under_way_and_its_failure_comes_out() -> None:
    running: list[int] = []
    most = 0
    gate = threading.Event()

    def work() -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        gate.wait(0.02)
        running.pop()

    with Background() as background:
        for _ in range(4):
            background.start(work)
        assert background.busy or not running
    assert (most, running) == (1, [])

    def fail() -> None:
        raise OSError("no")

    background.start(fail)
    while background.busy:
        time.sleep(0.001)
    with pytest.raises(OSError, match="no"):
        background.check()
    background.check()
    background.start(fail)
    with pytest.raises(OSError, match="no"):
        background.start(work)
    with pytest.raises(OSError, match="no"), Background() as leaving:
        leaving.start(fail)


def test_leaving_waits_for_what_is_under_way_unless_it_is_to_end_at_once() -> None:
    gate, done = threading.Event(), []

    def work() -> None:
        gate.wait(30)
        done.append(1)

    def leave(background: Background, error: BaseException) -> None:
        with background:
            background.start(work)
            raise error

    background = Background()
    with pytest.raises(KeyboardInterrupt):
        leave(background, KeyboardInterrupt())
    assert background.busy
    gate.set()
    background.wait()
    gate.clear()
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(ValueError, match="mine"):
        leave(Background(), ValueError("mine"))
    assert done == [1, 1]


# On request


@pytest.mark.parametrize("asynchronous", [False, True])
def test_touching_a_file_saves_after_the_step_and_removes_it(
    asynchronous: bool, run: Callable[..., TrainReport], out: Path, tiny: ModuleType, memory: Path, data: Path
) -> None:
    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if done in (2, 5):
                (out / "save").touch()

    lasting = TrainConfig(steps=8, **BATCH)
    run(Listener(), train=lasting, checkpoint=RARELY.model_copy(update={"asynchronous": asynchronous}))
    assert sorted(tiny.saved(out)) == [2, 5, 8]
    assert not (out / "save").exists()
    quiet = memory / "quiet"
    train(tiny.job("pretrain", quiet, data, train=lasting, checkpoint=RARELY), Silent())
    assert tiny.final_digests(out) == tiny.final_digests(quiet)


# Told to go


def test_a_second_interrupt_stops_at_once_and_the_same_command_continues(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    """The second comes before the state was saved: what was saved before stands."""

    class Twice(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if done == 5:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)

    lasting, often = TrainConfig(steps=8, **BATCH), CheckpointingConfig(every=2, every_time=None, asynchronous=True)
    with pytest.raises(KeyboardInterrupt, match="stopped at once; what was saved before stands"):
        run(Twice(), train=lasting, checkpoint=often)
    assert max(tiny.saved(out)) == 4
    assert run(train=lasting, checkpoint=often).step == 8


def test_a_first_interrupt_waits_for_the_write_beside_the_training(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    checkpoint = CheckpointingConfig(every=2, every_time=None, asynchronous=True)
    with pytest.raises(CirillaError, match="stopped after step 3 of 8, state saved") as caught:
        run(tiny.interrupt_after(3), train=TrainConfig(steps=8, **BATCH), checkpoint=checkpoint)
    assert caught.value.exit_code == 3
    assert sorted(tiny.saved(out)) == [2, 3]
    assert all(Checkpoint(step, path).verify() == [] for step, path in tiny.saved(out).items())
