"""A dump read on many machines: a part extracts its share of the pages, and all parts together give the same rows."""

import contextlib
from functools import partial
from pathlib import Path

from cirilla_cli.data.merging import merging
from cirilla_cli.data.parts import MadeFrom, Part, PartReport, Share, make_part
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, HubConfig, MediaWikiConfig, ScrapeConfig, ScrapedConfig
from cirilla_cli.scrape.opening import open_dump
from cirilla_cli.scrape.outputs import Place
from cirilla_cli.scrape.run import ScrapeReport, scrape


def scrape_share(
    config: ScrapeConfig, out: Path, share: Share, progress: Progress, *, fresh: bool = False
) -> PartReport:
    """Extract one share of a dump's pages; ``fresh`` does it anew.

    Raises:
        CirillaError: the source cannot be read, or shared out.
    """
    dump, place = _dump_of(config), Place.of(out)
    work = partial(_read_share, config, dump, place, progress)
    return make_part(place.side, share, _made_from(config, dump), progress, work, fresh=fresh)


def scrape_merge(config: ScrapeConfig, out: Path, progress: Progress) -> ScrapeReport:
    """Make the rows of all parts, as `scrape` makes them.

    Raises:
        CirillaError: parts are missing, or are not of this.
    """
    with merging(Place.of(out).side, _made_from(config, _dump_of(config)), progress) as parts:
        return scrape(config, out, progress, parts)


def _dump_of(config: ScrapeConfig) -> DumpConfig:
    """The dump that is read.

    Raises:
        CirillaError: it is none, or something else is for one process.
    """
    source, why = config.source, None
    match source:
        case MediaWikiConfig():
            why = "a wiki is asked by one process, one request at a time"
        case HubConfig():
            why = "a stream is read by one process, in order"
        case ScrapedConfig():
            why = "what was kept is read by one process, in order"
        case FilesConfig():
            why = "reading the files is all the work there is"
        case DumpConfig() if source.address is not None:
            why = "every part would download it"
    if isinstance(source, DumpConfig) and why is None and config.limit is None:
        return source
    raise CirillaError(
        f"this scrape cannot be shared out: {why or '`scrape.limit` counts documents in order'}",
        hint="leave out --shard and --merge; a dump in a file can be shared out",
    )


def _made_from(config: ScrapeConfig, dump: DumpConfig) -> MadeFrom:
    return MadeFrom.of("scrape", config.model_dump(mode="json"), [Path(dump.path)])


def _read_share(config: ScrapeConfig, dump: DumpConfig, place: Place, progress: Progress, part: Part) -> None:
    with contextlib.ExitStack() as stack:
        source = open_dump(config, dump, place, progress, stack, part)
        for done, _ in enumerate(source.rows(), 1):
            progress.step("pages", done)
