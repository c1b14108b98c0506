"""The one training loop."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cirilla_cli.data.batches import BatchSource
from cirilla_cli.engine.objectives.base import Forward, Objective
from cirilla_cli.engine.parallel import ALONE, Ranks
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.step import accumulate_gradients
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.parts import AfterStep

Metrics = dict[str, Any]


@dataclass
class TrainState:
    """What a run must remember besides weights and optimizer; saved as `state.json`."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on."""
    seconds: float = 0.0
    """Time spent, over all sittings."""
    best_loss: float | None = None
    """Lowest validation loss so far."""
    best_step: int | None = None
    evaluations_without_gain: int = 0
    """As early stopping counts them; 0 without it."""
    loss_to_beat: float | None = None
    """Validation loss that early stopping measures improvement from."""
    stopped_early: bool = False
    first_validation: dict[str, float] = field(default_factory=dict)
    """Validation before the first step."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class Hook(Protocol):
    """Looks on, or acts between steps; three points."""

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step of this sitting."""

    def on_step(self, trainer: "Trainer", metrics: Metrics) -> None:
        """After each step; may add to ``metrics``, and set ``trainer.stop`` to end the run."""

    def on_end(self, trainer: "Trainer", metrics: Metrics) -> None:
        """After the last step of this sitting; ``metrics`` are that step's."""


@dataclass
class Trainer:
    """A model, what it learns from and how; `fit` runs the loop."""

    model: Model
    objective: Objective[Any]
    source: BatchSource[Any]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    steps: int
    seed: int
    device: torch.device
    dtype: torch.dtype
    max_grad_norm: float | None = 1.0
    ranks: Ranks = ALONE
    state: TrainState = field(default_factory=TrainState)
    hooks: Sequence[Hook] = ()
    stop: str | None = None
    """Why to end before ``steps``."""

    def forward(self) -> Forward:
        """The model's forward pass as it is now."""
        # Sharded weights are cast while they are brought together.
        return forward_of(self.model, torch.float32 if self.ranks.sharded else self.dtype)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state.stopped_early or self.state.step >= self.steps

    def fit(self) -> Metrics:
        """Train from wherever ``state`` stands to ``steps``; returns the last step's metrics."""
        metrics: Metrics = {}
        for hook in self.hooks:
            hook.on_start(self)
        while self.state.step < self.steps and self.stop is None:
            metrics = self._step()
            for hook in self.hooks:
                hook.on_step(self, metrics)
        for hook in self.hooks:
            hook.on_end(self, metrics)
        return metrics

    def _step(self) -> Metrics:
        started = time.perf_counter()
        step = self.state.step
        self.model.train()
        factor = self.schedule.apply(self.optimizer, step)
        sums, counts = accumulate_gradients(
            self.forward(), self.objective, self.source.step(step), self.device,
            ranks=self.ranks, seed=(self.seed, step),
        )  # fmt: skip
        self.ranks.sum_gradients(self.model)
        norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        values = {name: float(value) for name, value in sums.items()} | self._after_step()
        self._check(values["loss"], norm)
        seconds = time.perf_counter() - started
        self.state.step, self.state.tokens = step + 1, self.state.tokens + int(counts["tokens"])
        self.state.seconds += seconds
        return {
            "step": step + 1, **values, "lr_factor": factor, "grad_norm": norm, "tokens": self.state.tokens,
            "tokens_per_second": counts["tokens"] / seconds, "step_seconds": seconds,
        }  # fmt: skip

    def _after_step(self) -> dict[str, float]:
        """Let layers act on the whole step, such as routers on their loads; their figures are means over layers."""
        figures: dict[str, list[Tensor]] = defaultdict(list)
        for module in self.model.modules():
            if isinstance(module, AfterStep):
                for name, value in module.after_step(self.ranks.sum).items():
                    figures[name].append(value)
        return {name: float(torch.stack(values).mean()) for name, values in figures.items()}

    def _clip(self) -> float:
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        return float(self.ranks.whole(nn.utils.clip_grad_norm_(parameters, limit)))

    def _check(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise CirillaError(
                f"step {self.state.step + 1}: the loss is {loss}, the gradient's length {norm}: training diverged",
                hint="lower `optim.lr`, lengthen `schedule.warmup`, or set `precision.compute: float32`; "
                "the same command continues from the last checkpoint",
            )
