"""Runs a scrape: opens the source, writes what it yields, reports."""

import contextlib
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from cirilla_cli.data.jsonl import JsonlWriter
from cirilla_cli.data.parts import ALONE, Spread
from cirilla_cli.data.rows import License
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.fs import hash_path
from cirilla_cli.held import held
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.access import check_access
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, MediaWikiConfig, ScrapeConfig, ScrapedConfig
from cirilla_cli.scrape.earlier import earlier
from cirilla_cli.scrape.files import FilesSource
from cirilla_cli.scrape.opening import Source, dump_file, open_source
from cirilla_cli.scrape.outputs import Folder, Pipe, Place, Tally

_RESTRICTED = re.compile(
    r"(?<![a-z0-9])(nc|nd)(?![a-z0-9])|(?<![a-z])(non[\W_]*commercial|not for commercial|no[\W_]*deriv)", re.IGNORECASE
)


class ScrapeReport(BaseModel):
    """What a scrape did."""

    model_config = ConfigDict(frozen=True)

    documents: int
    """Documents written."""
    rejected: dict[str, int]
    """Pages that gave none, by reason."""
    aliases: int
    """Titles that redirect to the documents."""
    requests: int
    """Requests made over the network."""
    seconds: float
    license: str | None
    """Name of the licence of the source."""
    site: str | None
    out: str
    """Where the rows lie; `-` for standard output."""


def scrape(config: ScrapeConfig, out: Path, progress: Progress, spread: Spread = ALONE) -> ScrapeReport:
    """Bring the documents of a source to ``out``: a folder, a FILE.jsonl, or `-` for standard output.

    Over an unfinished or older result only what is missing or has changed is fetched, and the rows are made anew from
    the raw pages, so they are the same however often the work was cut short. ``spread`` may look up a dump's rows.

    Raises:
        CirillaError: the source cannot be read or must not be, or another process writes to ``out``.
        ServiceError: the network failed.
        InterruptedRun: the user stopped it; what was fetched is kept.
    """
    started, place = time.monotonic(), Place.of(out)
    with contextlib.ExitStack() as stack:
        if place.side is not None:
            stack.enter_context(held(place.side))
        source, sink = open_source(config, place, progress, stack, spread)
        try:
            _pump(source, sink, config.limit, progress)
        except KeyboardInterrupt:
            if place.side is None:
                raise
            raise InterruptedRun("stopped; what was fetched is kept", hint="the same command goes on") from None
        if not sink.tally.documents and place.side is not None and place.documents.exists():
            lost = dict(sink.tally.rejected) or "there are no pages"
            hint = "look at scrape.source and at the rules; --fresh starts over"
            raise CirillaError(f"no documents came of it ({lost}); {place.documents} stays as it was", hint=hint)
        sink.commit(source.site)
        report = _report(source, sink.tally, out, time.monotonic() - started)
    _say_terms(sink.tally, progress)
    if place.side is not None:
        _log(config, place, place.side, report)
    return report


def check_source(config: ScrapeConfig) -> None:
    """Refuse what a scrape would refuse before it asks a wiki or reads a text.

    Raises:
        CirillaError: a wiki that may not be asked, a file that is no dump, or no texts in a folder.
    """
    match config.source:
        case MediaWikiConfig():
            check_access(config.contact, config.source)
        case FilesConfig():
            FilesSource(config.source.path, config.min_chars, None)
        case DumpConfig(address=None, path=path):
            from cirilla_cli.scrape.dump import check_dump

            check_dump(Path(path))


def _pump(source: Source, sink: Pipe | Folder, limit: int | None, progress: Progress) -> None:
    """Write rows until there are no more, or enough documents."""
    if limit is not None and sink.tally.documents >= limit:
        return
    for row in source.rows():
        sink.write(row)
        progress.step("documents", sink.tally.documents, limit, rejected=sink.tally.rejected.total())
        if sink.tally.documents == limit:
            return


def _report(source: Source, tally: Tally, out: Path, seconds: float) -> ScrapeReport:
    return ScrapeReport(
        documents=tally.documents, rejected=dict(sorted(tally.rejected.items())), aliases=tally.aliases,
        requests=source.requests, seconds=round(seconds, 3),
        license=source.site.license.name if source.site.license else None, site=source.site.name, out=str(out),
    )  # fmt: skip


def _say_terms(tally: Tally, progress: Progress) -> None:
    """Warn where nothing is known of the terms, or where they restrict what the text may be used for."""
    if tally.licenses[None]:
        progress.say(
            f"no licence is known for {tally.licenses[None]} of {tally.documents} documents; "
            "state it with scrape.license.name='...' scrape.license.url='...'"
        )
    for license, documents in tally.licenses.items():
        if license is not None and _is_restricted(license):
            progress.say(
                f"the licence of {documents} of {tally.documents} documents is {license.name}: "
                "it forbids commercial use or changed versions; so it may for a model"
            )


def _is_restricted(license: License) -> bool:
    """Whether name or address say so: of the address the path, as a host may be called anything."""
    stated = (license.name, urlsplit(license.url or "").path)
    return any(_RESTRICTED.search(part) for part in stated)


def _log(config: ScrapeConfig, place: Place, side: Path, report: ScrapeReport) -> None:
    """Note in the journal what was read, when, and what came of it."""
    entry: dict[str, Any] = {"kind": "run", "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    source = config.source
    if isinstance(source, ScrapedConfig):
        before = earlier(source.path)
        entry |= {"sha256": before.sha256, "kept": None if before.side.samefile(side) else str(before.side)}
        config = config.model_copy(update={"source": before.config.source})
    else:
        file = dump_file(source, place) if isinstance(source, DumpConfig) else None
        path = source.path if isinstance(source, FilesConfig) else file
        entry["sha256"] = None if path is None else hash_path(path)
    with JsonlWriter(side / "journal.jsonl", append=True) as journal:
        journal.write({**entry, "config": config.model_dump(mode="json"), "report": report.model_dump(mode="json")})
