"""What recurrent layers remember between calls: a state of fixed size, and the states just before it."""

# Shape suffixes: B batch.

from torch import Tensor

from cirilla_cli.model.cache import LayerCache

State = tuple[Tensor, ...]
"""What a layer remembers, each with the batch first; replaced at every step, never written into."""


class StateCache(LayerCache):
    """The newest state and, to take positions back, those after each of the last ``rollback`` positions before it.

    A state cannot be run backwards, so what may be taken back is kept. A layer asks `spans` which positions it may run
    through at once, runs them from `state`, and hands the state after each of them to `keep`.
    """

    def __init__(self, rollback: int = 0) -> None:
        """A memory of any length; the newest ``rollback`` positions may be taken back by `trim`."""
        self.rollback, self.length = rollback, 0
        self._kept: dict[int, State | None] = {0: None}

    @property
    def state(self) -> State | None:
        """The state after the newest position; None before the first."""
        return self._kept[self.length]

    def spans(self, new: int) -> list[slice]:
        """The next ``new`` positions, cut wherever the state between them has to be kept."""
        ends = [max(0, new - self.rollback), *range(max(0, new - self.rollback) + 1, new + 1)]
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False) if end > start]

    def keep(self, new: int, *state: Tensor) -> None:
        """Remember the state after ``new`` more positions, and forget those too old to go back to."""
        self.length += new
        self._kept[self.length] = state
        self._kept = {at: kept for at, kept in self._kept.items() if at >= self.length - self.rollback}

    def reorder(self, rows_B: Tensor) -> None:
        """Keep the given rows, in that order."""
        self._kept = {
            at: None if kept is None else tuple(part[rows_B] for part in kept) for at, kept in self._kept.items()
        }

    def trim(self, length: int) -> None:
        """Forget all but the first ``length`` positions.

        Raises:
            ValueError: more is to be taken back than the cache was made for.
        """
        if length not in self._kept:
            raise ValueError(f"cannot go back from {self.length} positions to {length}")
        self.length = length
        self._kept = {at: kept for at, kept in self._kept.items() if at <= length}

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(part.numel() * part.element_size() for kept in self._kept.values() for part in kept or ())
