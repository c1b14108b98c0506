"""Labelled texts as tensors: documents packed into rows, and their labels."""

# Shape suffixes: B rows, T positions, P documents.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, Cut, TokenBatch
from cirilla_cli.data.packing import pack, shuffled
from cirilla_cli.data.shards import TokenShards


@dataclass(frozen=True, slots=True)
class LabelledBatch(TokenBatch):
    """Rows of packed documents, which are numbered row by row; no token is a target."""

    labels_P: Tensor
    """Each document's label."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(super(LabelledBatch, self).to(device), labels_P=self.labels_P.to(device))

    def blank(self) -> Self:
        """A row of padding, and no document."""
        return replace(super(LabelledBatch, self).blank(), labels_P=self.labels_P[:0])


class LabelledText:
    """Documents with labels, packed once into rows that each pass reads in another order."""

    def __init__(self, train: Sequence[TokenShards], val: Sequence[TokenShards], cut: Cut) -> None:
        self.cut = cut
        self._train, self._val = _Texts(train, cut.context_length), _Texts(val, cut.context_length)
        self._bins = pack(self._train.lengths, cut.context_length)
        self._val_bins = pack(self._val.lengths, cut.context_length)
        self.rows_per_epoch, self.truncated = len(self._bins), self._train.truncated
        self.dropped = 0
        """Texts that could not be used; there are none, an empty one still has its begin and end."""
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def step(self, index: int) -> list[LabelledBatch]:
        """The micro-batches of step ``index``."""
        first = index * self.cut.rows_per_step
        places = [divmod(row, len(self._bins)) for row in range(first, first + self.cut.rows_per_step)]
        rows = [int(self._shuffled(epoch)[place]) for epoch, place in places]
        return [self._batch(self._train, [self._bins[r] for r in part]) for part in self.cut.micro_batches(rows)]

    def validation(self, most_tokens: int) -> Iterator[LabelledBatch]:
        """Held-out texts."""
        bins = self._val_bins[: max(1, most_tokens // self.cut.context_length)]
        for part in self.cut.micro_batches(range(len(bins))):
            yield self._batch(self._val, [bins[r] for r in part])

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, shuffled(len(self._bins), seed=self.cut.seed, epoch=epoch)
        return self._order[1]

    def _batch(self, texts: "_Texts", bins: Sequence[Sequence[int]]) -> LabelledBatch:
        shape = len(bins), self.cut.context_length
        tokens_BT, documents_BT = np.full(shape, self.cut.pad_id), np.full(shape, PADDING)
        labels: list[int] = []
        for row, items in enumerate(bins):
            used = 0
            for item in items:
                label, ids = texts.get(item)
                now = slice(used, used + len(ids))
                tokens_BT[row, now], documents_BT[row, now], used = ids, len(labels), now.stop
                labels.append(label)
        return LabelledBatch(
            torch.from_numpy(tokens_BT), torch.full(shape, IGNORE), torch.from_numpy(documents_BT), torch.tensor(labels)
        )


class _Texts:
    """Documents of several shard folders, cut to the context length."""

    def __init__(self, shards: Sequence[TokenShards], context_length: int) -> None:
        self._shards, self._most = shards, context_length
        self._items = [(s, i) for s, shard in enumerate(shards) for i in range(shard.n_documents)]
        # The first number of each document is its label.
        whole = [int(shards[s].lengths[i]) - 1 for s, i in self._items]
        self.lengths = [min(length, context_length) for length in whole]
        self.truncated = sum(length > context_length for length in whole)

    def get(self, item: int) -> tuple[int, NDArray[np.int64]]:
        """A document's label and its tokens."""
        s, i = self._items[item]
        document = self._shards[s].document(i)
        return int(document[0]), document[1 : 1 + self._most].astype(np.int64)
