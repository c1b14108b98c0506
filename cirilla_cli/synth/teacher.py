"""Question-answer pairs that a language model writes about pages, each checked against its page."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, Message, Origin, Sample, content_hash, short_id
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.progress import Progress
from cirilla_cli.synth.base import Made, Rejected, origin_of
from cirilla_cli.synth.config import TeacherQAConfig
from cirilla_cli.synth.grounding import Pair, Pairs, chunks, fault, quoted
from cirilla_cli.synth.journal import FILE, Journal
from cirilla_cli.teachers.base import Completion, Failure, Request, in_parallel

_SYSTEM = "You write questions and answers about a text. You use nothing but the text. You reply with JSON alone."
_PROMPT = """\
Title: {title}

Text:
{text}

Write {count} questions that this text answers. Each must be clear to someone who does not see the text, so name whom \
or what it is about. Give a short, complete answer to each, and as evidence one passage copied word for word from the \
text. Never mention the text itself. Reply with JSON that follows this schema:
{schema}"""
_FENCE = re.compile(r"<think>.*?</think>|^\s*```(?:json)?|```\s*$", re.DOTALL)
_FIELD = re.compile(r"\{(title|text|count|schema)\}")
_FAILURES_IN_A_ROW = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of a page, asked about once."""

    document: Document
    number: int
    text: str

    @property
    def id(self) -> str:
        """Page and piece."""
        return f"{self.document.id}/{self.number}"


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A unit that got no answer; the next run asks again."""

    failure: Failure


class TeacherQA:
    """Asks about each piece of each page, several at a time; rows come in the order of the pages all the same."""

    reads_documents = True

    def __init__(self, config: TeacherQAConfig, workspace: Path | None, spread: Spread = ALONE) -> None:
        self.config, self._spread = config, spread
        self._journal_path = None if workspace is None else workspace / FILE
        self._prompt = _PROMPT if config.prompt is None else _read_prompt(config.prompt)
        self._schema = _inlined(Pairs.model_json_schema())
        self._prompt_sha = content_hash(_SYSTEM, self._prompt, self._schema)[:16]

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Yield rows as soon as those of all earlier pieces are settled.

        Raises:
            ServiceError: no server answers, at the start or several times in a row; what was answered is on record.
        """
        with Journal(self.config.teacher.build(), self._journal_path) as journal:
            if journal.found:
                progress.say(f"{journal.found:,} answers on record in {self._journal_path}")
            work = in_parallel(
                lambda unit: self._settle(unit[1], journal), enumerate(self._own(documents)), self.config.workers
            )
            yield from _in_order(_counted(work, journal, progress))

    def _own(self, documents: Iterable[Document]) -> Iterator[Unit]:
        yield from (unit for unit in self._plan(documents) if self._spread.takes(unit.id))
        self._spread.complete()

    def _plan(self, documents: Iterable[Document]) -> Iterator[Unit]:
        left = self.config.limit
        for document in documents:
            for number, text in enumerate(chunks(document.text, self.config.chunk_chars)):
                if left is not None:
                    if left == 0:
                        return
                    left -= 1
                yield Unit(document, number, text)

    def _settle(self, unit: Unit, journal: Journal) -> list[Made] | Unsettled:
        """Ask until the answer is the JSON asked for, each further time with the complaint and another seed."""
        messages, budget, why = self._messages(unit), self.config.max_tokens, ""
        for attempt in range(self.config.retries + 1):
            answer = journal.ask(self._request(messages, budget, unit, attempt))
            if isinstance(answer, Completion) and answer.cut and budget == self.config.max_tokens:
                budget *= 2
                answer = journal.ask(self._request(messages, budget, unit, attempt))
            if isinstance(answer, Failure):
                return _failed(unit, answer)
            if answer.cut:
                return [Rejected(unit.id, "the answer was cut off twice", {"text": answer.text[:300]})]
            pairs, why = _parsed(answer.text)
            if pairs is not None:
                return [self._judged(unit, pair) for pair in pairs.pairs]
            messages = self._messages(unit, complaint=why, said=answer.text)
        return [Rejected(unit.id, "not the JSON asked for", {"why": why})]

    def _request(self, messages: tuple[Message, ...], budget: int, unit: Unit, attempt: int) -> Request:
        seed = ((self.config.seed or 0) + int(short_id(unit.id), 16) + attempt) % 2**31
        return Request(messages, self._schema, budget, self.config.temperature, seed)

    def _messages(self, unit: Unit, *, complaint: str = "", said: str = "") -> tuple[Message, ...]:
        fields = {
            "title": unit.document.title,
            "text": unit.text,
            "count": str(self.config.pairs_per_chunk),
            "schema": json.dumps(self._schema),
        }
        prompt = _FIELD.sub(lambda match: fields[match[1]], self._prompt)
        first = (Message(role="system", content=_SYSTEM), Message(role="user", content=prompt))
        if not complaint:
            return first
        again = f"That was not the JSON asked for: {complaint}. Reply with the JSON alone."
        return (*first, Message(role="assistant", content=said[:500] or "-"), Message(role="user", content=again))

    def _judged(self, unit: Unit, pair: Pair) -> Made:
        id_ = short_id("teacher/qa", self.config.teacher.kind, unit.document.id, pair.question, pair.answer)
        reason = fault(pair, unit.text, unit.document.title)
        evidence = quoted(pair.evidence, unit.text)
        if reason is not None or evidence is None:
            return Rejected(
                id_, reason or "the evidence does not stand in the page", {"unit": unit.id, **pair.model_dump()}
            )
        turns = (("user", pair.question), ("assistant", pair.answer))
        return Sample(
            kind="chat",
            id=id_,
            messages=tuple(Message.model_validate({"role": role, "content": text.strip()}) for role, text in turns),
            split_key=unit.document.id,
            evidence=(evidence,),
            source=origin_of(unit.document),
            parents=(unit.document.id,),
            generator=Origin(strategy="teacher/qa", teacher=self._teacher_name(), prompt_sha=self._prompt_sha),
        )

    def _teacher_name(self) -> str:
        teacher = self.config.teacher
        return f"replay:{teacher.path.name}" if teacher.kind == "replay" else f"{teacher.kind}:{teacher.model}"


