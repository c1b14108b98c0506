"""AdamW whose averages are kept in 8 bits; the update itself is reckoned in float32, some blocks at a time."""

# Shape suffixes: K blocks of Q = 256 numbers.

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.engine.config import AdamW8bitConfig
from cirilla_cli.engine.optim.adamw import groups
from cirilla_cli.engine.optim.codes import BLOCK, Codebook, Coded

_LEAST = 4096
"""Smaller parameters keep float32 averages: they weigh nothing, and norms among them matter much."""

_AT_ONCE = 4096
"""Blocks that are reckoned with at once, so that what is made meanwhile stays small."""

_AVERAGES, _KEPT = ("exp_avg", "exp_avg_sq"), ("codes", "scales")


def state_bytes(numel: int) -> int:
    """What is kept of a parameter of so many numbers, without its step count."""
    blocks = -(-numel // BLOCK)
    return 8 * numel if numel < _LEAST else 2 * blocks * (BLOCK + 4)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101, algorithm 2) with averages in 8 bits (arXiv:2110.02861, section 2).

    The state of a parameter is plain tensors: codes ``[K, Q]`` in uint8 and scales ``[K]`` in float32 of each
    average, or the average itself where the parameter is small.
    """

    def __init__(self, parameters: list[dict[str, Any]]) -> None:
        super().__init__([{**group, "state_bytes": state_bytes} for group in parameters], {})
        self._books: dict[torch.device, dict[str, Codebook]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(self._fresh(parameter))
        state["step"] += 1
        rule = _Rule(group, float(state["step"]))
        weights, gradients = parameter.view(-1), gradient.reshape(-1)
        if "exp_avg" in state:
            rule.apply(weights, gradients, *(state[name].view(-1) for name in _AVERAGES))
            return
        for at, here in _stretches(len(weights)):
            kept = {name: Coded(*(state[f"{name}_{part}"][at] for part in _KEPT)) for name in _AVERAGES}
            self._move_blocks(weights[here], gradients[here], kept, rule)

    def _move_blocks(self, weights: Tensor, gradients: Tensor, kept: dict[str, Coded], rule: "_Rule") -> None:
        """The numbers of some blocks, the last of which may be short; ``kept`` are views of the state."""
        books, count = self._books_on(weights.device), len(weights)
        mean_KQ, square_KQ = (books[name].decode(kept[name]) for name in _AVERAGES)
        rule.average(F.pad(gradients, (0, -count % BLOCK)), mean_KQ.view(-1), square_KQ.view(-1))
        for name, average_KQ in zip(_AVERAGES, (mean_KQ, square_KQ), strict=True):
            for part, made in zip(kept[name], books[name].encode(average_KQ), strict=True):
                part.copy_(made)
        rule.subtract(weights, mean_KQ.view(-1)[:count], square_KQ.view(-1)[:count])

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        """Averages of nothing."""
        made: dict[str, Tensor] = {"step": torch.tensor(0.0)}
        for name, book in self._books_on(parameter.device).items():
            if parameter.numel() < _LEAST:
                made[name] = torch.zeros_like(parameter)
                continue
            blocks = -(-parameter.numel() // BLOCK)
            made[f"{name}_codes"] = parameter.new_full((blocks, BLOCK), book.zero, dtype=torch.uint8)
            made[f"{name}_scales"] = parameter.new_zeros(blocks, dtype=torch.float32)
        return made

    def _books_on(self, device: torch.device) -> dict[str, Codebook]:
        """The average of squares has no signs."""
        if device not in self._books:
            self._books[device] = {name: Codebook(device, signed=name == "exp_avg") for name in _AVERAGES}
        return self._books[device]


class _Rule:
    """AdamW's arithmetic in one step, on flat float32 tensors, in place."""

    def __init__(self, group: dict[str, Any], taken: float) -> None:
        self._taken = taken
        self._lr, self._eps, self._decay = group["lr"], group["eps"], group["weight_decay"]
        self._beta1, self._beta2 = group["betas"]

    def apply(self, weights: Tensor, gradients: Tensor, mean: Tensor, square: Tensor) -> None:
        """Both halves."""
        self.average(gradients, mean, square)
        self.subtract(weights, mean, square.clone())

    def average(self, gradients: Tensor, mean: Tensor, square: Tensor) -> None:
        """Take a gradient into its averages."""
        mean.lerp_(gradients, 1 - self._beta1)
        square.mul_(self._beta2).addcmul_(gradients, gradients, value=1 - self._beta2)

    def subtract(self, weights: Tensor, mean: Tensor, square: Tensor) -> None:
        """Move the weights; ``square`` is used up."""
        weights.mul_(1 - self._lr * self._decay)
        root = square.sqrt_().div_((1 - self._beta2**self._taken) ** 0.5).add_(self._eps)
        weights.addcdiv_(mean, root, value=-self._lr / (1 - self._beta1**self._taken))


def _stretches(numel: int) -> Iterator[tuple[slice, slice]]:
    """Blocks that are reckoned with at once, and the numbers in them."""
    blocks = -(-numel // BLOCK)
    for first in range(0, blocks, _AT_ONCE):
        last = min(blocks, first + _AT_ONCE)
        yield slice(first, last), slice(first * BLOCK, min(numel, last * BLOCK))


def adamw_8bit(config: AdamW8bitConfig, model: nn.Module) -> AdamW8bit:
    """Over all parameters, with decay on matrices only."""
    return AdamW8bit(groups(model.parameters(), config))
