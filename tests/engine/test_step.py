"""The gradient of a step does not know how the step was cut."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE, PADDING, PairBatch, TokenBatch
from cirilla_cli.engine.config import CrossEntropyConfig, DPOConfig
from cirilla_cli.engine.objectives.base import Forward
from cirilla_cli.engine.step import accumulate_gradients, mean_terms, step_counts
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig

VOCAB, T, ROWS = 29, 12, 4
CPU = torch.device("cpu")


@pytest.fixture
def model() -> Decoder:
    config = DecoderConfig(
        vocab_size=VOCAB, d_model=16, n_layers=2, context_length=T, mixers={"A": AttentionConfig(n_heads=2)},
        mlp=SwiGLUConfig(d_ff=24), init_std=0.4,
    )  # fmt: skip
    return fresh(config, seed=1).double()


def forward_of(model: Decoder) -> Forward:
    def forward(tokens: Tensor, documents: Tensor, readout: Any, tally: Any = None) -> Any:
        return model(tokens, SequenceLayout.packed(documents), readout=readout, tally=tally)

    return forward


def ragged_text() -> list[TokenBatch]:
    """Four rows of one document each, with 11, 1, 0 and 5 counted tokens."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for count in (11, 1, 0, 5):
        tokens = torch.randint(4, VOCAB, (1, T), generator=generator)
        targets = torch.full((1, T), IGNORE)
        targets[0, T - count :] = torch.randint(4, VOCAB, (count,), generator=generator)
        rows.append(TokenBatch(tokens, targets, torch.zeros(1, T, dtype=torch.long)))
    return rows


def ragged_pairs() -> list[PairBatch]:
    """Four rows with 2, 1, 2 and 1 pairs whose answers have between 1 and 3 tokens, and padding behind them."""
    generator = torch.Generator().manual_seed(3)
    rows, pair = [], 0
    for row_lengths in ([(2, 3), (1, 2)], [(3, 1)], [(1, 1), (2, 2)], [(1, 3)]):
        tokens, targets = torch.full((1, T), 3), torch.full((1, T), IGNORE)
        documents = torch.full((1, T), PADDING)
        at = document = 0
        for answers in row_lengths:
            for answer in answers:
                tokens[0, at : at + answer] = torch.randint(4, VOCAB, (answer,), generator=generator)
                targets[0, at : at + answer] = torch.randint(4, VOCAB, (answer,), generator=generator)
                documents[0, at : at + answer] = document
                at, document = at + answer, document + 1
        n = len(row_lengths)
        reference = -3 * torch.rand(n, 2, generator=generator) - 1
        rows.append(PairBatch(tokens, targets, documents, torch.arange(pair, pair + n), reference))
        pair += n
    return rows


def joined(rows: Sequence[Any]) -> Any:
    """One batch of several rows; documents are numbered on, as pairs want it."""
    numbered, first = [], 0
    for row in rows:
        numbered.append(torch.where(row.documents_BT == PADDING, PADDING, row.documents_BT + first))
        first += int(row.documents_BT.max()) + 1
    parts = [torch.cat([r.tokens_BT for r in rows]), torch.cat([r.targets_BT for r in rows]), torch.cat(numbered)]
    if isinstance(rows[0], PairBatch):
        return PairBatch(*parts, torch.cat([r.pairs_P for r in rows]), torch.cat([r.reference_P2 for r in rows]))
    return TokenBatch(*parts)


OBJECTIVES = {
    "plain": CrossEntropyConfig(),
    "smoothed": CrossEntropyConfig(label_smoothing=0.1),
    "z": CrossEntropyConfig(z_loss=0.01),
    "smoothed and z": CrossEntropyConfig(label_smoothing=0.2, z_loss=0.01),
    "dpo": DPOConfig(beta=0.3),
    "dpo with sft": DPOConfig(beta=0.3, sft_weight=0.5, label_smoothing=0.1),
}
CUTS = {
    "whole": [[0, 1, 2, 3]],
    "halves": [[0, 1], [2, 3]],
    "uneven": [[0, 2, 1], [3]],
    "three": [[0], [1, 2], [3]],
    "singles": [[0], [1], [2], [3]],
    "backwards": [[3], [2], [1], [0]],
}


def gradient(model: Decoder, objective: Any, batches: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
    model.zero_grad(set_to_none=True)
    sums, _ = accumulate_gradients(forward_of(model), objective, batches, CPU)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return grads, {name: float(value) for name, value in sums.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_cutting_a_ragged_batch_leaves_the_gradient_alone(name: str, model: Decoder) -> None:
    config = OBJECTIVES[name]
    objective = config.build()
    rows: Sequence[Any] = ragged_pairs() if isinstance(config, DPOConfig) else ragged_text()
    whole, values = gradient(model, objective, [joined(rows)])
    assert set(whole) == {name for name, _ in model.named_parameters()}
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for cut in CUTS.values():
        grads, sums = gradient(model, objective, [joined([rows[i] for i in part]) for part in cut])
        for parameter, expected in whole.items():
            torch.testing.assert_close(grads[parameter], expected, rtol=1e-6, atol=1e-12)
        assert sums == pytest.approx(values, rel=1e-6)


def test_the_gradient_is_that_of_torchs_own_mean(model: Decoder) -> None:
    """Cross-entropy over all rows' logits at once, with smoothing and the squared log-partition by autograd."""
    from cirilla_cli.model.readout import LastLogits

    rows = ragged_text()
    grads, _ = gradient(model, OBJECTIVES["smoothed and z"].build(), rows)
    batch = joined(rows)
    model.zero_grad(set_to_none=True)
    logits = model(batch.tokens_BT, SequenceLayout.packed(batch.documents_BT), readout=LastLogits(T)).flatten(0, 1)
    targets = batch.targets_BT.flatten()
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, label_smoothing=0.2)
    loss = loss + 0.01 * logits.logsumexp(1)[targets != IGNORE].square().mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-6, atol=1e-12)


def test_counts_are_sums_over_the_whole_step() -> None:
    assert step_counts(OBJECTIVES["plain"].build(), ragged_text()) == {"tokens": 17.0, "rows": 4.0, "positions": 48.0}
    counts = step_counts(OBJECTIVES["dpo"].build(), ragged_pairs())
    assert counts == {"pairs": 6.0, "chosen_tokens": 10.0, "tokens": 22.0, "rows": 4.0, "positions": 22.0}


def test_a_step_without_a_counted_token_has_no_gradient_and_no_loss(model: Decoder) -> None:
    grads, sums = gradient(model, OBJECTIVES["smoothed and z"].build(), [ragged_text()[2]])
    assert sums["loss"] == 0.0
    assert all(float(g.abs().max()) == 0.0 for g in grads.values())


def test_means_are_over_everything_not_means_of_means(model: Decoder) -> None:
    rows = ragged_text()
    objective = OBJECTIVES["plain"].build()
    whole = mean_terms(forward_of(model), objective, [joined(rows)], CPU)["nll"]
    cut = mean_terms(forward_of(model), objective, rows, CPU)["nll"]
    each = [mean_terms(forward_of(model), objective, [row], CPU)["nll"] for row in rows]
    assert cut == pytest.approx(whole, rel=1e-9)
    assert cut == pytest.approx((11 * each[0] + each[1] + 5 * each[3]) / 17, rel=1e-9)
