"""Weights that are stored in bfloat16: each update is reckoned in float32, and rounded up or down by chance.

Between two neighbours of bfloat16 lies a hundredth of a weight, and most updates are smaller: rounded to the nearest
they would be lost. Rounded to either neighbour with the probability of its nearness, they are right on average
(Gupta et al., 2015, arXiv:1502.02551, section 3.1).
"""

import hashlib

import torch
from torch import Tensor, nn

from cirilla_cli.engine.config import PrecisionConfig
from cirilla_cli.engine.precision import exact_parameters
from cirilla_cli.engine.within import OneByOne

_AT_ONCE = 1 << 20
"""Numbers that are rounded at once, so that what is drawn for them stays small."""

_KEPT_BITS = -(1 << 16)
"""The upper half of 32 bits, which is what a bfloat16 has of a float32."""


def store(model: nn.Module, precision: PrecisionConfig) -> None:
    """Keep a model's weights as the recipe says, in place, but those that are `Exact`, which stay in float32.

    Gradients stay in float32, where those of several micro-batches add up without rounding.
    """
    if precision.weights == "float32":
        return
    exact = exact_parameters(model)
    for parameter in model.parameters():
        if id(parameter) not in exact:
            parameter.data = parameter.data.bfloat16()
            parameter.grad_dtype = torch.float32


def rounded(exact: Tensor, generator: torch.Generator) -> Tensor:
    """bfloat16 numbers whose expected values are those of ``exact``, in float32; what is not finite stays so."""
    noise = torch.randint(1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=generator)
    drawn = ((exact.view(torch.int32) + noise) & _KEPT_BITS).view(torch.float32)
    return torch.where(exact.isfinite(), drawn, exact).bfloat16()


class RoundedOneByOne(OneByOne):
    """Moves parameters one at a time, those that are stored in bfloat16 in float32 meanwhile.

    What is drawn follows from the run's seed, the step and the parameter: neither from where a run was interrupted, nor
    from the order in which gradients come, nor from the process.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        super().__init__(optimizer)
        self._model, self._seed, self._step = model, seed, 0
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    def begin(self, step: int) -> None:
        """Draw for step ``step``, counted from 0, from now on."""
        self._step = step

    def move_all(self) -> None:
        """Update every parameter that has a gradient."""
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                self.move(parameter)

    @torch.no_grad()
    def move(self, parameter: Tensor) -> None:
        """Update one parameter."""
        if parameter.dtype != torch.bfloat16:
            super().move(parameter)
            return
        stored = parameter.data
        parameter.data = stored.float()
        super().move(parameter)
        exact, parameter.data = parameter.data, stored
        generator = self._generator(parameter)
        parts = (torch.split(whole.view(-1), _AT_ONCE) for whole in (stored, exact))
        for part, moved in zip(*parts, strict=True):
            part.copy_(rounded(moved, generator))

    def _generator(self, parameter: Tensor) -> torch.Generator:
        text = f"{self._seed}/{self._step}/{self._names[id(parameter)]}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        # A plan for a card walks through this with tensors that lie nowhere.
        device = torch.device("cpu") if parameter.is_meta else parameter.device
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
