"""Fresh weights."""

import math
from typing import Protocol, TypeVar

import torch

from cirilla_cli.model.classifier import Model
from cirilla_cli.model.parts import OwnInit

M = TypeVar("M", bound=Model, covariant=True)


class Shape(Protocol[M]):
    """A section of a whole model."""

    def build(self) -> M:
        """The model."""
        ...


_WRITERS = {"o_proj", "out_proj", "down_proj"}
"""Matrices, or layers of matrices, whose output is added to the residual stream."""


def initialise(model: Model, generator: torch.Generator) -> None:
    """Draw every matrix from a normal distribution; norms start at one, biases at zero.

    Those that write to the residual stream get 1/sqrt(2 n_layers) of the spread, so that its variance does not grow
    with depth (GPT-2, Radford et al., 2019, section 2.3). What wants something else says so itself (`OwnInit`).
    """
    config = model.config
    shrunk = config.init_std / math.sqrt(2 * config.n_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            path = name.split(".")
            if parameter.ndim < 2:
                parameter.fill_(0.0 if path[-1] == "bias" else 1.0)
                continue
            std = shrunk if _WRITERS.intersection(path) else config.init_std
            # Drawn on the CPU, so that one seed gives one model on every device.
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
        for module in model.modules():
            if isinstance(module, OwnInit):
                module.initialise(generator)


def fresh(config: Shape[M], *, seed: int, device: torch.device | str = "cpu") -> M:
    """A new float32 model whose weights depend on nothing but ``config`` and ``seed``."""
    with torch.device("meta"):
        model = config.build()
    model.to_empty(device=device)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def empty(config: Shape[M], device: torch.device | str = "cpu") -> M:
    """A model whose weights are about to be loaded: allocated, not filled."""
    with torch.device("meta"):
        model = config.build()
    model.to_empty(device=device)
    return model
