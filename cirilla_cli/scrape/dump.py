"""A MediaWiki XML export as a source: streamed, with its own template pages, redirects as aliases."""

import bz2
import contextlib
import gzip
import re
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from urllib.parse import urljoin
from xml.parsers import expat

from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.scrape.page import RawPage, Reading, Reject, Rules, Site, extract, reject
from cirilla_cli.scrape.redirects import Redirects
from cirilla_cli.scrape.results import RESULT
from cirilla_cli.scrape.templates import REDIRECT, Templates
from cirilla_cli.scrape.wikitext import STANDARD_NAMESPACES, read_wikitext

_CHUNK = 1 << 18
_TEMPLATE = 10
_MAGIC = {b"\x1f\x8b": "gz", b"BZ": "bz2", b"7z": "7z", b"PK": ".zip", b"\xfd7": ".xz", b"(\xb5": ".zst"}


Opener = Callable[[], BufferedIOBase]


@dataclass
class DumpPage:
    """One page of an export, in its newest revision."""

    title: str = ""
    id: int = 0
    namespace: int | None = None
    redirect: str | None = None
    revision: int = -1
    timestamp: str | None = None
    model: str = "wikitext"
    text: str = ""


@dataclass
class DumpSite:
    """What an export says of its wiki."""

    name: str | None = None
    base: str | None = None
    namespaces: dict[str, int] = field(default_factory=dict)


