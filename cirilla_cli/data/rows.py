"""The rows that travel between verbs: documents, samples and questions, one JSON object a line."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]


class Record(BaseModel):
    """A frozen row: strict types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def incomplete(cls, row: Any) -> str | None:
        """What is missing of fields that depend on one another, in something with fields that fit; None: nothing."""
        return None

    def line(self) -> str:
        """The row as one line of JSON, without a line end; keys in the fields' order, so equal rows are equal text."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), ensure_ascii=False)


Many = Field(default=(), strict=False)


class License(Record):
    """Terms under which a document may be used."""

    name: str
    url: str | None = None


class Fact(Record):
    """One labelled row of an infobox, with all its values."""

    label: str
    values: Annotated[tuple[str, ...], Many] = ()


class WikiSection(Record):
    """A headed part of a page; ``level`` 2 is the topmost."""

    level: int
    heading: str
    text: str


class Origin(Record):
    """Who made a row and how."""

    strategy: str
    version: int = 1
    teacher: str | None = None
    prompt_sha: str | None = None


class Document(Record):
    """A page: its plain text, what was labelled in it, and where it comes from; or a text that was made of one."""

    id: str
    title: str
    text: str
    url: str | None = None
    permalink: str | None = None
    revision: int | None = None
    timestamp: str | None = None
    license: License | None = None
    site: str | None = None
    categories: Annotated[tuple[str, ...], Many] = ()
    aliases: Annotated[tuple[str, ...], Many] = ()
    infobox: Annotated[tuple[Fact, ...], Many] = ()
    sections: Annotated[tuple[WikiSection, ...], Many] = ()
    kind: Literal["transcript"] | None = None
    """What was said rather than what is so: dialogue, subtitles, scripts; None for all other pages."""
    sha256: str = ""
    """Of title, text and infobox; computed when absent."""
    parents: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    """Pages that a text was made from; None for a page itself."""
    generator: Origin | None = None
    """Who made it; None for a page itself."""

    @property
    def split_key(self) -> str:
        """What the split hashes: the page, also of a text that was made from it."""
        return self.parents[0] if self.parents else self.id

    @model_validator(mode="before")
    @classmethod
    def _fingerprint(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("sha256"):
            facts = [f.model_dump() if isinstance(f, Fact) else f for f in data.get("infobox", ())]
            return {**data, "sha256": content_hash(data.get("title"), data.get("text"), facts)}
        return data


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


class Verify(Record):
    """What is needed to judge an answer to a generated task later, without generating it again."""

    name: str
    config: dict[str, Any] = {}
    seed: int
    index: int
    entry: dict[str, Any]


class Sample(Record):
    """Something to learn from: a conversation, a preference between two answers, or a task with a checkable answer."""

    kind: Literal["chat", "preference", "task"]
    id: str
    messages: Annotated[tuple[Message, ...], Field(strict=False, min_length=1)]
    """The conversation; for preferences and tasks the prompt alone, which ends with the user's turn."""
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    verify: Verify | None = None
    split_key: str
    """What the split into train, validation and test hashes: a page id, or a generator and its index."""
    evidence: Annotated[tuple[str, ...], Many] = ()
    source: str
    parents: Annotated[tuple[str, ...], Many] = ()
    generator: Origin

    @classmethod
    def incomplete(cls, row: Any) -> str | None:
        """Whether what this kind of sample needs is there, and who has the last word."""
        kind, last = row.kind, row.messages[-1].role
        if kind == "preference" and not (isinstance(row.chosen, str) and isinstance(row.rejected, str)):
            return "a preference needs `chosen` and `rejected`"
        if kind == "task" and not isinstance(row.answer, str):
            return "a task needs `answer`"
        if kind == "chat" and last != "assistant":
            return f"a chat must end with the assistant's turn, not {last!r}"
        if kind != "chat" and last != "user":
            return f"the prompt of a {kind} must end with the user's turn, not {last!r}"
        return None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if said := self.incomplete(self):
            raise ValueError(said)
        return self

    def conversation(self) -> tuple[Message, ...]:
        """The turns to train on: a task's answer becomes the assistant's turn, a preference keeps its prompt."""
        if self.kind == "task":
            return (*self.messages, Message(role="assistant", content=self.answer or ""))
        return self.messages


class Question(Record):
    """One line of a question set for `eval`."""

    question: str
    answers: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    choices: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    seen: bool
    """Whether this very question stands in the training data."""
    split_key: str


def content_hash(*parts: Any) -> str:
    """SHA-256 of a JSON list: the fingerprint of a row's content, free of key order and spacing."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else list(value)


def short_id(*parts: Any) -> str:
    """A 16-digit id of what a row was made from: the same parts give the same id on every machine."""
    return content_hash(*parts)[:16]


def held_out(split_key: str, *, frac: float, salt: str = "") -> bool:
    """Whether ``split_key`` belongs to the held-out ``frac``: by hash, so a page's rows all fall on one side."""
    digest = hashlib.sha256(f"{salt}\0{split_key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < frac * 2**64
