"""What a training run left, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirilla_cli.compat import peak_memory
from cirilla_cli.engine.metrics import read_metrics
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.model.count import parameters


@dataclass
class TrainReport:
    """What a run left; `--json` prints it."""

    out: str
    step: int
    loss: float | None
    seconds: float
    peak_memory_bytes: int | None
    tokens: int = 0
    tokens_per_second: float | None = None
    val_loss: float | None = None
    best_step: int | None = None
    parameters: int = 0
    first_validation: dict[str, float] | None = None
    last_validation: dict[str, float] | None = None
    stopped_early: bool = False
    continued_from: int = 0
    already_done: bool = False


def report_of(
    out: Path, trainer: Trainer, metrics: Mapping[str, Any], seconds: float, begun: int, *, done: bool
) -> TrainReport:
    """What stands in ``out`` after a sitting that began at step ``begun`` and took ``seconds``."""
    lines = read_metrics(out)
    last = lines[-1] if lines else dict(metrics)
    evaluated: Mapping[str, Any] = next((line for line in reversed(lines) if "val_loss" in line), {})
    validation = {key.removeprefix("val_"): value for key, value in evaluated.items() if key.startswith("val_")}
    return TrainReport(
        out=str(out), step=trainer.state.step, loss=last.get("loss"), seconds=round(seconds, 2),
        peak_memory_bytes=peak_memory(trainer.device), tokens=trainer.state.tokens,
        tokens_per_second=round(trainer.state.tokens / trainer.state.seconds, 1) if trainer.state.seconds else None,
        val_loss=evaluated.get("val_loss"), best_step=trainer.state.best_step,
        parameters=parameters(trainer.model.config), first_validation=trainer.state.first_validation or None,
        last_validation=validation or None, stopped_early=trainer.state.stopped_early, continued_from=begun,
        already_done=done,
    )  # fmt: skip
