"""Cirilla's decoder through the engine's own loop, as `cirilla pretrain` runs it."""

from collections.abc import Iterator

import torch
from clock import Clock
from common import Task, batches, imported, report, task

from cirilla_cli.cli.allocator import keep_freed_memory, map_large_blocks
from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.compiled import compile_blocks
from cirilla_cli.engine.config import (
    LOGITS_BYTES,
    AdamWConfig,
    ConstantConfig,
    CrossEntropyConfig,
    FullCheckpointingConfig,
)
from cirilla_cli.engine.hooks import AfterSteps
from cirilla_cli.engine.recompute import checkpoint_activations
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.engine.within import OneByOne, WithinBackward
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig


class Rows:
    """The tokens that every peer reads, each row one document."""

    rows_per_epoch = 1 << 30

    def __init__(self, job: Task) -> None:
        self._batch = batches(job)

    def step(self, index: int) -> list[TokenBatch]:
        """The one micro-batch of a step."""
        inputs, targets = self._batch(index)
        return [TokenBatch(inputs, targets, torch.zeros_like(inputs))]

    def validation(self, most_tokens: int) -> Iterator[TokenBatch]:
        """Nothing is validated."""
        return iter(())


def config_of(job: Task) -> DecoderConfig:
    """The shape that every peer has."""
    return DecoderConfig(
        vocab_size=job.vocab, context_length=job.length, d_model=job.width, n_layers=job.layers,
        mixers={"A": AttentionConfig(n_heads=job.heads)}, mlp=SwiGLUConfig(d_ff=job.hidden), tie_embeddings=job.tied,
    )  # fmt: skip


SAVING = 16 << 20
"""Bytes of logits at once where memory is what counts."""


def trainer(job: Task, clock: Clock) -> Trainer:
    """The loop, with AdamW at a constant rate."""
    model, saving = fresh(config_of(job), seed=0), job.way == "saving"
    hooks = (clock,) if job.way == "stock" else (clock, AfterSteps(keep_freed_memory))
    steps, optimizer = job.warmup + job.steps, AdamWConfig(lr=job.lr).build(model)
    if saving:
        checkpoint_activations(model, FullCheckpointingConfig())
    if job.compiled:
        compile_blocks(model)
    return Trainer(
        model=model, objective=CrossEntropyConfig().build(logits_bytes=SAVING if saving else LOGITS_BYTES),
        source=Rows(job), optimizer=optimizer, schedule=Schedule(ConstantConfig(warmup=0), steps), steps=steps,
        seed=0, device=torch.device("cpu"), hooks=hooks, max_grad_norm=None if saving else 1.0,
        within=WithinBackward(model, OneByOne(optimizer)) if saving else None,
        dtype=torch.float32 if job.precision == "float32" else torch.bfloat16,
    )  # fmt: skip


def main() -> None:
    """Train and report."""
    job = task()
    imported()
    if job.way != "stock":
        map_large_blocks()
    clock = Clock()
    engine = trainer(job, clock)
    engine.fit()
    report(job, clock.seconds, clock.losses, sum(p.numel() for p in engine.model.parameters()))


if __name__ == "__main__":
    main()
