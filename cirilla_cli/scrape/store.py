"""Raw pages on disk and the journal of what was fetched: append-only, whole after a kill at any moment."""

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from cirilla_cli.data.jsonl import Complaints, JsonlWriter, read_rows, repair_tail
from cirilla_cli.data.rows import Record
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import sync_folder
from cirilla_cli.scrape.page import RawPage, Reject, Site

INDEX = "index.jsonl"
"""What the rows of the last whole scrape were made from, a `Line` each."""
PAGES = "pages.jsonl.gz"


class Line(Record, strict=False):
    """One thing that rows were made from: the site first, then each template, page and rejection as it was met."""

    site: Site | None = None
    namespaces: tuple[int, ...] = ()
    reject: Reject | None = None
    template: bool = False
    aliases: tuple[str, ...] = ()
    place: tuple[int, int] = (0, 0)
    """Offset and length of the stored page."""


class PageStore(Protocol):
    """Where raw pages lie, by page id and reading."""

    @property
    def empty(self) -> bool:
        """Whether no page is there."""

    def has(self, page_id: int, reading: str, revision: int | None) -> bool:
        """Whether this very revision is there."""

    def load(self, page_id: int, reading: str) -> RawPage:
        """A page that is there."""

    def add(self, pages: Sequence[RawPage]) -> None:
        """Keep pages."""

    def note(self, line: Line, page: tuple[int, str] | None = None) -> None:
        """The next thing rows are made from; ``page`` is the id and reading of the stored page it is about."""

    def forget(self) -> None:
        """Articles loaded so far are not needed again in this run."""

    def close(self) -> None:
        """Nothing more comes."""


class MemoryStore:
    """Keeps nothing: a page stays only until it has been read."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, str], RawPage] = {}

    @property
    def empty(self) -> bool:
        """Whether no page is at hand."""
        return not self._pages

    def has(self, page_id: int, reading: str, revision: int | None) -> bool:
        """Whether this very revision is at hand."""
        page = self._pages.get((page_id, reading))
        return page is not None and page.revision == revision

    def load(self, page_id: int, reading: str) -> RawPage:
        """A page at hand."""
        return self._pages[page_id, reading]

    def add(self, pages: Sequence[RawPage]) -> None:
        """Take pages in hand."""
        self._pages.update({(page.id, page.reading): page for page in pages})

    def note(self, line: Line, page: tuple[int, str] | None = None) -> None:
        """Nothing is kept, so nothing can be made again."""

    def forget(self) -> None:
        """Let go of all pages; templates have been read into the source by now."""
        self._pages.clear()

    def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True)
class _Entry:
    revision: int | None
    offset: int
    length: int


class FolderStore:
    """Pages of one wiki in ``folder``: ``raw/pages.jsonl.gz`` holds them, ``journal.jsonl`` says where each lies.

    A page is one gzip member, so the file is also plain gzip. The journal's line is written once its page is on disk;
    what the journal does not name is cut off when the store is opened. ``raw/index.jsonl`` leads from the rows to the
    pages they were made from; it is replaced when new rows are whole.

    Raises:
        CirillaError: the folder holds pages of another wiki, or its journal is damaged.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self._raw_path, self._journal_path = folder / "raw" / PAGES, folder / "journal.jsonl"
        self._entries: dict[tuple[int, str], _Entry] = {}
        repair_tail(self._journal_path)
        known = self._load(origin) if self._journal_path.exists() else None
        self._raw_path.parent.mkdir(parents=True, exist_ok=True)
        self._raw = self._raw_path.open("a+b")
        self._raw.truncate(max((entry.offset + entry.length for entry in self._entries.values()), default=0))
        self._journal = JsonlWriter(self._journal_path, append=True)
        self._index = JsonlWriter(self._raw_path.with_name(f".{INDEX}.part"))
        if known is None:
            self._journal.write({"kind": "origin", "origin": origin})

    def _load(self, origin: str) -> str | None:
        """Read the journal; entries beyond the end of the raw file (a power cut) are left out."""
        size = self._raw_path.stat().st_size if self._raw_path.exists() else 0
        complaints, known = Complaints(), None
        for row in read_rows(self._journal_path, complaints):
            if row.data.get("kind") == "origin":
                known = str(row.data["origin"])
                if known != origin:
                    raise CirillaError(
                        f"{self._journal_path}: holds pages of {known}, not of {origin}",
                        hint="choose another --out, or start over with --fresh",
                    )
            elif row.data.get("kind") == "page":
                entry = _Entry(row.data["revision"], row.data["offset"], row.data["length"])
                if entry.offset + entry.length <= size:
                    self._entries[row.data["id"], row.data["reading"]] = entry
        complaints.raise_if_any()
        return known

    @property
    def empty(self) -> bool:
        """Whether no page is stored."""
        return not self._entries

    def has(self, page_id: int, reading: str, revision: int | None) -> bool:
        """Whether this very revision is stored."""
        entry = self._entries.get((page_id, reading))
        return entry is not None and entry.revision == revision

    def load(self, page_id: int, reading: str) -> RawPage:
        """A stored page."""
        entry = self._entries[page_id, reading]
        return read_page(self._raw, entry.offset, entry.length)

    def add(self, pages: Sequence[RawPage]) -> None:
        """Store pages; they are on disk, and the journal says so, when this returns."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = []
        offset = self._raw.seek(0, os.SEEK_END)
        for page in pages:
            text = json.dumps(asdict(page), ensure_ascii=False) + "\n"
            data = gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)
            self._raw.write(data)
            lines.append((page, _Entry(page.revision, offset, len(data))))
            offset += len(data)
        self._raw.flush()
        os.fsync(self._raw.fileno())
        for page, entry in lines:
            where = {"offset": entry.offset, "length": entry.length, "fetched": now}
            self._journal.write(
                {"kind": "page", "id": page.id, "revision": page.revision, "reading": page.reading, **where}
            )
            self._entries[page.id, page.reading] = entry
        self._journal.sync()

    def note(self, line: Line, page: tuple[int, str] | None = None) -> None:
        """Write down the next thing rows are made from, with the place of a stored page."""
        entry = self._entries[page] if page is not None else None
        self._index.write(line.model_copy(update={"place": (entry.offset, entry.length)}) if entry else line)

    def keep(self) -> None:
        """The rows are whole, and what was noted is what they were made from."""
        self._index.close()
        os.replace(self._index.path, self._raw_path.with_name(INDEX))
        sync_folder(self._raw_path.parent)

    def forget(self) -> None:
        """Nothing is held in memory."""

    def close(self) -> None:
        """Close both files."""
        self._raw.close()
        self._journal.close()
        if self._index.path.exists():
            self._index.close()


def read_page(raw: BinaryIO, offset: int, length: int) -> RawPage:
    """The page that lies there.

    Raises:
        CirillaError: something else does.
    """
    raw.seek(offset)
    try:
        return RawPage.from_row(json.loads(gzip.decompress(raw.read(length))))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        raise CirillaError(
            f"{raw.name}: is damaged: no page lies at byte {offset}",
            hint="scrape it again with --fresh, which fetches every page anew",
        ) from None
