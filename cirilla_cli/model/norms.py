"""Normalisation of the residual stream, and what can stand in its place."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.ops.elementwise import rms_norm, takes_passes
from cirilla_cli.model.parts import OwnInit
from cirilla_cli.model.sections import DerfConfig, DynamicTanhConfig, LayerNormConfig, RMSNormConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich, 2019, arXiv:1910.07467, equation 4)."""

    def __init__(self, config: RMSNormConfig, width: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., width]``, normalised over its last dimension and scaled; same shape."""
        if takes_passes(x):
            return rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias over the last axis (Ba et al., 2016, arXiv:1607.06450, equation 4)."""

    def __init__(self, config: LayerNormConfig, width: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., width]``, normalised over its last dimension, scaled and shifted; same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class DynamicTanh(OwnInit):
    """tanh(alpha x) * weight + bias (Zhu et al., 2025, arXiv:2503.10622, section 4)."""

    def __init__(self, config: DynamicTanhConfig, width: int) -> None:
        super().__init__()
        self.start = config.alpha
        self.alpha = nn.Parameter(torch.full((1,), config.alpha))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., width]``, squashed number by number, scaled and shifted; same shape."""
        return torch.tanh(self.alpha * x) * self.weight + self.bias

    def initialise(self, generator: torch.Generator) -> None:
        """The steepness it begins with."""
        self.alpha.fill_(self.start)


class Derf(OwnInit):
    """erf(alpha x + shift) * weight + bias (Chen et al., 2025, arXiv:2512.10938)."""

    def __init__(self, config: DerfConfig, width: int) -> None:
        super().__init__()
        self.start = config.alpha
        self.alpha = nn.Parameter(torch.full((1,), config.alpha))
        self.shift = nn.Parameter(torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., width]``, squashed number by number, scaled and shifted; same shape."""
        return torch.erf(self.alpha * x + self.shift) * self.weight + self.bias

    def initialise(self, generator: torch.Generator) -> None:
        """The steepness it begins with, and no shift."""
        self.alpha.fill_(self.start)
        self.shift.zero_()
