"""Masked text: which tokens are hidden, by how many, and that nothing but seed and step decides."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cirilla_cli.data.batches import IGNORE, Cut, Mix, PackedText
from cirilla_cli.data.config import MaskedTextConfig
from cirilla_cli.data.masked import MaskedText, Masking
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer
from cirilla_cli.data.shards import TokenShards
from cirilla_cli.data.tokenizer import MaskToken
from cirilla_cli.errors import CirillaError

Make = Callable[..., TokenShards]
T, SPECIAL, VOCAB, MASK = 16, 7, 400, 6
CUT = Cut(context_length=T, rows_per_step=6, rows_per_micro_batch=6, seed=3, pad_id=3)
BERT = MaskedTextConfig(sources={}, share=0.15, as_mask=0.8, as_random=0.1)
MODERN = MaskedTextConfig(sources={}, share=0.3)


class Ids:
    """Ids of a vocabulary whose first seven stand for no text."""

    vocab_size = VOCAB
    mask: MaskToken | None = MaskToken("<mask>", MASK)

    def piece_bytes(self, id: int) -> bytes:
        return b"" if id < SPECIAL else b"x"


def masking(config: MaskedTextConfig, tokenizer: Any = None) -> Masking:
    return Masking.of(config, tokenizer or Ids())


def within(count: int, trials: int, share: float) -> bool:
    """Whether a count is within four standard deviations of a binomial's mean."""
    return abs(count - trials * share) <= 4 * math.sqrt(trials * share * (1 - share))


@pytest.mark.parametrize(
    ("config", "shares"), [(BERT, (0.15, 0.8, 0.1)), (MODERN, (0.3, 1.0, 0.0))], ids=["bert", "modernbert"]
)
def test_as_many_tokens_as_the_section_says(config: MaskedTextConfig, shares: tuple[float, float, float]) -> None:
    """Chosen of all plain ones; of those, hidden, changed and kept."""
    rng = np.random.default_rng(0)
    ids = rng.integers(VOCAB, size=200_000)
    seen, targets = masking(config).row(ids, [1, 2])
    plain, chosen = ids >= SPECIAL, targets != IGNORE
    share, as_mask, as_random = shares
    assert within(int(chosen.sum()), int(plain.sum()), share)
    n, hidden, kept = int(chosen.sum()), chosen & (seen == MASK), chosen & (seen == ids)
    assert within(int(hidden.sum()), n, as_mask)
    # One random token in so many is the very one that stood there.
    same = as_random / (VOCAB - SPECIAL)
    assert within(int((chosen & ~hidden & ~kept).sum()), n, as_random - same)
    assert within(int(kept.sum()), n, 1 - as_mask - as_random + same)
    assert (targets[chosen] == ids[chosen]).all()
    assert (seen[~chosen] == ids[~chosen]).all()
    places = np.flatnonzero(chosen) / len(ids)
    assert abs(places.mean() - 0.5) < 0.01


def test_control_tokens_are_neither_hidden_nor_put_in() -> None:
    ids = np.random.default_rng(0).integers(VOCAB, size=50_000)
    # A recipe may not hide all; here every token that can be chosen is to be.
    config = MaskedTextConfig(sources={}, as_mask=0.5, as_random=0.5).model_copy(update={"share": 1.0})
    seen, targets = masking(config).row(ids, [0])
    assert ((targets == IGNORE) == (ids < SPECIAL)).all()
    assert (seen[ids < SPECIAL] == ids[ids < SPECIAL]).all()
    put_in = seen[(ids >= SPECIAL) & (seen != MASK)]
    assert put_in.min() >= SPECIAL
    assert len(np.unique(put_in)) == VOCAB - SPECIAL


def test_ours_knows_its_control_tokens(tokenizer: SentencePieceTokenizer) -> None:
    made = masking(MODERN, tokenizer)
    assert tokenizer._processor.id_to_piece(made.mask_id) == "<mask>"
    assert not made.is_plain[:16].any()
    assert made.is_plain[16:].all()


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    bare = Ids()
    bare.mask = None
    with pytest.raises(CirillaError, match="no mask token"):
        masking(MODERN, bare)


@pytest.fixture
def make_text(make_shards: Make) -> Callable[..., PackedText]:
    """Rows of twelve documents, cut as asked."""
    train, val = (make_shards([[8 + (3 * n + i) % 99 for i in range(20)] for n in range(k)]) for k in (12, 3))

    def make(**cut: Any) -> PackedText:
        return PackedText([Mix(train, val, 1.0, 1.0)], replace(CUT, **cut), steps=40, decay_start=20)

    return make


def as_lists(batches: Any) -> list[list[list[int]]]:
    """Tokens, targets and documents, whole, whatever the cut into micro-batches."""
    every = list(batches)
    return [torch.cat([getattr(b, n) for b in every]).tolist() for n in ("tokens_BT", "targets_BT", "documents_BT")]


def test_a_step_is_a_function_of_seed_and_number_alone(make_text: Callable[..., PackedText]) -> None:
    """In another order, in a new object, in other micro-batches."""
    source, again = MaskedText(make_text(), masking(BERT)), MaskedText(make_text(), masking(BERT))
    in_order = {i: as_lists(source.step(i)) for i in range(30)}
    for i in (7, 0, 29, 7):
        assert as_lists(again.step(i)) == in_order[i]
        for size in (1, 4):
            cut = MaskedText(make_text(rows_per_micro_batch=size), masking(BERT))
            assert as_lists(cut.step(i)) == in_order[i]
            assert as_lists(cut.validation(99)) == as_lists(source.validation(99))
    other = MaskedText(make_text(seed=4), masking(BERT))
    assert as_lists(other.step(0))[1] != in_order[0][1]
    assert len({str(step[1]) for step in in_order.values()}) == 30


def test_targets_are_the_text_itself(make_text: Callable[..., PackedText]) -> None:
    text, source = make_text(), MaskedText(make_text(), masking(BERT))
    for plain, hidden in zip(text.step(3), source.step(3), strict=True):
        chosen = hidden.targets_BT != IGNORE
        assert torch.equal(hidden.targets_BT[chosen], plain.tokens_BT[chosen])
        assert torch.equal(hidden.tokens_BT[~chosen], plain.tokens_BT[~chosen])
        assert torch.equal(hidden.documents_BT, plain.documents_BT)


def test_a_row_hides_other_tokens_in_its_next_pass(make_text: Callable[..., PackedText]) -> None:
    source = MaskedText(make_text(), masking(MODERN))
    n = source.rows_per_epoch
    hidden = [row for i in range(3 * n // 6 + 1) for batch in source.step(i) for row in (batch.targets_BT == IGNORE)]
    assert len({str(row.tolist()) for row in hidden}) == len(hidden)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"share": 0.0}, "greater than 0"),
        ({"share": 1.0}, "less than 1"),
        ({"as_mask": 0.0, "as_random": 0.0}, "nothing is hidden"),
        ({"as_mask": 0.9, "as_random": 0.2}, "more than all together"),
    ],
)
def test_shares_that_cannot_be_are_refused(keys: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MaskedTextConfig(sources={}, **keys)
