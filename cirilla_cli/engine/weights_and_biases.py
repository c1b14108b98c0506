"""The figures of a run for Weights & Biases: those of metrics.jsonl, and of a resumed run under the same name there."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.engine.config import WandbConfig
from cirilla_cli.engine.hooks import Quiet, due
from cirilla_cli.engine.trainer import Metrics, Trainer
from cirilla_cli.fs import write_json

FILE = "wandb.json"
"""In the run directory: what the run is called at Weights & Biases."""


@dataclass
class WeightsAndBiases(Quiet):
    """Sends what is written down, every so many steps and whenever something was evaluated; settings, but no data."""

    config: WandbConfig
    out: Path
    every: int
    resolved: dict[str, Any]
    _run: Any = field(default=None, init=False)

    def on_start(self, trainer: Trainer) -> None:
        """Open the run, or open it again."""
        import wandb

        kept = json.loads((self.out / FILE).read_text(encoding="utf-8"))["id"] if (self.out / FILE).is_file() else None
        # Figures alone: neither what is printed, nor the code, nor the repository around it.
        quiet = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True)
        self._run = wandb.init(
            project=self.config.project, entity=self.config.entity, name=self.config.name or self.out.name, id=kept,
            resume="allow", dir=str(self.out), config=self.resolved, settings=quiet,
        )  # fmt: skip
        write_json(self.out / FILE, {"id": self._run.id})

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Send what is due."""
        if "val_loss" in metrics or "skipped_batches" in metrics or due(metrics["step"], self.every, trainer.steps):
            self._run.log({k: v for k, v in metrics.items() if isinstance(v, int | float)}, step=metrics["step"])

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Close it."""
        self._run.finish()
