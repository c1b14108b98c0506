"""Mamba-2: a state-space layer, whose memory does not grow with the sequence."""

# Shape suffixes: B batch, T new positions, D model width, I inner width, E convolved channels, R remembered inputs of
# the convolution, H heads, P width of a head, N width of the state.

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.layout import Needs, SequenceLayout
from cirilla_cli.model.mixers.config import Mamba2Config
from cirilla_cli.model.ops.conv import causal_conv, tail_of
from cirilla_cli.model.ops.ssd import Signals, scan
from cirilla_cli.model.parts import Exact, Fused, Mixer, OwnInit
from cirilla_cli.model.state_cache import StateCache


class GatedRMSNorm(nn.Module):
    """rmsnorm(x * silu(gate)) * weight, in groups of channels of their own."""

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


class Mamba2(Mixer, OwnInit, Exact, Fused):
    """A selective state-space layer (Dao and Gu, 2024, arXiv:2405.21060, section 7).

    Step sizes, inputs to the state and outputs from it all depend on the token. Parameters are named as in Hugging
    Face's Mamba-2 and Granite hybrid.
    """

    def __init__(self, config: Mamba2Config, *, d_model: int) -> None:
        super().__init__()
        self.needs = Needs()
        self.n_heads, self.head_dim = config.n_heads, config.width(d_model)
        self.n_groups, self.d_state, self.chunk_size = config.n_groups, config.d_state, config.chunk_size
        self.dt_min, self.dt_max = config.dt_min, config.dt_max
        inner, channels = self.n_heads * self.head_dim, config.channels(d_model)
        self.sizes = [inner, channels, self.n_heads]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=config.proj_bias)
        self.conv1d = nn.Conv1d(channels, channels, config.d_conv, groups=channels, bias=config.conv_bias)
        self.dt_bias = nn.Parameter(torch.ones(self.n_heads))
        self.A_log = nn.Parameter(torch.ones(self.n_heads))
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GatedRMSNorm(inner, groups=self.n_groups, eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, d_model, bias=config.proj_bias)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """The layer's output ``[B, T, D]``; ``cache`` holds the state after the earlier positions."""
        gate_BTI, inputs_BTE, raw_BTH = torch.split(self.in_proj(x_BTD), self.sizes, dim=-1)
        if cache is None:
            y_BTHP, _ = scan(self._signals(inputs_BTE, raw_BTH, layout, None), chunk_size=self.chunk_size)
        else:
            assert isinstance(cache, StateCache)
            y_BTHP = self._continued_BTHP(inputs_BTE, raw_BTH, layout, cache)
        out: Tensor = self.out_proj(self.norm(y_BTHP.flatten(2), gate_BTI))
        return out

    def make_cache(self, capacity: int, rollback: int = 0) -> StateCache:
        """An empty memory; its size does not depend on ``capacity``."""
        return StateCache(rollback)

    def _continued_BTHP(self, inputs_BTE: Tensor, raw_BTH: Tensor, layout: SequenceLayout, cache: StateCache) -> Tensor:
        """The scan's output, going on from the state in ``cache``."""
        tail_BRE, state_BHPN = cache.state or (None, None)
        signals, outputs = self._signals(inputs_BTE, raw_BTH, layout, tail_BRE), []
        for span in cache.spans(layout.length):
            y_BTHP, state_BHPN = scan(signals.part(span), state_BHPN, chunk_size=self.chunk_size)
            tail_BRE = tail_of(tail_BRE, inputs_BTE[:, span], self.conv1d.kernel_size[0])
            cache.keep(span.stop - span.start, tail_BRE, state_BHPN)
            outputs.append(y_BTHP)
        return torch.cat(outputs, dim=1)

    def _signals(self, inputs_BTE: Tensor, raw_BTH: Tensor, layout: SequenceLayout, tail_BRE: Tensor | None) -> Signals:
        """What drives the scan, from the projections of the new positions."""
        several, bias_E = layout.documents_BT is not None, self.conv1d.bias
        mixed_BTE = F.silu(
            causal_conv(
                inputs_BTE, self.conv1d.weight.to(inputs_BTE.dtype),
                None if bias_E is None else bias_E.to(inputs_BTE.dtype), tail_BRE=tail_BRE,
                positions_BT=layout.positions_BT if several else None,
            )
        )  # fmt: skip
        shared = self.n_groups * self.d_state
        x_BTI, b, c = torch.split(mixed_BTE, [self.sizes[0], shared, shared], dim=-1)
        exact = torch.promote_types(raw_BTH.dtype, torch.float32)
        dt_BTH = F.softplus(raw_BTH.to(exact) + self.dt_bias).clamp(self.dt_min, self.dt_max)
        return Signals(
            torch.unflatten(x_BTI, -1, (self.n_heads, self.head_dim)), dt_BTH, -torch.exp(self.A_log.to(exact)),
            torch.unflatten(b, -1, (self.n_groups, -1)), torch.unflatten(c, -1, (self.n_groups, -1)), self.D,
            layout.positions_BT == 0 if several else None,
        )  # fmt: skip

    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Gates, inputs, what enters the state, what leaves it, and step sizes."""
        inner, channels, heads = self.sizes
        shared = (channels - inner) // 2
        return {"in_proj.weight": (inner, inner, shared, shared, heads)}

    def initialise(self, generator: torch.Generator) -> None:
        """Decay rates uniform in 1 to 16, step sizes log-uniform in 0.001 to 0.1, taps as PyTorch draws them.

        So at first half of a state is forgotten after one step in the quickest heads and after hundreds in the slowest
        (the paper's code; ``dt_bias`` is what softplus turns into the step size).
        """
        H = self.n_heads
        self.A_log.copy_(torch.empty(H).uniform_(1, 16, generator=generator).log())
        dt = torch.empty(H).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        bound = self.conv1d.kernel_size[0] ** -0.5
        weight = self.conv1d.weight
        weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
