"""Everything people bring along, read into documents and samples, told apart by content."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import STDIO, Complaints, Row, read_rows, validate
from cirilla_cli.data.rows import Document, Sample, short_id
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import files_below

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md"})
ROW_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})

_ROLES = {
    "human": "user", "user": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip


def read_inputs(paths: Iterable[Path]) -> Iterator[Document | Sample]:
    """Every document and sample in files, folders and standard input (`-`).

    Takes our own rows; `"data type"` lines; ShareGPT and Belle conversations; `messages`, question/answer and
    prompt/chosen/rejected rows; rows that only have `text`; text files (one document each).

    Raises:
        CirillaError: at the end, naming every line that is none of these; the good rows have been yielded by then.
    """
    complaints = Complaints()
    for path in paths:
        for file in input_files(path):
            if file.suffix.lower() in TEXT_SUFFIXES:
                document = _read_text(file, complaints)
                if document is not None:
                    yield document
                continue
            for row in read_rows(file, complaints):
                record = convert(row, complaints)
                if record is not None:
                    yield record
    complaints.raise_if_any()


def input_files(path: Path) -> Iterator[Path]:
    """The files that `read_inputs` reads for one path.

    Raises:
        CirillaError: there are none.
    """
    if path == STDIO or path.is_file():
        yield path
        return
    try:
        if not path.is_dir():
            raise CirillaError(f"{path}: no such file or folder")
        named = path / "samples.jsonl", path / "documents.jsonl"
        if any(file.is_file() for file in named):
            yield from (file for file in named if file.is_file())
            return
        found = [f for f in files_below(path) if f.suffix.lower() in TEXT_SUFFIXES | ROW_SUFFIXES]
    except PermissionError:
        raise CirillaError(f"{path}: cannot be read: permission denied") from None
    if not found:
        kinds = ", ".join(sorted(TEXT_SUFFIXES | ROW_SUFFIXES))
        raise CirillaError(f"{path}: no text or rows in this folder; files ending in {kinds} are read")
    yield from found


def _read_text(file: Path, complaints: Complaints) -> Document | None:
    """A text file as a document titled by its name."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        complaints.add(str(file), None, f"not UTF-8 (byte {error.start})")
        return None
    except PermissionError:
        complaints.add(str(file), None, "cannot be read: permission denied")
        return None
    return Document(id=short_id(file.stem, text), title=file.stem, text=text)


def convert(row: Row, complaints: Complaints) -> Document | Sample | None:
    """One row as ours; None after a complaint."""
    data = row.data
    if "kind" in data and "split_key" in data:
        return validate(row, Sample, complaints)
    if {"id", "title", "text"} <= data.keys() and "data type" not in data:
        return validate(row, Document, complaints)
    try:
        return _foreign(row)
    except _NotThat as error:
        complaints.add(row.file, row.line, str(error))
        return None


class _NotThat(Exception):
    """What is wrong with a foreign row."""


def _foreign(row: Row) -> Document | Sample:
    data = row.data
    if "data type" in data:
        return _data_type(row)
    for key in ("conversations", "messages", "conversation"):
        if key in data:
            return _chat(row, data[key])
    if {"prompt", "chosen", "rejected"} <= data.keys():
        return _preference(row)
    if {"question", "answer"} <= data.keys():
        return _chat(
            row, [{"role": "user", "content": data["question"]}, {"role": "assistant", "content": data["answer"]}]
        )
    if isinstance(data.get("text"), str):
        title = data.get("title") if isinstance(data.get("title"), str) else ""
        return Document(id=short_id(data["text"]), title=title or "", text=data["text"])
    known = (
        "documents, samples, `data type`, `conversations`, `messages`, `question`/`answer`, "
        "`prompt`/`chosen`/`rejected`, `text`"
    )
    raise _NotThat(f"no known kind of row (keys {', '.join(sorted(map(str, data)))[:80]}); known: {known}")


def _data_type(row: Row) -> Document | Sample:
    """The `{"subject", "text", "data type"}` lines of earlier tools; nested `[[question, answer], ...]` included."""
    data, kind = row.data, row.data["data type"]
    text = data.get("text")
    if kind == "plain text":
        whole = "\n\n".join(map(str, text)) if isinstance(text, list) else text
        if not isinstance(whole, str):
            raise _NotThat("`text` must be a string or a list of strings for data type 'plain text'")
        return Document(id=short_id(whole), title=str(data.get("subject", "")), text=whole)
    if kind == "conv":
        if isinstance(text, list) and text and all(isinstance(turn, list) for turn in text):
            text = [
                {"role": role, "content": part}
                for turn in text
                for role, part in zip(("user", "assistant"), turn, strict=False)
            ]
        return _chat(row, text)
    raise _NotThat(f"`data type` is {kind!r}, must be 'plain text' or 'conv'")


def _chat(row: Row, turns: Any) -> Sample:
    if not isinstance(turns, list) or not turns:
        raise _NotThat("the conversation must be a list of turns")
    messages = [_turn(turn, number) for number, turn in enumerate(turns, 1)]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise _NotThat("no assistant's turn to learn from")
    subject = row.data.get("subject") or row.data.get("id")
    return Sample.model_validate({
        "kind": "chat", "id": short_id(messages), "messages": messages,
        "split_key": str(subject or short_id(messages)), "source": str(row.data.get("source", "import")),
        "generator": {"strategy": "import", "teacher": _text_or_none(row.data.get("model"))},
    })  # fmt: skip


def _turn(turn: Any, number: int) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise _NotThat(f"turn {number} must be an object with role and content")
    role = turn.get("role", turn.get("from"))
    if role not in _ROLES:
        raise _NotThat(f"turn {number}: role is {role!r}, must be one of {', '.join(sorted(_ROLES))}")
    content = next((turn[key] for key in ("content", "value", "text") if isinstance(turn.get(key), str)), None)
    if content is None:
        raise _NotThat(f"turn {number} has no text (`content`, `value` or `text`)")
    return {"role": _ROLES[role], "content": content}


def _preference(row: Row) -> Sample:
    prompt = row.data["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(turns, list) or not turns:
        raise _NotThat("`prompt` must be a string or a list of turns")
    messages = [_turn(turn, number) for number, turn in enumerate(turns, 1)]
    answers = {key: _answer(row.data[key], key) for key in ("chosen", "rejected")}
    if messages[-1]["role"] != "user":
        raise _NotThat("`prompt` must end with the user's turn")
    return Sample.model_validate({
        "kind": "preference", "id": short_id(messages, answers), "messages": messages, **answers,
        "split_key": str(row.data.get("split_key") or short_id(messages)),
        "source": str(row.data.get("source", "import")), "generator": {"strategy": "import"},
    })  # fmt: skip


def _answer(value: Any, key: str) -> str:
    if isinstance(value, list) and value:
        return _turn(value[-1], len(value))["content"]
    if not isinstance(value, str):
        raise _NotThat(f"`{key}` must be a string or a list of turns")
    return value


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
