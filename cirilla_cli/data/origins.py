"""Which page or sample each document of a shard is: one line a row beside the shard, so that a token leads back."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from cirilla_cli.data.jsonl import Complaints, read_rows, validate
from cirilla_cli.data.rows import Document, Record, Sample
from cirilla_cli.data.shards import Kind
from cirilla_cli.fs import atomic_write, hash_file


class RowOrigin(Record):
    """One row of training data, without its text."""

    id: str
    title: str | None = None
    """Of a page; None for a sample."""
    permalink: str | None = None
    """Of the page's revision; for a sample of the page it was made from."""
    revision: int | None = None
    license: str | None = None
    """Its name."""
    site: str | None = None
    parents: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Pages that a sample was made from."""
    strategy: str | None = None
    teacher: str | None = None

    @classmethod
    def of(cls, record: Document | Sample) -> Self:
        """What is kept of a row."""
        made = record.generator
        strategy, teacher = (made.strategy, made.teacher) if made else (None, None)
        if isinstance(record, Document):
            return cls(
                id=record.id, title=record.title, permalink=record.permalink or record.url, revision=record.revision,
                license=record.license.name if record.license else None, site=record.site, parents=record.parents or (),
                strategy=strategy, teacher=teacher,
            )  # fmt: skip
        return cls(id=record.id, permalink=record.source, parents=record.parents, strategy=strategy, teacher=teacher)


def write_origins(path: Path, records: Sequence[Document | Sample]) -> str:
    """Write a line for each of a shard's rows; returns the file's SHA-256."""
    with atomic_write(path) as file:
        file.writelines(f"{RowOrigin.of(record).line()}\n".encode() for record in records)
    return hash_file(path)


def read_origins(path: Path, wanted: Collection[int]) -> dict[int, RowOrigin]:
    """The rows of a shard whose numbers are wanted.

    Raises:
        CirillaError: the file is missing or damaged.
    """
    complaints = Complaints()
    found = {
        n: validate(row, RowOrigin, complaints) for n, row in enumerate(read_rows(path, complaints)) if n in wanted
    }
    complaints.raise_if_any()
    return {n: origin for n, origin in found.items() if origin is not None}


def row_of(kind: Kind, document: int) -> int:
    """The number of the row that a shard's document was made from: a preference makes two, its two answers."""
    return document // 2 if kind == "preference" else document
