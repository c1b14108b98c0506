"""The first loss of a run the slow way: documents found again in the shards, each alone through the model."""

# Shape suffixes: B rows, T positions, V vocabulary.

from collections.abc import Iterator
from pathlib import Path

import cells
import numpy as np
import torch
from numpy.typing import NDArray

from cirilla_cli.data.batches import PADDING, TokenBatch
from cirilla_cli.data.shards import TokenShards
from cirilla_cli.engine.build import build, open_inputs
from cirilla_cli.engine.config import Place
from cirilla_cli.engine.parallel import ALONE
from cirilla_cli.engine.saving import Sitting
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.progress import Silent

Ids = NDArray[np.int64]


@torch.no_grad()
def first_loss(cell: cells.Cell, out: Path, data: Path) -> float:
    """Mean negative log-likelihood of what counts in the first step's rows; of better answers, for preferences."""
    job = cells.job_of(cell, out, data, Place())
    trainer = build(job, None, None, open_inputs(job, None, out / "shards", Silent()), Sitting(), ALONE, Silent())
    kind = {"sft": "chat", "dpo": "preference"}.get(cell["objective"], "text")
    shards, [batch] = TokenShards.open(data / "shards" / kind), trainer.source.step(0)
    total = count = 0.0
    for seen, said in _parts(cell["objective"], batch, shards):
        tokens = torch.from_numpy(seen)[None]
        logits_V = trainer.model(tokens, SequenceLayout.rows(*tokens.shape), readout=LastLogits(len(seen)))[0].double()
        for place, target in said.items():
            total -= float(logits_V[place].log_softmax(0)[target])
            count += 1
    return total / count


def _parts(objective: str, batch: TokenBatch, shards: TokenShards) -> Iterator[tuple[Ids, dict[int, int]]]:
    """What the model sees of each document, and what it is to say at which place."""
    for tokens_T, documents_T, targets_T in zip(
        batch.tokens_BT.numpy(), batch.documents_BT.numpy(), batch.targets_BT.numpy(), strict=True
    ):
        row = _row_of_text(tokens_T, shards) if objective in ("pretrain", "mlm") else None
        for number in np.unique(documents_T[documents_T != PADDING]):
            places = np.flatnonzero(documents_T == number)
            if row is None:
                if objective == "sft" or number % 2 == 0:
                    yield tokens_T[places], _said(tokens_T[places], shards)
            elif objective == "pretrain":
                ids, owners = row
                follows = {i: int(ids[p + 1]) for i, p in enumerate(places) if owners[p + 1] == owners[p]}
                yield tokens_T[places], follows
            else:
                hidden = {i: int(row[0][p]) for i, p in enumerate(places) if targets_T[p] >= 0}
                yield tokens_T[places], hidden


def _row_of_text(tokens_T: Ids, shards: TokenShards) -> tuple[Ids, Ids]:
    """The stretch of the corpus that a row is, or was before tokens were hidden, with one more behind it."""
    documents = [shards.document(i).astype(np.int64) for i in range(shards.n_documents)]
    ids, owners = np.concatenate(documents), np.repeat(np.arange(len(documents)), [len(d) for d in documents])
    ids, owners = np.append(ids, ids), np.append(owners, owners + len(documents))
    T = len(tokens_T)
    alike = [int((ids[p : p + T] == tokens_T).sum()) for p in range(len(ids) - T)]
    best = int(np.argmax(alike))
    assert alike[best] > T / 2, "the row is no part of the corpus"
    return ids[best : best + T + 1], owners[best : best + T + 1]


def _said(seen: Ids, shards: TokenShards) -> dict[int, int]:
    """The targets of a chat or an answer whose tokens but the last are ``seen``, as the shards mark them."""
    for i in range(shards.n_documents):
        ids = shards.document(i).astype(np.int64)[: len(seen) + 1]
        if len(ids) == len(seen) + 1 and (ids[:-1] == seen).all():
            counted = shards.counted(i)
            return {p: int(ids[p + 1]) for p in range(len(seen)) if counted[p + 1]}
    raise AssertionError("a document that is not in the shards")
