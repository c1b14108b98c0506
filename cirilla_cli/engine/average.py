"""A moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cirilla_cli.engine.config import AverageConfig


class MovingAverage:
    """Exponential moving average of every parameter, in float32 (Polyak and Juditsky, 1992, with forgetting)."""

    def __init__(self, config: AverageConfig, model: nn.Module) -> None:
        self._decay, self._model = config.decay, model
        self.weights = {n: p.detach().to(_wide(p), copy=True) for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after step ``step``, counted from 0: faster at first, when they are still raw."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._model.named_parameters():
            average = self.weights[name]
            average.lerp_(parameter.to(average.dtype), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """The model's state with the average for its weights; tensors are not copied."""
        with self.swapped():
            return dict(self._model.state_dict())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a saved `state`."""
        for name, tensor in self.weights.items():
            tensor.copy_(tensors[name])

    def _swap(self) -> None:
        for name, parameter in self._model.named_parameters():
            self.weights[name], parameter.data = parameter.data, self.weights[name]


def _wide(parameter: Tensor) -> torch.dtype:
    """float32 where the weights are less."""
    return torch.promote_types(parameter.dtype, torch.float32)
