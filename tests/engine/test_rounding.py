"""Weights in bfloat16: updates are right on average, draws follow seed and step alone, and all else reads them."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.config import (
    AdamW8bitConfig,
    AdamWConfig,
    AverageConfig,
    CheckpointingConfig,
    CrossEntropyConfig,
    EvaluationConfig,
    FSDPConfig,
    MemoryConfig,
    MuonConfig,
    PrecisionConfig,
    TrainConfig,
)
from cirilla_cli.engine.job import check_job
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.rounding import RoundedOneByOne, rounded, store
from cirilla_cli.engine.run import TrainReport, train, verify_resume
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.write import write_folder
from cirilla_cli.loading import load_model
from cirilla_cli.model.init import fresh
from cirilla_cli.model.sections import MoEConfig
from cirilla_cli.progress import Silent

BF16 = PrecisionConfig(weights="bfloat16", compute="bfloat16")
LASTING = TrainConfig(steps=6, batch_tokens=128, micro_batch_tokens=64)
EVERY = CheckpointingConfig(every=2, every_time=None)


def numbers() -> Tensor:
    """Of both signs and all sizes, small beyond normal ones too, and neighbours of powers of two."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(200, generator=generator) * 10 ** (60 * torch.rand(200, generator=generator) - 30)
    edges = torch.tensor([0.0, 1.0, -1.0, 1 - 2**-20, 1 + 2**-20, -2 + 2**-20, 1e-40, -3e-39, 3.3e38])
    return torch.cat([some, edges])


def test_the_mean_of_many_draws_is_the_number() -> None:
    """Each draw is one of two neighbours; the mean of n of them within five standard errors, by hand."""
    exact, draws = numbers(), 20_000
    made = rounded(exact.repeat(draws, 1), torch.Generator().manual_seed(1)).double()
    low, high = made.amin(0), made.amax(0)
    wide = exact.double()
    assert bool(((low <= wide) & (wide <= high)).all())
    for i, x in enumerate(wide.tolist()):
        found = made[:, i].unique()
        assert len(found) <= 2
        gap, up = float(high[i] - low[i]), 0.0 if high[i] == low[i] else (x - float(low[i])) / float(high[i] - low[i])
        if len(found) == 2:
            between = torch.nextafter(low[i].bfloat16(), torch.tensor(math.inf, dtype=torch.bfloat16))
            assert float(between) == float(high[i])
        error = gap * math.sqrt(up * (1 - up) / draws)
        assert abs(float(made[:, i].mean()) - x) <= 5 * error + 1e-12 * abs(x)


def test_what_bfloat16_has_stays_and_what_is_not_finite_too() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = numbers().bfloat16().float()
    assert torch.equal(rounded(exact, generator).float(), exact)
    odd = torch.tensor([math.inf, -math.inf, math.nan, -math.nan])
    odd = torch.cat([odd, torch.tensor([-1, 0x7FFFFFFF], dtype=torch.int32).view(torch.float32)])
    found = rounded(odd.repeat(1000), generator).view(1000, -1)
    assert torch.equal(found[:, :2].float(), odd[:2].expand(1000, 2))
    assert bool(found[:, 2:].isnan().all())


def test_small_updates_are_not_lost() -> None:
    """A thousand steps of a thousandth of a gap each: by half a gap to the nearest none, in sum one gap."""
    weight = nn.Parameter(torch.ones(20_000).bfloat16())
    weight.grad_dtype = torch.float32
    model, gap = nn.ParameterList([weight]), 2**-7
    mover = RoundedOneByOne(model, torch.optim.SGD([weight], lr=gap / 1000), seed=0)
    for step in range(1000):
        weight.grad = -torch.ones(20_000)
        mover.begin(step)
        mover.move_all()
    assert float(weight.detach().float().mean()) == pytest.approx(1 + gap, abs=5 * gap / math.sqrt(20_000))
    assert weight.dtype == torch.bfloat16


