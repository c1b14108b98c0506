"""Learning-rate schedules: one factor of the step, times every group's own peak rate."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer

from cirilla_cli.engine.config import ConstantConfig, CosineConfig, ScheduleSection, WSDConfig
from cirilla_cli.units import span_steps


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pure function of the step."""

    config: ScheduleSection
    steps: int

    @property
    def decay_start(self) -> int:
        """The step from which the rate comes down for good (WSD), or the end."""
        if isinstance(self.config, WSDConfig):
            return self.steps - min(self.steps, span_steps(self.config.decay, self.steps))
        return self.steps

    def factor(self, step: int) -> float:
        """Share of the peak rate at ``step``, counted from 0.

        Warm-up starts above zero and decay ends, in ``min_frac``, at the step after the last: every step learns.
        """
        warmup = span_steps(self.config.warmup, self.steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        match self.config:
            case ConstantConfig():
                return 1.0
            case CosineConfig(min_frac=low):
                done = (step - warmup) / max(1, self.steps - warmup)
                return low + (1 - low) * (1 + math.cos(math.pi * min(1.0, done))) / 2
            case WSDConfig(min_frac=low, shape=shape):
                done = (step - self.decay_start) / max(1, self.steps - self.decay_start)
                if done <= 0:
                    return 1.0
                left = 1 - done if shape == "linear" else 1 - math.sqrt(done)
                return low + (1 - low) * max(0.0, left)

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Set every group's rate for ``step``; returns the factor. Groups hold their peak in ``peak_lr``."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return factor
