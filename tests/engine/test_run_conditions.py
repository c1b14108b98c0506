"""Runs under conditions: a disk that fills up, numbers of fewer bits."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    PrecisionConfig,
    TrainConfig,
)
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import CheckpointConfig
from cirilla_cli.progress import Silent

BATCH = {"batch_tokens": 256, "micro_batch_tokens": 128}


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs Linux and privileges")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(("every", "asynchronous"), [(2, False), (2, True), (40, False)])
def test_a_disk_that_fills_up_stops_the_run_and_costs_nothing(
    every: int,
    asynchronous: bool,
    small_disk: Path,
    run: Callable[..., TrainReport],
    out: Path,
    tiny: ModuleType,
    data: Path,
) -> None:
    """Whether a checkpoint meets it or a line of the metrics."""
    changes = {
        "train": TrainConfig(steps=40, **BATCH),
        "checkpoint": CheckpointingConfig(every=every, every_time=None, keep=1, asynchronous=asynchronous),
    }
    filler = small_disk / "filler"

    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if done == 5:
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass

    job = tiny.job("pretrain", small_disk / "run", data, **changes)
    with pytest.raises(CirillaError, match="stopped after step 3"):
        train(job, tiny.interrupt_after(3))
    with pytest.raises(CirillaError, match=r"the disk is full; the last checkpoint is .*step-00000[34]") as caught:
        train(job, Listener())
    assert "\n" not in str(caught.value)
    filler.unlink()
    assert train(job, Silent()).step == 40
    run(**changes)
    assert tiny.curve(small_disk / "run") == tiny.curve(out)
    assert tiny.final_digests(small_disk / "run") == tiny.final_digests(out)


# Precision


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    from safetensors import safe_open

    half, lasting = PrecisionConfig(compute="bfloat16"), TrainConfig(steps=30, **BATCH)
    run(precision=half, train=lasting, optim=AdamWConfig(lr=1e-2))
    path = tiny.saved(out)[30]
    for name in ("model", "optimizer"):
        with safe_open(path / f"{name}.safetensors", "pt") as file:
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32}  # noqa: SIM118
            if name == "model":
                weight = file.get_tensor("model.layers.0.mlp.up_proj.weight")
    assert not torch.equal(weight, weight.bfloat16().float()), "the weights were rounded"
    curve = tiny.curve(out)
    assert curve[-1][1] < curve[0][1] - 0.5
    exact = [loss for _, loss in curve]
    run(restart=True, train=lasting, optim=AdamWConfig(lr=1e-2))
    assert [loss for _, loss in tiny.curve(out)] != exact
    assert tiny.curve(out)[0][1] == pytest.approx(exact[0], rel=1e-2)


def test_a_run_never_writes_over_the_model_it_starts_from(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path
) -> None:
    train(tiny.job("pretrain", out, data, train=TrainConfig(steps=2, **BATCH)), Silent())
    before = sorted((path, path.stat().st_size) for path in out.rglob("*") if path.is_file())
    again = tiny.job("pretrain", out, data, model=CheckpointConfig(path=str(out)), train=TrainConfig(steps=2, **BATCH))
    with pytest.raises(CirillaError, match="where the model to start from lies"):
        train(again, Silent(), restart=True)
    assert sorted((path, path.stat().st_size) for path in out.rglob("*") if path.is_file()) == before
