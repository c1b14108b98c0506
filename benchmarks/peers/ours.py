"""Cirilla's decoder through the engine's own loop, as `cirilla pretrain` runs it."""

import time
from collections.abc import Iterator

import torch
from common import Task, batches, imported, report, task

from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.config import AdamWConfig, ConstantConfig, CrossEntropyConfig
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.trainer import Metrics, Trainer
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


class Clock:
    """A hook that notes what each step took, and its loss."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Note a step."""
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self.losses.append(metrics["loss"])
        self._since = now

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Nothing is left to do."""


def trainer(job: Task, clock: Clock) -> Trainer:
    """The loop, with the recipe's defaults and this shape."""
    config = DecoderConfig(
        vocab_size=job.vocab, context_length=job.length, d_model=job.width, n_layers=job.layers,
        mixers={"A": AttentionConfig(n_heads=job.heads)}, mlp=SwiGLUConfig(d_hidden=job.hidden),
        tie_embeddings=job.tied,
    )  # fmt: skip
    model = fresh(config, seed=0, device=torch.device("cpu"))
    steps = job.warmup + job.steps
    return Trainer(
        model=model, objective=CrossEntropyConfig().build(), source=Rows(job),
        optimizer=AdamWConfig(lr=job.lr).build(model), schedule=Schedule(ConstantConfig(warmup=0), steps), steps=steps,
        seed=0, device=torch.device("cpu"), hooks=(clock,),
        dtype=torch.float32 if job.precision == "float32" else torch.bfloat16,
    )  # fmt: skip


job = task()
imported()
clock = Clock()
engine = trainer(job, clock)
engine.fit()
report(job, clock.seconds, clock.losses, sum(p.numel() for p in engine.model.parameters()))
