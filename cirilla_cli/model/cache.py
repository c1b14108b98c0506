"""What a layer remembers between calls of `generate`; owned by the caller, one for each layer."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, K key/value heads, H width of one head.

from typing import Protocol

import torch
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout


class LayerCache(Protocol):
    """One layer's memory of the sequence so far."""

    length: int
    """Positions seen, whether or not still held."""

    def reorder(self, rows_B: Tensor) -> None:
        """Keep the given rows, in that order."""


class KVCache:
    """Keys and values of an attention layer, with the positions and documents they stand for.

    With a ``window`` it forgets what no later query may see, so its size is bounded by the window. Rows of documents
    need no mask over what was dropped, because the cache says which positions its keys hold.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        """Room for ``capacity`` positions, or for ``window - 1`` past ones where that is fewer."""
        self.capacity, self.window, self.length = capacity, window, 0
        self._held = 0
        self._k_BSKH: Tensor | None = None
        self._v_BSKH: Tensor | None = None
        self._positions_BS: Tensor | None = None
        self._documents_BS: Tensor | None = None

    def append(self, k_BTKH: Tensor, v_BTKH: Tensor, layout: SequenceLayout) -> tuple[Tensor, Tensor, SequenceLayout]:
        """Remember T new positions; returns all keys and values they may need and the layout of those.

        Raises:
            ValueError: more positions than the capacity.
        """
        T = k_BTKH.shape[1]
        if self.length + T > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, asked for {self.length + T}")
        self.length += T
        if self._k_BSKH is None or self._v_BSKH is None or self._positions_BS is None:
            self._allocate(k_BTKH, layout)
            return self.append_within(k_BTKH, v_BTKH, layout)
        return self.append_within(k_BTKH, v_BTKH, layout)

    def append_within(
        self, k_BTKH: Tensor, v_BTKH: Tensor, layout: SequenceLayout
    ) -> tuple[Tensor, Tensor, SequenceLayout]:
        """The part of `append` after room was made."""
        assert self._k_BSKH is not None
        assert self._v_BSKH is not None
        assert self._positions_BS is not None
        T = k_BTKH.shape[1]
        self._make_room(T)
        start, self._held = self._held, self._held + T
        now = slice(start, self._held)
        self._k_BSKH[:, now], self._v_BSKH[:, now] = k_BTKH, v_BTKH
        self._positions_BS[:, now] = layout.positions_BT
        documents = None
        if self._documents_BS is not None and layout.documents_BT is not None:
            self._documents_BS[:, now] = layout.documents_BT
            documents = self._documents_BS[:, : self._held]
        seen = SequenceLayout(self._positions_BS[:, : self._held], documents)
        return self._k_BSKH[:, : self._held], self._v_BSKH[:, : self._held], seen

    def reorder(self, rows_B: Tensor) -> None:
        """Keep the given rows, in that order."""
        if self._k_BSKH is not None and self._v_BSKH is not None and self._positions_BS is not None:
            self._k_BSKH, self._v_BSKH = self._k_BSKH[rows_B], self._v_BSKH[rows_B]
            self._positions_BS = self._positions_BS[rows_B]
        if self._documents_BS is not None:
            self._documents_BS = self._documents_BS[rows_B]

    def _allocate(self, k_BTKH: Tensor, layout: SequenceLayout) -> None:
        B, T, K, H = k_BTKH.shape
        # Past the window the buffer slides by whole windows, so that copying costs O(1) a token.
        slots = self.capacity if self.window is None else min(self.capacity, 2 * self.window + T)
        self._k_BSKH, self._v_BSKH = k_BTKH.new_zeros(B, slots, K, H), k_BTKH.new_zeros(B, slots, K, H)
        self._positions_BS = layout.positions_BT.new_zeros(B, slots)
        if layout.documents_BT is not None:
            self._documents_BS = layout.documents_BT.new_zeros(B, slots)

    def _make_room(self, T: int) -> None:
        """Slide the last ``window - 1`` positions to the front when the new ones would not fit behind."""
        assert self._k_BSKH is not None
        assert self._v_BSKH is not None
        assert self._positions_BS is not None
        if self._held + T <= self._k_BSKH.shape[1]:
            return
        assert self.window is not None, "a cache without a window has room for its whole capacity"
        keep = min(self.window - 1, self._held)
        slots = max(self._k_BSKH.shape[1], keep + T)
        self._k_BSKH = _slid(self._k_BSKH, self._held, keep, slots)
        self._v_BSKH = _slid(self._v_BSKH, self._held, keep, slots)
        self._positions_BS = _slid(self._positions_BS, self._held, keep, slots)
        if self._documents_BS is not None:
            self._documents_BS = _slid(self._documents_BS, self._held, keep, slots)
        self._held = keep


def _slid(buffer: Tensor, held: int, keep: int, slots: int) -> Tensor:
    moved = torch.zeros(buffer.shape[0], slots, *buffer.shape[2:], dtype=buffer.dtype, device=buffer.device)
    moved[:, :keep] = buffer[:, held - keep : held]
    return moved
