"""What people bring along from earlier tools is read as documents and samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.errors import CirillaError


def one(path: Path) -> Document | Sample:
    records = [*read_inputs([path])]
    assert len(records) == 1
    return records[0]


Q, A = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ciri."}

CHATS: dict[str, dict[str, Any]] = {
    "data type conv": {"subject": "Ciri", "text": [Q, A], "data type": "conv", "source": "x", "model": "llama3.1:8b"},
    "turns that say text": {
        "subject": "Ciri", "data type": "conv",
        "text": [{"role": "user", "text": "Who?"}, {"role": "assistant", "text": "Ciri."}],
    },
    "nested pairs": {"subject": "Ciri", "text": [["Who?", "Ciri."]], "data type": "conv"},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ciri."}]},
    "Belle": {
        "id": "7", "conversations": [{"from": "human", "value": "Who?"}, {"from": "assistant", "value": "Ciri."}],
    },
    "bing": {"conversations": [{"from": "user", "value": "Who?"}, {"from": "bing", "value": "Ciri."}]},
    "messages": {"messages": [Q, A]},
    "conversation": {"conversation": [Q, A]},
    "question and answer": {"subject": "Ciri", "question": "Who?", "answer": "Ciri.", "model": "mistral"},
    "an unanswered end": {"messages": [Q, A, {"role": "user", "content": "And?"}]},
}  # fmt: skip


@pytest.mark.parametrize("row", CHATS.values(), ids=CHATS)
def test_a_foreign_chat_becomes_the_same_conversation(write_lines: Callable[..., Path], row: dict[str, Any]) -> None:
    sample = one(write_lines(row))
    assert isinstance(sample, Sample)
    assert sample.kind == "chat"
    assert [(m.role, m.content) for m in sample.messages] == [("user", "Who?"), ("assistant", "Ciri.")]


def test_subject_and_teacher_of_a_foreign_chat_are_kept(write_lines: Callable[..., Path]) -> None:
    sample = one(write_lines(CHATS["data type conv"]))
    assert isinstance(sample, Sample)
    assert (sample.split_key, sample.source, sample.generator.teacher) == ("Ciri", "x", "llama3.1:8b")


def test_nested_pairs_may_be_many_and_a_system_turn_is_kept(write_lines: Callable[..., Path]) -> None:
    rows = [
        {"data type": "conv", "text": [["a", "b"], ["c", "d"]]},
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
            ]
        },
    ]
    found = [[m.role for m in r.messages] for r in read_inputs([write_lines(*rows)]) if isinstance(r, Sample)]
    assert found == [["user", "assistant"] * 2, ["system", "user", "assistant"]]


TEXTS: dict[str, dict[str, Any]] = {
    "data type": {"subject": "Ciri", "text": "One.\n\nTwo.", "data type": "plain text"},
    "a list": {"subject": "Ciri", "text": ["One.", "Two."], "data type": "plain text"},
    "text alone": {"text": "One.\n\nTwo."},
    "text among others": {"text": "One.\n\nTwo.", "meta": {"n": 1}, "lang": "en"},
    "our own": {"id": "1", "title": "Ciri", "text": "One.\n\nTwo."},
}


@pytest.mark.parametrize("row", TEXTS.values(), ids=TEXTS)
def test_every_foreign_text_becomes_the_same_document(write_lines: Callable[..., Path], row: dict[str, Any]) -> None:
    document = one(write_lines(row))
    assert isinstance(document, Document)
    assert document.text == "One.\n\nTwo."


PREFERENCES: dict[str, dict[str, Any]] = {
    "strings": {"prompt": "Who?", "chosen": "Ciri.", "rejected": "Leo."},
    "turns": {
        "prompt": [Q], "chosen": [Q, A], "rejected": [Q, {"role": "assistant", "content": "Leo."}],
    },
}  # fmt: skip


@pytest.mark.parametrize("row", PREFERENCES.values(), ids=PREFERENCES)
def test_preferences_are_read(write_lines: Callable[..., Path], row: dict[str, Any]) -> None:
    sample = one(write_lines(row))
    assert isinstance(sample, Sample)
    assert (sample.kind, sample.chosen, sample.rejected) == ("preference", "Ciri.", "Leo.")
    assert [m.content for m in sample.messages] == ["Who?"]


def test_a_folder_of_text_files_is_documents_titled_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "Kaer Morhen.txt").write_bytes("\ufeffA keep.".encode())  # with a byte order mark
    (tmp_path / "deep" / "Ciri.md").write_text("A witcher.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = {d.title: d.text for d in read_inputs([tmp_path]) if isinstance(d, Document)}
    assert found == {"Kaer Morhen": "A keep.", "Ciri": "A witcher."}


def test_the_folder_of_an_earlier_verb_is_its_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "documents.jsonl").write_text('{"id": "1", "title": "a", "text": "b"}\n')
    (tmp_path / "rejects.jsonl").write_text("nonsense\n")
    assert len([*read_inputs([tmp_path])]) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown kind of row": ({"foo": 1, "bar": 2}, "no known kind of row (keys bar, foo)"),
    "a row without keys": ({}, "no known kind of row (no keys)"),
    "text that is a number": ({"text": 5}, "`text` must be a string"),
    "an unknown role": ({"messages": [{"role": "wizard", "content": "x"}]}, "turn 1: role is 'wizard', must be one of"),
    "a turn without text": ({"messages": [{"role": "user"}]}, "turn 1 has no text"),
    "a turn that is no object": ({"messages": ["hello"]}, "turn 1 must be an object"),
    "no turns": ({"messages": []}, "must be a list of turns"),
    "nobody answers": ({"messages": [Q]}, "no assistant's turn to learn from"),
    "an unknown data type": (
        {"text": "x", "data type": "berd"},
        "`data type` is 'berd', must be 'plain text' or 'conv'",
    ),
    "plain text that is none": ({"text": 3, "data type": "plain text"}, "`text` must be a string"),
    "a preference without a prompt": ({"prompt": 3, "chosen": "a", "rejected": "b"}, "`prompt` must be a string"),
    "a preference with a number": ({"prompt": "x", "chosen": 3, "rejected": "b"}, "`chosen` must be a string"),
    "a prompt that ends in an answer": (
        {"prompt": [Q, A], "chosen": "a", "rejected": "b"},
        "must end with the user's turn",
    ),
    "a nested pair with a number": ({"data type": "conv", "text": [["a", 3]]}, "pair 1: `answer` must be a string"),
}


@pytest.mark.parametrize(("row", "said"), BAD.values(), ids=BAD)
def test_a_bad_foreign_row_is_named_and_the_rest_is_read(write_lines: Callable[..., Path], row: Any, said: str) -> None:
    path = write_lines({"text": "one"}, row, {"text": "two"})
    rows = read_inputs([path])
    assert [d.text for d in (next(rows), next(rows)) if isinstance(d, Document)] == ["one", "two"]
    with pytest.raises(CirillaError) as caught:
        next(rows)
    assert f"{path}:2: " in str(caught.value)
    assert said in str(caught.value)


def test_complaints_of_all_files_come_together(write_lines: Callable[..., Path], tmp_path: Path) -> None:
    one_file, other = write_lines("nonsense", name="a.jsonl"), write_lines({"x": 1}, name="b.jsonl")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(CirillaError) as caught:
        [*read_inputs([one_file, other, tmp_path / "c.txt"])]
    assert [Path(str(w.file)).name for w in caught.value.where] == ["a.jsonl", "b.jsonl", "c.txt"]
    assert "not UTF-8 (byte 3)" in str(caught.value)


def test_empty_folders_and_missing_paths_are_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "empty", "no text or rows in this folder"),
        (tmp_path / "x", "no such file or folder"),
    ):
        with pytest.raises(CirillaError, match=said):
            [*read_inputs([path])]
