"""What a filter is: it sees rows, first all of a source if it must, and keeps, changes or refuses each."""

from dataclasses import dataclass, field
from typing import Protocol

from cirilla_cli.data.rows import Document, Sample

Row = Document | Sample


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a row does not stay, and the numbers that say so."""

    reason: str
    numbers: dict[str, float | str] = field(default_factory=dict)


class Filter(Protocol):
    """One quality filter of a recipe."""

    reads_twice: bool
    """Whether `look` must see every row before `apply` sees the first."""

    def look(self, row: Row, source: str) -> None:
        """Learn from a row of a source, before any is judged."""

    def apply(self, row: Row, source: str) -> Row | Refused:
        """The row, perhaps changed, or why it does not stay."""


class TextFilter:
    """A filter that judges each row by its own texts alone: a row goes if one of them does."""

    reads_twice = False

    def look(self, row: Row, source: str) -> None:
        """Learns nothing."""

    def apply(self, row: Row, source: str) -> Row | Refused:
        """The row itself, or why it does not stay."""
        return next(filter(None, map(self.judge, learned(row))), row)

    def judge(self, text: str) -> Refused | None:
        """Why ``text`` does not stay, None if it does."""
        raise NotImplementedError


def learned(row: Row) -> list[str]:
    """The texts a model learns to write: a document's, or each answer of a sample.

    Apart, because an answer may well repeat the words of its question.
    """
    if isinstance(row, Document):
        return [row.text]
    answers = [turn.content for turn in row.conversation() if turn.role == "assistant"]
    return [*answers, row.chosen] if row.kind == "preference" and row.chosen is not None else answers


def size_of(row: Row) -> int:
    """Characters of everything in a row that is read in training."""
    if isinstance(row, Document):
        return len(row.text)
    parts = [*(turn.content for turn in row.conversation()), row.chosen or "", row.rejected or ""]
    return sum(map(len, parts))
