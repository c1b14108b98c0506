"""The moving average of weights: its numbers, what uses it, and that nothing forgets it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.engine.average import MovingAverage
from cirilla_cli.engine.config import (
    AverageConfig,
    CheckpointingConfig,
    EvaluationConfig,
    FSDPConfig,
    TrainConfig,
)
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.fs import hash_file, read_json, write_json
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.write import write_folder
from cirilla_cli.loading import load_model
from cirilla_cli.model.config import CheckpointConfig
from cirilla_cli.progress import Silent

DECAY, STEPS = 0.6, 9
EVERY = CheckpointingConfig(every=1, every_time=None, keep=STEPS)


def _lasting(steps: int = STEPS, decay: float | None = DECAY) -> TrainConfig:
    ema = None if decay is None else AverageConfig(decay=decay)
    return TrainConfig(steps=steps, batch_tokens=256, micro_batch_tokens=128, ema=ema)


@pytest.fixture
def averaged(run: Callable[..., TrainReport], out: Path) -> Path:
    run(train=_lasting(), checkpoint=EVERY)
    return out


def test_the_average_is_that_of_the_weights_of_every_step(averaged: Path, tiny: ModuleType) -> None:
    """The oracle adds up, in float64, all weights that were saved with the weight that the formula gives each."""
    saved = tiny.saved(averaged)
    files = [load_file(saved[step] / "model.safetensors") for step in range(1, STEPS + 1)]
    decays = [min(DECAY, (1 + t) / (10 + t)) for t in range(1, STEPS + 1)]
    assert len(set(decays)) > 3
    assert decays[-1] < DECAY or DECAY in decays
    start = _fresh_weights(tiny, averaged)
    got = load_file(saved[STEPS] / "ema.safetensors")
    assert got.keys() == files[0].keys()
    for name, tensor in got.items():
        expected = start[name].double()
        for decay, weights in zip(decays, files, strict=True):
            expected = decay * expected + (1 - decay) * weights[name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(tensor, files[-1][name])


def _fresh_weights(tiny: ModuleType, out: Path) -> dict[str, torch.Tensor]:
    from cirilla_cli.model.init import fresh

    return dict(fresh(Checkpoint.all_of(out)[0].model_config(), seed=0).state_dict())


def test_training_itself_does_not_notice(averaged: Path, tiny: ModuleType, data: Path, memory: Path) -> None:
    train(tiny.job("pretrain", memory / "plain", data, train=_lasting(decay=None), checkpoint=EVERY), Silent())
    assert tiny.final_digests(memory / "plain") == tiny.final_digests(averaged)
    assert tiny.curve(memory / "plain") == tiny.curve(averaged)


def test_validation_is_of_the_average(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, memory: Path
) -> None:
    """A run that begins with the average has that validation before its first step; one with the weights another."""
    watched = EvaluationConfig(every=3, max_tokens=128)
    run(train=_lasting(), checkpoint=EVERY, eval=watched)
    losses = {line["step"]: line["val_loss"] for line in tiny.metrics(out) if "val_loss" in line}
    first = {}
    for name in ("ema", "model"):
        start = memory / name / "step-000006"
        shutil.copytree(tiny.saved(out)[6], start)
        shutil.copyfile(tiny.saved(out)[6] / f"{name}.safetensors", start / "ema.safetensors")
        manifest = read_json(start / "MANIFEST.json")
        manifest["files"]["ema.safetensors"]["sha256"] = hash_file(start / "ema.safetensors")
        write_json(start / "MANIFEST.json", manifest)
        changes = {"model": CheckpointConfig(path=str(start)), "eval": watched, "train": _lasting(1, None)}
        report = train(tiny.job("pretrain", memory / f"from-{name}", data, **changes), Silent())
        assert report.first_validation is not None
        first[name] = report.first_validation["nll"]
    assert first["ema"] == pytest.approx(losses[6], abs=1e-5)
    assert abs(first["model"] - losses[6]) > 1e-4


def test_what_loads_a_run_takes_the_average_and_says_so(averaged: Path, tiny: ModuleType, tmp_path: Path) -> None:
    listener = tiny.Listener()
    loaded = load_model(averaged, progress=listener)
    assert any("the moving average of the weights is taken" in text for text in listener.said)
    average = load_file(tiny.saved(averaged)[STEPS] / "ema.safetensors")
    assert all(torch.equal(tensor, average[name]) for name, tensor in loaded.model.state_dict().items())
    write_folder(loaded, tmp_path / "hf", PushConfig(to=f"dir:{tmp_path / 'hf'}", dtype="float32"))
    pushed = load_file(tmp_path / "hf" / "model.safetensors")
    assert all(torch.equal(tensor, average[name]) for name, tensor in pushed.items() if name in average)
    assert sum(name in average for name in pushed) > 5


def test_a_resumed_run_has_the_same_average(averaged: Path, tiny: ModuleType, data: Path, memory: Path) -> None:
    again = memory / "again"
    job = tiny.job("pretrain", again, data, train=_lasting(), checkpoint=EVERY)
    for step in (2, 5):
        with pytest.raises(InterruptedRun):
            train(job, tiny.interrupt_after(step))
    train(job, Silent())
    files = [tiny.saved(out)[STEPS] / "ema.safetensors" for out in (again, averaged)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_swapped_model_comes_back_even_after_an_error(tiny: ModuleType) -> None:
    from cirilla_cli.model.init import fresh

    model = fresh(tiny.decoder(vocab_size=32), seed=0)
    average = MovingAverage(AverageConfig(), model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for tensor in average.weights.values():
            tensor.zero_()

    def fail() -> None:
        with average.swapped():
            assert all(not p.any() for p in model.parameters())
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_sharded_weights_are_refused(run: Callable[..., TrainReport], out: Path) -> None:
    with pytest.raises(CirillaError, match=r"`train.ema` is given, but under `parallel.kind` 'fsdp'"):
        run(parallel=FSDPConfig(), train=_lasting())
    assert not out.exists()
