"""What a source of samples gives: samples, questions, and rejects with their reason."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from cirilla_cli.data.rows import Document, Question, Sample
from cirilla_cli.progress import Progress


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


Made = Sample | Question | Rejected


class Synthesizer(Protocol):
    """A source of samples; the same documents and section give the same rows in the same order."""

    reads_documents: bool

    def make(self, documents: Iterable[Document], progress: Progress) -> Iterator[Made]:
        """Yield rows as soon as they are known."""
