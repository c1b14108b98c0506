"""Attention behind one call: a fast path and the plain reference it is tested against."""

# Shape suffixes: B batch, T queries, S keys, N query heads, K key/value heads, H width of one head, V of one
# value; M short calls, C queries and L keys of one.

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask

from cirilla_cli.model.layout import SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.ops.blocked import attend_blocked, takes_blocks
from cirilla_cli.model.ops.flex import attend_flex, takes
from cirilla_cli.model.ops.fold import Fold, as_bias, taken_MCNH
from cirilla_cli.model.ops.logits import LargestLogits
from cirilla_cli.model.ops.masks import Mask, Undivided
from cirilla_cli.model.parts import Uncompiled

_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]

_PRODUCTS_WIN = 512
"""Keys up to which two products are faster than the fused kernel on a CPU in bfloat16."""


def attend(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKV: Tensor,
    query: SequenceLayout,
    key: SequenceLayout,
    sight: Sight,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention ``[B, T, N, V]`` of each query over the keys it may see.

    Which back end computes it, `masks.mask_of` has chosen for the device when the layout was prepared. On CUDA a call
    that no fused kernel takes raises, instead of falling back silently to the one that stores all scores. ``scale`` is
    1 / sqrt(H) where not given; values may be wider or narrower than keys.
    """
    mask = _mask(query, key, sight)
    if isinstance(mask, BlockMask):
        if takes(q_BTNH, v_BSKV):
            return attend_flex(q_BTNH, k_BSKH, v_BSKV, mask, scale, softcap)
        mask = None if query.needs_no_mask(sight) else visible_BTS(query, key, sight)
    causal = sight.causal and query.prefix_BT is None and q_BTNH.shape[1] > 1
    if isinstance(mask, Fold):
        return _in_short_calls(q_BTNH, k_BSKH, v_BSKV, mask, _Scores(None, causal, scale, softcap))
    scores = _Scores(None if isinstance(mask, Undivided) else mask, causal, scale, softcap)
    return _whole(q_BTNH, k_BSKH, v_BSKV, scores)


class Attend(Uncompiled):
    """`attend` as a part of a mixer, so that compilers of the mixer can leave it to its kernels."""

    largest: LargestLogits | None = None
    """What looks at logits in training, if anybody wants to know."""

    def forward(
        self,
        q_BTNH: Tensor,
        k_BSKH: Tensor,
        v_BSKV: Tensor,
        query: SequenceLayout,
        key: SequenceLayout,
        sight: Sight,
        *,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """See `attend`."""
        if self.largest is not None and self.training:
            factor = q_BTNH.shape[-1] ** -0.5 if scale is None else scale
            self.largest.note(q_BTNH, k_BSKH, query, key, sight, factor)
        return attend(q_BTNH, k_BSKH, v_BSKV, query, key, sight, scale=scale, softcap=softcap)


class _Scores(NamedTuple):
    """What becomes of the products of queries and keys."""

    mask_BTS: Tensor | None
    """Truth, where a query may look, or numbers to add."""
    causal: bool
    """Whether no query looks at later keys; a mask hides them then too."""
    scale: float | None
    """What they are multiplied with; None for 1 / sqrt(H)."""
    softcap: float | None
    """What they are bounded by; None for nothing."""


def _mask(query: SequenceLayout, key: SequenceLayout, sight: Sight) -> Mask | None:
    """The mask this call needs, or None where causality (several queries) or nothing (one query) is the only rule."""
    if key is query or key.length == query.length:
        return query.masks.get(sight) if query.needs_no_mask(sight) else query.masks[sight]
    one_document = query.documents_BT is None
    if one_document and query.length == 1 and (sight.window is None or key.length <= sight.window):
        return None
    return visible_BTS(query, key, sight)


def _in_short_calls(q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, fold: Fold, scores: _Scores) -> Tensor:
    outs = []
    for part in fold.parts:
        q_MCNH, k_MLKH = taken_MCNH(q_BTNH, part.queries_MC), taken_MCNH(k_BSKH, part.keys_ML)
        own = scores._replace(mask_BTS=part.bias_MCL)
        outs.append(_whole(q_MCNH, k_MLKH, taken_MCNH(v_BSKV, part.keys_ML), own).flatten(0, 1))
    return taken_MCNH(torch.cat(outs)[None], fold.back_BT)


def _whole(q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, scores: _Scores) -> Tensor:
    """Attention in one piece."""
    slow = q_BTNH.device.type == "cpu" and q_BTNH.dtype == torch.bfloat16
    if scores.causal and scores.softcap is None and takes_blocks(q_BTNH, k_BSKH):
        bias_BTS = None if scores.mask_BTS is None else _added(scores.mask_BTS, q_BTNH.dtype)
        return attend_blocked(q_BTNH, k_BSKH, v_BSKV, bias_BTS, scores.scale or 1 / math.sqrt(q_BTNH.shape[-1]))
    if scores.softcap is not None or (slow and q_BTNH.shape[1] > 1 and k_BSKH.shape[1] <= _PRODUCTS_WIN):
        return _by_products(q_BTNH, k_BSKH, v_BSKV, scores)
    return _by_kernels(q_BTNH, k_BSKH, v_BSKV, scores)


def _by_kernels(q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, scores: _Scores) -> Tensor:
    """Attention through PyTorch's fused kernels, which bound no scores."""
    groups, mask_BTS = q_BTNH.shape[2] // k_BSKH.shape[2], scores.mask_BTS
    on_cuda, half = q_BTNH.device.type == "cuda", q_BTNH.dtype in (torch.float16, torch.bfloat16)
    if on_cuda and groups > 1 and (mask_BTS is not None or not half):
        # With a mask, or in float32, the memory-efficient kernel is the only fused one, and it wants equal heads.
        k_BSKH, v_BSKV, groups = k_BSKH.repeat_interleave(groups, 2), v_BSKV.repeat_interleave(groups, 2), 1
    # No fused kernel computes in float64, which is for tests.
    with sdpa_kernel(_FUSED) if on_cuda and q_BTNH.dtype != torch.float64 else nullcontext():
        out_BNTV = F.scaled_dot_product_attention(
            q_BTNH.transpose(1, 2),
            k_BSKH.transpose(1, 2),
            v_BSKV.transpose(1, 2),
            attn_mask=None if mask_BTS is None else mask_BTS[:, None],
            is_causal=scores.causal and mask_BTS is None,
            scale=scores.scale,
            enable_gqa=groups > 1,
        )
    return out_BNTV.transpose(1, 2)


def _by_products(q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, scores: _Scores) -> Tensor:
    """Attention as two batched products: for what the kernels cannot do or do slowly (benchmarks/attention.py)."""
    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BNSH = k_BSKH.transpose(1, 2).repeat_interleave(groups, 1)
    v_BNSV = v_BSKV.transpose(1, 2).repeat_interleave(groups, 1)
    q_BNTH = q_BTNH.transpose(1, 2) * (scores.scale or 1 / math.sqrt(q_BTNH.shape[-1]))
    scores_BNTS = q_BNTH @ k_BNSH.transpose(-1, -2)
    if scores.softcap is not None:
        scores_BNTS = scores.softcap * torch.tanh(scores_BNTS / scores.softcap)
    bias = _bias(scores, scores_BNTS)
    if bias is not None:
        scores_BNTS = scores_BNTS + bias[:, None]
    return (scores_BNTS.softmax(-1) @ v_BNSV).transpose(1, 2)


def _bias(scores: _Scores, like_BNTS: Tensor) -> Tensor | None:
    """What is added to the scores, ``[B or 1, T, S]``: 0, or minus infinity where no query may look."""
    mask_BTS = scores.mask_BTS
    if mask_BTS is None:
        if not scores.causal:
            return None
        mask_BTS = torch.ones(1, *like_BNTS.shape[2:], dtype=torch.bool, device=like_BNTS.device).tril()
    return _added(mask_BTS, like_BNTS.dtype)


def _added(mask_BTS: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of truth or of numbers as numbers to add."""
    return as_bias(mask_BTS, dtype) if mask_BTS.dtype == torch.bool else mask_BTS


def attend_reference(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKV: Tensor,
    query: SequenceLayout,
    key: SequenceLayout,
    sight: Sight,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The same by the formula, every score in memory: what `attend` is compared with (arXiv:1706.03762, equation 1)."""
    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BSNH, v_BSNV = k_BSKH.repeat_interleave(groups, 2), v_BSKV.repeat_interleave(groups, 2)
    scores_BNTS = torch.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) * (scale or 1 / math.sqrt(q_BTNH.shape[-1]))
    if softcap is not None:
        scores_BNTS = softcap * torch.tanh(scores_BNTS / softcap)
    scores_BNTS = scores_BNTS.masked_fill(~visible_BTS(query, key, sight)[:, None], -math.inf)
    return torch.einsum("bnts,bsnv->btnv", scores_BNTS.softmax(-1), v_BSNV)
