"""Batches: found again from the step's number alone, with targets that never leave their document."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from cirilla_cli.data.batches import (
    IGNORE,
    PADDING,
    BatchSource,
    Conversations,
    Cut,
    Mix,
    PackedText,
    PairBatch,
    Preferences,
    TokenBatch,
)
from cirilla_cli.data.shards import TokenShards

T, LONG = 16, 1000
CUT = Cut(context_length=T, rows_per_step=5, rows_per_micro_batch=2, seed=3, pad_id=3)

Make = Callable[..., TokenShards]


def document(number: int, length: int) -> list[int]:
    """Tokens that say where they stand: document * 1000 + place."""
    return [number * LONG + place for place in range(length)]


def texts(lengths: Sequence[int]) -> list[list[int]]:
    return [document(number, length) for number, length in enumerate(lengths)]


def chats(lengths: Sequence[int], first_trained: int = 2) -> list[tuple[list[int], list[bool]]]:
    return [(document(n, k), [place >= first_trained for place in range(k)]) for n, k in enumerate(lengths)]


def pairs(lengths: Sequence[tuple[int, int]], prompt: int = 3) -> list[tuple[list[int], list[bool]]]:
    """Pair n: documents 2n and 2n + 1, which share a prompt and then say their own places."""
    found = []
    for n, both in enumerate(lengths):
        for side, length in enumerate(both):
            ids = document(2 * n, prompt) + document(2 * n + side, length)[prompt:]
            found.append((ids, [place >= prompt for place in range(length)]))
    return found


LENGTHS = [7, 30, 3, 16, 17, 5, 40, 9, 2, 12, 21, 8]
PAIRS = [(6, 8), (5, 5), (9, 4), (7, 7), (4, 6), (8, 8)]


@pytest.fixture(params=["text", "mixture", "chats", "pairs"])
def make_source(request: pytest.FixtureRequest, make_shards: Make) -> Callable[[], BatchSource[TokenBatch]]:
    """Makes a source of each kind, anew each time, over the same shards."""
    big, train, val = make_shards(texts(LENGTHS)), make_shards(texts(LENGTHS[::-1])), make_shards(texts([20, 9, 13]))
    said, heard = make_shards(chats(LENGTHS), kind="chat"), make_shards(chats([9, 5]), kind="chat")
    better, held = make_shards(pairs(PAIRS), kind="preference"), make_shards(pairs(PAIRS[:2]), kind="preference")
    mixes = [Mix(train, val, 3.0, 1.0), Mix(big, val, 1.0, 3.0)]
    makers: dict[str, Callable[[], BatchSource[TokenBatch]]] = {
        "text": lambda: PackedText(mixes[:1], CUT, steps=40, decay_start=20),
        "mixture": lambda: PackedText(mixes, CUT, steps=40, decay_start=20),
        "chats": lambda: Conversations([said], [heard], CUT),
        "pairs": lambda: Preferences([better], [held], CUT),
    }
    return makers[request.param]


def as_bytes(batches: Sequence[TokenBatch]) -> list[bytes]:
    return [getattr(batch, field.name).numpy().tobytes() for batch in batches for field in fields(batch)]


def test_a_step_is_a_function_of_its_number_alone(make_source: Callable[[], BatchSource[TokenBatch]]) -> None:
    """In order, in another order, and in a new object."""
    source, order = make_source(), [7, 0, 33, 7, 1, 39, 2]
    in_order = {i: as_bytes(source.step(i)) for i in range(40)}
    for other in (source, make_source()):
        assert all(as_bytes(other.step(i)) == in_order[i] for i in order)
    assert len({b"".join(step) for step in in_order.values()}) > 1


def test_validation_is_always_the_same(make_source: Callable[[], BatchSource[TokenBatch]]) -> None:
    source = make_source()
    first = as_bytes([*source.validation(64)])
    source.step(3)
    assert first == as_bytes([*source.validation(64)]) == as_bytes([*make_source().validation(64)])
    assert first


def test_a_step_has_its_rows_in_micro_batches_of_the_full_length(
    make_source: Callable[[], BatchSource[TokenBatch]],
) -> None:
    for step in range(6):
        assert [tuple(batch.tokens_BT.shape) for batch in make_source().step(step)] == [(2, T), (2, T), (1, T)]


def test_how_a_step_is_cut_changes_nothing_but_the_cuts(make_shards: Make) -> None:
    shards = make_shards(texts(LENGTHS))
    rows = []
    for size in (1, 2, 5):
        cut = replace(CUT, rows_per_micro_batch=size)
        step = PackedText([Mix(shards, shards, 1.0, 1.0)], cut, steps=4, decay_start=4).step(2)
        rows.append(torch.cat([batch.tokens_BT for batch in step]))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def positions(batches: Iterator[TokenBatch] | Sequence[TokenBatch]) -> Iterator[tuple[int, int, int]]:
    """Token, target and document of every position that is not padding."""
    for batch in batches:
        flat = (x.flatten().tolist() for x in (batch.tokens_BT, batch.targets_BT, batch.documents_BT))
        yield from (p for p in zip(*flat, strict=True) if p[2] != PADDING)


# Running text


@pytest.mark.parametrize("lengths", [LENGTHS, [30], [5], [3, 4], [17, 2]], ids=str)
def test_targets_of_text_are_the_next_token_of_the_same_document(make_shards: Make, lengths: list[int]) -> None:
    """Also where the corpus is one document, or shorter than a row, so that a row meets it again."""
    shards = make_shards(texts(lengths))
    source = PackedText([Mix(shards, shards, 1.0, 1.0)], CUT, steps=8, decay_start=8)
    seen = 0
    for batch in [*(b for step in range(8) for b in source.step(step)), *source.validation(64)]:
        for token, target, _ in positions([batch]):
            last = token % LONG == lengths[token // LONG] - 1
            assert target in ((IGNORE,) if last else (IGNORE, token + 1))
            seen += target != IGNORE
    assert seen


def test_only_the_last_token_of_a_document_has_no_target(make_shards: Make) -> None:
    shards = make_shards(texts(LENGTHS))
    source = PackedText([Mix(shards, shards, 1.0, 1.0)], CUT, steps=8, decay_start=8)
    for token, target, _ in positions([b for step in range(8) for b in source.step(step)]):
        assert (target == IGNORE) == (token % LONG == LENGTHS[token // LONG] - 1)


@pytest.mark.parametrize("lengths", [[30], [5], [20, 4]], ids=str)
def test_a_document_met_again_in_a_row_is_another_document(make_shards: Make, lengths: list[int]) -> None:
    shards = make_shards(texts(lengths))
    source = PackedText([Mix(shards, shards, 1.0, 1.0)], CUT, steps=8, decay_start=8)
    for batch in (b for step in range(8) for b in source.step(step)):
        for tokens, documents in zip(batch.tokens_BT.tolist(), batch.documents_BT.tolist(), strict=True):
            for (a, d), (b, e) in pairwise(zip(tokens, documents, strict=True)):
                assert (d == e) == (b == a + 1)


def test_a_pass_over_the_text_reads_every_row_once_and_the_next_is_cut_elsewhere(make_shards: Make) -> None:
    shards = make_shards([document(0, 20 * T)])
    source = PackedText([Mix(shards, shards, 1.0, 1.0)], replace(CUT, rows_per_step=20), steps=2, decay_start=2)
    starts = []
    for step in range(2):
        tokens = Counter(token for token, _, _ in positions(source.step(step)))
        assert tokens == Counter(range(20 * T))
        starts.append({int(row[0]) % T for batch in source.step(step) for row in batch.tokens_BT})
    assert starts[0] != starts[1]


def test_a_mixture_has_its_shares_before_and_while_the_rate_decays(make_shards: Make) -> None:
    one, two = make_shards([document(0, 900)]), make_shards([document(1, 900)])
    source = PackedText([Mix(one, one, 3.0, 1.0), Mix(two, two, 1.0, 4.0)], CUT, steps=32, decay_start=16)
    for steps, share in ((range(16), 0.25), (range(16, 32), 0.8)):
        tokens = [token // LONG for step in steps for token, _, _ in positions(source.step(step))]
        assert sum(tokens) / len(tokens) == pytest.approx(share, abs=1 / 80 + 1e-9)


# Conversations


def test_every_conversation_is_trained_on_once_a_pass_and_only_where_it_counts(make_shards: Make) -> None:
    lengths = [n for n in LENGTHS if n <= T + 1]
    source = Conversations([make_shards(chats(lengths), kind="chat")], [], replace(CUT, rows_per_step=1))
    rows = [b for step in range(source.rows_per_epoch) for b in source.step(step)]
    found = Counter(target for _, target, _ in positions(rows) if target != IGNORE)
    assert found == Counter(token for ids, mask in chats(lengths) for token, m in zip(ids, mask, strict=True) if m)
    for token, target, _ in positions(rows):
        assert target in (IGNORE, token + 1)


def test_conversations_in_a_row_have_numbers_of_their_own_and_padding_has_none(make_shards: Make) -> None:
    source = Conversations([make_shards(chats(LENGTHS), kind="chat")], [], CUT)
    for batch in source.step(0):
        owners: dict[int, set[int]] = {}
        for token, _, number in positions([batch]):
            owners.setdefault(number, set()).add(token // LONG)
        assert all(len(owner) == 1 for owner in owners.values())
        padded = batch.documents_BT == PADDING
        assert (batch.tokens_BT[padded] == 3).all()
        assert (batch.targets_BT[padded] == IGNORE).all()


def test_long_conversations_are_cut_and_dropped_where_no_target_is_left(make_shards: Make) -> None:
    late = (document(0, 40), [place >= 30 for place in range(40)])  # the answer begins beyond the context
    long = (document(1, 40), [place >= 10 for place in range(40)])
    exact = (document(2, T + 1), [place >= 2 for place in range(T + 1)])
    silent = (document(3, 5), [place < 1 for place in range(5)])  # only its first token, which nothing predicts
    shards = make_shards([late, long, exact, silent], kind="chat")
    source = Conversations([shards], [], replace(CUT, rows_per_step=1))
    assert (source.dropped, source.truncated, source.rows_per_epoch) == (2, 1, 2)
    rows = [b for step in range(2) for b in source.step(step)]
    found = sorted(target for _, target, _ in positions(rows) if target != IGNORE)
    assert found == [*range(LONG + 10, LONG + T + 1), *range(2 * LONG + 2, 2 * LONG + T + 1)]


def test_validation_holds_the_held_out_conversations(make_shards: Make) -> None:
    held = make_shards(chats([9, 5, 11]), kind="chat")
    source = Conversations([make_shards(chats(LENGTHS), kind="chat")], [held], CUT)
    targets = {target for _, target, _ in positions(source.validation(10_000)) if target != IGNORE}
    assert targets == {token for ids, mask in chats([9, 5, 11]) for token, m in zip(ids, mask, strict=True) if m}
    assert sum(batch.tokens_BT.numel() for batch in source.validation(1)) == T


# Preferences


def answers(batch: PairBatch, number: int) -> tuple[list[int], list[int]]:
    """Tokens and targets of one document of a batch."""
    here = batch.documents_BT == number
    return batch.tokens_BT[here].tolist(), [t for t in batch.targets_BT[here].tolist() if t != IGNORE]


def test_documents_2p_and_2p_plus_1_are_the_answers_of_pair_p(make_shards: Make) -> None:
    source = Preferences([make_shards(pairs(PAIRS), kind="preference")], [], CUT)
    seen: Counter[int] = Counter()
    for batch in source.every_pair():
        assert int(batch.documents_BT.max()) == 2 * len(batch.pairs_P) - 1
        for p, pair in enumerate(batch.pairs_P.tolist()):
            seen[pair] += 1
            for side in (0, 1):
                ids, mask = pairs(PAIRS)[2 * pair + side]
                tokens, targets = answers(batch, 2 * p + side)
                assert tokens == ids[:-1]
                assert targets == [token for token, m in zip(ids, mask, strict=True) if m]
    assert seen == Counter(range(len(PAIRS)))


def test_both_answers_stand_in_one_row(make_shards: Make) -> None:
    source = Preferences([make_shards(pairs(PAIRS), kind="preference")], [], CUT)
    for step in range(4):
        for batch in source.step(step):
            for row in batch.documents_BT.tolist():
                numbers = {n for n in row if n != PADDING}
                assert numbers == {n ^ 1 for n in numbers}


def test_reference_values_follow_their_pair(make_shards: Make) -> None:
    shards = make_shards(pairs(PAIRS), kind="preference")
    source = Preferences([shards], [make_shards(pairs(PAIRS[:2]), kind="preference")], CUT)
    assert all(torch.isnan(b.reference_P2).all() for b in source.step(0))
    train = np.arange(12, dtype=np.float32).reshape(6, 2)
    source.set_reference(train, -train[:2])
    for batch in source.step(3):
        assert batch.reference_P2.tolist() == [[2.0 * p, 2.0 * p + 1] for p in batch.pairs_P.tolist()]
    for batch in source.every_held_out_pair():
        assert batch.reference_P2.tolist() == [[-2.0 * p, -2.0 * p - 1] for p in batch.pairs_P.tolist()]


def test_pairs_that_do_not_fit_are_cut_evenly_or_dropped(make_shards: Make) -> None:
    """A row of 16 holds two answers of 8 after the cut; the prompt of the second pair leaves none of its answer."""
    shards = make_shards([*pairs([(30, 6)]), *pairs([(30, 30)], prompt=20), *pairs([(9, 9)])], kind="preference")
    source = Preferences([shards], [], CUT)
    assert (source.n_pairs, source.dropped) == (2, 1)
    lengths = sorted(len(answers(b, n)[0]) for b in source.every_pair() for n in range(2 * len(b.pairs_P)))
    assert lengths == [5, 8, 8, 8]


def test_a_batch_keeps_its_kind_on_another_device(make_shards: Make) -> None:
    source = Preferences([make_shards(pairs(PAIRS), kind="preference")], [], CUT)
    moved = source.step(0)[0].to(torch.device("meta"))
    assert isinstance(moved, PairBatch)
    assert {getattr(moved, field.name).device.type for field in fields(moved)} == {"meta"}


@pytest.mark.parametrize(
    ("lengths", "cut"),
    [([(6, 8), (9, 9)], 0), ([(6, 8), (9, 10)], 1), ([(20, 4), (6, 6), (30, 30)], 2), ([(30, 5)], 1)],
)
def test_pairs_that_do_not_fit_a_row_are_counted(make_shards: Make, lengths: list[tuple[int, int]], cut: int) -> None:
    """A row of 16 holds two answers of nine tokens each: the first of each predicts only."""
    source = Preferences([make_shards(pairs(lengths), kind="preference", per_shard=2)], [], CUT)
    assert (source.truncated, source.dropped, source.n_pairs) == (cut, 0, len(lengths))


def test_pairs_that_lose_their_answers_are_left_out_and_not_counted_as_cut(make_shards: Make) -> None:
    source = Preferences([make_shards(pairs([(30, 30), (12, 12)], prompt=10), kind="preference", per_shard=2)], [], CUT)
    assert (source.truncated, source.dropped) == (0, 2)
