"""Rows and JSON lines: what is wrong is named with file and line, all of it, and good rows survive."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.data.jsonl import STDIO, Complaints, JsonlWriter, read_records, read_rows, repair_tail
from cirilla_cli.data.rows import Document, Question, Record, Sample, held_out, short_id
from cirilla_cli.errors import CirillaError

CHAT: dict[str, Any] = {
    "kind": "chat", "id": "1", "split_key": "p1", "source": "test", "generator": {"strategy": "rules"},
    "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ciri."}],
}  # fmt: skip
PAGE: dict[str, Any] = {"id": "1", "title": "Ciri", "text": "Ciri is a witcher."}
PROMPT = CHAT["messages"][:1]


def read(path: Path, model: type[Record]) -> tuple[list[Record], CirillaError | None]:
    """The good rows, and the complaint that came after them."""
    good, rows = [], read_records(path, model)
    while True:
        try:
            good.append(next(rows))
        except StopIteration:
            return good, None
        except CirillaError as error:
            return good, error


BAD_LINES = {
    "not JSON": ("{'id': 1}", "not JSON"),
    "an array": ("[1, 2]", "a JSON object is expected, not a list"),
    "a number": ("3", "a JSON object is expected, not a number"),
    "nothing": ("null", "a JSON object is expected, not null"),
    "a word": ('"a"', "a JSON object is expected, not text"),
    "a yes": ("true", "a JSON object is expected, not true or false"),
    "not UTF-8": (b'{"id": "\xff"}', "not UTF-8"),
    "half a surrogate pair": ('{"id": "1", "title": "\\ud83d", "text": ""}', "half of a surrogate pair"),
    "nested without end": ("[" * 100_000, "nested too deeply"),
    "a number without end": (f'{{"id": "1", "title": "Ciri", "text": "", "revision": {"9" * 5000}}}', "4,300 digits"),
    "a missing field": ({"id": "1", "title": "Ciri"}, "`text` is missing"),
    "a wrong type": ({**PAGE, "revision": "12"}, "`revision` is '12': must be a valid integer"),
    "a near key": ({**PAGE, "titel": "x"}, "`titel` is not a field of a document; did you mean `title`?"),
    "a far key": ({**PAGE, "zzz": "x"}, "`zzz` is not a field of a document"),
    "a wrong inner type": ({**PAGE, "infobox": [{"label": 3}]}, "`infobox.0.label` is 3: must be a valid string"),
}


@pytest.mark.parametrize(("line", "said"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_row_is_named_with_file_and_line(write_lines: Callable[..., Path], line: Any, said: str) -> None:
    path = write_lines(PAGE, "", line, {**PAGE, "id": "2"})
    good, error = read(path, Document)
    assert [row.id for row in good if isinstance(row, Document)] == ["1", "2"]
    assert error is not None
    assert f"{path}:3: " in str(error)
    assert said in str(error)
    assert (error.where[0].file, error.where[0].line) == (str(path), 3)


BAD_SAMPLES = {
    "an unknown role": (
        {**CHAT, "messages": [{"role": "wizard", "content": "x"}]},
        "`messages.0.role` is 'wizard': must be 'system', 'user' or 'assistant'",
    ),
    "no messages": ({**CHAT, "messages": []}, "at least 1 item"),
    "an unknown kind": ({**CHAT, "kind": "chatt"}, "`kind` is 'chatt': must be 'chat', 'preference' or 'task'"),
    "a chat without an answer": ({**CHAT, "messages": PROMPT}, "a chat must end with the assistant's turn, not 'user'"),
    "a preference without answers": (
        {**CHAT, "kind": "preference", "messages": PROMPT, "chosen": "x"},
        "a preference needs `chosen` and `rejected`",
    ),
    "a preference that ends in an answer": (
        {**CHAT, "kind": "preference", "chosen": "x", "rejected": "y"},
        "must end with the user's turn",
    ),
    "a task without an answer": ({**CHAT, "kind": "task", "messages": PROMPT}, "a task needs `answer`"),
    "content that is no text": (
        {**CHAT, "messages": [{"role": "user", "content": None}]},
        "`messages.0.content` is None",
    ),
}


@pytest.mark.parametrize(("row", "said"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_a_bad_sample_says_what_it_lacks(write_lines: Callable[..., Path], row: Any, said: str) -> None:
    good, error = read(write_lines(CHAT, row), Sample)
    assert len(good) == 1
    assert error is not None
    assert ":2: " in str(error)
    assert said in str(error)


def test_all_complaints_come_at_once_and_the_good_rows_are_intact(write_lines: Callable[..., Path]) -> None:
    path = write_lines(PAGE, "nonsense", {**PAGE, "id": 7, "titel": "x"}, {**PAGE, "id": "2"}, "[]")
    good, error = read(path, Document)
    assert [row.model_dump()["id"] for row in good] == ["1", "2"]
    assert error is not None
    assert [where.line for where in error.where] == [2, 3, 3, 5]


def test_a_flood_of_complaints_is_counted_after_the_first_twenty(write_lines: Callable[..., Path]) -> None:
    _, error = read(write_lines(*["nonsense"] * 50), Document)
    assert error is not None
    assert [where.line for where in error.where] == list(range(1, 51))
    assert "... and 30 more" in str(error)
    assert "rows.jsonl line 21-50" in str(error)
    assert str(error).count("not JSON") == 20


def test_a_torn_last_line_is_called_half_written(write_lines: Callable[..., Path]) -> None:
    path = write_lines(PAGE, {**PAGE, "id": "2"})
    path.write_bytes(path.read_bytes()[:-10])
    good, error = read(path, Document)
    assert len(good) == 1
    assert error is not None
    assert f"{path}:2: half-written: the file ends inside this row" in str(error)


@pytest.mark.parametrize("torn", range(0, 40, 3))
def test_repairing_cuts_exactly_the_torn_line(write_lines: Callable[..., Path], torn: int) -> None:
    path = write_lines(PAGE)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:torn])
    assert repair_tail(path) == torn
    assert path.read_bytes() == whole
    assert repair_tail(path) == 0


def test_repairing_looks_past_lines_longer_than_its_block(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 200_000)
    assert repair_tail(path) == 200_000
    path.write_bytes(b"x" * 200_000)
    assert repair_tail(path) == 200_000
    assert path.read_bytes() == b""
    assert repair_tail(tmp_path / "absent") == 0


def test_appending_goes_on_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": ')
    with JsonlWriter(path, append=True) as writer:
        writer.write({"n": 2})
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("text", ["plain", 'quote " \\ back', "line\nend\r\n", "Żółć 🐺 \u2028", "\x00\x1b"])
def test_rows_survive_writing_and_reading(tmp_path: Path, text: str) -> None:
    row = Document(id="1", title=text, text=text, aliases=(text,))
    with JsonlWriter(tmp_path / "x.jsonl") as writer:
        writer.write(row)
    assert [*read_records(tmp_path / "x.jsonl", Document)] == [row]


def test_missing_files_and_folders_are_said_without_a_traceback(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(CirillaError, match=said):
            [*read_rows(path, Complaints())]


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(PAGE).encode() + b"\nnonsense\n"), encoding="utf-8")
    )
    good, error = read(STDIO, Document)
    assert len(good) == 1
    assert error is not None
    assert "<stdin>:2: not JSON" in str(error)


def test_the_fingerprint_is_of_title_text_and_infobox_alone() -> None:
    base = Document.model_validate(PAGE)
    assert Document.model_validate({**PAGE, "url": "http://x", "revision": 3}).sha256 == base.sha256
    others = [{"title": "x"}, {"text": "x"}, {"infobox": [{"label": "x", "values": ["y"]}]}]
    assert len({Document.model_validate({**PAGE, **other}).sha256 for other in others} | {base.sha256}) == 4
    assert Document.model_validate_json(base.line()) == base


def test_a_task_s_answer_becomes_the_assistant_s_turn() -> None:
    task = Sample.model_validate({**CHAT, "kind": "task", "messages": PROMPT, "answer": "4"})
    assert [m.role for m in task.conversation()] == ["user", "assistant"]
    assert task.conversation()[-1].content == "4"


def test_questions_need_an_answer(write_lines: Callable[..., Path]) -> None:
    good, error = read(write_lines({"question": "?", "answers": [], "seen": True, "split_key": "x"}), Question)
    assert not good
    assert error is not None


def test_the_split_is_by_key_and_of_the_asked_size() -> None:
    keys = [f"page {i}" for i in range(4000)]
    held = [key for key in keys if held_out(key, frac=0.1)]
    assert 320 < len(held) < 480  # four standard deviations around 400
    assert held == [key for key in keys if held_out(key, frac=0.1)]
    assert set(held) < {key for key in keys if held_out(key, frac=0.2)}
    assert not any(held_out(key, frac=0.0) for key in keys)
    assert all(held_out(key, frac=1.0) for key in keys)
    assert short_id("a", "b") != short_id("ab")
