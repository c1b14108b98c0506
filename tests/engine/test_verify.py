"""The proof that a run continues exactly, and what it says of a run that does not."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cirilla_cli.engine.config import AverageConfig, CheckpointingConfig, DPOConfig, EvaluationConfig, TrainConfig
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.engine.verify import verify_resume
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent

CHANGES: dict[str, Any] = {
    "train": TrainConfig(steps=8, batch_tokens=256, micro_batch_tokens=128, ema=AverageConfig(decay=0.5)),
    "checkpoint": CheckpointingConfig(every=3, every_time=None, keep=2),
    "eval": EvaluationConfig(every=4, max_tokens=64),
}


def _all(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def done(tiny: ModuleType, data: Path, out: Path) -> Any:
    job = tiny.job("pretrain", out, data, **CHANGES)
    train(job, Silent())
    return job


def test_a_run_is_proved_and_not_touched(done: Any, out: Path, tiny: ModuleType) -> None:
    before, listener = _all(out), tiny.Listener()
    proof = verify_resume(done, listener)
    assert (proof.begun, proof.step) == (6, 8)
    last = tiny.saved(out)[8]
    count = sum(len(load_file(last / f"{name}.safetensors")) for name in ("model", "optimizer", "ema"))
    assert proof.tensors == count
    assert _all(out) == before
    assert any("replaying steps 7 to 8" in text for text in listener.said)


@pytest.mark.parametrize("verb", ["sft", "dpo"])
def test_other_verbs_are_proved_too(verb: str, tiny: ModuleType, data: Path, started: Path, out: Path) -> None:
    objective = {"objective": DPOConfig()} if verb == "dpo" else {}
    job = tiny.job(verb, out, data, start=started, **CHANGES, **objective)
    train(job, Silent())
    assert verify_resume(job, Silent()).step == 8


def test_with_one_checkpoint_the_whole_run_is_replayed(tiny: ModuleType, data: Path, out: Path) -> None:
    job = tiny.job("pretrain", out, data, **{**CHANGES, "checkpoint": CheckpointingConfig(every=100, keep=1)})
    train(job, Silent())
    proof = verify_resume(job, Silent())
    assert (proof.begun, proof.step) == (0, 8)


@pytest.mark.parametrize("file", ["model", "optimizer", "ema"])
def test_a_tensor_that_differs_is_named_with_how_much(file: str, done: Any, out: Path, tiny: ModuleType) -> None:
    """A checkpoint as another program run would have left it: sound by its manifest, and not what training gives."""
    last = tiny.saved(out)[8]
    tensors = load_file(last / f"{file}.safetensors")
    name = sorted(name for name in tensors if tensors[name].ndim == 2)[0]
    tensors[name].view(-1)[3] += 0.25
    _rewrite(last, file, tensors)
    with pytest.raises(CirillaError) as caught:
        verify_resume(done, Silent())
    size = tensors[name].numel()
    assert f"{file}.safetensors: `{name}` differs in 1 of {size} numbers, by 0.25" in str(caught.value)
    assert "1 of " in str(caught.value).splitlines()[0]


def _rewrite(folder: Path, file: str, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / f"{file}.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    data = path.read_bytes()
    manifest["files"][path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def test_one_bit_of_one_number_is_a_difference(done: Any, out: Path, tiny: ModuleType) -> None:
    last = tiny.saved(out)[8]
    tensors = load_file(last / "optimizer.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name].view(torch.int32).view(-1)[5] ^= 1
    _rewrite(last, "optimizer", tensors)
    with pytest.raises(CirillaError, match=r"differs in 1 of \d+ numbers"):
        verify_resume(done, Silent())


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_damaged_checkpoints_are_passed_over_and_said(done: Any, out: Path, tiny: ModuleType) -> None:
    listener, saved = tiny.Listener(), tiny.saved(out)
    assert sorted(saved) == [6, 8]
    _flip(saved[6] / "model.safetensors")
    proof = verify_resume(done, listener)
    assert (proof.begun, proof.step, proof.damaged) == (0, 8, ["step-000006"])
    assert [text for text in listener.said if "step-000006: model.safetensors is damaged; passed over" in text]
    (saved[8] / "MANIFEST.json").unlink()
    with pytest.raises(CirillaError, match=r"(?s)every checkpoint is damaged.*step-000006: model.*step-000008: files"):
        verify_resume(done, Silent())


def test_a_run_without_a_checkpoint_has_nothing_to_prove(tiny: ModuleType, data: Path, out: Path) -> None:
    with pytest.raises(CirillaError, match="no checkpoint to verify"):
        verify_resume(tiny.job("pretrain", out, data, **CHANGES), Silent())


# deterministic


def test_only_within_a_deterministic_run_torch_is_held_to_the_same_bits(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, memory: Path
) -> None:
    seen = []

    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))

    torch.backends.cudnn.benchmark = True
    try:
        run(Listener(), deterministic=True)
        assert set(seen) == {(True, False)}
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False
    train(tiny.job("pretrain", memory / "free", data), Silent())
    assert tiny.final_digests(out) == tiny.final_digests(memory / "free")


def test_an_operation_without_such_an_algorithm_is_a_message(run: Callable[..., TrainReport]) -> None:
    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    run(Listener())
    with pytest.raises(CirillaError, match=r"`deterministic` is true, but put_ does not have") as caught:
        run(Listener(), deterministic=True, restart=True)
    assert caught.value.hint is not None