@pytest.mark.parametrize("optim", [AdamWConfig(), MuonConfig(), AdamW8bitConfig()], ids=lambda c: c.kind)
def test_an_update_is_that_of_float32_rounded_to_a_neighbour(optim: Any, tiny: ModuleType) -> None:
    """One step from equal weights with equal gradients: no weight is further off than one gap."""
    models = [fresh(tiny.decoder(vocab_size=64, d_model=64), seed=2) for _ in range(2)]
    for model in models:
        store(model, BF16)
    for parameter in models[0].parameters():
        parameter.data = parameter.data.float()
    plain, ours = (optim.build(model) for model in models)
    mover = RoundedOneByOne(models[1], ours, seed=5)
    generator = torch.Generator().manual_seed(1)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    plain.step()
    mover.begin(0)
    mover.move_all()
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        gap = (a.abs() * 2**-7).clamp(min=1e-30)
        assert bool(((a - b.float()).abs() <= gap).all()), name
        assert {t.dtype for t in ours.state[b].values()} <= {torch.float32, torch.uint8}


def test_exact_modules_stay_float32_and_gradients_add_up_in_float32(tiny: ModuleType) -> None:
    model = fresh(tiny.decoder(vocab_size=64, mlp=MoEConfig(n_experts=4, top_k=2, d_ff=8)), seed=0)
    store(model, BF16)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert {name for name, dtype in kinds.items() if dtype == torch.float32} == {"model.layers.0.mlp.gate.weight"}
    ids = torch.randint(64, (2, 32), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(ids, ids.roll(-1, 1), torch.zeros_like(ids))
    objective, forward = CrossEntropyConfig().build(), forward_of(model.train(), torch.bfloat16)
    torch.manual_seed(0)
    objective.backward(forward, batch, {"tokens": 64.0, "rows": 2.0, "positions": 64.0})
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def job_of(tiny: ModuleType, out: Path, data: Path, **changes: Any) -> Any:
    keys = {"precision": BF16, "train": LASTING, "checkpoint": EVERY, "optim": AdamWConfig(lr=3e-3), **changes}
    return tiny.job("pretrain", out, data, **keys)


@pytest.mark.parametrize("optim", [AdamWConfig(lr=3e-3), MuonConfig(lr=0.01)], ids=lambda c: c.kind)
def test_a_resumed_run_ends_in_the_same_bits(optim: Any, tiny: ModuleType, data: Path, out: Path, memory: Path) -> None:
    """With an average in float32; what is on disk has the weights' format."""
    timing = LASTING.model_copy(update={"ema": AverageConfig(decay=0.9)})
    job = job_of(tiny, out, data, optim=optim, train=timing, eval=EvaluationConfig(every=3, max_tokens=128))
    train(job, Silent())
    again = job_of(tiny, memory / "again", data, optim=optim, train=timing, eval=job.eval)
    for step in (1, 3, 5):
        with pytest.raises(InterruptedRun):
            train(again, tiny.interrupt_after(step))
    train(again, Silent())
    assert tiny.final_digests(memory / "again") == tiny.final_digests(out)
    files = [tiny.saved(run)[6] / "ema.safetensors" for run in (out, memory / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert {t.dtype for t in load_file(tiny.saved(out)[6] / "model.safetensors").values()} == {torch.bfloat16}
    assert {t.dtype for t in load_file(files[0]).values()} == {torch.float32}
    assert verify_resume(job, Silent()).step == 6


def test_within_the_backward_pass_the_same_is_drawn(tiny: ModuleType, data: Path, memory: Path) -> None:
    whole = TrainConfig(steps=6, batch_tokens=128, max_grad_norm=None)
    for name, saver in (("after", MemoryConfig()), ("within", MemoryConfig(fused_backward=True))):
        train(job_of(tiny, memory / name, data, train=whole, memory=saver), Silent())
    assert tiny.final_digests(memory / "within") == tiny.final_digests(memory / "after")


def test_it_learns_what_float32_learns(tiny: ModuleType, data: Path, memory: Path) -> None:
    """Losses of the same steps, and that the seed decides what is drawn."""
    curves = {}
    for name, weights in (("wide", "float32"), ("narrow", "bfloat16")):
        precision = PrecisionConfig(weights=weights, compute="float32")
        train(job_of(tiny, memory / name, data, precision=precision), Silent())
        curves[name] = [line["loss"] for line in tiny.metrics(memory / name)]
    assert curves["narrow"] == pytest.approx(curves["wide"], rel=5e-3)
    assert curves["narrow"] != curves["wide"]
    train(job_of(tiny, memory / "other", data, precision=precision, seed=1), Silent())
    assert tiny.final_digests(memory / "other") != tiny.final_digests(memory / "narrow")


def test_such_a_run_is_read_and_published(tiny: ModuleType, data: Path, out: Path, tmp_path: Path) -> None:
    train(job_of(tiny, out, data, eval=EvaluationConfig(every=3, max_tokens=128, prompts=("the road",))), Silent())
    loaded, saved = load_model(out), load_file(tiny.saved(out)[6] / "model.safetensors")
    assert all(torch.equal(loaded.model.state_dict()[name], tensor.float()) for name, tensor in saved.items())
    write_folder(loaded, tmp_path / "hf", PushConfig(to=f"dir:{tmp_path / 'hf'}", dtype="bfloat16"))
    pushed = load_file(tmp_path / "hf" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in pushed.items() if name in saved)
    assert sum(name in saved for name in pushed) > 5


def test_preferences_are_judged_against_the_weights_as_they_are_stored(
    tiny: ModuleType, data: Path, memory: Path
) -> None:
    """Fresh, and after a stop, when the starting model is another object than the one that is trained."""
    changes = {"precision": BF16, "checkpoint": EVERY, "optim": AdamWConfig(lr=1e-3)}
    changes["model"] = tiny.decoder(context_length=64)
    changes["train"] = TrainConfig(steps=4, batch_tokens=256, micro_batch_tokens=128)
    train(tiny.job("dpo", memory / "straight", data, **changes), Silent())
    job = tiny.job("dpo", memory / "stopped", data, **changes)

    class Stop(Silent):
        """Asks to stop after a step of training; the reference pass has steps of its own."""

        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if (what, done) == ("dpo", 2):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRun):
        train(job, Stop())
    (memory / "stopped" / "shards" / "reference.safetensors").unlink()
    train(job, Silent())
    assert tiny.final_digests(memory / "stopped") == tiny.final_digests(memory / "straight")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": PrecisionConfig(weights="bfloat16", compute="float16")}, "with precision.compute float16"),
        ({"parallel": FSDPConfig()}, "with parallel.kind fsdp"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(
    changes: dict[str, Any], says: str, tiny: ModuleType, data: Path, out: Path
) -> None:
    with pytest.raises(CirillaError, match=f"`precision.weights` is 'bfloat16', must be float32 {says}"):
        check_job(job_of(tiny, out, data, **changes))


def test_the_run_takes_less(run: Callable[..., TrainReport], tiny: ModuleType, tmp_path: Path) -> None:
    """The plan's walk: two bytes a weight in place of four, and no copy to reckon with."""
    from cirilla_cli.data.batches import Cut
    from cirilla_cli.engine.footprint import footprint

    shape = tiny.decoder(vocab_size=512, d_model=64, n_layers=2, context_length=32, dropout=0.0)
    ids = torch.zeros(1, 32, dtype=torch.long)
    batch = TokenBatch(ids, ids.clone(), torch.zeros_like(ids))
    found = []
    for precision in (PrecisionConfig(compute="bfloat16"), BF16):
        keys = {"model": shape, "precision": precision, "objective": CrossEntropyConfig(), "optim": AdamWConfig()}
        job = tiny.job("pretrain", tmp_path, tmp_path, **keys)
        found.append(footprint(job, shape, [batch], Cut(32, 1, 1, 0, 0), "cpu"))
    count = sum(p.numel() for p in fresh(shape, seed=0).parameters())
    assert found[1].parts["parameters"] == 2 * count
    assert (found[0].parts["casts"], found[1].parts["casts"]) == (2 * count, 0)
    assert found[1].checkpoint_bytes == found[0].checkpoint_bytes - 2 * count
