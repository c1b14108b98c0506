"""float16: the loss is scaled so that small gradients survive, and a step whose gradient overflows is left out."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.engine.config import AdamWConfig, CheckpointingConfig, PrecisionConfig, TrainConfig
from cirilla_cli.engine.divergence import Diverged
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.engine.scaling import Scaling
from cirilla_cli.errors import InterruptedRun
from cirilla_cli.progress import Silent

HALF = PrecisionConfig(compute="float16")
# A CPU multiplies float16 at a thousandth of its speed, so runs are even smaller than elsewhere.
LASTING = TrainConfig(steps=9, batch_tokens=32, micro_batch_tokens=32)
OFTEN = CheckpointingConfig(every=3, every_time=None)


def test_the_scale_moves_as_torchs_own_does() -> None:
    """Over thousands of steps with overflows here and there, against `torch.amp.GradScaler`."""
    ours, theirs = Scaling(), torch.amp.GradScaler("cpu")
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    model = nn.ParameterList([weight])
    generator = torch.Generator().manual_seed(0)
    scales = set()
    for step in range(6000):
        overflow = bool(torch.rand((), generator=generator) < (0.3 if step < 60 else 0.0003))
        gradient = torch.tensor([1.0, 2.0, float("inf") if overflow else 3.0])
        weight.grad = gradient * ours.scale
        scale = theirs.scale(torch.ones(()))
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        weight.grad = gradient * scale
        assert float(scale) == ours.scale
        ours.unscale(model)
        if not overflow:
            assert torch.equal(weight.grad, gradient)
        ours.update(finite=not overflow)
        scales.add(ours.scale)
    assert len(scales) > 5
    assert max(scales) > 2 * min(scales)
    assert ours.overflows > 10


def test_float16_learns_what_float32_learns(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, memory: Path
) -> None:
    run(precision=HALF, train=LASTING, optim=AdamWConfig(lr=3e-3))
    train(tiny.job("pretrain", memory / "full", data, train=LASTING, optim=AdamWConfig(lr=3e-3)), Silent())
    half, full = tiny.metrics(out), tiny.metrics(memory / "full")
    assert [a["loss"] for a in half] == pytest.approx([b["loss"] for b in full], rel=2e-3)
    assert [a["loss"] for a in half] != [b["loss"] for b in full]
    assert [a["grad_norm"] for a in half] == pytest.approx([b["grad_norm"] for b in full], rel=2e-2)
    assert {line["loss_scale"] for line in half} == {2.0**16}
    assert "loss_scale" not in full[0]


@pytest.fixture
def hot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that begins so high that the first steps overflow, and grows every third step."""
    from cirilla_cli.engine import build, scaling

    monkeypatch.setattr(build, "Scaling", lambda: Scaling(scale=2.0**22))
    monkeypatch.setattr(scaling, "_GROWTH_STEPS", 3)


@pytest.mark.usefixtures("hot")
def test_a_step_that_overflows_is_left_out_and_counted(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType
) -> None:
    every = CheckpointingConfig(every=1, every_time=None, keep=99)
    run(precision=HALF, train=LASTING, checkpoint=every)
    lines, saved = tiny.metrics(out), tiny.saved(out)
    left_out = [line["step"] for before, line in zip([{"overflows": 0}, *lines], lines, strict=False)
                if line["overflows"] > before["overflows"]]  # fmt: skip
    assert left_out[:2] == [1, 2]
    assert len(set(range(1, 10)) - set(left_out)) == 3
    for before, after in zip(range(1, 9), range(2, 10), strict=True):
        same = (saved[before] / "model.safetensors").read_bytes() == (saved[after] / "model.safetensors").read_bytes()
        assert same == (after in left_out), f"step {after}"
    assert any(line["loss_scale"] > before["loss_scale"] for before, line in zip(lines, lines[1:], strict=False))


@pytest.mark.usefixtures("hot")
def test_a_resumed_run_has_the_same_scale_and_the_same_bits(
    run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, memory: Path
) -> None:
    run(precision=HALF, train=LASTING, checkpoint=OFTEN)
    job = tiny.job("pretrain", memory / "again", data, precision=HALF, train=LASTING, checkpoint=OFTEN)
    for step in (1, 5, 8):
        with pytest.raises(InterruptedRun):
            train(job, tiny.interrupt_after(step))
    train(job, Silent())
    assert tiny.final_digests(memory / "again") == tiny.final_digests(out)
    assert [line["loss_scale"] for line in tiny.metrics(memory / "again")] == [
        line["loss_scale"] for line in tiny.metrics(out)
    ]
    states = [Checkpoint.all_of(run)[-1].state()["scaling"] for run in (memory / "again", out)]
    assert states[0] == states[1]


def test_gradients_that_overflow_at_every_scale_end_the_run(
    run: Callable[..., TrainReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cirilla_cli.engine import build
    from cirilla_cli.engine.trainer import Trainer

    monkeypatch.setattr(build, "Scaling", lambda: Scaling(scale=4.0))
    monkeypatch.setattr(Trainer, "_clip", lambda self: float("inf"))
    with pytest.raises(Diverged, match="step 3: .* the gradient's length inf"):
        run(precision=HALF, train=LASTING)


def test_auto_takes_float16_only_on_gpus_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, cuda, cpu = PrecisionConfig(), torch.device("cuda"), torch.device("cpu")
    for fast, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, fast=fast: fast)
        assert compute_dtype(auto, cuda) == expected
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert compute_dtype(auto, cpu) == torch.float32
    assert compute_dtype(HALF, cpu) == torch.float16
