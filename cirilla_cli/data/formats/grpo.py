"""Prompts and answers of an earlier GRPO trainer: files joined by id, or its SQLite database."""

import json
import math
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cirilla_cli.data.formats.drafts import Chat, Draft, NotThat, Pair, exchange
from cirilla_cli.data.formats.pairs import pair
from cirilla_cli.data.jsonl import Row
from cirilla_cli.errors import CirillaError

Data = dict[str, Any]
Scored = tuple[Any, float | None]
"""An answer, which must be text, and its score."""

_PROMPT, _ANSWER = {"id", "prompt", "context"}, {"id", "answer"}
_QUERY = """
    SELECT p.id, p.subject, p.prompt, p.context, g.answer, s.score
    FROM Prompt_Dataset p LEFT JOIN Generated_Dataset g ON g.id = p.id
    LEFT JOIN Generated_Dataset_Scores s ON s.log_probs_id = g.log_probs_id ORDER BY p.id, g.rowid
"""
_BESIDE = "name the prompts' file too (for curate one folder that holds both)"
UNANSWERED = (
    "a prompt without an answer: name the file of answers (`id`, `answer`) too (for curate one folder that holds both)"
)


class Prompts:
    """Prompts that wait for their answers, by id: never by their order, which need not be the same in both files."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, int, Data]] = {}
        self._answered: set[str] = set()
        self._early: list[Row] = []
        self._scored: dict[str, list[tuple[Row, Scored]]] = {}

    def takes(self, data: Data) -> bool:
        """Whether a row is a prompt without an answer, or an answer without a prompt."""
        names = data.keys()
        return (names >= _PROMPT and "completion" not in names and "chosen" not in names) or (
            _ANSWER <= names <= _ANSWER | {"score", "model"}
        )

    def take(self, data: Data, file: str, line: int) -> Chat | None:
        """Join an answer to its prompt; None for what is kept: a prompt, a scored answer, one before its prompt.

        Raises:
            NotThat: an id stands twice, or a score is no number.
        """
        id = str(data["id"])
        if "prompt" in data:
            if id in self._waiting:
                raise NotThat(f"a second prompt with the id {id}")
            self._waiting[id] = (file, line, data)
            return None
        if id not in self._waiting:
            self._early.append(Row(file, line, data))
            return None
        score = _score(data.get("score"))
        self._answered.add(id)
        if score is None:
            return _chat(self._waiting[id][2], data["answer"], data.get("model"))
        self._scored.setdefault(id, []).append((Row(file, line, data), (data["answer"], score)))
        return None

    def judged(self) -> Iterator[tuple[Row, Draft | NotThat]]:
        """What the answers make that were kept until all is read, each with the row of (the first of) its answers."""
        for row in self._early:
            try:
                chat = self._late(row)
            except NotThat as error:
                yield row, error
                continue
            if chat is not None:
                yield row, chat
        for id, held in self._scored.items():
            found = _of_answers(self._waiting[id][2], [answer for _, answer in held])
            yield from zip((row for row, _ in held), found, strict=False)

    def _late(self, row: Row) -> Chat | None:
        """Raises: NotThat: the prompt of an answer that came before it never came, or as `take`."""
        if str(row.data["id"]) not in self._waiting:
            raise NotThat(f"an answer to the prompt {row.data['id']}, which is not beside it: {_BESIDE}")
        return self.take(row.data, row.file, row.line)

    def unanswered(self) -> Iterator[tuple[str, int, Data]]:
        """File, line and row of every prompt that met no answer."""
        return (row for id, row in self._waiting.items() if id not in self._answered)


def is_answer(value: Any) -> bool:
    """Whether a JSON value is `[id, answer]` or `[id, answer, score]`, as `saved_grpo_answers.jsonl` has them."""
    if not isinstance(value, list) or len(value) not in (2, 3) or not isinstance(value[1], str):
        return False
    return _is_number(value[0]) if len(value) == 2 else isinstance(value[0], int | str) and _is_number(value[2])


def answer_of(raw: bytes) -> Data:
    """The answer in a line with an array, as a row.

    Raises:
        NotThat: the line is no such array.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        torn = not raw.endswith(b"\n")
        raise NotThat("half-written: the file ends inside this row" if torn else f"not JSON: {error}") from None
    if not is_answer(value):
        raise NotThat("must be [id, answer] or [id, answer, score], as the first line is")
    return as_row(value)


def as_row(answer: list[Any]) -> Data:
    """`[id, answer, score]` with its keys."""
    return dict(zip(("id", "answer", "score"), answer, strict=False))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not math.isfinite(value):
        raise NotThat(f"`score` is {value!r}: must be a number")
    return float(value)


def database_items(path: Path) -> Iterator[tuple[int, Draft | NotThat]]:
    """One item a prompt of the trainer's database: best against worst answer where scores differ, else the answers.

    Raises:
        CirillaError: the file is no such database.
    """
    prompts = groupby(_query(path), key=lambda row: row[0])
    for number, (_, rows) in enumerate(prompts, 1):
        yield from ((number, item) for item in _of_prompt(list(rows)))


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


def _of_prompt(rows: list[tuple[Any, ...]]) -> Iterator[Draft | NotThat]:
    data = dict(zip(("id", "subject", "prompt", "context"), rows[0], strict=False))
    try:
        answers = [(answer, _score(score)) for *_, answer, score in rows if answer is not None]
    except NotThat as error:
        yield error
        return
    yield from _of_answers(data, answers) if answers else (NotThat(UNANSWERED),)


def _of_answers(data: Data, answers: list[Scored]) -> Iterator[Draft | NotThat]:
    """The best answer to a prompt against the worst where scores differ, else each of them."""
    scored = sorted((score, place) for place, (_, score) in enumerate(answers) if score is not None)
    differ = scored and scored[0][0] < scored[-1][0]
    chosen = [(scored[-1][1], scored[0][1])] if differ else [(place, None) for place in range(len(answers))]
    for best, worst in chosen:
        try:
            yield _judged(data, answers, best, worst)
        except NotThat as error:
            yield error


def _judged(data: Data, answers: list[Scored], best: int, worst: int | None) -> Draft:
    answer = answers[best][0]
    if worst is None:
        return _chat(data, answer, None)
    return _pair(data, answer, answers[worst][0], between=len(answers) > 2)


def _chat(data: Data, answer: Any, teacher: Any) -> Chat:
    turns = exchange(data["prompt"], answer, ("prompt", "answer"))
    context = data.get("context")
    evidence = (context,) if isinstance(context, str) and context else ()
    model = teacher if isinstance(teacher, str) else None
    return Chat(turns, _subject(data), "grpo", model, (), evidence)


def _pair(data: Data, chosen: Any, rejected: Any, *, between: bool) -> Pair:
    turns = exchange(data["prompt"], chosen, ("prompt", "answer"))[:1]
    if not isinstance(rejected, str):
        raise NotThat("`answer` must be a string")
    note = "answers between the best and the worst left out" if between else None
    return pair({"subject": _subject(data), "source": "grpo"}, turns, chosen, rejected, note)


def _subject(data: Data) -> str | None:
    return str(data["subject"]) if data.get("subject") else None
