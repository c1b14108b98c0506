"""From a configuration to an open source and the place its rows go to."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from cirilla_cli.data.jsonl import JsonlWriter, last_of_kind, read_records, repair_tail
from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import Document, License
from cirilla_cli.errors import InterruptedRun
from cirilla_cli.fs import hash_json
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, HubConfig, MediaWikiConfig, ScrapeConfig, ScrapedConfig
from cirilla_cli.scrape.earlier import earlier
from cirilla_cli.scrape.outputs import Folder, Pipe, Place, Tally
from cirilla_cli.scrape.page import Reject, Rules, Site

if TYPE_CHECKING:
    from cirilla_cli.scrape.hub import Taken

R = TypeVar("R", Document, Reject)


class Source(Protocol):
    """Somewhere documents come from."""

    @property
    def site(self) -> Site:
        """What is known of the whole."""

    @property
    def requests(self) -> int:
        """Requests made so far."""

    def rows(self) -> Iterator[Document | Reject]:
        """Documents and rejections, in an order that stays the same."""


Opened = tuple[Source, Pipe | Folder]


def open_source(
    config: ScrapeConfig, place: Place, progress: Progress, stack: contextlib.ExitStack, spread: Spread = ALONE
) -> Opened:
    """The source and where its rows go; both are closed with ``stack``.

    Raises:
        CirillaError: the source cannot be read or must not be. ServiceError: it does not answer.
    """
    given = _given(config)
    before = earlier(config.source.path) if isinstance(config.source, ScrapedConfig) else None
    match config.source if before is None else before.source():
        case MediaWikiConfig() as wiki:
            if before is None:
                return _wiki(config, wiki, given, place, progress, stack)
            from cirilla_cli.scrape.again import KeptWiki

            source: Source = KeptWiki(before.side, config.min_chars, given, stack)
        case DumpConfig() as dump:
            source = open_dump(config, dump, place, progress, stack, spread)
        case FilesConfig() as files:
            source = open_files(config, files, spread)
        case HubConfig() as hub:
            return _hub(config, hub, given, place, stack, spread)
    return source, _sink(place, Tally(), stack)


def _sink(
    place: Place, tally: Tally, stack: contextlib.ExitStack, *, append: bool = False,
    keep: Callable[[], None] | None = None,
) -> Pipe | Folder:  # fmt: skip
    sink = Pipe(tally) if place.side is None else Folder(place, tally, append=append, keep=keep)
    stack.callback(sink.close)
    return sink


def _wiki(
    config: ScrapeConfig, source: MediaWikiConfig, given: License | None, place: Place, progress: Progress,
    stack: contextlib.ExitStack,
) -> Opened:  # fmt: skip
    from cirilla_cli.scrape.access import open_client
    from cirilla_cli.scrape.mediawiki import WikiSource, connect
    from cirilla_cli.scrape.store import FolderStore, MemoryStore, PageStore

    api, site = connect(source, open_client(config.contact, source, progress), progress)
    kept = None if place.side is None else FolderStore(place.side, api.url)
    store: PageStore = kept or MemoryStore()
    stack.callback(store.close)
    sink = _sink(place, Tally(), stack, keep=kept.keep if kept else None)
    return WikiSource(api, site, source, Rules(config.min_chars, source.namespaces), store, given, config.limit), sink


def open_dump(
    config: ScrapeConfig, source: DumpConfig, place: Place, progress: Progress, stack: contextlib.ExitStack,
    spread: Spread = ALONE,
) -> Source:  # fmt: skip
    """An export, downloaded before if it is at an address; ``spread`` says which of its pages are read here."""
    from cirilla_cli.scrape.checksums import check_beside
    from cirilla_cli.scrape.dump import DumpSource, opened

    path, requests = dump_file(source, place), 0
    if source.address is not None:
        path, requests = _downloaded(source.address, config.contact, path, progress, stack)
    assert path is not None, "a dump is a file or an address"
    if source.address is None and path.is_file():
        check_beside(path)
    open_plain = stack.enter_context(opened(path))
    return DumpSource(path, open_plain, Rules(config.min_chars, source.namespaces), _given(config), requests, spread)


def open_files(config: ScrapeConfig, source: FilesConfig, spread: Spread = ALONE) -> Source:
    """A folder or a file; ``spread`` says which of its files are read here."""
    from cirilla_cli.scrape.files import FilesSource

    return FilesSource(source.path, config.min_chars, _given(config), spread)


def open_hub(config: ScrapeConfig, source: HubConfig, spread: Spread) -> Source:
    """A data set from its first row; ``spread`` says which of its files are read here."""
    from cirilla_cli.scrape.hub import HubSource

    return HubSource(source, config.min_chars, _given(config), spread=spread)


def _given(config: ScrapeConfig) -> License | None:
    """The licence that the recipe states."""
    return License(name=config.license.name, url=config.license.url) if config.license else None


def _downloaded(
    address: str, contact: str | None, kept: Path | None, progress: Progress, stack: contextlib.ExitStack
) -> tuple[Path, int]:
    """(the file at ``address``, requests made); where ``kept`` names no place for it, it goes with ``stack``."""
    from cirilla_cli.scrape.access import open_download
    from cirilla_cli.scrape.download import fetch

    client = open_download(contact, address, progress)
    if kept is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cirilla-")))
        return fetch(client, address, folder, progress), client.requests_made
    try:
        return fetch(client, address, kept.parent, progress), client.requests_made
    except KeyboardInterrupt:
        raise InterruptedRun("stopped; what was downloaded is kept", hint="the same command goes on") from None


def dump_file(source: DumpConfig, place: Place) -> Path | None:
    """The file that a dump is read from: the one named, or where a download lies; None where none is kept."""
    if source.address is None:
        return Path(source.path)
    return None if place.side is None else place.side / "raw" / "dump"


def _hub(
    config: ScrapeConfig, source: HubConfig, given: License | None, place: Place, stack: contextlib.ExitStack,
    spread: Spread,
) -> Opened:  # fmt: skip
    """A stream cannot be read anew at will, so an unfinished one goes on where its last row stands."""
    from cirilla_cli.scrape.hub import HubSource

    tally = Tally()
    if place.side is None:
        return open_hub(config, source, spread), _sink(place, tally, stack)
    journal, wanted = place.side / "journal.jsonl", hash_json(config.model_dump(mode="json"))
    repair_tail(journal)
    mark = last_of_kind(journal, "stream")
    # Parts are merged from the first row on, whatever a process alone has gathered.
    goes_on = spread is ALONE and mark.get("config") == wanted and place.part.exists()
    taken = _taken(place, tally) if goes_on else None
    hub = HubSource(source, config.min_chars, given, mark.get("commit") if taken else None, taken, spread)
    if taken is None:
        with JsonlWriter(journal, append=True) as writer:
            writer.write({"kind": "stream", "config": wanted, "commit": hub.commit})
    return hub, _sink(place, tally, stack, append=taken is not None)


def _gathered(path: Path, model: type[R]) -> Iterator[R]:
    repair_tail(path)
    if path.exists():
        yield from read_records(path, model)


def _taken(place: Place, tally: Tally) -> "Taken":
    """How far the rows gathered so far reach; torn last rows are cut off."""
    from cirilla_cli.scrape.hub import Taken

    size, last = 0, dict[type[Document | Reject], str]()
    rows: Iterator[Document | Reject] = chain(_gathered(place.part, Document), _gathered(place.rejects_part, Reject))
    for row in rows:
        tally.count(row)
        last[type(row)] = row.id
        size += len(row.text.encode("utf-8", "surrogatepass")) if isinstance(row, Document) else 0
    return Taken(tuple(last.values()), size)
