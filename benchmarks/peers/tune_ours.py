"""Fine-tuning and preference training as `cirilla sft` and `cirilla dpo` run them: rows packed, documents isolated."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from clock import Clock
from common import Task, imported, peak_since_imports, task
from ours import config_of

from cirilla_cli.cli.allocator import keep_freed_memory, map_large_blocks
from cirilla_cli.data.batches import Conversations, Cut, Preferences
from cirilla_cli.data.shards import TokenShards
from cirilla_cli.engine.config import AdamWConfig, ConstantConfig, CrossEntropyConfig, DPOConfig
from cirilla_cli.engine.hooks import AfterSteps
from cirilla_cli.engine.objectives.dpo import DPO
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.model.init import fresh


def trainer_of(job: Task, clock: Clock) -> Trainer:
    """The loop over the rows of the task's data."""
    model, steps = fresh(config_of(job), seed=0), job.warmup + job.steps
    shards = [TokenShards.open(Path(job.tokens), "train")]
    cut = Cut(job.length, rows_per_step=job.rows, rows_per_micro_batch=job.rows, seed=0, pad_id=3)
    prefer = job.objective == "dpo"
    source: Any = (Preferences if prefer else Conversations)(shards, [], cut)
    objective: Any = (DPOConfig() if prefer else CrossEntropyConfig()).build()
    return Trainer(
        model=model, objective=objective, source=source, optimizer=AdamWConfig(lr=job.lr).build(model),
        schedule=Schedule(ConstantConfig(warmup=0), steps), steps=steps, seed=0, device=torch.device("cpu"),
        dtype=torch.bfloat16, hooks=(clock, AfterSteps(keep_freed_memory)),
    )  # fmt: skip


def reference_seconds(job: Task, trainer: Trainer, objective: DPO, source: Preferences) -> float:
    """Give the pairs of all steps their reference values; the seconds that those of the timed steps took."""
    forward, values, spent = trainer.forward(), source._reference.copy(), []
    for index in range(trainer.steps):
        started = time.perf_counter()
        with torch.no_grad():
            for batch in source.step(index):
                values[batch.pairs_P.numpy()] = objective.logps(forward, batch).float().numpy()
        spent.append(time.perf_counter() - started)
    source.set_reference(values, source._val_reference)
    return sum(spent[job.warmup :])


def main() -> None:
    """Train and report."""
    job = task()
    imported()
    map_large_blocks()
    clock, before = Clock(), 0.0
    trainer = trainer_of(job, clock)
    batches = [trainer.source.step(index) for index in range(job.warmup, trainer.steps)]
    if isinstance(trainer.objective, DPO) and isinstance(trainer.source, Preferences):
        before = reference_seconds(job, trainer, trainer.objective, trainer.source)
        done = sum(len(batch.pairs_P) for step in batches for batch in step)
    else:
        done = sum(int((batch.targets_BT >= 0).sum()) for step in batches for batch in step)
    trainer.fit()
    seconds = before + sum(clock.seconds[job.warmup :])
    print(json.dumps({"rate": done / seconds, "counted": done, "losses": clock.losses, **peak_since_imports()}))


if __name__ == "__main__":
    main()
