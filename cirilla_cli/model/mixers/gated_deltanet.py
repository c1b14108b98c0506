"""Gated DeltaNet: linear attention whose memory is corrected by each token, and does not grow with the sequence."""

# Shape suffixes: B batch, T new positions, D model width, E convolved channels, R remembered inputs of the convolution,
# H heads (of values), G heads of queries and keys, K width of a key, V width of a value.

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import Needs, SequenceLayout
from cirilla_cli.model.mixers.config import GatedDeltaNetConfig
from cirilla_cli.model.ops.conv import causal_conv, tail_of
from cirilla_cli.model.ops.delta import Signals, scan
from cirilla_cli.model.parts import Exact, Fused, Mixer, OwnInit
from cirilla_cli.model.state_cache import StateCache

_LENGTH_EPS = 1e-6
"""Added to the squared length of queries and keys before its root, as checkpoints have been trained with."""


class NormedThenGated(nn.Module):
    """rmsnorm(x) * weight * silu(gate), of each head by itself, with one weight for all heads."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTHV: Tensor, gate_BTHV: Tensor) -> Tensor:
        """``[B, T, H, V]`` in the gate's dtype; computed in that of ``x_BTHV``."""
        normed_BTHV = F.rms_norm(x_BTHV, x_BTHV.shape[-1:], self.weight.to(x_BTHV.dtype), eps=self.eps)
        return (normed_BTHV * F.silu(gate_BTHV.to(x_BTHV.dtype))).to(gate_BTHV.dtype)


class GatedDeltaNet(Mixer, OwnInit, Exact, Fused):
    """The gated delta rule as a layer (Yang, Kautz and Hatamizadeh, 2024, arXiv:2412.06464, section 3.4).

    Each matrix stands by itself, named as in Hugging Face's Qwen3.5; Qwen3-Next holds the same numbers in two matrices
    whose rows go by head of keys.
    """

    def __init__(self, config: GatedDeltaNetConfig, *, d_model: int) -> None:
        super().__init__()
        self.needs = Needs()
        self.n_heads, self.qk_heads, self.chunk_size = config.n_heads, config.qk_heads, config.chunk_size
        self.head_dim = config.width(d_model)
        inner, channels = config.n_heads * config.v_width(d_model), config.channels(d_model)
        self.sizes = [self.qk_heads * self.head_dim, self.qk_heads * self.head_dim, inner]
        self.in_proj_qkv = nn.Linear(d_model, channels, bias=False)
        self.in_proj_z = nn.Linear(d_model, inner, bias=False)
        self.in_proj_b = nn.Linear(d_model, self.n_heads, bias=False)
        self.in_proj_a = nn.Linear(d_model, self.n_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.d_conv, groups=channels, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(self.n_heads))
        self.A_log = nn.Parameter(torch.ones(self.n_heads))
        self.norm = NormedThenGated(config.v_width(d_model), eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """The layer's output ``[B, T, D]``; ``cache`` holds the state after the earlier positions."""
        if cache is None:
            y_BTHV, _ = scan(self._signals(x_BTD, self.in_proj_qkv(x_BTD), layout, None), chunk_size=self.chunk_size)
        else:
            assert isinstance(cache, StateCache)
            y_BTHV = self._continued_BTHV(x_BTD, layout, cache)
        gate_BTHV = torch.unflatten(self.in_proj_z(x_BTD), -1, (self.n_heads, -1))
        out: Tensor = self.out_proj(self.norm(y_BTHV, gate_BTHV).flatten(2))
        return out

    def make_cache(self, capacity: int, rollback: int = 0) -> StateCache:
        """An empty memory; its size does not depend on ``capacity``."""
        return StateCache(rollback)

    def _continued_BTHV(self, x_BTD: Tensor, layout: SequenceLayout, cache: StateCache) -> Tensor:
        """What the memory answers, going on from the state in ``cache``."""
        tail_BRE, state_BHKV = cache.state or (None, None)
        inputs_BTE = self.in_proj_qkv(x_BTD)
        signals, outputs = self._signals(x_BTD, inputs_BTE, layout, tail_BRE), []
        for span in cache.spans(layout.length):
            y_BTHV, state_BHKV = scan(signals.part(span), state_BHKV, chunk_size=self.chunk_size)
            tail_BRE = tail_of(tail_BRE, inputs_BTE[:, span], self.conv1d.kernel_size[0])
            cache.keep(span.stop - span.start, tail_BRE, state_BHKV)
            outputs.append(y_BTHV)
        return torch.cat(outputs, dim=1)

    def _signals(self, x_BTD: Tensor, inputs_BTE: Tensor, layout: SequenceLayout, tail_BRE: Tensor | None) -> Signals:
        """What drives the memory, from the new positions and their projections; in float32 at least."""
        several = layout.documents_BT is not None
        exact = torch.promote_types(inputs_BTE.dtype, torch.float32)
        # The lengths that vectors get below make rounding large where they are small, so none comes before.
        convolved_BTE = causal_conv(
            inputs_BTE.to(exact), self.conv1d.weight.to(inputs_BTE.dtype).to(exact),
            tail_BRE=None if tail_BRE is None else tail_BRE.to(exact),
            positions_BT=layout.positions_BT if several else None,
        )  # fmt: skip
        q, k, v = torch.split(F.silu(convolved_BTE), self.sizes, dim=-1)
        q_BTGK = _unit_BTGK(torch.unflatten(q, -1, (self.qk_heads, -1))) / math.sqrt(self.head_dim)
        k_BTGK = _unit_BTGK(torch.unflatten(k, -1, (self.qk_heads, -1)))
        step_BTH = F.softplus(self.in_proj_a(x_BTD).to(exact) + self.dt_bias)
        return Signals(
            q_BTGK, k_BTGK, torch.unflatten(v, -1, (self.n_heads, -1)), -torch.exp(self.A_log.to(exact)) * step_BTH,
            torch.sigmoid(self.in_proj_b(x_BTD).to(exact)), layout.positions_BT == 0 if several else None,
        )  # fmt: skip

    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Queries, keys and values."""
        return {"in_proj_qkv.weight": self.sizes}

    def initialise(self, generator: torch.Generator) -> None:
        """Decay rates uniform in 0.01 to 16, step sizes log-uniform in 0.001 to 0.1, taps as PyTorch draws them.

        The rates are as in Hugging Face's class, the steps as in Mamba-2, whose decay this is: so at first states are
        forgotten after one step in the quickest heads and after thousands in the slowest.
        """
        H = self.n_heads
        self.A_log.copy_(torch.empty(H).uniform_(0.01, 16, generator=generator).log())
        step = torch.empty(H).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
        bound = self.conv1d.kernel_size[0] ** -0.5
        weight = self.conv1d.weight
        weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))


def _unit_BTGK(x_BTGK: Tensor) -> Tensor:
    """Each vector with the length 1."""
    return x_BTGK * torch.rsqrt(x_BTGK.square().sum(-1, keepdim=True) + _LENGTH_EPS)
