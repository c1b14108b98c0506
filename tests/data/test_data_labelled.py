"""Labelled texts: rows to shards to batches, every label beside its own document."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cirilla_cli.data.batches import IGNORE, PADDING, Cut
from cirilla_cli.data.config import LabelledTextConfig
from cirilla_cli.data.labelled import label_names, read_labelled, shard_labelled
from cirilla_cli.data.labelled_batches import LabelledBatch, LabelledText
from cirilla_cli.data.rows import held_out
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer
from cirilla_cli.data.shards import TokenShards
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import SILENT

Write = Callable[..., Path]
WORDS = ["griffin", "silver", "sword", "road", "inn", "moon", "river", "witch"]
T = 24
CUT = Cut(context_length=T, rows_per_step=4, rows_per_micro_batch=4, seed=3, pad_id=3)


def rows(n: int = 60) -> list[dict[str, Any]]:
    """Texts of different lengths; the label is the number of words by name."""
    return [
        {"text": " ".join(WORDS[(i + j) % 8] for j in range(1 + i % 5)) + f" {i}", "label": f"words-{1 + i % 5}"}
        for i in range(n)
    ]


@pytest.fixture
def folder(write_lines: Write, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> Path:
    """Shards of those rows, a fifth held out."""
    shard_labelled([write_lines(*rows())], tokenizer, tmp_path / "labelled", SILENT, val=0.2)
    return tmp_path / "labelled"


def source(folder: Path, **cut: Any) -> LabelledText:
    shards = TokenShards.open(folder, "train"), TokenShards.open(folder, "val")
    return LabelledText([shards[0]], [shards[1]], replace(CUT, **cut))


def read_back(batch: LabelledBatch, tokenizer: SentencePieceTokenizer, names: list[str]) -> list[tuple[str, str]]:
    """The text and label of each document of a batch, found by its document numbers."""
    found = []
    for number, label in enumerate(batch.labels_P.tolist()):
        row = int((batch.documents_BT == number).any(dim=1).nonzero())
        ids = batch.tokens_BT[row][batch.documents_BT[row] == number].tolist()
        found.append((tokenizer.decode(ids), names[label]))
    return found


def test_a_pass_reads_every_text_once_with_its_own_label(folder: Path, tokenizer: SentencePieceTokenizer) -> None:
    names, made = label_names(folder), source(folder, rows_per_step=1, rows_per_micro_batch=1)
    found = [pair for i in range(made.rows_per_epoch) for b in made.step(i) for pair in read_back(b, tokenizer, names)]
    kept = [(row["text"], row["label"]) for row in rows() if not held_out(row["text"], frac=0.2)]
    assert Counter(found) == Counter(kept)
    out = [pair for b in made.validation(10_000) for pair in read_back(b, tokenizer, names)]
    assert Counter(out) == Counter((row["text"], row["label"]) for row in rows()) - Counter(kept)
    assert out


def test_rows_are_whole_documents_and_padding(folder: Path) -> None:
    for batch in source(folder).step(0):
        assert tuple(batch.tokens_BT.shape) == (4, T)
        assert (batch.targets_BT == IGNORE).all()
        padding = batch.documents_BT == PADDING
        assert (batch.tokens_BT[padding] == CUT.pad_id).all()
        assert batch.documents_BT[~padding].unique().tolist() == list(range(len(batch.labels_P)))
        numbers = batch.documents_BT[~padding]
        assert (numbers[1:] >= numbers[:-1]).all()
        # Every document begins with <s> and ends with </s>.
        assert int((batch.tokens_BT == 1).sum()) == int((batch.tokens_BT == 2).sum()) == len(batch.labels_P)


def test_a_step_is_a_function_of_its_number_alone(folder: Path) -> None:
    made = source(folder)
    in_order = {i: [b.tokens_BT.tolist() for b in made.step(i)] for i in range(9)}
    assert all([b.tokens_BT.tolist() for b in source(folder).step(i)] == in_order[i] for i in (5, 0, 8, 5))
    apart = [b for b in source(folder, rows_per_micro_batch=1).step(5)]
    assert torch.cat([b.labels_P for b in apart]).tolist() == made.step(5)[0].labels_P.tolist()


def test_a_long_text_keeps_its_beginning(folder: Path, tokenizer: SentencePieceTokenizer) -> None:
    made = source(folder, context_length=6)
    assert made.truncated > 0
    for text, _ in read_back(made.step(0)[0], tokenizer, label_names(folder)):
        assert any(row["text"].startswith(text) for row in rows())


def test_labels_are_ordered_numbers_by_size(
    write_lines: Write, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    path = write_lines(*[{"text": f"t{n}", "label": n, "idx": 5} for n in (10, 9, 2, 9)])
    assert shard_labelled([path], tokenizer, tmp_path / "a", SILENT, val=0.0) == ["2", "9", "10"]
    assert TokenShards.open(tmp_path / "a").document(0)[0] == 2


def test_finished_shards_are_taken_while_their_rows_are_the_same(
    write_lines: Write, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "labelled"
    shard_labelled([write_lines(*rows())], tokenizer, folder, SILENT, val=0.2)
    before = (folder / "index.json").stat().st_mtime_ns
    shard_labelled([write_lines(*rows())], tokenizer, folder, SILENT, val=0.2)
    assert (folder / "index.json").stat().st_mtime_ns == before
    shard_labelled([write_lines(*rows(70))], tokenizer, folder, SILENT, val=0.2)
    assert sum(TokenShards.open(folder, split).n_documents for split in ("train", "val")) == 70


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b"}], "rows.jsonl:2: `label` is missing"),
        ([{"text": "a", "label": "x"}, {"text": 5, "label": "y"}], "rows.jsonl:2: `text` is 5"),
        (
            [{"text": "a", "label": True}, {"text": "b", "label": 1.5}],
            "rows.jsonl:1: `label` is True: must be the name of a class, or its number\n"
            "{folder}/rows.jsonl:2: `label` is 1.5: must be the name of a class, or its number",
        ),
        ([{"text": "a", "label": ""}, {"text": "b", "label": "y"}], "rows.jsonl:1: `label` is '': must be the name"),
        ([{"text": " ", "label": "x"}, {"text": "b", "label": "y"}], "rows.jsonl:1: `text` is ' ': must not be empty"),
        (
            [{"text": "a", "label": 1}, {"text": "b", "label": "1"}, {"text": "c", "label": 2}],
            "`label` is 1 in some rows and '1' in others: one class or two?",
        ),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], "only the label 'x'"),
        ([], "no rows"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    lines: list[Any], said: str, write_lines: Write, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(CirillaError) as caught:
        shard_labelled([write_lines(*lines)], tokenizer, tmp_path / "labelled", SILENT, val=0.0)
    assert said.replace("{folder}", str(tmp_path)) in str(caught.value)
    assert not (tmp_path / "labelled" / "index.json").exists()


def test_folders_are_read_too(write_lines: Write, tmp_path: Path) -> None:
    write_lines({"text": "a", "label": "x"}, name="one.jsonl")
    write_lines({"text": "b", "label": "y"}, name="two.jsonl")
    (tmp_path / "notes.txt").write_text("no rows")
    assert [row.text for row in read_labelled([tmp_path])] == ["a", "b"]


@pytest.mark.parametrize("label", [" x ", "x\n", "one\ntwo"])
def test_labels_are_one_line_without_space_around(label: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "a", "label": "x"}) + "\n" + json.dumps({"text": "b", "label": label}) + "\n")
    with pytest.raises(CirillaError, match="rows.jsonl:2"):
        list(read_labelled([rows]))


def test_what_is_read_twice_comes_from_files() -> None:
    """Standard input would be gone when the shards are made."""
    with pytest.raises(ValidationError, match=r"path is -, must be a file: rows with labels are read more than once"):
        LabelledTextConfig.model_validate({"path": "-"})
    with pytest.raises(ValidationError, match="path is -"):
        LabelledTextConfig.model_validate({"path": ["rows.jsonl", "-"]})
