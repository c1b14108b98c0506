"""Dilated attention: near keys all, far ones thinned out."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, D model width, N heads, K key/value heads,
# H width of one head, G segments of a row, L selected positions of a segment, R dilation; M rows of one document each,
# C positions of one.

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache, PastCache
from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.mixers.config import DilatedAttentionConfig
from cirilla_cli.model.ops.fold import Fold, taken_MCNH
from cirilla_cli.model.parts import Mixer, Uncompiled
from cirilla_cli.model.rope import Rotation, apply_rope

_CAUSAL = Sight()


class DilatedAttention(Mixer, Uncompiled):
    """LongNet's attention, causal (Ding et al., 2023, arXiv:2307.02486, sections 2.2 and 2.3).

    Each pattern cuts a document into segments and lets every R-th position of a segment look at every R-th before it,
    head n beginning at n mod R. Patterns are joined in one softmax, as the paper weighs them by their denominators.
    """

    def __init__(self, config: DilatedAttentionConfig, *, d_model: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.width(d_model)
        self.patterns = config.patterns
        self.rotation = Rotation(config.rope, config.rope.turned(self.head_dim)) if config.rope else None
        self.needs = Needs(frozenset({self.rotation} if self.rotation else ()), apart=True)
        self.q_proj = nn.Linear(d_model, self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, d_model, bias=False)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """Attention's output ``[B, T, D]``; ``cache`` holds keys and values of earlier positions of the segment."""
        B, T, _ = x_BTD.shape
        q_BTNH = self.q_proj(x_BTD).view(B, T, self.n_heads, self.head_dim) / math.sqrt(self.head_dim)
        k_BSKH = self.k_proj(x_BTD).view(B, T, self.n_kv_heads, self.head_dim)
        v_BSKH, key_layout = self.v_proj(x_BTD).view(B, T, self.n_kv_heads, self.head_dim), layout
        if self.rotation is not None:
            angles = layout.angles[self.rotation.name]
            q_BTNH, k_BSKH = apply_rope(q_BTNH, *angles), apply_rope(k_BSKH, *angles)
        begins = cache is None or cache.length == 0
        if cache is not None:
            assert isinstance(cache, PastCache)
            (k_BSKH, v_BSKH), key_layout = cache.append(layout, k_BSKH, v_BSKH)
        groups = self.n_heads // self.n_kv_heads
        k_BSNH, v_BSNH = k_BSKH.repeat_interleave(groups, 2), v_BSKH.repeat_interleave(groups, 2)
        if begins and key_layout.length == T:
            out_BTNH = self._among_BTNH(q_BTNH, k_BSNH, v_BSNH, layout)
        else:
            out_BTNH = attend_dilated_by_mask(q_BTNH, k_BSNH, v_BSNH, layout, key_layout, self.patterns)
        out: Tensor = self.o_proj(out_BTNH.reshape(B, T, -1))
        return out

    def _among_BTNH(self, q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, layout: SequenceLayout) -> Tensor:
        """Attention among the tokens of ``layout``, where nothing was before."""
        if layout.apart is not None:
            return attend_dilated_apart(q_BTNH, k_BTNH, v_BTNH, layout.apart, self.patterns)
        if layout.documents_BT is None and layout.prefix_BT is None:
            return attend_dilated(q_BTNH, k_BTNH, v_BTNH, self.patterns)
        return attend_dilated_by_mask(q_BTNH, k_BTNH, v_BTNH, layout, layout, self.patterns)

    def make_cache(self, capacity: int, rollback: int = 0) -> PastCache:
        """An empty memory for up to ``capacity`` positions; no segment is longer than the longest."""
        return PastCache(capacity, max(length for length, _ in self.patterns), rollback)


def attend_dilated(q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, patterns: tuple[tuple[int, int], ...]) -> Tensor:
    """Rows that begin at position 0 and hold one document each; only scores of selected positions are made.

    Args:
        q_BTNH: queries, scaled.
        patterns: segment length and dilation of each, the second dividing the first.

    Returns:
        ``[B, T, N, H]``.
    """
    outs, weights = zip(*(_pattern(q_BTNH, k_BTNH, v_BTNH, *pattern) for pattern in patterns), strict=True)
    share_PBTN = torch.stack(weights).softmax(dim=0)
    return (share_PBTN[..., None] * torch.stack(outs)).sum(dim=0)


