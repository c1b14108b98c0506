"""The largest attention logit of each head, looked for beside kernels that do not tell."""

# Shape suffixes: B batch, T queries, S keys, N query heads, K key/value heads, G = N / K query heads that share one,
# H width of one head, C queries of a block.

from dataclasses import replace

import torch
from torch import Tensor

from cirilla_cli.model.layout import PADDING, SequenceLayout, Sight, visible_BTS

_BLOCK = 256
"""Queries that are looked at together, so that scores of all by all are never held."""


class LargestLogits:
    """Remembers the largest scaled score of each head that softmax has met, over passes until it is asked."""

    def __init__(self, n_heads: int) -> None:
        self._n_heads = n_heads
        self._seen_N: Tensor | None = None

    @torch.no_grad()
    def note(
        self, q_BTNH: Tensor, k_BSKH: Tensor, query: SequenceLayout, key: SequenceLayout, sight: Sight, scale: float
    ) -> None:
        """Look at every pair of a query and a key that it sees; scores are made in the format of queries and keys.

        Padding sees padding, but how much of it there is depends on how a step is cut: it does not count.
        """
        for start in range(0, q_BTNH.shape[1], _BLOCK):
            rows = slice(start, start + _BLOCK)
            part = _part(query, rows)
            visible_BCS = visible_BTS(part, key, sight)
            if part.documents_BT is not None:
                visible_BCS &= (part.documents_BT != PADDING)[:, :, None]
            largest_N = _largest(q_BTNH[:, rows], k_BSKH, visible_BCS) * scale
            self._seen_N = largest_N if self._seen_N is None else torch.maximum(self._seen_N, largest_N)

    def taken(self, device: torch.device) -> Tensor:
        """The largest of each head in float32, ``[N]``, minus infinity where nothing was seen; forgets them."""
        seen_N, self._seen_N = self._seen_N, None
        nothing = seen_N is None
        return torch.full((self._n_heads,), -torch.inf, device=device) if nothing else seen_N.float()  # type: ignore[union-attr]


def _largest(q_BCNH: Tensor, k_BSKH: Tensor, visible_BCS: Tensor) -> Tensor:
    B, C, N, H = q_BCNH.shape
    K = k_BSKH.shape[2]
    q_BKRH = q_BCNH.view(B, C, K, N // K, H).permute(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    scores_BKRS = q_BKRH @ k_BSKH.permute(0, 2, 3, 1)
    scores_BNCS = scores_BKRS.view(B, N, C, -1)
    largest_N: Tensor = scores_BNCS.masked_fill(~visible_BCS[:, None], -torch.inf).amax((0, 2, 3))
    return largest_N


def _part(layout: SequenceLayout, rows: slice) -> SequenceLayout:
    """The layout of some of its positions, as far as they are queries."""
    documents_BT = layout.documents_BT
    return replace(
        layout, positions_BT=layout.positions_BT[:, rows],
        documents_BT=None if documents_BT is None else documents_BT[:, rows], angles={}, masks={}, apart=None,
    )  # fmt: skip
