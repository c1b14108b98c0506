"""What a layer remembers between calls of `generate`; owned by the caller, one for each layer."""

# Shape suffixes: B batch, T new positions, S remembered and new positions.

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout


class LayerCache(ABC):
    """One layer's memory of the sequence so far."""

    length: int
    """Positions seen, whether or not still held."""

    @abstractmethod
    def reorder(self, rows_B: Tensor) -> None:
        """Keep the given rows, in that order."""

    @abstractmethod
    def trim(self, length: int) -> None:
        """Forget all but the first ``length`` positions, as if the later ones had never been seen.

        Raises:
            ValueError: more is to be taken back than the cache was made for.
        """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory held."""


class PastCache(LayerCache):
    """Tensors of past positions (keys and values, or latents), with the positions and documents they stand for.

    With a ``window`` it forgets what no later query may see: a rolling buffer of at most ``2 (window - 1 + rollback)``
    positions, however many were seen. Rows of documents need no mask over what was dropped, because the cache says
    which positions it holds.
    """

    def __init__(self, capacity: int, window: int | None = None, rollback: int = 0) -> None:
        """Room for ``capacity`` positions in all, the newest ``rollback`` of which `trim` may take back."""
        self.capacity, self.window, self.length = capacity, window, 0
        self._keep = capacity if window is None else min(capacity, window - 1 + rollback)
        # Twice what is kept, so that moving the kept part to the front costs O(1) a position.
        self.slots = capacity if window is None else min(capacity, 2 * self._keep)
        """Positions there is room for at once."""
        self._held = 0
        self._rows: list[Tensor] = []
        self._marks = (False, False)

    def append(self, layout: SequenceLayout, *new: Tensor) -> tuple[tuple[Tensor, ...], SequenceLayout]:
        """Remember T new positions of each tensor; returns all that they may need, and the layout of that.

        Raises:
            ValueError: more positions than the capacity.
        """
        T = layout.length
        if self.length + T > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, asked for {self.length + T}")
        self.length += T
        if not self._rows:
            self._marks = layout.documents_BT is not None, layout.prefix_BT is not None
        parts = [*_of_layout(layout, self._marks), *new]
        if not self._rows:
            self._rows = [part.new_zeros(part.shape[0], self.slots, *part.shape[2:]) for part in parts]
        whole = self._written(parts, T) if self._held + T <= self.slots else self._rolled(parts)
        if self.window is not None:
            whole = [part[:, max(0, part.shape[1] - (self.window - 1 + T)) :] for part in whole]
        seen, values = _to_layout(whole, self._marks)
        return tuple(values), seen

    def _written(self, parts: list[Tensor], T: int) -> list[Tensor]:
        """Everything held, after the new positions were put behind it."""
        start, self._held = self._held, self._held + T
        for row, part in zip(self._rows, parts, strict=True):
            row[:, start : self._held] = part
        return [row[:, : self._held] for row in self._rows]

    def _rolled(self, parts: list[Tensor]) -> list[Tensor]:
        """The kept past and the new positions; of both, the newest move to the front of the buffer."""
        past = slice(max(0, self._held - self._keep), self._held)
        whole = [torch.cat([row[:, past], part], dim=1) for row, part in zip(self._rows, parts, strict=True)]
        length = whole[0].shape[1]
        self._held = min(self._keep, length)
        for row, part in zip(self._rows, whole, strict=True):
            row[:, : self._held] = part[:, length - self._held :]
        return whole

    def reorder(self, rows_B: Tensor) -> None:
        """Keep the given rows, in that order."""
        self._rows = [row[rows_B] for row in self._rows]

    def trim(self, length: int) -> None:
        """Forget all but the first ``length`` positions.

        Raises:
            ValueError: more is to be taken back than the cache was made for.
        """
        back = self.length - length
        wanted = length if self.window is None else min(length, self.window - 1)
        if back < 0 or self._held - back < wanted:
            raise ValueError(f"cannot go back from {self.length} positions to {length}")
        self.length, self._held = length, self._held - back

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(row.numel() * row.element_size() for row in self._rows)


def _of_layout(layout: SequenceLayout, marks: tuple[bool, bool]) -> list[Tensor]:
    """Positions, and documents and prefix where ``marks`` says that rows have them."""
    parts = [layout.positions_BT]
    for marked, part in zip(marks, (layout.documents_BT, layout.prefix_BT), strict=True):
        if marked:
            assert part is not None, "a layout with documents or a prefix cannot be continued without"
            parts.append(part)
    return parts


def _to_layout(parts: list[Tensor], marks: tuple[bool, bool]) -> tuple[SequenceLayout, list[Tensor]]:
    positions_BS, *rest = parts
    documents_BS = rest.pop(0) if marks[0] else None
    prefix_BS = rest.pop(0) if marks[1] else None
    return SequenceLayout(positions_BS, documents_BS, prefix_BS), rest
