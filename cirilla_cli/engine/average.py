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
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after step ``step``, counted from 0: faster at first, when they are still raw."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self._model.parameters()), 1 - decay)

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
