"""Bits per byte against a loop that scores each token from scratch, and against transformers."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.config import TextTaskConfig
from cirilla_cli.evals.run import bits_per_byte
from cirilla_cli.evals.subject import ModelSubject
from cirilla_cli.evals.tasks.text import NamedText, TextTask

LONG = "Zażółć gęślą jaźń, said the witcher to Roach. " * 6


def by_hand(loaded: Loaded, logits: Callable[..., Any], text: str) -> tuple[float, int]:
    """-log p summed token by token, each in its own forward pass over the context it is due."""
    assert loaded.tokenizer is not None
    C = loaded.config.context_length
    ids = [1, *loaded.tokenizer.encode(text)]
    nats = 0.0
    for j in range(1, len(ids)):
        # Windows begin at multiples of half the context; the first that reaches token j gives it the most.
        start = next(s for s in range(0, len(ids), C // 2) if j <= s + C)
        with torch.no_grad():
            nats -= float(logits(loaded, torch.tensor([ids[start:j]]))[0, -1].log_softmax(-1)[ids[j]])
    return nats, len(ids) - 1


@pytest.mark.parametrize("context_length", [16, 17, 64, 4096])
def test_every_token_is_scored_once_with_the_context_it_is_due(
    load: Callable[..., Loaded], logits: Callable[..., Any], context_length: int
) -> None:
    loaded = load(context_length=context_length)
    texts = ["R", "Roach", LONG[:40], LONG]
    expected = [by_hand(loaded, logits, text) for text in texts]
    found = ModelSubject(loaded).surprises(texts)
    assert [s.tokens for s in found] == [tokens for _, tokens in expected]
    assert [s.nats for s in found] == pytest.approx([nats for nats, _ in expected], rel=1e-10)
    size = sum(len(text.encode()) for text in texts)
    nats, tokens = sum(n for n, _ in expected), sum(t for _, t in expected)
    assert bits_per_byte(loaded, texts) == {
        "bits_per_byte": pytest.approx(nats / math.log(2) / size, abs=1e-6),
        "perplexity": pytest.approx(math.exp(nats / tokens), rel=1e-6),
        "bytes": size,
        "tokens": tokens,
    }


@pytest.mark.parametrize("n", [15, 16, 17, 24, 25, 32, 33])
def test_no_token_is_lost_or_scored_twice_at_the_borders_of_windows(
    load: Callable[..., Loaded], logits: Callable[..., Any], n: int
) -> None:
    loaded = load(context_length=16)
    assert loaded.tokenizer is not None
    text = loaded.tokenizer.decode(loaded.tokenizer.encode(LONG)[:n])
    nats, tokens = by_hand(loaded, logits, text)
    (found,) = ModelSubject(loaded).surprises([text])
    assert found.tokens == tokens
    assert found.nats == pytest.approx(nats, rel=1e-10)


def test_one_window_is_what_transformers_calls_the_loss(load: Callable[..., Loaded]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        loaded = load(context_length=256)
        assert loaded.tokenizer is not None
        theirs = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=loaded.config.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6,
                tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            )
        ).double().eval()  # fmt: skip
        theirs.load_state_dict(loaded.model.state_dict(), strict=False)
        ids = torch.tensor([[1, *loaded.tokenizer.encode(LONG)]])
        with torch.no_grad():
            loss = float(theirs(ids, labels=ids).loss)
    (found,) = ModelSubject(loaded).surprises([LONG])
    assert found.nats / found.tokens == pytest.approx(loss, rel=1e-6)


def test_the_total_is_the_sum_over_documents_and_not_their_mean(load: Callable[..., Loaded]) -> None:
    documents = [NamedText("a", "Roach"), NamedText("b", LONG)]
    numbers = TextTask(documents).score(ModelSubject(load()))
    parts = numbers["by_document"]
    assert [part["id"] for part in parts] == ["a", "b"]
    assert numbers["bytes"] == sum(part["bytes"] for part in parts) == 5 + len(LONG.encode())
    assert numbers["tokens"] == sum(part["tokens"] for part in parts)
    weighted = sum(part["bits_per_byte"] * part["bytes"] for part in parts) / numbers["bytes"]
    assert numbers["bits_per_byte"] == pytest.approx(weighted, abs=1e-5)
    low, high = numbers["interval"]
    assert low <= numbers["bits_per_byte"] <= high


def test_files_folders_and_rows_are_read_one_document_each(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n', encoding="utf-8")
    assert [d.text for d in TextTask.read(TextTaskConfig(path=(tmp_path,))).documents] == ["one", "two", "three"]
    some = TextTaskConfig(path=(tmp_path,), max_documents=2)
    assert [d.text for d in TextTask.read(some).documents] == ["one", "two"]


def test_text_that_is_none_is_refused(tmp_path: Path, load: Callable[..., Loaded]) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(CirillaError, match="empty.txt: there is no text"):
        TextTask.read(TextTaskConfig(path=(empty,)))
    rows = tmp_path / "samples.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    with pytest.raises(CirillaError, match="scores documents"):
        TextTask.read(TextTaskConfig(path=(rows,)))
    with pytest.raises(CirillaError, match="no such file"):
        TextTask.read(TextTaskConfig(path=(tmp_path / "missing.txt",)))
    with pytest.raises(CirillaError, match="there is no text"):
        bits_per_byte(load(), [])
