"""Cirilla's decoder, from the engine's own loop, source and optimizers, with one setting for every corpus."""

from pathlib import Path
from typing import Any

import torch
from clock import Clock
from learning import PROBE, Stopwatch, Task, report, steps_that_fit, task
from torch import Tensor

from cirilla_cli.cli.allocator import keep_freed_memory
from cirilla_cli.data.batches import Cut, Mix, PackedText
from cirilla_cli.data.shards import TokenShards
from cirilla_cli.engine.config import AdamWConfig, CrossEntropyConfig, MuonConfig, PrecisionConfig, WSDConfig
from cirilla_cli.engine.precision import compute_dtype
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import TokenLoss
from cirilla_cli.model.sections import SwiGLUConfig

CPU = torch.device("cpu")
DEFAULT: dict[str, Any] = dict(
    kind="muon", lr=0.02, adamw=1e-2, beta2=0.95, weight_decay=0.0, ns_steps=3, warmup=0.02, decay=0.7,
    batch_tokens=2048,
)  # fmt: skip
"""Muon and a schedule that holds and then comes down, as in the recipe `base/pretrain`, with what suits a hundred
steps: a larger rate of embeddings and head, a longer way down, fewer iterations. The trials are in docs/log.md."""


def model_of(job: Task) -> DecoderConfig:
    """The shape that every system has."""
    return DecoderConfig(
        vocab_size=job.vocab, context_length=job.length, d_model=job.width, n_layers=job.layers,
        mixers={"A": AttentionConfig(n_heads=job.heads)}, mlp=SwiGLUConfig(d_ff=job.hidden), tie_embeddings=False,
    )  # fmt: skip


def optimizer_of(s: dict[str, Any], model: torch.nn.Module) -> torch.optim.Optimizer:
    """Muon, or AdamW alone."""
    rest = AdamWConfig(lr=s["adamw"], beta2=s["beta2"], weight_decay=s["weight_decay"])
    if s["kind"] == "adamw":
        return rest.build(model)
    return MuonConfig(lr=s["lr"], ns_steps=s["ns_steps"], weight_decay=s["weight_decay"], adamw=rest).build(model)


def trainer_of(job: Task, s: dict[str, Any], steps: int, clock: Clock) -> Trainer:
    """A fresh model in the loop."""
    model, rows = fresh(model_of(job), seed=job.seed), max(1, s["batch_tokens"] // job.length)
    schedule = Schedule(WSDConfig(warmup=s["warmup"], decay=s["decay"]), steps)
    train, val = (TokenShards.open(Path(job.corpus), split) for split in ("train", "val"))
    cut = Cut(job.length, rows_per_step=rows, rows_per_micro_batch=rows, seed=job.seed, pad_id=3)
    return Trainer(
        model=model, objective=CrossEntropyConfig().build(), optimizer=optimizer_of(s, model), schedule=schedule,
        source=PackedText([Mix(train, val, 1.0, 1.0)], cut, steps=steps, decay_start=schedule.decay_start), steps=steps,
        seed=job.seed, device=CPU, dtype=compute_dtype(PrecisionConfig(), CPU), hooks=(clock,),
    )  # fmt: skip


def main() -> None:
    """Time a few steps, train for the time, score."""
    job = task()
    s = DEFAULT | job.settings
    keep_freed_memory()
    probe = Clock(PROBE)
    trainer_of(job, s, 1000, probe).fit()
    clock = Clock()
    trainer = trainer_of(job, s, steps_that_fit(job, probe.seconds), clock)
    with Stopwatch() as watch:
        trainer.fit()
    trainer.model.eval()
    forward = trainer.forward()

    def nll(inputs_BT: Tensor, targets_BT: Tensor) -> float:
        return float(forward(inputs_BT, torch.zeros_like(inputs_BT), TokenLoss(targets_BT)).nll)

    report(job, watch, trainer.steps, trainer.state.tokens, nll)


if __name__ == "__main__":
    main()
