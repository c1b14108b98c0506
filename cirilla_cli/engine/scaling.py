"""Loss scaling for float16, whose smallest numbers gradients fall below (arXiv:1710.03740, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import nn

_GROWTH_STEPS = 2000
_LEAST = 1.0


@dataclass
class Scaling:
    """The factor on the loss, a power of two, so that scaling rounds nothing; part of a run's state."""

    scale: float = 2.0**16
    clean: int = 0
    """Steps since the last overflow or change."""
    overflows: int = 0
    """Steps left out so far, because their gradient was not finite."""

    @property
    def exhausted(self) -> bool:
        """Whether gradients overflow although the loss is not made larger at all."""
        return self.scale < _LEAST

    @torch.no_grad()
    def unscale(self, model: nn.Module) -> None:
        """Divide the gradients by the scale."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / self.scale)

    def update(self, *, finite: bool) -> None:
        """Take note of a step: halve after an overflow, double after many steps without one."""
        if not finite:
            self.scale, self.clean, self.overflows = self.scale / 2, 0, self.overflows + 1
            return
        self.clean += 1
        if self.clean == _GROWTH_STEPS:
            self.scale, self.clean = self.scale * 2, 0
