"""Mamba-2: a state-space layer, whose memory does not grow with the sequence."""

# Shape suffixes: B batch, T new positions, D model width, I inner width, E convolved channels, H heads, P width of a
# head, N width of the state.

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import Mamba2Config
from cirilla_cli.model.mixers.recurrent import Recurrent, begins_BT
from cirilla_cli.model.ops.ssd import Signals, scan


class GatedRMSNorm(nn.Module):
    """rmsnorm(x * silu(gate)) * weight, in groups of channels of their own (arXiv:2405.21060, section 7.1)."""

    def __init__(self, width: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTI: Tensor, gate_BTI: Tensor) -> Tensor:
        """``[B, T, I]`` in the gate's dtype; normalised in that of ``x_BTI``."""
        x_BTI = x_BTI * F.silu(gate_BTI.to(x_BTI.dtype))
        parts = torch.unflatten(x_BTI, -1, (self.groups, -1))
        normed = F.rms_norm(parts, parts.shape[-1:], eps=self.eps)
        return normed.flatten(2).to(gate_BTI.dtype) * self.weight


class Mamba2(Recurrent[Signals]):
    """A selective state-space layer (Dao and Gu, 2024, arXiv:2405.21060, section 7).

    Step sizes, inputs to the state and outputs from it all depend on the token. Parameters are named as in Hugging
    Face's Mamba-2 and Granite hybrid.
    """

    least_rate = 1.0

    def __init__(self, config: Mamba2Config, *, d_model: int) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.width(d_model)
        self.n_groups, self.d_state, self.chunk_size = config.n_groups, config.d_state, config.chunk_size
        self.dt_min, self.dt_max = config.dt_min, config.dt_max
        inner, channels = self.n_heads * self.head_dim, config.channels(d_model)
        self.sizes = [inner, channels, self.n_heads]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=config.proj_bias)
        self._hold(channels, config.d_conv, self.n_heads, conv_bias=config.conv_bias)
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GatedRMSNorm(inner, groups=self.n_groups, eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, d_model, bias=config.proj_bias)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """The layer's output ``[B, T, D]``; ``cache`` holds the state after the earlier positions."""
        gate_BTI, inputs_BTE, raw_BTH = torch.split(self.in_proj(x_BTD), self.sizes, dim=-1)
        y_BTHP = self.scanned_BTHV(inputs_BTE, layout, cache, partial(self._signals, raw_BTH, begins_BT(layout)))
        out: Tensor = self.out_proj(self.norm(y_BTHP.flatten(2), gate_BTI))
        return out

    def scan(self, signals: Signals, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, T, H, P]`` from a state ``[B, H, P, N]``, and the state after the last position."""
        return scan(signals, state, chunk_size=self.chunk_size)

    def _signals(self, raw_BTH: Tensor, starts_BT: Tensor | None, convolved_BTE: Tensor) -> Signals:
        """Step sizes from their projection; inputs, b and c from the convolution."""
        shared = self.n_groups * self.d_state
        x_BTI, b, c = torch.split(F.silu(convolved_BTE), [self.sizes[0], shared, shared], dim=-1)
        exact = torch.promote_types(raw_BTH.dtype, torch.float32)
        dt_BTH = F.softplus(raw_BTH.to(exact) + self.dt_bias).clamp(self.dt_min, self.dt_max)
        return Signals(
            torch.unflatten(x_BTI, -1, (self.n_heads, self.head_dim)), dt_BTH, -torch.exp(self.A_log.to(exact)),
            torch.unflatten(b, -1, (self.n_groups, -1)), torch.unflatten(c, -1, (self.n_groups, -1)), self.D, starts_BT,
        )  # fmt: skip

    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Gates, inputs, what enters the state, what leaves it, and step sizes."""
        inner, channels, heads = self.sizes
        shared = (channels - inner) // 2
        return {"in_proj.weight": (inner, inner, shared, shared, heads)}
