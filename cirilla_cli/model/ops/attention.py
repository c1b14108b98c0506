"""Attention behind one call: a fast path and the plain reference it is tested against."""

# Shape suffixes: B batch, T queries, S keys, N query heads, K key/value heads, H width of one head.

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cirilla_cli.model.layout import SequenceLayout, Sight, visible_BTS

_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def attend(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    query: SequenceLayout,
    key: SequenceLayout,
    sight: Sight,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention ``[B, T, N, H]`` of each query over the keys it may see, through PyTorch's fused kernels.

    No mask is made for one document or for one new token. On CUDA a call that no fused kernel takes raises, instead of
    falling back silently to the one that stores all scores. ``scale`` is 1 / sqrt(H) where not given; values may be
    wider or narrower than keys.
    """
    mask_BTS = _mask(query, key, sight)
    if softcap is not None:
        return _by_products(q_BTNH, k_BSKH, v_BSKH, visible_BTS(query, key, sight), scale, softcap)
    if mask_BTS is not None and q_BTNH.dtype == torch.bfloat16 and q_BTNH.device.type == "cpu":
        return _by_products(q_BTNH, k_BSKH, v_BSKH, mask_BTS, scale, None)
    causal = sight.causal and mask_BTS is None and q_BTNH.shape[1] > 1
    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    on_cuda = q_BTNH.device.type == "cuda"
    half = q_BTNH.dtype in (torch.float16, torch.bfloat16)
    if on_cuda and groups > 1 and (mask_BTS is not None or not half):
        # With a mask, or in float32, the memory-efficient kernel is the only fused one, and it wants equal heads.
        k_BSKH, v_BSKH, groups = k_BSKH.repeat_interleave(groups, 2), v_BSKH.repeat_interleave(groups, 2), 1
    # No fused kernel computes in float64, which is for tests.
    with sdpa_kernel(_FUSED) if on_cuda and q_BTNH.dtype != torch.float64 else nullcontext():
        out_BNTH = F.scaled_dot_product_attention(
            q_BTNH.transpose(1, 2),
            k_BSKH.transpose(1, 2),
            v_BSKH.transpose(1, 2),
            attn_mask=None if mask_BTS is None else mask_BTS[:, None],
            is_causal=causal,
            scale=scale,
            enable_gqa=groups > 1,
        )
    return out_BNTH.transpose(1, 2)


def _by_products(
    q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, mask_BTS: Tensor, scale: float | None, softcap: float | None
) -> Tensor:
    """Attention as two batched products, for what the fused kernels cannot do, or do slowly.

    On CPUs in bfloat16 with a mask it is several times as fast: for 32 rows of 128 tokens in 4 heads, forward and
    backward, 6.6 ms against 23 ms (benchmarks/attention.py).
    """
    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BNSH = k_BSKH.transpose(1, 2).repeat_interleave(groups, 1)
    v_BNSH = v_BSKH.transpose(1, 2).repeat_interleave(groups, 1)
    q_BNTH = q_BTNH.transpose(1, 2) * scale if scale else q_BTNH.transpose(1, 2) / math.sqrt(q_BTNH.shape[-1])
    bias_BTS = torch.zeros(mask_BTS.shape, dtype=q_BTNH.dtype, device=q_BTNH.device).masked_fill_(~mask_BTS, -math.inf)
    scores_BNTS = q_BNTH @ k_BNSH.transpose(-1, -2)
    if softcap is not None:
        scores_BNTS = softcap * torch.tanh(scores_BNTS / softcap)
    return ((scores_BNTS + bias_BTS[:, None]).softmax(-1) @ v_BNSH).transpose(1, 2)


def attend_reference(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    query: SequenceLayout,
    key: SequenceLayout,
    sight: Sight,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The same by the formula, every score in memory: what `attend` is compared with (arXiv:1706.03762, equation 1)."""
    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BSNH, v_BSNH = k_BSKH.repeat_interleave(groups, 2), v_BSKH.repeat_interleave(groups, 2)
    scores_BNTS = torch.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) * (scale or 1 / math.sqrt(q_BTNH.shape[-1]))
    if softcap is not None:
        scores_BNTS = softcap * torch.tanh(scores_BNTS / softcap)
    scores_BNTS = scores_BNTS.masked_fill(~visible_BTS(query, key, sight)[:, None], -math.inf)
    return torch.einsum("bnts,bsnh->btnh", scores_BNTS.softmax(-1), v_BSNH)


def _mask(query: SequenceLayout, key: SequenceLayout, sight: Sight) -> Tensor | None:
    """The mask this call needs, or None where causality (several queries) or nothing (one query) is the only rule."""
    if key is query or key.length == query.length:
        return None if query.needs_no_mask(sight) else query.visible[sight]
    one_document = query.documents_BT is None
    if one_document and query.length == 1 and (sight.window is None or key.length <= sight.window):
        return None
    return visible_BTS(query, key, sight)
