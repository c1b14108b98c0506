"""One file, whatever it is, as rows and what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cirilla_cli.data.config import FormatName
from cirilla_cli.data.fits import Sieve
from cirilla_cli.data.formats import known
from cirilla_cli.data.formats.bins import bin_documents
from cirilla_cli.data.formats.drafts import Chat, Draft, NotThat, Pair, Text
from cirilla_cli.data.formats.grpo import Prompts, answer_of, database_items
from cirilla_cli.data.formats.sniff import container, holds_rows
from cirilla_cli.data.formats.tables import arrow_rows, parquet_rows
from cirilla_cli.data.formats.whole import Item, items, teacher_of
from cirilla_cli.data.intake import Intake
from cirilla_cli.data.jsonl import STDIO, Row, doubtful_rows, parse_whole, read_rows
from cirilla_cli.errors import CirillaError

Found = tuple[Row, str, Draft | None]
"""A row, the name of its format, and what it says; None where it is one of ours."""

_ONE_DOCUMENT = 64 << 20
"""A text file above this size is hardly one document."""
_FAILED_SUMMARY = 1000
"""So many characters of the page an earlier tool kept as its summary where the teacher had failed."""
_PICKLED = (".pt", ".pth", ".ckpt")
_OF_TEXT = ("text", "lines", "summaries")
"""Formats of running text."""


def found_in(
    file: Path, format: FormatName | None, prompts: Prompts, intake: Intake, sieve: Sieve | None
) -> Iterator[Found]:
    """What one file (or standard input) holds; what is wrong with it goes to ``intake``.

    With a ``sieve``, lines of our own rows that it takes are not among them.
    """
    try:
        for row, item in _items(file, format, intake, sieve):
            try:
                found = _read(row, item, format, prompts)
            except NotThat as error:
                intake.add(row.file, row.line, str(error), row=row.data or None)
                continue
            if found is not None:
                _note(found, intake)
                yield found
    except CirillaError as error:
        if file == STDIO or not file.is_file():
            raise
        hint = f" ({error.hint})" if error.hint else ""
        intake.add(str(file), None, str(error).removeprefix(f"{file}: ") + hint)
    except PermissionError:
        intake.add(str(file), None, f"cannot be read: permission denied (chmod u+r {file})")


def judged_in(prompts: Prompts, intake: Intake) -> Iterator[Found]:
    """What scored answers make, when all of them are read."""
    for row, item in prompts.judged():
        if isinstance(item, NotThat):
            intake.add(row.file, row.line, str(item), row=row.data)
        else:
            found = row, "grpo", item
            _note(found, intake)
            yield found


def _read(row: Row, item: Item, format: FormatName | None, prompts: Prompts) -> Found | None:
    """Raises: NotThat: what is wrong with the row."""
    if isinstance(item, NotThat):
        raise item
    if not isinstance(item, dict):
        return row, format or _SHAPES[type(item)], item
    if format is None or format in ("rows", "conversation"):
        if "kind" in item and "split_key" in item:
            return row, "sample", None
        if item.keys() >= {"id", "title", "text"} and "data type" not in item:
            return row, "document", None
        if prompts.takes(item):
            joined = prompts.take(item, row.file, row.line)
            return None if joined is None else (row, "grpo", joined)
        name = known.format_of(item)
        return row, name, known.ROWS[name].read(item)
    return row, format, known.as_format(item, format).read(item)


_SHAPES: dict[type[Any], str] = {Text: "text", Chat: "conversation", Pair: "preference"}


def _note(found: Found, intake: Intake) -> None:
    """Say what of a row does not come along."""
    row, name, draft = found
    if draft is None:
        return
    if not isinstance(draft, Text) and draft.note:
        intake.notes[draft.note] += 1
    if name in known.ROWS:
        for key in known.ROWS[name].unused(row.data):
            intake.notes[f"key `{key}` left out"] += 1


def _items(file: Path, format: FormatName | None, intake: Intake, sieve: Sieve | None) -> Iterator[tuple[Row, Item]]:
    if file == STDIO:
        yield from _lines(file, intake)
        return
    kind = container(file)
    if format in _OF_TEXT and kind not in ("text", "unknown") and (format != "text" or kind in ("sqlite", "packed")):
        raise CirillaError(f"{file}: `format` is {format}, and this is no text file ({kind})")
    if kind in ("text", "unknown"):
        yield from _of_text(file, kind, format, intake)
    elif kind == "lines" and sieve is not None and format is None:
        yield from ((row, row.data) for row in doubtful_rows(file, sieve, intake))
    elif kind == "lines":
        yield from _lines(file, intake)
    elif kind == "answers":
        yield from _answers(file, intake)
    elif kind == "packed":
        if file.suffix.lower() in _PICKLED:
            raise CirillaError(f"{file}: pickled weights, which can run code and are never read; and they hold no rows")
        raise CirillaError(f"{file}: compressed", hint="unpack it first")
    else:
        name = str(file)
        for number, item in _numbered(file, kind, format, intake):
            yield Row(name, number, item if isinstance(item, dict) else {}), item


def _numbered(file: Path, kind: str, format: FormatName | None, intake: Intake) -> Iterator[tuple[int, Item]]:
    """The rows of files that have no lines, counted from 1."""
    match kind:
        case "json":
            value = parse_whole(file, intake)
            return iter(()) if value is None else items(value, file, format)
        case "parquet":
            return enumerate(parquet_rows(file), 1)
        case "arrow":
            return enumerate(arrow_rows(file), 1)
        case "sqlite":
            return iter(database_items(file))
    return enumerate(bin_documents(file, header=kind == "fineweb-bin"), 1)


def _lines(file: Path, intake: Intake) -> Iterator[tuple[Row, Item]]:
    return ((row, row.data) for row in read_rows(file, intake))


def _answers(file: Path, intake: Intake) -> Iterator[tuple[Row, Item]]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                row = Row(str(file), number, answer_of(raw))
            except NotThat as error:
                intake.add(str(file), number, str(error), row=raw)
                continue
            yield row, row.data


def _of_text(file: Path, kind: str, format: FormatName | None, intake: Intake) -> Iterator[tuple[Row, Item]]:
    if format is None:
        _certain(file, kind)
    elif format not in _OF_TEXT:
        yield from _lines(file, intake)
        return
    row = Row(str(file), 1, {})
    if format == "lines":
        yield from _line_by_line(file, intake)
        return
    text = _decoded(file, intake)
    if text is not None:
        yield row, _summary(file, text) if format == "summaries" else Text(file.stem, text, (file.stem,))


def _certain(file: Path, kind: str) -> None:
    """Raises: CirillaError: a text file may be meant in several ways."""
    if kind == "unknown":
        ways = "text (one document), lines (a document a line) or rows (JSON lines)"
    elif holds_rows(file):
        ways = "text (one document) or rows (JSON lines)"
    elif file.stat().st_size > _ONE_DOCUMENT:
        ways = "text (one document) or lines (a document a line)"
    else:
        return
    raise CirillaError(f"{file}: could be {ways}", hint=f"`format` says which, such as `format: {ways.split()[0]}`")


def _line_by_line(file: Path, intake: Intake) -> Iterator[tuple[Row, Item]]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                intake.add(str(file), number, f"not UTF-8 (byte {error.start})", row=raw)
                continue
            if text.strip():
                yield Row(str(file), number, {}), Text(f"{file.stem} {number}", text)


def _decoded(file: Path, intake: Intake) -> str | None:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        intake.add(str(file), None, f"not UTF-8 (byte {error.start})")
        return None


def _summary(file: Path, text: str) -> Item:
    said, subject = text.strip(), file.stem
    if not said:
        return NotThat("the summary is empty")
    if len(text) == _FAILED_SUMMARY and said[-1] not in ".!?\"')":
        return NotThat(f"{_FAILED_SUMMARY} characters that break off: a piece of the page, kept where a teacher failed")
    turns = [{"role": "user", "content": f"Tell me about {subject}."}, {"role": "assistant", "content": said}]
    return Chat(turns, subject, "summary", teacher_of(file))
