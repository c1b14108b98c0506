"""Feed-forward layers."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.ops.elementwise import gated_down, takes_passes
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.sections import GeGLUConfig, GELUConfig, ReLU2Config, SwiGLUConfig

Activation = Callable[[Tensor], Tensor]


def activation(config: SwiGLUConfig | GeGLUConfig | GELUConfig | ReLU2Config) -> Activation:
    """The nonlinearity of a feed-forward."""
    match config:
        case SwiGLUConfig():
            return F.silu
        case ReLU2Config():
            return _relu_squared
        case GeGLUConfig() | GELUConfig():
            return partial(F.gelu, approximate="tanh" if config.tanh else "none")


def _relu_squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


class Gated(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer, 2020, arXiv:2002.05202, equations 5 and 6)."""

    def __init__(self, config: SwiGLUConfig | GeGLUConfig, d_model: int) -> None:
        super().__init__()
        self.act = activation(config)
        self.gate_proj = nn.Linear(d_model, config.d_ff, bias=config.bias)
        self.up_proj = nn.Linear(d_model, config.d_ff, bias=config.bias)
        self.down_proj = nn.Linear(config.d_ff, d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """The feed-forward's output ``[B, T, D]`` for hidden states ``[B, T, D]``."""
        gate, up = self.gate_proj(x_BTD), self.up_proj(x_BTD)
        if self.act is F.silu and takes_passes(gate):
            return gated_down(gate, up, self.down_proj.weight, self.down_proj.bias)
        out: Tensor = self.down_proj(self.act(gate) * up)
        return out


class Plain(nn.Module):
    """down(act(up(x))), the feed-forward of the first transformers (arXiv:1706.03762, equation 2)."""

    def __init__(self, config: GELUConfig | ReLU2Config, d_model: int) -> None:
        super().__init__()
        self.act = activation(config)
        self.up_proj = nn.Linear(d_model, config.d_ff, bias=config.bias)
        self.down_proj = nn.Linear(config.d_ff, d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """The feed-forward's output ``[B, T, D]`` for hidden states ``[B, T, D]``."""
        out: Tensor = self.down_proj(self.act(self.up_proj(x_BTD)))
        return out
