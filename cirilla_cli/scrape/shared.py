"""A scrape on many machines: a part reads its share, and all parts together give the rows of one process.

dump --pages, by hash--> parts      folder, data set --files, in turn--> parts
"""

import contextlib
from functools import partial
from pathlib import Path

from cirilla_cli.data.merging import merging
from cirilla_cli.data.parts import MadeFrom, Part, PartReport, Share, make_part, parts_of
from cirilla_cli.errors import CirillaError
from cirilla_cli.fs import hash_json
from cirilla_cli.progress import Progress
from cirilla_cli.scrape.config import DumpConfig, FilesConfig, HubConfig, MediaWikiConfig, ScrapeConfig, ScrapedConfig
from cirilla_cli.scrape.opening import Source, open_dump, open_files, open_hub
from cirilla_cli.scrape.outputs import Place
from cirilla_cli.scrape.run import ScrapeReport, scrape

_Shared = DumpConfig | FilesConfig | HubConfig
"""Sources that can be shared out."""


def scrape_share(
    config: ScrapeConfig, out: Path, share: Share, progress: Progress, *, fresh: bool = False
) -> PartReport:
    """Read one share of a dump's pages, or of the files of a folder or a data set; ``fresh`` does it anew.

    Raises:
        CirillaError: the source cannot be read, or shared out. ServiceError: the Hub does not answer.
    """
    source, place = _shared(config), Place.of(out)
    parts_of(place.side)
    work = partial(_read_share, config, source, place, progress)
    return make_part(place.side, share, _made_from(config, source), progress, work, fresh=fresh)


def scrape_merge(config: ScrapeConfig, out: Path, progress: Progress) -> ScrapeReport:
    """Make the rows of all parts, as `scrape` makes them; of a data set only the list of files is asked for.

    Raises:
        CirillaError: parts are missing, or are not of this. ServiceError: the Hub does not answer.
    """
    with merging(Place.of(out).side, _made_from(config, _shared(config)), progress) as parts:
        return scrape(config, out, progress, parts)


def _shared(config: ScrapeConfig) -> _Shared:
    """The source that is shared out.

    Raises:
        CirillaError: this one, or so much of it, is for one process; says why and what to do.
    """
    if (told := _for_one(config)) is not None:
        why, otherwise = told
        raise CirillaError(f"this scrape cannot be shared out: {why}", hint=f"leave out --shard and --merge{otherwise}")
    assert not isinstance(config.source, MediaWikiConfig | ScrapedConfig)
    return config.source


def _for_one(config: ScrapeConfig) -> tuple[str, str] | None:
    """(why a scrape is for one process, what else can be done), None where it is not."""
    match config.source:
        case MediaWikiConfig():
            why = "a wiki is asked politely, one request at a time, and several machines would ask several at once"
            return why, "; or take the wiki's dump, which can be shared out: --dump FILE"
        case ScrapedConfig():
            return "what was kept is read by one process, in order", "; a dump in a file can be shared out"
        case DumpConfig() as dump if dump.address is not None:
            return "every part would download it", "; or download it first: --dump FILE"
        case HubConfig(max_bytes=most) if most is not None:
            return "`scrape.source.max_bytes` counts the bytes of all files in order", ", or max_bytes"
    return ("`scrape.limit` counts documents in order", ", or --limit") if config.limit is not None else None


def _made_from(config: ScrapeConfig, source: _Shared) -> MadeFrom:
    recipe = config.model_dump(mode="json")
    if isinstance(source, HubConfig):
        from cirilla_cli.scrape.hub import is_local, pinned

        if not is_local(source):
            return MadeFrom("scrape", hash_json(recipe), (pinned(source),), (source.path,))
    return MadeFrom.of("scrape", recipe, [Path(source.path)])


def _read_share(config: ScrapeConfig, source: _Shared, place: Place, progress: Progress, part: Part) -> None:
    with contextlib.ExitStack() as stack:
        for done, _ in enumerate(_open(config, source, place, progress, stack, part).rows(), 1):
            progress.step("pages", done)


def _open(
    config: ScrapeConfig, source: _Shared, place: Place, progress: Progress, stack: contextlib.ExitStack, part: Part
) -> Source:
    match source:
        case DumpConfig():
            return open_dump(config, source, place, progress, stack, part)
        case FilesConfig():
            return open_files(config, source, part)
        case HubConfig():
            return open_hub(config, source, part)
