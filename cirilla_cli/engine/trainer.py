"""The one training loop."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from cirilla_cli.data.batches import BatchSource
from cirilla_cli.engine.average import MovingAverage
from cirilla_cli.engine.divergence import Watch, Watched
from cirilla_cli.engine.objectives.base import Forward, Objective
from cirilla_cli.engine.optim.qk_clip import QKClip
from cirilla_cli.engine.parallel import ALONE, Ranks
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.rounding import RoundedOneByOne
from cirilla_cli.engine.scaling import Scaling
from cirilla_cli.engine.schedule import Schedule
from cirilla_cli.engine.step import accumulate_gradients
from cirilla_cli.engine.within import WithinBackward
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
    watched: Watched = field(default_factory=Watched)
    """What the watch over divergence remembers."""
    scaling: Scaling | None = None
    """The factor on the loss in float16; None in other formats."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What `to_json` gave; other keys are passed over."""
        own = {name: saved[name] for name in cls.__dataclass_fields__ if name in saved}
        parts = {"watched": Watched, "scaling": Scaling}
        return cls(**{name: parts[name](**v) if name in parts and v is not None else v for name, v in own.items()})

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
    watch: Watch = Watch()
    average: MovingAverage | None = None
    """Moving average of the weights, which is then evaluated and published."""
    within: WithinBackward | None = None
    """What moves parameters while the backward pass goes on; None where the optimizer does after it."""
    rounding: RoundedOneByOne | None = None
    """What moves weights that are stored in bfloat16; None where they are float32."""
    qk_clip: QKClip | None = None
    """What keeps attention logits within a limit; None where nothing does."""
    state: TrainState = field(default_factory=TrainState)
    hooks: Sequence[Hook] = ()
    stop: str | None = None
    """Why to end before ``steps``."""

    def forward(self) -> Forward:
        """The model's forward pass as it is now."""
        # Sharded weights are cast while they are brought together.
        dtype = torch.float32 if self.ranks.sharded else self.dtype
        return forward_of(self.model, dtype, None if self.within is None else self.within.move)

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the model has the weights that are evaluated: their moving average where there is one."""
        return nullcontext() if self.average is None else self.average.swapped()

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
        batches = self.source.step(self.state.watched.batch(step))
        if self.rounding is not None:
            self.rounding.begin(step)
        sums, counts = accumulate_gradients(
            self.forward(), self.objective, batches, self.device, ranks=self.ranks, seed=(self.seed, step),
            scale=1.0 if self.state.scaling is None else self.state.scaling.scale,
        )  # fmt: skip
        self.ranks.sum_gradients(self.model)
        norm = self._move()
        values = {name: float(value) for name, value in sums.items()} | self._after_step()
        figures = self._judge(step, values["loss"], norm)
        seconds = time.perf_counter() - started
        self.state.step, self.state.tokens = step + 1, self.state.tokens + int(counts["tokens"])
        self.state.seconds += seconds
        return {
            "step": step + 1, **values, "lr_factor": factor, **figures, "tokens": self.state.tokens,
            "tokens_per_second": counts["tokens"] / seconds, "step_seconds": seconds,
        }  # fmt: skip

    def _after_step(self) -> dict[str, float]:
        """Let layers act on the whole step, such as routers on their loads; their figures are means over layers."""
        figures: dict[str, list[Tensor]] = defaultdict(list)
        for module in self.model.modules():
            if isinstance(module, AfterStep):
                for name, value in module.after_step(self.ranks.sum).items():
                    figures[name].append(value)
        clipped = {} if self.qk_clip is None else self.qk_clip.figures
        means = {name: torch.stack(values).mean() for name, values in figures.items()}
        return {name: float(value) for name, value in {**means, **clipped}.items()}

    def _clip(self) -> float:
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        return float(self.ranks.whole(nn.utils.clip_grad_norm_(parameters, limit)))

    def _move(self) -> float:
        """Move the weights, unless float16 overflowed; returns the gradient's length."""
        scaling = self.state.scaling
        if scaling is not None:
            scaling.unscale(self.model)
        norm = self._clip() if self.within is None else self.within.length()
        if scaling is None or math.isfinite(norm):
            if self.within is None:
                self.optimizer.step() if self.rounding is None else self.rounding.move_all()
            if self.qk_clip is not None:
                self.qk_clip.apply(self.ranks)
            if self.average is not None:
                self.average.update(self.state.step + 1)
        elif self.qk_clip is not None:
            self.qk_clip.forget()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _judge(self, step: int, loss: float, norm: float) -> Metrics:
        """The gradient's length and what was left out, once the watch has seen them.

        Raises:
            Diverged: training does not get anywhere any more.
        """
        scaling, figures = self.state.scaling, {"grad_norm": norm}
        if scaling is not None:
            scaling.update(finite=math.isfinite(norm))
            figures |= {"loss_scale": scaling.scale, "overflows": scaling.overflows}
            if not (math.isfinite(norm) or scaling.exhausted):
                # Left out, which is how the scale is found: no reason for alarm, and no number for a log.
                norm = figures["grad_norm"] = 0.0
        self.watch.judge(self.state.watched, step + 1, loss, norm)
        if left_out := self.state.watched.left_out(step):
            figures["skipped_batches"] = left_out
        return figures
