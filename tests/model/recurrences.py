"""The two recurrences number by number, and what tests of the layers around them share."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import GatedDeltaNetConfig, Mamba2Config
from cirilla_cli.model.ops import delta, ssd
from cirilla_cli.model.parts import Mixer
from cirilla_cli.model.sections import RMSNormConfig

from .conftest import randomise

D, CHUNK = 24, 4
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]

MAMBA2 = {
    "plain": Mamba2Config(n_heads=4, d_state=5, chunk_size=CHUNK),
    "narrow heads, in groups": Mamba2Config(n_heads=6, head_dim=4, n_groups=3, d_state=3, chunk_size=CHUNK),
    "biases moved, steps bounded": Mamba2Config(
        n_heads=2, expand=3.0, d_state=4, d_conv=3, conv_bias=False, proj_bias=True, dt_min=0.5, dt_max=1.5,
        chunk_size=CHUNK,
    ),
}  # fmt: skip
DELTANET = {
    "plain": GatedDeltaNetConfig(n_heads=4, chunk_size=CHUNK),
    "keys shared, wide values": GatedDeltaNetConfig(
        n_heads=4, n_qk_heads=2, head_dim=5, v_head_dim=8, chunk_size=CHUNK
    ),
    "one key for all, two taps": GatedDeltaNetConfig(
        n_heads=3, n_qk_heads=1, v_head_dim=6, d_conv=2, norm_eps=1e-3, chunk_size=CHUNK
    ),
}

SSD_STATE, DELTA_STATE = (2, 4, 3, 5), (2, 4, 5, 3)
"""Shapes of the states of the signals below."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def pieces(sizes: list[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def built(config: Any) -> Any:
    """A layer in float64, every weight random."""
    layer: Mixer = config.build(D, RMSNormConfig()).double()
    randomise(layer)
    return layer


def ssd_signals(length: int, *, heads: int = 4, groups: int = 2, documents: bool = False) -> ssd.Signals:
    """Random ones with heads 3 wide and states 5 wide; each position begins a document with a chance of 1 in 5."""
    uniform = torch.rand(2, length, heads, dtype=torch.float64, generator=generator(1))
    starts = torch.rand(2, length, generator=generator(2)) < 0.2 if documents else None
    return ssd.Signals(
        normal(2, length, heads, 3, seed=3), uniform, -3 * uniform[0, 0] - 0.1, normal(2, length, groups, 5, seed=4),
        normal(2, length, groups, 5, seed=5), normal(heads, seed=6), starts,
    )  # fmt: skip


def delta_signals(length: int, *, heads: int = 4, groups: int = 2, documents: bool = False) -> delta.Signals:
    """Random ones with keys 5 wide and values 3 wide; each position begins a document with a chance of 1 in 5."""
    k = normal(2, length, groups, 5, seed=2)
    starts = torch.rand(2, length, generator=generator(5)) < 0.2 if documents else None
    return delta.Signals(
        normal(2, length, groups, 5, seed=1), k / k.norm(dim=-1, keepdim=True), normal(2, length, heads, 3, seed=3),
        -normal(2, length, heads, seed=4).abs(), torch.sigmoid(2 * normal(2, length, heads, seed=6)), starts,
    )  # fmt: skip


def ssd_in_loops(s: ssd.Signals, state_BHPN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h = exp(dt a) h + dt x b^T, y = h c + d x: number by number, for each row, head and position."""
    B, T, H, P = s.x_BTHP.shape
    y, last = torch.zeros(B, T, H, P, dtype=torch.float64), []
    for row in range(B):
        for head in range(H):
            group = head // (H // s.b_BTGN.shape[2])
            h = torch.zeros(P, s.b_BTGN.shape[-1], dtype=torch.float64)
            if state_BHPN is not None:
                h = state_BHPN[row, head]
            for t in range(T):
                if s.starts_BT is not None and bool(s.starts_BT[row, t]):
                    h = torch.zeros_like(h)
                dt, x = s.dt_BTH[row, t, head], s.x_BTHP[row, t, head]
                h = math.exp(float(dt * s.a_H[head])) * h + dt * torch.outer(x, s.b_BTGN[row, t, group])
                y[row, t, head] = h @ s.c_BTGN[row, t, group] + s.d_H[head] * x
            last.append(h)
    return y, torch.stack(last).view(B, H, P, -1)


def delta_in_loops(s: delta.Signals, state_BHKV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S = S (a (1 - beta k k^T)) + beta v k^T, y = S q: the paper's form, with values by keys, one row and head."""
    B, T, H, V = s.v_BTHV.shape
    y, last = torch.zeros(B, T, H, V, dtype=torch.float64), []
    for row in range(B):
        for head in range(H):
            of = head // (H // s.k_BTGK.shape[2])
            S = torch.zeros(V, s.k_BTGK.shape[-1], dtype=torch.float64)
            if state_BHKV is not None:
                S = state_BHKV[row, head].T
            for t in range(T):
                if s.starts_BT is not None and bool(s.starts_BT[row, t]):
                    S = torch.zeros_like(S)
                k, beta = s.k_BTGK[row, t, of], s.beta_BTH[row, t, head]
                kept = math.exp(float(s.g_BTH[row, t, head])) * (torch.eye(len(k)).double() - beta * torch.outer(k, k))
                S = S @ kept + beta * torch.outer(s.v_BTHV[row, t, head], k)
                y[row, t, head] = S @ s.q_BTGK[row, t, of]
            last.append(S.T)
    return y, torch.stack(last).view(B, H, -1, V)


def convolved_in_loops(x_TE: Tensor, taps_EK: Tensor, documents: list[int]) -> Tensor:
    """Each channel's last inputs of its document, weighted, the newest by the last tap."""
    out_TE, taps = torch.zeros_like(x_TE), taps_EK.shape[1]
    for t in range(len(documents)):
        for back in range(min(taps, t + 1)):
            if documents[t - back] == documents[t]:
                out_TE[t] += taps_EK[:, taps - 1 - back] * x_TE[t - back]
    return out_TE


Textbook = Callable[[Any, Any, Tensor, list[list[int]]], Tensor]
"""A layer's output by the paper, of its section, itself, its input, and the documents of each row."""


@torch.no_grad()
def compare(textbook: Textbook, config: Any, length: int) -> None:
    """A random layer with what the textbook makes of its weights, on rows of one document and of several."""
    layer, x_BTD = built(config), normal(2, length, D)
    documents = [[0] * (length // 3) + [1] * (length - length // 3), [0] * (length - 1) + [1]]
    packed = layer(x_BTD, SequenceLayout.packed(torch.tensor(documents)))
    torch.testing.assert_close(packed, textbook(config, layer, x_BTD, documents), rtol=0, atol=1e-10)
    alone = layer(x_BTD, SequenceLayout.rows(2, length))
    torch.testing.assert_close(alone, textbook(config, layer, x_BTD, [[0] * length] * 2), rtol=0, atol=1e-10)
