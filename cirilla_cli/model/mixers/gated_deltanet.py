"""Gated DeltaNet: linear attention whose memory is corrected by each token, and does not grow with the sequence."""

# Shape suffixes: B batch, T new positions, D model width, E convolved channels, R remembered inputs of the convolution,
# H heads (of values), G heads of queries and keys, K width of a key, V width of a value.

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import GatedDeltaNetConfig
from cirilla_cli.model.mixers.recurrent import Recurrent, begins_BT
from cirilla_cli.model.ops.delta import Signals, scan

_LENGTH_EPS = 1e-6
"""Added to the squared length of queries and keys before its root, as checkpoints have been trained with."""


class NormedThenGated(nn.Module):
    """rmsnorm(x) * weight * silu(gate), of each head by itself, one weight for all (arXiv:2412.06464, section 3.4)."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTHV: Tensor, gate_BTHV: Tensor) -> Tensor:
        """``[B, T, H, V]`` in the gate's dtype; computed in that of ``x_BTHV``."""
        normed_BTHV = F.rms_norm(x_BTHV, x_BTHV.shape[-1:], self.weight.to(x_BTHV.dtype), eps=self.eps)
        return (normed_BTHV * F.silu(gate_BTHV.to(x_BTHV.dtype))).to(gate_BTHV.dtype)


class GatedDeltaNet(Recurrent[Signals]):
    """The gated delta rule as a layer (Yang, Kautz and Hatamizadeh, 2024, arXiv:2412.06464, section 3.4).

    Each matrix stands by itself, named as in Hugging Face's Qwen3.5; Qwen3-Next holds the same numbers in two matrices
    whose rows go by head of keys.
    """

    # As in Hugging Face's class: the slowest heads forget after thousands of steps.
    least_rate = 0.01

    def __init__(self, config: GatedDeltaNetConfig, *, d_model: int) -> None:
        super().__init__()
        self.n_heads, self.qk_heads, self.chunk_size = config.n_heads, config.qk_heads, config.chunk_size
        self.head_dim = config.width(d_model)
        inner, channels = config.n_heads * config.v_width(d_model), config.channels(d_model)
        self.sizes = [self.qk_heads * self.head_dim, self.qk_heads * self.head_dim, inner]
        self.in_proj_qkv = nn.Linear(d_model, channels, bias=False)
        self.in_proj_z = nn.Linear(d_model, inner, bias=False)
        self.in_proj_b = nn.Linear(d_model, self.n_heads, bias=False)
        self.in_proj_a = nn.Linear(d_model, self.n_heads, bias=False)
        self._hold(channels, config.d_conv, self.n_heads, conv_bias=False)
        self.norm = NormedThenGated(config.v_width(d_model), eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """The layer's output ``[B, T, D]``; ``cache`` holds the state after the earlier positions."""
        signals_of = partial(self._signals, x_BTD, begins_BT(layout))
        y_BTHV = self.scanned_BTHV(self.in_proj_qkv(x_BTD), layout, cache, signals_of)
        gate_BTHV = torch.unflatten(self.in_proj_z(x_BTD), -1, (self.n_heads, -1))
        out: Tensor = self.out_proj(self.norm(y_BTHV, gate_BTHV).flatten(2))
        return out

    def scan(self, signals: Signals, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, T, H, V]`` from a state ``[B, H, K, V]``, and the state after the last position."""
        return scan(signals, state, chunk_size=self.chunk_size)

    def _signals(self, x_BTD: Tensor, starts_BT: Tensor | None, convolved_BTE: Tensor) -> Signals:
        """Decays and shares from the layer's input; queries, keys and values from the convolution, in its precision."""
        exact = convolved_BTE.dtype
        q, k, v = torch.split(F.silu(convolved_BTE), self.sizes, dim=-1)
        q_BTGK = _unit_BTGK(torch.unflatten(q, -1, (self.qk_heads, -1))) / math.sqrt(self.head_dim)
        k_BTGK = _unit_BTGK(torch.unflatten(k, -1, (self.qk_heads, -1)))
        step_BTH = F.softplus(self.in_proj_a(x_BTD).to(exact) + self.dt_bias)
        return Signals(
            q_BTGK, k_BTGK, torch.unflatten(v, -1, (self.n_heads, -1)), -torch.exp(self.A_log.to(exact)) * step_BTH,
            torch.sigmoid(self.in_proj_b(x_BTD).to(exact)), starts_BT,
        )  # fmt: skip

    def _convolved_BTE(self, inputs_BTE: Tensor, layout: SequenceLayout, tail_BRE: Tensor | None) -> Tensor:
        """In float32 at least: the lengths that vectors get after it make rounding large where they are small."""
        return self._convolve(inputs_BTE, layout, tail_BRE, torch.promote_types(inputs_BTE.dtype, torch.float32))

    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Queries, keys and values."""
        return {"in_proj_qkv.weight": self.sizes}


def _unit_BTGK(x_BTGK: Tensor) -> Tensor:
    """Each vector with the length 1."""
    return x_BTGK * torch.rsqrt(x_BTGK.square().sum(-1, keepdim=True) + _LENGTH_EPS)
