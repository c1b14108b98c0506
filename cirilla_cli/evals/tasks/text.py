"""Perplexity and bits per byte of held-out text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cirilla_cli.data.inputs import read_inputs
from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Subject, Surprise
from cirilla_cli.evals.config import TextTaskConfig
from cirilla_cli.evals.stats import ratio_interval

LISTED = 1000
"""So many documents are listed one by one; the sums are over all of them."""


@dataclass(frozen=True, slots=True)
class NamedText:
    """A document and what to call it in the list."""

    id: str
    text: str


class TextTask:
    """Bits per byte: -sum log2 p(token) / UTF-8 bytes, each document by itself, every byte once.

    Raises:
        CirillaError: there is no text.
    """

    kind = "text"

    def __init__(self, documents: Iterable[NamedText]) -> None:
        self.documents = [document for document in documents if document.text]
        if not self.documents:
            raise CirillaError("there is no text to score")

    @classmethod
    def read(cls, config: TextTaskConfig) -> "TextTask":
        """The documents of files and folders.

        Raises:
            CirillaError: unreadable, malformed, or no text in them.
        """
        try:
            return cls(islice(_documents(config.path), config.max_documents))
        except CirillaError as error:
            if str(error).startswith("there is no text"):
                raise CirillaError(f"{', '.join(map(str, config.path))}: {error}", hint=error.hint) from None
            raise

    def score(self, subject: Subject) -> dict[str, Any]:
        """``bits_per_byte``, ``perplexity`` (per token), ``bytes``, ``tokens``, and the same by document."""
        surprises = subject.surprises([document.text for document in self.documents])
        sizes = [len(document.text.encode()) for document in self.documents]
        bits = [surprise.nats / math.log(2) for surprise in surprises]
        listed = zip(self.documents[:LISTED], surprises, sizes, strict=False)
        return {
            **_sums(surprises, sizes),
            "interval": ratio_interval(bits, [float(size) for size in sizes]),
            "documents": len(sizes),
            "by_document": [{"id": document.id, **_sums([s], [size])} for document, s, size in listed],
        }


def _documents(paths: Sequence[Path]) -> Iterable[NamedText]:
    for record in read_inputs(paths):
        if not isinstance(record, Document):
            raise CirillaError(
                f"{', '.join(map(str, paths))}: holds samples (first: {record.id}), and a text task scores documents",
                hint="documents.jsonl, rows with `text`, or text files",
            )
        yield NamedText(record.id, record.text)


def _sums(surprises: Sequence[Surprise], sizes: Sequence[int]) -> dict[str, Any]:
    nats, tokens, size = sum(s.nats for s in surprises), sum(s.tokens for s in surprises), sum(sizes)
    # A perplexity beyond the range of numbers is one of a broken model; JSON has no infinity.
    perplexity = math.exp(nats / tokens) if nats / tokens < 700 else None
    return {
        "bits_per_byte": round(nats / math.log(2) / size, 6),
        "perplexity": None if perplexity is None else round(perplexity, 6),
        "bytes": size,
        "tokens": tokens,
    }
