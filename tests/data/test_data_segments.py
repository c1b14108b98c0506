"""Texts encoded by their segments have the ids that sentencepiece gives them whole."""

import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cirilla_cli.data import segments
from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.segments import Block, SegmentEncoder, spanned_pairs
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer, train

WORDS = [
    "Geralt",
    "of",
    "Rivia",
    "witcher's",
    "1272",
    "(born)",
    "naïve",
    "Цири",
    "狩魔猎人",
    "—",
    "e.g.",
    "x_y",
    "<s>",
    "a,b",
]
MARKED = ["<|im_start|>", "\u00a0", "\t", "  ", "\n\n", " \n", "\r\n", "🐺", "e\u0301", "\u2581", "0x7f", "<0x0A>"]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=12)) + draw.choice(["\n", "  \n", ""]) for _ in range(400)]
    return train(SentencePieceConfig(vocab_size=420), texts)


def whole(tokenizer: SentencePieceTokenizer, texts: list[str]) -> list[list[int]]:
    """What sentencepiece itself makes of each text."""
    return [tokenizer.encode(text) for text in texts]


PARTS = st.sampled_from([*WORDS, *MARKED, " ", "\n"]) | st.text(max_size=5)
TEXTS = st.lists(st.lists(PARTS, max_size=20).map("".join))


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS)
def test_ids_by_segments_are_sentencepieces_own(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts).lists() == whole(tokenizer, texts)


def test_a_text_is_cut_between_words_and_not_within_characters(tokenizer: SentencePieceTokenizer) -> None:
    """The cut itself, on a vocabulary small enough to see: pieces hold ` a`, `ab` and `é`."""
    spanned = spanned_pairs([b" a", b"ab", "é".encode(), b"\n"])
    encoder = SegmentEncoder(tokenizer.encode, spanned, tokenizer.encode("\n")[0])
    text = "ab ab\nbé b"
    data = text.encode()
    cuts = encoder._cuts(np.frombuffer(data, np.uint8), np.array([len(data)]))  # noqa: SLF001 - what is cut is the fact
    found = [data[a:b].decode() for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]
    assert found == ["ab", " ab", "\n", "b", "é", " ", "b"]


def test_blocks_and_forgetting_change_no_id(tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    texts = ["".join(draw.choices([*WORDS, " ", "\n"], k=draw.randrange(40))) for _ in range(300)]
    expected = whole(tokenizer, texts)
    monkeypatch.setattr(segments, "_BLOCK", 97)
    monkeypatch.setattr(segments, "_MOST_REMEMBERED", 1000)
    fresh = SentencePieceTokenizer(tokenizer.__reduce__()[1][0])
    assert fresh.encode_batch(texts).lists() == expected
    assert fresh.encode_batch(texts[::-1]).lists() == expected[::-1]


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 99), max_size=4)), ends=st.tuples(*[st.lists(st.integers(100, 109))] * 2))
def test_a_frame_is_put_around_every_text(parts: list[list[int]], ends: tuple[list[int], list[int]]) -> None:
    block = Block.of(parts).framed(*ends)
    assert block.lists() == [[*ends[0], *part, *ends[1]] for part in parts]


def test_words_that_recur_are_encoded_once(tokenizer: SentencePieceTokenizer) -> None:
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return tokenizer.encode(text)

    pieces = [tokenizer.piece_bytes(i) for i in range(16 + 257, tokenizer.vocab_size)]
    encoder = SegmentEncoder(encode, spanned_pairs([*pieces, b"\n"]), tokenizer.encode("\n")[0])
    for _ in range(3):
        encoder(["Geralt of Rivia\nGeralt of Rivia", "of Rivia"])
    parts = [part for text in asked for part in text.split("\n")]
    assert "".join(parts).count("Geralt") == 1
    assert len(parts) == len(set(parts))


def test_what_is_remembered_takes_no_more_memory_however_much_new_comes(
    tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Python's own sizes of the segments and their dictionary, while words that never recur come in."""
    pieces = [tokenizer.piece_bytes(i) for i in range(16 + 257, tokenizer.vocab_size)]
    encoder = SegmentEncoder(tokenizer.encode, spanned_pairs([*pieces, b"\n"]), tokenizer.encode("\n")[0])
    most, taken = 1 << 20, []
    monkeypatch.setattr(segments, "_MOST_REMEMBERED", most)
    for lap in range(20):
        encoder([chr(0x4E00 + 1000 * lap + n) for n in range(1000)])
        remembered = encoder._rows  # noqa: SLF001 - what it holds is the fact
        taken.append(sys.getsizeof(remembered) + sum(map(sys.getsizeof, remembered)))
    assert max(taken) < 1.2 * most
    assert taken[-1] < max(taken)