class _Parser:
    """Follows the elements of an export; finished pages gather in ``pages``."""

    def __init__(self) -> None:
        self.site, self.pages = DumpSite(), list[DumpPage]()
        self.expat = expat.ParserCreate()
        self.expat.buffer_text = True
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._characters
        self.expat.StartDoctypeDeclHandler = self._refuse_doctype
        self._path: list[str] = []
        self._pieces: list[str] = []
        self._key = ""
        self._page, self._revision = DumpPage(), DumpPage()

    def _refuse_doctype(self, *_: object) -> None:
        # An export has none; entity declarations are how a small file grows into gigabytes or reads other files.
        raise _Refused("declares a document type, which a MediaWiki export never does")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path and name != "mediawiki":
            raise _Refused(f"begins with <{name}>, a MediaWiki export begins with <mediawiki>")
        self._path.append(name)
        self._pieces = []
        if name == "page":
            self._page = DumpPage()
        elif name == "revision":
            self._revision = DumpPage()
        elif name == "redirect":
            self._page.redirect = attributes.get("title")
        elif name == "namespace":
            self._key = attributes.get("key", "0")

    def _characters(self, text: str) -> None:
        self._pieces.append(text)

    def _end(self, name: str) -> None:
        text, self._pieces = "".join(self._pieces), []
        self._path.pop()
        match self._path[1:]:
            case []:
                if name == "page":
                    self.pages.append(self._page)
            case ["page"]:
                self._end_of_page(name, text)
            case ["page", "revision"]:
                self._end_in_revision(name, text)
            case ["siteinfo", *_]:
                self._end_in_site(name, text)

    def _end_of_page(self, name: str, text: str) -> None:
        page, revision = self._page, self._revision
        if name == "title":
            page.title = text
        elif name == "ns":
            page.namespace = self._number(name, text)
        elif name == "id":
            page.id = self._number(name, text)
        elif name == "revision" and revision.revision >= page.revision:
            page.revision, page.timestamp = revision.revision, revision.timestamp
            page.model, page.text = revision.model, revision.text

    def _end_in_revision(self, name: str, text: str) -> None:
        match name:
            case "id":
                self._revision.revision = self._number(name, text)
            case "timestamp":
                self._revision.timestamp = text
            case "model":
                self._revision.model = text
            case "text":
                self._revision.text = text

    def _end_in_site(self, name: str, text: str) -> None:
        if name == "sitename":
            self.site.name = text
        elif name == "base":
            self.site.base = text
        elif name == "namespace" and text:
            self.site.namespaces[text.lower()] = self._number("key", self._key)

    def _number(self, name: str, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise _Refused(f"<{name}> is {text[:40]!r}, a whole number is expected") from None


class _Refused(Exception):
    """The export holds something it must not; turned into an error with file and line."""


def read_pages(path: Path, open_plain: Opener) -> Generator[tuple[DumpSite, DumpPage], None, None]:
    """Stream the pages of an export.

    Raises:
        CirillaError: naming file and line where it is not well-formed, ends early, or is no export.
    """
    parser = _Parser()
    with open_plain() as file:
        while True:
            data = _read(file, path)
            _feed(parser, data, path)
            for page in parser.pages:
                yield parser.site, page
            parser.pages.clear()
            if not data:
                return


def _read(file: BufferedIOBase, path: Path) -> bytes:
    try:
        return file.read(_CHUNK)
    except (EOFError, OSError, zlib.error) as error:
        why = "ends in the middle" if isinstance(error, EOFError) else f"cannot be unpacked: {error}"
        raise CirillaError(f"{path}: {why}", hint="download it again") from None


def _feed(parser: _Parser, data: bytes, path: Path) -> None:
    try:
        parser.expat.Parse(data, not data)
    except expat.ExpatError as error:
        what = f"not well-formed XML: {expat.errors.messages[error.code]} (column {error.offset + 1})"
        raise _located(path, error.lineno, what) from None
    except _Refused as error:
        raise _located(path, parser.expat.CurrentLineNumber, str(error)) from None


def _located(path: Path, line: int, what: str) -> CirillaError:
    return CirillaError(
        f"{path}:{line}: {what}",
        hint="a MediaWiki XML export is expected, whole; download it again",
        where=[Where(str(path), line, expected=what)],
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opener]:
    """A function that opens the plain XML of an export, however it is packed; call it once a pass.

    Raises:
        CirillaError: the file is missing, unreadable or empty; a .7z without the extra `dump`.
    """
    match _packing(path):
        case "gz":
            yield lambda: gzip.GzipFile(path)
        case "bz2":
            yield lambda: bz2.BZ2File(path)
        case "7z":
            from cirilla_cli.scrape.sevenzip import unpack_xml

            with tempfile.TemporaryDirectory(prefix="cirilla-") as folder:
                plain = Path(folder) / "dump.xml"
                unpack_xml(path, plain)
                yield lambda: plain.open("rb")
        case str(kind):
            raise CirillaError(f"{path}: is a {kind}, which is not read here", hint="unpack it: --dump FILE.xml")
        case _:
            yield lambda: path.open("rb")


def _packing(path: Path) -> str | None:
    """How the file is packed; None for one that is not."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise CirillaError(f"{path}: the dump cannot be read: {error.strerror}") from None
    if not start:
        raise CirillaError(f"{path}: the dump is empty")
    return _MAGIC.get(start)


def check_dump(path: Path) -> None:
    """Refuse what is no export, as far as its beginning tells; a .7z is not looked into, which would unpack it whole.

    Raises:
        CirillaError: it cannot be read, is no export, or holds no page.
    """
    if _packing(path) == "7z":
        return
    with opened(path) as open_plain, contextlib.closing(read_pages(path, open_plain)) as pages:
        if next(pages, None) is None:
            raise CirillaError(f"{path}: holds no page")


class DumpSource:
    """Documents of an export: a first pass gathers templates and redirects, the second reads the pages.

    Raises:
        CirillaError: the export is damaged, or holds no page.
    """

    def __init__(
        self, path: Path, open_plain: Opener, rules: Rules, license: License | None, requests: int = 0,
        spread: Spread = ALONE,
    ) -> None:  # fmt: skip
        self.path, self.rules, self._open, self.requests, self._spread = path, rules, open_plain, requests, spread
        self._templates, self._redirects = Templates(), Redirects()
        self._titles: set[str] = set()
        site = DumpSite()
        for site, page in read_pages(path, open_plain):
            self._survey(page, site)
        if not self._titles:
            raise CirillaError(f"{path}: holds no page")
        article_path = urljoin(site.base, "./$1") if site.base else None
        self.site = Site(site.name, article_path, license, {**STANDARD_NAMESPACES, **site.namespaces})
        self._aliases = self._redirects.aliases()

    def _survey(self, page: DumpPage, site: DumpSite) -> None:
        namespace = _namespace(page, site.namespaces)
        target = _target(page)
        if namespace == _TEMPLATE:
            text = page.text if target is None else f"#REDIRECT [[Template:{target.partition(':')[2]}]]"
            self._templates.add(page.title.partition(":")[2], text)
        self._titles.add(page.title)
        if target is not None:
            self._redirects.targets[page.title] = target

    def _why_nowhere(self, title: str) -> str | None:
        end = self._redirects.end(title)
        if end is None:
            return "redirect loop"
        return None if end in self._titles else "broken redirect"

    def rows(self) -> Iterator[Document | Reject]:
        """Every page that is no redirect, and every redirect that leads nowhere, in the order of the export."""
        pages = read_pages(self.path, self._open)
        rows = self._spread.each(pages, _key, lambda own: (self._row(*page) for page in own), RESULT)
        yield from (row for _, row in rows if row is not None)

    def _row(self, site: DumpSite, page: DumpPage) -> Document | Reject | None:
        raw = RawPage(
            page.id, page.title, _namespace(page, site.namespaces), page.revision if page.revision >= 0 else None,
            page.timestamp, "wikitext", page.text,
        )  # fmt: skip
        ours = raw.namespace in self.rules.namespaces
        if page.title in self._redirects.targets:
            why = self._why_nowhere(page.title)
            return reject(raw, why, self._redirects.targets[page.title]) if why is not None and ours else None
        if page.model != "wikitext" and ours:
            return reject(raw, "content model", page.model)
        return extract(raw, self._aliases.get(page.title, ()), self.site, self.rules, self._read)

    def _read(self, page: RawPage) -> Reading:
        return read_wikitext(page.content, page.title, self._templates, self.site.namespaces)


def _key(item: tuple[DumpSite, DumpPage]) -> str:
    """What a page of an export is shared out by."""
    return str(item[1].id)


def _namespace(page: DumpPage, namespaces: dict[str, int]) -> int:
    """The page's namespace; old exports give it only by the title's prefix."""
    if page.namespace is not None:
        return page.namespace
    prefix, colon, _ = page.title.partition(":")
    return {**STANDARD_NAMESPACES, **namespaces}.get(prefix.lower(), 0) if colon else 0


def _target(page: DumpPage) -> str | None:
    """The title a redirect leads to, in the spelling titles have; None for other pages."""
    match = REDIRECT.match(page.text)
    target = page.redirect or (match[1] if match else None)
    if target is None:
        return None
    target = re.sub(r"[\s_]+", " ", target.partition("#")[0]).strip().lstrip(":")
    return target[:1].upper() + target[1:]