def _pattern(q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, length: int, R: int) -> tuple[Tensor, Tensor]:
    """One pattern's output ``[B, T, N, H]`` and log-denominator ``[B, T, N]``, -inf for positions it passes over."""
    B, T, N, H = q_BTNH.shape
    length = min(length, -(-T // R) * R)
    heads_N = torch.arange(N, device=q_BTNH.device)
    picked = [_segments(x, length, R)[:, :, :, heads_N % R, heads_N] for x in (q_BTNH, k_BTNH, v_BTNH)]
    q_BGNLH, k_BGNLH, v_BGNLH = (x.transpose(2, 3) for x in picked)
    scores = q_BGNLH @ k_BGNLH.transpose(-1, -2)
    L = scores.shape[-1]
    later_LL = torch.ones(L, L, dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(later_LL, -math.inf)
    out_BGLNH = (scores.softmax(-1) @ v_BGNLH).transpose(2, 3)
    G = out_BGLNH.shape[1]
    whole = out_BGLNH.new_zeros(B, G, L, R, N, H)
    whole[:, :, :, heads_N % R, heads_N] = out_BGLNH
    weight = out_BGLNH.new_full((B, G, L, R, N), -math.inf)
    weight[:, :, :, heads_N % R, heads_N] = scores.logsumexp(-1).transpose(2, 3)
    return whole.view(B, -1, N, H)[:, :T], weight.view(B, -1, N)[:, :T]


def _segments(x_BTNH: Tensor, length: int, R: int) -> Tensor:
    """``[B, G, L, R, N, H]``, the last segment filled up with zeros, which no query of the row can see."""
    B, T, N, H = x_BTNH.shape
    return F.pad(x_BTNH, (0, 0, 0, 0, 0, -T % length)).view(B, -1, length // R, R, N, H)


def attend_dilated_apart(
    q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, fold: Fold, patterns: tuple[tuple[int, int], ...]
) -> Tensor:
    """The same of packed rows, ``[B, T, N, H]``: documents of like length are rows of their own.

    What fills such a row up comes last, where no position of the document looks.
    """
    outs = []
    for part in fold.parts:
        q_MCNH, k_MCNH, v_MCNH = (taken_MCNH(x, part.queries_MC) for x in (q_BTNH, k_BTNH, v_BTNH))
        outs.append(attend_dilated(q_MCNH, k_MCNH, v_MCNH, patterns).flatten(0, 1))
    return taken_MCNH(torch.cat(outs)[None], fold.back_BT)


def attend_dilated_by_mask(
    q_BTNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor, query: SequenceLayout, key: SequenceLayout,
    patterns: tuple[tuple[int, int], ...],
) -> Tensor:  # fmt: skip
    """The same from dense scores, for short packed rows and for queries over a cache.

    A key that several patterns select counts once for each, which in one softmax is the log of their number.
    """
    N = q_BTNH.shape[2]
    times = q_BTNH.new_zeros(q_BTNH.shape[0], N, query.length, key.length)
    for length, R in patterns:
        times += _selected_BNTS(query.positions_BT, key.positions_BT, N, length, R)
    times = times * visible_BTS(query, key, _CAUSAL)[:, None]
    scores_BNTS = torch.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) + times.log()
    return torch.einsum("bnts,bsnh->btnh", scores_BNTS.softmax(-1), v_BSNH)


def _selected_BNTS(query_BT: Tensor, key_BS: Tensor, N: int, length: int, R: int) -> Tensor:
    """Whether one pattern lets head n's query t look at key s, the order of time aside."""
    offset_N = (torch.arange(N, device=query_BT.device) % R)[None, :, None]
    query_BNT = query_BT[:, None] % length % R == offset_N
    key_BNS = key_BS[:, None] % length % R == offset_N
    same_BTS = (query_BT // length)[:, :, None] == (key_BS // length)[:, None, :]
    return query_BNT[:, :, :, None] & key_BNS[:, :, None, :] & same_BTS[:, None]
