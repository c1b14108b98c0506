"""Prompts and answers of an earlier GRPO trainer: two files joined by id, or its SQLite database."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cirilla_cli.data.formats.drafts import Chat, Draft, NotThat, Pair, exchange
from cirilla_cli.data.formats.pairs import pair
from cirilla_cli.errors import CirillaError

Data = dict[str, Any]

_PROMPT, _ANSWER = {"id", "prompt", "context"}, {"id", "answer"}
_QUERY = """
    SELECT p.id, p.subject, p.prompt, p.context, g.answer, s.score
    FROM Prompt_Dataset p LEFT JOIN Generated_Dataset g ON g.id = p.id
    LEFT JOIN Generated_Dataset_Scores s ON s.log_probs_id = g.log_probs_id ORDER BY p.id, g.rowid
"""
UNANSWERED = "a prompt without an answer: name the file of answers (`id`, `answer`) behind it"


class Prompts:
    """Prompts that wait for their answers, by id: never by their order, which need not be the same in both files."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, int, Data]] = {}
        self._answered: set[str] = set()

    def takes(self, data: Data) -> bool:
        """Whether a row is a prompt without an answer, or an answer without a prompt."""
        names = data.keys()
        return (names >= _PROMPT and "completion" not in names and "chosen" not in names) or (
            _ANSWER <= names <= _ANSWER | {"score", "model"}
        )

    def take(self, data: Data, file: str, line: int) -> Chat | None:
        """Keep a prompt (None), or join an answer to it.

        Raises:
            NotThat: an id stands twice, or an answer's prompt was not read before.
        """
        id = str(data["id"])
        if "prompt" in data:
            if id in self._waiting:
                raise NotThat(f"a second prompt with the id {id}")
            self._waiting[id] = (file, line, data)
            return None
        if id not in self._waiting:
            raise NotThat(f"an answer to the prompt {id}, which was not read before: name the prompts' file first")
        self._answered.add(id)
        return _chat(self._waiting[id][2], data["answer"], data.get("model"))

    def unanswered(self) -> Iterator[tuple[str, int, Data]]:
        """File, line and row of every prompt that met no answer."""
        return (row for id, row in self._waiting.items() if id not in self._answered)


def database_items(path: Path) -> Iterator[tuple[int, Draft | NotThat]]:
    """One item a prompt of the trainer's database: best against worst answer where scores differ, else the answers.

    Raises:
        CirillaError: the file is no such database.
    """
    rows: list[tuple[Any, ...]] = []
    for row in _query(path):
        if rows and row[0] != rows[0][0]:
            yield from _of_prompt(rows)
            rows = []
        rows.append(row)
    if rows:
        yield from _of_prompt(rows)


def _query(path: Path) -> Iterator[tuple[Any, ...]]:
    # Immutable: not even a journal is written beside somebody's file.
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
        try:
            yield from connection.execute(_QUERY)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise CirillaError(f"{path}: not a database of prompts, answers and scores that can be read: {error}") from None


def _of_prompt(rows: list[tuple[Any, ...]]) -> Iterator[tuple[int, Draft | NotThat]]:
    number, data = int(rows[0][0]), dict(zip(("id", "subject", "prompt", "context"), rows[0], strict=False))
    answers = [(answer, score) for *_, answer, score in rows if answer is not None]
    scored = sorted((a for a in answers if a[1] is not None), key=lambda a: a[1])
    try:
        if not answers:
            yield number, NotThat(UNANSWERED)
        elif scored and scored[0][1] < scored[-1][1]:
            yield number, _pair(data, scored[-1][0], scored[0][0])
        else:
            for answer, _ in answers:
                yield number, _chat(data, answer, None)
    except NotThat as error:
        yield number, error


def _chat(data: Data, answer: Any, teacher: Any) -> Chat:
    turns = exchange(data["prompt"], answer, ("prompt", "answer"))
    context = data.get("context")
    evidence = (context,) if isinstance(context, str) and context else ()
    model = teacher if isinstance(teacher, str) else None
    return Chat(turns, _subject(data), "grpo", model, (), evidence)


def _pair(data: Data, chosen: Any, rejected: Any) -> Pair:
    turns = exchange(data["prompt"], chosen, ("prompt", "answer"))[:1]
    if not isinstance(rejected, str):
        raise NotThat("`answer` must be a string")
    note = "answers between the best and the worst left out"
    return pair({"subject": _subject(data), "source": "grpo"}, turns, chosen, rejected, note)


def _subject(data: Data) -> str | None:
    return str(data["subject"]) if data.get("subject") else None
