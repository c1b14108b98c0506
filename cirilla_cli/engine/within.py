"""Parameters that are moved within the backward pass, each as soon as its gradient is whole, which is then let go.

gradient of one parameter -> its length is noted -> the optimizer moves it alone -> the gradient is freed
"""

from typing import Any

import torch
from torch import Tensor, nn


class OneByOne:
    """An optimizer's step on a single parameter, with the state and the settings that it has for all of them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups: dict[int, dict[str, Any]] = {
            id(p): group for group in optimizer.param_groups for p in group["params"]
        }

    def move(self, parameter: Tensor) -> None:
        """Update ``parameter`` by its gradient, and nothing else."""
        every = self._optimizer.param_groups
        # Others may have a gradient just now, and looking through all of them for each one is slow.
        self._optimizer.param_groups = [{**self._groups[id(parameter)], "params": [parameter]}]
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = every


class WithinBackward:
    """Moves every parameter once its gradient is whole, and frees that (LOMO; arXiv:2306.09782, algorithm 1).

    A gradient is whole when everything that the parameter was used for has added to it: tied weights are moved once.
    The weights after the pass are those of a step that keeps all gradients first. What needs all of them at once
    cannot be had: clipping by their common length, sums over micro-batches or processes, and leaving a step out.
    """

    def __init__(self, model: nn.Module, one_by_one: OneByOne) -> None:
        self._model, self._one_by_one = model, one_by_one
        self._lengths: dict[int, Tensor] = {}
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self.move)  # type: ignore[no-untyped-call]

    def move(self, parameter: Tensor) -> None:
        """Note the length of a gradient that is whole, take the step, and free it.

        Raises:
            RuntimeError: the parameter was moved in this step before, as by a second backward pass.
        """
        assert parameter.grad is not None
        if id(parameter) in self._lengths:
            raise RuntimeError("a step that updates within its backward pass must have exactly one")
        self._lengths[id(parameter)] = torch.linalg.vector_norm(parameter.grad)
        self._one_by_one.move(parameter)
        parameter.grad = None

    def length(self) -> float:
        """The length of the whole step's gradient, in the order in which `clip_grad_norm_` adds; begins a new step."""
        lengths = [self._lengths[id(p)] for p in self._model.parameters() if id(p) in self._lengths]
        self._lengths.clear()
        return float(torch.linalg.vector_norm(torch.stack(lengths))) if lengths else 0.0
