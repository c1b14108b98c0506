"""Rows of tokens as tensors: what a training step reads, found again from the step's number alone."""

# Shape suffixes: B rows, T positions, P pairs.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cirilla_cli.data.packing import interleave, pack, shuffled
from cirilla_cli.data.shards import TokenShards

IGNORE = -100
"""Target of a position that does not count."""

PADDING = -1
"""Document number of padding."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of packed documents: ids, what each position should predict, and which document it belongs to."""

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(
            self,
            tokens_BT=self.tokens_BT.to(device),
            targets_BT=self.targets_BT.to(device),
            documents_BT=self.documents_BT.to(device),
        )

    def blank(self) -> Self:
        """A row of padding, which counts nowhere."""
        return replace(
            self,
            tokens_BT=self.tokens_BT[:1],
            targets_BT=torch.full_like(self.targets_BT[:1], IGNORE),
            documents_BT=torch.full_like(self.documents_BT[:1], PADDING),
        )


@dataclass(frozen=True, slots=True)
class PairBatch(TokenBatch):
    """Rows of packed pairs: document 2p of the batch is pair p's better answer, 2p + 1 its worse one."""

    pairs_P: Tensor
    """Which pair of the data set each is; -1 for none."""
    reference_P2: Tensor
    """The starting model's log-probabilities of the better and the worse answer; NaN until they were computed."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved = super(PairBatch, self).to(device)
        return replace(moved, pairs_P=self.pairs_P.to(device), reference_P2=self.reference_P2.to(device))

    def blank(self) -> Self:
        """A row of padding, and no pair."""
        return replace(super(PairBatch, self).blank(), pairs_P=self.pairs_P[:0], reference_P2=self.reference_P2[:0])


B = TypeVar("B", bound=TokenBatch)


class BatchSource(Protocol[B]):
    """Endless training data whose every step is a pure function of its number, so that resuming needs no state.

    Every rank can compute the whole step's counts, because the plan depends on seed and step alone.
    """

    rows_per_epoch: int
    """Rows in one pass over the data."""

    def step(self, index: int) -> list[B]:
        """The micro-batches of optimizer step ``index``, counted from 0."""

    def validation(self, most_tokens: int) -> Iterator[B]:
        """Held-out batches of about ``most_tokens`` in all; always the same ones."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How steps are cut."""

    context_length: int
    rows_per_step: int
    rows_per_micro_batch: int
    seed: int
    pad_id: int

    def micro_batches(self, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        """A step's rows in forward passes."""
        for start in range(0, len(rows), self.rows_per_micro_batch):
            yield rows[start : start + self.rows_per_micro_batch]


@dataclass(frozen=True, slots=True)
class Mix:
    """A source of text and its share, before and while the learning rate decays."""

    train: TokenShards
    val: TokenShards
    weight: float
    decay_weight: float


class PackedText:
    """Running text of several sources, cut into rows; documents know nothing of their neighbours."""

    def __init__(self, mixes: Sequence[Mix], cut: Cut, *, steps: int, decay_start: int) -> None:
        self.mixes, self.cut = mixes, cut
        T = cut.context_length
        self._rows = [max(1, mix.train.n_tokens // T) for mix in mixes]
        self.rows_per_epoch = sum(self._rows)
        rows, decay_row = steps * cut.rows_per_step, decay_start * cut.rows_per_step
        if len(mixes) == 1:
            self._source = np.zeros(rows, dtype=np.int16)
        else:
            late = np.arange(rows) >= decay_row
            self._source = interleave(
                [np.where(late, mix.decay_weight, mix.weight).astype(np.float64) for mix in mixes]
            )
        # How many rows of its source came before each row.
        self._turn = np.zeros(rows, dtype=np.int64)
        for s in range(len(mixes)):
            mine = self._source == s
            self._turn[mine] = np.arange(int(mine.sum()))
        self._order: dict[tuple[int, int], NDArray[np.int64]] = {}

    def step(self, index: int) -> list[TokenBatch]:
        """The micro-batches of step ``index``."""
        first = index * self.cut.rows_per_step
        rows = range(first, first + self.cut.rows_per_step)
        return [_text_batch([self._row(row) for row in part]) for part in self.cut.micro_batches(rows)]

    def validation(self, most_tokens: int) -> Iterator[TokenBatch]:
        """The held-out text of all sources, one after another, in rows."""
        T, size = self.cut.context_length, self.cut.rows_per_micro_batch
        for mix in self.mixes:
            n = min(mix.val.n_tokens // T, max(1, most_tokens // T // len(self.mixes)))
            rows = [mix.val.read(row * T, T + 1) for row in range(n)]
            if 0 < mix.val.n_tokens < T:
                rows = [mix.val.read(0, mix.val.n_tokens)]
            for start in range(0, len(rows), size):
                yield _text_batch(rows[start : start + size])

    def _row(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        s, turn, T = int(self._source[row]), int(self._turn[row]), self.cut.context_length
        epoch, place = divmod(turn, self._rows[s])
        if (s, epoch) not in self._order:
            self._order = {key: order for key, order in self._order.items() if key[0] != s}
            self._order[s, epoch] = shuffled(self._rows[s], seed=self.cut.seed + s, epoch=epoch)
        # Each pass begins elsewhere, so that rows are not cut at the same places again.
        shift = int(np.random.Generator(np.random.PCG64([self.cut.seed, s, epoch])).integers(T))
        return self.mixes[s].train.read(int(self._order[s, epoch][place]) * T + shift, T + 1)


def _text_batch(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> TokenBatch:
    """Next-token targets within each document; a document's last token predicts nothing."""
    ids, documents = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    targets = np.where(documents[:, 1:] == documents[:, :-1], ids[:, 1:], IGNORE)
    return TokenBatch(
        torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets), torch.from_numpy(documents[:, :-1].copy())
    )


class _Bins:
    """Items packed once into rows; each pass reads the rows in another order. Isolation makes neighbours immaterial."""

    def __init__(self, lengths: Sequence[int], cut: Cut) -> None:
        self.cut = cut
        self.bins = pack(lengths, cut.context_length)
        self._last: tuple[int, NDArray[np.int64]] | None = None

    def rows_of_step(self, index: int) -> list[int]:
        first, n = index * self.cut.rows_per_step, len(self.bins)
        rows = []
        for row in range(first, first + self.cut.rows_per_step):
            epoch, place = divmod(row, n)
            rows.append(int(self._order(epoch)[place]))
        return rows

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, shuffled(len(self.bins), seed=self.cut.seed, epoch=epoch)
        return self._last[1]


class Conversations:
    """Chats packed into rows; the assistant's tokens are the targets."""

    def __init__(self, train: Sequence[TokenShards], val: Sequence[TokenShards], cut: Cut) -> None:
        self.cut = cut
        self._train = _Documents(train, cut.context_length)
        self._val = _Documents(val, cut.context_length)
        self._bins = _Bins(self._train.lengths, cut)
        self._val_bins = pack(self._val.lengths, cut.context_length)
        self.rows_per_epoch = len(self._bins.bins)
        self.truncated, self.dropped = self._train.truncated, self._train.dropped

    def step(self, index: int) -> list[TokenBatch]:
        """The micro-batches of step ``index``."""
        rows = self._bins.rows_of_step(index)
        return [self._batch(self._train, [self._bins.bins[r] for r in part]) for part in self.cut.micro_batches(rows)]

    def validation(self, most_tokens: int) -> Iterator[TokenBatch]:
        """Held-out chats."""
        bins = self._val_bins[: max(1, most_tokens // self.cut.context_length)]
        for start in range(0, len(bins), self.cut.rows_per_micro_batch):
            yield self._batch(self._val, bins[start : start + self.cut.rows_per_micro_batch])

    def _batch(self, documents: "_Documents", bins: Sequence[Sequence[int]]) -> TokenBatch:
        rows = _Rows(len(bins), self.cut)
        for row, items in enumerate(bins):
            for item in items:
                rows.put(row, *documents.get(item))
        return rows.batch()


class _Documents:
    """Documents of several shard folders that have something to learn within the context length, cut to it."""

    def __init__(self, shards: Sequence[TokenShards], context_length: int) -> None:
        self._shards, self._most = shards, context_length + 1
        self._items: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        self.truncated = self.dropped = 0
        for s, shard in enumerate(shards):
            for i in range(shard.n_documents):
                length = min(int(shard.lengths[i]), self._most)
                if length < 2 or not shard.counted(i)[1:length].any():
                    self.dropped += 1
                    continue
                self.truncated += length < int(shard.lengths[i])
                self._items.append((s, i))
                self.lengths.append(length - 1)

    def get(self, item: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids of a document and which of them are targets."""
        s, i = self._items[item]
        shard = self._shards[s]
        return shard.document(i)[: self._most].astype(np.int64), shard.counted(i)[: self._most]


class _Rows:
    """Rows being filled with documents from the left."""

    def __init__(self, n: int, cut: Cut) -> None:
        shape = n, cut.context_length
        self._tokens, self._targets = np.full(shape, cut.pad_id), np.full(shape, IGNORE)
        self._documents = np.full(shape, PADDING)
        self._used = [0] * n
        self._next_document = 0

    def put(self, row: int, ids: NDArray[np.int64], counted: NDArray[np.bool_]) -> int:
        """Append a document to a row; returns its number within the batch."""
        now = slice(self._used[row], self._used[row] + len(ids) - 1)
        self._tokens[row, now] = ids[:-1]
        self._targets[row, now] = np.where(counted[1:], ids[1:], IGNORE)
        self._documents[row, now] = self._next_document
        self._used[row] = now.stop
        self._next_document += 1
        return self._next_document - 1

    def batch(self) -> TokenBatch:
        """The rows as tensors; always of the full length, because kernels are chosen, and kept, for each shape."""
        return TokenBatch(*(torch.from_numpy(a) for a in (self._tokens, self._targets, self._documents)))


class Preferences:
    """Pairs of answers to one prompt; both stand in the same row, as two documents."""

    def __init__(self, train: Sequence[TokenShards], val: Sequence[TokenShards], cut: Cut) -> None:
        self.cut = cut
        self._train, self._val = _Pairs(train, cut.context_length), _Pairs(val, cut.context_length)
        self._bins = _Bins(self._train.lengths, cut)
        self._val_bins = pack(self._val.lengths, cut.context_length)
        self.rows_per_epoch = len(self._bins.bins)
        self.truncated, self.dropped = self._train.truncated, self._train.dropped
        self.n_pairs, self.n_val_pairs = len(self._train.lengths), len(self._val.lengths)
        self._reference = np.full((self.n_pairs, 2), np.nan, dtype=np.float32)
        self._val_reference = np.full((self.n_val_pairs, 2), np.nan, dtype=np.float32)

    def step(self, index: int) -> list[PairBatch]:
        """The micro-batches of step ``index``."""
        rows = self._bins.rows_of_step(index)
        return [self._train_batch([self._bins.bins[r] for r in part]) for part in self.cut.micro_batches(rows)]

    def validation(self, most_tokens: int) -> Iterator[PairBatch]:
        """Held-out pairs."""
        most = max(1, most_tokens // self.cut.context_length)
        for bins in self._parts(self._val_bins[:most]):
            yield self._batch(self._val, self._val_reference, bins)

    def every_pair(self) -> Iterator[PairBatch]:
        """Each training pair once, in rows packed as the steps' are."""
        for bins in self._parts(self._bins.bins):
            yield self._train_batch(bins)

    def every_held_out_pair(self) -> Iterator[PairBatch]:
        """Each held-out pair once."""
        for bins in self._parts(self._val_bins):
            yield self._batch(self._val, self._val_reference, bins)

    def set_reference(self, train_P2: NDArray[np.float32], val_P2: NDArray[np.float32]) -> None:
        """Give every pair the starting model's log-probabilities."""
        self._reference, self._val_reference = train_P2, val_P2

    def _parts(self, bins: Sequence[list[int]]) -> Iterator[Sequence[list[int]]]:
        for start in range(0, len(bins), self.cut.rows_per_micro_batch):
            yield bins[start : start + self.cut.rows_per_micro_batch]

    def _train_batch(self, bins: Sequence[list[int]]) -> PairBatch:
        return self._batch(self._train, self._reference, bins)

    def _batch(self, pairs: "_Pairs", reference: NDArray[np.float32], bins: Sequence[list[int]]) -> PairBatch:
        rows, items = _Rows(len(bins), self.cut), [item for bin_ in bins for item in bin_]
        for row, bin_ in enumerate(bins):
            for item in bin_:
                for ids, counted in pairs.get(item):
                    rows.put(row, ids, counted)
        batch = rows.batch()
        return PairBatch(
            batch.tokens_BT, batch.targets_BT, batch.documents_BT,
            torch.tensor(items), torch.from_numpy(reference[items].copy()),
        )  # fmt: skip


class _Pairs:
    """Pairs that fit a row; of one that does not, both answers are cut to half a row each."""

    def __init__(self, shards: Sequence[TokenShards], context_length: int) -> None:
        self._shards, self._context = shards, context_length
        self._items: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        self.truncated = self.dropped = 0
        for s, shard in enumerate(shards):
            for i in range(0, shard.n_documents - 1, 2):
                parts = [self._cut(shard, i), self._cut(shard, i + 1)]
                if any(not counted[1:].any() for _, counted in parts):
                    self.dropped += 1
                    continue
                self.truncated += not self._fits(shard, i)
                self._items.append((s, i))
                self.lengths.append(sum(len(ids) - 1 for ids, _ in parts))

    def get(self, item: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """The better and the worse answer, each behind the prompt."""
        s, i = self._items[item]
        return [self._cut(self._shards[s], i), self._cut(self._shards[s], i + 1)]

    def _cut(self, shard: TokenShards, i: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        most = int(shard.lengths[i]) if self._fits(shard, i) else self._context // 2 + 1
        return shard.document(i)[:most].astype(np.int64), shard.counted(i)[:most]

    def _fits(self, shard: TokenShards, i: int) -> bool:
        """Whether the pair that document ``i`` belongs to stands in one row uncut."""
        return int(shard.lengths[i | 1] + shard.lengths[i & ~1]) - 2 <= self._context
