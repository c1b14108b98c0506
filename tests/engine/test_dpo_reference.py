"""The starting model's values of a DPO run: computed once, reused, and refused when they are another's."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cirilla_cli.data.shards import TokenShards
from cirilla_cli.engine.config import CheckpointingConfig, TrainConfig
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.loading import load_model
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.progress import Silent


@pytest.fixture
def go(tiny: ModuleType, data: Path, started: Path, memory: Path) -> Callable[..., TrainReport]:
    def run(progress: Any = None, **changes: Any) -> TrainReport:
        start = changes.pop("start", started)
        return train(tiny.job("dpo", memory / "run", data, start=start, **changes), progress or Silent())

    return run


@pytest.fixture
def path(memory: Path) -> Path:
    return memory / "run" / "shards" / "reference.safetensors"


def passes(listener: Any) -> int:
    """Reference batches computed."""
    return sum(what == "reference" for what, _ in listener.steps)


def stop_early(go: Callable[..., TrainReport], last: int = 3, **changes: Any) -> None:
    """A run that a termination signal ends after step ``last``."""

    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if what == "dpo" and done == last:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRun):
        go(Listener(), **changes)


def test_reference_values_are_the_starting_models(
    go: Callable[..., TrainReport], path: Path, data: Path, started: Path
) -> None:
    """Each answer alone, by torch's own cross-entropy."""
    go()
    model = load_model(started, progress=Silent()).model
    for split, key in (("train", "train"), ("val", "val")):
        shards, values = TokenShards.open(data / "shards" / "preference", split), load_file(path)[key]
        assert values.shape == (shards.n_documents // 2, 2)
        for i in range(shards.n_documents):
            ids = torch.tensor(shards.document(i).astype("int64"))
            layout = SequenceLayout.rows(1, len(ids) - 1)
            with torch.no_grad():
                logits = model(ids[None, :-1], layout, readout=LastLogits(len(ids) - 1))[0]
            logp = -torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            expected = float(logp[torch.tensor(shards.counted(i)[1:])].sum())
            assert values[i // 2, i % 2] == pytest.approx(expected, rel=1e-4)


def test_the_first_loss_is_ln_2(go: Callable[..., TrainReport], tiny: ModuleType, memory: Path) -> None:
    go()
    assert tiny.metrics(memory / "run")[0]["dpo"] == pytest.approx(0.693147, abs=1e-5)


def test_a_resumed_run_reuses_the_reference(go: Callable[..., TrainReport], tiny: ModuleType, path: Path) -> None:
    stop_early(go)
    before, listener = path.read_bytes(), tiny.Listener()
    assert go(listener).continued_from == 3
    assert passes(listener) == 0
    assert path.read_bytes() == before


def test_reference_values_of_another_run_are_not_taken(
    go: Callable[..., TrainReport], tiny: ModuleType, path: Path
) -> None:
    """Rows cut otherwise are other batches, and may round otherwise."""
    made_from = []
    for rows in (4, 1):
        listener = tiny.Listener()
        go(listener, train=TrainConfig(steps=1, batch_tokens=256, micro_batch_tokens=64 * rows))
        assert passes(listener) > 0
        with safe_open(path, "np") as file:
            made_from.append(file.metadata()["made_from"])
        (path.parents[1] / "lock.json").unlink()
        shutil.rmtree(path.parents[1] / "checkpoints")
    assert made_from[0] != made_from[1]


def test_tampered_reference_values_are_refused(go: Callable[..., TrainReport], tiny: ModuleType, path: Path) -> None:
    stop_early(go)
    with safe_open(path, "np") as file:
        made_from = file.metadata()
    values = load_file(path)
    save_file({"train": values["train"] + [[1.0, 0.0]], "val": values["val"]}, path, metadata=made_from)
    with pytest.raises(CirillaError, match=r"the first DPO loss is .* must be ln 2"):
        go()


def test_unreadable_reference_values_are_computed_again(
    go: Callable[..., TrainReport], tiny: ModuleType, path: Path
) -> None:
    stop_early(go)
    before, listener = path.read_bytes(), tiny.Listener()
    path.write_bytes(before[: len(before) // 2])
    assert go(listener).step == 6
    assert passes(listener) > 0
    assert path.read_bytes() == before


def test_a_model_born_in_the_run_is_its_own_reference_also_when_resumed(
    go: Callable[..., TrainReport], tiny: ModuleType
) -> None:
    lasting = TrainConfig(steps=30, batch_tokens=512, micro_batch_tokens=256)
    changes = {"model": tiny.decoder(context_length=64), "train": lasting, "checkpoint": CheckpointingConfig(every=30)}
    stop_early(go, 25, start=None, **changes)
    assert go(start=None, **changes).continued_from == 25
