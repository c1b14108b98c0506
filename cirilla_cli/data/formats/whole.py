"""Files that are one JSON value: a list of rows, or what earlier tools left, one page or one conversation a file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cirilla_cli.data.formats.chats import multi_turn
from cirilla_cli.data.formats.drafts import Chat, Draft, NotThat, exchange
from cirilla_cli.data.formats.grpo import as_row, is_answer
from cirilla_cli.data.formats.known import ROWS

_VARIANT = re.compile(r"_\d*$")
"""What the earlier tools put behind a subject for a further question about it."""

Item = dict[str, Any] | Draft | NotThat
"""A row, something already read, or why it cannot be."""


def items(value: Any, file: Path, format: str | None) -> Iterator[tuple[int, Item]]:
    """What a JSON value holds, counted from 1.

    Args:
        value: the file's content.
        format: as the user says; `conversation` makes one conversation of a list of questions and answers.
    """
    try:
        if isinstance(value, dict):
            yield from _object(value, file, format)
        elif isinstance(value, list):
            yield from _list(value, file, format)
        else:
            yield 1, NotThat(f"a JSON object or a list is expected, not {type(value).__name__}")
    except NotThat as error:
        yield 1, error


def _object(value: dict[str, Any], file: Path, format: str | None) -> Iterator[tuple[int, Item]]:
    if format is None and _is_quick_answers(value):
        for number, (question, answer) in enumerate(value.items(), 1):
            yield number, _quick_answer(question, answer, file.stem)
    elif {"question", "answer"} <= value.keys() and value.keys() <= {"question", "answer", "context"}:
        yield 1, {"subject": subject_of(file), "model": teacher_of(file), **value}
    elif format is None and value and all(_is_titles(part) for part in value.values()):
        raise _titles(sum(map(len, value.values())))
    else:
        yield 1, value


def _list(value: list[Any], file: Path, format: str | None) -> Iterator[tuple[int, Item]]:
    if is_answer(value) or (value and all(map(is_answer, value))):
        answers = [value] if is_answer(value) else value
        yield from enumerate(map(as_row, answers), 1)
        return
    if _is_titles(value):
        raise _titles(len(value))
    if _is_mixture(value):
        raise _mixture(value)
    if value and all(isinstance(one, dict) and {"question", "answer"} <= one.keys() for one in value):
        whole = format == "conversation" or (format is None and any("context" in one for one in value))
        if whole:
            yield 1, multi_turn(value, subject_of(file), teacher_of(file))
            return
        if format is None and len(value) > 1:
            raise NotThat(
                "a list of questions and answers could be question-answer (one row each) or conversation (its turns): "
                "`format` says which (format: conversation)"
            )
    for number, one in enumerate(value, 1):
        yield number, one if isinstance(one, dict) else NotThat(f"a row must be an object, not {type(one).__name__}")


def subject_of(file: Path) -> str:
    """The subject a file's name says, without the number of a further variant."""
    return _VARIANT.sub("", file.stem) or file.stem


def teacher_of(file: Path) -> str | None:
    """The model that wrote a file: the earlier tools named the folder after it."""
    return file.resolve().parent.name or None


def _is_quick_answers(value: dict[str, Any]) -> bool:
    """`{question: answer}` of one page: keys are questions, and no known row has such keys."""
    asks = value and all(isinstance(a, str) and q.strip().endswith("?") for q, a in value.items())
    return bool(asks) and not any(one.claims(value) for one in ROWS.values())


def _quick_answer(question: str, answer: str, subject: str) -> Item:
    try:
        return Chat(exchange(question.strip(), answer, ("the question", "the answer")), subject, "fandom")
    except NotThat as error:
        return error


def _is_titles(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(title, str) for title in value)


def _titles(count: int) -> NotThat:
    return NotThat(
        f"a list of {count} titles, no rows; `cirilla scrape` fetches such pages (source.titles_file=FILE, a flat list)"
    )


def _is_mixture(value: list[Any]) -> bool:
    names, weights = value[::2], value[1::2]
    return bool(weights) and len(names) == len(weights) and all(isinstance(name, str) for name in names) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) for weight in weights
    )  # fmt: skip


def _mixture(value: list[Any]) -> NotThat:
    pairs = zip(value[::2], value[1::2], strict=True)
    written = ", ".join(f"{_name(name)}: {{path: {json.dumps(name)}, weight: {weight}}}" for name, weight in pairs)
    return NotThat(f"a mixture of sources, no rows; in a recipe of pretrain: data.sources: {{{written}}}")


def _name(path: str) -> str:
    return re.sub(r"\W+", "-", Path(path).stem).strip("-") or "source"
