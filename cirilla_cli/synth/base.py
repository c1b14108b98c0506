"""What a source of samples gives: samples, questions, and rejects with their reason."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

from cirilla_cli.data.rows import Document, Message, Origin, Question, Sample, short_id
from cirilla_cli.progress import Progress

OVERLONG = "the prompt does not fit the context"
"""Why a teacher was not asked: what it would have to read and write is longer than it can be."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that could have become a sample, and why it did not."""

    id: str
    reason: str
    """A fixed phrase, so that reasons can be counted."""
    detail: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """One line of rejects.jsonl."""
        return {"id": self.id, "reason": self.reason, **self.detail}


@dataclass(slots=True)
class Spent:
    """What a teacher was asked for in a run."""

    asked: int = 0
    """Requests sent."""
    on_record: int = 0
    """Requests that an earlier run, or an earlier page, had answered."""
    failed: int = 0
    """Requests sent that got no answer."""
    prompt_tokens: int = 0
    """As the server counts them."""
    tokens: int = 0
    """Written by the teacher, as the server counts them."""
    seconds: float = 0.0
    """Of waiting for answers, summed over all workers."""

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


Made = Sample | Document | Question | Rejected | Spent
"""A document is a text that was made of a page, to be read as such."""


class Synthesizer(Protocol):
    """A source of samples; the same documents and section give the same rows in the same order."""

    reads_documents: bool

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Yield rows as soon as they are known."""


def origin_of(document: Document) -> str:
    """Where a page can be found: its permanent address if there is one."""
    return document.permalink or document.url or f"{document.site or 'document'}: {document.title}"


def page_chat(
    document: Document, rule: str, question: str, answer: str, evidence: Sequence[str], parents: Sequence[str] = ()
) -> Sample:
    """One question about ``document`` and its answer, made by a rule; ``parents`` are the pages read, else this one."""
    strategy = f"fandom/{rule}"
    return Sample(
        kind="chat",
        id=short_id(strategy, document.id, question, answer),
        messages=(Message(role="user", content=question), Message(role="assistant", content=answer)),
        split_key=document.id,
        evidence=tuple(evidence),
        source=origin_of(document),
        parents=tuple(parents) or (document.id,),
        generator=Origin(strategy=strategy),
    )
