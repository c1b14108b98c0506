"""Feed-forward layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.config import SwiGLUConfig


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020, arXiv:2002.05202, equation 6)."""

    def __init__(self, config: SwiGLUConfig, d_model: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The feed-forward's output ``[B, T, D]`` for hidden states ``[B, T, D]``."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out
