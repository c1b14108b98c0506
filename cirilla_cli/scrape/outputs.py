"""What a scrape leaves: documents, rejections, attribution; each appears whole, or not at all."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cirilla_cli.data.jsonl import STDIO, JsonlWriter, close_all, read_records
from cirilla_cli.data.rows import Document, License
from cirilla_cli.fs import sync_folder
from cirilla_cli.scrape.page import Reject, Site


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows go (`-` is standard output), and the folder of what lies beside them, if anything does."""

    documents: Path
    side: Path | None

    @classmethod
    def of(cls, out: Path) -> Self:
        """A folder gets everything; FILE.jsonl gets the rows and ``FILE.scrape/`` the rest; `-` only rows."""
        if out == STDIO:
            return cls(out, None)
        if out.suffix == ".jsonl":
            return cls(out, out.with_name(f"{out.stem}.scrape"))
        return cls(out / "documents.jsonl", out)

    @property
    def part(self) -> Path:
        """Where the rows gather until they are complete."""
        return self.documents.with_name(f".{self.documents.name}.part")

    @property
    def rejects_part(self) -> Path:
        """Where the rejections gather."""
        assert self.side is not None
        return self.side / ".rejects.jsonl.part"


@dataclass
class Tally:
    """What became of the pages so far."""

    documents: int = 0
    aliases: int = 0
    licenses: Counter[License | None] = field(default_factory=Counter)
    """Documents under each; None: those that state none."""
    rejected: Counter[str] = field(default_factory=Counter)

    def count(self, row: Document | Reject) -> None:
        """Count one row."""
        if isinstance(row, Reject):
            self.rejected[row.reason] += 1
            return
        self.documents += 1
        self.aliases += len(row.aliases)
        self.licenses[row.license] += 1


class Pipe:
    """Writes documents to standard output as they come; rejections are only counted."""

    def __init__(self, tally: Tally) -> None:
        self.tally, self._documents = tally, JsonlWriter(STDIO)

    def write(self, row: Document | Reject) -> None:
        """Take one row."""
        if isinstance(row, Document):
            self._documents.write(row)
        self.tally.count(row)

    def commit(self, site: Site) -> None:
        """Everything has been written already."""

    def close(self) -> None:
        """Standard output stays open."""


class Folder:
    """Gathers rows beside their place and puts them there when all have come.

    Args:
        append: go on with what an earlier run gathered.
        keep: called once the rows are whole, before they are put in their place.
    """

    def __init__(
        self, place: Place, tally: Tally, *, append: bool = False, keep: Callable[[], None] | None = None
    ) -> None:
        assert place.side is not None
        self.tally, self._place, self._side, self._keep = tally, place, place.side, keep
        self._documents = JsonlWriter(place.part, append=append)
        self._rejects = JsonlWriter(place.rejects_part, append=append)
        self._side.mkdir(parents=True, exist_ok=True)
        self._sources_part = self._side / ".ATTRIBUTION.md.part"
        self._sources = self._sources_part.open("w", encoding="utf-8", newline="\n")
        for row in read_records(place.part, Document) if append else ():
            self._cite(row)

    def write(self, row: Document | Reject) -> None:
        """Take one row."""
        if isinstance(row, Document):
            self._documents.write(row)
            self._cite(row)
        else:
            self._rejects.write(row)
        self.tally.count(row)

    def _cite(self, row: Document) -> None:
        if row.permalink or row.url:
            self._sources.write(_source_line(row))

    def commit(self, site: Site) -> None:
        """Put the finished files in their places, the documents last."""
        self.close()
        attribution = self._side / "ATTRIBUTION.md"
        with attribution.with_suffix(".md.part").open("w", encoding="utf-8", newline="\n") as file:
            file.write(_attribution_head(site, self.tally))
            with self._sources_part.open(encoding="utf-8", newline="\n") as lines:
                several = len(self.tally.licenses) > 1
                file.writelines(line.replace(_UNDER, "") if several else _ONE_LICENSE.sub("\n", line) for line in lines)
        self._sources_part.unlink()
        os.replace(attribution.with_suffix(".md.part"), attribution)
        os.replace(self._place.rejects_part, self._side / "rejects.jsonl")
        if self._keep is not None:
            self._keep()
        os.replace(self._place.part, self._place.documents)
        sync_folder(self._place.documents.parent)

    def close(self) -> None:
        """Bring everything onto the disk."""
        if not self._sources.closed:
            close_all((self._documents, self._rejects, self._sources))


_UNDER = "\x1f"
"""Stands before a document's licence, which is named where there are several."""
_ONE_LICENSE = re.compile(f"{_UNDER}.*\n")


def _attribution_head(site: Site, tally: Tally) -> str:
    lines = ["# Attribution", "", f"{tally.documents} documents{f' from {_plain(site.name)}' if site.name else ''}."]
    found = tally.licenses.most_common() or [(site.license, 0)]
    several = len(found) > 1
    lines += [_terms(license, f" of {documents} documents" if several else "") for license, documents in found]
    lines += ["The text was changed: markup, images and navigation were removed.", ""]
    return "\n".join(lines) + "\n"


def _terms(license: License | None, of: str) -> str:
    if license is None:
        return f"Licence{of}: not stated. Find out before you pass on the text or what is made from it."
    return f"Licence{of}: {_plain(license.name)}{f' ({_address(license.url)})' if license.url else ''}."


def _source_line(row: Document) -> str:
    """One page with its address: of its revision and its list of authors on a wiki, else the one that is known."""
    line = f"- {_plain(row.title or row.id)}: {_address(row.permalink or row.url or '')}"
    if row.permalink and row.url:
        line += f" (authors: {_address(row.url)}{'&' if '?' in row.url else '?'}action=history)"
    return f"{line}{_UNDER} ({_plain(row.license.name) if row.license else 'licence not stated'})\n"


def _address(url: str) -> str:
    """``url`` on one line, whatever a foreign row calls one."""
    return "".join(char for char in url if char.isprintable() and not char.isspace())


def _plain(text: str) -> str:
    """``text`` on one line, with what Markdown would read as markup escaped."""
    text = "".join(char if char.isprintable() else " " for char in text)  # none that moves a terminal's cursor either
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))
