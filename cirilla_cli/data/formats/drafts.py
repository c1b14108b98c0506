"""What a foreign row says, before it becomes a record: cheap to make, so that a million rows are checked in seconds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cirilla_cli.data.rows import Document, Sample, short_id

ROLES = {
    "human": "user", "user": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip

Turn = dict[str, str]
"""A turn with our role, and content that says something."""


class NotThat(Exception):
    """What is wrong with a foreign row."""


@dataclass(frozen=True, slots=True)
class Text:
    """Running text."""

    title: str
    text: str
    about: tuple[str, ...] = ()
    """What the id is made of besides the text."""
    url: str | None = None

    def record(self) -> Document:
        """The document."""
        return Document(id=short_id(*self.about, self.text), title=self.title, text=self.text, url=self.url)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that ends with an answer."""

    turns: list[Turn]
    key: str | None = None
    """What decides on its side of a split; the turns where it is None."""
    source: str = "import"
    teacher: str | None = None
    parents: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    note: str | None = None
    """What of the row is not in the conversation."""

    def record(self) -> Sample:
        """The sample."""
        id = short_id(self.turns)
        return Sample.model_validate({
            "kind": "chat", "id": id, "messages": self.turns, "split_key": self.key or id, "source": self.source,
            "parents": self.parents, "evidence": self.evidence,
            "generator": {"strategy": "import", "teacher": self.teacher},
        })  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, and a better and a worse answer to it."""

    turns: list[Turn]
    chosen: str
    rejected: str
    key: str | None = None
    source: str = "import"
    note: str | None = None

    def record(self) -> Sample:
        """The sample."""
        answers = {"chosen": self.chosen, "rejected": self.rejected}
        return Sample.model_validate({
            "kind": "preference", "id": short_id(self.turns, answers), "messages": self.turns, **answers,
            "split_key": self.key or short_id(self.turns), "source": self.source, "generator": {"strategy": "import"},
        })  # fmt: skip


Draft = Text | Chat | Pair


def turns_of(value: Any, *, what: str = "the conversation") -> list[Turn]:
    """A list of turns in any spelling; empty system turns, which say nothing, are left out.

    Raises:
        NotThat: it is no list, or a turn has an unknown role or no content.
    """
    if not isinstance(value, list) or not value:
        raise NotThat(f"{what} must be a list of turns")
    turns = []
    for number, turn in enumerate(value, 1):
        read = _turn(turn, number)
        if read["content"].strip():
            turns.append(read)
        elif read["role"] != "system":
            raise NotThat(f"turn {number} is empty")
    return turns


def _turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, Mapping):
        raise NotThat(f"turn {number} must be an object with role and content")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise NotThat(f"turn {number}: role is {role!r}, must be one of {', '.join(sorted(ROLES))}")
    for key in ("content", "value", "text"):
        if isinstance(content := turn.get(key), str):
            return {"role": ROLES[role], "content": content}
    raise NotThat(f"turn {number} has no text (`content`, `value` or `text`)")


def exchange(question: Any, answer: Any, names: Sequence[str]) -> list[Turn]:
    """A question and its answer as turns; ``names`` are the keys they stand under.

    Raises:
        NotThat: one is no text, or empty.
    """
    for value, name in zip((question, answer), names, strict=True):
        if not isinstance(value, str):
            raise NotThat(f"`{name}` must be a string")
        if not value.strip():
            raise NotThat(f"`{name}` is empty")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def answered(turns: list[Turn]) -> tuple[list[Turn], str | None]:
    """The turns up to the last answer, and a note where turns behind it were cut.

    Raises:
        NotThat: nobody answers.
    """
    kept = len(turns)
    while kept and turns[kept - 1]["role"] != "assistant":
        kept -= 1
    if not kept:
        raise NotThat("no assistant's turn to learn from")
    return turns[:kept], "turns behind the last answer cut" if kept < len(turns) else None


def texts(values: Iterable[Any]) -> tuple[str, ...]:
    """The non-empty strings among ``values``, each once, in order."""
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def optional(value: Any) -> str | None:
    """``value`` if it is text."""
    return value if isinstance(value, str) else None
