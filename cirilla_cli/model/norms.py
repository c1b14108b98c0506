"""Normalisation of the residual stream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.config import RMSNormConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich, 2019, arXiv:1910.07467, equation 4)."""

    def __init__(self, config: RMSNormConfig, width: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., width]``, normalised over its last dimension and scaled; same shape."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
