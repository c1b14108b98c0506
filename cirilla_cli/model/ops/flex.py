"""Attention by FlexAttention: blocks of scores that no query needs are never computed (arXiv:2412.05496)."""

# Shape suffixes: B batch, T queries, S keys, N query heads, K key/value heads, H width of one head, V of one value,
# I blocks of queries, J blocks of keys.

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from cirilla_cli.model.layout import SequenceLayout, Sight

BLOCK = 128
"""Queries, and keys, of one block."""

_NARROWEST = 16
_WIDEST_ANYWHERE = 128
_ROOMY = 160 * 1024
"""Shared memory of a multiprocessor (bytes) from which wider heads fit; consumer cards have 99 KiB."""

Scores = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def takes(q_BTNH: Tensor, v_BSKV: Tensor) -> bool:
    """Whether the kernels compute heads this wide on this device."""
    widths = q_BTNH.shape[-1], v_BSKV.shape[-1]
    if min(widths) < _NARROWEST or max(widths) <= _WIDEST_ANYWHERE or q_BTNH.device.type != "cuda":
        return min(widths) >= _NARROWEST
    properties: Any = torch.cuda.get_device_properties(q_BTNH.device)
    return bool(properties.shared_memory_per_block_optin >= _ROOMY)


def attend_flex(
    q_BTNH: Tensor, k_BSKH: Tensor, v_BSKV: Tensor, mask: BlockMask, scale: float | None, softcap: float | None
) -> Tensor:
    """Softmax attention ``[B, T, N, V]`` over what ``mask`` shows.

    Compiled on CUDA, once a shape and rule; elsewhere as PyTorch writes it out for tests, every score in memory and
    without gradient.
    """
    attention = _compiled() if q_BTNH.device.type == "cuda" else _written_out
    q_BNTH, k_BKSH, v_BKSV = (x.transpose(1, 2) for x in (q_BTNH, k_BSKH, v_BSKV))
    grouped = q_BNTH.shape[1] != k_BKSH.shape[1]
    out_BNTV: Tensor = attention(
        q_BNTH, k_BKSH, v_BKSV, score_mod=_capping(softcap), block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return out_BNTV.transpose(1, 2)


@cache
def _compiled() -> Callable[..., Any]:
    # A kernel for any length is refused by some versions of PyTorch, and slower where it is not.
    return torch.compile(flex_attention, dynamic=False)


def _written_out(*args: Any, **keys: Any) -> Any:
    return flex_attention(*args, **keys)


def _capping(softcap: float | None) -> Scores | None:
    if softcap is None:
        return None

    def capped(score: Tensor, b: Tensor, n: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def block_mask(query: SequenceLayout, key: SequenceLayout, sight: Sight) -> BlockMask:
    """Who sees whom, block by block, from bounds on the positions and documents of each block.

    Bounds may call a block needed in part of which nothing is needed; never the reverse. So nothing of the size of
    queries times keys is made, unlike by `create_block_mask`.
    """
    q, k = _bounds(query), _bounds(key)
    some_BIJ, all_BIJ = _needed(q, k, sight, key.documents_BT is not None and query.documents_BT is not None)
    all_BIJ = all_BIJ & _whole(query)[:, None] & _whole(key)
    partly, whole = (_listed(x) for x in (some_BIJ & ~all_BIJ, all_BIJ))
    lengths = query.length, key.length
    return BlockMask.from_kv_blocks(
        *partly, *whole, BLOCK_SIZE=BLOCK, mask_mod=_sees(query, key, sight), seq_lengths=lengths
    )


def _sees(query: SequenceLayout, key: SequenceLayout, sight: Sight) -> Sees:
    """`visible_BTS` for one query and key, as the kernels want it."""
    places, others = query.positions_BT, key.positions_BT
    documents, of_keys, prefix = query.documents_BT, key.documents_BT, key.prefix_BT

    def sees(b: Tensor, n: Tensor, t: Tensor, s: Tensor) -> Tensor:
        distance = places[b, t] - others[b, s]
        visible = distance >= 0 if sight.causal else distance == distance
        if prefix is not None:
            visible = visible | prefix[b, s]
        if sight.window is not None:
            visible = visible & (distance < sight.window) & (distance > -sight.window)
        if documents is not None and of_keys is not None:
            visible = visible & (documents[b, t] == of_keys[b, s])
        return visible

    return sees


class _Bounds(NamedTuple):
    """Least and greatest of each block, ``[B, I]``; documents and prefix are zero where rows have none."""

    first: Tensor
    last: Tensor
    document: Tensor
    last_document: Tensor
    some_prefix: Tensor
    all_prefix: Tensor


def _bounds(layout: SequenceLayout) -> _Bounds:
    bounds: list[Tensor] = []
    for part in (layout.positions_BT, layout.documents_BT, layout.prefix_BT):
        values_BT = torch.zeros_like(layout.positions_BT) if part is None else part.long()
        behind = -layout.length % BLOCK
        filled_BT = torch.cat([values_BT, values_BT[:, -1:].expand(-1, behind)], dim=1)
        blocks = filled_BT.view(len(filled_BT), -1, BLOCK)
        bounds += [blocks.amin(-1), blocks.amax(-1)]
    first, last, document, last_document, every, some = bounds
    return _Bounds(first, last, document, last_document, some.bool(), every.bool())


def _needed(q: _Bounds, k: _Bounds, sight: Sight, documents: bool) -> tuple[Tensor, Tensor]:
    """Which blocks some query may need, and which every query needs whole, each ``[B, I, J]``."""
    farthest = q.last[:, :, None] - k.first[:, None]
    nearest = q.first[:, :, None] - k.last[:, None]
    some, every = torch.ones_like(nearest, dtype=torch.bool), torch.ones_like(nearest, dtype=torch.bool)
    if sight.causal:
        some, every = (farthest >= 0) | k.some_prefix[:, None], (nearest >= 0) | k.all_prefix[:, None]
    if sight.window is not None:
        some = some & (nearest < sight.window) & (farthest > -sight.window)
        every = every & (farthest < sight.window) & (nearest > -sight.window)
    if documents:
        some = some & (q.document[:, :, None] <= k.last_document[:, None])
        some = some & (k.document[:, None] <= q.last_document[:, :, None])
        every = every & (q.document[:, :, None] == k.last_document[:, None])
        every = every & (k.document[:, None] == q.last_document[:, :, None])
    return some, every


def _whole(layout: SequenceLayout) -> Tensor:
    """Which blocks have no place behind the row's end, ``[I]``."""
    ends = torch.arange(BLOCK, layout.length + BLOCK, BLOCK, device=layout.positions_BT.device)
    return ends <= layout.length


def _listed(blocks_BIJ: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and their numbers, the needed ones first."""
    order = torch.argsort(blocks_BIJ.int(), dim=-1, descending=True, stable=True)
    return blocks_BIJ.sum(-1).int()[:, None], order.int()[:, None]