def _read_prompt(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CirillaError(f"{path}: cannot be read as a prompt: {error}") from None
    if "{text}" not in text:
        raise CirillaError(
            f"{path}: a prompt must hold {{text}}, where the page goes", hint="also {title}, {count}, {schema}"
        )
    return text


def _inlined(schema: dict[str, object]) -> dict[str, object]:
    """The schema without references, which some servers do not follow."""
    definitions = schema.get("$defs", {})
    text = json.dumps({key: value for key, value in schema.items() if key != "$defs"})
    for name, value in definitions.items() if isinstance(definitions, dict) else ():
        text = text.replace(json.dumps({"$ref": f"#/$defs/{name}"}), json.dumps(value))
    inlined: dict[str, object] = json.loads(text)
    return inlined


def _parsed(text: str) -> tuple[Pairs | None, str]:
    """The pairs in an answer, or None and what is wrong with it, in words the teacher can act on."""
    try:
        return Pairs.model_validate(json.loads(_FENCE.sub("", text).strip())), ""
    except (json.JSONDecodeError, RecursionError) as error:
        return None, f"it does not parse ({error})"[:200]
    except ValidationError as error:
        first = error.errors()[0]
        return None, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:200]


def _failed(unit: Unit, failure: Failure) -> list[Made] | Unsettled:
    if failure.kind in ("transport", "busy"):
        return Unsettled(failure)
    reasons = {"context": "the prompt does not fit the context", "refused": "the server refused the request"}
    return [Rejected(unit.id, reasons.get(failure.kind, failure.kind), {"why": failure.detail})]


def _counted(
    results: Iterator[tuple[tuple[int, Unit], list[Made] | Unsettled]], journal: Journal, progress: Progress
) -> Iterator[tuple[int, list[Made]]]:
    """Numbered results; gives up when nothing was answered several times in a row, or anything stays unanswered."""
    in_a_row, unsettled, last = 0, 0, ""
    for done, ((number, unit), result) in enumerate(results, 1):
        if isinstance(result, Unsettled):
            in_a_row, unsettled, last = in_a_row + 1, unsettled + 1, f"{unit.id}: {result.failure.detail}"
            if in_a_row >= _FAILURES_IN_A_ROW:
                break
            yield number, []
            continue
        in_a_row = 0
        yield number, result
        progress.step("pieces of pages", done)
    if unsettled:
        raise ServiceError(
            f"{journal.name} at {journal.teacher.address} left {unsettled} requests unanswered; the last: {last}",
            hint="run the same command again: answers so far are on record, only missing ones are asked for",
        )


def _in_order(results: Iterable[tuple[int, list[Made]]]) -> Iterator[Made]:
    """The rows of results 0, 1, 2 ... whatever order those arrive in."""
    early: dict[int, list[Made]] = {}
    following = 0
    for number, rows in results:
        early[number] = rows
        while following in early:
            yield from early.pop(following)
            following += 1
