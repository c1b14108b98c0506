"""Text files, saved HTML pages and JSON lines as a source."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cirilla_cli.data.jsonl import Complaints, Row, read_rows
from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import files_below
from cirilla_cli.scrape.page import Reject, Site, is_transcript, outline
from cirilla_cli.scrape.results import ROW, Result
from cirilla_cli.scrape.webpage import decode_html, read_webpage

_TEXT = (".txt", ".md")
_PAGES = (".html", ".htm", ".xhtml")
_LINES = (".jsonl", ".ndjson")
_KNOWN = tuple(name for name in Document.model_fields if name not in ("id", "title", "text", "sha256"))
"""Fields that a document takes from a row as they are; its hash is that of the text as it is kept."""


class FilesSource:
    """Documents from a folder or one file; nothing is changed in it. ``spread`` says which files are read here.

    Raises:
        CirillaError: it is missing, or holds no file of a known kind.
    """

    requests = 0

    def __init__(self, path: Path, min_chars: int, license: License | None, spread: Spread = ALONE) -> None:
        self.root, self.min_chars, self._spread = path, min_chars, spread
        self.site = Site(None, None, license)
        if not path.exists():
            raise CirillaError(f"{path}: no such file or folder")
        candidates = [path] if path.is_file() else files_below(path)
        self.files = [file for file in candidates if file.suffix.lower() in _TEXT + _PAGES + _LINES]
        if not self.files:
            raise CirillaError(f"{path}: holds no .txt, .md, .html or .jsonl file")

    def rows(self) -> Iterator[Document | Reject]:
        """Every file or line as a document or a rejection, in the order of names.

        Raises:
            CirillaError: at the end, naming each line of a .jsonl that is not a JSON object.
        """
        complaints = Complaints()
        yield from self._spread.several(self.files, self._name, partial(self._read, complaints), ROW)
        complaints.raise_if_any()

    def _name(self, file: Path) -> str:
        return file.name if file == self.root else file.relative_to(self.root).as_posix()

    def _read(self, complaints: Complaints, file: Path, done: int) -> Iterator[Result]:
        """What a file holds behind ``done`` results, and None unless a line is wrong: it is complained of again."""
        before = complaints.count
        yield from islice(self._results(file, complaints), done, None)
        if complaints.count == before:
            yield None

    def _results(self, file: Path, complaints: Complaints) -> Iterator[Result]:
        name = self._name(file)
        if file.suffix.lower() in _LINES:
            return (self._line(row, name) for row in read_rows(file, complaints))
        return (self._file(each, name) for each in (file,))

    def _file(self, file: Path, name: str) -> Document | Reject:
        try:
            data = file.read_bytes()
            if file.suffix.lower() in _PAGES:
                return self._page(decode_html(data), name, file.stem)
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Reject(id=name, title=file.stem, reason="not UTF-8", detail=f"byte {error.start}")
        except OSError as error:
            return Reject(id=name, title=file.stem, reason="unreadable", detail=error.strerror)
        return self._document(name, file.stem, text)

    def _page(self, html: str, name: str, stem: str) -> Document | Reject:
        try:
            page = read_webpage(_lines(html))
        except RecursionError:
            return Reject(id=name, title=stem, reason="unreadable", detail="its elements are nested too deeply")
        title, reading = page.title or stem, page.reading
        if reading.disambiguation:
            return Reject(id=name, title=title, reason="disambiguation")
        text, sections = outline(reading.blocks)
        kind = "transcript" if is_transcript(title, (), text) else None
        return self._document(name, title, text, url=page.url, infobox=reading.infobox, sections=sections, kind=kind)

    def _line(self, row: Row, name: str) -> Document | Reject:
        number = f"{name}:{row.line}"
        title = str(row.data.get("title") or row.data.get("subject") or "")
        text = row.data.get("text")
        if isinstance(text, list) and all(isinstance(part, str) for part in text):
            text = "\n\n".join(text)
        if not isinstance(text, str):
            return Reject(id=number, title=title, reason="no text", detail="`text` must be a string")
        return self._document(str(row.data.get("id") or number), title, text, **_known(row.data))

    def _document(self, name: str, title: str, text: str, **more: Any) -> Document | Reject:
        text = _lines(text).strip()
        if len(text) < max(self.min_chars, 1):
            return Reject(id=name, title=title, reason="short", detail=f"{len(text)} characters")
        return Document(**{"license": self.site.license, **more, "id": name, "title": title, "text": text})


def _lines(text: str) -> str:
    """``text`` with the line ends of every system made one."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _known(data: dict[str, Any]) -> dict[str, Any]:
    """The other fields of a document, where a row has them in the right form; foreign keys are left out."""
    known = {}
    for key in _KNOWN:
        if data.get(key) is not None and _fits(key, data[key]):
            known[key] = data[key]
    return known


def _fits(key: str, value: Any) -> bool:
    try:
        Document(id="", title="", text="", **{key: value})
    except ValueError:
        return False
    return True
